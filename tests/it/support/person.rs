//! Users that call the REST API.

use std::{borrow::Borrow, collections::HashMap};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{answer::Answer, harness::TestServer};

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

pub async fn new_person(base: &str, name: &str) -> Person {
    let http = reqwest::Client::new();
    let body = json!({ "firstName": name, "lastName": "Test", "type": "consumer" });
    let user = Answer::of(http.post(format!("{base}/users")).json(&body))
        .await
        .ok()["user"]
        .clone();
    let id = user["_id"].as_str().unwrap().to_owned();
    let login = Answer::of(http.post(format!("{base}/login/{id}")))
        .await
        .ok();
    Person {
        base: base.to_owned(),
        http,
        id,
        token: login["authorization"].as_str().unwrap().to_owned(),
        user,
    }
}

/// Returns the texts of a room's log with their sequence numbers, and checks that these have no
/// gaps.
pub async fn log_of(reader: &Person, room: &str) -> HashMap<String, u64> {
    let (mut texts, mut last) = (HashMap::new(), 0);
    loop {
        let page = reader
            .get(&format!("/room/{room}?after={last}&limit=500"))
            .await
            .ok()["conversation"]
            .clone();
        for message in page.as_array().unwrap() {
            last += 1;
            assert_eq!(message["seq"], last, "the numbers have a hole or a repeat");
            let text = message["message"]["messageText"]
                .as_str()
                .unwrap()
                .to_owned();
            assert_eq!(
                texts.insert(text, last),
                None,
                "a message stands there twice"
            );
        }
        if page.as_array().unwrap().is_empty() {
            return texts;
        }
    }
}

impl Person {
    /// Returns the users in the room, with whether they are online and when they were last seen.
    pub async fn sees(&self, room: &str) -> Vec<Value> {
        self.get(&format!("/room/{room}/presence")).await.ok()["users"]
            .as_array()
            .unwrap()
            .clone()
    }
}

impl Person {
    pub async fn marks_up_to(&self, room: &str, seq: Value) -> Answer {
        self.calls(
            Method::PUT,
            &format!("/room/{room}/mark-read"),
            &json!({ "upToSeq": seq }),
        )
        .await
    }

    /// Returns the total, and for each room its id, unread count and last sequence number.
    pub async fn unread(&self) -> (u64, Vec<(String, u64, u64)>) {
        let body = self.get("/room/unread").await.ok();
        let room = |room: &Value| {
            let number = |field: &str| room[field].as_u64().unwrap();
            (
                room["chatRoomId"].as_str().unwrap().to_owned(),
                number("unreadCount"),
                number("lastSeq"),
            )
        };
        (
            body["total"].as_u64().unwrap(),
            body["rooms"].as_array().unwrap().iter().map(room).collect(),
        )
    }
}

impl Person {
    pub async fn sends_as(&self, room: &str, text: &str, client_id: &str) -> Answer {
        let body = json!({ "messageText": text, "clientMessageId": client_id });
        self.calls(Method::POST, &format!("/room/{room}/message"), &body)
            .await
    }
}
