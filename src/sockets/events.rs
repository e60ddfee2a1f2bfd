//! The whole socket protocol: the names and payloads of what clients send and of what they are sent.

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

/// What sockets are told.
///
/// To add one: the variant here with its name, payload and audience, and the same in the README.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Event<'a> {
    /// `new message`: somebody posted in a room.
    NewMessage {
        /// The very post of the REST answer.
        message: &'a Post,
    },
    /// `message edited`: its author changed a message.
    MessageEdited {
        /// As it is now, the very post of the REST answer.
        message: &'a Post,
        /// The edit's own number.
        seq: Seq,
    },
    /// `message deleted`.
    MessageDeleted {
        /// Where.
        chat_room_id: RoomId,
        /// Which.
        message_id: MessageId,
        /// The deletion's own number.
        seq: Seq,
    },
    /// `conversation read`: somebody has read a room up to an entry. To the room, or only to all sockets of that user: in a large room it is
    /// the square of its members who would be told, when all of them read what one has posted.
    ConversationRead {
        /// Which room.
        chat_room_id: RoomId,
        /// Who.
        user_id: UserId,
        /// The last entry read.
        up_to_seq: Seq,
        /// When.
        read_at: Timestamp,
        /// Whether nobody else is told.
        #[serde(skip)]
        is_private: bool,
    },
    /// `room created`: to all sockets of its members.
    RoomCreated {
        /// The room.
        chat_room: RoomView<'a>,
        /// Who is told.
        #[serde(skip)]
        members: &'a [UserId],
    },
    /// `room changed`: it has another name.
    RoomChanged {
        /// Which room.
        chat_room_id: RoomId,
        /// What it is called.
        name: Option<&'a str>,
        /// The change's number.
        seq: Seq,
    },
    /// `member added`: to the room, and to all sockets of the one who was added.
    MemberAdded {
        /// Which room.
        chat_room_id: RoomId,
        /// Who.
        user_id: UserId,
        /// The number of the entry that says so.
        seq: Seq,
    },
    /// `member removed`: to the room, and to all sockets of the one who was removed, which then are out of it.
    MemberRemoved {
        /// Which room.
        chat_room_id: RoomId,
        /// Who.
        user_id: UserId,
        /// The number of the entry that says so.
        seq: Seq,
    },
    /// `room deleted`: to the room, and to all sockets of its members.
    RoomDeleted {
        /// Which room.
        chat_room_id: RoomId,
        /// Who is told.
        #[serde(skip)]
        members: &'a [UserId],
    },
    /// `typing` and `stop typing`: to the others in the room.
    Typing {
        /// Which room.
        chat_room_id: RoomId,
        /// Who.
        user_id: UserId,
        /// Whether they have begun, or stopped.
        #[serde(skip)]
        begun: bool,
    },
    /// `user online`: to those who share a room with them.
    UserOnline {
        /// Who.
        user_id: UserId,
        /// Who is told.
        #[serde(skip)]
        others: &'a [UserId],
    },
    /// `user offline`: to those who share a room with them.
    UserOffline {
        /// Who.
        user_id: UserId,
        /// When they were last there.
        last_seen_at: Timestamp,
        /// Who is told.
        #[serde(skip)]
        others: &'a [UserId],
    },
    /// `token expired`: the token of this socket has, and without another one it is disconnected.
    TokenExpired {
        /// How long it stays connected, in seconds.
        disconnects_in: u64,
    },
}

/// Who hears of an event.
#[derive(Default)]
pub struct Audience {
    /// The rooms of the Socket.IO layer whose sockets hear of it.
    pub names: Vec<String>,
    /// The one whose sockets do not.
    pub except: Option<String>,
}

