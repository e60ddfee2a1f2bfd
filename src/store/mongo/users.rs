//! Users in MongoDB. Deleted ones stay, without their names: they are still authors.

use mongodb::bson::doc;

use super::{
    connection::Connection,
    documents::{self, date},
    rows,
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
    // A user whose document does not tell is not deleted; `null` finds those, with an index.
    let mut filter = doc! { "deleted": null };
    if let Some((created_at, id)) = after {
        let at = date(created_at);
        filter.insert("$or", [doc! { "createdAt": { "$gt": at } }, doc! { "createdAt": at, "_id": { "$gt": id.to_string() } }]);
    }
    let users = connection.users.find(filter).sort(doc! { "createdAt": 1, "_id": 1 }).skip(rows(skip).unsigned_abs()).limit(rows(limit));
    connection.all(users, documents::user).await
}

pub async fn delete(connection: &Connection, id: UserId, at: Timestamp) -> Result<bool> {
    let erase = doc! { "$set": { "firstName": "", "lastName": "", "updatedAt": date(at), "deleted": true } };
    let erased = connection.within(connection.users.update_one(doc! { "_id": id.to_string(), "deleted": null }, erase)).await?;
    Ok(erased.matched_count > 0)
}
