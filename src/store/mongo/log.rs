//! Appending to the logs, in MongoDB.
//!
//! Optimistic, since any number of processes may append to a room: entries are inserted with the next number as far as we know, and where
//! another process took that number the unique index refuses, and we go on from behind it. A number is only ever built on an entry that is
//! sure to stay, and a batch is inserted in order, so that there can be no hole, whenever somebody is killed.
//!
//! Before a room that was quiet gets a message, its document is told that it is active, for a while ahead: no message of a room is later
//! than that. So recent conversations are found by it, and posting at a high rate rewrites no room.
//!
//! When it is unclear whether an insert has happened, because the connection broke or the primary changed, the next attempt looks first
//! which of its messages are there. A late arrival of the first attempt cannot add a second copy: the id of a message is unique, and its
//! number is either taken by itself or by another.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Duration,
};

use mongodb::bson::{Bson, RawArrayBuf, RawDocument, RawDocumentBuf, doc, raw::cstr};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    connection::{Connection, DUPLICATE_KEY},
    documents::{self, date, flag_in, seq_in, text_in, time_in},
    schema, tallies,
};
use crate::{
    model::{MessageId, RoomId, Seq, Timestamp},
    store::{NewMessage, Placed, Result, StoreError},
};

/// How far ahead a room counts as active, in milliseconds: as often is it written down while the room is.
const ACTIVE: i64 = 250;
/// How many rooms' ends are remembered.
const HEADS: usize = 200_000;
/// The most bytes of messages in one insert; MongoDB takes 16 MiB.
const INSERT: usize = 8 << 20;
/// The pauses between attempts grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// Why it may take long.
const OTHERS: &str = "other servers append to the same rooms all the time";

/// The end of a room's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Head {
    seq: Seq,
    /// The time of the last entry.
    at: Timestamp,
    /// Whether the last entry closes the log: the room is gone.
    closed: bool,
    /// No later message is in the log, as the room's document says; a large room's says nothing.
    active_until: Option<Timestamp>,
}

impl Head {
    fn next(&self, at: Timestamp) -> Self {
        Self { seq: Seq(self.seq.0 + 1), at: self.at.max(at), ..*self }
    }
}

type Heads = HashMap<RoomId, Head>;

/// Appends to the logs.
pub struct Log {
    /// Entries that are sure to stay: they may be behind the end of the log, never beyond it.
    heads: Mutex<Heads>,
}

impl Log {
    pub fn new() -> Self {
        Self { heads: Mutex::default() }
    }

    pub async fn append(&self, connection: &Connection, messages: &[NewMessage]) -> Result<Vec<Option<Placed>>> {
        let mut batch = Batch { messages, placed: vec![None; messages.len()], waiting: (0..messages.len()).collect(), unclear: false };
        let mut trouble = format!("no answer within {} ms", connection.limit.as_millis());
        match timeout(connection.limit, self.insist(connection, &mut batch, &mut trouble)).await {
            Ok(outcome) => outcome.map(|()| batch.placed),
            Err(_) => Err(StoreError::Unavailable(trouble)),
        }
    }

    /// Tries until every message has its place. `trouble` is why that takes so long.
    async fn insist(&self, connection: &Connection, batch: &mut Batch<'_>, trouble: &mut String) -> Result<()> {
        let mut heads = self.heads.lock().await;
        if heads.len() > HEADS {
            heads.clear();
        }
        let mut pause = PAUSES.0;
        while !batch.waiting.is_empty() {
            match batch.attempt(connection, &mut heads).await {
                Ok(Progress::Undisturbed) => continue,
                Ok(Progress::Disturbed) => OTHERS.clone_into(trouble),
                Err(StoreError::Unavailable(why)) => {
                    batch.unclear = true;
                    *trouble = why;
                }
                Err(error) => return Err(error),
            }
            batch.forget_heads(&mut heads);
            back_off(&mut pause).await;
        }
        Ok(())
    }

    /// Ends the log of a room that is being deleted. Answers the number of the entry that says so; nothing ever comes behind it.
    pub async fn close(&self, connection: &Connection, room: RoomId) -> Result<Seq> {
        self.heads.lock().await.remove(&room);
        let closing = async {
            let mut pause = PAUSES.0;
            loop {
                let heads = lasting(connection, || heads(connection, vec![room])).await?;
                match heads.get(&room) {
                    Some(head) if head.closed => return Ok(head.seq),
                    Some(head) => {
                        let end = head.next(Timestamp::default());
                        if connection.add(&connection.messages, &documents::closing(room, end.seq, end.at)).await? {
                            return Ok(end.seq);
                        }
                    }
                    None => {}
                }
                back_off(&mut pause).await;
            }
        };
        timeout(connection.limit, closing).await.unwrap_or_else(|_| Err(StoreError::Unavailable(OTHERS.into())))
    }
}

/// Tallies a block on the side.
fn tally(connection: &Connection, room: RoomId, block: u64) {
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = tallies::tally(&connection, room, block).await {
            tracing::debug!(%error, %room, "a block of entries was not tallied; whoever needs it tallies it");
        }
    });
}

