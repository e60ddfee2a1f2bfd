//! Presence: who is online, and who was last seen when.

use std::time::{Duration, Instant};

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{
        databases::Kind,
        harness::TestServer,
        people::Member,
        person::Person,
        wire::{Socket, with_presence},
    },
};

#[tokio::test]
async fn members_of_a_shared_room_are_told_who_is_online() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    let own = stranger.room_with(&[]).await;
    let never = json!({ "_id": bob.id, "online": false, "lastSeenAt": null });
    assert_eq!(alice.sees(&room).await[1], never);
    let mut alices = with_presence(&alice, &room).await;
    // Not subscribed to any room: events about users go to all sockets of their recipients.
    let mut other = Socket::by(&alice).await;
    other.hears_presence = true;
    let mut strangers = with_presence(&stranger, &own).await;
    let bobs = [Socket::by(&bob).await, Socket::by(&bob).await];
    for socket in [&mut alices, &mut other] {
        assert_eq!(
            socket.hears_of("user online").await,
            json!({ "userId": bob.id })
        );
    }
    let seen = alice.sees(&room).await;
    assert_eq!(
        (&seen[0]["_id"], &seen[0]["online"], &seen[1]["online"]),
        (&json!(alice.id), &json!(true), &json!(true))
    );
    let [first, second] = bobs;
    drop(first);
    drop(second);
    let gone = Instant::now();
    let heard = alices.hears_of("user offline").await;
    assert!(
        gone.elapsed() >= Duration::from_millis(2_500),
        "with some grace"
    );
    assert_eq!(
        (&heard["userId"], heard["lastSeenAt"].is_string()),
        (&json!(bob.id), true)
    );
    assert_eq!(other.hears_of("user offline").await, heard);
    let away = json!({ "_id": bob.id, "online": false, "lastSeenAt": heard["lastSeenAt"] });
    assert_eq!(alice.sees(&room).await[1], away);
    strangers.hears_nothing_more().await;
    stranger
        .get(&format!("/room/{room}/presence"))
        .await
        .refused(403, "You are not a member of this room");
}

#[ignore = "slow"]
#[tokio::test]
async fn a_quick_reconnect_is_not_announced() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let carol = server.person("Carol").await;
    alice.room_with(&[&carol]).await;
    let mut alices = with_presence(&alice, &room).await;
    let mut bobs = Socket::by(&bob).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    for _ in 0..5 {
        drop(bobs);
        bobs = Socket::by(&bob).await;
    }
    let carols = Socket::by(&carol).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": carol.id })
    );
    drop(carols);
    // Longer than Bob's grace period, because Carol disconnected after him.
    let heard = alices.hears_of("user offline").await;
    assert_eq!(heard["userId"], *carol.id, "Bob is still there");
    assert_eq!(alice.sees(&room).await[1]["online"], true);
    drop(bobs);
    assert_eq!(alices.hears_of("user offline").await["userId"], *bob.id);
}

#[apply(each_store)]
#[tokio::test]
async fn the_last_seen_time_survives_a_restart(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    let (mut alice, bob, room) = server.two_in_a_room().await;
    let (mut alices, bobs) = (with_presence(&alice, &room).await, Socket::by(&bob).await);
    alices.hears_of("user online").await;
    let before = alice.sees(&room).await[1]["lastSeenAt"].clone();
    server.stop().await;
    drop(bobs);
    server.restart().await;
    alice.base.clone_from(&server.base);
    let seen = alice.sees(&room).await;
    for person in &seen {
        assert_eq!(person["online"], false);
        assert!(person["lastSeenAt"].is_string(), "{person}");
    }
    assert!(seen[1]["lastSeenAt"].as_str() >= before.as_str());
}

#[ignore = "slow"]
#[tokio::test]
async fn a_socket_with_a_new_identity_no_longer_counts_for_the_old_one() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let carol = server.person("Carol").await;
    alice.room_with(&[&bob, &carol]).await;
    let mut alices = with_presence(&alice, &room).await;
    let mut switcher = Socket::by(&bob).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    switcher.succeeds("identity", json!([carol.id])).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": carol.id })
    );
    assert_eq!(alices.hears_of("user offline").await["userId"], *bob.id);
    switcher.succeeds("identity", json!([carol.id])).await;
    alices.hears_nothing_more().await;
}

#[tokio::test]
async fn in_secure_mode_a_user_is_online_from_the_connection_on() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
    ];
    let room = alice.room_with(&[&bob]).await;
    let mut alices = Socket::signed_in(&alice).await;
    alices.hears_presence = true;
    let mut bobs = Socket::signed_in(&bob).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    alices.asks("subscribe", json!([])).await;
    bobs.succeeds("typing", json!([room])).await;
    assert_eq!(
        alices.hears_of("typing").await,
        json!({ "chatRoomId": room, "userId": bob.id })
    );
    drop(bobs);
    assert_eq!(alices.hears_of("stop typing").await["userId"], *bob.id);
}

