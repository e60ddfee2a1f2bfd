//! The one door by which entries enter the logs.
//!
//! Callers hand in a draft and wait. While one batch is being committed the next one gathers: no timer, no latency added when idle. A
//! batch is committed, then announced in the order of `seq`, then its callers are answered; so nothing is announced or acknowledged
//! that is not on disk, and whoever listens hears each room in order. Two share the work, so that a batch can be committed while the one
//! before it is announced to many: a task that announces, and a thread that commits. Every post waits for that thread, and so it stands in
//! no line behind the requests that the other threads are busy with.
//!
//! Where several servers share a database, entries come into the logs past this one as well, and so do those of a server that was killed
//! before it could tell of them, or of a batch whose outcome was not learned. Of these the announcer tells when it comes to the gap, or
//! when somebody [looks](Timeline::catch_up): all that listens in a room hears of every entry once, in order.

mod announcer;
mod committer;
mod missed;

use std::{io, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use announcer::Announcer;
use committer::Committer;

use crate::{
    clock::Clock,
    error::{Error, Result},
    model::{ClientId, Entry, EntryKind, Message, MessageId, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId},
    store::{self, LogPosition, NewEntryKind, Store},
    view::{Members, Post},
};

/// How many drafts may wait before callers wait to hand theirs in.
const QUEUE: usize = 1024;

/// A message that somebody wants posted.
#[derive(Debug)]
pub struct Draft {
    /// Where.
    pub room: Arc<Room>,
    /// By whom.
    pub author: Arc<User>,
    /// Who is shown as being in the room.
    pub members: Members,
    /// What it says.
    pub text: String,
    /// What the author's client calls it, so that sending it again posts nothing.
    pub client_id: Option<ClientId>,
}

/// A message that its author wants to say something else.
#[derive(Debug)]
pub struct Edit {
    /// Where.
    pub room: Arc<Room>,
    /// As it is.
    pub message: Message,
    /// By whom.
    pub author: Arc<User>,
    /// Who is shown as being in the room.
    pub members: Members,
    /// What it is to say.
    pub text: String,
    /// Who has read it, where there are too many to look for them when it is announced: all who listen wait for that. Else it is looked up
    /// then, so that nobody is missing whose reading was told before.
    pub marks: Option<Vec<ReadMark>>,
}

/// What became of a draft.
#[derive(Debug)]
pub enum Posted {
    /// A post.
    Now(Post),
    /// The author's client had sent it before: the message as it is now, without its text when it was deleted since.
    Before(Message),
}

/// Something that happened in a room, for those who listen.
#[derive(Clone, Debug)]
pub struct RoomEvent {
    /// Where.
    pub room: RoomId,
    /// Where it stands in the room's log, and since when.
    pub placed: LogPosition,
    /// Who did it; [nobody](UserId::NOBODY) where that is not known.
    pub author: UserId,
    /// What happened.
    pub what: RoomEventKind,
}

impl RoomEvent {
    /// Something that is no entry of the log.
    #[must_use]
    pub fn aside(room: RoomId, what: RoomEventKind) -> Self {
        let placed = LogPosition { seq: Seq::default(), created_at: Timestamp::default() };
        Self { room, placed, author: UserId::NOBODY, what }
    }
}

/// Who is told what happens in rooms.
pub trait Subscribers: Send + Sync + 'static {
    /// Tells all who listen in the rooms, those of each room in the order given.
    fn announce(&self, news: &[RoomEvent]);

    /// Whether anybody listens in this room.
    fn listen_in(&self, room: RoomId) -> bool;

    /// Has everybody who listens in this room begin anew: they have missed something that they cannot be told.
    fn interrupt(&self, room: RoomId);

    /// Has this user begin anew: they were told late that they had left a room, and may have come in again since.
    fn interrupt_user(&self, user: UserId);
}

/// What there is to tell of an entry, or besides.
///
/// To add one: the variant here, its cases in `PendingAppend::told` and `missed` where it is an entry, and its event in `lib.rs`.
#[derive(Clone, Debug)]
pub enum RoomEventKind {
    /// A message was posted.
    Posted(Post),
    /// A message was edited: as it is now.
    Edited(Post),
    /// A message was deleted.
    Deleted(MessageId),
    /// Somebody came into the room.
    MemberAdded(UserId),
    /// Somebody is no longer in the room.
    MemberRemoved(UserId),
    /// The room has another name, or none.
    Renamed(Option<String>),
    /// Somebody has read up to an entry; not an entry itself.
    Read {
        /// Who, and how far.
        mark: ReadMark,
        /// Whether the room is too large to tell everybody in it.
        is_large: bool,
    },
    /// There is a new room.
    RoomCreated(Arc<Room>),
    /// The room is gone, in which these were.
    RoomDeleted(Vec<UserId>),
}

