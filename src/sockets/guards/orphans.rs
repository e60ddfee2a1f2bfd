//! A safety check in secure mode: closes sockets that would not be found when they have to be
//! closed. There should never be any.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use socketioxide::{SocketIo, extract::SocketRef, socket::Sid};
use tracing::field::display;

use crate::{
    auth::Caller,
    model::{SessionId, Timestamp},
    sockets::{close, is_closing, session_name},
};

/// Interval between checks. It is longer than the time that a client has to replace an expired
/// token.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long after the end of its token a socket must be closed, in milliseconds.
const LATE: i64 = 60_000;

/// Checks for sockets that are not in the room of their session, and for sockets whose token ended
/// long ago.
pub struct OrphanSweeper {
    looked: Instant,
    /// Sockets that looked orphaned at the last check. A socket that is changing its session may
    /// look so once.
    suspects: HashSet<Sid>,
}

impl OrphanSweeper {
    /// Creates a sweeper without suspects.
    pub fn new() -> Self {
        Self {
            looked: Instant::now(),
            suspects: HashSet::new(),
        }
    }

    /// Closes the sockets that looked orphaned at the last check too.
    pub fn sweep(&mut self, io: &SocketIo, now: Timestamp) {
        if self.looked.elapsed() < INTERVAL {
            return;
        }
        self.looked = Instant::now();
        let (lost, new): (Vec<_>, Vec<_>) = orphans(io, now)
            .into_iter()
            .partition(|socket| self.suspects.contains(&socket.id));
        for socket in lost {
            let user = socket
                .extensions
                .get::<Caller>()
                .map(|caller| display(caller.user.id));
            tracing::error!(user, "orphaned socket closed");
            close(&socket);
        }
        self.suspects = new.into_iter().map(|socket| socket.id).collect();
    }
}

fn orphans(io: &SocketIo, now: Timestamp) -> Vec<SocketRef> {
    let late = Timestamp(now.0.saturating_sub(LATE));
    let sockets = io
        .sockets()
        .into_iter()
        .filter(|socket| socket.connected() && !is_closing(socket));
    let authenticated: Vec<_> = sockets
        .filter_map(|socket| Some((socket.extensions.get::<Caller>()?.claims, socket)))
        .collect();
    let sessions: HashSet<SessionId> = authenticated
        .iter()
        .filter_map(|(claims, _)| claims.session)
        .collect();
    let of = |session| {
        io.within(session_name(session))
            .sockets()
            .into_iter()
            .map(move |socket| (session, socket.id))
    };
    let found: HashSet<_> = sessions.into_iter().flat_map(of).collect();
    let is_lost = |id: Sid, session: Option<SessionId>| {
        session.is_some_and(|session| !found.contains(&(session, id)))
    };
    let orphans = authenticated
        .into_iter()
        .filter(|(claims, socket)| is_lost(socket.id, claims.session) || claims.has_ended(late));
    orphans.map(|(_, socket)| socket).collect()
}
