//! The operations of a client, and how their outcomes are recorded in the history.

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
    fn cut(&mut self) -> Option<Duration> {
        self.rng
            .random_bool(0.05)
            .then(|| Duration::from_micros(self.rng.random_range(0..8_000)))
    }

    /// Returns a random room of which the client is a member.
    fn some_room(&mut self) -> Option<Id> {
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

    async fn marks_read(&mut self) {
        let Some(room) = self.some_room() else { return };
        let position = self
            .views()
            .get(&room)
            .map_or(0, |view| view.log.position());
        let up_to = self
            .rng
            .random_bool(0.5)
            .then(|| self.rng.random_range(0..=position));
        self.notes(format!("mark {room} as read up to {up_to:?}"));
        let known = self
            .world
            .history()
            .room(room)
            .marks
            .entry(self.id)
            .or_default()
            .up_to;
        let cut = self.cut();
        let outcome = if self.socket.is_some() && self.rng.random_bool(0.5) {
            self.asks(
                "mark read",
                &[json!({ "chatRoomId": room.to_string(), "upToSeq": up_to })],
                cut,
            )
            .await
        } else {
            let body = up_to.map_or_else(|| json!({}), |up_to| json!({ "upToSeq": up_to }));
            self.requests(
                Method::PUT,
                &format!("/room/{room}/mark-read"),
                Some(body),
                cut,
            )
            .await
        };
        self.world.report.operation("mark read", &outcome);
        match outcome {
            Outcome::Done(answer) => {
                let read = answer["lastReadSeq"].as_u64().unwrap_or_default();
                self.world
                    .history()
                    .room(room)
                    .marks
                    .entry(self.id)
                    .or_default()
                    .learn(read);
                if read < known.max(up_to.unwrap_or(position)) {
                    self.complains(Some(room), &format!("it had read up to {known}, has read up to {up_to:?}, and is told {read}"));
                }
            }
            Outcome::Refused(..) => {}
            Outcome::Unsure | Outcome::Broken(_) => self
                .world
                .history()
                .room(room)
                .marks
                .entry(self.id)
                .or_default()
                .doubt(),
        }
    }

    /// Adds a user to the room whose keeper is this client, or removes one.
    async fn changes_members(&mut self) {
        let Some(room) = self
            .rooms
            .iter()
            .find(|room| room.keeper == Some(self.index))
            .map(|room| room.id)
        else {
            return;
        };
        let other = self.rng.random_range(0..self.world.people.len());
        if other == self.index {
            return;
        }
        let (other, adds, cut) = (
            self.world.people[other].id,
            self.rng.random_bool(0.6),
            self.cut(),
        );
        self.notes(format!(
            "{} {other} in {room}",
            if adds { "add" } else { "remove" }
        ));
        let attempt = self
            .world
            .history()
            .room(room)
            .members
            .entry(other)
            .or_default()
            .begin();
        let outcome = if adds {
            let body = json!({ "userIds": [other.to_string()] });
            self.requests(
                Method::POST,
                &format!("/room/{room}/members"),
                Some(body),
                cut,
            )
            .await
        } else {
            self.requests(
                Method::DELETE,
                &format!("/room/{room}/members/{other}"),
                None,
                cut,
            )
            .await
        };
        self.world.report.operation(
            if adds {
                "add a member"
            } else {
                "remove a member"
            },
            &outcome,
        );
        self.ends_attempt(
            room,
            other,
            attempt,
            matches!(outcome, Outcome::Done(_)).then_some(adds),
        );
    }

    fn ends_attempt(&self, room: Id, user: Id, attempt: u64, outcome: Option<bool>) {
        self.world
            .history()
            .room(room)
            .members
            .entry(user)
            .or_default()
            .end(attempt, outcome);
    }

    /// Leaves a room whose keeper is another client.
    async fn leaves(&mut self) {
        let others: Vec<_> = self
            .rooms
            .iter()
            .filter(|room| room.keeper.is_some_and(|keeper| keeper != self.index))
            .collect();
        if others.is_empty() {
            return;
        }
        let room = others[self.rng.random_range(0..others.len())].id;
        self.notes(format!("leave {room}"));
        let attempt = self
            .world
            .history()
            .room(room)
            .members
            .entry(self.id)
            .or_default()
            .begin();
        let cut = self.cut();
        let outcome = self
            .requests(
                Method::DELETE,
                &format!("/room/{room}/members/{}", self.id),
                None,
                cut,
            )
            .await;
        self.world.report.operation("leave", &outcome);
        let left = matches!(outcome, Outcome::Done(_));
        self.ends_attempt(room, self.id, attempt, left.then_some(false));
    }

    async fn renames(&mut self) {
        let Some(room) = self.some_room() else { return };
        self.named += 1;
        let name = format!("name {} of client {}", self.named, self.index);
        self.notes(format!("rename {room}"));
        self.world
            .history()
            .room(room)
            .names
            .insert(name.clone(), false);
        let cut = self.cut();
        let outcome = self
            .requests(
                Method::PUT,
                &format!("/room/{room}"),
                Some(json!({ "name": name })),
                cut,
            )
            .await;
        self.world.report.operation("rename", &outcome);
        if matches!(outcome, Outcome::Done(_)) {
            self.world.history().room(room).names.insert(name, true);
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

    /// Unsubscribes from a room for a while.
    async fn mutes(&mut self) {
        let Some(room) = self.some_room().filter(|_| self.socket.is_some()) else {
            return;
        };
        self.notes(format!("unsubscribe from {room}"));
        if let Some(view) = self.views().get_mut(&room) {
            (view.muted, view.live, view.subscribed) = (true, false, false);
        }
        let outcome = self
            .asks("unsubscribe", &[json!(room.to_string())], None)
            .await;
        self.world.report.operation("unsubscribe", &outcome);
    }

    /// Ends the muting of all rooms: by a later `sync`, or by subscribing first and reading
    /// afterwards.
    async fn unmutes(&mut self) {
        let muted: Vec<_> = self
            .views()
            .iter()
            .filter(|(_, view)| view.muted)
            .map(|(room, _)| *room)
            .collect();
        for room in muted {
            if let Some(view) = self.views().get_mut(&room) {
                view.muted = false;
            }
            // In open mode any user may subscribe to any room, members or not. So this subscribes
            // only to rooms from which no member is ever removed.
            let is_for_all = self
                .rooms
                .iter()
                .any(|other| other.id == room && other.keeper.is_none());
            if self.socket.is_none() || !is_for_all || self.rng.random_bool(0.5) {
                continue;
            }
            let outcome = self
                .asks("subscribe", &[json!(room.to_string())], None)
                .await;
            self.world.report.operation("subscribe", &outcome);
            if matches!(outcome, Outcome::Done(_)) {
                if let Some(view) = self.views().get_mut(&room) {
                    view.subscribed = true;
                }
                self.reads_up(room).await;
            }
        }
    }
}
