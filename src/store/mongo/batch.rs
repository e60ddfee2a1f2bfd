//! A batch of entries on its way into the logs of MongoDB, attempt by attempt.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use mongodb::bson::{Bson, RawArrayBuf, RawDocument, RawDocumentBuf, doc, raw::cstr};

use super::{
    author_counts, checks,
    connection::{Connection, DUPLICATE_KEY, readable},
    documents::{date, seq_in, text_in, time_in, user_in},
    effects,
    entries::{self, PendingEffect},
    log::{Head, Heads, heads_of_rooms, read_durable},
    pending,
    schema::{self, by_name},
};
use crate::{
    model::{Entry, MessageId, RoomId, Timestamp, UserId},
    store::{Appended, LogPosition, NewEntry, NewEntryKind, Result, StoreError},
};

/// How far ahead a room counts as active, in milliseconds: as often is it written down while the room is.
const ACTIVE: i64 = 250;
/// The most bytes of entries in one insert; MongoDB takes 16 MiB.
const INSERT: usize = 8 << 20;

/// A batch on its way into the logs.
pub struct Batch<'a> {
    entries: &'a [NewEntry],
    answers: Vec<Option<Appended>>,
    /// Which entries are still to be inserted, in order.
    waiting: Vec<usize>,
    /// Whether some of these may be in their logs already, or arrive there by themselves.
    unclear: bool,
    /// Whether some of these were, or may have been, sent before under the same client id.
    sent_before: bool,
    /// Those of the entries in the logs that say something to be done. They are answered once it is, or has turned out not to be possible now.
    dues: Vec<(usize, PendingEffect)>,
    since: Instant,
}

/// How an attempt went.
pub enum Progress {
    /// What was inserted came into the logs.
    Complete,
    /// Another server appended to the same rooms.
    Conflict,
}

impl<'a> Batch<'a> {
    pub fn new(entries: &'a [NewEntry]) -> Self {
        let (answers, waiting) = (vec![None; entries.len()], (0..entries.len()).collect());
        Self { entries, answers, waiting, unclear: false, sent_before: false, dues: Vec::new(), since: Instant::now() }
    }