/// Gets out of the way of others, the longer the more often.
async fn back_off(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSES.1);
}

/// A batch on its way into the logs.
struct Batch<'a> {
    messages: &'a [NewMessage],
    placed: Vec<Option<Placed>>,
    /// Which messages are still to be inserted, in order.
    waiting: Vec<usize>,
    /// Whether some of these may be in their logs already, or arrive there by themselves.
    unclear: bool,
}

/// How an attempt went.
enum Progress {
    /// What was inserted came into the logs.
    Undisturbed,
    /// Another server appended to the same rooms.
    Disturbed,
}

impl Batch<'_> {
    /// Inserts as many of the waiting messages as it can.
    async fn attempt(&mut self, connection: &Connection, heads: &mut Heads) -> Result<Progress> {
        if self.unclear {
            self.find_placed(connection).await?;
        }
        self.learn_heads(connection, heads).await?;
        self.activate(connection, heads).await?;
        let (numbered, documents) = self.number(heads);
        let inserted = if documents.is_empty() { 0 } else { insert(connection, documents).await? };
        for (index, head) in &numbered[..inserted] {
            heads.insert(self.messages[*index].room, *head);
            self.placed[*index] = Some(Placed { seq: head.seq, created_at: head.at });
            if let Some(block) = tallies::ends_with(head.seq) {
                tally(connection, self.messages[*index].room, block);
            }
        }
        let placed = &self.placed;
        self.waiting.retain(|index| placed[*index].is_none());
        let came_through = inserted > 0 && inserted == numbered.len();
        Ok(if came_through || self.waiting.is_empty() { Progress::Undisturbed } else { Progress::Disturbed })
    }

    /// Looks which of the waiting messages are in their logs.
    async fn find_placed(&mut self, connection: &Connection) -> Result<()> {
        let ids: Vec<_> = self.waiting.iter().map(|index| self.messages[*index].id.to_string()).collect();
        let found = lasting(connection, || placed(connection, ids.clone())).await?;
        for index in &self.waiting {
            self.placed[*index] = found.get(&self.messages[*index].id).copied();
        }
        let placed = &self.placed;
        self.waiting.retain(|index| placed[*index].is_none());
        Ok(())
    }

    /// Learns where the logs end that we do not know, and leaves out the messages to rooms that are gone.
    async fn learn_heads(&mut self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        let unknown: HashSet<_> = self.rooms().filter(|room| !heads.contains_key(room)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = lasting(connection, || heads_of_rooms(connection, unknown.iter().copied().collect())).await?;
        let gone: HashSet<_> = found.iter().filter(|(_, head)| head.closed).map(|(room, _)| *room).collect();
        heads.extend(found.into_iter().filter(|(_, head)| !head.closed));
        let messages = self.messages;
        self.waiting.retain(|index| !gone.contains(&messages[*index].room));
        Ok(())
    }

    /// Has the documents of the rooms say that they are active. It need not be known to be on disk: whatever is written afterwards only
    /// gets there together with it. The rooms that would be next come along, so that busy rooms cost one update and not one each.
    async fn activate(&self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        let (mut active, mut must) = (HashMap::new(), false);
        for index in &self.waiting {
            let message = &self.messages[*index];
            let Some(head) = heads.get(&message.room) else { continue };
            let Some(until) = head.active_until else { continue };
            let at = head.at.max(message.created_at);
            if until.0 < at.0 + ACTIVE / 2 {
                active.insert(message.room, Timestamp(at.0 + ACTIVE));
                must |= until < at;
            }
        }
        if !must {
            return Ok(());
        }
        let update = |(room, until): (&RoomId, &Timestamp)| {
            let active = doc! { "$max": { "activeUntil": date(*until) } };
            doc! { "q": { "_id": room.to_string(), "deletedAt": null }, "u": active }
        };
        let updates: Vec<_> = active.iter().map(update).collect();
        let command = doc! { "update": connection.rooms.name(), "updates": updates, "writeConcern": { "w": 1 } };
        let reply = connection.within(connection.database.run_command(command)).await?;
        if reply.contains_key("writeErrors") {
            return Err(StoreError::Fault(format!("rooms could not be told that they are active: {reply}")));
        }
        for (room, until) in active {
            heads.entry(room).and_modify(|head| head.active_until = Some(until));
        }
        Ok(())
    }

    fn rooms(&self) -> impl Iterator<Item = RoomId> {
        self.waiting.iter().map(|index| self.messages[*index].room)
    }

    fn forget_heads(&self, heads: &mut Heads) {
        for room in self.rooms() {
            heads.remove(&room);
        }
    }

    /// Gives the next numbers to as many waiting messages as fit into one insert. Those whose room is not known wait on.
    fn number(&self, heads: &Heads) -> (Vec<(usize, Head)>, Vec<RawDocumentBuf>) {
        let mut ends = HashMap::new();
        let (mut numbered, mut documents, mut size) = (Vec::with_capacity(self.waiting.len()), Vec::with_capacity(self.waiting.len()), 0);
        for index in &self.waiting {
            let message = &self.messages[*index];
            let Some(end) = ends.get(&message.room).or_else(|| heads.get(&message.room)) else { continue };
            let head = end.next(message.created_at);
            let document = documents::from_message(message, head.seq, head.at);
            size += document.as_bytes().len();
            if size > INSERT && !documents.is_empty() {
                break;
            }
            ends.insert(message.room, head);
            numbered.push((*index, head));
            documents.push(document);
        }
        (numbered, documents)
    }
}

