//! The memory that requests and their answers may take, in bytes: of the whole process and, in secure mode, of each address and each user.
//!
//! What is over a budget waits briefly, in the order of arrival. Meanwhile the oldest connections of that budget are closed whose clients do not
//! send their bodies or read their answers; then the request is refused.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    address::ClientAddress,
    config::{AccessMode, MemoryConfig},
    error::{Error, Result},
    model::UserId,
};

/// How long a request waits for memory before it is refused.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked meanwhile whether one has waited for long enough.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a client may have for sending a body or reading an answer before its connection is closed for want of memory.
const MIN_UNREAD: Duration = Duration::from_secs(1);
/// When to try again what was refused.
const RETRY: Duration = Duration::from_secs(1);
/// How many copies of a page or a log there are while it is read, written and put together.
pub const COPIES_OF_A_PAGE: u64 = 3;
/// What an answer takes that waits to be read: a buffer grows to twice its size.
pub const COPIES_OF_AN_ANSWER: u64 = 2;
/// What is counted: memory in pieces of so many bytes.
const UNIT_BYTES: u64 = 1024;
/// How many pools there are before those that nobody uses are looked for.
const MIN_POOLS: usize = 1_024;

/// The budgets of the process, of addresses and of users.
pub struct MemoryBudget {
    process: Option<Arc<Pool>>,
    addresses: Pools<IpAddr>,
    users: Pools<UserId>,
    /// Numbers what waits for clients.
    next: AtomicU64,
}

impl MemoryBudget {
    /// Makes the budgets that the settings give in this mode.
    #[must_use]
    pub fn new(config: &MemoryConfig, mode: AccessMode) -> Arc<Self> {
        let secure = |bytes| if mode == AccessMode::Secure { bytes } else { 0 };
        Arc::new(Self {
            process: Pool::new(config.process_bytes),
            addresses: Pools::new(secure(config.address_bytes)),
            users: Pools::new(secure(config.user_bytes)),
            next: AtomicU64::new(0),
        })
    }

    /// Begins a request from this address, which takes no memory yet.
    #[must_use]
    pub fn begin(self: &Arc<Self>, address: ClientAddress) -> Reservation {
        Reservation { budget: Arc::clone(self), address: address.network(), held: Mutex::default() }
    }

    /// Begins what waits for a client at this address, of this user if that is known: no memory yet, which is taken and given back as that
    /// [becomes more or less](Reservation::resize).
    #[must_use]
    pub fn wait_for(self: &Arc<Self>, address: ClientAddress, user: Option<UserId>) -> Reservation {
        let reservation = self.begin(address);
        let pools = [user.and_then(|user| self.users.of(user)), self.addresses.of(reservation.address), self.process.clone()];
        let held = |pool: Arc<Pool>| Some(Held { permit: Arc::clone(&pool.permits).try_acquire_many_owned(0).ok()?, pool });
        lock(&reservation.held).of_pools = pools.into_iter().flatten().filter_map(held).collect();
        reservation
    }
}

/// The memory of one scope. What is larger than all of it takes all of it.
struct Pool {
    permits: Arc<Semaphore>,
    all: u32,
    /// The connections on which a body is awaited, or whose answers were given and not read yet, the oldest first.
    unread: Mutex<BTreeMap<u64, (Instant, CancellationToken)>>,
}

impl Pool {
    /// Makes a pool of so many bytes; none where 0 says that there is no limit.
    fn new(bytes: u64) -> Option<Arc<Self>> {
        let all = pieces(bytes);
        let pool = || Self { permits: Arc::new(Semaphore::new(all as usize)), all, unread: Mutex::default() };
        (all > 0).then(|| Arc::new(pool()))
    }

    /// Takes memory, and waits for it for a while. `None` when there was none.
    async fn take(self: Arc<Self>, bytes: u64) -> Option<Held> {
        let mut taking = pin!(Arc::clone(&self.permits).acquire_many_owned(pieces(bytes).min(self.all)));
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            tokio::select! {
                biased;
                permit = taking.as_mut() => return Some(Held { permit: permit.ok()?, pool: self }),
                () = sleep_until(deadline) => return None,
                () = sleep(CHECK_INTERVAL) => self.close_oldest(),
            }
        }
    }

    /// Closes the connection that has waited for its client for longest, if it has for a while.
    fn close_oldest(&self) {
        let mut unread = lock(&self.unread);
        if let Some(oldest) = unread.first_entry().filter(|oldest| oldest.get().0.elapsed() >= MIN_UNREAD) {
            oldest.remove().1.cancel();
        }
    }
}

/// Pools of the same size, one for each key that is in use.
struct Pools<K> {
    bytes: u64,
    pools: Mutex<HashMap<K, Weak<Pool>>>,
}

impl<K: Eq + Hash> Pools<K> {
    fn new(bytes: u64) -> Self {
        Self { bytes, pools: Mutex::default() }
    }

