//! The effects of entries on messages and rooms, in MongoDB: whether an entry has one, and the
//! updates that apply it.
//!
//! The log is authoritative: an entry is inserted first, and the documents of messages and rooms
//! are updated after it. Until then the entry is marked as pending. Applying an effect twice, or
//! late, does no harm: a message stores the sequence number of its latest edit, and a room that of
//! its latest change, and older effects do nothing. A deleted message stays deleted. The changes of
//! a room are applied in order, so the earlier ones are applied first; see
//! [`apply_pending`](super::effects::apply_pending). If an earlier one cannot be applied, the room
//! records its number, so that it can be applied later.
//!
//! If a server is killed in between, the next server that appends to the room, or reads the end of
//! its log for a client, applies the remaining effects. In addition, every server looks for pending
//! entries periodically. `effects` sends the updates.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Document, doc};

use super::{
    documents::{date, number},
    entries::PendingEffect,
    pending::Pending,
};
use crate::{
    model::{MessageId, RoomId, Seq, Timestamp, UserId},
    store::{NewEntry, NewEntryKind, rooms::SMALL, search},
};

/// The most members that one update adds and removes.
const MAX_MEMBERS_PER_UPDATE: usize = 500;
/// The most removals that a room stores. With them and the members, its document stays far below 16
/// MiB.
const MAX_STORED_REMOVALS: i32 = 10_000;
/// How long a room stores the removals of members, in milliseconds. It covers a server that could
/// not reach the database meanwhile.
const REMOVAL_RETENTION_MS: i64 = 3_600_000;

/// The state of a room, as far as it decides whether an entry has an effect.
pub struct RoomState {
    pub name: Option<String>,
    /// The relevant users who are members.
    pub members: HashSet<UserId>,
}

/// Returns whether an entry would change something. `messages` are the messages to edit or delete
/// that exist, and `room` is the state of the entry's room, if it is known.
pub fn has_effect(
    entry: &NewEntry,
    messages: &HashSet<(RoomId, MessageId)>,
    room: Option<&RoomState>,
) -> bool {
    let is_member = |user: &UserId| room.is_some_and(|room| room.members.contains(user));
    match &entry.change {
        NewEntryKind::Message { .. } => true,
        NewEntryKind::Edit { message, .. } | NewEntryKind::Deletion(message) => {
            messages.contains(&(entry.room, *message))
        }
        NewEntryKind::AddMember(user) => !is_member(user),
        NewEntryKind::RemoveMember { user, .. } => is_member(user),
        NewEntryKind::Rename(name) => room.is_some_and(|room| room.name != *name),
    }
}

/// Returns the update that an entry makes to a message.
pub fn message_update(effect: &PendingEffect) -> Option<Document> {
    match &effect.change {
        NewEntryKind::Edit { message, text } => Some(doc! {
            "q": {
                "_id": message.to_string(), "chatRoomId": effect.room.to_string(), "deleted": null,
                "editSeq": { "$not": { "$gte": number(effect.seq.0) } },
            },
            "u": { "$set": {
                "message.messageText": text, "terms": search::terms(text),
                "editSeq": number(effect.seq.0), "editedAt": date(effect.at), "updatedAt": date(effect.at),
            }, "$unset": { "words": "" } },
        }),
        NewEntryKind::Deletion(message) => Some(doc! {
            "q": { "_id": message.to_string(), "chatRoomId": effect.room.to_string(), "deleted": null },
            "u": { "$set": { "deleted": true, "updatedAt": date(effect.at) }, "$unset": { "message.messageText": "", "terms": "", "words": "" } },
        }),
        _ => None,
    }
}

/// The changes of one room that are applied by one update.
type RoomGroup<'a> = Vec<&'a PendingEffect>;

/// Divides the changes of rooms into those that can be applied first, grouped by room, and the
/// rest. Consecutive additions and removals of different members are applied by one update, since
/// each update writes the whole list of members. Two changes of the same member need two updates.
pub fn split_first_groups(
    effects: Vec<&PendingEffect>,
) -> (Vec<RoomGroup<'_>>, Vec<&PendingEffect>) {
    let mut first: Vec<RoomGroup<'_>> = Vec::new();
    let (mut group_of_room, mut later, mut full) = (HashMap::new(), Vec::new(), HashSet::new());
    for effect in effects {
        let index = *group_of_room.entry(effect.room).or_insert_with(|| {
            first.push(Vec::new());
            first.len() - 1
        });
        let group = &mut first[index];
        let fits = group.len() < MAX_MEMBERS_PER_UPDATE
            && group
                .iter()
                .all(|earlier| have_different_members(earlier, effect));
        if fits && !full.contains(&effect.room) {
            group.push(effect);
        } else {
            // The order is kept: later changes of the room have to wait as well.
            full.insert(effect.room);
            later.push(effect);
        }
    }
    (first, later)
}

fn have_different_members(one: &PendingEffect, other: &PendingEffect) -> bool {
    member(one)
        .zip(member(other))
        .is_some_and(|(one, other)| one != other)
}

/// Returns the member who is added or removed.
fn member(effect: &PendingEffect) -> Option<UserId> {
    match &effect.change {
        NewEntryKind::AddMember(user) | NewEntryKind::RemoveMember { user, .. } => Some(*user),
        _ => None,
    }
}

