//! The order of lists that are sorted by time, whatever the clock says.

use std::time::{Duration, Instant};

use reqwest::Method;
use rstest::rstest;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{
        databases::{Database, Kind},
        harness::{PATIENCE, TestServer},
        person::Person,
    },
};

const HOUR: i64 = 3_600_000;

fn texts(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["message"]["messageText"].as_str().unwrap())
        .collect()
}

/// Checks that every list of these rooms has them in this order, newest first, and that its
/// timestamps agree with the order.
async fn newest_first(person: &Person, expected: &[&str]) {
    let found = person.get("/room/search?q=word").await.ok()["messages"].take();
    for listed in [person.recents("").await, found.as_array().unwrap().clone()] {
        assert_eq!(texts(&listed), expected);
        let times: Vec<_> = listed
            .iter()
            .map(|message| message["createdAt"].as_str().unwrap())
            .collect();
        assert!(
            times.is_sorted_by(|later, earlier| later >= earlier),
            "{times:?}"
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn new_activity_comes_first_after_the_clock_was_set_back_between_two_starts(kind: Kind) {
    let mut server = TestServer::with(kind, &[("CAUSERIE_TOKEN__LIFETIME_SECONDS", "0")]).await;
    let [mut alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let rooms = [
        alice.room_with(&[&bob]).await,
        alice.room_with(&[&carol]).await,
        alice.named_room("third", &[&bob]).await,
    ];
    alice.says(&rooms[0], "early one").await;
    alice.says(&rooms[1], "early two").await;
    for (by, room, text) in [
        (-HOUR, 2, "word three"),
        (-24 * HOUR, 0, "word four"),
        (HOUR, 1, "word five"),
    ] {
        server.turn_clock(by);
        server.restart().await;
        alice.base.clone_from(&server.base);
        alice.says(&rooms[room], text).await;
        server.person(text).await;
        let [first, ..] = &alice.recents("").await[..] else {
            panic!("a room")
        };
        assert_eq!(first["message"]["messageText"], text);
    }
    newest_first(&alice, &["word five", "word four", "word three"]).await;
    let users = server.get("/users").await.ok()["users"].take();
    let names: Vec<_> = users
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["firstName"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "Alice",
            "Bob",
            "Carol",
            "word three",
            "word four",
            "word five"
        ]
    );
    assert!(
        users
            .as_array()
            .unwrap()
            .iter()
            .all(|user| user["updatedAt"].as_str() >= user["createdAt"].as_str())
    );
}

#[tokio::test]
async fn new_activity_comes_first_after_the_clock_was_set_back_while_the_server_runs() {
    let server = TestServer::with(Kind::Sqlite, &[("CAUSERIE_TOKEN__LIFETIME_SECONDS", "0")]).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let rooms = [
        alice.room_with(&[&bob]).await,
        alice.room_with(&[&carol]).await,
    ];
    alice.says(&rooms[0], "word one").await;
    server.turn_clock(-HOUR);
    alice.says(&rooms[1], "word two").await;
    server.person("Dave").await;
    newest_first(&alice, &["word two", "word one"]).await;
    let users = server.get("/users").await.ok()["users"].take();
    assert_eq!(
        users.as_array().unwrap().last().unwrap()["firstName"],
        "Dave"
    );
    let renamed = alice
        .calls(
            Method::PATCH,
            &format!("/users/{}", alice.id),
            json!({ "firstName": "Alicia" }),
        )
        .await
        .ok()["user"]
        .take();
    assert!(renamed["updatedAt"].as_str() >= renamed["createdAt"].as_str());
}

#[tokio::test]
async fn tokens_expire_by_the_clock_and_not_by_the_times_in_the_database() {
    let mut server = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_TOKEN__LIFETIME_SECONDS", "3600")],
    )
    .await;
    server.turn_clock(24 * HOUR);
    let (alice, _, room) = server.two_in_a_room().await;
    alice.says(&room, "tomorrow").await;
    server.turn_clock(-24 * HOUR);
    server.restart().await;
    let token = server.log_in(&alice.id).await;
    let alice = Person {
        base: server.base.clone(),
        token,
        ..alice
    };
    alice.says(&room, "today").await;
    server.turn_clock(HOUR + 1_000);
    alice.get("/room").await.refused(401, "jwt expired");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_different_clocks_soon_agree_on_the_newest_room(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let settings = [("CAUSERIE_TOKEN__LIFETIME_SECONDS", "0")];
    let (ahead, behind) = tokio::join!(
        TestServer::on(database.again(), &settings),
        TestServer::on(database, &settings)
    );
    let [alice, bob, carol] = [
        behind.person("Alice").await,
        behind.person("Bob").await,
        behind.person("Carol").await,
    ];
    let rooms = [
        alice.room_with(&[&bob]).await,
        alice.room_with(&[&carol]).await,
    ];
    ahead.turn_clock(HOUR);
    alice.at(&ahead).says(&rooms[0], "word ahead").await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        alice.says(&rooms[1], "word behind").await;
        let recents = alice.recents("").await;
        if texts(&recents) == ["word behind", "word ahead"] {
            return;
        }
        assert!(Instant::now() < deadline, "{recents:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
