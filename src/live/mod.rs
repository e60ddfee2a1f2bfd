//! The sockets: who is connected, who hears what. The rest of the server knows them only through [`Live`].
//!
//! Rooms of the Socket.IO layer are nearly all the bookkeeping there is: one for each chat room, one for each user and one for each session,
//! in which all the sockets of that user or session are.

mod events;
mod handlers;
mod handshake;
mod proofs;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::Value;
use socketioxide::{
    BroadcastError, SendError, SocketError, SocketIo,
    extract::{SocketRef, TryData},
    handler::ConnectHandler,
    layer::SocketIoLayer,
};
use tokio::task::AbortHandle;

pub use events::Event;
pub use handlers::Handlers;
pub use handshake::slim;
pub use proofs::Proofs;

use crate::{
    config::SocketConfig,
    error::Error,
    model::{RoomId, SessionId, UserId},
};

/// The path of Socket.IO.
pub const PATH: &str = "/socket.io";

/// How long a client may take from opening the transport to connecting a socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a socket reads at once. Events of clients are small, and every idle socket holds a buffer of this size.
const READ_BUFFER: usize = 512;
/// How often it is tried again to tell a client that its socket is closed.
const CLOSE_RETRY: Duration = Duration::from_millis(250);

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

    /// Closes every socket of sessions that have ended.
    fn close_sessions(&self, sessions: &[SessionId]);

    /// Closes every socket of a user who was deleted.
    fn close_user(&self, user: UserId);
}

fn room_name(room: RoomId) -> String {
    format!("room:{room}")
}

fn user_name(user: UserId) -> String {
    format!("user:{user}")
}

fn session_name(session: SessionId) -> String {
    format!("session:{session}")
}

/// The session whose room has this name.
fn session_of(room: &str) -> Option<SessionId> {
    SessionId::parse(room.strip_prefix("session:")?)
}

fn is_user_name(room: &str) -> bool {
    room.starts_with("user:")
}

/// The connected sockets.
#[derive(Clone)]
pub struct Sockets {
    io: SocketIo,
    /// Watches over the tokens of the sockets; in open mode they have none.
    watch: Option<AbortHandle>,
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
        let proofs = Arc::clone(&handlers.proofs);
        let watch = handlers.access.is_secure().then(|| tokio::spawn(Arc::clone(&proofs).watch(io.clone())).abort_handle());
        let handlers = Arc::new(handlers);
        let listen = move |socket: SocketRef, TryData(auth): TryData<Value>| {
            let handlers = Arc::clone(&handlers);
            async move {
                handlers.proofs.admit(&socket, &auth.unwrap_or_default()).await?;
                handlers::listen(&handlers, &socket);
                Ok::<_, Error>(())
            }
        };
        let connected = move |socket: SocketRef| {
            let proofs = Arc::clone(&proofs);
            async move {
                proofs.settle(socket.clone()).await;
                handlers::connected(&socket);
            }
        };
        io.ns("/", connected.with(listen));
        (Self { io, watch }, layer)
    }

    /// Sends an event to the sockets in its room. False when it did not fit into the buffer of every one.
    fn broadcast(&self, event: &Event<'_>) -> bool {
        let Some(room) = event.room() else { return true };
        let sending = self.io.to(room_name(room)).emit(event.name(), event);
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
        if let Some(watch) = &self.watch {
            watch.abort();
        }
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

    fn close_sessions(&self, sessions: &[SessionId]) {
        for session in sessions {
            self.io.within(session_name(*session)).sockets().iter().for_each(close);
        }
    }

    fn close_user(&self, user: UserId) {
        self.io.within(user_name(user)).sockets().iter().for_each(close);
    }
}

/// Joins a room, unless the socket is closed meanwhile: nobody would ever take it out again.
fn join(socket: &SocketRef, room: String) {
    socket.join(room);
    if !socket.connected() || is_closing(socket) {
        socket.leave_all();
    }
}

/// The mark of a socket that is being closed: it hears nothing, and nothing that its client sends counts any more.
#[derive(Clone)]
struct Closing;

fn is_closing(socket: &SocketRef) -> bool {
    socket.extensions.get::<Closing>().is_some()
}

/// Closes a socket. Its client is told as soon as there is room for that; one that reads nothing at all is given up by the heartbeat.
fn close(socket: &SocketRef) {
    if socket.extensions.insert(Closing).is_some() {
        return;
    }
    socket.leave_all();
    if socket.clone().disconnect().is_ok() {
        return;
    }
    let socket = socket.clone();
    tokio::spawn(async move {
        while socket.connected() && socket.clone().disconnect().is_err() {
            tokio::time::sleep(CLOSE_RETRY).await;
        }
    });
}

/// The events of each room, in their order.
fn by_room<'a, 'b>(events: &'a [Event<'b>]) -> HashMap<RoomId, Vec<&'a Event<'b>>> {
    let mut rooms: HashMap<_, Vec<_>> = HashMap::new();
    for event in events {
        if let Some(room) = event.room() {
            rooms.entry(room).or_default().push(event);
        }
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

/// Ends a socket whose client reads too slowly: it has missed an event, so it must not hear the next one.
fn evict(socket: &SocketRef) {
    tracing::info!(socket = %socket.id, "a client reads too slowly and is disconnected");
    close(socket);
}
