//! How long things take: tests that need the machine to themselves, and so a program of their own. Cargo runs one program of tests after the
//! other, and these take turns.

#[path = "../it/databases.rs"]
#[expect(dead_code, reason = "the other tests do more with their databases")]
mod databases;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the other tests do more with their servers")]
mod harness;
#[path = "../it/mongod.rs"]
#[expect(dead_code, reason = "the other tests do more to their servers")]
mod mongod;
#[path = "../it/people.rs"]
#[expect(dead_code, reason = "people do more in the other tests")]
mod people;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use databases::Kind;
use harness::{PATIENCE, TestServer};
use people::Person;

/// Whose turn it is.
static TURN: Mutex<()> = Mutex::const_new(());
/// Of a user that there is not.
const NOBODY: &str = "0199d1f0c0de7aaa8bbbccccddddeeee";

/// How long it takes to refuse this.
async fn refused_after(server: &TestServer, path: &str, body: &Value) -> Duration {
    let asked = Instant::now();
    server.post(path, body).await.refused(401, "Wrong username or password");
    asked.elapsed()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_there_is_such_a_user_does_not_show_in_the_time(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {
    let _turn = TURN.lock().await;
    let server = TestServer::secure(kind).await;
    let alice = server.member("alice").await;
    let body = |username: &str| json!({ "username": username, "password": "tall green kettles" });
    let asked = [
        ("/login".to_owned(), body("alice")),
        ("/login".to_owned(), body("nobody")),
        ("/login".to_owned(), body("n@body")),
        (format!("/login/{}", alice.id), body("")),
        (format!("/login/{NOBODY}"), body("")),
    ];
    let mut times = [const { Vec::new() }; 5];
    // In turns, so that whatever else the machine does falls on all of them.
    for _ in 0..15 {
        for ((path, body), times) in asked.iter().zip(&mut times) {
            times.push(refused_after(&server, path, body).await);
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
    // Without the work for somebody who is not there it is a factor of ten at least.
    assert!(*most < *least * 2, "{medians:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_logins_at_once_hold_nobody_up_who_is_in(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {
    let _turn = TURN.lock().await;
    let server = TestServer::secure(kind).await;
    let (alice, _, room) = server.two_members().await;
    let longest = flood_with_logins(&server, &alice, &room).await;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    tokio::time::timeout(PATIENCE, server.session_of("alice")).await.expect("the flood is over");
}

/// A thousand logins at once. The longest that a post of somebody who is in took meanwhile.
async fn flood_with_logins(server: &TestServer, alice: &Person, room: &str) -> Duration {
    let login = |n: u32| {
        let body = json!({ "username": if n.is_multiple_of(2) { "alice".to_owned() } else { format!("nobody{n}") }, "password": "a guess of theirs" });
        let request = server.request(Method::POST, "/login").json(&body);
        // Without waiting for each other's connections, as a thousand machines would.
        tokio::spawn(async move { request.send().await.map(|answer| answer.status().as_u16()) })
    };
    let logins: Vec<_> = (0..1_000).map(login).collect();
    let flood = tokio::spawn(join_all(logins));
    let (mut posts, mut longest) = (0, Duration::ZERO);
    while !flood.is_finished() {
        let asked = Instant::now();
        alice.posts(room, "hello").await.ok();
        longest = longest.max(asked.elapsed());
        posts += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(posts > 20, "the flood was over before anybody could be held up: {posts}");
    for status in flood.await.unwrap() {
        // Whoever would have had to wait for too long is told so.
        assert!(matches!(status.unwrap().unwrap(), 401 | 503));
    }
    longest
}