    /// Whether every entry has its answer.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.dues.is_empty()
    }

    /// What became of each entry.
    pub fn into_answers(self) -> Vec<Appended> {
        self.answers.into_iter().map(|answer| answer.unwrap_or(Appended::NoRoom)).collect()
    }

    /// What the last attempt did is not known, nor whether it was refused because of a message that was sent before.
    pub fn outcome_is_unclear(&mut self) {
        self.unclear = true;
        self.sent_before = true;
    }

    /// Inserts as many of the waiting entries as it can, and does what they say.
    pub async fn try_append(&mut self, connection: &Connection, heads: &mut Heads) -> Result<Progress> {
        if self.unclear {
            self.find_placed(connection).await?;
        }
        if self.sent_before {
            self.find_sent(connection).await?;
        }
        self.apply_effects(connection, heads).await?;
        self.learn_heads(connection, heads).await?;
        let before = self.waiting.len();
        let first = checks::first_wave(self.entries, &self.waiting);
        let refused = checks::refused(connection, self.entries, &self.waiting[..first], heads).await?;
        let first = first - refused.len();
        self.answer(refused);
        self.activate(connection, heads).await?;
        let (numbered, documents) = self.number(first, heads);
        let (inserted, refusal) = if documents.is_empty() { (0, None) } else { insert(connection, documents).await? };
        self.sent_before |= refusal == Some(Refusal::SentBefore);
        if let Some(Refusal::Impossible(reason)) = refusal {
            self.answers[numbered[inserted].0] = Some(Appended::Failed(StoreError::Fault(reason)));
        }
        for (index, head) in &numbered[..inserted] {
            heads.insert(self.entries[*index].room, *head);
            self.stands(*index, LogPosition { seq: head.seq, created_at: head.at });
            if let Some(block) = author_counts::ends_with(head.seq) {
                count_block(connection, self.entries[*index].room, block);
            }
        }
        self.leave_out_answered();
        self.apply_effects(connection, heads).await?;
        let came_through = inserted == numbered.len() && self.waiting.len() < before;
        Ok(if came_through || self.waiting.is_empty() { Progress::Complete } else { Progress::Conflict })
    }

    /// The entry is in its log.
    fn stands(&mut self, index: usize, placed: LogPosition) {
        let entry = &self.entries[index];
        if let NewEntryKind::Message { .. } = entry.change {
            self.answers[index] = Some(Appended::Placed(placed));
        } else {
            let (seq, at, change) = (placed.seq, placed.created_at, entry.change.clone());
            self.dues.push((index, PendingEffect { id: entry.id, room: entry.room, seq, at, change }));
        }
    }

    fn answer(&mut self, answers: HashMap<usize, Appended>) {
        for (index, answer) in answers {
            self.answers[index] = Some(answer);
        }
        self.leave_out_answered();
    }

    /// Those that are in their logs wait no longer.
    fn leave_out_answered(&mut self) {
        let (answers, dues) = (&self.answers, &self.dues);
        self.waiting.retain(|index| answers[*index].is_none() && dues.iter().all(|(due, _)| due != index));
    }

    /// Does what the entries say that came into the logs. Until it is done the ends of these logs are not known, so that whoever comes next
    /// looks whether something is left to do; and where members came or went, the room is looked at anew.
    async fn apply_effects(&mut self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        if self.dues.is_empty() {
            return Ok(());
        }
        let dues: Vec<_> = self.dues.iter().map(|(_, due)| due.clone()).collect();
        let mut held: HashMap<_, _> = dues.iter().filter_map(|due| Some((due.room, heads.remove(&due.room)?))).collect();
        if let Err(error) = effects::apply(connection, &dues).await {
            // The others of the batch do not wait for it until the time is over.
            if self.since.elapsed() < connection.limit / 2 {
                return Err(error);
            }
            connection.pending.failed(&dues, &error.to_string());
        }
        for due in dues.iter().filter(|due| due.change.is_of_room()) {
            held.remove(&due.room);
        }
        heads.extend(held);
        let mut applied = Vec::with_capacity(dues.len());
        for (index, due) in self.dues.drain(..) {
            let is_applied = !connection.pending.has(due.room, due.seq);
            self.answers[index] = Some(if is_applied || pending::takes_away(&due.change) {
                Appended::Placed(LogPosition { seq: due.seq, created_at: due.at })
            } else {
                Appended::Failed(StoreError::Unavailable(format!("what entry {} of room {} says cannot be done yet", due.seq.0, due.room)))
            });
            if is_applied {
                applied.push(due);
            }
        }
        mark_applied(connection, applied);
        Ok(())
    }

    /// Looks which of the waiting entries are in their logs.
    async fn find_placed(&mut self, connection: &Connection) -> Result<()> {
        let ids: Vec<_> = self.waiting.iter().map(|index| self.entries[*index].id.to_string()).collect();
        let found = read_durable(connection, || placed(connection, ids.clone())).await?;
        for index in self.waiting.clone() {
            if let Some(placed) = found.get(&self.entries[index].id) {
                self.stands(index, *placed);
            }
        }
        self.leave_out_answered();
        Ok(())
    }

    /// Looks which of the waiting messages were sent before.
    async fn find_sent(&mut self, connection: &Connection) -> Result<()> {
        let named: Vec<_> = self.waiting.iter().filter_map(|index| Some((*index, name(&self.entries[*index])?))).collect();
        let asked: Vec<_> = named.iter().map(|(_, name)| name.clone()).collect();
        let found = read_durable(connection, || sent(connection, &asked)).await?;
        let answer = |(index, name): (usize, Name)| {
            let (id, earlier) = found.get(&name)?;
            let placed = LogPosition { seq: earlier.seq, created_at: earlier.created_at };
            // Where it was unclear whether a message came in, it may be this one.
            let itself = *id == self.entries[index].id;
            Some((index, if itself { Appended::Placed(placed) } else { Appended::Duplicate(Box::new(earlier.clone())) }))
        };
        let answers = named.into_iter().filter_map(answer).collect();
        self.answer(answers);
        self.sent_before = false;
        Ok(())
    }

    /// Learns where the logs end that we do not know, and leaves out the entries for rooms that are gone.
    async fn learn_heads(&mut self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        let unknown: HashSet<_> = self.rooms().filter(|room| !heads.contains_key(room)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = read_durable(connection, || heads_of_rooms(connection, unknown.iter().copied().collect())).await?;
        let gone: HashSet<_> = found.iter().filter(|(_, head)| head.closed).map(|(room, _)| *room).collect();
        heads.extend(found.into_iter().filter(|(_, head)| !head.closed));
        let to_the_gone = self.waiting.iter().filter(|index| gone.contains(&self.entries[**index].room));
        let answers = to_the_gone.map(|index| (*index, Appended::NoRoom)).collect();
        self.answer(answers);
        Ok(())
    }

    /// Has the documents of the rooms say that they are active. It need not be known to be on disk: whatever is written afterwards only
    /// gets there together with it. The rooms that would be next come along, so that busy rooms cost one update and not one each.
    async fn activate(&self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        let (mut active, mut must) = (HashMap::new(), false);
        for index in &self.waiting {
            let entry = &self.entries[*index];
            let Some(head) = heads.get(&entry.room) else { continue };
            let Some(until) = head.active_until else { continue };
            let at = head.at.max(entry.created_at);
            if until.0 < at.0 + ACTIVE / 2 {
                active.insert(entry.room, Timestamp(at.0 + ACTIVE));
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
        self.waiting.iter().map(|index| self.entries[*index].room)
    }

    /// What is known of the ends of these logs is not so.
    pub fn forget_heads(&self, heads: &mut Heads) {
        for room in self.rooms() {
            heads.remove(&room);
        }
    }

    /// Gives the next numbers to as many of the first waiting entries as fit into one insert. Those whose room is not known wait on.
    fn number(&self, first: usize, heads: &Heads) -> (Vec<(usize, Head)>, Vec<RawDocumentBuf>) {
        let mut ends = HashMap::new();
        let (mut numbered, mut documents, mut size) = (Vec::with_capacity(first), Vec::with_capacity(first), 0);
        for index in &self.waiting[..first] {
            let entry = &self.entries[*index];
            let Some(end) = ends.get(&entry.room).or_else(|| heads.get(&entry.room)) else { continue };
            let head = end.next(entry.created_at);
            let document = entries::from_entry(entry, head.seq, head.at);
            size += document.as_bytes().len();
            if size > INSERT && !documents.is_empty() {
                break;
            }
            ends.insert(entry.room, head);
            numbered.push((*index, head));
            documents.push(document);
        }
        (numbered, documents)
    }
}

/// Why an entry did not come into its log.
#[derive(PartialEq, Eq, Debug)]
enum Refusal {
    /// Its number is taken.
    NumberTaken,
    /// A message with its client id is there.
    SentBefore,
    /// The database does not take it, for this reason.
    Impossible(String),
}

/// Inserts the entries in order, up to the first that is refused. Answers how many came in, which are then on the disks of the majority,
/// and why not all of them.
async fn insert(connection: &Connection, documents: Vec<RawDocumentBuf>) -> Result<(usize, Option<Refusal>)> {
    let count = documents.len();
    let mut entries = RawArrayBuf::new();
    for document in documents {
        entries.push(document);
    }
    // As a command of our own: the driver's `insert_many` would copy each document twice more, and its way of retrying costs the server a
    // record per entry, where we have the ids of the entries.
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("insert"), connection.messages.name());
    command.append(cstr!("documents"), entries);
    command.append(cstr!("ordered"), true);
    command.append(cstr!("writeConcern"), connection.durable.clone());
    // A refusal quotes the key that is taken, and where that is long MongoDB cuts it, be it inside a character: then nothing in the answer
    // can be read.
    let reply = connection.within(readable(connection.database.run_raw_command(command))).await?;
    let reply = reply.ok_or_else(|| StoreError::Unavailable("the answer to an insert cannot be read".into()))?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!("the majority did not confirm: {concern}")));
    }
    let refused = reply.get_array("writeErrors").ok().and_then(|errors| errors.first()).and_then(Bson::as_document);
    match refused {
        None => Ok((count, None)),
        Some(refused) => {
            let index = refused.get_i32("index").ok().and_then(|index| usize::try_from(index).ok()).filter(|index| *index < count);
            let index = index.ok_or_else(|| StoreError::Fault(format!("a refusal without an index: {refused}")))?;
            if refused.get_i32("code").ok() != Some(DUPLICATE_KEY) {
                return Ok((index, Some(Refusal::Impossible(format!("an entry was refused: {refused}")))));
            }
            let by_client_id = refused.get_document("keyPattern").is_ok_and(|keys| keys.contains_key("clientMessageId"));
            Ok((index, Some(if by_client_id { Refusal::SentBefore } else { Refusal::NumberTaken })))
        }
    }
}

