//! The official clients: socket.io 2, 3 and 4, and Postman's collection in newman. They are
//! downloaded from the npm registry at first use, at the versions of the lock file in
//! `tests/clients`.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use tokio::sync::OnceCell;

use crate::{databases::Kind, each_store, harness::TestServer, people::PASSWORD};
use rstest_reuse::apply;

static INSTALLED: OnceCell<()> = OnceCell::const_new();

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "clients"]
        .iter()
        .collect()
}

/// Runs a command in the folder of the clients. Shows its output when it fails.
pub async fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::null());
    let output = tokio::process::Command::from(command).output().await;
    let output = output
        .unwrap_or_else(|error| panic!("{program}: {error}; these tests need Node.js with npm"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}",
        output.status
    );
}

pub async fn installed() {
    INSTALLED
        .get_or_init(|| {
            run(
                "npm",
                &["ci", "--no-audit", "--no-fund", "--loglevel=error"],
            )
        })
        .await;
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_generations_of_clients_over_every_transport_share_a_room(kind: Kind) {
    installed().await;
    // Short enough for the clients to receive a few heartbeats.
    let settings = [
        ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "500"),
        ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "2000"),
    ];
    let server = TestServer::with(kind, &settings).await;
    run("node", &["generations.mjs", &server.base]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_share_one_under_a_base_path_as_well() {
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
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postman_collection_passes_against_a_fresh_server(kind: Kind) {
    installed().await;
    let server = TestServer::start(kind).await;
    run("node", &["newman.mjs", &server.base]).await;
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postman_collection_passes_in_secure_mode_twice_within_the_default_limits(kind: Kind) {
    installed().await;
    let server = TestServer::with(kind, &[("CAUSERIE_ACCESS", "secure")]).await;
    server.support("sue").await;
    for _ in 0..2 {
        run("node", &["newman.mjs", &server.base, "sue", PASSWORD]).await;
    }
}