/// A draft of any kind on its way.
struct PendingAppend {
    room: RoomId,
    author: UserId,
    change: NewEntryKind,
    shown: Option<Shown>,
    reply: oneshot::Sender<Result<AppendResult>>,
}

/// What a post shows beside the message.
struct Shown {
    author: Arc<User>,
    members: Members,
    edited: Option<Edited>,
}

/// A message that is edited, as it was.
struct Edited {
    room: Arc<Room>,
    message: Message,
    marks: Option<Vec<ReadMark>>,
}

/// What became of a draft.
#[derive(Default)]
struct AppendResult {
    /// Where its entry stands; none when there was nothing to do.
    placed: Option<LogPosition>,
    /// How the message looks.
    post: Option<Post>,
    /// The message that was there already.
    earlier: Option<Message>,
}

enum Job {
    Commit(Box<PendingAppend>),
    Tell(RoomEvent, oneshot::Sender<()>),
    Barrier(Barrier),
    CatchUp(Vec<(RoomId, Seq)>, oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// Something to be done between two announcements.
struct Barrier {
    rooms: Vec<RoomId>,
    act: Box<dyn FnOnce() + Send>,
    reply: oneshot::Sender<Result<Vec<(RoomId, Seq)>>>,
}

/// Hands drafts to the thread that commits them.
#[derive(Clone)]
pub struct Timeline {
    queue: mpsc::Sender<Job>,
}

impl Timeline {
    /// Starts the task and the thread. They tell the listeners what happens in rooms, of each room in the order of its log; at most
    /// `listed_members` of a room are shown. An error is the system's, which may have no more threads to give.
    pub fn start(store: Arc<dyn Store>, clock: Clock, subscribers: impl Subscribers, listed_members: usize) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (on_disk, steps) = mpsc::channel(1);
        let announcer = tokio::spawn(Announcer::new(Arc::clone(&store), subscribers, listed_members).run(steps));
        let committer = Committer::new(store, clock, on_disk);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("timeline".into()).spawn(move || runtime.block_on(committer.run(jobs, announcer)))?;
        Ok(Self { queue })
    }

    /// Posts a message, unless the author's client has sent it before; answers once it is on disk and announced. Dropping the future does
    /// not take the draft back, here and below. Errors: [`Error::NoRoom`] when the room is gone, [`Error::NotAMember`] when the author has
    /// been taken out of it, and those of the store.
    pub async fn post(&self, draft: Draft) -> Result<Posted> {
        let Draft { room, author, members, text, client_id } = draft;
        let by = author.id;
        let done =
            self.commit(room.id, by, NewEntryKind::Message { text, client_id }, Some(Shown { author, members, edited: None })).await?;
        done.post.map(Posted::Now).or(done.earlier.map(Posted::Before)).ok_or_else(closed)
    }

    /// Edits a message. `None` when it was deleted meanwhile. Errors as in [`post`](Self::post); one of the store's may mean that it was
    /// edited and cannot be shown.
    pub async fn edit(&self, edit: Edit) -> Result<Option<(Post, LogPosition)>> {
        let Edit { room, message, author, members, text, marks } = edit;
        let (id, by, change) = (room.id, author.id, NewEntryKind::Edit { message: message.id, text });
        let edited = Some(Edited { room, message, marks });
        let done = self.commit(id, by, change, Some(Shown { author, members, edited })).await?;
        Ok(done.post.zip(done.placed))
    }

    /// Deletes a message. `None` when there is none, or no longer. Errors as in [`post`](Self::post).
    pub async fn delete(&self, room: RoomId, message: MessageId, by: UserId) -> Result<Option<LogPosition>> {
        Ok(self.commit(room, by, NewEntryKind::Deletion(message), None).await?.placed)
    }

    /// Lets somebody into a room. `None` when they are in it. Errors as in [`post`](Self::post).
    pub async fn add_member(&self, room: RoomId, user: UserId, by: UserId) -> Result<Option<LogPosition>> {
        Ok(self.commit(room, by, NewEntryKind::AddMember(user), None).await?.placed)
    }

    /// Takes somebody out of a room, in which one of the keepers has to be, if there are any. `None` when they are not in it. Errors: as in
    /// [`post`](Self::post), and [`Error::LastSupport`] when no keeper is there.
    pub async fn remove_member(
        &self,
        room: RoomId,
        user: UserId,
        required_members: Vec<UserId>,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        Ok(self.commit(room, by, NewEntryKind::RemoveMember { user, required_members }, None).await?.placed)
    }

    /// Gives a room another name, or none. `None` when that is its name. Errors as in [`post`](Self::post).
    pub async fn rename(&self, room: RoomId, name: Option<String>, by: UserId) -> Result<Option<LogPosition>> {
        Ok(self.commit(room, by, NewEntryKind::Rename(name), None).await?.placed)
    }

    /// Tells those who listen of something that is no entry, behind all that was handed in before it. Answers when it is told.
    pub async fn tell(&self, news: RoomEvent) {
        let (reply, told) = oneshot::channel();
        if self.queue.send(Job::Tell(news, reply)).await.is_ok() {
            // An error: the server is stopping, and nobody listens any more.
            let _ = told.await;
        }
    }

    /// Does something between two announcements. Answers where the logs of these rooms end: what stands there has been announced as far
    /// as this server announces it, and what comes behind has not. Rooms that are not there are left out.
    pub async fn barrier(&self, rooms: Vec<RoomId>, act: impl FnOnce() + Send + 'static) -> Result<Vec<(RoomId, Seq)>> {
        let (reply, ends) = oneshot::channel();
        let job = Job::Barrier(Barrier { rooms, act: Box::new(act), reply });
        self.queue.send(job).await.map_err(|_| closed())?;
        ends.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Tells those who listen in these rooms what has come into their logs past this server, if anything has. Of a room of which it was not
    /// known what was told before, what comes from now on will be.
    pub async fn catch_up(&self, store: &dyn Store, rooms: &[RoomId]) -> Result<()> {
        let ends = store.last_seqs(rooms).await?;
        let (reply, told) = oneshot::channel();
        self.queue.send(Job::CatchUp(ends, reply)).await.map_err(|_| closed())?;
        told.await.map_err(|_| closed())
    }

    async fn commit(&self, room: RoomId, author: UserId, change: NewEntryKind, shown: Option<Shown>) -> Result<AppendResult> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Commit(Box::new(PendingAppend { room, author, change, shown, reply }));
        self.queue.send(job).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Commits, announces and answers all that was handed in before this call, and takes no more.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Job::Close(done)).await.is_ok() {
            // An error: the thread has ended and dropped `done`.
            let _ = closed.await;
        }
    }
}

