//! The cost of queries on MongoDB, as counted by its profiler, so that the tests need no clock.

use causerie::{
    model::{Room, Seq, Timestamp, UserId},
    store::{NewEntry, NewEntryKind, Page, Scope, Search},
};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use reqwest::Method;
use serde_json::json;

use crate::{
    databases::{Database, Kind},
    harness::TestServer,
    store::{append, change, draft, room, seqs, user, user_id, with_messages},
};

async fn raw(database: &Database) -> mongodb::Database {
    Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap()
}

/// Returns the profiled operations on messages during `work`.
async fn done_by<T>(database: &Database, work: impl Future<Output = T>) -> (T, Vec<Document>) {
    done_with("chatmessages", database, work).await
}

/// Returns the profiled operations on this collection during `work`.
async fn done_with<T>(
    collection: &str,
    database: &Database,
    work: impl Future<Output = T>,
) -> (T, Vec<Document>) {
    let database = raw(database).await;
    let of_collection = doc! { "ns": format!("{}.{collection}", database.name()) };
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    database
        .collection::<Document>("system.profile")
        .drop()
        .await
        .unwrap();
    database
        .run_command(doc! { "profile": 1, "filter": of_collection })
        .await
        .unwrap();
    let outcome = work.await;
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    let mut found = database
        .collection::<Document>("system.profile")
        .find(doc! {})
        .await
        .unwrap();
    let mut done = Vec::new();
    while found.advance().await.unwrap() {
        done.push(found.deserialize_current().unwrap());
    }
    (outcome, done)
}

#[tokio::test]
async fn a_page_behind_many_deletions_is_found_by_a_few_counts() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, room) = with_messages(&database, 500).await;
    let deletions = (3..=500)
        .rev()
        .map(|n| change(&room, 1, NewEntryKind::Deletion(draft(&room, 1, n).id)))
        .collect();
    store.append(deletions).await.unwrap();
    // Indexing for search works on the same collection.
    database.indexed().await;
    let (page, done) = done_by(
        &database,
        store.messages(room.id, Page::Newest { skip: 1 }, 10),
    )
    .await;
    assert_eq!(seqs(&page.unwrap()), [1]);
    assert!((1..=40).contains(&done.len()), "{} questions", done.len());
    let (page, done) = done_by(
        &database,
        store.messages(room.id, Page::Newest { skip: 0 }, 10),
    )
    .await;
    assert_eq!(
        (seqs(&page.unwrap()), done.len()),
        (vec![1, 2], 1),
        "nothing to leave out, nothing to count"
    );
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
    let says = |n| NewEntry {
        change: NewEntryKind::Message {
            text: text(n),
            client_id: None,
        },
        ..draft(&room, 1, n)
    };
    store.append((1..=1_500).map(says).collect()).await.unwrap();
    let search = |words: &str| {
        let scope = Scope::Room {
            room: room.id,
            after: Seq(0),
        };
        store.search(Search {
            scope,
            words: words.into(),
            before: None,
            limit: 10,
        })
    };
    database.indexed().await;
    for words in [
        "common rare often",
        "rare common often",
        "common often and rare",
    ] {
        let (found, done) = done_by(&database, search(words)).await;
        assert_eq!(seqs(&found.unwrap().messages), [7], "{words}");
        let read: i32 = done
            .iter()
            .filter_map(|done| done.get_i32("docsExamined").ok())
            .sum();
        assert!(
            (1..=10).contains(&read),
            "{read} messages were read for {words}"
        );
    }
    let (found, _) = done_by(&database, search("common often")).await;
    assert_eq!(found.unwrap().messages.len(), 10);
}