/// Returns the update that these entries make to their room: a single entry of any kind, or several
/// that add or remove different members.
///
/// The room stores the sequence number of its latest change, and those of earlier changes that were
/// overtaken because they could not be applied. An entry that is neither later than the former nor
/// among the latter does nothing.
pub fn room_update(effects: &[&PendingEffect], pending: &Pending) -> Option<Document> {
    let last = effects.last()?;
    let mut stages = match &last.change {
        NewEntryKind::AddMember(_) | NewEntryKind::RemoveMember { .. } => {
            member_stages(effects, last.at)
        }
        // `$literal`: the name may look like an expression.
        NewEntryKind::Rename(Some(name)) => vec![doc! { "$set": { "name": { "$literal": name } } }],
        NewEntryKind::Rename(None) => vec![doc! { "$unset": "name" }],
        NewEntryKind::Message { .. } | NewEntryKind::Edit { .. } | NewEntryKind::Deletion(_) => {
            return None;
        }
    };
    let seqs: Vec<_> = effects.iter().map(|effect| number(effect.seq.0)).collect();
    stages.push(doc! { "$set": {
        "overtakenSeqs": overtaken_seqs(effects, pending, &seqs),
        "changedSeq": { "$max": ["$changedSeq", number(last.seq.0)] },
        "updatedAt": { "$max": ["$updatedAt", date(last.at)] },
    } });
    let not_applied = vec![
        doc! { "changedSeq": { "$not": { "$gte": number(last.seq.0) } } },
        doc! { "overtakenSeqs": { "$in": seqs } },
    ];
    Some(
        doc! { "q": { "_id": last.room.to_string(), "deletedAt": null, "$or": not_applied }, "u": stages },
    )
}

/// Returns the expression for the earlier changes that are not applied once these are, or for a
/// missing field if there are none.
fn overtaken_seqs(effects: &[&PendingEffect], pending: &Pending, seqs: &[i64]) -> Document {
    let (mut overtaken, mut done) = (Vec::new(), seqs.to_vec());
    for effect in effects {
        let (overtaken_by_it, superseded) = pending.overtaken_by(effect);
        overtaken.extend(numbers(overtaken_by_it));
        done.extend(numbers(superseded));
    }
    let overtaken =
        doc! { "$filter": { "input": overtaken, "cond": { "$gt": ["$$this", "$changedSeq"] } } };
    let overtaken = doc! { "$setDifference": [{ "$setUnion": [{ "$ifNull": ["$overtakenSeqs", []] }, overtaken] }, done] };
    let unless_empty =
        doc! { "$cond": [{ "$eq": ["$$overtaken", []] }, "$$REMOVE", "$$overtaken"] };
    doc! { "$let": { "vars": { "overtaken": overtaken }, "in": unless_empty } }
}

fn numbers(seqs: Vec<Seq>) -> impl Iterator<Item = i64> {
    seqs.into_iter().map(|seq| number(seq.0))
}

/// Returns the update stages that add and remove members. Some of these entries may be applied
/// already; only those count that are after the latest change of the room, or were overtaken by it.
/// A room whose members ever changed has the field `joined`, and has no member key, so it is not
/// found by its members.
///
/// A room that is no longer large needs `activeUntil`; no earlier entry is later than this one. A
/// room that is large afterwards keeps its old `activeUntil`, which is not used: the index has it
/// for every member, so each change would rewrite that many keys.
fn member_stages(effects: &[&PendingEffect], at: Timestamp) -> Vec<Document> {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for effect in effects {
        let (user, seq) = (
            member(effect).map(|user| user.to_string()),
            number(effect.seq.0),
        );
        match effect.change {
            NewEntryKind::AddMember(_) => added.push(doc! { "userId": user, "seq": seq }),
            _ => removed.push(doc! { "userId": user, "seq": seq, "at": "$$NOW" }),
        }
    }
    let has_removals = !removed.is_empty();
    let is_overtaken = doc! { "$in": ["$$this.seq", { "$ifNull": ["$overtakenSeqs", []] }] };
    let is_new = doc! { "$or": [{ "$gt": ["$$this.seq", "$changedSeq"] }, is_overtaken] };
    let not_applied =
        |changes: Vec<Document>| doc! { "$filter": { "input": changes, "cond": &is_new } };
    let changed = doc! { "$concatArrays": ["$going.userId", "$coming.userId"] };
    let unchanged = doc! { "$filter": { "input": { "$ifNull": ["$joined", []] }, "cond": { "$not": [{ "$in": ["$$this.userId", changed] }] } } };
    let members = doc! { "$setUnion": [{ "$setDifference": ["$userIds", "$going.userId"] }, "$coming.userId"] };
    let large = doc! { "$gt": [{ "$size": "$userIds" }, i64::try_from(SMALL).unwrap_or(i64::MAX)] };
    let active =
        doc! { "$cond": ["$large", "$activeUntil", { "$max": ["$activeUntil", date(at)] }] };
    let mut stages = vec![
        doc! { "$set": { "coming": not_applied(added), "going": not_applied(removed) } },
        doc! { "$set": { "joined": { "$concatArrays": [unchanged, "$coming"] }, "userIds": members } },
        doc! { "$set": { "large": large } },
        doc! { "$set": { "activeUntil": active } },
    ];
    stages.extend(has_removals.then(removal_stage));
    stages.push(doc! { "$unset": ["memberKey", "coming", "going"] });
    stages
}

/// Returns the stage that stores who was removed from the room, each user once, for other servers
/// to read; see [`Rooms::removed_members`](crate::store::Rooms::removed_members).
fn removal_stage() -> Document {
    let is_recent =
        doc! { "$gte": ["$$this.at", { "$subtract": ["$$NOW", REMOVAL_RETENTION_MS] }] };
    let is_other_user = doc! { "$not": [{ "$in": ["$$this.userId", "$going.userId"] }] };
    let earlier = doc! { "$filter": { "input": { "$ifNull": ["$left", []] }, "cond": { "$and": [is_recent, is_other_user] } } };
    let left = doc! { "$slice": [{ "$concatArrays": [earlier, "$going"] }, -MAX_STORED_REMOVALS] };
    doc! { "$set": { "left": left, "leftAt": "$$NOW" } }
}
