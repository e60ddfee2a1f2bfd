//! The contract of `Store` about accounts and sessions, with its edge cases. Every store has to
//! pass.

use std::sync::Arc;

use causerie::{
    model::{
        Credentials, PasswordHash, RefreshKey, Session, SessionId, Timestamp, User, UserId,
        UserType, Username,
    },
    store::{MAX_SESSIONS, REPEAT_WINDOW, Refresh, Rotation, SessionSelector, Store, UserUpdate},
};
use futures_util::future::join_all;
use mongodb::bson::doc;
use rstest_reuse::apply;

use crate::{
    databases::{Database, Kind},
    each_deployment,
    mongod::Mongod,
};

/// The beginning and the lifetime of the sessions of these tests, in milliseconds.
const BEGIN: i64 = 1_800_000_000_000;
const LIFE: i64 = 1_000_000;

fn user(n: u8) -> User {
    let (id, at) = (UserId::from_bytes([n; 16]), Timestamp(BEGIN));
    let (first_name, last_name) = (format!("first {n}"), format!("last {n}"));
    User {
        id,
        first_name,
        last_name,
        kind: UserType::Consumer,
        created_at: at,
        updated_at: at,
        deleted: false,
    }
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash(format!("the hash of {text}"))
}

fn username(n: u8) -> Username {
    Username::parse(&format!("user{n}")).unwrap()
}

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

/// Returns session `n` of user `of`. A higher number is a later session.
fn session(n: u8, of: u8) -> Session {
    let created_at = Timestamp(BEGIN + i64::from(n));
    let expires_at = Timestamp(created_at.0 + LIFE);
    Session {
        id: id(n),
        user: user(of).id,
        user_agent: format!("agent {n}"),
        created_at,
        used_at: created_at,
        expires_at,
    }
}

fn key(line: u8, secret: u8) -> RefreshKey {
    RefreshKey {
        line: [line; 32],
        secret: [secret; 32],
    }
}

/// Returns a store with two users who have passwords, and one who has none.
async fn with_accounts(database: &Database) -> Arc<dyn Store> {
    let store = database.open().await;
    for n in [1, 2] {
        let credentials = Credentials {
            username: username(n),
            password: hash("old"),
        };
        assert!(store.add_user(user(n), Some(credentials)).await.unwrap());
    }
    assert!(store.add_user(user(3), None).await.unwrap());
    store
}

/// Begins session `n` of user `of`, whose line and first secret are `n`.
async fn begin(store: &Arc<dyn Store>, n: u8, of: u8) -> Option<Vec<SessionId>> {
    store
        .add_session(session(n, of), key(n, n), hash("old"))
        .await
        .unwrap()
}

/// Redeems a refresh token with these successors.
async fn refresh(
    store: &Arc<dyn Store>,
    n: u8,
    key: RefreshKey,
    successors: &[u8],
    after: i64,
) -> Refresh {
    let at = Timestamp(BEGIN + after);
    let successors = successors.iter().map(|secret| [*secret; 32]).collect();
    store
        .refresh_session(Rotation {
            session: id(n),
            key,
            successors,
            at,
            expires_at: Timestamp(at.0 + LIFE),
        })
        .await
        .unwrap()
}

fn ids(sessions: &[Session]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id).collect()
}

