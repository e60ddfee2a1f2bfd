//! Values that are not strings, and ids, headers and usernames that are not what they should be.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::Kind,
        harness::TestServer,
        people::{PASSWORD, registration},
        raw::Connection,
        wire::{Shown, Socket},
    },
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
async fn query_operators_are_refused_in_every_field(kind: Kind) {
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

/// Requests with an id in the path: the method, and what is before and behind the id.
const PATHS_WITH_AN_ID: [(&str, &str, &str); 11] = [
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
];

#[tokio::test]
async fn ids_with_special_characters_are_refused() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, _, room) = server.two_members().await;
    let header = format!("authorization: Bearer {}\r\n", alice.token);
    for (method, before, after) in PATHS_WITH_AN_ID {
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

#[tokio::test]
async fn ambiguous_authorization_headers_are_refused() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test]
async fn invalid_usernames_neither_log_in_nor_register() {
    let server = TestServer::secure(Kind::Sqlite).await;
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
