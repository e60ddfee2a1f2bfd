//! Attacks in secure mode: values that are not strings, ids or headers, guesses, floods, and places
//! where secrets might leak.

use std::collections::HashMap;

use causerie::{
    clock::Clock,
    config::Config,
    model::{Credentials, RefreshKey, Session, SessionId, Timestamp},
    operator::NewUser,
    store::MAX_SESSIONS,
};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    databases::{Database, Kind},
    each_store,
    harness::{Program, TestServer, machine_time},
    people::{Answer, PASSWORD, Person, registration},
    raw::Connection,
    wire::{Shown, Socket},
};

/// Returns values that could act as operators of a database query.
fn operators() -> Vec<Value> {
    vec![
        json!({ "$gt": "" }),
        json!({ "$ne": null }),
        json!({ "$regex": ".*" }),
        json!({ "$where": "sleep(1000) || true" }),
        json!([{ "$gt": "" }]),
        json!({ "toString": "alice", "length": 5 }),
        json!(1),
        json!(true),
    ]
}

#[apply(each_store)]
#[tokio::test]
async fn no_field_takes_an_operator_for_a_string(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let (alice, bob, room) = server.two_members().await;
    let users = json!({ "userIds": [bob.id], "type": "consumer-to-consumer" });
    for (method, path, body) in [
        (
            Method::POST,
            "/users".to_owned(),
            registration("mallory", "consumer"),
        ),
        (
            Method::POST,
            "/login".into(),
            json!({ "username": "alice", "password": PASSWORD }),
        ),
        (
            Method::POST,
            format!("/login/{}", alice.id),
            json!({ "password": PASSWORD }),
        ),
        (
            Method::POST,
            "/login/refresh".into(),
            json!({ "refreshToken": alice.refresh_token }),
        ),
        (
            Method::PATCH,
            format!("/users/{}", alice.id),
            json!({ "firstName": "Alice", "lastName": "Test" }),
        ),
        (
            Method::PUT,
            format!("/users/{}/password", alice.id),
            json!({ "oldPassword": PASSWORD, "newPassword": PASSWORD }),
        ),
        (Method::POST, "/room/initiate".into(), users),
        (
            Method::POST,
            format!("/room/{room}/message"),
            json!({ "messageText": "hello" }),
        ),
    ] {
        for field in body.as_object().unwrap().keys() {
            for operator in operators() {
                let mut body = body.clone();
                body[field] = operator.clone();
                let refusal = alice
                    .calls(method.clone(), &path, body)
                    .await
                    .refused(400, "Kindly fix the error(s)");
                assert!(
                    refusal["errors"][field].is_string(),
                    "{path} {field} {operator}: {refusal}"
                );
            }
            let form = alice
                .request(method.clone(), &path)
                .header("content-type", "application/x-www-form-urlencoded");
            let answer = Answer::of(form.body(format!("{field}[$gt]=&{field}[]=x"))).await;
            assert!(
                answer.status == 400 || method == Method::PATCH,
                "{path} {field}: {answer:?}"
            );
        }
    }
    for query in [
        "page[$gt]=0",
        "page=%7B%22$gt%22:%22%22%7D",
        "after[$gt]=0",
        "limit[]=9&limit[$ne]=1",
    ] {
        for path in ["/users", "/room", &format!("/room/{room}")] {
            let answer = alice.get(&format!("{path}?{query}")).await;
            assert!(
                matches!(answer.status, 200 | 400),
                "{path}?{query}: {answer:?}"
            );
        }
    }
    let mut socket = Socket::signed_in(&alice).await;
    for operator in operators() {
        for event in ["identity", "subscribe", "unsubscribe", "refresh token"] {
            assert!(
                socket
                    .is_refused(event, json!([operator]))
                    .await
                    .contains("a string"),
                "{event} {operator}"
            );
        }
        assert!(
            socket
                .is_refused("subscribe", json!([room, operator]))
                .await
                .contains("a string"),
            "{operator}"
        );
        assert!(
            Socket::with(&server.base, &Shown::Auth(json!({ "token": operator })))
                .await
                .is_err()
        );
    }
    assert!(alice.reads(&room, "").await.is_empty());
    alice.refreshes().await.ok();
    assert_eq!(
        alice.get("/users?limit=9").await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// Returns the status and JSON body of the response to this request, or `None` if the connection is
/// closed instead.
async fn answer_to(base: &str, request: &str) -> Option<(u16, Value)> {
    let mut connection = Connection::open(base).await;
    connection.send(request.as_bytes()).await;
    let reply = connection.reply("GET").await?;
    Some((
        reply.status,
        reply.sound(&request[..request.len().min(300)]),
    ))
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}content-length: 2\r\n\r\n{{}}"
    )
}

