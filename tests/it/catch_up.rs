//! Catching up: `sync` by REST and by socket, without missing or repeated entries.

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{databases::Kind, each_store, harness::TestServer, wire::Socket};

fn seqs(page: &Value) -> Vec<u64> {
    page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["seq"].as_u64().unwrap())
        .collect()
}

fn kinds(page: &Value) -> Vec<&str> {
    page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["type"].as_str().unwrap())
        .collect()
}

#[apply(each_store)]
#[tokio::test]
async fn what_was_missed_comes_in_order_and_in_pieces(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let nothing = json!({ "success": true, "entries": [], "lastSeq": 0, "hasMore": false });
    assert_eq!(bob.syncs(&room, "").await, nothing);
    assert_eq!(bob.syncs(&room, "?since=0").await, nothing);
    for n in 1..=12 {
        alice.says(&room, &n.to_string()).await;
    }
    let from = |from: u64, to: u64| (from..=to).collect::<Vec<_>>();
    for (query, expected, has_more) in [
        ("", from(1, 12), false),
        ("?since=0", from(1, 12), false),
        ("?since=0&limit=5", from(1, 5), true),
        ("?since=5&limit=7", from(6, 12), false),
        ("?since=5&limit=6", from(6, 11), true),
        ("?since=11", from(12, 12), false),
        ("?since=12", vec![], false),
        ("?since=abc&limit=-3", from(1, 12), false),
        ("?since=-4", from(1, 12), false),
        ("?since=3.9&limit=2x", from(4, 5), true),
        ("?since=&limit=0", from(1, 12), false),
    ] {
        let page = bob.syncs(&room, query).await;
        assert_eq!(
            (seqs(&page), &page["hasMore"], &page["lastSeq"]),
            (expected, &json!(has_more), &json!(12)),
            "{query}"
        );
        assert!(page.get("reset").is_none(), "{query}");
    }
}

