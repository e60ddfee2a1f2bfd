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
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use super::entries::PendingEffect;
use crate::{
    model::{MessageId, RoomId, Seq, UserId, entry::Subject},
    store::NewEntryKind,
};

/// The first and the longest delay between two attempts.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// A pending effect, without its text, and when it is retried.
struct Retry {
    /// What the effect changes; `None` if the entry cannot be read.
    subject: Option<Subject>,
    /// Whether the effect is a deletion or a removal, which counts already.
    counts: bool,
    /// When the effect was first recorded.
    recorded_at: Instant,
    /// The delay before the attempt after the next one.
    delay: Duration,
    /// When the effect is retried next.
    next_at: Instant,
}

impl Retry {
    fn is_of_room(&self) -> bool {
        self.subject.is_some_and(Subject::is_of_room)
    }

    /// Returns the subject that the effect deletes or removes.
    fn removed(&self) -> Option<Subject> {
        self.subject.filter(|_| self.counts)
    }
}

type Rooms = HashMap<RoomId, BTreeMap<Seq, Retry>>;

/// The pending effects that this server knows.
#[derive(Default)]
pub struct Pending(Mutex<Rooms>);

impl Pending {
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.0.lock()
    }

    /// Returns how many effects are pending.
    pub fn count(&self) -> usize {
        self.rooms().values().map(BTreeMap::len).sum()
    }

    /// Records effects that could not be applied. Logs one line per room for those that are new.
    pub fn record_failed<'a>(
        &self,
        effects: impl IntoIterator<Item = &'a PendingEffect>,
        reason: &str,
    ) {
        let mut new: BTreeMap<RoomId, Vec<u64>> = BTreeMap::new();
        for effect in effects {
            if self.record(effect.room, effect.seq, Some(&effect.change)) {
                new.entry(effect.room).or_default().push(effect.seq.0);
            }
        }
        for (room, seqs) in new {
            log_failed(room, &seqs, reason);
        }
    }

    /// Records an entry that cannot be read.
    pub fn record_unreadable(&self, room: RoomId, seq: Seq) {
        if self.record(room, seq, None) {
            log_failed(room, &[seq.0], "the entry cannot be read");
        }
    }

    /// Records an effect. Returns true when it was not recorded before.
    fn record(&self, room: RoomId, seq: Seq, change: Option<&NewEntryKind>) -> bool {
        let now = Instant::now();
        let mut rooms = self.rooms();
        let retries = rooms.entry(room).or_default();
        let is_new = !retries.contains_key(&seq);
        let retry = retries.entry(seq).or_insert(Retry {
            subject: change.and_then(NewEntryKind::subject),
            counts: change.is_some_and(counts_at_once),
            recorded_at: now,
            delay: RETRY_DELAYS.0,
            next_at: now,
        });
        retry.next_at = now + retry.delay;
        retry.delay = (retry.delay * 2).min(RETRY_DELAYS.1);
        is_new
    }

    /// Removes effects that have been applied.
    pub fn remove_applied(&self, effects: &[&PendingEffect]) {
        let mut rooms = self.rooms();
        if rooms.is_empty() {
            return;
        }
        for effect in effects {
            let Some(retries) = rooms.get_mut(&effect.room) else {
                continue;
            };
            if retries.remove(&effect.seq).is_some() {
                tracing::info!(room = %effect.room, seq = effect.seq.0, "pending effect applied");
            }
            if retries.is_empty() {
                rooms.remove(&effect.room);
            }
        }
    }

    /// Removes effects that are no longer pending: all that were recorded before `as_of` and are
    /// not in `found`.
    pub fn retain_found(&self, found: &HashSet<(RoomId, Seq)>, as_of: Instant) {
        let mut rooms = self.rooms();
        for (room, retries) in rooms.iter_mut() {
            retries
                .retain(|seq, retry| retry.recorded_at >= as_of || found.contains(&(*room, *seq)));
        }
        rooms.retain(|_, retries| !retries.is_empty());
    }

    /// Returns whether the effect of this entry is pending.
    pub fn has(&self, room: RoomId, seq: Seq) -> bool {
        self.rooms()
            .get(&room)
            .is_some_and(|retries| retries.contains_key(&seq))
    }

    /// Returns whether the delay before the next attempt to apply this effect is over.
    pub fn is_retry_due(&self, room: RoomId, seq: Seq) -> bool {
        self.rooms()
            .get(&room)
            .and_then(|retries| retries.get(&seq))
            .is_some_and(|retry| retry.next_at <= Instant::now())
    }

    /// Returns the earlier pending effects on the room of `effect`: first those that must still be
    /// applied after it, then those that it makes unnecessary.
    pub fn overtaken_by(&self, effect: &PendingEffect) -> (Vec<Seq>, Vec<Seq>) {
        let rooms = self.rooms();
        let Some(retries) = rooms.get(&effect.room) else {
            return (Vec::new(), Vec::new());
        };
        let subject = effect.change.subject();
        let earlier = retries
            .range(..effect.seq)
            .filter(|(_, retry)| retry.is_of_room());
        let (superseded, overtaken): (Vec<_>, Vec<_>) =
            earlier.partition(|(_, earlier)| earlier.subject == subject);
        let seqs =
            |effects: Vec<(&Seq, &Retry)>| effects.into_iter().map(|(seq, _)| *seq).collect();
        (seqs(overtaken), seqs(superseded))
    }

    /// Returns the messages of a room whose deletion is pending.
    pub fn deleted_in(&self, room: RoomId) -> HashSet<MessageId> {
        let deleted = |retry: &Retry| match retry.removed() {
            Some(Subject::Message(message)) => Some(message),
            _ => None,
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
        self.rooms().get(&room).is_some_and(|retries| {
            retries
                .values()
                .any(|retry| retry.removed() == Some(Subject::Message(message)))
        })
    }

    /// Returns the users whose removal from a room is pending.
    pub fn removed_from(&self, room: RoomId) -> HashSet<UserId> {
        let removed = |retry: &Retry| match retry.removed() {
            Some(Subject::Member(user)) => Some(user),
            _ => None,
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
        let is_left = |retries: &BTreeMap<Seq, Retry>| {
            retries
                .values()
                .any(|retry| retry.removed() == Some(Subject::Member(user)))
        };
        self.rooms()
            .iter()
            .filter(|(_, retries)| is_left(retries))
            .map(|(room, _)| *room)
            .collect()
    }
}

/// Returns whether a change is a deletion or a removal, which counts at once although the database
/// is not updated yet.
pub fn counts_at_once(change: &NewEntryKind) -> bool {
    change.is_removal()
}

fn log_failed(room: RoomId, seqs: &[u64], reason: &str) {
    let (seq, count) = (seqs.first().copied().unwrap_or_default(), seqs.len());
    tracing::warn!(%room, seq, count, reason, "failed to apply effects of entries; retrying");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn effect(seq: u64, change: NewEntryKind) -> PendingEffect {
        PendingEffect {
            id: MessageId::from_bytes([9; 16]),
            room: RoomId::from_bytes([1; 16]),
            seq: Seq(seq),
            at: Timestamp(0),
            change,
        }
    }

    #[test]
    fn a_later_change_of_the_same_member_or_name_supersedes_an_earlier_one() {
        let (one, two) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let pending = Pending::default();
        let effects = [
            effect(5, NewEntryKind::Rename(None)),
            effect(6, NewEntryKind::AddMember(one)),
            effect(7, NewEntryKind::Deletion(MessageId::from_bytes([3; 16]))),
        ];
        pending.record_failed(&effects, "refused");
        let removal = |user| NewEntryKind::RemoveMember {
            user,
            required_members: Vec::new(),
        };
        assert_eq!(
            pending.overtaken_by(&effect(8, removal(one))),
            (vec![Seq(5)], vec![Seq(6)])
        );
        assert_eq!(
            pending.overtaken_by(&effect(8, removal(two))),
            (vec![Seq(5), Seq(6)], vec![])
        );
        assert_eq!(
            pending.overtaken_by(&effect(6, NewEntryKind::Rename(None))),
            (vec![], vec![Seq(5)])
        );
    }

    #[test]
    fn an_effect_that_was_recorded_after_the_query_is_kept() {
        let pending = Pending::default();
        pending.record_failed(&[effect(5, NewEntryKind::Rename(None))], "refused");
        let as_of = Instant::now();
        pending.record_failed(&[effect(6, NewEntryKind::Rename(None))], "refused");
        pending.retain_found(&HashSet::new(), as_of);
        assert!(
            !pending.has(effect(5, NewEntryKind::Rename(None)).room, Seq(5))
                && pending.count() == 1
        );
    }
}
