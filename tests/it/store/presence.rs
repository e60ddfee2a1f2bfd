//! The contract of the store about presence: when users were last seen, and who has written where.

use causerie::model::Timestamp;
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        store::{add, append, change, draft, remove, user_id, with_messages},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn last_seen_times_never_move_back(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, _) = with_messages(&database, 0).await;
    let (one, two) = (user_id(1), user_id(2));
    let seen = async || {
        let mut seen = store.presence.last_seen(&[one, two]).await.unwrap();
        seen.sort_unstable_by_key(|(user, _)| *user);
        seen
    };
    assert!(seen().await.is_empty());
    for (times, expected) in [
        (vec![(one, 7_000)], vec![(one, 7_000)]),
        (
            vec![(one, 6_000), (two, 8_000)],
            vec![(one, 7_000), (two, 8_000)],
        ),
        (vec![(one, 9_000)], vec![(one, 9_000), (two, 8_000)]),
    ] {
        let at = |times: Vec<_>| -> Vec<_> {
            times
                .into_iter()
                .map(|(user, at)| (user, Timestamp(at)))
                .collect()
        };
        store.presence.update_last_seen(at(times)).await.unwrap();
        assert_eq!(seen().await, at(expected));
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn writers_are_the_members_who_have_written_since_they_joined(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 0).await;
    store.memberships.index_writers().await.unwrap();
    let current = async || store.rooms.find(room.id).await.unwrap().unwrap();
    let writers = async || {
        store
            .memberships
            .writers_in(&current().await)
            .await
            .unwrap()
    };
    let written_by_two = async || {
        store
            .memberships
            .written_by(user_id(2), &[current().await])
            .await
            .unwrap()
    };
    assert!(writers().await.is_empty());
    assert!(written_by_two().await.is_empty());
    append(&store, draft(&room, 2, 1)).await;
    append(&store, change(&room, 1, add(3))).await;
    assert_eq!(writers().await, [1, 2].map(user_id));
    assert_eq!(written_by_two().await, [room.id]);
    append(&store, change(&room, 1, remove(2))).await;
    append(&store, change(&room, 1, add(2))).await;
    assert_eq!(writers().await, [user_id(1)]);
    assert!(written_by_two().await.is_empty());
    append(&store, draft(&room, 2, 2)).await;
    assert_eq!(writers().await, [1, 2].map(user_id));
    assert_eq!(written_by_two().await, [room.id]);
}
