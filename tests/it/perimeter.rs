//! The perimeter of the server in secure mode: rate limits, client addresses behind proxies, and
//! CORS.

use causerie::model::UserType;
use reqwest::{Method, RequestBuilder};
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::Kind,
    each_store,
    harness::{PATIENCE, TestServer},
    people::{Answer, Person},
    raw::Connection,
    wire::Socket,
};

const PASSWORD: &str = "tall green kettle";

/// Starts a server in secure mode with these settings.
async fn secure(kind: Kind, settings: &[(&str, &str)]) -> TestServer {
    let mut all = vec![("CAUSERIE_ACCESS", "secure")];
    all.extend(settings);
    TestServer::with(kind, &all).await
}

fn registration(username: &str) -> Value {
    let kind = UserType::Consumer.as_str();
    json!({ "firstName": username, "lastName": "Test", "type": kind, "username": username, "password": PASSWORD })
}

fn login(username: &str) -> Value {
    json!({ "username": username, "password": PASSWORD })
}

/// Checks that the response is a rate limit, with the same wait in the header and in the body.
/// Returns the wait in seconds.
#[track_caller]
fn limited(answer: Answer) -> u64 {
    let header: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = answer.refused(429, "rate limited");
    assert_eq!(body["retryAfter"], header);
    assert!((1..=60).contains(&header), "{header}");
    header
}

impl TestServer {
    /// Sends a request through a proxy that reports this client address.
    async fn through_a_proxy(&self, address: &str, path: &str, body: &Value) -> Answer {
        Answer::of(
            self.request(Method::POST, path)
                .header("x-forwarded-for", address)
                .json(body),
        )
        .await
    }

