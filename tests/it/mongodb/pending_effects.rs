//! Changes of messages and rooms that the database refuses: no other request waits for them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mongodb::{
    Client, Database,
    bson::{DateTime, Document, doc},
};
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_mongodb,
    support::{
        databases::Kind,
        harness::{PATIENCE, TestServer},
        pending_effects::{goes_on, many_words, pending},
        person::Person,
    },
};

async fn documents(server: &TestServer) -> Database {
    Client::with_uri_str(&server.database().url)
        .await
        .unwrap()
        .default_database()
        .unwrap()
}

/// Makes the database refuse changes after which a document of the collection does not match the
/// validator.
async fn insist(server: &TestServer, collection: &str, validator: Document) {
    documents(server)
        .await
        .run_command(doc! { "collMod": collection, "validator": validator })
        .await
        .unwrap();
}

/// Waits until `count` effects are pending.
async fn settles(server: &TestServer, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while pending(server).await != count {
        assert!(
            Instant::now() < deadline,
            "{} effects are pending, not {count}",
            pending(server).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[apply(each_mongodb)]
#[tokio::test]
async fn effects_left_by_an_earlier_version_are_applied_at_start(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut posts = Vec::new();
    for n in 0..60 {
        posts.push(
            alice.says(&room, &format!("text {n}")).await["postId"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    server.stop().await;
    let edit = |(n, post): (usize, &String)| {
        doc! {
            "_id": format!("{:032x}", 1_000 + n), "chatRoomId": &room, "seq": i64::try_from(61 + n).unwrap(), "type": "edit", "target": post,
            "newText": many_words(&format!("edit{n}")), "deleted": true, "pending": true, "postedByUser": &alice.id,
            "createdAt": DateTime::now(), "updatedAt": DateTime::now(),
        }
    };
    let edits: Vec<_> = posts.iter().enumerate().map(edit).collect();
    documents(&server)
        .await
        .collection::<Document>("chatmessages")
        .insert_many(edits)
        .await
        .unwrap();
    server.restart().await;
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    goes_on(&alice, &bob, &room).await;
    settles(&server, 0).await;
    let texts = bob.reads(&room, "?limit=100").await;
    assert!(
        texts
            .iter()
            .enumerate()
            .all(|(n, text)| text.starts_with(&format!("edit{n} ")))
    );
}

#[apply(each_mongodb)]
#[tokio::test]
async fn an_edit_refused_by_the_database_is_reported_without_blocking_others(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let [first, second] = [
        alice.says(&room, "first").await,
        alice.says(&room, "second").await,
    ];
    insist(
        &server,
        "chatmessages",
        doc! { "message.messageText": { "$nin": ["refused", "refused too"] } },
    )
    .await;
    let refused = [
        alice.edits(&room, &first["postId"], "refused"),
        alice.edits(&room, &second["postId"], "refused too"),
    ];
    let others =
        join_all((0..10).map(|n| bob.posts(&room, if n % 2 == 0 { "even" } else { "odd" })));
    let (refused, others) = tokio::join!(join_all(refused), others);
    for other in others {
        other.ok();
    }
    for refused in refused {
        refused.refused(
            503,
            "The service is not available right now, please try again",
        );
    }
    assert_eq!(pending(&server).await, 2);
    goes_on(&alice, &bob, &room).await;
    assert!(
        bob.reads(&room, "?limit=100")
            .await
            .starts_with(&["first".into(), "second".into()])
    );
    alice.edits(&room, &second["postId"], "better").await.ok();
    insist(&server, "chatmessages", doc! {}).await;
    settles(&server, 0).await;
    assert!(
        bob.reads(&room, "?limit=100")
            .await
            .starts_with(&["refused".into(), "better".into()]),
        "the later edit stays"
    );
}

#[apply(each_mongodb)]
#[tokio::test]
async fn an_entry_refused_by_the_database_fails_alone(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    insist(
        &server,
        "chatmessages",
        doc! { "message.messageText": { "$ne": "refused" } },
    )
    .await;
    let texts = ["one", "refused", "two", "three", "refused", "four"];
    let posted = join_all(texts.iter().map(|text| alice.posts(&room, text))).await;
    for (posted, text) in posted.into_iter().zip(texts) {
        assert_eq!(
            posted.status,
            if text == "refused" { 500 } else { 200 },
            "{text}"
        );
    }
    goes_on(&alice, &bob, &room).await;
}

#[apply(each_mongodb)]
#[tokio::test]
async fn a_deletion_refused_by_the_database_still_counts(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    alice.says(&room, "kept").await;
    let post = alice.says(&room, "regretted").await;
    let id = post["postId"].as_str().unwrap().to_owned();
    insist(
        &server,
        "chatmessages",
        doc! { "$or": [{ "_id": { "$ne": &id } }, { "deleted": { "$ne": true } }] },
    )
    .await;
    assert_eq!(alice.deletes(&post["postId"]).await, 1);
    let (mut alice, mut bob) = (alice, bob);
    for _ in 0..2 {
        assert_eq!(pending(&server).await, 1);
        assert_eq!(bob.reads(&room, "").await, ["kept"]);
        assert_eq!(
            bob.reads(&room, "?limit=1").await,
            ["kept"],
            "the page is full"
        );
        assert_eq!(bob.recents("").await[0]["message"]["messageText"], "kept");
        assert!(!bob.syncs(&room, "").await.to_string().contains("regretted"));
        assert_eq!(
            bob.get("/room/search?q=regretted").await.ok()["messages"],
            json!([])
        );
        assert_eq!(alice.deletes(&post["postId"]).await, 0);
        alice
            .edits(&room, &post["postId"], "once more")
            .await
            .refused(404, "No message with this id found");
        goes_on(&alice, &bob, &room).await;
        server.restart().await;
        (alice, bob) = (alice.at(&server), bob.at(&server));
    }
    insist(&server, "chatmessages", doc! {}).await;
    settles(&server, 0).await;
    assert_eq!(bob.reads(&room, "").await, ["kept"]);
}

/// Returns the ids of the members.
async fn members(person: &Person, room: &str) -> Vec<Value> {
    let body = person.get(&format!("/room/{room}/members")).await.ok();
    body["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["_id"].clone())
        .collect()
}

#[apply(each_mongodb)]
#[tokio::test]
async fn room_changes_refused_by_the_database_do_not_block_later_ones(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol, dave] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
        server.person("Dave").await,
    ];
    let room = alice.named_room("books", &[&bob, &dave]).await;
    let validator = doc! { "$or": [{ "_id": { "$ne": &room } }, { "userIds": &bob.id, "name": { "$ne": "refused" } }] };
    insist(&server, "chatrooms", validator).await;
    let rename = async |name: &str| {
        alice
            .calls(
                Method::PUT,
                &format!("/room/{room}"),
                json!({ "name": name }),
            )
            .await
    };
    assert_eq!(rename("refused").await.status, 503);
    assert_eq!(
        alice.removes(&room, &bob).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(pending(&server).await, 2);
    bob.posts(&room, "still here?")
        .await
        .refused(403, "You are not a member of this room");
    assert!(bob.recents("").await.is_empty());
    alice.adds(&room, &[&carol]).await.ok();
    assert_eq!(
        alice.removes(&room, &dave).await.ok()["removedMembersCount"],
        1
    );
    carol.says(&room, "hello").await;
    goes_on(&alice, &carol, &room).await;
    assert_eq!(rename("novels").await.ok()["chatRoom"]["name"], "novels");
    insist(&server, "chatrooms", doc! {}).await;
    settles(&server, 0).await;
    let mut expected = vec![json!(alice.id), json!(carol.id)];
    expected.sort_by_key(ToString::to_string);
    assert_eq!(members(&alice, &room).await, expected);
    let kept = documents(&server)
        .await
        .collection::<Document>("chatrooms")
        .find_one(doc! { "_id": &room })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (
            kept.get_str("name").unwrap(),
            kept.get_array("userIds").unwrap().len()
        ),
        ("novels", 2),
        "{kept}"
    );
    assert!(!kept.contains_key("overtakenSeqs"));
}

#[apply(each_mongodb)]
#[tokio::test]
async fn a_room_with_pending_effects_can_be_deleted(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.says(&room, "first").await;
    insist(
        &server,
        "chatmessages",
        doc! { "message.messageText": { "$ne": "refused" } },
    )
    .await;
    assert_eq!(
        alice.edits(&room, &post["postId"], "refused").await.status,
        503
    );
    let deleted = server
        .http
        .delete(format!("{}/delete/room/{room}", server.base))
        .bearer_auth(&alice.token)
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), 200);
    let room = alice.room_with(&[&bob]).await;
    goes_on(&alice, &bob, &room).await;
}
