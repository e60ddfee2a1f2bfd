//! The contract of the store about users.

use causerie::model::{Timestamp, User};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        store::{user, user_id},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn users_are_listed_by_age_and_remain_as_authors_when_deleted(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let mut users = [user(3), user(1), user(2)];
    // With the same time, the id decides.
    users[2].created_at = users[0].created_at;
    for user in &users {
        store.accounts.add(user.clone(), None).await.unwrap();
    }
    let [third, first, second] = users;
    let all = [first.clone(), second.clone(), third.clone()];
    assert_eq!(store.accounts.list(None, 0, 10).await.unwrap(), all);
    assert_eq!(store.accounts.list(None, 1, 1).await.unwrap(), all[1..2]);
    assert_eq!(
        store
            .accounts
            .list(Some((second.created_at, second.id)), 0, 10)
            .await
            .unwrap(),
        all[2..]
    );
    assert_eq!(
        store.accounts.list(None, u64::MAX, u64::MAX).await.unwrap(),
        []
    );
    // Read before and after, since it may be cached.
    assert_eq!(
        store.users.find(second.id).await.unwrap().as_deref(),
        Some(&second)
    );
    assert!(
        store
            .users
            .delete(second.id, Timestamp(7_777))
            .await
            .unwrap()
    );
    assert!(
        !store
            .users
            .delete(second.id, Timestamp(8_888))
            .await
            .unwrap()
    );
    assert_eq!(store.users.find(second.id).await.unwrap(), None);
    assert_eq!(
        store.accounts.list(None, 0, 10).await.unwrap(),
        [first.clone(), third.clone()]
    );
    let people = store
        .users
        .find_many(&[third.id, user_id(99), second.id, first.id])
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
