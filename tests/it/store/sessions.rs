//! The contract of the store about sessions and refresh tokens.

use std::sync::Arc;

use causerie::{
    model::{Session, Timestamp},
    store::{MAX_SESSIONS, REPEAT_WINDOW, Refresh, SessionSelector},
};
use futures_util::future::join_all;
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        sessions::{BEGIN, LIFE, begin, id, ids, key, refresh, session, user, with_accounts},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn sessions_are_listed_by_age_until_they_expire(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for n in [2, 1, 3] {
        assert_eq!(begin(&store, n, 1).await, Some(vec![]));
    }
    assert_eq!(begin(&store, 4, 2).await, Some(vec![]));
    let at = |after: i64| Timestamp(BEGIN + after);
    assert_eq!(
        store.sessions.list(user(1).id, at(0)).await.unwrap(),
        [session(3, 1), session(2, 1), session(1, 1)]
    );
    assert_eq!(
        store.sessions.find(id(4)).await.unwrap().as_deref(),
        Some(&session(4, 2))
    );
    assert_eq!(
        ids(&store.sessions.list(user(1).id, at(LIFE + 1)).await.unwrap()),
        [id(3), id(2)]
    );
    assert_eq!(
        store.sessions.list(user(1).id, at(LIFE + 3)).await.unwrap(),
        []
    );
    let mut live = store
        .sessions
        .live((1..=5).map(id).collect())
        .await
        .unwrap();
    live.sort_unstable();
    assert_eq!(live, [id(1), id(2), id(3), id(4)]);
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_refresh_token_is_valid_once(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for n in [1, 2] {
        begin(&store, n, 1).await.unwrap();
    }
    // Read before, since it may be cached.
    store.sessions.find(id(1)).await.unwrap().unwrap();
    let renewed = Session {
        used_at: Timestamp(BEGIN + 500),
        expires_at: Timestamp(BEGIN + 500 + LIFE),
        ..session(1, 1)
    };
    assert_eq!(
        refresh(&store, 1, key(1, 1), &[11], 500).await,
        Refresh::Renewed(Arc::new(renewed.clone()), [11; 32])
    );
    assert_eq!(
        store.sessions.find(id(1)).await.unwrap().as_deref(),
        Some(&renewed)
    );
    for made_up in [key(9, 11), key(9, 1), key(2, 2)] {
        assert_eq!(
            refresh(&store, 1, made_up, &[12], 600).await,
            Refresh::Unknown
        );
    }
    assert_eq!(
        refresh(&store, 2, key(1, 11), &[12], 600).await,
        Refresh::Unknown,
        "it is that of another session"
    );
    assert_eq!(
        refresh(&store, 1, key(1, 1), &[12], 600).await,
        Refresh::Replayed(Arc::new(renewed))
    );
    assert_eq!(
        refresh(&store, 1, key(1, 11), &[12], 600).await,
        Refresh::Unknown,
        "the session has ended"
    );
    assert_eq!(store.sessions.find(id(1)).await.unwrap(), None);
    assert_eq!(
        store.sessions.live(vec![id(1), id(2)]).await.unwrap(),
        [id(2)]
    );
    // An expired session is neither renewed nor treated as stolen.
    for wrong in [key(2, 2), key(2, 99)] {
        assert_eq!(
            refresh(&store, 2, wrong, &[12], LIFE + 2).await,
            Refresh::Unknown
        );
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn the_latest_refresh_can_be_repeated_for_a_moment(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    let used = |session: Session, after| Session {
        used_at: Timestamp(BEGIN + after),
        expires_at: Timestamp(BEGIN + after + LIFE),
        ..session
    };
    for n in 1..=5 {
        begin(&store, n, 1).await.unwrap();
        let next = 10 + n;
        assert!(matches!(
            refresh(&store, n, key(n, n), &[next], 500).await,
            Refresh::Renewed(..)
        ));
        // With another key of the server it has another successor.
        let repeated = Refresh::Repeated(Arc::new(used(session(n, 1), 500)), [next; 32]);
        assert_eq!(
            refresh(&store, n, key(n, n), &[99, next], 500 + REPEAT_WINDOW).await,
            repeated
        );
        assert_eq!(
            store.sessions.find(id(n)).await.unwrap().as_deref(),
            Some(&used(session(n, 1), 500)),
            "nothing has changed"
        );
    }
    let replayed = |n, after| Refresh::Replayed(Arc::new(used(session(n, 1), after)));
    assert_eq!(
        refresh(&store, 1, key(1, 1), &[11], 501 + REPEAT_WINDOW).await,
        replayed(1, 500),
        "too late"
    );
    assert_eq!(
        refresh(&store, 2, key(2, 2), &[12], 499 - REPEAT_WINDOW).await,
        replayed(2, 500),
        "by a clock that was set back"
    );
    assert_eq!(
        refresh(&store, 3, key(3, 3), &[99], 600).await,
        replayed(3, 500),
        "no successor of it is the latest"
    );
    assert!(matches!(
        refresh(&store, 4, key(4, 14), &[24], 700).await,
        Refresh::Renewed(..)
    ));
    assert_eq!(
        refresh(&store, 4, key(4, 4), &[14], 800).await,
        replayed(4, 700),
        "an older one"
    );
    assert_eq!(
        refresh(&store, 5, key(9, 5), &[15], 600).await,
        Refresh::Unknown,
        "made up"
    );
    assert_eq!(
        store
            .sessions
            .live((1..=5).map(id).collect())
            .await
            .unwrap(),
        [id(5)]
    );
}

#[apply(each_deployment)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_concurrent_refresh_renews_and_the_others_repeat(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    begin(&store, 1, 1).await.unwrap();
    let asking = (0..10).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { refresh(&store, 1, key(1, 1), &[100], 5 + n).await })
    });
    let outcomes: Vec<_> = join_all(asking)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let count = |is: fn(&Refresh) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    assert_eq!(count(|outcome| matches!(outcome, Refresh::Renewed(..))), 1);
    assert_eq!(
        count(|outcome| matches!(outcome, Refresh::Repeated(_, latest) if *latest == [100; 32])),
        9
    );
    assert!(matches!(
        refresh(&store, 1, key(1, 100), &[101], 50).await,
        Refresh::Renewed(..)
    ));
}

