//! The history of a run: what clients have sent and the outcome of each request. It determines what
//! the logs may contain and what they must contain.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::view::Id;

/// How long a request may still take effect after its client has stopped waiting for it.
const AFTERMATH: Duration = Duration::from_secs(15);

/// The history of all rooms.
#[derive(Default)]
pub struct History {
    rooms: HashMap<Id, RoomHistory>,
}

impl History {
    /// Returns the history of a room.
    pub fn room(&mut self, id: Id) -> &mut RoomHistory {
        self.rooms.entry(id).or_default()
    }

    /// Drops the history of a room that is no longer checked.
    pub fn forget(&mut self, id: Id) {
        self.rooms.remove(&id);
    }
}

/// The history of one room.
#[derive(Default)]
pub struct RoomHistory {
    /// Messages by client message id.
    pub sent: HashMap<String, Sent>,
    /// New names of the room, and whether they were acknowledged.
    pub names: HashMap<String, bool>,
    pub members: HashMap<Id, Membership>,
    pub marks: HashMap<Id, Mark>,
}

/// A message that a client has sent once or several times.
pub struct Sent {
    pub author: Id,
    pub text: String,
    /// The message's id and sequence number, once acknowledged.
    pub acknowledged: Option<(Id, u64)>,
    /// Texts of later edits, in order, and whether they were acknowledged.
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
        Self {
            author,
            text,
            acknowledged: None,
            edits: Vec::new(),
            deletion: Deletion::No,
        }
    }

    /// Returns whether the message may have this text: that of its last acknowledged edit, or of
    /// any edit whose outcome is unknown.
    pub fn may_say(&self, text: &str) -> bool {
        let last = self
            .edits
            .iter()
            .rev()
            .find(|(_, acknowledged)| *acknowledged)
            .map_or(&self.text, |(text, _)| text);
        last == text
            || self
                .edits
                .iter()
                .any(|(edit, acknowledged)| !acknowledged && edit == text)
    }
}

/// A user's membership of a room.
#[derive(Default)]
pub struct Membership {
    /// The last acknowledged state, unless another attempt ran concurrently or a failed one may
    /// still take effect.
    pub certain: Option<bool>,
    under_way: u32,
    begun: u64,
    doubtful_until: Option<Instant>,
}

impl Membership {
    /// Records the start of an attempt to add or remove the user. Returns the number of the
    /// attempt.
    pub fn begin(&mut self) -> u64 {
        self.under_way += 1;
        self.begun += 1;
        self.certain = None;
        self.begun
    }

    /// Records the end of an attempt; `outcome` is whether the user is a member now, if that was
    /// acknowledged.
    pub fn end(&mut self, attempt: u64, outcome: Option<bool>) {
        self.under_way -= 1;
        if outcome.is_none() {
            self.doubtful_until = Some(Instant::now() + AFTERMATH);
        }
        let alone = self.under_way == 0
            && self.begun == attempt
            && self
                .doubtful_until
                .is_none_or(|until| Instant::now() > until);
        self.certain = outcome.filter(|_| alone);
    }
}

/// A user's read mark in a room.
#[derive(Default)]
pub struct Mark {
    /// The furthest acknowledged position.
    pub up_to: u64,
    /// When the last attempt with an unknown outcome was made.
    unsure: Option<Instant>,
}

impl Mark {
    pub fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    pub fn doubt(&mut self) {
        self.unsure = Some(Instant::now());
    }

    /// Records a read mark that the server returned. An attempt with an unknown outcome stops
    /// counting once it can no longer take effect.
    pub fn learn(&mut self, up_to: u64) {
        self.up_to = self.up_to.max(up_to);
        self.unsure = self.unsure.filter(|since| since.elapsed() < AFTERMATH);
    }
}
