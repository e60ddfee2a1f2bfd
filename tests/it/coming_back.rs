//! The clients of the README reconnect without help: its code, verbatim, runs with the official
//! libraries while the network fails and tokens expire.

use rstest_reuse::apply;

use crate::{
    databases::Kind,
    each_store,
    harness::TestServer,
    real_clients::{installed, run},
};

/// Heartbeats short enough for clients to notice a network failure quickly, and tokens that expire
/// meanwhile.
const HASTE: [(&str, &str); 3] = [
    ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "300"),
    ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "1000"),
    ("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "3"),
];

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_clients_miss_nothing_though_their_tokens_expire_without_network(kind: Kind) {
    installed().await;
    let server = TestServer::secure_with(kind, &HASTE).await;
    run("node", &["comes_back.mjs", &server.base, "secure"]).await;
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_clients_of_open_mode_miss_nothing_while_there_is_no_network(kind: Kind) {
    installed().await;
    let server = TestServer::with(kind, &HASTE).await;
    run("node", &["comes_back.mjs", &server.base, "open"]).await;
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_the_examples_shows_all_of_its_room_after_an_outage(kind: Kind) {
    installed().await;
    let server = TestServer::secure_with(kind, &HASTE).await;
    run("node", &["one_page.mjs", &server.base, "secure"]).await;
    let server = TestServer::with(kind, &HASTE).await;
    run("node", &["one_page.mjs", &server.base, "open"]).await;
}
