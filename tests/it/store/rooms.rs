//! The contract of the store about rooms.

use causerie::{
    model::{MessageId, Room, RoomId, RoomType, Seq, Timestamp},
    store::{Appended, Limit, NewEntry, Page},
};
use rstest_reuse::apply;

use crate::{
    each_deployment, each_deployment_slow_on_mongodb,
    support::{
        databases::{Database, Kind},
        store::{delete, draft, mark_read, recents, room, user, user_id, with_messages},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn missing_items_are_none(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let nowhere = room(9, &[9]);
    assert_eq!(store.users.find(user_id(9)).await.unwrap(), None);
    assert_eq!(store.users.find_many(&[user_id(9)]).await.unwrap(), []);
    assert_eq!(store.accounts.list(None, 0, 10).await.unwrap(), []);
    assert!(!store.users.delete(user_id(9), Timestamp(1)).await.unwrap());
    assert_eq!(store.rooms.find(nowhere.id).await.unwrap(), None);
    assert_eq!(store.rooms.delete(nowhere.id).await.unwrap(), None);
    assert_eq!(
        store.log.append(vec![draft(&nowhere, 9, 1)]).await.unwrap(),
        [Appended::NoRoom]
    );
    assert_eq!(store.log.append(vec![]).await.unwrap(), []);
    for page in [
        Page::Newest { skip: 0 },
        Page::Before(Seq(5)),
        Page::After(Seq(0)),
    ] {
        assert_eq!(
            store
                .history
                .messages(nowhere.id, page, Limit::items(10))
                .await
                .unwrap(),
            []
        );
    }
    assert_eq!(
        store
            .history
            .message(MessageId::from_bytes([9; 16]))
            .await
            .unwrap(),
        None
    );
    assert!(!delete(&store, &nowhere, 9).await);
    assert_eq!(recents(&store, 9, 0, 10).await, []);
    assert_eq!(
        store
            .read_marks
            .mark_read(nowhere.id, user_id(9), None, Timestamp(1))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        store
            .history
            .entries(nowhere.id, Seq(0), None, Limit::items(10))
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.history.last_seqs(&[nowhere.id]).await.unwrap(), []);
    assert_eq!(store.read_marks.unread(user_id(9), None).await.unwrap(), []);
    assert_eq!(
        store
            .read_marks
            .unread(user_id(9), Some(&[nowhere.id]))
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        store
            .memberships
            .rooms_of(user_id(9), None, 10)
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        store
            .read_marks
            .between(nowhere.id, &[user_id(9)], Seq(1), Seq(9))
            .await
            .unwrap(),
        []
    );
    store.database.ping().await.unwrap();
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_hundred_concurrent_calls_find_one_room(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let asking: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.rooms.find_or_add(room(n, &[1, 2])).await.unwrap() })
        })
        .collect();
    let mut found = Vec::new();
    for asker in asking {
        found.push(asker.await.unwrap());
    }
    assert_eq!(found.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(found.iter().all(|(room, _)| room.id == found[0].0.id));
    let support = Room {
        kind: RoomType::ConsumerToSupport,
        ..room(101, &[1, 2])
    };
    assert_eq!(
        *store.rooms.find_or_add(support.clone()).await.unwrap().0,
        support
    );
    assert!(
        store
            .rooms
            .find_or_add(room(102, &[1, 2, 3]))
            .await
            .unwrap()
            .1
    );
    assert!(store.rooms.find_or_add(room(103, &[1])).await.unwrap().1);
}

