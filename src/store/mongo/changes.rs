//! Doing what the entries say that are no messages, in MongoDB.
//!
//! The log is the truth: the entry comes first, and the documents of messages and rooms follow it. Until that is done the entry is marked as
//! pending. Doing it twice, or late, does no harm: an edit knows the number of the latest edit, and a room that of its latest change; what is
//! older does nothing. A message that is deleted stays so. The changes of a room are done in order, and so whoever is about to do one first
//! does those before it; see [`apply_pending`](super::effects::finish). Where one of these cannot be done, the room notes its number, so that it can be done later.
//!
//! If a server is killed in between, the next that wants to append to the room, or to tell somebody how far its log goes, does what is left;
//! besides, every server looks for such entries now and then. How the updates are sent is in `effects`.

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

/// How many members come and go in one update.
const TOGETHER: usize = 500;
/// The most users of whom a room tells that they were taken out of it: with the members the document stays far below 16 MiB.
const DEPARTURES: i32 = 10_000;

/// What an entry does to a message.
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

/// Changes of one room that one update does.
type Together<'a> = Vec<&'a PendingEffect>;

/// Divides changes of rooms into those that can be done first, together for each room, and the others. Those who come and go one after the
/// other do so in one update, since each writes the whole list of members; whoever comes and goes again does it in two.
pub fn first_of_each_room(dues: Vec<&PendingEffect>) -> (Vec<Together<'_>>, Vec<&PendingEffect>) {
    let mut first: Vec<Together<'_>> = Vec::new();
    let (mut of_room, mut later, mut full) = (HashMap::new(), Vec::new(), HashSet::new());
    for due in dues {
        let index = *of_room.entry(due.room).or_insert_with(|| {
            first.push(Vec::new());
            first.len() - 1
        });
        let together = &mut first[index];
        let fits = together.len() < TOGETHER && together.iter().all(|earlier| are_of_two_members(earlier, due));
        if fits && !full.contains(&due.room) {
            together.push(due);
        } else {
            // In order: what comes behind it waits as well.
            full.insert(due.room);
            later.push(due);
        }
    }
    (first, later)
}

fn are_of_two_members(one: &PendingEffect, other: &PendingEffect) -> bool {
    member(one).zip(member(other)).is_some_and(|(one, other)| one != other)
}

/// Who comes or goes.
fn member(due: &PendingEffect) -> Option<UserId> {
    match &due.change {
        NewEntryKind::AddMember(user) | NewEntryKind::RemoveMember { user, .. } => Some(*user),
        _ => None,
    }
}

/// What these entries do to their room: one of any kind, or several by which different members come and go.
///
/// The room has the number of its latest change, and of those before it that were overtaken because they could not be applied: what is
/// neither later nor among these does nothing.
pub fn of_room(dues: &[&PendingEffect], pending: &Pending) -> Option<Document> {
    let last = dues.last()?;
    let mut stages = match &last.change {
        NewEntryKind::AddMember(_) | NewEntryKind::RemoveMember { .. } => members(dues, last.at),
        // As it is, also where it looks like an expression.
        NewEntryKind::Rename(Some(name)) => vec![doc! { "$set": { "name": { "$literal": name } } }],
        NewEntryKind::Rename(None) => vec![doc! { "$unset": "name" }],
        NewEntryKind::Message { .. } | NewEntryKind::Edit { .. } | NewEntryKind::Deletion(_) => return None,
    };
    let seqs: Vec<_> = dues.iter().map(|due| number(due.seq.0)).collect();
    let (mut overtaken, mut done) = (Vec::new(), seqs.clone());
    for due in dues {
        let (others, moot) = pending.overtaken_by(due);
        overtaken.extend(numbers(others));
        done.extend(numbers(moot));
    }
    let overtaken = doc! { "$filter": { "input": overtaken, "cond": { "$gt": ["$$this", "$changedSeq"] } } };
    let overtaken = doc! { "$setDifference": [{ "$setUnion": [{ "$ifNull": ["$overtakenSeqs", []] }, overtaken] }, done] };
    let unless_empty = doc! { "$cond": [{ "$eq": ["$$overtaken", []] }, "$$REMOVE", "$$overtaken"] };
    stages.push(doc! { "$set": {
        "overtakenSeqs": { "$let": { "vars": { "overtaken": overtaken }, "in": unless_empty } },
        "changedSeq": { "$max": ["$changedSeq", number(last.seq.0)] },
        "updatedAt": { "$max": ["$updatedAt", date(last.at)] },
    } });
    let not_done = vec![doc! { "changedSeq": { "$not": { "$gte": number(last.seq.0) } } }, doc! { "overtakenSeqs": { "$in": seqs } }];
    Some(doc! { "q": { "_id": last.room.to_string(), "deletedAt": null, "$or": not_done }, "u": stages })
}

fn numbers(seqs: Vec<Seq>) -> impl Iterator<Item = i64> {
    seqs.into_iter().map(|seq| number(seq.0))
}

/// Lets people in and out. Of these entries the first may have been done, and others after them: those count that are behind the latest
/// change of the room, or were overtaken by it. A room whose members ever changed has the field `joined`, and is not found by its members.
///
/// A room that was large may no longer be, and then has to say how long it is active; nothing before the entry is later than that. One that
/// is large afterwards says what it did, which nobody reads: the index has it for every member, and each change would cost as many keys.
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
    let not_done = |changes: Vec<Document>| doc! { "$filter": { "input": changes, "cond": &to_do } };
    let changes = doc! { "$concatArrays": ["$going.userId", "$coming.userId"] };
    let stayed =
        doc! { "$filter": { "input": { "$ifNull": ["$joined", []] }, "cond": { "$not": [{ "$in": ["$$this.userId", changes] }] } } };
    let members = doc! { "$setUnion": [{ "$setDifference": ["$userIds", "$going.userId"] }, "$coming.userId"] };
    let large = doc! { "$gt": [{ "$size": "$userIds" }, i64::try_from(store::SMALL).unwrap_or(i64::MAX)] };
    let active = doc! { "$cond": ["$large", "$activeUntil", { "$max": ["$activeUntil", date(at)] }] };
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

/// Has the room tell for a while who was taken out of it, each once, for the other servers; see [`rooms::departed`].
fn departures() -> Document {
    let told = doc! { "$gte": ["$$this.at", { "$subtract": ["$$NOW", rooms::DEPARTURES_TOLD] }] };
    let others = doc! { "$not": [{ "$in": ["$$this.userId", "$going.userId"] }] };
    let earlier = doc! { "$filter": { "input": { "$ifNull": ["$left", []] }, "cond": { "$and": [told, others] } } };
    let left = doc! { "$slice": [{ "$concatArrays": [earlier, "$going"] }, -DEPARTURES] };
    doc! { "$set": { "left": left, "leftAt": "$$NOW" } }
}
