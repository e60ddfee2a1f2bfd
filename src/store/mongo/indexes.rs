//! The indexes of the collections: their names, their keys, and building them.

use std::time::Duration;

use mongodb::{
    Collection, IndexModel,
    bson::{Document, RawDocumentBuf, doc},
    error::ErrorKind,
    options::{Hint, IndexOptions, WriteConcern},
};

use super::{connection::Connection, failure::failure};
use crate::store::Result;

/// The log of each room. It is unique, which keeps sequence numbers from being assigned twice.
pub const LOG: &str = "log";

/// The entries of each room that are not messages, or are deleted messages.
pub const DELETED: &str = "deleted";

/// The entries of each room whose effects may not be applied yet.
pub const PENDING: &str = "pending";

/// The messages of each author in each room that have a client id. It is unique, which prevents
/// duplicates.
pub const BY_CLIENT_ID: &str = "byClientId";

/// The indexed messages of each room by term.
pub const BY_TERM: &str = "byTerm";

/// The rooms with old messages that are not indexed for search.
pub const UNFINISHED: &str = "unfinished";

/// The search index before schema version 3.
const FORMER_BY_WORD: &str = "byWord";

/// The entries of each author in each room. Built only on request, since it costs about a sixth of
/// every post.
pub const BY_AUTHOR: &str = "byAuthor";

/// The users by deletion flag and creation time, for listing those that are not deleted, oldest
/// first.
pub const BY_AGE: &str = "byAge";

/// The deleted users.
pub const DELETED_USERS: &str = "deletedUsers";

/// The users with credentials.
pub const BY_USERNAME: &str = "byUsername";

/// The rooms of each user: the large ones, and the others by the time of their activity.
pub const BY_MEMBER: &str = "byMember";

/// The rooms by the time when a member was last removed.
pub const BY_REMOVAL: &str = "byDeparture";

/// The sessions of each user, oldest first.
pub const BY_USER: &str = "byUser";

/// The read marks of each reader in each room.
pub const BY_READER: &str = "byReader";

/// Returns the hint for an index by its name.
pub fn by_name(index: &str) -> Hint {
    Hint::Name(index.to_owned())
}

/// Builds the indexes that every database has. The search indexes are built in the background.
pub async fn create_all(connection: &Connection) -> Result<()> {
    build(&connection.users, user_indexes()).await?;
    build(&connection.rooms, room_indexes()).await?;
    build(&connection.messages, message_indexes()).await?;
    build(&connection.marks, read_mark_indexes()).await?;
    build(&connection.sessions, session_indexes()).await
}

fn user_indexes() -> Vec<IndexModel> {
    vec![
        index(BY_AGE, doc! { "deleted": 1, "createdAt": 1, "_id": 1 }),
        partial(
            index(DELETED_USERS, doc! { "deleted": 1, "_id": 1 }),
            doc! { "deleted": true },
        ),
        unique(sparse(BY_USERNAME, doc! { "username": 1 })),
    ]
}

fn room_indexes() -> Vec<IndexModel> {
    vec![
        member_key_index(),
        index(
            BY_MEMBER,
            doc! { "userIds": 1, "large": 1, "activeUntil": -1 },
        ),
        sparse("going", doc! { "deletedAt": 1 }),
        sparse(BY_REMOVAL, doc! { "leftAt": 1 }),
    ]
}

fn message_indexes() -> Vec<IndexModel> {
    vec![
        unique(index(LOG, doc! { "chatRoomId": 1, "seq": 1 })),
        partial(
            index(
                DELETED,
                doc! { "chatRoomId": 1, "seq": 1, "postedByUser": 1 },
            ),
            doc! { "deleted": true },
        ),
        partial(
            index(PENDING, doc! { "pending": 1, "chatRoomId": 1, "seq": 1 }),
            doc! { "pending": true },
        ),
        unique(partial(
            index(
                BY_CLIENT_ID,
                doc! { "chatRoomId": 1, "postedByUser": 1, "clientMessageId": 1 },
            ),
            has_client_id(),
        )),
    ]
}

