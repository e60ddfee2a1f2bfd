//! Search, in MongoDB.
//!
//! An indexed message stores its [terms](crate::store::search::terms) beside its text. The index
//! leads from a room and a term to messages, newest first. MongoDB's own text index is not used: it
//! finds messages with any of the words, matches phrases against parts of words, cannot return
//! results in order without reading all of them, and makes every post wait.
//!
//! The document of a room stores the indexed range of its log as `search: {above, upTo}`, which
//! [`index`] extends. An edit writes its terms, and a deletion removes them, wherever in the log
//! the message is.

mod index;

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocument, doc};

use super::{
    connection::Connection,
    documents::{self, date, number, seq_in, text_in, time_in},
    indexes::{self, by_name},
    pages::{self, entries_between},
    rooms, rows,
};
use crate::{
    model::{Message, RoomId, Seq, Timestamp},
    store::{
        EntryPosition, Found, Result, Scope, Search,
        search::{IndexQueue, Query},
    },
};

pub use index::{State, run_indexer, start_complete};

/// How many rooms one query searches. MongoDB merges the messages of this many rooms in order; with
/// more, it would read all of them first.
const ROOMS: usize = 100;
/// How many queries run at once.
const QUERIES: usize = 4;
/// How many messages with the rarest term one query examines for the other terms.
const CANDIDATES: u64 = 2_000;
/// The limit when counting the messages with a term. A term with more is treated as common.
const COUNTED: u64 = 1_000;
/// A term with at most this many messages is rare enough; counting the other terms stops.
const FEW_MATCHES: u64 = 20;
/// How many texts of messages that are not indexed one search reads, and at least how many per
/// room.
const TEXTS: usize = 500;
const TEXTS_OF_ROOM: usize = 5;
/// How many messages at the end of a log without indexed entries are read, while the index is being
/// built for the first time.
const LATEST: u64 = 50;

/// A log that is searched.
struct Log {
    room: RoomId,
    /// Entries up to this one are hidden from the user who searches.
    hidden: Seq,
    /// Entries after this one are not indexed yet.
    up_to: Seq,
    end: Seq,
}

/// The results of one or more queries.
#[derive(Default)]
struct Matches {
    /// The positions and ids of the messages.
    found: Vec<(EntryPosition, String)>,
    /// The limit of the results: messages at this time and sequence number, or before it, may be
    /// missing.
    horizon: Option<(Timestamp, Seq)>,
}

pub async fn search(
    connection: &Connection,
    state: &State,
    behind: &IndexQueue,
    search: &Search,
) -> Result<Found> {
    let nothing = Found {
        messages: Vec::new(),
        next: None,
    };
    let query = Query::parse(&search.words);
    if query.terms().is_empty() || search.limit == 0 {
        return Ok(nothing);
    }
    let (rooms, before) = match (search.scope, search.before) {
        (Scope::Room { room, after }, None) => (vec![(room, after)], None),
        (Scope::Room { room, after }, Some(before)) => {
            match place_in(connection, room, before.seq).await? {
                Some(place) => (vec![(room, after)], Some(place)),
                None => return Ok(nothing),
            }
        }
        (Scope::RoomsOf { user, since_joined }, before) => {
            let joined = rooms::joined_of(connection, user, None).await?;
            (
                joined
                    .into_iter()
                    .map(|(room, joined)| (room, if since_joined { joined } else { Seq(0) }))
                    .collect(),
                before,
            )
        }
    };
    let logs = logs(connection, state, rooms).await?;
    let mut hits = read_texts(connection, behind, &logs, &query, before).await?;
    if state.is_ready() {
        let queries: Vec<_> = logs
            .chunks(ROOMS)
            .map(|logs| find(connection, logs, &query, before, search.limit))
            .collect();
        let found: Vec<_> = stream::iter(queries)
            .buffer_unordered(QUERIES)
            .try_collect()
            .await?;
        for more in found {
            hits.add(more);
        }
    }
    let (places, next) = hits.newest(search.limit);
    let messages = messages(connection, places).await?;
    // A message may have been edited meanwhile, and the index does not cover phrases.
    let messages = messages
        .into_iter()
        .filter(|message| query.matches(&message.text))
        .collect();
    Ok(Found { messages, next })
}

/// Returns the position before an entry of a room, or `None` if no entry precedes it.
async fn place_in(
    connection: &Connection,
    room: RoomId,
    seq: Seq,
) -> Result<Option<EntryPosition>> {
    let before = pages::entries_between(room, Seq(0), Seq(seq.0.saturating_sub(1)));
    let last = connection
        .messages
        .find_one(before)
        .sort(doc! { "seq": -1 })
        .projection(doc! { "createdAt": 1 })
        .hint(by_name(indexes::LOG));
    connection
        .one(last, |entry| {
            Some(EntryPosition {
                at: time_in(entry, "createdAt"),
                seq,
                room,
            })
        })
        .await
}

