//! Events about rooms and members.

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
async fn an_added_member_joins_and_all_members_are_told() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
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
}

#[tokio::test]
async fn an_added_member_reads_all_history_and_is_counted() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.named_room("room", &[&bob]).await;
    alice.says(&room, "before Carol").await;
    bob.adds(&room, &[&carol, &alice]).await.ok();
    let mut bobs = Socket::of(&bob, &room).await;
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

#[tokio::test]
async fn a_former_member_sees_and_hears_nothing_more() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.named_room("room", &[&bob, &carol]).await;
    bob.says(&room, "findable before").await;
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

/// Checks that a person who is not a member of a room can neither read nor change it; the message
/// is their own.
async fn is_refused_all_requests(person: &Person, room: &str, message: &Value) {
    for path in [
        "",
        "?before=99",
        "?after=0",
        "/sync",
        "/search?q=findable",
        "/members",
        "/presence",
    ] {
        person
            .get(&format!("/room/{room}{path}"))
            .await
            .refused(403, NOT_A_MEMBER);
    }
    person
        .posts(room, "hello?")
        .await
        .refused(403, NOT_A_MEMBER);
    person
        .edits(room, message, "hello?")
        .await
        .refused(403, NOT_A_MEMBER);
    person
        .adds(room, &[person])
        .await
        .refused(403, NOT_A_MEMBER);
    person
        .removes(room, person)
        .await
        .refused(403, NOT_A_MEMBER);
    person
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            &json!({ "name": "mine" }),
        )
        .await
        .refused(403, NOT_A_MEMBER);
    Answer::of(person.request(Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(403, NOT_A_MEMBER);
}

#[tokio::test]
async fn a_former_member_is_refused_everything_in_the_room() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
    let room = alice.named_room("room", &[&bob, &carol]).await;
    let said = bob.says(&room, "findable before").await;
    let mut bobs = Socket::of(&bob, &room).await;
    bob.removes(&room, &bob).await.ok();
    bobs.hears_of("member removed").await;
    is_refused_all_requests(&bob, &room, &said["postId"]).await;
    for (event, payload) in [
        (
            "send message",
            json!([{ "chatRoomId": room, "messageText": "hello?" }]),
        ),
        ("mark read", json!([{ "chatRoomId": room }])),
        ("typing", json!([room])),
    ] {
        assert_eq!(bobs.is_refused(event, payload).await, NOT_A_MEMBER);
    }
    let answer = bobs.asks("sync", json!([{ "rooms": { &room: 0 } }])).await;
    assert_eq!(
        answer["rooms"][&room],
        json!({ "success": false, "code": "not_a_member", "message": NOT_A_MEMBER })
    );
    alice.says(&room, "still nothing for Bob").await;
    bobs.hears_nothing_more().await;
    let texts = ["findable before", "still nothing for Bob"];
    assert_eq!(carol.reads(&room, "").await, texts, "nothing was done");
}

#[apply(each_store)]
#[tokio::test]
async fn new_and_deleted_rooms_are_announced_to_sockets_without_subscriptions(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = three_people(&server).await;
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

#[tokio::test]
async fn subscribing_without_a_room_subscribes_to_all_own_rooms() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = three_people(&server).await;
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
