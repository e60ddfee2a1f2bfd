//! Rooms that change: names, and members that join and leave.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::Kind,
        harness::TestServer,
        people::{NOT_A_MEMBER, three_people},
        person::Person,
        wire::Socket,
    },
};

#[tokio::test]
async fn a_named_room_is_always_new() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, plain) = server.two_in_a_room().await;
    let body = json!({ "userIds": [bob.id], "type": "consumer-to-consumer", "name": "Chess 🎲" });
    let mut rooms = vec![json!(plain)];
    for _ in 0..2 {
        let room = alice
            .calls(Method::POST, "/room/initiate", &body)
            .await
            .ok()["chatRoom"]
            .take();
        assert_eq!(
            (&room["isNew"], &room["name"], &room["message"]),
            (
                &json!(true),
                &json!("Chess 🎲"),
                &json!("creating a new chatroom")
            )
        );
        assert!(!rooms.contains(&room["chatRoomId"]));
        rooms.push(room["chatRoomId"].clone());
    }
    assert_eq!(
        bob.room_with(&[&alice]).await,
        plain,
        "without a name it is the room of these people"
    );
    alice.posts(rooms[1].as_str().unwrap(), "hello").await.ok();
    assert_eq!(bob.recents("").await[0]["name"], "Chess 🎲");
}

#[tokio::test]
async fn a_room_name_has_1_to_200_characters() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, plain) = server.two_in_a_room().await;
    let error = json!({ "name": "please provide 1 to 200 characters" });
    for wrong in [
        json!(""),
        json!(" \t"),
        json!(5),
        json!(["a"]),
        json!({}),
        json!("x".repeat(201)),
    ] {
        let body = json!({ "userIds": [bob.id], "type": "consumer-to-consumer", "name": wrong });
        alice
            .calls(Method::POST, "/room/initiate", &body)
            .await
            .invalid(error.clone());
        alice
            .calls(
                Method::PUT,
                &format!("/room/{plain}"),
                &json!({ "name": wrong }),
            )
            .await
            .invalid(error.clone());
    }
    let body = json!({ "userIds": [bob.id], "type": "consumer-to-consumer", "name": null });
    assert_eq!(
        alice
            .calls(Method::POST, "/room/initiate", &body)
            .await
            .ok()["chatRoom"]["isNew"],
        false
    );
    alice
        .calls(Method::PUT, &format!("/room/{plain}"), &json!({}))
        .await
        .invalid(error);
}

#[tokio::test]
async fn only_members_can_add_and_only_existing_users() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.named_room("room", &[&bob]).await;
    carol
        .adds(&room, &[&carol])
        .await
        .refused(403, NOT_A_MEMBER);
    alice
        .adds("nope", &[&carol])
        .await
        .refused(400, "No room exists for this id");
    let path = format!("/room/{room}/members");
    for (body, error) in [
        (json!({}), "Please provide an array".to_owned()),
        (
            json!({ "userIds": carol.id }),
            "Please provide an array".into(),
        ),
        (json!({ "userIds": [] }), "Array cannot be empty".into()),
        (
            json!({ "userIds": [carol.id, carol.id] }),
            "Values of array should be unique".into(),
        ),
        (
            json!({ "userIds": [5] }),
            "Values of array should be string only".into(),
        ),
        (
            json!({ "userIds": [carol.id, "nope"] }),
            "No user with this id found: nope".into(),
        ),
    ] {
        alice
            .calls(Method::POST, &path, &body)
            .await
            .invalid(json!({ "userIds": error }));
    }
    server.delete(&format!("/users/{}", carol.id)).await.ok();
    alice
        .adds(&room, &[&carol])
        .await
        .invalid(json!({ "userIds": format!("No user with this id found: {}", carol.id) }));
    assert_eq!(
        alice.syncs(&room, "").await["lastSeq"],
        0,
        "nobody was added half"
    );
    Answer::of(server.request(Method::POST, &path).json(&json!({})))
        .await
        .refused(400, "No access token provided");
}

/// Registers a support user and logs in.
async fn support_user(server: &TestServer) -> Person {
    let user = server
        .post(
            "/users",
            &json!({ "firstName": "Sue", "lastName": "Test", "type": "support" }),
        )
        .await
        .ok()["user"]
        .take();
    let id = user["_id"].as_str().unwrap().to_owned();
    Person {
        base: server.base.clone(),
        http: server.http.clone(),
        token: server.log_in(&id).await,
        id,
        user,
    }
}

/// Takes a member out of a room, and returns how many were taken out.
async fn takes_out(person: &Person, room: &str, other: &Person) -> Value {
    person.removes(room, other).await.ok()["removedMembersCount"].take()
}

