//! Who may do what with rooms and messages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    answer::Answer,
    databases::Kind,
    harness::TestServer,
    people::{Member, NO_TOKEN, NOBODY, NOT_TO_DELETE, PASSWORD},
    person::Person,
    wire::Socket,
};

const NOT_A_MEMBER: &str = "You are not a member of this room";

#[tokio::test]
async fn initiating_needs_a_token_and_a_support_room_a_support_user() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob, sue] = [
        server.member("alice").await,
        server.member("bob").await,
        server.support("sue").await,
    ];
    let room = |others: &[&Member], kind: &str| json!({ "userIds": others.iter().map(|other| &other.id).collect::<Vec<_>>(), "type": kind });
    let (ours, support) = ("consumer-to-consumer", "consumer-to-support");
    server
        .post("/room/initiate", &room(&[&bob], ours))
        .await
        .refused(400, NO_TOKEN);
    alice
        .calls(Method::POST, "/room/initiate", room(&[&bob], ours))
        .await
        .ok();
    let text = json!({ "userIds": "a consumer-to-support room needs a support user" });
    alice
        .calls(Method::POST, "/room/initiate", room(&[&bob], support))
        .await
        .invalid(text);
    alice
        .calls(Method::POST, "/room/initiate", room(&[&bob, &sue], support))
        .await
        .ok();
    sue.calls(Method::POST, "/room/initiate", room(&[&bob], support))
        .await
        .ok();
}

/// Returns the responses to what members may do in a room.
async fn in_room(person: &Person, room: &str) -> [Answer; 3] {
    [
        person.get(&format!("/room/{room}")).await,
        person.posts(room, "hello").await,
        person
            .calls(Method::PUT, &format!("/room/{room}/mark-read"), json!({}))
            .await,
    ]
}

#[tokio::test]
async fn only_members_can_read_post_and_mark_read() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let [stranger, sue] = [server.member("stranger").await, server.support("sue").await];
    for member in [&alice, &bob] {
        for answer in in_room(member, &room).await {
            answer.ok();
        }
    }
    for outsider in [&stranger, &sue] {
        for id in [&*room, NOBODY, "none"] {
            for answer in in_room(outsider, id).await {
                answer.refused(403, NOT_A_MEMBER);
            }
        }
        assert!(outsider.recents("").await.is_empty());
    }
    for (method, path) in [
        (Method::GET, ""),
        (Method::POST, "/message"),
        (Method::PUT, "/mark-read"),
    ] {
        Answer::of(server.request(method, &format!("/room/{room}{path}")))
            .await
            .refused(400, NO_TOKEN);
    }
    server.get("/room").await.refused(400, NO_TOKEN);
    assert_eq!(
        alice.reads(&room, "").await.len(),
        2,
        "of the members alone"
    );
}

#[tokio::test]
async fn only_the_initiator_or_support_can_delete_a_room() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let [stranger, sue] = [server.member("stranger").await, server.support("sue").await];
    alice.posts(&room, "hello").await.ok();
    let of = |id: &str| format!("/delete/room/{id}");
    server.delete(&of(&room)).await.refused(400, NO_TOKEN);
    for other in [&bob, &stranger] {
        for id in [&*room, NOBODY, "none"] {
            other
                .calls(Method::DELETE, &of(id), json!({}))
                .await
                .refused(403, NOT_TO_DELETE);
        }
    }
    assert_eq!(alice.reads(&room, "").await, ["hello"]);
    let deleted = alice
        .calls(Method::DELETE, &of(&room), json!({}))
        .await
        .ok();
    assert_eq!(
        (
            &deleted["deletedRoomsCount"],
            &deleted["deletedMessagesCount"]
        ),
        (&json!(1), &json!(1))
    );
    alice
        .calls(Method::DELETE, &of(&room), json!({}))
        .await
        .refused(403, NOT_TO_DELETE);
    let room = bob.room_with(&[&alice]).await;
    for (id, count) in [(&*room, 1), (&room, 0), (NOBODY, 0), ("none", 0)] {
        assert_eq!(
            sue.calls(Method::DELETE, &of(id), json!({})).await.ok()["deletedRoomsCount"],
            count,
            "{id}"
        );
    }
}

