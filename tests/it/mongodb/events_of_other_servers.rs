//! Two servers on one database: what sockets receive of changes on the other server.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use reqwest::Method;
use rstest::rstest;
use serde_json::json;

use crate::support::{
    databases::{Database, Kind},
    harness::TestServer,
    people::SECURE,
    person::Person,
    two_servers::{two_servers, two_servers_and_alice, until},
    wire::Socket,
};

/// Returns whether any of these sockets receives a post made at this server.
async fn post_is_heard(author: &Person, room: &str, sockets: &mut [Socket]) -> bool {
    let post = author.posts(room, "who hears this?").await.ok()["post"].clone();
    let mut heard = false;
    for socket in sockets {
        heard |= socket
            .has_heard()
            .await
            .iter()
            .any(|event| event[1]["message"]["_id"] == post["_id"]);
    }
    heard
}

/// The second server learns of the removal, and applies nothing twice: a member who has been added
/// again by then stays.
#[rstest]
#[ignore = "slow"]
#[tokio::test]
async fn a_member_removed_on_one_server_soon_hears_nothing_on_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[values(false, true)] secure: bool,
) {
    let settings: &[_] = if secure { &SECURE } else { &[] };
    let [first, second] = two_servers(kind, settings).await;
    let [alice, bob] = if secure {
        [
            first.member("alice").await.person,
            first.member("bob").await.person,
        ]
    } else {
        [first.person("Alice").await, first.person("Bob").await]
    };
    let (alice_at_second, bob_at_second) = (alice.at(&second), bob.at(&second));
    let room = alice.named_room("the two", &[&bob]).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = if secure {
            Socket::signed_in(&bob_at_second).await
        } else {
            Socket::by(&bob_at_second).await
        };
        socket.succeeds("subscribe", json!([room])).await;
        sockets.push(socket);
    }
    assert!(post_is_heard(&alice_at_second, &room, &mut sockets).await);
    for _ in 0..3 {
        alice.removes(&room, &bob).await.ok();
        until("who was removed goes on hearing", async || {
            !post_is_heard(&alice_at_second, &room, &mut sockets).await
        })
        .await;
        alice.adds(&room, &[&bob]).await.ok();
        // The second server may not know yet that he is a member again.
        until("who is back cannot subscribe", async || {
            sockets[0].asks("subscribe", json!([room])).await["success"] == true
        })
        .await;
        let looked_after = Instant::now() + Duration::from_secs(1);
        while Instant::now() < looked_after {
            assert!(
                post_is_heard(&alice_at_second, &room, &mut sockets).await,
                "taken out although he is back"
            );
        }
    }
}

/// The same where the second server learns of the removal in another way first: by reading the log
/// of a room that is new to it, or from what is posted there, while it still treats the user as a
/// member.
#[rstest]
#[tokio::test]
async fn a_subscription_during_a_removal_on_the_other_server_soon_ends(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let [first, second] = two_servers(kind, &SECURE).await;
    let [alice, bob] = [
        first.member("alice").await.person,
        first.member("bob").await.person,
    ];
    let (alice_at_second, bob_at_second) = (alice.at(&second), bob.at(&second));
    for again in [false, true].repeat(4) {
        let room = alice.named_room("the two", &[&bob]).await;
        let mut socket = Socket::signed_in(&bob_at_second).await;
        socket.succeeds("subscribe", json!([room])).await;
        if again {
            post_is_heard(&alice_at_second, &room, std::slice::from_mut(&mut socket)).await;
        }
        alice.removes(&room, &bob).await.ok();
        if again {
            // The next entry announces the removal, and the socket then subscribes again.
            while !socket
                .has_heard()
                .await
                .iter()
                .any(|event| event[0] == "member removed")
            {
                alice_at_second.posts(&room, "more").await.ok();
            }
            socket.asks("subscribe", json!([room])).await;
        }
        let out = async || {
            alice_at_second.posts(&room, "who hears this?").await.ok();
            socket
                .hears_still()
                .await
                .is_none_or(|heard| heard.is_empty())
        };
        until("who was removed goes on hearing", out).await;
    }
}

