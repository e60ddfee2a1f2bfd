//! The indexes, the version of the schema, and the turn of one server at a time to bring a database up to it.
//!
//! The version stands in the note `schema`. A database without it is empty or that of the original application. To change the schema: raise
//! [`VERSION`], and add the step that brings an older database up to it to [`bring_up_to_date`]; a step has to be repeatable, since the
//! server may be killed inside it.

use std::time::Duration;

use mongodb::{
    Collection, IndexModel,
    bson::{Document, RawDocumentBuf, doc},
    options::{Hint, IndexOptions, ReturnDocument, WriteConcern},
};
use tokio::{task::AbortHandle, time::sleep};

use super::{
    connection::Connection,
    documents::{number_in, text_in},
    legacy_import, search,
};
use crate::store::{OpenError, Result, StoreError};

/// The version of the schema.
const VERSION: u64 = 3;

/// The log of each room. Its uniqueness is what keeps the numbers whole.
pub const LOG: &str = "log";
/// The entries of each room that are no messages, or no longer.
pub const DELETED: &str = "deleted";
/// The entries of each room that say something that may not have been done.
pub const PENDING: &str = "pending";
/// The messages of each author in each room that the author's client has a name for. Its uniqueness is what keeps them from being doubled.
pub const BY_CLIENT_ID: &str = "byClientId";

/// The messages of each room with each term, as far as they are indexed.
pub const BY_TERM: &str = "byTerm";
/// The rooms with old messages that are not indexed.
pub const UNFINISHED: &str = "unfinished";
/// The index of search before version 3.
const BY_WORD: &str = "byWord";

/// The entries of each author in each room. Only where it is asked for: it costs about a sixth of every post.
pub const BY_AUTHOR: &str = "byAuthor";

/// The users that are not deleted, oldest first.
pub const BY_AGE: &str = "byAge";
/// The users that are deleted.
pub const DELETED_USERS: &str = "deletedUsers";
/// The users who have credentials.
pub const BY_USERNAME: &str = "byUsername";
/// The rooms of each user: the large ones, and the others by when they were active.
pub const BY_MEMBER: &str = "byMember";

/// The rooms by when somebody was last taken out of them.
pub const BY_DEPARTURE: &str = "byDeparture";

/// The sessions of each user, the newest at the end.
pub const BY_USER: &str = "byUser";

/// The marks of each reader in each room.
pub const BY_READER: &str = "byReader";

/// The note about which server brings the database up to date.
const MIGRATION_LOCK_KEY: &str = "turn";
/// How long a turn lasts unless it is renewed. The server's clock counts.
const TURN: Duration = Duration::from_secs(10);
/// How often whoever has the turn renews it.
const RENEWAL: Duration = Duration::from_secs(3);
/// How often whoever waits for the turn looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// An index, named.
pub fn by_name(index: &str) -> Hint {
    Hint::Name(index.to_owned())
}

/// The last entry of each of these rooms, one step in the index per room: with the descending order MongoDB skips from room to room.
pub fn last_entry_of_each(rooms: Vec<String>) -> [Document; 3] {
    [
        doc! { "$match": { "chatRoomId": { "$in": rooms } } },
        doc! { "$sort": { "chatRoomId": -1, "seq": -1 } },
        doc! { "$group": {
            "_id": "$chatRoomId",
            "id": { "$first": "$_id" },
            "seq": { "$first": "$seq" },
            "createdAt": { "$first": "$createdAt" },
            "deleted": { "$first": "$deleted" },
            "closed": { "$first": "$closed" },
        } },
    ]
}

/// Makes the database ready: takes over what the original application wrote, and builds the indexes. Several servers may do this at once.
pub async fn prepare(connection: &Connection) -> std::result::Result<(), OpenError> {
    let unusable = |problem: String| OpenError::Unusable(format!("database: {problem}"));
    match version(connection).await.map_err(|error| stopped(&error))? {
        known if known > VERSION => Err(unusable(format!("it was written by a newer Causerie (schema {known}; this one knows {VERSION})"))),
        VERSION => indexes(connection).await.map_err(|error| stopped(&error)),
        _ => bring_up_to_date(connection).await.map_err(|error| stopped(&error)),
    }
}

