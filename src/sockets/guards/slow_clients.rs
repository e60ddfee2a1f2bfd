//! Backpressure: checks the capacity of clients' buffers and disconnects clients that read too
//! slowly.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::Error as _};
use socketioxide::{SendError, SocketError, extract::SocketRef};
use tokio::time::{Instant, sleep};
use tracing::field::display;

use super::Guard;
use crate::{
    address::ClientAddress,
    auth::Caller,
    budget::Reservation,
    refusals,
    sockets::{close, is_closing},
};

/// How long an answer waits for capacity before the client is disconnected, and the interval
/// between checks.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(20);
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// An event that always fails to serialize.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("only asking for room"))
    }
}

/// Returns whether the socket's buffer has capacity for one more event. The layer has no function
/// for this, but it takes a place in the buffer before it serializes an event, and gives it back
/// when that fails.
pub fn has_capacity(socket: &SocketRef) -> bool {
    !matches!(
        socket.emit("", &Unwritable),
        Err(SendError::Socket(SocketError::InternalChannelFull))
    )
}

/// Counts a packet of `bytes` bytes that is about to be sent to a socket. Returns false if too many
/// bytes are queued for its client.
pub fn reserve_send(socket: &SocketRef, bytes: usize, memory: Option<&Reservation>) -> bool {
    Guard::of(socket).is_none_or(|guard| guard.reserve_send(bytes, memory))
}

/// Disconnects sockets that missed an event although they had capacity a moment before, because an
/// acknowledgement or a ping took the last place. A client that reads too slowly still has no
/// capacity. If as many sockets are full as missed the event, these are disconnected. Otherwise it
/// is unknown which ones missed it, and all are.
pub fn disconnect_missed(listeners: &mut Vec<SocketRef>, missed: usize) {
    // Each socket is checked once: one that gains capacity meanwhile has still missed the event.
    let (full, others): (Vec<_>, Vec<_>) = listeners
        .drain(..)
        .partition(|listener| !has_capacity(listener));
    full.iter().for_each(disconnect_slow);
    if full.len() == missed {
        *listeners = others;
    } else {
        others.iter().for_each(disconnect_slow);
    }
}

/// Disconnects a socket whose client reads too slowly. It has missed an event, so it must not
/// receive the next one.
pub fn disconnect_slow(socket: &SocketRef) {
    // Do not log the socket id: anyone who knows it could act for a client that polls.
    let user = socket
        .extensions
        .get::<Caller>()
        .map(|caller| display(caller.user.id));
    if refusals::is_first(
        ClientAddress::of(&socket.req_parts().extensions),
        "clients disconnected that read too slowly",
    ) {
        tracing::info!(user, "a client reads too slowly and is disconnected");
    }
    close(socket);
}

/// Waits until an answer fits into the client's buffer. A client may legitimately send many
/// requests at once. Returns false if the socket is closed or the timeout passes.
pub async fn wait_for_capacity(socket: &SocketRef) -> bool {
    let deadline = Instant::now() + CAPACITY_TIMEOUT;
    while !has_capacity(socket) {
        if !socket.connected() || is_closing(socket) {
            return false;
        }
        if Instant::now() > deadline {
            disconnect_slow(socket);
            return false;
        }
        sleep(CHECK_INTERVAL).await;
    }
    true
}