    fn of(&self, key: K) -> Option<Arc<Pool>> {
        if self.bytes == 0 {
            return None;
        }
        let mut pools = lock(&self.pools);
        if let Some(pool) = pools.get(&key).and_then(Weak::upgrade) {
            return Some(pool);
        }
        // Grows to twice what is in use at most.
        if pools.len() >= MIN_POOLS && pools.len() == pools.capacity() {
            pools.retain(|_, pool| pool.strong_count() > 0);
        }
        let pool = Pool::new(self.bytes)?;
        pools.insert(key, Arc::downgrade(&pool));
        Some(pool)
    }
}

/// Memory of one pool.
struct Held {
    permit: OwnedSemaphorePermit,
    pool: Arc<Pool>,
}

impl Held {
    fn resize(&mut self, bytes: u64) -> bool {
        let wanted = pieces(bytes).min(self.pool.all);
        let more = (wanted as usize).saturating_sub(self.permit.num_permits());
        if more == 0 {
            self.give_back_all_but(wanted);
            return true;
        }
        // No more than `wanted`, which is a u32.
        let taken = Arc::clone(&self.pool.permits).try_acquire_many_owned(u32::try_from(more).unwrap_or(wanted));
        match taken {
            Ok(permit) => self.permit.merge(permit),
            Err(_) => self.pool.close_oldest(),
        }
        self.permit.num_permits() == wanted as usize
    }

    fn give_back_all_but(&mut self, permits: u32) {
        let rest = self.permit.num_permits().saturating_sub(permits as usize);
        drop(self.permit.split(rest));
    }
}

/// The memory of one request and its answer, until it is dropped.
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    address: IpAddr,
    held: Mutex<All>,
}

/// What a request holds.
#[derive(Default)]
struct All {
    bytes: u64,
    of_pools: Vec<Held>,
    /// The number under which its connection may be closed.
    unread: Option<u64>,
}

impl Reservation {
    /// Takes memory for a body, or for an answer of which it is not known whose it is. Errors: [`Error::RateLimited`] where the address has no more,
    /// [`Error::OutOfMemory`] where the process has none.
    pub async fn take_for_anybody(&self, bytes: u64) -> Result<()> {
        self.take(self.budget.addresses.of(self.address), bytes, RETRY_LATER).await?;
        self.take(self.budget.process.clone(), bytes, OUT_OF_MEMORY).await?;
        lock(&self.held).bytes += bytes;
        Ok(())
    }

    /// Has what was taken count for this user as well, and takes memory for an answer. Errors: as above, and [`Error::RateLimited`] where the
    /// user has no more.
    pub async fn take_for_user(&self, user: UserId, bytes: u64) -> Result<()> {
        let body = lock(&self.held).bytes;
        self.take(self.budget.users.of(user), body + bytes, RETRY_LATER).await?;
        self.take_for_anybody(bytes).await
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        lock(&self.held).of_pools.is_empty()
    }

    async fn take(&self, pool: Option<Arc<Pool>>, bytes: u64, refusal: fn() -> Error) -> Result<()> {
        let Some(pool) = pool.filter(|_| bytes > 0) else { return Ok(()) };
        let held = pool.take(bytes).await.ok_or_else(refusal)?;
        lock(&self.held).of_pools.push(held);
        Ok(())
    }

    /// Notes that the answer takes so many bytes, and waits for its client to read it from this connection. Gives the rest back.
    pub fn is_unread(&self, bytes: u64, connection: &CancellationToken) {
        lock(&self.held).of_pools.iter_mut().for_each(|held| held.give_back_all_but(pieces(bytes)));
        self.closes(connection);
    }

    /// Has this connection be closed when others need the memory and it is the oldest, until it [stays](Self::stays).
    pub fn closes(&self, connection: &CancellationToken) {
        let number = self.budget.next.fetch_add(1, Ordering::Relaxed);
        let mut all = lock(&self.held);
        all.unread = Some(number);
        for held in &all.of_pools {
            lock(&held.pool.unread).insert(number, (Instant::now(), connection.clone()));
        }
    }

    /// Has the connection not be closed any more.
    pub fn stays(&self) {
        lock(&self.held).stays();
    }

    /// Takes memory or gives it back, so that there are so many bytes of each budget. Does not wait: where there is not enough, the answer is
    /// false, nothing more is taken, and the oldest connection of that budget is closed whose client does not read.
    pub fn resize(&self, bytes: u64) -> bool {
        let mut all = lock(&self.held);
        all.bytes = bytes;
        all.of_pools.iter_mut().all(|held| held.resize(bytes))
    }

    /// Adds what another request of the same user has taken.
    pub fn merge(&self, other: &Self) {
        let mut own = lock(&self.held);
        for Held { permit, pool } in lock(&other.held).of_pools.drain(..) {
            if let Some(held) = own.of_pools.iter_mut().find(|held| Arc::ptr_eq(&held.pool, &pool)) {
                held.permit.merge(permit);
            }
        }
    }
}

