//! Searching: reads the logs of all rooms in scope backwards, at the same time, always continuing
//! with the log that may contain the newest message.

use std::collections::{BinaryHeap, HashSet};

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::indexed::{BLOCK, in_block};
use crate::{
    model::{Message, RoomId, Seq, Timestamp},
    store::{
        limit::PageBuilder,
        search::{EntryPosition, Found, Query, Scope, SearchQuery},
        sqlite::rows,
    },
};

/// The maximum number of lookups in one step, after which other reads may run, and in one search:
/// about 10 and 200 ms.
const STEP: u64 = 2_000;
const SEARCH: u64 = 40_000;
/// The number of bytes of text that cost as much as one lookup.
const BYTES: u64 = 512;
/// The number of rooms that are loaded in one step.
const ROOMS: usize = 500;
/// The number of unindexed texts that are read at once.
const TEXTS: u64 = 32;

/// A search in progress.
pub struct RunningSearch {
    query: SearchQuery,
    /// The words of the query.
    words: Query,
    /// The room after which to continue loading rooms; `None` once all are loaded.
    load_after: Option<Vec<u8>>,
    logs: Vec<Log>,
    /// For each log, the position of its next candidate, or the newest position that it may have.
    next: BinaryHeap<(EntryPosition, usize)>,
    found: PageBuilder<Message>,
    /// The number of lookups since all rooms were loaded, and in the current step.
    lookups: u64,
    lookups_in_step: u64,
    is_first_step: bool,
}

/// A log that is being searched.
struct Log {
    room: RoomId,
    /// The number of the room in the index; `None` if nothing is indexed.
    number: Option<i64>,
    /// The last entry that is indexed.
    up_to: Seq,
    /// The search of the log ends at this entry, which is not searched.
    end: Seq,
    /// The next entry to search.
    next: Seq,
    /// Entries that may match, in ascending order.
    candidates: Vec<Seq>,
}

impl RunningSearch {
    pub fn new(query: SearchQuery) -> Self {
        let words = Query::parse(&query.words);
        let is_empty = words.terms().is_empty() || query.limit.items == 0;
        Self {
            found: PageBuilder::new(query.limit),
            query,
            words,
            load_after: (!is_empty).then(Vec::new),
            logs: Vec::new(),
            next: BinaryHeap::new(),
            lookups: 0,
            lookups_in_step: 0,
            is_first_step: true,
        }
    }

    /// Runs one step of the search. Returns true when the search has ended.
    pub fn step(&mut self, connection: &Connection) -> Result<bool> {
        self.lookups_in_step = 0;
        while self.lookups_in_step < STEP {
            if let Some(after) = self.load_after.take() {
                self.load_after = self.load_rooms(connection, &after)?;
                continue;
            }
            let is_enough = self.found.is_full() || self.lookups >= SEARCH;
            let Some((position, index)) = self.next.peek().copied().filter(|_| !is_enough) else {
                return Ok(true);
            };
            let lookups_before = self.lookups_in_step;
            self.next.pop();
            self.advance(connection, position, index)?;
            self.push(connection, index)?;
            self.lookups += self.lookups_in_step - lookups_before;
        }
        self.is_first_step = false;
        Ok(false)
    }

    /// Returns the messages found.
    pub fn found(self) -> Found {
        let is_full = self.found.is_full();
        let next = self
            .next
            .peek()
            .map(|(position, _)| match self.found.last() {
                Some(last) if is_full => EntryPosition::of(last),
                // The message at this position has not been checked yet.
                _ => EntryPosition {
                    seq: position.seq.next(),
                    ..*position
                },
            });
        Found {
            messages: self.found.into_items(),
            next,
        }
    }