    async fn token(&self, username: &str) -> String {
        self.post("/users", &registration(username)).await.ok();
        let answer = self.post("/login", &login(username)).await.ok();
        format!("Bearer {}", answer["authorization"].as_str().unwrap())
    }
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_tries_too_many_passwords_has_to_wait(kind: Kind) {
    let server = secure(kind, &[("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "3")]).await;
    let user = server.post("/users", &registration("carol")).await.ok()["user"]["_id"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in [
        "/login".to_owned(),
        format!("/login/{user}"),
        "/login".to_owned(),
    ] {
        let guess = json!({ "username": "carol", "password": "a guess" });
        server
            .post(&path, &guess)
            .await
            .refused(401, "Wrong username or password");
    }
    assert!(
        limited(server.post("/login", &login("carol")).await) > 10,
        "also with the right password"
    );
    limited(
        server
            .post(&format!("/login/{user}"), &login("carol"))
            .await,
    );
}

#[tokio::test]
async fn registrations_from_one_address_are_limited() {
    let server = secure(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__REGISTRATIONS_PER_MINUTE", "2")],
    )
    .await;
    server.post("/users", &registration("carol")).await.ok();
    server
        .post("/users", &registration("carol"))
        .await
        .invalid(json!({ "username": "this username is taken" }));
    limited(server.post("/users", &registration("dave")).await);
}

#[tokio::test]
async fn refreshes_from_one_address_are_limited() {
    let server = secure(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__REFRESHES_PER_MINUTE", "2")],
    )
    .await;
    let made_up = json!({ "refreshToken": "made up" });
    for _ in 0..2 {
        server
            .post("/login/refresh", &made_up)
            .await
            .refused(401, "The refresh token is not valid, please log in again");
    }
    limited(server.post("/login/refresh", &made_up).await);
}

#[tokio::test]
async fn whoever_posts_too_fast_has_to_wait_and_nobody_else() {
    let server = secure(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "3")]).await;
    let [carol, dave] = [server.token("carol").await, server.token("dave").await];
    let send = async |token: &str, request: RequestBuilder, body: Value| {
        Answer::of(request.header("authorization", token).json(&body)).await
    };
    let me = send(
        &dave,
        server.request(Method::GET, "/users?limit=9"),
        json!({}),
    )
    .await
    .ok();
    let ids: Vec<_> = me["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["_id"].clone())
        .collect();
    let asked = json!({ "userIds": ids, "type": "consumer-to-consumer" });
    let room = send(&dave, server.request(Method::POST, "/room/initiate"), asked)
        .await
        .ok();
    let path = format!(
        "/room/{}/message",
        room["chatRoom"]["chatRoomId"].as_str().unwrap()
    );
    let post = async |token: &str| {
        send(
            token,
            server.request(Method::POST, &path),
            json!({ "messageText": "hello" }),
        )
        .await
    };
    for _ in 0..3 {
        post(&carol).await.ok();
    }
    limited(post(&carol).await);
    post(&dave).await.ok();
}

/// Makes the request twice: the first uses up the limit of the minute. Returns the second response.
async fn spends(person: &Person, method: Method, path: &str, body: &Value) -> Answer {
    person.calls(method.clone(), path, body).await.ok();
    person.calls(method, path, body).await
}

#[tokio::test]
async fn whatever_changes_a_room_counts_as_a_post() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "1")]).await;
    let host = server.member("host").await;
    let room = host.room_with(&[]).await;
    let mut helpers = Vec::new();
    for name in [
        "renamer",
        "adder",
        "leaver",
        "remover",
        "deleter",
        "destroyer",
    ] {
        helpers.push(server.support(name).await);
    }
    let [renamer, adder, leaver, remover, deleter, destroyer] = &helpers[..] else {
        unreachable!()
    };
    // Each bucket holds one token and refills after a minute at the earliest, so each step uses
    // another user.
    limited(host.adds(&room, &[renamer]).await);
    let group = async |who: &Person| {
        let founder = server.member(&format!("founder{}", &who.id[20..])).await;
        founder.named_room("group", &[who]).await
    };
    let path = format!("/room/{}", group(renamer).await);
    limited(spends(renamer, Method::PUT, &path, &json!({ "name": "other" })).await);
    let path = format!("/room/{}/members", group(adder).await);
    adder
        .calls(Method::POST, &path, &json!({ "userIds": [adder.id] }))
        .await
        .ok();
    adder
        .calls(
            Method::POST,
            &path,
            &json!({ "userIds": [host.id, leaver.id] }),
        )
        .await
        .ok();
    adder
        .calls(
            Method::POST,
            &path,
            &json!({ "userIds": [adder.id, host.id] }),
        )
        .await
        .ok();
    limited(
        adder
            .calls(Method::POST, &path, &json!({ "userIds": [remover.id] }))
            .await,
    );
    let path = format!("/room/{}/members/{}", group(leaver).await, leaver.id);
    leaver.calls(Method::DELETE, &path, &json!({})).await.ok();
    limited(leaver.calls(Method::DELETE, &path, &json!({})).await);
    limited(
        spends(
            remover,
            Method::DELETE,
            &format!("/room/{room}/members/{}", adder.id),
            &json!({}),
        )
        .await,
    );
    limited(
        spends(
            deleter,
            Method::DELETE,
            &format!("/delete/message/{room}"),
            &json!({}),
        )
        .await,
    );
    limited(
        spends(
            destroyer,
            Method::DELETE,
            &format!("/delete/room/{room}"),
            &json!({}),
        )
        .await,
    );
}

#[tokio::test]
async fn whoever_initiates_rooms_pays_for_everybody_in_them() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "3")]).await;
    let (alice, bob, carol) = (
        server.member("alice").await,
        server.member("bob").await,
        server.member("carol").await,
    );
    alice.named_room("of three", &[&bob, &carol]).await;
    limited(alice.initiate(&[&bob, &carol]).await);
    alice.room_with(&[&bob]).await;
    limited(alice.initiate(&[&bob]).await);
}

