//! How much the databases read for a page or a search.

use causerie::{
    model::Room,
    store::{Limit, NewEntry, NewEntryKind, Page, Scope, SearchQuery},
};
use mongodb::bson::Document;

use crate::support::{
    costs::done_by,
    databases::{Database, Kind},
    search::{in_room, in_rooms_of, says},
    store::{append, change, draft, room, seqs, user_id, with_messages},
};

#[tokio::test]
async fn a_page_behind_many_deletions_is_found_by_a_few_counts() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, room) = with_messages(&database, 500).await;
    let deletions = (3..=500)
        .rev()
        .map(|n| change(&room, 1, NewEntryKind::Deletion(draft(&room, 1, n).id)))
        .collect();
    store.log.append(deletions).await.unwrap();
    // Indexing for search works on the same collection.
    database.indexed().await;
    let (page, done) = done_by(
        &database,
        store
            .history
            .messages(room.id, Page::Newest { skip: 1 }, Limit::items(10)),
    )
    .await;
    assert_eq!(seqs(&page.unwrap()), [1]);
    assert!((1..=40).contains(&done.len()), "{} questions", done.len());
    let (page, done) = done_by(
        &database,
        store
            .history
            .messages(room.id, Page::Newest { skip: 0 }, Limit::items(10)),
    )
    .await;
    assert_eq!(
        (seqs(&page.unwrap()), done.len()),
        (vec![1, 2], 1),
        "nothing to leave out, nothing to count"
    );
}

fn query(scope: Scope, words: &str, most: u64) -> SearchQuery {
    SearchQuery {
        scope,
        words: words.into(),
        before: None,
        limit: Limit::items(most),
    }
}

/// Returns the sum of a field of the profiled operations.
fn sum(done: &[Document], field: &str) -> i32 {
    done.iter()
        .filter_map(|done| done.get_i32(field).ok())
        .sum()
}

#[tokio::test]
async fn a_search_reads_the_messages_with_its_rarest_word() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, room) = with_messages(&database, 0).await;
    let text = |n| {
        if n == 7 {
            "common, often and rare".to_owned()
        } else {
            format!("common and often {n}")
        }
    };
    store
        .log
        .append((1..=1_500).map(|n| says(&room, n, &text(n))).collect())
        .await
        .unwrap();
    let search = |words: &str| store.search.search(query(in_room(&room), words, 10));
    database.indexed().await;
    for words in [
        "common rare often",
        "rare common often",
        "common often and rare",
    ] {
        let (found, done) = done_by(&database, search(words)).await;
        assert_eq!(seqs(&found.unwrap().messages), [7], "{words}");
        let read = sum(&done, "docsExamined");
        assert!(
            (1..=10).contains(&read),
            "{read} messages were read for {words}"
        );
    }
    let (found, _) = done_by(&database, search("common often")).await;
    assert_eq!(found.unwrap().messages.len(), 10);
}

/// Returns message `n` of the room's first member.
fn common_word(room: &Room, n: u64) -> NewEntry {
    let change = NewEntryKind::Message {
        text: format!("common word {n}"),
        client_id: None,
    };
    NewEntry {
        change,
        ..draft(room, room.members[0].as_bytes()[0], n)
    }
}

#[tokio::test]
async fn a_search_reads_nothing_of_rooms_of_others() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, theirs) = with_messages(&database, 0).await;
    store
        .log
        .append((1..=2_000).map(|n| common_word(&theirs, n)).collect())
        .await
        .unwrap();
    let rooms: Vec<_> = (101..=220).map(|n| room(n, &[9, n])).collect();
    for (room, n) in rooms.iter().zip(3_000..) {
        let room = Room {
            name: Some("one of many".into()),
            ..room.clone()
        };
        store.rooms.find_or_add(room.clone()).await.unwrap();
        if n % 8 == 0 {
            append(&store, common_word(&room, n)).await;
        }
    }
    database.indexed().await;
    for (words, count) in [
        ("common", 15),
        ("common word", 15),
        ("missing", 0),
        ("common missing", 0),
    ] {
        let search = query(in_rooms_of(user_id(9)), words, 100);
        let (found, done) = done_by(&database, store.search.search(search)).await;
        assert_eq!(found.unwrap().messages.len(), count, "{words}");
        let (messages, keys) = (sum(&done, "docsExamined"), sum(&done, "keysExamined"));
        assert!(messages <= 500, "{messages} messages were read for {words}");
        assert!(keys <= 3_000, "{keys} keys were read for {words}");
    }
}
