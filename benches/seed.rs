//! Creates users, rooms and messages through the REST API, as any client would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Outcome;
use crate::http::{Connection, request};

/// The first name of all users; the same name keeps responses at the same length.
pub const FIRST_NAME: &str = "Benjamin";
/// The last name of all users; see [`FIRST_NAME`].
pub const LAST_NAME: &str = "Franklin";
/// The text of messages whose content does not matter.
pub const TEXT: &str = "Well done is better than well said, and so is well measured.";

/// The number of connections that fill a room.
const WRITERS: u32 = 128;

/// A user who has logged in.
#[derive(Clone)]
pub struct Person {
    /// The user's id.
    pub id: String,
    /// The bearer token.
    pub token: String,
}

/// Creates a user and logs in.
pub async fn person(connection: &mut Connection) -> Outcome<Person> {
    let user = json!({"firstName": FIRST_NAME, "lastName": LAST_NAME, "type": "consumer"});
    let answer = connection
        .ask(&request("POST", "/users", "", Some(&user)))
        .await?;
    let id = string(&answer, "/user/_id")?;
    let answer = connection
        .ask(&request("POST", &format!("/login/{id}"), "", None))
        .await?;
    Ok(Person {
        id,
        token: string(&answer, "/authorization")?,
    })
}

/// Creates several users with a password each, and logs in with it.
pub async fn accounts(connection: &mut Connection, count: usize) -> Outcome<Vec<Person>> {
    let mut accounts = Vec::with_capacity(count);
    for _ in 0..count {
        let (username, password) = (
            format!("user{:016x}", rand::random::<u64>()),
            "quite well measured",
        );
        let mut user = json!({"firstName": FIRST_NAME, "lastName": LAST_NAME, "type": "consumer"});
        user["username"] = json!(username);
        user["password"] = json!(password);
        let answer = connection
            .ask(&request("POST", "/users", "", Some(&user)))
            .await?;
        let login = json!({"username": username, "password": password});
        let login = connection
            .ask(&request("POST", "/login", "", Some(&login)))
            .await?;
        accounts.push(Person {
            id: string(&answer, "/user/_id")?,
            token: string(&login, "/authorization")?,
        });
    }
    Ok(accounts)
}

/// Creates several users, and logs in with their ids.
pub async fn users_by_id(connection: &mut Connection, count: usize) -> Outcome<Vec<Person>> {
    let mut people = Vec::with_capacity(count);
    for _ in 0..count {
        people.push(person(connection).await?);
    }
    Ok(people)
}

/// Creates (or finds) the room of `creator` and `others` with the type `consumer-to-{with}`.
/// Returns its id.
pub async fn room(
    connection: &mut Connection,
    creator: &Person,
    others: &[Person],
    with: &str,
) -> Outcome<String> {
    let ids: Vec<&str> = others.iter().map(|other| other.id.as_str()).collect();
    let body = json!({"userIds": ids, "type": format!("consumer-to-{with}")});
    let answer = connection
        .ask(&request(
            "POST",
            "/room/initiate",
            &creator.token,
            Some(&body),
        ))
        .await?;
    string(&answer, "/chatRoom/chatRoomId")
}

/// Returns a request that posts `text`.
pub fn post(room: &str, token: &str, text: &str) -> Vec<u8> {
    request(
        "POST",
        &format!("/room/{room}/message"),
        token,
        Some(&json!({"messageText": text})),
    )
}

/// Posts `count` messages of one author over many connections, which is faster with a server that
/// batches posts. This may take longer than a server keeps an idle connection open.
pub async fn fill(address: SocketAddr, room: &str, author: &Person, count: u32) -> Outcome<()> {
    let request: Arc<[u8]> = post(room, &author.token, TEXT).into();
    let left = Arc::new(AtomicU32::new(count));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS.min(count) {
        writers.spawn(write(address, Arc::clone(&request), Arc::clone(&left)));
    }
    while let Some(outcome) = writers.join_next().await {
        outcome??;
    }
    Ok(())
}

async fn write(address: SocketAddr, request: Arc<[u8]>, left: Arc<AtomicU32>) -> Outcome<()> {
    let mut connection = Connection::open(address).await?;
    let take_one = || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
    };
    while take_one().is_ok() {
        connection.exchange(&request).await?;
    }
    Ok(())
}

fn string(answer: &Value, pointer: &str) -> Outcome<String> {
    let value = answer.pointer(pointer).and_then(Value::as_str);
    Ok(value
        .ok_or_else(|| format!("no {pointer} in {answer}"))?
        .to_owned())
}
