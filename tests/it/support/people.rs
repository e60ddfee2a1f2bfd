//! Users of a test server: their creation, registration, login and sessions.

use std::{collections::HashMap, ops::Deref};

use causerie::{clock::Clock, config::Config, operator::NewUser};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{answer::Answer, databases::Kind, harness::TestServer, person::Person};

/// The password of all users with a password.
pub const PASSWORD: &str = "tall green kettle";

impl TestServer {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// Creates a user of type consumer and logs in.
    pub async fn person(&self, name: &str) -> Person {
        let user = self
            .post(
                "/users",
                &json!({ "firstName": name, "lastName": "Test", "type": "consumer" }),
            )
            .await
            .ok()["user"]
            .clone();
        let id = user["_id"].as_str().unwrap().to_owned();
        let token = self.log_in(&id).await;
        Person {
            base: self.base.clone(),
            http: self.http.clone(),
            id,
            token,
            user,
        }
    }

    /// Creates Alice and Bob, and a room of both.
    pub async fn two_in_a_room(&self) -> (Person, Person, String) {
        let [alice, bob] = [self.person("Alice").await, self.person("Bob").await];
        let room = alice.room_with(&[&bob]).await;
        (alice, bob, room)
    }

    /// Creates a user of this type with a password, by the `create-user` operation, and logs in.
    pub async fn registered(&self, name: &str, user_type: &str) -> Person {
        let environment = HashMap::from([("CAUSERIE_DATABASE".to_owned(), self.database().url)]);
        let config = Config::load(None, &environment).unwrap();
        let username = name.to_lowercase();
        let new = NewUser::read(user_type, &username, name.into(), "Test".into()).unwrap();
        new.add(PASSWORD.into(), &config, &Clock::system())
            .await
            .unwrap();
        self.session_of(&username).await.person
    }

    pub async fn log_in(&self, id: &str) -> String {
        let answer = Answer::of(self.request(Method::POST, &format!("/login/{id}")))
            .await
            .ok();
        answer["authorization"].as_str().unwrap().to_owned()
    }
}

/// Secure mode, where users have passwords.
impl TestServer {
    pub async fn secure(kind: Kind) -> Self {
        Self::secure_with(kind, &[]).await
    }

    /// Starts a server in secure mode with these settings. Rate limits are off unless the settings
    /// enable them.
    pub async fn secure_with(kind: Kind, settings: &[(&str, &str)]) -> Self {
        Self::with(kind, &[&SECURE, settings].concat()).await
    }

    pub async fn registers(&self, username: &str, kind: &str) -> Answer {
        self.post("/users", &registration(username, kind)).await
    }

    /// Returns the response to a login with this username and password.
    pub async fn enters(&self, username: &str, password: &str) -> Answer {
        self.post(
            "/login",
            &json!({ "username": username, "password": password }),
        )
        .await
    }

    /// Logs in a registered user and returns the session.
    pub async fn session_of(&self, username: &str) -> Member {
        let mut login = self.enters(username, PASSWORD).await.ok();
        let text = |field: &Value| field.as_str().unwrap().to_owned();
        let (token, refresh_token) = (text(&login["authorization"]), text(&login["refreshToken"]));
        let (id, user) = (text(&login["user"]["_id"]), login["user"].take());
        let person = Person {
            base: self.base.clone(),
            http: self.http.clone(),
            id,
            token,
            user,
        };
        Member {
            person,
            refresh_token,
        }
    }

    /// Registers a consumer and logs in.
    pub async fn member(&self, username: &str) -> Member {
        self.registers(username, "consumer").await.ok();
        self.session_of(username).await
    }

    /// Registers Alice and Bob, and creates a room of both that Alice has initiated.
    pub async fn two_members(&self) -> (Member, Member, String) {
        let [alice, bob] = [self.member("alice").await, self.member("bob").await];
        let room = alice.room_with(&[&bob]).await;
        (alice, bob, room)
    }

    /// Creates a support user as the operator and logs in.
    pub async fn support(&self, username: &str) -> Member {
        self.registered(username, "support").await;
        self.session_of(username).await
    }
}

