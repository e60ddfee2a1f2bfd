//! The database as a whole, in MongoDB.

use async_trait::async_trait;
use mongodb::{
    Collection,
    bson::{Binary, RawDocumentBuf, doc, spec::BinarySubtype},
};

use super::{connection::Connection, documents::text_in, indexes::by_name, store::Mongo};
use crate::{
    clock::time_of_id,
    model::{MessageId, Timestamp},
    store::{Database, Result, StoreError},
};

/// The id of the metadata document with the key that signs tokens.
pub const TOKEN_SECRET_ID: &str = "tokenSecret";
/// How far ahead of the database's clock an id may be, in milliseconds, when random ids have to be
/// excluded.
const MAX_AHEAD_MS: i64 = 366 * 86_400_000;

#[async_trait]
impl Database for Mongo {
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]> {
        let connection = &self.connection;
        let secret = Binary {
            subtype: BinarySubtype::Generic,
            bytes: candidate.to_vec(),
        };
        let document = doc! { "_id": TOKEN_SECRET_ID, "value": secret };
        connection.add(&connection.metadata, &document).await?;
        let stored = connection
            .metadata
            .find_one(doc! { "_id": TOKEN_SECRET_ID });
        let stored = connection
            .one(stored, |document| {
                document.get_binary("value").ok()?.bytes.try_into().ok()
            })
            .await?;
        stored.ok_or_else(|| StoreError::Fault("the key that signs tokens is not 32 bytes".into()))
    }

    /// Ids ascend with time, so it takes one index step per collection.
    async fn latest_time(&self) -> Result<Option<Timestamp>> {
        let connection = &self.connection;
        let mut latest = None;
        for collection in [&connection.messages, &connection.rooms, &connection.users] {
            latest = latest.max(latest_time_in(connection, collection).await?);
        }
        Ok(latest)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn pending_effects(&self) -> usize {
        self.connection.pending.count()
    }

    async fn ping(&self) -> Result<()> {
        let connection = &self.connection;
        connection
            .within(connection.database.run_command(doc! { "ping": 1 }))
            .await
            .map(|_| ())
    }

    async fn close(&self) {
        self.background.abort();
        self.connection.close().await;
    }
}

async fn latest_time_in(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
) -> Result<Option<Timestamp>> {
    let last_id = async |filter| {
        let last = collection
            .find_one(filter)
            .sort(doc! { "_id": -1 })
            .projection(doc! { "_id": 1 })
            .hint(by_name("_id_"));
        connection
            .one(last, |last| Some(MessageId::parse(text_in(last, "_id"))))
            .await
    };
    let Some(id) = last_id(doc! {}).await? else {
        return Ok(None);
    };
    if let Some(time) = id.and_then(|id| time_of_id(id.as_bytes())) {
        return Ok(Some(time));
    }
    // The original application's ids are random, and most of them are greater than any id that
    // contains a time. Few are below the bound.
    let latest_possible = connection.now().await?.0.saturating_add(MAX_AHEAD_MS);
    let bound = format!("{latest_possible:012x}");
    let id = last_id(doc! { "_id": { "$lt": bound, "$regex": "^.{12}7" } })
        .await?
        .flatten();
    Ok(id.and_then(|id| time_of_id(id.as_bytes())))
}
