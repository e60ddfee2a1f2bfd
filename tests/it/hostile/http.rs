//! Malformed HTTP requests.

use futures_util::future::join_all;
use rand::{Rng, RngExt};

use crate::support::{
    databases::Kind,
    http_bytes::{USER, create, get},
    loaded_server::LoadedServer,
    random::random,
    raw::Connection,
};

/// More than the 64 KiB that a request head may have, and than hyper reads before it notices.
const TOO_LONG: usize = 200_000;

const WRONG_REQUEST_LINES: &[&str] = &[
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
];

#[tokio::test]
async fn invalid_request_lines_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for bytes in WRONG_REQUEST_LINES {
        loaded.refuses(bytes).await;
    }
    let long = "a".repeat(TOO_LONG);
    for bytes in [
        get(&format!("/{long}")),
        get(&format!("/users?{long}")),
        format!("{long} /health HTTP/1.1\r\n\r\n"),
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
async fn invalid_headers_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let long = "a".repeat(TOO_LONG);
    let with = |header: &str| format!("GET /health HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    for bytes in [
        with("no colon"),
        with(": no name"),
        with("na me: x"),
        with("name : x"),
        with("name\0: x"),
        with("name: x\0y"),
        with("name: x\ry"),
        with("näme: x"),
        with(&format!("name: {long}")),
        with(&format!("{long}: x")),
        with(
            &(0..20_000)
                .map(|n| format!("name{n}: x"))
                .collect::<Vec<_>>()
                .join("\r\n"),
        ),
        with(&"name: x\r\n".repeat(200)),
    ] {
        loaded.refuses(bytes).await;
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn invalid_lengths_and_encodings_of_a_body_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let long = "a".repeat(TOO_LONG);
    for bytes in [
        create("content-length: -1\r\n", USER),
        create("content-length: +59\r\n", USER),
        create("content-length: 0x3b\r\n", USER),
        create("content-length: 59, 60\r\n", USER),
        create("content-length: 59 59\r\n", USER),
        create("content-length: 59\r\ncontent-length: 60\r\n", USER),
        create("content-length: 99999999999999999999\r\n", USER),
        create("content-length: 18446744073709551615\r\n", USER),
        create("content-length: nine\r\n", USER),
        create("transfer-encoding: gzip\r\n", USER),
        create("transfer-encoding: chunked, gzip\r\n", USER),
        create("transfer-encoding: chunked\r\n", USER),
        create(
            "transfer-encoding: chunked\r\n",
            &format!("3b\r\n{USER}x\r\n0\r\n\r\n"),
        ),
        create(
            "transfer-encoding: chunked\r\n",
            &format!("3c\r\n{USER}\r\n0\r\n\r\n"),
        ),
        create("transfer-encoding: chunked\r\n", "-1\r\n\r\n"),
        create("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}"),
        create(
            "transfer-encoding: chunked\r\n",
            &format!("3b;{long}\r\n{USER}\r\n0\r\n\r\n"),
        ),
        create(
            "transfer-encoding: chunked\r\n",
            &format!("3b\r\n{USER}\r\n0\r\n{}\r\n", "name: x\r\n".repeat(20_000)),
        ),
        // The four bytes `{"fi` do not create a user, and the rest is not a valid request.
        create("content-length: 4\r\n", USER),
    ] {
        loaded.refuses(bytes).await;
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn incomplete_requests_are_not_executed() {
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
async fn silent_and_stalled_connections_are_closed() {
    let settings =
        ["HEADER", "KEEP_ALIVE", "REQUEST"].map(|name| format!("CAUSERIE_HTTP__{name}_TIMEOUT_MS"));
    let loaded = LoadedServer::with(
        Kind::Sqlite,
        &settings.each_ref().map(|name| (name.as_str(), "500")),
    )
    .await;
    let polling = "POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n4";
    let (request, part) = (get("/health"), create("content-length: 9\r\n", "{"));
    let beginnings = [
        "",
        "\r\n",
        "PRI * HT",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HT",
        &request,
        &part,
        polling,
    ];
    join_all(beginnings.map(async |beginning| {
        let mut connection = Connection::open(&loaded.base).await;
        connection.send(beginning.as_bytes()).await;
        while let Some(reply) = connection.reply("GET").await {
            assert!(
                matches!(reply.status, 200 | 400 | 503),
                "{beginning}: {reply:?}"
            );
        }
    }))
    .await;
    loaded.ends_well().await;
}

#[tokio::test]
async fn random_bytes_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut random = random();
    for _ in 0..300 {
        let mut noise = vec![0; random.random_range(1..2_000)];
        random.fill_bytes(&mut noise);
        loaded.refuses_part(noise).await;
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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
