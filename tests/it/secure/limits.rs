//! Rate limits per address and user.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{
    answer::{Answer, limited},
    databases::Kind,
    harness::TestServer,
    limits::{login, registration, secure_server},
    wire::Socket,
};

impl TestServer {
    /// Sends a request through a proxy that reports this client address.
    async fn through_a_proxy(&self, address: &str, path: &str, body: &Value) -> Answer {
        Answer::of(
            self.request(Method::POST, path)
                .header("x-forwarded-for", address)
                .json(body),
        )
        .await
    }

    async fn token(&self, username: &str) -> String {
        self.post("/users", &registration(username)).await.ok();
        let answer = self.post("/login", &login(username)).await.ok();
        format!("Bearer {}", answer["authorization"].as_str().unwrap())
    }
}

#[tokio::test]
async fn login_attempts_are_rate_limited() {
    let server = secure_server(Kind::Sqlite, &[("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "3")]).await;
    let user = server.post("/users", &registration("carol")).await.ok()["user"]["_id"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in [
        "/login".to_owned(),
        format!("/login/{user}"),
        "/login".to_owned(),
    ] {
        let guess = json!({ "username": "carol", "password": "a guess" });
        server
            .post(&path, &guess)
            .await
            .refused(401, "Wrong username or password");
    }
    assert!(
        limited(server.post("/login", &login("carol")).await) > 10,
        "also with the right password"
    );
    limited(
        server
            .post(&format!("/login/{user}"), &login("carol"))
            .await,
    );
}

#[tokio::test]
async fn registrations_from_one_address_are_limited() {
    let server = secure_server(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__REGISTRATIONS_PER_MINUTE", "2")],
    )
    .await;
    server.post("/users", &registration("carol")).await.ok();
    server
        .post("/users", &registration("carol"))
        .await
        .invalid(json!({ "username": "this username is taken" }));
    limited(server.post("/users", &registration("dave")).await);
}

#[tokio::test]
async fn refreshes_from_one_address_are_limited() {
    let server = secure_server(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__REFRESHES_PER_MINUTE", "2")],
    )
    .await;
    let made_up = json!({ "refreshToken": "made up" });
    for _ in 0..2 {
        server
            .post("/login/refresh", &made_up)
            .await
            .refused(401, "The refresh token is not valid, please log in again");
    }
    limited(server.post("/login/refresh", &made_up).await);
}

#[tokio::test]
async fn posts_are_rate_limited_per_user() {
    let server = secure_server(Kind::Sqlite, &[("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "3")]).await;
    let [carol, dave] = [server.token("carol").await, server.token("dave").await];
    let send = async |token: &str, request: RequestBuilder, body: Value| {
        Answer::of(request.header("authorization", token).json(&body)).await
    };
    let me = send(
        &dave,
        server.request(Method::GET, "/users?limit=9"),
        json!({}),
    )
    .await
    .ok();
    let ids: Vec<_> = me["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["_id"].clone())
        .collect();
    let asked = json!({ "userIds": ids, "type": "consumer-to-consumer" });
    let room = send(&dave, server.request(Method::POST, "/room/initiate"), asked)
        .await
        .ok();
    let path = format!(
        "/room/{}/message",
        room["chatRoom"]["chatRoomId"].as_str().unwrap()
    );
    let post = async |token: &str| {
        send(
            token,
            server.request(Method::POST, &path),
            json!({ "messageText": "hello" }),
        )
        .await
    };
    for _ in 0..3 {
        post(&carol).await.ok();
    }
    limited(post(&carol).await);
    post(&dave).await.ok();
}

#[tokio::test]
async fn socket_connections_are_rate_limited() {
    let server = secure_server(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__CONNECTIONS_PER_MINUTE", "2")],
    )
    .await;
    let path = "/socket.io/?EIO=4&transport=polling";
    let open = server.request(Method::GET, path).send().await.unwrap();
    assert_eq!(open.status(), 200);
    let text = open.text().await.unwrap();
    let sid = serde_json::from_str::<Value>(&text[1..]).unwrap()["sid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        server
            .request(Method::GET, path)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    limited(server.get(path).await);
    limited(server.get("/socket.io/?EIO=4&transport=websocket").await);
    // Clients that are connected are not affected.
    let going_on = server
        .request(Method::POST, &format!("{path}&sid={sid}"))
        .body("40")
        .send()
        .await
        .unwrap();
    assert_eq!(going_on.status(), 200);
}

#[tokio::test]
async fn only_trusted_proxies_can_name_the_client_address() {
    let limit = ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "2");
    let behind_a_proxy = secure_server(
        Kind::Sqlite,
        &[limit, ("CAUSERIE_HTTP__TRUSTED_PROXIES", "127.0.0.0/8")],
    )
    .await;
    for address in ["198.51.100.1", "1.1.1.1, 198.51.100.1:4711"] {
        behind_a_proxy
            .through_a_proxy(address, "/login", &login("carol"))
            .await
            .refused(401, "Wrong username or password");
    }
    limited(
        behind_a_proxy
            .through_a_proxy("2.2.2.2,198.51.100.1", "/login", &login("carol"))
            .await,
    );
    behind_a_proxy
        .through_a_proxy("198.51.100.2", "/login", &login("carol"))
        .await
        .refused(401, "Wrong username or password");

    let alone = secure_server(Kind::Sqlite, &[limit]).await;
    for address in ["198.51.100.1", "198.51.100.2"] {
        alone
            .through_a_proxy(address, "/login", &login("carol"))
            .await
            .refused(401, "Wrong username or password");
    }
    limited(
        alone
            .through_a_proxy("198.51.100.3", "/login", &login("carol"))
            .await,
    );
}

#[tokio::test]
async fn open_mode_has_no_limits() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[
            ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__CONNECTIONS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__READS_PER_MINUTE", "1"),
            ("CAUSERIE_LIMITS__BYTES_PER_DAY", "1"),
        ],
    )
    .await;
    let (alice, _, room) = server.two_in_a_room().await;
    for _ in 0..3 {
        alice.posts(&room, "hello").await.ok();
        alice.get("/users?limit=500").await.ok();
        Socket::of(&alice, &room).await;
    }
}
