//! Large messages, and MongoDB servers that refuse changes.

use crate::support::{harness::TestServer, person::Person};

/// Returns a text of 25,400 different words that begins with `first`, nearly as long as a request
/// may be.
pub fn many_words(first: &str) -> String {
    let letter = |n: u32| {
        char::from_u32(u32::from('a') + n % 30)
            .filter(char::is_ascii_lowercase)
            .unwrap_or('é')
    };
    let word = |n: u32| {
        [letter(n / 900), letter(n / 30), letter(n)]
            .into_iter()
            .map(|letter| if letter == 'é' { '7' } else { letter })
            .collect::<String>()
    };
    let words: Vec<_> = (0..25_400).map(word).collect();
    format!("{first} {}", words.join(" "))
}

pub async fn pending(server: &TestServer) -> u64 {
    server.get("/ready").await.ok()["pendingEffects"]
        .as_u64()
        .unwrap()
}

/// Checks that the usual actions in a room still work.
pub async fn goes_on(alice: &Person, bob: &Person, room: &str) {
    let post = alice.says(room, "go on").await;
    bob.reads(room, "?limit=1").await;
    bob.recents("").await;
    bob.get("/room/unread").await.ok();
    bob.syncs(room, "").await;
    bob.marks_read(room).await;
    alice.edits(room, &post["postId"], "gone on").await.ok();
    assert_eq!(alice.deletes(&post["postId"]).await, 1);
}
