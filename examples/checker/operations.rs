//! The random choice of a client's operations, and the operations on messages, whose outcomes are
//! recorded in the history. Those on rooms are in [`room_operations`](crate::room_operations).

use std::time::Duration;

use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Own},
    history::{Deletion, Sent},
    rest::Outcome,
    view::Id,
};

/// How often a message is sent before the client gives up.
const ATTEMPTS: u32 = 200;
/// How many of its own messages a client remembers, to edit or delete them.
const REMEMBERED: usize = 60;

impl Client {
    /// Runs the next random operation.
    pub async fn acts(&mut self) {
        if self.socket.is_none() && (self.rng.random_bool(0.3) || !self.connects().await) {
            self.idles(50).await;
        }
        let behind = self.behind();
        if self.socket.is_some() && !behind.is_empty() && self.rng.random_bool(0.5) {
            self.catches_up(behind).await;
        }
        match self.rng.random_range(0..100) {
            0..42 => self.posts().await,
            42..52 => self.edits().await,
            52..57 => self.deletes().await,
            57..70 => self.marks_read().await,
            70..75 => self.changes_members().await,
            75..77 => self.leaves().await,
            77..79 => self.renames().await,
            79..84 => self.looks().await,
            84..86 => self.mutes().await,
            86..88 => self.unmutes().await,
            88..90 if self.socket.is_some() => {
                self.notes("drop the connection".into());
                self.world.report.count("connections dropped");
                self.disconnects();
            }
            _ => self.idles(20).await,
        }
        self.idles(3).await;
    }

    async fn catches_up(&mut self, rooms: Vec<Id>) {
        match self.rng.random_range(0..10) {
            0 => self.subscribes_to_all().await,
            1 | 2 => {
                let room = rooms[self.rng.random_range(0..rooms.len())];
                self.reads_up(room).await;
            }
            _ => {
                let cut = self.cut();
                self.syncs(rooms, cut).await;
            }
        }
    }

    /// Returns after how long the client drops its connection during the current operation; mostly
    /// `None`.
    pub fn cut(&mut self) -> Option<Duration> {
        self.rng
            .random_bool(0.05)
            .then(|| Duration::from_micros(self.rng.random_range(0..8_000)))
    }

    /// Returns a random room of which the client is a member.
    pub fn some_room(&mut self) -> Option<Id> {
        let rooms: Vec<_> = {
            let views = self.views();
            self.rooms
                .iter()
                .filter(|room| views.get(&room.id).is_some_and(|view| view.member))
                .map(|room| room.id)
                .collect()
        };
        (!rooms.is_empty()).then(|| rooms[self.rng.random_range(0..rooms.len())])
    }

    async fn posts(&mut self) {
        let Some(room) = self.some_room() else { return };
        self.named += 1;
        let client_id = format!("{}-{}", self.index, self.named);
        let text = format!(
            "{client_id} says {}",
            "so ".repeat(self.rng.random_range(0..20))
        );
        self.notes(format!("post {client_id} in {room}"));
        self.world
            .history()
            .room(room)
            .sent
            .insert(client_id.clone(), Sent::new(self.id, text.clone()));
        for attempt in 0..ATTEMPTS {
            match self.sends(room, &client_id, &text).await {
                Outcome::Done(answer) => {
                    self.is_acknowledged(room, &client_id, &text, &answer, attempt == 0);
                    if self.rng.random_bool(0.05) {
                        self.sends_again(room, &client_id, &text).await;
                    }
                    return;
                }
                Outcome::Refused(..) => return,
                Outcome::Unsure | Outcome::Broken(_) => {}
            }
            if self.rng.random_bool(0.01) {
                break;
            }
            self.idles(100).await;
            self.connects().await;
        }
        self.world.report.count("messages given up as unsure");
    }

    async fn sends(&mut self, room: Id, client_id: &str, text: &str) -> Outcome {
        let cut = self.cut();
        if self.socket.is_some() && self.rng.random_bool(0.5) {
            let message = json!({ "chatRoomId": room.to_string(), "messageText": text, "clientMessageId": client_id });
            let outcome = self.asks("send message", &[message], cut).await;
            self.world.report.operation("send message", &outcome);
            return outcome;
        }
        let message = json!({ "messageText": text, "clientMessageId": client_id });
        let outcome = self
            .requests(
                Method::POST,
                &format!("/room/{room}/message"),
                Some(message),
                cut,
            )
            .await;
        self.world.report.operation("post by REST", &outcome);
        outcome
    }

    /// Sends an acknowledged message once more.
    async fn sends_again(&mut self, room: Id, client_id: &str, text: &str) {
        self.notes(format!("send {client_id} again"));
        if let Outcome::Done(answer) = self.sends(room, client_id, text).await {
            self.is_acknowledged(room, client_id, text, &answer, false);
            if answer["duplicate"] != true {
                self.complains(
                    Some(room),
                    &format!("{client_id} was acknowledged, sent again and not called a duplicate"),
                );
            }
        }
    }

