//! The search index: its state, and in `indexer` and `terms`, adding messages to it in the
//! background. Each server indexes the new messages that it appended. In a database from before the
//! current index format, one server at a time indexes the old messages.

pub mod indexer;
mod terms;

use std::sync::atomic::{AtomicBool, Ordering};

use mongodb::bson::{Document, doc};

use super::{connection::Connection, documents::flag_in, indexes};
use crate::store::Result;

/// The id of the metadata document with the state of the index.
const METADATA_ID: &str = "search";

/// The state of the index, as far as this server knows it.
#[derive(Default)]
pub struct State {
    /// The index is built.
    ready: AtomicBool,
    /// Every room that existed before the index has a mark where its new entries begin.
    marked: AtomicBool,
    /// All old messages are indexed.
    complete: AtomicBool,
}

impl State {
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Acquire)
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Reads the state that other servers have stored.
    pub async fn load(&self, connection: &Connection) -> Result<()> {
        let stored = connection.metadata.find_one(doc! { "_id": METADATA_ID });
        let stored = connection
            .one(stored, |state| {
                Some(["built", "marked", "complete"].map(|field| flag_in(state, field)))
            })
            .await?;
        let [built, marked, complete] = stored.unwrap_or_default();
        self.ready.fetch_or(built, Ordering::AcqRel);
        self.marked.fetch_or(marked, Ordering::AcqRel);
        self.complete.fetch_or(complete, Ordering::AcqRel);
        Ok(())
    }

    /// Stores that the index is built.
    async fn set_ready(&self, connection: &Connection) -> Result<()> {
        store(connection, doc! { "built": true }).await?;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Stores that every room is marked.
    async fn set_marked(&self, connection: &Connection) -> Result<()> {
        store(connection, doc! { "marked": true }).await?;
        self.marked.store(true, Ordering::Release);
        Ok(())
    }

    /// Stores that all old messages are indexed.
    async fn set_complete(&self, connection: &Connection) -> Result<()> {
        store(connection, doc! { "complete": true }).await?;
        self.complete.store(true, Ordering::Release);
        Ok(())
    }
}

/// Builds the index in a database without rooms, where no messages have to be indexed.
pub async fn build_complete(connection: &Connection) -> Result<()> {
    indexes::build_search_indexes(connection).await?;
    store(
        connection,
        doc! { "built": true, "marked": true, "complete": true },
    )
    .await
}

async fn store(connection: &Connection, fields: Document) -> Result<()> {
    connection
        .within(
            connection
                .metadata
                .update_one(doc! { "_id": METADATA_ID }, doc! { "$set": fields })
                .upsert(true),
        )
        .await
        .map(|_| ())
}
