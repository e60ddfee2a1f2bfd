//! `causerie create-user`, with and without a running server.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        person::new_person,
        program::Program,
    },
};

const PASSWORD: &str = "tall green kettle";

/// Returns the arguments that create a support user with this username.
fn arguments(username: &str) -> Vec<&str> {
    vec![
        "create-user",
        "--type",
        "support",
        "--username",
        username,
        "--first-name",
        "Sue",
        "--last-name",
        "Support",
    ]
}

/// Runs the command with this text on standard input, which is not a terminal.
fn run(folder: &Path, arguments: &[&str], database: &str, input: &str) -> Output {
    let mut command = Program::command(folder);
    command
        .args(arguments)
        .env("CAUSERIE_DATABASE", database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that fails at once does not read its standard input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Checks that the command succeeded, and returns the id of the new user.
#[track_caller]
fn added(output: &Output) -> String {
    let id = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(id.len() == 33 && id.ends_with('\n'), "{id:?}");
    id.trim_end().to_owned()
}

/// Checks that the command failed for this reason, without creating a user.
#[track_caller]
fn refused(output: &Output, reason: &str) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with(&format!("causerie: {reason}")) && text.lines().count() == 1,
        "{text:?} should be about {reason:?}"
    );
    assert!(output.stdout.is_empty());
}

async fn log_in(base: &str, username: &str) -> Answer {
    let body = json!({ "username": username, "password": PASSWORD });
    Answer::of(
        reqwest::Client::new()
            .post(format!("{base}/login"))
            .json(&body),
    )
    .await
}

