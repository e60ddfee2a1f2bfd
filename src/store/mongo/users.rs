//! Users in MongoDB. Deleted users are kept without their names, because their entries still refer
//! to them.

use mongodb::{
    bson::{Bson, Document, RawDocument, doc},
    options::ReturnDocument,
};

use super::{
    connection::Connection,
    documents::{self, date, text_in, time_in},
    indexes::{self, by_name},
    rooms::ROOMS_AT_ONCE,
    rows, sessions,
};
use crate::{
    model::{Credentials, PasswordHash, Timestamp, User, UserId, Username},
    store::{Result, SessionSelector, StoreError, UserCursor, UserUpdate},
};

/// The pattern of a valid id. Users of the original application with other ids are ignored.
const ID: &str = "^[0-9a-f]{32}$";
/// How many users one command updates.
const BATCH_SIZE: usize = 1_000;

pub async fn add(
    connection: &Connection,
    user: &User,
    credentials: Option<&Credentials>,
) -> Result<bool> {
    let mut document = documents::from_user(user);
    if let Some(Credentials { username, password }) = credentials {
        document.extend(doc! { "username": username.as_str(), "password": &password.0 });
    }
    let added = connection.add(&connection.users, &document).await?;
    if !added && credentials.is_none() {
        return Err(StoreError::Fault(format!(
            "there is a user {} already",
            user.id
        )));
    }
    Ok(added)
}

pub async fn rename(
    connection: &Connection,
    id: UserId,
    names: &UserUpdate,
    at: Timestamp,
) -> Result<Option<User>> {
    let mut new = doc! { "updatedAt": date(at) };
    for (field, name) in [
        ("firstName", &names.first_name),
        ("lastName", &names.last_name),
    ] {
        if let Some(name) = name {
            new.insert(field, name);
        }
    }
    let renamed = connection.users.find_one_and_update(
        doc! { "_id": id.to_string(), "deleted": null },
        doc! { "$set": new },
    );
    connection
        .one(
            renamed.return_document(ReturnDocument::After),
            documents::user,
        )
        .await
}

pub async fn account(
    connection: &Connection,
    username: &Username,
) -> Result<Option<(UserId, PasswordHash)>> {
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

pub async fn credentials(connection: &Connection, user: UserId) -> Result<Option<Credentials>> {
    let found = connection.users.find_one(doc! { "_id": user.to_string() });
    let credentials = |user: &RawDocument| {
        Some(Credentials {
            username: Username::parse(text_in(user, "username"))?,
            password: password_in(user)?,
        })
    };
    connection.one(found, credentials).await
}

fn password_in(user: &RawDocument) -> Option<PasswordHash> {
    Some(PasswordHash(user.get_str("password").ok()?.to_owned()))
}

pub async fn set_password(
    connection: &Connection,
    user: UserId,
    former: &PasswordHash,
    password: &PasswordHash,
) -> Result<bool> {
    let who = doc! { "_id": user.to_string(), "password": &former.0 };
    let set = connection
        .users
        .update_one(who, doc! { "$set": { "password": &password.0 } });
    Ok(connection.within(set).await?.matched_count > 0)
}

/// Returns the users with these ids, in no particular order.
pub async fn users_by_id(connection: &Connection, ids: &[UserId]) -> Result<Vec<User>> {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    connection
        .all(
            connection.users.find(doc! { "_id": { "$in": ids } }),
            documents::user,
        )
        .await
}

/// Returns those of these users who are deleted, ascending.
pub async fn deleted_among(connection: &Connection, ids: &[UserId]) -> Result<Vec<UserId>> {
    let mut deleted = Vec::new();
    for ids in ids.chunks(ROOMS_AT_ONCE) {
        // The index holds only deleted users, so the cost depends on their number and not on the
        // number of ids.
        let among = doc! { "deleted": true, "_id": { "$in": ids.iter().map(ToString::to_string).collect::<Vec<_>>() } };
        let found = connection
            .users
            .find(among)
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .hint(by_name(indexes::DELETED_USERS));
        deleted.extend(
            connection
                .all(found, |user| UserId::parse(text_in(user, "_id")))
                .await?,
        );
    }
    Ok(deleted)
}

pub async fn list(
    connection: &Connection,
    after: Option<UserCursor>,
    skip: u64,
    limit: u64,
) -> Result<Vec<User>> {
    let Some((created_at, id)) = after else {
        return page(connection, doc! {}, skip, limit).await;
    };
    // Two queries, each in the order of the index. One query for both conditions would sort all the
    // remaining users for each page.
    let at_once =
        doc! { "createdAt": date(created_at), "_id": { "$gt": id.to_string(), "$regex": ID } };
    let mut users = page(connection, at_once, 0, skip.saturating_add(limit)).await?;
    let skipped = users
        .drain(..users.len().min(usize::try_from(skip).unwrap_or(usize::MAX)))
        .count() as u64;
    let later = doc! { "createdAt": { "$gt": date(created_at) } };
    users.extend(
        page(
            connection,
            later,
            skip - skipped,
            limit - users.len() as u64,
        )
        .await?,
    );
    Ok(users)
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
        .or_insert_with(|| doc! { "$regex": ID }.into());
    let users = connection
        .users
        .find(filter)
        .sort(doc! { "createdAt": 1, "_id": 1 })
        .skip(rows(skip).unsigned_abs())
        .limit(rows(limit));
    connection
        .all(users.hint(by_name(indexes::BY_AGE)), documents::user)
        .await
}

pub async fn update_last_seen(connection: &Connection, seen: &[(UserId, Timestamp)]) -> Result<()> {
    for seen in seen.chunks(BATCH_SIZE) {
        let note = |(user, at): &(UserId, Timestamp)| {
            doc! { "q": { "_id": user.to_string(), "deleted": null }, "u": { "$max": { "lastSeenAt": date(*at) } } }
        };
        let command = doc! { "update": connection.users.name(), "updates": seen.iter().map(note).collect::<Vec<_>>() };
        connection
            .within(connection.database.run_command(command))
            .await?;
    }
    Ok(())
}

pub async fn last_seen(
    connection: &Connection,
    ids: &[UserId],
) -> Result<Vec<(UserId, Timestamp)>> {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let known = doc! { "_id": { "$in": ids }, "lastSeenAt": { "$type": "date" } };
    let seen = |user: &RawDocument| {
        Some((
            UserId::parse(text_in(user, "_id"))?,
            time_in(user, "lastSeenAt"),
        ))
    };
    connection
        .all(
            connection
                .users
                .find(known)
                .projection(doc! { "lastSeenAt": 1 }),
            seen,
        )
        .await
}

/// Deletes a user. Sessions are ended before the update, and once more after it, since the user may
/// have logged in meanwhile. If a step fails, the call can be repeated.
pub async fn delete(connection: &Connection, id: UserId, at: Timestamp) -> Result<bool> {
    sessions::end(connection, id, SessionSelector::All).await?;
    let erase = doc! { "$set": { "firstName": "", "lastName": "", "updatedAt": date(at), "deleted": true }, "$unset": { "username": "", "password": "", "lastSeenAt": "" } };
    let erased = connection
        .within(
            connection
                .users
                .update_one(doc! { "_id": id.to_string(), "deleted": null }, erase),
        )
        .await?;
    sessions::end(connection, id, SessionSelector::All).await?;
    Ok(erased.matched_count > 0)
}
