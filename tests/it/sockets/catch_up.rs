//! Catching up over sockets, without missing or repeated entries.

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, pages::seqs, wire::Socket},
};

#[tokio::test]
async fn a_socket_that_syncs_is_subscribed_from_there_on() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let other = alice.named_room("other", &[&bob]).await;
    let empty = alice.named_room("empty", &[&bob]).await;
    let first = alice.says(&room, "1").await;
    alice.says(&other, "1").await;
    alice.says(&other, "2").await;
    let mut socket = Socket::by(&bob).await;
    let answer = socket
        .asks(
            "sync",
            json!([{ "rooms": { &room: 0, &other: 1, &empty: 0 } }]),
        )
        .await;
    assert_eq!(answer["success"], true);
    let page = |room: &str| &answer["rooms"][room];
    assert_eq!(
        (seqs(page(&room)), seqs(page(&other)), seqs(page(&empty))),
        (vec![1], vec![2], vec![])
    );
    assert_eq!(
        (&page(&other)["lastSeq"], &page(&other)["hasMore"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(page(&room)["entries"][0]["messageId"], first["postId"]);
    for room in [&room, &other, &empty] {
        let post = alice.says(room, "live").await;
        assert_eq!(socket.hears_post().await, post);
    }
    socket
        .asks("sync", json!([{ "rooms": { &room: 2 } }]))
        .await;
    alice.says(&room, "once").await;
    assert_eq!(socket.hears_post().await["seq"], 3);
    socket.hears_nothing_more().await;
    assert_eq!(
        socket.asks("sync", json!([{ "rooms": {} }])).await,
        json!({ "success": true, "rooms": {} })
    );
}

#[tokio::test]
async fn sync_refuses_unreadable_rooms_individually() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let private = alice.room_with(&[]).await;
    let nowhere = "0199d1f0c0de7aaa8bbbccccddddeeee";
    alice.says(&private, "secret").await;
    alice.says(&room, "hello").await;
    let mut socket = Socket::by(&bob).await;
    let answer = socket
        .asks(
            "sync",
            json!([{ "rooms": { &room: 0, &private: 0, nowhere: 0, "nope": 0, "": 3 } }]),
        )
        .await;
    assert_eq!(answer["success"], true);
    assert_eq!(seqs(&answer["rooms"][&room]), [1]);
    let refused =
        |code: &str, message: &str| json!({ "success": false, "code": code, "message": message });
    assert_eq!(
        answer["rooms"][&private],
        refused("not_a_member", "You are not a member of this room")
    );
    for none in [nowhere, "nope", ""] {
        assert_eq!(
            answer["rooms"][none],
            refused("room_not_found", "No room exists for this id")
        );
    }
    alice.says(&private, "more secrets").await;
    socket.hears_nothing_more().await;
    bob.get(&format!("/room/{private}/sync"))
        .await
        .refused(403, "You are not a member of this room");
    bob.get(&format!("/room/{nowhere}/sync"))
        .await
        .refused(400, "No room exists for this id");
    server
        .get(&format!("/room/{room}/sync"))
        .await
        .refused(400, "No access token provided");
    let mut nobody = Socket::connect(&server.base).await;
    assert_eq!(
        nobody
            .is_refused("sync", json!([{ "rooms": { &room: 0 } }]))
            .await,
        "Please say who you are with identity first"
    );
}

#[tokio::test]
async fn in_secure_mode_sync_does_not_reveal_whether_a_room_exists() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, stranger] = [
        server.registered("Alice", "consumer").await,
        server.registered("Stranger", "consumer").await,
    ];
    let room = alice.room_with(&[]).await;
    let nowhere = "0199d1f0c0de7aaa8bbbccccddddeeee";
    let mut socket = Socket::signed_in(&stranger).await;
    let answer = socket
        .asks(
            "sync",
            json!([{ "rooms": { &room: 0, nowhere: 0, "nope": 0 } }]),
        )
        .await;
    let refused = json!({ "success": false, "code": "not_a_member", "message": "You are not a member of this room" });
    assert_eq!(
        answer,
        json!({ "success": true, "rooms": { &room: refused, nowhere: refused, "nope": refused } })
    );
    for room in [&room, nowhere, "nope"] {
        stranger
            .get(&format!("/room/{room}/sync"))
            .await
            .refused(403, "You are not a member of this room");
    }
    alice.says(&room, "secret").await;
    socket.hears_nothing_more().await;
}

#[tokio::test]
async fn an_invalid_sync_is_refused_without_ending_the_connection() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (_, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::by(&bob).await;
    for wrong in [
        json!([]),
        json!([null]),
        json!([room]),
        json!([{}]),
        json!([{ "rooms": null }]),
        json!([{ "rooms": [room] }]),
        json!([{ "rooms": { &room: "1" } }]),
        json!([{ "rooms": { &room: -1 } }]),
        json!([{ "rooms": { &room: 1.5 } }]),
        json!([{ "rooms": { &room: null } }]),
        json!([{ "rooms": { &room: { "$gt": 0 } } }]),
    ] {
        assert!(
            socket
                .is_refused("sync", wrong)
                .await
                .contains("sync takes")
        );
    }
    let many: serde_json::Map<_, _> = (0..1_001)
        .map(|n| (format!("{n:032x}"), json!(0)))
        .collect();
    assert!(
        socket
            .is_refused("sync", json!([{ "rooms": many }]))
            .await
            .contains("at most 1000")
    );
    assert_eq!(
        socket
            .asks("sync", json!([{ "rooms": { &room: 0 } }]))
            .await["rooms"][&room]["lastSeq"],
        0
    );
}

/// A client's view of a room: the entries that it has received from `sync` and from events.
struct View {
    seq: u64,
    messages: Vec<Value>,
}

