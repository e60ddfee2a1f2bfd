//! The contract of the store about logs: sequence numbers, times, pages and deletions.

use causerie::{
    model::{EntryKind, RoomId, Seq, Timestamp, UserId},
    store::{Appended, Limit, LogPosition, NewEntry, NewEntryKind, Page},
};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        entries::{edit, id, log, room_of_two},
        store::{append, change, delete, draft, room, seqs, user, user_id, with_messages},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn logs_have_no_gaps_under_concurrent_appends(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, first) = with_messages(&database, 0).await;
    let second = room(101, &[1]);
    let gone = room(102, &[2]);
    store.rooms.find_or_add(second.clone()).await.unwrap();
    let appending: Vec<_> = (0..20)
        .map(|n| {
            let (store, rooms) = (
                store.clone(),
                [first.clone(), gone.clone(), second.clone(), first.clone()],
            );
            tokio::spawn(async move {
                let batch = rooms
                    .iter()
                    .zip(0..)
                    .map(|(room, k)| draft(room, 1, 1 + n * 4 + k))
                    .collect();
                store.log.append(batch).await.unwrap()
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
                .history
                .messages(first.id, Page::After(Seq(0)), Limit::items(100))
                .await
                .unwrap()
        ),
        in_first
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn timestamps_never_decrease_within_a_log(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 1).await;
    let earlier = NewEntry {
        created_at: Timestamp(1),
        ..draft(&room, 1, 2)
    };
    let placed = store
        .log
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
            .history
            .messages(room.id, Page::After(Seq(1)), Limit::items(1))
            .await
            .unwrap()[0]
            .created_at,
        Timestamp(10_001)
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn pages_omit_deleted_messages_and_nothing_else(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 60).await;
    let mut left: Vec<u64> = (1..=60).collect();
    for n in [60, 59, 1, 30, 31, 32, 33, 10, 58, 20, 40, 41] {
        let id = draft(&room, 1, n).id;
        assert!(
            store
                .history
                .message(id)
                .await
                .unwrap()
                .is_some_and(|message| message.text == format!("text {n}"))
        );
        assert!(delete(&store, &room, n).await);
        assert!(!delete(&store, &room, n).await);
        assert_eq!(store.history.message(id).await.unwrap(), None);
        left.retain(|seq| *seq != n);
        for limit in [1, 7, 60] {
            for skip in (0..=62).step_by(5) {
                let page = store
                    .history
                    .messages(room.id, Page::Newest { skip }, Limit::items(limit))
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
                .history
                .messages(room.id, Page::Before(Seq(seq)), Limit::items(5))
                .await
                .unwrap();
            assert_eq!(
                seqs(&page),
                before[before.len().saturating_sub(5)..],
                "before {seq}"
            );
            let page = store
                .history
                .messages(room.id, Page::After(Seq(seq)), Limit::items(5))
                .await
                .unwrap();
            assert_eq!(seqs(&page), after[..after.len().min(5)], "after {seq}");
        }
    }
    let placed = store.log.append(vec![draft(&room, 1, 61)]).await.unwrap();
    assert_eq!(
        placed[0].placed().map(|placed| placed.seq),
        Some(Seq(73)),
        "each deletion has a number, and none is given again"
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_deletion_takes_effect_at_once_for_readers(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    for round in 1..=30 {
        let (id, room) = (user_id(round), room(round, &[round]));
        store.accounts.add(user(round), None).await.unwrap();
        store.rooms.find_or_add(room.clone()).await.unwrap();
        let reading: Vec<_> = (0..4)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        store.users.find(id).await.unwrap();
                        store.rooms.find(room.id).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        store.users.delete(id, Timestamp(1)).await.unwrap();
        store
            .rooms
            .delete(RoomId::from_bytes([round; 16]))
            .await
            .unwrap();
        assert_eq!(store.users.find(id).await.unwrap(), None);
        assert_eq!(
            store
                .rooms
                .find(RoomId::from_bytes([round; 16]))
                .await
                .unwrap(),
            None
        );
        for reader in reading {
            reader.await.unwrap();
        }
        assert_eq!(
            store.users.find(id).await.unwrap(),
            None,
            "what was read before must not come back after"
        );
        assert_eq!(
            store
                .rooms
                .find(RoomId::from_bytes([round; 16]))
                .await
                .unwrap(),
            None
        );
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn the_log_returns_all_entries_with_current_messages(kind: Kind) {
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
        author: UserId::UNKNOWN,
        ..change(&room, 1, NewEntryKind::Deletion(id(1)))
    };
    let current = store.history.message(id(1)).await.unwrap();
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
            UserId::UNKNOWN,
            EntryKind::Deletion(id(1)),
            Timestamp(10_002)
        )
    );
    let some = async |after, up_to: Option<u64>, limit| {
        let entries = store
            .history
            .entries(room.id, Seq(after), up_to.map(Seq), limit)
            .await
            .unwrap();
        entries
            .iter()
            .map(|entry| entry.seq.0)
            .collect::<Vec<u64>>()
    };
    assert_eq!(some(3, None, Limit::items(3)).await, [4, 5, 6]);
    assert_eq!(some(3, Some(5), Limit::items(10)).await, [4, 5]);
    assert_eq!(some(9, None, Limit::items(10)).await, [10]);
    assert!(some(10, None, Limit::items(10)).await.is_empty());
    assert!(some(u64::MAX, None, Limit::items(10)).await.is_empty());
    assert!(some(0, Some(u64::MAX), Limit::items(0)).await.is_empty());
    let empty = room_of_two(&store, 101).await;
    let nowhere = RoomId::from_bytes([9; 16]);
    let ends = store
        .history
        .last_seqs(&[empty.id, nowhere, room.id])
        .await
        .unwrap();
    assert_eq!(ends, [(empty.id, Seq(0)), (room.id, Seq(10))]);
}
