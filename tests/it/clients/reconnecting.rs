//! The clients of docs/sockets.md reconnect without help: its code, verbatim, runs with the official
//! libraries while the network fails and tokens expire.

use crate::support::{
    databases::Kind,
    harness::TestServer,
    node::{installed, run},
};

/// Heartbeats short enough for clients to notice a network failure quickly, and tokens that expire
/// meanwhile.
const HASTE: [(&str, &str); 3] = [
    ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "300"),
    ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "1000"),
    ("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "3"),
];

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_clients_miss_nothing_when_tokens_expire_during_an_outage() {
    installed().await;
    let server = TestServer::secure_with(Kind::Sqlite, &HASTE).await;
    run("node", &["comes_back.mjs", &server.base, "secure"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_clients_in_open_mode_miss_nothing_during_an_outage() {
    installed().await;
    let server = TestServer::with(Kind::Sqlite, &HASTE).await;
    run("node", &["comes_back.mjs", &server.base, "open"]).await;
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_page_shows_the_whole_room_after_an_outage() {
    installed().await;
    let server = TestServer::secure_with(Kind::Sqlite, &HASTE).await;
    run("node", &["one_page.mjs", &server.base, "secure"]).await;
    let server = TestServer::with(Kind::Sqlite, &HASTE).await;
    run("node", &["one_page.mjs", &server.base, "open"]).await;
}
