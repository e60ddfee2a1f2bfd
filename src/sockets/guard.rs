//! What a client may send on its connection, before and after its socket is connected, and for how long it may go without one.
//!
//! Every packet is counted here before the library sees it. A connection without a connected socket gets little of everything: bytes,
//! packets and time. A violation ends the connection, whatever its transport.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use socketioxide::{extract::SocketRef, socket::Sid};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    outbound_budget::{Added, BytesWritten, OutboundBudget},
    packets::Packet,
    transport::Sessions,
};
use crate::{
    address::ClientAddress,
    budget::{MemoryBudget, Reservation},
    limits::{Limits, Permit},
    model::UserId,
    refusals,
};

/// How long a connection may have no connected socket.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes and packets a client may send while it has no connected socket. A token may take several thousand.
pub const UNCONNECTED_BYTES: usize = 8 * 1024;
const UNCONNECTED_PACKETS: u32 = 16;
/// How many times as much where a socket was connected before: its client may try again and again until the server is done with that one.
const KNOWN: u32 = 16;
/// How many CONNECT packets a client may send for a socket that is connected.
const CONNECTED_AGAIN: u32 = 16;
/// How long a client has for reading what was sent to it, when its connection is to end.
const LINGER: Duration = Duration::from_secs(10);
/// How long a client whose socket is refused has for reading why. The library sends that after the handler has returned.
const REFUSED_LINGER: Duration = Duration::from_millis(500);
/// How often it is looked whether a client has taken what waits for it.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a connection is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// More than a client may send before its socket is connected.
    #[error("too much was sent before a socket was connected")]
    Unconnected,
    /// It connects again and again.
    #[error("too many CONNECT packets")]
    Connects,
    /// Packets that are no events, more than the limit of events allows.
    #[error("too many packets")]
    Packets,
    /// A binary packet that was not announced, or a number of attachments that is none.
    #[error("no packet of the protocol")]
    Broken,
    /// The connection is being closed.
    #[error("the connection is being closed")]
    Closed,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The library gets it.
    Pass,
    /// The library gets it as an event without attachments; so many characters behind its type announce them.
    Plain {
        /// How many characters.
        announced: usize,
    },
    /// The library does not get it.
    Drop,
}

/// Watches over one connection of a client for sockets: a websocket, a session of polling, or both, one after the other.
pub struct Guard {
    limits: Arc<Limits>,
    budget: Arc<MemoryBudget>,
    address: ClientAddress,
    /// The client is heard no more.
    ended: CancellationToken,
    /// Nor is anything more sent to it.
    cut_off: CancellationToken,
    outbound: OutboundBudget,
    /// The session of a client that has begun with polling.
    polling: OnceLock<(Sid, Sessions)>,
    state: Mutex<State>,
}

struct State {
    connected: bool,
    /// Whether one ever was.
    known: bool,
    /// Since when it is not.
    since: Instant,
    /// Whether a task waits for the end of that time.
    timed: bool,
    /// Who was proved to be here last, in secure mode.
    user: Option<UserId>,
    bytes: usize,
    packets: u32,
    /// How many attachments were announced and have not come.
    attachments: u32,
    /// Among the unconnected of its address.
    _place: Option<Permit>,
}

impl Guard {
    /// Watches over a connection that begins. It is ended with `all`.
    #[must_use]
    pub fn begin(
        limits: Arc<Limits>,
        budget: Arc<MemoryBudget>,
        address: ClientAddress,
        place: Permit,
        all: &CancellationToken,
    ) -> Arc<Self> {
        let state = State {
            connected: false,
            known: false,
            since: Instant::now(),
            timed: false,
            user: None,
            bytes: 0,
            packets: 0,
            attachments: 0,
            _place: Some(place),
        };
        let guard = Arc::new(Self {
            limits,
            budget,
            address,
            ended: all.child_token(),
            cut_off: CancellationToken::new(),
            outbound: OutboundBudget::default(),
            polling: OnceLock::new(),
            state: Mutex::new(state),
        });
        Self::time(&guard, &mut guard.state());
        guard
    }

