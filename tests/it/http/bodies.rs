//! The formats of request bodies.

use reqwest::Method;
use serde_json::json;

use crate::support::{answer::Answer, databases::Kind, harness::TestServer};

#[tokio::test]
async fn forms_are_accepted_like_json() {
    let server = TestServer::start(Kind::Sqlite).await;
    let form = |text: &'static str| {
        Answer::of(
            server
                .request(Method::POST, "/users")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(text),
        )
    };
    let user = form("firstName=J%C3%B6rg&lastName=van+Dyk&type=consumer")
        .await
        .ok()["user"]
        .clone();
    assert_eq!(
        (&user["firstName"], &user["lastName"]),
        (&json!("Jörg"), &json!("van Dyk"))
    );
    form("firstName=a&firstName=b&lastName=c&type=consumer")
        .await
        .invalid(json!({ "firstName": "please provide a string" }));
}

/// Registers a user with a body of this content type.
async fn registers_with(
    server: &TestServer,
    kind: Option<&str>,
    body: impl Into<Vec<u8>>,
) -> Answer {
    let request = server.request(Method::POST, "/users").body(body.into());
    Answer::of(match kind {
        Some(kind) => request.header("content-type", kind),
        None => request,
    })
    .await
}

#[tokio::test]
async fn unreadable_bodies_are_refused_with_json() {
    let server = TestServer::start(Kind::Sqlite).await;
    for body in [
        "{",
        "\"text\"",
        "5",
        "null",
        " ",
        "{\"a\":1}x",
        "{\"firstName\":\"\\ud800\"}",
    ] {
        let answer = registers_with(&server, Some("application/json"), body).await;
        assert_eq!(
            (answer.status, &answer.body["success"]),
            (400, &json!(false)),
            "{body}: {}",
            answer.body
        );
        assert!(
            answer.body["message"]
                .as_str()
                .unwrap()
                .starts_with("The request body is not"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn only_bodies_with_a_content_type_of_json_in_utf_8_are_read_as_json() {
    let server = TestServer::start(Kind::Sqlite).await;
    let valid = br#"{"firstName":"a","lastName":"b","type":"consumer"}"#.to_vec();
    let with_mark = [b"\xef\xbb\xbf".to_vec(), valid.clone()].concat();
    for (kind, body) in [
        ("application/json; charset=utf-8", &valid),
        ("Application/JSON", &with_mark),
    ] {
        registers_with(&server, Some(kind), body.as_slice())
            .await
            .ok();
    }
    registers_with(
        &server,
        Some("application/json; charset=utf-16"),
        valid.as_slice(),
    )
    .await
    .refused(415, "The request body is in 'utf-16'; please send UTF-8");
    let missing = json!({ "firstName": "please provide a string", "lastName": "please provide a string", "type": "Possible value are consumer,support" });
    for kind in [None, Some("text/plain"), Some("application/vnd.api+json")] {
        registers_with(&server, kind, valid.as_slice())
            .await
            .invalid(missing.clone());
    }
    registers_with(&server, Some("application/json"), "")
        .await
        .invalid(missing);
}

#[tokio::test]
async fn a_body_over_the_size_limit_is_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    let body = |size: usize| {
        let frame = r#"{"firstName":"a","lastName":"b","type":"consumer","more":""}"#.len();
        format!(
            r#"{{"firstName":"a","lastName":"b","type":"consumer","more":"{}"}}"#,
            "x".repeat(size - frame)
        )
    };
    let send = |body: String| {
        Answer::of(
            server
                .request(Method::POST, "/users")
                .header("content-type", "application/json")
                .body(body),
        )
    };
    send(body(102_400)).await.ok();
    for size in [102_401, 1_000_000] {
        send(body(size))
            .await
            .refused(413, "The request body is larger than 102400 bytes");
    }
}

#[tokio::test]
async fn a_multipart_form_is_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let part =
        "--x\r\ncontent-disposition: form-data; name=\"messageText\"\r\n\r\nhello\r\n--x--\r\n";
    let send = async |path: &str, kind: &str, body: String| {
        Answer::of(
            alice
                .request(Method::POST, path)
                .header("content-type", kind.to_owned())
                .body(body),
        )
        .await
    };
    let message = "Please send the request body as JSON, or as a form of the type application/x-www-form-urlencoded, not as multipart/form-data";
    let path = format!("/room/{room}/message");
    for path in [path.as_str(), "/users", "/room/initiate"] {
        for kind in [
            "multipart/form-data; boundary=x",
            "Multipart/Form-Data ; boundary=x",
            "multipart/form-data",
        ] {
            send(path, kind, part.to_owned())
                .await
                .refused(415, message);
        }
    }
    send(&path, "multipart/form-data; boundary=x", part.repeat(2_000))
        .await
        .refused(415, message);
    // An empty body, and one of any other content type, counts as an empty object.
    let empty = json!({ "messageText": "please provide a string" });
    for (kind, body) in [
        ("multipart/form-data; boundary=x", ""),
        ("multipart/mixed; boundary=x", part),
        ("text/plain", part),
        ("", part),
    ] {
        send(&path, kind, body.to_owned())
            .await
            .invalid(empty.clone());
    }
}