#[tokio::test]
async fn marking_as_read_counts_as_an_event_by_rest_and_by_socket() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "3")]).await;
    let alice = server.member("alice").await;
    let room = alice.room_with(&[]).await;
    let mut socket = Socket::signed_in(&alice).await;
    assert_eq!(
        socket
            .asks("mark read", json!([{ "chatRoomId": room }]))
            .await["success"],
        true
    );
    for _ in 0..2 {
        alice.marks_read(&room).await;
    }
    limited(Answer::of(alice.request(Method::PUT, &format!("/room/{room}/mark-read"))).await);
    assert_eq!(
        socket
            .is_refused("mark read", json!([{ "chatRoomId": room }]))
            .await,
        "rate limited"
    );
}

#[tokio::test]
async fn reads_are_limited_by_what_they_cost_for_each_user() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__READS_PER_MINUTE", "2")]).await;
    let (alice, bob, room) = server.two_members().await;
    let carol = server.member("carol").await;
    alice.get(&format!("/room/{room}?limit=50")).await.ok();
    for path in [
        "/users",
        "/room",
        "/room/unread",
        "/room/search?q=word",
        &format!("/users/{}", bob.id),
        &format!("/room/{room}/members"),
    ] {
        limited(alice.get(path).await);
    }
    // Requests that are not reads still pass, and so do those of other users.
    alice.says(&room, "hello").await;
    bob.get(&format!("/room/{room}/sync?limit=49")).await.ok();
    limited(bob.get(&format!("/room/{room}/sync?limit=50")).await);
    // A request that costs more than the limit of a minute passes once.
    carol.get("/room/search?q=word").await.ok();
    limited(carol.get("/users").await);
}

