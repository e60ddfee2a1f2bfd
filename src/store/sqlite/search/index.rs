//! Indexing in slices. Each slice occupies the writer thread for a few milliseconds, so that posts
//! can be written between two slices.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::indexed::{BLOCK, IndexedRange, in_block};
use crate::{
    model::{RoomId, Seq},
    store::{search::terms, sqlite::head::Head},
};

/// A slice ends once it has this many postings, bytes of text or entries.
const POSTINGS: usize = 1_000;
const BYTES: usize = 64 << 10;
const ENTRIES: usize = 500;
/// The maximum number of index rows that are examined or erased in one slice.
const ROWS: u64 = 2_000;

/// The indexer's state, kept only in memory: it can be rebuilt from the database.
#[derive(Default)]
pub struct Indexer {
    /// Rooms with entries after their indexed range.
    to_index: HashSet<RoomId>,
    /// Whether no room has entries before its indexed range that still have to be indexed.
    is_complete: bool,
    /// The block from which outdated text is being removed.
    clearing: Option<Clearing>,
}

/// The removal of stale messages from one block of the index.
struct Clearing {
    room: RoomId,
    log: i64,
    block: u64,
    /// The stale messages.
    seqs: Vec<Seq>,
    /// The last term that has been processed.
    after: String,
    /// Whether all terms have been processed.
    is_clear: bool,
}

/// The entries that contain a term (as bytes within the block), by block and term.
type Postings = BTreeMap<(u64, String), Vec<u8>>;

impl Indexer {
    /// Adds rooms with new messages.
    pub fn add(&mut self, rooms: impl IntoIterator<Item = RoomId>) {
        self.to_index.extend(rooms);
    }

    /// Indexes some new messages, or else some old ones that an earlier version indexed
    /// differently. Returns false if there were none.
    pub fn index(&mut self, connection: &Connection) -> Result<bool> {
        while let Some(room) = self.to_index.iter().next().copied() {
            if index_new(connection, room)? {
                return Ok(true);
            }
            self.to_index.remove(&room);
        }
        self.is_complete = self.is_complete || !index_old(connection)?;
        Ok(!self.is_complete)
    }

    /// Returns whether there is nothing to index.
    pub fn is_idle(&self) -> bool {
        self.to_index.is_empty() && self.is_complete
    }

    /// Erases some deleted or edited text from the index: in existing rooms, in deleted rooms, or
    /// in the index of an earlier version. Returns false if there was none.
    pub fn erase(&mut self, connection: &Connection) -> Result<bool> {
        Ok(self.update_stale(connection)?
            || erase_deleted_room(connection)?
            || erase_former_index(connection)?)
    }

    /// Updates the index for changed messages, one block at a time. Returns false if there were
    /// none.
    fn update_stale(&mut self, connection: &Connection) -> Result<bool> {
        if self.clearing.is_none() {
            self.clearing = Clearing::next(connection)?;
        }
        let Some(clearing) = &mut self.clearing else {
            return Ok(false);
        };
        let exists = IndexedRange::find(connection, clearing.room)?
            .is_some_and(|indexed| indexed.log == clearing.log);
        if !exists || clearing.step(connection)? {
            self.clearing = None;
        }
        Ok(true)
    }
}

