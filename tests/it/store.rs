//! The contract of `Store`, with its edge cases. Every store has to pass. `store_log` tests changes
//! of messages, `store_members` tests membership and read state.

use std::sync::Arc;

use causerie::{
    model::{
        Message, MessageId, ReadMark, Room, RoomId, RoomType, Seq, Timestamp, User, UserId,
        UserType,
    },
    store::{Appended, LogPosition, NewEntry, NewEntryKind, Page, RoomPage, Store},
};
use rstest_reuse::apply;

use crate::{
    databases::{Database, Kind},
    each_deployment,
};

pub fn user_id(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

pub fn user(n: u8) -> User {
    let created_at = Timestamp(1_000 + i64::from(n));
    User {
        id: user_id(n),
        first_name: format!("first {n}"),
        last_name: format!("last {n}"),
        kind: UserType::Support,
        created_at,
        updated_at: created_at,
        deleted: false,
    }
}

pub fn room(n: u8, members: &[u8]) -> Room {
    Room {
        id: RoomId::from_bytes([n; 16]),
        kind: RoomType::ConsumerToConsumer,
        name: None,
        initiator: user_id(members[0]),
        members: members.iter().map(|n| user_id(*n)).collect(),
        joined: Vec::new(),
        created_at: Timestamp(5_000),
    }
}

/// Returns a message by member `author`, whose id increases with `n`.
pub fn draft(room: &Room, author: u8, n: u64) -> NewEntry {
    NewEntry {
        id: MessageId::from_bytes(u128::from(n).to_be_bytes()),
        room: room.id,
        author: user_id(author),
        created_at: Timestamp(10_000 + i64::try_from(n).unwrap()),
        change: NewEntryKind::Message {
            text: format!("text {n}"),
            client_id: None,
        },
    }
}

/// Returns an entry by member `author` that is not a message. Its timestamp is as early as
/// possible, so it gets that of the preceding entry.
pub fn change(room: &Room, author: u8, change: NewEntryKind) -> NewEntry {
    let id = uuid::Uuid::new_v4().into();
    NewEntry {
        id,
        room: room.id,
        author: user_id(author),
        created_at: Timestamp(1),
        change,
    }
}

/// Returns the latest messages of a user's rooms.
pub async fn recents(store: &Arc<dyn Store>, user: u8, skip: u64, limit: u64) -> Vec<Message> {
    let page = RoomPage {
        user: user_id(user),
        since_joined: false,
        with_empty: false,
        skip,
        limit,
    };
    store
        .recents(page)
        .await
        .unwrap()
        .into_iter()
        .map(|listed| listed.latest.unwrap())
        .collect()
}

pub async fn append(store: &Arc<dyn Store>, entry: NewEntry) -> Appended {
    store.append(vec![entry]).await.unwrap().remove(0)
}

/// Deletes message `n` as member 1. Returns false when there was none.
pub async fn delete(store: &Arc<dyn Store>, room: &Room, n: u64) -> bool {
    let outcome = append(
        store,
        change(room, 1, NewEntryKind::Deletion(draft(room, 1, n).id)),
    )
    .await;
    assert!(
        matches!(
            outcome,
            Appended::Placed(_) | Appended::Unchanged | Appended::NoRoom
        ),
        "{outcome:?}"
    );
    outcome.placed().is_some()
}

/// Marks the room as read to the end. Returns how many messages became read.
async fn mark_read(store: &Arc<dyn Store>, room: &Room, user: UserId, at: i64) -> u64 {
    store
        .mark_read(room.id, user, None, Timestamp(at))
        .await
        .unwrap()
        .unwrap()
        .became_read
}

pub fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.seq.0).collect()
}

/// Returns a store with a room of users 1 and 2, which holds messages 1 to `count`. The two take
/// turns as authors, beginning with user 1.
pub async fn with_messages(database: &Database, count: u64) -> (Arc<dyn Store>, Room) {
    let store = database.open().await;
    for n in [1, 2] {
        store.add_user(user(n), None).await.unwrap();
    }
    let room = room(100, &[1, 2]);
    store.find_or_add_room(room.clone()).await.unwrap();
    store
        .append(
            (1..=count)
                .map(|n| draft(&room, if n % 2 == 1 { 1 } else { 2 }, n))
                .collect(),
        )
        .await
        .unwrap();
    (store, room)
}

