//! The guard of a client connection: how long it may exist without a connected socket, and how it
//! ends, whatever its transport.
//!
//! Every packet is counted ([`InputLimits`]) before socketioxide reads it, and every byte sent
//! ([`OutboundBudget`]). A violation ends the connection.

use std::{
    mem,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use socketioxide::extract::SocketRef;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    input_limits::{InputLimits, Verdict, Violation},
    outbound_budget::{Added, BytesWritten, OutboundBudget},
    packets::Packet,
};
use crate::{
    address::ClientAddress,
    budget::{MemoryBudget, Reservation},
    limits::{Limits, Permit},
    model::UserId,
    refusals,
};

/// How long a connection may exist without a connected socket.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to read its pending data after its connection was told to end.
const LINGER: Duration = Duration::from_secs(10);
/// How long a client may take to read why its socket was refused. socketioxide sends the reason
/// after the handler has returned.
const REFUSED_LINGER: Duration = Duration::from_millis(500);
/// Interval between checks whether a client has read its pending data.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Ends a polling session.
pub type EndSession = Arc<dyn Fn() + Send + Sync>;

/// Enforces the limits of one client connection: a websocket, a polling session, or a polling
/// session that is upgraded to a websocket.
pub struct Guard {
    limits: Arc<Limits>,
    budget: Arc<MemoryBudget>,
    address: ClientAddress,
    /// Cancelled when no more input is read from the client.
    ended: CancellationToken,
    /// Cancelled when nothing more is sent to the client either.
    cut_off: CancellationToken,
    outbound: OutboundBudget,
    /// The session of a client that began with polling.
    polling: OnceLock<EndSession>,
    state: Mutex<State>,
}

/// A new connection, as [`Guard::begin`] takes it.
pub struct NewConnection<'a> {
    /// The rate limits of the user's events.
    pub limits: Arc<Limits>,
    /// The memory that pending data is reserved from.
    pub budget: Arc<MemoryBudget>,
    /// The address of the client.
    pub address: ClientAddress,
    /// Permit for an unconnected connection of this address.
    pub permit: Permit,
    /// Ends the connection when it is cancelled.
    pub stopping: &'a CancellationToken,
}

struct State {
    input: InputLimits,
    /// When the connection last became unconnected.
    since: Instant,
    /// Whether a task is waiting for the connect timeout.
    has_timer: bool,
    /// The last authenticated user, in secure mode.
    user: Option<UserId>,
    /// Permit for an unconnected connection of this address.
    _permit: Option<Permit>,
}

impl Guard {
    /// Starts guarding a new connection.
    #[must_use]
    pub fn begin(connection: NewConnection<'_>) -> Arc<Self> {
        let NewConnection {
            limits,
            budget,
            address,
            permit,
            stopping,
        } = connection;
        let state = State {
            input: InputLimits::default(),
            since: Instant::now(),
            has_timer: false,
            user: None,
            _permit: Some(permit),
        };
        let guard = Arc::new(Self {
            limits,
            budget,
            address,
            ended: stopping.child_token(),
            cut_off: CancellationToken::new(),
            outbound: OutboundBudget::default(),
            polling: OnceLock::new(),
            state: Mutex::new(state),
        });
        Self::start_timer(&guard, &mut guard.state.lock());
        guard
    }

    /// Returns the guard of a socket's connection.
    #[must_use]
    pub fn of(socket: &SocketRef) -> Option<&Arc<Self>> {
        socket.req_parts().extensions.get()
    }

    /// Records how to end the polling session with which the client began.
    pub fn polls(&self, end: EndSession) {
        let _ = self.polling.set(end);
        if self.ended.is_cancelled() {
            self.end_polling(Duration::ZERO);
        }
    }

    /// Returns a token that is cancelled when the connection must end.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Returns a token that is cancelled when the connection must end at once, even if data is
    /// pending.
    pub fn cut_off(&self) -> &CancellationToken {
        &self.cut_off
    }

    /// Records the client's websocket connection, which may not be upgraded yet. Returns false if
    /// the client already has one.
    pub fn carried_by(&self, connection: &BytesWritten) -> bool {
        self.outbound.carried_by(connection)
    }

    /// Counts bytes that the client has received in the answer to a poll.
    pub fn polled(&self, bytes: u64) {
        self.outbound.polled(bytes);
    }

    /// Returns the last authenticated user, in secure mode.
    pub fn user(&self) -> Option<UserId> {
        self.state.lock().user
    }

