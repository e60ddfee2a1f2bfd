//! Authentication of sockets and expiry of their tokens. In open mode sockets are not
//! authenticated, and nothing here applies.
//!
//! An authenticated socket has the [`Identity`] of its token among its extensions. The client is
//! notified when the token expires, and the socket is closed if no new token arrives within
//! [`GRACE`]. When a session ends on this server its sockets are closed at once. Sessions that
//! another server may end are checked periodically.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::request::Parts;
use serde_json::Value;
use socketioxide::{SocketIo, extract::SocketRef, socket::Sid};
use tracing::field::display;

use super::{close, events::Event, is_closing, join, session_name, session_of, user_name};
use crate::{
    access::{Access, Caller, Identity, token_in},
    address::ClientAddress,
    error::{Error, Result},
    model::{Timestamp, UserId},
    refusals,
    store::Store,
};

/// How long a socket stays connected after its token has expired.
const GRACE: Duration = Duration::from_secs(30);
/// Maximum number of sessions per query.
const SESSIONS_AT_ONCE: usize = 1_000;

/// The action for a socket whose token has expired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum TokenAction {
    Tell,
    /// Closes the socket if its token is still the one that ended at `ended` (in seconds). A socket
    /// that gets a new token has the whole grace period again when that one expires.
    Close {
        ended: i64,
    },
}

/// Authenticates sockets and tracks the expiry of their tokens.
pub struct SocketAuth {
    access: Access,
    store: Arc<dyn Store>,
    due: Mutex<BTreeSet<(Timestamp, Sid, TokenAction)>>,
}

impl SocketAuth {
    /// Creates an instance that authenticates with `access` and reads sessions from `store`.
    #[must_use]
    pub fn new(access: Access, store: Arc<dyn Store>) -> Self {
        Self {
            access,
            store,
            due: Mutex::default(),
        }
    }

    /// Authenticates a socket that is about to connect. In open mode every socket is accepted.
    /// Errors are sent as `connect_error`.
    pub async fn authorize(&self, socket: &SocketRef, auth: &Value) -> Result<()> {
        if !self.access.is_secure() {
            return Ok(());
        }
        let address = ClientAddress::of(&socket.req_parts().extensions);
        let authenticated = match token(auth, socket.req_parts()) {
            Ok(token) => self.access.authenticate(&token).await,
            Err(error) => Err(error),
        };
        let identity = authenticated.inspect_err(|error| {
            if refusals::is_first(address, "sockets refused") {
                tracing::info!(%address, %error, "socket connection refused");
            }
        })?;
        socket.extensions.insert(identity);
        Ok(())
    }

    /// Adds a newly connected socket to the sockets of its user and returns the user; `None` in
    /// open mode, where the socket has no user yet.
    pub async fn on_connected(&self, socket: &SocketRef) -> Option<UserId> {
        let identity = socket.extensions.get::<Identity>()?;
        let user = identity.user.id;
        self.take(socket, identity).await;
        Some(user)
    }

    /// Replaces the token of a socket. The new token must belong to the same user.
    pub async fn replace(&self, socket: &SocketRef, caller: &Caller, token: &str) -> Result<()> {
        let user = caller.user().map(|user| display(user.id));
        let authenticated = self.access.authenticate(token).await;
        let identity = authenticated.inspect_err(|error| {
            if refusals::is_first(caller.address, "tokens refused") {
                tracing::info!(address = %caller.address, user, %error, "a token was refused");
            }
        })?;
        let Some(former) = &caller.identity else {
            return Ok(());
        };
        if former.user.id != identity.user.id {
            return Err(self
                .access
                .deny(caller, "take another user's token", None, Error::NotYou));
        }
        self.forget(socket);
        socket.leave(
            former
                .token
                .session
                .map(session_name)
                .into_iter()
                .collect::<Vec<_>>(),
        );
        self.take(socket, identity).await;
        Ok(())
    }

    async fn take(&self, socket: &SocketRef, identity: Identity) {
        let token = identity.token;
        join(socket, user_name(identity.user.id));
        if let Some(session) = token.session {
            join(socket, session_name(session));
        }
        socket.extensions.insert(identity);
        if let Some(end) = end(token.ends) {
            self.due().insert((end, socket.id, TokenAction::Tell));
        }
        // The socket may have disconnected before there was anything to forget.
        if !socket.connected() || is_closing(socket) {
            self.forget(socket);
        }
        // The session may have ended before the socket joined its room, where `close_sessions`
        // looks for it.
        if self
            .access
            .revalidate(token)
            .await
            .is_err_and(|error| is_over(&error))
        {
            close(socket);
        }
    }

