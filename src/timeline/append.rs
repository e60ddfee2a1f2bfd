//! An entry on its way into the log of its room, and its result.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{RoomEvent, RoomEventKind};
use crate::{
    error::Result,
    model::{Entry, EntryKind, Message, MessageId, ReadMark, Room, RoomId, User, UserId},
    store::{LogPosition, NewEntryKind},
    view::{Members, Post},
};

/// A draft of any kind that is being processed.
pub(super) struct PendingAppend {
    pub(super) room: RoomId,
    pub(super) author: UserId,
    pub(super) change: NewEntryKind,
    pub(super) shown: Option<Shown>,
    pub(super) reply: oneshot::Sender<Result<AppendResult>>,
}

/// The data that a post shows in addition to the message.
pub(super) struct Shown {
    pub(super) author: Arc<User>,
    pub(super) members: Members,
    pub(super) edited: Option<Edited>,
}

/// The state of a message before its edit.
pub(super) struct Edited {
    pub(super) room: Arc<Room>,
    pub(super) message: Message,
    pub(super) marks: Option<Vec<ReadMark>>,
}

/// The outcome of a draft.
#[derive(Default)]
pub(super) struct AppendResult {
    /// The position of its entry; `None` if nothing had to be done.
    pub(super) placed: Option<LogPosition>,
    /// The post of the message.
    pub(super) post: Option<Post>,
    /// The message that had been posted before with the same client id.
    pub(super) earlier: Option<Message>,
}

impl PendingAppend {
    pub(super) fn events(&mut self, id: MessageId, placed: LogPosition) -> RoomEvent {
        RoomEvent {
            room: self.room,
            placed,
            author: self.author,
            what: self.told(id, placed),
        }
    }

    pub(super) fn told(
        &mut self,
        id: MessageId,
        LogPosition { seq, created_at }: LogPosition,
    ) -> RoomEventKind {
        // It is announced only once, so the change can be taken out.
        match std::mem::replace(&mut self.change, NewEntryKind::Rename(None)) {
            NewEntryKind::Message { text, client_id } => {
                let (room, author) = (self.room, self.author);
                RoomEventKind::Posted(self.post(
                    &Message {
                        id,
                        room,
                        seq,
                        author,
                        text,
                        created_at,
                        edited_at: None,
                        client_id,
                    },
                    &[],
                ))
            }
            NewEntryKind::Edit { message, text } => {
                let was = self.shown.as_mut().and_then(|shown| shown.edited.take());
                let (was, marks) = was.map_or_else(
                    || {
                        (
                            without_text(
                                message,
                                self.room,
                                self.author,
                                LogPosition { seq, created_at },
                            ),
                            None,
                        )
                    },
                    |edited| (edited.message, edited.marks),
                );
                RoomEventKind::Edited(self.post(
                    &Message {
                        text,
                        edited_at: Some(created_at),
                        ..was
                    },
                    &marks.unwrap_or_default(),
                ))
            }
            NewEntryKind::Deletion(message) => RoomEventKind::Deleted(message),
            NewEntryKind::AddMember(user) => RoomEventKind::MemberAdded(user),
            NewEntryKind::RemoveMember { user, .. } => RoomEventKind::MemberRemoved(user),
            NewEntryKind::Rename(name) => RoomEventKind::Renamed(name),
        }
    }

    pub(super) fn post(&self, message: &Message, marks: &[ReadMark]) -> Post {
        let shown = self
            .shown
            .as_ref()
            .expect("whoever hands in a text says what is shown beside it");
        Post::new(message, &shown.author, &shown.members, marks)
    }

    pub(super) fn answer_with_earlier(self, earlier: Entry) {
        let message = match earlier.what {
            EntryKind::Message(message) => message,
            EntryKind::Deleted(id) => without_text(
                id,
                self.room,
                self.author,
                LogPosition {
                    seq: earlier.seq,
                    created_at: earlier.created_at,
                },
            ),
            _ => return self.answer(Ok(AppendResult::default())),
        };
        self.answer(Ok(AppendResult {
            earlier: Some(message),
            ..AppendResult::default()
        }));
    }

    pub(super) fn answer(self, outcome: Result<AppendResult>) {
        // The caller may have dropped its future.
        let _ = self.reply.send(outcome);
    }
}

/// Creates a message without its text. Its deletion is announced too, by a later log entry.
pub(super) fn without_text(
    id: MessageId,
    room: RoomId,
    author: UserId,
    LogPosition { seq, created_at }: LogPosition,
) -> Message {
    Message {
        id,
        room,
        seq,
        author,
        text: String::new(),
        created_at,
        edited_at: None,
        client_id: None,
    }
}
