//! Accounts: usernames, passwords and changes of name.

use futures_util::future::join_all;
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::TestServer,
        person::Person,
        program::Program,
    },
};

const PASSWORD: &str = "tall green kettle";
const USERNAME_TEXT: &str = "please provide 3 to 32 of a-z 0-9 . _ -";
const PASSWORD_TEXT: &str = "please provide 8 to 256 characters";
/// White space only, of a length that a password may have.
const BLANK: &str = "\t \u{a0}\u{2003}\t\u{3000}\u{2009} \u{2028}\n\u{feff}";
const BLANK_TEXT: &str = "this password is nothing but white space";
const EASY_TEXT: &str = "this password is too easy to guess";

fn registration(username: &str, password: &str) -> Value {
    json!({ "firstName": "Carol", "lastName": "Test", "type": "consumer", "username": username, "password": password })
}

impl TestServer {
    async fn register(&self, username: &str) -> Value {
        self.post("/users", &registration(username, PASSWORD))
            .await
            .ok()["user"]
            .clone()
    }

    async fn log_in_with(&self, username: &str, password: &str) -> Answer {
        self.post(
            "/login",
            &json!({ "username": username, "password": password }),
        )
        .await
    }

    /// Registers a user with a password and logs in with it.
    async fn account(&self, username: &str) -> Person {
        self.register(username).await;
        let mut login = self.log_in_with(username, PASSWORD).await.ok();
        let (user, token) = (
            login["user"].take(),
            login["authorization"].as_str().unwrap().to_owned(),
        );
        let id = user["_id"].as_str().unwrap().to_owned();
        Person {
            base: self.base.clone(),
            http: self.http.clone(),
            id,
            token,
            user,
        }
    }
}

impl Person {
    async fn changes_password(&self, old: &str, new: &str) -> Answer {
        let body = json!({ "oldPassword": old, "newPassword": new });
        self.calls(Method::PUT, &format!("/users/{}/password", self.id), body)
            .await
    }
}

