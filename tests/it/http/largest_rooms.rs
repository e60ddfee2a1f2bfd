//! Rooms with thousands of members.

use causerie::model::{Room, RoomId, RoomType, Timestamp, User, UserId};
use futures_util::future::join_all;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::json;
use tokio::{join, select};

use crate::{
    each_store,
    support::{
        databases::{Database, Kind},
        harness::TestServer,
        person::Person,
        store::user,
        wire::Socket,
    },
};

/// Starts a server on this database, with a room of `members` members. Only two of them exist as
/// users.
async fn crowded(database: Database, members: u128) -> (TestServer, [Person; 2], String) {
    let store = database.open().await;
    let mut members: Vec<_> = (2..members)
        .map(|n| UserId::from_bytes((n + (1 << 120)).to_be_bytes()))
        .collect();
    for n in [200, 201] {
        store.accounts.add(user(n), None).await.unwrap();
        members.push(user(n).id);
    }
    members.sort_unstable();
    let room = Room {
        id: RoomId::from_bytes([9; 16]),
        kind: RoomType::ConsumerToConsumer,
        name: Some("everybody".into()),
        initiator: members[0],
        members,
        joined: Vec::new(),
        created_at: Timestamp(5_000),
    };
    assert!(store.rooms.find_or_add(room.clone()).await.unwrap().1);
    store.database.close().await;
    drop(store);
    let server = TestServer::on(database, &[]).await;
    let person = async |n| {
        let id = user(n).id.to_string();
        let user = server.get(&format!("/users/{id}")).await.ok()["user"].take();
        Person {
            base: server.base.clone(),
            http: server.http.clone(),
            token: server.log_in(&id).await,
            id,
            user,
        }
    };
    let people = [person(200).await, person(201).await];
    (server, people, room.id.to_string())
}

/// Adds `count` users and returns their ids.
async fn newcomers(database: &Database, count: u128) -> Vec<String> {
    let store = database.open().await;
    let users: Vec<_> = (0..count)
        .map(|n| User {
            id: UserId::from_bytes((n + (2 << 120)).to_be_bytes()),
            ..user(1)
        })
        .collect();
    for users in users.chunks(100) {
        let added = join_all(
            users
                .iter()
                .map(|user| store.accounts.add(user.clone(), None)),
        )
        .await;
        assert!(added.into_iter().all(|added| added.unwrap()));
    }
    store.database.close().await;
    users.into_iter().map(|user| user.id.to_string()).collect()
}

#[tokio::test]
async fn a_room_of_ten_thousand_members_works_as_any_other() {
    let (_server, people, room) = crowded(Database::new(Kind::Sqlite).await, 10_000).await;
    let mut socket = Socket::by(&people[1]).await;
    assert_eq!(
        socket.asks("subscribe", json!([])).await["rooms"],
        json!([{ "chatRoomId": room, "lastSeq": 0 }])
    );
    for n in 1..=50 {
        let post = people[0].says(&room, &format!("to all {n}")).await;
        assert_eq!(
            (&post["chatRoomInfo"], &post["memberCount"], &post["seq"]),
            (&json!([people[0].user]), &json!(10_000), &json!(n))
        );
        assert!(post.to_string().len() < 1_500, "as small as in any room");
        assert_eq!(socket.hears_post().await, post);
    }
    assert_eq!(people[1].get("/room/unread").await.ok()["total"], 50);
    assert_eq!(people[1].marks_read(&room).await, 50);
    let recent = people[1].recents("").await.remove(0);
    assert_eq!(
        (
            &recent["memberCount"],
            &recent["unreadCount"],
            &recent["readCount"]
        ),
        (&json!(10_000), &json!(0), &json!(2))
    );
    assert_eq!(
        people[1].reads(&room, "?limit=3").await,
        ["to all 48", "to all 49", "to all 50"]
    );
    assert_eq!(
        people[0].removes(&room, &people[0]).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(
        people[1].says(&room, "one less").await["memberCount"],
        9_999
    );
    assert_eq!(
        people[1]
            .get(&format!("/room/{room}/search?q=less"))
            .await
            .ok()["messages"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[apply(each_store)]
#[tokio::test]
async fn a_room_of_the_largest_size_refuses_more_members(kind: Kind) {
    let database = Database::new(kind).await;
    let newcomer = newcomers(&database, 1).await.remove(0);
    let (server, people, room) = crowded(database, 50_000).await;
    let adds = async || {
        people[0]
            .calls(
                Method::POST,
                &format!("/room/{room}/members"),
                json!({ "userIds": [newcomer] }),
            )
            .await
    };
    adds()
        .await
        .refused(400, "A room has at most 50000 members");
    people[0].says(&room, "hello").await;
    assert_eq!(people[1].marks_read(&room).await, 1);
    people[0]
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            json!({ "name": "nearly all" }),
        )
        .await
        .ok();
    assert_eq!(
        people[1].removes(&room, &people[1]).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(adds().await.ok()["chatRoom"]["memberCount"], 50_000);
    people[0].says(&room, "hello").await;
    assert_eq!(
        people[0].get(&format!("/room/{room}")).await.ok()["chatRoom"]["name"],
        "nearly all"
    );
    server.get("/ready").await.ok();
}

#[tokio::test]
async fn a_thousand_users_join_a_large_room_while_others_post() {
    let database = Database::new(Kind::Sqlite).await;
    let ids = newcomers(&database, 1_000).await;
    let (_server, [alice, bob], room) = crowded(database, 1_500).await;
    let (path, everybody) = (format!("/room/{room}/members"), json!({ "userIds": ids }));
    let posts = async {
        bob.says(&room, "one").await;
        bob.says(&room, "two").await["seq"].as_u64().unwrap()
    };
    let (added, last_post) = join!(alice.calls(Method::POST, &path, &everybody), posts);
    assert_eq!(added.ok()["chatRoom"]["memberCount"], 2_500);
    assert!(last_post < 1_002, "it had to wait for all of them");
    let again = alice.calls(Method::POST, &path, &everybody).await.ok();
    assert_eq!(again["chatRoom"]["memberCount"], 2_500);
    let mut entries = Vec::new();
    for since in [0, 500, 1_000] {
        entries.append(
            bob.syncs(&room, &format!("?since={since}&limit=500")).await["entries"]
                .as_array_mut()
                .unwrap(),
        );
    }
    assert_eq!(entries.len(), 1_002);
    let came = entries.iter().filter_map(|entry| entry["userId"].as_str());
    assert_eq!(came.collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn all_users_are_added_even_if_the_caller_disconnects() {
    let database = Database::new(Kind::Sqlite).await;
    let ids = newcomers(&database, 600).await;
    let server = TestServer::on(database, &[]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    let (path, everybody) = (format!("/room/{room}/members"), json!({ "userIds": ids }));
    select! {
        answer = alice.calls(Method::POST, &path, &everybody) => panic!("{answer:?} before anybody heard of it"),
        first = socket.hears_of("member added") => assert_eq!(first["userId"], ids[0]),
    }
    for id in &ids[1..] {
        assert_eq!(socket.hears_of("member added").await["userId"], **id);
    }
}