fn closed() -> Error {
    store::StoreError::Unavailable("the server is stopping".into()).into()
}

/// A message that lost its text. That it was deleted is told as well, further on in the log.
fn without_text(id: MessageId, room: RoomId, author: UserId, LogPosition { seq, created_at }: LogPosition) -> Message {
    Message { id, room, seq, author, text: String::new(), created_at, edited_at: None, client_id: None }
}

impl PendingAppend {
    fn news(&mut self, id: MessageId, placed: LogPosition) -> RoomEvent {
        RoomEvent { room: self.room, placed, author: self.author, what: self.told(id, placed) }
    }

    fn told(&mut self, id: MessageId, LogPosition { seq, created_at }: LogPosition) -> RoomEventKind {
        // Told once, and not needed any more.
        match std::mem::replace(&mut self.change, NewEntryKind::Rename(None)) {
            NewEntryKind::Message { text, client_id } => {
                let (room, author) = (self.room, self.author);
                RoomEventKind::Posted(self.post(&Message { id, room, seq, author, text, created_at, edited_at: None, client_id }, &[]))
            }
            NewEntryKind::Edit { message, text } => {
                let was = self.shown.as_mut().and_then(|shown| shown.edited.take());
                let (was, marks) = was.map_or_else(
                    || (without_text(message, self.room, self.author, LogPosition { seq, created_at }), None),
                    |edited| (edited.message, edited.marks),
                );
                RoomEventKind::Edited(self.post(&Message { text, edited_at: Some(created_at), ..was }, &marks.unwrap_or_default()))
            }
            NewEntryKind::Deletion(message) => RoomEventKind::Deleted(message),
            NewEntryKind::AddMember(user) => RoomEventKind::MemberAdded(user),
            NewEntryKind::RemoveMember { user, .. } => RoomEventKind::MemberRemoved(user),
            NewEntryKind::Rename(name) => RoomEventKind::Renamed(name),
        }
    }

    fn post(&self, message: &Message, marks: &[ReadMark]) -> Post {
        let shown = self.shown.as_ref().expect("whoever hands in a text says what is shown beside it");
        Post::new(message, &shown.author, &shown.members, marks)
    }

    fn answer_with_earlier(self, earlier: Entry) {
        let message = match earlier.what {
            EntryKind::Message(message) => message,
            EntryKind::Deleted(id) => {
                without_text(id, self.room, self.author, LogPosition { seq: earlier.seq, created_at: earlier.created_at })
            }
            _ => return self.answer(Ok(AppendResult::default())),
        };
        self.answer(Ok(AppendResult { earlier: Some(message), ..AppendResult::default() }));
    }

    fn answer(self, outcome: Result<AppendResult>) {
        // A caller that has gone away needs no answer.
        let _ = self.reply.send(outcome);
    }
}
