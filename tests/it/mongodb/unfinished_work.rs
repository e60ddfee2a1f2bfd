//! Work that a server has left, and deleted rooms that several servers have cached.

use std::time::{Duration, Instant};

use causerie::{
    model::{EntryKind, Room, Seq, Timestamp},
    store::{Appended, NewEntryKind},
};
use mongodb::bson::{DateTime, Document, doc};
use rstest::rstest;

use crate::support::{
    databases::{Database, Kind},
    entries::{edit, id, log, room_of_two, text},
    harness::PATIENCE,
    mongod::Mongod,
    store::{append, change, draft, user_id, with_messages},
};

/// How long a server caches the ends of logs without checking which rooms are deleted.
const LEASE: Duration = Duration::from_secs(8);

#[rstest]
#[tokio::test]
async fn on_two_servers_a_deleted_message_cannot_be_edited(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let (first, room) = with_messages(&database, 40).await;
    let second = database.open().await;
    for n in 1..=40 {
        let edits = change(&room, 1, edit(n, &format!("edit {n}")));
        let deletes = change(&room, 1, NewEntryKind::Deletion(id(n)));
        let too = change(&room, 2, NewEntryKind::Deletion(id(n)));
        let (edited, deleted, too) = tokio::join!(
            append(&first, edits),
            append(&second, deletes),
            append(&first, too)
        );
        let deleted: Vec<_> = [deleted, too].iter().filter_map(Appended::placed).collect();
        assert_eq!(deleted.len(), 1, "message {n} was deleted once");
        assert!(
            edited
                .placed()
                .is_none_or(|edited| edited.seq < deleted[0].seq),
            "{edited:?} {deleted:?}"
        );
        assert_eq!(text(&first, n).await, None);
    }
    assert_eq!(log(&second, &room).await, log(&first, &room).await);
}

/// Two servers have cached an outdated end of the log. Where the second would insert its entry
/// there is another one. That one is removed before the third appends, but by then the third no
/// longer has its cached end.
#[rstest]
#[ignore = "slow"]
#[tokio::test]
async fn nothing_is_appended_to_a_deleted_room(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let (first, room) = with_messages(&database, 3).await;
    // The operation timeout determines how soon the data of the deleted room is removed.
    let quick = [("CAUSERIE_MONGODB__OPERATION_TIMEOUT_MS", "3000")];
    let (second, third) = (
        database.open_with(&quick).await,
        database.open_with(&quick).await,
    );
    append(&second, draft(&room, 1, 4)).await;
    append(&third, draft(&room, 1, 5)).await;
    for n in 6..=9 {
        append(&first, draft(&room, 1, n)).await;
    }
    let deleted = Instant::now();
    assert_eq!(first.rooms.delete(room.id).await.unwrap(), Some(9));
    let mongodb = mongodb::Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    // As if the majority had learned of the deletion much later.
    let long_ago = doc! { "$set": { "deletedAt": DateTime::from_millis(0) } };
    mongodb
        .collection::<Document>("chatrooms")
        .update_one(doc! { "_id": room.id.to_string() }, long_ago)
        .await
        .unwrap();
    let messages = mongodb.collection::<Document>("chatmessages");
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        assert_eq!(append(&second, draft(&room, 1, 10)).await, Appended::NoRoom);
        let left = messages
            .count_documents(doc! { "chatRoomId": room.id.to_string() })
            .await
            .unwrap();
        if left == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{left} entries are left");
    }
    assert!(
        deleted.elapsed() >= LEASE,
        "others may not have looked since"
    );
    assert_eq!(append(&third, draft(&room, 1, 11)).await, Appended::NoRoom);
}

/// Returns an edit of message 20,000, the first one of the room, that is to be applied.
fn pending_edit(room: &Room) -> Document {
    let at = DateTime::from_millis(20_000);
    doc! {
        "_id": uuid::Uuid::new_v4().simple().to_string(), "chatRoomId": room.id.to_string(), "seq": 2_i64, "type": "edit",
        "target": id(20_000).to_string(), "newText": "edited", "deleted": true, "pending": true,
        "postedByUser": user_id(1).to_string(), "createdAt": at, "updatedAt": at,
    }
}

