//! Appends entries to the room logs and announces them. Every entry that this server writes goes
//! through this module.
//!
//! Callers submit a draft and wait. While one batch is being committed, the next one collects:
//! there is no timer and no added latency when idle. A batch is committed, then announced in the
//! order of `seq`, then its callers get their results. So nothing is announced or acknowledged that
//! is not on disk, and subscribers receive the events of each room in order. Two workers share
//! this, so that a batch can be committed while the previous one is announced to many subscribers:
//! a task that announces, and a thread that commits. Every post waits for the committing thread, so
//! it has a thread of its own and does not queue behind requests that keep the runtime's threads
//! busy.
//!
//! If several servers share a database, other servers append entries too. Entries may also be left
//! unannounced by a server that was killed, or by a batch with an unknown outcome. The announcer
//! announces such entries when it detects the gap in the sequence numbers, or on
//! [`catch_up`](Timeline::catch_up). All subscribers of a room get every entry once, in order.

mod announcer;
mod append;
mod committer;
mod missed;

use std::{io, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use announcer::Announcer;
use append::{AppendResult, Edited, PendingAppend, Shown};
use committer::Committer;

use crate::{
    clock::Clock,
    error::{Error, Result},
    model::{ClientId, Message, MessageId, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId},
    store::{self, LogPosition, NewEntryKind, Store},
    view::{Members, Post},
};

/// The number of drafts that may be queued before callers wait to submit theirs.
const QUEUE: usize = 1024;

/// A message to be posted.
#[derive(Debug)]
pub struct Draft {
    /// The room to post in.
    pub room: Arc<Room>,
    /// The author.
    pub author: Arc<User>,
    /// The members listed with the message.
    pub members: Members,
    /// The text.
    pub text: String,
    /// The id that the author's client gave the message, so that sending it again posts nothing.
    pub client_id: Option<ClientId>,
}

/// An edit of a message by its author.
#[derive(Debug)]
pub struct Edit {
    /// The room of the message.
    pub room: Arc<Room>,
    /// The message before the edit.
    pub message: Message,
    /// The author.
    pub author: Arc<User>,
    /// The members listed with the message.
    pub members: Members,
    /// The new text.
    pub text: String,
    /// The read marks of the message, for rooms with too many members to look them up during the
    /// announcement, which would delay all subscribers. If `None`, they are looked up then, so that
    /// every read mark announced before is included.
    pub marks: Option<Vec<ReadMark>>,
}

/// The outcome of a draft.
#[derive(Debug)]
pub enum Posted {
    /// The message was posted.
    Now(Post),
    /// The author's client had sent it before: the message in its current state, without its text
    /// if it has been deleted since.
    Before(Message),
}

/// An event in a room, to be announced to subscribers.
#[derive(Clone, Debug)]
pub struct RoomEvent {
    /// The room.
    pub room: RoomId,
    /// The position in the room's log and the time.
    pub placed: LogPosition,
    /// The user who caused it; [`NOBODY`](UserId::NOBODY) if unknown.
    pub author: UserId,
    /// The kind of event.
    pub what: RoomEventKind,
}

impl RoomEvent {
    /// Creates an event that is not a log entry.
    #[must_use]
    pub fn transient(room: RoomId, what: RoomEventKind) -> Self {
        let placed = LogPosition {
            seq: Seq::default(),
            created_at: Timestamp::default(),
        };
        Self {
            room,
            placed,
            author: UserId::NOBODY,
            what,
        }
    }
}

/// Receives the events of rooms.
pub trait Subscribers: Send + Sync + 'static {
    /// Broadcasts events to the subscribers of their rooms, those of each room in the given order.
    fn announce(&self, events: &[RoomEvent]);

    /// Returns whether this room has subscribers.
    fn has_subscribers(&self, room: RoomId) -> bool;

    /// Makes all subscribers of this room resynchronize: they have missed events that cannot be
    /// sent.
    fn interrupt(&self, room: RoomId);

    /// Makes this user resynchronize: the announcement that they left a room was late, and they may
    /// have joined again since.
    fn interrupt_user(&self, user: UserId);
}

