//! The operations of a client on rooms: read marks, members, names and subscriptions, and how their
//! outcomes are recorded in the history.

use rand::RngExt;
use reqwest::Method;
use serde_json::json;

use crate::{client::Client, history::Mark, rest::Outcome, view::Id};

impl Client {
    pub async fn marks_read(&mut self) {
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
        let known = self.with_mark(room, |mark| mark.up_to);
        let outcome = self.sends_mark(room, up_to).await;
        self.world.report.operation("mark read", &outcome);
        match outcome {
            Outcome::Done(answer) => {
                let read = answer["lastReadSeq"].as_u64().unwrap_or_default();
                self.with_mark(room, |mark| mark.learn(read));
                if read < known.max(up_to.unwrap_or(position)) {
                    self.complains(Some(room), &format!("it had read up to {known}, has read up to {up_to:?}, and is told {read}"));
                }
            }
            Outcome::Refused(..) => {}
            Outcome::Unsure | Outcome::Broken(_) => self.with_mark(room, Mark::doubt),
        }
    }

    fn with_mark<T>(&self, room: Id, change: impl FnOnce(&mut Mark) -> T) -> T {
        change(
            self.world
                .history()
                .room(room)
                .marks
                .entry(self.id)
                .or_default(),
        )
    }

    /// Marks the room as read, by socket or by REST.
    async fn sends_mark(&mut self, room: Id, up_to: Option<u64>) -> Outcome {
        let cut = self.cut();
        if self.socket.is_some() && self.rng.random_bool(0.5) {
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
        }
    }

    /// Adds a user to the room whose keeper is this client, or removes one.
    pub async fn changes_members(&mut self) {
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
        let (other, adds) = (self.world.people[other].id, self.rng.random_bool(0.6));
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
        let outcome = self.sends_member(room, other, adds).await;
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

    /// Adds the user to the room, or removes the user from it.
    async fn sends_member(&mut self, room: Id, user: Id, adds: bool) -> Outcome {
        let cut = self.cut();
        if adds {
            let body = json!({ "userIds": [user.to_string()] });
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
                &format!("/room/{room}/members/{user}"),
                None,
                cut,
            )
            .await
        }
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
    pub async fn leaves(&mut self) {
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

    pub async fn renames(&mut self) {
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

    /// Unsubscribes from a room for a while.
    pub async fn mutes(&mut self) {
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
    pub async fn unmutes(&mut self) {
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