    /// Of the connection that a socket is on.
    #[must_use]
    pub fn of(socket: &SocketRef) -> Option<&Arc<Self>> {
        socket.req_parts().extensions.get()
    }

    /// The session of polling on which the client has begun.
    pub fn polls(&self, sid: Sid, sessions: Sessions) {
        let _ = self.polling.set((sid, sessions));
        if self.ended.is_cancelled() {
            self.end_polling(Duration::ZERO);
        }
    }

    /// Cancelled when the connection has to end.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Cancelled when the connection has to end at once, whatever waits for the client.
    pub fn cut_off(&self) -> &CancellationToken {
        &self.cut_off
    }

    /// Notes that this connection is the client's websocket, or about to be. False when it has one already.
    pub fn carried_by(&self, connection: &BytesWritten) -> bool {
        self.outbound.carried_by(connection)
    }

    /// The answer to a poll took so many bytes to the client.
    pub fn polled(&self, bytes: u64) {
        self.outbound.polled(bytes);
    }

    /// Who was proved to be here last, in secure mode.
    pub fn user(&self) -> Option<UserId> {
        self.state().user
    }

    /// Counts a packet of so many bytes that is about to be sent to the client, and keeps the memory that was reserved for it until the client
    /// has taken it. False where there is no room for it: the client is too slow, and has to be disconnected.
    pub fn reserve_send(self: &Arc<Self>, bytes: usize, memory: Option<&Reservation>) -> bool {
        let added = self.outbound.add(bytes as u64, memory, || self.budget.wait_for(self.address, self.user()));
        if added == Added::Reserved {
            self.outbound.reserved(|reserved| reserved.closes(&self.cut_off));
            tokio::spawn(Self::give_back(Arc::downgrade(self), self.cut_off.clone()));
        }
        added != Added::Refused
    }

    /// Gives back the memory of what the client takes, until it has nearly all. A client that does not is disconnected when others need it.
    async fn give_back(guard: Weak<Self>, cut_off: CancellationToken) {
        loop {
            let is_cut_off = timeout(CHECK_INTERVAL, cut_off.cancelled()).await.is_ok();
            let Some(guard) = guard.upgrade() else { return };
            if is_cut_off {
                if refusals::is_first(guard.address, "clients disconnected that read too slowly") {
                    tracing::info!(address = %guard.address, "a client reads too slowly and is disconnected");
                }
                guard.ended.cancel();
                return guard.end_polling(Duration::ZERO);
            }
            if !guard.outbound.give_back() {
                return;
            }
        }
    }

    /// How many bytes the client may send at once.
    pub fn allowance(&self, most: usize) -> usize {
        let state = self.state();
        if state.connected { most } else { state.most_bytes().saturating_sub(state.bytes).min(most) }
    }

    /// Counts bytes of a message that begins to come, or goes on.
    pub fn receives(&self, bytes: u64) -> Result<(), Violation> {
        let mut state = self.state();
        if !state.connected {
            state.bytes = state.bytes.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
            if state.bytes > state.most_bytes() {
                return Err(Violation::Unconnected);
            }
        }
        Ok(())
    }

    /// Counts a packet, and says what becomes of it.
    pub fn packet(&self, packet: Packet) -> Result<Verdict, Violation> {
        if self.ended.is_cancelled() {
            return Err(Violation::Closed);
        }
        let mut state = self.state();
        state.count(packet)?;
        let verdict = match packet {
            Packet::Transport | Packet::Connect | Packet::Event | Packet::Other => Verdict::Pass,
            Packet::BinaryEvent { attachments, announced } => {
                state.attachments = attachments;
                Verdict::Plain { announced }
            }
            Packet::Ignored { attachments } => {
                state.attachments = attachments;
                Verdict::Drop
            }
            Packet::Binary => {
                state.attachments = state.attachments.checked_sub(1).ok_or(Violation::Broken)?;
                Verdict::Drop
            }
            Packet::Broken => return Err(Violation::Broken),
        };
        let user = state.user;
        drop(state);
        // Events are counted when their turn comes, where they can be refused.
        let is_counted_later = matches!(packet, Packet::Transport | Packet::Event | Packet::BinaryEvent { .. });
        match user.filter(|_| !is_counted_later) {
            Some(user) => self.limits.event(user).map(|()| verdict).map_err(|_| Violation::Packets),
            None => Ok(verdict),
        }
    }

