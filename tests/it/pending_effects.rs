//! Changes of messages and rooms that are too large for one MongoDB command, or that the database
//! refuses: no other request waits for them.

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
    databases::Kind,
    each_mongodb,
    harness::{PATIENCE, TestServer},
    people::Person,
};

/// Returns a text of 25,400 different words that begins with `first`, nearly as long as a request
/// may be.
fn many_words(first: &str) -> String {
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

async fn pending(server: &TestServer) -> u64 {
    server.get("/ready").await.ok()["pendingEffects"]
        .as_u64()
        .unwrap()
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

/// Checks that the usual actions in a room still work.
async fn goes_on(alice: &Person, bob: &Person, room: &str) {
    let post = alice.says(room, "go on").await;
    bob.reads(room, "?limit=1").await;
    bob.recents("").await;
    bob.get("/room/unread").await.ok();
    bob.syncs(room, "").await;
    bob.marks_read(room).await;
    alice.edits(room, &post["postId"], "gone on").await.ok();
    assert_eq!(alice.deletes(&post["postId"]).await, 1);
}

#[apply(each_mongodb)]
#[tokio::test]
async fn many_large_edits_at_once_are_all_done_and_hold_up_nobody(kind: Kind) {
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

#[apply(each_mongodb)]
#[tokio::test]
async fn what_an_earlier_version_could_not_do_is_done_at_start(kind: Kind) {
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
async fn an_edit_that_the_database_refuses_is_told_and_holds_up_nothing(kind: Kind) {
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
async fn an_entry_that_the_database_refuses_fails_alone(kind: Kind) {
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
async fn a_deletion_that_the_database_refuses_counts_all_the_same(kind: Kind) {
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
async fn changes_of_a_room_that_the_database_refuses_do_not_hold_up_later_ones(kind: Kind) {
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

/// Deletions of long messages, changes of the room and read marks, as many at once as one client
/// can send.
#[apply(each_mongodb)]
#[tokio::test]
async fn hundreds_of_changes_at_once_are_all_done_and_hold_up_nobody(kind: Kind) {
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

#[apply(each_mongodb)]
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
