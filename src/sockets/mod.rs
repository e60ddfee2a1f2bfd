//! The Socket.IO server: connected sockets, their subscriptions and the events they receive. REST
//! handlers use only [`SocketHub`].
//!
//! Most of the state is kept in rooms of the Socket.IO layer: one per chat room, one per user and
//! one per session. A user's or session's room contains all of its sockets.

mod broadcast;
mod commands;
mod events;
mod guards;
mod handlers;
mod log_watcher;
mod presence;
mod removed_members;
mod socket;
mod socket_auth;
mod subscriptions;
mod typing;

use std::{
    future::ready,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::Value;
use socketioxide::{
    SocketIo,
    extract::{SocketRef, TryData},
    handler::ConnectHandler,
};
use tokio::{task::AbortHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub use events::Event;
pub use guards::{BytesWritten, Framing, Guard, Transport, Violation, kept_bytes, screen};
use guards::{connection_guard, event_queue::InFlightEvents, orphans::OrphanSweeper};
pub use handlers::Handlers;
use log_watcher::follow_logs;
pub use presence::Presence;
use removed_members::RemovedMembers;
use socket::{
    close, is_closing, is_user_name, join, room_name, session_name, session_of, user_name,
};
pub use socket_auth::SocketAuth;
use subscriptions::Subscriptions;
use typing::Typing;

use crate::{
    accounts::DisconnectUsers,
    budget::MemoryBudget,
    config::SocketConfig,
    limits::Limits,
    model::{RoomId, SessionId, UserId},
};

/// The request path of the Socket.IO endpoint.
pub const PATH: &str = "/socket.io";

/// Returns whether a request path belongs to the Socket.IO endpoint.
#[must_use]
pub fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|behind| behind.is_empty() || behind.starts_with('/'))
}

/// Size of a socket's read buffer, in bytes. Client events are small, and every idle socket holds
/// one such buffer.
const READ_BUFFER: usize = 512;
/// Interval between sweeps for expired or ended state. It allows two sweeps within the one second
/// in which the end of a session or membership must take effect.
const TICK: Duration = Duration::from_millis(400);

/// Returns the size of the largest packet that a client may send, in bytes.
#[must_use]
pub fn max_packet(config: &SocketConfig) -> usize {
    usize::try_from(config.max_packet_bytes).unwrap_or(usize::MAX)
}

/// The operations on sockets that REST handlers may use.
pub trait SocketHub: Send + Sync + 'static {
    /// Returns for each user whether they are connected or were until a moment ago.
    fn online(&self, users: &[UserId]) -> Vec<bool>;
}

/// The connected sockets.
#[derive(Clone)]
pub struct Sockets {
    io: SocketIo,
    presence: Arc<Presence>,
    typing: Arc<Typing>,
    subscriptions: Arc<Subscriptions>,
    transport: Transport,
    events: InFlightEvents,
    /// Ends all connections when cancelled.
    stopping: CancellationToken,
    /// The background tasks that sweep expired state and follow the logs.
    watch: Arc<OnceLock<[AbortHandle; 2]>>,
}

impl Sockets {
    /// Creates a server without sockets. Clients of socket.io 2, 3 and 4 connect through its
    /// [transport](Self::transport).
    #[must_use]
    pub fn new(
        config: &SocketConfig,
        presence: Presence,
        limits: Arc<Limits>,
        budget: Arc<MemoryBudget>,
    ) -> Self {
        let max_packet = max_packet(config);
        let (layer, io) = SocketIo::builder()
            .req_path(PATH)
            .ping_interval(config.ping_interval_ms.into())
            .ping_timeout(config.ping_timeout_ms.into())
            .connect_timeout(connection_guard::CONNECT_TIMEOUT)
            .max_buffer_size(config.max_waiting_events)
            .max_payload(config.max_packet_bytes)
            .ws_max_message_size(max_packet)
            .ws_max_frame_size(max_packet)
            .ws_read_buffer_size(READ_BUFFER)
            .build_layer();
        let stopping = CancellationToken::new();
        Self {
            io,
            presence: Arc::new(presence),
            typing: Arc::default(),
            subscriptions: Arc::new(Subscriptions::new(
                config.max_subscriptions,
                limits.subscriptions_per_user(),
            )),
            transport: Transport::new(&layer, limits, budget, stopping.clone()),
            events: InFlightEvents::default(),
            stopping,
            watch: Arc::default(),
        }
    }

