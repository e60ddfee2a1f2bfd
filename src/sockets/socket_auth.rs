//! Authentication of sockets and expiry of their tokens. In open mode sockets are not
//! authenticated, and nothing here applies.
//!
//! An authenticated socket has the [`Caller`] of its token among its extensions. The client is
//! notified when the token expires, and the socket is closed if no new token arrives within
//! [`GRACE`]. When a session ends on this server its sockets are closed at once. Sessions that
//! another server may end are checked periodically.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use axum::http::request::Parts;
use parking_lot::Mutex;
use serde_json::Value;
use socketioxide::{SocketIo, extract::SocketRef, socket::Sid};
use tracing::field::display;

use super::{close, events::Event, is_closing, join, session_name, session_of, user_name};
use crate::{
    access::deny,
    address::ClientAddress,
    auth::{Authenticator, Caller, MaybeAuthenticated, token_in},
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
    Notify,
    /// Closes the socket if its token is still the one that ended at `ended` (in seconds). A socket
    /// that gets a new token has the whole grace period again when that one expires.
    Close {
        ended: i64,
    },
}

/// Authenticates sockets and tracks the expiry of their tokens.
pub struct SocketAuth {
    authenticator: Authenticator,
    store: Store,
    due: Mutex<BTreeSet<(Timestamp, Sid, TokenAction)>>,
}

impl SocketAuth {
    /// Creates an instance that reads sessions from `store`.
    #[must_use]
    pub fn new(authenticator: Authenticator, store: Store) -> Self {
        Self {
            authenticator,
            store,
            due: Mutex::default(),
        }
    }

    /// Authenticates a socket that is about to connect. In open mode every socket is accepted.
    /// Errors are sent as `connect_error`.
    pub async fn authorize(&self, socket: &SocketRef, auth: &Value) -> Result<()> {
        if !self.authenticator.is_secure() {
            return Ok(());
        }
        let address = ClientAddress::of(&socket.req_parts().extensions);
        let authenticated = match token(auth, socket.req_parts()) {
            Ok(token) => self.authenticator.authenticate(&token, address).await,
            Err(error) => Err(error),
        };
        let caller = authenticated.inspect_err(|error| {
            if refusals::is_first(address, "sockets refused") {
                tracing::info!(%address, %error, "socket connection refused");
            }
        })?;
        socket.extensions.insert(caller);
        Ok(())
    }

    /// Adds a newly connected socket to the sockets of its user and returns the user; `None` in
    /// open mode, where the socket has no user yet.
    pub async fn on_connected(&self, socket: &SocketRef) -> Option<UserId> {
        let caller = socket.extensions.get::<Caller>()?;
        let user = caller.user.id;
        self.assign(socket, caller).await;
        Some(user)
    }

    /// Replaces the token of a socket. The new token must belong to the same user.
    pub async fn replace(
        &self,
        socket: &SocketRef,
        sender: &MaybeAuthenticated,
        token: &str,
    ) -> Result<()> {
        let address = sender.address;
        let authenticated = self.authenticator.authenticate(token, address).await;
        let caller = authenticated.inspect_err(|error| {
            if refusals::is_first(address, "tokens refused") {
                let user = sender.caller.as_ref().map(|former| display(former.user.id));
                tracing::info!(%address, user, %error, "a token was refused");
            }
        })?;
        let Some(former) = &sender.caller else {
            return Ok(());
        };
        if !former.is(caller.user.id) {
            return Err(deny(
                sender,
                "take another user's token",
                None,
                Error::NotYou,
            ));
        }
        self.forget(socket);
        socket.leave(
            former
                .session()
                .map(session_name)
                .into_iter()
                .collect::<Vec<_>>(),
        );
        self.assign(socket, caller).await;
        Ok(())
    }