impl All {
    fn stays(&mut self) {
        if let Some(number) = self.unread.take() {
            self.of_pools.iter().for_each(|held| _ = lock(&held.pool.unread).remove(&number));
        }
    }
}

const RETRY_LATER: fn() -> Error = || Error::RateLimited(RETRY);
const OUT_OF_MEMORY: fn() -> Error = || Error::OutOfMemory;

impl Drop for Reservation {
    fn drop(&mut self) {
        self.stays();
    }
}

fn pieces(bytes: u64) -> u32 {
    // A semaphore takes no more permits than fit into 29 bits: half a TiB.
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(u32::MAX >> 3)
}

/// What a mutex guards, whatever has become of the thread that had it last.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn budget(mode: AccessMode) -> Arc<MemoryBudget> {
        MemoryBudget::new(&MemoryConfig { process_bytes: 300 * KIB, address_bytes: 200 * KIB, user_bytes: 100 * KIB }, mode)
    }

    fn begin(budget: &Arc<MemoryBudget>, address: &str) -> Reservation {
        budget.begin(address.parse::<IpAddr>().unwrap().into())
    }

    fn user(n: u8) -> UserId {
        UserId::from_bytes([n; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn each_scope_has_a_budget_of_its_own() {
        let budget = budget(AccessMode::Secure);
        let [first, second, third] = ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|address| begin(&budget, address));
        first.take_for_anybody(150 * KIB).await.unwrap();
        assert!(matches!(second.take_for_anybody(51 * KIB).await, Err(Error::RateLimited(_))));
        third.take_for_anybody(150 * KIB).await.unwrap();
        assert!(matches!(begin(&budget, "192.0.2.3").take_for_anybody(1).await, Err(Error::OutOfMemory)));
        drop((first, second, third));
        let [first, second] = ["192.0.2.1", "192.0.2.1"].map(|address| begin(&budget, address));
        first.take_for_user(user(1), 60 * KIB).await.unwrap();
        assert!(matches!(second.take_for_user(user(1), 41 * KIB).await, Err(Error::RateLimited(_))));
        second.take_for_user(user(2), 41 * KIB).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_a_budget_gets_all_of_it() {
        let budget = budget(AccessMode::Secure);
        let [first, second] = ["192.0.2.1", "192.0.2.1"].map(|address| begin(&budget, address));
        first.take_for_user(user(1), 1_000 * KIB).await.unwrap();
        assert!(second.take_for_user(user(1), 1).await.is_err());
        first.is_unread(0, &CancellationToken::new());
        second.take_for_user(user(1), 1_000 * KIB).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_unread_answer_of_the_same_scope_goes_first() {
        let budget = budget(AccessMode::Secure);
        let mut unread = Vec::new();
        for (address, n) in [("192.0.2.2", 1), ("192.0.2.1", 2), ("192.0.2.1", 3)] {
            let (reservation, connection) = (begin(&budget, address), CancellationToken::new());
            reservation.take_for_user(user(n), 90 * KIB).await.unwrap();
            reservation.is_unread(90 * KIB, &connection);
            unread.push((reservation, connection));
        }
        let connections: Vec<_> = unread.iter().map(|(_, connection)| connection.clone()).collect();
        for (reservation, connection) in unread {
            tokio::spawn(async move {
                connection.cancelled().await;
                drop(reservation);
            });
        }
        // It is the address that is full, so what goes is the older one of its own.
        begin(&budget, "192.0.2.1").take_for_anybody(30 * KIB).await.unwrap();
        assert_eq!(connections.iter().map(CancellationToken::is_cancelled).collect::<Vec<_>>(), [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_client_takes_and_gives_back_without_waiting() {
        let budget = budget(AccessMode::Secure);
        let address: ClientAddress = "192.0.2.1".parse::<IpAddr>().unwrap().into();
        let waiting = budget.wait_for(address, Some(user(1)));
        let answer = budget.begin(address);
        answer.take_for_user(user(1), 80 * KIB).await.unwrap();
        waiting.merge(&answer);
        assert!(waiting.resize(90 * KIB), "what the answer had taken is its own now");
        let connection = CancellationToken::new();
        waiting.is_unread(90 * KIB, &connection);
        let other = budget.wait_for(address, Some(user(1)));
        assert!(!other.resize(20 * KIB));
        tokio::time::advance(MIN_UNREAD).await;
        assert!(!other.resize(20 * KIB));
        assert!(connection.is_cancelled(), "the oldest goes first");
        assert!(waiting.resize(10 * KIB));
        assert!(other.resize(20 * KIB));
        assert!(other.resize(90 * KIB));
        drop((waiting, answer, other));
        budget.begin(address).take_for_user(user(1), 100 * KIB).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn in_open_mode_the_process_alone_has_a_budget() {
        let budget = budget(AccessMode::Open);
        let held = begin(&budget, "192.0.2.1");
        held.take_for_user(user(1), 300 * KIB).await.unwrap();
        assert!(matches!(begin(&budget, "192.0.2.1").take_for_anybody(1).await, Err(Error::OutOfMemory)));
    }
}
