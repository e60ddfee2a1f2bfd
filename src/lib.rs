//! Causerie: a chat server with a REST API and Socket.IO, on an embedded database or on MongoDB.
//!
//! Modules, from the top down. A module imports only from those below it:
//!
//! - `main` (the binary): arguments, settings, log, signals. Starts a [`Server`]. [`operator`]:
//!   operator commands that work on the database directly.
//! - [`http`]: the REST API. [`sockets`]: Socket.IO. REST handlers access the sockets only through
//!   [`sockets::SocketHub`].
//! - [`chat`]: operations on rooms and messages, shared by REST and sockets. [`accounts`]:
//!   operations on users, their passwords and their sessions.
//! - [`timeline`]: appends all entries to the logs of rooms. [`access`]: decides what a caller may
//!   do. [`auth`]: proves who a caller is, by tokens, passwords and sessions. [`limits`]: rate
//!   limits and quotas. [`budget`]: memory limits of requests. [`background`]: work that outlives
//!   its request.
//! - [`view`]: messages as clients see them.
//! - [`store`]: the stored data, and the databases that store it.
//! - [`model`], [`clock`], [`address`]: data types, time, and client addresses. [`config`],
//!   [`error`]: settings and errors. `new_file`: files that appear once they are complete.
//!
//! A room is a log. Every event in it, such as a message, is an entry with the next sequence number
//! (`seq`), without gaps or repeats. History is a range of the log, a read mark is a position in
//! it, and a client that reconnects catches up with all entries after the last sequence number it
//! received.

pub mod access;
pub mod accounts;
pub mod address;
pub mod auth;
pub mod background;
pub mod budget;
pub mod chat;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod error;
pub mod http;
pub mod limits;
pub mod model;
mod new_file;
pub mod number;
pub mod operator;
pub mod refusals;
pub mod sockets;
pub mod store;
mod string_enum;
pub mod timeline;
pub mod view;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use access::Access;
use accounts::Accounts;
use auth::{Authenticator, password::Passwords, sessions::Sessions, token::Tokens};
use budget::MemoryBudget;
use chat::Chat;
use clock::Clock;
use config::{Config, PresenceScope};
use descriptors::Descriptors;
use limits::Limits;
use sockets::{Handlers, Presence, SocketAuth, Sockets};
use store::{OpenError, Store};
use timeline::Timeline;

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
    store: Store,
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
        let store = open_store(&config, &clock).await?;
        let following = store.database.is_shared().then(|| {
            let following = follow_times_periodically(store.clone(), clock.clone());
            AbortOnDropHandle::new(tokio::spawn(following))
        });
        let tokens = tokens(&config, &store).await?;
        let parts = Parts::new(&config, clock, store.clone(), tokens);
        let sockets = parts.sockets();
        let timeline = parts.timeline(&sockets)?;
        let chat = parts.chat(&timeline);
        sockets.listen(parts.handlers(&sockets, &chat));
        let descriptors = Descriptors::new();
        let app = http::App {
            accounts: parts.accounts(&sockets),
            chat,
            authenticator: parts.authenticator,
            limits: parts.limits,
            sockets: Arc::new(sockets.clone()),
            database: Arc::clone(&store.database),
            descriptors: Arc::clone(&descriptors),
            budget: parts.budget,
            config: config.http.clone(),
        };
        let max_packet = sockets::max_packet(&config.socket);
        Ok(Self {
            listener,
            router: http::router(app, sockets.transport(), max_packet),
            config,
            descriptors,
            store,
            timeline,
            sockets,
            _following: following,
        })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes. Then finishes requests in progress, closes the sockets,
    /// and closes the database.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let service = http::Service {
            router: self.router,
            config: &self.config,
            descriptors: &self.descriptors,
        };
        let open = http::serve(self.listener, service, shutdown).await;
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
            self.store.database.close().await;
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

/// What the services of a server are built from.
struct Parts<'a> {
    config: &'a Config,
    clock: Clock,
    store: Store,
    tokens: Arc<Tokens>,
    authenticator: Authenticator,
    access: Access,
    limits: Arc<Limits>,
    budget: Arc<MemoryBudget>,
}

