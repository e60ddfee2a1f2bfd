//! `causerie export` and `causerie import` when something is in the way.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use mongodb::bson::Document;
use rstest_reuse::apply;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    each_store,
    support::{
        answer::Answer,
        commands::{Exports, command, import, refused, succeeded},
        databases::{Database, Kind},
        harness::{PATIENCE, TestServer},
        person::{Person, log_of},
        program::{Program, refuses},
        store::{mark_read, user_id, with_messages},
    },
};

/// The number of messages of which an import is killed. It takes several batches.
const MANY: u64 = 12_000;

/// Waits until the database has some of the entries. Returns their number.
async fn some_entries(database: &Database) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count = count_entries(database).await;
        if count > 0 {
            return count;
        }
        assert!(Instant::now() < deadline, "nothing is imported");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn count_entries(database: &Database) -> u64 {
    let Some(path) = database.url.strip_prefix("sqlite:") else {
        let entries = database.documents().await;
        return entries
            .collection::<Document>("chatmessages")
            .estimated_document_count()
            .await
            .unwrap();
    };
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let count = rusqlite::Connection::open_with_flags(path, flags).and_then(|file| {
        file.query_row("SELECT count(*) FROM entries", [], |row| {
            row.get::<_, u64>(0)
        })
    });
    // At first there is no file, or no table.
    count.unwrap_or_default()
}

#[apply(each_store)]
#[tokio::test]
async fn a_killed_import_is_continued_by_the_same_command(kind: Kind) {
    let (exports, source) = (Exports::new(), Database::new(Kind::Sqlite).await);
    let (store, room) = with_messages(&source, MANY).await;
    mark_read(&store, &room, user_id(2), 1).await;
    store.database.close().await;
    let (file, printed) = exports.export("export.ndjson", &source);
    let (other, _) = exports.export("other.ndjson", &source);

    let (folder, target) = (TempDir::new().unwrap(), Database::new(kind).await);
    let settings = [
        ("CAUSERIE_DATABASE", target.url.as_str()),
        ("CAUSERIE_LISTEN", "127.0.0.1:0"),
    ];
    let mut importing = Program::command(folder.path())
        .args(["import", file.to_str().unwrap()])
        .envs(settings)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    some_entries(&target).await;
    importing.kill().unwrap();
    importing.wait().unwrap();
    let imported = count_entries(&target).await;
    assert!(imported < MANY, "it was not killed in time");

    refuses(folder.path(), &settings, "import into it has not finished");
    refused(&command(&["check"], &target), "has not finished");
    refused(&import(&other, &target), "another file");
    assert_eq!(succeeded(&import(&file, &target)), printed);
    assert_eq!(count_entries(&target).await, MANY);
    assert_eq!(succeeded(&command(&["check"], &target)), "");
    refused(&import(&file, &target), "it has data");

    let program = Program::start(folder.path(), &settings);
    let alice = logged_in(&program.base, &user_id(1).to_string()).await;
    let log = log_of(&alice, &room.id.to_string()).await;
    assert_eq!(log.len() as u64, MANY);
    let next = alice.says(&room.id.to_string(), "next").await;
    assert_eq!(next["seq"], MANY + 1);
}

async fn logged_in(base: &str, id: &str) -> Person {
    let http = reqwest::Client::new();
    let login = Answer::of(http.post(format!("{base}/login/{id}")))
        .await
        .ok();
    Person {
        base: base.to_owned(),
        http,
        id: id.to_owned(),
        token: login["authorization"].as_str().unwrap().to_owned(),
        user: Value::Null,
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_the_line_before_anything_is_imported() {
    let (exports, source) = (Exports::new(), Database::new(Kind::Sqlite).await);
    let (store, _) = with_messages(&source, 5).await;
    store.database.close().await;
    let (file, _) = exports.export("good.ndjson", &source);
    let good = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = good.split_inclusive('\n').collect();
    // The header, a room with five entries and its end, two users, and the end. The key is made by
    // a server, which has not run.
    assert_eq!(lines.len(), 11, "{good}");
    let without = |n: usize| {
        let left = lines.iter().enumerate().filter(|(index, _)| index + 1 != n);
        left.map(|(_, line)| *line).collect::<String>()
    };
    for (text, mention) in [
        (String::new(), "line 1: this is not an export"),
        ("hello\n".to_owned(), "line 1: this is not an export"),
        (
            good.replacen("\"causerie\":1", "\"causerie\":2", 1),
            "line 1: it is an export of format 2",
        ),
        (without(11), "line 11: the file ends before its last line"),
        (
            good.trim_end().to_owned(),
            "line 11: the file ends within this line",
        ),
        (good[..good.len() / 2].to_owned(), "ends within this line"),
        (
            format!("{good}{}", lines[9]),
            "line 11: there is something after",
        ),
        (
            good.replacen("text 3", "text 4", 1),
            "line 11: the lines before are not those",
        ),
        (without(4), "line 4: the entry is not the next one"),
        (without(7), "line 7: entries of the room are missing"),
        (without(9), "line 10: "),
        (good.replacen("\"seq\":2", "\"seq\":x", 1), "line 4: "),
        (good.replacen("\"author\"", "\"auther\"", 1), "line 3: "),
    ] {
        let damaged = exports.path("damaged.ndjson");
        fs::write(&damaged, &text).unwrap();
        let target = Database::new(Kind::Sqlite).await;
        refused(&import(&damaged, &target), mention);
        let database = target.url.strip_prefix("sqlite:").unwrap();
        assert!(!Path::new(database).exists(), "{mention}: nothing is begun");
    }
}

#[apply(each_store)]
#[tokio::test]
async fn only_an_empty_database_without_a_server_takes_an_import(kind: Kind) {
    let (exports, source) = (Exports::new(), Database::new(Kind::Sqlite).await);
    let (store, _) = with_messages(&source, 3).await;
    store.database.close().await;
    let (file, _) = exports.export("export.ndjson", &source);
    let mut server = TestServer::start(kind).await;
    if kind == Kind::Sqlite {
        refused(&import(&file, &server.database()), "in use");
    }
    let alice = server.person("Alice").await;
    let room = alice.room_with(&[]).await;
    alice.says(&room, "mine").await;
    server.stop().await;
    refused(&import(&file, &server.database()), "it has data");
    server.restart().await;
    assert_eq!(alice.at(&server).reads(&room, "").await, ["mine"]);
}

#[tokio::test]
async fn an_export_overwrites_nothing_and_needs_a_database() {
    let (exports, source) = (Exports::new(), Database::new(Kind::Sqlite).await);
    let file = exports.path("export.ndjson");
    let export = || command(&["export", file.to_str().unwrap()], &source);
    refused(&export(), "there is no file");
    assert!(!file.exists());
    let (store, _) = with_messages(&source, 1).await;
    store.database.close().await;
    fs::write(&file, "mine").unwrap();
    refused(&export(), "not overwritten");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(exports.count(), 1);
}