/// Entries posted, edited, deleted and changed through the other server arrive in order, before
/// those that came later through the socket's own server.
#[rstest]
#[tokio::test]
async fn sockets_receive_every_event_once_from_both_servers(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let ([first, second], [alice, at_second]) = two_servers_and_alice(kind).await;
    let (bob, carol) = (first.person("Bob").await, first.person("Carol").await);
    let room = alice.named_room("the three", &[&bob]).await;
    alice.posts(&room, "before").await.ok();
    let mut sockets = [Socket::by(&bob).await, Socket::by(&bob.at(&second)).await];
    for socket in &mut sockets {
        let synced = socket
            .asks("sync", json!([{ "rooms": { &room: 0 } }]))
            .await;
        assert_eq!(synced["rooms"][&room]["lastSeq"], 1);
    }
    let message = alice.says(&room, "two").await["postId"].take();
    at_second.posts(&room, "three").await.ok();
    alice.edits(&room, &message, "two, better").await.ok();
    alice.deletes(&message).await;
    alice.adds(&room, &[&carol]).await.ok();
    alice
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            json!({ "name": "the three of us" }),
        )
        .await
        .ok();
    for n in 8..40 {
        [&alice, &at_second][n % 2].posts(&room, "more").await.ok();
    }
    for socket in &mut sockets {
        let mut heard = Vec::new();
        while heard.len() < 38 {
            let event = socket.hears().await;
            heard.push((
                event[0].clone(),
                event[1]
                    .get("seq")
                    .unwrap_or(&event[1]["message"]["seq"])
                    .clone(),
            ));
        }
        let seqs: Vec<_> = heard.iter().map(|(_, seq)| seq.as_u64().unwrap()).collect();
        assert_eq!(seqs, (2..40).collect::<Vec<_>>());
        let names: Vec<_> = heard[..7]
            .iter()
            .map(|(name, _)| name.as_str().unwrap())
            .collect();
        let as_they_came = [
            "new message",
            "new message",
            "message edited",
            "message deleted",
            "member added",
            "room changed",
            "new message",
        ];
        assert_eq!(names, as_they_came);
        socket.hears_nothing_more().await;
    }
}

/// A client that subscribes first and reads second misses nothing: it receives every later entry,
/// although the server has never read the room before.
#[rstest]
#[tokio::test]
async fn a_new_subscription_receives_posts_of_the_other_server_at_once(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let ([_first, second], [alice, at_second]) = two_servers_and_alice(kind).await;
    let mut socket = Socket::by(&at_second).await;
    for n in 0..5 {
        let room = alice.named_room(&format!("room {n}"), &[&alice]).await;
        alice.posts(&room, "before").await.ok();
        socket.succeeds("subscribe", json!([room])).await;
        let post = alice.posts(&room, "behind").await.ok()["post"].clone();
        assert_eq!(socket.hears_post().await, post);
        socket.hears_nothing_more().await;
    }
    drop(second);
}

/// As with an entry that a killed server had sent to the database, or one of a batch that got no
/// answer.
#[rstest]
#[tokio::test]
async fn an_unannounced_entry_is_announced_without_a_later_one(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let server = TestServer::on(database.again(), &[]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    alice.posts(&room, "one").await.ok();
    let mut socket = Socket::by(&bob).await;
    socket
        .asks("sync", json!([{ "rooms": { &room: 0 } }]))
        .await;
    let entry = entry(&alice, &room, 2);
    let id = entry.get_str("_id").unwrap().to_owned();
    messages_of(&database)
        .await
        .insert_one(entry)
        .await
        .unwrap();
    let post = socket.hears_post().await;
    assert_eq!(
        (
            &post["postId"],
            &post["seq"],
            &post["message"]["messageText"]
        ),
        (&json!(id), &json!(2), &json!("late"))
    );
    assert_eq!(post["chatRoomInfo"].as_array().unwrap().len(), 2);
    assert_eq!(alice.posts(&room, "three").await.ok()["post"]["seq"], 3);
    assert_eq!(socket.hears_post().await["seq"], 3);
}

/// Returns the document of a message.
fn entry(author: &Person, room: &str, seq: i64) -> Document {
    let at = mongodb::bson::DateTime::now();
    doc! {
        "_id": uuid::Uuid::new_v4().simple().to_string(), "chatRoomId": room, "seq": seq, "type": "text",
        "message": { "messageText": "late" }, "postedByUser": &author.id, "createdAt": at, "updatedAt": at,
    }
}

async fn messages_of(database: &Database) -> mongodb::Collection<Document> {
    let client = mongodb::Client::with_uri_str(&database.url).await.unwrap();
    client
        .default_database()
        .unwrap()
        .collection("chatmessages")
}

/// As in a room with many posts through another server. A client that reads is not disconnected.
#[rstest]
#[tokio::test]
async fn a_socket_that_reads_receives_all_posts_of_the_other_server(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let server = TestServer::on(database.again(), &[]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    messages_of(&database)
        .await
        .insert_many((1..=1_700).map(|seq| entry(&alice, &room, seq)))
        .await
        .unwrap();
    for seq in 1..=1_700 {
        assert_eq!(socket.hears_post().await["seq"], seq);
    }
    assert_eq!(
        alice.posts(&room, "and on").await.ok()["post"]["seq"],
        1_701
    );
    assert_eq!(socket.hears_post().await["seq"], 1_701);
}
