//! The sockets: who is connected, who hears what. The rest of the server knows them only through [`Live`].
//!
//! Rooms of the Socket.IO layer are all the bookkeeping there is: one for each chat room, and one for each user, in which all of
//! the user's sockets are.

mod events;
mod handlers;
mod handshake;

use std::{collections::HashMap, convert::Infallible, future::ready, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde::{Serialize, Serializer, ser::Error as _};
use socketioxide::{BroadcastError, SendError, SocketError, SocketIo, extract::SocketRef, handler::ConnectHandler, layer::SocketIoLayer};

pub use events::Event;
pub use handlers::Handlers;
pub use handshake::slim;

use crate::{
    config::SocketConfig,
    model::{RoomId, UserId},
};

/// The path of Socket.IO.
pub const PATH: &str = "/socket.io";

/// How long a client may take from opening the transport to connecting a socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a socket reads at once. Events of clients are small, and every idle socket holds a buffer of this size.
const READ_BUFFER: usize = 512;
/// How often a client that fell behind is tried again.
const EVICTION_RETRY: Duration = Duration::from_millis(250);

/// The largest packet that a client may send, in bytes.
#[must_use]
pub fn max_packet(config: &SocketConfig) -> usize {
    usize::try_from(config.max_packet_bytes).unwrap_or(usize::MAX)
}

/// What the rest of the server may do to sockets.
pub trait Live: Send + Sync + 'static {
    /// Sends events, each to every socket in its room. A socket hears the events of a room in the order given, call by call.
    fn announce(&self, events: &[Event<'_>]);

    /// Takes every socket out of a room that is gone.
    fn close_room(&self, room: RoomId);
}

fn room_name(room: RoomId) -> String {
    format!("room:{room}")
}

fn user_name(user: UserId) -> String {
    format!("user:{user}")
}

fn is_user_name(room: &str) -> bool {
    room.starts_with("user:")
}

/// The connected sockets.
#[derive(Clone)]
pub struct Sockets {
    io: SocketIo,
}

impl Sockets {
    /// The sockets, and the layer that lets clients of socket.io 2, 3 and 4 connect to them.
    #[must_use]
    pub fn new(config: &SocketConfig, handlers: Handlers) -> (Self, SocketIoLayer) {
        let max_packet = max_packet(config);
        let (layer, io) = SocketIo::builder()
            .req_path(PATH)
            .ping_interval(config.ping_interval_ms.into())
            .ping_timeout(config.ping_timeout_ms.into())
            .connect_timeout(CONNECT_TIMEOUT)
            .max_buffer_size(config.max_waiting_events)
            .max_payload(config.max_packet_bytes)
            .ws_max_message_size(max_packet)
            .ws_max_frame_size(max_packet)
            .ws_read_buffer_size(READ_BUFFER)
            .build_layer();
        let handlers = Arc::new(handlers);
        let listen = move |socket: SocketRef| {
            handlers::listen(&handlers, &socket);
            ready(Ok::<_, Infallible>(()))
        };
        let connected = |socket: SocketRef| {
            handlers::connected(&socket);
            ready(())
        };
        io.ns("/", connected.with(listen));
        (Self { io }, layer)
    }

    /// Sends an event to the sockets in its room. False when it did not fit into the buffer of every one.
    fn broadcast(&self, event: &Event<'_>) -> bool {
        let sending = self.io.to(room_name(event.room())).emit(event.name(), event);
        // To sockets of this process everything is sent at once; there is nothing to wait for.
        match sending.now_or_never() {
            Some(Err(BroadcastError::Socket(errors))) => !errors.iter().any(|error| matches!(error, SocketError::InternalChannelFull)),
            Some(Err(error)) => {
                tracing::error!(%error, event = event.name(), "an event could not be sent");
                true
            }
            Some(Ok(())) | None => true,
        }
    }

    /// Closes every socket. Clients see their connection end, and try to connect again.
    pub async fn close(&self) {
        self.io.close().await;
    }
}

impl Live for Sockets {
    fn announce(&self, events: &[Event<'_>]) {
        for (room, events) in by_room(events) {
            let mut listeners = self.io.within(room_name(room)).sockets();
            if listeners.is_empty() {
                continue;
            }
            for event in events {
                // A broadcast writes the event once for all, but does not say whose buffer was full; so that is asked before.
                listeners.retain(|listener| {
                    let fits = has_room(listener);
                    if !fits {
                        evict(listener);
                    }
                    fits
                });
                if !self.broadcast(event) {
                    // An acknowledgement or a ping took the last place in somebody's buffer in this very moment: somebody has missed
                    // the event, and nobody can say who.
                    listeners.drain(..).for_each(|listener| evict(&listener));
                }
            }
        }
    }

    fn close_room(&self, room: RoomId) {
        for socket in self.io.within(room_name(room)).sockets() {
            socket.leave(room_name(room));
        }
    }
}

/// The events of each room, in their order.
fn by_room<'a, 'b>(events: &'a [Event<'b>]) -> HashMap<RoomId, Vec<&'a Event<'b>>> {
    let mut rooms: HashMap<_, Vec<_>> = HashMap::new();
    for event in events {
        rooms.entry(event.room()).or_default().push(event);
    }
    rooms
}

/// What no event is: it cannot be written.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("only asking for room"))
    }
}

/// Whether one more event fits into the socket's buffer. The layer has no such question; but before it writes an event it takes a place
/// in the buffer, which it gives back when the event cannot be written.
fn has_room(socket: &SocketRef) -> bool {
    !matches!(socket.emit("", &Unwritable), Err(SendError::Socket(SocketError::InternalChannelFull)))
}

/// Ends a socket whose client reads too slowly: it has missed an event, so it must not hear the next one. It is told as soon as there
/// is room for that; a client that reads nothing at all is given up by the heartbeat.
fn evict(socket: &SocketRef) {
    tracing::info!(socket = %socket.id, "a client reads too slowly and is disconnected");
    socket.leave_all();
    let socket = socket.clone();
    tokio::spawn(async move {
        while socket.connected() && socket.clone().disconnect().is_err() {
            tokio::time::sleep(EVICTION_RETRY).await;
        }
    });
}