#[tokio::test]
async fn a_registered_user_logs_in_with_the_password() {
    let server = TestServer::start(Kind::Sqlite).await;
    let registered = server.register("Carol.Jones").await;
    assert_eq!(registered["username"], "carol.jones");
    assert_eq!(
        registered.as_object().unwrap().len(),
        7,
        "no password in {registered}"
    );
    let login = server.log_in_with("carol.JONES", PASSWORD).await.ok();
    assert_eq!(login["user"]["_id"], registered["_id"]);
    let token = login["authorization"].as_str().unwrap();
    Answer::of(
        server
            .request(Method::GET, "/room")
            .header("authorization", format!("Bearer {token}")),
    )
    .await
    .ok();
    let shown = server
        .get(&format!("/users/{}", registered["_id"].as_str().unwrap()))
        .await
        .ok();
    assert_eq!(
        shown["user"].get("username"),
        None,
        "others are not told the username"
    );
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_username_get_the_same_answer() {
    let server = TestServer::start(Kind::Sqlite).await;
    server.register("carol").await;
    for (username, password) in [
        ("carol", "tall green kettles"),
        ("carol", "Tall green kettle"),
        ("carole", PASSWORD),
        ("?", PASSWORD),
    ] {
        let answer = server.log_in_with(username, password).await;
        assert_eq!(
            answer.refused(401, "Wrong username or password"),
            json!({ "success": false, "code": "wrong_credentials", "message": "Wrong username or password" })
        );
    }
}

#[tokio::test]
async fn invalid_usernames_and_passwords_are_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    server.register("carol").await;
    for (username, password, field, text) in [
        ("al", PASSWORD, "username", USERNAME_TEXT),
        ("al ice", PASSWORD, "username", USERNAME_TEXT),
        ("dave", "7 chars", "password", PASSWORD_TEXT),
        ("dave", &"é".repeat(257), "password", PASSWORD_TEXT),
        ("dave", BLANK, "password", BLANK_TEXT),
        ("dave", "password1", "password", EASY_TEXT),
        ("dave.miller", "davemiller", "password", EASY_TEXT),
        ("CAROL", PASSWORD, "username", "this username is taken"),
    ] {
        server
            .post("/users", &registration(username, password))
            .await
            .invalid(json!({ field: text }));
    }
    for (field, value) in [
        ("username", json!({ "$gt": "" })),
        ("username", json!(null)),
        ("password", json!({ "$gt": "" })),
    ] {
        let mut body = registration("dave", PASSWORD);
        body[field] = value.clone();
        server.post("/users", &body).await.invalid(
            json!({ field: if field == "username" { USERNAME_TEXT } else { PASSWORD_TEXT } }),
        );
        let mut login = json!({ "username": "carol", "password": PASSWORD });
        login[field] = value;
        server
            .post("/login", &login)
            .await
            .invalid(json!({ field: "please provide a string" }));
    }
    let longest = "é".repeat(255) + "!";
    server
        .post("/users", &registration("dave", &longest))
        .await
        .invalid(json!({ "password": EASY_TEXT }));
    let users = server.get("/users").await.ok();
    assert_eq!(
        users["users"].as_array().unwrap().len(),
        1,
        "refused users are not created"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn concurrent_registrations_of_a_username_create_one_account(kind: Kind) {
    let server = TestServer::start(kind).await;
    let body = registration("carol", PASSWORD);
    let answers = join_all((0..4).map(|_| server.post("/users", &body))).await;
    let (added, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(added.len(), 1);
    for answer in refused {
        answer.invalid(json!({ "username": "this username is taken" }));
    }
    assert_eq!(
        server.get("/users").await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[apply(each_store)]
#[tokio::test]
async fn only_the_user_can_change_their_names(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    alice.posts(&room, "hello").await.ok();
    let own = format!("/users/{}", alice.id);
    server.turn_clock(5);
    let renamed = alice
        .calls(Method::PATCH, &own, json!({ "firstName": "Alicia" }))
        .await
        .ok()["user"]
        .clone();
    assert_eq!(
        (&renamed["firstName"], &renamed["lastName"]),
        (&json!("Alicia"), &alice.user["lastName"])
    );
    assert!(renamed["updatedAt"].as_str() > alice.user["updatedAt"].as_str());
    assert_eq!(server.get(&own).await.ok()["user"], renamed);
    let conversation = bob.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        conversation["conversation"][0]["postedByUser"]["firstName"], "Alicia",
        "messages of before as well"
    );

    alice
        .calls(
            Method::PATCH,
            &own,
            json!({ "firstName": " ", "lastName": 7 }),
        )
        .await
        .invalid(json!({
            "firstName": "string cannot be empty", "lastName": "please provide a string",
        }));
    bob.calls(Method::PATCH, &own, json!({ "firstName": "Mallory" }))
        .await
        .refused(403, "You can only change your own account");
    Answer::of(server.request(Method::PATCH, &own))
        .await
        .refused(400, "No access token provided");
    server.delete(&own).await.ok();
    alice
        .calls(Method::PATCH, &own, json!({ "firstName": "Alice" }))
        .await
        .refused(401, "No user with this id found");
}

#[tokio::test]
async fn changing_a_password_requires_the_old_one() {
    let server = TestServer::start(Kind::Sqlite).await;
    let carol = server.account("carol").await;
    carol
        .changes_password("short red kettle", "short red kettle")
        .await
        .refused(403, "The old password is wrong");
    carol
        .changes_password(PASSWORD, "password1")
        .await
        .invalid(json!({ "newPassword": EASY_TEXT }));
    carol
        .changes_password(PASSWORD, BLANK)
        .await
        .invalid(json!({ "newPassword": BLANK_TEXT }));
    carol
        .changes_password(PASSWORD, "short")
        .await
        .invalid(json!({ "newPassword": PASSWORD_TEXT }));
    server.log_in_with("carol", PASSWORD).await.ok();

    carol
        .changes_password(PASSWORD, "short red kettle")
        .await
        .ok();
    server
        .log_in_with("carol", PASSWORD)
        .await
        .refused(401, "Wrong username or password");
    server.log_in_with("carol", "short red kettle").await.ok();

    let dave = server.account("dave").await;
    let of_another = format!("/users/{}/password", carol.id);
    let body = json!({ "oldPassword": "short red kettle", "newPassword": PASSWORD });
    dave.calls(Method::PUT, &of_another, body)
        .await
        .refused(403, "You can only change your own account");
    let alice = server.person("Alice").await;
    alice
        .changes_password(PASSWORD, "short red kettle")
        .await
        .refused(400, "This user has no password");
}

#[tokio::test]
async fn deleting_a_user_frees_the_username() {
    let server = TestServer::start(Kind::Sqlite).await;
    let carol = server.account("carol").await;
    server.delete(&format!("/users/{}", carol.id)).await.ok();
    server
        .log_in_with("carol", PASSWORD)
        .await
        .refused(401, "Wrong username or password");
    assert_ne!(server.register("carol").await["_id"], *carol.id);
}

#[tokio::test]
async fn passwords_are_neither_in_the_database_nor_in_the_log() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_LOG", "trace")]);
    let http = reqwest::Client::new();
    let post = |path, body: Value| {
        http.post(format!("{}{path}", program.base))
            .json(&body)
            .send()
    };
    assert_eq!(
        post("/users", registration("carol", PASSWORD))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        post(
            "/login",
            json!({ "username": "carol", "password": PASSWORD })
        )
        .await
        .unwrap()
        .status(),
        200
    );
    program.signal("TERM");
    program.ended().await;
    for file in ["log", "data/causerie.db"] {
        let bytes = std::fs::read(folder.path().join(file)).unwrap();
        let holds = |text: &str| {
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(!holds(PASSWORD), "{file}");
        assert_eq!(holds("$argon2id$"), file != "log", "{file}");
    }
}

#[tokio::test]
async fn a_database_without_accounts_is_migrated() {
    let database = Database::new(Kind::Sqlite).await;
    let file = rusqlite::Connection::open(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(include_str!(
        "../../../src/store/sqlite/migrations/0001_initial.sql"
    ))
    .unwrap();
    file.execute_batch(
        "PRAGMA application_id = 0x43617573; PRAGMA user_version = 1;
         INSERT INTO users VALUES (x'0199d1f0c0de7aaa8bbbccccddddeeee', 'Old', 'Timer', 'consumer', 1, 1, 0);",
    )
    .unwrap();
    drop(file);
    let mut server = TestServer::on(database, &[]).await;
    server.register("carol").await;
    server.restart().await;
    server.log_in_with("carol", PASSWORD).await.ok();
    let users = server.get("/users").await.ok();
    let names: Vec<_> = users["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["firstName"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Old", "Carol"]);
}