#[apply(each_store)]
#[tokio::test]
async fn ids_that_are_paths_lead_nowhere(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let (alice, _, room) = server.two_members().await;
    let header = format!("authorization: Bearer {}\r\n", alice.token);
    for (method, before, after) in [
        ("GET", "/room/", ""),
        ("POST", "/room/", "/message"),
        ("PUT", "/room/", "/mark-read"),
        ("GET", "/users/", ""),
        ("PATCH", "/users/", ""),
        ("PUT", "/users/", "/password"),
        ("DELETE", "/users/", ""),
        ("DELETE", "/delete/room/", ""),
        ("DELETE", "/delete/message/", ""),
        ("DELETE", "/sessions/", ""),
        ("POST", "/login/", ""),
    ] {
        for id in [
            "..",
            "%2e%2e",
            "..%2f..%2fetc%2fpasswd",
            "%2fetc%2fpasswd",
            "..%5c..%5cwindows",
            "%00",
            "*",
            "$gt",
            "%7b%22$gt%22:%22%22%7d",
            "%27%20or%201=1--",
            "x%0d%0aset-cookie:%20a=b",
            &format!("{room}%00"),
            &format!("{room}%2f..%2f{room}"),
            &format!("{}%2f..", alice.id),
            &format!("%20{room}"),
            &"a".repeat(10_000),
        ] {
            let (status, body) = answer_to(
                &server.base,
                &request(method, &format!("{before}{id}{after}"), &header),
            )
            .await
            .unwrap();
            assert!(
                (400..500).contains(&status),
                "{method} {before}{id}{after}: {status} {body}"
            );
        }
    }
    assert_eq!(
        alice.get("/users?limit=9").await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    alice.posts(&room, "still there").await.ok();
}

#[apply(each_store)]
#[tokio::test]
async fn a_token_is_not_smuggled_past_whoever_looks_at_headers(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let (alice, bob, room) = server.two_members().await;
    let [good, other] = [&alice, &bob].map(|person| format!("Bearer {}", person.token));
    let room = format!("/room/{room}");
    let socket = ["polling", "websocket"]
        .map(|transport| format!("/socket.io/?EIO=4&transport={transport}"));
    let long = format!("Bearer {}", "a".repeat(50_000));
    let too_long = format!("Bearer {}", "a".repeat(200_000));
    for (method, path) in [
        ("GET", &*room),
        ("GET", "/users"),
        ("POST", "/users"),
        ("DELETE", "/users/x"),
        ("DELETE", "/delete/room/x"),
        ("DELETE", "/delete/message/x"),
        ("POST", "/logout"),
        ("GET", &socket[0]),
        ("GET", &socket[1]),
    ] {
        for two in [
            [&*good, "x"],
            ["x", &good],
            [&good, &good],
            [&good, &other],
            ["", &good],
            [&good, &long],
        ] {
            let headers = format!(
                "Authorization: {}\r\naccept: */*\r\nAUTHORIZATION: {}\r\n",
                two[0], two[1]
            );
            let (status, body) = answer_to(&server.base, &request(method, path, &headers))
                .await
                .unwrap();
            assert_eq!(
                (status, &body["message"]),
                (
                    400,
                    &json!("The request has more than one Authorization header")
                ),
                "{method} {path}"
            );
        }
        if !path.starts_with("/socket.io") {
            let (status, _) = answer_to(
                &server.base,
                &request(method, path, &format!("authorization: {long}\r\n")),
            )
            .await
            .unwrap();
            assert_eq!(status, 401, "{method} {path}");
        }
        let answer = answer_to(
            &server.base,
            &request(method, path, &format!("authorization: {too_long}\r\n")),
        )
        .await;
        assert!(
            answer.is_none_or(|(status, _)| status == 431),
            "{method} {path}"
        );
    }
    // A token in any other header or in the query does not authenticate a request.
    for headers in [
        "x-authorization",
        "proxy-authorization",
        "cookie",
        "x-access-token",
    ] {
        let (status, _) = answer_to(
            &server.base,
            &request("GET", &room, &format!("{headers}: {good}\r\n")),
        )
        .await
        .unwrap();
        assert_eq!(status, 400);
    }
    let (status, _) = answer_to(
        &server.base,
        &request("GET", &format!("{room}?token={}", alice.token), ""),
    )
    .await
    .unwrap();
    assert_eq!(status, 400);
}

#[apply(each_store)]
#[tokio::test]
async fn rubbish_for_a_username_logs_nobody_in_and_registers_nobody(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let alice = server.member("alice").await;
    for username in [
        "' OR '1'='1",
        "alice' --",
        "alice\"; DROP TABLE users; --",
        "{\"$gt\":\"\"}",
        "{\"$ne\": null}",
        "alice\u{0}",
        "alice ",
        " alice",
        "alice\n",
        "alice%00",
        "аlice",
        "alıce",
        "ALİCE",
        "ａｌｉｃｅ",
        "alice\u{200b}",
        "a\u{301}lice",
        "\u{212a}ate",
        "*",
        "../alice",
        "alice@example.com",
        &"a".repeat(40_000),
    ] {
        server
            .enters(username, PASSWORD)
            .await
            .refused(401, "Wrong username or password");
        let body = json!({ "username": username, "password": PASSWORD, "firstName": "Alice", "lastName": "Test", "type": "consumer" });
        server
            .post("/users", &body)
            .await
            .invalid(json!({ "username": "please provide 3 to 32 of a-z 0-9 . _ -" }));
    }
    for username in ["Alice", "ALICE", "aLiCe"] {
        server
            .registers(username, "consumer")
            .await
            .invalid(json!({ "username": "this username is taken" }));
    }
    assert_eq!(
        alice.get("/users").await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn whoever_guesses_the_old_password_has_to_wait_as_at_the_login() {
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
async fn no_secret_is_found_in_the_log_or_in_the_database(kind: Kind) {
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
        "a login failed",
        "refused",
        "a token was refused",
        "a refresh token was used twice",
        "sessions were ended",
    ] {
        let is_told = |line: &str| {
            [event, &alice.id, "127.0.0.1"]
                .iter()
                .all(|part| line.contains(part))
        };
        assert!(
            lines.lines().any(is_told),
            "no line says who and whence: {event}"
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

#[apply(each_store)]
#[tokio::test]
async fn a_login_that_ends_the_oldest_session_is_noted_down(kind: Kind) {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
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
    let Credentials { password, .. } = store.credentials(alice).await.unwrap().unwrap();
    let (now, later) = (
        Timestamp(machine_time()),
        Timestamp(machine_time() + 1_000_000),
    );
    for n in 0..MAX_SESSIONS {
        let n = u8::try_from(n).unwrap();
        let id = SessionId::from_bytes([n; 16]);
        let session = Session {
            id,
            user: alice,
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
                .add_session(session, key, password.clone())
                .await
                .unwrap(),
            Some(Vec::new())
        );
    }
    store.close().await;
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
        [
            "too many sessions",
            &alice.to_string(),
            "127.0.0.1",
            "ended=1",
        ]
        .iter()
        .all(|part| line.contains(part))
    };
    assert!(log.lines().any(is_told), "{log}");
}
