//! Members of whom MongoDB has no user, or whose user was deleted on another server.

use std::time::Instant;

use mongodb::{
    Client,
    bson::{Document, doc},
};
use rstest::rstest;
use serde_json::json;

use crate::support::{
    databases::{Database, Kind},
    harness::{PATIENCE, TestServer},
    pages::ids_of,
    person::Person,
};

#[rstest]
#[tokio::test]
async fn a_user_deleted_on_one_server_is_soon_not_counted_on_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let settings = [("CAUSERIE_ROOMS__LISTED_MEMBERS", "1")];
    let (first, second) = (
        TestServer::on(database.again(), &settings).await,
        TestServer::on(database, &settings).await,
    );
    let (alice, bob, room) = first.two_in_a_room().await;
    let carol = first.person("Carol").await;
    alice.adds(&room, &[&carol]).await.ok();
    let there = alice.at(&second);
    let count = async || there.get(&format!("/room/{room}")).await.ok()["memberCount"].take();
    let deadline = Instant::now() + PATIENCE;
    for (expected, deleted) in [(3, Some(&bob)), (2, None)] {
        while count().await != expected {
            assert!(Instant::now() < deadline);
        }
        if let Some(deleted) = deleted {
            first.delete(&format!("/users/{}", deleted.id)).await.ok();
        }
    }
}

/// In the original application a deleted user leaves nothing but an id in rooms.
#[rstest]
#[tokio::test]
async fn members_without_a_user_document_are_not_counted(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[values(false, true)] later: bool,
) {
    let database = Database::new(kind).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let id = |n: u8| format!("{n:032x}");
    let user =
        |n| doc! { "_id": id(n), "firstName": "Old", "lastName": "Timer", "type": "consumer" };
    let room = doc! { "_id": id(9), "userIds": [id(1), id(2), id(3)], "type": "consumer-to-consumer", "chatInitiator": id(1), "large": false };
    let mut server = TestServer::on(database, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", "1")]).await;
    server.stop().await;
    mongodb
        .collection::<Document>("users")
        .insert_many([user(1), user(3)])
        .await
        .unwrap();
    mongodb
        .collection::<Document>("chatrooms")
        .insert_one(room)
        .await
        .unwrap();
    // The state that the first version of the schema left, or a database without a version.
    let version = if later {
        doc! { "$set": { "version": 1_i64 } }
    } else {
        doc! { "$unset": { "version": 1 } }
    };
    mongodb
        .collection::<Document>("causerie")
        .update_one(doc! { "_id": "schema" }, version)
        .await
        .unwrap();
    server.restart().await;
    let token = server.log_in(&id(1)).await;
    let alice = Person {
        base: server.base.clone(),
        http: server.http.clone(),
        id: id(1),
        token,
        user: json!({}),
    };
    let members = alice.get(&format!("/room/{}/members", id(9))).await.ok();
    assert_eq!(
        (ids_of(&members["users"]), &members["memberCount"]),
        (vec![json!(id(1)), json!(id(3))], &json!(2))
    );
    assert_eq!(alice.says(&id(9), "hello").await["memberCount"], 2);
}

/// Users of the original application whose ids have another format are ignored.
#[rstest]
#[tokio::test]
async fn pages_of_users_skip_documents_with_foreign_ids(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let user = |id: mongodb::bson::Bson| doc! { "_id": id, "firstName": "Old", "lastName": "Timer", "type": "consumer" };
    let odd = (0..501).map(|n| user(format!("user {n}").into())).chain([
        user(7.into()),
        user(mongodb::bson::oid::ObjectId::new().into()),
    ]);
    mongodb
        .collection::<Document>("users")
        .insert_many(odd)
        .await
        .unwrap();
    let server = TestServer::on(database, &[]).await;
    let mut people = Vec::new();
    for n in 0..5 {
        people.push(server.person(&format!("Person {n}")).await.user);
    }
    for (page, expected) in [&people[..2], &people[2..4], &people[4..], &[]]
        .into_iter()
        .enumerate()
    {
        assert_eq!(
            server
                .get(&format!("/users?limit=2&page={page}"))
                .await
                .ok()["users"],
            json!(expected)
        );
    }
    assert_eq!(server.get("/users").await.ok()["users"], json!(people));
}
