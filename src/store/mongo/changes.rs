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
    model::{Seq, Timestamp},
    store::{self, Change, Result, StoreError, search},
};

/// How many pending entries are done in one go: a request of MongoDB's has to hold their texts.
const AT_ONCE: usize = 100;

/// Does what these entries say, each room's in the order of their numbers.
pub async fn carry_out(connection: &Connection, dues: &[Due]) -> Result<()> {
    update(connection, connection.messages.name(), dues.iter().filter_map(of_message).collect()).await?;
    update(connection, connection.rooms.name(), dues.iter().filter_map(of_room).collect()).await
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
                "message.messageText": text, "words": search::words(text),
                "editSeq": number(due.seq.0), "editedAt": date(due.at), "updatedAt": date(due.at),
            } },
        }),
        Change::Deletion(message) => Some(doc! {
            "q": { "_id": message.to_string(), "chatRoomId": due.room.to_string(), "deleted": null },
            "u": { "$set": { "deleted": true, "updatedAt": date(due.at) }, "$unset": { "message.messageText": "", "words": "" } },
        }),
        _ => None,
    }
}

/// What an entry does to its room. One whose members ever changed has the field `joined`, and is not found by its members.
fn of_room(due: &Due) -> Option<Document> {
    let joined = doc! { "$ifNull": ["$joined", []] };
    let mut stages = match &due.change {
        Change::AddMember(user) => {
            let user = user.to_string();
            let with = doc! { "$concatArrays": [&joined, [{ "userId": &user, "seq": number(due.seq.0) }]] };
            let is_member = doc! { "$in": [&user, "$userIds"] };
            let joined = doc! { "$cond": [is_member, joined, with] };
            members(due.at, joined, doc! { "$setUnion": ["$userIds", [user]] })
        }
        Change::RemoveMember { user, .. } => {
            let user = user.to_string();
            let without = doc! { "$filter": { "input": joined, "cond": { "$ne": ["$$this.userId", &user] } } };
            let mut stages = members(due.at, without, doc! { "$setDifference": ["$userIds", [&user]] });
            stages.push(departure(&user, due.seq));
            stages
        }
        // As it is, also where it looks like an expression.
        Change::Rename(Some(name)) => vec![doc! { "$set": { "name": { "$literal": name } } }],
        Change::Rename(None) => vec![doc! { "$unset": "name" }],
        Change::Message { .. } | Change::Edit { .. } | Change::Deletion(_) => return None,
    };
    stages.push(doc! { "$set": { "changedSeq": number(due.seq.0), "updatedAt": date(due.at) } });
    let as_it_was = doc! { "_id": due.room.to_string(), "deletedAt": null, "changedSeq": { "$not": { "$gte": number(due.seq.0) } } };
    Some(doc! { "q": as_it_was, "u": stages })
}

/// Has the room tell for a while who was taken out of it, for the other servers; see [`rooms::departed`].
fn departure(user: &str, seq: Seq) -> Document {
    let told = doc! { "$gte": ["$$this.at", { "$subtract": ["$$NOW", rooms::DEPARTURES_TOLD] }] };
    let earlier = doc! { "$filter": { "input": { "$ifNull": ["$left", []] }, "cond": told } };
    let departed = doc! { "userId": user, "seq": number(seq.0), "at": "$$NOW" };
    doc! { "$set": { "left": { "$concatArrays": [earlier, [departed]] }, "leftAt": "$$NOW" } }
}

/// A room that was large may no longer be, and then has to say how long it is active; nothing before the entry is later than that. One that
/// is large afterwards says what it did, which nobody reads: the index has it for every member, and each change would cost as many keys.
fn members(at: Timestamp, joined: Document, members: Document) -> Vec<Document> {
    let active = doc! { "$cond": ["$large", "$activeUntil", { "$max": ["$activeUntil", date(at)] }] };
    let large = doc! { "$gt": [{ "$size": "$userIds" }, i64::try_from(store::SMALL).unwrap_or(i64::MAX)] };
    vec![
        doc! { "$set": { "joined": joined, "userIds": members } },
        doc! { "$set": { "large": large } },
        doc! { "$set": { "activeUntil": active } },
        doc! { "$unset": "memberKey" },
    ]
}
