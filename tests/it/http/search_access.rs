//! Search finds only what the user may read.

use serde_json::Value;

use crate::support::{databases::Kind, harness::TestServer, person::Person};

#[tokio::test]
async fn search_finds_nothing_in_rooms_of_others() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    let private = alice.room_with(&[]).await;
    alice.says(&room, "shared word").await;
    alice.says(&private, "private word").await;
    assert_eq!(stranger.finds("search", "word").await, Vec::<String>::new());
    assert_eq!(bob.finds("search", "word").await, ["shared word"]);
    assert_eq!(
        alice.finds("search", "word").await,
        ["private word", "shared word"]
    );
    for (person, room) in [(&stranger, &room), (&bob, &private)] {
        person
            .get(&format!("/room/{room}/search?q=word"))
            .await
            .refused(403, "You are not a member of this room");
    }
    alice
        .get("/room/nope/search?q=word")
        .await
        .refused(400, "No room exists for this id");
    server
        .get("/room/search?q=word")
        .await
        .refused(400, "No access token provided");
    server
        .get(&format!("/room/{room}/search?q=word"))
        .await
        .refused(400, "No access token provided");
}

/// Returns the answers to requests with this cursor, in which `ID` stands for each of the ids.
async fn answers_to_cursors(
    reader: &Person,
    path: &str,
    cursor: &str,
    ids: [&str; 4],
) -> Vec<Value> {
    let mut answers = Vec::new();
    for cursor in ids.map(|id| cursor.replace("ID", id)) {
        let answer = reader
            .get(&format!("{path}&before={cursor}&after={cursor}"))
            .await
            .ok();
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn a_cursor_reveals_nothing_about_unreadable_messages() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let private = alice.room_with(&[]).await;
    alice.says(&room, "shared word").await;
    server.turn_clock(1_000);
    let secret = alice.says(&private, "private word").await;
    let regretted = alice.says(&private, "regretted word").await;
    server.turn_clock(1_000);
    alice.says(&room, "later word").await;
    server.database().indexed().await;
    alice.deletes(&regretted["postId"]).await;
    let (secret, regretted) = (
        secret["postId"].as_str().unwrap(),
        regretted["postId"].as_str().unwrap(),
    );
    let nobody = "0123456789abcdef0123456789abcdef";
    let now = crate::support::harness::machine_time();
    for at in [
        "0".to_owned(),
        now.to_string(),
        (now + 1_500).to_string(),
        i64::MAX.to_string(),
        i64::MIN.to_string(),
    ] {
        for cursor in [
            format!("{at}-ID"),
            format!("{at}-1-ID"),
            format!("{at}-ID-{private}"),
        ] {
            for path in [
                "/room/search?q=word".to_owned(),
                format!("/room/{room}/search?q=word"),
                format!("/room/{room}?limit=5"),
            ] {
                let ids = [nobody, secret, regretted, &private];
                let answers = answers_to_cursors(&bob, &path, &cursor, ids).await;
                assert!(
                    answers.iter().all(|answer| answer == &answers[0]),
                    "{path} before {cursor}: {answers:?}"
                );
            }
        }
    }
}
