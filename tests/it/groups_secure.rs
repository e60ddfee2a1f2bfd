//! Rooms that change in secure mode, and rooms where history is hidden from members who join later.

use futures_util::future::join_all;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::json;

use crate::{
    databases::Kind,
    each_store,
    harness::TestServer,
    people::{Answer, Person},
    wire::Socket,
};

const OUT: &str = "You are not a member of this room";
const NOWHERE: &str = "0199d1f0c0de7aaa8bbbccccddddeeee";

async fn refused_everything(person: &Person, room: &str) {
    for path in ["", "/sync", "/search?q=word", "/members", "/presence"] {
        person
            .get(&format!("/room/{room}{path}"))
            .await
            .refused(403, OUT);
    }
    person.posts(room, "hello?").await.refused(403, OUT);
    person
        .edits(room, &json!(NOWHERE), "hello?")
        .await
        .refused(403, OUT);
    person.adds(room, &[person]).await.refused(403, OUT);
    person.removes(room, person).await.refused(403, OUT);
    person
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            &json!({ "name": "mine" }),
        )
        .await
        .refused(403, OUT);
    Answer::of(person.request(Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(403, OUT);
    let refusal = "This is not yours to delete, or it is not there";
    Answer::of(person.request(Method::DELETE, &format!("/delete/room/{room}")))
        .await
        .refused(403, refusal);
    let mut socket = Socket::signed_in(person).await;
    for (event, payload) in [
        ("subscribe", json!([room])),
        (
            "send message",
            json!([{ "chatRoomId": room, "messageText": "hello?" }]),
        ),
        ("mark read", json!([{ "chatRoomId": room }])),
        ("typing", json!([room])),
        ("stop typing", json!([room])),
    ] {
        assert_eq!(socket.is_refused(event, payload).await, OUT, "{event}");
    }
    let answer = socket.asks("sync", json!([{ "rooms": { room: 0 } }])).await;
    assert_eq!(
        answer["rooms"][room],
        json!({ "success": false, "message": OUT })
    );
}

#[apply(each_store)]
#[tokio::test]
async fn who_was_removed_is_refused_everything_and_cannot_tell_that_there_is_a_room(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob, stranger] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
        server.registered("Stranger", "consumer").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    let post = bob.says(&room, "word").await;
    let mut bobs = Socket::signed_in(&bob).await;
    bobs.succeeds("subscribe", json!([room])).await;
    alice.removes(&room, &bob).await.ok();
    assert_eq!(bobs.hears_of("member removed").await["userId"], *bob.id);
    for (person, room) in [
        (&bob, room.as_str()),
        (&stranger, &room),
        (&bob, NOWHERE),
        (&stranger, "nope"),
    ] {
        refused_everything(person, room).await;
    }
    let refusal = "This is not yours to delete, or it is not there";
    let path = format!("/delete/message/{}", post["postId"].as_str().unwrap());
    Answer::of(bob.request(Method::DELETE, &path))
        .await
        .refused(403, refusal);
    alice.says(&room, "word without Bob").await;
    bobs.hears_nothing_more().await;
    assert_eq!(bobs.asks("subscribe", json!([])).await["rooms"], json!([]));
    assert_eq!(
        bob.get("/room/search?q=word").await.ok()["messages"],
        json!([])
    );
    let mut alices = Socket::signed_in(&alice).await;
    assert_eq!(
        alices.is_refused("subscribe", json!([room, bob.id])).await,
        "That user is not a member of this room"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn support_takes_people_out_of_any_room_and_reads_none_of_it(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob, sue] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
        server.registered("Sue", "support").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    let refusal = "Only the initiator of a room or a support user can take others out of it";
    bob.removes(&room, &alice).await.refused(403, refusal);
    sue.get(&format!("/room/{room}")).await.refused(403, OUT);
    assert_eq!(
        sue.removes(&room, &alice).await.ok()["removedMembersCount"],
        1
    );
    alice.removes(&room, &bob).await.refused(403, OUT);
    let refusal = "This is not yours to delete, or it is not there";
    Answer::of(alice.request(Method::DELETE, &format!("/delete/room/{room}")))
        .await
        .refused(403, refusal);
    let page = bob.syncs(&room, "").await;
    assert_eq!(
        (
            &page["entries"][0]["userId"],
            &page["entries"][0]["byUserId"]
        ),
        (&json!(alice.id), &json!(sue.id))
    );
    assert_eq!(
        bob.removes(&room, &bob).await.ok()["removedMembersCount"],
        1
    );
}

#[apply(each_store)]
#[tokio::test]
async fn a_room_with_support_keeps_its_last_support_user_unless_support_decides_otherwise(
    kind: Kind,
) {
    let server = TestServer::secure(kind).await;
    let [alice, bob] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
    ];
    let [sue, sam] = [
        server.registered("Sue", "support").await,
        server.registered("Sam", "support").await,
    ];
    let body = json!({ "userIds": [bob.id, sue.id, sam.id], "type": "consumer-to-support" });
    let initiated = alice
        .calls(Method::POST, "/room/initiate", &body)
        .await
        .ok();
    let room = initiated["chatRoom"]["chatRoomId"].as_str().unwrap();
    assert_eq!(
        alice.removes(room, &sam).await.ok()["removedMembersCount"],
        1,
        "one is left"
    );
    let refusal =
        "Only a support user can take the last support user out of a consumer-to-support room";
    alice.removes(room, &sue).await.refused(403, refusal);
    assert_eq!(
        alice.removes(room, &sam).await.ok()["removedMembersCount"],
        0
    );
    assert_eq!(
        alice.removes(room, &bob).await.ok()["removedMembersCount"],
        1
    );
    assert_eq!(
        sam.removes(room, &sue).await.ok()["removedMembersCount"],
        1,
        "support may"
    );
    alice.adds(room, &[&sue]).await.ok();
    assert_eq!(
        sue.removes(room, &sue).await.ok()["removedMembersCount"],
        1,
        "and go"
    );
    let other = alice.named_room("of consumers", &[&sue]).await;
    assert_eq!(
        alice.removes(&other, &sue).await.ok()["removedMembersCount"],
        1
    );
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_takes_all_support_users_out_at_once_leaves_one(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let alice = server.registered("Alice", "consumer").await;
    let mut support = Vec::new();
    for n in 0..4 {
        support.push(server.registered(&format!("Support{n}"), "support").await);
    }
    let ids: Vec<_> = support.iter().map(|user| &user.id).collect();
    for _ in 0..5 {
        let body = json!({ "name": "help", "userIds": ids, "type": "consumer-to-support" });
        let initiated = alice
            .calls(Method::POST, "/room/initiate", &body)
            .await
            .ok();
        let room = initiated["chatRoom"]["chatRoomId"].as_str().unwrap();
        let answers = join_all(support.iter().map(|user| alice.removes(room, user))).await;
        let refused: Vec<_> = answers
            .into_iter()
            .filter(|answer| answer.status != 200)
            .collect();
        let [refused] = <[_; 1]>::try_from(refused).unwrap();
        refused.refused(
            403,
            "Only a support user can take the last support user out of a consumer-to-support room",
        );
    }
}

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
    let body = person.get(path).await.ok();
    let text = |message: &serde_json::Value| {
        message["message"]["messageText"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect()
}

#[apply(each_store)]
#[tokio::test]
async fn by_default_who_joins_sees_all_of_it(kind: Kind) {
    let server = TestServer::start(kind).await;
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
async fn where_history_begins_with_joining_nothing_before_is_seen(kind: Kind) {
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

#[apply(each_store)]
#[tokio::test]
async fn an_edit_of_a_message_from_before_joining_does_not_show_it(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__HISTORY", "from joining")]).await;
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
async fn a_latest_message_from_before_joining_is_not_among_the_recent_ones(kind: Kind) {
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
