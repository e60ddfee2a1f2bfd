//! The memory that clients can make the server use by requesting more than they read, in secure
//! mode with the default settings.

use std::{net::Ipv4Addr, time::Duration};

use futures_util::future::join_all;
use reqwest::Method;
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    measured::TURN,
    support::{
        databases::{Database, Kind},
        harness::PATIENCE,
        people::new_member,
        person::Person,
        program::Program,
        raw::{Connection, frame},
    },
};

const TEXT: u8 = 0x81;
/// The maximum memory of the server with one attacking account, in MiB, as stated in docs/security.md:
/// the account's budget plus the server's base usage.
const MOST_OF_ONE: u64 = 300;
/// The maximum memory with all accounts together, in MiB.
const MOST_OF_ALL: u64 = 512;

/// The ways to exhaust the server's memory. Each attack returns the connections on which nothing is
/// read.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Requests long pages.
    Pages,
    /// Requests long logs over websockets.
    Logs,
    /// Requests long logs over HTTP polling.
    Polls,
    /// Subscribes to rooms in which others post long messages.
    Listens,
    /// Sends a large body except for its last byte, by REST and on sockets.
    Bodies,
}

/// An attacker with a separate IP address.
struct Mallory {
    person: Person,
    address: Ipv4Addr,
    /// A room with more messages than one response holds.
    room: String,
    /// How many long messages are sent to each socket that listens.
    posts: usize,
}

impl Mallory {
    async fn attacks(&self, attack: Attack) -> Vec<Connection> {
        match attack {
            Attack::Pages => join_all((0..200).map(|_| self.asks_for_a_page())).await,
            Attack::Logs => join_all((0..40).map(|_| self.asks_for_logs())).await,
            Attack::Polls => join_all((0..40).map(|_| self.polls())).await,
            Attack::Listens => self.listens().await,
            Attack::Bodies => join_all((0..200).map(|n| self.sends_a_body(n))).await,
        }
    }

    async fn open(&self) -> Connection {
        Connection::open_from(self.address, &self.person.base).await
    }

    fn head(&self, method: &str, path: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
            self.person.token
        )
    }

    async fn asks_for_a_page(&self) -> Connection {
        let mut connection = self.open().await;
        connection
            .send(
                format!(
                    "{}\r\n",
                    self.head("GET", &format!("/room/{}?limit=50", self.room))
                )
                .as_bytes(),
            )
            .await;
        connection
    }

    async fn socket(&self) -> Connection {
        let path = format!(
            "/socket.io/?EIO=4&transport=websocket&token={}",
            self.person.token
        );
        let mut socket = Connection::websocket_from(self.address, &self.person.base, &path).await;
        socket.send(&frame(TEXT, b"40")).await;
        socket.hears("40{").await;
        socket
    }

    fn sync(&self, id: u32) -> String {
        format!("42{id}{}", json!(["sync", { "rooms": { &self.room: 0 } }]))
    }

    async fn asks_for_logs(&self) -> Connection {
        let mut socket = self.socket().await;
        for id in 0..5 {
            socket.send(&frame(TEXT, self.sync(id).as_bytes())).await;
        }
        socket
    }

    async fn polls(&self) -> Connection {
        let mut connection = self.open().await;
        let path = format!(
            "/socket.io/?EIO=4&transport=polling&token={}",
            self.person.token
        );
        let mut ask = async |method: &str, path: &str, body: &str| {
            connection
                .send(
                    format!(
                        "{}content-length: {}\r\n\r\n{body}",
                        self.head(method, path),
                        body.len()
                    )
                    .as_bytes(),
                )
                .await;
            let reply = connection.reply(method).await.expect("an answer");
            assert_eq!(reply.status, 200, "{reply:?}");
            String::from_utf8(reply.body).unwrap()
        };
        let opened = ask("GET", &path, "").await;
        let sid = opened
            .split("\"sid\":\"")
            .nth(1)
            .and_then(|behind| behind.split('"').next())
            .unwrap()
            .to_owned();
        let path = format!("{path}&sid={sid}");
        ask("POST", &path, "40").await;
        let connected = ask("GET", &path, "").await;
        assert!(connected.contains("40{"), "{connected:?}");
        ask(
            "POST",
            &path,
            &(0..5)
                .map(|id| self.sync(id))
                .collect::<Vec<_>>()
                .join("\x1e"),
        )
        .await;
        connection
            .send(format!("{}\r\n", self.head("GET", &path)).as_bytes())
            .await;
        connection
    }

    /// Opens forty sockets, each in a separate room, so that no two receive the same events.
    async fn listens(&self) -> Vec<Connection> {
        let listening = join_all((0..40).map(async |n| {
            let (room, mut socket) = (
                self.person
                    .named_room(&format!("room {n}"), &[&self.person])
                    .await,
                self.socket().await,
            );
            socket
                .send(&frame(
                    TEXT,
                    format!("420{}", json!(["subscribe", room])).as_bytes(),
                ))
                .await;
            socket.hears("430").await;
            (room, socket)
        }));
        let (rooms, sockets): (Vec<_>, Vec<_>) = listening.await.into_iter().unzip();
        let text = "x".repeat(90_000);
        join_all(rooms.iter().map(async |room| {
            for _ in 0..self.posts {
                let post = self
                    .person
                    .request(Method::POST, &format!("/room/{room}/message"));
                // The server may refuse the post or close the connection when the memory budget is
                // used up.
                let _ = post.json(&json!({ "messageText": text })).send().await;
            }
        }))
        .await;
        sockets
    }

    async fn sends_a_body(&self, n: usize) -> Connection {
        let mut connection = self.open().await;
        let path = format!("/room/{}/message", self.room);
        let head = format!("{}content-length: 100000\r\n\r\n", self.head("POST", &path));
        connection.send(head.as_bytes()).await;
        // The server may refuse the request earlier when the memory budget is used up.
        if n < 20 {
            connection.send(" ".repeat(99_999).as_bytes()).await;
        }
        connection
    }
}

