//! A batch of entries that is appended to the room logs in MongoDB, in one or more attempts.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use mongodb::bson::{Bson, RawArrayBuf, RawDocument, RawDocumentBuf, doc, raw::cstr};

use super::{
    author_counts, checks,
    connection::{Connection, readable},
    documents::{date, seq_in, text_in, time_in, user_in},
    effects,
    entries::{self, PendingEffect},
    failure::code::DUPLICATE_KEY,
    indexes::{self, by_name},
    log::{Head, Heads, heads_of_rooms, read_durable},
    pending,
};
use crate::{
    model::{Entry, MessageId, RoomId, Timestamp, UserId},
    store::{Appended, LogPosition, NewEntry, NewEntryKind, Result, StoreError},
};

/// How far ahead `activeUntil` of a room is set, in milliseconds. While a room is active, its
/// document is updated about this often.
const ACTIVE: i64 = 250;
/// The most bytes of entries in one insert. MongoDB accepts commands of up to 16 MiB.
const INSERT: usize = 8 << 20;

/// A batch of entries being appended to the room logs.
pub struct Batch<'a> {
    entries: &'a [NewEntry],
    answers: Vec<Option<Appended>>,
    /// The indices of the entries that are still to be inserted, in order.
    waiting: Vec<usize>,
    /// Whether some of the waiting entries may be in their logs already, or may still arrive there
    /// from an earlier attempt.
    unclear: bool,
    /// Whether some of the waiting messages were, or may have been, sent before under the same
    /// client id.
    sent_before: bool,
    /// The entries in the logs whose effects are not applied yet. Each is answered once its effect
    /// is applied, or is found to be impossible for now.
    dues: Vec<(usize, PendingEffect)>,
    since: Instant,
}

/// The outcome of an attempt.
pub enum Progress {
    /// All entries of the insert are in their logs.
    Complete,
    /// Another server appended to the same rooms.
    Conflict,
}

