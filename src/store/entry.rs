//! The results of appending entries to the logs.

use super::StoreError;
use crate::model::Entry;

pub use crate::model::{LogPosition, NewEntry, NewEntryKind};

/// The result of appending an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Appended {
    /// The entry is in the log and its effect was applied.
    Placed(LogPosition),
    /// A message with the same room, author and client id was posted before; this is its entry in
    /// its current state, which may be deleted.
    Duplicate(Box<Entry>),
    /// There is nothing to do: the room has no such message or it was deleted, the user is already
    /// a member, or is not a member.
    Unchanged,
    /// The author was removed from the room. Only checked in rooms whose members have ever changed.
    NotAMember,
    /// None of the required members is a member of the room.
    NoRequiredMember,
    /// The room was deleted or does not exist.
    NoRoom,
    /// The entry could not be appended, or it is in the log but its effect could not be applied
    /// yet; in that case the store keeps retrying.
    Failed(StoreError),
}

impl Appended {
    /// Returns the position of the entry if it was appended.
    #[must_use]
    pub fn placed(&self) -> Option<LogPosition> {
        match self {
            Self::Placed(placed) => Some(*placed),
            _ => None,
        }
    }
}
