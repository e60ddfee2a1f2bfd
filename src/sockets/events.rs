//! The socket protocol: the names and payloads of the events that clients and the server send.

use serde::Serialize;

use super::{room_name, user_name};
use crate::{
    model::{Entry, EntryKind, MessageId, ReadMark, RoomId, Seq, Timestamp, UserId},
    timeline::{RoomEvent, Transient},
    view::{Post, RoomView},
};

/// An event that the server sends to sockets.
///
/// To add one, add the variant with its name, payload and audience here, and document it in
/// `docs/sockets.md`. If the timeline announces it, also convert it from the [`RoomEvent`].
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Event<'a> {
    /// `new message`: a user posted a message in a room.
    NewMessage {
        /// The post, exactly as in the REST answer.
        message: &'a Post,
    },
    /// `message edited`: the author changed a message.
    MessageEdited {
        /// The current post, exactly as in the REST answer.
        message: &'a Post,
        /// The sequence number of the edit.
        seq: Seq,
    },
    /// `message deleted`: a message was deleted.
    MessageDeleted {
        /// The room of the message.
        chat_room_id: RoomId,
        /// The deleted message.
        message_id: MessageId,
        /// The sequence number of the deletion.
        seq: Seq,
    },
    /// `conversation read`: a user has read a room up to an entry. Sent to the room, or only to all
    /// sockets of that user: in a large room, the number of events for one message would grow with
    /// the square of the number of members if all of them read it.
    ConversationRead {
        /// The room.
        chat_room_id: RoomId,
        /// The user who read the room.
        user_id: UserId,
        /// The sequence number of the last entry read.
        up_to_seq: Seq,
        /// When the user read it.
        read_at: Timestamp,
        /// Whether only the user's own sockets receive the event.
        #[serde(skip)]
        is_private: bool,
    },
    /// `room created`: sent to all sockets of the members.
    RoomCreated {
        /// The room.
        chat_room: RoomView<'a>,
        /// The members, who receive the event.
        #[serde(skip)]
        members: &'a [UserId],
    },
    /// `room changed`: the room was renamed.
    RoomChanged {
        /// The room.
        chat_room_id: RoomId,
        /// The new name.
        name: Option<&'a str>,
        /// The sequence number of the change.
        seq: Seq,
    },
    /// `member added`: sent to the room and to all sockets of the added user.
    MemberAdded {
        /// The room.
        chat_room_id: RoomId,
        /// The added user.
        user_id: UserId,
        /// The sequence number of the log entry.
        seq: Seq,
    },
    /// `member removed`: sent to the room and to all sockets of the removed user, which then leave
    /// the room.
    MemberRemoved {
        /// The room.
        chat_room_id: RoomId,
        /// The removed user.
        user_id: UserId,
        /// The sequence number of the log entry.
        seq: Seq,
    },
    /// `room deleted`: sent to the room and to all sockets of its members.
    RoomDeleted {
        /// The room.
        chat_room_id: RoomId,
        /// The members, who receive the event.
        #[serde(skip)]
        members: &'a [UserId],
    },
    /// `typing` and `stop typing`: sent to the other members in the room.
    Typing {
        /// The room.
        chat_room_id: RoomId,
        /// The user who is typing or has stopped.
        user_id: UserId,
        /// Whether the user has started typing (true) or stopped (false).
        #[serde(skip)]
        begun: bool,
    },
    /// `user online`: sent to users who share a room with this user.
    UserOnline {
        /// The user.
        user_id: UserId,
        /// The users who receive the event.
        #[serde(skip)]
        others: &'a [UserId],
    },
    /// `user offline`: sent to users who share a room with this user.
    UserOffline {
        /// The user.
        user_id: UserId,
        /// When the user was last connected.
        last_seen_at: Timestamp,
        /// The users who receive the event.
        #[serde(skip)]
        others: &'a [UserId],
    },
    /// `token expired`: the token of this socket has expired. Without a new one the socket is
    /// disconnected.
    TokenExpired {
        /// How long the socket stays connected, in seconds.
        disconnects_in: u64,
    },
}

/// The receivers of an event.
#[derive(Default)]
pub struct Audience {
    /// The Socket.IO rooms whose sockets receive the event.
    pub names: Vec<String>,
    /// The Socket.IO room whose sockets do not receive it.
    pub except: Option<String>,
}

impl<'a> Event<'a> {
    /// Returns the event that announces a room event; `None` for a message without its post, which
    /// the timeline does not announce.
    #[must_use]
    pub fn from_room_event(event: &'a RoomEvent) -> Option<Self> {
        match event {
            RoomEvent::Entry { entry, post } => Self::from_entry(entry, post.as_ref()),
            RoomEvent::Transient(event) => Some(Self::from_transient(event)),
        }
    }

