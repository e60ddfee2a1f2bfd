//! Takeovers that are killed, or done by two servers.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use mongodb::{
    Client, Database as Mongodb,
    bson::{Document, doc},
};
use rstest::rstest;
use tempfile::TempDir;

use crate::support::{
    databases::{Database, Kind},
    harness::{PATIENCE, TestServer},
    original::{ALICE, BOB, ROOM, contents, id, message, person, room, user},
    program::Program,
};

/// Inserts many messages in a few rooms. Bob has read every third.
async fn many_messages(mongodb: &Mongodb, count: u32) {
    let rooms: Vec<_> = (0..5)
        .map(|n| room(ROOM + n, &[ALICE, BOB, 1_000 + n], 50))
        .collect();
    mongodb
        .collection::<Document>("users")
        .insert_many([user(ALICE), user(BOB)])
        .await
        .unwrap();
    mongodb
        .collection::<Document>("chatrooms")
        .insert_many(rooms)
        .await
        .unwrap();
    let all: Vec<_> = (0..count)
        .map(|n| {
            let created = i64::from(n.wrapping_mul(7_919) % count);
            let read = [(BOB, i64::from(n) + 1_000_000)];
            message(
                100_000 + n,
                ROOM + n % 5,
                ALICE,
                created,
                if n % 3 == 0 { &read } else { &[] },
            )
        })
        .collect();
    for some in all.chunks(5_000) {
        mongodb
            .collection::<Document>("chatmessages")
            .insert_many(some)
            .await
            .unwrap();
    }
}

/// Checks that the messages of every room are numbered from 1 by their times, and that every read
/// mark exists.
async fn check_taken_over(mongodb: &Mongodb, count: u32) {
    let mut messages = contents(mongodb, "chatmessages").await;
    assert_eq!(messages.len(), usize::try_from(count).unwrap());
    let place = |message: &Document| {
        let text = |field| message.get_str(field).unwrap().to_owned();
        (
            text("chatRoomId"),
            message
                .get_datetime("createdAt")
                .unwrap()
                .timestamp_millis(),
            text("_id"),
        )
    };
    messages.sort_by_key(place);
    for of_room in messages.chunk_by(|a, b| a.get("chatRoomId") == b.get("chatRoomId")) {
        for (message, seq) in of_room.iter().zip(1..) {
            assert_eq!(message.get_i64("seq").unwrap(), seq);
        }
    }
    assert_eq!(
        contents(mongodb, "readmarks").await.len(),
        messages.len().div_ceil(3)
    );
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_takeover_is_resumed() {
    const MESSAGES: u32 = 12_000;
    let database = Database::new(Kind::ReplicaSet).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    many_messages(&mongodb, MESSAGES).await;
    let folder = TempDir::new().unwrap();
    let messages = mongodb.collection::<Document>("chatmessages");
    let numbered = async || {
        messages
            .count_documents(doc! { "seq": { "$gt": 0 } })
            .hint(by_id())
            .await
            .unwrap()
    };
    // Killed before any progress, and then each time more has been done.
    for share in [0, 1, 2, 3] {
        let mut command = Program::command(folder.path());
        command
            .env("CAUSERIE_LISTEN", "127.0.0.1:0")
            .env("CAUSERIE_DATABASE", &database.url);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The lease of the killed process has to expire first.
        let deadline = Instant::now() + 3 * PATIENCE;
        while numbered().await < u64::from(MESSAGES) * share / 5 {
            assert!(
                Instant::now() < deadline,
                "the takeover is not getting anywhere"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", &database.url)]);
    let log = program.log();
    let is_told = |line: &str| line.contains("took over") && line.contains("messages");
    assert!(log.lines().any(is_told), "{log}");
    check_taken_over(&mongodb, MESSAGES).await;
}

fn by_id() -> mongodb::options::Hint {
    mongodb::options::Hint::Keys(doc! { "_id": 1 })
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_take_over_one_database(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    const MESSAGES: u32 = 3_000;
    let database = Database::new(kind).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    many_messages(&mongodb, MESSAGES).await;
    let (first, second) = tokio::join!(
        TestServer::on(database.again(), &[]),
        TestServer::on(database.again(), &[])
    );
    check_taken_over(&mongodb, MESSAGES).await;
    for server in [&first, &second] {
        let alice = person(server, ALICE).await;
        let page = alice.get(&format!("/room/{}?limit=1", id(ROOM))).await.ok();
        assert_eq!(page["conversation"][0]["seq"], MESSAGES / 5);
    }
}