/// Tallies a block on the side.
fn count_block(connection: &Connection, room: RoomId, block: u64) {
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = author_counts::count_block(&connection, room, block).await {
            tracing::debug!(%error, %room, "a block of entries was not tallied; whoever needs it tallies it");
        }
    });
}

/// Marks entries as done, on the side. Where that does not happen, they are done once more.
fn mark_applied(connection: &Connection, dues: Vec<PendingEffect>) {
    if dues.is_empty() {
        return;
    }
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = effects::mark_applied(&connection, &dues).await {
            tracing::debug!(%error, "entries are still marked as pending; whoever comes by does them again");
        }
    });
}

/// Where these entries stand, those of them that are in a log.
async fn placed(connection: &Connection, ids: Vec<String>) -> Result<HashMap<MessageId, LogPosition>> {
    let found = connection.messages.find(doc! { "_id": { "$in": ids } }).projection(doc! { "seq": 1, "createdAt": 1 });
    let placed = |entry: &RawDocument| {
        let placed = LogPosition { seq: seq_in(entry, "seq"), created_at: time_in(entry, "createdAt") };
        Some((MessageId::parse(text_in(entry, "_id"))?, placed))
    };
    Ok(connection.all(found, placed).await?.into_iter().collect())
}

/// What a message is known by to its author's client.
type Name = (RoomId, UserId, String);

