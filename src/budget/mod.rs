//! Limits the memory, in bytes, that requests and their responses may use: for the whole process
//! and, in secure mode, for each address and each user.
//!
//! A request that exceeds a budget waits briefly, in the order of arrival. Meanwhile the server
//! closes the oldest connections in that budget whose clients are not sending their bodies or
//! reading their responses. If that does not free enough memory, the request is refused.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
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
/// How often a waiting request tries to close the oldest unread connection.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a client has to send a body or read a response before its connection may be closed to
/// free memory.
const MIN_UNREAD: Duration = Duration::from_secs(1);
/// The retry delay reported to refused clients.
const RETRY: Duration = Duration::from_secs(1);
/// The number of copies of a page or a log that exist while it is read, serialized and assembled.
pub const COPIES_OF_A_PAGE: u64 = 3;
/// The factor applied to the size of a response that waits to be read: a growing buffer may be
/// twice as large as its content.
pub const COPIES_OF_AN_ANSWER: u64 = 2;
/// The size of one semaphore permit, in bytes.
const UNIT_BYTES: u64 = 1024;
/// The number of pools below which unused pools are not searched for.
const MIN_POOLS: usize = 1_024;

/// The memory budgets of the process, of addresses and of users.
pub struct MemoryBudget {
    process: Option<Arc<Pool>>,
    addresses: Pools<IpAddr>,
    users: Pools<UserId>,
    /// The number of the next entry in [`Pool::unread`].
    next: AtomicU64,
}

impl MemoryBudget {
    /// Creates the budgets that are configured for this mode.
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

    /// Creates a reservation for a request from this address. It holds no memory yet.
    #[must_use]
    pub fn begin(self: &Arc<Self>, address: ClientAddress) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            address: address.network(),
            state: Mutex::default(),
        }
    }

    /// Creates a reservation for data that is queued for a client at this address and, if known, of
    /// this user. It holds no memory yet; [`resize`](Reservation::resize) takes and releases it.
    #[must_use]
    pub fn wait_for(self: &Arc<Self>, address: ClientAddress, user: Option<UserId>) -> Reservation {
        let reservation = self.begin(address);
        let pools = [
            user.and_then(|user| self.users.of(user)),
            self.addresses.of(reservation.address),
            self.process.clone(),
        ];
        let held = |pool: Arc<Pool>| {
            Some(Held {
                permit: Arc::clone(&pool.permits).try_acquire_many_owned(0).ok()?,
                pool,
            })
        };
        reservation.state.lock().held = pools.into_iter().flatten().filter_map(held).collect();
        reservation
    }
}

/// The memory of one scope. A request for more than the whole pool takes the whole pool.
struct Pool {
    permits: Arc<Semaphore>,
    all: u32,
    /// The connections that wait for the client to send a body or to read a response, oldest first.
    unread: Mutex<BTreeMap<u64, (Instant, CancellationToken)>>,
}

impl Pool {
    /// Creates a pool of this many bytes; `None` if it is 0, which means no limit.
    fn new(bytes: u64) -> Option<Arc<Self>> {
        let all = permits(bytes);
        let pool = || Self {
            permits: Arc::new(Semaphore::new(all as usize)),
            all,
            unread: Mutex::default(),
        };
        (all > 0).then(|| Arc::new(pool()))
    }

    /// Takes memory, waiting up to [`MAX_WAIT`]. `None` on timeout.
    async fn take(self: Arc<Self>, bytes: u64) -> Option<Held> {
        let mut taking =
            pin!(Arc::clone(&self.permits).acquire_many_owned(permits(bytes).min(self.all)));
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

    /// Closes the connection that has waited for its client the longest, if that is at least
    /// [`MIN_UNREAD`].
    fn close_oldest(&self) {
        let mut unread = self.unread.lock();
        if let Some(oldest) = unread
            .first_entry()
            .filter(|oldest| oldest.get().0.elapsed() >= MIN_UNREAD)
        {
            oldest.remove().1.cancel();
        }
    }
}

/// Pools of the same size, one for each key in use.
struct Pools<K> {
    bytes: u64,
    pools: Mutex<HashMap<K, Weak<Pool>>>,
}

impl<K: Eq + Hash> Pools<K> {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            pools: Mutex::default(),
        }
    }

    fn of(&self, key: K) -> Option<Arc<Pool>> {
        if self.bytes == 0 {
            return None;
        }
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&key).and_then(Weak::upgrade) {
            return Some(pool);
        }
        // Bounds the map at about twice the number of pools in use.
        if pools.len() >= MIN_POOLS && pools.len() == pools.capacity() {
            pools.retain(|_, pool| pool.strong_count() > 0);
        }
        let pool = Pool::new(self.bytes)?;
        pools.insert(key, Arc::downgrade(&pool));
        Some(pool)
    }
}

/// Memory held in one pool.
struct Held {
    permit: OwnedSemaphorePermit,
    pool: Arc<Pool>,
}

