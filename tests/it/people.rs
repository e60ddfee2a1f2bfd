//! The clients of the tests: users that call the REST API.

use std::{borrow::Borrow, collections::HashMap, ops::Deref};

use causerie::{clock::Clock, config::Config, operator::NewUser};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{databases::Kind, harness::TestServer};

/// The password of all users with a password.
pub const PASSWORD: &str = "tall green kettle";

/// A response: status, headers and JSON body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{status} without a JSON body: {text:?}"));
        Self {
            status: status.as_u16(),
            headers,
            body,
        }
    }

    /// Checks that the status is 200 and returns the body.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        assert_eq!(self.body["success"], true, "{}", self.body);
        self.body
    }

    /// Checks the status and message of an error and returns the body.
    #[track_caller]
    pub fn refused(self, status: u16, message: &str) -> Value {
        assert_eq!(
            (self.status, &self.body["message"]),
            (status, &json!(message)),
            "{}",
            self.body
        );
        assert_eq!(self.body["success"], false);
        self.body
    }

    /// Checks that validation failed with exactly these errors.
    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests write the errors down in the call"
    )]
    pub fn invalid(self, errors: Value) {
        let body = self.refused(400, "Kindly fix the error(s)");
        assert_eq!(body["errors"], errors);
    }
}

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

/// A user who is logged in.
#[derive(Clone)]
pub struct Person {
    pub base: String,
    pub http: reqwest::Client,
    pub id: String,
    pub token: String,
    pub user: Value,
}

impl Person {
    /// Returns the same user at another server of the same database.
    pub fn at(&self, server: &TestServer) -> Self {
        Self {
            base: server.base.clone(),
            ..self.clone()
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn initiate(&self, others: &[&Person]) -> Answer {
        let mut ids: Vec<_> = others.iter().map(|person| &person.id).collect();
        if ids.is_empty() {
            // A room with only the user.
            ids.push(&self.id);
        }
        let body = json!({ "userIds": ids, "type": "consumer-to-consumer" });
        Answer::of(self.request(Method::POST, "/room/initiate").json(&body)).await
    }

    /// Initiates the room with these users and returns its id.
    pub async fn room_with(&self, others: &[&Person]) -> String {
        self.initiate(others).await.ok()["chatRoom"]["chatRoomId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Creates a room with a name and returns its id.
    pub async fn named_room(&self, name: &str, others: &[&Person]) -> String {
        let ids: Vec<_> = others.iter().map(|person| &person.id).collect();
        let body = json!({ "userIds": ids, "type": "consumer-to-consumer", "name": name });
        self.calls(Method::POST, "/room/initiate", &body).await.ok()["chatRoom"]["chatRoomId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub async fn calls(&self, method: Method, path: &str, body: impl Borrow<Value>) -> Answer {
        Answer::of(self.request(method, path).json(body.borrow())).await
    }

    pub async fn adds(&self, room: &str, others: &[&Person]) -> Answer {
        let ids: Vec<_> = others.iter().map(|person| &person.id).collect();
        self.calls(
            Method::POST,
            &format!("/room/{room}/members"),
            &json!({ "userIds": ids }),
        )
        .await
    }

    pub async fn removes(&self, room: &str, other: &Person) -> Answer {
        Answer::of(self.request(
            Method::DELETE,
            &format!("/room/{room}/members/{}", other.id),
        ))
        .await
    }

    /// Posts a message and returns the post.
    pub async fn says(&self, room: &str, text: &str) -> Value {
        self.posts(room, text).await.ok()["post"].take()
    }

    pub async fn edits(&self, room: &str, message: &Value, text: &str) -> Answer {
        let path = format!("/room/{room}/message/{}", message.as_str().unwrap());
        self.calls(Method::PUT, &path, &json!({ "messageText": text }))
            .await
    }

    /// Deletes a message and returns the number of deleted messages.
    pub async fn deletes(&self, message: &Value) -> Value {
        let path = format!("/delete/message/{}", message.as_str().unwrap());
        Answer::of(self.request(Method::DELETE, &path)).await.ok()["deletedMessagesCount"].take()
    }

    /// Returns the response of `sync` for this room.
    pub async fn syncs(&self, room: &str, query: &str) -> Value {
        self.get(&format!("/room/{room}/sync{query}")).await.ok()
    }

    pub async fn posts(&self, room: &str, text: &str) -> Answer {
        Answer::of(
            self.request(Method::POST, &format!("/room/{room}/message"))
                .json(&json!({ "messageText": text })),
        )
        .await
    }

    /// Returns the texts on a page of the conversation.
    pub async fn reads(&self, room: &str, query: &str) -> Vec<String> {
        let body = self.get(&format!("/room/{room}{query}")).await.ok();
        let text = |message: &Value| {
            message["message"]["messageText"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        body["conversation"]
            .as_array()
            .unwrap()
            .iter()
            .map(text)
            .collect()
    }

    /// Marks the room as read and returns how many messages became read.
    pub async fn marks_read(&self, room: &str) -> u64 {
        let body = Answer::of(self.request(Method::PUT, &format!("/room/{room}/mark-read")))
            .await
            .ok();
        assert_eq!(body["data"]["n"], body["data"]["nModified"]);
        assert_eq!(body["data"]["ok"], 1);
        body["data"]["n"].as_u64().unwrap()
    }

    pub async fn recents(&self, query: &str) -> Vec<Value> {
        self.get(&format!("/room{query}")).await.ok()["conversation"]
            .as_array()
            .unwrap()
            .clone()
    }
}
