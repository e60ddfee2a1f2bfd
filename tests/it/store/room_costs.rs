//! How much MongoDB reads and writes for posts and member changes.

use causerie::{
    model::{Room, Seq, Timestamp, UserId},
    store::{Appended, NewEntry, NewEntryKind, Store},
};
use mongodb::bson::{Document, doc};
use reqwest::Method;
use serde_json::json;

use crate::support::{
    costs::{done_by, done_with, raw},
    databases::{Database, Kind},
    harness::TestServer,
    store::{append, change, draft, room, user, user_id, with_messages},
};

#[tokio::test]
async fn members_who_are_added_at_once_share_commits() {
    let database = Database::new(Kind::ReplicaSet).await;
    let store = database.open().await;
    for n in 101..=200 {
        store.accounts.add(user(n), None).await.unwrap();
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

fn remove(n: u8) -> NewEntryKind {
    NewEntryKind::RemoveMember {
        user: user_id(n),
        required_members: Vec::new(),
    }
}

fn are_placed(appended: &[Appended]) -> bool {
    appended.iter().all(|appended| appended.placed().is_some())
}

#[tokio::test]
async fn concurrent_member_changes_rewrite_the_room_once() {
    let database = Database::new(Kind::ReplicaSet).await;
    let (store, room) = with_messages(&database, 0).await;
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
        store.log.append(coming.chain(going).collect()),
    )
    .await;
    assert!(are_placed(&appended.unwrap()));
    let rewritten = |done: &&Document| {
        done.get_str("op").unwrap() == "update" && done.to_string().contains("changedSeq")
    };
    assert_eq!(done.iter().filter(rewritten).count(), 1, "{done:?}");
    let now = store.rooms.find(room.id).await.unwrap().unwrap();
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
    assert!(are_placed(&store.log.append(again.into()).await.unwrap()));
    let now = store.rooms.find(room.id).await.unwrap().unwrap();
    assert_eq!(
        (now.visible_from(user_id(4)), now.has_member(user_id(5))),
        (Seq(42), false)
    );
}

#[tokio::test]
async fn a_post_in_a_large_room_looks_up_only_its_author() {
    let database = Database::new(Kind::ReplicaSet).await;
    let store = database.open().await;
    let room = Room {
        members: (1..=150).map(user_id).collect(),
        name: Some("large".into()),
        ..room(200, &[1])
    };
    store.rooms.find_or_add(room.clone()).await.unwrap();
    append(
        &store,
        change(&room, 1, NewEntryKind::AddMember(user_id(151))),
    )
    .await;
    let posts = (1..=3)
        .map(|n| draft(&room, 149 + u8::try_from(n % 2).unwrap(), n))
        .collect();
    let (appended, done) = done_with("chatrooms", &database, store.log.append(posts)).await;
    assert!(are_placed(&appended.unwrap()));
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

/// Appends a change of this time, in milliseconds, and checks that it was placed.
async fn change_at(store: &Store, room: &Room, at: i64, what: NewEntryKind) {
    let entry = NewEntry {
        created_at: Timestamp(at),
        ..change(room, 1, what)
    };
    assert!(append(store, entry).await.placed().is_some());
}

#[tokio::test]
async fn member_changes_in_a_large_room_do_not_rewrite_its_activity() {
    let database = Database::new(Kind::ReplicaSet).await;
    let store = database.open().await;
    let members: Vec<UserId> = (1..=101).map(user_id).collect();
    let room = Room {
        members,
        name: Some("large".into()),
        ..room(100, &[1])
    };
    store.rooms.find_or_add(room.clone()).await.unwrap();
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
    let (large, before) = said().await;
    assert!(large);
    change_at(&store, &room, 20_000, NewEntryKind::AddMember(user_id(102))).await;
    change_at(&store, &room, 30_000, remove(102)).await;
    assert_eq!(said().await, (true, before));
    change_at(&store, &room, 40_000, remove(101)).await;
    assert_eq!(
        said().await,
        (false, Some(40_000)),
        "nobody would find it among what is recent"
    );
    change_at(&store, &room, 50_000, NewEntryKind::AddMember(user_id(101))).await;
    assert!(said().await.0);
}
