//! The background tasks of a store: they apply pending effects, purge deleted rooms, and index
//! messages for search.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{
    appender::Appender,
    connection::Connection,
    deleted_rooms::{self, DeletedRooms},
    effects,
    search_index::{self, indexer},
};
use crate::store::search::IndexQueue;

/// How often each server looks for pending effects and for deleted rooms.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The running background tasks. Dropping this aborts them.
pub struct BackgroundTasks([AbortHandle; 3]);

impl BackgroundTasks {
    /// Starts the tasks.
    pub fn start(
        connection: &Connection,
        appender: &Arc<Appender>,
        search_index: &Arc<search_index::State>,
        to_index: &Arc<IndexQueue>,
    ) -> Self {
        Self([
            tokio::spawn(apply_effects(connection.clone())).abort_handle(),
            tokio::spawn(purge_deleted_rooms(
                connection.clone(),
                Arc::clone(appender),
            ))
            .abort_handle(),
            tokio::spawn(indexer::run(
                connection.clone(),
                Arc::clone(search_index),
                Arc::clone(to_index),
            ))
            .abort_handle(),
        ])
    }

    /// Aborts the tasks.
    pub fn abort(&self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for BackgroundTasks {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Applies effects that killed servers left pending, and retries those that failed.
async fn apply_effects(connection: Connection) {
    loop {
        if let Err(error) = effects::retry(&connection).await {
            tracing::debug!(%error, "failed to apply pending effects; retrying later");
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Looks for deleted rooms and purges their data. The purge runs in a task of its own, because with
/// a large room it takes longer than this server may go without looking for deleted rooms.
async fn purge_deleted_rooms(connection: Connection, appender: Arc<Appender>) {
    let mut deleted = DeletedRooms::new();
    // Dropping the set aborts the purge.
    let mut purge = JoinSet::new();
    loop {
        if let Err(error) = deleted.refresh(&connection, &appender).await {
            tracing::debug!(%error, "failed to look for deleted rooms; retrying later");
        }
        while purge.try_join_next().is_some() {}
        let purgeable = deleted.purgeable(&connection);
        if purge.is_empty() && !purgeable.is_empty() {
            let connection = connection.clone();
            purge.spawn(async move {
                if let Err(error) = deleted_rooms::purge(&connection, purgeable).await {
                    tracing::debug!(%error, "failed to purge deleted rooms; retrying later");
                }
            });
        }
        sleep(CHECK_INTERVAL).await;
    }
}