    /// Loads the rooms after `after`. Returns the last of them if there may be more.
    fn load_rooms(&mut self, connection: &Connection, after: &[u8]) -> Result<Option<Vec<u8>>> {
        const COLUMNS: &str = "heads.room, heads.last_seq, heads.last_at, search_logs.number, coalesce(above, 0), coalesce(up_to, 0)";
        let (from, condition, id, hidden, value) = match self.query.scope {
            Scope::Room { room, after } => (
                "heads",
                "heads.room = ?1 AND heads.room > ?2 ORDER BY heads.room",
                *room.as_bytes(),
                "?3",
                rows::count(after.0),
            ),
            Scope::RoomsOf { user, since_joined } => (
                "memberships CROSS JOIN heads ON heads.room = memberships.room",
                "user = ?1 AND memberships.room > ?2 ORDER BY memberships.room",
                *user.as_bytes(),
                "joined * ?3",
                since_joined.into(),
            ),
        };
        let mut rooms = connection.prepare_cached(&format!(
            "SELECT {COLUMNS}, {hidden} FROM {from} LEFT JOIN search_logs ON search_logs.room = heads.room
             WHERE {condition} LIMIT {ROOMS}"
        ))?;
        let rooms = rooms
            .query_map(params![id, after, value], log_of)?
            .collect::<Result<Vec<_>>>()?;
        let last = rooms
            .last()
            .map(|(log, _)| log.room.as_bytes().to_vec())
            .filter(|_| rooms.len() == ROOMS);
        self.lookups_in_step += rooms.len() as u64;
        for (mut log, last_at) in rooms {
            if let Some(before) = self.query.before {
                log.next = self.end_before(connection, &log, last_at, before)?;
            }
            self.logs.push(log);
            self.push(connection, self.logs.len() - 1)?;
        }
        Ok(last)
    }

    /// Returns the last entry of a log before a position. Times never decrease within a log.
    fn end_before(
        &mut self,
        connection: &Connection,
        log: &Log,
        last_at: Timestamp,
        before: EntryPosition,
    ) -> Result<Seq> {
        if matches!(self.query.scope, Scope::Room { .. }) {
            return Ok(log.next.min(before.seq.prev()));
        }
        if log.next <= log.end
            || (EntryPosition {
                at: last_at,
                seq: log.next,
                room: log.room,
            }) < before
        {
            return Ok(log.next);
        }
        let (mut is_before, mut is_not) = (log.end, log.next);
        while is_not.0 - is_before.0 > 1 {
            let seq = Seq(is_before.0.midpoint(is_not.0));
            if self.position(connection, log.room, seq)? < before {
                is_before = seq;
            } else {
                is_not = seq;
            }
        }
        Ok(is_before)
    }

    /// Returns the position of an entry. The time is not read when searching a single room, which
    /// does not need it.
    fn position(
        &mut self,
        connection: &Connection,
        room: RoomId,
        seq: Seq,
    ) -> Result<EntryPosition> {
        if matches!(self.query.scope, Scope::Room { .. }) {
            return Ok(EntryPosition {
                at: Timestamp(0),
                seq,
                room,
            });
        }
        self.lookups_in_step += 1;
        let at = connection
            .prepare_cached("SELECT created_at FROM entries WHERE room = ? AND seq = ?")?
            .query_row(params![room, seq], |row| row.get(0))
            .optional()?;
        // No such entry: the room was just deleted.
        Ok(EntryPosition {
            at: at.unwrap_or_default(),
            seq,
            room,
        })
    }

    /// Adds the next position of a log to the heap, unless the log has been searched to its end.
    fn push(&mut self, connection: &Connection, index: usize) -> Result<()> {
        let log = &self.logs[index];
        let next = log
            .candidates
            .last()
            .copied()
            .or((log.next > log.end).then_some(log.next));
        if let Some(seq) = next {
            let position = self.position(connection, log.room, seq)?;
            self.next.push((position, index));
        }
        Ok(())
    }

    /// Checks the next candidate of a log, or looks for more candidates if there is none.
    fn advance(
        &mut self,
        connection: &Connection,
        position: EntryPosition,
        index: usize,
    ) -> Result<()> {
        let log = &mut self.logs[index];
        if log.candidates.pop().is_some() {
            return self.check(connection, position);
        }
        let cost = if log.next > log.up_to {
            log.read_texts(connection, &self.words)?
        } else if let Some(number) = log.number {
            log.read_index(connection, &self.words, number)?
        } else {
            log.next = log.end;
            0
        };
        self.lookups_in_step += 1 + cost;
        Ok(())
    }

    /// Adds a message to the results if it matches.
    fn check(&mut self, connection: &Connection, position: EntryPosition) -> Result<()> {
        let message = connection
            .prepare_cached(&format!(
                "SELECT {} FROM entries WHERE room = ? AND seq = ? AND text IS NOT NULL",
                rows::MESSAGE
            ))?
            .query_row(params![position.room, position.seq], rows::message)
            .optional()?;
        self.lookups_in_step += 2;
        let Some(message) = message else {
            return Ok(());
        };
        let is_found = if self.may_be_stale(connection, &message)? {
            self.words.matches(&message.text)
        } else {
            !self.words.has_phrases() || self.words.has_all_phrases(&message.text)
        };
        self.lookups_in_step += message.text.len() as u64 / BYTES;
        if is_found {
            self.found.push(message);
        }
        Ok(())
    }

