//! The cache of sessions.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use moka::future::Cache;

use super::{build, cached_or_loaded, remove, run_detached};
use crate::{
    model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, UserId},
    store::{Refresh, Result, Rotation, SessionSelector, Sessions},
};

/// The maximum number of cached sessions. A session takes about 500 bytes.
const MAX_CACHED: u64 = 50_000;

/// Sessions, with a cache in front.
pub struct CachedSessions {
    store: Arc<dyn Sessions>,
    sessions: Cache<SessionId, Arc<Session>>,
}

impl CachedSessions {
    pub fn new(store: Arc<dyn Sessions>, lifetime: Option<Duration>) -> Self {
        Self {
            store,
            sessions: build(Cache::builder().max_capacity(MAX_CACHED), lifetime),
        }
    }

    /// Changes sessions in the store, and removes those that `changed` returns from the cache.
    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T>> + Send + 'static,
        changed: impl FnOnce(&T) -> Vec<SessionId> + Send + 'static,
    ) -> Result<T> {
        let sessions = self.sessions.clone();
        run_detached(async move {
            let outcome = change.await?;
            for id in changed(&outcome) {
                remove(&sessions, id).await;
            }
            Ok(outcome)
        })
        .await
    }
}

#[async_trait]
impl Sessions for CachedSessions {
    async fn add(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>> {
        let store = Arc::clone(&self.store);
        let add = async move { store.add(session, key, password).await };
        self.change(add, |ended| ended.clone().unwrap_or_default())
            .await
    }

    async fn find(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        cached_or_loaded(&self.sessions, id, async || self.store.find(id).await).await
    }

    async fn refresh(&self, rotation: Rotation) -> Result<Refresh> {
        let (store, id) = (Arc::clone(&self.store), rotation.session);
        self.change(async move { store.refresh(rotation).await }, move |_| {
            vec![id]
        })
        .await
    }

    async fn end(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>> {
        let store = Arc::clone(&self.store);
        self.change(async move { store.end(user, which).await }, Clone::clone)
            .await
    }

    async fn list(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        self.store.list(user, at).await
    }

    async fn live(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        self.store.live(ids).await
    }
}
