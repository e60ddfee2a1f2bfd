//! Changes that are too large for one MongoDB command: no other request waits for them.

use futures_util::future::join_all;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_mongodb,
    support::{
        databases::Kind,
        harness::TestServer,
        pending_effects::{goes_on, many_words, pending},
    },
};

#[apply(each_mongodb)]
#[tokio::test]
async fn concurrent_large_edits_complete_without_blocking_others(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let elsewhere = bob.named_room("elsewhere", &[&alice]).await;
    let mut posts = Vec::new();
    for n in 0..60 {
        posts.push(alice.says(&room, &format!("text {n}")).await["postId"].clone());
    }
    let edits = join_all(posts.iter().enumerate().map(async |(n, post)| {
        alice
            .edits(&room, post, &many_words(&format!("edit{n}")))
            .await
            .ok();
    }));
    let others = async {
        for n in 0..50 {
            bob.says(&elsewhere, &format!("text {n}")).await;
        }
    };
    tokio::join!(edits, others);
    let texts = bob.reads(&room, "?limit=100").await;
    assert!(
        texts
            .iter()
            .enumerate()
            .all(|(n, text)| text.starts_with(&format!("edit{n} ")))
    );
    assert_eq!(texts.len(), 60);
    goes_on(&alice, &bob, &room).await;
    assert_eq!(pending(&server).await, 0);
    join_all(
        posts
            .iter()
            .map(async |post| assert_eq!(alice.deletes(post).await, 1)),
    )
    .await;
    assert_eq!(bob.reads(&room, "").await, Vec::<String>::new());
}

/// Deletions of long messages, changes of the room and read marks, as many at once as one client
/// can send.
#[apply(each_mongodb)]
#[ignore = "slow"]
#[tokio::test]
async fn hundreds_of_concurrent_changes_complete_without_blocking_others(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let group = alice.named_room("group", &[&bob]).await;
    let elsewhere = bob.named_room("elsewhere", &[&alice]).await;
    let long = many_words("long");
    let posts = join_all((0..100).map(|_| alice.says(&room, &long))).await;
    let people =
        join_all((0..100).map(|n| server.person(if n % 2 == 0 { "Even" } else { "Odd" }))).await;
    let deletions = join_all(
        posts
            .iter()
            .map(async |post| assert_eq!(alice.deletes(&post["postId"]).await, 1)),
    );
    let comings = join_all(
        people
            .iter()
            .map(async |person| _ = alice.adds(&group, &[person]).await.ok()),
    );
    let names = join_all((0..100).map(async |n| {
        let name = json!({ "name": format!("name {n}") });
        alice
            .calls(Method::PUT, &format!("/room/{group}"), name)
            .await
            .ok();
    }));
    let marks = join_all((0..100).map(async |_| bob.marks_read(&room).await));
    let others = async {
        for n in 0..50 {
            bob.says(&elsewhere, &format!("text {n}")).await;
        }
    };
    tokio::join!(deletions, comings, names, marks, others);
    assert_eq!(bob.reads(&room, "").await, Vec::<String>::new());
    assert_eq!(
        bob.get(&format!("/room/{group}")).await.ok()["chatRoom"]["memberCount"],
        102
    );
    join_all(people.iter().map(async |person| {
        assert_eq!(
            alice.removes(&group, person).await.ok()["removedMembersCount"],
            1
        );
    }))
    .await;
    assert_eq!(
        bob.get(&format!("/room/{group}")).await.ok()["chatRoom"]["memberCount"],
        2
    );
    goes_on(&alice, &bob, &group).await;
    assert_eq!(pending(&server).await, 0);
}

#[apply(each_mongodb)]
#[ignore = "slow"]
#[tokio::test]
async fn the_longest_message_can_be_posted_and_edited(kind: Kind) {
    let server = TestServer::with(
        kind,
        &[
            ("CAUSERIE_HTTP__MAX_BODY_BYTES", "15000000"),
            ("CAUSERIE_HTTP__REQUEST_TIMEOUT_MS", "60000"),
        ],
    )
    .await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let long = |letter: &str| letter.repeat(15_000_000 - r#"{"messageText":""}"#.len());
    let post = alice.says(&room, &long("a")).await;
    let edited = alice.edits(&room, &post["postId"], &long("b")).await.ok();
    assert_eq!(
        edited["post"]["message"]["messageText"].as_str().unwrap(),
        long("b")
    );
    assert_eq!(bob.reads(&room, "").await, [long("b")]);
    goes_on(&alice, &bob, &room).await;
    assert_eq!(pending(&server).await, 0);
}