    /// Returns whether a message may have changed since it was indexed or since the index was read.
    fn may_be_stale(&self, connection: &Connection, message: &Message) -> Result<bool> {
        let mut stale =
            connection.prepare_cached("SELECT 1 FROM search_stale WHERE room = ? AND seq = ?")?;
        Ok(!self.is_first_step || stale.exists(params![message.room, message.seq])?)
    }
}

fn log_of(row: &Row<'_>) -> Result<(Log, Timestamp)> {
    let (above, hidden) = (row.get::<_, Seq>(4)?, row.get::<_, Seq>(6)?);
    let log = Log {
        room: row.get(0)?,
        number: row.get(3)?,
        up_to: row.get(5)?,
        end: above.max(hidden),
        next: row.get(1)?,
        candidates: Vec::new(),
    };
    Ok((log, row.get(2)?))
}

impl Log {
    /// Reads a few entries that are not indexed yet, and collects candidates. Returns the cost.
    fn read_texts(&mut self, connection: &Connection, words: &Query) -> Result<u64> {
        let end = self.end.max(self.up_to);
        let mut texts = connection.prepare_cached(
            "SELECT seq, text FROM entries WHERE room = ? AND seq > ? AND seq <= ? AND text IS NOT NULL ORDER BY seq DESC LIMIT ?",
        )?;
        let mut texts = texts.query(params![self.room, end, self.next, TEXTS])?;
        let (mut cost, mut count) = (0, 0);
        while let Some(row) = texts.next()? {
            let (seq, text) = (row.get::<_, Seq>(0)?, row.get_ref(1)?.as_str()?);
            cost += 1 + text.len() as u64 / BYTES;
            count += 1;
            self.candidates.extend(words.matches(text).then_some(seq));
            self.next = seq.prev();
            if cost >= STEP {
                break;
            }
        }
        if count < TEXTS && cost < STEP {
            self.next = end;
        }
        self.candidates.reverse();
        Ok(cost)
    }

    /// Collects candidates from the next block of the index. Returns the cost.
    fn read_index(&mut self, connection: &Connection, words: &Query, log: i64) -> Result<u64> {
        let (block, last) = in_block(self.next);
        let (mut matches, cost) = find_in_block(connection, words, log, block)?;
        // Changed messages are always candidates, because the index does not have their current
        // text.
        let first = block * BLOCK;
        let mut stale = connection.prepare_cached(
            "SELECT seq FROM search_stale WHERE room = ? AND seq >= ? AND seq < ?",
        )?;
        for seq in stale.query_map(params![self.room, first, first + BLOCK], |row| row.get(0))? {
            matches.insert(in_block(seq?).1);
        }
        let mut candidates: Vec<_> = matches
            .into_iter()
            .filter(|seq| *seq <= last)
            .map(|seq| Seq(first + u64::from(seq)))
            .collect();
        candidates.retain(|seq| *seq > self.end);
        candidates.sort_unstable();
        self.candidates = candidates;
        self.next = Seq(first).prev();
        Ok(cost)
    }
}

/// Returns the entries of a block that contain all terms, as bytes within the block, and the cost.
fn find_in_block(
    connection: &Connection,
    words: &Query,
    log: i64,
    block: u64,
) -> Result<(HashSet<u8>, u64)> {
    let mut find = connection.prepare_cached(
        "SELECT seqs FROM search_postings WHERE log = ? AND block = ? AND term = ?",
    )?;
    let mut matches: Option<HashSet<u8>> = None;
    let mut cost = 1;
    for term in words.terms() {
        let seqs = find
            .query_row(params![log, block, term], |row| row.get::<_, Vec<u8>>(0))
            .optional()?
            .unwrap_or_default();
        let seqs = seqs.into_iter();
        matches = Some(match matches {
            None => seqs.collect(),
            Some(matches) => seqs.filter(|seq| matches.contains(seq)).collect(),
        });
        cost += 1;
        if matches.as_ref().is_some_and(HashSet::is_empty) {
            break;
        }
    }
    Ok((matches.unwrap_or_default(), cost))
}