/// A server with the default settings, except that an account may store, post and connect without
/// limits.
struct Crowd {
    program: Program,
    mallories: Vec<Mallory>,
    bob: Person,
    room: String,
    _folder: TempDir,
    _database: Database,
}

impl Crowd {
    async fn begins(kind: Kind, mallories: u8) -> Self {
        let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
        let settings = [
            ("CAUSERIE_ACCESS", "secure"),
            ("CAUSERIE_DATABASE", &database.url),
            ("CAUSERIE_LIMITS__BYTES_PER_DAY", "0"),
            ("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "0"),
            ("CAUSERIE_LIMITS__CONNECTIONS_PER_ADDRESS", "0"),
        ];
        let program = Program::start(folder.path(), &settings);
        let bob = new_member(&program.base, "bobby").await;
        let (mut attackers, text) = (Vec::new(), "x".repeat(90_000));
        for n in 0..mallories {
            let person = new_member(&program.base, &format!("mallory{n}")).await;
            let room = person.room_with(&[&bob]).await;
            for _ in 0..50 {
                person.says(&room, &text).await;
            }
            attackers.push(Mallory {
                person,
                address: Ipv4Addr::new(127, 0, 0, 2 + n),
                room,
                posts: 120 / usize::from(mallories + 1),
            });
        }
        let room = attackers[0].room.clone();
        Self {
            program,
            mallories: attackers,
            bob,
            room,
            _folder: folder,
            _database: database,
        }
    }

    /// Checks for a few seconds that a client that reads gets responses, and that the server uses
    /// no more memory than `most` MiB. Returns the number of successful responses.
    async fn goes_on(&self, most: u64) -> u32 {
        let page = format!("/room/{}?limit=50", self.room);
        let (begun, mut answered) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(3) {
            for path in [page.as_str(), "/room", "/room/unread"] {
                let answer = timeout(PATIENCE, self.bob.get(path))
                    .await
                    .expect("bob is answered");
                assert!(matches!(answer.status, 200 | 503), "{answer:?}");
                answered += u32::from(answer.status == 200);
            }
            sleep(Duration::from_millis(50)).await;
        }
        if let Some(memory) = self.program.peak_memory() {
            assert!(memory < most, "{memory} MiB");
            println!("{memory} MiB, {answered} answers");
        }
        answered
    }
}

/// Returns whether the first `sync` on a socket is answered. It is refused, or the connection closed,
/// while earlier requests of the same user hold the memory.
async fn answers(mut socket: Connection) -> bool {
    while let Some((_, packet)) = socket.frame().await {
        if packet.starts_with(b"430[") {
            return packet.starts_with(br#"430[{"success":true"#);
        }
    }
    false
}

#[rstest]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_takes_no_more_memory_than_documented(
    #[values(
        Attack::Pages,
        Attack::Logs,
        Attack::Polls,
        Attack::Listens,
        Attack::Bodies
    )]
    attack: Attack,
    #[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind,
) {
    let _turn = TURN.lock().await;
    let crowd = Crowd::begins(kind, 1).await;
    let [mallory] = &*crowd.mallories else {
        unreachable!()
    };
    let unread = mallory.attacks(attack).await;
    assert!(crowd.goes_on(MOST_OF_ONE).await > 3);
    drop(unread);
    // A client that reads its responses is served again once its earlier requests are dropped.
    let (page, begun) = (format!("/room/{}?limit=50", mallory.room), Instant::now());
    while mallory.person.get(&page).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "never answered again");
    }
    while !answers(mallory.asks_for_logs().await).await {
        assert!(begun.elapsed() < PATIENCE, "never answered again");
    }
}

#[rstest]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_accounts_together_take_no_more_memory_than_documented() {
    let _turn = TURN.lock().await;
    let crowd = Crowd::begins(Kind::Sqlite, 8).await;
    let mut unread = Vec::new();
    for attack in [
        Attack::Bodies,
        Attack::Polls,
        Attack::Logs,
        Attack::Pages,
        Attack::Listens,
    ] {
        unread.push(
            join_all(
                crowd
                    .mallories
                    .iter()
                    .map(|mallory| mallory.attacks(attack)),
            )
            .await,
        );
    }
    crowd.goes_on(MOST_OF_ALL).await;
    drop(unread);
    crowd
        .bob
        .get(&format!("/room/{}?limit=50", crowd.room))
        .await
        .ok();
}
