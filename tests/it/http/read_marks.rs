//! Read state: marking up to an entry, events, unread counts.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{answer::Answer, databases::Kind, harness::TestServer, wire::Socket},
};

fn marked(n: u64, last: u64, unread: u64) -> Value {
    json!({ "success": true, "data": { "n": n, "nModified": n, "ok": 1 }, "lastReadSeq": last, "unreadCount": unread })
}

#[tokio::test]
async fn marking_an_entry_read_includes_all_earlier_entries() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for n in 1..=10 {
        let author = if n % 5 == 0 { &bob } else { &alice };
        author.says(&room, &n.to_string()).await;
    }
    assert_eq!(bob.unread().await, (8, vec![(room.clone(), 8, 10)]));
    assert_eq!(alice.unread().await, (2, vec![(room.clone(), 2, 10)]));
    assert_eq!(bob.marks_up_to(&room, json!(3)).await.ok(), marked(3, 3, 5));
    assert_eq!(bob.unread().await, (5, vec![(room.clone(), 5, 10)]));
    assert_eq!(
        bob.marks_up_to(&room, json!(2)).await.ok(),
        marked(0, 3, 5),
        "going back changes nothing"
    );
    assert_eq!(bob.marks_up_to(&room, json!(0)).await.ok(), marked(0, 3, 5));
    assert_eq!(bob.marks_up_to(&room, json!(3)).await.ok(), marked(0, 3, 5));
    assert_eq!(
        bob.marks_up_to(&room, json!(5)).await.ok(),
        marked(1, 5, 4),
        "the fifth is Bob's own"
    );
    assert_eq!(
        bob.marks_up_to(&room, json!(u64::MAX)).await.ok(),
        marked(4, 10, 0),
        "nothing stands beyond the end"
    );
    assert_eq!(bob.unread().await, (0, vec![]));
    alice.says(&room, "11").await;
    assert_eq!(
        bob.unread().await,
        (1, vec![(room.clone(), 1, 11)]),
        "what came later is unread"
    );
    assert_eq!(
        bob.marks_up_to(&room, Value::Null).await.ok(),
        marked(1, 11, 0)
    );
    let body = alice.get(&format!("/room/{room}?limit=20")).await.ok();
    let readers = |n: usize| {
        body["conversation"][n - 1]["readByRecipients"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!([readers(1), readers(10), readers(11)], [2, 1, 2]);
}

#[tokio::test]
async fn invalid_sequence_numbers_are_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    alice.says(&room, "one").await;
    let error = json!({ "upToSeq": "please provide a whole number, 0 or more" });
    let mut socket = Socket::by(&bob).await;
    for wrong in [
        json!("x"),
        json!(""),
        json!(-1),
        json!(1.5),
        json!([1]),
        json!({ "$gt": 0 }),
        json!(true),
        json!("1.5"),
    ] {
        bob.marks_up_to(&room, wrong.clone())
            .await
            .invalid(error.clone());
        let event = json!([{ "chatRoomId": room, "upToSeq": wrong }]);
        assert!(
            socket
                .is_refused("mark read", event)
                .await
                .contains("mark read takes")
        );
    }
    for wrong in [
        json!([]),
        json!([room]),
        json!([null]),
        json!([{}]),
        json!([{ "chatRoomId": 5 }]),
    ] {
        assert!(
            socket
                .is_refused("mark read", wrong)
                .await
                .contains("mark read takes")
        );
    }
    let form = bob
        .request(Method::PUT, &format!("/room/{room}/mark-read"))
        .body("upToSeq=1");
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(
        Answer::of(form).await.ok(),
        marked(1, 1, 0),
        "in a form all is text"
    );
}

