//! Where secrets might leak, and what the log says about sessions.

use std::collections::HashMap;

use causerie::{
    clock::Clock,
    config::Config,
    model::{Credentials, RefreshKey, Session, SessionId, Timestamp, UserId},
    operator::NewUser,
    store::{MAX_SESSIONS, Store},
};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::{TestServer, machine_time},
        people::{PASSWORD, registration},
        person::Person,
        program::Program,
        wire::{Shown, Socket},
    },
};

#[tokio::test]
async fn guesses_of_the_old_password_are_limited_like_logins() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "4")]).await;
    let alice = server.member("alice").await;
    let guess = |old: &str| json!({ "oldPassword": old, "newPassword": "short red kettle" });
    let path = format!("/users/{}/password", alice.id);
    for n in 0..3 {
        alice
            .calls(Method::PUT, &path, guess(&format!("guess {n}")))
            .await
            .refused(403, "The old password is wrong");
    }
    let answer = alice.calls(Method::PUT, &path, guess(PASSWORD)).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.refused(429, "rate limited");
    assert_eq!(
        server.enters("alice", PASSWORD).await.status,
        429,
        "it is one account, and one limit"
    );
}

/// Returns everything that the database stores, as text or bytes.
async fn everything_in(database: &Database) -> Vec<u8> {
    if let Some(file) = database.url.strip_prefix("sqlite:") {
        return std::fs::read(file).unwrap();
    }
    let database = mongodb::Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let mut everything = Vec::new();
    for name in database.list_collection_names().await.unwrap() {
        let collection = database.collection::<Document>(&name);
        let by_id = collection
            .find(doc! {})
            .hint(mongodb::options::Hint::Keys(doc! { "_id": 1 }))
            .await;
        let documents: Vec<_> = by_id.unwrap().try_collect().await.unwrap();
        everything.extend(
            documents
                .iter()
                .flat_map(|document| document.to_vec().unwrap()),
        );
    }
    everything
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

async fn told(base: &str, path: &str, body: &Value) -> Value {
    Answer::of(
        reqwest::Client::new()
            .post(format!("{base}{path}"))
            .json(body),
    )
    .await
    .ok()
}

#[apply(each_store)]
#[tokio::test]
async fn secrets_are_neither_in_the_log_nor_in_the_database(kind: Kind) {
    const KEY: &str = "a key that nobody should ever find";
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let settings = [
        ("CAUSERIE_LOG", "trace"),
        ("CAUSERIE_ACCESS", "secure"),
        ("CAUSERIE_DATABASE", &*database.url),
        ("CAUSERIE_TOKEN_SECRET", KEY),
        ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "6"),
    ];
    let program = Program::start(folder.path(), &settings);
    let base = program.base.clone();
    told(&base, "/users", &registration("alice", "consumer")).await;
    let first = told(
        &base,
        "/login",
        &json!({ "username": "alice", "password": PASSWORD }),
    )
    .await;
    // The refresh token used last may be repeated for a while, an older one may not.
    let between = told(
        &base,
        "/login/refresh",
        &json!({ "refreshToken": first["refreshToken"] }),
    )
    .await;
    let second = told(
        &base,
        "/login/refresh",
        &json!({ "refreshToken": between["refreshToken"] }),
    )
    .await;
    let text = |answer: &Value, field: &str| answer[field].as_str().unwrap().to_owned();
    let [old, token] = [&first, &second].map(|answer| text(answer, "authorization"));
    let [used, between, refresh] =
        [&first, &between, &second].map(|answer| text(answer, "refreshToken"));
    let id = second["user"]["_id"].as_str().unwrap().to_owned();
    let alice = Person {
        base: base.clone(),
        http: reqwest::Client::new(),
        id,
        token: token.clone(),
        user: second["user"].clone(),
    };
    let room = alice.room_with(&[]).await;
    alice.posts(&room, "a text of mine").await.ok();
    let mut sockets = vec![Socket::signed_in_to(&alice, &room).await];
    for shown in [
        Shown::Query(3, &token),
        Shown::Query(4, &token),
        Shown::Header(&format!("Bearer {token}")),
    ] {
        sockets.push(Socket::with(&base, &shown).await.unwrap());
    }
    sockets[0].succeeds("refresh token", json!([old])).await;
    sockets[0]
        .is_refused("refresh token", json!(["no token"]))
        .await;
    // A session that the change of password ends.
    let login = json!({ "username": "alice", "password": PASSWORD });
    Answer::of(alice.http.post(format!("{base}/login")).json(&login))
        .await
        .ok();
    // Refused requests are logged, and their passwords are secrets too: one with an extra letter is
    // nearly the real one.
    let new = "short red kettle";
    let wrong = json!({ "oldPassword": "tall green kettle?", "newPassword": new });
    alice
        .calls(Method::PUT, &format!("/users/{}/password", alice.id), wrong)
        .await
        .refused(403, "The old password is wrong");
    let change = json!({ "oldPassword": PASSWORD, "newPassword": new });
    alice
        .calls(
            Method::PUT,
            &format!("/users/{}/password", alice.id),
            change,
        )
        .await
        .ok();
    let login = json!({ "username": "alice", "password": "shortish red kettle" });
    for _ in 0..3 {
        let _ = Answer::of(alice.http.post(format!("{base}/login")).json(&login)).await;
    }
    alice
        .http
        .get(format!("{base}/room?token={token}&password={new}"))
        .send()
        .await
        .unwrap();
    let replay = Answer::of(
        alice
            .http
            .post(format!("{base}/login/refresh"))
            .json(&json!({ "refreshToken": used })),
    )
    .await;
    replay.refused(401, "The refresh token is not valid, please log in again");
    alice
        .get("/room")
        .await
        .refused(401, "This session has ended, please log in again");
    drop(sockets);
    program.signal("TERM");
    program.ended().await;

    let (log, kept) = (
        std::fs::read(folder.path().join("log")).unwrap(),
        everything_in(&database).await,
    );
    let holds =
        |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
    let lines = String::from_utf8_lossy(&log);
    for event in [
        ["login", "failed"],
        ["refused", "action="],
        ["token", "refused"],
        ["refresh token", "twice"],
        ["sessions", "ended"],
    ] {
        let is_told = |line: &str| {
            let parts = [event[0], event[1], &alice.id, "127.0.0.1"];
            parts.iter().all(|part| line.contains(part))
        };
        assert!(
            lines.lines().any(is_told),
            "no line with user and address: {event:?}"
        );
    }
    assert!(
        holds(&kept, b"$argon2id$"),
        "the database is that of this program"
    );
    let signatures = [&old, &token].map(|token| token.rsplit('.').next().unwrap().to_owned());
    let secrets = [&used, &between, &refresh].map(|token| token[64..].to_owned());
    let line = used[32..64].to_owned();
    for secret in signatures
        .iter()
        .chain(&secrets)
        .chain([&line])
        .map(String::as_str)
        .chain([PASSWORD, new, "ish red kettle", KEY])
    {
        assert!(!holds(&log, secret.as_bytes()), "in the log: {secret}");
        assert!(
            !holds(&kept, secret.as_bytes()),
            "in the database: {secret}"
        );
    }
    for secret in secrets.iter().chain([&line]) {
        assert!(
            !holds(&kept, &hex(secret)),
            "in the database: the bytes of {secret}"
        );
    }
}

