//! Shared parts of the `hostile` tests: the real program, users that keep using it, and the checks
//! at the end.

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

    /// Starts the program with these settings in addition to those of the `hostile` tests.
    pub async fn with(kind: Kind, settings: &[(&str, &str)]) -> Self {
        let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
        let ours = [
            ("CAUSERIE_LOG", "warn"),
            ("CAUSERIE_DATABASE", &database.url),
        ];
        let program = Program::start(folder.path(), &[&ours, settings].concat());
        let base = program.base.clone();
        let [alice, bob] = [somebody(&base, "Alice").await, somebody(&base, "Bob").await];
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

/// Returns a random number generator with a new seed. Prints the seed, because the output of a test
/// is shown when it fails.
pub fn random() -> StdRng {
    let seed = std::env::var("HOSTILE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("HOSTILE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

pub fn one_of<'a, T>(random: &mut impl Rng, choice: &'a [T]) -> &'a T {
    &choice[random.random_range(..choice.len())]
}

/// Returns random bytes, at most `most` of them.
pub fn noise(random: &mut impl Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..=most)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Inputs that often break parsers.
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

/// Returns the bytes with one to four random changes.
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
            _ => bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
        }
    }
    bytes
}
