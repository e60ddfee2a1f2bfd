//! Rate limits, storage quotas, and limits on the connections and sockets per address. They apply
//! in secure mode; open mode has no limits.
//!
//! Each rate limit is a bucket that is full at first: a full minute's allowance may be used at
//! once, and then one more whenever the bucket has regained one (GCRA, as in the `governor` crate).
//! A bucket that has been idle for a minute is full again and is dropped. When there are too many
//! buckets, the least recently used ones are dropped.

mod quota;

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::IpAddr,
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::Mutex;

use crate::{
    address::ClientAddress,
    clock::Clock as WallClock,
    config::{AccessMode, LimitsConfig},
    error::{Error, Result},
    model::UserId,
};
use quota::Quotas;

/// The time in which an empty bucket becomes full again.
const MINUTE: Duration = Duration::from_mins(1);
/// The maximum number of buckets per limit; each takes a few hundred bytes.
const BUCKETS: u64 = 50_000;
/// The retry delay when an address has no socket permits left. The real delay is unknown, because
/// it depends on when a socket closes.
const PERMIT_RETRY: Duration = Duration::from_secs(10);

/// The limits of the server.
pub struct Limits {
    logins: Option<Rate<IpAddr>>,
    refreshes: Option<Rate<IpAddr>>,
    registrations: Option<Rate<IpAddr>>,
    connections: Option<Rate<IpAddr>>,
    posts: Option<Rate<UserId>>,
    events: Option<Rate<UserId>>,
    reads: Option<Rate<UserId>>,
    stored: Option<Quotas>,
    sockets: ConnectionLimiter,
    unconnected: ConnectionLimiter,
    subscriptions_per_user: usize,
}

/// Every check takes from the limit if enough is left. Otherwise it returns [`Error::RateLimited`].
impl Limits {
    /// Creates the limits from the settings.
    #[must_use]
    pub fn new(config: &LimitsConfig, mode: AccessMode, clock: WallClock) -> Self {
        let limit = |number| NonZeroU32::new(number).filter(|_| mode == AccessMode::Secure);
        let by_address = |number| limit(number).map(|number| Rate::new(number, MonotonicClock));
        let by_user = |number| limit(number).map(|number| Rate::new(number, MonotonicClock));
        Self {
            logins: by_address(config.logins_per_minute),
            refreshes: by_address(config.refreshes_per_minute),
            registrations: by_address(config.registrations_per_minute),
            connections: by_address(config.connections_per_minute),
            posts: by_user(config.posts_per_minute),
            events: by_user(config.events_per_minute),
            reads: by_user(config.reads_per_minute),
            stored: NonZeroU64::new(config.bytes_per_day)
                .filter(|_| mode == AccessMode::Secure)
                .map(|most| Quotas::new(most, clock)),
            sockets: ConnectionLimiter::new(config.sockets_per_address, mode),
            unconnected: ConnectionLimiter::new(config.unconnected_per_address, mode),
            subscriptions_per_user: config.subscriptions_per_user,
        }
    }

    /// Counts a login attempt from this address.
    pub fn login(&self, address: ClientAddress) -> Result<()> {
        check(self.logins.as_ref(), address.network())
    }

    /// Counts a token refresh from this address.
    pub fn refresh(&self, address: ClientAddress) -> Result<()> {
        check(self.refreshes.as_ref(), address.network())
    }

    /// Counts a registration from this address.
    pub fn registration(&self, address: ClientAddress) -> Result<()> {
        check(self.registrations.as_ref(), address.network())
    }

    /// Counts a new socket connection from this address.
    pub fn connection(&self, address: ClientAddress) -> Result<()> {
        check(self.connections.as_ref(), address.network())
    }

    /// Counts a post, or another change to a room, of this user.
    pub fn post(&self, user: UserId) -> Result<()> {
        check(self.posts.as_ref(), user)
    }

