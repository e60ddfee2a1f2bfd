//! Causerie: a chat server with a REST API and Socket.IO, on an embedded database or on MongoDB.
//!
//! The map, from the top down; imports point down only:
//!
//! - `main` (the binary): arguments, settings, log, signals. Starts a [`Server`].
//! - [`http`]: the REST API. [`live`]: the sockets. They do not know each other but for [`live::Live`].
//! - [`timeline`]: the one door by which entries enter the rooms. [`access`]: who may do what. [`token`]: who somebody is.
//!   [`password`]: how they prove it.
//! - [`view`]: how messages look to clients.
//! - [`store`]: what is kept, and the databases that keep it.
//! - [`model`], [`clock`]: the nouns, and time. [`config`], [`error`]: settings, and everything that can go wrong.
//!
//! A room is a log: everything that happens in it, a message above all, has the next number, `seq`, with no hole and no repeat. History is a range of the log, what
//! somebody has read is a position in it, and what a client missed is everything after the last number it saw.

pub mod access;
pub mod clock;
pub mod config;
pub mod error;
pub mod http;
pub mod live;
pub mod model;
pub mod password;
pub mod store;
pub mod timeline;
pub mod token;
pub mod view;

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use tokio::net::TcpListener;

use access::Access;
use clock::Clock;
use config::Config;
use live::{Event, Handlers, Live, Sockets};
use password::Passwords;
use store::{OpenError, Store};
use timeline::{News, Timeline, Told};
use token::Tokens;

/// A server that is ready: its database is open, and clients that connect are served as soon as it [runs](Self::run).
pub struct Server {
    listener: TcpListener,
    router: Router,
    config: Config,
    store: Arc<dyn Store>,
    timeline: Timeline,
    sockets: Sockets,
}

impl Server {
    /// Opens the database and puts everything together. Errors are one line for the person who starts the server.
    pub async fn start(listener: TcpListener, config: Config, clock: Clock) -> Result<Self, OpenError> {
        let store = store::open(&config.database, &config.mongodb).await?;
        let tokens = tokens(&config, store.as_ref()).await?;
        let access = Access::new(config.access, Arc::clone(&store));
        let (sockets, layer) = Sockets::new(&config.socket, Handlers { access: access.clone(), store: Arc::clone(&store) });
        let announcer = sockets.clone();
        let announce = move |news: &[News]| {
            let events: Vec<_> = news.iter().filter_map(event).collect();
            announcer.announce(&events);
        };
        let timeline = Timeline::start(Arc::clone(&store), clock.clone(), announce)
            .map_err(|error| OpenError::Unusable(format!("the system gives no thread to commit on: {error}")))?;
        let max_packet = live::max_packet(&config.socket);
        let app = http::App {
            store: Arc::clone(&store),
            timeline: timeline.clone(),
            access,
            tokens,
            passwords: Passwords::new(),
            live: Arc::new(sockets.clone()),
            clock,
            config: config.http.clone(),
        };
        Ok(Self { listener, router: http::router(app, layer, max_packet), config, store, timeline, sockets })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`; then finishes what is under way, closes the sockets, and closes the database.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let open = http::serve(self.listener, self.router, self.config.http.header_timeout_ms.into(), shutdown).await;
        tracing::info!("stopping");
        let ended = async { tokio::join!(open.shutdown(), self.sockets.close()) };
        if tokio::time::timeout(self.config.http.shutdown_timeout_ms.into(), ended).await.is_err() {
            tracing::warn!("some clients did not let go of their connections in time; they are cut");
        }
        self.timeline.close().await;
        self.store.close().await;
        tracing::info!("stopped");
    }
}

/// What the sockets hear of the news.
fn event(news: &News) -> Option<Event<'_>> {
    match &news.what {
        Told::Posted(message) => Some(Event::NewMessage { message }),
        _ => None,
    }
}

/// Serves on `listener` until `shutdown`: everything from opening the database to closing it.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), OpenError> {
    Server::start(listener, config, Clock::system()).await?.run(shutdown).await;
    Ok(())
}

/// Tokens signed with the key that is set, or else with the one that the database keeps.
async fn tokens(config: &Config, store: &dyn Store) -> Result<Tokens, OpenError> {
    let lifetime = Some(config.token.lifetime_seconds).filter(|seconds| *seconds > 0).map(i64::from);
    if let Some(secret) = config.token_secret.bytes() {
        return Ok(Tokens::new(secret, config.token.earlier_secrets.bytes(), lifetime));
    }
    let mut candidate = [0; 32];
    getrandom::fill(&mut candidate)
        .map_err(|error| OpenError::Unusable(format!("token_secret: the system gives no random bytes: {error}")))?;
    let kept = store.token_secret(candidate).await.map_err(|error| OpenError::because(&error, format!("token_secret: {error}")))?;
    Ok(Tokens::new(&kept, config.token.earlier_secrets.bytes(), lifetime))
}
