//! What all the assaults have in common: the real program, people who go on using it, and the look at it afterwards.

use std::fs;

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::{
    databases::{Database, Kind},
    harness::Program,
    people::Person,
    program::somebody,
    raw::{Connection, Reply},
    wire::Socket,
};

/// More than the server ever needs in these tests, in MiB.
const ENOUGH_MEMORY: u64 = 400;

/// The real program, since only a process of its own shows a panic in whatever task, a thread that hangs, or how much memory it took.
pub struct LoadedServer {
    pub base: String,
    pub alice: Person,
    pub bob: Person,
    /// Alice's and Bob's.
    pub room: String,
    program: Program,
    folder: TempDir,
    _database: Database,
}

impl LoadedServer {
    pub async fn begins(kind: Kind) -> Self {
        Self::with(kind, &[]).await
    }

    /// With these settings beside those of a siege.
    pub async fn with(kind: Kind, settings: &[(&str, &str)]) -> Self {
        let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
        let ours = [("CAUSERIE_LOG", "warn"), ("CAUSERIE_DATABASE", &database.url)];
        let program = Program::start(folder.path(), &[&ours, settings].concat());
        let base = program.base.clone();
        let [alice, bob] = [somebody(&base, "Alice").await, somebody(&base, "Bob").await];
        let room = alice.room_with(&[&bob]).await;
        Self { base, alice, bob, room, program, folder, _database: database }
    }

    /// Everybody goes on as before: they create, log in, initiate, post, read and hear. The server stops in good order, and has nothing to
    /// report.
    pub async fn ends_well(self) {
        let carol = somebody(&self.base, "Carol").await;
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

    /// Sends these requests over one connection, as long as the server keeps it open, and checks each answer.
    pub async fn answers_all(&self, requests: &[Request]) {
        let mut left = requests;
        while !left.is_empty() {
            let mut connection = Connection::open(&self.base).await;
            let before = left.len();
            for batch in left.chunks(PIPELINED) {
                let bytes: Vec<_> = batch.iter().flat_map(|request| &request.bytes).copied().collect();
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

/// How many requests are sent before the first answer is read.
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

/// A request, as bytes that may be anything.
pub struct Request {
    method: &'static str,
    bytes: Vec<u8>,
}

impl Request {
    pub fn new(method: &'static str, target: &[u8], headers: &[(&str, &[u8])], body: &[u8]) -> Self {
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
            // No body to look at. (The layer for CORS takes every OPTIONS for the question of a browser.)
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

/// Random numbers, different each time. The seed is printed, for the output of a test is shown when it fails.
pub fn random() -> StdRng {
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("HOSTILE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

pub fn one_of<'a, T>(random: &mut impl Rng, choice: &'a [T]) -> &'a T {
    &choice[random.random_range(..choice.len())]
}

/// Bytes of any value, at most this many.
pub fn noise(random: &mut impl Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..=most)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// What parsers stumble over.
const STUMBLING_BLOCKS: [&[u8]; 28] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"1e308",
    b"-0",
    b"1e400",
    b"99999999999999999999",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b"{\"$gt\":\"\"}",
    b"[]",
    b"-",
    b"/",
    b"\x1e",
    b"&",
    b"%00",
    b"=",
];

/// The bytes with one to four changes.
pub fn mutated(random: &mut impl Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 8));
        match random.random_range(0..5) {
            0 => _ = bytes.drain(at..end),
            1 => _ = bytes.splice(at..end, one_of(random, &STUMBLING_BLOCKS).iter().copied()),
            2 => _ = bytes.splice(at..at, noise(random, 4)),
            3 => bytes.extend_from_within(at..end),
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
        }
    }
    bytes
}