/// Reads where the logs end and how far they are indexed.
async fn logs(
    connection: &Connection,
    state: &State,
    rooms: Vec<(RoomId, Seq)>,
) -> Result<Vec<Log>> {
    let is_marked = state.is_marked();
    let ids: Vec<_> = rooms.iter().map(|(room, _)| *room).collect();
    let ends = pages::ends(connection, &ids).await?;
    let mut indexed = HashMap::new();
    for ids in ids.chunks(rooms::ROOMS_AT_ONCE) {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let stretches = connection
            .rooms
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "search": 1 });
        let up_to = |room: &RawDocument| {
            Some((
                RoomId::parse(text_in(room, "_id"))?,
                seq_in(room.get_document("search").ok()?, "upTo"),
            ))
        };
        indexed.extend(connection.all(stretches, up_to).await?);
    }
    let log = |(room, hidden)| {
        let end = *ends.get(&room)?;
        let unknown = if is_marked {
            Seq(0)
        } else {
            Seq(end.0.saturating_sub(LATEST))
        };
        Some(Log {
            room,
            hidden,
            up_to: indexed.get(&room).copied().unwrap_or(unknown),
            end,
        })
    };
    Ok(rooms.into_iter().filter_map(log).collect())
}

/// Finds messages that are not indexed yet by reading their texts, up to the limit of one search.
async fn read_texts(
    connection: &Connection,
    behind: &IndexQueue,
    logs: &[Log],
    query: &Query,
    before: Option<EntryPosition>,
) -> Result<Matches> {
    let logs: Vec<_> = logs.iter().filter(|log| log.up_to < log.end).collect();
    behind.note_rooms(logs.iter().map(|log| log.room));
    let most = (TEXTS / logs.len().max(1)).max(TEXTS_OF_ROOM);
    let reading: Vec<_> = logs
        .into_iter()
        .map(|log| read_texts_of(connection, log, query, before, most))
        .collect();
    let found: Vec<_> = stream::iter(reading)
        .buffer_unordered(QUERIES)
        .try_collect()
        .await?;
    Ok(found
        .into_iter()
        .fold(Matches::default(), |mut hits, more| {
            hits.add(more);
            hits
        }))
}

async fn read_texts_of(
    connection: &Connection,
    log: &Log,
    query: &Query,
    before: Option<EntryPosition>,
    most: usize,
) -> Result<Matches> {
    let mut filter = entries_between(log.room, log.up_to.max(log.hidden), log.end);
    filter.extend(doc! { "deleted": null });
    if let Some(before) = before {
        filter.extend(not_after(before));
    }
    let fields = doc! { "chatRoomId": 1, "seq": 1, "createdAt": 1, "message.messageText": 1 };
    let limit = rows(most as u64);
    let texts = connection
        .messages
        .find(filter)
        .sort(doc! { "seq": -1 })
        .limit(limit)
        .projection(fields)
        .hint(by_name(indexes::LOG));
    let is_before = |place: EntryPosition| before.is_none_or(|before| place < before);
    let read = |entry: &RawDocument| {
        let text = entry
            .get_document("message")
            .ok()
            .map(|content| text_in(content, "messageText"))
            .unwrap_or_default();
        let hit = hit(entry)?;
        let is_found = is_before(hit.0) && query.matches(text);
        Some((hit, is_found))
    };
    let texts = connection.all(texts, read).await?;
    let horizon = texts
        .last()
        .filter(|_| texts.len() >= most)
        .map(|((place, _), _)| (place.at, place.seq));
    Ok(Matches {
        found: texts
            .into_iter()
            .filter_map(|(hit, is_found)| is_found.then_some(hit))
            .collect(),
        horizon,
    })
}

/// Finds the newest messages of these logs that have all terms of a query.
async fn find(
    connection: &Connection,
    logs: &[Log],
    query: &Query,
    before: Option<EntryPosition>,
    limit: u64,
) -> Result<Matches> {
    let rooms: Vec<_> = logs.iter().map(|log| log.room.to_string()).collect();
    let mut others = query.terms().to_vec();
    let first = others.swap_remove(rarest(connection, &rooms, query.terms()).await?);
    let mut with_first = doc! { "chatRoomId": { "$in": rooms }, "terms": first };
    let mut conditions: Vec<_> = logs
        .iter()
        .filter(|log| log.hidden > Seq(0))
        .map(hides)
        .collect();
    if let Some(before) = before {
        with_first.extend(not_after(before));
        conditions.push(is_before(before));
    }
    if !conditions.is_empty() {
        with_first.insert("$and", conditions);
    }
    let order = doc! { "createdAt": -1, "seq": -1 };
    let fields = doc! { "_id": 1, "chatRoomId": 1, "seq": 1, "createdAt": 1 };
    // The last results may include messages of several rooms with the same time and sequence
    // number, of which others are missing.
    let most = limit.saturating_add(logs.len() as u64);
    let mut stages = vec![
        doc! { "$match": &with_first },
        doc! { "$sort": &order },
        doc! { "$limit": rows(CANDIDATES.max(most)) },
    ];
    let is_filtered = !others.is_empty();
    if is_filtered {
        stages.push(doc! { "$match": { "terms": { "$all": others } } });
    }
    stages.extend([doc! { "$limit": rows(most) }, doc! { "$project": &fields }]);
    let found = connection
        .all(
            connection
                .messages
                .aggregate(stages)
                .hint(by_name(indexes::BY_TERM)),
            hit,
        )
        .await?;
    let horizon = if found.len() as u64 >= most {
        found.last().map(|(place, _)| *place)
    } else if is_filtered {
        let last = connection
            .messages
            .find(with_first)
            .sort(order)
            .skip(CANDIDATES.max(most) - 1)
            .limit(1)
            .projection(fields);
        connection
            .all(last.hint(by_name(indexes::BY_TERM)), hit)
            .await?
            .pop()
            .map(|(place, _)| place)
    } else {
        None
    };
    Ok(Matches {
        found,
        horizon: horizon.map(|place| (place.at, place.seq)),
    })
}