/// Inserts the entries in order, up to the first whose number is taken. Answers how many came in, which are then on the disks of the
/// majority.
async fn insert(connection: &Connection, documents: Vec<RawDocumentBuf>) -> Result<usize> {
    let count = documents.len();
    let mut entries = RawArrayBuf::new();
    for document in documents {
        entries.push(document);
    }
    // As a command of our own: the driver's `insert_many` would copy each document twice more, and its way of retrying costs the server a
    // record per entry, where we have the ids of the messages.
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("insert"), connection.messages.name());
    command.append(cstr!("documents"), entries);
    command.append(cstr!("ordered"), true);
    command.append(cstr!("writeConcern"), connection.durable.clone());
    let reply = connection.within(connection.database.run_raw_command(command)).await?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!("the majority did not confirm: {concern}")));
    }
    let refused = reply.get_array("writeErrors").ok().and_then(|errors| errors.first()).and_then(Bson::as_document);
    match refused {
        None => Ok(count),
        Some(refused) if refused.get_i32("code").ok() == Some(DUPLICATE_KEY) => {
            let index = refused.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
            index.ok_or_else(|| StoreError::Fault(format!("a refusal without an index: {refused}")))
        }
        Some(refused) => Err(StoreError::Fault(format!("an entry was refused: {refused}"))),
    }
}

/// What `read` finds and is sure to stay. A replica set only tells what the majority has. A server alone tells what it has in memory, which
/// a crash may take; so there the disk has to catch up, and what counts is what is still the same afterwards.
async fn lasting<K: Eq + Hash, V: PartialEq, F>(connection: &Connection, read: impl Fn() -> F) -> Result<HashMap<K, V>>
where
    F: Future<Output = Result<HashMap<K, V>>>,
{
    let mut found = read().await?;
    if connection.standalone && !found.is_empty() {
        connection.flush().await?;
        let still = read().await?;
        found.retain(|key, value| still.get(key) == Some(value));
    }
    Ok(found)
}

/// Where these messages stand, those of them that are in a log.
async fn placed(connection: &Connection, ids: Vec<String>) -> Result<HashMap<MessageId, Placed>> {
    let found = connection.messages.find(doc! { "_id": { "$in": ids } }).projection(doc! { "seq": 1, "createdAt": 1 });
    let placed = |entry: &RawDocument| {
        let placed = Placed { seq: seq_in(entry, "seq"), created_at: time_in(entry, "createdAt") };
        Some((MessageId::parse(text_in(entry, "_id"))?, placed))
    };
    Ok(connection.all(found, placed).await?.into_iter().collect())
}

/// Where the logs of these rooms end; a room that is not there counts as closed.
async fn heads_of_rooms(connection: &Connection, rooms: Vec<RoomId>) -> Result<HashMap<RoomId, Head>> {
    let there = doc! { "_id": { "$in": texts(&rooms) }, "deletedAt": null };
    let there = connection.rooms.find(there).projection(doc! { "large": 1, "activeUntil": 1 });
    let active_until = |room: &RawDocument| {
        let active_until = (!flag_in(room, "large")).then(|| time_in(room, "activeUntil"));
        Some((RoomId::parse(text_in(room, "_id"))?, active_until))
    };
    let (there, mut found) = tokio::try_join!(connection.all(there, active_until), heads(connection, rooms))?;
    let there: HashMap<_, _> = there.into_iter().collect();
    for (room, head) in &mut found {
        match there.get(room) {
            Some(active_until) => head.active_until = *active_until,
            None => head.closed = true,
        }
    }
    Ok(found)
}

/// Where the logs of these rooms end, at 0 for an empty one.
async fn heads(connection: &Connection, rooms: Vec<RoomId>) -> Result<HashMap<RoomId, Head>> {
    let ends = connection.messages.aggregate(schema::last_entry_of_each(texts(&rooms))).hint(schema::by_name(schema::LOG));
    let head = |end: &RawDocument| {
        let head = Head { seq: seq_in(end, "seq"), at: time_in(end, "createdAt"), closed: flag_in(end, "closed"), active_until: None };
        Some((RoomId::parse(text_in(end, "_id"))?, head))
    };
    let mut heads: HashMap<_, _> = rooms.into_iter().map(|room| (room, Head::default())).collect();
    heads.extend(connection.all(ends, head).await?);
    Ok(heads)
}

fn texts(rooms: &[RoomId]) -> Vec<String> {
    rooms.iter().map(ToString::to_string).collect()
}