#[tokio::test]
async fn only_the_author_or_support_can_delete_a_message() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let [stranger, sue] = [server.member("stranger").await, server.support("sue").await];
    for text in ["one", "two"] {
        bob.posts(&room, text).await.ok();
    }
    let conversation = bob.get(&format!("/room/{room}")).await.ok()["conversation"].clone();
    let of = |id: &Value| format!("/delete/message/{}", id.as_str().unwrap());
    let [one, two] = [of(&conversation[0]["_id"]), of(&conversation[1]["_id"])];
    server.delete(&one).await.refused(400, NO_TOKEN);
    // The initiator of the room is not the author of the message.
    for other in [&alice, &stranger] {
        for path in [&one, &of(&json!(NOBODY)), &of(&json!("none"))] {
            other
                .calls(Method::DELETE, path, json!({}))
                .await
                .refused(403, NOT_TO_DELETE);
        }
    }
    assert_eq!(bob.reads(&room, "").await, ["one", "two"]);
    assert_eq!(
        bob.calls(Method::DELETE, &one, json!({})).await.ok()["deletedMessagesCount"],
        1
    );
    bob.calls(Method::DELETE, &one, json!({}))
        .await
        .refused(403, NOT_TO_DELETE);
    for (path, count) in [
        (&two, 1),
        (&two, 0),
        (&of(&json!(NOBODY)), 0),
        (&of(&json!("none")), 0),
    ] {
        assert_eq!(
            sue.calls(Method::DELETE, path, json!({})).await.ok()["deletedMessagesCount"],
            count,
            "{path}"
        );
    }
    assert!(alice.reads(&room, "").await.is_empty());
}

/// Returns every byte of the response, except for what differs between two responses to the same
/// request.
async fn bytes_of(person: &Person, method: Method, path: &str, body: &Value) -> String {
    let answer = person
        .request(method, path)
        .json(body)
        .send()
        .await
        .unwrap();
    let mut headers = answer.headers().clone();
    for own in ["x-request-id", "date"] {
        headers.remove(own);
    }
    format!(
        "{} {headers:?} {}",
        answer.status(),
        answer.text().await.unwrap()
    )
}

#[tokio::test]
async fn a_stranger_cannot_tell_what_exists() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let stranger = server.member("stranger").await;
    let posted = alice.posts(&room, "hello").await.ok();
    let message = posted["post"]["postId"].as_str().unwrap();
    let gone = bob.room_with(&[]).await;
    server
        .support("sue")
        .await
        .calls(Method::DELETE, &format!("/delete/room/{gone}"), json!({}))
        .await
        .ok();
    for (method, path, there) in [
        (Method::GET, "/room/ID", &*room),
        (Method::GET, "/room/ID?page=1&limit=1", &room),
        (Method::GET, "/room/ID?before=1", &room),
        (Method::POST, "/room/ID/message", &room),
        (Method::PUT, "/room/ID/mark-read", &room),
        (Method::DELETE, "/delete/room/ID", &room),
        (Method::DELETE, "/delete/message/ID", message),
        (Method::DELETE, "/users/ID", &alice.id),
        (Method::PATCH, "/users/ID", &alice.id),
        (Method::PUT, "/users/ID/password", &alice.id),
    ] {
        let body = json!({ "messageText": "hello", "oldPassword": PASSWORD, "newPassword": "short red kettle" });
        let ask = async |id: &str| {
            bytes_of(&stranger, method.clone(), &path.replace("ID", id), &body).await
        };
        let answer = ask(there).await;
        assert!(answer.starts_with("403"), "{method} {path}: {answer}");
        for absent in [NOBODY, &gone, "none", &there[1..], &there.to_uppercase()] {
            assert_eq!(ask(absent).await, answer, "{method} {path} {absent}");
        }
    }
    let mut socket = Socket::signed_in(&stranger).await;
    let answer = socket.asks("subscribe", json!([room])).await;
    for absent in [NOBODY, &gone, "none", ""] {
        assert_eq!(socket.asks("subscribe", json!([absent])).await, answer);
        assert_eq!(
            socket.asks("subscribe", json!([absent, alice.id])).await,
            answer
        );
    }
    assert_eq!(
        answer,
        json!({ "success": false, "code": "not_a_member", "message": NOT_A_MEMBER })
    );
    assert_eq!(
        socket.asks("subscribe", json!([room, alice.id])).await,
        answer
    );
}