#[tokio::test]
async fn a_search_reads_nothing_of_rooms_of_others() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, theirs) = with_messages(&database, 0).await;
    let says = |room: &Room, n| {
        let change = NewEntryKind::Message {
            text: format!("common word {n}"),
            client_id: None,
        };
        NewEntry {
            change,
            ..draft(room, room.members[0].as_bytes()[0], n)
        }
    };
    store
        .append((1..=2_000).map(|n| says(&theirs, n)).collect())
        .await
        .unwrap();
    let rooms: Vec<_> = (101..=220).map(|n| room(n, &[9, n])).collect();
    for (room, n) in rooms.iter().zip(3_000..) {
        let room = Room {
            name: Some("one of many".into()),
            ..room.clone()
        };
        store.find_or_add_room(room.clone()).await.unwrap();
        if n % 8 == 0 {
            append(&store, says(&room, n)).await;
        }
    }
    database.indexed().await;
    for (words, count) in [
        ("common", 15),
        ("common word", 15),
        ("missing", 0),
        ("common missing", 0),
    ] {
        let search = Search {
            scope: Scope::RoomsOf {
                user: user_id(9),
                since_joined: false,
            },
            words: words.into(),
            before: None,
            limit: 100,
        };
        let (found, done) = done_by(&database, store.search(search)).await;
        assert_eq!(found.unwrap().messages.len(), count, "{words}");
        let sum = |what| {
            done.iter()
                .filter_map(|done| done.get_i32(what).ok())
                .sum::<i32>()
        };
        assert!(
            sum("docsExamined") <= 500,
            "{} messages were read for {words}",
            sum("docsExamined")
        );
        assert!(
            sum("keysExamined") <= 3_000,
            "{} keys were read for {words}",
            sum("keysExamined")
        );
    }
}

#[tokio::test]
async fn members_who_are_added_at_once_share_commits() {
    let database = Database::new(Kind::ReplicaSet).await;
    let store = database.open().await;
    for n in 101..=200 {
        store.add_user(user(n), None).await.unwrap();
    }
    let server = TestServer::on(database.again(), &[]).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let ids: Vec<_> = (101..=200).rev().map(|n| user_id(n).to_string()).collect();
    let path = format!("/room/{room}/members");
    let add = alice.calls(Method::POST, &path, json!({ "userIds": ids }));
    let (added, done) = done_by(&database, add).await;
    assert_eq!(added.ok()["chatRoom"]["memberCount"], 102);
    let inserts = done
        .iter()
        .filter(|done| done.get_str("op").unwrap() == "insert")
        .count();
    assert!((1..=50).contains(&inserts), "{inserts} commits");
    let log = alice.syncs(&room, "?limit=1000").await;
    let entries = log["entries"].as_array().unwrap();
    let in_order = entries
        .iter()
        .map(|entry| entry["userId"].as_str().unwrap());
    assert_eq!(in_order.collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn a_room_is_rewritten_once_for_all_who_come_and_go_at_once() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, room) = with_messages(&database, 0).await;
    let remove = |n| NewEntryKind::RemoveMember {
        user: user_id(n),
        required_members: Vec::new(),
    };
    append(
        &store,
        change(&room, 1, NewEntryKind::AddMember(user_id(3))),
    )
    .await;
    let coming = (4..=40).map(|n| change(&room, 1, NewEntryKind::AddMember(user_id(n))));
    let going = [2, 3].map(|n| change(&room, 1, remove(n)));
    let (appended, done) = done_with(
        "chatrooms",
        &database,
        store.append(coming.chain(going).collect()),
    )
    .await;
    assert!(
        appended
            .unwrap()
            .iter()
            .all(|appended| appended.placed().is_some())
    );
    let rewritten = |done: &&Document| {
        done.get_str("op").unwrap() == "update" && done.to_string().contains("changedSeq")
    };
    assert_eq!(done.iter().filter(rewritten).count(), 1, "{done:?}");
    let now = store.room(room.id).await.unwrap().unwrap();
    assert_eq!(
        now.members,
        [1].into_iter()
            .chain(4..=40)
            .map(user_id)
            .collect::<Vec<_>>()
    );
    assert_eq!(
        now.joined,
        (4..=40)
            .map(|n| (user_id(n), Seq(u64::from(n) - 2)))
            .collect::<Vec<_>>()
    );
    let again = [
        change(&room, 1, remove(4)),
        change(&room, 1, NewEntryKind::AddMember(user_id(4))),
        change(&room, 1, remove(5)),
    ];
    assert!(
        store
            .append(again.into())
            .await
            .unwrap()
            .iter()
            .all(|appended| appended.placed().is_some())
    );
    let now = store.room(room.id).await.unwrap().unwrap();
    assert_eq!(
        (now.visible_from(user_id(4)), now.has_member(user_id(5))),
        (Seq(42), false)
    );
}