impl<'a> Batch<'a> {
    pub fn new(entries: &'a [NewEntry]) -> Self {
        let (answers, waiting) = (vec![None; entries.len()], (0..entries.len()).collect());
        Self {
            entries,
            answers,
            waiting,
            unclear: false,
            sent_before: false,
            dues: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Returns whether every entry has its answer.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.dues.is_empty()
    }

    /// Returns the outcome of each entry.
    pub fn into_answers(self) -> Vec<Appended> {
        self.answers
            .into_iter()
            .map(|answer| answer.unwrap_or(Appended::NoRoom))
            .collect()
    }

    /// Notes that the outcome of the last attempt is unknown, so that the next attempt looks for
    /// entries that are in their logs already and for messages that were sent before.
    pub fn set_outcome_unknown(&mut self) {
        self.unclear = true;
        self.sent_before = true;
    }

    /// Inserts as many of the waiting entries as possible, and applies their effects.
    pub async fn try_append(
        &mut self,
        connection: &Connection,
        heads: &mut Heads,
    ) -> Result<Progress> {
        if self.unclear {
            self.find_placed(connection).await?;
        }
        if self.sent_before {
            self.find_sent(connection).await?;
        }
        self.apply_effects(connection, heads).await?;
        self.load_heads(connection, heads).await?;
        let before = self.waiting.len();
        let first = checks::first_wave(self.entries, &self.waiting);
        let refused =
            checks::refused(connection, self.entries, &self.waiting[..first], heads).await?;
        let first = first - refused.len();
        self.answer(refused);
        self.activate(connection, heads).await?;
        let (numbered, documents) = self.number(first, heads);
        let (inserted, refusal) = if documents.is_empty() {
            (0, None)
        } else {
            insert(connection, documents).await?
        };
        self.sent_before |= refusal == Some(Refusal::SentBefore);
        if let Some(Refusal::Impossible(reason)) = refusal {
            self.answers[numbered[inserted].0] = Some(Appended::Failed(StoreError::Fault(reason)));
        }
        for (index, head) in &numbered[..inserted] {
            heads.insert(self.entries[*index].room, *head);
            self.entry_inserted(
                *index,
                LogPosition {
                    seq: head.seq,
                    created_at: head.at,
                },
            );
            if let Some(block) = author_counts::ends_with(head.seq) {
                count_block(connection, self.entries[*index].room, block);
            }
        }
        self.retain_unanswered();
        self.apply_effects(connection, heads).await?;
        let came_through = inserted == numbered.len() && self.waiting.len() < before;
        Ok(if came_through || self.waiting.is_empty() {
            Progress::Complete
        } else {
            Progress::Conflict
        })
    }

    /// Notes that the entry is in its log: answers a message, and queues the effect of any other
    /// entry.
    fn entry_inserted(&mut self, index: usize, placed: LogPosition) {
        let entry = &self.entries[index];
        if let NewEntryKind::Message { .. } = entry.change {
            self.answers[index] = Some(Appended::Placed(placed));
        } else {
            let (seq, at, change) = (placed.seq, placed.created_at, entry.change.clone());
            self.dues.push((
                index,
                PendingEffect {
                    id: entry.id,
                    room: entry.room,
                    seq,
                    at,
                    change,
                },
            ));
        }
    }

    fn answer(&mut self, answers: HashMap<usize, Appended>) {
        for (index, answer) in answers {
            self.answers[index] = Some(answer);
        }
        self.retain_unanswered();
    }

    /// Removes the entries from the waiting list that are answered or in their logs.
    fn retain_unanswered(&mut self) {
        let (answers, dues) = (&self.answers, &self.dues);
        self.waiting
            .retain(|index| answers[*index].is_none() && dues.iter().all(|(due, _)| due != index));
    }

    /// Applies the effects of the entries that are in the logs. Until this is done, the heads of
    /// these logs are not cached, so that the next append looks for pending effects. The heads of
    /// rooms whose document changed are dropped for good, so that these rooms are read again.
    async fn apply_effects(&mut self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        if self.dues.is_empty() {
            return Ok(());
        }
        let dues: Vec<_> = self.dues.iter().map(|(_, due)| due.clone()).collect();
        let mut held: HashMap<_, _> = dues
            .iter()
            .filter_map(|due| Some((due.room, heads.remove(&due.room)?)))
            .collect();
        if let Err(error) = effects::apply(connection, &dues).await {
            // Within the first half of the time limit the batch is retried; after that the effects
            // become pending, so that the other entries of the batch do not wait until the timeout.
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
                Appended::Placed(LogPosition {
                    seq: due.seq,
                    created_at: due.at,
                })
            } else {
                Appended::Failed(StoreError::Unavailable(format!(
                    "what entry {} of room {} says cannot be done yet",
                    due.seq.0, due.room
                )))
            });
            if is_applied {
                applied.push(due);
            }
        }
        mark_applied(connection, applied);
        Ok(())
    }

    /// Finds the waiting entries that are in their logs already.
    async fn find_placed(&mut self, connection: &Connection) -> Result<()> {
        let ids: Vec<_> = self
            .waiting
            .iter()
            .map(|index| self.entries[*index].id.to_string())
            .collect();
        let found = read_durable(connection, || placed(connection, ids.clone())).await?;
        for index in self.waiting.clone() {
            if let Some(placed) = found.get(&self.entries[index].id) {
                self.entry_inserted(index, *placed);
            }
        }
        self.retain_unanswered();
        Ok(())
    }

    /// Finds the waiting messages that were sent before under the same client id.
    async fn find_sent(&mut self, connection: &Connection) -> Result<()> {
        let named: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|index| Some((*index, name(&self.entries[*index])?)))
            .collect();
        let asked: Vec<_> = named.iter().map(|(_, name)| name.clone()).collect();
        let found = read_durable(connection, || sent(connection, &asked)).await?;
        let answer = |(index, name): (usize, Name)| {
            let (id, earlier) = found.get(&name)?;
            let placed = LogPosition {
                seq: earlier.seq,
                created_at: earlier.created_at,
            };
            // After an unclear outcome, the message that is found may be this very one.
            let itself = *id == self.entries[index].id;
            Some((
                index,
                if itself {
                    Appended::Placed(placed)
                } else {
                    Appended::Duplicate(Box::new(earlier.clone()))
                },
            ))
        };
        let answers = named.into_iter().filter_map(answer).collect();
        self.answer(answers);
        self.sent_before = false;
        Ok(())
    }

    /// Reads the heads of the logs that are not cached, and answers the entries for deleted rooms
    /// with [`Appended::NoRoom`].
    async fn load_heads(&mut self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        let unknown: HashSet<_> = self
            .rooms()
            .filter(|room| !heads.contains_key(room))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = read_durable(connection, || {
            heads_of_rooms(connection, unknown.iter().copied().collect())
        })
        .await?;
        let gone: HashSet<_> = found
            .iter()
            .filter(|(_, head)| head.closed)
            .map(|(room, _)| *room)
            .collect();
        heads.extend(found.into_iter().filter(|(_, head)| !head.closed));
        let to_the_gone = self
            .waiting
            .iter()
            .filter(|index| gone.contains(&self.entries[**index].room));
        let answers = to_the_gone
            .map(|index| (*index, Appended::NoRoom))
            .collect();
        self.answer(answers);
        Ok(())
    }

    /// Sets `activeUntil` in the documents of the rooms. The write concern `w: 1` is enough: a
    /// later write cannot become durable without this one. When at least one room has to be
    /// updated, the rooms that are due soon are updated with it, so that busy rooms share one
    /// command.
    async fn activate(&self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        let (mut active, mut must) = (HashMap::new(), false);
        for index in &self.waiting {
            let entry = &self.entries[*index];
            let Some(head) = heads.get(&entry.room) else {
                continue;
            };
            let Some(until) = head.active_until else {
                continue;
            };
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
        let reply = connection
            .within(connection.database.run_command(command))
            .await?;
        if reply.contains_key("writeErrors") {
            return Err(StoreError::Fault(format!(
                "failed to update activeUntil of rooms: {reply}"
            )));
        }
        for (room, until) in active {
            heads
                .entry(room)
                .and_modify(|head| head.active_until = Some(until));
        }
        Ok(())
    }

    fn rooms(&self) -> impl Iterator<Item = RoomId> {
        self.waiting.iter().map(|index| self.entries[*index].room)
    }

    /// Drops the cached heads of the rooms of the waiting entries, since they turned out to be
    /// stale.
    pub fn forget_heads(&self, heads: &mut Heads) {
        for room in self.rooms() {
            heads.remove(&room);
        }
    }

    /// Assigns the next sequence numbers to as many of the first waiting entries as fit into one
    /// insert. Entries whose room has no known head keep waiting.
    fn number(&self, first: usize, heads: &Heads) -> (Vec<(usize, Head)>, Vec<RawDocumentBuf>) {
        let mut ends = HashMap::new();
        let (mut numbered, mut documents, mut size) =
            (Vec::with_capacity(first), Vec::with_capacity(first), 0);
        for index in &self.waiting[..first] {
            let entry = &self.entries[*index];
            let Some(end) = ends.get(&entry.room).or_else(|| heads.get(&entry.room)) else {
                continue;
            };
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

/// The reason why an entry was not inserted.
#[derive(PartialEq, Eq, Debug)]
enum Refusal {
    /// The sequence number is taken.
    NumberTaken,
    /// The log has a message with the same client id already.
    SentBefore,
    /// The database refuses the entry, for this reason.
    Impossible(String),
}

/// Inserts the entries in order, up to the first that is refused. Returns how many were inserted,
/// which are then on disk on the majority, and why the next one was refused.
async fn insert(
    connection: &Connection,
    documents: Vec<RawDocumentBuf>,
) -> Result<(usize, Option<Refusal>)> {
    let count = documents.len();
    let mut entries = RawArrayBuf::new();
    for document in documents {
        entries.push(document);
    }
    // A raw command: the driver's `insert_many` copies each document twice more, and its retryable
    // writes cost the server one record per entry. Retries are handled here, by the ids of the
    // entries.
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("insert"), connection.messages.name());
    command.append(cstr!("documents"), entries);
    command.append(cstr!("ordered"), true);
    command.append(cstr!("writeConcern"), connection.durable.clone());
    // A refusal quotes the duplicate key. MongoDB truncates a long key, possibly inside a
    // character, and then the whole reply cannot be decoded.
    let reply = connection
        .within(readable(connection.database.run_raw_command(command)))
        .await?;
    let reply = reply
        .ok_or_else(|| StoreError::Unavailable("the answer to an insert cannot be read".into()))?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!(
            "the majority did not confirm: {concern}"
        )));
    }
    let refused = reply
        .get_array("writeErrors")
        .ok()
        .and_then(|errors| errors.first())
        .and_then(Bson::as_document);
    match refused {
        None => Ok((count, None)),
        Some(refused) => {
            let index = refused
                .get_i32("index")
                .ok()
                .and_then(|index| usize::try_from(index).ok())
                .filter(|index| *index < count);
            let index = index.ok_or_else(|| {
                StoreError::Fault(format!("write error without an index: {refused}"))
            })?;
            if refused.get_i32("code").ok() != Some(DUPLICATE_KEY) {
                return Ok((
                    index,
                    Some(Refusal::Impossible(format!(
                        "entry refused by the database: {refused}"
                    ))),
                ));
            }
            let by_client_id = refused
                .get_document("keyPattern")
                .is_ok_and(|keys| keys.contains_key("clientMessageId"));
            Ok((
                index,
                Some(if by_client_id {
                    Refusal::SentBefore
                } else {
                    Refusal::NumberTaken
                }),
            ))
        }
    }
}