fn read_mark_indexes() -> Vec<IndexModel> {
    vec![index(
        BY_READER,
        doc! { "chatRoomId": 1, "readByUserId": 1, "upToSeq": 1 },
    )]
}

fn session_indexes() -> Vec<IndexModel> {
    vec![
        index(BY_USER, doc! { "userId": 1, "createdAt": 1, "_id": 1 }),
        expiring(index("byEnd", doc! { "expiresAt": 1 })),
    ]
}

/// Builds the index [`BY_AUTHOR`].
pub async fn build_author_index(connection: &Connection) -> Result<()> {
    build(
        &connection.messages,
        vec![index(
            BY_AUTHOR,
            doc! { "chatRoomId": 1, "postedByUser": 1, "seq": 1 },
        )],
    )
    .await
}

/// Builds the search indexes, without a time limit.
pub async fn build_search_indexes(connection: &Connection) -> Result<()> {
    let by_term = index(
        BY_TERM,
        doc! { "chatRoomId": 1, "terms": 1, "createdAt": -1, "seq": -1 },
    );
    build(
        &connection.messages,
        vec![partial(by_term, doc! { "terms": { "$exists": true } })],
    )
    .await?;
    let unfinished = partial(
        index(UNFINISHED, doc! { "search.above": 1 }),
        doc! { "search.above": { "$gt": 0 } },
    );
    build(&connection.rooms, vec![unfinished]).await
}

/// Drops the search index of schema versions before 3, if it exists.
pub async fn drop_former_search_index(connection: &Connection) -> Result<()> {
    drop(connection, &connection.messages, FORMER_BY_WORD).await
}

/// Returns the filter for messages with a client id, as [`BY_CLIENT_ID`] requires it.
fn has_client_id() -> Document {
    doc! { "clientMessageId": { "$exists": true } }
}

/// Returns the index that finds a room by its members. It is sparse: the original application
/// created several rooms with the same members, and only the oldest of these has a key.
pub fn member_key_index() -> IndexModel {
    unique(sparse("byMembers", doc! { "memberKey": 1 }))
}

/// Builds the indexes that do not exist yet, without a time limit.
pub async fn build(
    collection: &Collection<RawDocumentBuf>,
    indexes: Vec<IndexModel>,
) -> Result<()> {
    let durable = WriteConcern::majority();
    collection
        .create_indexes(indexes)
        .write_concern(durable)
        .await
        .map(|_| ())
        .map_err(|error| failure(&error))
}

/// Returns an index with this name over these fields.
pub fn index(name: &str, keys: Document) -> IndexModel {
    IndexModel::builder()
        .keys(keys)
        .options(IndexOptions::builder().name(name.to_owned()).build())
        .build()
}

fn sparse(name: &str, keys: Document) -> IndexModel {
    with(index(name, keys), |options| options.sparse = Some(true))
}

fn unique(index: IndexModel) -> IndexModel {
    with(index, |options| options.unique = Some(true))
}

/// Makes MongoDB delete documents once the time in the indexed field has passed.
fn expiring(index: IndexModel) -> IndexModel {
    with(index, |options| options.expire_after = Some(Duration::ZERO))
}

fn partial(index: IndexModel, filter: Document) -> IndexModel {
    with(index, |options| {
        options.partial_filter_expression = Some(filter);
    })
}

fn with(mut index: IndexModel, change: impl FnOnce(&mut IndexOptions)) -> IndexModel {
    change(index.options.get_or_insert_default());
    index
}

/// Drops an index if it exists.
pub async fn drop(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
    index: &str,
) -> Result<()> {
    /// MongoDB's code for a missing index: another server has dropped it.
    const INDEX_NOT_FOUND: i32 = 27;
    let command = doc! { "dropIndexes": collection.name(), "index": index };
    match connection.database.run_command(command).await {
        Err(error) if matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == INDEX_NOT_FOUND) => {
            Ok(())
        }
        other => other.map(|_| ()).map_err(|error| failure(&error)),
    }
}