    /// A socket is connected, in secure mode this user's.
    pub fn connected(&self, user: Option<UserId>) {
        let mut state = self.state();
        *state = State { connected: true, known: true, user, bytes: 0, packets: 0, _place: None, ..*state };
    }

    /// The socket is gone.
    pub fn left(self: &Arc<Self>) {
        let mut state = self.state();
        if state.connected {
            state.connected = false;
            state.since = Instant::now();
            state.packets = 0;
            state.bytes = 0;
            Self::time(self, &mut state);
        }
    }

    /// Ends the connection, which has no connected socket after some time.
    fn time(guard: &Arc<Self>, state: &mut State) {
        if mem::replace(&mut state.timed, true) {
            return;
        }
        let (guard, mut until) = (Arc::downgrade(guard), state.since + CONNECT_TIMEOUT);
        tokio::spawn(async move {
            loop {
                sleep_until(until).await;
                let Some(guard) = Weak::upgrade(&guard) else { return };
                match guard.due() {
                    Some(later) => until = later,
                    None => return,
                }
            }
        });
    }

    /// Ends the connection if it is due. When to look again, if at all.
    fn due(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state();
        let until = state.since + CONNECT_TIMEOUT;
        if !state.connected && until > Instant::now() {
            return Some(until);
        }
        state.timed = false;
        let is_due = !state.connected;
        drop(state);
        if is_due {
            self.close();
        }
        None
    }

    /// Ends the connection because of what the client has sent.
    pub fn violated(self: &Arc<Self>, violation: Violation) {
        if !self.ended.is_cancelled() && refusals::is_first(self.address, "connections closed for what was sent") {
            tracing::info!(address = %self.address, reason = %violation, "a connection for sockets was closed for what was sent");
        }
        self.end(Duration::ZERO);
    }

    /// Ends the connection when what was sent to the client has reached it, or soon after.
    pub fn close(self: &Arc<Self>) {
        self.end(LINGER);
    }

    /// Ends a session of polling whose client has everything.
    pub fn end_session(&self) {
        self.end_polling(Duration::ZERO);
    }

    /// Ends the connection as soon as the client may have read why its socket was refused.
    pub fn close_refused(self: &Arc<Self>) {
        let guard = Arc::clone(self);
        tokio::spawn(async move {
            sleep(REFUSED_LINGER).await;
            guard.close();
        });
    }

    fn end(self: &Arc<Self>, linger: Duration) {
        if self.ended.is_cancelled() {
            return;
        }
        self.ended.cancel();
        self.end_polling(linger);
        // A websocket sends all that waits before it closes, if its client takes that.
        let guard = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(LINGER).await;
            if let Some(guard) = guard.upgrade() {
                guard.cut_off.cancel();
            }
        });
    }

    fn end_polling(&self, linger: Duration) {
        if let Some((sid, sessions)) = self.polling.get() {
            let (sid, sessions) = (*sid, sessions.clone());
            tokio::spawn(async move {
                sleep(linger).await;
                sessions.end(sid).await;
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn most_bytes(&self) -> usize {
        if self.known { KNOWN as usize * UNCONNECTED_BYTES } else { UNCONNECTED_BYTES }
    }

    fn count(&mut self, packet: Packet) -> Result<(), Violation> {
        if !self.connected {
            self.packets += 1;
            let most = if self.known { KNOWN * UNCONNECTED_PACKETS } else { UNCONNECTED_PACKETS };
            return if self.packets > most { Err(Violation::Unconnected) } else { Ok(()) };
        }
        if packet == Packet::Connect {
            self.packets += 1;
            return if self.packets > CONNECTED_AGAIN { Err(Violation::Connects) } else { Ok(()) };
        }
        Ok(())
    }
}
