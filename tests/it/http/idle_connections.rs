//! Idle connections: how long they stay open, and that no request is lost once the server has begun
//! to receive it.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::{
    databases::Kind,
    harness::TestServer,
    polling::{polling_session, post_packets},
    raw::Connection,
};

const KEEP_ALIVE: &str = "CAUSERIE_HTTP__KEEP_ALIVE_TIMEOUT_MS";
const HEADER: &str = "CAUSERIE_HTTP__HEADER_TIMEOUT_MS";
const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

async fn answered(connection: &mut Connection) -> bool {
    connection
        .reply("GET")
        .await
        .is_some_and(|reply| reply.status == 200)
}

#[tokio::test]
async fn an_idle_connection_outlives_the_header_timeout() {
    let server = TestServer::with(Kind::Sqlite, &[(KEEP_ALIVE, "60000"), (HEADER, "50")]).await;
    let mut connection = Connection::open(&server.base).await;
    for _ in 0..3 {
        connection.send(REQUEST).await;
        assert!(answered(&mut connection).await);
        sleep(Duration::from_millis(200)).await;
    }
    // The timeout for the request head still applies, on this connection and on a new one.
    for mut connection in [connection, Connection::open(&server.base).await] {
        connection.send(b"GET /health HT").await;
        assert!(connection.reply("GET").await.is_none());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_timeout() {
    let server = TestServer::with(Kind::Sqlite, &[(KEEP_ALIVE, "100"), (HEADER, "60000")]).await;
    let mut silent = Connection::open(&server.base).await;
    assert!(silent.reply("GET").await.is_none());
    let mut idle = Connection::open(&server.base).await;
    idle.send(REQUEST).await;
    assert!(answered(&mut idle).await);
    let since = Instant::now();
    assert!(idle.reply("GET").await.is_none());
    assert!(
        since.elapsed() >= Duration::from_millis(90),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn a_request_begun_before_the_idle_timeout_is_answered() {
    let server = TestServer::with(Kind::Sqlite, &[(KEEP_ALIVE, "500"), (HEADER, "60000")]).await;
    let mut connection = Connection::open(&server.base).await;
    for first in [1, 5, REQUEST.len() - 1] {
        connection.send(&REQUEST[..first]).await;
        sleep(Duration::from_millis(650)).await;
        connection.send(&REQUEST[first..]).await;
        assert!(answered(&mut connection).await);
    }
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_the_idle_timeout_is_answered_or_finds_the_connection_closed() {
    const TRIES: u64 = 300;
    let server = TestServer::with(Kind::Sqlite, &[(KEEP_ALIVE, "2000")]).await;
    let (mut answers, mut closed, mut lost) = (0, 0, 0);
    let tries = (0..TRIES).map(|n| {
        let base = server.base.clone();
        async move {
            let mut connection = Connection::open(&base).await;
            connection.send(REQUEST).await;
            assert!(answered(&mut connection).await);
            sleep(Duration::from_micros(1_985_000 + n * 100)).await;
            let was_closed = connection.is_closed();
            connection.send(REQUEST).await;
            (was_closed, answered(&mut connection).await)
        }
    });
    for (was_closed, was_answered) in futures_util::future::join_all(tries).await {
        match (was_closed, was_answered) {
            (false, true) => answers += 1,
            (true, _) => closed += 1,
            (false, false) => lost += 1,
        }
    }
    // A client may check just before the server closes the connection and send just after, so a few
    // requests may be lost.
    assert!(
        answers > 0 && lost <= TRIES / 50,
        "{answers} answered, {closed} closed before, {lost} lost"
    );
}

#[tokio::test]
async fn slow_responses_and_websockets_do_not_count_as_idle() {
    let settings = [
        (KEEP_ALIVE, "100"),
        (HEADER, "100"),
        ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "60000"),
    ];
    let server = TestServer::with(Kind::Sqlite, &settings).await;
    let mut socket =
        Connection::websocket(&server.base, "/socket.io/?EIO=4&transport=websocket").await;
    assert!(socket.frame().await.is_some(), "the handshake");
    // The poll is answered when there is a packet to send, which is after the idle timeout.
    let session = polling_session(&server, "EIO=4").await;
    let mut poll = Connection::open(&server.base).await;
    poll.send(format!("GET {session} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
        .await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(post_packets(&server, &session, "40").await, 200);
    assert!(answered(&mut poll).await);
    assert!(socket.send(&crate::support::raw::frame(0x81, b"40")).await);
    socket.hears("40").await;
}
