//! A conversation that has everything that a database can have.

use std::collections::HashMap;

use causerie::{
    config::Config,
    model::{Timestamp, UserId},
    store,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{databases::Database, harness::TestServer, person::Person};

/// Three people with a conversation that has everything that a log can have.
pub struct Conversation {
    pub people: [Person; 3],
    pub pair: String,
    pub group: String,
    pub large: String,
    /// The post with a client id.
    pub with_client_id: Value,
}

impl Conversation {
    pub async fn on(server: &TestServer) -> Self {
        let people = [
            server.person("Alice").await,
            server.person("Bob").await,
            server.person("Carol").await,
        ];
        let [alice, bob, carol] = &people;
        let (pair, with_client_id) = pair(alice, bob).await;
        let group = group(server, alice, bob, carol).await;
        // Without messages.
        alice.room_with(&[carol]).await;
        let large = large(server, alice).await;
        let deleted = alice.named_room("short-lived", &[bob]).await;
        alice.says(&deleted, "gone").await;
        server.delete(&format!("/delete/room/{deleted}")).await.ok();
        saw(&server.database(), bob).await;
        Self {
            people,
            pair,
            group,
            large,
            with_client_id,
        }
    }

    /// Returns the same at another server.
    pub fn at(&self, server: &TestServer) -> Self {
        Self {
            people: self.people.each_ref().map(|person| person.at(server)),
            pair: self.pair.clone(),
            group: self.group.clone(),
            large: self.large.clone(),
            with_client_id: self.with_client_id.clone(),
        }
    }

    /// Returns everything that the three can read.
    pub async fn view(&self) -> Vec<(String, Value)> {
        let mut paths = vec![
            "/room".to_owned(),
            "/room/search?q=train".to_owned(),
            "/users?limit=500".to_owned(),
        ];
        for room in [&self.pair, &self.group, &self.large] {
            for query in [
                "?limit=100",
                "/sync?since=0&limit=1000",
                "/search?q=train",
                "/search?q=brulee",
                "/members?limit=500",
                "/presence",
            ] {
                paths.push(format!("/room/{room}{query}"));
            }
        }
        let mut seen = Vec::new();
        for person in &self.people {
            for path in &paths {
                let answer = person.get(path).await;
                // A person who is not in a room is told so.
                let mut body = answer.body;
                if let Some(body) = body.as_object_mut() {
                    body.remove("requestId");
                }
                seen.push((format!("{} {path}", person.id), body));
            }
            let (total, mut unread) = person.unread().await;
            unread.sort_unstable();
            seen.push((format!("{} unread", person.id), json!([total, unread])));
        }
        seen
    }
}

/// A room of two that is found by its members, with an edit, a deletion and read marks.
async fn pair(alice: &Person, bob: &Person) -> (String, Value) {
    let room = alice.room_with(&[bob]).await;
    let first = alice.says(&room, "two for the bus").await;
    bob.says(&room, "Crème brûlée for two").await;
    bob.marks_up_to(&room, json!(1)).await.ok();
    let with_client_id = alice
        .sends_as(&room, "sent \u{1f3b2} \"once\"\n", "client 1")
        .await
        .ok()["post"]
        .take();
    let wrong = alice.says(&room, "train, deleted").await;
    alice.marks_read(&room).await;
    alice
        .edits(&room, &first["postId"], "two for the train")
        .await
        .ok();
    alice.deletes(&wrong["postId"]).await;
    bob.marks_up_to(&room, json!(3)).await.ok();
    alice.says(&room, "not read by Bob").await;
    (room, with_client_id)
}

/// A named room with members who come, go and come back, and one who is deleted.
async fn group(server: &TestServer, alice: &Person, bob: &Person, carol: &Person) -> String {
    let dave = server.person("Dave").await;
    let group = alice.named_room("Chess", &[bob]).await;
    bob.says(&group, "the train of thought").await;
    alice.adds(&group, &[carol, &dave]).await.ok();
    dave.says(&group, "I leave soon").await;
    carol.marks_read(&group).await;
    alice.removes(&group, bob).await.ok();
    carol.says(&group, "Bob does not see this").await;
    alice.adds(&group, &[bob]).await.ok();
    bob.says(&group, "back again").await;
    let renamed = json!({ "name": "Chess & more" });
    alice
        .calls(Method::PUT, &format!("/room/{group}"), renamed)
        .await
        .ok();
    server.delete(&format!("/users/{}", dave.id)).await.ok();
    group
}

/// A room with more than 100 members.
async fn large(server: &TestServer, alice: &Person) -> String {
    let mut ids = Vec::new();
    for n in 0..101 {
        let body = json!({ "firstName": format!("{n}"), "lastName": "x", "type": "consumer" });
        let user = server.post("/users", &body).await.ok();
        ids.push(user["user"]["_id"].clone());
    }
    let body = json!({ "userIds": ids, "type": "consumer-to-consumer" });
    let room = alice
        .calls(Method::POST, "/room/initiate", &body)
        .await
        .ok()["chatRoom"]["chatRoomId"]
        .as_str()
        .unwrap()
        .to_owned();
    alice.says(&room, "hello to all on the train").await;
    room
}

/// Stores when a user was last seen.
async fn saw(database: &Database, person: &Person) {
    let mongodb = Config::load(None, &HashMap::new()).unwrap().mongodb;
    let store = store::open_shared(&database.url.clone().into(), &mongodb)
        .await
        .unwrap();
    let seen = (
        UserId::parse(&person.id).unwrap(),
        Timestamp(1_700_000_000_000),
    );
    store.presence.update_last_seen(vec![seen]).await.unwrap();
    store.database.close().await;
}
