//! Who may do what with users.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    answer::Answer,
    databases::Kind,
    harness::TestServer,
    people::{NO_TOKEN, NOBODY, NOT_TO_DELETE, PASSWORD, registration},
};

const NOT_YOURS: &str = "You can only change your own account";

#[tokio::test]
async fn anyone_can_register_as_a_consumer_but_only_support_adds_support() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test]
async fn with_closed_registration_only_support_adds_users() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_REGISTRATION", "closed")]).await;
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

#[tokio::test]
async fn users_are_listed_by_page_to_authenticated_users() {
    let server = TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_HTTP__MAX_PAGE", "2")]).await;
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

#[tokio::test]
async fn only_the_user_can_change_names_and_password() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test]
async fn only_the_user_or_support_can_delete_a_user() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test]
async fn a_deleted_user_can_do_nothing() {
    let server = TestServer::secure(Kind::Sqlite).await;
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