    fn is_acknowledged(
        &mut self,
        room: Id,
        client_id: &str,
        text: &str,
        answer: &Value,
        first: bool,
    ) {
        let post = &answer["post"];
        let (id, seq) = (
            Id::of(&post["postId"]).unwrap_or_default(),
            post["seq"].as_u64().unwrap_or_default(),
        );
        if first && answer["duplicate"] != false {
            self.complains(
                Some(room),
                &format!("{client_id} was sent for the first time and called a duplicate"),
            );
        }
        if post["message"]["messageText"] != text || post["clientMessageId"] != client_id {
            self.complains(
                Some(room),
                &format!("{client_id} was acknowledged as something else: {post}"),
            );
        }
        let former = {
            let mut history = self.world.history();
            history
                .room(room)
                .sent
                .get_mut(client_id)
                .and_then(|sent| sent.acknowledged.replace((id, seq)))
        };
        match former {
            Some(former) if former != (id, seq) => {
                self.complains(
                    Some(room),
                    &format!(
                        "{client_id} was acknowledged as {former:?} and then as {:?}",
                        (id, seq)
                    ),
                );
            }
            Some(_) => {}
            None => {
                self.own.push_back(Own {
                    room,
                    id,
                    client_id: client_id.to_owned(),
                });
                if self.own.len() > REMEMBERED {
                    self.own.pop_front();
                }
            }
        }
    }

    async fn edits(&mut self) {
        let Some(own) = self.some_own() else { return };
        self.named += 1;
        let text = format!("{} as edit {}", own.client_id, self.named);
        self.notes(format!("edit {} in {}", own.client_id, own.room));
        // Recorded before the outcome is known, because a check may read the edited message first.
        let place = self.with_sent(&own, |sent| {
            sent.edits.push((text.clone(), false));
            sent.edits.len() - 1
        });
        let path = format!("/room/{}/message/{}", own.room, own.id);
        let cut = self.cut();
        let outcome = self
            .requests(
                Method::PUT,
                &path,
                Some(json!({ "messageText": text })),
                cut,
            )
            .await;
        self.world.report.operation("edit", &outcome);
        let Some(place) = place else { return };
        match outcome {
            Outcome::Done(answer) => {
                self.with_sent(&own, |sent| sent.edits[place].1 = true);
                let post = &answer["post"];
                if Id::of(&post["postId"]) != Some(own.id) || post["editedAt"].is_null() {
                    self.complains(
                        Some(own.room),
                        &format!("the edit of {} was acknowledged with {post}", own.client_id),
                    );
                }
            }
            Outcome::Refused(status, message) => {
                let deletion = self.with_sent(&own, |sent| {
                    sent.edits.remove(place);
                    sent.deletion
                });
                if status == 404 && deletion == Some(Deletion::No) {
                    self.complains(
                        Some(own.room),
                        &format!(
                            "{} was never deleted and cannot be edited: {message}",
                            own.client_id
                        ),
                    );
                }
            }
            Outcome::Unsure | Outcome::Broken(_) => {}
        }
    }

    /// Returns a random message from the client's remembered own messages.
    fn some_own(&mut self) -> Option<Own> {
        if self.own.is_empty() {
            return None;
        }
        Some(self.own[self.rng.random_range(0..self.own.len())].clone())
    }

    fn with_sent<T>(&self, own: &Own, change: impl FnOnce(&mut Sent) -> T) -> Option<T> {
        self.world
            .history()
            .room(own.room)
            .sent
            .get_mut(&own.client_id)
            .map(change)
    }

    async fn deletes(&mut self) {
        let Some(own) = self.some_own() else { return };
        self.notes(format!("delete {} in {}", own.client_id, own.room));
        let before = self.with_sent(&own, |sent| {
            std::mem::replace(&mut sent.deletion, Deletion::Maybe)
        });
        let cut = self.cut();
        let outcome = self
            .requests(
                Method::DELETE,
                &format!("/delete/message/{}", own.id),
                None,
                cut,
            )
            .await;
        self.world.report.operation("delete", &outcome);
        match outcome {
            Outcome::Done(answer) => {
                self.with_sent(&own, |sent| sent.deletion = Deletion::Yes);
                if answer["deletedMessagesCount"] == 0 && before == Some(Deletion::No) {
                    self.complains(
                        Some(own.room),
                        &format!(
                            "{} was acknowledged, and there is nothing to delete",
                            own.client_id
                        ),
                    );
                }
                if self.rng.random_bool(0.9) {
                    self.own.retain(|other| other.id != own.id);
                }
            }
            Outcome::Refused(..) => {
                _ = self.with_sent(&own, |sent| {
                    sent.deletion = before.unwrap_or(Deletion::Maybe);
                });
            }
            Outcome::Unsure | Outcome::Broken(_) => {}
        }
    }

    /// Sends a random read request, as additional load.
    async fn looks(&mut self) {
        let path = match self.rng.random_range(0..4) {
            0 => "/room/unread".to_owned(),
            1 => "/room?limit=50".to_owned(),
            2 => "/room/search?q=says".to_owned(),
            _ => match self.some_room() {
                Some(room) => format!("/room/{room}?limit=20"),
                None => return,
            },
        };
        let outcome = self.requests(Method::GET, &path, None, None).await;
        self.world.report.operation("look", &outcome);
    }
}