#[ignore = "slow"]
#[tokio::test]
async fn in_secure_mode_a_user_is_offline_after_the_connection() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
    ];
    alice.room_with(&[&bob]).await;
    let mut alices = Socket::signed_in(&alice).await;
    alices.hears_presence = true;
    let bobs = Socket::signed_in(&bob).await;
    alices.hears_of("user online").await;
    drop(bobs);
    assert_eq!(alices.hears_of("user offline").await["userId"], *bob.id);
}

/// A secure server that shows the presence of writers only, with Bob and two people he shares a
/// room with: one whom he has not answered, and a friend to whom he has written.
struct Writers {
    _server: TestServer,
    mallory: Member,
    bob: Member,
    friend: Member,
    /// Mallory's room with Bob.
    room: String,
    /// The friend's room with Bob.
    other: String,
}

impl Writers {
    async fn start() -> Self {
        let settings = [("CAUSERIE_ROOMS__PRESENCE", "writers")];
        let server = TestServer::secure_with(Kind::Sqlite, &settings).await;
        let [mallory, bob, friend] = [
            server.member("mallory").await,
            server.member("bob").await,
            server.member("friend").await,
        ];
        let (room, other) = (
            mallory.room_with(&[&bob]).await,
            friend.room_with(&[&bob]).await,
        );
        mallory.says(&room, "hello?").await;
        bob.says(&other, "hello").await;
        Self {
            _server: server,
            mallory,
            bob,
            friend,
            room,
            other,
        }
    }

    /// Connects Mallory and the friend.
    async fn connect(&self) -> [Socket; 2] {
        let mut sockets = [
            Socket::signed_in_to(&self.mallory, &self.room).await,
            Socket::signed_in_to(&self.friend, &self.other).await,
        ];
        for socket in &mut sockets {
            socket.hears_presence = true;
        }
        sockets
    }
}

/// Returns the presence of a member of a room as another member sees it.
async fn seen_of(member: &Person, viewer: &Person, room: &str) -> Value {
    viewer
        .sees(room)
        .await
        .into_iter()
        .find(|seen| seen["_id"] == *member.id)
        .unwrap()
}

/// A client that knows a user's id can open a room with that user; with this setting the room
/// reveals nothing about the user's presence.
#[ignore = "slow"]
#[tokio::test]
async fn presence_of_writers_is_shown_only_where_they_have_written() {
    let writers = Writers::start().await;
    let Writers {
        mallory,
        bob,
        friend,
        room,
        other,
        ..
    } = &writers;
    let nothing = json!({ "_id": bob.id, "online": false, "lastSeenAt": null });
    let [mut mallorys, mut friends] = writers.connect().await;
    let bobs = Socket::signed_in(bob).await;
    assert_eq!(
        friends.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    assert_eq!(seen_of(bob, friend, other).await["online"], true);
    assert_eq!(
        seen_of(bob, bob, room).await["online"],
        true,
        "everybody knows of themselves"
    );
    drop(bobs);
    let offline = friends.hears_of("user offline").await;
    assert_eq!(
        seen_of(bob, friend, other).await["lastSeenAt"],
        offline["lastSeenAt"]
    );
    assert_eq!(seen_of(bob, mallory, room).await, nothing);
    assert_eq!(
        seen_of(mallory, bob, room).await["online"],
        true,
        "who writes is seen"
    );
    mallorys.hears_nothing_more().await;
}

/// Bob's presence is visible once he has written in the room, until he leaves and is added again.
#[ignore = "slow"]
#[tokio::test]
async fn presence_of_a_writer_is_shown_until_they_leave_the_room() {
    let writers = Writers::start().await;
    let Writers {
        mallory, bob, room, ..
    } = &writers;
    let nothing = json!({ "_id": bob.id, "online": false, "lastSeenAt": null });
    let [mut mallorys, mut friends] = writers.connect().await;
    let bobs = Socket::signed_in(bob).await;
    friends.hears_of("user online").await;
    drop(bobs);
    let offline = friends.hears_of("user offline").await;
    bob.says(room, "who are you?").await;
    mallorys.hears_post().await;
    assert_eq!(
        seen_of(bob, mallory, room).await["lastSeenAt"],
        offline["lastSeenAt"]
    );
    let bobs = Socket::signed_in(bob).await;
    assert_eq!(
        mallorys.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    friends.hears_of("user online").await;
    drop(bobs);
    mallorys.hears_of("user offline").await;
    friends.hears_of("user offline").await;
    bob.removes(room, bob).await.ok();
    mallory.adds(room, &[bob]).await.ok();
    assert_eq!(seen_of(bob, mallory, room).await, nothing);
    assert_eq!(mallorys.hears_of("member removed").await["userId"], *bob.id);
    assert_eq!(mallorys.hears_of("member added").await["userId"], *bob.id);
    let _bobs = Socket::signed_in(bob).await;
    friends.hears_of("user online").await;
    mallorys.hears_nothing_more().await;
}
