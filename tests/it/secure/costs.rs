//! What counts as a post, an event or a read, and the daily quota.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    answer::{Answer, limited},
    databases::Kind,
    harness::TestServer,
    person::Person,
    wire::Socket,
};

/// Makes the request twice: the first uses up the limit of the minute. Returns the second response.
async fn spends(person: &Person, method: Method, path: &str, body: &Value) -> Answer {
    person.calls(method.clone(), path, body).await.ok();
    person.calls(method, path, body).await
}

/// Creates a room of another user with this member.
async fn group_with(server: &TestServer, member: &Person) -> String {
    let founder = server.member(&format!("founder{}", &member.id[20..])).await;
    founder.named_room("group", &[member]).await
}

#[tokio::test]
async fn every_change_of_a_room_counts_as_a_post() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "1")]).await;
    let host = server.member("host").await;
    let room = host.room_with(&[]).await;
    let [renamer, adder, leaver, other] = [
        server.support("renamer").await,
        server.support("adder").await,
        server.support("leaver").await,
        server.support("other").await,
    ];
    // Each bucket holds one token and refills after a minute at the earliest, so each step uses
    // another user.
    limited(host.adds(&room, &[&renamer]).await);
    let path = format!("/room/{}", group_with(&server, &renamer).await);
    limited(spends(&renamer, Method::PUT, &path, &json!({ "name": "other" })).await);
    let path = format!("/room/{}/members", group_with(&server, &adder).await);
    adder
        .calls(Method::POST, &path, &json!({ "userIds": [adder.id] }))
        .await
        .ok();
    adder
        .calls(
            Method::POST,
            &path,
            &json!({ "userIds": [host.id, leaver.id] }),
        )
        .await
        .ok();
    adder
        .calls(
            Method::POST,
            &path,
            &json!({ "userIds": [adder.id, host.id] }),
        )
        .await
        .ok();
    limited(
        adder
            .calls(Method::POST, &path, &json!({ "userIds": [other.id] }))
            .await,
    );
    let path = format!(
        "/room/{}/members/{}",
        group_with(&server, &leaver).await,
        leaver.id
    );
    leaver.calls(Method::DELETE, &path, &json!({})).await.ok();
    limited(leaver.calls(Method::DELETE, &path, &json!({})).await);
}

#[tokio::test]
async fn every_removal_and_deletion_counts_as_a_post() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "1")]).await;
    let host = server.member("host").await;
    let room = host.room_with(&[]).await;
    let [remover, deleter, destroyer, other] = [
        server.support("remover").await,
        server.support("deleter").await,
        server.support("destroyer").await,
        server.support("other").await,
    ];
    limited(
        spends(
            &remover,
            Method::DELETE,
            &format!("/room/{room}/members/{}", other.id),
            &json!({}),
        )
        .await,
    );
    limited(
        spends(
            &deleter,
            Method::DELETE,
            &format!("/delete/message/{room}"),
            &json!({}),
        )
        .await,
    );
    limited(
        spends(
            &destroyer,
            Method::DELETE,
            &format!("/delete/room/{room}"),
            &json!({}),
        )
        .await,
    );
}

#[tokio::test]
async fn initiating_a_room_counts_as_one_post_per_member() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "3")]).await;
    let (alice, bob, carol) = (
        server.member("alice").await,
        server.member("bob").await,
        server.member("carol").await,
    );
    alice.named_room("of three", &[&bob, &carol]).await;
    limited(alice.initiate(&[&bob, &carol]).await);
    alice.room_with(&[&bob]).await;
    limited(alice.initiate(&[&bob]).await);
}

#[tokio::test]
async fn marking_as_read_counts_as_an_event_by_rest_and_by_socket() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "3")]).await;
    let alice = server.member("alice").await;
    let room = alice.room_with(&[]).await;
    let mut socket = Socket::signed_in(&alice).await;
    assert_eq!(
        socket
            .asks("mark read", json!([{ "chatRoomId": room }]))
            .await["success"],
        true
    );
    for _ in 0..2 {
        alice.marks_read(&room).await;
    }
    limited(Answer::of(alice.request(Method::PUT, &format!("/room/{room}/mark-read"))).await);
    assert_eq!(
        socket
            .is_refused("mark read", json!([{ "chatRoomId": room }]))
            .await,
        "rate limited"
    );
}

#[tokio::test]
async fn reads_are_limited_per_user_by_their_cost() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__READS_PER_MINUTE", "2")]).await;
    let (alice, bob, room) = server.two_members().await;
    let carol = server.member("carol").await;
    alice.get(&format!("/room/{room}?limit=50")).await.ok();
    for path in [
        "/users",
        "/room",
        "/room/unread",
        "/room/search?q=word",
        &format!("/users/{}", bob.id),
        &format!("/room/{room}/members"),
    ] {
        limited(alice.get(path).await);
    }
    // Requests that are not reads still pass, and so do those of other users.
    alice.says(&room, "hello").await;
    bob.get(&format!("/room/{room}/sync?limit=49")).await.ok();
    limited(bob.get(&format!("/room/{room}/sync?limit=50")).await);
    // A request that costs more than the limit of a minute passes once.
    carol.get("/room/search?q=word").await.ok();
    limited(carol.get("/users").await);
}

#[tokio::test]
async fn subscribing_to_all_rooms_counts_as_one_read_per_room() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__READS_PER_MINUTE", "4")]).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    for name in ["one", "two", "three"] {
        alice.named_room(name, &[&bob]).await;
    }
    let mut socket = Socket::signed_in(&alice).await;
    assert_eq!(
        socket.asks("subscribe", json!([])).await["rooms"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(
        socket.is_refused("subscribe", json!([])).await,
        "rate limited"
    );
    // Other events are still allowed.
    socket.succeeds("identity", json!([alice.id])).await;
}

const OVER_QUOTA: &str = "You have stored as much as one user may in a day (2500 bytes)";

#[tokio::test]
async fn stored_bytes_are_limited_by_a_daily_quota() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__BYTES_PER_DAY", "2500")]).await;
    let (alice, bob, room) = server.two_members().await;
    let long = "x".repeat(1_000);
    let post = alice.says(&room, &long).await;
    // The room took 200 bytes and the message 1,200. The remaining 1,100 bytes are 5 short
    // messages.
    let refused = alice.posts(&room, &long).await;
    let wait = refused.body["retryAfter"].as_u64().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    refused.refused(429, OVER_QUOTA);
    alice
        .edits(&room, &post["postId"], &long)
        .await
        .refused(429, OVER_QUOTA);
    let mut socket = Socket::signed_in(&alice).await;
    let payload = json!([{ "chatRoomId": room, "messageText": long }]);
    assert_eq!(
        socket.is_refused("send message", payload.clone()).await,
        OVER_QUOTA
    );
    for _ in 0..5 {
        alice.says(&room, "hi").await;
    }
    alice
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            &json!({ "name": "name" }),
        )
        .await
        .refused(429, OVER_QUOTA);
    alice.initiate(&[]).await.refused(429, OVER_QUOTA);
    alice
        .calls(
            Method::PATCH,
            &format!("/users/{}", alice.id),
            &json!({ "firstName": "name" }),
        )
        .await
        .refused(429, OVER_QUOTA);
    Answer::of(alice.request(Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(429, OVER_QUOTA);
    bob.says(&room, &long).await;
    // The tokens expire before the day ends.
    server.turn_clock(24 * 60 * 60 * 1_000);
    let alice = server.session_of("alice").await;
    alice.says(&room, &long).await;
}