#[apply(each_store)]
#[tokio::test]
async fn a_page_of_the_log_is_no_longer_than_the_setting_says(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_HTTP__MAX_PAGE", "4")]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for n in 1..=6 {
        alice.says(&room, &n.to_string()).await;
    }
    for query in ["", "?limit=500", "?limit=99999999999999999999"] {
        let page = bob.syncs(&room, query).await;
        assert_eq!(
            (seqs(&page), &page["hasMore"]),
            (vec![1, 2, 3, 4], &json!(true)),
            "{query}"
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_is_ahead_of_the_log_begins_anew(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let empty = bob.syncs(&room, "?since=1").await;
    assert_eq!(
        (seqs(&empty), &empty["reset"], &empty["lastSeq"]),
        (vec![], &json!(true), &json!(0))
    );
    alice.says(&room, "one").await;
    alice.says(&room, "two").await;
    for since in ["3", "99999999999999999999"] {
        let page = bob.syncs(&room, &format!("?since={since}")).await;
        assert_eq!(
            (seqs(&page), &page["reset"], &page["hasMore"]),
            (vec![1, 2], &json!(true), &json!(false))
        );
    }
    let page = bob.syncs(&room, "?since=3&limit=1").await;
    assert_eq!(
        (seqs(&page), &page["reset"], &page["hasMore"]),
        (vec![1], &json!(true), &json!(true))
    );
    let mut socket = Socket::by(&bob).await;
    let answer = socket
        .asks("sync", json!([{ "rooms": { &room: 7 } }]))
        .await;
    assert_eq!(
        (
            seqs(&answer["rooms"][&room]),
            &answer["rooms"][&room]["reset"]
        ),
        (vec![1, 2], &json!(true))
    );
}

#[apply(each_store)]
#[tokio::test]
async fn each_entry_says_what_it_is_and_shows_messages_as_they_are_now(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let room = alice.named_room("first name", &[&bob]).await;
    let one = alice.says(&room, "one").await;
    let two = bob.says(&room, "two").await;
    alice.edits(&room, &one["postId"], "one, edited").await.ok();
    alice.adds(&room, &[&carol]).await.ok();
    alice
        .calls(
            reqwest::Method::PUT,
            &format!("/room/{room}"),
            &json!({ "name": "second name" }),
        )
        .await
        .ok();
    alice
        .edits(&room, &one["postId"], "one, edited again")
        .await
        .ok();
    bob.deletes(&two["postId"]).await;
    alice.removes(&room, &carol).await.ok();
    let page = bob.syncs(&room, "").await;
    assert_eq!(
        kinds(&page),
        [
            "new message",
            "new message",
            "message edited",
            "member added",
            "room changed",
            "message edited",
            "message deleted",
            "member removed"
        ]
    );
    assert_eq!(seqs(&page), (1..=8).collect::<Vec<_>>());
    let entry = |seq: usize| &page["entries"][seq - 1];
    for seq in [1, 3, 6] {
        let message = &entry(seq)["message"];
        assert_eq!(
            (&entry(seq)["messageId"], &message["_id"], &message["seq"]),
            (&one["postId"], &one["postId"], &json!(1))
        );
        assert_eq!(message["message"]["messageText"], "one, edited again");
        assert_eq!(message["editedAt"], entry(6)["createdAt"]);
        assert_eq!(message["postedByUser"], alice.user);
        assert!(entry(seq).get("deleted").is_none());
    }
    // Open mode does not require the client to identify itself for a deletion, so `byUserId` is not
    // checked here.
    assert_eq!(
        (
            &entry(2)["messageId"],
            &entry(2)["deleted"],
            entry(2).get("message")
        ),
        (&two["postId"], &json!(true), None)
    );
    assert_eq!(entry(7)["messageId"], two["postId"]);
    for seq in [4, 8] {
        assert_eq!(
            (&entry(seq)["userId"], &entry(seq)["byUserId"]),
            (&json!(carol.id), &json!(alice.id))
        );
    }
    assert_eq!(
        (&entry(5)["name"], &entry(5)["byUserId"]),
        (&json!("second name"), &json!(alice.id))
    );
    for seq in 1..=8 {
        assert_eq!(entry(seq)["chatRoomId"], *room);
        assert!(entry(seq)["createdAt"].as_str().unwrap().ends_with('Z'));
    }
    assert!(!page.to_string().contains("two"), "the text is gone");
    let mut socket = Socket::by(&bob).await;
    let answer = socket
        .asks("sync", json!([{ "rooms": { &room: 0 } }]))
        .await;
    assert_eq!(
        answer["rooms"][&room]["entries"], page["entries"],
        "sockets read the same"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn who_syncs_by_socket_is_subscribed_from_there_on(kind: Kind) {
    let server = TestServer::start(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn rooms_that_one_may_not_read_are_refused_one_by_one(kind: Kind) {
    let server = TestServer::start(kind).await;
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
    let refused = |message: &str| json!({ "success": false, "message": message });
    assert_eq!(
        answer["rooms"][&private],
        refused("You are not a member of this room")
    );
    for none in [nowhere, "nope", ""] {
        assert_eq!(answer["rooms"][none], refused("No room exists for this id"));
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

#[apply(each_store)]
#[tokio::test]
async fn in_secure_mode_a_stranger_cannot_tell_what_is_there(kind: Kind) {
    let server = TestServer::secure(kind).await;
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
    let refused = json!({ "success": false, "message": "You are not a member of this room" });
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

#[apply(each_store)]
#[tokio::test]
async fn a_wrong_sync_is_refused_and_ends_nothing(kind: Kind) {
    let server = TestServer::start(kind).await;
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
async fn whoever_syncs_in_the_middle_of_it_misses_nothing_and_hears_nothing_twice(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let posting: Vec<_> = (0..4)
        .map(|n| {
            let (person, room) = (
                if n % 2 == 0 {
                    alice.clone()
                } else {
                    bob.clone()
                },
                room.clone(),
            );
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
            let (person, room) = (
                if n % 2 == 0 {
                    alice.clone()
                } else {
                    bob.clone()
                },
                room.clone(),
            );
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
                    let until = last.min(view.seq + 1 + n * 5);
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

#[apply(each_store)]
#[tokio::test]
async fn more_than_fits_into_one_answer_is_fetched_piece_by_piece(kind: Kind) {
    let server = TestServer::start(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_slow_reader_is_disconnected_and_catches_up(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_SOCKET__MAX_WAITING_EVENTS", "16")]).await;
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
