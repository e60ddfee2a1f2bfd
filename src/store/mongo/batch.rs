//! A batch of entries that is appended to the room logs in MongoDB, in one or more attempts.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use mongodb::bson::RawDocumentBuf;

use super::{
    activity, author_counts, checks,
    connection::Connection,
    effects,
    entries::{self, PendingEffect},
    existing_entries::{ClientKey, client_key, find_by_client_key, find_positions},
    heads::{Head, Heads, read_heads_with_rooms},
    insert::{Refusal, insert},
    pending,
};
use crate::{
    model::RoomId,
    store::{Appended, LogPosition, NewEntry, NewEntryKind, Result, StoreError},
};

/// The most bytes of entries in one insert. MongoDB accepts commands of up to 16 MiB.
const MAX_INSERT_BYTES: usize = 8 << 20;

/// A batch of entries being appended to the room logs.
pub struct Batch<'a> {
    entries: &'a [NewEntry],
    answers: Vec<Option<Appended>>,
    /// The indices of the entries that are still to be inserted, in order.
    waiting: Vec<usize>,
    /// Whether some of the waiting entries may be in their logs already, or may still arrive there
    /// from an earlier attempt.
    outcome_unknown: bool,
    /// Whether some of the waiting messages were, or may have been, sent before under the same
    /// client id.
    sent_before: bool,
    /// The entries in the logs whose effects are not applied yet. Each is answered once its effect
    /// is applied, or is found to be impossible for now.
    effects: Vec<(usize, PendingEffect)>,
    started_at: Instant,
}

/// The outcome of an attempt.
pub enum Progress {
    /// All entries of the insert are in their logs.
    Complete,
    /// Some entries wait for another attempt, with the heads read anew: another server appended to
    /// the same rooms, or an entry of the insert was refused. Effects have been applied or recorded
    /// as pending, so only waiting entries lack an answer.
    Conflict,
}

impl<'a> Batch<'a> {
    pub fn new(entries: &'a [NewEntry]) -> Self {
        let (answers, waiting) = (vec![None; entries.len()], (0..entries.len()).collect());
        Self {
            entries,
            answers,
            waiting,
            outcome_unknown: false,
            sent_before: false,
            effects: Vec::new(),
            started_at: Instant::now(),
        }
    }

