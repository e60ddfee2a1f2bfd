//! Edits and deletions: permissions, events, and what remains.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{answer::Answer, databases::Kind, harness::TestServer, wire::Socket};

const NOWHERE: &str = "0199d1f0c0de7aaa8bbbccccddddeeee";

#[tokio::test]
async fn all_members_see_an_edited_message() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut sockets = [
        Socket::of(&alice, &room).await,
        Socket::of(&bob, &room).await,
    ];
    let post = alice.says(&room, "frist").await;
    assert!(post.get("editedAt").is_none());
    server.turn_clock(60_000);
    let edited = alice.edits(&room, &post["postId"], "first").await.ok()["post"].take();
    for field in [
        "_id",
        "postId",
        "chatRoomId",
        "seq",
        "type",
        "postedByUser",
        "chatRoomInfo",
        "createdAt",
    ] {
        assert_eq!(edited[field], post[field], "{field}");
    }
    assert_eq!(edited["message"], json!({ "messageText": "first" }));
    assert!(edited["editedAt"].as_str() > post["createdAt"].as_str());
    assert_eq!(edited["updatedAt"], edited["editedAt"]);
    for socket in &mut sockets {
        assert_eq!(socket.hears_post().await, post);
        assert_eq!(
            socket.hears_of("message edited").await,
            json!({ "message": edited, "seq": 2 })
        );
        socket.hears_nothing_more().await;
    }
}

#[tokio::test]
async fn an_edit_is_shown_in_all_lists_and_makes_nothing_unread() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.says(&room, "frist").await;
    server.turn_clock(60_000);
    let edited = alice.edits(&room, &post["postId"], "first").await.ok()["post"].take();
    let body = bob.get(&format!("/room/{room}")).await.ok();
    let message = &body["conversation"][0];
    assert_eq!(
        (&message["message"], &message["editedAt"]),
        (&edited["message"], &edited["editedAt"])
    );
    assert_eq!((&message["seq"], &body["lastSeq"]), (&json!(1), &json!(2)));
    let recent = bob.recents("").await.remove(0);
    assert_eq!(
        (&recent["message"], &recent["editedAt"]),
        (&edited["message"], &edited["editedAt"])
    );
    assert_eq!(
        (&recent["seq"], &recent["lastSeq"], &recent["unreadCount"]),
        (&json!(1), &json!(2), &json!(1))
    );
    assert_eq!(bob.marks_read(&room).await, 1);
    alice.edits(&room, &post["postId"], "1st").await.ok();
    assert_eq!(
        bob.recents("").await[0]["unreadCount"],
        0,
        "an edit makes nothing unread again"
    );
    assert_eq!(bob.marks_read(&room).await, 0);
}

#[tokio::test]
async fn an_edited_message_lists_the_same_readers_as_the_conversation() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.says(&room, "frist").await;
    assert_eq!(bob.marks_read(&room).await, 1);
    let mut socket = Socket::of(&bob, &room).await;
    server.turn_clock(60_000);
    let edited = alice.edits(&room, &post["postId"], "first").await.ok()["post"].take();
    assert_eq!(socket.hears_of("message edited").await["message"], edited);
    let message = alice.get(&format!("/room/{room}")).await.ok()["conversation"][0].take();
    assert_eq!(message["readByRecipients"][1]["readByUserId"], *bob.id);
    for field in ["readByRecipients", "updatedAt", "editedAt"] {
        assert_eq!(edited[field], message[field], "{field}");
    }
    assert!(edited.get("readCount").is_none());
}

#[tokio::test]
async fn only_the_author_edits_and_only_existing_messages() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    let other = alice.named_room("other", &[&bob]).await;
    let post = alice.says(&room, "mine").await;
    let gone = alice.says(&room, "gone").await;
    alice.deletes(&gone["postId"]).await;
    let mut socket = Socket::of(&bob, &room).await;
    bob.edits(&room, &post["postId"], "not mine")
        .await
        .refused(403, "You can only edit your own messages");
    stranger
        .edits(&room, &post["postId"], "hi")
        .await
        .refused(403, "You are not a member of this room");
    alice
        .edits(&other, &post["postId"], "hi")
        .await
        .refused(404, "No message with this id found");
    alice
        .edits(&room, &gone["postId"], "back again")
        .await
        .refused(404, "No message with this id found");
    for nothing in [NOWHERE, "nope", "%00"] {
        alice
            .edits(&room, &json!(nothing), "hi")
            .await
            .refused(404, "No message with this id found");
    }
    for nowhere in [NOWHERE, "nope"] {
        alice
            .edits(nowhere, &post["postId"], "hi")
            .await
            .refused(400, "No room exists for this id");
    }
    socket.hears_nothing_more().await;
    let body = bob.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        (
            &body["conversation"][0]["message"]["messageText"],
            &body["lastSeq"]
        ),
        (&json!("mine"), &json!(3))
    );
}

