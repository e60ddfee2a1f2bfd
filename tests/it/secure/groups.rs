//! Rooms that change in secure mode.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    answer::Answer, databases::Kind, harness::TestServer, person::Person, wire::Socket,
};

const OUT: &str = "You are not a member of this room";
const NOWHERE: &str = "0199d1f0c0de7aaa8bbbccccddddeeee";

async fn refused_everything(person: &Person, room: &str) {
    for path in ["", "/sync", "/search?q=word", "/members", "/presence"] {
        person
            .get(&format!("/room/{room}{path}"))
            .await
            .refused(403, OUT);
    }
    person.posts(room, "hello?").await.refused(403, OUT);
    person
        .edits(room, &json!(NOWHERE), "hello?")
        .await
        .refused(403, OUT);
    person.adds(room, &[person]).await.refused(403, OUT);
    person.removes(room, person).await.refused(403, OUT);
    person
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            &json!({ "name": "mine" }),
        )
        .await
        .refused(403, OUT);
    Answer::of(person.request(Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(403, OUT);
    let refusal = "This is not yours to delete, or it is not there";
    Answer::of(person.request(Method::DELETE, &format!("/delete/room/{room}")))
        .await
        .refused(403, refusal);
    let mut socket = Socket::signed_in(person).await;
    for (event, payload) in [
        ("subscribe", json!([room])),
        (
            "send message",
            json!([{ "chatRoomId": room, "messageText": "hello?" }]),
        ),
        ("mark read", json!([{ "chatRoomId": room }])),
        ("typing", json!([room])),
        ("stop typing", json!([room])),
    ] {
        assert_eq!(socket.is_refused(event, payload).await, OUT, "{event}");
    }
    let answer = socket.asks("sync", json!([{ "rooms": { room: 0 } }])).await;
    assert_eq!(
        answer["rooms"][room],
        json!({ "success": false, "code": "not_a_member", "message": OUT })
    );
}

#[tokio::test]
async fn a_removed_member_cannot_tell_that_the_room_exists() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob, stranger] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
        server.registered("Stranger", "consumer").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    let post = bob.says(&room, "word").await;
    let mut bobs = Socket::signed_in(&bob).await;
    bobs.succeeds("subscribe", json!([room])).await;
    alice.removes(&room, &bob).await.ok();
    assert_eq!(bobs.hears_of("member removed").await["userId"], *bob.id);
    for (person, room) in [
        (&bob, room.as_str()),
        (&stranger, &room),
        (&bob, NOWHERE),
        (&stranger, "nope"),
    ] {
        refused_everything(person, room).await;
    }
    let refusal = "This is not yours to delete, or it is not there";
    let path = format!("/delete/message/{}", post["postId"].as_str().unwrap());
    Answer::of(bob.request(Method::DELETE, &path))
        .await
        .refused(403, refusal);
    alice.says(&room, "word without Bob").await;
    bobs.hears_nothing_more().await;
    assert_eq!(bobs.asks("subscribe", json!([])).await["rooms"], json!([]));
    assert_eq!(
        bob.get("/room/search?q=word").await.ok()["messages"],
        json!([])
    );
    let mut alices = Socket::signed_in(&alice).await;
    assert_eq!(
        alices.is_refused("subscribe", json!([room, bob.id])).await,
        "That user is not a member of this room"
    );
}

#[tokio::test]
async fn support_can_remove_members_of_any_room_without_reading_it() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob, sue] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
        server.registered("Sue", "support").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    let refusal = "Only the initiator of a room or a support user can take others out of it";
    bob.removes(&room, &alice).await.refused(403, refusal);
    sue.get(&format!("/room/{room}")).await.refused(403, OUT);
    assert_eq!(
        sue.removes(&room, &alice).await.ok()["removedMembersCount"],
        1
    );
    alice.removes(&room, &bob).await.refused(403, OUT);
    let refusal = "This is not yours to delete, or it is not there";
    Answer::of(alice.request(Method::DELETE, &format!("/delete/room/{room}")))
        .await
        .refused(403, refusal);
    let page = bob.syncs(&room, "").await;
    assert_eq!(
        (
            &page["entries"][0]["userId"],
            &page["entries"][0]["byUserId"]
        ),
        (&json!(alice.id), &json!(sue.id))
    );
    assert_eq!(
        bob.removes(&room, &bob).await.ok()["removedMembersCount"],
        1
    );
}

#[tokio::test]
async fn only_support_can_remove_the_last_support_user() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
    ];
    let [sue, sam] = [
        server.registered("Sue", "support").await,
        server.registered("Sam", "support").await,
    ];
    let body = json!({ "userIds": [bob.id, sue.id, sam.id], "type": "consumer-to-support" });
    let initiated = alice
        .calls(Method::POST, "/room/initiate", &body)
        .await
        .ok();
    let room = initiated["chatRoom"]["chatRoomId"].as_str().unwrap();
    assert_eq!(
        alice.removes(room, &sam).await.ok()["removedMembersCount"],
        1,
        "one is left"
    );
    let refusal =
        "Only a support user can take the last support user out of a consumer-to-support room";
    alice.removes(room, &sue).await.refused(403, refusal);
    assert_eq!(
        alice.removes(room, &sam).await.ok()["removedMembersCount"],
        0
    );
    assert_eq!(
        alice.removes(room, &bob).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(
        sam.removes(room, &sue).await.ok()["removedMembersCount"],
        1,
        "support may"
    );
    alice.adds(room, &[&sue]).await.ok();
    assert_eq!(
        sue.removes(room, &sue).await.ok()["removedMembersCount"],
        1,
        "and go"
    );
    let other = alice.named_room("of consumers", &[&sue]).await;
    assert_eq!(
        alice.removes(&other, &sue).await.ok()["removedMembersCount"],
        1
    );
}

#[tokio::test]
async fn concurrent_removals_leave_the_last_support_user() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.registered("Alice", "consumer").await;
    let mut support = Vec::new();
    for n in 0..4 {
        support.push(server.registered(&format!("Support{n}"), "support").await);
    }
    let ids: Vec<_> = support.iter().map(|user| &user.id).collect();
    for _ in 0..5 {
        let body = json!({ "name": "help", "userIds": ids, "type": "consumer-to-support" });
        let initiated = alice
            .calls(Method::POST, "/room/initiate", &body)
            .await
            .ok();
        let room = initiated["chatRoom"]["chatRoomId"].as_str().unwrap();
        let answers = join_all(support.iter().map(|user| alice.removes(room, user))).await;
        let refused: Vec<_> = answers
            .into_iter()
            .filter(|answer| answer.status != 200)
            .collect();
        let [refused] = <[_; 1]>::try_from(refused).unwrap();
        refused.refused(
            403,
            "Only a support user can take the last support user out of a consumer-to-support room",
        );
    }
}
