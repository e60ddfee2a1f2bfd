//! Catching up over REST.

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, pages::seqs, wire::Socket},
};

fn kinds(page: &Value) -> Vec<&str> {
    page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["type"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn missed_entries_are_returned_in_order_and_by_page() {
    let server = TestServer::start(Kind::Sqlite).await;
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

#[tokio::test]
async fn the_setting_limits_a_page_of_the_log() {
    let server = TestServer::with(Kind::Sqlite, &[("CAUSERIE_HTTP__MAX_PAGE", "4")]).await;
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

#[tokio::test]
async fn a_client_ahead_of_the_log_is_reset() {
    let server = TestServer::start(Kind::Sqlite).await;
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
async fn entries_have_a_type_and_show_the_current_message(kind: Kind) {
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
