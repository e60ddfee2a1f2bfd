//! What sockets have proved, and until when that is good. In open mode they prove nothing, and there is nothing to watch.
//!
//! A socket has the [`Identity`] of its token among its extensions. It is told when the token expires, and closed when no other comes within
//! [`GRACE`]. When a session ends on this server its sockets are closed at once; sessions that another server may end are looked after
//! again and again.

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

/// How long a socket stays connected whose token has expired.
const GRACE: Duration = Duration::from_secs(30);
/// How many sessions are asked for at once.
const SESSIONS_AT_ONCE: usize = 1_000;

/// What happens to a socket whose token has expired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Then {
    Tell,
    /// Closed, if its token is still the one that ended then: whoever is given another and told again has the whole time again.
    Close {
        ended: i64,
    },
}

/// Watches over the tokens of the sockets.
pub struct SocketAuth {
    access: Access,
    store: Arc<dyn Store>,
    due: Mutex<BTreeSet<(Timestamp, Sid, Then)>>,
}

impl SocketAuth {
    /// Proofs that `access` accepts, of sessions that `store` keeps.
    #[must_use]
    pub fn new(access: Access, store: Arc<dyn Store>) -> Self {
        Self { access, store, due: Mutex::default() }
    }

    /// Lets a socket connect whose client has a valid token; in open mode any. Errors are for `connect_error`.
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
                tracing::info!(%address, %error, "a socket was refused");
            }
        })?;
        socket.extensions.insert(identity);
        Ok(())
    }

    /// Makes a socket that has just connected one of its user's, and answers whose; in open mode it is nobody's yet.
    pub async fn on_connected(&self, socket: &SocketRef) -> Option<UserId> {
        let identity = socket.extensions.get::<Identity>()?;
        let user = identity.user.id;
        self.take(socket, identity).await;
        Some(user)
    }

    /// Gives a socket another token, which has to be of the same user.
    pub async fn replace(&self, socket: &SocketRef, caller: &Caller, token: &str) -> Result<()> {
        let user = caller.user().map(|user| display(user.id));
        let authenticated = self.access.authenticate(token).await;
        let identity = authenticated.inspect_err(|error| {
            if refusals::is_first(caller.address, "tokens refused") {
                tracing::info!(address = %caller.address, user, %error, "a token was refused");
            }
        })?;
        let Some(former) = &caller.identity else { return Ok(()) };
        if former.user.id != identity.user.id {
            return Err(self.access.deny(caller, "take another user's token", None, Error::NotYou));
        }
        self.forget(socket);
        socket.leave(former.token.session.map(session_name).into_iter().collect::<Vec<_>>());
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
            self.due().insert((end, socket.id, Then::Tell));
        }
        // It may have gone meanwhile, when there was nothing to forget yet.
        if !socket.connected() || is_closing(socket) {
            self.forget(socket);
        }
        // The session may have ended before the socket was where those are found that have to be closed.
        if self.access.revalidate(token).await.is_err_and(|error| is_over(&error)) {
            close(socket);
        }
    }

    /// Watches over the token of a socket no longer.
    pub fn forget(&self, socket: &SocketRef) {
        let ends = socket.extensions.get::<Identity>().and_then(|identity| end(identity.token.ends));
        if let Some(end) = ends {
            self.due().remove(&(end, socket.id, Then::Tell));
        }
    }

    /// Who has sent an event, if their token is still good. One that has expired is good for nothing but being replaced.
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

    /// The time by which tokens end.
    pub fn now(&self) -> Timestamp {
        self.access.now()
    }

    /// Looks after tokens that expire, and sessions that other servers end.
    pub async fn sweep(&self, io: &SocketIo) {
        self.expire(io);
        if self.access.is_secure() && self.store.is_shared() {
            self.close_ended(io).await;
        }
    }

    fn expire(&self, io: &SocketIo) {
        let now = self.access.now();
        while let Some((_, id, then)) = self.pop_due(now) {
            let Some(socket) = io.of("/").and_then(|sockets| sockets.get_socket(id)) else { continue };
            let ended = socket
                .extensions
                .get::<Identity>()
                .filter(|identity| identity.token.has_ended(now))
                .and_then(|identity| identity.token.ends);
            match (then, ended) {
                (Then::Tell, Some(ended)) => {
                    let event = Event::TokenExpired { disconnects_in: GRACE.as_secs() };
                    // A client that reads too slowly to be told is closed all the same.
                    let _ = socket.emit(event.name(), &event);
                    let until = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
                    self.due().insert((Timestamp(now.0.saturating_add(until)), id, Then::Close { ended }));
                }
                (Then::Close { ended }, Some(latest)) if ended == latest => close(&socket),
                // Another token has come meanwhile.
                (Then::Tell | Then::Close { .. }, _) => {}
            }
        }
    }

    fn pop_due(&self, now: Timestamp) -> Option<(Timestamp, Sid, Then)> {
        let mut due = self.due();
        let is_due = due.first().is_some_and(|(at, ..)| *at <= now);
        if is_due { due.pop_first() } else { None }
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, Sid, Then)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the sockets of sessions that another server has ended.
    async fn close_ended(&self, io: &SocketIo) {
        let Some(sockets) = io.of("/") else { return };
        let Ok(rooms) = sockets.rooms().await;
        let sessions: Vec<_> = rooms.iter().filter_map(|room| session_of(room)).collect();
        for piece in sessions.chunks(SESSIONS_AT_ONCE) {
            // While the database is away nobody knows; it is asked again soon.
            let Ok(live) = self.store.live_sessions(piece.to_vec()).await else { return };
            let live: HashSet<_> = live.into_iter().collect();
            for ended in piece.iter().filter(|session| !live.contains(session)) {
                io.within(session_name(*ended)).sockets().iter().for_each(close);
            }
        }
    }
}

/// Whether the session itself is over, and not just its access token.
fn is_over(error: &Error) -> bool {
    matches!(error, Error::SessionOver | Error::CallerGone)
}

/// When a token ends, to the millisecond.
fn end(ends: Option<i64>) -> Option<Timestamp> {
    ends.map(|seconds| Timestamp(seconds.saturating_mul(1_000)))
}

/// The token with which a client connects: in its `auth`, in the query (socket.io 2), or in the header.
fn token(auth: &Value, request: &Parts) -> Result<String> {
    if let Some(token) = auth.get("token").and_then(Value::as_str) {
        return Ok(token.to_owned());
    }
    let query = request.uri.query().unwrap_or_default();
    let in_query = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
    in_query.map_or_else(|| token_in(&request.headers), |(_, token)| Ok(token.into_owned()))
}
