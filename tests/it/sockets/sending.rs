//! Messages that are sent over sockets.

use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, wire::Socket},
};

#[apply(each_store)]
#[tokio::test]
async fn a_message_sent_by_socket_reaches_all_members(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let (mut alices, mut bobs) = (
        Socket::of(&alice, &room).await,
        Socket::of(&bob, &room).await,
    );
    let message =
        json!([{ "chatRoomId": room, "messageText": "by socket", "clientMessageId": "s-1" }]);
    let sent = alices.asks("send message", message.clone()).await;
    assert_eq!(
        (&sent["success"], &sent["duplicate"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        (&sent["post"]["seq"], &sent["post"]["postedByUser"]),
        (&json!(1), &alice.user)
    );
    assert_eq!(sent["post"]["chatRoomInfo"], json!([alice.user, bob.user]));
    for socket in [&mut alices, &mut bobs] {
        assert_eq!(socket.hears_post().await, sent["post"]);
    }
    let again = alices.asks("send message", message).await;
    assert_eq!(
        (&again["duplicate"], &again["post"]),
        (&json!(true), &sent["post"])
    );
    assert_eq!(
        alice.sends_as(&room, "by REST", "s-1").await.ok()["post"],
        sent["post"],
        "the two ways know of one another"
    );
    bobs.hears_nothing_more().await;
    let without = alices
        .asks(
            "send message",
            json!([{ "chatRoomId": room, "messageText": "no id", "clientMessageId": null }]),
        )
        .await;
    assert_eq!(
        (&without["post"]["seq"], &without["duplicate"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(bob.reads(&room, "").await, ["by socket", "no id"]);
}

#[tokio::test]
async fn a_refused_post_is_reported_in_the_acknowledgement() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (_, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    let event = |room: &str| json!([{ "chatRoomId": room, "messageText": "hi" }]);
    let mut nobody = Socket::connect(&server.base).await;
    assert_eq!(
        nobody.is_refused("send message", event(&room)).await,
        "Please say who you are with identity first"
    );
    let mut strangers = Socket::of(&stranger, &room).await;
    assert_eq!(
        strangers.is_refused("send message", event(&room)).await,
        "You are not a member of this room"
    );
    let mut bobs = Socket::by(&bob).await;
    for nowhere in ["nope", "", "0199d1f0c0de7aaa8bbbccccddddeeee"] {
        assert_eq!(
            bobs.is_refused("send message", event(nowhere)).await,
            "No room exists for this id"
        );
    }
    assert_eq!(bob.reads(&room, "").await, Vec::<String>::new());
    server.delete(&format!("/users/{}", bob.id)).await.ok();
    // The sockets of the deleted user were closed.
    while bobs.receive().await.is_some_and(|packet| packet != "41") {}
}

#[tokio::test]
async fn an_invalid_post_is_refused_in_the_acknowledgement() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (_, bob, room) = server.two_in_a_room().await;
    let mut bobs = Socket::by(&bob).await;
    for text in [
        json!(""),
        json!(" \n"),
        json!(5),
        json!(null),
        json!({ "$gt": "" }),
        json!(["a"]),
    ] {
        assert!(
            bobs.is_refused(
                "send message",
                json!([{ "chatRoomId": room, "messageText": text }])
            )
            .await
            .contains("send message takes")
        );
    }
    for wrong in [
        json!([]),
        json!([room]),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!([{ "messageText": "hi" }]),
    ] {
        assert!(
            bobs.is_refused("send message", wrong)
                .await
                .contains("send message takes")
        );
    }
    assert_eq!(bob.reads(&room, "").await, Vec::<String>::new());
}
