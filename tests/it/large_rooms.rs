//! Rooms with more members than are listed.

use causerie::model::{Room, RoomId, RoomType, Timestamp, User, UserId};
use futures_util::future::join_all;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tokio::{join, select};

use crate::{
    databases::{Database, Kind},
    each_store,
    harness::TestServer,
    people::Person,
    store::user,
    wire::Socket,
};

/// Starts a server that lists at most four members, with a room of five members and one of four.
async fn five(kind: Kind) -> (TestServer, Vec<Person>, String, String) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", "4")]).await;
    let mut people = Vec::new();
    for name in ["Alice", "Bob", "Carol", "Dave", "Eve"] {
        people.push(server.person(name).await);
    }
    let others: Vec<_> = people.iter().skip(1).collect();
    let (large, small) = (
        people[0].room_with(&others).await,
        people[0].room_with(&others[..3]).await,
    );
    (server, people, large, small)
}

#[apply(each_store)]
#[tokio::test]
async fn a_post_in_a_large_room_shows_its_author_and_how_many_there_are(kind: Kind) {
    let (_server, people, large, small) = five(kind).await;
    let post = people[1].says(&small, "hello").await;
    assert_eq!(
        (
            post["chatRoomInfo"].as_array().unwrap().len(),
            post.get("memberCount")
        ),
        (4, None)
    );
    let mut socket = Socket::of(&people[2], &large).await;
    let post = people[1].says(&large, "hello").await;
    assert_eq!(
        (&post["chatRoomInfo"], &post["memberCount"]),
        (&json!([people[1].user]), &json!(5))
    );
    assert_eq!(socket.hears_post().await, post);
    let edited = people[1]
        .edits(&large, &post["postId"], "hello all")
        .await
        .ok()["post"]
        .take();
    assert_eq!(
        (&edited["chatRoomInfo"], &edited["memberCount"]),
        (&json!([people[1].user]), &json!(5))
    );
}

#[apply(each_store)]
#[tokio::test]
async fn readers_of_a_message_in_a_large_room_are_counted_and_some_are_listed(kind: Kind) {
    let (_server, people, large, small) = five(kind).await;
    people[0].says(&large, "one").await;
    people[0].says(&small, "one").await;
    for (n, person) in people.iter().enumerate().skip(1) {
        let message = people[0].get(&format!("/room/{large}")).await.ok()["conversation"][0].take();
        assert_eq!(
            (
                message["readByRecipients"].as_array().unwrap().len(),
                &message["readCount"]
            ),
            (n.min(4), &json!(n))
        );
        assert_eq!(person.marks_read(&large).await, 1);
    }
    for (path, list) in [
        (format!("/room/{large}"), "conversation"),
        ("/room".to_owned(), "conversation"),
    ] {
        let body = people[0].get(&path).await.ok();
        let message = body[list]
            .as_array()
            .unwrap()
            .iter()
            .find(|message| message["chatRoomId"] == *large)
            .unwrap();
        assert_eq!(
            (
                message["readByRecipients"].as_array().unwrap().len(),
                &message["readCount"]
            ),
            (4, &json!(5)),
            "{path}"
        );
        assert_eq!(
            message["readByRecipients"][0]["readByUserId"], *people[0].id,
            "the author first"
        );
    }
    let entry = people[0].syncs(&large, "").await["entries"][0]["message"].take();
    assert_eq!(
        (
            entry["readByRecipients"].as_array().unwrap().len(),
            &entry["readCount"]
        ),
        (4, &json!(5))
    );
    let edited = people[0].edits(&large, &entry["_id"], "first").await.ok()["post"].take();
    assert_eq!(
        (&edited["readByRecipients"], &edited["readCount"]),
        (&entry["readByRecipients"], &json!(5))
    );
    let small = people[0].get(&format!("/room/{small}")).await.ok();
    assert!(
        small["conversation"][0].get("readCount").is_none() && small.get("memberCount").is_none()
    );
}