/// Each batch of a large room takes time to delete. Meanwhile the server processes other pending
/// work.
#[ignore = "slow"]
#[tokio::test]
async fn other_work_continues_while_a_large_room_is_deleted() {
    let server = Mongod::obedient();
    let database = Database::on(&server);
    let store = database
        .open_with(&[("CAUSERIE_MONGODB__OPERATION_TIMEOUT_MS", "3000")])
        .await;
    let (large, other) = (
        room_of_two(&store, 101).await,
        room_of_two(&store, 102).await,
    );
    for piece in 0..16 {
        store
            .log
            .append(
                (1..=1_000)
                    .map(|n| draft(&large, 1, piece * 1_000 + n))
                    .collect(),
            )
            .await
            .unwrap();
    }
    append(&store, draft(&other, 1, 20_000)).await;
    server
        .hinder(
            "delete",
            "chatmessages",
            doc! { "blockConnection": true, "blockTimeMS": 500 },
        )
        .await;
    store.rooms.delete(large.id).await.unwrap();
    let messages = database
        .documents()
        .await
        .collection::<Document>("chatmessages");
    let left = async || {
        messages
            .count_documents(doc! { "chatRoomId": large.id.to_string() })
            .await
            .unwrap()
    };
    let deadline = Instant::now() + 2 * PATIENCE;
    while left().await > 16_000 {
        assert!(Instant::now() < deadline, "it is not taken away");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    messages.insert_one(pending_edit(&other)).await.unwrap();
    while text(&store, 20_000).await.as_deref() != Some("edited") {
        assert!(left().await > 1, "it has waited until all was taken away");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.release().await;
}

#[rstest]
#[tokio::test]
async fn effects_left_by_a_killed_server_are_applied(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 3).await;
    let mongodb = mongodb::Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let leave = async |seq: i64, what: &str, target: String| {
        let at = DateTime::from_millis(20_000);
        let entry = doc! {
            "_id": uuid::Uuid::new_v4().simple().to_string(), "chatRoomId": room.id.to_string(), "seq": seq, "type": what,
            "target": target, "newText": format!("text of {seq}"), "deleted": true, "pending": true,
            "postedByUser": user_id(1).to_string(), "createdAt": at, "updatedAt": at,
        };
        mongodb
            .collection::<Document>("chatmessages")
            .insert_one(entry)
            .await
            .unwrap();
    };
    leave(4, "memberAdded", user_id(7).to_string()).await;
    leave(5, "edit", id(1).to_string()).await;
    leave(6, "edit", id(1).to_string()).await;
    leave(7, "edit", id(2).to_string()).await;
    leave(8, "deletion", id(2).to_string()).await;
    leave(9, "memberRemoved", user_id(2).to_string()).await;
    // A reader gets the log with the pending changes applied, an append comes after them, and an
    // older edit does not overwrite a newer one.
    assert!(
        matches!(&log(&store, &room).await[4].what, EntryKind::Edit { current: Some(current), .. } if current.text == "text of 6")
    );
    leave(10, "edit", id(3).to_string()).await;
    assert_eq!(
        append(&store, draft(&room, 2, 20)).await,
        Appended::NotAMember
    );
    assert_eq!(text(&store, 3).await.as_deref(), Some("text of 10"));
    let room_now = store.rooms.find(room.id).await.unwrap().unwrap();
    assert_eq!(
        (
            room_now.has_member(user_id(2)),
            room_now.visible_from(user_id(7))
        ),
        (false, Seq(4))
    );
    assert_eq!(text(&store, 2).await, None);
    leave(11, "edit", id(3).to_string()).await;
    let deadline = Instant::now() + PATIENCE;
    while text(&store, 3).await.as_deref() != Some("text of 11") {
        assert!(
            Instant::now() < deadline,
            "nobody looks for what is left to do"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while left_texts(&mongodb).await > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "edits keep their texts"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[rstest]
#[tokio::test]
async fn effects_applied_by_others_are_not_applied_again(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 0).await;
    let mongodb = mongodb::Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    // User 7 was added and removed, and only the removal is marked as done.
    let done =
        doc! { "$set": { "changedSeq": 2_i64, "joined": [] }, "$unset": { "memberKey": "" } };
    mongodb
        .collection::<Document>("chatrooms")
        .update_one(doc! { "_id": room.id.to_string() }, done)
        .await
        .unwrap();
    let entry = |(seq, what, user): (i64, &str, u8)| {
        let at = DateTime::from_millis(20_000);
        let mut entry = doc! {
            "_id": uuid::Uuid::new_v4().simple().to_string(), "chatRoomId": room.id.to_string(), "seq": seq, "type": what,
            "target": user_id(user).to_string(), "deleted": true, "postedByUser": user_id(1).to_string(), "createdAt": at, "updatedAt": at,
        };
        if seq != 2 {
            entry.insert("pending", true);
        }
        entry
    };
    let left = [
        (1, "memberAdded", 7),
        (2, "memberRemoved", 7),
        (3, "memberAdded", 8),
        (4, "memberRemoved", 2),
        (5, "memberAdded", 9),
    ];
    mongodb
        .collection::<Document>("chatmessages")
        .insert_many(left.map(entry))
        .await
        .unwrap();
    assert_eq!(
        append(&store, draft(&room, 2, 20)).await,
        Appended::NotAMember
    );
    let now = store.rooms.find(room.id).await.unwrap().unwrap();
    assert_eq!(now.members, [1, 8, 9].map(user_id));
    assert_eq!(now.joined, [(user_id(8), Seq(3)), (user_id(9), Seq(5))]);
    let (departed, _) = store
        .rooms
        .removed_members(Some(Timestamp(0)))
        .await
        .unwrap();
    let of_room: Vec<_> = departed
        .iter()
        .filter(|departed| departed.room == room.id)
        .map(|left| (left.user, left.seq))
        .collect();
    assert_eq!(of_room, [(user_id(2), Seq(4))]);
}

async fn left_texts(mongodb: &mongodb::Database) -> u64 {
    let messages = mongodb.collection::<Document>("chatmessages");
    let by_id = mongodb::options::Hint::Name("_id_".into());
    messages
        .count_documents(doc! { "newText": { "$exists": true } })
        .hint(by_id)
        .await
        .unwrap()
}
