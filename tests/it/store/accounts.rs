//! The contract of the store about usernames, passwords, and what is deleted with a user.

use causerie::{
    model::{Credentials, Timestamp},
    store::{Refresh, SessionSelector, UserUpdate},
};
use mongodb::bson::doc;
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        mongod::Mongod,
        sessions::{BEGIN, begin, hash, id, key, refresh, session, user, username, with_accounts},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn missing_sessions_and_accounts_are_none(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    assert_eq!(store.sessions.find(id(9)).await.unwrap(), None);
    assert_eq!(
        store
            .sessions
            .list(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.sessions.live(vec![]).await.unwrap(), []);
    assert_eq!(store.sessions.live(vec![id(9)]).await.unwrap(), []);
    assert_eq!(
        refresh(&store, 9, key(9, 9), &[10], 0).await,
        Refresh::Unknown
    );
    for which in [
        SessionSelector::One(id(9)),
        SessionSelector::All,
        SessionSelector::AllBut(id(9)),
    ] {
        assert_eq!(store.sessions.end(user(1).id, which).await.unwrap(), []);
    }
    assert!(
        store
            .accounts
            .find_by_username(&username(9))
            .await
            .unwrap()
            .is_none()
    );
    for n in [3, 9] {
        assert!(
            store
                .accounts
                .credentials(user(n).id)
                .await
                .unwrap()
                .is_none()
        );
        assert!(
            !store
                .accounts
                .set_password(user(n).id, hash("old"), hash("new"))
                .await
                .unwrap()
        );
        assert_eq!(
            store
                .sessions
                .add(session(1, n), key(1, 1), hash("old"))
                .await
                .unwrap(),
            None
        );
    }
    assert_eq!(store.sessions.find(id(1)).await.unwrap(), None);
    let names = UserUpdate {
        first_name: Some("x".into()),
        last_name: None,
    };
    assert_eq!(
        store
            .users
            .rename(user(9).id, names, Timestamp(BEGIN))
            .await
            .unwrap(),
        None
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn usernames_are_unique_and_passwords_are_replaced_only_with_the_old_one(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    let taken = Credentials {
        username: username(1),
        password: hash("mine"),
    };
    assert!(!store.accounts.add(user(4), Some(taken)).await.unwrap());
    assert_eq!(
        store.users.find(user(4).id).await.unwrap(),
        None,
        "nothing was added"
    );
    let (found, password) = store
        .accounts
        .find_by_username(&username(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found, password.0), (user(1).id, hash("old").0));

    let set = async |former: &str, password: &str| {
        let accounts = &store.accounts;
        let changed = accounts.set_password(user(1).id, hash(former), hash(password));
        changed.await.unwrap()
    };
    assert!(!set("a guess", "new").await);
    assert!(set("old", "new").await);
    assert!(!set("old", "newer").await);
    assert_eq!(
        store
            .accounts
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
            .accounts
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
            store.sessions.find(id(1)).await.unwrap(),
            store.sessions.live(vec![id(1)]).await.unwrap()
        ),
        (None, vec![])
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn deleting_a_user_deletes_sessions_and_account(kind: Kind) {
    let database = Database::new(kind).await;
    let store = with_accounts(&database).await;
    begin(&store, 1, 1).await.unwrap();
    begin(&store, 2, 2).await.unwrap();
    assert!(
        store
            .users
            .delete(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()
    );
    assert_eq!(
        store.sessions.live(vec![id(1), id(2)]).await.unwrap(),
        [id(2)]
    );
    assert_eq!(
        refresh(&store, 1, key(1, 1), &[11], 5).await,
        Refresh::Unknown
    );
    assert_eq!(begin(&store, 3, 1).await, None);
    assert!(
        store
            .accounts
            .find_by_username(&username(1))
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .accounts
            .credentials(user(1).id)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        !store
            .accounts
            .set_password(user(1).id, hash("old"), hash("new"))
            .await
            .unwrap()
    );
    let again = Credentials {
        username: username(1),
        password: hash("new"),
    };
    assert!(
        store.accounts.add(user(5), Some(again)).await.unwrap(),
        "the username is free"
    );
}

#[tokio::test]
async fn an_incomplete_deletion_of_a_user_can_be_repeated() {
    let server = Mongod::obedient();
    let store = with_accounts(&Database::on(&server)).await;
    begin(&store, 1, 1).await;
    server
        .hinder("delete", "sessions", doc! { "errorCode": 50 })
        .await;
    store
        .users
        .delete(user(1).id, Timestamp(BEGIN))
        .await
        .unwrap_err();
    assert!(
        store.users.find(user(1).id).await.unwrap().is_some(),
        "nobody would end the session of someone who is gone"
    );
    server.release().await;
    assert!(
        store
            .users
            .delete(user(1).id, Timestamp(BEGIN))
            .await
            .unwrap()
    );
    assert_eq!(store.sessions.live(vec![id(1)]).await.unwrap(), []);
}
