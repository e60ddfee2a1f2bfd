//! Users in MongoDB. Deleted ones stay, without their names: they are still authors.

use mongodb::bson::{Bson, Document, doc};

use super::{
    connection::Connection,
    documents::{self, date},
    rows,
    schema::{self, by_name},
};
use crate::{
    model::{Timestamp, User, UserId},
    store::{Result, StoreError, UserCursor},
};

pub async fn add(connection: &Connection, user: &User) -> Result<()> {
    let added = connection.add(&connection.users, &documents::from_user(user)).await?;
    added.then_some(()).ok_or_else(|| StoreError::Fault(format!("there is a user {} already", user.id)))
}

/// The users with these ids, in no order.
pub async fn people(connection: &Connection, ids: &[UserId]) -> Result<Vec<User>> {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    connection.all(connection.users.find(doc! { "_id": { "$in": ids } }), documents::user).await
}

pub async fn list(connection: &Connection, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>> {
    let Some((created_at, id)) = after else { return page(connection, doc! {}, skip, limit).await };
    // Two queries, each of which goes along the index; one that asks for both has all the rest sorted for each page.
    let at_once = doc! { "createdAt": date(created_at), "_id": { "$gt": id.to_string() } };
    let mut users = page(connection, at_once, 0, skip.saturating_add(limit)).await?;
    let skipped = users.drain(..users.len().min(usize::try_from(skip).unwrap_or(usize::MAX))).count() as u64;
    let later = doc! { "createdAt": { "$gt": date(created_at) } };
    users.extend(page(connection, later, skip - skipped, limit - users.len() as u64).await?);
    Ok(users)
}

async fn page(connection: &Connection, mut filter: Document, skip: u64, limit: u64) -> Result<Vec<User>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    // A user whose document does not tell is not deleted; `null` finds those.
    filter.insert("deleted", Bson::Null);
    let users = connection.users.find(filter).sort(doc! { "createdAt": 1, "_id": 1 }).skip(rows(skip).unsigned_abs()).limit(rows(limit));
    connection.all(users.hint(by_name(schema::BY_AGE)), documents::user).await
}

pub async fn delete(connection: &Connection, id: UserId, at: Timestamp) -> Result<bool> {
    let erase = doc! { "$set": { "firstName": "", "lastName": "", "updatedAt": date(at), "deleted": true } };
    let erased = connection.within(connection.users.update_one(doc! { "_id": id.to_string(), "deleted": null }, erase)).await?;
    Ok(erased.matched_count > 0)
}