fn stopped(error: &StoreError) -> OpenError {
    OpenError::because(error, format!("database: making it ready was interrupted ({error}); the next start goes on from there"))
}

async fn version(connection: &Connection) -> Result<u64> {
    let note = connection.metadata.find_one(doc! { "_id": "schema" });
    let version = connection.one(note, |note| Some(number_in(note, "version"))).await?;
    Ok(version.unwrap_or_default())
}

async fn bring_up_to_date(connection: &Connection) -> Result<()> {
    let Some(turn) = MigrationLock::take(connection).await? else { return Ok(()) };
    let from = version(connection).await?;
    if from < 1 {
        legacy_import::import(connection).await?;
    }
    if from < 2 {
        legacy_import::remember_gone_members(connection).await?;
    }
    indexes(connection).await?;
    if legacy_import::is_empty(connection, &connection.rooms).await? {
        search::start_complete(connection).await?;
    }
    let done = doc! { "$set": { "version": i64::try_from(VERSION).unwrap_or_default() }, "$currentDate": { "since": true } };
    connection.within(connection.metadata.update_one(doc! { "_id": "schema" }, done).upsert(true)).await?;
    turn.give_back(connection).await
}

async fn indexes(connection: &Connection) -> Result<()> {
    let users = vec![
        index(BY_AGE, doc! { "deleted": 1, "createdAt": 1, "_id": 1 }),
        partial(index(DELETED_USERS, doc! { "deleted": 1, "_id": 1 }), doc! { "deleted": true }),
        unique(sparse(BY_USERNAME, doc! { "username": 1 })),
    ];
    build(&connection.users, users).await?;
    build(
        &connection.rooms,
        vec![
            member_key_index(),
            index(BY_MEMBER, doc! { "userIds": 1, "large": 1, "activeUntil": -1 }),
            sparse("going", doc! { "deletedAt": 1 }),
            sparse(BY_DEPARTURE, doc! { "leftAt": 1 }),
        ],
    )
    .await?;
    let messages = vec![
        unique(index(LOG, doc! { "chatRoomId": 1, "seq": 1 })),
        partial(index(DELETED, doc! { "chatRoomId": 1, "seq": 1, "postedByUser": 1 }), doc! { "deleted": true }),
        partial(index(PENDING, doc! { "pending": 1, "chatRoomId": 1, "seq": 1 }), doc! { "pending": true }),
        unique(partial(index(BY_CLIENT_ID, doc! { "chatRoomId": 1, "postedByUser": 1, "clientMessageId": 1 }), has_client_id())),
    ];
    build(&connection.messages, messages).await?;
    build(&connection.marks, vec![index(BY_READER, doc! { "chatRoomId": 1, "readByUserId": 1, "upToSeq": 1 })]).await?;
    let sessions = vec![index(BY_USER, doc! { "userId": 1, "createdAt": 1, "_id": 1 }), expiring(index("byEnd", doc! { "expiresAt": 1 }))];
    build(&connection.sessions, sessions).await
}

/// Builds the index [`BY_AUTHOR`].
pub async fn index_authors(connection: &Connection) -> Result<()> {
    build(&connection.messages, vec![index(BY_AUTHOR, doc! { "chatRoomId": 1, "postedByUser": 1, "seq": 1 })]).await
}

/// Builds the indexes of search, however long that takes.
pub async fn search_indexes(connection: &Connection) -> Result<()> {
    let by_term = index(BY_TERM, doc! { "chatRoomId": 1, "terms": 1, "createdAt": -1, "seq": -1 });
    build(&connection.messages, vec![partial(by_term, doc! { "terms": { "$exists": true } })]).await?;
    let unfinished = partial(index(UNFINISHED, doc! { "search.above": 1 }), doc! { "search.above": { "$gt": 0 } });
    build(&connection.rooms, vec![unfinished]).await
}

/// Drops the index of search that versions before 3 made, if it is there.
pub async fn drop_former_search_index(connection: &Connection) -> Result<()> {
    legacy_import::drop_index(connection, &connection.messages, BY_WORD).await
}

