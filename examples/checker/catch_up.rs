//! How a client catches up: by `sync` on its socket, or by subscribing first and reading the log
//! afterwards. Events received meanwhile are held back.

use std::time::Duration;

use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::Client,
    rest::Outcome,
    view::{Happening, Id, Taken, View, What},
    world::list,
};

/// How often a client tries to catch up in all rooms.
const ATTEMPTS: u32 = 100;

impl Client {
    /// Returns the rooms in which the client has missed entries, or may have.
    pub fn behind(&self) -> Vec<Id> {
        self.views()
            .iter()
            .filter(|(_, view)| view.member && !view.live && !view.muted)
            .map(|(room, _)| *room)
            .collect()
    }

    /// Catches up in all rooms, including those of which the client believes it is not a member.
    pub async fn catches_up_everywhere(&mut self) {
        self.views()
            .values_mut()
            .for_each(|view| view.muted = false);
        for _ in 0..ATTEMPTS {
            let rooms: Vec<_> = self.rooms.iter().map(|room| room.id).collect();
            if self.connects().await && self.syncs(rooms, None).await && self.behind().is_empty() {
                return;
            }
            self.idles(200).await;
        }
        self.complains(None, "it cannot catch up");
    }

    /// Sends `sync` on the client's socket. Returns whether it was answered.
    pub async fn syncs(&mut self, rooms: Vec<Id>, cut: Option<Duration>) -> bool {
        let since: serde_json::Map<_, _> = {
            let views = self.views();
            rooms
                .iter()
                .filter_map(|room| Some((room.to_string(), json!(views.get(room)?.log.position()))))
                .collect()
        };
        self.notes(format!("sync of {} rooms", since.len()));
        self.held = Some(Vec::new());
        let outcome = self.asks("sync", &[json!({ "rooms": since })], cut).await;
        self.world.report.operation("sync", &outcome);
        let Outcome::Done(answer) = outcome else {
            self.releases(&[]);
            return false;
        };
        let mut refused = Vec::new();
        for room in rooms {
            let page = &answer["rooms"][room.to_string()];
            if page["entries"].is_array() {
                self.takes_answer(room, page).await;
            } else {
                self.is_out(room, page);
                refused.push(room);
            }
        }
        self.releases(&refused);
        true
    }

    /// Applies the events that were held back. In the `refused` rooms, only the client's own
    /// membership changes are applied.
    fn releases(&mut self, refused: &[Id]) {
        for happening in self.held.take().unwrap_or_default() {
            if !refused.contains(&happening.room) {
                self.learns(&happening);
            } else if let Some(view) = self.views().get_mut(&happening.room) {
                match happening.what {
                    What::Added(user) if user == self.id => view.member = true,
                    What::Removed(user) if user == self.id => view.out(),
                    _ => {}
                }
            }
        }
    }

    fn is_out(&self, room: Id, page: &Value) {
        // A response that the database is unavailable contains no information about the room.
        if !matches!(Outcome::of_ack(page.clone()), Outcome::Refused(..)) {
            return;
        }
        if let Some(view) = self.views().get_mut(&room) {
            view.out();
        }
    }

    /// Applies a response to `sync` to the view: first the events received before it, then its
    /// entries.
    async fn takes_answer(&mut self, room: Id, page: &Value) {
        let end = page["lastSeq"].as_u64().unwrap_or_default();
        let (early, late) = self
            .held
            .take()
            .unwrap_or_default()
            .into_iter()
            .partition(|held| held.room == room && held.seq <= end);
        self.held = Some(late);
        let complaint = {
            let mut views = self.views();
            let Some(view) = views.get_mut(&room) else {
                return;
            };
            self.compares(view, &early, end)
                .or_else(|| takes_page(view, page))
        };
        if let Some(complaint) = complaint {
            self.complains(Some(room), &complaint);
        }
        let complete = self.position(room) >= end || self.reads_on(room, end).await;
        let mut views = self.views();
        let Some(view) = views.get_mut(&room) else {
            return;
        };
        (view.member, view.muted) = (true, false);
        if complete && self.socket.is_some() {
            (view.subscribed, view.live, view.synced) = (true, true, end);
        }
    }

