//! Starting on a MongoDB that is not available yet or not set up as required: messages to the
//! operator, and exit codes.

use std::{path::Path, process::Output};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    mongod::{Mongod, ReplicaSet},
    person::new_person,
    program::Program,
};

async fn start(url: &str) -> Output {
    let (folder, url) = (TempDir::new().unwrap(), url.to_owned());
    let run = move || {
        let settings = [
            ("CAUSERIE_LISTEN", "127.0.0.1:0"),
            ("CAUSERIE_MONGODB__START_TIMEOUT_MS", "3000"),
            ("CAUSERIE_DATABASE", &url),
        ];
        Program::command(folder.path())
            .envs(settings)
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Checks that the program does not start: this exit code, and a last line that contains `mention`.
/// Returns the output.
#[track_caller]
fn refused(output: &Output, code: i32, mention: &str) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("causerie: database: ") && last.contains(mention),
        "{last:?} should mention {mention:?}"
    );
    text
}

#[tokio::test]
async fn a_missing_database_is_awaited_until_the_timeout() {
    let output = start("mongodb://me:hush@127.0.0.1:1/chat").await;
    let text = refused(&output, 1, "mongodb://me:********@127.0.0.1:1/chat");
    let attempts: Vec<_> = text
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("127.0.0.1:1"))
        .collect();
    assert!(
        !attempts.is_empty() && text.lines().count() == attempts.len() + 1,
        "a line for each attempt: {text}"
    );
    assert!(!text.contains("hush"));
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_becomes_available_later_is_used() {
    let mut mongod = Mongod::start(&[]);
    mongod.kill();
    let url = format!("mongodb://{}/chat", mongod.host());
    let folder = TempDir::new().unwrap();
    let path = folder.path().to_owned();
    let starting =
        tokio::task::spawn_blocking(move || Program::start(&path, &[("CAUSERIE_DATABASE", &url)]));
    let waits = |folder: &Path| {
        std::fs::read_to_string(folder.join("log"))
            .is_ok_and(|log| log.lines().any(|line| line.contains("WARN")))
    };
    while !waits(folder.path()) {
        assert!(!starting.is_finished());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    mongod.start_again();
    let program = starting.await.unwrap();
    new_person(&program.base, "Alice").await;
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_reported() {
    let mongod = Mongod::start(&["--auth"]);
    let user = |name: &str, role: &str| {
        doc! { "createUser": name, "pwd": "secret", "roles": [{ "role": role, "db": if role == "root" { "admin" } else { "chat" } }] }
    };
    // A client on the same machine may create the first user.
    mongod.admin(user("root", "root")).await;
    let client = Client::with_uri_str(format!("mongodb://root:secret@{}", mongod.host()))
        .await
        .unwrap();
    client
        .database("admin")
        .run_command(user("reader", "read"))
        .await
        .unwrap();
    client
        .database("admin")
        .run_command(user("writer", "readWrite"))
        .await
        .unwrap();
    let url = |login: &str| format!("mongodb://{login}{}/chat?authSource=admin", mongod.host());

    let text = refused(
        &start(&url("writer:wrong-one@")).await,
        2,
        "password is wrong",
    );
    assert!(!text.contains("wrong-one"));
    refused(&start(&url("")).await, 2, "asks for a user name");
    refused(
        &start(&url("reader:secret@")).await,
        2,
        "may not read and write",
    );
    let folder = TempDir::new().unwrap();
    let program = Program::start(
        folder.path(),
        &[("CAUSERIE_DATABASE", &url("writer:secret@"))],
    );
    new_person(&program.base, "Alice").await;
}

#[tokio::test]
async fn an_invalid_url_is_refused() {
    refused(&start("mongodb://").await, 2, "mongodb://");
    refused(
        &start("mongodb://localhost:port/chat").await,
        2,
        "mongodb://localhost:********/chat",
    );
}

#[tokio::test]
async fn an_invalid_database_name_is_refused_without_waiting() {
    for (name, problem) in [
        ("c".repeat(64).as_str(), "63 bytes"),
        ("chat.test", "'.'"),
        ("chat%3Atest", "':'"),
        ("chat%2A", "'*'"),
        ("chat%0D", r"'\r'"),
        ("chat%20", "illegal character"),
    ] {
        let text = refused(
            &start(&format!("mongodb://127.0.0.1:1/{name}")).await,
            2,
            problem,
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_database_name_that_differs_only_in_case_is_refused() {
    let mongod = Mongod::start(&[]);
    let folder = TempDir::new().unwrap();
    drop(Program::start(
        folder.path(),
        &[(
            "CAUSERIE_DATABASE",
            &format!("mongodb://{}/chat", mongod.host()),
        )],
    ));
    refused(
        &start(&format!("mongodb://{}/Chat", mongod.host())).await,
        2,
        "different case",
    );
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let set = ReplicaSet::start(1).await;
    let client = Client::with_uri_str(set.url("chat")).await.unwrap();
    let notes = client
        .default_database()
        .unwrap()
        .collection::<Document>("causerie");
    notes
        .insert_one(doc! { "_id": "schema", "version": 99 })
        .await
        .unwrap();
    refused(&start(&set.url("chat")).await, 2, "newer");
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer_as_mongodb_3_6(connection));
        }
    });
    refused(
        &start(&format!("mongodb://{address}/chat")).await,
        2,
        "MongoDB 4.4",
    );
}

/// Answers every request as a server of 2017 answers a greeting. The two kinds of messages are
/// those of MongoDB's wire protocol,
/// <https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/>.
async fn answer_as_mongodb_3_6(mut connection: TcpStream) {
    const OP_REPLY: i32 = 1;
    const OP_MSG: i32 = 2013;
    let greeting = doc! {
        "ok": 1.0, "ismaster": true, "isWritablePrimary": true, "helloOk": true, "minWireVersion": 0, "maxWireVersion": 6,
        "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
    };
    let document = greeting.to_vec().unwrap();
    loop {
        let mut head = [0; 16];
        if connection.read_exact(&mut head).await.is_err() {
            return;
        }
        let number = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let (length, request, kind) = (number(0), number(4), number(12));
        let mut rest = vec![0; usize::try_from(length).unwrap() - head.len()];
        connection.read_exact(&mut rest).await.unwrap();
        let (kind, before): (i32, &[u8]) = if kind == OP_MSG {
            (OP_MSG, &[0; 5])
        } else {
            (
                OP_REPLY,
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            )
        };
        let length = i32::try_from(head.len() + before.len() + document.len()).unwrap();
        let numbers = [length, 1, request, kind].map(i32::to_le_bytes).concat();
        connection
            .write_all(&[&numbers, before, &document].concat())
            .await
            .unwrap();
    }
}