/// Says that a message has a client id, as [`BY_CLIENT_ID`] needs it said.
pub fn has_client_id() -> Document {
    doc! { "clientMessageId": { "$exists": true } }
}

/// Finds a room by its members. Sparse, since rooms that were doubled in the original application have no key but the oldest.
pub fn member_key_index() -> IndexModel {
    unique(sparse("byMembers", doc! { "memberKey": 1 }))
}

/// Builds indexes that are not there yet, however long that takes.
pub async fn build(collection: &Collection<RawDocumentBuf>, indexes: Vec<IndexModel>) -> Result<()> {
    let durable = WriteConcern::majority();
    collection.create_indexes(indexes).write_concern(durable).await.map(|_| ()).map_err(|error| super::connection::failure(&error))
}

/// An index of this name over these fields.
pub fn index(name: &str, keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).options(IndexOptions::builder().name(name.to_owned()).build()).build()
}

fn sparse(name: &str, keys: Document) -> IndexModel {
    with(index(name, keys), |options| options.sparse = Some(true))
}

fn unique(index: IndexModel) -> IndexModel {
    with(index, |options| options.unique = Some(true))
}

/// MongoDB takes away what is past the time in the index.
fn expiring(index: IndexModel) -> IndexModel {
    with(index, |options| options.expire_after = Some(Duration::ZERO))
}

fn partial(index: IndexModel, filter: Document) -> IndexModel {
    with(index, |options| options.partial_filter_expression = Some(filter))
}

fn with(mut index: IndexModel, change: impl FnOnce(&mut IndexOptions)) -> IndexModel {
    change(index.options.get_or_insert_default());
    index
}

/// The right to bring the database up to date, for as long as it is renewed. It spares work; what is done twice does no harm.
struct MigrationLock {
    owner: String,
    renewal: AbortHandle,
}

impl MigrationLock {
    /// Waits for the turn. `None` when somebody else has done the work meanwhile.
    async fn take(connection: &Connection) -> Result<Option<Self>> {
        let owner = uuid::Uuid::new_v4().simple().to_string();
        let mut told = false;
        while !renew(connection, MIGRATION_LOCK_KEY, &owner).await? {
            if !std::mem::replace(&mut told, true) {
                tracing::info!("another server is making the database ready; waiting for it");
            }
            sleep(LOOK_AGAIN).await;
            if version(connection).await? >= VERSION {
                return Ok(None);
            }
        }
        if version(connection).await? >= VERSION {
            return Ok(None);
        }
        let (renewing, name) = (connection.clone(), owner.clone());
        let renewal = tokio::spawn(async move {
            loop {
                sleep(RENEWAL).await;
                if let Err(error) = renew(&renewing, MIGRATION_LOCK_KEY, &name).await {
                    tracing::warn!(%error, "the turn to make the database ready could not be renewed");
                }
            }
        });
        Ok(Some(Self { owner, renewal: renewal.abort_handle() }))
    }

    async fn give_back(self, connection: &Connection) -> Result<()> {
        self.renewal.abort();
        connection.within(connection.metadata.delete_one(doc! { "_id": MIGRATION_LOCK_KEY, "owner": &self.owner })).await.map(|_| ())
    }
}

impl Drop for MigrationLock {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Takes the turn that this note is about, or keeps it. False when another has it.
pub async fn renew(connection: &Connection, note: &str, owner: &str) -> Result<bool> {
    let free_or_mine = doc! { "$or": [{ "$eq": ["$owner", owner] }, { "$lt": ["$until", "$$NOW"] }] };
    let until = doc! { "$add": ["$$NOW", i64::try_from(TURN.as_millis()).unwrap_or(i64::MAX)] };
    let turn = doc! { "$set": {
        "owner": { "$cond": [&free_or_mine, owner, "$owner"] },
        "until": { "$cond": [&free_or_mine, until, "$until"] },
    } };
    let taken =
        connection.metadata.find_one_and_update(doc! { "_id": note }, vec![turn]).upsert(true).return_document(ReturnDocument::After);
    let mine = connection.one(taken, |turn| Some(text_in(turn, "owner") == owner)).await?;
    Ok(mine == Some(true))
}
