//! Users in MongoDB. Deleted users are kept without their names, because their entries still refer
//! to them.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use mongodb::{
    bson::{Bson, Document, RawDocument, doc},
    options::ReturnDocument,
};

use super::{
    connection::Connection,
    documents::{self, date, document_count, id_strings, text_in, time_in},
    indexes::{self, by_name},
    store::Mongo,
};
use crate::{
    model::{Credentials, PasswordHash, Timestamp, User, UserId, Username},
    store::{
        Accounts, Presence, Result, SessionSelector, Sessions, StoreError, UserCursor, UserUpdate,
        Users,
    },
};

/// The pattern of a valid id. Users of the original application with other ids are ignored.
pub const VALID_ID: &str = "^[0-9a-f]{32}$";
/// How many users one command updates.
const BATCH_SIZE: usize = 1_000;

#[async_trait]
impl Users for Mongo {
    async fn find_many(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let connection = &self.connection;
        let found = connection
            .users
            .find(doc! { "_id": { "$in": id_strings(ids) } });
        let found: HashMap<_, _> = connection
            .all(found, documents::user)
            .await?
            .into_iter()
            .map(|user| (user.id, Arc::new(user)))
            .collect();
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    async fn rename(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>> {
        let mut new = doc! { "updatedAt": date(at) };
        for (field, name) in [
            ("firstName", names.first_name),
            ("lastName", names.last_name),
        ] {
            if let Some(name) = name {
                new.insert(field, name);
            }
        }
        let connection = &self.connection;
        let renamed = connection
            .users
            .find_one_and_update(
                doc! { "_id": id.to_string(), "deleted": null },
                doc! { "$set": new },
            )
            .return_document(ReturnDocument::After);
        Ok(connection
            .one(renamed, documents::user)
            .await?
            .map(Arc::new))
    }

    /// Sessions are ended before the update, and once more after it, since the user may have logged
    /// in meanwhile. If a step fails, the call can be repeated.
    async fn delete(&self, id: UserId, at: Timestamp) -> Result<bool> {
        Sessions::end(self, id, SessionSelector::All).await?;
        let connection = &self.connection;
        let erase = doc! { "$set": { "firstName": "", "lastName": "", "updatedAt": date(at), "deleted": true }, "$unset": { "username": "", "password": "", "lastSeenAt": "" } };
        let erased = connection
            .within(
                connection
                    .users
                    .update_one(doc! { "_id": id.to_string(), "deleted": null }, erase),
            )
            .await?;
        Sessions::end(self, id, SessionSelector::All).await?;
        Ok(erased.matched_count > 0)
    }
}

#[async_trait]
impl Accounts for Mongo {
    async fn add(&self, user: User, credentials: Option<Credentials>) -> Result<bool> {
        let mut document = documents::from_user(&user);
        let has_username = credentials.is_some();
        if let Some(Credentials { username, password }) = credentials {
            document.extend(doc! { "username": username.as_str(), "password": password.0 });
        }
        let connection = &self.connection;
        let added = connection.add(&connection.users, &document).await?;
        if !added && !has_username {
            return Err(StoreError::Fault(format!(
                "there is a user {} already",
                user.id
            )));
        }
        Ok(added)
    }

    async fn list(&self, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>> {
        let connection = &self.connection;
        let Some((created_at, id)) = after else {
            return page(connection, doc! {}, skip, limit).await;
        };
        // Two queries, each in the order of the index. One query for both conditions would sort all
        // the remaining users for each page.
        let same_time = doc! {
            "createdAt": date(created_at), "_id": { "$gt": id.to_string(), "$regex": VALID_ID },
        };
        let mut users = page(connection, same_time, 0, skip.saturating_add(limit)).await?;
        let skipped = users
            .drain(..users.len().min(usize::try_from(skip).unwrap_or(usize::MAX)))
            .count() as u64;
        let later = doc! { "createdAt": { "$gt": date(created_at) } };
        let missing = limit - users.len() as u64;
        users.extend(page(connection, later, skip - skipped, missing).await?);
        Ok(users)
    }

    async fn find_by_username(
        &self,
        username: &Username,
    ) -> Result<Option<(UserId, PasswordHash)>> {
        let connection = &self.connection;
        let found = connection
            .users
            .find_one(doc! { "username": username.as_str() })
            .hint(by_name(indexes::BY_USERNAME));
        connection
            .one(found, |user| {
                Some((UserId::parse(text_in(user, "_id"))?, password_in(user)?))
            })
            .await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        let connection = &self.connection;
        let found = connection.users.find_one(doc! { "_id": user.to_string() });
        let credentials = |user: &RawDocument| {
            Some(Credentials {
                username: Username::parse(text_in(user, "username"))?,
                password: password_in(user)?,
            })
        };
        connection.one(found, credentials).await
    }

    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool> {
        let connection = &self.connection;
        let with_former = doc! { "_id": user.to_string(), "password": former.0 };
        let set = connection
            .users
            .update_one(with_former, doc! { "$set": { "password": password.0 } });
        Ok(connection.within(set).await?.matched_count > 0)
    }
}

#[async_trait]
impl Presence for Mongo {
    async fn update_last_seen(&self, users: Vec<(UserId, Timestamp)>) -> Result<()> {
        let connection = &self.connection;
        for users in users.chunks(BATCH_SIZE) {
            let update = |(user, at): &(UserId, Timestamp)| {
                doc! { "q": { "_id": user.to_string(), "deleted": null }, "u": { "$max": { "lastSeenAt": date(*at) } } }
            };
            let updates: Vec<_> = users.iter().map(update).collect();
            let command = doc! { "update": connection.users.name(), "updates": updates };
            connection
                .within(connection.database.run_command(command))
                .await?;
        }
        Ok(())
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<(UserId, Timestamp)>> {
        let connection = &self.connection;
        let with_time =
            doc! { "_id": { "$in": id_strings(users) }, "lastSeenAt": { "$type": "date" } };
        let found = connection
            .users
            .find(with_time)
            .projection(doc! { "lastSeenAt": 1 });
        let last_seen = |user: &RawDocument| {
            Some((
                UserId::parse(text_in(user, "_id"))?,
                time_in(user, "lastSeenAt"),
            ))
        };
        connection.all(found, last_seen).await
    }
}

async fn page(
    connection: &Connection,
    mut filter: Document,
    skip: u64,
    limit: u64,
) -> Result<Vec<User>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    // A document without the field `deleted` is a user who is not deleted; `null` matches it.
    filter.insert("deleted", Bson::Null);
    // Filter before `skip` and `limit` count, otherwise pages would not be full.
    filter
        .entry("_id".to_owned())
        .or_insert_with(|| doc! { "$regex": VALID_ID }.into());
    let users = connection
        .users
        .find(filter)
        .sort(doc! { "createdAt": 1, "_id": 1 })
        .skip(document_count(skip).unsigned_abs())
        .limit(document_count(limit));
    connection
        .all(users.hint(by_name(indexes::BY_AGE)), documents::user)
        .await
}

fn password_in(user: &RawDocument) -> Option<PasswordHash> {
    Some(PasswordHash(user.get_str("password").ok()?.to_owned()))
}
