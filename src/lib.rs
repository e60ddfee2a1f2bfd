//! Causerie: a chat server with a REST API and Socket.IO, on an embedded database or on MongoDB.
//!
//! Modules, from the top down. A module imports only from those below it:
//!
//! - `main` (the binary): arguments, settings, log, signals. Starts a [`Server`]. [`operator`]:
//!   operator commands that change the database directly.
//! - [`http`]: the REST API. [`sockets`]: Socket.IO. REST handlers access the sockets only through
//!   [`sockets::SocketHub`].
//! - [`chat`]: operations on rooms and messages, shared by REST and sockets.
//! - [`timeline`]: appends all entries to the logs of rooms. [`access`]: authentication and access
//!   control. [`sessions`]: sessions that begin with a login. [`token`], [`password`]: tokens and
//!   passwords. [`limits`]: rate limits and quotas. [`budget`]: memory limits of requests.
//! - [`view`]: messages as clients see them.
//! - [`store`]: the stored data, and the databases that store it.
//! - [`model`], [`clock`], [`address`]: data types, time, and client addresses. [`config`],
//!   [`error`]: settings and errors.
//!
//! A room is a log. Every event in it, such as a message, is an entry with the next sequence number
//! (`seq`), without gaps or repeats. History is a range of the log, a read mark is a position in
//! it, and a client that reconnects catches up with all entries after the last sequence number it
//! received.

pub mod access;
pub mod address;
pub mod budget;
pub mod chat;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod error;
pub mod http;
pub mod limits;
pub mod model;
pub mod number;
pub mod operator;
pub mod password;
pub mod refusals;
pub mod sessions;
pub mod sockets;
pub mod store;
pub mod timeline;
pub mod token;
pub mod view;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use access::Access;
use budget::MemoryBudget;
use chat::Chat;
use clock::Clock;
use config::{Config, PresenceScope};
use descriptors::Descriptors;
use limits::Limits;
use model::{RoomId, UserId};
use password::Passwords;
use sessions::Sessions;
use sockets::{Event, Handlers, Presence, SocketAuth, SocketHub, Sockets};
use store::{OpenError, Store};
use timeline::{RoomEvent, RoomEventKind, Subscribers, Timeline};
use token::Tokens;
use view::RoomView;

/// The time within which a server stops, and the minimum time to close the database if clients have
/// used most of that.
const STOP_WITHIN: Duration = Duration::from_millis(9_500);
const CLOSE_WITHIN: Duration = Duration::from_millis(1_500);
/// The interval at which a server reads the latest time that other servers have written.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// How far, in milliseconds, times in the database may be ahead of the clock without a warning:
/// clocks of several servers differ slightly.
const CLOCK_SKEW_MS: i64 = 10_000;

/// A server with an open database. It serves clients once it [runs](Self::run).
pub struct Server {
    listener: TcpListener,
    router: Router,
    config: Config,
    descriptors: Arc<Descriptors>,
    store: Arc<dyn Store>,
    timeline: Timeline,
    sockets: Sockets,
    /// Keeps the clock from falling behind other servers, if the database is shared.
    _following: Option<AbortOnDropHandle<()>>,
}

impl Server {
    /// Opens the database and builds the server.
    ///
    /// Errors: a single line for the operator.
    pub async fn start(
        listener: TcpListener,
        config: Config,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let store = store::open(&config.database, &config.mongodb).await?;
        if config.rooms.presence == PresenceScope::Writers {
            store
                .index_writers()
                .await
                .map_err(|error| OpenError::because(&error, format!("rooms.presence: {error}")))?;
        }
        follow_times(store.as_ref(), &clock)
            .await
            .map_err(|error| OpenError::because(&error, format!("database: {error}")))?;
        let following = store
            .is_shared()
            .then(|| tokio::spawn(follow_times_periodically(Arc::clone(&store), clock.clone())));
        let tokens = Arc::new(tokens(&config, store.as_ref()).await?);
        let access = Access::new(
            config.access,
            config.registration,
            Arc::clone(&store),
            Arc::clone(&tokens),
            clock.clone(),
        );
        let limits = Arc::new(Limits::new(&config.limits, config.access, clock.clone()));
        let presence = Presence::new(Arc::clone(&store), clock.clone(), &config.rooms);
        let budget = MemoryBudget::new(&config.memory, config.access);
        let sockets = Sockets::new(
            &config.socket,
            presence,
            Arc::clone(&limits),
            Arc::clone(&budget),
        );
        let listed = config.rooms.listed_members;
        let timeline = Timeline::start(
            Arc::clone(&store),
            clock.clone(),
            SocketSubscribers {
                sockets: sockets.clone(),
                listed,
            },
            listed,
        )
        .map_err(|error| {
            OpenError::Unusable(format!("the system gives no thread to commit on: {error}"))
        })?;
        let chat = Chat {
            access: access.clone(),
            store: Arc::clone(&store),
            timeline: timeline.clone(),
            limits: Arc::clone(&limits),
            clock: clock.clone(),
            config: config.rooms.clone(),
        };
        let socket_auth = Arc::new(SocketAuth::new(access.clone(), Arc::clone(&store)));
        sockets.listen(Handlers {
            chat: chat.clone(),
            socket_auth,
            sockets: sockets.clone(),
            budget: Arc::clone(&budget),
        });
        let descriptors = Descriptors::new();
        let max_packet = sockets::max_packet(&config.socket);
        let app = http::App {
            store: Arc::clone(&store),
            chat,
            access,
            sessions: Sessions::new(Arc::clone(&store), tokens, clock.clone(), &config),
            passwords: Passwords::new(),
            limits,
            sockets: Arc::new(sockets.clone()),
            descriptors: Arc::clone(&descriptors),
            budget,
            clock,
            config: config.http.clone(),
        };
        Ok(Self {
            listener,
            router: http::router(app, sockets.transport(), max_packet),
            config,
            descriptors,
            store,
            timeline,
            sockets,
            _following: following.map(AbortOnDropHandle::new),
        })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes. Then finishes requests in progress, closes the sockets,
    /// and closes the database.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let open = http::serve(
            self.listener,
            self.router,
            &self.config,
            &self.descriptors,
            shutdown,
        )
        .await;
        tracing::info!("stopping");
        let deadline = Instant::now() + STOP_WITHIN;
        let ended = async { tokio::join!(open.shutdown(), self.sockets.close()) };
        if tokio::time::timeout(self.config.http.shutdown_timeout_ms.into(), ended)
            .await
            .is_err()
        {
            tracing::warn!("graceful shutdown timed out; closing remaining connections");
        }
        self.sockets.drop_events();
        let close = async {
            self.timeline.close().await;
            self.store.close().await;
        };
        // A timeout loses nothing: everything acknowledged is already on disk.
        if tokio::time::timeout_at(deadline.max(Instant::now() + CLOSE_WITHIN), close)
            .await
            .is_err()
        {
            tracing::warn!("closing the database timed out; the next start resumes pending work");
        }
        tracing::info!("stopped");
    }
}