/// Returns the condition that hides the entries of a room up to `log.hidden`.
fn hides(log: &Log) -> Document {
    doc! { "$or": [{ "chatRoomId": { "$ne": log.room.to_string() } }, { "seq": { "$gt": number(log.hidden.0) } }] }
}

/// Limits the part of the index that is read.
fn not_after(place: EntryPosition) -> Document {
    doc! { "createdAt": { "$lte": date(place.at) } }
}

fn is_before(EntryPosition { at, seq, room }: EntryPosition) -> Document {
    let (at, seq) = (date(at), number(seq.0));
    let same_number =
        doc! { "createdAt": at, "seq": seq, "chatRoomId": { "$lt": room.to_string() } };
    doc! { "$or": [{ "createdAt": { "$lt": at } }, { "createdAt": at, "seq": { "$lt": seq } }, same_number] }
}

fn hit(entry: &RawDocument) -> Option<(EntryPosition, String)> {
    let room = RoomId::parse(text_in(entry, "chatRoomId"))?;
    Some((
        EntryPosition {
            at: time_in(entry, "createdAt"),
            seq: seq_in(entry, "seq"),
            room,
        },
        text_in(entry, "_id").to_owned(),
    ))
}

/// Returns the index of the term with the fewest messages in these rooms. The index is scanned by
/// one term, and each message with it is examined for the others. Counting stops at the lowest
/// count so far.
async fn rarest(connection: &Connection, rooms: &[String], terms: &[String]) -> Result<usize> {
    let (mut rarest, mut fewest) = (0, COUNTED);
    if terms.len() < 2 {
        return Ok(rarest);
    }
    for (index, term) in terms.iter().enumerate() {
        let with_term = connection
            .messages
            .count_documents(doc! { "chatRoomId": { "$in": rooms }, "terms": term });
        let count = connection
            .within(with_term.limit(fewest).hint(by_name(indexes::BY_TERM)))
            .await?;
        if count < fewest {
            (rarest, fewest) = (index, count);
        }
        if fewest <= FEW_MATCHES {
            break;
        }
    }
    Ok(rarest)
}

impl Matches {
    fn add(&mut self, more: Self) {
        self.found.extend(more.found);
        self.horizon = self.horizon.max(more.horizon);
    }

    /// Returns the newest results, and the position from which the next page continues.
    fn newest(mut self, limit: u64) -> (Vec<(EntryPosition, String)>, Option<EntryPosition>) {
        self.found
            .retain(|(place, _)| Some((place.at, place.seq)) > self.horizon);
        self.found
            .sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        self.found.dedup_by_key(|(place, _)| *place);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let beyond = self.found.len() > limit;
        self.found.truncate(limit);
        let last = self
            .found
            .last()
            .map(|(place, _)| *place)
            .filter(|_| beyond);
        // All results with the time and sequence number of the horizon were removed, so the next
        // page starts just after them.
        let horizon = self.horizon.map(|(at, Seq(seq))| EntryPosition {
            at,
            seq: Seq(seq + 1),
            room: RoomId::from_bytes([0; 16]),
        });
        (self.found, last.or(horizon))
    }
}

/// Reads these messages in the same order, without those that were deleted meanwhile.
async fn messages(
    connection: &Connection,
    places: Vec<(EntryPosition, String)>,
) -> Result<Vec<Message>> {
    let ids: Vec<_> = places.iter().map(|(_, id)| id.as_str()).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = connection.messages.find(doc! { "_id": { "$in": ids } });
    let mut found = connection.all(found, documents::message).await?;
    let known: HashSet<_> = places.into_iter().map(|(place, _)| place).collect();
    found.retain(|message| known.contains(&EntryPosition::of(message)));
    found.sort_unstable_by_key(|message| std::cmp::Reverse(EntryPosition::of(message)));
    Ok(found)
}
