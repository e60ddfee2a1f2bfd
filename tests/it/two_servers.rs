//! Two servers on one MongoDB database: one log for each room, one room for each set of members,
//! and what ends on one server ends on the other.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    databases::{Database, Kind},
    harness::{PATIENCE, TestServer},
    people::{Answer, NO_REFRESH, Person, SECURE, refresh},
    wire::Socket,
};

const ROOMS: usize = 4;
const POSTS: usize = 100;

async fn two_servers(kind: Kind, settings: &[(&str, &str)]) -> [TestServer; 2] {
    let database = Database::new(kind).await;
    let second = Box::pin(TestServer::on(database.again(), settings));
    let (first, second) = tokio::join!(Box::pin(TestServer::on(database, settings)), second);
    [first, second]
}

/// Starts two servers, with a user who is known to both.
async fn two_servers_and_alice(kind: Kind) -> ([TestServer; 2], [Person; 2]) {
    let servers = two_servers(kind, &[]).await;
    let alice = servers[0].person("Alice").await;
    let at_second = alice.at(&servers[1]);
    (servers, [alice, at_second])
}

/// The second server has an outdated version of the room in its cache, but the log decides.
#[rstest]
#[tokio::test]
async fn whoever_is_added_at_one_server_is_removed_at_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let ([first, _second], [alice, at_second]) = two_servers_and_alice(kind).await;
    let (bob, carol) = (first.person("Bob").await, first.person("Carol").await);
    let room = alice.named_room("the two", &[&bob]).await;
    at_second.get(&format!("/room/{room}")).await.ok();
    alice.adds(&room, &[&carol]).await.ok();
    assert_eq!(
        at_second.removes(&room, &carol).await.ok()["removedMembersCount"],
        1
    );
    carol
        .posts(&room, "still here")
        .await
        .refused(403, "You are not a member of this room");
}

#[rstest]
#[tokio::test]
async fn tabs_that_refresh_at_two_servers_go_on_with_the_same_token(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let [first, second] = two_servers(kind, &SECURE).await;
    // The clocks of two servers are never exactly the same.
    second.turn_clock(-3_000);
    let alice = first.member("alice").await;
    let there = alice.at(&second);
    let (one, other) = tokio::join!(alice.refreshes(), refresh(&there, &alice.refresh_token));
    let (one, other) = (one.ok(), other.ok());
    assert_eq!(one["refreshToken"], other["refreshToken"]);
    let token = one["refreshToken"].as_str().unwrap();
    let next = refresh(&there, token).await.ok();
    assert_eq!(
        refresh(&alice, token).await.ok()["refreshToken"],
        next["refreshToken"]
    );
    refresh(&alice, &alice.refresh_token)
        .await
        .refused(401, NO_REFRESH);
    refresh(&there, next["refreshToken"].as_str().unwrap())
        .await
        .refused(401, NO_REFRESH);
}