#[tokio::test]
async fn a_post_in_a_large_room_asks_for_its_author_alone() {
    let database = Database::new(Kind::ReplicaSet).await;
    let store = database.open().await;
    let room = Room {
        members: (1..=150).map(user_id).collect(),
        name: Some("large".into()),
        ..room(200, &[1])
    };
    store.find_or_add_room(room.clone()).await.unwrap();
    append(
        &store,
        change(&room, 1, NewEntryKind::AddMember(user_id(151))),
    )
    .await;
    let posts = (1..=3)
        .map(|n| draft(&room, 149 + u8::try_from(n % 2).unwrap(), n))
        .collect();
    let (appended, done) = done_with("chatrooms", &database, store.append(posts)).await;
    assert!(
        appended
            .unwrap()
            .iter()
            .all(|appended| appended.placed().is_some())
    );
    let looked_through = |done: &&Document| {
        done.get_document("command")
            .unwrap()
            .to_string()
            .contains("$setIntersection")
    };
    assert!(
        !done.is_empty()
            && done.iter().all(|done| done
                .get_i32("docsExamined")
                .is_ok_and(|examined| examined <= 1)),
        "{done:?}"
    );
    assert_eq!(done.iter().filter(looked_through).count(), 0, "{done:?}");
}

#[tokio::test]
async fn a_large_room_says_nothing_new_of_its_activity_when_members_come_and_go() {
    let database = Database::new(Kind::ReplicaSet).await;
    let store = database.open().await;
    let members: Vec<UserId> = (1..=101).map(user_id).collect();
    let room = Room {
        members,
        name: Some("large".into()),
        ..room(100, &[1])
    };
    store.find_or_add_room(room.clone()).await.unwrap();
    let raw = raw(&database).await;
    let said = async || {
        let room = raw
            .collection::<Document>("chatrooms")
            .find_one(doc! { "_id": room.id.to_string() })
            .await
            .unwrap()
            .unwrap();
        (
            room.get_bool("large").unwrap(),
            room.get_datetime("activeUntil")
                .ok()
                .map(|at| at.timestamp_millis()),
        )
    };
    let at = |at, what| NewEntry {
        created_at: Timestamp(at),
        ..change(&room, 1, what)
    };
    let (large, before) = said().await;
    assert!(large);
    assert!(
        append(&store, at(20_000, NewEntryKind::AddMember(user_id(102))))
            .await
            .placed()
            .is_some()
    );
    assert!(
        append(
            &store,
            at(
                30_000,
                NewEntryKind::RemoveMember {
                    user: user_id(102),
                    required_members: Vec::new()
                }
            )
        )
        .await
        .placed()
        .is_some()
    );
    assert_eq!(said().await, (true, before));
    assert!(
        append(
            &store,
            at(
                40_000,
                NewEntryKind::RemoveMember {
                    user: user_id(101),
                    required_members: Vec::new()
                }
            )
        )
        .await
        .placed()
        .is_some()
    );
    assert_eq!(
        said().await,
        (false, Some(40_000)),
        "nobody would find it among what is recent"
    );
    assert!(
        append(&store, at(50_000, NewEntryKind::AddMember(user_id(101))))
            .await
            .placed()
            .is_some()
    );
    assert!(said().await.0);
}
