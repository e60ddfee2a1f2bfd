//! How much memory clients can take that ask for more than they read, in secure mode with the settings that come with it.

use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    Duration, TURN,
    databases::{Database, Kind},
    harness::{PATIENCE, Program},
    people::{Answer, PASSWORD, Person, registration},
};

/// What the server may have taken at most, in MiB: what one user's answers may take, and what it needs by itself.
const MOST: u64 = 200;

async fn member(base: &str, name: &str) -> Person {
    let http = reqwest::Client::new();
    let user = Answer::of(http.post(format!("{base}/users")).json(&registration(name, "consumer"))).await.ok()["user"].take();
    let login = json!({ "username": name, "password": PASSWORD });
    let login = Answer::of(http.post(format!("{base}/login")).json(&login)).await.ok();
    let (id, token) = (user["_id"].as_str().unwrap().to_owned(), login["authorization"].as_str().unwrap().to_owned());
    Person { base: base.to_owned(), http, id, token, user }
}

/// Asks on a connection of its own, and reads nothing.
async fn asks_and_does_not_read(person: &Person, path: &str) -> TcpStream {
    let host = person.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\n\r\n", person.token);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_take_no_more_than_the_budget(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {
    let _turn = TURN.lock().await;
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let program = Program::start(folder.path(), &[("CAUSERIE_ACCESS", "secure"), ("CAUSERIE_DATABASE", &database.url)]);
    let (mallory, bob) = (member(&program.base, "mallory").await, member(&program.base, "bobby").await);
    let room = mallory.room_with(&[&bob]).await;
    let text = "x".repeat(90_000);
    for _ in 0..50 {
        mallory.says(&room, &text).await;
    }
    let path = format!("/room/{room}?limit=50");
    let unread = join_all((0..200).map(|_| asks_and_does_not_read(&mallory, &path))).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        // Whoever does read is answered meanwhile.
        for path in [path.as_str(), "/room", "/room/unread"] {
            timeout(PATIENCE, bob.get(path)).await.expect("bob is answered").ok();
        }
        sleep(Duration::from_millis(50)).await;
    }
    drop(unread);
    if let Some(memory) = program.peak_memory() {
        assert!(memory < MOST, "{memory} MiB");
    }
    mallory.get(&path).await.ok();
}
