//! The events that clients send: their names and payloads.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    model::{ClientId, RoomId, Seq, UserId},
    number,
};

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
    pub fn is_dropped_after_disconnect(&self) -> bool {
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
            _ => Err(Error::UnknownEvent),
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
        Some(Value::String(id)) => Ok(Some(UserId::parse(id).unwrap_or(UserId::UNKNOWN))),
        Some(_) => Err(Error::BadEvent(
            "the second argument of subscribe is the id of a user, a string",
        )),
    }
}
