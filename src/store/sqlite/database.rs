//! The database as a whole, in SQLite.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::{task::spawn_blocking, time::timeout};

use super::{Sqlite, background::erase_slice};
use crate::{
    clock::time_of_id,
    model::Timestamp,
    store::{Database, Result},
};

/// How long `close` waits for deleted and edited text to be erased from the search index.
const ERASE_TIMEOUT: Duration = Duration::from_secs(1);

#[async_trait]
impl Database for Sqlite {
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]> {
        // Read first, so that startup does not have to wait for another process that is writing.
        match self.threads.read(find_token_secret).await? {
            Some(stored) => Ok(stored),
            None => {
                self.threads
                    .write(move |connection| find_or_add_token_secret(connection, candidate))
                    .await
            }
        }
    }

    async fn latest_time(&self) -> Result<Option<Timestamp>> {
        self.threads.read(latest_time).await
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<()> {
        self.threads
            .read(|connection| connection.query_row("SELECT count(*) FROM secrets", [], |_| Ok(())))
            .await
    }

    async fn close(&self) {
        self.stop_background();
        if !self.background.is_empty() {
            let erasing = async {
                while matches!(erase_slice(&self.threads, &self.indexer).await, Ok(true)) {}
            };
            if timeout(ERASE_TIMEOUT, erasing).await.is_err() {
                tracing::info!(
                    "search index still contains deleted words; the next start erases them"
                );
            }
        }
        let threads = Arc::clone(&self.threads);
        if let Err(error) = spawn_blocking(move || threads.stop()).await {
            tracing::error!(%error, "database threads did not stop cleanly");
        }
    }
}

/// Returns the stored secret, if any.
pub fn find_token_secret(connection: &Connection) -> rusqlite::Result<Option<[u8; 32]>> {
    connection
        .query_row(
            "SELECT value FROM secrets WHERE name = 'token'",
            [],
            |row| row.get(0),
        )
        .optional()
}

/// Returns the stored secret, or stores and returns `candidate` if there is none.
fn find_or_add_token_secret(
    connection: &Connection,
    candidate: [u8; 32],
) -> rusqlite::Result<[u8; 32]> {
    connection.execute(
        "INSERT OR IGNORE INTO secrets (name, value) VALUES ('token', ?)",
        params![candidate],
    )?;
    find_token_secret(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Returns the time of the latest entry, room or user. Ids ascend with time, so each takes one
/// index lookup.
fn latest_time(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let mut latest = None;
    for table in ["entries", "rooms", "users"] {
        let id = connection.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| {
            row.get::<_, Option<[u8; 16]>>(0)
        })?;
        latest = latest.max(id.and_then(|id| time_of_id(&id)));
    }
    Ok(latest)
}
