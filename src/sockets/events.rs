//! The socket protocol: the names and payloads of the events that clients and the server send.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{room_name, user_name};
use crate::{
    error::{Error, Result},
    model::{ClientId, MessageId, ReadMark, RoomId, Seq, Timestamp, UserId},
    number,
    view::{Post, RoomView},
};

/// An event that the server sends to sockets.
///
/// To add one, add the variant with its name, payload and audience here, and document it in the
/// README.
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

impl Event<'_> {
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
            _ => None,
        }
    }

    /// Creates the event for a read mark, sent to the room or, if `is_private`, only to the user's
    /// own sockets.
    #[must_use]
    pub fn read(room: RoomId, mark: ReadMark, is_private: bool) -> Self {
        let ReadMark {
            user,
            up_to,
            read_at,
            ..
        } = mark;
        Self::ConversationRead {
            chat_room_id: room,
            user_id: user,
            up_to_seq: up_to,
            read_at,
            is_private,
        }
    }
}

/// An event that a client sends on its socket.
///
/// To add one, add the variant here, parse it in [`Command::read`] and handle it in `handlers`.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// `identity userId`: assigns this socket to that user.
    Identity(UserId),
    /// `subscribe room, otherUserId?`: adds this socket and the other user's sockets to the room.
    Subscribe {
        /// The room id, as the client sent it.
        room: String,
        /// The user whose sockets join too.
        other: Option<UserId>,
    },
    /// `subscribe`: adds this socket to all rooms of its user.
    SubscribeToAll,
    /// `unsubscribe room`: removes this socket from the room.
    Unsubscribe(RoomId),
    /// `send message {chatRoomId, messageText, clientMessageId?}`: posts a message.
    SendMessage {
        /// The room id, as the client sent it.
        room: String,
        /// The text of the message.
        text: String,
        /// The client's id for the message.
        client_id: Option<ClientId>,
    },
    /// `sync {rooms: {room: seq, …}}`: joins these rooms, and returns the log entries after those
    /// sequence numbers.
    Sync(HashMap<String, Seq>),
    /// `mark read {chatRoomId, upToSeq?}`: marks a room as read.
    MarkRead {
        /// The room id, as the client sent it.
        room: String,
        /// The sequence number of the last entry read.
        up_to: Option<Seq>,
    },
    /// `typing room` and `stop typing room`: the user is typing or has stopped.
    Typing {
        /// The room id, as the client sent it.
        room: String,
        /// Whether the user has started typing (true) or stopped (false).
        begun: bool,
    },
    /// `refresh token`: replaces the token of this socket.
    RefreshToken(String),
}

impl Command {
    /// Returns whether the command has no useful effect once the socket has disconnected.
    pub fn concerns_the_socket_alone(&self) -> bool {
        matches!(
            self,
            Self::SubscribeToAll | Self::Unsubscribe(_) | Self::Sync(_) | Self::Typing { .. }
        )
    }

    /// Parses an event and its arguments. Errors are sent in the acknowledgement.
    pub fn read(event: &str, arguments: &[Value]) -> Result<Self> {
        let first = arguments.first().and_then(Value::as_str);
        let fields = arguments.first().and_then(Value::as_object);
        match event {
            "identity" => {
                let user = first.ok_or(Error::BadEvent("identity takes the id of a user, a string"))?;
                UserId::parse(user).map(Self::Identity).ok_or(Error::NobodyToBe)
            }
            "subscribe" if arguments.is_empty() => Ok(Self::SubscribeToAll),
            "subscribe" => {
                let room = first.ok_or(Error::BadEvent("subscribe takes the id of a room, a string, or nothing"))?;
                Ok(Self::Subscribe { room: room.to_owned(), other: other_user(arguments.get(1))? })
            }
            "unsubscribe" => {
                let room = first.ok_or(Error::BadEvent("unsubscribe takes the id of a room, a string"))?;
                RoomId::parse(room).map(Self::Unsubscribe).ok_or(Error::NoRoom)
            }
            "send message" => fields.and_then(message).ok_or(Error::BadEvent(
                "send message takes {chatRoomId, messageText, clientMessageId}: strings; the last, of 1 to 64 printable characters, may be left out",
            )),
            "sync" => fields.and_then(positions).ok_or(Error::BadEvent("sync takes {rooms: {…}}, with a whole number from 0 to 18446744073709551615 for each id of a room")),
            "mark read" => fields.and_then(mark).ok_or(Error::BadEvent("mark read takes {chatRoomId, upToSeq}; upToSeq, a whole number from 0 to 18446744073709551615, may be left out")),
            "typing" | "stop typing" => {
                let room = first.ok_or(Error::BadEvent("typing takes the id of a room, a string"))?;
                Ok(Self::Typing { room: room.to_owned(), begun: event == "typing" })
            }
            "refresh token" => {
                let token = first.ok_or(Error::BadEvent("refresh token takes an access token, a string"))?;
                Ok(Self::RefreshToken(token.to_owned()))
            }
            _ => Err(Error::BadEvent("There is no such event")),
        }
    }
}

fn message(fields: &Map<String, Value>) -> Option<Command> {
    let client_id = match given(fields, "clientMessageId") {
        Some(id) => Some(ClientId::parse(id.as_str()?)?),
        None => None,
    };
    let text = text_in(fields, "messageText")?;
    // Blank texts are rejected here, as in the REST API.
    (!crate::model::is_blank(&text)).then_some(Command::SendMessage {
        room: text_in(fields, "chatRoomId")?,
        text,
        client_id,
    })
}

fn mark(fields: &Map<String, Value>) -> Option<Command> {
    let up_to = match given(fields, "upToSeq") {
        Some(seq) => Some(Seq(number::whole(seq)?)),
        None => None,
    };
    Some(Command::MarkRead {
        room: text_in(fields, "chatRoomId")?,
        up_to,
    })
}

fn positions(fields: &Map<String, Value>) -> Option<Command> {
    let rooms = fields.get("rooms")?.as_object()?;
    rooms
        .iter()
        .map(|(room, seq)| Some((room.clone(), Seq(number::whole(seq)?))))
        .collect::<Option<_>>()
        .map(Command::Sync)
}

fn given<'a>(fields: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    fields.get(field).filter(|value| !value.is_null())
}

fn text_in(fields: &Map<String, Value>, field: &str) -> Option<String> {
    fields.get(field)?.as_str().map(str::to_owned)
}

/// Parses the id of the other user. Clients of the original server send an id, an empty string, or
/// nothing. An invalid id is treated as the id of no existing user.
fn other_user(argument: Option<&Value>) -> Result<Option<UserId>> {
    match argument {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.is_empty() => Ok(None),
        Some(Value::String(id)) => Ok(Some(UserId::parse(id).unwrap_or(UserId::NOBODY))),
        Some(_) => Err(Error::BadEvent(
            "the second argument of subscribe is the id of a user, a string",
        )),
    }
}
