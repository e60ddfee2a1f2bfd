//! Search, in MongoDB.
//!
//! A message that is in the index holds its words beside its text, each once, and the index leads from a room and a word to messages, the newest
//! first. MongoDB's own text index would find messages with any of the words, compare phrases with parts of words, and could give them in no
//! order but by reading all of them; and it would make every post wait.
//!
//! A message gets its words some time after it was posted: by whoever searches the room, and otherwise on the side. The document of a room says
//! up to which entry that is done. An edit brings its words along, and a deletion takes them away, whether it is done or not.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocument, doc};

use super::{
    changes,
    connection::Connection,
    documents::{self, date, number, number_in, seq_in, text_in},
    pages::{self, entries_between},
    rooms, rows,
    schema::{self, by_name},
};
use crate::{
    model::{Message, RoomId, Seq},
    store::{
        Result, Scope, Search,
        search::{self, PIECE},
    },
};

/// In how many rooms at once messages get their words when somebody waits for it.
const ROOMS_AT_ONCE: usize = 4;

/// How many messages with a word are counted at most. With more it is common, however many there are.
const COUNTED: u64 = 1_000;
/// So few that no rarer word is looked for.
const FEW: u64 = 20;

/// Gives the next messages of these rooms their words, a few; answers in which rooms there are more.
pub async fn catch_up(connection: &Connection, mut rooms: Vec<RoomId>) -> Result<Vec<RoomId>> {
    if let Some(room) = rooms.last()
        && !catch_up_room(connection, *room).await?
    {
        rooms.pop();
    }
    Ok(rooms)
}

/// Gives some messages of a room their words. True when there are more.
async fn catch_up_room(connection: &Connection, room: RoomId) -> Result<bool> {
    let done = connection.rooms.find_one(doc! { "_id": room.to_string(), "deletedAt": null }).projection(doc! { "searchSeq": 1 });
    let Some(done) = connection.one(done, |room| Some(seq_in(room, "searchSeq"))).await? else { return Ok(false) };
    let last = Seq(done.0 + PIECE);
    let fields = doc! { "seq": 1, "message.messageText": 1, "deleted": 1, "closed": 1, "editSeq": 1 };
    let entries = connection.messages.find(entries_between(room, done, last)).sort(doc! { "seq": 1 }).projection(fields);
    let entries = entries.hint(by_name(schema::LOG)).limit(rows(PIECE));
    let entries = connection.all(entries, |entry| Some((seq_in(entry, "seq"), with_words(entry)))).await?;
    let Some((end, _)) = entries.last() else { return Ok(false) };
    let more = *end == last;
    let up_to = doc! { "$max": { "searchSeq": number(end.0) } };
    changes::update(connection, connection.messages.name(), entries.into_iter().filter_map(|(_, update)| update).collect()).await?;
    connection.within(connection.rooms.update_one(doc! { "_id": room.to_string(), "deletedAt": null }, up_to)).await?;
    Ok(more)
}

/// Gives a message its words, unless it says something else by then: an edit has brought its own.
fn with_words(entry: &RawDocument) -> Option<Document> {
    if documents::flag_in(entry, "deleted") {
        return None;
    }
    let text = entry.get_document("message").ok().map(|content| text_in(content, "messageText"))?;
    let edited = Some(number_in(entry, "editSeq")).filter(|seq| *seq > 0).map(number);
    let as_it_was = doc! { "_id": text_in(entry, "_id"), "deleted": null, "editSeq": edited };
    Some(doc! { "q": as_it_was, "u": { "$set": { "words": search::words(text) } } })
}

/// The messages that are looked for.
pub async fn search(connection: &Connection, search: &Search) -> Result<Vec<Message>> {
    let mut words = search.wanted();
    let rooms = match search.scope {
        Scope::Room { room, after } => vec![(room, after)],
        Scope::RoomsOf { user, since_joined } => {
            let joined = rooms::joined_of(connection, user, None).await?;
            joined.into_iter().map(|(room, joined)| (room, if since_joined { joined } else { Seq(0) })).collect()
        }
    };
    if words.is_empty() || rooms.is_empty() || search.limit == 0 {
        return Ok(Vec::new());
    }
    let behind = behind(connection, rooms.iter().map(|(room, _)| *room).collect()).await?;
    let catching_up: Vec<_> = behind.into_iter().map(|room| catch_up_all(connection, room)).collect();
    stream::iter(catching_up).buffer_unordered(ROOMS_AT_ONCE).try_collect::<Vec<_>>().await?;
    let ids: Vec<_> = rooms.iter().map(|(room, _)| room.to_string()).collect();
    let rarest = rarest(connection, &ids, &words).await?;
    let first = words.swap_remove(rarest);
    let mut filter = doc! { "chatRoomId": { "$in": ids }, "words": first };
    let mut conditions: Vec<_> = words.iter().map(|word| doc! { "words": word }).collect();
    // Of a room that is seen from an entry on, only what is behind it.
    conditions.extend(rooms.iter().filter(|(_, after)| *after > Seq(0)).map(|(room, after)| {
        doc! { "$or": [{ "chatRoomId": { "$ne": room.to_string() } }, { "seq": { "$gt": number(after.0) } }] }
    }));
    if let Some((at, id)) = search.before {
        let same_time = doc! { "createdAt": date(at), "_id": { "$lt": id.to_string() } };
        conditions.push(doc! { "$or": [{ "createdAt": { "$lt": date(at) } }, same_time] });
    }
    if !conditions.is_empty() {
        filter.insert("$and", conditions);
    }
    let found = connection.messages.find(filter).sort(doc! { "createdAt": -1, "_id": -1 }).limit(rows(search.limit));
    connection.all(found.hint(by_name(schema::BY_WORD)), documents::message).await
}

/// Which of the words is in the fewest messages of these rooms: the index leads by one word, and each message with that is read to look for
/// the others. Counting goes no further than to the rarest so far.
async fn rarest(connection: &Connection, rooms: &[String], words: &[String]) -> Result<usize> {
    let (mut rarest, mut fewest) = (0, COUNTED);
    if words.len() < 2 {
        return Ok(rarest);
    }
    for (index, word) in words.iter().enumerate() {
        let with_word = connection.messages.count_documents(doc! { "chatRoomId": { "$in": rooms }, "words": word });
        let count = connection.within(with_word.limit(fewest).hint(by_name(schema::BY_WORD))).await?;
        if count < fewest {
            (rarest, fewest) = (index, count);
        }
        if fewest <= FEW {
            break;
        }
    }
    Ok(rarest)
}

/// Those of the rooms in which messages are without their words. In the others all are, and say what their latest edits made of them.
async fn behind(connection: &Connection, rooms: Vec<RoomId>) -> Result<Vec<RoomId>> {
    let ends = pages::ends(connection, &rooms).await?;
    let ids: Vec<_> = rooms.iter().map(ToString::to_string).collect();
    let done = connection.rooms.find(doc! { "_id": { "$in": ids } }).projection(doc! { "searchSeq": 1 });
    let done = connection.all(done, |room| Some((RoomId::parse(text_in(room, "_id"))?, seq_in(room, "searchSeq")))).await?;
    let done: HashMap<_, _> = done.into_iter().collect();
    let is_behind = |room: &RoomId| ends.get(room).is_some_and(|end| done.get(room).is_some_and(|done| done < end));
    Ok(rooms.into_iter().filter(is_behind).collect())
}

async fn catch_up_all(connection: &Connection, room: RoomId) -> Result<()> {
    while catch_up_room(connection, room).await? {}
    Ok(())
}
