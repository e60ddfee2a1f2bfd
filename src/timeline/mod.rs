//! Appends entries to the room logs and announces them. Every entry that this server writes goes
//! through this module.
//!
//! Callers submit an append and wait. While one batch is being committed, the next one collects:
//! there is no timer and no added latency when idle. A batch is committed, then announced in the
//! order of `seq`, then its callers get their results. So nothing is announced or acknowledged that
//! is not on disk, and subscribers receive the events of each room in order. Two workers share
//! this, so that a batch can be committed while the previous one is announced to many subscribers:
//! the writer, a thread that commits, and the announcer, a task that announces. Every post waits
//! for the writer, so it has a thread of its own and does not queue behind requests that keep the
//! runtime's threads busy.
//!
//! If several servers share a database, other servers append entries too. Entries may also be left
//! unannounced by a server that was killed, or by a batch with an unknown outcome. The announcer
//! announces such entries when it detects the gap in the sequence numbers, or on
//! [`catch_up`](Timeline::catch_up). All subscribers of a room get every entry once, in order.

mod announcer;
mod catch_up;
mod command;
mod writer;

use std::{io, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use announcer::Announcer;
use command::{Append, Barrier, Command, Outcome, Rendering, Request, Submitted};
use writer::Writer;

use crate::{
    clock::Clock,
    error::{Error, Result},
    model::{ClientId, Entry, Message, MessageId, ReadMark, Room, RoomId, Seq, User, UserId},
    store::{self, LogPosition, NewEntryKind, Store},
    view::{Members, Post},
};

/// The number of commands that may be queued before callers wait to submit theirs.
const QUEUE: usize = 1024;

/// An event in a room, to be announced to subscribers.
#[derive(Clone, Debug)]
pub enum RoomEvent {
    /// An entry of the room's log.
    Entry {
        /// The entry, without the text of its message.
        entry: Entry,
        /// The post of the message, if the entry posts or edits one.
        post: Option<Post>,
    },
    /// An event outside the log.
    Transient(Transient),
}

/// An event outside the log. Clients that are not connected miss it.
///
/// To add one: add the variant here, and its event in `sockets/events.rs`.
#[derive(Clone, Debug)]
pub enum Transient {
    /// A member has read up to an entry.
    Read {
        /// The room.
        room: RoomId,
        /// The user and how far they have read.
        mark: ReadMark,
        /// Whether the room is too large to broadcast this to all members.
        is_large: bool,
    },
    /// A room was created.
    RoomCreated {
        /// The room.
        room: Arc<Room>,
        /// The maximum number of members to list.
        listed_members: usize,
    },
    /// A room was deleted. This is its last state.
    RoomDeleted(Arc<Room>),
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

/// The data that a post shows in addition to its message.
#[derive(Debug)]
pub struct PostContext {
    /// The author.
    pub author: Arc<User>,
    /// The members listed with the message.
    pub members: Members,
}

/// The read marks that the post of an edited message shows.
#[derive(Debug)]
pub enum EditMarks {
    /// The marks of the room's members when the edit is announced, so that every read mark
    /// announced before is included.
    Latest(Arc<Room>),
    /// These marks. For rooms with too many members to read their marks during the announcement,
    /// which would delay all subscribers.
    Known(Vec<ReadMark>),
}

/// The outcome of posting a message.
#[derive(Debug)]
pub enum Posted {
    /// The message was posted.
    New(Post),
    /// The author's client had sent it before: the message in its current state, without its text
    /// if it has been deleted since.
    Duplicate(Message),
}

/// A handle that submits entries to the writer.
#[derive(Clone)]
pub struct Timeline {
    commands: mpsc::Sender<Submitted>,
}

impl Timeline {
    /// Starts the announcer and the writer. Subscribers get the events of each room in the order of
    /// its log; at most `listed_members` of a room are listed. Errors: those of the operating
    /// system, which may have no more threads.
    pub fn start(
        store: Store,
        clock: Clock,
        subscribers: impl Subscribers,
        listed_members: usize,
    ) -> io::Result<Self> {
        let (commands, submitted) = mpsc::channel(QUEUE);
        let (to_announcer, written) = mpsc::channel(1);
        let announcer = Announcer::new(store.clone(), subscribers, listed_members);
        let announcing = tokio::spawn(announcer.run(written));
        let writer = Writer::new(store, clock, to_announcer);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("timeline".into())
            .spawn(move || {
                runtime.block_on(writer.run(submitted));
                // Until everything is announced, so that work that the store has begun on this
                // runtime can end. If the announcer panicked, the panic hook has reported that.
                let _ = runtime.block_on(announcing);
            })?;
        Ok(Self { commands })
    }

    /// Posts a message, unless the author's client has sent it before; returns once it is on disk
    /// and announced. Dropping the future does not cancel the append; this holds for the methods
    /// below too. Errors: [`Error::NoRoom`] if the room has been deleted, [`Error::NotAMember`] if
    /// the author has been removed from it, and those of the store.
    pub async fn post(
        &self,
        room: RoomId,
        text: String,
        client_id: Option<ClientId>,
        context: PostContext,
    ) -> Result<Posted> {
        let (author, change) = (context.author.id, NewEntryKind::Message { text, client_id });
        let outcome = self
            .append(room, author, change, Rendering::Message(context))
            .await?;
        match outcome {
            Outcome::Appended {
                post: Some(post), ..
            } => Ok(Posted::New(post)),
            Outcome::Duplicate(message) => Ok(Posted::Duplicate(message)),
            Outcome::Appended { post: None, .. } | Outcome::Unchanged => Err(Error::internal(
                "a message was neither posted nor found to be a duplicate",
            )),
        }
    }

    /// Edits a message, which is passed in its state before the edit. `None` if it was deleted in
    /// the meantime. Errors: as in [`post`](Self::post); a store error may mean that the message
    /// was edited but cannot be shown.
    pub async fn edit(
        &self,
        message: Message,
        text: String,
        context: PostContext,
        marks: EditMarks,
    ) -> Result<Option<Post>> {
        let (room, author, change) = (
            message.room,
            context.author.id,
            NewEntryKind::Edit {
                message: message.id,
                text,
            },
        );
        let rendering = Rendering::Edit {
            before: message,
            context,
            marks,
        };
        let outcome = self.append(room, author, change, rendering).await?;
        Ok(outcome.into_post())
    }

    /// Deletes a message. `None` if it does not exist, or no longer. Errors: as in
    /// [`post`](Self::post).
    pub async fn delete(
        &self,
        room: RoomId,
        message: MessageId,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        self.change(room, by, NewEntryKind::Deletion(message)).await
    }

    /// Adds a member to a room. `None` if the user already is a member. Errors: as in
    /// [`post`](Self::post).
    pub async fn add_member(
        &self,
        room: RoomId,
        user: UserId,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        self.change(room, by, NewEntryKind::AddMember(user)).await
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
        let change = NewEntryKind::RemoveMember {
            user,
            required_members,
        };
        self.change(room, by, change).await
    }

    /// Renames a room, or removes its name. `None` if the name is unchanged. Errors: as in
    /// [`post`](Self::post).
    pub async fn rename(
        &self,
        room: RoomId,
        name: Option<String>,
        by: UserId,
    ) -> Result<Option<LogPosition>> {
        self.change(room, by, NewEntryKind::Rename(name)).await
    }

    /// Announces an event that is not a log entry, after everything that was submitted before it.
    /// Returns when it has been announced.
    pub async fn announce(&self, event: Transient) {
        let (reply, announced) = oneshot::channel();
        if self.submit(Command::Announce(event, reply)).await.is_ok() {
            // An error means that the server is stopping and has no subscribers left.
            let _ = announced.await;
        }
    }

    /// Runs an action between two announcements. Returns the last sequence numbers of the logs of
    /// these rooms: entries up to there have been announced, as far as this server announces them,
    /// and later ones have not. Rooms that do not exist are left out.
    pub async fn barrier(
        &self,
        rooms: Vec<RoomId>,
        action: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<(RoomId, Seq)>> {
        let (reply, ends) = oneshot::channel();
        self.submit(Command::Barrier(Barrier {
            rooms,
            action: Box::new(action),
            reply,
        }))
        .await?;
        ends.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Announces the entries of these rooms that other servers have appended, if any. For a room
    /// whose last announced entry is unknown, only entries from now on will be announced.
    pub async fn catch_up(&self, store: &Store, rooms: &[RoomId]) -> Result<()> {
        let ends = store.history.last_seqs(rooms).await?;
        let (reply, announced) = oneshot::channel();
        self.submit(Command::CatchUp(ends, reply)).await?;
        announced.await.map_err(|_| closed())
    }

    /// Commits, announces and acknowledges everything that was submitted before this call, and
    /// accepts nothing more.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.submit(Command::Close(done)).await.is_ok() {
            // An error means that the announcer has ended and dropped `done`.
            let _ = closed.await;
        }
    }

    /// Appends an entry that is announced without a post. Returns its position, or `None` if there
    /// is nothing to do.
    async fn change(
        &self,
        room: RoomId,
        author: UserId,
        change: NewEntryKind,
    ) -> Result<Option<LogPosition>> {
        let outcome = self.append(room, author, change, Rendering::None).await?;
        Ok(outcome.position())
    }

    async fn append(
        &self,
        room: RoomId,
        author: UserId,
        change: NewEntryKind,
        rendering: Rendering,
    ) -> Result<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let request = Request { rendering, reply };
        self.submit(Command::Append(Box::new(Append {
            room,
            author,
            change,
            request,
        })))
        .await?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn submit(&self, command: Submitted) -> Result<()> {
        self.commands.send(command).await.map_err(|_| closed())
    }
}

fn closed() -> Error {
    store::StoreError::Unavailable("the server is stopping".into()).into()
}