impl Held {
    fn resize(&mut self, bytes: u64) -> bool {
        let wanted = permits(bytes).min(self.pool.all);
        let more = (wanted as usize).saturating_sub(self.permit.num_permits());
        if more == 0 {
            self.release_all_but(wanted);
            return true;
        }
        // Cannot fail: `more` is at most `wanted`, which is a `u32`.
        let taken = Arc::clone(&self.pool.permits)
            .try_acquire_many_owned(u32::try_from(more).unwrap_or(wanted));
        match taken {
            Ok(permit) => self.permit.merge(permit),
            Err(_) => self.pool.close_oldest(),
        }
        self.permit.num_permits() == wanted as usize
    }

    fn release_all_but(&mut self, permits: u32) {
        let rest = self.permit.num_permits().saturating_sub(permits as usize);
        drop(self.permit.split(rest));
    }
}

/// The memory of one request and its response. Dropping it releases the memory.
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    address: IpAddr,
    state: Mutex<ReservationState>,
}

#[derive(Default)]
struct ReservationState {
    bytes: u64,
    held: Vec<Held>,
    /// The key in [`Pool::unread`] while the connection may be closed.
    unread: Option<u64>,
}

impl Reservation {
    /// Takes memory for a body, or for a response of an unknown user. Errors:
    /// [`Error::RateLimited`] if the address has no memory left, [`Error::OutOfMemory`] if the
    /// process has none.
    pub async fn take_for_address(&self, bytes: u64) -> Result<()> {
        self.take(self.budget.addresses.of(self.address), bytes, RETRY_LATER)
            .await?;
        self.take(self.budget.process.clone(), bytes, OUT_OF_MEMORY)
            .await?;
        self.state.lock().bytes += bytes;
        Ok(())
    }

    /// Charges the memory taken so far to this user as well, then takes memory for a response.
    /// Errors: as in [`take_for_address`](Self::take_for_address), and [`Error::RateLimited`] if
    /// the user has no memory left.
    pub async fn take_for_user(&self, user: UserId, bytes: u64) -> Result<()> {
        let body = self.state.lock().bytes;
        self.take(self.budget.users.of(user), body + bytes, RETRY_LATER)
            .await?;
        self.take_for_address(bytes).await
    }

    /// Returns whether no memory has been taken.
    pub fn is_empty(&self) -> bool {
        self.state.lock().held.is_empty()
    }

    async fn take(
        &self,
        pool: Option<Arc<Pool>>,
        bytes: u64,
        refusal: fn() -> Error,
    ) -> Result<()> {
        let Some(pool) = pool.filter(|_| bytes > 0) else {
            return Ok(());
        };
        let held = pool.take(bytes).await.ok_or_else(refusal)?;
        self.state.lock().held.push(held);
        Ok(())
    }

    /// Records that the response takes this many bytes and waits for the client to read it from
    /// this connection. Releases the rest.
    pub fn set_unread(&self, bytes: u64, connection: &CancellationToken) {
        self.state
            .lock()
            .held
            .iter_mut()
            .for_each(|held| held.release_all_but(permits(bytes)));
        self.allow_close(connection);
    }

    /// Allows the server to close this connection when other requests need the memory and it is the
    /// oldest, until [`forbid_close`](Self::forbid_close) is called.
    pub fn allow_close(&self, connection: &CancellationToken) {
        let number = self.budget.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.unread = Some(number);
        for held in &state.held {
            held.pool
                .unread
                .lock()
                .insert(number, (Instant::now(), connection.clone()));
        }
    }

    /// Forbids closing the connection to free memory.
    pub fn forbid_close(&self) {
        self.state.lock().forbid_close();
    }

    /// Takes or releases memory until the reservation holds this many bytes of each budget. Does
    /// not wait: if a budget has too little, it takes nothing more from it, closes the oldest
    /// connection in that budget whose client does not read, and returns false.
    pub fn resize(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        state.bytes = bytes;
        state.held.iter_mut().all(|held| held.resize(bytes))
    }

    /// Adds the memory that another request of the same user has taken.
    pub fn merge(&self, other: &Self) {
        let mut own = self.state.lock();
        for Held { permit, pool } in other.state.lock().held.drain(..) {
            if let Some(held) = own
                .held
                .iter_mut()
                .find(|held| Arc::ptr_eq(&held.pool, &pool))
            {
                held.permit.merge(permit);
            }
        }
    }
}

impl ReservationState {
    fn forbid_close(&mut self) {
        if let Some(number) = self.unread.take() {
            self.held
                .iter()
                .for_each(|held| _ = held.pool.unread.lock().remove(&number));
        }
    }
}

const RETRY_LATER: fn() -> Error = || Error::RateLimited(RETRY);
const OUT_OF_MEMORY: fn() -> Error = || Error::OutOfMemory;

impl Drop for Reservation {
    fn drop(&mut self) {
        self.forbid_close();
    }
}

fn permits(bytes: u64) -> u32 {
    // Tokio's semaphore holds at most `usize::MAX >> 3` permits, which on a 32-bit system are 29
    // bits: half a TiB in these units.
    u32::try_from(bytes.div_ceil(UNIT_BYTES))
        .unwrap_or(u32::MAX)
        .min(u32::MAX >> 3)
}

#[cfg(test)]
mod tests;
