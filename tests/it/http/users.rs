//! Users: creating, listing, getting, deleting.

use causerie::model::User;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::TestServer,
        store::user,
    },
};

#[tokio::test]
async fn a_new_user_can_be_found() {
    let server = TestServer::start(Kind::Sqlite).await;
    let created = server
        .post(
            "/users",
            &json!({ "firstName": "Élodie 🎉", "lastName": "王", "type": "support" }),
        )
        .await
        .ok()["user"]
        .clone();
    assert_eq!(created["firstName"], "Élodie 🎉");
    assert_eq!(created["lastName"], "王");
    assert_eq!(created["type"], "support");
    assert_eq!(created["createdAt"], created["updatedAt"]);
    let id = created["_id"].as_str().unwrap();
    assert!(
        id.len() == 32
            && id
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
        "{id}"
    );
    assert_eq!(
        server.get(&format!("/users/{id}")).await.ok()["user"],
        created
    );
}

#[tokio::test]
async fn all_invalid_fields_are_reported_at_once() {
    let server = TestServer::start(Kind::Sqlite).await;
    let no_type = "Possible value are consumer,support";
    for (body, errors) in [
        (
            json!({}),
            json!({ "firstName": "please provide a string", "lastName": "please provide a string", "type": no_type }),
        ),
        (
            json!([]),
            json!({ "firstName": "please provide a string", "lastName": "please provide a string", "type": no_type }),
        ),
        (
            json!({ "firstName": null, "lastName": ["a"], "type": "Consumer" }),
            json!({ "firstName": "please provide a string", "lastName": "please provide a string", "type": no_type }),
        ),
        (
            json!({ "firstName": "", "lastName": " \t\u{feff}\u{a0}", "type": "consumer" }),
            json!({ "firstName": "string cannot be empty", "lastName": "string cannot be empty" }),
        ),
        (
            json!({ "firstName": "a", "lastName": "b", "type": ["consumer"] }),
            json!({ "type": no_type }),
        ),
    ] {
        server.post("/users", &body).await.invalid(errors);
    }
}

#[tokio::test]
async fn new_names_are_limited_to_two_hundred_characters() {
    let database = Database::new(Kind::Sqlite).await;
    let store = database.open().await;
    let old = User {
        first_name: "x".repeat(5_000),
        ..user(1)
    };
    store.accounts.add(old.clone(), None).await.unwrap();
    store.database.close().await;
    drop(store);
    let server = TestServer::on(database, &[]).await;
    let (longest, too_long) = ("é".repeat(200), "é".repeat(201));
    let alice = server.person(&longest).await;
    assert_eq!(alice.user["firstName"], *longest);
    let wrong = "please provide 1 to 200 characters";
    let body = json!({ "firstName": too_long, "lastName": too_long, "type": "consumer" });
    server
        .post("/users", &body)
        .await
        .invalid(json!({ "firstName": wrong, "lastName": wrong }));
    let own = format!("/users/{}", alice.id);
    alice
        .calls(Method::PATCH, &own, json!({ "lastName": too_long }))
        .await
        .invalid(json!({ "lastName": wrong }));
    assert_eq!(
        alice
            .calls(Method::PATCH, &own, json!({ "lastName": longest }))
            .await
            .ok()["user"]["lastName"],
        *longest
    );
    assert_eq!(
        server.get(&format!("/users/{}", old.id)).await.ok()["user"]["firstName"],
        *old.first_name
    );
}

