//! The files for docker-compose: accepted by docker-compose itself, and promising what the README says of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(project().join(file)).unwrap()
}

fn run(program: &Path, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).current_dir(project()).stdin(Stdio::null()).output().ok()
}

/// A docker-compose that works without a Docker engine: the one that is installed, or else one that is installed here once.
fn docker_compose(arguments: &[&str]) -> Output {
    for (program, first) in [("docker-compose", None), ("docker", Some("compose"))] {
        let command = |arguments: &[&str]| run(Path::new(program), &first.iter().chain(arguments).copied().collect::<Vec<_>>());
        if command(&["version"]).is_some_and(|output| output.status.success()) {
            return command(arguments).unwrap();
        }
    }
    run(&fetched(), arguments).unwrap()
}

fn fetched() -> PathBuf {
    let target = project().join("target");
    let folder = target.join("docker-compose-1.29.2");
    fs::create_dir_all(&target).unwrap();
    // Several test processes may want it at the same time.
    let lock = fs::File::create(target.join("docker-compose.lock")).unwrap();
    lock.lock().unwrap();
    let complete = folder.join("complete");
    if !complete.exists() {
        let install = |program: &Path, arguments: &[&str]| {
            let output = run(program, arguments).expect("there is no docker-compose, and fetching one needs Python with pip");
            assert!(output.status.success(), "fetching docker-compose failed: {}", String::from_utf8_lossy(&output.stderr));
        };
        install(Path::new("python3"), &["-m", "venv", "--clear", folder.to_str().unwrap()]);
        install(&folder.join("bin/pip"), &["--quiet", "install", "--no-deps", "-r", "tests/compose/requirements.txt"]);
        fs::write(complete, "").unwrap();
    }
    folder.join("bin/docker-compose")
}

#[test]
fn docker_compose_accepts_its_file() {
    let output = docker_compose(&["-f", "docker-compose.yml", "config"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let accepted = String::from_utf8(output.stdout).unwrap();
    for setting in ["mongodb://mongodb:27017/causerie?replicaSet=rs0", "service_healthy", "unless-stopped", "/data/db"] {
        assert!(accepted.contains(setting), "{setting} in {accepted}");
    }
}

#[test]
fn only_this_machine_reaches_what_docker_compose_starts() {
    let file = read("docker-compose.yml");
    assert_eq!(file.matches("ports:").count(), 1, "the database is not published");
    assert!(file.contains("ports:\n      - \"127.0.0.1:3000:3000\"\n    depends_on:"));
    assert!(!file.contains("network_mode"));
    for promise in ["healthcheck:", "restart: unless-stopped"] {
        assert_eq!(file.matches(promise).count(), 2, "{promise} for both");
    }
}

#[test]
fn the_image_is_built_with_the_rust_that_the_project_asks_for_and_runs_as_nobody_special() {
    let (manifest, dockerfile) = (read("Cargo.toml"), read("Dockerfile"));
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"')).unwrap();
    assert!(dockerfile.contains(&format!("FROM rust:{version}-slim-bookworm AS build")));
    let (_, image) = dockerfile.rsplit_once("\nFROM ").unwrap();
    assert!(image.starts_with("debian:bookworm-slim\n"), "of the same Debian as the build");
    for line in ["\nUSER causerie\n", "\nHEALTHCHECK ", "\nENTRYPOINT [\"causerie\"]\n"] {
        assert!(image.contains(line), "{line}");
    }
}
