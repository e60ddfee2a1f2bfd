//! Doing what the entries say that are no messages, in MongoDB.
//!
//! The log is the truth: the entry comes first, and the documents of messages and rooms follow it. Until that is done the entry is marked as
//! pending. Doing it twice, or late, does no harm: an edit knows the number of the latest edit, and a room that of its latest change; what is
//! older does nothing. A message that is deleted stays so. The changes of a room have to be done in order, without leaving one out, and so
//! whoever is about to do one first does those before it; see [`finish`].
//!
//! If a server is killed in between, the next that wants to append to the room, or to tell somebody how far its log goes, does what is left;
//! besides, every server looks for such entries now and then.

use mongodb::bson::{Document, doc};

use super::{
    connection::Connection,
    documents::{date, number},
    entries::{self, Due},
    rooms,
    schema::{self, by_name},
};
use crate::{
    model::{Timestamp, UserId},
    store::{self, Change, Result, StoreError, search},
};

/// How many pending entries are done in one go: a request of MongoDB's has to hold their texts.
const AT_ONCE: usize = 100;

/// Does what these entries say, each room's in the order of their numbers.
pub async fn carry_out(connection: &Connection, dues: &[Due]) -> Result<()> {
    update(connection, connection.messages.name(), dues.iter().filter_map(of_message).collect()).await?;
    update(connection, connection.rooms.name(), of_rooms(dues)).await
}

/// Marks the entries as done.
pub async fn settle(connection: &Connection, dues: &[Due]) -> Result<()> {
    let ids: Vec<_> = dues.iter().map(|due| due.id.to_string()).collect();
    let done = doc! { "$unset": { "pending": "", "newText": "" } };
    connection.within(connection.messages.update_many(doc! { "_id": { "$in": ids } }, done)).await.map(|_| ())
}

/// Does what is pending in these rooms, or everywhere.
pub async fn finish(connection: &Connection, rooms: Option<Vec<String>>) -> Result<()> {
    let mut pending = doc! { "pending": true };
    if let Some(rooms) = rooms {
        pending.insert("chatRoomId", doc! { "$in": rooms });
    }
    let pending = connection.messages.find(pending).sort(doc! { "chatRoomId": 1, "seq": 1 }).hint(by_name(schema::PENDING));
    let dues = connection.all(pending, entries::due).await?;
    for some in dues.chunks(AT_ONCE) {
        carry_out(connection, some).await?;
        settle(connection, some).await?;
    }
    Ok(())
}

/// Sends updates, and waits until they are on disk.
pub async fn update(connection: &Connection, collection: &str, updates: Vec<Document>) -> Result<()> {
    if updates.is_empty() {
        return Ok(());
    }
    let command = doc! { "update": collection, "updates": updates, "ordered": true, "writeConcern": connection.durable() };
    let reply = connection.within(connection.database.run_command(command)).await?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!("the majority did not confirm: {concern}")));
    }
    match reply.get_array("writeErrors") {
        Ok(errors) => Err(StoreError::Fault(format!("what an entry says could not be done: {errors:?}"))),
        Err(_) => Ok(()),
    }
}

/// What an entry does to a message.
fn of_message(due: &Due) -> Option<Document> {
    match &due.change {
        Change::Edit { message, text } => Some(doc! {
            "q": {
                "_id": message.to_string(), "chatRoomId": due.room.to_string(), "deleted": null,
                "editSeq": { "$not": { "$gte": number(due.seq.0) } },
            },
            "u": { "$set": {
                "message.messageText": text, "terms": search::terms(text),
                "editSeq": number(due.seq.0), "editedAt": date(due.at), "updatedAt": date(due.at),
            }, "$unset": { "words": "" } },
        }),
        Change::Deletion(message) => Some(doc! {
            "q": { "_id": message.to_string(), "chatRoomId": due.room.to_string(), "deleted": null },
            "u": { "$set": { "deleted": true, "updatedAt": date(due.at) }, "$unset": { "message.messageText": "", "terms": "", "words": "" } },
        }),
        _ => None,
    }
}

/// What the entries do to their rooms, each room's in order. Those who come and go one after the other do so in one update, since each
/// writes the whole list of members; whoever comes and goes again does it in two.
fn of_rooms(dues: &[Due]) -> Vec<Document> {
    let mut together: Vec<Vec<&Due>> = Vec::new();
    for due in dues.iter().filter(|due| due.change.is_of_room()) {
        let before = together.iter_mut().rev().find(|before| before[0].room == due.room);
        match before {
            Some(before) if before.iter().all(|earlier| are_of_two_members(earlier, due)) => before.push(due),
            _ => together.push(vec![due]),
        }
    }
    together.iter().filter_map(|together| of_room(together)).collect()
}

