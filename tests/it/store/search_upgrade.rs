//! How the search index of an earlier version is rebuilt.

use std::time::Instant;

use causerie::{
    model::{MessageId, Room},
    store::{NewEntryKind, Store},
};
use mongodb::bson::{Document, doc};
use rstest_reuse::apply;
use tempfile::TempDir;

use crate::{
    each_store, each_store_slow_on_mongodb,
    support::{
        databases::{Database, Kind},
        harness::PATIENCE,
        program::Program,
        search::{found, in_room, in_rooms_of, numbers, says},
        store::{append, change, delete, room, user, user_id},
    },
};

/// The number of messages in a database of an earlier version.
const OLD: u64 = 3_000;
/// The number of rooms in it.
const OLD_ROOMS: u8 = 20;

/// Returns a database as an earlier version left it, with an index that holds other words.
async fn of_earlier_version(kind: Kind) -> (Database, Vec<Room>) {
    let new = Database::new(kind).await;
    let store = new.open().await;
    store.accounts.add(user(1), None).await.unwrap();
    let rooms: Vec<_> = (0..OLD_ROOMS)
        .map(|n| room(100 + n, &[1, 50 + n]))
        .collect();
    for room in &rooms {
        store.rooms.find_or_add(room.clone()).await.unwrap();
    }
    for n in (1..=OLD).step_by(500) {
        let batch = (n..n + 500).map(|n| {
            says(
                &rooms[usize::try_from(n).unwrap() % rooms.len()],
                n,
                &format!("message {n} 我家在上海"),
            )
        });
        store.log.append(batch.collect()).await.unwrap();
    }
    store.database.close().await;
    if kind == Kind::Sqlite {
        (file_of_version_5(&new).await, rooms)
    } else {
        (on_version_1(new).await, rooms)
    }
}

/// Copies the rows into a file with the schema of version 5, and indexes them as that version did.
async fn file_of_version_5(new: &Database) -> Database {
    let old = Database::new(Kind::Sqlite).await;
    let file = old.file();
    for step in [
        include_str!("../../../src/store/sqlite/migrations/0001_initial.sql"),
        include_str!("../../../src/store/sqlite/migrations/0002_accounts.sql"),
        include_str!("../../../src/store/sqlite/migrations/0003_sessions.sql"),
        include_str!("../../../src/store/sqlite/migrations/0004_edits_members_search_presence.sql"),
        include_str!("../../../src/store/sqlite/migrations/0005_reindex_final_sigma.sql"),
    ] {
        file.execute_batch(step).unwrap();
    }
    file.execute(
        "ATTACH ? AS new",
        [new.url.strip_prefix("sqlite:").unwrap()],
    )
    .unwrap();
    for table in ["users", "rooms", "heads", "memberships", "entries"] {
        let columns = "SELECT group_concat(name) FROM pragma_table_info(?)";
        let columns: String = file.query_row(columns, [table], |row| row.get(0)).unwrap();
        file.execute(
            &format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}"),
            [],
        )
        .unwrap();
    }
    file.execute_batch(
        "INSERT INTO search_numbers (number, room, seq) SELECT row_number() OVER (ORDER BY created_at, id), room, seq FROM entries;
         INSERT INTO search_rooms (room, indexed) SELECT room, last_seq FROM heads;
         INSERT INTO search (rowid, words) SELECT number, text || ' ¤' || lower(hex(room)) FROM search_numbers JOIN entries USING (room, seq);
         PRAGMA application_id = 0x43617573; PRAGMA user_version = 5;",
    )
    .unwrap();
    old
}

async fn on_version_1(database: Database) -> Database {
    let raw = database.documents().await;
    let (notes, rooms) = (
        raw.collection::<Document>("causerie"),
        raw.collection::<Document>("chatrooms"),
    );
    let messages = raw.collection::<Document>("chatmessages");
    notes
        .update_one(
            doc! { "_id": "schema" },
            doc! { "$set": { "version": 1_i64 } },
        )
        .await
        .unwrap();
    notes.delete_one(doc! { "_id": "search" }).await.unwrap();
    messages.drop_index("byTerm").await.unwrap();
    rooms.drop_index("unfinished").await.unwrap();
    let as_it_was = doc! { "$unset": { "search": "" }, "$set": { "searchSeq": i64::try_from(OLD).unwrap() / i64::from(OLD_ROOMS) } };
    rooms
        .update_many(doc! { "_id": { "$gt": "" } }, as_it_was)
        .await
        .unwrap();
    let words = vec![
        doc! { "$set": { "words": { "$split": ["$message.messageText", " "] } } },
        doc! { "$unset": "terms" },
    ];
    messages
        .update_many(doc! { "_id": { "$gt": "" } }, words)
        .await
        .unwrap();
    let by_word = doc! { "key": { "chatRoomId": 1, "words": 1, "createdAt": -1, "_id": -1 }, "name": "byWord",
    "partialFilterExpression": { "words": { "$exists": true } } };
    raw.run_command(doc! { "createIndexes": "chatmessages", "indexes": [by_word] })
        .await
        .unwrap();
    database
}