    /// Makes a socket one of the caller's, until the caller's token expires.
    async fn assign(&self, socket: &SocketRef, caller: Caller) {
        join(socket, user_name(caller.user.id));
        if let Some(session) = caller.session() {
            join(socket, session_name(session));
        }
        socket.extensions.insert(caller.clone());
        if let Some(end) = end(caller.claims.ends) {
            self.due
                .lock()
                .insert((end, socket.id, TokenAction::Notify));
        }
        // The socket may have disconnected before there was anything to forget.
        if !socket.connected() || is_closing(socket) {
            self.forget(socket);
        }
        // The session may have ended before the socket joined its room, where `close_sessions`
        // looks for it.
        if self
            .authenticator
            .revalidate(&caller)
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
            .get::<Caller>()
            .and_then(|caller| end(caller.claims.ends));
        if let Some(end) = ends {
            self.due
                .lock()
                .remove(&(end, socket.id, TokenAction::Notify));
        }
    }

    /// Returns the sender of an event if their token is still valid. An expired token is accepted
    /// only if the event replaces it.
    pub async fn sender(
        &self,
        socket: &SocketRef,
        replaces_token: bool,
    ) -> Result<MaybeAuthenticated> {
        let caller = match socket.extensions.get::<Caller>() {
            Some(caller) if !replaces_token => Some(self.revalidate(socket, &caller).await?),
            caller => caller,
        };
        Ok(MaybeAuthenticated {
            caller,
            address: ClientAddress::of(&socket.req_parts().extensions),
        })
    }

    /// Returns the user that a socket claims to belong to, in open mode; `None` if there is no such
    /// user. Errors: [`Error::NoToken`] in secure mode.
    pub async fn unproven(&self, socket: &SocketRef, user: UserId) -> Result<Option<Caller>> {
        let address = ClientAddress::of(&socket.req_parts().extensions);
        self.authenticator.unproven(user, address).await
    }

    async fn revalidate(&self, socket: &SocketRef, caller: &Caller) -> Result<Caller> {
        let authenticated = self.authenticator.revalidate(caller).await;
        if authenticated.as_ref().is_err_and(is_over) {
            close(socket);
        }
        authenticated
    }

    /// Returns the current time of the clock that token expiry is measured by.
    pub fn now(&self) -> Timestamp {
        self.authenticator.now()
    }

    /// Handles expired tokens, and sessions that other servers have ended.
    pub async fn sweep(&self, io: &SocketIo) {
        self.expire(io);
        if self.authenticator.is_secure() && self.store.database.is_shared() {
            self.close_ended(io).await;
        }
    }

    fn expire(&self, io: &SocketIo) {
        let now = self.authenticator.now();
        while let Some((_, id, action)) = self.pop_due(now) {
            let Some(socket) = io.of("/").and_then(|sockets| sockets.get_socket(id)) else {
                continue;
            };
            let ended = socket
                .extensions
                .get::<Caller>()
                .filter(|caller| caller.claims.has_ended(now))
                .and_then(|caller| caller.claims.ends);
            match (action, ended) {
                (TokenAction::Notify, Some(ended)) => {
                    let event = Event::TokenExpired {
                        disconnects_in: GRACE.as_secs(),
                    };
                    // A client that reads too slowly to receive the event is closed all the same.
                    let _ = socket.emit(event.name(), &event);
                    let until = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
                    self.due.lock().insert((
                        Timestamp(now.0.saturating_add(until)),
                        id,
                        TokenAction::Close { ended },
                    ));
                }
                (TokenAction::Close { ended }, Some(latest)) if ended == latest => close(&socket),
                // A new token has arrived meanwhile.
                (TokenAction::Notify | TokenAction::Close { .. }, _) => {}
            }
        }
    }

    fn pop_due(&self, now: Timestamp) -> Option<(Timestamp, Sid, TokenAction)> {
        let mut due = self.due.lock();
        let is_due = due.first().is_some_and(|(at, ..)| *at <= now);
        if is_due { due.pop_first() } else { None }
    }

    /// Closes the sockets of sessions that another server has ended.
    async fn close_ended(&self, io: &SocketIo) {
        let Some(sockets) = io.of("/") else { return };
        let Ok(rooms) = sockets.rooms().await;
        let sessions: Vec<_> = rooms.iter().filter_map(|room| session_of(room)).collect();
        for batch in sessions.chunks(SESSIONS_AT_ONCE) {
            // If the database is unavailable, a later sweep retries.
            let Ok(live) = self.store.sessions.live(batch.to_vec()).await else {
                return;
            };
            let live: HashSet<_> = live.into_iter().collect();
            for ended in batch.iter().filter(|session| !live.contains(session)) {
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