#[apply(each_deployment)]
#[tokio::test]
async fn only_the_user_can_end_sessions(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for (n, of) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        begin(&store, n, of).await.unwrap();
        // Read before, since it may be cached.
        store.sessions.find(id(n)).await.unwrap().unwrap();
    }
    let end = async |which| store.sessions.end(user(1).id, which).await.unwrap();
    assert_eq!(end(SessionSelector::One(id(4))).await, []);
    assert!(store.sessions.find(id(4)).await.unwrap().is_some());
    assert_eq!(end(SessionSelector::One(id(2))).await, [id(2)]);
    assert_eq!(end(SessionSelector::One(id(2))).await, []);
    assert_eq!(end(SessionSelector::AllBut(id(3))).await, [id(1)]);
    assert_eq!(
        ids(&store
            .sessions
            .list(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()),
        [id(3)]
    );
    assert_eq!(end(SessionSelector::All).await, [id(3)]);
    for n in [1, 2, 3] {
        assert_eq!(store.sessions.find(id(n)).await.unwrap(), None);
    }
    assert_eq!(
        store
            .sessions
            .live((1..=4).map(id).collect())
            .await
            .unwrap(),
        [id(4)]
    );
    assert_eq!(
        begin(&store, 1, 1).await,
        Some(vec![]),
        "an id that was ended is as good as new"
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_session_over_the_limit_ends_the_oldest(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    let most = u8::try_from(MAX_SESSIONS).unwrap();
    begin(&store, 200, 2).await.unwrap();
    for n in 1..=most {
        assert_eq!(begin(&store, n, 1).await, Some(vec![]), "{n}");
    }
    store.sessions.find(id(1)).await.unwrap().unwrap();
    assert_eq!(begin(&store, most + 1, 1).await, Some(vec![id(1)]));
    assert_eq!(store.sessions.find(id(1)).await.unwrap(), None);
    assert_eq!(begin(&store, most + 2, 1).await, Some(vec![id(2)]));
    assert_eq!(
        store
            .sessions
            .list(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()
            .len(),
        MAX_SESSIONS
    );
    assert!(
        store.sessions.find(id(200)).await.unwrap().is_some(),
        "of another user"
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn sessions_survive_a_restart_and_ended_ones_stay_ended(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for n in [1, 2] {
        begin(&store, n, 1).await.unwrap();
    }
    assert!(matches!(
        refresh(&store, 1, key(1, 1), &[11], 5).await,
        Refresh::Renewed(..)
    ));
    store
        .sessions
        .end(user(1).id, SessionSelector::One(id(2)))
        .await
        .unwrap();
    store.database.close().await;
    let store = database.open().await;
    assert_eq!(
        store.sessions.live(vec![id(1), id(2)]).await.unwrap(),
        [id(1)]
    );
    assert!(matches!(
        refresh(&store, 1, key(1, 11), &[12], 6).await,
        Refresh::Renewed(..)
    ));
    assert_eq!(
        refresh(&store, 2, key(2, 2), &[12], 6).await,
        Refresh::Unknown
    );
}