#[tokio::test]
async fn subscribing_to_all_rooms_counts_as_one_read_for_each() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__READS_PER_MINUTE", "4")]).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    for name in ["one", "two", "three"] {
        alice.named_room(name, &[&bob]).await;
    }
    let mut socket = Socket::signed_in(&alice).await;
    assert_eq!(
        socket.asks("subscribe", json!([])).await["rooms"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(
        socket.is_refused("subscribe", json!([])).await,
        "rate limited"
    );
    // Other events are still allowed.
    socket.succeeds("identity", json!([alice.id])).await;
}

const OVER_QUOTA: &str = "You have stored as much as one user may in a day (2500 bytes)";

#[apply(each_store)]
#[tokio::test]
async fn a_user_stores_no_more_than_the_quota_of_a_day(kind: Kind) {
    let server = TestServer::secure_with(kind, &[("CAUSERIE_LIMITS__BYTES_PER_DAY", "2500")]).await;
    let (alice, bob, room) = server.two_members().await;
    let long = "x".repeat(1_000);
    let post = alice.says(&room, &long).await;
    // The room took 200 bytes and the message 1,200. The remaining 1,100 bytes are 5 short
    // messages.
    let refused = alice.posts(&room, &long).await;
    let wait = refused.body["retryAfter"].as_u64().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    refused.refused(429, OVER_QUOTA);
    alice
        .edits(&room, &post["postId"], &long)
        .await
        .refused(429, OVER_QUOTA);
    let mut socket = Socket::signed_in(&alice).await;
    let payload = json!([{ "chatRoomId": room, "messageText": long }]);
    assert_eq!(
        socket.is_refused("send message", payload.clone()).await,
        OVER_QUOTA
    );
    for _ in 0..5 {
        alice.says(&room, "hi").await;
    }
    alice
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            &json!({ "name": "name" }),
        )
        .await
        .refused(429, OVER_QUOTA);
    alice.initiate(&[]).await.refused(429, OVER_QUOTA);
    alice
        .calls(
            Method::PATCH,
            &format!("/users/{}", alice.id),
            &json!({ "firstName": "name" }),
        )
        .await
        .refused(429, OVER_QUOTA);
    Answer::of(alice.request(Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(429, OVER_QUOTA);
    bob.says(&room, &long).await;
    // The tokens expire before the day ends.
    server.turn_clock(24 * 60 * 60 * 1_000);
    let alice = server.session_of("alice").await;
    alice.says(&room, &long).await;
}

#[tokio::test]
async fn whoever_connects_too_often_has_to_wait() {
    let server = secure(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__CONNECTIONS_PER_MINUTE", "2")],
    )
    .await;
    let path = "/socket.io/?EIO=4&transport=polling";
    let open = server.request(Method::GET, path).send().await.unwrap();
    assert_eq!(open.status(), 200);
    let text = open.text().await.unwrap();
    let sid = serde_json::from_str::<Value>(&text[1..]).unwrap()["sid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        server
            .request(Method::GET, path)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    limited(server.get(path).await);
    limited(server.get("/socket.io/?EIO=4&transport=websocket").await);
    // Clients that are connected are not affected.
    let going_on = server
        .request(Method::POST, &format!("{path}&sid={sid}"))
        .body("40")
        .send()
        .await
        .unwrap();
    assert_eq!(going_on.status(), 200);
}

/// Returns a connection on which a request was answered, or `None` if the server closed it instead.
async fn served(server: &TestServer) -> Option<Connection> {
    let mut connection = Connection::open(&server.base).await;
    connection
        .send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let reply = connection.reply("GET").await?;
    assert_eq!(reply.status, 200);
    Some(connection)
}

/// Returns such a connection as soon as one is allowed. The server notices with a delay that
/// another connection has closed.
async fn served_soon(server: &TestServer) -> Connection {
    let serving = async {
        loop {
            if let Some(connection) = served(server).await {
                return connection;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, serving)
        .await
        .expect("no place becomes free")
}

const TWO_CONNECTIONS: (&str, &str) = ("CAUSERIE_LIMITS__CONNECTIONS_PER_ADDRESS", "2");

#[tokio::test]
async fn one_address_has_only_so_many_connections() {
    let server = secure(Kind::Sqlite, &[TWO_CONNECTIONS]).await;
    let [first, second] = [
        served(&server).await.unwrap(),
        served(&server).await.unwrap(),
    ];
    assert!(served(&server).await.is_none());
    drop(first);
    let third = served_soon(&server).await;
    assert!(served(&server).await.is_none());
    drop((second, third));
    // Websockets are counted separately: each of these connections frees its slot for the next one.
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut connection = served_soon(&server).await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        connection.send(format!("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n\r\n").as_bytes()).await;
        assert_eq!(connection.reply("GET").await.unwrap().status, 101);
        sockets.push(connection);
    }
}

#[tokio::test]
async fn neither_a_trusted_proxy_nor_open_mode_is_limited_in_connections() {
    let proxied = secure(
        Kind::Sqlite,
        &[
            TWO_CONNECTIONS,
            ("CAUSERIE_HTTP__TRUSTED_PROXIES", "127.0.0.1"),
        ],
    )
    .await;
    for server in [
        proxied,
        TestServer::with(Kind::Sqlite, &[TWO_CONNECTIONS]).await,
    ] {
        let mut connections = Vec::new();
        for _ in 0..5 {
            connections.push(served(&server).await.unwrap());
        }
    }
}

#[tokio::test]
async fn only_a_proxy_that_the_settings_name_says_where_a_request_comes_from() {
    let limit = ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "2");
    let behind_a_proxy = secure(
        Kind::Sqlite,
        &[limit, ("CAUSERIE_HTTP__TRUSTED_PROXIES", "127.0.0.0/8")],
    )
    .await;
    for address in ["198.51.100.1", "1.1.1.1, 198.51.100.1:4711"] {
        behind_a_proxy
            .through_a_proxy(address, "/login", &login("carol"))
            .await
            .refused(401, "Wrong username or password");
    }
    limited(
        behind_a_proxy
            .through_a_proxy("2.2.2.2,198.51.100.1", "/login", &login("carol"))
            .await,
    );
    behind_a_proxy
        .through_a_proxy("198.51.100.2", "/login", &login("carol"))
        .await
        .refused(401, "Wrong username or password");

    let alone = secure(Kind::Sqlite, &[limit]).await;
    for address in ["198.51.100.1", "198.51.100.2"] {
        alone
            .through_a_proxy(address, "/login", &login("carol"))
            .await
            .refused(401, "Wrong username or password");
    }
    limited(
        alone
            .through_a_proxy("198.51.100.3", "/login", &login("carol"))
            .await,
    );
}

#[tokio::test]
async fn open_mode_limits_nothing() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[
            ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__CONNECTIONS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__READS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__BYTES_PER_DAY", "1"),
        ],
    )
    .await;
    let (alice, _, room) = server.two_in_a_room().await;
    for _ in 0..3 {
        alice.posts(&room, "hello").await.ok();
        alice.get("/users?limit=500").await.ok();
        Socket::of(&alice, &room).await;
    }
}

const SAID: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
];

