//! The commands of the timeline, and the appends that they carry.

use tokio::sync::oneshot;

use super::{EditMarks, PostContext, Transient};
use crate::{
    error::Result,
    model::{Entry, Message, RoomId, Seq, UserId},
    store::{Appended, LogPosition, NewEntry, NewEntryKind},
    view::Post,
};

/// The last sequence numbers of the logs of rooms.
pub type LogEnds = Vec<(RoomId, Seq)>;

/// A command to the timeline. The handle [submits](Submitted) it to the writer, which does its part
/// and passes it on to the announcer, as [`Written`]. `A` is what is appended, `R` are the rooms of
/// a barrier.
pub enum Command<A, R> {
    /// Appends entries and announces them.
    Append(A),
    /// Announces an event that is not a log entry.
    Announce(Transient, oneshot::Sender<()>),
    /// Runs an action between two announcements.
    Barrier(Barrier<R>),
    /// Announces the entries of these logs that have not been announced.
    CatchUp(LogEnds, oneshot::Sender<()>),
    /// Accepts no more commands. The sender is dropped when everything has been announced.
    Close(oneshot::Sender<()>),
}

/// A command from the handle to the writer.
pub type Submitted = Command<Box<Append>, Vec<RoomId>>;

/// A command from the writer to the announcer: an append is a batch that is on disk, and the ends
/// of the logs are known.
pub type Written = Command<Vec<Committed>, LogEnds>;

/// An action to run between two announcements.
pub struct Barrier<R> {
    pub rooms: R,
    pub action: Box<dyn FnOnce() + Send>,
    pub reply: oneshot::Sender<Result<LogEnds>>,
}

/// An entry to append.
pub struct Append {
    pub room: RoomId,
    pub author: UserId,
    pub change: NewEntryKind,
    pub request: Request,
}

/// An entry that the store has processed.
pub struct Committed {
    pub entry: NewEntry,
    pub appended: Appended,
    pub request: Request,
}

/// The part of an append that the store does not need.
pub struct Request {
    pub rendering: Rendering,
    pub reply: oneshot::Sender<Result<Outcome>>,
}

/// The data to render the post of an entry.
pub enum Rendering {
    /// The entry has no post.
    None,
    /// The entry posts a message.
    Message(PostContext),
    /// The entry edits a message.
    Edit {
        /// The message before the edit.
        before: Message,
        context: PostContext,
        marks: EditMarks,
    },
}

/// The outcome of an append.
pub enum Outcome {
    /// The entry is in the log, and was announced.
    Appended {
        position: LogPosition,
        /// The post of the message, if the entry posts or edits one.
        post: Option<Post>,
    },
    /// The author's client had sent the message before: its current state, without its text if it
    /// has been deleted since.
    Duplicate(Message),
    /// There was nothing to do.
    Unchanged,
}

impl Rendering {
    /// Returns the entry that was appended at `position`, and its post. The read marks of an edit
    /// must have been read.
    pub fn render(self, entry: NewEntry, position: LogPosition) -> (Entry, Option<Post>) {
        let (context, before, marks) = match self {
            Self::None => return (entry.into_entry(position, None), None),
            Self::Message(context) => (context, None, Vec::new()),
            Self::Edit {
                before,
                context,
                marks,
            } => match marks {
                EditMarks::Known(marks) => (context, Some(before), marks),
                EditMarks::Latest(_) => (context, Some(before), Vec::new()),
            },
        };
        let mut entry = entry.into_entry(position, before);
        let post = entry
            .message()
            .map(|message| Post::new(&message, &context.author, &context.members, &marks));
        // The post has it, and is all that the sockets need.
        entry.clear_text();
        (entry, post)
    }

    /// Returns whether read marks have to be read before the post is rendered.
    pub fn needs_marks(&self) -> bool {
        matches!(
            self,
            Self::Edit {
                marks: EditMarks::Latest(_),
                ..
            }
        )
    }
}

impl Request {
    /// Answers the caller.
    pub fn answer(self, outcome: Result<Outcome>) {
        // The caller may have dropped its future.
        let _ = self.reply.send(outcome);
    }
}

impl Outcome {
    /// Returns the position of the entry if it was appended.
    pub fn position(&self) -> Option<LogPosition> {
        match self {
            Self::Appended { position, .. } => Some(*position),
            Self::Duplicate(_) | Self::Unchanged => None,
        }
    }

    /// Returns the post of the entry if it was appended and has one.
    pub fn into_post(self) -> Option<Post> {
        match self {
            Self::Appended { post, .. } => post,
            Self::Duplicate(_) | Self::Unchanged => None,
        }
    }
}