/// The kind of an event: a log entry, or an event outside the log.
///
/// To add one: add the variant here and its event in `lib.rs`; if it is an entry, also its cases in
/// `PendingAppend::told` and `missed`.
#[derive(Clone, Debug)]
pub enum RoomEventKind {
    /// A message was posted.
    Posted(Post),
    /// A message was edited; the post has its current state.
    Edited(Post),
    /// A message was deleted.
    Deleted(MessageId),
    /// A member was added to the room.
    MemberAdded(UserId),
    /// A member was removed from the room.
    MemberRemoved(UserId),
    /// The room was renamed; `None` if the name was removed.
    Renamed(Option<String>),
    /// A member has read up to an entry. This is not a log entry.
    Read {
        /// The user and how far they have read.
        mark: ReadMark,
        /// Whether the room is too large to broadcast this to all members.
        is_large: bool,
    },
    /// A room was created.
    RoomCreated(Arc<Room>),
    /// A room with these members was deleted.
    RoomDeleted(Vec<UserId>),
}

enum Job {
    Commit(Box<PendingAppend>),
    Tell(RoomEvent, oneshot::Sender<()>),
    Barrier(Barrier),
    CatchUp(Vec<(RoomId, Seq)>, oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// An action to run between two announcements.
struct Barrier {
    rooms: Vec<RoomId>,
    act: Box<dyn FnOnce() + Send>,
    reply: oneshot::Sender<Result<Vec<(RoomId, Seq)>>>,
}

/// A handle that submits drafts to the thread that commits them.
#[derive(Clone)]
pub struct Timeline {
    queue: mpsc::Sender<Job>,
}

impl Timeline {
    /// Starts the announcing task and the committing thread. Subscribers get the events of each
    /// room in the order of its log; at most `listed_members` of a room are listed. Errors: those
    /// of the operating system, which may have no more threads.
    pub fn start(
        store: Arc<dyn Store>,
        clock: Clock,
        subscribers: impl Subscribers,
        listed_members: usize,
    ) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (on_disk, steps) = mpsc::channel(1);
        let announcer = tokio::spawn(
            Announcer::new(Arc::clone(&store), subscribers, listed_members).run(steps),
        );
        let committer = Committer::new(store, clock, on_disk);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("timeline".into())
            .spawn(move || runtime.block_on(committer.run(jobs, announcer)))?;
        Ok(Self { queue })
    }

    /// Posts a message, unless the author's client has sent it before; returns once it is on disk
    /// and announced. Dropping the future does not cancel the draft; this holds for the methods
    /// below too. Errors: [`Error::NoRoom`] if the room has been deleted, [`Error::NotAMember`] if
    /// the author has been removed from it, and those of the store.
    pub async fn post(&self, draft: Draft) -> Result<Posted> {
        let Draft {
            room,
            author,
            members,
            text,
            client_id,
        } = draft;
        let by = author.id;
        let done = self
            .commit(
                room.id,
                by,
                NewEntryKind::Message { text, client_id },
                Some(Shown {
                    author,
                    members,
                    edited: None,
                }),
            )
            .await?;
        done.post
            .map(Posted::Now)
            .or(done.earlier.map(Posted::Before))
            .ok_or_else(closed)
    }

    /// Edits a message. `None` if it was deleted in the meantime. Errors: as in
    /// [`post`](Self::post); a store error may mean that the message was edited but cannot be
    /// shown.
    pub async fn edit(&self, edit: Edit) -> Result<Option<(Post, LogPosition)>> {
        let Edit {
            room,
            message,
            author,
            members,
            text,
            marks,
        } = edit;
        let (id, by, change) = (
            room.id,
            author.id,
            NewEntryKind::Edit {
                message: message.id,
                text,
            },
        );
        let edited = Some(Edited {
            room,
            message,
            marks,
        });
        let done = self
            .commit(
                id,
                by,
                change,
                Some(Shown {
                    author,
                    members,
                    edited,
                }),
            )
            .await?;
        Ok(done.post.zip(done.placed))
    }

    /// Deletes a message. `None` if it does not exist, or no longer. Errors: as in
    /// [`post`](Self::post).
    pub async fn delete(
        &self,
        room: RoomId,
        message: MessageId,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        Ok(self
            .commit(room, by, NewEntryKind::Deletion(message), None)
            .await?
            .placed)
    }

    /// Adds a member to a room. `None` if the user already is a member. Errors: as in
    /// [`post`](Self::post).
    pub async fn add_member(
        &self,
        room: RoomId,
        user: UserId,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        Ok(self
            .commit(room, by, NewEntryKind::AddMember(user), None)
            .await?
            .placed)
    }

    /// Removes a member from a room. If `required_members` is not empty, at least one of them must
    /// be a member. `None` if the user is not a member. Errors: as in [`post`](Self::post), and
    /// [`Error::LastSupport`] if no required member is left.
    pub async fn remove_member(
        &self,
        room: RoomId,
        user: UserId,
        required_members: Vec<UserId>,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        Ok(self
            .commit(
                room,
                by,
                NewEntryKind::RemoveMember {
                    user,
                    required_members,
                },
                None,
            )
            .await?
            .placed)
    }

    /// Renames a room, or removes its name. `None` if the name is unchanged. Errors: as in
    /// [`post`](Self::post).
    pub async fn rename(
        &self,
        room: RoomId,
        name: Option<String>,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        Ok(self
            .commit(room, by, NewEntryKind::Rename(name), None)
            .await?
            .placed)
    }

    /// Broadcasts an event that is not a log entry, after everything that was submitted before it.
    /// Returns when it has been announced.
    pub async fn tell(&self, events: RoomEvent) {
        let (reply, told) = oneshot::channel();
        if self.queue.send(Job::Tell(events, reply)).await.is_ok() {
            // An error means that the server is stopping and has no subscribers left.
            let _ = told.await;
        }
    }

    /// Runs an action between two announcements. Returns the last sequence numbers of the logs of
    /// these rooms: entries up to there have been announced, as far as this server announces them,
    /// and later ones have not. Rooms that do not exist are left out.
    pub async fn barrier(
        &self,
        rooms: Vec<RoomId>,
        act: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<(RoomId, Seq)>> {
        let (reply, ends) = oneshot::channel();
        let job = Job::Barrier(Barrier {
            rooms,
            act: Box::new(act),
            reply,
        });
        self.queue.send(job).await.map_err(|_| closed())?;
        ends.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Announces the entries of these rooms that other servers have appended, if any. For a room
    /// whose last announced entry is unknown, only entries from now on will be announced.
    pub async fn catch_up(&self, store: &dyn Store, rooms: &[RoomId]) -> Result<()> {
        let ends = store.last_seqs(rooms).await?;
        let (reply, told) = oneshot::channel();
        self.queue
            .send(Job::CatchUp(ends, reply))
            .await
            .map_err(|_| closed())?;
        told.await.map_err(|_| closed())
    }

    async fn commit(
        &self,
        room: RoomId,
        author: UserId,
        change: NewEntryKind,
        shown: Option<Shown>,
    ) -> Result<AppendResult> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Commit(Box::new(PendingAppend {
            room,
            author,
            change,
            shown,
            reply,
        }));
        self.queue.send(job).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Commits, announces and acknowledges everything that was submitted before this call, and
    /// accepts nothing more.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Job::Close(done)).await.is_ok() {
            // An error means that the thread has ended and dropped `done`.
            let _ = closed.await;
        }
    }
}

fn closed() -> Error {
    store::StoreError::Unavailable("the server is stopping".into()).into()
}