impl<'a> Parts<'a> {
    fn new(config: &'a Config, clock: Clock, store: Store, tokens: Tokens) -> Self {
        let (mode, tokens) = (config.access, Arc::new(tokens));
        Self {
            authenticator: Authenticator::new(
                mode,
                store.clone(),
                Arc::clone(&tokens),
                clock.clone(),
            ),
            access: Access::new(mode, config.registration, store.clone()),
            limits: Arc::new(Limits::new(&config.limits, mode, clock.clone())),
            budget: MemoryBudget::new(&config.memory, mode),
            config,
            clock,
            store,
            tokens,
        }
    }

    fn sockets(&self) -> Sockets {
        Sockets::new(
            &self.config.socket,
            Presence::new(self.store.clone(), self.clock.clone(), &self.config.rooms),
            Arc::clone(&self.limits),
            Arc::clone(&self.budget),
        )
    }

    fn timeline(&self, sockets: &Sockets) -> Result<Timeline, OpenError> {
        Timeline::start(
            self.store.clone(),
            self.clock.clone(),
            sockets.clone(),
            self.config.rooms.listed_members,
        )
        .map_err(|error| {
            OpenError::Unusable(format!("the system gives no thread to commit on: {error}"))
        })
    }

    fn chat(&self, timeline: &Timeline) -> Chat {
        Chat::new(chat::Dependencies {
            access: self.access.clone(),
            store: self.store.clone(),
            timeline: timeline.clone(),
            limits: Arc::clone(&self.limits),
            clock: self.clock.clone(),
            config: self.config.rooms.clone(),
        })
    }

    fn handlers(&self, sockets: &Sockets, chat: &Chat) -> Handlers {
        let socket_auth = SocketAuth::new(self.authenticator.clone(), self.store.clone());
        Handlers {
            chat: chat.clone(),
            socket_auth: Arc::new(socket_auth),
            sockets: sockets.clone(),
            limits: Arc::clone(&self.limits),
            budget: Arc::clone(&self.budget),
        }
    }

    fn accounts(&self, sockets: &Sockets) -> Accounts {
        Accounts::new(accounts::Dependencies {
            store: self.store.clone(),
            access: self.access.clone(),
            limits: Arc::clone(&self.limits),
            clock: self.clock.clone(),
            passwords: Passwords::new(),
            sessions: Sessions::new(
                self.store.clone(),
                Arc::clone(&self.tokens),
                self.clock.clone(),
                self.config,
            ),
            sockets: Arc::new(sockets.clone()),
        })
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

/// Opens the store, and advances the clock past all times in it.
async fn open_store(config: &Config, clock: &Clock) -> Result<Store, OpenError> {
    let store = store::open(&config.database, &config.mongodb).await?;
    if config.rooms.presence == PresenceScope::Writers {
        store
            .memberships
            .index_writers()
            .await
            .map_err(|error| OpenError::because(&error, format!("rooms.presence: {error}")))?;
    }
    follow_times(&store, clock)
        .await
        .map_err(|error| OpenError::because(&error, format!("database: {error}")))?;
    Ok(store)
}

/// Advances the clock past all times in the database, so that new entries, rooms and users sort
/// last, even if the clock was set back or is behind that of another server.
async fn follow_times(store: &Store, clock: &Clock) -> store::Result<()> {
    let Some(latest) = store.database.latest_time().await? else {
        return Ok(());
    };
    let ahead_ms = latest.0.saturating_sub(clock.now().0);
    if ahead_ms > CLOCK_SKEW_MS {
        tracing::warn!(ahead_ms, %latest, "clock is behind the times in the database; new entries are dated after them");
    }
    clock.advance_past(latest);
    Ok(())
}

async fn follow_times_periodically(store: Store, clock: Clock) {
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        // Errors are ignored: while the database is unavailable, no server writes to it.
        if let Ok(Some(latest)) = store.database.latest_time().await {
            clock.advance_past(latest);
        }
    }
}

/// Returns the tokens, signed with the configured key or, by default, with the key that the
/// database stores.
async fn tokens(config: &Config, store: &Store) -> Result<Tokens, OpenError> {
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
        .database
        .token_secret(candidate)
        .await
        .map_err(|error| OpenError::because(&error, format!("token_secret: {error}")))?;
    Ok(Tokens::new(&kept, config.token.earlier_secrets.bytes()))
}