#[tokio::test]
async fn only_the_initiator_and_support_can_remove_others() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let sue = support_user(&server).await;
    let room = alice.named_room("room", &[&bob, &carol]).await;
    let refusal = "Only the initiator of a room or a support user can take others out of it";
    bob.removes(&room, &carol).await.refused(403, refusal);
    bob.removes(&room, &alice).await.refused(403, refusal);
    server
        .person("Stranger")
        .await
        .removes(&room, &bob)
        .await
        .refused(403, NOT_A_MEMBER);
    assert_eq!(takes_out(&sue, &room, &carol).await, 1);
    assert_eq!(takes_out(&alice, &room, &carol).await, 0);
    assert_eq!(takes_out(&alice, &room, &sue).await, 0);
    let nobody = format!("/room/{room}/members/nope");
    assert_eq!(
        Answer::of(alice.request(Method::DELETE, &nobody))
            .await
            .ok()["removedMembersCount"],
        0
    );
    assert_eq!(takes_out(&alice, &room, &bob).await, 1);
    assert_eq!(takes_out(&alice, &room, &alice).await, 1);
    alice.removes(&room, &bob).await.refused(403, NOT_A_MEMBER);
    alice
        .removes("nope", &bob)
        .await
        .refused(400, "No room exists for this id");
    sue.posts(&room, "nobody is there")
        .await
        .refused(403, NOT_A_MEMBER);
    assert_eq!(
        server.delete(&format!("/delete/room/{room}")).await.ok()["deletedRoomsCount"],
        1
    );
}

#[tokio::test]
async fn a_new_room_name_is_announced_and_shown() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    alice.says(&room, "hello").await;
    let mut socket = Socket::of(&bob, &room).await;
    let path = format!("/room/{room}");
    let shown = bob
        .calls(Method::PUT, &path, &json!({ "name": "Us" }))
        .await
        .ok()["chatRoom"]
        .take();
    assert_eq!(
        (&shown["name"], &shown["chatRoomId"]),
        (&json!("Us"), &json!(room))
    );
    assert_eq!(
        socket.hears_of("room changed").await,
        json!({ "chatRoomId": room, "name": "Us", "seq": 2 })
    );
    bob.calls(Method::PUT, &path, &json!({ "name": "Us" }))
        .await
        .ok();
    socket.hears_nothing_more().await;
    let recent = alice.recents("").await.remove(0);
    assert_eq!(
        (&recent["name"], &recent["lastSeq"]),
        (&json!("Us"), &json!(2))
    );
    stranger
        .calls(Method::PUT, &path, &json!({ "name": "Mine" }))
        .await
        .refused(403, NOT_A_MEMBER);
    alice
        .calls(Method::PUT, "/room/nope", &json!({ "name": "x" }))
        .await
        .refused(400, "No room exists for this id");
    assert_eq!(
        alice.room_with(&[&bob]).await,
        room,
        "the people are still the same"
    );
}

#[tokio::test]
async fn initiate_does_not_find_a_room_whose_members_have_changed() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.room_with(&[&bob]).await;
    alice.adds(&room, &[&carol]).await.ok();
    let both = alice.room_with(&[&bob]).await;
    let all = alice.room_with(&[&bob, &carol]).await;
    assert!(both != room && all != room && both != all);
    alice.removes(&room, &carol).await.ok();
    assert_eq!(
        alice.room_with(&[&bob]).await,
        both,
        "also when they are the old ones again"
    );
    assert_eq!(alice.room_with(&[&carol, &bob]).await, all);
}

#[tokio::test]
async fn a_deleted_user_is_not_listed_and_can_be_removed() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.named_room("room", &[&bob, &carol]).await;
    bob.says(&room, "remember me").await;
    server.delete(&format!("/users/{}", bob.id)).await.ok();
    let list = carol.get(&format!("/room/{room}/members")).await.ok();
    assert_eq!(list["users"], json!([alice.user, carol.user]));
    let post = carol.says(&room, "we do").await;
    assert_eq!(post["chatRoomInfo"], json!([alice.user, carol.user]));
    let page = carol.syncs(&room, "").await;
    assert_eq!(
        page["entries"][0]["message"]["postedByUser"]["deleted"],
        true
    );
    assert_eq!(
        alice.removes(&room, &bob).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(
        carol.syncs(&room, "?since=2").await["entries"][0]["type"],
        "member removed"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn concurrent_joins_and_leaves_agree_with_the_log(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.named_room("room", &[&bob]).await;
    let mut listener = Socket::of(&alice, &room).await;
    let coming = async || {
        for _ in 0..15 {
            bob.adds(&room, &[&carol]).await.ok();
        }
    };
    let going = async || {
        for _ in 0..15 {
            alice.removes(&room, &carol).await.ok();
        }
    };
    let posting = async || {
        for _ in 0..30 {
            let answer = carol.posts(&room, "in or out").await;
            assert!(
                answer.status == 200 || answer.status == 403,
                "{}",
                answer.body
            );
        }
    };
    tokio::join!(coming(), going(), posting(), coming());
    let page = alice.syncs(&room, "?limit=500").await;
    let mut is_in = false;
    for entry in page["entries"].as_array().unwrap() {
        let event = listener.hears().await;
        let seq = event[1].get("seq").unwrap_or(&event[1]["message"]["seq"]);
        assert_eq!((&event[0], seq), (&entry["type"], &entry["seq"]));
        match entry["type"].as_str().unwrap() {
            "member added" => assert!(!std::mem::replace(&mut is_in, true), "came twice"),
            "member removed" => assert!(std::mem::replace(&mut is_in, false), "went twice"),
            _ => assert!(is_in, "posted from outside"),
        }
    }
    listener.hears_nothing_more().await;
    assert_eq!(
        carol.get(&format!("/room/{room}")).await.status == 200,
        is_in
    );
}