#[apply(each_deployment)]
#[tokio::test]
async fn recents_follow_the_latest_message(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let rooms: Vec<_> = (0..5).map(|n| room(100 + n, &[1, 10 + n])).collect();
    for room in &rooms {
        store.rooms.find_or_add(room.clone()).await.unwrap();
    }
    let recents = async |skip, limit| {
        let recents = recents(&store, 1, skip, limit).await;
        recents
            .iter()
            .map(|message| {
                (
                    rooms
                        .iter()
                        .position(|room| room.id == message.room)
                        .unwrap(),
                    message.seq.0,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(recents(0, 10).await, []);
    for (n, room) in [3, 0, 4, 3].into_iter().zip(1..) {
        store
            .log
            .append(vec![draft(&rooms[n], 1, room)])
            .await
            .unwrap();
    }
    assert_eq!(recents(0, 10).await, [(3, 2), (4, 1), (0, 1)]);
    assert_eq!(recents(1, 1).await, [(4, 1)]);
    assert_eq!(recents(3, 10).await, []);
    delete(&store, &rooms[3], 4).await;
    assert_eq!(recents(0, 10).await, [(4, 1), (0, 1), (3, 1)]);
    delete(&store, &rooms[0], 2).await;
    store.rooms.delete(rooms[4].id).await.unwrap();
    assert_eq!(recents(0, 10).await, [(3, 1)]);
}

#[apply(each_deployment)]
#[tokio::test]
async fn recents_are_ordered_among_many_small_and_large_rooms(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let large = room(200, &(1..=150).collect::<Vec<_>>());
    let rooms: Vec<_> = (0..60)
        .map(|n| room(n, &[1, 100 + n]))
        .chain([large])
        .collect();
    for room in &rooms {
        store.rooms.find_or_add(room.clone()).await.unwrap();
    }
    // Each room gets two messages, in mixed order.
    let mut latest = vec![Vec::new(); rooms.len()];
    for n in 1..=122_u32 {
        let index = usize::try_from(n * 37 % 61).unwrap();
        let created_at = Timestamp(10_000 + 40 * i64::from(n));
        store
            .log
            .append(vec![NewEntry {
                created_at,
                ..draft(&rooms[index], 1, n.into())
            }])
            .await
            .unwrap();
        latest[index].push(n);
    }
    for n in (70..=122_u64).step_by(2) {
        delete(&store, &rooms[usize::try_from(n * 37 % 61).unwrap()], n).await;
    }
    let mut expected: Vec<_> = latest
        .iter()
        .filter_map(|posted| posted.iter().rfind(|n| **n < 70 || **n % 2 == 1).copied())
        .collect();
    expected.sort_unstable_by(|a, b| b.cmp(a));
    for (skip, limit) in [
        (0, 100),
        (0, 1),
        (0, 5),
        (5, 5),
        (13, 20),
        (40, 10),
        (58, 10),
        (61, 10),
        (0, 61),
    ] {
        let recents = recents(&store, 1, skip, limit).await;
        let found: Vec<_> = recents.iter().map(|message| message.text.clone()).collect();
        let page = expected
            .iter()
            .skip(usize::try_from(skip).unwrap())
            .take(usize::try_from(limit).unwrap());
        assert_eq!(
            found,
            page.map(|n| format!("text {n}")).collect::<Vec<_>>(),
            "skip {skip} limit {limit}"
        );
    }
}

#[apply(each_deployment_slow_on_mongodb)]
#[tokio::test]
async fn deleting_a_large_room_deletes_all_its_data(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2_500).await;
    mark_read(&store, &room, user_id(2), 1).await;
    delete(&store, &room, 7).await;
    assert_eq!(
        store.rooms.find(room.id).await.unwrap().as_deref(),
        Some(&room)
    );
    assert_eq!(store.rooms.delete(room.id).await.unwrap(), Some(2_499));
    assert_eq!(store.rooms.find(room.id).await.unwrap(), None);
    assert_eq!(
        store
            .history
            .message(draft(&room, 1, 2_000).id)
            .await
            .unwrap(),
        None
    );
    assert!(!delete(&store, &room, 2_000).await);
    assert_eq!(recents(&store, 1, 0, 10).await, []);
    let again = Room {
        id: RoomId::from_bytes([55; 16]),
        ..room.clone()
    };
    assert!(store.rooms.find_or_add(again).await.unwrap().1);
    store.database.close().await;
    // Data of the deleted room that is left is removed now or after the next start. The operation
    // timeout determines how soon.
    let store = database
        .open_with(&[("CAUSERIE_MONGODB__OPERATION_TIMEOUT_MS", "2000")])
        .await;
    let deadline = std::time::Instant::now() + crate::support::harness::PATIENCE;
    while !store
        .history
        .messages(room.id, Page::After(Seq(0)), Limit::items(10))
        .await
        .unwrap()
        .is_empty()
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the log of a deleted room is still there"
        );
        tokio::task::yield_now().await;
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn all_data_survives_a_restart(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 3).await;
    mark_read(&store, &room, user_id(2), 100).await;
    let secret = store.database.token_secret([1; 32]).await.unwrap();
    assert_eq!(secret, [1; 32]);
    let before = store
        .history
        .messages(room.id, Page::After(Seq(0)), Limit::items(10))
        .await
        .unwrap();
    store.database.close().await;
    assert!(
        store.database.ping().await.is_err(),
        "a closed store says so"
    );
    drop(store);
    let store = database.open().await;
    assert_eq!(
        store
            .history
            .messages(room.id, Page::After(Seq(0)), Limit::items(10))
            .await
            .unwrap(),
        before
    );
    assert_eq!(
        store.users.find(user_id(1)).await.unwrap().as_deref(),
        Some(&user(1))
    );
    assert_eq!(
        store.rooms.find(room.id).await.unwrap().as_deref(),
        Some(&room)
    );
    assert_eq!(mark_read(&store, &room, user_id(2), 200).await, 0);
    assert_eq!(
        store.database.token_secret([2; 32]).await.unwrap(),
        secret,
        "the first secret stays"
    );
    assert_eq!(
        store.log.append(vec![draft(&room, 1, 4)]).await.unwrap()[0]
            .placed()
            .map(|placed| placed.seq),
        Some(Seq(4))
    );
}