    /// Returns whether every entry has its answer.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.effects.is_empty()
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
        self.outcome_unknown = true;
        self.sent_before = true;
    }

    /// Drops the cached heads of the rooms of the waiting entries, since they turned out to be
    /// stale.
    pub fn remove_heads(&self, heads: &mut Heads) {
        for room in self.rooms() {
            heads.remove(&room);
        }
    }

    /// Inserts as many of the waiting entries as possible, and applies their effects.
    pub async fn try_append(
        &mut self,
        connection: &Connection,
        heads: &mut Heads,
    ) -> Result<Progress> {
        if self.outcome_unknown {
            self.find_inserted(connection).await?;
        }
        if self.sent_before {
            self.find_sent_before(connection).await?;
        }
        self.apply_effects(connection, heads).await?;
        self.load_heads(connection, heads).await?;
        let before = self.waiting.len();
        let independent = checks::count_independent(self.entries, &self.waiting);
        let indices = &self.waiting[..independent];
        let refused = checks::refused(connection, self.entries, indices, heads).await?;
        let accepted = independent - refused.len();
        self.answer(refused);
        let waiting = self.waiting.iter().map(|index| &self.entries[*index]);
        let extensions = activity::extensions(waiting, heads);
        activity::extend(connection, extensions, heads).await?;
        let is_fully_inserted = self.insert(connection, accepted, heads).await?;
        self.apply_effects(connection, heads).await?;
        let made_progress = is_fully_inserted && self.waiting.len() < before;
        Ok(if made_progress || self.waiting.is_empty() {
            Progress::Complete
        } else {
            Progress::Conflict
        })
    }

    /// Inserts as many of the first `accepted` waiting entries as fit into one insert. Returns
    /// whether all of these are in their logs.
    async fn insert(
        &mut self,
        connection: &Connection,
        accepted: usize,
        heads: &mut Heads,
    ) -> Result<bool> {
        let (numbered, documents) = self.number(accepted, heads);
        let (inserted, refusal) = if documents.is_empty() {
            (0, None)
        } else {
            insert(connection, documents).await?
        };
        self.sent_before |= refusal == Some(Refusal::DuplicateClientId);
        if let Some(Refusal::Impossible(reason)) = refusal {
            self.answers[numbered[inserted].0] = Some(Appended::Failed(StoreError::Fault(reason)));
        }
        for (index, head) in &numbered[..inserted] {
            let room = self.entries[*index].room;
            heads.insert(room, *head);
            self.entry_inserted(
                *index,
                LogPosition {
                    seq: head.seq,
                    created_at: head.at,
                },
            );
            if let Some(block) = author_counts::block_ending_with(head.seq) {
                count_block(connection, room, block);
            }
        }
        self.retain_unanswered();
        Ok(inserted == numbered.len())
    }

    /// Assigns the next sequence numbers to as many of the first waiting entries as fit into one
    /// insert. Entries whose room has no known head keep waiting.
    fn number(&self, accepted: usize, heads: &Heads) -> (Vec<(usize, Head)>, Vec<RawDocumentBuf>) {
        let mut new_heads = HashMap::new();
        let (mut numbered, mut documents, mut size) = (
            Vec::with_capacity(accepted),
            Vec::with_capacity(accepted),
            0,
        );
        for index in &self.waiting[..accepted] {
            let entry = &self.entries[*index];
            let Some(head) = new_heads
                .get(&entry.room)
                .or_else(|| heads.get(&entry.room))
            else {
                continue;
            };
            let head = head.next(entry.created_at);
            let document = entries::from_entry(entry, head.seq, head.at);
            size += document.as_bytes().len();
            if size > MAX_INSERT_BYTES && !documents.is_empty() {
                break;
            }
            new_heads.insert(entry.room, head);
            numbered.push((*index, head));
            documents.push(document);
        }
        (numbered, documents)
    }

    /// Notes that the entry is in its log: answers a message, and queues the effect of any other
    /// entry.
    fn entry_inserted(&mut self, index: usize, position: LogPosition) {
        let entry = &self.entries[index];
        if let NewEntryKind::Message { .. } = entry.change {
            self.answers[index] = Some(Appended::Placed(position));
        } else {
            let effect = PendingEffect {
                id: entry.id,
                room: entry.room,
                seq: position.seq,
                at: position.created_at,
                change: entry.change.clone(),
            };
            self.effects.push((index, effect));
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
        let (answers, effects) = (&self.answers, &self.effects);
        self.waiting.retain(|index| {
            answers[*index].is_none() && effects.iter().all(|(inserted, _)| inserted != index)
        });
    }

    /// Applies the effects of the entries that are in the logs. Until this is done, the heads of
    /// these logs are not cached, so that the next append looks for pending effects. The heads of
    /// rooms whose document changed are dropped for good, so that these rooms are read again.
    async fn apply_effects(&mut self, connection: &Connection, heads: &mut Heads) -> Result<()> {
        if self.effects.is_empty() {
            return Ok(());
        }
        let effects: Vec<_> = self
            .effects
            .iter()
            .map(|(_, effect)| effect.clone())
            .collect();
        let mut removed_heads: HashMap<_, _> = effects
            .iter()
            .filter_map(|effect| Some((effect.room, heads.remove(&effect.room)?)))
            .collect();
        if let Err(error) = effects::apply(connection, &effects).await {
            // Within the first half of the time limit the batch is retried; after that the effects
            // become pending, so that the other entries of the batch do not wait until the timeout.
            if self.started_at.elapsed() < connection.limit / 2 {
                return Err(error);
            }
            connection
                .pending
                .record_failed(&effects, &error.to_string());
        }
        for effect in effects.iter().filter(|effect| effect.change.is_of_room()) {
            removed_heads.remove(&effect.room);
        }
        heads.extend(removed_heads);
        self.answer_effects(connection);
        Ok(())
    }

    /// Answers the entries whose effects were tried, and marks those as applied whose effects are.
    fn answer_effects(&mut self, connection: &Connection) {
        let mut applied = Vec::with_capacity(self.effects.len());
        for (index, effect) in self.effects.drain(..) {
            let is_applied = !connection.pending.has(effect.room, effect.seq);
            self.answers[index] = Some(if is_applied || pending::counts_at_once(&effect.change) {
                Appended::Placed(LogPosition {
                    seq: effect.seq,
                    created_at: effect.at,
                })
            } else {
                Appended::Failed(StoreError::Unavailable(format!(
                    "what entry {} of room {} says cannot be done yet",
                    effect.seq.0, effect.room
                )))
            });
            if is_applied {
                applied.push(effect);
            }
        }
        mark_applied(connection, applied);
    }

    /// Finds the waiting entries that are in their logs already.
    async fn find_inserted(&mut self, connection: &Connection) -> Result<()> {
        let ids: Vec<_> = self
            .waiting
            .iter()
            .map(|index| self.entries[*index].id.to_string())
            .collect();
        let found = connection
            .read_durable(|| find_positions(connection, ids.clone()))
            .await?;
        for index in self.waiting.clone() {
            if let Some(position) = found.get(&self.entries[index].id) {
                self.entry_inserted(index, *position);
            }
        }
        self.retain_unanswered();
        Ok(())
    }

    /// Finds the waiting messages that were sent before under the same client id.
    async fn find_sent_before(&mut self, connection: &Connection) -> Result<()> {
        let with_key: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|index| Some((*index, client_key(&self.entries[*index])?)))
            .collect();
        let keys: Vec<_> = with_key.iter().map(|(_, key)| key.clone()).collect();
        let found = connection
            .read_durable(|| find_by_client_key(connection, &keys))
            .await?;
        let answer = |(index, key): (usize, ClientKey)| {
            let (id, earlier) = found.get(&key)?;
            let position = LogPosition {
                seq: earlier.seq,
                created_at: earlier.created_at,
            };
            // After an unknown outcome, the message that is found may be this very one.
            let is_itself = *id == self.entries[index].id;
            Some((
                index,
                if is_itself {
                    Appended::Placed(position)
                } else {
                    Appended::Duplicate(Box::new(earlier.clone()))
                },
            ))
        };
        let answers = with_key.into_iter().filter_map(answer).collect();
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
        let found = connection
            .read_durable(|| read_heads_with_rooms(connection, unknown.iter().copied().collect()))
            .await?;
        let deleted: HashSet<_> = found
            .iter()
            .filter(|(_, head)| head.closed)
            .map(|(room, _)| *room)
            .collect();
        heads.extend(found.into_iter().filter(|(_, head)| !head.closed));
        let answers = self
            .waiting
            .iter()
            .filter(|index| deleted.contains(&self.entries[**index].room))
            .map(|index| (*index, Appended::NoRoom))
            .collect();
        self.answer(answers);
        Ok(())
    }

    fn rooms(&self) -> impl Iterator<Item = RoomId> {
        self.waiting.iter().map(|index| self.entries[*index].room)
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
fn mark_applied(connection: &Connection, effects: Vec<PendingEffect>) {
    if effects.is_empty() {
        return;
    }
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = effects::mark_applied(&connection, &effects).await {
            tracing::debug!(%error, "failed to mark entries as applied; they are applied again later");
        }
    });
}