/// Adds as many sessions of the user as one may have.
async fn add_most_sessions(store: &Store, user: UserId, credentials: &Credentials) {
    let (now, later) = (
        Timestamp(machine_time()),
        Timestamp(machine_time() + 1_000_000),
    );
    for n in 0..MAX_SESSIONS {
        let n = u8::try_from(n).unwrap();
        let id = SessionId::from_bytes([n; 16]);
        let session = Session {
            id,
            user,
            user_agent: String::new(),
            created_at: now,
            used_at: now,
            expires_at: later,
        };
        let key = RefreshKey {
            line: [n; 32],
            secret: [n; 32],
        };
        assert_eq!(
            store
                .sessions
                .add(session, key, credentials.password.clone())
                .await
                .unwrap(),
            Some(Vec::new())
        );
    }
}

#[tokio::test]
async fn a_login_that_ends_the_oldest_session_is_logged() {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(Kind::Sqlite).await);
    let config = Config::load(
        None,
        &HashMap::from([("CAUSERIE_DATABASE".to_owned(), database.url.clone())]),
    )
    .unwrap();
    let new = NewUser::read("consumer", "alice", "Alice".into(), "Test".into()).unwrap();
    let alice = new
        .add(PASSWORD.into(), &config, &Clock::system())
        .await
        .unwrap();
    let store = database.open().await;
    let credentials = store.accounts.credentials(alice).await.unwrap().unwrap();
    add_most_sessions(&store, alice, &credentials).await;
    store.database.close().await;
    let program = Program::start(
        folder.path(),
        &[
            ("CAUSERIE_ACCESS", "secure"),
            ("CAUSERIE_DATABASE", &database.url),
        ],
    );
    told(
        &program.base,
        "/login",
        &json!({ "username": "alice", "password": PASSWORD }),
    )
    .await;
    program.signal("TERM");
    program.ended().await;
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let is_told = |line: &str| {
        ["sessions", &alice.to_string(), "127.0.0.1", "ended=1"]
            .iter()
            .all(|part| line.contains(part))
    };
    assert!(log.lines().any(is_told), "{log}");
}
