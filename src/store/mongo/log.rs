//! Appending to the logs, in MongoDB.

use async_trait::async_trait;

use super::store::Mongo;
use crate::store::{Appended, Log, NewEntry, Result};

#[async_trait]
impl Log for Mongo {
    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>> {
        let connection = self
            .append_connection
            .get_or_try_init(|| async { self.connection.new_client() })
            .await?;
        let appended = self.appender.append(connection, &batch).await;
        // Not before the append, when there is nothing to index yet. Also after an error, since
        // part of the batch may be in the logs.
        self.to_index.note(&batch);
        appended
    }
}
