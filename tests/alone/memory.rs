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
    raw::{Connection, frame},
};

/// What the server may have taken at most, in MiB: what one user's answers may take, and what it needs by itself.
const MOST: u64 = 200;
/// The same with sockets: one that is disconnected for want of memory is sent what waits for it, and so keeps that for a while.
const MOST_WITH_SOCKETS: u64 = 400;

/// Somebody who has registered and logged in.
pub async fn member(base: &str, name: &str) -> Person {
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

/// A server with the settings that come with it, and a room of two with more in it than one answer holds.
struct Crowd {
    program: Program,
    mallory: Person,
    bob: Person,
    room: String,
    _folder: TempDir,
    _database: Database,
}

impl Crowd {
    async fn begins(kind: Kind) -> Self {
        let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
        let program = Program::start(folder.path(), &[("CAUSERIE_ACCESS", "secure"), ("CAUSERIE_DATABASE", &database.url)]);
        let (mallory, bob) = (member(&program.base, "mallory").await, member(&program.base, "bobby").await);
        let room = mallory.room_with(&[&bob]).await;
        let text = "x".repeat(90_000);
        for _ in 0..50 {
            mallory.says(&room, &text).await;
        }
        Self { program, mallory, bob, room, _folder: folder, _database: database }
    }

    /// Whoever does read is answered, for a while, and the server takes no more memory than it may.
    async fn goes_on(&self, most: u64) {
        let page = format!("/room/{}?limit=50", self.room);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            for path in [page.as_str(), "/room", "/room/unread"] {
                timeout(PATIENCE, self.bob.get(path)).await.expect("bob is answered").ok();
            }
            sleep(Duration::from_millis(50)).await;
        }
        if let Some(memory) = self.program.peak_memory() {
            assert!(memory < most, "{memory} MiB");
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_nobody_reads_take_no_more_than_the_budget(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {
    let _turn = TURN.lock().await;
    let crowd = Crowd::begins(kind).await;
    let path = format!("/room/{}?limit=50", crowd.room);
    let unread = join_all((0..200).map(|_| asks_and_does_not_read(&crowd.mallory, &path))).await;
    crowd.goes_on(MOST).await;
    drop(unread);
    crowd.mallory.get(&path).await.ok();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_on_sockets_that_nobody_reads_take_no_more_than_the_budget(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {
    const TEXT: u8 = 0x81;
    let _turn = TURN.lock().await;
    let crowd = Crowd::begins(kind).await;
    let path = format!("/socket.io/?EIO=4&transport=websocket&token={}", crowd.mallory.token);
    let asks = async || {
        let mut socket = Connection::websocket(&crowd.program.base, &path).await;
        socket.send(&frame(TEXT, b"40")).await;
        socket.hears("40{").await;
        for id in 0..5 {
            let sync = json!(["sync", { "rooms": { &crowd.room: 0 } }]);
            socket.send(&frame(TEXT, format!("42{id}{sync}").as_bytes())).await;
        }
        socket
    };
    let mut unread = Vec::new();
    for _ in 0..40 {
        unread.push(asks().await);
    }
    crowd.goes_on(MOST_WITH_SOCKETS).await;
    drop(unread);
    // Who reads what they ask for is answered again.
    asks().await.hears(r#"430[{"success":true"#).await;
}