#[apply(each_deployment)]
#[tokio::test]
async fn what_is_not_there_is_none(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let nowhere = room(9, &[9]);
    assert_eq!(store.user(user_id(9)).await.unwrap(), None);
    assert_eq!(store.users_by_id(&[user_id(9)]).await.unwrap(), []);
    assert_eq!(store.list_users(None, 0, 10).await.unwrap(), []);
    assert!(!store.delete_user(user_id(9), Timestamp(1)).await.unwrap());
    assert_eq!(store.room(nowhere.id).await.unwrap(), None);
    assert_eq!(store.delete_room(nowhere.id).await.unwrap(), None);
    assert_eq!(
        store.append(vec![draft(&nowhere, 9, 1)]).await.unwrap(),
        [Appended::NoRoom]
    );
    assert_eq!(store.append(vec![]).await.unwrap(), []);
    for page in [
        Page::Newest { skip: 0 },
        Page::Before(Seq(5)),
        Page::After(Seq(0)),
    ] {
        assert_eq!(store.messages(nowhere.id, page, 10).await.unwrap(), []);
    }
    assert_eq!(
        store.message(MessageId::from_bytes([9; 16])).await.unwrap(),
        None
    );
    assert!(!delete(&store, &nowhere, 9).await);
    assert_eq!(recents(&store, 9, 0, 10).await, []);
    assert_eq!(
        store
            .mark_read(nowhere.id, user_id(9), None, Timestamp(1))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        store.entries(nowhere.id, Seq(0), None, 10).await.unwrap(),
        []
    );
    assert_eq!(store.last_seqs(&[nowhere.id]).await.unwrap(), []);
    assert_eq!(store.unread(user_id(9), None).await.unwrap(), []);
    assert_eq!(
        store.unread(user_id(9), Some(&[nowhere.id])).await.unwrap(),
        []
    );
    assert_eq!(store.rooms_of(user_id(9), None, 10).await.unwrap(), []);
    assert_eq!(
        store
            .read_marks(nowhere.id, &[user_id(9)], Seq(1), Seq(9))
            .await
            .unwrap(),
        []
    );
    store.ping().await.unwrap();
}

#[apply(each_deployment)]
#[tokio::test]
async fn users_are_listed_by_age_and_stay_as_authors_when_deleted(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let mut users = [user(3), user(1), user(2)];
    // With the same time, the id decides.
    users[2].created_at = users[0].created_at;
    for user in &users {
        store.add_user(user.clone(), None).await.unwrap();
    }
    let [third, first, second] = users;
    let all = [first.clone(), second.clone(), third.clone()];
    assert_eq!(store.list_users(None, 0, 10).await.unwrap(), all);
    assert_eq!(store.list_users(None, 1, 1).await.unwrap(), all[1..2]);
    assert_eq!(
        store
            .list_users(Some((second.created_at, second.id)), 0, 10)
            .await
            .unwrap(),
        all[2..]
    );
    assert_eq!(
        store.list_users(None, u64::MAX, u64::MAX).await.unwrap(),
        []
    );
    // Read before and after, since it may be cached.
    assert_eq!(
        store.user(second.id).await.unwrap().as_deref(),
        Some(&second)
    );
    assert!(
        store
            .delete_user(second.id, Timestamp(7_777))
            .await
            .unwrap()
    );
    assert!(
        !store
            .delete_user(second.id, Timestamp(8_888))
            .await
            .unwrap()
    );
    assert_eq!(store.user(second.id).await.unwrap(), None);
    assert_eq!(
        store.list_users(None, 0, 10).await.unwrap(),
        [first.clone(), third.clone()]
    );
    let people = store
        .users_by_id(&[third.id, user_id(99), second.id, first.id])
        .await
        .unwrap();
    let erased = User {
        first_name: String::new(),
        last_name: String::new(),
        updated_at: Timestamp(7_777),
        deleted: true,
        ..second
    };
    assert_eq!(
        people
            .iter()
            .map(|user| (**user).clone())
            .collect::<Vec<_>>(),
        [third, erased, first]
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_hundred_at_once_find_one_room(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let asking: Vec<_> = (0..100)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.find_or_add_room(room(n, &[1, 2])).await.unwrap() })
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
        *store.find_or_add_room(support.clone()).await.unwrap().0,
        support
    );
    assert!(
        store
            .find_or_add_room(room(102, &[1, 2, 3]))
            .await
            .unwrap()
            .1
    );
    assert!(store.find_or_add_room(room(103, &[1])).await.unwrap().1);
}

