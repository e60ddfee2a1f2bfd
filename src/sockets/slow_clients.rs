//! Clients that read too slowly: whether there is room for what waits for them, and their end where there is none.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::Error as _};
use socketioxide::{SendError, SocketError, extract::SocketRef};
use tokio::time::{Instant, sleep};
use tracing::field::display;

use super::{Guard, close, is_closing};
use crate::{access::Identity, address::ClientAddress, budget::Reservation, refusals};

/// How long an answer waits for its place before the client is given up, and how often it is looked.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(20);
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// What no event is: it cannot be written.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("only asking for room"))
    }
}

/// Whether one more event fits into the socket's buffer. The layer has no such question; but before it writes an event it takes a place
/// in the buffer, which it gives back when the event cannot be written.
pub fn has_capacity(socket: &SocketRef) -> bool {
    !matches!(socket.emit("", &Unwritable), Err(SendError::Socket(SocketError::InternalChannelFull)))
}

/// Counts a packet of so many bytes that is about to be sent to a socket. False where too much waits for its client.
pub fn reserve_send(socket: &SocketRef, bytes: usize, memory: Option<&Reservation>) -> bool {
    Guard::of(socket).is_none_or(|guard| guard.reserve_send(bytes, memory))
}

/// Ends those who have missed an event though they had room for it a moment before: an acknowledgement or a ping took the last place. A
/// client that reads too slowly has no room now either. Where those are as many as have missed it, it was them; else nobody can say who,
/// and it may be anybody.
pub fn disconnect_missed(listeners: &mut Vec<SocketRef>, missed: usize) {
    // Each is asked once: whoever gets room meanwhile has missed the event all the same.
    let (full, others): (Vec<_>, Vec<_>) = listeners.drain(..).partition(|listener| !has_capacity(listener));
    full.iter().for_each(disconnect_slow);
    if full.len() == missed {
        *listeners = others;
    } else {
        others.iter().for_each(disconnect_slow);
    }
}

/// Ends a socket whose client reads too slowly: it has missed an event, so it must not hear the next one.
pub fn disconnect_slow(socket: &SocketRef) {
    // Without the id of the socket: whoever knows that could speak for a client that polls.
    let user = socket.extensions.get::<Identity>().map(|identity| display(identity.user.id));
    if refusals::is_first(ClientAddress::of(&socket.req_parts().extensions), "clients disconnected that read too slowly") {
        tracing::info!(user, "a client reads too slowly and is disconnected");
    }
    close(socket);
}

/// Waits until an answer fits into what waits for the client, which may well ask much in one go. False when it never does.
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
