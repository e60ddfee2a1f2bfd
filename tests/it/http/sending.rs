//! Messages that are sent again with the same id.

use futures_util::future::join_all;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tokio::join;

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, wire::Socket},
};

#[tokio::test]
async fn a_message_sent_again_is_the_same_post_and_no_event() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    let first = alice.sends_as(&room, "once", "a-1").await.ok();
    assert_eq!(
        (&first["duplicate"], &first["post"]["clientMessageId"]),
        (&json!(false), &json!("a-1"))
    );
    for text in ["once", "another text"] {
        let again = alice.sends_as(&room, text, "a-1").await.ok();
        assert_eq!(
            (&again["duplicate"], &again["post"]),
            (&json!(true), &first["post"])
        );
    }
    assert_eq!(socket.hears_post().await, first["post"]);
    socket.hears_nothing_more().await;
    assert_eq!(bob.reads(&room, "").await, ["once"]);
    assert_eq!(alice.posts(&room, "next").await.ok()["post"]["seq"], 2);
}

#[tokio::test]
async fn messages_without_a_client_id_are_always_new() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for id in [Value::Null, Value::Null] {
        let body = json!({ "messageText": "same", "clientMessageId": id });
        let answer = alice
            .calls(Method::POST, &format!("/room/{room}/message"), &body)
            .await
            .ok();
        assert_eq!(answer["duplicate"], false);
        assert!(answer["post"].get("clientMessageId").is_none());
    }
    assert_eq!(bob.reads(&room, "").await, ["same", "same"]);
}

#[tokio::test]
async fn the_same_id_of_another_author_or_in_another_room_is_another_message() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let other = alice.named_room("other", &[&bob]).await;
    for (person, room) in [
        (&alice, &room),
        (&bob, &room),
        (&alice, &other),
        (&bob, &other),
    ] {
        assert_eq!(
            person.sends_as(room, &person.id, "1").await.ok()["duplicate"],
            false
        );
    }
    assert_eq!(
        alice.sends_as(&room, "case counts", "a").await.ok()["duplicate"],
        false
    );
    assert_eq!(
        alice.sends_as(&room, "case counts", "A").await.ok()["duplicate"],
        false
    );
    assert_eq!(alice.reads(&room, "").await.len(), 4);
    assert_eq!(alice.reads(&other, "").await, [alice.id.clone(), bob.id]);
}

#[apply(each_store)]
#[tokio::test]
async fn the_same_id_from_many_callers_at_once_is_one_message(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    let calls: Vec<_> = (0..60)
        .map(|n| {
            let (alice, room) = (alice.clone(), room.clone());
            tokio::spawn(async move {
                alice
                    .sends_as(&room, &format!("try {n}"), &format!("id {}", n % 3))
                    .await
                    .ok()
            })
        })
        .collect();
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for call in calls {
        let answer = call.await.unwrap();
        if answer["duplicate"] == true {
            known.push(answer["post"].clone());
        } else {
            new.push(answer["post"].clone());
        }
    }
    assert_eq!((new.len(), known.len()), (3, 57));
    assert!(known.iter().all(|post| new.contains(post)));
    new.sort_by_key(|post| post["seq"].as_u64());
    for post in new {
        assert_eq!(socket.hears_post().await, post);
    }
    socket.hears_nothing_more().await;
}

#[tokio::test]
async fn a_message_sent_again_after_a_restart_a_year_later_is_the_same_post() {
    let mut server =
        TestServer::with(Kind::Sqlite, &[("CAUSERIE_TOKEN__LIFETIME_SECONDS", "0")]).await;
    let (mut alice, mut bob, room) = server.two_in_a_room().await;
    let first = alice.sends_as(&room, "once", "a-1").await.ok()["post"].take();
    bob.says(&room, "in between").await;
    server.turn_clock(366 * 86_400_000);
    server.restart().await;
    for person in [&mut alice, &mut bob] {
        person.base.clone_from(&server.base);
    }
    let again = alice.sends_as(&room, "once", "a-1").await.ok();
    assert_eq!(
        (&again["duplicate"], &again["post"]),
        (&json!(true), &first)
    );
    assert_eq!(bob.reads(&room, "").await, ["once", "in between"]);
}

