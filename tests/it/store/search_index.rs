//! The search index: how it follows the messages.

use causerie::{
    model::{MessageId, Room},
    store::{Limit, NewEntry, NewEntryKind, SearchQuery, Store},
};
use mongodb::bson::{Document, doc};
use rstest_reuse::apply;

use crate::{
    each_store, each_store_slow_on_mongodb,
    support::{
        databases::{Database, Kind},
        harness::PATIENCE,
        search::{found, in_room, in_rooms_of, numbers, says, with_room},
        store::{append, change, delete, user_id},
    },
};

/// Returns `count` different words of three letters, or of four if `seed` is not 0.
fn many_words(count: usize, seed: usize) -> String {
    let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
    let long = if seed == 0 { "" } else { "z" };
    (0..count)
        .flat_map(|n| {
            format!("{}{}{}{long} ", letter(n), letter(n / 26), letter(n / 676))
                .chars()
                .collect::<Vec<_>>()
        })
        .collect()
}

#[apply(each_store)]
#[tokio::test]
async fn messages_of_very_many_words_do_not_hide_others(kind: Kind) {
    post_edit_and_delete_long_messages(kind, 4).await;
}

#[apply(each_store)]
#[ignore = "slow"]
#[tokio::test]
async fn sixty_messages_of_very_many_words_do_not_hide_others(kind: Kind) {
    post_edit_and_delete_long_messages(kind, 60).await;
}

/// Posts `count` messages of very many words, edits half of them and deletes the others. Checks
/// after each step that all other messages are found.
async fn post_edit_and_delete_long_messages(kind: Kind, count: u64) {
    let (last, last_edited) = (count + 1, count / 2 + 1);
    let database = Database::new(kind).await;
    let (store, room) = with_room(&database, &["before them"]).await;
    let text = many_words(17_576, 0) + &many_words(7_824, 1);
    for n in 2..=last {
        store.log.append(vec![says(&room, n, &text)]).await.unwrap();
    }
    append(&store, says(&room, 100, "behind them 上海")).await;
    for _ in 0..2 {
        check_all_are_found(&store, &room, count).await;
        database.indexed().await;
    }
    check_index_size(
        &database,
        kind,
        usize::try_from(count).unwrap() * text.len() / 4,
    )
    .await;
    let edits = (2..=last_edited).map(|n| edit(&room, n, "short now"));
    store.log.append(edits.collect()).await.unwrap();
    for n in last_edited + 1..=last {
        assert!(delete(&store, &room, n).await);
    }
    for _ in 0..2 {
        assert_eq!(numbers(&store, in_room(&room), "aaa").await, [0_u64; 0]);
        assert_eq!(
            numbers(&store, in_room(&room), "now").await,
            (2..=last_edited).rev().collect::<Vec<_>>()
        );
        database.indexed().await;
    }
    if kind == Kind::Sqlite {
        assert_eq!(
            count_postings(&database, "length(term) = 3 AND term NOT IN ('now')"),
            0
        );
    }
    store.rooms.delete(room.id).await.unwrap();
    if kind == Kind::Sqlite {
        database.indexed().await;
        assert_eq!(count_postings(&database, "true"), 0);
    }
}

/// Checks that the messages around `count` messages of very many words are found, and those by their
/// first words only.
async fn check_all_are_found(store: &Store, room: &Room, count: u64) {
    for (words, expected) in [
        ("behind", vec![100]),
        ("before", vec![1]),
        ("海", vec![100]),
        ("them", vec![100, 1]),
    ] {
        assert_eq!(
            numbers(store, in_rooms_of(user_id(2)), words).await,
            expected,
            "{words}"
        );
    }
    assert_eq!(
        numbers(store, in_room(room), "aaa baa").await.len() as u64,
        count,
        "the first words of each"
    );
    assert_eq!(
        numbers(store, in_room(room), "zzz").await,
        [0_u64; 0],
        "which is behind those that count"
    );
}

fn edit(room: &Room, n: u64, text: &str) -> NewEntry {
    let message = MessageId::from_bytes(u128::from(n).to_be_bytes());
    change(
        room,
        1,
        NewEntryKind::Edit {
            message,
            text: text.into(),
        },
    )
}

/// Returns the number of entries of the index on SQLite that meet the condition.
fn count_postings(database: &Database, condition: &str) -> i64 {
    let count = format!("SELECT count(*) FROM search_postings WHERE {condition}");
    database
        .file()
        .query_row(&count, [], |row| row.get(0))
        .unwrap()
}

/// Checks that the index of the database has at most this many bytes on SQLite, and that no message
/// has very many terms on MongoDB.
async fn check_index_size(database: &Database, kind: Kind, most: usize) {
    if kind == Kind::Sqlite {
        let size = "SELECT sum(length(term) + length(seqs) + 12) FROM search_postings";
        let size: usize = database
            .file()
            .query_row(size, [], |row| row.get(0))
            .unwrap();
        assert!(size < most, "{size} bytes are indexed");
    } else {
        let database = database.documents().await;
        let most = doc! { "_id": { "$gt": "" }, "terms.2000": { "$exists": true } };
        assert_eq!(
            database
                .collection::<Document>("chatmessages")
                .count_documents(most)
                .await
                .unwrap(),
            0
        );
    }
}

#[apply(each_store_slow_on_mongodb)]
#[tokio::test]
async fn a_search_without_matches_ends_in_a_large_room(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_room(&database, &["left and right", "上海东"]).await;
    let text = |n| ["left", "right", "上海和海东"][usize::try_from(n % 3).unwrap()];
    for n in (3..=7_000_u64).step_by(500) {
        store
            .log
            .append((n..n + 500).map(|n| says(&room, n, text(n))).collect())
            .await
            .unwrap();
    }
    for _ in 0..2 {
        for scope in [in_room(&room), in_rooms_of(user_id(1))] {
            assert_eq!(found(&store, scope, "left right", None, 5).await.len(), 1);
            assert_eq!(found(&store, scope, "上海东", None, 5).await.len(), 1);
            assert_eq!(found(&store, scope, "nothing", None, 5).await.len(), 0);
        }
        database.indexed().await;
    }
}

#[tokio::test]
async fn a_search_does_not_wait_for_writers() {
    let database = Database::new(Kind::Sqlite).await;
    let (store, room) = with_room(&database, &["first"]).await;
    let file = database.file();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let search = SearchQuery {
        scope: in_room(&room),
        words: "first".into(),
        before: None,
        limit: Limit::items(10),
    };
    let found = tokio::time::timeout(PATIENCE / 8, store.search.search(search))
        .await
        .expect("it waits")
        .unwrap();
    assert_eq!(found.messages.len(), 1);
    file.execute_batch("ROLLBACK").unwrap();
}
