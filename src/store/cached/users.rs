//! The cache of users.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use moka::{future::Cache, ops::compute::Op};

use super::{build, run_detached};
use crate::{
    model::{Timestamp, User, UserId},
    store::{Result, StoreError, UserUpdate, Users},
};

/// The maximum memory for all cached users, in bytes. Limited by size, not by number, since a name
/// may be as long as a request.
const USER_BYTES: u64 = 32 * 1024 * 1024;
/// The memory that a user takes in addition to the names, in bytes.
const USER_OVERHEAD: usize = 300;

/// Users, with a cache in front.
pub struct CachedUsers {
    store: Arc<dyn Users>,
    /// Includes deleted users, since they are still the authors of messages.
    users: Cache<UserId, Arc<User>>,
    /// The number of completed changes of users.
    changes: Arc<AtomicU64>,
    /// The number of completed deletions of users.
    deletions: Arc<AtomicU64>,
}

impl CachedUsers {
    pub fn new(store: Arc<dyn Users>, lifetime: Option<Duration>) -> Self {
        let users = Cache::builder()
            .max_capacity(USER_BYTES)
            .weigher(|_, user: &Arc<User>| {
                u32::try_from(USER_OVERHEAD + user.first_name.len() + user.last_name.len())
                    .unwrap_or(u32::MAX)
            });
        Self {
            store,
            users: build(users, lifetime),
            changes: Arc::default(),
            deletions: Arc::default(),
        }
    }

    /// Returns the number of completed deletions of users.
    pub fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::Acquire)
    }

    /// Changes a user in the store, and removes the user from the cache.
    async fn change<T: Send + 'static>(
        &self,
        id: UserId,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (users, changes) = (self.users.clone(), Arc::clone(&self.changes));
        run_detached(async move {
            let mut outcome = None;
            let change = async |_| {
                outcome = Some(change.await);
                // Also after a failure, since the change may have taken effect nonetheless.
                changes.fetch_add(1, Ordering::Release);
                Op::Remove
            };
            users.entry(id).and_compute_with(change).await;
            outcome.unwrap_or_else(|| Err(StoreError::Fault("user was not changed".into())))
        })
        .await
    }

    /// Reads users from the store and caches them.
    async fn load(&self, ids: &[UserId]) -> Result<HashMap<UserId, Arc<User>>> {
        let changes = self.changes.load(Ordering::Acquire);
        let loaded = self.store.find_many(ids).await?;
        for user in &loaded {
            let put = async |cached: Option<_>| match cached {
                None if self.changes.load(Ordering::Acquire) == changes => {
                    Op::Put(Arc::clone(user))
                }
                _ => Op::Nop,
            };
            self.users.entry(user.id).and_compute_with(put).await;
        }
        Ok(loaded.into_iter().map(|user| (user.id, user)).collect())
    }
}

#[async_trait]
impl Users for CachedUsers {
    async fn find(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let user = match self.users.get(&id).await {
            Some(cached) => Some(cached),
            None => self.load(&[id]).await?.remove(&id),
        };
        Ok(user.filter(|user| !user.deleted))
    }

    async fn find_many(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let mut users = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            let cached = self.users.get(id).await;
            if cached.is_none() {
                missing.push(*id);
            }
            users.push(cached);
        }
        if !missing.is_empty() {
            let loaded = self.load(&missing).await?;
            for (id, user) in ids.iter().zip(&mut users) {
                if user.is_none() {
                    *user = loaded.get(id).cloned();
                }
            }
        }
        Ok(users.into_iter().flatten().collect())
    }

    async fn rename(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>> {
        let store = Arc::clone(&self.store);
        self.change(id, async move { store.rename(id, names, at).await })
            .await
    }

    async fn delete(&self, id: UserId, at: Timestamp) -> Result<bool> {
        let (store, deletions) = (Arc::clone(&self.store), Arc::clone(&self.deletions));
        let delete = async move {
            let deleted = store.delete(id, at).await;
            // Also after a failure, since the deletion may have taken effect nonetheless.
            deletions.fetch_add(1, Ordering::Release);
            deleted
        };
        self.change(id, delete).await
    }
}