#[tokio::test]
async fn browsers_are_told_what_they_may_make_of_an_answer_in_secure_mode() {
    let (secure, open) = (
        secure(Kind::Sqlite, &[]).await,
        TestServer::start(Kind::Sqlite).await,
    );
    for path in [
        "/health",
        "/nothing",
        "/users",
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=9",
    ] {
        for (name, value) in SAID {
            let header = secure
                .request(Method::GET, path)
                .send()
                .await
                .unwrap()
                .headers()
                .get(name)
                .cloned();
            assert_eq!(header.unwrap(), value, "{name} of {path}");
            let header = open
                .request(Method::GET, path)
                .send()
                .await
                .unwrap()
                .headers()
                .get(name)
                .cloned();
            assert_ne!(
                header.as_ref().map(|header| header.to_str().unwrap()),
                Some(value),
                "{name} of {path} in open mode"
            );
        }
    }
}

/// Returns the CORS headers of the response to a page of this origin.
async fn allowed(
    server: &TestServer,
    method: Method,
    path: &str,
    origin: &str,
    asks: &str,
) -> Vec<(String, String)> {
    let request = server.request(method, path).header("origin", origin);
    let request = request
        .header("access-control-request-method", asks)
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        );
    let answer = request.send().await.unwrap();
    assert!(
        answer.status() == 200 || answer.status() == 401,
        "{}",
        answer.status()
    );
    let headers = answer
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-"));
    headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

#[tokio::test]
async fn a_page_calls_only_where_its_origin_is_listed() {
    let listed = "https://chat.example.com";
    let [none, some] = [
        secure(Kind::Sqlite, &[]).await,
        secure(Kind::Sqlite, &[("CAUSERIE_HTTP__CORS_ORIGINS", listed)]).await,
    ];
    for path in ["/health", "/socket.io/?EIO=4&transport=polling"] {
        for method in [Method::GET, Method::OPTIONS] {
            for (server, origin) in [
                (&none, listed),
                (&none, "null"),
                (&some, "https://evil.example"),
                (&some, "null"),
            ] {
                assert_eq!(
                    allowed(server, method.clone(), path, origin, "POST").await,
                    [],
                    "{method} {path} from {origin}"
                );
            }
        }
    }
    let has = |headers: &[(String, String)], name: &str, part: &str| {
        headers
            .iter()
            .any(|(header, value)| header == name && value.contains(part))
    };
    for asked in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let headers = allowed(&some, Method::OPTIONS, "/room/x", listed, asked).await;
        assert!(
            has(&headers, "access-control-allow-origin", listed),
            "{headers:?}"
        );
        assert!(
            has(&headers, "access-control-allow-methods", asked),
            "{headers:?}"
        );
        assert!(
            has(&headers, "access-control-allow-headers", "authorization"),
            "{headers:?}"
        );
    }
    let headers = allowed(&some, Method::GET, "/health", listed, "GET").await;
    assert!(
        has(&headers, "access-control-allow-origin", listed)
            && has(&headers, "access-control-allow-credentials", "true"),
        "{headers:?}"
    );
    assert!(
        has(&headers, "access-control-expose-headers", "retry-after"),
        "whoever has to wait may know how long: {headers:?}"
    );
}