    fn from_entry(entry: &'a Entry, post: Option<&'a Post>) -> Option<Self> {
        let (chat_room_id, seq) = (entry.room, entry.seq);
        Some(match &entry.what {
            EntryKind::Message(_) | EntryKind::Deleted(_) => Self::NewMessage { message: post? },
            EntryKind::Edit { .. } => Self::MessageEdited {
                message: post?,
                seq,
            },
            EntryKind::Deletion(message_id) => Self::MessageDeleted {
                chat_room_id,
                message_id: *message_id,
                seq,
            },
            EntryKind::MemberAdded(user_id) => Self::MemberAdded {
                chat_room_id,
                user_id: *user_id,
                seq,
            },
            EntryKind::MemberRemoved(user_id) => Self::MemberRemoved {
                chat_room_id,
                user_id: *user_id,
                seq,
            },
            EntryKind::Renamed(name) => Self::RoomChanged {
                chat_room_id,
                name: name.as_deref(),
                seq,
            },
        })
    }

    fn from_transient(event: &'a Transient) -> Self {
        match event {
            Transient::Read {
                room,
                mark:
                    ReadMark {
                        user,
                        up_to,
                        read_at,
                    },
                is_large,
            } => Self::ConversationRead {
                chat_room_id: *room,
                user_id: *user,
                up_to_seq: *up_to,
                read_at: *read_at,
                is_private: *is_large,
            },
            Transient::RoomCreated {
                room,
                listed_members,
            } => Self::RoomCreated {
                chat_room: RoomView::new(room, &room.members, *listed_members),
                members: &room.members,
            },
            Transient::RoomDeleted(room) => Self::RoomDeleted {
                chat_room_id: room.id,
                members: &room.members,
            },
        }
    }

    /// Returns the name of the event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NewMessage { .. } => "new message",
            Self::MessageEdited { .. } => "message edited",
            Self::MessageDeleted { .. } => "message deleted",
            Self::ConversationRead { .. } => "conversation read",
            Self::RoomCreated { .. } => "room created",
            Self::RoomChanged { .. } => "room changed",
            Self::MemberAdded { .. } => "member added",
            Self::MemberRemoved { .. } => "member removed",
            Self::RoomDeleted { .. } => "room deleted",
            Self::Typing { begun: true, .. } => "typing",
            Self::Typing { begun: false, .. } => "stop typing",
            Self::UserOnline { .. } => "user online",
            Self::UserOffline { .. } => "user offline",
            Self::TokenExpired { .. } => "token expired",
        }
    }

    /// Returns the room in which the event happened, if any.
    #[must_use]
    pub fn room(&self) -> Option<RoomId> {
        match self {
            Self::NewMessage { message } | Self::MessageEdited { message, .. } => {
                Some(message.room)
            }
            Self::MessageDeleted { chat_room_id, .. }
            | Self::ConversationRead { chat_room_id, .. }
            | Self::RoomChanged { chat_room_id, .. }
            | Self::MemberAdded { chat_room_id, .. }
            | Self::MemberRemoved { chat_room_id, .. }
            | Self::RoomDeleted { chat_room_id, .. }
            | Self::Typing { chat_room_id, .. } => Some(*chat_room_id),
            Self::RoomCreated { .. }
            | Self::UserOnline { .. }
            | Self::UserOffline { .. }
            | Self::TokenExpired { .. } => None,
        }
    }

    /// Returns the audience of the event, or `None` if it is just the room.
    #[must_use]
    pub fn audience(&self) -> Option<Audience> {
        let to = |room: Option<RoomId>, users: &[UserId]| Audience {
            names: room
                .map(room_name)
                .into_iter()
                .chain(users.iter().copied().map(user_name))
                .collect(),
            except: None,
        };
        match self {
            Self::MemberAdded {
                chat_room_id,
                user_id,
                ..
            }
            | Self::MemberRemoved {
                chat_room_id,
                user_id,
                ..
            } => Some(to(Some(*chat_room_id), &[*user_id])),
            Self::ConversationRead {
                user_id,
                is_private: true,
                ..
            } => Some(to(None, &[*user_id])),
            Self::RoomCreated { members, .. } => Some(to(None, members)),
            Self::RoomDeleted {
                chat_room_id,
                members,
            } => Some(to(Some(*chat_room_id), members)),
            Self::Typing {
                chat_room_id,
                user_id,
                ..
            } => Some(Audience {
                except: Some(user_name(*user_id)),
                ..to(Some(*chat_room_id), &[])
            }),
            Self::UserOnline { others, .. } | Self::UserOffline { others, .. } => {
                Some(to(None, others))
            }
            Self::NewMessage { .. }
            | Self::MessageEdited { .. }
            | Self::MessageDeleted { .. }
            | Self::RoomChanged { .. }
            | Self::ConversationRead { .. }
            | Self::TokenExpired { .. } => None,
        }
    }
}