impl Event<'_> {
    /// The name of the event.
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

    /// The room in which it happened, if in one.
    #[must_use]
    pub fn room(&self) -> Option<RoomId> {
        match self {
            Self::NewMessage { message } | Self::MessageEdited { message, .. } => Some(message.room),
            Self::MessageDeleted { chat_room_id, .. }
            | Self::ConversationRead { chat_room_id, .. }
            | Self::RoomChanged { chat_room_id, .. }
            | Self::MemberAdded { chat_room_id, .. }
            | Self::MemberRemoved { chat_room_id, .. }
            | Self::RoomDeleted { chat_room_id, .. }
            | Self::Typing { chat_room_id, .. } => Some(*chat_room_id),
            Self::RoomCreated { .. } | Self::UserOnline { .. } | Self::UserOffline { .. } | Self::TokenExpired { .. } => None,
        }
    }

    /// Who hears of it, where that is not just the room.
    #[must_use]
    pub fn audience(&self) -> Option<Audience> {
        let to = |room: Option<RoomId>, users: &[UserId]| Audience {
            names: room.map(room_name).into_iter().chain(users.iter().copied().map(user_name)).collect(),
            except: None,
        };
        match self {
            Self::MemberAdded { chat_room_id, user_id, .. } | Self::MemberRemoved { chat_room_id, user_id, .. } => {
                Some(to(Some(*chat_room_id), &[*user_id]))
            }
            Self::ConversationRead { user_id, is_private: true, .. } => Some(to(None, &[*user_id])),
            Self::RoomCreated { members, .. } => Some(to(None, members)),
            Self::RoomDeleted { chat_room_id, members } => Some(to(Some(*chat_room_id), members)),
            Self::Typing { chat_room_id, user_id, .. } => {
                Some(Audience { except: Some(user_name(*user_id)), ..to(Some(*chat_room_id), &[]) })
            }
            Self::UserOnline { others, .. } | Self::UserOffline { others, .. } => Some(to(None, others)),
            _ => None,
        }
    }

    /// That somebody has read, for all to know or for nobody but themselves.
    #[must_use]
    pub fn read(room: RoomId, mark: ReadMark, is_private: bool) -> Self {
        let ReadMark { user, up_to, read_at, .. } = mark;
        Self::ConversationRead { chat_room_id: room, user_id: user, up_to_seq: up_to, read_at, is_private }
    }
}

/// What a client asks for on its socket.
///
/// To add one: the variant here, its reading in [`Command::read`], its effect in `handlers`.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// `identity userId`: this socket belongs to that user.
    Identity(UserId),
    /// `subscribe room, otherUserId?`: this socket joins the room, and so do the other user's.
    Subscribe {
        /// The room, as the client wrote it.
        room: String,
        /// Whose sockets join as well.
        other: Option<UserId>,
    },
    /// `subscribe`: this socket joins all rooms of its user.
    SubscribeToAll,
    /// `unsubscribe room`: this socket leaves the room.
    Unsubscribe(RoomId),
    /// `send message {chatRoomId, messageText, clientMessageId?}`: posts a message.
    SendMessage {
        /// Where, as the client wrote it.
        room: String,
        /// What it says.
        text: String,
        /// What the client calls it.
        client_id: Option<ClientId>,
    },
    /// `sync {rooms: {room: seq, …}}`: joins these rooms, and tells what happened behind those entries.
    Sync(HashMap<String, Seq>),
    /// `mark read {chatRoomId, upToSeq?}`: marks a room as read.
    MarkRead {
        /// Which, as the client wrote it.
        room: String,
        /// The last entry read.
        up_to: Option<Seq>,
    },
    /// `typing room` and `stop typing room`.
    Typing {
        /// Where, as the client wrote it.
        room: String,
        /// Whether they have begun, or stopped.
        begun: bool,
    },
    /// `refresh token`: from now on this socket has that token.
    RefreshToken(String),
}

impl Command {
    /// Whether it does nothing that matters when the socket has left.
    pub fn concerns_the_socket_alone(&self) -> bool {
        matches!(self, Self::SubscribeToAll | Self::Unsubscribe(_) | Self::Sync(_) | Self::Typing { .. })
    }

    /// Reads an event and its arguments. Errors are for the acknowledgement.
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
    // Blank texts are refused here as they are by REST.
    (!crate::model::is_blank(&text)).then_some(Command::SendMessage { room: text_in(fields, "chatRoomId")?, text, client_id })
}

fn mark(fields: &Map<String, Value>) -> Option<Command> {
    let up_to = match given(fields, "upToSeq") {
        Some(seq) => Some(Seq(number::whole(seq)?)),
        None => None,
    };
    Some(Command::MarkRead { room: text_in(fields, "chatRoomId")?, up_to })
}

fn positions(fields: &Map<String, Value>) -> Option<Command> {
    let rooms = fields.get("rooms")?.as_object()?;
    rooms.iter().map(|(room, seq)| Some((room.clone(), Seq(number::whole(seq)?)))).collect::<Option<_>>().map(Command::Sync)
}

fn given<'a>(fields: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    fields.get(field).filter(|value| !value.is_null())
}

fn text_in(fields: &Map<String, Value>, field: &str) -> Option<String> {
    fields.get(field)?.as_str().map(str::to_owned)
}

/// Clients of the original pass the other user's id, an empty string, or nothing. What is no id, nobody has.
fn other_user(argument: Option<&Value>) -> Result<Option<UserId>> {
    match argument {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.is_empty() => Ok(None),
        Some(Value::String(id)) => Ok(Some(UserId::parse(id).unwrap_or(UserId::NOBODY))),
        Some(_) => Err(Error::BadEvent("the second argument of subscribe is the id of a user, a string")),
    }
}