#[rstest]
#[tokio::test]
async fn an_edit_at_one_server_shows_who_has_read_the_message_at_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[values("100", "1")] listed: &str,
) {
    let [first, second] = two_servers(kind, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", listed)]).await;
    let (alice, bob, room) = first.two_in_a_room().await;
    let post = alice.says(&room, "frist").await;
    assert_eq!(bob.marks_read(&room).await, 1);
    let mut socket = Socket::of(&bob.at(&second), &room).await;
    let edited = alice.edits(&room, &post["postId"], "first").await.ok()["post"].take();
    let readers = edited["readByRecipients"].as_array().unwrap().len();
    assert_eq!(
        (readers, edited["readCount"].as_u64()),
        if listed == "1" {
            (1, Some(2))
        } else {
            (2, None)
        }
    );
    assert_eq!(socket.hears_of("message edited").await["message"], edited);
}

/// Retries until the condition holds.
async fn until(otherwise: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "{otherwise}");
    }
}

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
#[tokio::test]
async fn whoever_is_removed_at_one_server_soon_hears_nothing_at_the_other(
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
async fn whoever_subscribes_at_one_server_while_removed_at_the_other_is_out_soon(
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
async fn sockets_hear_of_everything_once_whichever_server_it_went_through(
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
async fn whoever_has_subscribed_hears_what_goes_through_the_other_server_at_once(
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
async fn an_entry_that_nobody_has_told_of_is_told_though_nothing_follows(
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
async fn whoever_reads_hears_all_however_much_goes_through_the_other_server(
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

async fn post_all(author: Person, rooms: Vec<String>, name: String) -> Vec<(String, String, u64)> {
    let mut acknowledged = Vec::new();
    for n in 0..POSTS {
        let (room, text) = (&rooms[n % ROOMS], format!("{name}/{n}"));
        let post = author.posts(room, &text).await.ok()["post"].clone();
        acknowledged.push((text, room.clone(), post["seq"].as_u64().unwrap()));
    }
    acknowledged
}

/// Returns the texts of a room's log with their sequence numbers, and checks that these have no
/// gaps.
pub async fn log_of(reader: &Person, room: &str) -> HashMap<String, u64> {
    let (mut texts, mut last) = (HashMap::new(), 0);
    loop {
        let page = reader
            .get(&format!("/room/{room}?after={last}&limit=500"))
            .await
            .ok()["conversation"]
            .clone();
        for message in page.as_array().unwrap() {
            last += 1;
            assert_eq!(message["seq"], last, "the numbers have a hole or a repeat");
            let text = message["message"]["messageText"]
                .as_str()
                .unwrap()
                .to_owned();
            assert_eq!(
                texts.insert(text, last),
                None,
                "a message stands there twice"
            );
        }
        if page.as_array().unwrap().is_empty() {
            return texts;
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_have_one_log_through_both(#[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {
    let (servers, alice) = two_servers_and_alice(kind).await;
    let others = [
        servers[0].person("Bob").await,
        servers[0].person("Carol").await,
        servers[0].person("Dave").await,
    ];
    let mut rooms = Vec::new();
    for members in [&[&others[0]][..], &[&others[1]], &[&others[2]], &[]] {
        rooms.push(alice[0].room_with(members).await);
    }
    let posters = (0..8).map(|n| {
        tokio::spawn(post_all(
            alice[n % 2].clone(),
            rooms.clone(),
            format!("client {n}"),
        ))
    });
    let acknowledged: Vec<_> = join_all(posters)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    assert_eq!(acknowledged.len(), 8 * POSTS);
    for reader in &alice {
        let mut logs = HashMap::new();
        for room in &rooms {
            logs.insert(room.clone(), log_of(reader, room).await);
        }
        assert_eq!(
            logs.values().map(HashMap::len).sum::<usize>(),
            acknowledged.len()
        );
        for (text, room, seq) in &acknowledged {
            assert_eq!(logs[room].get(text), Some(seq));
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_get_one_room_through_both(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let (servers, alice) = two_servers_and_alice(kind).await;
    let bob = servers[1].person("Bob").await;
    let askers = (0..40).map(|n| {
        let (alice, bob) = (alice[n % 2].clone(), bob.clone());
        tokio::spawn(async move { alice.initiate(&[&bob]).await.ok()["chatRoom"].clone() })
    });
    let rooms: Vec<Value> = join_all(askers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(
        rooms
            .iter()
            .all(|room| room["chatRoomId"] == rooms[0]["chatRoomId"])
    );
    assert_eq!(rooms.iter().filter(|room| room["isNew"] == true).count(), 1);
}

/// Retries until the response has this status and message.
async fn comes_to(status: u16, message: &str, ask: impl AsyncFn() -> Answer) {
    let is_answered_so = async || {
        let answer = ask().await;
        let is_so = answer.status == status;
        if is_so {
            answer.refused(status, message);
        }
        is_so
    };
    until(
        &format!("it is not answered with {status} {message}"),
        is_answered_so,
    )
    .await;
}

#[rstest]
#[tokio::test]
async fn what_ends_on_one_ends_on_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let (servers, alice) = two_servers_and_alice(kind).await;
    let bob = servers[1].person("Bob").await;
    let room = alice[0].room_with(&[&bob]).await;
    bob.posts(&room, "hello").await.ok();
    alice[0].posts(&room, "hello").await.ok();
    let user = format!("/users/{}", bob.id);
    servers[1].get(&user).await.ok();
    let post = async |who: &Person| {
        let body = json!({ "messageText": "too late" });
        Answer::of(
            who.request(Method::POST, &format!("/room/{room}/message"))
                .json(&body),
        )
        .await
    };

    servers[0].delete(&user).await.ok();
    comes_to(404, "No user with this id found", || servers[1].get(&user)).await;
    comes_to(401, "No user with this id found", || post(&bob)).await;

    servers[0]
        .delete(&format!("/delete/room/{room}"))
        .await
        .ok();
    // Refused at once: the log is closed, even for a server that still has the room in its cache.
    post(&alice[1])
        .await
        .refused(400, "No room exists for this id");
    let conversation = format!("/room/{room}");
    comes_to(400, "No room exists for this id", || {
        alice[1].get(&conversation)
    })
    .await;
    assert!(alice[1].recents("").await.is_empty());
}
