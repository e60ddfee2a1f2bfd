//! `causerie check`: what does not agree with the logs is found.

use std::process::Output;

use mongodb::bson::{Document, doc};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        commands::{command, succeeded},
        conversation::Conversation,
        databases::{Database, Kind},
        harness::TestServer,
        store::{mark_read, user_id, with_messages},
    },
};

/// Checks that something was found, and returns the lines.
#[track_caller]
fn found(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<_> = printed.lines().map(str::to_owned).collect();
    assert_eq!(
        text,
        format!("causerie: check: findings: {}\n", lines.len())
    );
    lines
}

#[apply(each_deployment)]
#[tokio::test]
async fn nothing_is_found_in_what_a_server_has_written(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    Conversation::on(&server).await;
    let database = server.database();
    assert_eq!(succeeded(&command(&["check"], &database)), "");
    server.stop().await;
    assert_eq!(succeeded(&command(&["check"], &database)), "");
}

#[tokio::test]
async fn nothing_is_found_while_messages_are_posted() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let database = server.database();
    let checking = tokio::task::spawn_blocking(move || succeeded(&command(&["check"], &database)));
    let mut posts = 0;
    while !checking.is_finished() {
        alice.says(&room, "hello").await;
        bob.marks_read(&room).await;
        posts += 1;
    }
    assert_eq!(checking.await.unwrap(), "");
    assert!(posts > 0);
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_not_created() {
    let database = Database::new(Kind::Sqlite).await;
    let output = command(&["check"], &database);
    assert_eq!(output.status.code(), Some(2));
    let path = database.url.strip_prefix("sqlite:").unwrap();
    assert!(!std::path::Path::new(path).exists());
}

/// Returns a database with a room of six messages, which user 2 has read, and the beginning of the
/// lines about the room.
async fn six_messages(kind: Kind) -> (Database, String) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 6).await;
    mark_read(&store, &room, user_id(2), 1).await;
    // A server indexes the messages later.
    store.database.close().await;
    (database, format!("room {}: ", room.id))
}

/// Changes of a database of [`six_messages`], each with what is found. `USER` is the id of user 2, and
/// `OTHER` that of user 1.
const CHANGES: [(&str, &[&str]); 9] = [
    (
        "DELETE FROM entries WHERE seq = 3",
        &[
            "entry 3 is missing",
            "the membership of user OTHER counts 3 own entries, but there are 2",
        ],
    ),
    (
        "UPDATE entries SET created_at = 1 WHERE seq = 4",
        &["entry 4 is earlier than the entry before it"],
    ),
    (
        "UPDATE read_marks SET up_to_seq = 9",
        &["user USER has read up to entry 9, but the last entry is 6"],
    ),
    (
        "UPDATE memberships SET posted = 7 WHERE user = (SELECT max(user) FROM memberships)",
        &["the membership of user USER counts 7 own entries, but there are 3"],
    ),
    (
        "UPDATE read_marks SET posted = 1",
        &["the last read mark of user USER counts 1 own entries, but there are 3"],
    ),
    (
        "UPDATE heads SET last_seq = 7",
        &["the head says that the last entry is 7, but it is 6"],
    ),
    (
        "UPDATE heads SET latest = NULL; UPDATE memberships SET latest = NULL",
        &["the head has another latest message than the log"],
    ),
    (
        "DELETE FROM memberships WHERE user = (SELECT max(user) FROM memberships)",
        &["the membership of user USER is missing"],
    ),
    ("DELETE FROM heads", &["the head of the log is missing"]),
];

#[tokio::test]
async fn each_disagreement_in_sqlite_is_one_line() {
    let [other, user] = [1, 2].map(|n| user_id(n).to_string());
    for (change, expected) in CHANGES {
        let (database, about) = six_messages(Kind::Sqlite).await;
        database.file().execute_batch(change).unwrap();
        let line = |line: &&str| {
            let line = line.replace("USER", &user).replace("OTHER", &other);
            format!("{about}{line}")
        };
        let expected: Vec<_> = expected.iter().map(line).collect();
        assert_eq!(found(&command(&["check"], &database)), expected, "{change}");
    }
}

#[tokio::test]
async fn each_disagreement_in_mongodb_is_one_line() {
    for (collection, filter, change, expected) in [
        (
            "chatmessages",
            doc! { "seq": 3 },
            None,
            "entry 3 is missing".to_owned(),
        ),
        (
            "readmarks",
            doc! {},
            Some(doc! { "$set": { "upToSeq": 9_i64 } }),
            format!(
                "user {} has read up to entry 9, but the last entry is 6",
                user_id(2)
            ),
        ),
        (
            "chatrooms",
            doc! {},
            Some(doc! { "$set": { "large": true } }),
            "the mark of a large room is wrong".to_owned(),
        ),
    ] {
        let (database, about) = six_messages(Kind::ReplicaSet).await;
        let documents = database.documents().await;
        let documents = documents.collection::<Document>(collection);
        let mut filter = filter;
        // The server of the tests refuses queries without an index.
        filter.insert("_id", doc! { "$gt": "" });
        match change {
            Some(change) => assert_eq!(
                documents
                    .update_many(filter, change)
                    .await
                    .unwrap()
                    .modified_count,
                1
            ),
            None => assert_eq!(documents.delete_one(filter).await.unwrap().deleted_count, 1),
        }
        assert_eq!(
            found(&command(&["check"], &database)),
            [format!("{about}{expected}")],
            "{collection}"
        );
    }
}
