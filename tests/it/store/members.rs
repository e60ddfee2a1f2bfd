//! The contract of the store about the members of rooms.

use std::sync::Arc;

use causerie::{
    model::{Room, Seq, Timestamp},
    store::{Appended, Limit, NewEntry, NewEntryKind, Page},
};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        store::{
            add, append, change, draft, members, recents, remove, remove_if, room, seqs, there,
            user_id, with_messages,
        },
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn a_conditional_removal_fails_without_the_required_member(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 2).await;
    append(&store, change(&room, 1, add(3))).await;
    let batch = vec![
        change(&room, 1, remove_if(2, &[3, 9])),
        change(&room, 1, remove_if(3, &[2])),
        change(&room, 1, remove_if(3, &[8, 9])),
    ];
    let appended = store.log.append(batch).await.unwrap();
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
async fn members_are_added_and_removed_and_only_members_post(kind: Kind) {
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
    let appended = store.log.append(batch).await.unwrap();
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
    assert_eq!(
        store
            .memberships
            .rooms_of(user_id(2), None, 10)
            .await
            .unwrap(),
        []
    );
    assert_eq!(recents(&store, 2, 0, 10).await, []);
    assert_eq!(recents(&store, 3, 0, 10).await[0].seq, Seq(5));
    assert_eq!(
        store
            .read_marks
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
                .history
                .messages(room.id, Page::Newest { skip: 1 }, Limit::items(2))
                .await
                .unwrap()
        ),
        [3, 5]
    );
    store.database.close().await;
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
async fn changed_and_named_rooms_are_not_found_by_members(kind: Kind) {
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
    let (found, is_new) = store.rooms.find_or_add(room(101, &[1, 2])).await.unwrap();
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
    let (other, is_new) = store.rooms.find_or_add(room(102, &[1, 2])).await.unwrap();
    assert!(is_new);
    let mut named = Vec::new();
    for n in [103, 104] {
        let asked = Room {
            name: Some("the two of us".into()),
            ..room(n, &[1, 2])
        };
        assert_eq!(
            store.rooms.find_or_add(asked.clone()).await.unwrap(),
            (Arc::new(asked.clone()), true)
        );
        assert_eq!(there(&store, &asked).await, asked);
        named.push(asked.id);
    }
    assert!(!store.rooms.find_or_add(room(105, &[1, 2])).await.unwrap().1);
    append(
        &store,
        change(&room(103, &[1]), 1, NewEntryKind::Rename(None)),
    )
    .await;
    assert_eq!(there(&store, &room(103, &[1])).await.name, None);
    let all = [changed.id, other.id, named[0], named[1]];
    assert_eq!(
        store
            .memberships
            .rooms_of(user_id(1), None, 10)
            .await
            .unwrap(),
        all
    );
    assert_eq!(
        store
            .memberships
            .rooms_of(user_id(1), Some(all[0]), 2)
            .await
            .unwrap(),
        all[1..3]
    );
    assert_eq!(
        store
            .memberships
            .rooms_of(user_id(1), Some(all[3]), 2)
            .await
            .unwrap(),
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
        store.rooms.find_or_add(room.clone()).await.unwrap();
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
            .log
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
            .log
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
async fn only_members_post_in_a_large_room_under_concurrency(kind: Kind) {
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
        store.rooms.find_or_add(room.clone()).await.unwrap();
        store
            .log
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
        let appended = store.log.append(posts.collect()).await.unwrap();
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
