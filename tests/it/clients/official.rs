//! The official clients: socket.io 2, 3 and 4, and Postman's collection in newman.

use rstest_reuse::apply;

use crate::{
    each_store,
    support::{
        databases::Kind,
        harness::TestServer,
        node::{installed, run},
        people::PASSWORD,
    },
};

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_versions_2_3_and_4_share_a_room_over_every_transport() {
    installed().await;
    // Short enough for the clients to receive a few heartbeats.
    let settings = [
        ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "500"),
        ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "2000"),
    ];
    let server = TestServer::with(Kind::Sqlite, &settings).await;
    run("node", &["generations.mjs", &server.base]).await;
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_clients_work_under_a_base_path() {
    installed().await;
    let settings = [
        ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "500"),
        ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "2000"),
        ("CAUSERIE_HTTP__BASE_PATH", "/chat"),
    ];
    let server = TestServer::with(Kind::Sqlite, &settings).await;
    let under_the_path = format!("{}/chat", server.base);
    run("node", &["generations.mjs", &under_the_path]).await;
    run("node", &["newman.mjs", &under_the_path]).await;
}

#[apply(each_store)]
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postman_collection_passes_against_a_fresh_server(kind: Kind) {
    installed().await;
    let server = TestServer::start(kind).await;
    run("node", &["newman.mjs", &server.base]).await;
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postman_collection_passes_in_secure_mode_twice_within_the_default_limits() {
    installed().await;
    let server = TestServer::with(Kind::Sqlite, &[("CAUSERIE_ACCESS", "secure")]).await;
    server.support("sue").await;
    for _ in 0..2 {
        run("node", &["newman.mjs", &server.base, "sue", PASSWORD]).await;
    }
}
