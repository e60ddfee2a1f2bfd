//! Queues of client events: their arguments, their order and their limits.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// Maximum number of queued and running events per socket. It is high because a client may
/// subscribe to all its rooms at once.
const EVENTS: usize = 4_096;
/// Number of argument bytes that a socket may have queued before the next event is refused. The
/// event that exceeds it may have any size. The limit admits [`EVENTS`] events of 512 bytes, a size
/// that most events do not exceed.
const BYTES: usize = 512 * EVENTS;
/// How long an event waits for the previous one.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// All arguments of an event, of any number.
pub struct Arguments(pub Vec<Value>);

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Arguments;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the arguments of an event")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut sequence: A,
            ) -> std::result::Result<Arguments, A::Error> {
                let mut arguments = Vec::new();
                while let Some(argument) = sequence.next_element()? {
                    arguments.push(argument);
                }
                Ok(Arguments(arguments))
            }
        }
        // Of the types that can be requested, only a tuple makes the Socket.IO parser pass on every
        // argument. JSON arrays have no fixed length, so the length given here has no effect.
        deserializer.deserialize_tuple(0, All)
    }
}

impl Arguments {
    /// Returns the approximate size of the arguments in memory, in bytes. It may be many times
    /// their size in the packet.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(bytes).sum()
    }
}

fn bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| size_of::<String>() + name.len() + bytes(value))
            .sum(),
    };
    size_of::<Value>() + inside
}

/// How long events that have arrived may still run when the server stops.
const LAST_EVENTS: Duration = Duration::from_secs(4);

/// The events of all sockets that have arrived and are not finished.
#[derive(Clone, Default)]
pub struct InFlightEvents(Arc<Arrived>);

#[derive(Default)]
struct Arrived {
    events: TaskTracker,
    is_over: AtomicBool,
}

impl InFlightEvents {
    /// Registers an event for as long as the token is held. Returns `None` if the server is
    /// stopping.
    pub fn arrives(&self) -> Option<TaskTrackerToken> {
        (!self.0.events.is_closed()).then(|| self.0.events.token())
    }

    /// Returns whether all events are rejected.
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// Waits a limited time for the events that have arrived, and accepts no new ones.
    pub async fn finish(&self) {
        self.0.events.close();
        let _ = tokio::time::timeout(LAST_EVENTS, self.0.events.wait()).await;
        self.drop_all();
    }

    /// Rejects all events that have not started, and accepts no new ones.
    pub fn drop_all(&self) {
        self.0.events.close();
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Runs the events of one socket in the order in which they arrived, although each has its own
/// task. An idle socket keeps only the end of the queue.
#[derive(Default)]
pub struct EventQueue {
    last: Mutex<Option<oneshot::Receiver<()>>>,
    under_way: Arc<Held>,
}

/// The number and size of a socket's events that are not finished.
#[derive(Default)]
struct Held {
    events: AtomicUsize,
    bytes: AtomicUsize,
}

/// A position in the queue. Dropping it lets the next event run.
pub struct Ticket {
    former: Option<oneshot::Receiver<()>>,
    _next: oneshot::Sender<()>,
    bytes: usize,
    under_way: Arc<Held>,
}

impl EventQueue {
    /// Returns the next ticket, for an event of `bytes` bytes, or `None` if the queue is full.
    pub fn take(&self, bytes: usize) -> Option<Ticket> {
        // Requests of a polling client may run concurrently. Each may exceed the limit by one
        // event, which is harmless.
        let Held {
            events: taken,
            bytes: held,
        } = &*self.under_way;
        if taken.load(Ordering::Relaxed) >= EVENTS || held.load(Ordering::Relaxed) >= BYTES {
            return None;
        }
        taken.fetch_add(1, Ordering::Relaxed);
        held.fetch_add(bytes, Ordering::Relaxed);
        let (next, waits) = oneshot::channel();
        let former = self.last.lock().replace(waits);
        Some(Ticket {
            former,
            _next: next,
            bytes,
            under_way: Arc::clone(&self.under_way),
        })
    }
}

impl Ticket {
    /// Runs `work` after all earlier events have finished.
    pub async fn wait<T>(mut self, work: impl Future<Output = T>) -> T {
        if let Some(former) = self.former.take() {
            // The receiver returns an error when the previous ticket is dropped, which signals that
            // it has finished. The timeout covers a socket that never became connected.
            let _ = tokio::time::timeout(QUEUE_TIMEOUT, former).await;
        }
        work.await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.under_way.events.fetch_sub(1, Ordering::Relaxed);
        self.under_way
            .bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_take_much_memory_are_sooner_too_many() {
        let event_queue = EventQueue::default();
        let small = event_queue.take(BYTES - 1);
        let large = event_queue.take(1_000_000);
        assert!(
            large.is_some(),
            "there was room for one more, however large"
        );
        assert!(event_queue.take(0).is_none());
        drop(large);
        assert!(event_queue.take(0).is_some());
        drop(small);
        let event_queue: Vec<_> = std::iter::from_fn(|| event_queue.take(512)).collect();
        assert_eq!(event_queue.len(), EVENTS);
    }

    #[test]
    fn arguments_count_as_what_they_take_in_memory() {
        let bytes = |text: &str| Arguments(serde_json::from_str(text).unwrap()).bytes();
        let each = size_of::<Value>();
        assert_eq!(bytes("[]"), 0);
        assert_eq!(bytes(r#"["abc", null, 5]"#), 3 * each + 3);
        assert_eq!(bytes("[[0, 0], []]"), 4 * each);
        assert_eq!(
            bytes(r#"[{"ab": [1]}]"#),
            3 * each + 2 + size_of::<String>()
        );
    }
}
