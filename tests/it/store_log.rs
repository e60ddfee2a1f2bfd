//! The contract of `Store` about messages: duplicate posts, edits, deletions, and reading the log
//! to catch up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causerie::{
    model::{ClientId, Entry, EntryKind, Message, MessageId, Room, RoomId, Seq, Timestamp, UserId},
    store::{Appended, LogPosition, NewEntry, NewEntryKind, Page, Store},
};
use mongodb::bson::{DateTime, Document, doc};
use rstest::rstest;
use rstest_reuse::apply;

use crate::{
    databases::{Database, Kind},
    each_deployment,
    harness::PATIENCE,
    mongod::Mongod,
    store::{append, change, delete, draft, recents, room, seqs, user, user_id, with_messages},
};

/// How long a server caches the ends of logs without checking which rooms are deleted.
const LEASE: Duration = Duration::from_secs(8);

fn id(n: u64) -> MessageId {
    MessageId::from_bytes(u128::from(n).to_be_bytes())
}

fn edit(n: u64, text: &str) -> NewEntryKind {
    NewEntryKind::Edit {
        message: id(n),
        text: text.into(),
    }
}

/// Returns message `n` with a client id.
fn sent(room: &Room, author: u8, n: u64, client_id: &str) -> NewEntry {
    let client_id = ClientId::parse(client_id);
    NewEntry {
        change: NewEntryKind::Message {
            text: format!("text {n}"),
            client_id,
        },
        ..draft(room, author, n)
    }
}

fn placed(seq: u64, at: i64) -> Appended {
    Appended::Placed(LogPosition {
        seq: Seq(seq),
        created_at: Timestamp(at),
    })
}

/// Returns the message that was sent earlier.
fn earlier(appended: &Appended) -> (u64, &EntryKind) {
    match appended {
        Appended::Duplicate(entry) => (entry.seq.0, &entry.what),
        other => panic!("{other:?} is no duplicate"),
    }
}

async fn text(store: &Arc<dyn Store>, n: u64) -> Option<String> {
    store
        .message(id(n))
        .await
        .unwrap()
        .map(|message| message.text)
}

async fn log(store: &Arc<dyn Store>, room: &Room) -> Vec<Entry> {
    let entries = store.entries(room.id, Seq(0), None, 10_000).await.unwrap();
    assert!(
        entries
            .iter()
            .zip(1..)
            .all(|(entry, seq)| entry.seq == Seq(seq)),
        "a hole or a repeat: {entries:?}"
    );
    entries
}

#[apply(each_deployment)]
#[tokio::test]
async fn an_edit_replaces_the_text_and_stands_in_the_log(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 3).await;
    assert_eq!(
        append(
            &store,
            NewEntry {
                created_at: Timestamp(20_000),
                ..change(&room, 2, edit(2, "better"))
            }
        )
        .await,
        placed(4, 20_000)
    );
    let edited = store.message(id(2)).await.unwrap().unwrap();
    assert_eq!(
        (edited.text.as_str(), edited.seq, edited.edited_at),
        ("better", Seq(2), Some(Timestamp(20_000)))
    );
    assert_eq!(edited.created_at, Timestamp(10_002));
    assert_eq!(
        append(&store, change(&room, 2, edit(2, "best"))).await,
        placed(5, 20_000)
    );
    let page = store
        .messages(room.id, Page::Newest { skip: 0 }, 10)
        .await
        .unwrap();
    assert_eq!(
        page.iter()
            .map(|message| message.text.as_str())
            .collect::<Vec<_>>(),
        ["text 1", "best", "text 3"]
    );
    assert_eq!(
        recents(&store, 1, 0, 1).await,
        page[2..],
        "an edit is no message"
    );
    assert_eq!(append(&store, draft(&room, 1, 4)).await, placed(6, 20_000));
    assert_eq!(
        append(&store, change(&room, 1, edit(9, "nothing"))).await,
        Appended::Unchanged
    );
    let elsewhere = room_of_two(&store, 101).await;
    assert_eq!(
        append(&store, change(&elsewhere, 1, edit(1, "in another room"))).await,
        Appended::Unchanged
    );
    assert_eq!(text(&store, 1).await.as_deref(), Some("text 1"));
}