    /// Counts a packet of `bytes` bytes that is about to be sent to the client, and holds the
    /// memory reserved for it until the client has read it. Returns false if there is no capacity:
    /// the client is too slow and must be disconnected.
    pub fn reserve_send(self: &Arc<Self>, bytes: usize, memory: Option<&Reservation>) -> bool {
        let added = self.outbound.add(bytes as u64, memory, || {
            let reserved = self.budget.wait_for(self.address, self.user());
            reserved.allow_close(&self.cut_off);
            reserved
        });
        if added == Added::Reserved {
            tokio::spawn(Self::release_memory(
                Arc::downgrade(self),
                self.cut_off.clone(),
            ));
        }
        added != Added::Refused
    }

    /// Releases memory as the client reads, until it has read nearly all pending data. A client
    /// that does not read is disconnected when the memory is needed elsewhere.
    async fn release_memory(guard: Weak<Self>, cut_off: CancellationToken) {
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
            if !guard.outbound.give_back(&cut_off) {
                return;
            }
        }
    }

    /// Returns how many bytes the client may send at once, at most `most`.
    pub fn allowance(&self, most: usize) -> usize {
        self.state.lock().input.allowance(most)
    }

    /// Counts `bytes` more bytes of an incoming message.
    ///
    /// Errors: [`Violation::Unconnected`] above the limit for unconnected clients.
    pub fn receives(&self, bytes: u64) -> Result<(), Violation> {
        self.state.lock().input.receives(bytes)
    }

    /// Counts a packet and returns what to do with it.
    pub fn packet(&self, packet: Packet) -> Result<Verdict, Violation> {
        if self.ended.is_cancelled() {
            return Err(Violation::Closed);
        }
        let mut state = self.state.lock();
        let verdict = state.input.packet(packet)?;
        let user = state.user;
        drop(state);
        // Events are counted when they are processed, where they can be refused with an answer.
        let is_counted_later = matches!(
            packet,
            Packet::Transport | Packet::Event | Packet::BinaryEvent { .. }
        );
        match user.filter(|_| !is_counted_later) {
            Some(user) => self
                .limits
                .event(user)
                .map(|()| verdict)
                .map_err(|_| Violation::Packets),
            None => Ok(verdict),
        }
    }

    /// Records that a socket is connected, in secure mode with its user.
    pub fn connected(&self, user: Option<UserId>) {
        let mut state = self.state.lock();
        *state = State {
            input: state.input.connected(),
            user,
            _permit: None,
            ..*state
        };
    }

    /// Records that the socket has disconnected.
    pub fn left(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.input.is_connected() {
            state.input.disconnected();
            state.since = Instant::now();
            Self::start_timer(self, &mut state);
        }
    }

    /// Starts a task that ends the connection if it has no connected socket within
    /// [`CONNECT_TIMEOUT`].
    fn start_timer(guard: &Arc<Self>, state: &mut State) {
        if mem::replace(&mut state.has_timer, true) {
            return;
        }
        let (guard, mut until) = (Arc::downgrade(guard), state.since + CONNECT_TIMEOUT);
        tokio::spawn(async move {
            loop {
                sleep_until(until).await;
                let Some(guard) = Weak::upgrade(&guard) else {
                    return;
                };
                match guard.check_timeout() {
                    Some(later) => until = later,
                    None => return,
                }
            }
        });
    }

    /// Ends the connection if the timeout has passed without a connected socket. Returns when to
    /// check again, or `None` if no check is needed.
    fn check_timeout(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state.lock();
        let until = state.since + CONNECT_TIMEOUT;
        if !state.input.is_connected() && until > Instant::now() {
            return Some(until);
        }
        state.has_timer = false;
        let is_due = !state.input.is_connected();
        drop(state);
        if is_due {
            self.close();
        }
        None
    }

    /// Ends the connection because of a violation.
    pub fn violated(self: &Arc<Self>, violation: Violation) {
        if !self.ended.is_cancelled()
            && refusals::is_first(self.address, "connections closed for what was sent")
        {
            tracing::info!(address = %self.address, reason = %violation, "socket connection closed after a protocol violation");
        }
        self.end(Duration::ZERO);
    }

    /// Ends the connection once the client has read its pending data, or after a short timeout.
    pub fn close(self: &Arc<Self>) {
        self.end(LINGER);
    }

    /// Ends the polling session of a client that has read all its data.
    pub fn end_session(&self) {
        self.end_polling(Duration::ZERO);
    }

    /// Ends the connection after the client had time to read why its socket was refused.
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
        // A websocket sends its pending data before it closes, if the client reads it.
        let guard = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(LINGER).await;
            if let Some(guard) = guard.upgrade() {
                guard.cut_off.cancel();
            }
        });
    }

    fn end_polling(&self, linger: Duration) {
        if let Some(end) = self.polling.get().cloned() {
            tokio::spawn(async move {
                sleep(linger).await;
                end();
            });
        }
    }
}
