//! `causerie backup` and `causerie restore`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;

use crate::support::{
    commands::{refused, succeeded},
    person::{Person, log_of, new_person},
    program::{Program, run},
};

const DATABASE: &str = "data/causerie.db";

/// Runs a command on the default database in this folder.
fn command(folder: &Path, arguments: &[&str]) -> Output {
    run(folder, arguments, &[])
}

/// Returns the names of the files in a folder, without the locks.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("-lock"))
        .collect();
    names.sort_unstable();
    names
}

/// Starts a server, posts these messages, and stops it. Returns their author and the room.
async fn with_messages(folder: &Path, texts: &[&str]) -> (Person, String) {
    let program = Program::start(folder, &[]);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    for text in texts {
        alice.says(&room, text).await;
    }
    program.signal("TERM");
    assert!(program.ended().await.success());
    (alice, room)
}

/// Returns the number of messages that a server has in a room after a start.
async fn messages(folder: &Path, alice: &Person, room: &str) -> usize {
    let program = Program::start(folder, &[]);
    let alice = Person {
        base: program.base.clone(),
        ..alice.clone()
    };
    let messages = log_of(&alice, room).await.len();
    program.signal("TERM");
    assert!(program.ended().await.success());
    messages
}

#[tokio::test]
async fn a_backup_while_messages_are_posted_has_all_that_were_acknowledged_before() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[]);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    for n in 0..20 {
        alice.says(&room, &format!("before {n}")).await;
    }
    let path = folder.path().to_owned();
    let backing_up =
        tokio::task::spawn_blocking(move || succeeded(&command(&path, &["backup", "backup.db"])));
    let mut meanwhile = 0;
    while !backing_up.is_finished() {
        alice.says(&room, &format!("meanwhile {meanwhile}")).await;
        meanwhile += 1;
    }
    let printed = backing_up.await.unwrap();
    let backup = fs::metadata(folder.path().join("backup.db")).unwrap();
    assert_eq!(printed, format!("backup.db: {} bytes\n", backup.len()));
    assert_eq!(
        backup.permissions().mode() & 0o777,
        0o600,
        "it holds the key"
    );
    assert!(meanwhile > 0);
    program.kill();

    let other = TempDir::new().unwrap();
    let backup = folder.path().join("backup.db");
    succeeded(&command(
        other.path(),
        &["restore", backup.to_str().unwrap()],
    ));
    let program = Program::start(other.path(), &[]);
    // The token is accepted, because the key that signed it was restored.
    let alice = Person {
        base: program.base.clone(),
        ..alice
    };
    let log = log_of(&alice, &room).await;
    let before = (0..20).all(|n| log.contains_key(&format!("before {n}")));
    assert!(before && log.len() <= 20 + meanwhile, "{log:?}");
    let next = alice.says(&room, "after").await;
    assert_eq!(next["seq"], log.len() as u64 + 1);
}

#[tokio::test]
async fn a_backup_overwrites_nothing_and_leaves_nothing_behind_when_it_fails() {
    let folder = TempDir::new().unwrap();
    let backup = |file| command(folder.path(), &["backup", file]);
    refused(&backup("backup.db"), "there is no file data/causerie.db");
    assert!(!folder.path().join("data").exists(), "nothing is created");
    with_messages(folder.path(), &["hello"]).await;
    fs::write(folder.path().join("mine.txt"), "mine").unwrap();
    refused(&backup("mine.txt"), "not overwritten");
    assert_eq!(
        fs::read_to_string(folder.path().join("mine.txt")).unwrap(),
        "mine"
    );
    refused(&backup("missing/backup.db"), "missing/backup.db");
    assert_eq!(files(folder.path()), ["data", "log", "mine.txt"]);
    fs::write(folder.path().join(DATABASE), "not a database, but text").unwrap();
    refused(&backup("backup.db"), "is not a database");
    assert_eq!(files(folder.path()), ["data", "log", "mine.txt"]);
}

#[tokio::test]
async fn a_database_is_replaced_only_if_told_so_and_kept_under_another_name() {
    let folder = TempDir::new().unwrap();
    let (alice, room) = with_messages(folder.path(), &["one", "two"]).await;
    succeeded(&command(folder.path(), &["backup", "two.db"]));
    let program = Program::start(folder.path(), &[]);
    let alice = Person {
        base: program.base.clone(),
        ..alice
    };
    alice.says(&room, "three").await;
    let restore = ["restore", "two.db", "--replace"];
    refused(&command(folder.path(), &restore), "in use");
    alice.says(&room, "four").await;
    // Killed, so that the last messages are in the write-ahead log only.
    program.kill();
    refused(&command(folder.path(), &["restore", "two.db"]), "--replace");
    assert_eq!(messages(folder.path(), &alice, &room).await, 4);

    Program::start(folder.path(), &[]).kill();
    let kept = succeeded(&command(folder.path(), &restore));
    assert_eq!(messages(folder.path(), &alice, &room).await, 2);
    let kept = PathBuf::from(kept.trim_end());
    assert!(
        kept.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("causerie.db.until-20"),
        "{kept:?}"
    );
    succeeded(&command(
        folder.path(),
        &["restore", kept.to_str().unwrap(), "--replace"],
    ));
    assert_eq!(messages(folder.path(), &alice, &room).await, 4);
}

#[tokio::test]
async fn a_file_that_is_not_a_whole_backup_of_this_program_is_not_restored() {
    let folder = TempDir::new().unwrap();
    let (alice, room) = with_messages(folder.path(), &["one"]).await;
    succeeded(&command(folder.path(), &["backup", "good.db"]));
    let at = |name: &str| folder.path().join(name);
    fs::write(at("text.db"), "text").unwrap();
    fs::write(at("empty.db"), "").unwrap();
    let good = fs::read(at("good.db")).unwrap();
    fs::write(at("short.db"), &good[..good.len() / 2]).unwrap();
    rusqlite::Connection::open(at("foreign.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t (c)")
        .unwrap();
    fs::copy(at("good.db"), at("newer.db")).unwrap();
    rusqlite::Connection::open(at("newer.db"))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    fs::copy(at("good.db"), at("unfinished.db")).unwrap();
    fs::write(at("unfinished.db-wal"), "something").unwrap();
    for (file, mention) in [
        ("text.db", "not a database"),
        ("empty.db", "not one of Causerie"),
        ("short.db", "damaged"),
        ("foreign.db", "not one of Causerie"),
        ("newer.db", "newer Causerie"),
        ("unfinished.db", "not complete"),
        ("missing.db", "missing.db"),
    ] {
        refused(
            &command(folder.path(), &["restore", file, "--replace"]),
            mention,
        );
        assert_eq!(files(&at("data")), ["causerie.db"], "{file}");
        let other = TempDir::new().unwrap();
        let path = at(file);
        refused(
            &command(other.path(), &["restore", path.to_str().unwrap()]),
            mention,
        );
        assert!(!other.path().join(DATABASE).exists(), "{file}");
    }
    assert_eq!(messages(folder.path(), &alice, &room).await, 1);
}

#[test]
fn for_mongodb_they_name_the_tools_of_mongodb() {
    let folder = TempDir::new().unwrap();
    let settings = [("CAUSERIE_DATABASE", "mongodb://me:secret@localhost/chat")];
    for (command, tool) in [("backup", "mongodump"), ("restore", "mongorestore")] {
        let output = run(folder.path(), &[command, "file"], &settings);
        refused(&output, tool);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("docs/operations.md") && !text.contains("secret"),
            "{text}"
        );
    }
    assert!(files(folder.path()).is_empty());
}
