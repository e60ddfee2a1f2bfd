//! The real program with users that keep using it, for tests that send what no client should send.

use std::fs;

use reqwest::Method;
use tempfile::TempDir;

use crate::support::{
    answer::Answer,
    databases::{Database, Kind},
    person::{Person, new_person},
    program::Program,
    raw::{Connection, Reply},
    wire::Socket,
};

/// More memory than the server ever needs in these tests, in MiB.
const ENOUGH_MEMORY: u64 = 400;

/// The real program. Only a separate process shows a panic in any task, a hanging thread, or the
/// memory that was used.
pub struct LoadedServer {
    pub base: String,
    pub alice: Person,
    pub bob: Person,
    /// The room of Alice and Bob.
    pub room: String,
    program: Program,
    folder: TempDir,
    _database: Database,
}

impl LoadedServer {
    pub async fn begins(kind: Kind) -> Self {
        Self::with(kind, &[]).await
    }

    /// Starts the program with these settings in addition to its own.
    pub async fn with(kind: Kind, settings: &[(&str, &str)]) -> Self {
        let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
        let ours = [
            ("CAUSERIE_LOG", "warn"),
            ("CAUSERIE_DATABASE", &database.url),
        ];
        let program = Program::start(folder.path(), &[&ours, settings].concat());
        let base = program.base.clone();
        let [alice, bob] = [
            new_person(&base, "Alice").await,
            new_person(&base, "Bob").await,
        ];
        let room = alice.room_with(&[&bob]).await;
        Self {
            base,
            alice,
            bob,
            room,
            program,
            folder,
            _database: database,
        }
    }

    /// Checks that the server still works: a new user can log in, initiate a room, post, read and
    /// receive events. Then checks that the server has used little memory, shuts down cleanly and
    /// has logged neither panics nor errors.
    pub async fn ends_well(self) {
        let carol = new_person(&self.base, "Carol").await;
        let room = self.alice.room_with(&[&carol]).await;
        let mut socket = Socket::of(&carol, &room).await;
        let post = self.alice.posts(&room, "still there?").await.ok()["post"].clone();
        assert_eq!(socket.hears_post().await, post);
        assert_eq!(carol.reads(&room, "").await, ["still there?"]);
        self.alice.posts(&self.room, "and here?").await.ok();
        assert_eq!(self.bob.reads(&self.room, "?limit=1").await, ["and here?"]);
        drop(socket);
        let memory = self.program.peak_memory().unwrap_or_default();
        assert!(memory < ENOUGH_MEMORY, "{memory} MiB");
        self.program.signal("TERM");
        assert!(self.program.ended().await.success());
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    }

    /// Sends these requests over one connection, as long as the server keeps it open, and checks
    /// each response.
    pub async fn answers_all(&self, requests: &[Request]) {
        let mut left = requests;
        while !left.is_empty() {
            let mut connection = Connection::open(&self.base).await;
            let before = left.len();
            for batch in left.chunks(PIPELINED) {
                let bytes: Vec<_> = batch
                    .iter()
                    .flat_map(|request| &request.bytes)
                    .copied()
                    .collect();
                let replies = connection.answers_to(&bytes, batch).await;
                for (request, reply) in batch.iter().zip(&replies) {
                    request.check(reply);
                }
                left = &left[replies.len()..];
                if replies.len() < batch.len() {
                    break;
                }
            }
            assert!(left.len() < before, "no answer to {:?}", left[0]);
        }
    }
}

/// The number of requests that are sent before the first response is read.
const PIPELINED: usize = 16;

impl Connection {
    async fn answers_to(&mut self, bytes: &[u8], batch: &[Request]) -> Vec<Reply> {
        self.send(bytes).await;
        let mut replies = Vec::new();
        for request in batch {
            match self.reply(request.method).await {
                Some(reply) => replies.push(reply),
                None => break,
            }
        }
        replies
    }
}

/// A request of arbitrary bytes.
pub struct Request {
    method: &'static str,
    bytes: Vec<u8>,
}

impl Request {
    pub fn new(
        method: &'static str,
        target: &[u8],
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Self {
        let mut bytes = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: x\r\n"].concat();
        for (name, value) in headers {
            bytes.extend([name.as_bytes(), b": ", *value, b"\r\n"].concat());
        }
        if !body.is_empty() {
            bytes.extend(format!("content-length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Self { method, bytes }
    }

    fn check(&self, reply: &Reply) {
        match self.method {
            // No body to check. The CORS layer answers every OPTIONS request as a preflight.
            "HEAD" | "OPTIONS" => assert!(reply.status < 500, "{self:?}: {reply:?}"),
            _ => _ = reply.sound(self),
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.bytes.escape_ascii())
    }
}

pub const JSON: &str = "application/json";
pub const FORM: &str = "application/x-www-form-urlencoded";
/// The maximum size of a body, in bytes.
pub const MAX_BODY: usize = 102_400;

impl LoadedServer {
    /// The endpoints that take a body, each with a valid body as fields and their JSON texts.
    pub fn bodies(&self) -> [(String, Vec<(&'static str, String)>); 4] {
        let text = |text: &str| format!("\"{text}\"");
        let user = vec![
            ("firstName", text("Mallory")),
            ("lastName", text("Test")),
            ("type", text("consumer")),
        ];
        let room = vec![
            ("userIds", format!("[\"{}\"]", self.bob.id)),
            ("type", text("consumer-to-consumer")),
        ];
        let message = vec![("messageText", text("hello"))];
        let members = vec![room[0].clone()];
        [
            ("/users".into(), user),
            ("/room/initiate".into(), room),
            (format!("/room/{}/message", self.room), message),
            (format!("/room/{}/members", self.room), members),
        ]
    }

    /// Sends this body as Alice. Checks that the response is no server error and that its `success`
    /// matches its status.
    pub async fn sends(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let answer = Answer::of(
            self.alice
                .request(method, path)
                .header("content-type", kind)
                .body(body.into()),
        )
        .await;
        assert!(answer.status < 500, "{path}: {answer:?}");
        assert_eq!(
            answer.body["success"],
            answer.status == 200,
            "{path}: {answer:?}"
        );
        answer
    }
}

/// Repeats the piece as often as it fits into the largest body.
pub fn full_of(piece: &str, frame: &str) -> String {
    piece.repeat((MAX_BODY - frame.len()) / piece.len())
}
