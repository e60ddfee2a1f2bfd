//! The path under which everything is served.

use std::fs;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    answer::Answer,
    databases::Kind,
    harness::TestServer,
    program::{Program, run_with_bytes},
};

#[tokio::test]
async fn everything_is_served_under_the_base_path_only() {
    let server = TestServer::with(Kind::Sqlite, &[("CAUSERIE_HTTP__BASE_PATH", "/chat/")]).await;
    for path in [
        "/chat/health",
        "/chat/ready/",
        "/chat/health?x=1",
        "/chat/users",
    ] {
        server.get(path).await.ok();
    }
    let open = async |path: &str| server.request(Method::GET, path).send().await.unwrap();
    let handshake = open("/chat/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(handshake.status(), StatusCode::OK);
    assert!(handshake.text().await.unwrap().starts_with("0{"));
    for path in [
        "/",
        "/health",
        "/ready",
        "/users",
        "/chats/health",
        "/Chat/health",
        "//chat/health",
        "/chat",
        "/chat/",
        "/chat/chat/health",
    ] {
        let answer = server.get(path).await;
        assert!(answer.headers.contains_key("x-request-id"));
        answer.refused(404, "API endpoint doesnt exist");
    }
    server
        .get("/socket.io/?EIO=4&transport=polling")
        .await
        .refused(404, "API endpoint doesnt exist");
    let wrong_method = Answer::of(server.request(Method::PUT, "/chat/users")).await;
    assert!(wrong_method.headers.contains_key("allow"));
}

/// Returns the route and the status of each request in a log of JSON lines.
fn logged_requests(log: &str) -> Vec<String> {
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let requests = lines.filter(|line| line["route"].is_string());
    requests
        .map(|line| format!("{} {}", line["route"].as_str().unwrap(), line["status"]))
        .collect()
}

#[tokio::test]
async fn health_checks_work_under_the_base_path_and_are_not_logged() {
    let folder = TempDir::new().unwrap();
    let base_path = ("CAUSERIE_HTTP__BASE_PATH", "/chat");
    let program = Program::start(folder.path(), &[base_path, ("CAUSERIE_LOG_FORMAT", "json")]);
    let address = program
        .base
        .strip_prefix("http://")
        .and_then(|base| base.strip_suffix("/chat"))
        .unwrap()
        .to_owned();
    let asked = |base_path: &[u8]| {
        let settings = [
            ("CAUSERIE_HTTP__BASE_PATH", base_path),
            ("CAUSERIE_LISTEN", address.as_bytes()),
        ];
        run_with_bytes(folder.path(), &["--health"], &settings)
            .status
            .code()
    };
    assert_eq!((asked(b"/chat"), asked(b"/other")), (Some(0), Some(1)));
    let http = reqwest::Client::new();
    let status = async |method: Method, path: &str| {
        let request = http.request(method, format!("{}{path}", program.base));
        request.send().await.unwrap().status()
    };
    for path in ["/health", "/ready", "/health/"] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(status(method, path).await, 200);
        }
    }
    status(Method::POST, "/health").await;
    let behind_its_back =
        rusqlite::Connection::open(folder.path().join("data/causerie.db")).unwrap();
    behind_its_back.execute_batch("DROP TABLE secrets").unwrap();
    assert_eq!(status(Method::GET, "/ready").await, 503);
    program.signal("TERM");
    assert!(program.ended().await.success());
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(
        logged_requests(&log),
        ["- 404", "/health 405", "/ready 503"],
        "beside the path, and what fails"
    );
}
