//! The memory that requests and their answers may take, in bytes: of the whole process and, in secure mode, of each address and each user.
//!
//! What is over a budget waits briefly. Meanwhile the oldest connection of that budget is closed whose client does not read its answer; then the
//! request is refused.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    address::ClientAddress,
    config::{AccessMode, MemoryConfig},
    error::{Error, Result},
    model::UserId,
};

/// How long a request waits for memory before it is refused.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked meanwhile whether an unread answer has become old.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// How long an answer may be unread before its connection is closed for want of memory.
const UNREAD: Duration = Duration::from_secs(1);
/// When to try again what was refused.
const RETRY: Duration = Duration::from_secs(1);

/// What has a budget of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Scope {
    Process,
    Address(IpAddr),
    User(UserId),
}

/// The budgets of all scopes.
pub struct MemoryBudget {
    process: Option<NonZeroU64>,
    address: Option<NonZeroU64>,
    user: Option<NonZeroU64>,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    used: HashMap<Scope, u64>,
    /// The answers that were given, the oldest first.
    unread: BTreeMap<u64, Unread>,
    next: u64,
}

/// An answer that its client has not read yet.
struct Unread {
    since: Instant,
    scopes: Vec<Scope>,
    connection: CancellationToken,
}

impl MemoryBudget {
    /// The budgets that the settings give in this mode.
    #[must_use]
    pub fn new(config: &MemoryConfig, mode: AccessMode) -> Arc<Self> {
        let secure = |bytes| NonZeroU64::new(bytes).filter(|_| mode == AccessMode::Secure);
        Arc::new(Self {
            process: NonZeroU64::new(config.process_bytes),
            address: secure(config.address_bytes),
            user: secure(config.user_bytes),
            state: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Reserves memory for a request from this address. What is larger than a budget gets all of it. Errors: [`Error::RateLimited`] where the
    /// address has no more, [`Error::OutOfMemory`] where the process has none.
    pub async fn reserve(self: &Arc<Self>, address: ClientAddress, bytes: u64) -> Result<Reservation> {
        let scopes = vec![Scope::Process, Scope::Address(address.network())];
        self.take(&scopes, bytes).await?;
        let held = Held { bytes, scopes, unread: None };
        Ok(Reservation { budget: Arc::clone(self), held: Mutex::new(held) })
    }

    async fn take(&self, scopes: &[Scope], bytes: u64) -> Result<()> {
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            let Some(full) = self.try_take(scopes, bytes) else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(if full == Scope::Process { Error::OutOfMemory } else { Error::RateLimited(RETRY) });
            }
            // The time-out, too, is a reason to look again.
            let _ = timeout(BETWEEN_LOOKS, self.freed.notified()).await;
        }
    }

    /// Takes the bytes in all scopes, or answers which of them is full.
    fn try_take(&self, scopes: &[Scope], bytes: u64) -> Option<Scope> {
        let mut state = lock(&self.state);
        let fits = |scope: &Scope| {
            let used = state.used.get(scope).copied().unwrap_or_default();
            self.limit(*scope).is_none_or(|limit| used == 0 || used.saturating_add(bytes) <= limit.get())
        };
        let full = scopes.iter().copied().find(|scope| !fits(scope));
        match full {
            Some(scope) => state.close_oldest(scope),
            None => scopes.iter().for_each(|scope| *state.used.entry(*scope).or_default() += bytes),
        }
        full
    }

    fn limit(&self, scope: Scope) -> Option<NonZeroU64> {
        match scope {
            Scope::Process => self.process,
            Scope::Address(_) => self.address,
            Scope::User(_) => self.user,
        }
    }

    fn give_back(&self, scopes: &[Scope], bytes: u64) {
        let mut state = lock(&self.state);
        for scope in scopes {
            if let Entry::Occupied(mut used) = state.used.entry(*scope) {
                *used.get_mut() = used.get().saturating_sub(bytes);
                if *used.get() == 0 {
                    used.remove();
                }
            }
        }
        drop(state);
        self.freed.notify_waiters();
    }
}

impl State {
    /// Closes the connection of the oldest answer in a scope that has been unread for a while.
    fn close_oldest(&mut self, scope: Scope) {
        let oldest = self.unread.iter().find(|(_, unread)| unread.scopes.contains(&scope));
        if let Some((id, unread)) = oldest.filter(|(_, unread)| unread.since.elapsed() >= UNREAD) {
            unread.connection.cancel();
            let id = *id;
            self.unread.remove(&id);
        }
    }
}

/// Memory that is reserved, until it is dropped.
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    held: Mutex<Held>,
}