#[tokio::test]
async fn a_message_sent_again_is_returned_in_its_current_state() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.sends_as(&room, "once", "a-1").await.ok()["post"].take();
    let edited = alice.edits(&room, &post["postId"], "edited").await.ok()["post"].take();
    let again = alice.sends_as(&room, "once", "a-1").await.ok();
    assert_eq!(
        (&again["duplicate"], &again["post"]),
        (&json!(true), &edited)
    );
    assert_eq!(edited["clientMessageId"], "a-1");
    alice.deletes(&post["postId"]).await;
    let again = alice.sends_as(&room, "once", "a-1").await.ok();
    assert_eq!(
        (
            &again["duplicate"],
            &again["post"]["postId"],
            &again["post"]["seq"],
            &again["post"]["deleted"]
        ),
        (&json!(true), &post["postId"], &json!(1), &json!(true))
    );
    assert_eq!(again["post"]["message"], json!({ "messageText": "" }));
    assert_eq!(
        bob.reads(&room, "").await,
        Vec::<String>::new(),
        "what was deleted does not come back"
    );
}

#[tokio::test]
async fn a_message_sent_again_lists_its_current_readers() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    alice.sends_as(&room, "once", "a-1").await.ok();
    server.turn_clock(60_000);
    assert_eq!(bob.marks_read(&room).await, 1);
    let message = alice.get(&format!("/room/{room}")).await.ok()["conversation"][0].take();
    assert_eq!(message["readByRecipients"][1]["readByUserId"], *bob.id);
    let again = alice.sends_as(&room, "once", "a-1").await.ok();
    let sent = json!([{ "chatRoomId": room, "messageText": "once", "clientMessageId": "a-1" }]);
    for again in [
        again,
        Socket::by(&alice).await.asks("send message", sent).await,
    ] {
        assert_eq!(again["duplicate"], true);
        for field in ["readByRecipients", "updatedAt"] {
            assert_eq!(again["post"][field], message[field], "{field}");
        }
    }
}

#[tokio::test]
async fn an_id_is_a_string_of_one_to_64_printable_characters() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let error = json!({ "clientMessageId": "please provide 1 to 64 printable characters" });
    let mut socket = Socket::by(&alice).await;
    for wrong in [
        json!(""),
        json!("x".repeat(65)),
        json!("a\nb"),
        json!("\u{0}"),
        json!("\u{7f}"),
        json!(5),
        json!(["a"]),
        json!({}),
        json!(true),
    ] {
        let body = json!({ "messageText": "hello", "clientMessageId": wrong });
        alice
            .calls(Method::POST, &format!("/room/{room}/message"), &body)
            .await
            .invalid(error.clone());
        let event =
            json!([{ "chatRoomId": room, "messageText": "hello", "clientMessageId": wrong }]);
        assert!(
            socket
                .is_refused("send message", event)
                .await
                .contains("send message takes")
        );
    }
    let both = alice
        .calls(
            Method::POST,
            &format!("/room/{room}/message"),
            &json!({ "clientMessageId": 1 }),
        )
        .await;
    both.invalid(json!({ "messageText": "please provide a string", "clientMessageId": "please provide 1 to 64 printable characters" }));
}

#[tokio::test]
async fn an_id_may_consist_of_any_printable_characters() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    for right in [
        "x",
        " ",
        "$ne",
        "ünïcödé ✨",
        &"é".repeat(64),
        "' OR 1=1 --",
        "a.b",
        "__proto__",
    ] {
        assert_eq!(
            alice.sends_as(&room, "hello", right).await.ok()["duplicate"],
            false,
            "{right}"
        );
        let again = alice.sends_as(&room, "hello", right).await.ok();
        assert_eq!(
            (&again["duplicate"], &again["post"]["clientMessageId"]),
            (&json!(true), &json!(right))
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn long_client_ids_of_any_characters_are_recognized(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for id in ["\u{1f600}".repeat(64), format!("a{}", "日".repeat(63))] {
        let first = alice.sends_as(&room, "once", &id).await.ok();
        assert_eq!(first["duplicate"], false);
        // Concurrent posts share a batch.
        let again = join_all((0..20).map(|_| alice.sends_as(&room, "once", &id)));
        let others = join_all((0..20).map(|_| bob.posts(&room, "another")));
        let (again, others) = join!(again, others);
        for again in again {
            let again = again.ok();
            assert_eq!(
                (&again["duplicate"], &again["post"]),
                (&json!(true), &first["post"])
            );
        }
        let mut seqs: Vec<_> = others
            .into_iter()
            .map(|other| other.ok()["post"]["seq"].as_u64().unwrap())
            .collect();
        seqs.sort_unstable();
        let next = first["post"]["seq"].as_u64().unwrap() + 1;
        assert_eq!(seqs, (next..next + 20).collect::<Vec<_>>());
    }
}
