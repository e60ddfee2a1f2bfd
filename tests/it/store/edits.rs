//! The contract of the store about edits, and messages that are sent twice.

use causerie::{
    model::{ClientId, EntryKind, Message, Room, Seq, Timestamp},
    store::{Appended, Limit, NewEntry, NewEntryKind, Page},
};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        entries::{edit, id, log, placed, room_of_two, text},
        store::{append, change, delete, draft, recents, seqs, with_messages},
    },
};

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

/// Returns the message that was sent earlier.
fn earlier(appended: &Appended) -> (u64, &EntryKind) {
    match appended {
        Appended::Duplicate(entry) => (entry.seq.0, &entry.what),
        other => panic!("{other:?} is no duplicate"),
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn an_edit_replaces_the_text_and_is_logged(kind: Kind) {
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
    let edited = store.history.message(id(2)).await.unwrap().unwrap();
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
        .history
        .messages(room.id, Page::Newest { skip: 0 }, Limit::items(10))
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

#[apply(each_deployment)]
#[tokio::test]
async fn a_deleted_message_cannot_be_edited(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2).await;
    let batch = vec![
        change(&room, 1, edit(1, "before")),
        change(&room, 1, NewEntryKind::Deletion(id(1))),
        change(&room, 1, edit(1, "after")),
        change(&room, 1, NewEntryKind::Deletion(id(1))),
        change(&room, 1, edit(2, "another")),
    ];
    let appended = store.log.append(batch).await.unwrap();
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
                .history
                .messages(room.id, Page::Newest { skip: 0 }, Limit::items(10))
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
    store.rooms.delete(room.id).await.unwrap();
    assert_eq!(
        append(&store, change(&room, 1, edit(2, "gone"))).await,
        Appended::NoRoom
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_message_sent_twice_is_logged_once(kind: Kind) {
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
    let appended = store.log.append(batch).await.unwrap();
    let first = store.history.message(id(1)).await.unwrap().unwrap();
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
    store.database.close().await;
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
async fn a_message_sent_concurrently_is_logged_once(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 0).await;
    // Through two servers where the database can be shared.
    let second = if kind == Kind::Sqlite {
        store.clone()
    } else {
        database.open().await
    };
    let senders: Vec<_> = (0..40_u64)
        .map(|n| {
            let (store, room) = (
                if n % 2 == 0 {
                    store.clone()
                } else {
                    second.clone()
                },
                room.clone(),
            );
            let sent = sent(&room, 1, 1 + n, &format!("{}", n / 8));
            tokio::spawn(async move {
                store
                    .log
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