fn are_of_two_members(one: &Due, other: &Due) -> bool {
    member(one).zip(member(other)).is_some_and(|(one, other)| one != other)
}

/// Who comes or goes.
fn member(due: &Due) -> Option<UserId> {
    match &due.change {
        Change::AddMember(user) | Change::RemoveMember { user, .. } => Some(*user),
        _ => None,
    }
}

/// What these entries do to their room: one of any kind, or several by which different members come and go.
fn of_room(dues: &[&Due]) -> Option<Document> {
    let last = dues.last()?;
    let mut stages = match &last.change {
        Change::AddMember(_) | Change::RemoveMember { .. } => members(dues, last.at),
        // As it is, also where it looks like an expression.
        Change::Rename(Some(name)) => vec![doc! { "$set": { "name": { "$literal": name } } }],
        Change::Rename(None) => vec![doc! { "$unset": "name" }],
        Change::Message { .. } | Change::Edit { .. } | Change::Deletion(_) => return None,
    };
    stages.push(doc! { "$set": { "changedSeq": number(last.seq.0), "updatedAt": date(last.at) } });
    let as_it_was = doc! { "_id": last.room.to_string(), "deletedAt": null, "changedSeq": { "$not": { "$gte": number(last.seq.0) } } };
    Some(doc! { "q": as_it_was, "u": stages })
}

/// Lets people in and out. Of these entries the first may have been done, and others after them: those count that are behind the latest
/// change of the room. A room whose members ever changed has the field `joined`, and is not found by its members.
///
/// A room that was large may no longer be, and then has to say how long it is active; nothing before the entry is later than that. One that
/// is large afterwards says what it did, which nobody reads: the index has it for every member, and each change would cost as many keys.
fn members(dues: &[&Due], at: Timestamp) -> Vec<Document> {
    let (mut coming, mut going) = (Vec::new(), Vec::new());
    for due in dues {
        let (user, seq) = (member(due).map(|user| user.to_string()), number(due.seq.0));
        match due.change {
            Change::AddMember(_) => coming.push(doc! { "userId": user, "seq": seq }),
            _ => going.push(doc! { "userId": user, "seq": seq, "at": "$$NOW" }),
        }
    }
    let departed = !going.is_empty();
    let not_done = |changes: Vec<Document>| doc! { "$filter": { "input": changes, "cond": { "$gt": ["$$this.seq", "$changedSeq"] } } };
    let stay = doc! { "$not": [{ "$in": ["$$this.userId", "$going.userId"] }] };
    let stayed = doc! { "$filter": { "input": { "$ifNull": ["$joined", []] }, "cond": stay } };
    let new = doc! { "$filter": { "input": "$coming", "cond": { "$in": ["$$this.userId", "$$new"] } } };
    let new = doc! { "$let": { "vars": { "new": { "$setDifference": ["$coming.userId", "$userIds"] } }, "in": new } };
    let members = doc! { "$setUnion": [{ "$setDifference": ["$userIds", "$going.userId"] }, "$coming.userId"] };
    let large = doc! { "$gt": [{ "$size": "$userIds" }, i64::try_from(store::SMALL).unwrap_or(i64::MAX)] };
    let active = doc! { "$cond": ["$large", "$activeUntil", { "$max": ["$activeUntil", date(at)] }] };
    let mut stages = vec![
        doc! { "$set": { "coming": not_done(coming), "going": not_done(going) } },
        doc! { "$set": { "joined": { "$concatArrays": [stayed, new] }, "userIds": members } },
        doc! { "$set": { "large": large } },
        doc! { "$set": { "activeUntil": active } },
    ];
    stages.extend(departed.then(departures));
    stages.push(doc! { "$unset": ["memberKey", "coming", "going"] });
    stages
}

/// Has the room tell for a while who was taken out of it, for the other servers; see [`rooms::departed`].
fn departures() -> Document {
    let told = doc! { "$gte": ["$$this.at", { "$subtract": ["$$NOW", rooms::DEPARTURES_TOLD] }] };
    let earlier = doc! { "$filter": { "input": { "$ifNull": ["$left", []] }, "cond": told } };
    doc! { "$set": { "left": { "$concatArrays": [earlier, "$going"] }, "leftAt": "$$NOW" } }
}
