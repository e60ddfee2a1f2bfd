//! Counts how many bytes are queued for a client that has not read them yet.
//!
//! socketioxide bounds the number of packets queued for a client but not their size. This module
//! therefore counts the bytes handed to socketioxide and the bytes that the client's connection has
//! taken since. Above a small amount, the bytes are reserved in the memory budget.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    budget::{COPIES_OF_AN_ANSWER, Reservation},
    chat::LOG_BYTES,
};

/// Number of bytes that may be queued for a client before the next packet is refused. The packet
/// that exceeds it may have any size.
const MAX_WAITING_BYTES: u64 = 4 * LOG_BYTES;
/// Number of bytes that may be queued for a client without a reservation.
const UNRESERVED: u64 = 64 * 1024;
/// A client that takes this many bytes between two calls of [`OutboundBudget::give_back`] reads
/// steadily.
const STEADY_BYTES: u64 = 16 * 1024;

/// Counts the bytes that the other end of a connection has taken.
#[derive(Clone, Default)]
pub struct BytesWritten(Arc<AtomicU64>);

impl BytesWritten {
    /// Adds to the number of bytes taken.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bytes queued for one client.
#[derive(Default)]
pub struct OutboundBudget(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    waiting: u64,
    /// Number of bytes taken at the last count.
    taken: u64,
    /// `taken` when memory was last released.
    released: u64,
    polled: u64,
    websocket: Option<Websocket>,
    /// Memory for the queued bytes, while they exceed [`UNRESERVED`].
    reserved: Option<Reservation>,
}

struct Websocket {
    taken: Weak<AtomicU64>,
    /// Number of bytes taken before the connection became a websocket.
    before: u64,
}

/// The result of adding a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// There is no capacity for the packet.
    Refused,
    /// The packet is counted.
    Counted,
    /// The packet is counted, and memory is reserved from now on. The caller must [give it
    /// back](OutboundBudget::give_back) gradually.
    Reserved,
}

impl OutboundBudget {
    /// Records the client's websocket connection, which may not be upgraded yet. Returns false if
    /// the client already has one.
    pub fn carried_by(&self, connection: &BytesWritten) -> bool {
        let mut counts = self.0.lock();
        if counts
            .websocket
            .as_ref()
            .is_some_and(|websocket| websocket.taken.strong_count() > 0)
        {
            return false;
        }
        counts.websocket = Some(Websocket {
            taken: Arc::downgrade(&connection.0),
            before: connection.bytes(),
        });
        true
    }

    /// Counts bytes that the client has received in the answer to a poll.
    pub fn polled(&self, bytes: u64) {
        self.0.lock().polled += bytes;
    }

    /// Adds a packet of `bytes` bytes. `memory` is the memory already reserved for it, if the
    /// packet is an answer. `reserve` creates the reservation for the queued bytes of this client.
    pub fn add(
        &self,
        bytes: u64,
        memory: Option<&Reservation>,
        reserve: impl FnOnce() -> Reservation,
    ) -> Added {
        let mut counts = self.0.lock();
        counts.count();
        if counts.waiting > MAX_WAITING_BYTES {
            return Added::Refused;
        }
        let waiting = counts.waiting + bytes;
        if waiting <= UNRESERVED {
            counts.waiting = waiting;
            return Added::Counted;
        }
        let is_first = counts.reserved.is_none();
        let reserved = counts.reserved.get_or_insert_with(reserve);
        if let Some(memory) = memory {
            reserved.merge(memory);
        }
        if !reserved.resize(waiting.saturating_mul(COPIES_OF_AN_ANSWER)) {
            if is_first {
                counts.reserved = None;
            }
            return Added::Refused;
        }
        counts.waiting = waiting;
        if is_first {
            Added::Reserved
        } else {
            Added::Counted
        }
    }

    /// Releases the memory of bytes that the client has taken. If these are at least
    /// [`STEADY_BYTES`] since the last call, `connection` counts as the newest of those that may be
    /// closed to free memory. Returns false if nothing is reserved any more.
    pub fn give_back(&self, connection: &CancellationToken) -> bool {
        let mut counts = self.0.lock();
        counts.count();
        if counts.waiting <= UNRESERVED {
            counts.reserved = None;
        }
        let is_steady = counts.taken.saturating_sub(counts.released) >= STEADY_BYTES;
        counts.released = counts.taken;
        let Some(reserved) = &counts.reserved else {
            return false;
        };
        reserved.resize(counts.waiting.saturating_mul(COPIES_OF_AN_ANSWER));
        if is_steady {
            reserved.forbid_close();
            reserved.allow_close(connection);
        }
        true
    }
}

