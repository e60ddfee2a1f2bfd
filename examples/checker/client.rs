//! A client: a socket, a view of each room, and the rules by which events are applied to the view.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    rest::Outcome,
    view::{Happening, Id, Taken, View, What},
    wire::{Packet, Socket},
    world::{Room, Views, World},
};

/// How long a client waits for an acknowledgement on a socket.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long another server may still send a user events of a room that the user has left through
/// one server. The database may be unavailable meanwhile.
const OTHERS_KNOW: Duration = Duration::from_secs(10);
/// How many of the client's last operations are printed with a violation.
const TOLD: usize = 8;

/// What the clients do at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Run random operations.
    Run,
    /// Pause.
    Rest,
    /// Catch up in all rooms. Each number requests it once.
    CatchUp(u64),
    /// Stop.
    End,
}

/// A message of the client's own whose id it knows.
#[derive(Clone)]
pub struct Own {
    pub room: Id,
    pub id: Id,
    pub client_id: String,
}

/// A simulated client.
pub struct Client {
    pub index: usize,
    pub id: Id,
    pub world: Arc<World>,
    pub rng: StdRng,
    pub socket: Option<Socket>,
    pub rooms: Vec<Room>,
    pub own: VecDeque<Own>,
    /// How many distinct names the client has generated so far, for client message ids, edits and
    /// room names.
    pub named: u64,
    views: Views,
    /// Events received while a request to catch up is pending.
    pub held: Option<Vec<Happening>>,
    recent: VecDeque<String>,
}

impl Client {
    /// Creates the client of one user. Its choices follow from the seed.
    pub fn new(world: Arc<World>, index: usize, views: Views) -> Self {
        let id = world.people[index].id;
        let rng = StdRng::seed_from_u64(world.seed.wrapping_mul(1_000).wrapping_add(index as u64));
        Self {
            index,
            id,
            world,
            rng,
            socket: None,
            rooms: Vec::new(),
            own: VecDeque::new(),
            named: 0,
            views,
            held: None,
            recent: VecDeque::new(),
        }
    }

    /// Follows the phases until [`Phase::End`], and reports each completed pause and catch-up on
    /// `done`.
    pub async fn run(mut self, mut phases: watch::Receiver<Phase>, done: mpsc::Sender<usize>) {
        loop {
            let phase = *phases.borrow_and_update();
            match phase {
                Phase::Run => {
                    self.look_around();
                    self.acts().await;
                    continue;
                }
                Phase::Rest => {}
                Phase::CatchUp(_) => self.catches_up_everywhere().await,
                Phase::End => return,
            }
            let told = done.send(self.index).await.is_ok();
            let next = self
                .listening(async { phases.changed().await.is_ok() })
                .await;
            if !(told && next) {
                return;
            }
        }
    }

