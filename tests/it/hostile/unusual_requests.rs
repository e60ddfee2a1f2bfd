//! Valid HTTP requests that look malformed.

use serde_json::json;

use crate::support::{
    databases::Kind,
    http_bytes::{USER, beginning, create, get},
    loaded_server::LoadedServer,
    raw::Connection,
};

/// Requests without a JSON body, and the status of the answer.
const UNUSUAL_REQUESTS: &[(&str, u16)] = &[
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
];

/// Checks that the server answers these bytes with this status.
async fn check_status(loaded: &LoadedServer, bytes: &str, status: u16) {
    assert_eq!(
        loaded.answer_to(bytes).await.0,
        status,
        "{}",
        beginning(bytes.as_bytes())
    );
}

#[tokio::test]
async fn unusual_requests_are_answered_with_json() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for &(bytes, status) in UNUSUAL_REQUESTS {
        assert_eq!(
            loaded.answer_to(bytes).await.0,
            status,
            "{}",
            beginning(bytes.as_bytes())
        );
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn unusual_headers_of_a_body_are_answered_with_json() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for (bytes, status) in [
        (
            create("content-length: 59\r\nexpect: 100-continue\r\n", USER),
            200,
        ),
        (
            create("content-length: 59\r\nexpect: a miracle\r\n", USER),
            200,
        ),
        (
            create("content-length: 59\r\ncontent-length: 59\r\n", USER),
            200,
        ),
        (
            create("content-length: 59\r\nconnection: close\r\n", USER),
            200,
        ),
        (
            create(
                "transfer-encoding: chunked\r\n",
                &format!("3B;a=\"b\"\r\n{USER}\r\n0\r\nx-trailer: y\r\n\r\n"),
            ),
            200,
        ),
        (create("content-length: 0\r\n", ""), 400),
        (create("", ""), 400),
        (
            create("content-encoding: gzip\r\ncontent-length: 59\r\n", USER),
            415,
        ),
    ] {
        check_status(&loaded, &bytes, status).await;
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn unusual_paths_and_queries_are_answered_with_json() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let id = &loaded.alice.id;
    for (bytes, status) in [
        (get("/health?"), 200),
        (get(&format!("/health?{}", "a".repeat(60_000))), 200),
        (get(&format!("/users?{}page=1", "a=1&".repeat(10_000))), 200),
        (
            get(&format!("/users?{}", "page=1&limit=2&".repeat(4_000))),
            200,
        ),
        (get("/users?page=%ff%00%&limit=%"), 200),
        (get(&format!("/{}", "a".repeat(60_000))), 404),
        (get(&format!("/{}", "a/".repeat(30_000))), 404),
        (get(&"/".repeat(60_000)), 404),
        (get(&format!("/users/{}", "%41".repeat(20_000))), 404),
        (get("/users/.."), 404),
        (get("/users/../health"), 404),
        (get("/users/%2e%2e%2fhealth"), 404),
        (get("/users%2f"), 404),
        (get("/users/%00"), 404),
        (get("/users/%"), 404),
        (get("/users/%2"), 404),
        (get("/users/%zz"), 404),
        (get("/users/%ff"), 400),
        (get("/users/%c0%ae"), 400),
        (get("/users/%ed%a0%80"), 400),
        (get(&format!("/users/{id}%00")), 404),
        (get(&format!("/users/{id}%2f")), 404),
        (get(&format!("/users/{}", id.to_uppercase())), 404),
        (
            get(&format!("/users/%{:02x}{}", id.as_bytes()[0], &id[1..])),
            200,
        ),
        (get("/users/{userId}"), 404),
        (get("/users/*"), 404),
    ] {
        check_status(&loaded, &bytes, status).await;
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn every_options_request_is_answered_as_a_preflight() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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

/// Returns a request with these Authorization headers.
fn authorized(headers: &[&[u8]]) -> Vec<u8> {
    let headers = headers
        .iter()
        .flat_map(|value| [b"authorization: ", *value, b"\r\n"].concat());
    [
        b"GET /room HTTP/1.1\r\nhost: x\r\n".to_vec(),
        headers.collect(),
        b"\r\n".to_vec(),
    ]
    .concat()
}

/// Returns Authorization headers that resemble the one with this token.
fn wrong_authorizations(token: &str) -> Vec<Vec<u8>> {
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
    wrong
}

#[tokio::test]
async fn every_authorization_header_is_answered() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for value in wrong_authorizations(&loaded.alice.token) {
        assert_eq!(
            loaded.answer_to(authorized(&[&value])).await.0,
            401,
            "{}",
            beginning(&value)
        );
    }
    assert_eq!(loaded.answer_to(authorized(&[b""])).await.0, 400);
    loaded.ends_well().await;
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let good = format!("Bearer {}", loaded.alice.token);
    // A proxy in front of the server may check one header while the server uses the other.
    for two in [
        [good.as_bytes(), b"Bearer x"],
        [b"Bearer x", good.as_bytes()],
        [good.as_bytes(), good.as_bytes()],
        [b"", good.as_bytes()],
    ] {
        let (status, body) = loaded.answer_to(authorized(&two)).await;
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
