//! Runs the checker (`examples/checker`) briefly against each deployment: no acknowledged message
//! is lost, and none is delivered twice.

use std::{path::Path, process::Command};

use rstest::rstest;
use tokio::task::spawn_blocking;

/// Runs the checker program that `cargo test` has built next to the server.
fn check(arguments: &[&str]) {
    let server = Path::new(env!("CARGO_BIN_EXE_causerie"));
    let program = server.with_file_name("examples").join("checker");
    let run = Command::new(&program)
        .args(arguments)
        .arg("--server")
        .arg(server)
        .output();
    let run = run.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; `cargo build --example checker` builds it",
            program.display()
        )
    });
    let (output, complaints) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(
        run.status.success(),
        "{}\n{complaints}\n{output}",
        run.status
    );
    assert!(
        output.contains("violations: 0") && output.contains("kills of servers"),
        "{output}"
    );
}

#[rstest]
#[case::briefly(&["--minutes", "0.03", "--check-every", "1", "--kill-every", "0.5"])]
#[ignore = "slow"]
#[case::in_secure_mode(&["--minutes", "0.3", "--check-every", "9", "--access", "secure"])]
#[ignore = "slow"]
#[case::on_mongodb(
    &["--minutes", "0.3", "--check-every", "9", "--store", "mongodb", "--servers", "2", "--kill-mongod"]
)]
#[tokio::test]
async fn the_checker_finds_no_violations(#[case] arguments: &'static [&'static str]) {
    spawn_blocking(|| check(arguments)).await.unwrap();
}