/// Returns the rooms with entries after their indexed range.
pub fn unindexed_rooms(connection: &Connection) -> Result<Vec<RoomId>> {
    connection
        .prepare("SELECT heads.room FROM heads LEFT JOIN search_logs ON search_logs.room = heads.room WHERE last_seq > coalesce(up_to, 0)")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Indexes entries after the indexed range of a room. Returns false if there are none.
fn index_new(connection: &Connection, room: RoomId) -> Result<bool> {
    let Some(head) = Head::find(connection, room)? else {
        return Ok(false);
    };
    let indexed = match IndexedRange::find(connection, room)? {
        Some(indexed) => indexed,
        None => IndexedRange {
            log: connection
                .prepare_cached("INSERT INTO search_logs (room, above, up_to) VALUES (?, 0, 0) RETURNING number")?
                .query_row([room], |row| row.get(0))?,
            up_to: Seq(0),
        },
    };
    let new = Unindexed {
        room,
        log: indexed.log,
        after: indexed.up_to,
        up_to: head.last_seq,
        order: "ASC",
    };
    let Some(last) = new.index_slice(connection)? else {
        return Ok(false);
    };
    connection
        .prepare_cached("UPDATE search_logs SET up_to = ? WHERE number = ?")?
        .execute(params![last, indexed.log])?;
    Ok(true)
}

/// Indexes entries before the indexed range of any room. Returns false if there are none.
fn index_old(connection: &Connection) -> Result<bool> {
    let unfinished = connection
        .prepare_cached("SELECT number, room, above FROM search_logs WHERE above > 0 AND room IS NOT NULL ORDER BY number LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, RoomId>(1)?, row.get::<_, Seq>(2)?)))
        .optional()?;
    let Some((log, room, above)) = unfinished else {
        return Ok(false);
    };
    let old = Unindexed {
        room,
        log,
        after: Seq(0),
        up_to: above,
        order: "DESC",
    };
    let first = old.index_slice(connection)?;
    let above = first.unwrap_or(Seq(1)).prev();
    connection
        .prepare_cached("UPDATE search_logs SET above = ? WHERE number = ?")?
        .execute(params![above, log])?;
    Ok(true)
}

/// A range of a log that is not indexed yet.
struct Unindexed {
    room: RoomId,
    /// The number of the room in the index.
    log: i64,
    /// The entry before the range.
    after: Seq,
    /// The last entry of the range.
    up_to: Seq,
    /// The order in which to index the entries: `ASC` or `DESC`.
    order: &'static str,
}

impl Unindexed {
    /// Indexes entries until the slice is full. Returns the last entry that was examined.
    fn index_slice(&self, connection: &Connection) -> Result<Option<Seq>> {
        let mut entries = connection.prepare_cached(&format!(
            "SELECT seq, text FROM entries WHERE room = ? AND seq > ? AND seq <= ? ORDER BY seq {}",
            self.order
        ))?;
        let mut entries = entries.query(params![self.room, self.after, self.up_to])?;
        let (mut postings, mut last) = (Postings::new(), None);
        let (mut count, mut bytes, mut examined) = (0, 0, 0);
        while count < POSTINGS && bytes < BYTES && examined < ENTRIES {
            let Some(row) = entries.next()? else { break };
            let (seq, text) = (
                row.get(0)?,
                row.get_ref(1)?.as_str_or_null()?.unwrap_or_default(),
            );
            count += collect(&mut postings, seq, text);
            bytes += text.len();
            examined += 1;
            last = Some(seq);
        }
        write(connection, self.log, postings)?;
        Ok(last)
    }
}

/// Adds the postings of a text. Returns their number.
fn collect(postings: &mut Postings, seq: Seq, text: &str) -> usize {
    let (block, byte) = in_block(seq);
    let terms = terms(text);
    let count = terms.len();
    for term in terms {
        postings.entry((block, term)).or_default().push(byte);
    }
    count
}

fn write(connection: &Connection, log: i64, postings: Postings) -> Result<()> {
    let mut find = connection.prepare_cached(
        "SELECT seqs FROM search_postings WHERE log = ? AND block = ? AND term = ?",
    )?;
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO search_postings (log, block, term, seqs) VALUES (?, ?, ?, ?)",
    )?;
    for ((block, term), mut seqs) in postings {
        let known = find
            .query_row(params![log, block, term], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        seqs.extend(known.unwrap_or_default());
        put.execute(params![log, block, term, seqs])?;
    }
    Ok(())
}

impl Clearing {
    fn next(connection: &Connection) -> Result<Option<Self>> {
        let first = connection.prepare_cached("SELECT room, seq FROM search_stale LIMIT 1")?;
        let first = { first }
            .query_row([], |row| {
                Ok((row.get::<_, RoomId>(0)?, row.get::<_, Seq>(1)?))
            })
            .optional()?;
        let Some((room, seq)) = first else {
            return Ok(None);
        };
        let (block, _) = in_block(seq);
        let seqs = connection
            .prepare_cached("SELECT seq FROM search_stale WHERE room = ? AND seq >= ? AND seq < ?")?
            .query_map(params![room, block * BLOCK, (block + 1) * BLOCK], |row| {
                row.get(0)
            })?
            .collect::<Result<_>>()?;
        let Some(indexed) = IndexedRange::find(connection, room)? else {
            connection
                .prepare_cached("DELETE FROM search_stale WHERE room = ?")?
                .execute([room])?;
            return Ok(None);
        };
        Ok(Some(Self {
            room,
            log: indexed.log,
            block,
            seqs,
            after: String::new(),
            is_clear: false,
        }))
    }

    /// Removes some terms of the stale messages, or, once all are removed, indexes the messages in
    /// their current state. Returns true when that is done.
    ///
    /// A message may change again meanwhile. That is harmless: its text is read when it is indexed,
    /// and it is marked as stale until then.
    fn step(&mut self, connection: &Connection) -> Result<bool> {
        if !self.is_clear {
            self.is_clear = self.clear(connection)?;
            return Ok(false);
        }
        let mut text =
            connection.prepare_cached("SELECT text FROM entries WHERE room = ? AND seq = ?")?;
        let mut done =
            connection.prepare_cached("DELETE FROM search_stale WHERE room = ? AND seq = ?")?;
        let (mut postings, mut count, mut bytes) = (Postings::new(), 0, 0);
        while count < POSTINGS && bytes < BYTES {
            let Some(seq) = self.seqs.pop() else { break };
            let text: Option<String> = text
                .query_row(params![self.room, seq], |row| row.get(0))
                .optional()?
                .flatten();
            let text = text.unwrap_or_default();
            count += collect(&mut postings, seq, &text);
            bytes += text.len();
            done.execute(params![self.room, seq])?;
        }
        write(connection, self.log, postings)?;
        Ok(self.seqs.is_empty())
    }

    /// Removes some terms of the stale messages. Returns true when there are no more.
    fn clear(&mut self, connection: &Connection) -> Result<bool> {
        let rows = connection
            .prepare_cached("SELECT term, seqs FROM search_postings WHERE log = ? AND block = ? AND term > ? ORDER BY term LIMIT ?")?
            .query_map(params![self.log, self.block, self.after, ROWS], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?
            .collect::<Result<Vec<_>>>()?;
        let is_last = (rows.len() as u64) < ROWS;
        let stale: HashSet<u8> = self.seqs.iter().map(|seq| in_block(*seq).1).collect();
        let mut put = connection.prepare_cached(
            "UPDATE search_postings SET seqs = ? WHERE log = ? AND block = ? AND term = ?",
        )?;
        let mut delete = connection.prepare_cached(
            "DELETE FROM search_postings WHERE log = ? AND block = ? AND term = ?",
        )?;
        for (term, mut seqs) in rows {
            let before = seqs.len();
            seqs.retain(|seq| !stale.contains(seq));
            if seqs.is_empty() {
                delete.execute(params![self.log, self.block, term])?;
            } else if seqs.len() < before {
                put.execute(params![seqs, self.log, self.block, term])?;
            }
            self.after = term;
        }
        Ok(is_last)
    }
}

/// Erases some of the index of a deleted room. Returns false if there is none.
fn erase_deleted_room(connection: &Connection) -> Result<bool> {
    let deleted =
        connection.prepare_cached("SELECT number FROM search_logs WHERE room IS NULL LIMIT 1")?;
    let Some(log) = { deleted }
        .query_row([], |row| row.get::<_, i64>(0))
        .optional()?
    else {
        return Ok(false);
    };
    let end = connection
        .prepare_cached("SELECT block, term FROM search_postings WHERE log = ? ORDER BY block, term LIMIT 1 OFFSET ?")?
        .query_row(params![log, ROWS], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    if let Some((block, term)) = end {
        let mut delete = connection.prepare_cached(
            "DELETE FROM search_postings WHERE log = ? AND (block, term) < (?, ?)",
        )?;
        delete.execute(params![log, block, term])?;
    } else {
        connection
            .prepare_cached("DELETE FROM search_postings WHERE log = ?")?
            .execute([log])?;
        connection
            .prepare_cached("DELETE FROM search_logs WHERE number = ?")?
            .execute([log])?;
    }
    Ok(true)
}

/// The index tables of earlier versions, including those of FTS5, with their keys and the number of
/// rows to erase in one slice.
const FORMER: [(&str, &str, u64); 5] = [
    ("search_data", "id", 200),
    ("search_idx", "segid, term", ROWS),
    ("search_docsize", "id", ROWS),
    ("search_numbers", "number", ROWS),
    ("search_rooms", "room", ROWS),
];

/// Erases some of the index of an earlier version. Returns false if there is none.
fn erase_former_index(connection: &Connection) -> Result<bool> {
    let exists = connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'search_numbers'")?
        .exists([])?;
    if !exists {
        return Ok(false);
    }
    for (table, key, limit) in FORMER {
        let some = format!(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} LIMIT {limit})"
        );
        if connection.execute(&some, [])? > 0 {
            return Ok(true);
        }
    }
    connection.execute_batch(
        "DROP TABLE search_data; DROP TABLE search_idx; DROP TABLE search_docsize; DROP TABLE search_config;
         DROP TABLE search_numbers; DROP TABLE search_rooms;",
    )?;
    Ok(true)
}