impl View {
    fn takes(&mut self, seq: &Value, message: Value) {
        self.seq += 1;
        assert_eq!(seq.as_u64(), Some(self.seq), "missed or heard twice");
        self.messages.push(message);
    }
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_sync_under_load_miss_and_repeat_nothing(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let posting: Vec<_> = (0..4)
        .map(|n| {
            let (person, room) = ([&alice, &bob][n % 2].clone(), room.clone());
            tokio::spawn(async move {
                for k in 0..100 {
                    let post = person.says(&room, &format!("{n}:{k}")).await;
                    match k % 10 {
                        3 => _ = person.edits(&room, &post["postId"], "edited").await.ok(),
                        7 => _ = person.deletes(&post["postId"]).await,
                        _ => {}
                    }
                }
            })
        })
        .collect();
    let last = 4 * 120;
    let syncing: Vec<_> = (0..6)
        .map(|n| {
            let (person, room) = ([&alice, &bob][n % 2].clone(), room.clone());
            tokio::spawn(async move {
                let mut view = View {
                    seq: 0,
                    messages: Vec::new(),
                };
                while view.seq < last {
                    // Each connection receives some events and is then dropped.
                    let mut socket = Socket::by(&person).await;
                    let answer = socket
                        .asks("sync", json!([{ "rooms": { &room: view.seq } }]))
                        .await;
                    for entry in answer["rooms"][&room]["entries"].as_array().unwrap() {
                        view.takes(&entry["seq"], entry["messageId"].clone());
                    }
                    assert_eq!(answer["rooms"][&room]["lastSeq"], view.seq);
                    let until = last.min(view.seq + 1 + n as u64 * 5);
                    while view.seq < until {
                        let event = socket.hears().await;
                        match event[0].as_str().unwrap() {
                            "new message" => view.takes(
                                &event[1]["message"]["seq"],
                                event[1]["message"]["postId"].clone(),
                            ),
                            "message edited" => {
                                view.takes(&event[1]["seq"], event[1]["message"]["postId"].clone());
                            }
                            "message deleted" => {
                                view.takes(&event[1]["seq"], event[1]["messageId"].clone());
                            }
                            _ => panic!("{event}"),
                        }
                    }
                }
                view.messages
            })
        })
        .collect();
    for poster in posting {
        poster.await.unwrap();
    }
    let log = alice.syncs(&room, "?limit=500").await;
    let ids: Vec<_> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["messageId"].clone())
        .collect();
    assert_eq!(ids.len() as u64, last);
    for client in syncing {
        assert_eq!(
            client.await.unwrap(),
            ids,
            "what was built from sync and events alone is the log"
        );
    }
}

#[tokio::test]
async fn a_log_longer_than_one_response_is_fetched_by_page() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut sender = Socket::by(&alice).await;
    for n in 1..1_100 {
        sender
            .send(&format!(
                "42{}",
                json!(["send message", { "chatRoomId": room, "messageText": n.to_string() }])
            ))
            .await;
    }
    // The server processes the events of one socket in order.
    let last = sender
        .asks(
            "send message",
            json!([{ "chatRoomId": room, "messageText": "last" }]),
        )
        .await;
    assert_eq!(last["post"]["seq"], 1_100);
    let mut socket = Socket::by(&bob).await;
    let answer = socket
        .asks("sync", json!([{ "rooms": { &room: 0 } }]))
        .await["rooms"][&room]
        .take();
    assert_eq!(
        (seqs(&answer), &answer["hasMore"], &answer["lastSeq"]),
        ((1..=1_000).collect(), &json!(true), &json!(1_100))
    );
    let live = alice.says(&room, "live").await;
    assert_eq!(socket.hears_post().await, live);
    let rest = bob.syncs(&room, "?since=1000").await;
    assert_eq!(
        (seqs(&rest), &rest["hasMore"]),
        ((1_001..=1_101).collect(), &json!(false))
    );
}

#[tokio::test]
async fn a_slow_reader_is_disconnected_and_catches_up() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_SOCKET__MAX_WAITING_EVENTS", "16")],
    )
    .await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut sleeper = Socket::by(&bob).await;
    sleeper
        .asks("sync", json!([{ "rooms": { &room: 0 } }]))
        .await;
    // Far more than the buffers at both ends of a connection hold.
    let text = "x".repeat(90_000);
    let last = 300;
    for _ in 0..last {
        alice.says(&room, &text).await;
    }
    let mut seq = 0;
    while let Some(packet) = sleeper.receive().await {
        if packet == "41" {
            break;
        }
        let event: Value = serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
        if event[0] == "new message" {
            seq += 1;
            assert_eq!(event[1]["message"]["seq"], seq, "what is heard has no hole");
        }
    }
    assert!(seq < last);
    let mut socket = Socket::by(&bob).await;
    let answer = socket
        .asks("sync", json!([{ "rooms": { &room: seq } }]))
        .await["rooms"][&room]
        .take();
    assert_eq!(
        (&answer["hasMore"], &answer["lastSeq"]),
        (&json!(true), &json!(last)),
        "an answer of 27 MB is too much"
    );
    let mut caught_up = seqs(&answer);
    let post = alice.says(&room, "live again").await;
    while *caught_up.last().unwrap() < last {
        let page = bob
            .syncs(&room, &format!("?since={}", caught_up.last().unwrap()))
            .await;
        assert!(seqs(&page).len() < 60);
        caught_up.extend(seqs(&page).into_iter().filter(|seq| *seq <= last));
    }
    assert_eq!(caught_up, (seq + 1..=last).collect::<Vec<_>>());
    assert_eq!(socket.hears_post().await, post);
}