#[apply(each_store)]
#[tokio::test]
async fn who_has_read_in_a_large_room_is_told_to_their_own_sockets_alone(kind: Kind) {
    let (_server, people, large, small) = five(kind).await;
    let (mut own, mut elsewhere) = (
        Socket::of(&people[1], &large).await,
        Socket::by(&people[1]).await,
    );
    let mut others = Socket::of(&people[0], &large).await;
    others.succeeds("subscribe", json!([small])).await;
    for room in [&large, &small] {
        people[0].says(room, "one").await;
        assert_eq!(people[1].marks_read(room).await, 1);
    }
    assert_eq!(own.hears_post().await["seq"], 1);
    for socket in [&mut own, &mut elsewhere] {
        let heard = socket.hears_of("conversation read").await;
        assert_eq!(
            (&heard["chatRoomId"], &heard["userId"], &heard["upToSeq"]),
            (&json!(large), &json!(people[1].id), &json!(1))
        );
        socket.hears_nothing_more().await;
    }
    let heard: Vec<_> = others
        .has_heard()
        .await
        .into_iter()
        .filter(|event| event[0] == "conversation read")
        .collect();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0][1]["chatRoomId"], small);
}

#[apply(each_store)]
#[tokio::test]
async fn a_large_room_shows_those_who_appear_and_lists_the_others_page_by_page(kind: Kind) {
    let (_server, people, large, _) = five(kind).await;
    people[1].says(&large, "one").await;
    people[3].says(&large, "two").await;
    let body = people[0].get(&format!("/room/{large}")).await.ok();
    assert_eq!(
        (&body["users"], &body["memberCount"]),
        (&json!([people[1].user, people[3].user]), &json!(5))
    );
    let recent = people[4].recents("").await.remove(0);
    assert_eq!(
        (&recent["roomInfo"], &recent["memberCount"]),
        (&json!([[people[3].user]]), &json!(5))
    );
    let mut listed = Vec::new();
    for page in 0..3 {
        let body = people[0]
            .get(&format!("/room/{large}/members?limit=2&page={page}"))
            .await
            .ok();
        assert_eq!(body["memberCount"], 5);
        listed.extend(body["users"].as_array().unwrap().clone());
    }
    let mut all: Vec<Value> = people.iter().map(|person| person.user.clone()).collect();
    all.sort_by_key(|user| user["_id"].as_str().unwrap().to_owned());
    assert_eq!(listed, all);
    let body = people[0]
        .get(&format!(
            "/room/{large}/members?limit=2&page=18446744073709551615"
        ))
        .await
        .ok();
    assert_eq!(body["users"], json!([]));
    assert_eq!(
        people[0].get(&format!("/room/{large}/presence")).await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
}

#[apply(each_store)]
#[tokio::test]
async fn a_room_becomes_large_and_small_again_with_its_members(kind: Kind) {
    let (_server, people, _, small) = five(kind).await;
    let shown = people[0].adds(&small, &[&people[4]]).await.ok()["chatRoom"].take();
    assert_eq!(
        (&shown["memberCount"], shown.get("memberIds")),
        (&json!(5), None)
    );
    assert_eq!(people[4].says(&small, "hello").await["memberCount"], 5);
    let shown = people[1].removes(&small, &people[1]).await.ok();
    assert_eq!(shown["removedMembersCount"], 1);
    let post = people[4].says(&small, "hello").await;
    assert_eq!(
        (
            post["chatRoomInfo"].as_array().unwrap().len(),
            post.get("memberCount")
        ),
        (4, None)
    );
}

/// Starts a server on this database, with a room of `members` members. Only two of them exist as
/// users.
async fn crowded(database: Database, members: u128) -> (TestServer, [Person; 2], String) {
    let store = database.open().await;
    let mut members: Vec<_> = (2..members)
        .map(|n| UserId::from_bytes((n + (1 << 120)).to_be_bytes()))
        .collect();
    for n in [200, 201] {
        store.add_user(user(n), None).await.unwrap();
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
    assert!(store.find_or_add_room(room.clone()).await.unwrap().1);
    store.close().await;
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
        let added = join_all(users.iter().map(|user| store.add_user(user.clone(), None))).await;
        assert!(added.into_iter().all(|added| added.unwrap()));
    }
    store.close().await;
    users.into_iter().map(|user| user.id.to_string()).collect()
}

#[apply(each_store)]
#[tokio::test]
async fn ten_thousand_members_are_no_burden(kind: Kind) {
    let (_server, people, room) = crowded(Database::new(kind).await, 10_000).await;
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
async fn the_largest_room_takes_nobody_more_and_works_as_any_other(kind: Kind) {
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

#[apply(each_store)]
#[tokio::test]
async fn a_thousand_come_into_a_large_room_while_others_post(kind: Kind) {
    let database = Database::new(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn all_who_are_added_come_in_also_when_nobody_waits_for_it(kind: Kind) {
    let database = Database::new(kind).await;
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