impl Counts {
    fn count(&mut self) {
        let websocket = self.websocket.as_ref().and_then(|websocket| {
            Some(websocket.taken.upgrade()?.load(Ordering::Relaxed) - websocket.before)
        });
        let taken = self.polled + websocket.unwrap_or_default();
        self.waiting = self
            .waiting
            .saturating_sub(taken.saturating_sub(self.taken));
        self.taken = taken;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        budget::MemoryBudget,
        config::{AccessMode, MemoryConfig},
    };

    fn budget(process_bytes: u64) -> Arc<MemoryBudget> {
        MemoryBudget::new(
            &MemoryConfig {
                process_bytes,
                address_bytes: 0,
                user_bytes: 0,
            },
            AccessMode::Open,
        )
    }

    /// Adds a packet with an unlimited memory budget.
    fn add(outbound: &OutboundBudget, bytes: u64) -> bool {
        add_with(&budget(0), outbound, bytes) != Added::Refused
    }

    fn add_with(budget: &Arc<MemoryBudget>, outbound: &OutboundBudget, bytes: u64) -> Added {
        outbound.add(bytes, None, || {
            budget.wait_for("192.0.2.1".parse::<IpAddr>().unwrap().into(), None)
        })
    }

    /// Returns a budget whose queue is full.
    fn full() -> OutboundBudget {
        let outbound = OutboundBudget::default();
        assert!(add(&outbound, MAX_WAITING_BYTES));
        assert!(add(&outbound, 1));
        assert!(!add(&outbound, 1));
        outbound
    }

    #[test]
    fn whoever_takes_what_waits_is_sent_more() {
        let outbound = full();
        outbound.polled(1);
        assert!(add(&outbound, 1));
        assert!(!add(&outbound, 1));
        let taken = BytesWritten::default();
        taken.add(1_000_000_000);
        assert!(outbound.carried_by(&taken));
        assert!(
            !add(&outbound, 1),
            "what was taken before it was a websocket does not count"
        );
        taken.add(1);
        assert!(add(&outbound, MAX_WAITING_BYTES));
        assert!(!add(&outbound, 1));
    }

    #[test]
    fn more_than_waits_is_no_credit() {
        let (outbound, taken) = (full(), BytesWritten::default());
        assert!(outbound.carried_by(&taken));
        taken.add(usize::MAX / 2);
        assert!(add(&outbound, MAX_WAITING_BYTES + 1));
        assert!(!add(&outbound, 1));
    }

    #[test]
    fn a_client_has_one_websocket_at_a_time() {
        let (outbound, taken) = (OutboundBudget::default(), BytesWritten::default());
        assert!(outbound.carried_by(&taken));
        assert!(!outbound.carried_by(&BytesWritten::default()));
        drop(taken);
        assert!(
            outbound.carried_by(&BytesWritten::default()),
            "the former one is gone"
        );
    }

    #[test]
    fn what_is_more_than_a_little_is_reserved_until_it_is_taken() {
        let budget = budget(4 * UNRESERVED);
        let backlogs = [OutboundBudget::default(), OutboundBudget::default()];
        let [first, second] = &backlogs;
        assert_eq!(add_with(&budget, first, UNRESERVED), Added::Counted);
        assert_eq!(add_with(&budget, first, UNRESERVED / 2), Added::Reserved);
        assert_eq!(add_with(&budget, second, UNRESERVED), Added::Counted);
        assert_eq!(add_with(&budget, second, 1), Added::Refused);
        first.polled(UNRESERVED / 2 - 1);
        let connection = CancellationToken::new();
        assert!(first.give_back(&connection));
        assert_eq!(
            add_with(&budget, second, 1),
            Added::Refused,
            "one byte too many"
        );
        first.polled(1);
        assert!(!first.give_back(&connection));
        assert_eq!(add_with(&budget, second, 1), Added::Reserved);
        assert_eq!(add_with(&budget, second, 1), Added::Counted);
    }
}
