//! Caches for users, rooms and sessions, which are read on every post, in front of a store.
//!
//! A value that was read before a change must not be cached after it. A room or a session is read
//! under moka's lock on its key, which its removal takes as well. Users are read in batches; so
//! each read notes the number of completed changes, and caches its result only if that number is
//! still the same. The number is incremented under the user's lock, so a reader that waits for the
//! lock with an outdated value sees the new number.

mod rooms;
mod sessions;
mod users;

use std::{hash::Hash, sync::Arc, time::Duration};

use moka::{
    future::{Cache, CacheBuilder},
    ops::compute::Op,
};

use super::{Result, Store, StoreError};

/// How long values are cached if other servers may change them in the database. Changes have to
/// take effect within one second; this is shorter because a value may have been read a moment
/// before it was changed.
const SHARED_LIFETIME: Duration = Duration::from_millis(800);

/// Puts caches in front of `store`. If other servers may change the database as well, cached values
/// expire after a short time.
pub(super) fn cached(store: Store) -> Store {
    let lifetime = store.database.is_shared().then_some(SHARED_LIFETIME);
    let users = Arc::new(users::CachedUsers::new(store.users, lifetime));
    let rooms = Arc::new(rooms::CachedRooms::new(
        (store.rooms, store.log),
        Arc::clone(&users),
        lifetime,
    ));
    Store {
        users,
        sessions: Arc::new(sessions::CachedSessions::new(store.sessions, lifetime)),
        rooms: rooms.clone(),
        log: rooms,
        ..store
    }
}

type Builder<K, V> = CacheBuilder<K, Arc<V>, Cache<K, Arc<V>>>;

/// Builds a cache whose values expire after `lifetime`, if given.
fn build<K, V>(builder: Builder<K, V>, lifetime: Option<Duration>) -> Cache<K, Arc<V>>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    match lifetime {
        Some(lifetime) => builder.time_to_live(lifetime).build(),
        None => builder.build(),
    }
}

/// Returns the value cached under `key`, or the result of `load`, which is then cached.
async fn cached_or_loaded<K, V>(
    cache: &Cache<K, Arc<V>>,
    key: K,
    load: impl AsyncFnOnce() -> Result<Option<Arc<V>>>,
) -> Result<Option<Arc<V>>>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    if let Some(value) = cache.get(&key).await {
        return Ok(Some(value));
    }
    let load_unless_cached = async |cached: Option<_>| match cached {
        Some(_) => Ok(Op::Nop),
        None => load().await.map(|found| found.map_or(Op::Nop, Op::Put)),
    };
    let entry = cache
        .entry(key)
        .and_try_compute_with(load_unless_cached)
        .await?
        .into_entry();
    Ok(entry.map(moka::Entry::into_value))
}

/// Removes a value, after waiting for readers that may be about to cache what they read before a
/// change.
async fn remove<K, V>(cache: &Cache<K, Arc<V>>, key: K)
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    cache
        .entry(key)
        .and_compute_with(async |_| Op::Remove)
        .await;
}

/// Runs `work` in a task of its own, so that it completes even if the caller is dropped: a deletion
/// that reaches the database has to reach the cache.
async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::Fault(error.to_string())))
}
