//! The permission table of `access.rs` in secure mode: each row as it is allowed and as it is
//! refused. `secure_sockets` tests sockets.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::Kind,
    each_store,
    harness::TestServer,
    people::{Answer, Member, PASSWORD, Person, registration},
    wire::Socket,
};

pub const NO_TOKEN: &str = "No access token provided";
const NOT_A_MEMBER: &str = "You are not a member of this room";
const NOT_TO_DELETE: &str = "This is not yours to delete, or it is not there";
const NOT_YOURS: &str = "You can only change your own account";
/// An id that does not exist.
pub const NOBODY: &str = "0199d1f0c0de7aaa8bbbccccddddeeee";

#[apply(each_store)]
#[tokio::test]
async fn anyone_registers_as_a_consumer_and_support_users_add_support_users(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let (alice, sue) = (server.member("alice").await, server.support("sue").await);
    let only_support = "Only a support user can register a support user";
    server
        .registers("mallory", "support")
        .await
        .refused(403, only_support);
    alice
        .calls(Method::POST, "/users", registration("mallory", "support"))
        .await
        .refused(403, only_support);
    alice
        .calls(Method::POST, "/users", registration("bob", "consumer"))
        .await
        .ok();
    let added = sue
        .calls(Method::POST, "/users", registration("sam", "support"))
        .await
        .ok();
    assert_eq!(added["user"]["type"], "support");
    server
        .session_of("sam")
        .await
        .calls(Method::POST, "/users", registration("sid", "support"))
        .await
        .ok();

    let without = json!({ "firstName": "Carol", "lastName": "Test", "type": "consumer" });
    let errors = json!({ "username": "please provide 3 to 32 of a-z 0-9 . _ -", "password": "please provide 8 to 256 characters" });
    server.post("/users", &without).await.invalid(errors);
    let mut more = registration("carol", "consumer");
    for field in ["_id", "kind", "userType", "role", "deleted", "createdAt"] {
        more[field] = json!("support");
    }
    assert_eq!(
        server.post("/users", &more).await.ok()["user"]["type"],
        "consumer"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn where_registration_is_closed_support_users_alone_add_users(kind: Kind) {
    let server = TestServer::secure_with(kind, &[("CAUSERIE_REGISTRATION", "closed")]).await;
    let sue = server.support("sue").await;
    server
        .registers("alice", "consumer")
        .await
        .refused(403, "Registration is closed");
    sue.calls(Method::POST, "/users", registration("alice", "consumer"))
        .await
        .ok();
    let alice = server.session_of("alice").await;
    alice
        .calls(Method::POST, "/users", registration("bob", "consumer"))
        .await
        .refused(403, "Registration is closed");
    server
        .enters("bob", PASSWORD)
        .await
        .refused(401, "Wrong username or password");
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_has_a_token_sees_users_page_by_page(kind: Kind) {
    let server = TestServer::secure_with(kind, &[("CAUSERIE_HTTP__MAX_PAGE", "2")]).await;
    let [alice, bob, _] = [
        server.member("alice").await,
        server.member("bob").await,
        server.member("carol").await,
    ];
    let one = format!("/users/{}", bob.id);
    for path in ["/users", "/users?page=0&limit=1", &one] {
        server.get(path).await.refused(400, NO_TOKEN);
        Answer::of(
            server
                .request(Method::GET, path)
                .header("authorization", "Bearer x"),
        )
        .await
        .refused(401, "jwt malformed");
    }
    assert_eq!(alice.get(&one).await.ok()["user"], bob.user);
    for (query, names) in [
        ("", &["alice", "bob"][..]),
        ("?page=1", &["carol"]),
        ("?page=1&limit=1", &["bob"]),
        ("?limit=9", &["alice", "bob"]),
    ] {
        let users = alice.get(&format!("/users{query}")).await.ok()["users"].clone();
        let found: Vec<_> = users
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["firstName"].as_str().unwrap())
            .collect();
        assert_eq!(found, names, "{query}");
    }
}

#[apply(each_store)]
#[tokio::test]
async fn nobody_but_the_user_changes_names_and_password(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob, sue] = [
        server.member("alice").await,
        server.member("bob").await,
        server.support("sue").await,
    ];
    let (own, password) = (
        format!("/users/{}", alice.id),
        format!("/users/{}/password", alice.id),
    );
    let names = json!({ "firstName": "Alicia", "type": "support" });
    let passwords = json!({ "oldPassword": PASSWORD, "newPassword": "short red kettle" });
    for other in [&bob, &sue] {
        other
            .calls(Method::PATCH, &own, names.clone())
            .await
            .refused(403, NOT_YOURS);
        other
            .calls(Method::PUT, &password, passwords.clone())
            .await
            .refused(403, NOT_YOURS);
        other
            .calls(Method::PATCH, &format!("/users/{NOBODY}"), names.clone())
            .await
            .refused(403, NOT_YOURS);
    }
    Answer::of(server.request(Method::PATCH, &own).json(&names))
        .await
        .refused(400, NO_TOKEN);
    Answer::of(server.request(Method::PUT, &password).json(&passwords))
        .await
        .refused(400, NO_TOKEN);
    let renamed = alice.calls(Method::PATCH, &own, names).await.ok();
    assert_eq!(
        (&renamed["user"]["firstName"], &renamed["user"]["type"]),
        (&json!("Alicia"), &json!("consumer"))
    );
    alice.calls(Method::PUT, &password, passwords).await.ok();
}

#[apply(each_store)]
#[tokio::test]
async fn a_user_is_deleted_by_themselves_or_by_support(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob, sue] = [
        server.member("alice").await,
        server.member("bob").await,
        server.support("sue").await,
    ];
    let of = |id: &str| format!("/users/{id}");
    server.delete(&of(&bob.id)).await.refused(400, NO_TOKEN);
    for id in [&*bob.id, &sue.id, NOBODY, "nobody"] {
        alice
            .calls(Method::DELETE, &of(id), json!({}))
            .await
            .refused(403, NOT_TO_DELETE);
    }
    bob.get("/room").await.ok();
    let deleted = alice
        .calls(Method::DELETE, &of(&alice.id), json!({}))
        .await
        .ok();
    assert_eq!(deleted["message"], "Deleted a count of 1 user.");
    for (id, count) in [(&*bob.id, 1), (&bob.id, 0), (NOBODY, 0), ("nobody", 0)] {
        let deleted = sue.calls(Method::DELETE, &of(id), json!({})).await.ok();
        assert_eq!(
            deleted["message"],
            format!("Deleted a count of {count} user."),
            "{id}"
        );
    }
    for username in ["alice", "bob"] {
        server
            .enters(username, PASSWORD)
            .await
            .refused(401, "Wrong username or password");
    }
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_has_a_token_initiates_rooms_and_a_room_with_support_has_support_in_it(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn members_read_post_and_mark_and_nobody_else_does(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_room_is_deleted_by_its_initiator_or_by_support(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_message_is_deleted_by_its_author_or_by_support(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_stranger_cannot_tell_what_is_there_from_what_is_not(kind: Kind) {
    let server = TestServer::secure(kind).await;
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
    assert_eq!(answer, json!({ "success": false, "message": NOT_A_MEMBER }));
    assert_eq!(
        socket.asks("subscribe", json!([room, alice.id])).await,
        answer
    );
}

#[apply(each_store)]
#[tokio::test]
async fn somebody_who_was_deleted_does_nothing_any_more(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let (alice, bob, room) = server.two_members().await;
    let own = bob.room_with(&[]).await;
    let posted = bob.posts(&room, "hello").await.ok();
    let message = posted["post"]["postId"].as_str().unwrap();
    // One session has been used, and the other has only just begun.
    let other = server.session_of("bob").await;
    server
        .support("sue")
        .await
        .calls(Method::DELETE, &format!("/users/{}", bob.id), json!({}))
        .await
        .ok();
    let body = json!({
        "messageText": "too late", "userIds": [alice.id], "type": "consumer-to-consumer",
        "firstName": "Bobby", "oldPassword": PASSWORD, "newPassword": "short red kettle",
    });
    for session in [&bob, &other] {
        for (method, path) in [
            (Method::GET, "/room"),
            (Method::GET, &*format!("/room/{room}")),
            (Method::POST, &format!("/room/{room}/message")),
            (Method::PUT, &format!("/room/{room}/mark-read")),
            (Method::POST, "/room/initiate"),
            (Method::DELETE, &format!("/delete/room/{own}")),
            (Method::DELETE, &format!("/delete/message/{message}")),
            (Method::GET, "/users"),
            (Method::GET, &format!("/users/{}", alice.id)),
            (Method::PATCH, &format!("/users/{}", bob.id)),
            (Method::PUT, &format!("/users/{}/password", bob.id)),
            (Method::DELETE, &format!("/users/{}", bob.id)),
            (Method::GET, "/sessions"),
            (Method::POST, "/logout"),
        ] {
            session
                .calls(method, path, body.clone())
                .await
                .refused(401, "No user with this id found");
        }
        session
            .refreshes()
            .await
            .refused(401, "The refresh token is not valid, please log in again");
    }
    assert_eq!(alice.reads(&room, "").await, ["hello"]);
}