#[apply(each_deployment)]
#[tokio::test]
async fn logs_are_numbered_without_holes_whoever_appends(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, first) = with_messages(&database, 0).await;
    let second = room(101, &[1]);
    let gone = room(102, &[2]);
    store.find_or_add_room(second.clone()).await.unwrap();
    let appending: Vec<_> = (0..20)
        .map(|n| {
            let (store, rooms) = (
                Arc::clone(&store),
                [first.clone(), gone.clone(), second.clone(), first.clone()],
            );
            tokio::spawn(async move {
                let batch = rooms
                    .iter()
                    .zip(0..)
                    .map(|(room, k)| draft(room, 1, 1 + n * 4 + k))
                    .collect();
                store.append(batch).await.unwrap()
            })
        })
        .collect();
    let (mut in_first, mut in_second) = (Vec::new(), Vec::new());
    for appender in appending {
        let placed = appender.await.unwrap();
        let [
            Appended::Placed(a),
            Appended::NoRoom,
            Appended::Placed(b),
            Appended::Placed(c),
        ] = placed[..]
        else {
            panic!("{placed:?}")
        };
        assert_eq!(c.seq.0, a.seq.0 + 1, "a batch stays together");
        in_first.extend([a.seq.0, c.seq.0]);
        in_second.push(b.seq.0);
    }
    in_first.sort_unstable();
    in_second.sort_unstable();
    assert_eq!(in_first, (1..=40).collect::<Vec<_>>());
    assert_eq!(in_second, (1..=20).collect::<Vec<_>>());
    assert_eq!(
        seqs(
            &store
                .messages(first.id, Page::After(Seq(0)), 100)
                .await
                .unwrap()
        ),
        in_first
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn time_never_runs_backwards_within_a_log(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 1).await;
    let earlier = NewEntry {
        created_at: Timestamp(1),
        ..draft(&room, 1, 2)
    };
    let placed = store
        .append(vec![earlier, draft(&room, 2, 3)])
        .await
        .unwrap();
    let at = |seq, time| {
        Appended::Placed(LogPosition {
            seq: Seq(seq),
            created_at: Timestamp(time),
        })
    };
    assert_eq!(placed, [at(2, 10_001), at(3, 10_003)]);
    assert_eq!(
        store
            .messages(room.id, Page::After(Seq(1)), 1)
            .await
            .unwrap()[0]
            .created_at,
        Timestamp(10_001)
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn pages_leave_out_what_was_deleted_and_nothing_else(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 60).await;
    let mut left: Vec<u64> = (1..=60).collect();
    for n in [60, 59, 1, 30, 31, 32, 33, 10, 58, 20, 40, 41] {
        let id = draft(&room, 1, n).id;
        assert!(
            store
                .message(id)
                .await
                .unwrap()
                .is_some_and(|message| message.text == format!("text {n}"))
        );
        assert!(delete(&store, &room, n).await);
        assert!(!delete(&store, &room, n).await);
        assert_eq!(store.message(id).await.unwrap(), None);
        left.retain(|seq| *seq != n);
        for limit in [1, 7, 60] {
            for skip in (0..=62).step_by(5) {
                let page = store
                    .messages(room.id, Page::Newest { skip }, limit)
                    .await
                    .unwrap();
                let end = left.len().saturating_sub(usize::try_from(skip).unwrap());
                let start = end.saturating_sub(usize::try_from(limit).unwrap());
                assert_eq!(seqs(&page), left[start..end], "skip {skip} limit {limit}");
            }
        }
        for seq in [0, 1, 10, 34, 60, 61, u64::MAX] {
            let before: Vec<_> = left.iter().copied().filter(|n| *n < seq).collect();
            let after: Vec<_> = left.iter().copied().filter(|n| *n > seq).collect();
            let page = store
                .messages(room.id, Page::Before(Seq(seq)), 5)
                .await
                .unwrap();
            assert_eq!(
                seqs(&page),
                before[before.len().saturating_sub(5)..],
                "before {seq}"
            );
            let page = store
                .messages(room.id, Page::After(Seq(seq)), 5)
                .await
                .unwrap();
            assert_eq!(seqs(&page), after[..after.len().min(5)], "after {seq}");
        }
    }
    let placed = store.append(vec![draft(&room, 1, 61)]).await.unwrap();
    assert_eq!(
        placed[0].placed().map(|placed| placed.seq),
        Some(Seq(73)),
        "each deletion has a number, and none is given again"
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn marks_count_what_became_read_and_remember_when(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 10).await;
    let (one, two) = (user_id(1), user_id(2));
    delete(&store, &room, 3).await;
    assert_eq!(
        mark_read(&store, &room, two, 20_100).await,
        4,
        "1, 5, 7 and 9"
    );
    assert_eq!(mark_read(&store, &room, two, 20_200).await, 0);
    store.append(vec![draft(&room, 2, 11)]).await.unwrap();
    assert_eq!(mark_read(&store, &room, two, 20_300).await, 0, "one's own");
    store
        .append(vec![draft(&room, 1, 12), draft(&room, 1, 13)])
        .await
        .unwrap();
    assert_eq!(mark_read(&store, &room, two, 20_400).await, 2);
    assert_eq!(mark_read(&store, &room, one, 5).await, 6);
    // The clock of user 1 is behind: a message is never read before it was written.
    let mark = |user, up_to, at| ReadMark {
        user,
        up_to: Seq(up_to),
        read_at: Timestamp(at),
    };
    let marks = async |readers: &[UserId], first, last| {
        store
            .read_marks(room.id, readers, Seq(first), Seq(last))
            .await
            .unwrap()
    };
    let all = [
        mark(one, 14, 10_013),
        mark(two, 11, 20_100),
        mark(two, 12, 20_300),
        mark(two, 14, 20_400),
    ];
    assert_eq!(marks(&[one, two], 1, 14).await, all);
    assert_eq!(
        marks(&[two], 1, 11).await,
        all[1..2],
        "later marks say nothing about this page"
    );
    assert_eq!(marks(&[two], 13, 13).await, all[3..]);
    assert_eq!(marks(&[two], 15, 20).await, []);
}

#[apply(each_deployment)]
#[tokio::test]
async fn marks_count_long_stretches_exactly(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let room = room(100, &[1, 2, 3]);
    store.find_or_add_room(room.clone()).await.unwrap();
    // The author of each message, in runs of uneven length.
    let author = |n: u64| u8::try_from(1 + n * n % 7 % 3).unwrap();
    let mut end = 0;
    let mut gone = Vec::new();
    let mut read = [0; 4];
    for (reader, up_to) in [
        (1, 300),
        (2, 999),
        (3, 1_000),
        (1, 1_001),
        (2, 3_500),
        (1, 3_600),
        (3, 3_999),
        (3, 4_000),
        (2, 4_000),
    ] {
        let news: Vec<_> = (end + 1..=up_to)
            .map(|n| draft(&room, author(n), n))
            .collect();
        for some in news.chunks(200) {
            store.append(some.to_vec()).await.unwrap();
        }
        for n in (end + 1..=up_to).filter(|n| n % 501 == 0) {
            assert!(delete(&store, &room, n).await);
            gone.push(n);
        }
        end = up_to;
        let read = &mut read[usize::from(reader)];
        let unread = (*read + 1..=up_to)
            .filter(|n| author(*n) != reader && !gone.contains(n))
            .count();
        let marked = mark_read(&store, &room, user_id(reader), 1).await;
        assert_eq!(
            marked,
            u64::try_from(unread).unwrap(),
            "{reader} read {read}, and now {up_to}"
        );
        *read = up_to;
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn recents_follow_the_latest_message(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let rooms: Vec<_> = (0..5).map(|n| room(100 + n, &[1, 10 + n])).collect();
    for room in &rooms {
        store.find_or_add_room(room.clone()).await.unwrap();
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
        store.append(vec![draft(&rooms[n], 1, room)]).await.unwrap();
    }
    assert_eq!(recents(0, 10).await, [(3, 2), (4, 1), (0, 1)]);
    assert_eq!(recents(1, 1).await, [(4, 1)]);
    assert_eq!(recents(3, 10).await, []);
    delete(&store, &rooms[3], 4).await;
    assert_eq!(recents(0, 10).await, [(4, 1), (0, 1), (3, 1)]);
    delete(&store, &rooms[0], 2).await;
    store.delete_room(rooms[4].id).await.unwrap();
    assert_eq!(recents(0, 10).await, [(3, 1)]);
}

#[apply(each_deployment)]
#[tokio::test]
async fn recents_are_in_order_among_many_rooms_small_and_large(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let large = room(200, &(1..=150).collect::<Vec<_>>());
    let rooms: Vec<_> = (0..60)
        .map(|n| room(n, &[1, 100 + n]))
        .chain([large])
        .collect();
    for room in &rooms {
        store.find_or_add_room(room.clone()).await.unwrap();
    }
    // Each room gets two messages, in mixed order.
    let mut latest = vec![Vec::new(); rooms.len()];
    for n in 1..=122_u32 {
        let index = usize::try_from(n * 37 % 61).unwrap();
        let created_at = Timestamp(10_000 + 40 * i64::from(n));
        store
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

#[apply(each_deployment)]
#[tokio::test]
async fn a_room_goes_with_all_it_holds_however_much_that_is(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2_500).await;
    mark_read(&store, &room, user_id(2), 1).await;
    delete(&store, &room, 7).await;
    assert_eq!(store.room(room.id).await.unwrap().as_deref(), Some(&room));
    assert_eq!(store.delete_room(room.id).await.unwrap(), Some(2_499));
    assert_eq!(store.room(room.id).await.unwrap(), None);
    assert_eq!(
        store.message(draft(&room, 1, 2_000).id).await.unwrap(),
        None
    );
    assert!(!delete(&store, &room, 2_000).await);
    assert_eq!(recents(&store, 1, 0, 10).await, []);
    let again = Room {
        id: RoomId::from_bytes([55; 16]),
        ..room.clone()
    };
    assert!(store.find_or_add_room(again).await.unwrap().1);
    store.close().await;
    // Data of the deleted room that is left is removed now or after the next start. The operation
    // timeout determines how soon.
    let store = database
        .open_with(&[("CAUSERIE_MONGODB__OPERATION_TIMEOUT_MS", "2000")])
        .await;
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while !store
        .messages(room.id, Page::After(Seq(0)), 10)
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
async fn everything_is_there_after_a_restart(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 3).await;
    mark_read(&store, &room, user_id(2), 100).await;
    let secret = store.token_secret([1; 32]).await.unwrap();
    assert_eq!(secret, [1; 32]);
    let before = store
        .messages(room.id, Page::After(Seq(0)), 10)
        .await
        .unwrap();
    store.close().await;
    assert!(store.ping().await.is_err(), "a closed store says so");
    drop(store);
    let store = database.open().await;
    assert_eq!(
        store
            .messages(room.id, Page::After(Seq(0)), 10)
            .await
            .unwrap(),
        before
    );
    assert_eq!(
        store.user(user_id(1)).await.unwrap().as_deref(),
        Some(&user(1))
    );
    assert_eq!(store.room(room.id).await.unwrap().as_deref(), Some(&room));
    assert_eq!(mark_read(&store, &room, user_id(2), 200).await, 0);
    assert_eq!(
        store.token_secret([2; 32]).await.unwrap(),
        secret,
        "the first secret stays"
    );
    assert_eq!(
        store.append(vec![draft(&room, 1, 4)]).await.unwrap()[0]
            .placed()
            .map(|placed| placed.seq),
        Some(Seq(4))
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_deletion_takes_hold_at_once_whoever_is_reading(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    for round in 1..=30 {
        let (id, room) = (user_id(round), room(round, &[round]));
        store.add_user(user(round), None).await.unwrap();
        store.find_or_add_room(room.clone()).await.unwrap();
        let reading: Vec<_> = (0..4)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for _ in 0..20 {
                        store.user(id).await.unwrap();
                        store.room(room.id).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        store.delete_user(id, Timestamp(1)).await.unwrap();
        store
            .delete_room(RoomId::from_bytes([round; 16]))
            .await
            .unwrap();
        assert_eq!(store.user(id).await.unwrap(), None);
        assert_eq!(
            store.room(RoomId::from_bytes([round; 16])).await.unwrap(),
            None
        );
        for reader in reading {
            reader.await.unwrap();
        }
        assert_eq!(
            store.user(id).await.unwrap(),
            None,
            "what was read before must not come back after"
        );
        assert_eq!(
            store.room(RoomId::from_bytes([round; 16])).await.unwrap(),
            None
        );
    }
}
