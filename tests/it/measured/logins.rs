//! How long logins take, and how soon the end of a session reaches another server.

use std::{
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime;

use crate::{
    measured::TURN,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::{PATIENCE, TestServer},
        people::{Member, NO_REFRESH, NOBODY, PASSWORD, SECURE, new_member, registration},
        person::Person,
        program::Program,
        wire::Socket,
    },
};

/// How long the end of a session may take to reach another server: the second that is guaranteed,
/// plus a margin for a busy machine.
const SOON: Duration = Duration::from_millis(1_500);

/// Returns how long the server takes to refuse this request.
async fn refused_after(server: &TestServer, path: &str, body: &Value) -> Duration {
    let asked = Instant::now();
    server
        .post(path, body)
        .await
        .refused(401, "Wrong username or password");
    asked.elapsed()
}

#[rstest]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_times_of_logins_do_not_reveal_whether_a_user_exists(
    #[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind,
) {
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
    // Interleaves the requests, so that other load on the machine affects all of them alike.
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
    // Without the dummy hash for an unknown user the difference is at least a factor of ten.
    assert!(*most < *least * 2, "{medians:?}");
}

/// The server runs as a separate process, so that the load of the flooding clients is not measured
/// with it.
#[rstest]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_logins_do_not_delay_posts(
    #[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind,
) {
    let _turn = TURN.lock().await;
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let program = Program::start(
        folder.path(),
        &[&SECURE[..], &[("CAUSERIE_DATABASE", &*database.url)]].concat(),
    );
    let alice = new_member(&program.base, "alice").await;
    let room = alice.room_with(&[]).await;
    let longest = flood_with_logins(&alice, &room).await;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let login = alice
        .http
        .post(format!("{}/login", alice.base))
        .json(&json!({ "username": "alice", "password": PASSWORD }));
    tokio::time::timeout(PATIENCE, Answer::of(login))
        .await
        .expect("the flood is over")
        .ok();
}

/// Sends a thousand logins at once. Returns the longest time that a post of a logged-in user took
/// meanwhile.
async fn flood_with_logins(alice: &Person, room: &str) -> Duration {
    let path = format!("{}/login", alice.base);
    // Runs on a separate thread, so that the posts do not queue behind it in this runtime.
    let flood = thread::spawn(move || {
        let http = reqwest::Client::new();
        let login = |n: u32| {
            let username = if n.is_multiple_of(2) {
                "alice".to_owned()
            } else {
                format!("nobody{n}")
            };
            let request = http
                .post(&path)
                .json(&json!({ "username": username, "password": "a guess of theirs" }));
            async move { request.send().await.map(|answer| answer.status().as_u16()) }
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(join_all((0..1_000).map(login)))
    });
    let (mut posts, mut longest) = (0, Duration::ZERO);
    while !flood.is_finished() {
        let asked = Instant::now();
        alice.posts(room, "hello").await.ok();
        longest = longest.max(asked.elapsed());
        posts += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        posts > 20,
        "the flood was over before anybody could be held up: {posts}"
    );
    for status in flood.join().unwrap() {
        // A login that would have to wait too long gets a 503.
        assert!(matches!(status.unwrap(), 401 | 503));
    }
    longest
}

#[rstest]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_end_on_one_server_end_on_the_other_within_a_second(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let _turn = TURN.lock().await;
    let database = Database::new(kind).await;
    let (first, second) = tokio::join!(
        TestServer::on(database.again(), &SECURE),
        TestServer::on(database, &SECURE)
    );
    let alice = first.member("alice").await;
    let sue = first.support("sue").await;
    let ends: [(&str, Method, String, Value); 4] = [
        ("logout", Method::POST, "/logout".into(), json!({})),
        (
            "logout everywhere",
            Method::POST,
            "/logout".into(),
            json!({ "all": true }),
        ),
        (
            "another password",
            Method::PUT,
            format!("/users/{}/password", alice.id),
            json!({ "oldPassword": PASSWORD, "newPassword": PASSWORD }),
        ),
        (
            "deletion",
            Method::DELETE,
            format!("/users/{}", alice.id),
            json!({}),
        ),
    ];
    for (what, method, path, body) in ends {
        let session = first.session_of("alice").await;
        let elsewhere = Member {
            person: session.at(&second),
            refresh_token: session.refresh_token.clone(),
        };
        // Makes the other server look up the session, so that a cache would hold it.
        elsewhere.get("/room").await.ok();
        let socket = Socket::signed_in(&elsewhere).await;
        let who = match what {
            "deletion" => sue.clone(),
            "another password" => first.session_of("alice").await,
            _ => session.clone(),
        };
        who.calls(method, &path, body).await.ok();
        let ended = Instant::now();
        while elsewhere.get("/room").await.status == 200 {
            assert!(
                ended.elapsed() < SOON,
                "{what}: still in after {:?}",
                ended.elapsed()
            );
        }
        socket.ends().await;
        assert!(ended.elapsed() < SOON, "{what}: {:?}", ended.elapsed());
        elsewhere.refreshes().await.refused(401, NO_REFRESH);
    }
    first.registers("alice", "consumer").await.ok();
    second
        .post("/users", &registration("alice", "consumer"))
        .await
        .invalid(json!({ "username": "this username is taken" }));
}