async fn room_of_two(store: &Arc<dyn Store>, n: u8) -> Room {
    let room = Room {
        name: Some(format!("room {n}")),
        ..room(n, &[1, 2])
    };
    assert!(store.find_or_add_room(room.clone()).await.unwrap().1);
    room
}

#[apply(each_deployment)]
#[tokio::test]
async fn what_is_deleted_is_edited_no_more(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2).await;
    let batch = vec![
        change(&room, 1, edit(1, "before")),
        change(&room, 1, NewEntryKind::Deletion(id(1))),
        change(&room, 1, edit(1, "after")),
        change(&room, 1, NewEntryKind::Deletion(id(1))),
        change(&room, 1, edit(2, "another")),
    ];
    let appended = store.append(batch).await.unwrap();
    assert_eq!(
        appended,
        [
            placed(3, 10_002),
            placed(4, 10_002),
            Appended::Unchanged,
            Appended::Unchanged,
            placed(5, 10_002)
        ]
    );
    assert_eq!(text(&store, 1).await, None);
    assert_eq!(
        append(&store, change(&room, 1, edit(1, "again"))).await,
        Appended::Unchanged
    );
    let elsewhere = room_of_two(&store, 101).await;
    assert_eq!(
        append(&store, change(&elsewhere, 1, NewEntryKind::Deletion(id(2)))).await,
        Appended::Unchanged
    );
    assert_eq!(
        seqs(
            &store
                .messages(room.id, Page::Newest { skip: 0 }, 10)
                .await
                .unwrap()
        ),
        [2]
    );
    assert_eq!(
        recents(&store, 1, 0, 9)
            .await
            .iter()
            .map(|message| message.text.clone())
            .collect::<Vec<_>>(),
        ["another"]
    );
    store.delete_room(room.id).await.unwrap();
    assert_eq!(
        append(&store, change(&room, 1, edit(2, "gone"))).await,
        Appended::NoRoom
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn whoever_catches_up_reads_what_happened_and_how_it_is_now(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2).await;
    let steps = [
        edit(1, "first edit"),
        NewEntryKind::AddMember(user_id(3)),
        NewEntryKind::Rename(Some("$name".into())),
        edit(1, "second edit"),
        NewEntryKind::Deletion(id(2)),
        NewEntryKind::RemoveMember {
            user: user_id(3),
            required_members: Vec::new(),
        },
        NewEntryKind::Rename(None),
    ];
    for step in steps {
        assert!(
            append(&store, change(&room, 1, step))
                .await
                .placed()
                .is_some()
        );
    }
    let nobody = NewEntry {
        author: UserId::NOBODY,
        ..change(&room, 1, NewEntryKind::Deletion(id(1)))
    };
    let current = store.message(id(1)).await.unwrap();
    assert_eq!(
        current
            .as_ref()
            .map(|message| (message.text.as_str(), message.seq)),
        Some(("second edit", Seq(1)))
    );
    let edited = EntryKind::Edit {
        message: id(1),
        current: current.clone(),
    };
    let mut expected = [
        EntryKind::Message(current.unwrap()),
        EntryKind::Deleted(id(2)),
        edited.clone(),
        EntryKind::MemberAdded(user_id(3)),
        EntryKind::Renamed(Some("$name".into())),
        edited,
        EntryKind::Deletion(id(2)),
        EntryKind::MemberRemoved(user_id(3)),
        EntryKind::Renamed(None),
    ];
    let whats = async || {
        log(&store, &room)
            .await
            .into_iter()
            .map(|entry| entry.what)
            .collect::<Vec<_>>()
    };
    assert_eq!(whats().await, expected);
    assert_eq!(
        append(&store, nobody)
            .await
            .placed()
            .map(|placed| placed.seq),
        Some(Seq(10))
    );
    let gone = EntryKind::Edit {
        message: id(1),
        current: None,
    };
    (expected[0], expected[2], expected[5]) = (EntryKind::Deleted(id(1)), gone.clone(), gone);
    assert_eq!(whats().await[..9], expected);
    let last = log(&store, &room).await.pop().unwrap();
    assert_eq!(
        (last.author, last.what, last.created_at),
        (
            UserId::NOBODY,
            EntryKind::Deletion(id(1)),
            Timestamp(10_002)
        )
    );
    let some = async |after, up_to: Option<u64>, limit| {
        let entries = store
            .entries(room.id, Seq(after), up_to.map(Seq), limit)
            .await
            .unwrap();
        entries
            .iter()
            .map(|entry| entry.seq.0)
            .collect::<Vec<u64>>()
    };
    assert_eq!(some(3, None, 3).await, [4, 5, 6]);
    assert_eq!(some(3, Some(5), 10).await, [4, 5]);
    assert_eq!(some(9, None, 10).await, [10]);
    assert!(some(10, None, 10).await.is_empty());
    assert!(some(u64::MAX, None, 10).await.is_empty());
    assert!(some(0, Some(u64::MAX), 0).await.is_empty());
    let empty = room_of_two(&store, 101).await;
    let nowhere = RoomId::from_bytes([9; 16]);
    let ends = store
        .last_seqs(&[empty.id, nowhere, room.id])
        .await
        .unwrap();
    assert_eq!(ends, [(empty.id, Seq(0)), (room.id, Seq(10))]);
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_message_sent_twice_stands_in_the_log_once(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 0).await;
    let other = room_of_two(&store, 101).await;
    let batch = vec![
        sent(&room, 1, 1, "a"),
        sent(&room, 1, 2, "a"),
        sent(&room, 2, 3, "a"),
        sent(&other, 1, 4, "a"),
        sent(&room, 1, 5, "b"),
        sent(&room, 1, 6, "a"),
        draft(&room, 1, 7),
    ];
    let appended = store.append(batch).await.unwrap();
    let first = store.message(id(1)).await.unwrap().unwrap();
    assert_eq!(first.client_id, ClientId::parse("a"));
    assert_eq!(
        earlier(&appended[1]),
        (1, &EntryKind::Message(first.clone()))
    );
    assert_eq!(earlier(&appended[5]), (1, &EntryKind::Message(first)));
    let numbers = [0, 2, 3, 4, 6].map(|n| appended[n].placed().map(|placed| placed.seq.0));
    assert_eq!(numbers, [Some(1), Some(2), Some(1), Some(3), Some(4)]);
    append(&store, change(&room, 1, edit(1, "edited"))).await;
    let again = append(&store, sent(&room, 1, 8, "a")).await;
    assert!(
        matches!(earlier(&again), (1, EntryKind::Message(Message { text, .. })) if text == "edited")
    );
    delete(&store, &room, 1).await;
    store.close().await;
    drop(store);
    let store = database.open().await;
    assert_eq!(
        earlier(&append(&store, sent(&room, 1, 9, "a")).await),
        (1, &EntryKind::Deleted(id(1)))
    );
    assert_eq!(
        append(&store, draft(&room, 1, 10))
            .await
            .placed()
            .map(|placed| placed.seq),
        Some(Seq(7))
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_message_sent_by_many_at_once_stands_in_the_log_once(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 0).await;
    // Through two servers where the database can be shared.
    let second = if kind == Kind::Sqlite {
        Arc::clone(&store)
    } else {
        database.open().await
    };
    let senders: Vec<_> = (0..40_u64)
        .map(|n| {
            let (store, room) = (
                Arc::clone(if n % 2 == 0 { &store } else { &second }),
                room.clone(),
            );
            let sent = sent(&room, 1, 1 + n, &format!("{}", n / 8));
            tokio::spawn(async move {
                store
                    .append(vec![draft(&room, 2, 100 + n), sent])
                    .await
                    .unwrap()
                    .remove(1)
            })
        })
        .collect();
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for sender in senders {
        match sender.await.unwrap() {
            Appended::Placed(placed) => new.push(placed.seq.0),
            other => known.push(earlier(&other).0),
        }
    }
    assert_eq!((new.len(), known.len()), (5, 35));
    assert!(known.iter().all(|seq| new.contains(seq)));
    assert_eq!(log(&store, &room).await.len(), 45);
}

#[rstest]
#[tokio::test]
async fn through_two_servers_what_is_deleted_first_is_edited_no_more(
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
#[tokio::test]
async fn nothing_is_posted_where_a_room_was(
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
    assert_eq!(first.delete_room(room.id).await.unwrap(), Some(9));
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

/// Each batch of a large room takes time to delete. Meanwhile the server processes other pending
/// work.
#[tokio::test]
async fn other_work_goes_on_while_a_large_room_is_taken_away() {
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
    store.delete_room(large.id).await.unwrap();
    let mongodb = mongodb::Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let messages = mongodb.collection::<Document>("chatmessages");
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
    let at = DateTime::from_millis(20_000);
    let edit = doc! {
        "_id": uuid::Uuid::new_v4().simple().to_string(), "chatRoomId": other.id.to_string(), "seq": 2_i64, "type": "edit",
        "target": id(20_000).to_string(), "newText": "edited", "deleted": true, "pending": true,
        "postedByUser": user_id(1).to_string(), "createdAt": at, "updatedAt": at,
    };
    messages.insert_one(edit).await.unwrap();
    while text(&store, 20_000).await.as_deref() != Some("edited") {
        assert!(left().await > 1, "it has waited until all was taken away");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.release().await;
}

#[rstest]
#[tokio::test]
async fn what_a_killed_server_left_undone_is_done(
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
    let room_now = store.room(room.id).await.unwrap().unwrap();
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
async fn what_others_have_done_is_not_done_again_with_what_is_left(
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
    let now = store.room(room.id).await.unwrap().unwrap();
    assert_eq!(now.members, [1, 8, 9].map(user_id));
    assert_eq!(now.joined, [(user_id(8), Seq(3)), (user_id(9), Seq(5))]);
    let (departed, _) = store.departed(Some(Timestamp(0))).await.unwrap();
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

#[tokio::test]
async fn what_was_deleted_or_edited_is_gone_from_the_file() {
    let database = Database::new(Kind::Sqlite).await;
    let (store, room) = with_messages(&database, 0).await;
    for n in 1..=200 {
        append(&store, draft(&room, 1, n)).await;
    }
    for n in (1..=200).step_by(2) {
        append(&store, change(&room, 1, edit(n, "now"))).await;
        assert!(delete(&store, &room, n + 1).await);
    }
    store.close().await;
    let bytes = std::fs::read(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    let is_text = |window: &[u8]| window.starts_with(b"text ") && window[5].is_ascii_digit();
    assert!(!bytes.windows(6).any(is_text), "a text is still there");
}

#[tokio::test]
async fn a_database_from_before_rooms_changed_goes_on() {
    let database = Database::new(Kind::Sqlite).await;
    let file = rusqlite::Connection::open(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(include_str!("../../src/store/sqlite/schema.sql"))
        .unwrap();
    file.execute_batch(include_str!("../../src/store/sqlite/accounts.sql"))
        .unwrap();
    let old = room(100, &[1, 2]);
    let hex = |byte: u8| format!("{byte:02x}").repeat(16);
    let both = format!("x'{}{}'", hex(1), hex(2));
    let [room_id, one, two] = [100, 1, 2].map(|byte| format!("x'{}'", hex(byte)));
    file.execute_batch(&format!(
        "PRAGMA application_id = 0x43617573; PRAGMA user_version = 2;
         INSERT INTO rooms VALUES ({room_id}, 'consumer-to-consumer', {one}, {both}, x'00', 5000);
         INSERT INTO heads VALUES ({room_id}, 2, 10002, x'00000000000000000000000000000002');
         INSERT INTO memberships VALUES ({one}, {room_id}, 0, 2, NULL), ({two}, {room_id}, 0, 0, NULL);
         INSERT INTO entries VALUES ({room_id}, 1, x'00000000000000000000000000000001', {one}, NULL, 10001);
         INSERT INTO entries VALUES ({room_id}, 2, x'00000000000000000000000000000002', {one}, 'old', 10002);"
    ))
    .unwrap();
    drop(file);
    let store = database.open().await;
    store.add_user(user(1), None).await.unwrap();
    assert_eq!(store.room(old.id).await.unwrap().as_deref(), Some(&old));
    assert_eq!(
        append(&store, change(&old, 1, edit(2, "new"))).await,
        placed(3, 10_002)
    );
    assert_eq!(
        append(&store, change(&old, 1, NewEntryKind::AddMember(user_id(3)))).await,
        placed(4, 10_002)
    );
    assert!(matches!(
        log(&store, &old).await[0].what,
        EntryKind::Deleted(_)
    ));
    let unread = store.unread(user_id(2), None).await.unwrap();
    assert_eq!((unread[0].unread, unread[0].last_seq), (1, Seq(4)));
}
