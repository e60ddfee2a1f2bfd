//! The contract of `Store` about membership and read state.

use std::{collections::BTreeMap, sync::Arc};

use causerie::{
    model::{EntryKind, MessageId, ReadMark, Room, Seq, Timestamp},
    store::{Appended, Marked, NewEntry, NewEntryKind, Page, Store, Unread},
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use rstest::rstest;
use rstest_reuse::apply;

use crate::{
    databases::{Database, Kind},
    each_deployment,
    store::{append, change, draft, recents, room, seqs, user_id, with_messages},
};

async fn there(store: &Arc<dyn Store>, room: &Room) -> Room {
    Room::clone(store.room(room.id).await.unwrap().unwrap().as_ref())
}

fn remove_if(n: u8, required_members: &[u8]) -> NewEntryKind {
    NewEntryKind::RemoveMember {
        user: user_id(n),
        required_members: required_members.iter().copied().map(user_id).collect(),
    }
}

fn members(room: &Room) -> Vec<u8> {
    room.members
        .iter()
        .map(|member| member.as_bytes()[0])
        .collect()
}

fn add(n: u8) -> NewEntryKind {
    NewEntryKind::AddMember(user_id(n))
}

fn remove(n: u8) -> NewEntryKind {
    remove_if(n, &[])
}

#[apply(each_deployment)]
#[tokio::test]
async fn whoever_is_taken_out_only_while_another_is_there_is_not_taken_out_after_them(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2).await;
    append(&store, change(&room, 1, add(3))).await;
    let batch = vec![
        change(&room, 1, remove_if(2, &[3, 9])),
        change(&room, 1, remove_if(3, &[2])),
        change(&room, 1, remove_if(3, &[8, 9])),
    ];
    let appended = store.append(batch).await.unwrap();
    assert!(appended[0].placed().is_some(), "{appended:?}");
    assert_eq!(
        appended[1..],
        [Appended::NoRequiredMember, Appended::NoRequiredMember]
    );
    assert_eq!(
        append(&store, change(&room, 1, remove_if(3, &[2]))).await,
        Appended::NoRequiredMember
    );
    assert_eq!(members(&there(&store, &room).await), [1, 3]);
    assert!(
        append(&store, change(&room, 1, remove_if(3, &[1])))
            .await
            .placed()
            .is_some()
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn members_come_and_go_and_only_members_post(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2).await;
    assert_eq!(members(&there(&store, &room).await), [1, 2]);
    let batch = vec![
        draft(&room, 2, 3),
        change(&room, 1, add(3)),
        draft(&room, 3, 4),
        change(&room, 1, add(3)),
        change(&room, 2, remove(2)),
        draft(&room, 2, 5),
        change(&room, 2, add(4)),
        change(
            &room,
            2,
            NewEntryKind::Edit {
                message: draft(&room, 2, 2).id,
                text: "too late".into(),
            },
        ),
        change(&room, 2, NewEntryKind::Rename(Some("too late".into()))),
        change(&room, 1, remove(9)),
    ];
    let appended = store.append(batch).await.unwrap();
    let numbers: Vec<_> = appended
        .iter()
        .map(|appended| appended.placed().map_or(0, |placed| placed.seq.0))
        .collect();
    assert_eq!(numbers, [3, 4, 5, 0, 6, 0, 0, 0, 0, 0], "{appended:?}");
    assert_eq!(
        (&appended[3], &appended[9]),
        (&Appended::Unchanged, &Appended::Unchanged)
    );
    assert!(
        appended[5..9]
            .iter()
            .all(|appended| *appended == Appended::NotAMember),
        "{appended:?}"
    );
    let now = there(&store, &room).await;
    assert_eq!(
        (members(&now), now.joined.clone()),
        (vec![1, 3], vec![(user_id(3), Seq(4))])
    );
    assert_eq!(
        (now.visible_from(user_id(1)), now.visible_from(user_id(3))),
        (Seq(0), Seq(4))
    );
    assert_eq!(store.rooms_of(user_id(2), None, 10).await.unwrap(), []);
    assert_eq!(recents(&store, 2, 0, 10).await, []);
    assert_eq!(recents(&store, 3, 0, 10).await[0].seq, Seq(5));
    assert_eq!(
        store
            .mark_read(room.id, user_id(2), None, Timestamp(1))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        append(&store, change(&room, 1, add(2)))
            .await
            .placed()
            .map(|placed| placed.seq),
        Some(Seq(7))
    );
    assert_eq!(
        append(&store, draft(&room, 2, 6))
            .await
            .placed()
            .map(|placed| placed.seq),
        Some(Seq(8))
    );
    assert_eq!(there(&store, &room).await.visible_from(user_id(2)), Seq(7));
    assert_eq!(
        seqs(
            &store
                .messages(room.id, Page::Newest { skip: 1 }, 2)
                .await
                .unwrap()
        ),
        [3, 5]
    );
    store.close().await;
    drop(store);
    let store = database.open().await;
    assert_eq!(members(&there(&store, &room).await), [1, 2, 3]);
    assert_eq!(
        append(&store, draft(&room, 4, 7)).await,
        Appended::NotAMember
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_room_that_changed_its_members_or_has_a_name_is_found_by_none(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, changed) = with_messages(&database, 0).await;
    append(
        &store,
        change(&changed, 1, NewEntryKind::Rename(Some("$ours".into()))),
    )
    .await;
    assert_eq!(
        append(
            &store,
            change(&changed, 1, NewEntryKind::Rename(Some("$ours".into())))
        )
        .await,
        Appended::Unchanged
    );
    let (found, is_new) = store.find_or_add_room(room(101, &[1, 2])).await.unwrap();
    assert_eq!(
        (found.id, is_new),
        (changed.id, false),
        "a new name is no new room"
    );
    assert_eq!(there(&store, &changed).await.name.as_deref(), Some("$ours"));
    for step in [add(3), remove(3)] {
        append(&store, change(&changed, 1, step)).await;
    }
    assert_eq!(
        there(&store, &changed).await,
        Room {
            name: Some("$ours".into()),
            ..changed.clone()
        }
    );
    let (other, is_new) = store.find_or_add_room(room(102, &[1, 2])).await.unwrap();
    assert!(is_new);
    let mut named = Vec::new();
    for n in [103, 104] {
        let asked = Room {
            name: Some("the two of us".into()),
            ..room(n, &[1, 2])
        };
        assert_eq!(
            store.find_or_add_room(asked.clone()).await.unwrap(),
            (Arc::new(asked.clone()), true)
        );
        assert_eq!(there(&store, &asked).await, asked);
        named.push(asked.id);
    }
    assert!(!store.find_or_add_room(room(105, &[1, 2])).await.unwrap().1);
    append(
        &store,
        change(&room(103, &[1]), 1, NewEntryKind::Rename(None)),
    )
    .await;
    assert_eq!(there(&store, &room(103, &[1])).await.name, None);
    let all = [changed.id, other.id, named[0], named[1]];
    assert_eq!(store.rooms_of(user_id(1), None, 10).await.unwrap(), all);
    assert_eq!(
        store.rooms_of(user_id(1), Some(all[0]), 2).await.unwrap(),
        all[1..3]
    );
    assert_eq!(
        store.rooms_of(user_id(1), Some(all[3]), 2).await.unwrap(),
        []
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn rooms_grow_large_and_small_again(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let (growing, other) = (room(1, &[1, 2]), room(2, &[1, 3]));
    for room in [&growing, &other] {
        store.find_or_add_room(room.clone()).await.unwrap();
    }
    let recents = async |n| {
        let recents = recents(&store, n, 0, 10).await;
        recents
            .iter()
            .map(|message| (message.room.as_bytes()[0], message.text.clone()))
            .collect::<Vec<_>>()
    };
    append(&store, draft(&growing, 1, 1)).await;
    append(&store, draft(&other, 1, 2)).await;
    let everybody: Vec<_> = (3..=150).map(|n| change(&growing, 1, add(n))).collect();
    assert!(
        store
            .append(everybody)
            .await
            .unwrap()
            .iter()
            .all(|appended| appended.placed().is_some())
    );
    assert_eq!(there(&store, &growing).await.members.len(), 150);
    for n in [1, 3] {
        assert_eq!(
            recents(n).await,
            [(2, "text 2".into()), (1, "text 1".into())]
        );
    }
    append(
        &store,
        NewEntry {
            created_at: Timestamp(30_000),
            ..draft(&growing, 150, 3)
        },
    )
    .await;
    for n in [1, 3] {
        assert_eq!(
            recents(n).await,
            [(1, "text 3".into()), (2, "text 2".into())]
        );
    }
    let most: Vec<_> = (51..=150).map(|n| change(&growing, 1, remove(n))).collect();
    assert!(
        store
            .append(most)
            .await
            .unwrap()
            .iter()
            .all(|appended| appended.placed().is_some())
    );
    assert_eq!(recents(50).await, [(1, "text 3".into())]);
    assert_eq!(recents(51).await, []);
    append(
        &store,
        NewEntry {
            created_at: Timestamp(40_000),
            ..draft(&other, 1, 4)
        },
    )
    .await;
    append(
        &store,
        NewEntry {
            created_at: Timestamp(50_000),
            ..draft(&growing, 50, 5)
        },
    )
    .await;
    for n in [1, 3] {
        assert_eq!(
            recents(n).await,
            [(1, "text 5".into()), (2, "text 4".into())]
        );
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn only_members_post_in_a_large_room_whoever_posts_at_the_same_time(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let large = Room {
        members: (1..=150).map(user_id).collect(),
        name: Some("large".into()),
        ..room(200, &[1])
    };
    let small = Room {
        name: Some("small".into()),
        ..room(201, &[1, 2, 3])
    };
    for room in [&large, &small] {
        store.find_or_add_room(room.clone()).await.unwrap();
        store
            .append(vec![change(room, 1, add(151)), change(room, 1, remove(3))])
            .await
            .unwrap();
    }
    let mut n = 0;
    let mut post = async |posts: &[(&Room, u8)]| {
        let posts = posts.iter().map(|(room, author)| {
            n += 1;
            draft(room, *author, n)
        });
        let appended = store.append(posts.collect()).await.unwrap();
        appended
            .iter()
            .map(|appended| appended.placed().is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        post(&[(&large, 1), (&large, 151), (&large, 1)]).await,
        [true; 3]
    );
    assert_eq!(post(&[(&large, 3)]).await, [false]);
    assert_eq!(
        post(&[(&large, 1), (&large, 3), (&large, 151), (&large, 152)]).await,
        [true, false, true, false]
    );
    assert_eq!(
        post(&[(&small, 151), (&large, 2), (&small, 3), (&large, 3)]).await,
        [true, true, false, false]
    );
    append(&store, change(&large, 1, add(3))).await;
    assert_eq!(post(&[(&large, 3), (&small, 3)]).await, [true, false]);
    append(&store, change(&large, 1, remove(1))).await;
    assert_eq!(post(&[(&large, 1), (&large, 3)]).await, [false, true]);
}

#[apply(each_deployment)]
#[tokio::test]
async fn one_reads_up_to_anywhere_and_never_back(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 10).await;
    let two = user_id(2);
    let read = async |up_to: Option<u64>, at| {
        store
            .mark_read(room.id, two, up_to.map(Seq), Timestamp(at))
            .await
            .unwrap()
            .unwrap()
    };
    let marked = |became_read, last_read, unread, at: Option<i64>| {
        let mark = at.map(|at| ReadMark {
            user: two,
            up_to: Seq(last_read),
            read_at: Timestamp(at),
        });
        Marked {
            became_read,
            last_read: Seq(last_read),
            unread,
            mark,
        }
    };
    assert_eq!(read(Some(0), 1).await, marked(0, 0, 5, None));
    assert_eq!(
        read(Some(4), 1).await,
        marked(2, 4, 3, Some(10_004)),
        "not before it was written"
    );
    assert_eq!(read(Some(3), 20_000).await, marked(0, 4, 3, None));
    assert_eq!(read(Some(7), 20_001).await, marked(2, 7, 1, Some(20_001)));
    assert_eq!(
        read(Some(8), 20_002).await,
        marked(0, 8, 1, Some(20_002)),
        "one's own"
    );
    assert_eq!(
        read(Some(u64::MAX), 20_003).await,
        marked(1, 10, 0, Some(20_003))
    );
    assert_eq!(read(None, 20_004).await, marked(0, 10, 0, None));
    assert_eq!(
        store.unread(user_id(1), None).await.unwrap(),
        [Unread {
            room: room.id,
            unread: 5,
            last_seq: Seq(10)
        }]
    );
}

/// A room with its expected read state, to be compared with a recount of its log.
struct Model {
    room: Room,
    /// How far each member has read.
    read: BTreeMap<u8, u64>,
}

impl Model {
    /// Counts the unread messages of others in `after < seq <= last` by reading all entries.
    async fn recount(&self, store: &Arc<dyn Store>, reader: u8, after: u64, last: u64) -> u64 {
        let entries = store
            .entries(self.room.id, Seq(after), Some(Seq(last)), u64::MAX >> 40)
            .await
            .unwrap();
        let unread = entries.iter().filter(|entry| {
            entry.author != user_id(reader) && matches!(entry.what, EntryKind::Message(_))
        });
        unread.count() as u64
    }

    async fn check(&self, store: &Arc<dyn Store>, end: u64) {
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
async fn whatever_happens_unread_is_what_a_recount_finds(
    #[values(Kind::Sqlite, Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[case] seed: u64,
) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let room = room(100, &[1, 2, 3, 4]);
    store.find_or_add_room(room.clone()).await.unwrap();
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
async fn unread_is_told_of_all_rooms_at_once(kind: Kind) {
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
        store.find_or_add_room(room.clone()).await.unwrap();
        let drafts = (0..n % 7)
            .map(|k| draft(room, if k % 3 == 0 { 251 } else { 252 }, 1 + n * 10 + k))
            .collect();
        store.append(drafts).await.unwrap();
        if n % 5 == 0 {
            store
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
        sorted(store.unread(user_id(251), None).await.unwrap()),
        expected
    );
    let some = [rooms[7].id, room(255, &[1]).id, rooms[200].id];
    assert_eq!(
        sorted(store.unread(user_id(251), Some(&some)).await.unwrap()),
        [expected[7], expected[200]]
    );
    assert_eq!(store.unread(user_id(1), Some(&some)).await.unwrap(), []);
    assert_eq!(store.unread(user_id(251), Some(&[])).await.unwrap(), []);
}
