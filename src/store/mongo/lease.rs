//! Leases: at most one server at a time migrates the database, or maintains the search index.

use std::time::Duration;

use mongodb::{bson::doc, options::ReturnDocument};

use super::{connection::Connection, documents::text_in};
use crate::store::Result;

/// How long a lock is held unless it is renewed, by the database's clock.
const TURN: Duration = Duration::from_secs(10);

/// Acquires or renews the lock in this metadata document. Returns false when another owner holds
/// it.
pub async fn renew(connection: &Connection, note: &str, owner: &str) -> Result<bool> {
    let free_or_mine =
        doc! { "$or": [{ "$eq": ["$owner", owner] }, { "$lt": ["$until", "$$NOW"] }] };
    let until = doc! { "$add": ["$$NOW", i64::try_from(TURN.as_millis()).unwrap_or(i64::MAX)] };
    let turn = doc! { "$set": {
        "owner": { "$cond": [&free_or_mine, owner, "$owner"] },
        "until": { "$cond": [&free_or_mine, until, "$until"] },
    } };
    let taken = connection
        .metadata
        .find_one_and_update(doc! { "_id": note }, vec![turn])
        .upsert(true)
        .return_document(ReturnDocument::After);
    let mine = connection
        .one(taken, |turn| Some(text_in(turn, "owner") == owner))
        .await?;
    Ok(mine == Some(true))
}
