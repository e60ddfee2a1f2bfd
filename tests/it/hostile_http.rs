//! Malformed HTTP requests, and valid ones that look malformed.
//!
//! What the server refuses before it is a request, or because of its token, runs on one store,
//! because it does not use the database.

use crate::{
    databases::Kind,
    each_store,
    hostile_load::{LoadedServer, random},
    raw::Connection,
};
use rand::{Rng, RngExt};
use rstest_reuse::apply;
use serde_json::{Value, json};

impl LoadedServer {
    /// Returns the response to these bytes, after checking that it is well formed. The server must
    /// then wait for more or close the connection, without another response.
    async fn answer_to(&self, bytes: impl AsRef<[u8]>) -> (u16, Value) {
        let bytes = bytes.as_ref();
        let mut connection = Connection::open(&self.base).await;
        connection.send(bytes).await;
        let reply = connection
            .reply("GET")
            .await
            .unwrap_or_else(|| panic!("no answer to {}", beginning(bytes)));
        // Not earlier: the server treats a client that has closed its sending side as disconnected.
        connection.finish().await;
        assert!(
            connection.reply("GET").await.is_none(),
            "{}",
            beginning(bytes)
        );
        (reply.status, reply.sound(beginning(bytes)))
    }

    /// Checks that the server executes nothing in these bytes: it sends only refusals, or nothing,
    /// until it closes the connection.
    async fn refuses(&self, bytes: impl AsRef<[u8]>) {
        let mut connection = Connection::open(&self.base).await;
        connection.send(bytes.as_ref()).await;
        only_refusals(connection, bytes.as_ref()).await;
    }

    /// Checks the same for a client that stops midway.
    async fn refuses_part(&self, bytes: impl AsRef<[u8]>) {
        let mut connection = Connection::open(&self.base).await;
        connection.send(bytes.as_ref()).await;
        connection.finish().await;
        only_refusals(connection, bytes.as_ref()).await;
    }
}

async fn only_refusals(mut connection: Connection, asked: &[u8]) {
    while let Some(reply) = connection.reply("GET").await {
        reply.sound(beginning(asked));
        assert!(reply.status >= 400, "{}: {reply:?}", beginning(asked));
    }
}

fn beginning(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")
}

/// Returns a request that creates a user, with these headers and this body.
fn create(headers: &str, body: &str) -> String {
    format!(
        "POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
    )
}

