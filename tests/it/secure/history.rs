//! Rooms where history is hidden from members who join later.

use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, person::Person, search::texts, wire::Socket},
};

/// Creates a room of Alice in which messages were posted, edited and deleted before Carol joined,
/// and posted afterwards.
async fn with_a_latecomer(server: &TestServer) -> (Person, Person, String) {
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    for n in 1..=3 {
        alice.says(&room, &format!("old word {n}")).await;
    }
    bob.says(&room, "old word 4").await;
    alice.adds(&room, &[&carol]).await.ok();
    alice.says(&room, "new word 6").await;
    bob.says(&room, "new word 7").await;
    (alice, carol, room)
}

async fn finds(person: &Person, path: &str) -> Vec<String> {
    texts(&person.get(path).await.ok())
}

#[tokio::test]
async fn by_default_a_new_member_sees_the_whole_history() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (_, carol, room) = with_a_latecomer(&server).await;
    assert_eq!(carol.reads(&room, "").await.len(), 6);
    assert_eq!(
        carol.syncs(&room, "").await["entries"]
            .as_array()
            .unwrap()
            .len(),
        7
    );
    assert_eq!(
        finds(&carol, &format!("/room/{room}/search?q=word"))
            .await
            .len(),
        6
    );
    assert_eq!(finds(&carol, "/room/search?q=word").await.len(), 6);
}

#[apply(each_store)]
#[tokio::test]
async fn with_history_from_joining_earlier_messages_are_hidden(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__HISTORY", "from joining")]).await;
    let (alice, carol, room) = with_a_latecomer(&server).await;
    let new = ["new word 6", "new word 7"];
    for query in [
        "",
        "?after=0",
        "?after=2",
        "?before=99",
        "?limit=2",
        "?before=8&limit=3",
    ] {
        assert_eq!(carol.reads(&room, query).await, new, "{query}");
    }
    for query in ["?before=5", "?before=3", "?page=1&limit=2", "?page=1"] {
        assert_eq!(
            carol.reads(&room, query).await,
            Vec::<String>::new(),
            "{query}"
        );
    }
    for (query, has_more) in [
        ("?limit=1", true),
        ("?limit=2", false),
        ("?before=7&limit=1", false),
        ("?after=0&limit=1", true),
    ] {
        assert_eq!(
            carol.get(&format!("/room/{room}{query}")).await.ok()["hasMore"],
            has_more,
            "{query}"
        );
    }
    let page = carol.syncs(&room, "").await;
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(
        entries
            .iter()
            .map(|entry| &entry["seq"])
            .collect::<Vec<_>>(),
        [5, 6, 7]
    );
    assert_eq!(
        (&entries[0]["type"], &entries[0]["userId"]),
        (&json!("member added"), &json!(carol.id))
    );
    assert_eq!(
        carol.syncs(&room, "?since=99").await["entries"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let mut socket = Socket::by(&carol).await;
    let answer = socket
        .asks("sync", json!([{ "rooms": { &room: 0 } }]))
        .await;
    assert_eq!(
        answer["rooms"][&room]["entries"].as_array().unwrap().len(),
        3
    );
    for path in [
        format!("/room/{room}/search?q=word"),
        "/room/search?q=word".to_owned(),
    ] {
        assert_eq!(finds(&carol, &path).await, ["new word 7", "new word 6"]);
        assert_eq!(finds(&alice, &path).await.len(), 6);
    }
    assert_eq!(
        finds(&carol, &format!("/room/{room}/search?q=word&before=6")).await,
        Vec::<String>::new()
    );
    assert_eq!(carol.get("/room/unread").await.ok()["total"], 2);
    assert_eq!(
        alice.reads(&room, "").await.len(),
        6,
        "who was there from the beginning sees all"
    );
    alice.removes(&room, &carol).await.ok();
    alice.says(&room, "word while away").await;
    alice.adds(&room, &[&carol]).await.ok();
    assert_eq!(
        carol.reads(&room, "").await,
        Vec::<String>::new(),
        "who comes back begins anew"
    );
    assert_eq!(
        finds(&carol, "/room/search?q=word").await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn an_edit_does_not_reveal_a_message_from_before_joining() {
    let server =
        TestServer::with(Kind::Sqlite, &[("CAUSERIE_ROOMS__HISTORY", "from joining")]).await;
    let [alice, carol] = [server.person("Alice").await, server.person("Carol").await];
    let room = alice.named_room("room", &[&alice]).await;
    let old = alice.says(&room, "not for Carol").await;
    alice.adds(&room, &[&carol]).await.ok();
    let new = alice.says(&room, "for Carol").await;
    for post in [&old, &new] {
        alice.edits(&room, &post["postId"], "edited").await.ok();
    }
    let page = carol.syncs(&room, "").await;
    let seen: Vec<_> = page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                &entry["messageId"],
                entry.get("message"),
                entry.get("deleted"),
            )
        })
        .collect();
    assert_eq!(
        seen[2],
        (&old["postId"], None, Some(&json!(true))),
        "as one that is gone"
    );
    for (entry, shown) in [(1, &new), (3, &new)] {
        assert_eq!((seen[entry].0, seen[entry].2), (&shown["postId"], None));
        assert_eq!(seen[entry].1.unwrap()["message"]["messageText"], "edited");
    }
    let of_alice = alice.syncs(&room, "").await;
    assert_eq!(
        of_alice["entries"][3]["message"]["message"]["messageText"], "edited",
        "who was there sees it"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn recents_omit_a_latest_message_from_before_joining(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__HISTORY", "from joining")]).await;
    let [alice, carol] = [server.person("Alice").await, server.person("Carol").await];
    let room = alice.named_room("room", &[&alice]).await;
    alice.says(&room, "not for Carol").await;
    alice.adds(&room, &[&carol]).await.ok();
    let text = |recents: Vec<serde_json::Value>| json!(recents).to_string();
    assert!(!text(carol.recents("").await).contains("not for Carol"));
    alice.says(&room, "for Carol").await;
    assert!(text(carol.recents("").await).contains("for Carol"));
    assert!(text(alice.recents("").await).contains("for Carol"));
}
