//! Leases: at most one server at a time migrates the database, or maintains the search index.

use std::time::Duration;

use mongodb::{bson::doc, options::ReturnDocument};

use super::{connection::Connection, documents::text_in};
use crate::store::Result;

/// How long a lease is held unless it is renewed, by the database's clock.
const LEASE_DURATION: Duration = Duration::from_secs(10);

/// Acquires or renews the lease in this metadata document. Returns false when another owner holds
/// it.
pub async fn renew(connection: &Connection, document: &str, owner: &str) -> Result<bool> {
    let is_available =
        doc! { "$or": [{ "$eq": ["$owner", owner] }, { "$lt": ["$until", "$$NOW"] }] };
    let until =
        doc! { "$add": ["$$NOW", i64::try_from(LEASE_DURATION.as_millis()).unwrap_or(i64::MAX)] };
    let lease = doc! { "$set": {
        "owner": { "$cond": [&is_available, owner, "$owner"] },
        "until": { "$cond": [&is_available, until, "$until"] },
    } };
    let lease = connection
        .metadata
        .find_one_and_update(doc! { "_id": document }, vec![lease])
        .upsert(true)
        .return_document(ReturnDocument::After);
    let is_owner = connection
        .one(lease, |lease| Some(text_in(lease, "owner") == owner))
        .await?;
    Ok(is_owner == Some(true))
}