#[apply(each_deployment)]
#[tokio::test]
async fn what_is_not_there_is_none(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    assert_eq!(store.session(id(9)).await.unwrap(), None);
    assert_eq!(
        store.sessions(user(1).id, Timestamp(BEGIN)).await.unwrap(),
        []
    );
    assert_eq!(store.live_sessions(vec![]).await.unwrap(), []);
    assert_eq!(store.live_sessions(vec![id(9)]).await.unwrap(), []);
    assert_eq!(
        refresh(&store, 9, key(9, 9), &[10], 0).await,
        Refresh::Unknown
    );
    for which in [
        SessionSelector::One(id(9)),
        SessionSelector::All,
        SessionSelector::AllBut(id(9)),
    ] {
        assert_eq!(store.end_sessions(user(1).id, which).await.unwrap(), []);
    }
    assert!(store.account(&username(9)).await.unwrap().is_none());
    for n in [3, 9] {
        assert!(store.credentials(user(n).id).await.unwrap().is_none());
        assert!(
            !store
                .set_password(user(n).id, hash("old"), hash("new"))
                .await
                .unwrap()
        );
        assert_eq!(
            store
                .add_session(session(1, n), key(1, 1), hash("old"))
                .await
                .unwrap(),
            None
        );
    }
    assert_eq!(store.session(id(1)).await.unwrap(), None);
    let names = UserUpdate {
        first_name: Some("x".into()),
        last_name: None,
    };
    assert_eq!(
        store
            .rename_user(user(9).id, names, Timestamp(BEGIN))
            .await
            .unwrap(),
        None
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_username_is_one_users_and_a_password_is_replaced_by_whoever_knows_it(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    let taken = Credentials {
        username: username(1),
        password: hash("mine"),
    };
    assert!(!store.add_user(user(4), Some(taken)).await.unwrap());
    assert_eq!(
        store.user(user(4).id).await.unwrap(),
        None,
        "nothing was added"
    );
    let (found, password) = store.account(&username(1)).await.unwrap().unwrap();
    assert_eq!((found, password.0), (user(1).id, hash("old").0));

    assert!(
        !store
            .set_password(user(1).id, hash("a guess"), hash("new"))
            .await
            .unwrap()
    );
    assert!(
        store
            .set_password(user(1).id, hash("old"), hash("new"))
            .await
            .unwrap()
    );
    assert!(
        !store
            .set_password(user(1).id, hash("old"), hash("newer"))
            .await
            .unwrap()
    );
    assert_eq!(
        store
            .credentials(user(1).id)
            .await
            .unwrap()
            .unwrap()
            .password
            .0,
        hash("new").0
    );
    assert_eq!(
        store
            .credentials(user(2).id)
            .await
            .unwrap()
            .unwrap()
            .password
            .0,
        hash("old").0
    );
    assert_eq!(
        begin(&store, 1, 1).await,
        None,
        "with the old one nobody begins a session"
    );
    assert_eq!(
        (
            store.session(id(1)).await.unwrap(),
            store.live_sessions(vec![id(1)]).await.unwrap()
        ),
        (None, vec![])
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn sessions_are_listed_by_age_until_they_are_over(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for n in [2, 1, 3] {
        assert_eq!(begin(&store, n, 1).await, Some(vec![]));
    }
    assert_eq!(begin(&store, 4, 2).await, Some(vec![]));
    let at = |after: i64| Timestamp(BEGIN + after);
    assert_eq!(
        store.sessions(user(1).id, at(0)).await.unwrap(),
        [session(3, 1), session(2, 1), session(1, 1)]
    );
    assert_eq!(
        store.session(id(4)).await.unwrap().as_deref(),
        Some(&session(4, 2))
    );
    assert_eq!(
        ids(&store.sessions(user(1).id, at(LIFE + 1)).await.unwrap()),
        [id(3), id(2)]
    );
    assert_eq!(store.sessions(user(1).id, at(LIFE + 3)).await.unwrap(), []);
    let mut live = store
        .live_sessions((1..=5).map(id).collect())
        .await
        .unwrap();
    live.sort_unstable();
    assert_eq!(live, [id(1), id(2), id(3), id(4)]);
}

#[apply(each_deployment)]
#[tokio::test]
async fn a_refresh_token_is_good_for_one_time(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for n in [1, 2] {
        begin(&store, n, 1).await.unwrap();
    }
    // Read before, since it may be cached.
    store.session(id(1)).await.unwrap().unwrap();
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
        store.session(id(1)).await.unwrap().as_deref(),
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
    assert_eq!(store.session(id(1)).await.unwrap(), None);
    assert_eq!(
        store.live_sessions(vec![id(1), id(2)]).await.unwrap(),
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
async fn the_token_that_was_used_last_is_repeated_for_a_moment(kind: Kind) {
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
            store.session(id(n)).await.unwrap().as_deref(),
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
            .live_sessions((1..=5).map(id).collect())
            .await
            .unwrap(),
        [id(5)]
    );
}

#[apply(each_deployment)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_refresh_at_once_one_renews_and_the_others_repeat(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    begin(&store, 1, 1).await.unwrap();
    let asking = (0..10).map(|n| {
        let store = Arc::clone(&store);
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
async fn sessions_end_by_their_user_alone(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    for (n, of) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        begin(&store, n, of).await.unwrap();
        // Read before, since it may be cached.
        store.session(id(n)).await.unwrap().unwrap();
    }
    assert_eq!(
        store
            .end_sessions(user(1).id, SessionSelector::One(id(4)))
            .await
            .unwrap(),
        []
    );
    assert!(store.session(id(4)).await.unwrap().is_some());
    assert_eq!(
        store
            .end_sessions(user(1).id, SessionSelector::One(id(2)))
            .await
            .unwrap(),
        [id(2)]
    );
    assert_eq!(
        store
            .end_sessions(user(1).id, SessionSelector::One(id(2)))
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        store
            .end_sessions(user(1).id, SessionSelector::AllBut(id(3)))
            .await
            .unwrap(),
        [id(1)]
    );
    assert_eq!(
        ids(&store.sessions(user(1).id, Timestamp(BEGIN)).await.unwrap()),
        [id(3)]
    );
    assert_eq!(
        store
            .end_sessions(user(1).id, SessionSelector::All)
            .await
            .unwrap(),
        [id(3)]
    );
    for n in [1, 2, 3] {
        assert_eq!(store.session(id(n)).await.unwrap(), None);
    }
    assert_eq!(
        store
            .live_sessions((1..=4).map(id).collect())
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
async fn whoever_has_too_many_loses_the_oldest(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    let most = u8::try_from(MAX_SESSIONS).unwrap();
    begin(&store, 200, 2).await.unwrap();
    for n in 1..=most {
        assert_eq!(begin(&store, n, 1).await, Some(vec![]), "{n}");
    }
    store.session(id(1)).await.unwrap().unwrap();
    assert_eq!(begin(&store, most + 1, 1).await, Some(vec![id(1)]));
    assert_eq!(store.session(id(1)).await.unwrap(), None);
    assert_eq!(begin(&store, most + 2, 1).await, Some(vec![id(2)]));
    assert_eq!(
        store
            .sessions(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()
            .len(),
        MAX_SESSIONS
    );
    assert!(
        store.session(id(200)).await.unwrap().is_some(),
        "of another user"
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn with_the_user_the_sessions_and_the_account_are_gone(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    begin(&store, 1, 1).await.unwrap();
    begin(&store, 2, 2).await.unwrap();
    assert!(
        store
            .delete_user(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()
    );
    assert_eq!(
        store.live_sessions(vec![id(1), id(2)]).await.unwrap(),
        [id(2)]
    );
    assert_eq!(
        refresh(&store, 1, key(1, 1), &[11], 5).await,
        Refresh::Unknown
    );
    assert_eq!(begin(&store, 3, 1).await, None);
    assert!(store.account(&username(1)).await.unwrap().is_none());
    assert!(store.credentials(user(1).id).await.unwrap().is_none());
    assert!(
        !store
            .set_password(user(1).id, hash("old"), hash("new"))
            .await
            .unwrap()
    );
    let again = Credentials {
        username: username(1),
        password: hash("new"),
    };
    assert!(
        store.add_user(user(5), Some(again)).await.unwrap(),
        "the username is free"
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn sessions_outlive_a_restart_and_what_has_ended_stays_ended(kind: Kind) {
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
        .end_sessions(user(1).id, SessionSelector::One(id(2)))
        .await
        .unwrap();
    store.close().await;
    let store = database.open().await;
    assert_eq!(
        store.live_sessions(vec![id(1), id(2)]).await.unwrap(),
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

#[tokio::test]
async fn whoever_is_not_deleted_with_all_sessions_can_be_deleted_once_more() {
    let server = Mongod::obedient();
    let store = with_accounts(&Database::on(&server)).await;
    begin(&store, 1, 1).await;
    server
        .hinder("delete", "sessions", doc! { "errorCode": 50 })
        .await;
    store
        .delete_user(user(1).id, Timestamp(BEGIN))
        .await
        .unwrap_err();
    assert!(
        store.user(user(1).id).await.unwrap().is_some(),
        "nobody would end the session of someone who is gone"
    );
    server.release().await;
    assert!(
        store
            .delete_user(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()
    );
    assert_eq!(store.live_sessions(vec![id(1)]).await.unwrap(), []);
}
