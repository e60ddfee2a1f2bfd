//! The schema version and the migrations.
//!
//! The version is in the metadata document `schema`. A database without it is empty or was written
//! by the original application. To change the schema, raise [`VERSION`] and add the migration step
//! from the previous version to [`migrate`]. A step must be repeatable, since the server
//! may be killed while it runs.

use std::time::Duration;

use mongodb::bson::doc;
use tokio::{task::AbortHandle, time::sleep};

use super::{
    connection::Connection, documents::number_in, indexes, lease::renew, legacy_import,
    search_index,
};
use crate::store::{OpenError, Result, StoreError};

/// How often the owner of the lock renews it.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(3);

/// How often a server that waits for the lock tries again.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// The id of the metadata document with the migration lock.
const MIGRATION_LOCK_ID: &str = "turn";

/// The current schema version.
const VERSION: u64 = 3;

/// Prepares the database: imports the data of the original application, runs migrations, and builds
/// the indexes. Several servers may do this at once.
pub async fn prepare(connection: &Connection) -> std::result::Result<(), OpenError> {
    let unusable = |problem: String| OpenError::Unusable(format!("database: {problem}"));
    match version(connection)
        .await
        .map_err(|error| interrupted(&error))?
    {
        stored if stored > VERSION => Err(unusable(format!(
            "it was written by a newer Causerie (schema {stored}; this one knows {VERSION})"
        ))),
        VERSION => indexes::create_all(connection)
            .await
            .map_err(|error| interrupted(&error)),
        _ => migrate(connection)
            .await
            .map_err(|error| interrupted(&error)),
    }
}

fn interrupted(error: &StoreError) -> OpenError {
    OpenError::because(
        error,
        format!(
            "database: making it ready was interrupted ({error}); the next start goes on from there"
        ),
    )
}

async fn version(connection: &Connection) -> Result<u64> {
    let schema = connection.metadata.find_one(doc! { "_id": "schema" });
    let version = connection
        .one(schema, |schema| Some(number_in(schema, "version")))
        .await?;
    Ok(version.unwrap_or_default())
}

async fn migrate(connection: &Connection) -> Result<()> {
    let Some(lock) = MigrationLock::take(connection).await? else {
        return Ok(());
    };
    let from = version(connection).await?;
    if from < 1 {
        legacy_import::import(connection).await?;
    }
    if from < 2 {
        legacy_import::record_deleted_members(connection).await?;
    }
    indexes::create_all(connection).await?;
    if legacy_import::is_empty(connection, &connection.rooms).await? {
        search_index::build_complete(connection).await?;
    }
    let current = doc! { "$set": { "version": i64::try_from(VERSION).unwrap_or_default() }, "$currentDate": { "since": true } };
    connection
        .within(
            connection
                .metadata
                .update_one(doc! { "_id": "schema" }, current)
                .upsert(true),
        )
        .await?;
    lock.release(connection).await
}

/// The lock for migrations, held for as long as it is renewed. It only saves work: running a
/// migration twice does no harm.
struct MigrationLock {
    owner: String,
    renewal: AbortHandle,
}

impl MigrationLock {
    /// Waits for the lock. Returns `None` when another server has finished the migration meanwhile.
    async fn take(connection: &Connection) -> Result<Option<Self>> {
        let owner = uuid::Uuid::new_v4().simple().to_string();
        let mut is_logged = false;
        while !renew(connection, MIGRATION_LOCK_ID, &owner).await? {
            if !std::mem::replace(&mut is_logged, true) {
                tracing::info!("another server is preparing the database; waiting");
            }
            sleep(RETRY_INTERVAL).await;
            if version(connection).await? >= VERSION {
                return Ok(None);
            }
        }
        if version(connection).await? >= VERSION {
            return Ok(None);
        }
        let (connection, name) = (connection.clone(), owner.clone());
        let renewal = tokio::spawn(async move {
            loop {
                sleep(RENEWAL_INTERVAL).await;
                if let Err(error) = renew(&connection, MIGRATION_LOCK_ID, &name).await {
                    tracing::warn!(%error, "failed to renew the migration lock");
                }
            }
        });
        Ok(Some(Self {
            owner,
            renewal: renewal.abort_handle(),
        }))
    }

    async fn release(self, connection: &Connection) -> Result<()> {
        self.renewal.abort();
        connection
            .within(
                connection
                    .metadata
                    .delete_one(doc! { "_id": MIGRATION_LOCK_ID, "owner": &self.owner }),
            )
            .await
            .map(|_| ())
    }
}

impl Drop for MigrationLock {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}
