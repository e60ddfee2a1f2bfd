//! Shutdown and response times while large amounts of data are erased from SQLite, or while erasing
//! is blocked.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    measured::TURN,
    support::{
        harness::PATIENCE,
        person::{Person, new_person},
        program::Program,
    },
};

/// The number of three-letter words in a text of 100 KB.
const WORDS: usize = 25_400;
/// Returns texts of 100 KB whose words are nearly all different.
fn long_texts(count: u64) -> impl Iterator<Item = String> {
    let text = |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut letter = move || char::from(random.random_range(b'a'..=b'z'));
        let mut text = String::with_capacity(WORDS * 4);
        for _ in 0..WORDS {
            text.extend([letter(), letter(), letter(), ' ']);
        }
        text
    };
    (0..count).map(text)
}

/// Waits until all data of deleted rooms is erased.
async fn erased(database: &Connection) {
    let begun = Instant::now();
    while database
        .query_row("SELECT count(*) FROM purges", [], |row| {
            row.get::<_, u64>(0)
        })
        .unwrap()
        > 0
    {
        assert!(begun.elapsed() < 3 * PATIENCE, "it is not erased");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_soon_during_erasing_and_the_next_one_continues() {
    let _turn = TURN.lock().await;
    let folder = TempDir::new().unwrap();
    let start = || Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:c.db")]);
    let program = start();
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    for text in long_texts(40) {
        alice.says(&room, &text).await;
    }
    let deleted = alice
        .calls(Method::DELETE, &format!("/delete/room/{room}"), json!({}))
        .await
        .ok();
    assert_eq!(deleted["deletedMessagesCount"], 40);
    program.signal("TERM");
    let asked = Instant::now();
    assert!(program.ended().await.success());
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    let database = Connection::open(folder.path().join("c.db")).unwrap();
    let _program = start();
    erased(&database).await;
    assert_eq!(
        database
            .query_row("SELECT count(*) FROM entries", [], |row| row
                .get::<_, u64>(0))
            .unwrap(),
        0
    );
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_in_time_while_another_program_blocks_writes() {
    let _turn = TURN.lock().await;
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:c.db")]);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    alice.says(&room, "on disk").await;
    let other = Connection::open(folder.path().join("c.db")).unwrap();
    other
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO secrets (name, value) VALUES ('other', x'00')")
        .unwrap();
    let posting: Vec<_> = (0..20)
        .map(|n| {
            let (alice, room) = (alice.clone(), room.clone());
            let request = alice
                .request(Method::POST, &format!("/room/{room}/message"))
                .json(&json!({ "messageText": format!("{n}") }));
            tokio::spawn(async move { request.send().await.map(|answer| answer.status().as_u16()) })
        })
        .collect();
    program.signal("TERM");
    let asked = Instant::now();
    let ended = program.ended().await;
    assert!(
        ended.success() && asked.elapsed() < Duration::from_secs(11),
        "{ended:?} after {:?}",
        asked.elapsed()
    );
    for posted in posting {
        // The post is either left without an answer or refused.
        assert!(!posted.await.unwrap().is_ok_and(|status| status == 200));
    }
}

/// Posts long messages of distinct words in two rooms and edits them, then deletes those of the first
/// room one by one and the others with their room.
async fn post_edit_and_delete(mallory: Person, rooms: [String; 2]) {
    let mut messages = Vec::new();
    for (n, text) in long_texts(50).enumerate() {
        messages.push((
            rooms[n % 2].clone(),
            mallory.says(&rooms[n % 2], &text).await["postId"].clone(),
        ));
    }
    for ((room, message), text) in messages.iter().zip(long_texts(60).skip(40)) {
        mallory.edits(room, message, &text).await.ok();
    }
    for (_, message) in messages.iter().filter(|(room, _)| *room == rooms[0]) {
        mallory.deletes(message).await;
    }
    mallory
        .calls(
            Method::DELETE,
            &format!("/delete/room/{}", rooms[1]),
            json!({}),
        )
        .await
        .ok();
}

/// Whether any data of deleted rooms or any long messages are left.
fn has_long_messages(database: &Connection) -> bool {
    let left = "SELECT (SELECT count(*) FROM purges) + (SELECT count(*) FROM entries WHERE length(text) > 50000)";
    database
        .query_row(left, [], |row| row.get::<_, u64>(0))
        .unwrap()
        > 0
}

/// Posts, edits and deletes long messages of distinct words, one by one and with their room, while
/// the search index follows. Other users post meanwhile, and none of them waits long.
#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_are_not_delayed_while_long_messages_are_edited_and_deleted() {
    let _turn = TURN.lock().await;
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:c.db")]);
    let (mallory, alice) = (
        new_person(&program.base, "Alice").await,
        new_person(&program.base, "Alice").await,
    );
    let rooms = [
        mallory.room_with(&[]).await,
        mallory.named_room("another", &[&mallory]).await,
    ];
    let quiet = alice.room_with(&[]).await;
    let busy = tokio::spawn(post_edit_and_delete(mallory, rooms));
    let database = Connection::open(folder.path().join("c.db")).unwrap();
    let (begun, mut longest, mut posts) = (Instant::now(), Duration::ZERO, 0);
    while !busy.is_finished() || has_long_messages(&database) {
        assert!(begun.elapsed() < 3 * PATIENCE, "it is not erased");
        let asked = Instant::now();
        alice.says(&quiet, "hello").await;
        longest = longest.max(asked.elapsed());
        posts += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    busy.await.unwrap();
    assert!(
        longest < Duration::from_secs(1),
        "{longest:?}, the longest of {posts}"
    );
    println!(
        "{longest:?}, the longest of {posts} in {:?}",
        begun.elapsed()
    );
}