#[apply(each_store)]
#[tokio::test]
async fn a_user_created_while_the_server_runs_logs_in_at_once(kind: Kind) {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let program = Program::start(
        folder.path(),
        &[
            ("CAUSERIE_DATABASE", &database.url),
            ("CAUSERIE_ACCESS", "secure"),
        ],
    );
    // Attempted before the user exists, so that a server that cached unknown usernames would fail
    // here.
    log_in(&program.base, "sue")
        .await
        .refused(401, "Wrong username or password");
    let output = run(
        folder.path(),
        &arguments("Sue"),
        &database.url,
        &format!("{PASSWORD}\n"),
    );
    let id = added(&output);
    let login = log_in(&program.base, "sue").await.ok();
    assert_eq!(login["user"]["_id"], *id);
    assert_eq!(
        (&login["user"]["type"], &login["user"]["firstName"]),
        (&json!("support"), &json!("Sue"))
    );

    let again = run(folder.path(), &arguments("SUE"), &database.url, PASSWORD);
    refused(&again, "username: this username is taken");
    let token = login["authorization"].as_str().unwrap();
    let list = reqwest::Client::new()
        .get(format!("{}/users?limit=9", program.base))
        .header("authorization", format!("Bearer {token}"));
    assert_eq!(
        Answer::of(list).await.ok()["users"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn users_are_created_while_the_server_is_under_load() {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(Kind::Sqlite).await);
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", &database.url)]);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    let (path, url) = (folder.path().to_owned(), database.url.clone());
    let making = tokio::task::spawn_blocking(move || {
        (0..5)
            .map(|n| added(&run(&path, &arguments(&format!("sue.{n}")), &url, PASSWORD)))
            .collect::<Vec<_>>()
    });
    let mut posts = 0;
    while !making.is_finished() {
        alice.posts(&room, "while it goes on").await.ok();
        posts += 1;
    }
    let made = making.await.unwrap();
    assert!(posts > 0);
    for (n, id) in made.iter().enumerate() {
        assert_eq!(
            log_in(&program.base, &format!("sue.{n}")).await.ok()["user"]["_id"],
            **id
        );
    }
    program.signal("TERM");
    assert!(program.ended().await.success());
}

#[tokio::test]
async fn a_user_can_be_created_before_the_first_start() {
    let folder = TempDir::new().unwrap();
    let database = "sqlite:fresh/chat.db";
    let id = added(&run(
        folder.path(),
        &arguments("sue"),
        database,
        &format!("{PASSWORD}\r\nand no more"),
    ));
    let program = Program::start(
        folder.path(),
        &[
            ("CAUSERIE_DATABASE", database),
            ("CAUSERIE_ACCESS", "secure"),
        ],
    );
    assert_eq!(log_in(&program.base, "sue").await.ok()["user"]["_id"], *id);
}

/// Runs the command with these arguments changed.
fn run_with(folder: &Path, changes: &[(&str, &str)], input: &str) -> Output {
    let mut arguments = arguments("sue.support");
    for (name, value) in changes {
        let at = arguments
            .iter()
            .position(|argument| argument == name)
            .unwrap();
        arguments[at + 1] = value;
    }
    run(folder, &arguments, "sqlite:chat.db", input)
}

#[test]
fn create_user_refuses_the_fields_that_registration_refuses_in_one_line() {
    let folder = TempDir::new().unwrap();
    let with = |changes: &[(&str, &str)]| run_with(folder.path(), changes, PASSWORD);
    refused(
        &with(&[("--username", "s ue")]),
        "username: please provide 3 to 32 of a-z 0-9 . _ -",
    );
    refused(&with(&[("--type", "admin")]), "type: ");
    refused(&with(&[("--first-name", " ")]), "first-name: ");
    refused(&with(&[("--last-name", "")]), "last-name: ");
    refused(&with(&[("--last-name", "\u{200b}\u{3164}")]), "last-name: ");
    let characters = "please leave out control characters, line breaks and characters that override the direction of text";
    refused(
        &with(&[("--first-name", "S\u{202e}ue")]),
        &format!("first-name: {characters}"),
    );
    refused(
        &with(&[("--last-name", &"é".repeat(201))]),
        "last-name: please provide 1 to 200 characters",
    );
    assert!(!folder.path().join("chat.db").exists(), "nothing is begun");
}

#[test]
fn create_user_refuses_the_passwords_that_registration_refuses_in_one_line() {
    let folder = TempDir::new().unwrap();
    let with = |password: &str| run_with(folder.path(), &[], password);
    refused(
        &with("tall green\tkettle\n"),
        "password: this password has control characters in it",
    );
    refused(
        &with("7 chars\n"),
        "password: please provide 8 to 256 characters",
    );
    refused(
        &with(&"é".repeat(257)),
        "password: please provide 8 to 256 characters",
    );
    refused(
        &with("\t \u{a0}\u{2003}\t\u{3000}\u{2009} \n"),
        "password: this password is nothing but white space",
    );
    refused(
        &with("password1\n"),
        "password: this password is too easy to guess",
    );
    refused(
        &with("suesupport\n"),
        "password: this password is too easy to guess",
    );
    refused(&with(""), "password: ");
    assert!(!folder.path().join("chat.db").exists(), "nothing is begun");
}

#[tokio::test]
async fn create_user_refuses_a_database_of_another_version() {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(Kind::Sqlite).await);
    let _program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", &database.url)]);
    let file = rusqlite::Connection::open(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    for version in [1, 99] {
        file.pragma_update(None, "user_version", version).unwrap();
        let output = run(folder.path(), &arguments("sue"), &database.url, PASSWORD);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.contains("version") && text.contains(&format!("schema {version}")),
            "{text}"
        );
        let users: i64 = file
            .query_row("SELECT count(*) FROM users", [], |row| row.get(0))
            .unwrap();
        assert_eq!(users, 0);
    }
}

/// A Python program that runs a command on a pseudo-terminal, types the lines of standard input at
/// its prompts, and prints the screen contents and the exit code.
const TERMINAL: &str = r#"
import json, os, pty, sys, termios, time
lines = sys.stdin.read().splitlines()
child, screen = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while True:
    try:
        piece = os.read(screen, 1024)
    except OSError:
        break
    if not piece:
        break
    seen += piece
    if piece.endswith(b": ") and lines:
        # The question is there a moment before the echo is gone, and nobody types that fast.
        until = time.monotonic() + 20
        while termios.tcgetattr(screen)[3] & termios.ECHO and time.monotonic() < until:
            time.sleep(0.01)
        os.write(screen, lines.pop(0).encode() + b"\n")
print(json.dumps({"screen": seen.decode(), "code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}))
"#;

/// Returns what the terminal shows to a user who types these lines, and the exit code.
fn on_a_terminal(folder: &Path, typed: &[&str]) -> (String, i64) {
    let program = Program::command(folder);
    let mut command = Command::new("python3");
    for (name, value) in program.get_envs().filter(|(_, value)| value.is_none()) {
        assert!(value.is_none());
        command.env_remove(name);
    }
    command
        .args(["-c", TERMINAL])
        .arg(program.get_program())
        .args(arguments("sue"))
        .current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a terminal needs Python");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(typed.join("\n").as_bytes())
        .unwrap();
    let told: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    (
        told["screen"].as_str().unwrap().to_owned(),
        told["code"].as_i64().unwrap(),
    )
}

#[test]
fn on_a_terminal_the_password_is_read_twice_without_echo() {
    let folder = TempDir::new().unwrap();
    let (screen, code) = on_a_terminal(folder.path(), &[PASSWORD, "short red kettle"]);
    assert!(screen.contains("causerie: password: "), "{screen:?}");
    assert_eq!(code, 2);
    let (screen, code) = on_a_terminal(folder.path(), &[PASSWORD, PASSWORD]);
    assert_eq!(code, 0, "{screen:?}");
    assert!(
        screen.starts_with("Password: ") && screen.matches(": ").count() == 2,
        "{screen:?}"
    );
    assert!(!screen.contains("kettle"), "{screen:?}");
}