/// Counts the entries of a block by author, in the background.
fn count_block(connection: &Connection, room: RoomId, block: u64) {
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = author_counts::count_block(&connection, room, block).await {
            tracing::debug!(%error, %room, "failed to count a block of entries; it is counted when needed");
        }
    });
}

/// Marks entries as applied, in the background. If that fails, their effects are applied once more
/// later.
fn mark_applied(connection: &Connection, dues: Vec<PendingEffect>) {
    if dues.is_empty() {
        return;
    }
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = effects::mark_applied(&connection, &dues).await {
            tracing::debug!(%error, "failed to mark entries as applied; they are applied again later");
        }
    });
}

/// Returns the positions of those of these entries that are in a log.
async fn placed(
    connection: &Connection,
    ids: Vec<String>,
) -> Result<HashMap<MessageId, LogPosition>> {
    let found = connection
        .messages
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "seq": 1, "createdAt": 1 });
    let placed = |entry: &RawDocument| {
        let placed = LogPosition {
            seq: seq_in(entry, "seq"),
            created_at: time_in(entry, "createdAt"),
        };
        Some((MessageId::parse(text_in(entry, "_id"))?, placed))
    };
    Ok(connection.all(found, placed).await?.into_iter().collect())
}

/// The key of a message that has a client id.
type Name = (RoomId, UserId, String);

