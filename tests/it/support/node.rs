//! The official clients and what else runs in Node.js. They are downloaded from the npm registry at
//! first use, at the versions of the lock file in `tests/clients`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use tokio::sync::OnceCell;

static INSTALLED: OnceCell<()> = OnceCell::const_new();

fn clients_folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "clients"]
        .iter()
        .collect()
}

/// Runs a command in the folder of the clients. Shows its output when it fails.
pub async fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(clients_folder())
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

/// Installs the packages of the lock file, unless they are installed already.
pub async fn installed() {
    INSTALLED
        .get_or_init(async || {
            if !is_installed() {
                run(
                    "npm",
                    &["ci", "--no-audit", "--no-fund", "--loglevel=error"],
                )
                .await;
            }
        })
        .await;
}

/// Returns whether the packages were installed after the lock file was last changed. The file that
/// tells is the last one that npm writes.
fn is_installed() -> bool {
    let changed = |file: &str| {
        fs::metadata(clients_folder().join(file))
            .and_then(|file| file.modified())
            .ok()
    };
    let installed = changed("node_modules/.package-lock.json");
    installed.is_some() && installed >= changed("package-lock.json")
}
