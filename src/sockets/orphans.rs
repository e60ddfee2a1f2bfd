//! A net below the rest, in secure mode: sockets that would not be found when they have to be closed. There should never be one.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use socketioxide::{SocketIo, extract::SocketRef, socket::Sid};
use tracing::field::display;

use super::{close, is_closing, session_name};
use crate::{
    access::Identity,
    model::{SessionId, Timestamp},
};

/// How often it is looked for them. Longer than a client is given for getting another token.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long after the end of its token a socket should be closed for certain, in milliseconds.
const LATE: i64 = 60_000;

/// Looks for sockets that are in no room of their session, and for those whose token ended long ago.
pub struct OrphanSweeper {
    looked: Instant,
    /// Those who seemed to be so the last time. One that is just changing its session may seem to be once.
    suspects: HashSet<Sid>,
}

impl OrphanSweeper {
    /// None yet.
    pub fn new() -> Self {
        Self { looked: Instant::now(), suspects: HashSet::new() }
    }

    /// Closes those that were strays the last time as well.
    pub fn sweep(&mut self, io: &SocketIo, now: Timestamp) {
        if self.looked.elapsed() < INTERVAL {
            return;
        }
        self.looked = Instant::now();
        let (lost, new): (Vec<_>, Vec<_>) = orphans(io, now).into_iter().partition(|socket| self.suspects.contains(&socket.id));
        for socket in lost {
            let user = socket.extensions.get::<Identity>().map(|identity| display(identity.user.id));
            tracing::error!(user, "a socket was not to be found where it ought to be, and is closed");
            close(&socket);
        }
        self.suspects = new.into_iter().map(|socket| socket.id).collect();
    }
}

fn orphans(io: &SocketIo, now: Timestamp) -> Vec<SocketRef> {
    let late = Timestamp(now.0.saturating_sub(LATE));
    let sockets = io.sockets().into_iter().filter(|socket| socket.connected() && !is_closing(socket));
    let authenticated: Vec<_> = sockets.filter_map(|socket| Some((socket.extensions.get::<Identity>()?.token, socket))).collect();
    let sessions: HashSet<SessionId> = authenticated.iter().filter_map(|(token, _)| token.session).collect();
    let of = |session| io.within(session_name(session)).sockets().into_iter().map(move |socket| (session, socket.id));
    let found: HashSet<_> = sessions.into_iter().flat_map(of).collect();
    let is_lost = |id: Sid, session: Option<SessionId>| session.is_some_and(|session| !found.contains(&(session, id)));
    let orphans = authenticated.into_iter().filter(|(token, socket)| is_lost(socket.id, token.session) || token.has_ended(late));
    orphans.map(|(_, socket)| socket).collect()
}