    /// Applies the events received before a response, and checks that a live client has received
    /// everything up to `end` by then.
    fn compares(&self, view: &mut View, early: &[Happening], end: u64) -> Option<String> {
        let was_live = view.live;
        for happening in early {
            view.heard = view.heard.max(happening.seq);
            view.log.take(happening);
        }
        let position = view.log.position();
        if was_live && self.world.at_once && position < end {
            return Some(format!(
                "it has heard of nothing behind entry {position}, but the log went on to {end}"
            ));
        }
        if position < end {
            self.world.report.count("gaps closed");
        }
        None
    }

    fn position(&self, room: Id) -> u64 {
        self.views()
            .get(&room)
            .map_or(0, |view| view.log.position())
    }

    /// Reads the entries that did not fit into a response, at least up to `end`. Returns whether
    /// this succeeded.
    async fn reads_on(&mut self, room: Id, end: u64) -> bool {
        while self.position(room) < end {
            let limit: u32 = self.rng.random_range(5..=500);
            let path = format!(
                "/room/{room}/sync?since={}&limit={limit}",
                self.position(room)
            );
            let outcome = self.requests(Method::GET, &path, None, None).await;
            self.world.report.operation("read on", &outcome);
            let Outcome::Done(page) = outcome else {
                return false;
            };
            let complaint = self
                .views()
                .get_mut(&room)
                .and_then(|view| takes_page(view, &page));
            if let Some(complaint) = complaint {
                self.complains(Some(room), &complaint);
                return false;
            }
        }
        true
    }

    /// Catches up in one room by REST. If the client's socket is already subscribed to the room, it
    /// is live from then on.
    pub async fn reads_up(&mut self, room: Id) {
        self.notes(format!("catch up in {room} by REST"));
        self.held = Some(Vec::new());
        let path = format!("/room/{room}/sync?since={}", self.position(room));
        let outcome = self.requests(Method::GET, &path, None, None).await;
        self.world.report.operation("catch up by REST", &outcome);
        match outcome {
            Outcome::Done(page) => {
                let complaint = self
                    .views()
                    .get_mut(&room)
                    .and_then(|view| takes_page(view, &page));
                let complete = complaint.is_none()
                    && self
                        .reads_on(room, page["lastSeq"].as_u64().unwrap_or_default())
                        .await;
                if let Some(complaint) = complaint {
                    self.complains(Some(room), &complaint);
                }
                if let Some(view) = self.views().get_mut(&room) {
                    view.member = true;
                    view.live = complete && view.subscribed;
                }
            }
            Outcome::Refused(..) => _ = self.views().get_mut(&room).map(View::out),
            Outcome::Unsure | Outcome::Broken(_) => {}
        }
        self.releases(&[]);
    }

    /// Subscribes to all rooms, then reads the missing entries of each room in the response.
    pub async fn subscribes_to_all(&mut self) {
        self.notes("subscribe to all rooms".into());
        self.held = Some(Vec::new());
        let outcome = self.asks("subscribe", &[], None).await;
        self.world.report.operation("subscribe to all", &outcome);
        let mut others = Vec::new();
        if let Outcome::Done(answer) = outcome {
            others.extend(self.rooms.iter().map(|room| room.id));
            for entered in list(&answer, "rooms") {
                let (Some(room), Some(end)) =
                    (Id::of(&entered["chatRoomId"]), entered["lastSeq"].as_u64())
                else {
                    continue;
                };
                others.retain(|other| *other != room);
                self.takes_answer(room, &json!({ "entries": [], "lastSeq": end }))
                    .await;
            }
        }
        // The client may have been added to a room that it had left, and removed again, before the
        // response arrived: only membership changes count in rooms that the response does not list.
        self.releases(&others);
    }
}

/// Applies a page of entries to a view. Returns an error message if the page is inconsistent.
fn takes_page(view: &mut View, page: &Value) -> Option<String> {
    let end = page["lastSeq"].as_u64().unwrap_or_default();
    if page["reset"] == true {
        return Some(format!(
            "the log is said to be another one: it ends at {end}, and {} was known",
            view.log.position()
        ));
    }
    for entry in list(page, "entries") {
        let Some(happening) = Happening::of_entry(entry) else {
            return Some(format!("an entry cannot be read: {entry}"));
        };
        if view.log.take(&happening) == Taken::Gap {
            return Some(format!(
                "an answer goes on with entry {} behind entry {}",
                happening.seq,
                view.log.position()
            ));
        }
    }
    (page["hasMore"] == false && view.log.position() < end)
        .then(|| format!("an answer ends before {end} and says that there is no more"))
}
