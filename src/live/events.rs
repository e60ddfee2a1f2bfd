//! The whole socket protocol: the names and payloads of what clients send and of what they are sent.

use serde::Serialize;
use serde_json::Value;

use crate::{
    error::{Error, Result},
    model::{RoomId, UserId},
    view::Post,
};

/// What sockets are told.
///
/// To add one: the variant here with its name and payload, and the same in the README.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Event<'a> {
    /// `new message`: somebody posted in a room.
    NewMessage {
        /// The very post of the REST answer.
        message: &'a Post,
    },
    /// `token expired`: the token of this socket has, and without another one it is disconnected.
    #[serde(rename_all = "camelCase")]
    TokenExpired {
        /// How long it stays connected, in seconds.
        disconnects_in: u64,
    },
}

impl Event<'_> {
    /// The name of the event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NewMessage { .. } => "new message",
            Self::TokenExpired { .. } => "token expired",
        }
    }

    /// The room whose sockets hear of it; none, where it concerns one socket alone.
    #[must_use]
    pub fn room(&self) -> Option<RoomId> {
        match self {
            Self::NewMessage { message } => Some(message.room),
            Self::TokenExpired { .. } => None,
        }
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
    /// `unsubscribe room`: this socket leaves the room.
    Unsubscribe(RoomId),
    /// `refresh token`: from now on this socket has that token.
    RefreshToken(String),
}

impl Command {
    /// Reads an event and its arguments. Errors are for the acknowledgement.
    pub fn read(event: &str, arguments: &[Value]) -> Result<Self> {
        let first = arguments.first().and_then(Value::as_str);
        match event {
            "identity" => {
                let user = first.ok_or(Error::BadEvent("identity takes the id of a user, a string"))?;
                UserId::parse(user).map(Self::Identity).ok_or(Error::NobodyToBe)
            }
            "subscribe" => {
                let room = first.ok_or(Error::BadEvent("subscribe takes the id of a room, a string"))?;
                Ok(Self::Subscribe { room: room.to_owned(), other: other_user(arguments.get(1))? })
            }
            "unsubscribe" => {
                let room = first.ok_or(Error::BadEvent("unsubscribe takes the id of a room, a string"))?;
                RoomId::parse(room).map(Self::Unsubscribe).ok_or(Error::NoRoom)
            }
            "refresh token" => {
                let token = first.ok_or(Error::BadEvent("refresh token takes an access token, a string"))?;
                Ok(Self::RefreshToken(token.to_owned()))
            }
            _ => Err(Error::BadEvent("There is no such event")),
        }
    }
}

/// Clients of the original pass the other user's id, an empty string, or nothing. An id that nobody has means nobody's sockets.
fn other_user(argument: Option<&Value>) -> Result<Option<UserId>> {
    match argument {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(UserId::parse(id)),
        Some(_) => Err(Error::BadEvent("the second argument of subscribe is the id of a user, a string")),
    }
}
