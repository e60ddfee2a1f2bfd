//! The contract of the store about the number of unread messages.

use std::collections::BTreeMap;

use causerie::{
    model::{EntryKind, MessageId, Room, Seq, Timestamp},
    store::{Appended, Limit, NewEntryKind, Store, Unread},
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use rstest::rstest;
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        store::{add, change, draft, members, remove, room, there, user_id},
    },
};

/// A room with its expected read state, to be compared with a recount of its log.
struct Model {
    room: Room,
    /// How far each member has read.
    read: BTreeMap<u8, u64>,
}

impl Model {
    /// Counts the unread messages of others in `after < seq <= last` by reading all entries.
    async fn recount(&self, store: &Store, reader: u8, after: u64, last: u64) -> u64 {
        let entries = store
            .history
            .entries(
                self.room.id,
                Seq(after),
                Some(Seq(last)),
                Limit::items(u64::MAX >> 40),
            )
            .await
            .unwrap();
        let unread = entries.iter().filter(|entry| {
            entry.author != user_id(reader) && matches!(entry.what, EntryKind::Message(_))
        });
        unread.count() as u64
    }

    async fn check(&self, store: &Store, end: u64) {
        let now = there(store, &self.room).await;
        for reader in members(&now) {
            let after = self
                .read
                .get(&reader)
                .copied()
                .unwrap_or_default()
                .max(now.visible_from(user_id(reader)).0);
            let expected = Unread {
                room: now.id,
                unread: self.recount(store, reader, after, end).await,
                last_seq: Seq(end),
            };
            assert_eq!(
                store
                    .read_marks
                    .unread(user_id(reader), Some(&[now.id]))
                    .await
                    .unwrap(),
                [expected],
                "{reader} read {after}"
            );
        }
    }
}

fn random_change(random: &mut impl Rng, messages: u64) -> NewEntryKind {
    let target =
        MessageId::from_bytes(u128::from(random.random_range(1..=messages.max(1))).to_be_bytes());
    let who = random.random_range(1..=6);
    match random.random_range(0..10) {
        0..4 => NewEntryKind::Edit {
            message: target,
            text: format!("edit {messages}"),
        },
        4..7 => NewEntryKind::Deletion(target),
        7 => add(who),
        8 => remove(who),
        _ => NewEntryKind::Rename(Some(format!("name {messages}"))),
    }
}

#[rstest]
#[case(1)]
#[case(2)]
#[tokio::test]
async fn unread_counts_match_a_recount_after_random_changes(
    #[values(Kind::Sqlite, Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[case] seed: u64,
) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let room = room(100, &[1, 2, 3, 4]);
    store.rooms.find_or_add(room.clone()).await.unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut model, mut messages, mut end) = (
        Model {
            room: room.clone(),
            read: BTreeMap::new(),
        },
        0,
        0,
    );
    for round in 0..60 {
        let mut batch = Vec::new();
        for _ in 0..random.random_range(1..if round % 10 == 0 { 300 } else { 30 }) {
            let author = random.random_range(1..=6);
            if random.random_bool(0.8) {
                messages += 1;
                batch.push(draft(&room, author, messages));
            } else {
                batch.push(change(&room, author, random_change(&mut random, messages)));
            }
        }
        for placed in store
            .log
            .append(batch)
            .await
            .unwrap()
            .iter()
            .filter_map(Appended::placed)
        {
            end += 1;
            assert_eq!(placed.seq.0, end);
        }
        let (reader, up_to) = (random.random_range(1..=6), random.random_range(0..=end + 3));
        let now = there(&store, &room).await;
        let was = model
            .read
            .get(&reader)
            .copied()
            .unwrap_or_default()
            .max(now.visible_from(user_id(reader)).0);
        let marked = store
            .read_marks
            .mark_read(room.id, user_id(reader), Some(Seq(up_to)), Timestamp(1))
            .await
            .unwrap();
        assert_eq!(marked.is_some(), now.has_member(user_id(reader)));
        if let Some(marked) = marked {
            let is = up_to.min(end).max(was);
            assert_eq!(marked.last_read, Seq(is));
            assert_eq!(
                marked.became_read,
                model.recount(&store, reader, was, is).await,
                "{reader} from {was} to {is}"
            );
            assert_eq!(
                marked.unread,
                model.recount(&store, reader, is, end).await,
                "{reader} behind {is}"
            );
            model.read.insert(reader, is);
        }
        model.check(&store, end).await;
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn unread_counts_of_all_rooms_are_returned_at_once(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let rooms: Vec<_> = (0..250)
        .map(|n| room(n, &[251, 252]))
        .map(|room| Room {
            name: Some("x".into()),
            ..room
        })
        .collect();
    let mut expected = Vec::new();
    for (room, n) in rooms.iter().zip(0..) {
        store.rooms.find_or_add(room.clone()).await.unwrap();
        let drafts = (0..n % 7)
            .map(|k| draft(room, if k % 3 == 0 { 251 } else { 252 }, 1 + n * 10 + k))
            .collect();
        store.log.append(drafts).await.unwrap();
        if n % 5 == 0 {
            store
                .read_marks
                .mark_read(room.id, user_id(251), Some(Seq(2)), Timestamp(1))
                .await
                .unwrap();
        }
        let read = if n % 5 == 0 { (n % 7).min(2) } else { 0 };
        let unread = (read..n % 7).filter(|k| k % 3 != 0).count() as u64;
        expected.push(Unread {
            room: room.id,
            unread,
            last_seq: Seq(n % 7),
        });
    }
    let sorted = |mut unread: Vec<Unread>| {
        unread.sort_by_key(|unread| unread.room);
        unread
    };
    assert_eq!(
        sorted(store.read_marks.unread(user_id(251), None).await.unwrap()),
        expected
    );
    let some = [rooms[7].id, room(255, &[1]).id, rooms[200].id];
    assert_eq!(
        sorted(
            store
                .read_marks
                .unread(user_id(251), Some(&some))
                .await
                .unwrap()
        ),
        [expected[7], expected[200]]
    );
    assert_eq!(
        store
            .read_marks
            .unread(user_id(1), Some(&some))
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        store
            .read_marks
            .unread(user_id(251), Some(&[]))
            .await
            .unwrap(),
        []
    );
}