/// Checks that nothing is left of the earlier index.
async fn former_index_is_gone(database: &Database) {
    if database.url.starts_with("sqlite:") {
        let left = "SELECT count(*) FROM sqlite_schema WHERE name = 'search' OR name LIKE 'search\\_data' ESCAPE '\\' OR name = 'search_numbers'";
        assert_eq!(
            database
                .file()
                .query_row(left, [], |row| row.get::<_, i64>(0))
                .unwrap(),
            0
        );
        let health: String = database
            .file()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(health, "ok");
    } else {
        let messages = database
            .documents()
            .await
            .collection::<Document>("chatmessages");
        assert!(
            !messages
                .list_index_names()
                .await
                .unwrap()
                .contains(&"byWord".to_owned())
        );
        assert_eq!(
            messages
                .count_documents(doc! { "_id": { "$gt": "" }, "words": { "$exists": true } })
                .await
                .unwrap(),
            0
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn an_outdated_index_is_rebuilt_while_searches_run(kind: Kind) {
    let (database, rooms) = of_earlier_version(kind).await;
    let store = database.open().await;
    let everywhere = in_rooms_of(user_id(1));
    // New messages are found at once, wherever they are, and deleted ones are not.
    for (room, n) in rooms.iter().zip(OLD + 1..) {
        append(&store, says(room, n, "a new message 上海")).await;
    }
    let new: Vec<u64> = (OLD + 1..=OLD + u64::from(OLD_ROOMS)).rev().collect();
    assert_eq!(numbers(&store, everywhere, "new 上海").await, new);
    let last = |n: u64| &rooms[usize::try_from(n).unwrap() % rooms.len()];
    assert!(delete(&store, last(7), 7).await);
    let message = MessageId::from_bytes(u128::from(8_u64).to_be_bytes());
    append(
        &store,
        change(
            last(8),
            1,
            NewEntryKind::Edit {
                message,
                text: "something else 上海".into(),
            },
        ),
    )
    .await;
    let beside = if kind == Kind::Sqlite {
        None
    } else {
        Some(database.open().await)
    };
    database.indexed().await;
    former_index_is_gone(&database).await;
    for store in [Some(&store), beside.as_ref()].into_iter().flatten() {
        assert_eq!(
            found(store, everywhere, "上海", None, 5_000).await.len() as u64,
            OLD + u64::from(OLD_ROOMS) - 1
        );
        assert_eq!(
            found(store, everywhere, "message", None, 5_000).await.len() as u64,
            OLD + u64::from(OLD_ROOMS) - 2
        );
        for n in [1, 250, 1_234, OLD] {
            assert_eq!(numbers(store, everywhere, &n.to_string()).await, [n]);
            assert_eq!(
                numbers(store, in_room(last(n)), &format!("{n} 海")).await,
                [n]
            );
        }
        assert_eq!(numbers(store, everywhere, "7").await, [0_u64; 0]);
        assert_eq!(numbers(store, everywhere, "something 海").await, [8]);
    }
}

#[apply(each_store_slow_on_mongodb)]
#[tokio::test]
async fn rebuilding_the_index_survives_kills(kind: Kind) {
    let (database, rooms) = of_earlier_version(kind).await;
    let folder = TempDir::new().unwrap();
    let settings = [("CAUSERIE_DATABASE", database.url.as_str())];
    let mut before = 0;
    for _ in 0..3 {
        let program = Program::start(folder.path(), &settings);
        let deadline = Instant::now() + PATIENCE;
        while before == rows_indexed(&database).await {
            assert!(
                Instant::now() < deadline,
                "nothing is indexed; log: {}",
                program.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            if rows_indexed(&database).await >= OLD {
                break;
            }
        }
        program.kill();
        before = rows_indexed(&database).await;
    }
    let store = database.open().await;
    append(&store, says(&rooms[0], OLD + 1, "a new message 上海")).await;
    assert_eq!(
        numbers(&store, in_rooms_of(user_id(1)), "new").await,
        [OLD + 1]
    );
    database.indexed().await;
    former_index_is_gone(&database).await;
    assert_eq!(
        found(&store, in_rooms_of(user_id(1)), "上海", None, 5_000)
            .await
            .len() as u64,
        OLD + 1
    );
    let store: Store = store;
    store.database.close().await;
}

/// Returns how many old entries are indexed.
async fn rows_indexed(database: &Database) -> u64 {
    if database.url.starts_with("sqlite:") {
        let indexed = "SELECT coalesce(sum(up_to - above), 0) FROM search_logs";
        return database
            .file()
            .query_row(indexed, [], |row| row.get(0))
            .unwrap_or_default();
    }
    let messages = database
        .documents()
        .await
        .collection::<Document>("chatmessages");
    messages
        .count_documents(doc! { "_id": { "$gt": "" }, "terms": { "$exists": true } })
        .await
        .unwrap()
}