pub const SECURE: [(&str, &str); 10] = [
    ("CAUSERIE_ACCESS", "secure"),
    ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__REFRESHES_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__REGISTRATIONS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__CONNECTIONS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__CONNECTIONS_PER_ADDRESS", "0"),
    ("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__READS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__BYTES_PER_DAY", "0"),
];

pub fn registration(username: &str, kind: &str) -> Value {
    json!({ "firstName": username, "lastName": "Test", "type": kind, "username": username, "password": PASSWORD })
}

/// A user who has logged in with a password.
#[derive(Clone)]
pub struct Member {
    pub person: Person,
    pub refresh_token: String,
}

impl Deref for Member {
    type Target = Person;

    fn deref(&self) -> &Person {
        &self.person
    }
}

impl Member {
    /// Returns the response to the session's refresh token.
    pub async fn refreshes(&self) -> Answer {
        refresh(&self.person, &self.refresh_token).await
    }

    /// Returns the same session with the tokens of this response.
    pub fn with(&self, answer: &Value) -> Self {
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        let person = Person {
            token: text("authorization"),
            ..self.person.clone()
        };
        Self {
            person,
            refresh_token: text("refreshToken"),
        }
    }

    /// Checks that the session has ended.
    pub async fn is_out(&self) {
        self.get("/room").await.refused(401, ENDED);
        self.refreshes().await.refused(401, NO_REFRESH);
    }
}

pub const ENDED: &str = "This session has ended, please log in again";
pub const NO_REFRESH: &str = "The refresh token is not valid, please log in again";

/// Returns the response to this refresh token, which is sent without an access token.
pub async fn refresh(person: &Person, token: &str) -> Answer {
    Answer::of(
        person
            .http
            .post(format!("{}/login/refresh", person.base))
            .json(&json!({ "refreshToken": token })),
    )
    .await
}

impl Member {
    pub async fn logs_out(&self, body: Value) -> u64 {
        self.calls(Method::POST, "/logout", body).await.ok()["endedSessionsCount"]
            .as_u64()
            .unwrap()
    }

    pub async fn lists_sessions(&self) -> Vec<Value> {
        self.get("/sessions").await.ok()["sessions"]
            .as_array()
            .unwrap()
            .clone()
    }

    pub async fn ends_session(&self, id: &str) -> Answer {
        self.calls(Method::DELETE, &format!("/sessions/{id}"), json!({}))
            .await
    }

    /// Returns the id of the session that makes the request.
    pub async fn session(&self) -> String {
        let sessions = self.lists_sessions().await;
        sessions
            .iter()
            .find(|session| session["current"] == true)
            .unwrap()["_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub async fn changes_own_password(&self, old: &str, new: &str) -> Answer {
        let body = json!({ "oldPassword": old, "newPassword": new });
        self.calls(Method::PUT, &format!("/users/{}/password", self.id), body)
            .await
    }

    /// Checks that the session is still valid.
    pub async fn is_in(&self) {
        self.get("/room").await.ok();
    }
}

/// Registers a user and logs in.
pub async fn new_member(base: &str, name: &str) -> Person {
    let http = reqwest::Client::new();
    let user = Answer::of(
        http.post(format!("{base}/users"))
            .json(&registration(name, "consumer")),
    )
    .await
    .ok()["user"]
        .take();
    let login = json!({ "username": name, "password": PASSWORD });
    let login = Answer::of(http.post(format!("{base}/login")).json(&login))
        .await
        .ok();
    let (id, token) = (
        user["_id"].as_str().unwrap().to_owned(),
        login["authorization"].as_str().unwrap().to_owned(),
    );
    Person {
        base: base.to_owned(),
        http,
        id,
        token,
        user,
    }
}

pub const NOT_A_MEMBER: &str = "You are not a member of this room";

pub async fn three_people(server: &TestServer) -> [Person; 3] {
    [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ]
}

pub const NO_TOKEN: &str = "No access token provided";

pub const NOT_TO_DELETE: &str = "This is not yours to delete, or it is not there";

/// An id that does not exist.
pub const NOBODY: &str = "0199d1f0c0de7aaa8bbbccccddddeeee";
