//! MongoDB outages under load: clients get no wrong answers meanwhile, no acknowledged message is
//! lost, none is posted twice, and the server recovers when the database is back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::{
    answer::Answer,
    harness::PATIENCE,
    mongod::{Mongod, ReplicaSet},
    person::{Person, log_of, new_person},
    program::Program,
    wire::Socket,
};

const ROOMS: usize = 3;
const POSTERS: usize = 8;
/// The maximum duration of a request, as set for the server.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Users that post continuously, and a record of what was acknowledged.
struct Load {
    alice: Person,
    rooms: Vec<String>,
    /// Maps each text to its room and sequence number.
    acknowledged: Arc<Mutex<HashMap<String, (String, u64)>>>,
    refused: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    posters: Vec<JoinHandle<()>>,
}

impl Load {
    async fn on(program: &Program) -> Self {
        let alice = new_person(&program.base, "Alice").await;
        let mut rooms = Vec::new();
        for n in 0..ROOMS {
            let partner = new_person(&program.base, &format!("Partner {n}")).await;
            rooms.push(alice.room_with(&[&partner]).await);
        }
        let mut load = Self {
            alice,
            rooms,
            acknowledged: Arc::default(),
            refused: Arc::default(),
            over: Arc::default(),
            posters: Vec::new(),
        };
        load.posters = (0..POSTERS)
            .map(|poster| tokio::spawn(load.post_on(poster)))
            .collect();
        load
    }

    fn post_on(&self, poster: usize) -> impl Future<Output = ()> + use<> {
        let (alice, room) = (self.alice.clone(), self.rooms[poster % ROOMS].clone());
        let (acknowledged, refused, over) = (
            Arc::clone(&self.acknowledged),
            Arc::clone(&self.refused),
            Arc::clone(&self.over),
        );
        async move {
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let text = format!("{poster}/{n}");
                let asked = Instant::now();
                let answer = alice.posts(&room, &text).await;
                // The margin covers a response that is sent when the timeout expires.
                assert!(
                    asked.elapsed() < TIME_LIMIT + Duration::from_secs(2),
                    "{answer:?}"
                );
                if answer.status == 200 {
                    let seq = answer.body["post"]["seq"].as_u64().unwrap();
                    acknowledged
                        .lock()
                        .unwrap()
                        .insert(text, (room.clone(), seq));
                } else {
                    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
                    assert_eq!(
                        (answer.status, &answer.body["success"]),
                        (503, &json!(false)),
                        "{answer:?}"
                    );
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until `posts` more posts are acknowledged.
    async fn goes_on(&self, posts: usize) {
        let wanted = self.acknowledged() + posts;
        let deadline = Instant::now() + 3 * PATIENCE;
        while self.acknowledged() < wanted {
            assert!(
                Instant::now() < deadline,
                "the posts are not getting anywhere"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the load. Checks that each acknowledged message is in its log once, at its
    /// acknowledged sequence number, and that the logs have no gaps.
    async fn ends_well(self) {
        self.over.store(true, Ordering::Relaxed);
        for poster in self.posters {
            poster.await.unwrap();
        }
        let mut logs = HashMap::new();
        for room in &self.rooms {
            logs.insert(room.clone(), log_of(&self.alice, room).await);
        }
        for (text, (room, seq)) in &*self.acknowledged.lock().unwrap() {
            assert_eq!(logs[room].get(text), Some(seq), "{text} was acknowledged");
        }
    }
}

/// Returns the exit code of the program's `--health` for this server, as the health check of a
/// container runs it.
fn health_of(program: &Program) -> Option<i32> {
    let (folder, address) = (
        TempDir::new().unwrap(),
        program.base.strip_prefix("http://").unwrap(),
    );
    let output = Program::command(folder.path())
        .arg("--health")
        .env("CAUSERIE_LISTEN", address)
        .output()
        .unwrap();
    assert_eq!(output.stderr.is_empty(), output.status.success());
    output.status.code()
}

/// How a server can be unavailable.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Away {
    /// It does not answer, and its connections stay open.
    Frozen,
    /// It was killed and restarted.
    Killed,
}

#[rstest]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_seconds_without_the_database_are_survived(
    #[values(Away::Frozen, Away::Killed)] away: Away,
) {
    let mut mongod = Mongod::start(&[]);
    let folder = TempDir::new().unwrap();
    let program = Program::start(
        folder.path(),
        &[(
            "CAUSERIE_DATABASE",
            &format!("mongodb://{}/chat", mongod.host()),
        )],
    );
    let load = Load::on(&program).await;
    assert_eq!(health_of(&program), Some(0));
    let quiet = load.alice.room_with(&[]).await;
    let mut socket = Socket::of(&load.alice, &quiet).await;
    load.goes_on(200).await;

    match away {
        Away::Frozen => mongod.freeze(),
        Away::Killed => mongod.kill(),
    }
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(10) {
        for path in ["/ready", "/room", "/users/0199d1f0c0de7aaa8bbbccccddddeeee"] {
            let asked = Instant::now();
            let answer = Answer::of(load.alice.request(Method::GET, path)).await;
            assert!(asked.elapsed() < TIME_LIMIT, "{path}: {answer:?}");
            assert!(
                answer.headers.contains_key("retry-after"),
                "{path}: {answer:?}"
            );
            answer.refused(
                503,
                "The service is not available right now, please try again",
            );
        }
        Answer::of(load.alice.request(Method::GET, "/health"))
            .await
            .ok();
    }
    assert_eq!(health_of(&program), Some(1));
    assert!(load.refused.load(Ordering::Relaxed) > 0);
    match away {
        Away::Frozen => mongod.thaw(),
        Away::Killed => mongod.start_again(),
    }

    load.goes_on(200).await;
    let post = load.alice.posts(&quiet, "back again").await.ok()["post"].clone();
    assert_eq!(
        socket.hears_post().await,
        post,
        "the socket stayed connected"
    );
    load.ends_well().await;
    program.signal("TERM");
    assert!(program.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_outage_is_reported_and_survived() {
    let mut mongod = Mongod::start(&[]);
    let folder = TempDir::new().unwrap();
    let database = format!("mongodb://{}/chat", mongod.host());
    let settings = [
        ("CAUSERIE_DATABASE", database.as_str()),
        ("CAUSERIE_MONGODB__OPERATION_TIMEOUT_MS", "2000"),
    ];
    let program = Program::start(folder.path(), &settings);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    alice.says(&room, "before").await;
    mongod.kill();
    let answer = alice.get("/room").await;
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    answer.refused(
        503,
        "The service is not available right now, please try again",
    );
    mongod.start_again();
    let deadline = Instant::now() + PATIENCE;
    while alice.posts(&room, "after").await.status != 200 {
        assert!(Instant::now() < deadline, "the server does not recover");
    }
    let texts = alice.reads(&room, "").await;
    assert_eq!(
        [texts.first(), texts.last()].map(|text| text.map(String::as_str)),
        [Some("before"), Some("after")]
    );
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_no_acknowledged_message() {
    let mut set = ReplicaSet::start(3).await;
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", &set.url("chat"))]);
    let load = Load::on(&program).await;
    load.goes_on(200).await;
    let first = set.primary().await;
    set.members[first].kill();
    load.goes_on(200).await;
    assert_ne!(set.primary().await, first);
    load.ends_well().await;
}