const USER: &str = r#"{"firstName":"Mallory","lastName":"Test","type":"consumer"}"#;

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    // More than the 64 KiB that a request head may have, and than hyper reads before it notices.
    let long = "a".repeat(200_000);
    let with = |header: &str| format!("GET /health HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    for bytes in [
        "GET /health\r\n",
        "GET /health HTTP/0.9\r\n\r\n",
        "GET /health HTTP/2.0\r\n\r\n",
        "GET /health HTTP/9.9\r\n\r\n",
        "GET /health HTTP/1.1x\r\n\r\n",
        "GET /health http/1.1\r\n\r\n",
        "GET  /health HTTP/1.1\r\n\r\n",
        "GET /he alth HTTP/1.1\r\n\r\n",
        "GET\t/health\tHTTP/1.1\r\n\r\n",
        "GET HTTP/1.1\r\n\r\n",
        " GET /health HTTP/1.1\r\n\r\n",
        "G\0T /health HTTP/1.1\r\n\r\n",
        "GET /he\0lth HTTP/1.1\r\n\r\n",
        "G(T /health HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03",
        "\0\0\0\0\0\0\0\0",
        "SSH-2.0-OpenSSH_9.0\r\n",
        &with("no colon"),
        &with(": no name"),
        &with("na me: x"),
        &with("name : x"),
        &with("name\0: x"),
        &with("name: x\0y"),
        &with("name: x\ry"),
        &with("näme: x"),
        &with(&format!("name: {long}")),
        &with(&format!("{long}: x")),
        &with(
            &(0..20_000)
                .map(|n| format!("name{n}: x"))
                .collect::<Vec<_>>()
                .join("\r\n"),
        ),
        &with(&"name: x\r\n".repeat(200)),
        &get(&format!("/{long}")),
        &get(&format!("/users?{long}")),
        &format!("{long} /health HTTP/1.1\r\n\r\n"),
        &create("content-length: -1\r\n", USER),
        &create("content-length: +59\r\n", USER),
        &create("content-length: 0x3b\r\n", USER),
        &create("content-length: 59, 60\r\n", USER),
        &create("content-length: 59 59\r\n", USER),
        &create("content-length: 59\r\ncontent-length: 60\r\n", USER),
        &create("content-length: 99999999999999999999\r\n", USER),
        &create("content-length: 18446744073709551615\r\n", USER),
        &create("content-length: nine\r\n", USER),
        &create("transfer-encoding: gzip\r\n", USER),
        &create("transfer-encoding: chunked, gzip\r\n", USER),
        &create("transfer-encoding: chunked\r\n", USER),
        &create(
            "transfer-encoding: chunked\r\n",
            &format!("3b\r\n{USER}x\r\n0\r\n\r\n"),
        ),
        &create(
            "transfer-encoding: chunked\r\n",
            &format!("3c\r\n{USER}\r\n0\r\n\r\n"),
        ),
        &create("transfer-encoding: chunked\r\n", "-1\r\n\r\n"),
        &create("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}"),
        &create(
            "transfer-encoding: chunked\r\n",
            &format!("3b;{long}\r\n{USER}\r\n0\r\n\r\n"),
        ),
        &create(
            "transfer-encoding: chunked\r\n",
            &format!("3b\r\n{USER}\r\n0\r\n{}\r\n", "name: x\r\n".repeat(20_000)),
        ),
        // The four bytes `{"fi` do not create a user, and the rest is not a valid request.
        &create("content-length: 4\r\n", USER),
    ] {
        loaded.refuses(bytes).await;
    }
    for bytes in [
        &b"GET /\xff\xfe HTTP/1.1\r\n\r\n"[..],
        b"GET /users?\xc3\x28 HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\xff: x\r\n\r\n",
    ] {
        loaded.refuses(bytes).await;
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn what_stops_in_the_middle_is_not_carried_out() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for bytes in [
        "",
        "\r\n\r\n\r\n\r\n",
        "GET /health HT",
        "GET /health HTTP/1.1\r\nhost: x\r\n",
        &create("transfer-encoding: chunked\r\n", &format!("3b\r\n{USER}")),
        &create(
            "transfer-encoding: chunked\r\n",
            &format!("3b\r\n{USER}\r\n"),
        ),
        &create("transfer-encoding: chunked\r\n", "ffffffffffffffff\r\n{}"),
        &create("content-length: 1000\r\n", USER),
        &create("content-length: 1000\r\nexpect: 100-continue\r\n", ""),
        "PRI * HTTP/2.0\r\n\r\nS",
        "POST /users HTTP/1.1\r\n",
    ] {
        loaded.refuses_part(bytes).await;
    }
    assert_eq!(
        loaded.alice.get("/users?limit=9").await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        2,
        "Alice and Bob"
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn who_says_nothing_or_stops_in_the_middle_is_let_go() {
    let settings =
        ["HEADER", "KEEP_ALIVE", "REQUEST"].map(|name| format!("CAUSERIE_HTTP__{name}_TIMEOUT_MS"));
    let loaded = LoadedServer::with(
        Kind::Sqlite,
        &settings.each_ref().map(|name| (name.as_str(), "500")),
    )
    .await;
    let polling = "POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n4";
    for beginning in [
        "",
        "\r\n",
        "PRI * HT",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HT",
        &get("/health"),
        &create("content-length: 9\r\n", "{"),
        polling,
    ] {
        let mut connection = Connection::open(&loaded.base).await;
        connection.send(beginning.as_bytes()).await;
        while let Some(reply) = connection.reply("GET").await {
            assert!(
                matches!(reply.status, 200 | 400 | 503),
                "{beginning}: {reply:?}"
            );
        }
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn noise_is_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut random = random();
    for _ in 0..300 {
        let mut noise = vec![0; random.random_range(1..2_000)];
        random.fill_bytes(&mut noise);
        loaded.refuses_part(noise).await;
    }
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn unusual_requests_are_answered_in_the_envelope(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let id = &loaded.alice.id;
    for (bytes, status) in [
        ("GET /health HTTP/1.0\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\n\r\n", 200),
        ("GET /health HTTP/1.1\n\n", 200),
        ("\r\n\r\nGET /health HTTP/1.1\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nhost: \r\nhost: x y\r\n\r\n", 200),
        ("GET http://elsewhere.example/health HTTP/1.1\r\n\r\n", 200),
        (
            "GET https://user:password@elsewhere.example:1/health/?x HTTP/1.1\r\n\r\n",
            200,
        ),
        ("GET http://elsewhere.example HTTP/1.1\r\n\r\n", 404),
        ("GET //health HTTP/1.1\r\n\r\n", 200),
        ("GET /health// HTTP/1.1\r\n\r\n", 200),
        ("CONNECT elsewhere.example:443 HTTP/1.1\r\n\r\n", 404),
        ("GET health HTTP/1.1\r\n\r\n", 404),
        ("BREW /users HTTP/1.1\r\n\r\n", 405),
        ("BREW /coffee HTTP/1.1\r\n\r\n", 404),
        ("get /health HTTP/1.1\r\n\r\n", 405),
        ("TRACE /health HTTP/1.1\r\n\r\n", 405),
        (
            "GET /health HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
            200,
        ),
        (
            "GET /health HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            200,
        ),
        (
            "GET /health HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            200,
        ),
        (
            "GET /health HTTP/1.1\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nconnection: upgrade, http2-settings\r\n\r\n",
            200,
        ),
        (
            &create("content-length: 59\r\nexpect: 100-continue\r\n", USER),
            200,
        ),
        (
            &create("content-length: 59\r\nexpect: a miracle\r\n", USER),
            200,
        ),
        (
            &create("content-length: 59\r\ncontent-length: 59\r\n", USER),
            200,
        ),
        (
            &create("content-length: 59\r\nconnection: close\r\n", USER),
            200,
        ),
        (
            &create(
                "transfer-encoding: chunked\r\n",
                &format!("3B;a=\"b\"\r\n{USER}\r\n0\r\nx-trailer: y\r\n\r\n"),
            ),
            200,
        ),
        (&create("content-length: 0\r\n", ""), 400),
        (&create("", ""), 400),
        (
            &create("content-encoding: gzip\r\ncontent-length: 59\r\n", USER),
            415,
        ),
        (&get("/health?"), 200),
        (&get(&format!("/health?{}", "a".repeat(60_000))), 200),
        (
            &get(&format!("/users?{}page=1", "a=1&".repeat(10_000))),
            200,
        ),
        (
            &get(&format!("/users?{}", "page=1&limit=2&".repeat(4_000))),
            200,
        ),
        (&get("/users?page=%ff%00%&limit=%"), 200),
        (&get(&format!("/{}", "a".repeat(60_000))), 404),
        (&get(&format!("/{}", "a/".repeat(30_000))), 404),
        (&get(&"/".repeat(60_000)), 404),
        (&get(&format!("/users/{}", "%41".repeat(20_000))), 404),
        (&get("/users/.."), 404),
        (&get("/users/../health"), 404),
        (&get("/users/%2e%2e%2fhealth"), 404),
        (&get("/users%2f"), 404),
        (&get("/users/%00"), 404),
        (&get("/users/%"), 404),
        (&get("/users/%2"), 404),
        (&get("/users/%zz"), 404),
        (&get("/users/%ff"), 400),
        (&get("/users/%c0%ae"), 400),
        (&get("/users/%ed%a0%80"), 400),
        (&get(&format!("/users/{id}%00")), 404),
        (&get(&format!("/users/{id}%2f")), 404),
        (&get(&format!("/users/{}", id.to_uppercase())), 404),
        (
            &get(&format!("/users/%{:02x}{}", id.as_bytes()[0], &id[1..])),
            200,
        ),
        (&get("/users/{userId}"), 404),
        (&get("/users/*"), 404),
    ] {
        assert_eq!(
            loaded.answer_to(bytes).await.0,
            status,
            "{}",
            beginning(bytes.as_bytes())
        );
    }
    // The CORS layer answers every OPTIONS request as a preflight, without a body.
    for target in ["*", "/users", "/nothing", "http://elsewhere.example"] {
        let mut connection = Connection::open(&loaded.base).await;
        connection
            .send(format!("OPTIONS {target} HTTP/1.1\r\n\r\n").as_bytes())
            .await;
        assert_eq!(
            connection.reply("OPTIONS").await.expect("an answer").status,
            200,
            "{target}"
        );
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn whatever_stands_in_the_authorization_header_is_answered() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let token = &loaded.alice.token;
    let ask = |headers: &[&[u8]]| {
        let headers = headers
            .iter()
            .flat_map(|value| [b"authorization: ", *value, b"\r\n"].concat());
        [
            b"GET /room HTTP/1.1\r\nhost: x\r\n".to_vec(),
            headers.collect(),
            b"\r\n".to_vec(),
        ]
        .concat()
    };
    let good = format!("Bearer {token}");
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("{token}")
    };
    // `{"alg":"none"}`, `{"alg":"HS512"}`, `{}`, `null`.
    let others = [
        "eyJhbGciOiJub25lIn0",
        "eyJhbGciOiJIUzUxMiJ9",
        "e30",
        "bnVsbA",
        "",
        "%00",
    ];
    let forged = others.iter().flat_map(|other| {
        [
            format!("{other}.{claims}.{signature}"),
            format!("{header}.{other}.{signature}"),
            format!("{header}.{claims}.{other}"),
        ]
    });
    let every_byte: Vec<u8> = (0x20..=0xff).filter(|byte| *byte != 0x7f).collect();
    let mut wrong: Vec<Vec<u8>> = forged
        .map(|token| format!("Bearer {token}").into_bytes())
        .collect();
    wrong.extend((0x80..=0xff).map(|byte| [b"Bearer ", &[byte; 20][..]].concat()));
    wrong.extend((0x80..=0xff).map(|byte| [good.as_bytes(), &[byte]].concat()));
    wrong.extend([
        every_byte,
        b"Bearer".to_vec(),
        b"Bearer\t".to_vec(),
        format!("Bearer\t{token}").into(),
        format!("Bearer  {token}").into(),
        format!("Bearer {token}.").into(),
        format!("Bearer {token}=").into(),
        format!("Bearer {}", ".".repeat(50_000)).into(),
        format!("Bearer {}", "a".repeat(50_000)).into(),
        format!(
            "Bearer {}.{}.{}",
            "a".repeat(20_000),
            "b".repeat(20_000),
            "c".repeat(20_000)
        )
        .into(),
    ]);
    for value in wrong {
        assert_eq!(
            loaded.answer_to(ask(&[&value])).await.0,
            401,
            "{}",
            beginning(&value)
        );
    }
    assert_eq!(loaded.answer_to(ask(&[b""])).await.0, 400);
    // A proxy in front of the server may check one header while the server uses the other.
    for two in [
        [good.as_bytes(), b"Bearer x"],
        [b"Bearer x", good.as_bytes()],
        [good.as_bytes(), good.as_bytes()],
        [b"", good.as_bytes()],
    ] {
        let (status, body) = loaded.answer_to(ask(&two)).await;
        assert_eq!(
            (status, &body["message"]),
            (
                400,
                &json!("The request has more than one Authorization header")
            )
        );
    }
    let socket = format!(
        "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\nauthorization: {good}\r\nAUTHORIZATION: x\r\n\r\n"
    );
    assert_eq!(loaded.answer_to(socket).await.0, 400);
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn requests_sent_at_once_are_answered_in_their_order(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let user = |n: u32| format!(r#"{{"firstName":"{n}","lastName":"Test","type":"consumer"}}"#);
    let requests: String = (0..200)
        .map(|n| create(&format!("content-length: {}\r\n", user(n).len()), &user(n)))
        .collect();
    let mut connection = Connection::open(&loaded.base).await;
    // In pieces that end at arbitrary positions.
    for piece in requests.as_bytes().chunks(101) {
        assert!(connection.send(piece).await);
    }
    for n in 0..200 {
        let reply = connection.reply("POST").await.expect("an answer");
        assert_eq!(reply.sound(n)["user"]["firstName"], n.to_string());
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_body_with_two_lengths_is_read_once() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    // Whichever length counts, the server must not execute as a separate request what a proxy may
    // have taken for the body.
    let hidden = "DELETE /delete/room/none HTTP/1.1\r\nhost: x\r\n\r\n";
    for headers in [
        format!(
            "content-length: {}\r\ntransfer-encoding: chunked\r\n",
            5 + hidden.len()
        ),
        format!(
            "transfer-encoding: chunked\r\ncontent-length: {}\r\n",
            5 + hidden.len()
        ),
        format!(
            "transfer-encoding: identity\r\ncontent-length: {}\r\n",
            5 + hidden.len()
        ),
    ] {
        let request = create(&headers, &format!("0\r\n\r\n{hidden}"));
        loaded.refuses(&request).await;
    }
    loaded.ends_well().await;
}
