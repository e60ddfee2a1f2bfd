//! How many connections one address may have.

use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    limits::secure_server,
    program::Program,
    raw::{Connection, WEBSOCKET},
    wire::{Shown, Socket},
};

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
async fn connections_of_one_address_are_limited() {
    let server = secure_server(Kind::Sqlite, &[TWO_CONNECTIONS]).await;
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
async fn connections_of_trusted_proxies_and_in_open_mode_are_unlimited() {
    let proxied = secure_server(
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
async fn unconnected_sockets_of_one_address_are_limited() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__UNCONNECTED_PER_ADDRESS", "2")],
    )
    .await;
    let alice = server.member("alice").await;
    // Connected sockets do not count against the limit.
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(
            Socket::with(&server.base, &Shown::Auth(json!({ "token": alice.token })))
                .await
                .unwrap(),
        );
    }
    let _silent = [
        Connection::websocket(&server.base, WEBSOCKET).await,
        Connection::websocket(&server.base, WEBSOCKET).await,
    ];
    let mut third = Connection::open(&server.base).await;
    third.asks_for_websocket(WEBSOCKET).await;
    assert_eq!(third.reply("GET").await.unwrap().status, 429);
    sockets[0].succeeds("identity", json!([alice.id])).await;
}

#[tokio::test]
async fn websockets_leave_file_descriptors_for_health_and_rest() {
    let folder = TempDir::new().unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 256 && exec \"$0\"",
            env!("CARGO_BIN_EXE_causerie"),
        ])
        .current_dir(folder.path());
    let program = Program::started_by(
        command.stdin(Stdio::null()),
        folder.path(),
        &[("CAUSERIE_DATABASE", "sqlite:c.db")],
    );
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut connection = Connection::open(&program.base).await;
        connection.asks_for_websocket(WEBSOCKET).await;
        match connection.reply("GET").await.map(|reply| reply.status) {
            Some(101) => open.push(connection),
            Some(503) | None => refused += 1,
            Some(status) => panic!("{status}"),
        }
    }
    assert!(
        refused > 100 && open.len() > 30,
        "{refused} refused, {} open",
        open.len()
    );
    for path in ["/health", "/ready", "/users"] {
        assert_eq!(
            reqwest::get(format!("{}{path}", program.base))
                .await
                .unwrap()
                .status(),
            200,
            "{path}"
        );
    }
}
