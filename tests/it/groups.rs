//! Rooms that change: named groups, members that join and leave, room names, and the events about
//! them. `groups_secure` tests secure mode and hidden history.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::Kind,
    each_store,
    harness::TestServer,
    people::{Answer, Person},
    wire::Socket,
};

const OUT: &str = "You are not a member of this room";

async fn three(server: &TestServer) -> [Person; 3] {
    [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ]
}

#[apply(each_store)]
#[tokio::test]
async fn a_group_with_a_name_is_always_a_new_one(kind: Kind) {
    let server = TestServer::start(kind).await;
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
    for wrong in [
        json!(""),
        json!(" \t"),
        json!(5),
        json!(["a"]),
        json!({}),
        json!("x".repeat(201)),
    ] {
        let body = json!({ "userIds": [bob.id], "type": "consumer-to-consumer", "name": wrong });
        let error = json!({ "name": "please provide 1 to 200 characters" });
        alice
            .calls(Method::POST, "/room/initiate", &body)
            .await
            .invalid(error.clone());
        if wrong != json!(null) {
            alice
                .calls(
                    Method::PUT,
                    &format!("/room/{plain}"),
                    &json!({ "name": wrong }),
                )
                .await
                .invalid(error);
        }
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
        .invalid(json!({ "name": "please provide 1 to 200 characters" }));
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_is_added_is_in_and_everybody_hears_of_it(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
    let room = alice.named_room("room", &[&bob]).await;
    alice.says(&room, "before Carol").await;
    let (mut bobs, mut carols) = (Socket::of(&bob, &room).await, Socket::by(&carol).await);
    let shown = bob.adds(&room, &[&carol, &alice]).await.ok()["chatRoom"].take();
    let mut ids = [&alice.id, &bob.id, &carol.id];
    ids.sort();
    assert_eq!(
        (
            &shown["chatRoomId"],
            &shown["memberIds"],
            &shown["memberCount"]
        ),
        (&json!(room), &json!(ids), &json!(3))
    );
    assert_eq!(
        (&shown["name"], &shown["initiatorId"]),
        (&json!("room"), &json!(alice.id))
    );
    let event = json!({ "chatRoomId": room, "userId": carol.id, "seq": 2 });
    assert_eq!(bobs.hears_of("member added").await, event);
    assert_eq!(
        carols.hears_of("member added").await,
        event,
        "though this socket is subscribed to nothing"
    );
    bobs.hears_nothing_more().await;
    assert_eq!(
        carol.reads(&room, "").await,
        ["before Carol"],
        "all history, by default"
    );
    assert_eq!(
        carol.syncs(&room, "").await["entries"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let post = carol.says(&room, "hello").await;
    assert_eq!(post["chatRoomInfo"].as_array().unwrap().len(), 3);
    assert_eq!(bobs.hears_post().await, post);
    alice.adds(&room, &[&carol]).await.ok();
    bobs.hears_nothing_more().await;
    let list = carol.get(&format!("/room/{room}/members")).await.ok();
    assert_eq!(
        (
            list["users"].as_array().unwrap().len(),
            &list["memberCount"]
        ),
        (3, &json!(3))
    );
}

#[apply(each_store)]
#[tokio::test]
async fn only_members_add_and_only_people_who_exist(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
    let room = alice.named_room("room", &[&bob]).await;
    carol.adds(&room, &[&carol]).await.refused(403, OUT);
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

#[apply(each_store)]
#[tokio::test]
async fn who_left_sees_and_hears_nothing_more(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
    let room = alice.named_room("room", &[&bob, &carol]).await;
    let said = bob.says(&room, "findable before").await;
    let (mut alices, mut bobs, mut transient) = (
        Socket::of(&alice, &room).await,
        Socket::of(&bob, &room).await,
        Socket::by(&bob).await,
    );
    assert_eq!(
        bob.removes(&room, &bob).await.ok()["removedMembersCount"],
        1
    );
    let event = json!({ "chatRoomId": room, "userId": bob.id, "seq": 2 });
    for socket in [&mut alices, &mut bobs, &mut transient] {
        assert_eq!(socket.hears_of("member removed").await, event);
    }
    let post = alice.says(&room, "behind his back, findable").await;
    assert_eq!(post["chatRoomInfo"], json!([alice.user, carol.user]));
    assert_eq!(alices.hears_post().await, post);
    for socket in [&mut bobs, &mut transient] {
        socket.hears_nothing_more().await;
    }
    for path in [
        "",
        "?before=99",
        "?after=0",
        "/sync",
        "/search?q=findable",
        "/members",
        "/presence",
    ] {
        bob.get(&format!("/room/{room}{path}"))
            .await
            .refused(403, OUT);
    }
    bob.posts(&room, "hello?").await.refused(403, OUT);
    bob.edits(&room, &said["postId"], "hello?")
        .await
        .refused(403, OUT);
    bob.adds(&room, &[&bob]).await.refused(403, OUT);
    bob.removes(&room, &bob).await.refused(403, OUT);
    bob.calls(
        Method::PUT,
        &format!("/room/{room}"),
        &json!({ "name": "mine" }),
    )
    .await
    .refused(403, OUT);
    Answer::of(bob.request(Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(403, OUT);
    for (event, payload) in [
        (
            "send message",
            json!([{ "chatRoomId": room, "messageText": "hello?" }]),
        ),
        ("mark read", json!([{ "chatRoomId": room }])),
        ("typing", json!([room])),
    ] {
        assert_eq!(bobs.is_refused(event, payload).await, OUT);
    }
    let answer = bobs.asks("sync", json!([{ "rooms": { &room: 0 } }])).await;
    assert_eq!(
        answer["rooms"][&room],
        json!({ "success": false, "message": OUT })
    );
    assert_eq!(
        bobs.asks("subscribe", json!([])).await,
        json!({ "success": true, "rooms": [] })
    );
    assert_eq!(bob.recents("").await, Vec::<Value>::new());
    assert_eq!(bob.get("/room/unread").await.ok()["total"], 0);
    assert_eq!(
        bob.get("/room/search?q=findable").await.ok()["messages"],
        json!([])
    );
    alice.says(&room, "still nothing for Bob").await;
    bobs.hears_nothing_more().await;
    assert_eq!(carol.reads(&room, "").await.len(), 3, "what he wrote stays");
    alice.adds(&room, &[&bob]).await.ok();
    assert_eq!(bob.reads(&room, "").await.len(), 3);
}

#[apply(each_store)]
#[tokio::test]
async fn the_initiator_and_support_remove_others_and_nobody_else(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
    let support = server
        .post(
            "/users",
            &json!({ "firstName": "Sue", "lastName": "Test", "type": "support" }),
        )
        .await
        .ok()["user"]
        .take();
    let id = support["_id"].as_str().unwrap().to_owned();
    let sue = Person {
        token: server.log_in(&id).await,
        id,
        user: support,
        ..alice.clone()
    };
    let room = alice.named_room("room", &[&bob, &carol]).await;
    let refusal = "Only the initiator of a room or a support user can take others out of it";
    bob.removes(&room, &carol).await.refused(403, refusal);
    bob.removes(&room, &alice).await.refused(403, refusal);
    server
        .person("Stranger")
        .await
        .removes(&room, &bob)
        .await
        .refused(403, OUT);
    assert_eq!(
        sue.removes(&room, &carol).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(
        alice.removes(&room, &carol).await.ok()["removedMembersCount"],
        0
    );
    assert_eq!(
        alice.removes(&room, &sue).await.ok()["removedMembersCount"],
        0
    );
    let nobody = format!("/room/{room}/members/nope");
    assert_eq!(
        Answer::of(alice.request(Method::DELETE, &nobody))
            .await
            .ok()["removedMembersCount"],
        0
    );
    assert_eq!(
        alice.removes(&room, &bob).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(
        alice.removes(&room, &alice).await.ok()["removedMembersCount"],
        1
    );
    alice.removes(&room, &bob).await.refused(403, OUT);
    alice
        .removes("nope", &bob)
        .await
        .refused(400, "No room exists for this id");
    sue.posts(&room, "nobody is there").await.refused(403, OUT);
    assert_eq!(
        server.delete(&format!("/delete/room/{room}")).await.ok()["deletedRoomsCount"],
        1
    );
}

#[apply(each_store)]
#[tokio::test]
async fn a_new_name_is_heard_and_seen(kind: Kind) {
    let server = TestServer::start(kind).await;
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
        .refused(403, OUT);
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

#[apply(each_store)]
#[tokio::test]
async fn initiate_does_not_find_a_room_whose_members_have_changed(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
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

#[apply(each_store)]
#[tokio::test]
async fn new_and_deleted_rooms_reach_sockets_that_are_subscribed_to_nothing(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
    let (mut alices, mut bobs, mut carols) = (
        Socket::by(&alice).await,
        Socket::by(&bob).await,
        Socket::by(&carol).await,
    );
    let room = alice.named_room("Us", &[&bob]).await;
    let mut ids = [&alice.id, &bob.id];
    ids.sort();
    for socket in [&mut alices, &mut bobs] {
        let mut heard = socket.hears_of("room created").await["chatRoom"].take();
        assert!(heard["createdAt"].take().is_string());
        let kind = "consumer-to-consumer";
        let expected = json!({
            "chatRoomId": room, "type": kind, "name": "Us", "initiatorId": alice.id, "memberIds": ids, "memberCount": 2, "createdAt": null
        });
        assert_eq!(heard, expected);
    }
    let plain = bob.room_with(&[&alice]).await;
    assert_eq!(
        bobs.hears_of("room created").await["chatRoom"]["chatRoomId"],
        *plain
    );
    alices.hears().await;
    alice.room_with(&[&bob]).await;
    bobs.hears_nothing_more().await;
    bobs.succeeds("subscribe", json!([room])).await;
    for id in [&room, &plain] {
        server.delete(&format!("/delete/room/{id}")).await.ok();
        for socket in [&mut alices, &mut bobs] {
            assert_eq!(
                socket.hears_of("room deleted").await,
                json!({ "chatRoomId": id })
            );
        }
        server.delete(&format!("/delete/room/{id}")).await.ok();
    }
    for socket in [&mut alices, &mut bobs, &mut carols] {
        socket.hears_nothing_more().await;
    }
}

#[apply(each_store)]
#[tokio::test]
async fn subscribing_without_a_room_is_subscribing_to_all_of_ones_own(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
    let rooms = [
        alice.room_with(&[&bob]).await,
        alice.named_room("group", &[&bob, &carol]).await,
        bob.room_with(&[]).await,
    ];
    let foreign = alice.room_with(&[&carol]).await;
    alice.says(&rooms[1], "one").await;
    let mut nobody = Socket::connect(&server.base).await;
    assert_eq!(
        nobody.is_refused("subscribe", json!([])).await,
        "Please say who you are with identity first"
    );
    let mut socket = Socket::by(&bob).await;
    let answer = socket.asks("subscribe", json!([])).await;
    let mut expected = [
        (rooms[0].clone(), 0),
        (rooms[1].clone(), 1),
        (rooms[2].clone(), 0),
    ];
    expected.sort();
    let shown: Vec<_> = expected
        .iter()
        .map(|(room, seq)| json!({ "chatRoomId": room, "lastSeq": seq }))
        .collect();
    let mut listed = answer["rooms"].as_array().unwrap().clone();
    listed.sort_by_key(|room| room["chatRoomId"].as_str().unwrap().to_owned());
    assert_eq!((&answer["success"], listed), (&json!(true), shown));
    for room in &rooms[..2] {
        let post = alice.says(room, "live").await;
        assert_eq!(socket.hears_post().await, post);
    }
    alice.says(&foreign, "not for Bob").await;
    socket.hears_nothing_more().await;
}

#[apply(each_store)]
#[tokio::test]
async fn a_member_who_is_deleted_as_a_user_is_shown_no_more_and_can_be_removed(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
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
async fn people_who_come_and_go_at_the_same_moment_leave_one_truth(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three(&server).await;
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