fn name(entry: &NewEntry) -> Option<Name> {
    match &entry.change {
        NewEntryKind::Message { client_id: Some(client_id), .. } => Some((entry.room, entry.author, client_id.as_str().to_owned())),
        _ => None,
    }
}

/// The messages of these names, deleted or not.
async fn sent(connection: &Connection, names: &[Name]) -> Result<HashMap<Name, (MessageId, Entry)>> {
    let rooms: HashSet<_> = names.iter().map(|(room, ..)| room.to_string()).collect();
    let authors: HashSet<_> = names.iter().map(|(_, author, _)| author.to_string()).collect();
    let ids: HashSet<_> = names.iter().map(|(.., id)| id.as_str()).collect();
    let filter = doc! {
        "chatRoomId": { "$in": Vec::from_iter(rooms) },
        "postedByUser": { "$in": Vec::from_iter(authors) },
        "clientMessageId": { "$in": Vec::from_iter(ids) },
    };
    let found = connection.messages.find(filter).hint(by_name(schema::BY_CLIENT_ID));
    let of_name = |message: &RawDocument| {
        let entry = entries::entry(message)?;
        let name = (entry.room, user_in(message, "postedByUser"), text_in(message, "clientMessageId").to_owned());
        Some((name, (MessageId::parse(text_in(message, "_id"))?, entry)))
    };
    Ok(connection.all(found, of_name).await?.into_iter().collect())
}
