//! The effects of entries that could not be applied yet: how many there are, when each is retried,
//! and what is hidden until then.
//!
//! An entry in the log is final, so its effect must be applied eventually. If the database refuses
//! the effect, or takes too long, the effect is recorded here, and later entries are not blocked.
//! Until it is applied,
//! - a deletion counts: the message is in no page, search result or other response, and cannot be
//!   edited;
//! - a removal counts: the user is not a member in any check;
//! - an edit, an addition or a new name does not count: the previous state remains, and the caller
//!   gets a 503.
//!
//! Every server finds the pending effects in the database by itself, at the start and every few
//! seconds.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::entries::PendingEffect;
use crate::{
    model::{MessageId, RoomId, Seq, UserId},
    store::NewEntryKind,
};

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The change that an effect makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Edit(MessageId),
    Deletion(MessageId),
    Addition(UserId),
    Removal(UserId),
    Name,
    /// The entry cannot be read.
    Unknown,
}

impl Effect {
    fn of(change: &NewEntryKind) -> Self {
        match change {
            NewEntryKind::Edit { message, .. } => Self::Edit(*message),
            NewEntryKind::Deletion(message) => Self::Deletion(*message),
            NewEntryKind::AddMember(user) => Self::Addition(*user),
            NewEntryKind::RemoveMember { user, .. } => Self::Removal(*user),
            NewEntryKind::Rename(_) => Self::Name,
            NewEntryKind::Message { .. } => Self::Unknown,
        }
    }

    fn is_of_room(self) -> bool {
        matches!(self, Self::Addition(_) | Self::Removal(_) | Self::Name)
    }

    /// Returns whether this effect on a room makes an earlier one unnecessary.
    fn supersedes(self, earlier: Self) -> bool {
        match (self, earlier) {
            (
                Self::Addition(user) | Self::Removal(user),
                Self::Addition(before) | Self::Removal(before),
            ) => user == before,
            (Self::Name, Self::Name) => true,
            _ => false,
        }
    }
}

struct Waiting {
    effect: Effect,
    since: Instant,
    pause: Duration,
    again: Instant,
}

type Rooms = HashMap<RoomId, BTreeMap<Seq, Waiting>>;

/// The pending effects that this server knows.
#[derive(Default)]
pub struct Pending(Mutex<Rooms>);

impl Pending {
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many effects are pending.
    pub fn count(&self) -> usize {
        self.rooms().values().map(BTreeMap::len).sum()
    }