#[tokio::test]
async fn a_whole_number_may_be_written_as_a_float() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for n in 1..=4 {
        alice.says(&room, &n.to_string()).await;
    }
    let path = format!("/room/{room}/mark-read");
    let send = async |kind: &str, body: &str| {
        let request = bob
            .request(Method::PUT, &path)
            .header("content-type", kind)
            .body(body.to_owned());
        Answer::of(request).await
    };
    assert_eq!(
        send("application/json", r#"{"upToSeq":1.0}"#).await.ok(),
        marked(1, 1, 3)
    );
    assert_eq!(
        send("application/json", r#"{"upToSeq":0.2e1}"#).await.ok(),
        marked(1, 2, 2)
    );
    assert_eq!(
        send("application/x-www-form-urlencoded", "upToSeq=3.0")
            .await
            .ok(),
        marked(1, 3, 1)
    );
    for (wrong, text) in [
        ("3.5", "please provide a whole number, 0 or more"),
        ("-1.0", "please provide a whole number, 0 or more"),
        ("1e20", "please provide a smaller number"),
        ("99999999999999999999", "please provide a smaller number"),
    ] {
        send("application/json", &format!("{{\"upToSeq\":{wrong}}}"))
            .await
            .invalid(json!({ "upToSeq": text }));
    }
}

#[tokio::test]
async fn a_whole_number_in_an_event_may_be_written_as_a_float() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for n in 1..=4 {
        alice.says(&room, &n.to_string()).await;
    }
    let mut socket = Socket::by(&bob).await;
    let refusal = socket
        .is_refused(
            "mark read",
            json!([{ "chatRoomId": room, "upToSeq": 1e20 }]),
        )
        .await;
    assert!(refusal.contains("a whole number from 0 to"), "{refusal}");
    assert_eq!(
        socket
            .asks("mark read", json!([{ "chatRoomId": room, "upToSeq": 4.0 }]))
            .await["success"],
        true
    );
    let answer = socket
        .asks("sync", json!([{ "rooms": { &room: 2.0 } }]))
        .await;
    assert_eq!(answer["rooms"][&room]["entries"][0]["seq"], 3, "{answer}");
}

#[apply(each_store)]
#[tokio::test]
async fn all_members_are_told_once_who_has_read(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for n in 1..=3 {
        alice.says(&room, &n.to_string()).await;
    }
    let (mut alices, mut bobs) = (
        Socket::of(&alice, &room).await,
        Socket::of(&bob, &room).await,
    );
    bob.marks_up_to(&room, json!(2)).await.ok();
    for socket in [&mut alices, &mut bobs] {
        let mut heard = socket.hears_of("conversation read").await;
        assert!(heard["readAt"].take().as_str().unwrap().ends_with('Z'));
        assert_eq!(
            heard,
            json!({ "chatRoomId": room, "userId": bob.id, "upToSeq": 2, "readAt": null })
        );
    }
    bob.marks_up_to(&room, json!(1)).await.ok();
    bob.marks_up_to(&room, json!(2)).await.ok();
    alices.hears_nothing_more().await;
    let answer = bobs
        .asks("mark read", json!([{ "chatRoomId": room }]))
        .await;
    assert_eq!(answer, marked(1, 3, 0));
    let heard = alices.hears_of("conversation read").await;
    assert_eq!(
        (&heard["userId"], &heard["upToSeq"]),
        (&json!(bob.id), &json!(3))
    );
    let body = alice.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        body["conversation"][2]["readByRecipients"][1]["readAt"], heard["readAt"],
        "the time is the one that all see"
    );
    bobs.asks(
        "mark read",
        json!([{ "chatRoomId": room, "upToSeq": null }]),
    )
    .await;
    alices.hears_nothing_more().await;
}

#[tokio::test]
async fn strangers_cannot_mark_a_room_as_read() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    alice.says(&room, "one").await;
    let mut socket = Socket::of(&stranger, &room).await;
    stranger
        .marks_up_to(&room, json!(1))
        .await
        .refused(403, "You are not a member of this room");
    assert_eq!(
        socket
            .is_refused("mark read", json!([{ "chatRoomId": room }]))
            .await,
        "You are not a member of this room"
    );
    assert_eq!(
        socket
            .is_refused("mark read", json!([{ "chatRoomId": "nope" }]))
            .await,
        "No room exists for this id"
    );
    socket.hears_nothing_more().await;
    assert_eq!(stranger.unread().await, (0, vec![]));
    let mut nobody = Socket::connect(&server.base).await;
    assert_eq!(
        nobody
            .is_refused("mark read", json!([{ "chatRoomId": room }]))
            .await,
        "Please say who you are with identity first"
    );
}
