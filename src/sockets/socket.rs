//! A socket of the Socket.IO layer: the rooms that it is in, and its end.

use std::time::Duration;

use socketioxide::extract::SocketRef;

use super::{Guard, subscriptions::leave_all};
use crate::model::{RoomId, SessionId, UserId};

/// Delay before retrying to notify a client that its socket is closed.
const CLOSE_RETRY: Duration = Duration::from_millis(250);

pub(super) fn room_name(room: RoomId) -> String {
    format!("room:{room}")
}

pub(super) fn user_name(user: UserId) -> String {
    format!("user:{user}")
}

pub(super) fn session_name(session: SessionId) -> String {
    format!("session:{session}")
}

/// Returns the session whose Socket.IO room has this name.
pub(super) fn session_of(room: &str) -> Option<SessionId> {
    SessionId::parse(room.strip_prefix("session:")?)
}

pub(super) fn is_user_name(room: &str) -> bool {
    room.starts_with("user:")
}

/// Adds a socket to the room of a user or session. If the socket closes meanwhile it leaves all
/// rooms again, because nothing else would remove it.
pub(super) fn join(socket: &SocketRef, name: String) {
    socket.join(name);
    if !socket.connected() || is_closing(socket) {
        leave_all(socket);
    }
}

/// Marks a socket that the server is closing. It receives no more events, and events from its
/// client are rejected.
#[derive(Clone)]
struct Closing;

pub(super) fn is_closing(socket: &SocketRef) -> bool {
    socket.extensions.get::<Closing>().is_some()
}

/// Closes a socket and its connection. The client is notified once its buffer has capacity; a
/// client that reads nothing is disconnected by the heartbeat.
pub(super) fn close(socket: &SocketRef) {
    if socket.extensions.insert(Closing).is_some() {
        return;
    }
    leave_all(socket);
    let socket = socket.clone();
    if socket.clone().disconnect().is_ok() {
        close_connection(&socket);
        return;
    }
    tokio::spawn(async move {
        while socket.connected() && socket.clone().disconnect().is_err() {
            tokio::time::sleep(CLOSE_RETRY).await;
        }
        close_connection(&socket);
    });
}

fn close_connection(socket: &SocketRef) {
    if let Some(guard) = Guard::of(socket) {
        guard.close();
    }
}