#[apply(each_store)]
#[tokio::test]
async fn users_are_listed_oldest_first_and_by_page(kind: Kind) {
    let server = TestServer::start(kind).await;
    assert_eq!(server.get("/users").await.ok()["users"], json!([]));
    // More users than are read at once.
    let mut ids = Vec::new();
    for n in 0..1_001 {
        let user = server
            .post(
                "/users",
                &json!({ "firstName": format!("{n}"), "lastName": "x", "type": "consumer" }),
            )
            .await
            .ok();
        ids.push(user["user"]["_id"].clone());
    }
    let listed = |body: serde_json::Value| {
        body["users"]
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["_id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(server.get("/users").await.ok()), ids);
    assert_eq!(
        listed(server.get("/users?page=2&limit=3").await.ok()),
        ids[6..9]
    );
    assert_eq!(
        listed(server.get("/users?limit=9999").await.ok()),
        ids[..500]
    );
    assert_eq!(listed(server.get("/users?page=1").await.ok()), ids[10..20]);
    assert_eq!(
        listed(server.get("/users?page=-1&limit=-5").await.ok()),
        ids[..10]
    );
    assert_eq!(
        listed(
            server
                .get("/users?page=99999999999999999999&limit=5")
                .await
                .ok()
        ),
        Vec::<serde_json::Value>::new()
    );
}

#[tokio::test]
async fn a_deleted_user_is_not_found_and_can_do_nothing() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let path = format!("/users/{}", alice.id);
    assert_eq!(
        server.delete(&path).await.ok()["message"],
        "Deleted a count of 1 user."
    );
    assert_eq!(
        server.delete(&path).await.ok()["message"],
        "Deleted a count of 0 user."
    );
    let body = server
        .get(&path)
        .await
        .refused(404, "No user with this id found");
    assert_eq!(
        body["error"],
        json!({ "error": "No user with this id found" })
    );
    assert_eq!(server.get("/users").await.ok()["users"], json!([]));
    Answer::of(server.request(Method::POST, &format!("/login/{}", alice.id)))
        .await
        .refused(400, "No user with this id found");
    alice
        .get("/room")
        .await
        .refused(401, "No user with this id found");
}

#[tokio::test]
async fn paths_match_the_contract() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    server.get(&format!("/users/{}/", alice.id)).await.ok();
    server.get("/users/").await.ok();
    alice.get("/room/").await.ok();
    for path in ["/", "/nothing", "/users/a/b", "/room/a/b/c", "/delete"] {
        server
            .get(path)
            .await
            .refused(404, "API endpoint doesnt exist");
    }
    for (method, path, allow) in [
        (Method::PUT, "/users", "GET,HEAD,POST"),
        (Method::PUT, "/users/x", "DELETE,GET,HEAD,PATCH"),
        (Method::GET, "/login/x", "POST"),
        (Method::GET, "/room/initiate", "POST"),
        (Method::POST, "/room/x/mark-read", "PUT"),
        (Method::GET, "/delete/room/x", "DELETE"),
    ] {
        let answer = Answer::of(server.request(method.clone(), path)).await;
        let mut allowed: Vec<_> = answer.headers["allow"]
            .to_str()
            .unwrap()
            .split(',')
            .map(str::to_owned)
            .collect();
        allowed.sort();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
        answer.refused(405, "API endpoint doesnt exist");
    }
    let head = server.request(Method::HEAD, "/users").send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "application/json");
    assert_eq!(head.text().await.unwrap(), "");
}

#[tokio::test]
async fn any_origin_can_call_by_default_or_only_the_configured_ones() {
    let preflight = async |server: &TestServer, origin: &'static str| {
        server
            .request(Method::OPTIONS, "/room")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization, content-type",
            )
            .send()
            .await
            .unwrap()
    };
    let open = TestServer::start(Kind::Sqlite).await;
    let answer = preflight(&open, "https://anywhere.example").await;
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://anywhere.example"
    );
    assert_eq!(
        answer.headers()["access-control-allow-credentials"],
        "true",
        "socket.io 2 polls with credentials"
    );
    assert_eq!(
        answer.headers()["access-control-allow-headers"],
        "authorization, content-type"
    );
    let closed = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_HTTP__CORS_ORIGINS", "https://chat.example.com")],
    )
    .await;
    assert_eq!(
        preflight(&closed, "https://chat.example.com")
            .await
            .headers()["access-control-allow-origin"],
        "https://chat.example.com"
    );
    assert!(
        preflight(&closed, "https://evil.example")
            .await
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
}
