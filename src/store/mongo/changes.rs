//! The updates that apply the effects of entries to messages and rooms, in MongoDB.
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
    rooms,
};
use crate::{
    model::{Seq, Timestamp, UserId},
    store::{self, NewEntryKind, search},
};

/// The most members that one update adds and removes.
const TOGETHER: usize = 500;
/// The most removals that a room stores. With them and the members, its document stays far below 16
/// MiB.
const DEPARTURES: i32 = 10_000;

/// Returns the update that an entry makes to a message.
pub fn of_message(due: &PendingEffect) -> Option<Document> {
    match &due.change {
        NewEntryKind::Edit { message, text } => Some(doc! {
            "q": {
                "_id": message.to_string(), "chatRoomId": due.room.to_string(), "deleted": null,
                "editSeq": { "$not": { "$gte": number(due.seq.0) } },
            },
            "u": { "$set": {
                "message.messageText": text, "terms": search::terms(text),
                "editSeq": number(due.seq.0), "editedAt": date(due.at), "updatedAt": date(due.at),
            }, "$unset": { "words": "" } },
        }),
        NewEntryKind::Deletion(message) => Some(doc! {
            "q": { "_id": message.to_string(), "chatRoomId": due.room.to_string(), "deleted": null },
            "u": { "$set": { "deleted": true, "updatedAt": date(due.at) }, "$unset": { "message.messageText": "", "terms": "", "words": "" } },
        }),
        _ => None,
    }
}

/// The changes of one room that are applied by one update.
type Independent<'a> = Vec<&'a PendingEffect>;

/// Divides the changes of rooms into those that can be applied first, grouped by room, and the
/// rest. Consecutive additions and removals of different members are applied by one update, since
/// each update writes the whole list of members. Two changes of the same member need two updates.
pub fn first_of_each_room(
    dues: Vec<&PendingEffect>,
) -> (Vec<Independent<'_>>, Vec<&PendingEffect>) {
    let mut first: Vec<Independent<'_>> = Vec::new();
    let (mut of_room, mut later, mut full) = (HashMap::new(), Vec::new(), HashSet::new());
    for due in dues {
        let index = *of_room.entry(due.room).or_insert_with(|| {
            first.push(Vec::new());
            first.len() - 1
        });
        let together = &mut first[index];
        let fits = together.len() < TOGETHER
            && together
                .iter()
                .all(|earlier| have_different_members(earlier, due));
        if fits && !full.contains(&due.room) {
            together.push(due);
        } else {
            // The order is kept: later changes of the room have to wait as well.
            full.insert(due.room);
            later.push(due);
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
fn member(due: &PendingEffect) -> Option<UserId> {
    match &due.change {
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
pub fn of_room(dues: &[&PendingEffect], pending: &Pending) -> Option<Document> {
    let last = dues.last()?;
    let mut stages = match &last.change {
        NewEntryKind::AddMember(_) | NewEntryKind::RemoveMember { .. } => members(dues, last.at),
        // `$literal`: the name may look like an expression.
        NewEntryKind::Rename(Some(name)) => vec![doc! { "$set": { "name": { "$literal": name } } }],
        NewEntryKind::Rename(None) => vec![doc! { "$unset": "name" }],
        NewEntryKind::Message { .. } | NewEntryKind::Edit { .. } | NewEntryKind::Deletion(_) => {
            return None;
        }
    };
    let seqs: Vec<_> = dues.iter().map(|due| number(due.seq.0)).collect();
    let (mut overtaken, mut done) = (Vec::new(), seqs.clone());
    for due in dues {
        let (others, moot) = pending.superseded_by(due);
        overtaken.extend(numbers(others));
        done.extend(numbers(moot));
    }
    let overtaken =
        doc! { "$filter": { "input": overtaken, "cond": { "$gt": ["$$this", "$changedSeq"] } } };
    let overtaken = doc! { "$setDifference": [{ "$setUnion": [{ "$ifNull": ["$overtakenSeqs", []] }, overtaken] }, done] };
    let unless_empty =
        doc! { "$cond": [{ "$eq": ["$$overtaken", []] }, "$$REMOVE", "$$overtaken"] };
    stages.push(doc! { "$set": {
        "overtakenSeqs": { "$let": { "vars": { "overtaken": overtaken }, "in": unless_empty } },
        "changedSeq": { "$max": ["$changedSeq", number(last.seq.0)] },
        "updatedAt": { "$max": ["$updatedAt", date(last.at)] },
    } });
    let not_done = vec![
        doc! { "changedSeq": { "$not": { "$gte": number(last.seq.0) } } },
        doc! { "overtakenSeqs": { "$in": seqs } },
    ];
    Some(
        doc! { "q": { "_id": last.room.to_string(), "deletedAt": null, "$or": not_done }, "u": stages },
    )
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
fn members(dues: &[&PendingEffect], at: Timestamp) -> Vec<Document> {
    let (mut coming, mut going) = (Vec::new(), Vec::new());
    for due in dues {
        let (user, seq) = (member(due).map(|user| user.to_string()), number(due.seq.0));
        match due.change {
            NewEntryKind::AddMember(_) => coming.push(doc! { "userId": user, "seq": seq }),
            _ => going.push(doc! { "userId": user, "seq": seq, "at": "$$NOW" }),
        }
    }
    let departed = !going.is_empty();
    let is_overtaken = doc! { "$in": ["$$this.seq", { "$ifNull": ["$overtakenSeqs", []] }] };
    let to_do = doc! { "$or": [{ "$gt": ["$$this.seq", "$changedSeq"] }, is_overtaken] };
    let not_done =
        |changes: Vec<Document>| doc! { "$filter": { "input": changes, "cond": &to_do } };
    let changes = doc! { "$concatArrays": ["$going.userId", "$coming.userId"] };
    let stayed = doc! { "$filter": { "input": { "$ifNull": ["$joined", []] }, "cond": { "$not": [{ "$in": ["$$this.userId", changes] }] } } };
    let members = doc! { "$setUnion": [{ "$setDifference": ["$userIds", "$going.userId"] }, "$coming.userId"] };
    let large =
        doc! { "$gt": [{ "$size": "$userIds" }, i64::try_from(store::SMALL).unwrap_or(i64::MAX)] };
    let active =
        doc! { "$cond": ["$large", "$activeUntil", { "$max": ["$activeUntil", date(at)] }] };
    let mut stages = vec![
        doc! { "$set": { "coming": not_done(coming), "going": not_done(going) } },
        doc! { "$set": { "joined": { "$concatArrays": [stayed, "$coming"] }, "userIds": members } },
        doc! { "$set": { "large": large } },
        doc! { "$set": { "activeUntil": active } },
    ];
    stages.extend(departed.then(departures));
    stages.push(doc! { "$unset": ["memberKey", "coming", "going"] });
    stages
}

/// Returns the stage that stores who was removed from the room, each user once, for other servers
/// to read; see [`rooms::departed`].
fn departures() -> Document {
    let told = doc! { "$gte": ["$$this.at", { "$subtract": ["$$NOW", rooms::DEPARTURES_TOLD] }] };
    let others = doc! { "$not": [{ "$in": ["$$this.userId", "$going.userId"] }] };
    let earlier = doc! { "$filter": { "input": { "$ifNull": ["$left", []] }, "cond": { "$and": [told, others] } } };
    let left = doc! { "$slice": [{ "$concatArrays": [earlier, "$going"] }, -DEPARTURES] };
    doc! { "$set": { "left": left, "leftAt": "$$NOW" } }
}
