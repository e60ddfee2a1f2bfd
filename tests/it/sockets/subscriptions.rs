//! The limits on subscriptions, which are counted per socket.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{databases::Kind, harness::TestServer, person::Person, wire::Socket};

const TOO_MANY: &str =
    "Your sockets are in too many rooms together; leave some with unsubscribe, or close a socket";

/// Creates three rooms in which the user is the only member.
async fn three_rooms(person: &Person) -> [String; 3] {
    let mut rooms = Vec::new();
    for name in ["one", "two", "three"] {
        rooms.push(person.named_room(name, &[person]).await);
    }
    rooms.try_into().unwrap()
}

/// Retries until the socket may do this: the server notices with a delay that another socket has
/// left.
async fn may_soon(socket: &mut Socket, event: &str, arguments: Value) {
    while socket.asks(event, arguments.clone()).await["success"] != true {}
}

#[tokio::test]
async fn subscriptions_of_one_user_are_limited() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__SUBSCRIPTIONS_PER_USER", "4")],
    )
    .await;
    let (alice, bob, shared) = server.two_members().await;
    let [one, two, three] = three_rooms(&alice).await;
    let mut first = Socket::signed_in(&alice).await;
    // Four rooms, with the one shared with Bob. The second time the socket is subscribed to all of
    // them already.
    for _ in 0..2 {
        assert_eq!(
            first.asks("subscribe", json!([])).await["rooms"]
                .as_array()
                .unwrap()
                .len(),
            4
        );
    }
    let mut second = Socket::signed_in(&alice).await;
    assert_eq!(second.is_refused("subscribe", json!([one])).await, TOO_MANY);
    assert_eq!(second.is_refused("subscribe", json!([])).await, TOO_MANY);
    assert_eq!(
        second
            .is_refused("sync", json!([{ "rooms": { &two: 0 } }]))
            .await,
        TOO_MANY
    );
    let mut of_bob = Socket::signed_in(&bob).await;
    of_bob
        .succeeds("subscribe", json!([shared, alice.id]))
        .await;
    alice.posts(&shared, "hello").await.ok();
    assert_eq!(first.hears_post().await, of_bob.hears_post().await);
    second.hears_nothing_more().await;

    first.succeeds("unsubscribe", json!([three])).await;
    first.succeeds("unsubscribe", json!([three])).await;
    second.succeeds("subscribe", json!([three])).await;
    assert_eq!(second.is_refused("subscribe", json!([two])).await, TOO_MANY);
    drop(first);
    may_soon(&mut second, "subscribe", json!([])).await;
    alice
        .calls(Method::DELETE, &format!("/delete/room/{one}"), json!({}))
        .await
        .ok();
    let fourth = alice.named_room("four", &[&alice]).await;
    second.succeeds("subscribe", json!([fourth])).await;
}

#[tokio::test]
async fn subscriptions_of_all_sockets_are_limited() {
    let server =
        TestServer::with(Kind::Sqlite, &[("CAUSERIE_SOCKET__MAX_SUBSCRIPTIONS", "3")]).await;
    let (alice, bob, _) = server.two_in_a_room().await;
    let [one, two, three] = three_rooms(&alice).await;
    let (mut of_alice, mut of_bob) = (Socket::of(&alice, &one).await, Socket::of(&bob, &one).await);
    of_alice.succeeds("subscribe", json!([two])).await;
    let refusal = "The server has too much to do right now, please try again";
    assert_eq!(of_bob.is_refused("subscribe", json!([two])).await, refusal);
    assert_eq!(
        of_alice.is_refused("subscribe", json!([three])).await,
        refusal
    );
    of_alice.succeeds("subscribe", json!([two])).await;
    drop(of_alice);
    may_soon(&mut of_bob, "subscribe", json!([two])).await;
    of_bob.succeeds("subscribe", json!([three])).await;
}

#[tokio::test]
async fn concurrent_subscriptions_are_limited() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__SUBSCRIPTIONS_PER_USER", "4")],
    )
    .await;
    let alice = server.member("alice").await;
    let [one, ..] = three_rooms(&alice).await;
    let mut sockets = join_all((0..10).map(|_| Socket::signed_in(&alice))).await;
    let answers = join_all(
        sockets
            .iter_mut()
            .map(|socket| socket.asks("subscribe", json!([]))),
    )
    .await;
    // Possibly none, where concurrent subscriptions blocked one another.
    let subscribed = answers
        .iter()
        .filter(|answer| answer["success"] == true)
        .count();
    assert!(subscribed <= 1, "{answers:?}");
    // The refused subscriptions do not count against the limit.
    let mut free = 4 - 3 * subscribed;
    for socket in &mut sockets {
        if socket.asks("subscribe", json!([one])).await["success"] == true && free > 0 {
            free -= 1;
        }
    }
    assert_eq!(free, 0);
}

/// More rooms than are entered in one batch.
#[tokio::test]
async fn a_refused_subscription_joins_none_of_its_rooms() {
    let settings = [
        ("CAUSERIE_LIMITS__SUBSCRIPTIONS_PER_USER", "2000"),
        ("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "0"),
        ("CAUSERIE_LIMITS__READS_PER_MINUTE", "0"),
    ];
    let server = TestServer::secure_with(Kind::Sqlite, &settings).await;
    let alice = server.member("alice").await;
    for n in 0..1_050 {
        alice.named_room(&format!("room {n}"), &[&alice]).await;
    }
    let mut sockets = join_all((0..6).map(|_| Socket::signed_in(&alice))).await;
    let all = |socket| async move { Socket::asks(socket, "subscribe", json!([])).await };
    let answers = join_all(sockets.iter_mut().map(all)).await;
    let subscribed = answers
        .iter()
        .filter(|answer| answer["success"] == true)
        .count();
    assert!(subscribed <= 1, "{subscribed}");
    if subscribed == 0 {
        let answer = sockets[0].asks("subscribe", json!([])).await;
        assert_eq!(answer["success"], true, "{}", answer["message"]);
    }
}