    pub fn views(&self) -> MutexGuard<'_, HashMap<Id, View>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the rooms, views and own messages to the current rooms of the run.
    fn look_around(&mut self) {
        self.rooms = self.world.rooms();
        let (rooms, id) = (&self.rooms, self.id);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|known, _| rooms.iter().any(|room| room.id == *known));
        for room in rooms {
            views.entry(room.id).or_insert_with(|| View {
                member: room.first.contains(&id),
                ..View::default()
            });
        }
        self.own
            .retain(|own| rooms.iter().any(|room| room.id == own.room));
    }

    /// Records an operation, to be printed with a violation.
    pub fn notes(&mut self, what: String) {
        if self.recent.len() == TOLD {
            self.recent.pop_front();
        }
        self.recent.push_back(what);
    }

    /// Reports a violation, with the client's last operations.
    pub fn complains(&self, room: Option<Id>, what: &str) {
        let room = room
            .map(|room| format!(" in room {room}"))
            .unwrap_or_default();
        let recent = self
            .recent
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("; ");
        self.world.report.violation(&format!(
            "client {} ({}){room}: {what}\n    it did last: {recent}",
            self.index, self.id
        ));
    }

    /// Awaits `work` while processing packets from the socket.
    pub async fn listening<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let Some(socket) = &mut self.socket else {
                return work.await;
            };
            tokio::select! {
                done = &mut work => return done,
                packet = socket.receive() => self.takes(packet),
            }
        }
    }

    /// Waits for a random time of up to `most` milliseconds.
    pub async fn idles(&mut self, most: u64) {
        let pause = Duration::from_millis(self.rng.random_range(0..=most));
        self.listening(sleep(pause)).await;
    }

    /// Connects to a random server, unless the client is connected. Returns whether it is connected
    /// now.
    pub async fn connects(&mut self) -> bool {
        if self.socket.is_some() {
            return true;
        }
        let base = self.world.bases[self.rng.random_range(0..self.world.bases.len())].clone();
        let token = self
            .world
            .secure
            .then(|| self.world.people[self.index].token.clone());
        self.disconnects();
        self.socket = Socket::connect(&base, token.as_deref()).await;
        if self.socket.is_none() {
            return false;
        }
        let known = self
            .asks("identity", &[json!(self.id.to_string())], None)
            .await;
        self.world.report.operation("connect", &known);
        if !matches!(known, Outcome::Done(_)) {
            self.disconnects();
        }
        self.socket.is_some()
    }

    /// Drops the connection, if there is one.
    pub fn disconnects(&mut self) {
        self.socket = None;
        self.views().values_mut().for_each(View::cut_off);
    }

    /// Sends an event and waits for its acknowledgement. Drops the connection if that takes longer
    /// than `cut`, or than `PATIENCE` without it.
    pub async fn asks(
        &mut self,
        event: &str,
        arguments: &[Value],
        cut: Option<Duration>,
    ) -> Outcome {
        let deadline = Instant::now() + cut.unwrap_or(PATIENCE);
        let Some(socket) = &mut self.socket else {
            return Outcome::Unsure;
        };
        let mut asked = socket.ask(event, arguments).await;
        while let (Some(number), Some(socket)) = (asked, &mut self.socket) {
            match timeout_at(deadline, socket.receive()).await {
                Ok(Some(Packet::Answer(of, answer))) if of == number => {
                    return self.minds(Outcome::of_ack(answer));
                }
                Ok(packet) => self.takes(packet),
                Err(_) => asked = None,
            }
        }
        if cut.is_some() {
            self.world
                .report
                .count("connections dropped in the middle of a request");
        }
        self.disconnects();
        Outcome::Unsure
    }

    /// Sends a request to a random server. Drops the request if it takes longer than `cut`.
    pub async fn requests(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
        cut: Option<Duration>,
    ) -> Outcome {
        let server = self.rng.random_range(0..self.world.bases.len());
        let mut request = self.world.caller(self.index, server).request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let outcome = match cut {
            None => self.listening(Outcome::of(request)).await,
            Some(cut) => {
                let outcome = self
                    .listening(tokio::time::timeout(cut, Outcome::of(request)))
                    .await;
                outcome.unwrap_or_else(|_| {
                    self.world
                        .report
                        .count("connections dropped in the middle of a request");
                    Outcome::Unsure
                })
            }
        };
        self.minds(outcome)
    }

    fn minds(&self, outcome: Outcome) -> Outcome {
        if let Outcome::Broken(message) = &outcome {
            self.complains(
                None,
                &format!("the server says that it is at fault: {message}"),
            );
        }
        outcome
    }

    /// Processes a packet from the socket; `None` means that the connection has ended.
    fn takes(&mut self, packet: Option<Packet>) {
        match packet {
            Some(Packet::Event(name, payload)) => self.hears(&name, &payload),
            // A late acknowledgement of a request that is no longer awaited.
            Some(Packet::Answer(..)) => {}
            None => self.disconnects(),
        }
    }

    fn hears(&mut self, name: &str, payload: &Value) {
        if let Some(happening) = Happening::of_event(name, payload) {
            match &mut self.held {
                Some(held) => held.push(happening),
                None => self.learns(&happening),
            }
        } else if name == "conversation read"
            && let (Some(room), Some(user)) =
                (Id::of(&payload["chatRoomId"]), Id::of(&payload["userId"]))
            && let Some(view) = self.views().get_mut(&room)
        {
            let up_to = payload["upToSeq"].as_u64().unwrap_or_default();
            let known = view.read.entry(user).or_default();
            *known = up_to.max(*known);
        }
    }

    /// Applies a live event to the view, after `judges` has checked it.
    pub fn learns(&self, happening: &Happening) {
        let Happening { room, seq, what } = happening;
        let complaint = {
            let mut views = self.views();
            // The room was retired.
            let Some(view) = views.get_mut(room) else {
                return;
            };
            self.judges(view, *seq, what)
                .or_else(|| self.places(view, happening))
        };
        if let Some(complaint) = complaint {
            self.complains(Some(*room), &complaint);
        }
    }

    /// Checks the sequence number of an event and the client's membership, independently of the
    /// event's content.
    fn judges(&self, view: &mut View, seq: u64, what: &What) -> Option<String> {
        let (heard, synced) = (view.heard, view.synced);
        view.heard = heard.max(seq);
        let comes_back = *what == What::Added(self.id);
        if seq <= heard {
            return Some(format!("entry {seq} was heard of behind entry {heard}"));
        }
        if seq <= synced {
            return Some(format!(
                "entry {seq} was heard of though an answer to sync had told of all up to {synced}"
            ));
        }
        if !view.member && !comes_back && *what != What::Removed(self.id) {
            let soon = view.left.is_some_and(|left| left.elapsed() < OTHERS_KNOW);
            if self.world.bases.len() == 1 || !soon {
                return Some(format!(
                    "entry {seq} was heard of by somebody who is no longer in the room"
                ));
            }
            self.world
                .report
                .count("entries heard after leaving through the other server");
        }
        view.member |= comes_back;
        None
    }

    fn places(&self, view: &mut View, happening: &Happening) -> Option<String> {
        let (position, was_live) = (view.log.position(), view.live);
        let taken = view.log.take(happening);
        match taken {
            Taken::Next => {}
            Taken::Known => self.world.report.count("events ignored as known"),
            Taken::Gap => view.live = false,
        }
        if happening.what == What::Removed(self.id) {
            view.out();
        }
        let missed = taken == Taken::Gap && was_live;
        missed.then(|| {
            format!(
                "entry {} was heard of behind entry {position}: something was missed",
                happening.seq
            )
        })
    }
}
