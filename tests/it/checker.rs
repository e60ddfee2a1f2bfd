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
        .args(["--minutes", "0.3", "--check-every", "9"])
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
#[tokio::test]
async fn nothing_is_lost_and_nothing_comes_twice(
    #[values(&["--access", "secure"], &["--store", "mongodb", "--servers", "2", "--kill-mongod"])]
    arguments: &'static [&'static str],
) {
    spawn_blocking(|| check(arguments)).await.unwrap();
}