    /// Counts this many changes at once. Each counts, but a full minute's allowance suffices for
    /// any number; otherwise a larger change could never succeed.
    pub fn posts(&self, user: UserId, count: usize) -> Result<()> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match (&self.posts, NonZeroU32::new(count)) {
            (Some(rate), Some(count)) => rate.check_many(user, count),
            _ => Ok(()),
        }
    }

    /// Counts a socket event of this user, or the same operation by REST.
    pub fn event(&self, user: UserId) -> Result<()> {
        check(self.events.as_ref(), user)
    }

    /// Counts a read with this cost. A read that costs more than a minute's allowance takes all of
    /// it; otherwise it could never succeed.
    pub fn read(&self, user: UserId, cost: usize) -> Result<()> {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        match (&self.reads, NonZeroU32::new(cost)) {
            (Some(rate), Some(cost)) => rate.check_many(user, cost),
            _ => Ok(()),
        }
    }

    /// Counts what a user stores: a text of this many bytes and the record that holds it. Errors:
    /// [`Error::QuotaExceeded`].
    pub fn store(&self, user: UserId, bytes: usize) -> Result<()> {
        self.stored
            .as_ref()
            .map_or(Ok(()), |quotas| quotas.take(user, bytes))
    }

    /// The maximum number of rooms that all sockets of an authenticated user may be subscribed to
    /// together; 0 means no limit.
    #[must_use]
    pub fn subscriptions_per_user(&self) -> usize {
        self.subscriptions_per_user
    }

    /// Takes a permit for one more socket from this address.
    pub fn socket(&self, address: ClientAddress) -> Result<Permit> {
        self.sockets
            .take(address)
            .ok_or(Error::RateLimited(PERMIT_RETRY))
    }

    /// Takes a permit for one more connection from this address that has no connected socket yet.
    pub fn unconnected(&self, address: ClientAddress) -> Result<Permit> {
        self.unconnected
            .take(address)
            .ok_or(Error::RateLimited(PERMIT_RETRY))
    }
}

fn check<K: Hash + Eq + Send + Sync + 'static>(rate: Option<&Rate<K>>, key: K) -> Result<()> {
    rate.map_or(Ok(()), |rate| rate.check(key))
}

/// One limit: a bucket for each key.
struct Rate<K, C: Clock = MonotonicClock> {
    quota: Quota,
    clock: C,
    buckets: Cache<K, Arc<Bucket<C>>>,
}

type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

impl<K: Hash + Eq + Send + Sync + 'static, C: Clock + Clone + Send + Sync + 'static> Rate<K, C>
where
    C::Instant: Send + Sync,
{
    fn new(per_minute: NonZeroU32, clock: C) -> Self {
        // The default policy may evict the newest key, so new keys would never be limited.
        let buckets = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(BUCKETS)
            .time_to_idle(MINUTE)
            .build();
        Self {
            quota: Quota::per_minute(per_minute),
            clock,
            buckets,
        }
    }

    fn check(&self, key: K) -> Result<()> {
        self.check_many(key, NonZeroU32::MIN)
    }

    /// Takes `count` at once, or as many as the bucket can hold.
    fn check_many(&self, key: K, count: NonZeroU32) -> Result<()> {
        let bucket = self.buckets.get_with(key, || {
            Arc::new(RateLimiter::direct_with_clock(
                self.quota,
                self.clock.clone(),
            ))
        });
        match bucket.check_n(count.min(self.quota.burst_size())) {
            Ok(taken) => {
                taken.map_err(|until| Error::RateLimited(until.wait_time_from(self.clock.now())))
            }
            Err(_) => Err(Error::internal(
                "count exceeds the burst size of the rate limit",
            )),
        }
    }
}

/// Limits the number of simultaneous connections or sockets per network, or does not limit them.
pub struct ConnectionLimiter(Option<Arc<Counted>>);

/// The number of permits in use per network. A network with none has no entry.
struct Counted {
    most: NonZeroU32,
    taken: Mutex<HashMap<IpAddr, u32>>,
}

impl ConnectionLimiter {
    /// Creates a limiter with this many permits per network in secure mode; 0 means no limit.
    #[must_use]
    pub fn new(most: u32, mode: AccessMode) -> Self {
        let most = NonZeroU32::new(most).filter(|_| mode == AccessMode::Secure);
        Self(most.map(|most| {
            Arc::new(Counted {
                most,
                taken: Mutex::default(),
            })
        }))
    }

    /// Takes a permit for this address; `None` if none is left.
    #[must_use]
    pub fn take(&self, address: ClientAddress) -> Option<Permit> {
        let Some(counted) = &self.0 else {
            return Some(Permit::default());
        };
        let network = address.network();
        let mut taken = counted.taken.lock();
        let count = taken.entry(network).or_default();
        if *count >= counted.most.get() {
            return None;
        }
        *count += 1;
        Some(Permit {
            _slot: Some(Arc::new(Slot {
                counted: Arc::clone(counted),
                network,
            })),
        })
    }
}

/// The permit of a connection or a socket. It is released when the last clone is dropped. The
/// default permit is not counted.
#[derive(Clone, Default)]
pub struct Permit {
    _slot: Option<Arc<Slot>>,
}

struct Slot {
    counted: Arc<Counted>,
    network: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.counted.taken.lock();
        if let Entry::Occupied(mut count) = taken.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests;