    /// Records effects that could not be applied. Logs one line per room for those that are new.
    pub fn failed<'a>(&self, dues: impl IntoIterator<Item = &'a PendingEffect>, reason: &str) {
        let mut new: BTreeMap<RoomId, Vec<u64>> = BTreeMap::new();
        for due in dues {
            if self.note(due.room, due.seq, Effect::of(&due.change)) {
                new.entry(due.room).or_default().push(due.seq.0);
            }
        }
        for (room, seqs) in new {
            report(room, &seqs, reason);
        }
    }

    /// Records an entry that cannot be read.
    pub fn unreadable(&self, room: RoomId, seq: Seq) {
        if self.note(room, seq, Effect::Unknown) {
            report(room, &[seq.0], "the entry cannot be read");
        }
    }

    /// Records an effect. Returns true when it was not recorded before.
    fn note(&self, room: RoomId, seq: Seq, effect: Effect) -> bool {
        let now = Instant::now();
        let mut rooms = self.rooms();
        let waiting = rooms.entry(room).or_default();
        let is_new = !waiting.contains_key(&seq);
        let entry = waiting.entry(seq).or_insert(Waiting {
            effect,
            since: now,
            pause: PAUSES.0,
            again: now,
        });
        entry.again = now + entry.pause;
        entry.pause = (entry.pause * 2).min(PAUSES.1);
        is_new
    }

    /// Removes effects that have been applied.
    pub fn applied(&self, dues: &[&PendingEffect]) {
        let mut rooms = self.rooms();
        if rooms.is_empty() {
            return;
        }
        for due in dues {
            let Some(waiting) = rooms.get_mut(&due.room) else {
                continue;
            };
            if waiting.remove(&due.seq).is_some() {
                tracing::info!(room = %due.room, seq = due.seq.0, "pending effect applied");
            }
            if waiting.is_empty() {
                rooms.remove(&due.room);
            }
        }
    }

    /// Removes effects that are no longer pending: all that were recorded before `as_of` and are
    /// not in `found`.
    pub fn keep_only(&self, found: &HashSet<(RoomId, Seq)>, as_of: Instant) {
        let mut rooms = self.rooms();
        for (room, waiting) in rooms.iter_mut() {
            waiting.retain(|seq, waiting| waiting.since >= as_of || found.contains(&(*room, *seq)));
        }
        rooms.retain(|_, waiting| !waiting.is_empty());
    }

    /// Returns whether the effect of this entry is pending.
    pub fn has(&self, room: RoomId, seq: Seq) -> bool {
        self.rooms()
            .get(&room)
            .is_some_and(|waiting| waiting.contains_key(&seq))
    }

    /// Returns whether the pause before the next attempt to apply this effect is over.
    pub fn is_time(&self, room: RoomId, seq: Seq) -> bool {
        self.rooms()
            .get(&room)
            .and_then(|waiting| waiting.get(&seq))
            .is_some_and(|waiting| waiting.again <= Instant::now())
    }

    /// Returns the earlier pending effects on the room of `due`: first those that must still be
    /// applied after it, then those that it makes unnecessary.
    pub fn superseded_by(&self, due: &PendingEffect) -> (Vec<Seq>, Vec<Seq>) {
        let rooms = self.rooms();
        let Some(waiting) = rooms.get(&due.room) else {
            return (Vec::new(), Vec::new());
        };
        let effect = Effect::of(&due.change);
        let earlier = waiting
            .range(..due.seq)
            .filter(|(_, waiting)| waiting.effect.is_of_room());
        let (moot, overtaken): (Vec<_>, Vec<_>) =
            earlier.partition(|(_, earlier)| effect.supersedes(earlier.effect));
        let seqs =
            |effects: Vec<(&Seq, &Waiting)>| effects.into_iter().map(|(seq, _)| *seq).collect();
        (seqs(overtaken), seqs(moot))
    }

    /// Returns the messages of a room whose deletion is pending.
    pub fn deleted_in(&self, room: RoomId) -> HashSet<MessageId> {
        let deleted = |waiting: &Waiting| {
            if let Effect::Deletion(message) = waiting.effect {
                Some(message)
            } else {
                None
            }
        };
        self.rooms()
            .get(&room)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter_map(deleted)
            .collect()
    }

    /// Returns whether the deletion of this message is pending.
    pub fn is_deleted(&self, room: RoomId, message: MessageId) -> bool {
        self.rooms().get(&room).is_some_and(|waiting| {
            waiting
                .values()
                .any(|waiting| waiting.effect == Effect::Deletion(message))
        })
    }

    /// Returns the users whose removal from a room is pending.
    pub fn removed_from(&self, room: RoomId) -> HashSet<UserId> {
        let removed = |waiting: &Waiting| {
            if let Effect::Removal(user) = waiting.effect {
                Some(user)
            } else {
                None
            }
        };
        self.rooms()
            .get(&room)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter_map(removed)
            .collect()
    }

    /// Returns the rooms from which the removal of a user is pending.
    pub fn left_by(&self, user: UserId) -> HashSet<RoomId> {
        let left = |waiting: &BTreeMap<Seq, Waiting>| {
            waiting
                .values()
                .any(|waiting| waiting.effect == Effect::Removal(user))
        };
        self.rooms()
            .iter()
            .filter(|(_, waiting)| left(waiting))
            .map(|(room, _)| *room)
            .collect()
    }
}

/// Returns whether a change is a deletion or a removal, which counts at once although the database
/// is not updated yet.
pub fn takes_away(change: &NewEntryKind) -> bool {
    matches!(
        change,
        NewEntryKind::Deletion(_) | NewEntryKind::RemoveMember { .. }
    )
}

fn report(room: RoomId, seqs: &[u64], reason: &str) {
    let (seq, count) = (seqs.first().copied().unwrap_or_default(), seqs.len());
    tracing::warn!(%room, seq, count, reason, "failed to apply effects of entries; retrying");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn due(seq: u64, change: NewEntryKind) -> PendingEffect {
        PendingEffect {
            id: MessageId::from_bytes([9; 16]),
            room: RoomId::from_bytes([1; 16]),
            seq: Seq(seq),
            at: Timestamp(0),
            change,
        }
    }

    #[test]
    fn a_later_change_of_the_same_member_or_name_leaves_nothing_to_do_for_an_earlier_one() {
        let (one, two) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let pending = Pending::default();
        let waiting = [
            due(5, NewEntryKind::Rename(None)),
            due(6, NewEntryKind::AddMember(one)),
            due(7, NewEntryKind::Deletion(MessageId::from_bytes([3; 16]))),
        ];
        pending.failed(&waiting, "refused");
        let removal = |user| NewEntryKind::RemoveMember {
            user,
            required_members: Vec::new(),
        };
        assert_eq!(
            pending.superseded_by(&due(8, removal(one))),
            (vec![Seq(5)], vec![Seq(6)])
        );
        assert_eq!(
            pending.superseded_by(&due(8, removal(two))),
            (vec![Seq(5), Seq(6)], vec![])
        );
        assert_eq!(
            pending.superseded_by(&due(6, NewEntryKind::Rename(None))),
            (vec![], vec![Seq(5)])
        );
    }

    #[test]
    fn what_was_noted_after_the_database_was_asked_is_kept() {
        let pending = Pending::default();
        pending.failed(&[due(5, NewEntryKind::Rename(None))], "refused");
        let as_of = Instant::now();
        pending.failed(&[due(6, NewEntryKind::Rename(None))], "refused");
        pending.keep_only(&HashSet::new(), as_of);
        assert!(
            !pending.has(due(5, NewEntryKind::Rename(None)).room, Seq(5)) && pending.count() == 1
        );
    }
}
