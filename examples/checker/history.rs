//! What clients have sent, and what they were told became of it: all that the logs may hold, and what they must.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::view::Id;

/// How long a request that nobody waits for any more may still take effect.
const AFTERMATH: Duration = Duration::from_secs(15);

/// What is known of all rooms.
#[derive(Default)]
pub struct History {
    rooms: HashMap<Id, RoomHistory>,
}

impl History {
    /// What is known of a room.
    pub fn room(&mut self, id: Id) -> &mut RoomHistory {
        self.rooms.entry(id).or_default()
    }

    /// Nothing more is asked about this room.
    pub fn forget(&mut self, id: Id) {
        self.rooms.remove(&id);
    }
}

/// What is known of one room.
#[derive(Default)]
pub struct RoomHistory {
    /// Messages by what their clients call them.
    pub sent: HashMap<String, Sent>,
    /// New names of the room, and whether they were acknowledged.
    pub names: HashMap<String, bool>,
    pub members: HashMap<Id, Membership>,
    pub marks: HashMap<Id, Mark>,
}

/// A message that a client has sent, once or several times.
pub struct Sent {
    pub author: Id,
    pub text: String,
    /// Its id and number, once somebody was told.
    pub acknowledged: Option<(Id, u64)>,
    /// Texts of later edits, in their order, and whether they were acknowledged.
    pub edits: Vec<(String, bool)>,
    pub deletion: Deletion,
}

/// Whether a message was deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletion {
    No,
    Maybe,
    Yes,
}

impl Sent {
    pub fn new(author: Id, text: String) -> Self {
        Self { author, text, acknowledged: None, edits: Vec::new(), deletion: Deletion::No }
    }

    /// Whether the message may say this: what its last acknowledged edit made of it, or any edit of which nobody knows when it was done.
    pub fn may_say(&self, text: &str) -> bool {
        let last = self.edits.iter().rev().find(|(_, acknowledged)| *acknowledged).map_or(&self.text, |(text, _)| text);
        last == text || self.edits.iter().any(|(edit, acknowledged)| !acknowledged && edit == text)
    }
}

/// Whether somebody is in a room.
#[derive(Default)]
pub struct Membership {
    /// As acknowledged last, unless something else was under way at the same time.
    pub certain: Option<bool>,
    under_way: u32,
    begun: u64,
    doubtful_until: Option<Instant>,
}

impl Membership {
    /// Somebody is being added or removed. Answers the number of the attempt.
    pub fn begin(&mut self) -> u64 {
        self.under_way += 1;
        self.begun += 1;
        self.certain = None;
        self.begun
    }

    /// An attempt is over: whether they are in the room now, where that was acknowledged.
    pub fn end(&mut self, attempt: u64, outcome: Option<bool>) {
        self.under_way -= 1;
        if outcome.is_none() {
            self.doubtful_until = Some(Instant::now() + AFTERMATH);
        }
        let alone = self.under_way == 0 && self.begun == attempt && self.doubtful_until.is_none_or(|until| Instant::now() > until);
        self.certain = outcome.filter(|_| alone);
    }
}

/// How far somebody has read a room.
#[derive(Default)]
pub struct Mark {
    /// The furthest that was acknowledged.
    pub up_to: u64,
    /// When an attempt was made of which nobody knows what came of it.
    unsure: Option<Instant>,
}

impl Mark {
    pub fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    pub fn doubt(&mut self) {
        self.unsure = Some(Instant::now());
    }

    /// It was looked up how far they have read.
    pub fn learn(&mut self, up_to: u64) {
        self.up_to = self.up_to.max(up_to);
        self.unsure = self.unsure.filter(|since| since.elapsed() < AFTERMATH);
    }
}