struct Held {
    bytes: u64,
    scopes: Vec<Scope>,
    unread: Option<u64>,
}

impl Reservation {
    /// Has the memory count for this user as well. Errors: [`Error::RateLimited`].
    pub async fn charge(&self, user: UserId) -> Result<()> {
        let bytes = lock(&self.held).bytes;
        let scope = Scope::User(user);
        self.budget.take(&[scope], bytes).await?;
        lock(&self.held).scopes.push(scope);
        Ok(())
    }

    /// Notes that the answer takes so many bytes, and waits for its client to read it from this connection.
    pub fn is_unread(&self, bytes: u64, connection: CancellationToken) {
        let mut held = lock(&self.held);
        let mut state = lock(&self.budget.state);
        for scope in &held.scopes {
            let used = state.used.entry(*scope).or_default();
            *used = used.saturating_sub(held.bytes).saturating_add(bytes);
        }
        held.bytes = bytes;
        let id = state.next;
        state.next += 1;
        state.unread.insert(id, Unread { since: Instant::now(), scopes: held.scopes.clone(), connection });
        held.unread = Some(id);
        drop((state, held));
        self.budget.freed.notify_waiters();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = held.unread {
            lock(&self.budget.state).unread.remove(&id);
        }
        self.budget.give_back(&held.scopes, held.bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(mode: AccessMode) -> Arc<MemoryBudget> {
        MemoryBudget::new(&MemoryConfig { process_bytes: 300, address_bytes: 200, user_bytes: 100 }, mode)
    }

    fn address(text: &str) -> ClientAddress {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[tokio::test(start_paused = true)]
    async fn each_scope_has_a_budget_of_its_own() {
        let budget = budget(AccessMode::Secure);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(address);
        let first = budget.reserve(one, 150).await.unwrap();
        assert!(matches!(budget.reserve(one, 51).await, Err(Error::RateLimited(_))));
        let second = budget.reserve(two, 150).await.unwrap();
        assert!(matches!(budget.reserve(two, 1).await, Err(Error::OutOfMemory)));
        drop(first);
        let [alice, bob] = [1, 2].map(|n| UserId::from_bytes([n; 16]));
        let third = budget.reserve(one, 60).await.unwrap();
        let fourth = budget.reserve(one, 60).await.unwrap();
        third.charge(alice).await.unwrap();
        assert!(matches!(fourth.charge(alice).await, Err(Error::RateLimited(_))));
        fourth.charge(bob).await.unwrap();
        drop((second, third, fourth));
        assert!(lock(&budget.state).used.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_memory_that_becomes_free() {
        let budget = budget(AccessMode::Secure);
        let first = budget.reserve(address("192.0.2.1"), 1_000).await.unwrap();
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.reserve(address("192.0.2.1"), 200).await.map(drop) }
        });
        tokio::task::yield_now().await;
        first.is_unread(0, CancellationToken::new());
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_unread_answer_of_the_same_scope_goes_first() {
        let budget = budget(AccessMode::Secure);
        let mut held = Vec::new();
        for text in ["192.0.2.2", "192.0.2.1", "192.0.2.1"] {
            let (reservation, connection) = (budget.reserve(address(text), 100).await.unwrap(), CancellationToken::new());
            reservation.is_unread(100, connection.clone());
            held.push((reservation, connection));
        }
        let (_, other) = &held[0];
        let (other, oldest, newest) = (other.clone(), held[1].1.clone(), held[2].1.clone());
        let (kept, closing) = (held.remove(0), held.remove(0));
        let freeing = tokio::spawn(async move {
            closing.1.cancelled().await;
            drop(closing.0);
        });
        // Smaller, so that it is the address that is full.
        kept.0.is_unread(50, other.clone());
        budget.reserve(address("192.0.2.1"), 50).await.unwrap();
        freeing.await.unwrap();
        assert!(oldest.is_cancelled() && !newest.is_cancelled() && !other.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn in_open_mode_the_process_alone_has_a_budget() {
        let budget = budget(AccessMode::Open);
        let held = budget.reserve(address("192.0.2.1"), 300).await.unwrap();
        held.charge(UserId::from_bytes([1; 16])).await.unwrap();
        assert!(matches!(budget.reserve(address("192.0.2.1"), 1).await, Err(Error::OutOfMemory)));
    }
}