#[tokio::test]
async fn an_edit_without_a_text_or_an_access_token_is_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.says(&room, "mine").await;
    let mut socket = Socket::of(&bob, &room).await;
    let path = format!("/room/{room}/message/{}", post["postId"].as_str().unwrap());
    for (body, error) in [
        (json!({}), "please provide a string"),
        (json!({ "messageText": null }), "please provide a string"),
        (json!({ "messageText": ["a"] }), "please provide a string"),
        (
            json!({ "messageText": { "$set": 1 } }),
            "please provide a string",
        ),
        (json!({ "messageText": "" }), "string cannot be empty"),
        (json!({ "messageText": " \t" }), "string cannot be empty"),
    ] {
        alice
            .calls(Method::PUT, &path, &body)
            .await
            .invalid(json!({ "messageText": error }));
    }
    Answer::of(
        server
            .request(Method::PUT, &path)
            .json(&json!({ "messageText": "hi" })),
    )
    .await
    .refused(400, "No access token provided");
    socket.hears_nothing_more().await;
    let body = bob.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        (
            &body["conversation"][0]["message"]["messageText"],
            &body["lastSeq"]
        ),
        (&json!("mine"), &json!(1))
    );
}

#[tokio::test]
async fn in_secure_mode_former_members_cannot_edit_or_delete() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob, stranger] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
        server.registered("Stranger", "consumer").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    let post = bob.says(&room, "said").await;
    let delete = |message: &str| format!("/delete/message/{message}");
    for (room, message) in [
        (room.as_str(), post["postId"].as_str().unwrap()),
        (NOWHERE, NOWHERE),
        ("nope", "nope"),
    ] {
        stranger
            .edits(room, &json!(message), "hi")
            .await
            .refused(403, "You are not a member of this room");
        let refusal = "This is not yours to delete, or it is not there";
        Answer::of(stranger.request(Method::DELETE, &delete(message)))
            .await
            .refused(403, refusal);
    }
    bob.edits(&room, &post["postId"], "said better").await.ok();
    alice
        .edits(&room, &post["postId"], "hi")
        .await
        .refused(403, "You can only edit your own messages");
    alice.removes(&room, &bob).await.ok();
    bob.edits(&room, &post["postId"], "too late")
        .await
        .refused(403, "You are not a member of this room");
    let refusal = "This is not yours to delete, or it is not there";
    Answer::of(bob.request(Method::DELETE, &delete(post["postId"].as_str().unwrap())))
        .await
        .refused(403, refusal);
    assert_eq!(alice.reads(&room, "").await, ["said better"]);
    alice.adds(&room, &[&bob]).await.ok();
    assert_eq!(bob.deletes(&post["postId"]).await, 1);
    let page = alice.syncs(&room, "?since=4").await;
    assert_eq!(
        (&page["entries"][0]["type"], &page["entries"][0]["byUserId"]),
        (&json!("message deleted"), &json!(bob.id))
    );
}

#[tokio::test]
async fn a_deletion_is_announced_and_visible_everywhere_at_once() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    let mut posts = Vec::new();
    for n in 1..=4 {
        posts.push(alice.says(&room, &n.to_string()).await);
        socket.hears_post().await;
    }
    let unread = async || bob.get("/room/unread").await.ok()["total"].clone();
    assert_eq!(unread().await, 4);
    assert_eq!(alice.deletes(&posts[3]["postId"]).await, 1);
    let heard = socket.hears_of("message deleted").await;
    assert_eq!(
        heard,
        json!({ "chatRoomId": room, "messageId": posts[3]["postId"], "seq": 5 })
    );
    assert_eq!(unread().await, 3);
    assert_eq!(bob.reads(&room, "").await, ["1", "2", "3"]);
    let recent = bob.recents("").await.remove(0);
    assert_eq!(
        (
            &recent["messageId"],
            &recent["unreadCount"],
            &recent["lastSeq"]
        ),
        (&posts[2]["postId"], &json!(3), &json!(5))
    );
    alice.edits(&room, &posts[1]["postId"], "two").await.ok();
    assert_eq!(alice.deletes(&posts[1]["postId"]).await, 1);
    assert_eq!(alice.deletes(&posts[1]["postId"]).await, 0);
    assert_eq!(socket.hears_of("message edited").await["seq"], 6);
    assert_eq!(socket.hears_of("message deleted").await["seq"], 7);
    socket.hears_nothing_more().await;
    assert_eq!((unread().await, bob.marks_read(&room).await), (json!(2), 2));
    alice.deletes(&posts[0]["postId"]).await;
    assert_eq!(
        unread().await,
        0,
        "what was read and deleted counts nowhere"
    );
    alice.deletes(&posts[2]["postId"]).await;
    assert_eq!(bob.recents("").await, Vec::<Value>::new());
    assert_eq!(
        server.delete(&format!("/delete/room/{room}")).await.ok()["deletedMessagesCount"],
        0
    );
}

#[tokio::test]
async fn concurrent_edits_and_deletions_agree_with_the_log() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for round in 0..20 {
        let post = alice.says(&room, &format!("round {round}")).await;
        let (edit, delete, again) = tokio::join!(
            alice.edits(&room, &post["postId"], "another text"),
            bob.deletes(&post["postId"]),
            alice.deletes(&post["postId"])
        );
        assert_eq!(delete.as_u64().unwrap() + again.as_u64().unwrap(), 1);
        assert!(edit.status == 200 || edit.status == 404, "{}", edit.body);
        alice
            .edits(&room, &post["postId"], "later")
            .await
            .refused(404, "No message with this id found");
    }
    assert_eq!(bob.reads(&room, "").await, Vec::<String>::new());
    let page = bob.syncs(&room, "?limit=500").await;
    let entries = page["entries"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .enumerate()
            .all(|(n, entry)| entry["seq"] == n + 1)
    );
    let text = page.to_string();
    assert!(
        !text.contains("round") && !text.contains("another text"),
        "{text}"
    );
}