fn name(entry: &NewEntry) -> Option<Name> {
    match &entry.change {
        NewEntryKind::Message {
            client_id: Some(client_id),
            ..
        } => Some((entry.room, entry.author, client_id.as_str().to_owned())),
        _ => None,
    }
}

/// Returns the messages with these names, deleted or not.
async fn sent(
    connection: &Connection,
    names: &[Name],
) -> Result<HashMap<Name, (MessageId, Entry)>> {
    let rooms: HashSet<_> = names.iter().map(|(room, ..)| room.to_string()).collect();
    let authors: HashSet<_> = names
        .iter()
        .map(|(_, author, _)| author.to_string())
        .collect();
    let ids: HashSet<_> = names.iter().map(|(.., id)| id.as_str()).collect();
    let filter = doc! {
        "chatRoomId": { "$in": Vec::from_iter(rooms) },
        "postedByUser": { "$in": Vec::from_iter(authors) },
        "clientMessageId": { "$in": Vec::from_iter(ids) },
    };
    let found = connection
        .messages
        .find(filter)
        .hint(by_name(indexes::BY_CLIENT_ID));
    let of_name = |message: &RawDocument| {
        let entry = entries::entry(message)?;
        let name = (
            entry.room,
            user_in(message, "postedByUser"),
            text_in(message, "clientMessageId").to_owned(),
        );
        Some((name, (MessageId::parse(text_in(message, "_id"))?, entry)))
    };
    Ok(connection.all(found, of_name).await?.into_iter().collect())
}
