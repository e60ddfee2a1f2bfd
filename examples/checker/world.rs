//! The state that all clients share: servers, users, rooms and history.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    Arguments, Failure, Store,
    history::History,
    report::Report,
    rest::{Caller, Outcome},
    view::{Id, View},
};

/// A client's views of its rooms. Each client has its own; the checks read all of them.
pub type Views = Arc<Mutex<HashMap<Id, View>>>;

/// A registered user.
#[derive(Clone)]
pub struct Person {
    pub id: Id,
    pub token: String,
}

/// A room of the run.
#[derive(Clone)]
pub struct Room {
    pub id: Id,
    /// The keeper, who adds and removes other members: an index into `people`. `None` if the
    /// members of the room do not change.
    pub keeper: Option<usize>,
    /// The initial members.
    pub first: Vec<Id>,
}

/// The shared state of a run.
pub struct World {
    pub seed: u64,
    pub secure: bool,
    /// Whether sockets receive every entry before it can be read: there is one server, and its
    /// database is never killed. Otherwise an event may arrive a moment after its entry can be
    /// read, but never out of order.
    pub at_once: bool,
    pub bases: Vec<String>,
    pub http: reqwest::Client,
    pub people: Vec<Person>,
    pub report: Report,
    history: Mutex<History>,
    rooms: Mutex<Vec<Room>>,
}

impl World {
    /// Registers users with the running servers.
    pub async fn populate(
        arguments: &Arguments,
        seed: u64,
        bases: Vec<String>,
    ) -> Result<Self, Failure> {
        let http = reqwest::Client::new();
        let mut people = Vec::new();
        for index in 0..arguments.clients {
            people.push(register(&http, &bases[0], index, seed, arguments.is_secure()).await?);
        }
        Ok(Self {
            seed,
            secure: arguments.is_secure(),
            at_once: arguments.servers == 1
                && (arguments.store == Store::Sqlite || !arguments.kill_mongod),
            bases,
            http,
            people,
            report: Report::new(seed),
            history: Mutex::default(),
            rooms: Mutex::default(),
        })
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current rooms.
    pub fn rooms(&self) -> Vec<Room> {
        self.rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns a user's access to one of the servers.
    pub fn caller(&self, person: usize, server: usize) -> Caller {
        Caller {
            http: self.http.clone(),
            base: self.bases[server].clone(),
            token: self.people[person].token.clone(),
        }
    }

    /// Creates a room with all users as members. With a keeper, the other members leave or are
    /// removed, and are added again, during the run.
    pub async fn open_room(&self, keeper: Option<usize>) -> Result<Room, Failure> {
        let all: Vec<_> = self
            .people
            .iter()
            .map(|person| person.id.to_string())
            .collect();
        let body =
            json!({ "userIds": all, "type": "consumer-to-consumer", "name": "as it was made" });
        let answer = self
            .caller(keeper.unwrap_or_default(), 0)
            .sends(Method::POST, "/room/initiate", &body)
            .await?;
        let id = Id::of(&answer["chatRoom"]["chatRoomId"]).ok_or("a room without an id")?;
        let room = Room {
            id,
            keeper,
            first: self.people.iter().map(|person| person.id).collect(),
        };
        let mut history = self.history();
        for member in &room.first {
            history.room(id).members.entry(*member).or_default().certain = Some(true);
        }
        self.rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(room.clone());
        Ok(room)
    }

    /// Removes a room whose checks are complete from the run.
    pub fn retire(&self, id: Id) {
        self.history().forget(id);
        self.rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|room| room.id != id);
    }
}

async fn register(
    http: &reqwest::Client,
    base: &str,
    index: usize,
    seed: u64,
    secure: bool,
) -> Result<Person, Failure> {
    let mut account = json!({ "firstName": format!("Client {index}"), "lastName": "Checker", "type": "consumer" });
    let username = format!("client-{index}-{seed:x}");
    let password = format!(
        "{:032x}",
        u128::from(seed)
            .wrapping_add(7)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    );
    if secure {
        account["username"] = json!(username);
        account["password"] = json!(password);
    }
    let user = Outcome::of(http.post(format!("{base}/users")).json(&account))
        .await
        .done()?;
    let id = Id::of(&user["user"]["_id"]).ok_or("a user without an id")?;
    let login = if secure {
        http.post(format!("{base}/login"))
            .json(&json!({ "username": username, "password": password }))
    } else {
        http.post(format!("{base}/login/{id}"))
    };
    let answer = Outcome::of(login).await.done()?;
    let token = answer["authorization"]
        .as_str()
        .ok_or("a login without a token")?
        .to_owned();
    Ok(Person { id, token })
}

/// Returns the array in a field of a response, or an empty slice.
pub fn list<'a>(answer: &'a Value, field: &str) -> &'a [Value] {
    answer[field].as_array().map_or(&[], Vec::as_slice)
}