    /// Stops tracking the expiry of a socket's token.
    pub fn forget(&self, socket: &SocketRef) {
        let ends = socket
            .extensions
            .get::<Identity>()
            .and_then(|identity| end(identity.token.ends));
        if let Some(end) = ends {
            self.due().remove(&(end, socket.id, TokenAction::Tell));
        }
    }

    /// Returns the sender of an event if their token is still valid. An expired token is accepted
    /// only if the event replaces it.
    pub async fn caller(&self, socket: &SocketRef, replaces_token: bool) -> Result<Caller> {
        let address = ClientAddress::of(&socket.req_parts().extensions);
        let identity = match socket.extensions.get::<Identity>() {
            Some(identity) if !replaces_token => Some(self.revalidate(socket, &identity).await?),
            known => known,
        };
        Ok(Caller { identity, address })
    }

    async fn revalidate(&self, socket: &SocketRef, identity: &Identity) -> Result<Identity> {
        let authenticated = self.access.revalidate(identity.token).await;
        if authenticated.as_ref().is_err_and(is_over) {
            close(socket);
        }
        authenticated
    }

    /// Returns the current time of the clock that token expiry is measured by.
    pub fn now(&self) -> Timestamp {
        self.access.now()
    }

    /// Handles expired tokens, and sessions that other servers have ended.
    pub async fn sweep(&self, io: &SocketIo) {
        self.expire(io);
        if self.access.is_secure() && self.store.is_shared() {
            self.close_ended(io).await;
        }
    }

    fn expire(&self, io: &SocketIo) {
        let now = self.access.now();
        while let Some((_, id, then)) = self.pop_due(now) {
            let Some(socket) = io.of("/").and_then(|sockets| sockets.get_socket(id)) else {
                continue;
            };
            let ended = socket
                .extensions
                .get::<Identity>()
                .filter(|identity| identity.token.has_ended(now))
                .and_then(|identity| identity.token.ends);
            match (then, ended) {
                (TokenAction::Tell, Some(ended)) => {
                    let event = Event::TokenExpired {
                        disconnects_in: GRACE.as_secs(),
                    };
                    // A client that reads too slowly to receive the event is closed all the same.
                    let _ = socket.emit(event.name(), &event);
                    let until = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
                    self.due().insert((
                        Timestamp(now.0.saturating_add(until)),
                        id,
                        TokenAction::Close { ended },
                    ));
                }
                (TokenAction::Close { ended }, Some(latest)) if ended == latest => close(&socket),
                // A new token has arrived meanwhile.
                (TokenAction::Tell | TokenAction::Close { .. }, _) => {}
            }
        }
    }

    fn pop_due(&self, now: Timestamp) -> Option<(Timestamp, Sid, TokenAction)> {
        let mut due = self.due();
        let is_due = due.first().is_some_and(|(at, ..)| *at <= now);
        if is_due { due.pop_first() } else { None }
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, Sid, TokenAction)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the sockets of sessions that another server has ended.
    async fn close_ended(&self, io: &SocketIo) {
        let Some(sockets) = io.of("/") else { return };
        let Ok(rooms) = sockets.rooms().await;
        let sessions: Vec<_> = rooms.iter().filter_map(|room| session_of(room)).collect();
        for piece in sessions.chunks(SESSIONS_AT_ONCE) {
            // If the database is unavailable, a later sweep retries.
            let Ok(live) = self.store.live_sessions(piece.to_vec()).await else {
                return;
            };
            let live: HashSet<_> = live.into_iter().collect();
            for ended in piece.iter().filter(|session| !live.contains(session)) {
                io.within(session_name(*ended))
                    .sockets()
                    .iter()
                    .for_each(close);
            }
        }
    }
}

/// Returns whether the session itself has ended, not just its access token.
fn is_over(error: &Error) -> bool {
    matches!(error, Error::SessionOver | Error::CallerGone)
}

/// Returns when a token ends, converted from seconds to milliseconds.
fn end(ends: Option<i64>) -> Option<Timestamp> {
    ends.map(|seconds| Timestamp(seconds.saturating_mul(1_000)))
}

/// Returns the token of a connecting client: from its `auth`, the query (socket.io 2), or the
/// header, in this order.
fn token(auth: &Value, request: &Parts) -> Result<String> {
    if let Some(token) = auth.get("token").and_then(Value::as_str) {
        return Ok(token.to_owned());
    }
    let query = request.uri.query().unwrap_or_default();
    let in_query = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
    in_query.map_or_else(
        || token_in(&request.headers),
        |(_, token)| Ok(token.into_owned()),
    )
}