/// The sockets as subscribers of room events.
struct SocketSubscribers {
    sockets: Sockets,
    listed: usize,
}

impl Subscribers for SocketSubscribers {
    fn announce(&self, events: &[RoomEvent]) {
        self.sockets.announce(
            &events
                .iter()
                .map(|events| event(events, self.listed))
                .collect::<Vec<_>>(),
        );
    }

    fn has_subscribers(&self, room: RoomId) -> bool {
        self.sockets.are_in(room)
    }

    fn interrupt(&self, room: RoomId) {
        self.sockets.close_room(room);
    }

    fn interrupt_user(&self, user: UserId) {
        self.sockets.close_user(user);
    }
}

/// Converts a room event to the event that sockets receive.
fn event(events: &RoomEvent, listed: usize) -> Event<'_> {
    let (chat_room_id, seq) = (events.room, events.placed.seq);
    match &events.what {
        RoomEventKind::Posted(message) => Event::NewMessage { message },
        RoomEventKind::Edited(message) => Event::MessageEdited { message, seq },
        RoomEventKind::Deleted(message_id) => Event::MessageDeleted {
            chat_room_id,
            message_id: *message_id,
            seq,
        },
        RoomEventKind::MemberAdded(user_id) => Event::MemberAdded {
            chat_room_id,
            user_id: *user_id,
            seq,
        },
        RoomEventKind::MemberRemoved(user_id) => Event::MemberRemoved {
            chat_room_id,
            user_id: *user_id,
            seq,
        },
        RoomEventKind::Renamed(name) => Event::RoomChanged {
            chat_room_id,
            name: name.as_deref(),
            seq,
        },
        RoomEventKind::Read { mark, is_large } => Event::read(chat_room_id, *mark, *is_large),
        RoomEventKind::RoomCreated(room) => Event::RoomCreated {
            chat_room: RoomView::new(room, &room.members, listed),
            members: &room.members,
        },
        RoomEventKind::RoomDeleted(members) => Event::RoomDeleted {
            chat_room_id,
            members,
        },
    }
}

/// Opens the database, serves on `listener` until `shutdown` completes, and closes the database.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), OpenError> {
    Server::start(listener, config, Clock::system())
        .await?
        .run(shutdown)
        .await;
    Ok(())
}

/// Advances the clock past all times in the database, so that new entries, rooms and users sort
/// last, even if the clock was set back or is behind that of another server.
async fn follow_times(store: &dyn Store, clock: &Clock) -> store::Result<()> {
    let Some(latest) = store.latest().await? else {
        return Ok(());
    };
    let ahead_ms = latest.0.saturating_sub(clock.now().0);
    if ahead_ms > CLOCK_SKEW_MS {
        tracing::warn!(ahead_ms, %latest, "clock is behind the times in the database; new entries are dated after them");
    }
    clock.advance_past(latest);
    Ok(())
}

async fn follow_times_periodically(store: Arc<dyn Store>, clock: Clock) {
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        // Errors are ignored: while the database is unavailable, no server writes to it.
        if let Ok(Some(latest)) = store.latest().await {
            clock.advance_past(latest);
        }
    }
}

/// Returns the tokens, signed with the configured key or, by default, with the key that the
/// database stores.
async fn tokens(config: &Config, store: &dyn Store) -> Result<Tokens, OpenError> {
    if let Some(secret) = config.token_secret.bytes() {
        return Ok(Tokens::new(secret, config.token.earlier_secrets.bytes()));
    }
    let mut candidate = [0; 32];
    getrandom::fill(&mut candidate).map_err(|error| {
        OpenError::Unusable(format!(
            "token_secret: the system gives no random bytes: {error}"
        ))
    })?;
    let kept = store
        .token_secret(candidate)
        .await
        .map_err(|error| OpenError::because(&error, format!("token_secret: {error}")))?;
    Ok(Tokens::new(&kept, config.token.earlier_secrets.bytes()))
}