    /// Returns the transport that serves requests for sockets.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// Starts accepting clients.
    pub fn listen(&self, handlers: Handlers) {
        let handlers = Arc::new(handlers);
        let connecting = Arc::clone(&handlers);
        let listen = move |socket: SocketRef, TryData(auth): TryData<Value>| {
            let handlers = Arc::clone(&connecting);
            async move { handlers.connect(&socket, auth.unwrap_or_default()).await }
        };
        let (sockets, socket_auth) = (self.clone(), Arc::clone(&handlers.socket_auth));
        let connected = move |socket: SocketRef| {
            let (sockets, socket_auth) = (sockets.clone(), Arc::clone(&socket_auth));
            async move {
                sockets.on_connected(&socket_auth, &socket).await;
                handlers::connected(&socket);
            }
        };
        self.io.ns("/", connected.with(listen));
        let removed_members = RemovedMembers::new(handlers.chat.clone());
        let watching = tokio::spawn(
            self.clone()
                .watch(Arc::clone(&handlers.socket_auth), removed_members),
        )
        .abort_handle();
        let following =
            tokio::spawn(follow_logs(self.io.clone(), handlers.chat.clone())).abort_handle();
        // `listen` is called once, so the cell is still empty.
        let _ = self.watch.set([watching, following]);
    }

    /// Registers the cleanup that runs when a socket disconnects. Events that its client sent
    /// before are still processed.
    fn on_disconnect(&self, socket_auth: &Arc<SocketAuth>, socket: &SocketRef) {
        self.subscriptions.begin(socket);
        let (sockets, socket_auth) = (self.clone(), Arc::clone(socket_auth));
        socket.on_disconnect(move |socket: SocketRef| {
            if let Some(guard) = Guard::of(&socket) {
                guard.left();
            }
            socket_auth.forget(&socket);
            sockets.presence.untrack(&sockets, &socket);
            sockets.announce_stopped(sockets.typing.gone(socket.id));
            ready(())
        });
    }

    /// Adds a newly connected socket to the sockets of its user.
    async fn on_connected(&self, socket_auth: &SocketAuth, socket: &SocketRef) {
        if let Some(user) = socket_auth.on_connected(socket).await {
            self.track(socket, user);
        }
    }

    /// Records the user that a socket belongs to.
    fn track(&self, socket: &SocketRef, user: UserId) {
        self.presence.track(self, socket, user);
    }

    /// Broadcasts to the other members of a room that a user is typing or has stopped.
    fn types(&self, room: RoomId, user: UserId, socket: &SocketRef, begun: bool) {
        let tell = if begun {
            self.typing.begins(room, user, socket.id)
        } else {
            self.typing.stops(room, user)
        };
        if tell {
            self.broadcast_all(&[Event::Typing {
                chat_room_id: room,
                user_id: user,
                begun,
            }]);
        }
    }

    fn announce_stopped(&self, stopped: Vec<(RoomId, UserId)>) {
        for (chat_room_id, user_id) in stopped {
            self.broadcast_all(&[Event::Typing {
                chat_room_id,
                user_id,
                begun: false,
            }]);
        }
    }

    /// Periodically handles expired tokens and typing states, and sessions and memberships that
    /// other servers end.
    async fn watch(self, socket_auth: Arc<SocketAuth>, mut removed_members: RemovedMembers) {
        let (mut ticks, mut orphans) = (tokio::time::interval(TICK), OrphanSweeper::new());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.announce_stopped(self.typing.expired());
            socket_auth.sweep(&self.io).await;
            removed_members.sweep(&self.io).await;
            orphans.sweep(&self.io, socket_auth.now());
        }
    }

    /// Returns whether any sockets are in this room.
    #[must_use]
    pub fn are_in(&self, room: RoomId) -> bool {
        !self.io.within(room_name(room)).sockets().is_empty()
    }

    /// Closes every socket in a room whose clients have missed an event. They catch up when they
    /// reconnect.
    pub fn close_room(&self, room: RoomId) {
        self.io
            .within(room_name(room))
            .sockets()
            .iter()
            .for_each(close);
    }

    /// Closes every socket. Clients see their connection end and try to reconnect.
    pub async fn close(&self) {
        self.watch
            .get()
            .into_iter()
            .flatten()
            .for_each(AbortHandle::abort);
        self.events.finish().await;
        self.presence.close().await;
        self.io.close().await;
        self.transport.close().await;
        self.stopping.cancel();
    }

    /// Stops processing client events, because the database is about to close.
    pub fn drop_events(&self) {
        self.events.drop_all();
    }
}

impl DisconnectUsers for Sockets {
    fn close_sessions(&self, sessions: &[SessionId]) {
        for session in sessions {
            self.io
                .within(session_name(*session))
                .sockets()
                .iter()
                .for_each(close);
        }
    }

    fn close_user(&self, user: UserId) {
        self.io
            .within(user_name(user))
            .sockets()
            .iter()
            .for_each(close);
    }
}

impl SocketHub for Sockets {
    fn online(&self, users: &[UserId]) -> Vec<bool> {
        self.presence.online(users)
    }
}
