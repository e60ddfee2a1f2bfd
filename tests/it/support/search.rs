//! Searches in the store and over REST.

use causerie::{
    model::{Message, Room, Seq, UserId},
    store::{EntryPosition, Limit, NewEntry, NewEntryKind, Scope, SearchQuery, Store},
};
use serde_json::Value;

use crate::support::{
    databases::Database,
    person::Person,
    store::{draft, room},
};

/// Returns message `n` with this text.
pub fn says(room: &Room, n: u64, text: &str) -> NewEntry {
    NewEntry {
        change: NewEntryKind::Message {
            text: text.into(),
            client_id: None,
        },
        ..draft(room, 1, n)
    }
}

pub fn in_room(room: &Room) -> Scope {
    Scope::Room {
        room: room.id,
        after: Seq(0),
    }
}

pub fn in_rooms_of(user: UserId) -> Scope {
    Scope::RoomsOf {
        user,
        since_joined: false,
    }
}

pub async fn found(
    store: &Store,
    scope: Scope,
    words: &str,
    before: Option<&Message>,
    limit: u64,
) -> Vec<Message> {
    let (mut messages, mut before) = (Vec::new(), before.map(EntryPosition::of));
    loop {
        let missing = limit - messages.len() as u64;
        let found = store
            .search
            .search(SearchQuery {
                scope,
                words: words.into(),
                before,
                limit: Limit::items(missing),
            })
            .await
            .unwrap();
        assert!(found.messages.len() as u64 <= missing);
        messages.extend(found.messages);
        if messages.len() as u64 >= limit || found.next.is_none() {
            return messages;
        }
        assert!(
            before.is_none() || found.next < before,
            "it does not get on"
        );
        before = found.next;
    }
}

/// Returns the numbers of the messages that are found.
pub async fn numbers(store: &Store, scope: Scope, words: &str) -> Vec<u64> {
    let number =
        |message: &Message| u64::try_from(u128::from_be_bytes(*message.id.as_bytes())).unwrap();
    found(store, scope, words, None, 100)
        .await
        .iter()
        .map(number)
        .collect()
}

pub async fn with_room(database: &Database, texts: &[&str]) -> (Store, Room) {
    let store = database.open().await;
    let room = room(100, &[1, 2]);
    store.rooms.find_or_add(room.clone()).await.unwrap();
    let batch = texts
        .iter()
        .zip(1..)
        .map(|(text, n)| says(&room, n, text))
        .collect();
    store.log.append(batch).await.unwrap();
    (store, room)
}

impl Person {
    /// Returns the response to a search. `words` is sent unchanged as `q`.
    pub async fn searches(&self, scope: &str, words: &str, rest: &str) -> Value {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("q", words)
            .finish();
        self.get(&format!("/room/{scope}?{query}{rest}")).await.ok()
    }

    /// Returns the texts that are found.
    pub async fn finds(&self, scope: &str, words: &str) -> Vec<String> {
        texts(&self.searches(scope, words, "").await)
    }
}

pub fn texts(body: &Value) -> Vec<String> {
    let text = |message: &Value| {
        message["message"]["messageText"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect()
}
