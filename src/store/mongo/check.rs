//! Checking the data, in MongoDB. Servers may append to a log while it is checked: what is read
//! first is compared with what is read later in a way that allows for that.

use std::collections::HashMap;

use async_trait::async_trait;
use mongodb::bson::{RawDocument, doc};

use super::{
    author_counts::{self, BLOCK_SIZE},
    connection::Connection,
    documents::{self, flag_in, member_key, number, seq_in, text_in, time_in},
    effects,
    export::{self, read_entries},
    heads::read_heads,
    indexes::{self, by_name},
    read::entries_between,
    records::entry_record,
    store::Mongo,
};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{
        Check, Limit, Result, RoomRecord,
        check::{Findings, LogReplay},
        is_large,
    },
};

/// How many entries, and bytes of them, are read at once.
const PAGE: Limit = Limit {
    items: 1_000,
    bytes: 4 << 20,
};

#[async_trait]
impl Check for Mongo {
    async fn check_room(&self, room: RoomId) -> Result<Vec<String>> {
        let connection = &self.connection;
        let Some(record) = export::room(connection, room).await? else {
            return Ok(Vec::new());
        };
        let mut findings = Findings::new(room);
        let replay = replay(connection, &record, &mut findings).await?;
        replay.compare(&record.room, &mut findings);
        check_marks(connection, room, &mut findings).await?;
        check_document(connection, &record, &replay, &mut findings).await?;
        if export::room(connection, room).await?.is_none() {
            // Deleted meanwhile, so entries may have been missing.
            return Ok(Vec::new());
        }
        Ok(findings.into_lines())
    }

    async fn check_database(&self) -> Result<Vec<String>> {
        let connection = &self.connection;
        effects::retry(connection).await?;
        let pending = connection.pending.count();
        Ok((pending > 0)
            .then(|| format!("{pending} entries have effects that could not be applied yet"))
            .into_iter()
            .collect())
    }
}

/// Reads the log from its first entry up to that of which the room is.
async fn replay(
    connection: &Connection,
    record: &RoomRecord,
    findings: &mut Findings,
) -> Result<LogReplay> {
    let (room, last_seq) = (record.room.id, record.last_seq);
    let (mut replay, mut authors) = (LogReplay::default(), HashMap::new());
    let mut after = Seq(0);
    loop {
        let range = entries_between(room, after, last_seq);
        let read = |entry: &RawDocument| (seq_in(entry, "seq"), entry_record(entry));
        let page = read_entries(connection, range, PAGE, read).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for (seq, entry) in page {
            let Some(entry) = entry else {
                findings.add(format_args!("entry {} cannot be read", seq.0));
                continue;
            };
            replay.add(&entry, findings);
            *authors.entry(entry.author).or_default() += 1;
            if let Some(block) = author_counts::block_ending_with(seq) {
                let counted = std::mem::take(&mut authors);
                check_block(connection, (room, block), &counted, findings).await?;
            }
        }
    }
    replay.reach(last_seq, findings);
    Ok(replay)
}

/// Compares the stored counts of a block of entries with the counted ones.
async fn check_block(
    connection: &Connection,
    (room, block): (RoomId, u64),
    counted: &HashMap<UserId, u64>,
    findings: &mut Findings,
) -> Result<()> {
    let Some(stored) = author_counts::stored_block(connection, room, block).await? else {
        return Ok(());
    };
    let mut authors: Vec<_> = stored.keys().chain(counted.keys()).copied().collect();
    authors.sort_unstable();
    authors.dedup();
    // Of entries without a valid author, none are stored.
    authors.retain(|author| *author != UserId::UNKNOWN);
    for author in authors {
        let of = |counts: &HashMap<UserId, u64>| counts.get(&author).copied().unwrap_or_default();
        if of(&stored) != of(counted) {
            findings.add(format_args!(
                "{} entries of user {author} are stored for entries {} to {}, but there are {}",
                of(&stored),
                block * BLOCK_SIZE + 1,
                (block + 1) * BLOCK_SIZE,
                of(counted)
            ));
        }
    }
    Ok(())
}

/// Looks for read marks after the end of the log, which is read after them.
async fn check_marks(connection: &Connection, room: RoomId, findings: &mut Findings) -> Result<()> {
    let mut last_seq = end(connection, room).await?;
    let beyond = connection
        .marks
        .find(doc! { "chatRoomId": room.to_string(), "upToSeq": { "$gt": number(last_seq.0) } })
        .hint(by_name(indexes::BY_READER));
    let beyond: Vec<ReadMark> = connection.all(beyond, documents::read_mark).await?;
    if !beyond.is_empty() {
        last_seq = end(connection, room).await?;
    }
    for mark in beyond.iter().filter(|mark| mark.up_to > last_seq) {
        findings.add(format_args!(
            "user {} has read up to entry {}, but the last entry is {}",
            mark.user, mark.up_to.0, last_seq.0
        ));
    }
    Ok(())
}

async fn end(connection: &Connection, room: RoomId) -> Result<Seq> {
    let heads = read_heads(connection, vec![room]).await?;
    Ok(heads.get(&room).map(|head| head.seq).unwrap_or_default())
}

/// What the document of a room stores in addition to the room.
struct StoredState {
    member_key: String,
    is_large: bool,
    should_be_large: bool,
    active_until: Timestamp,
    indexed_up_to: Seq,
}

/// Checks what the document of the room stores in addition to the room.
async fn check_document(
    connection: &Connection,
    record: &RoomRecord,
    replay: &LogReplay,
    findings: &mut Findings,
) -> Result<()> {
    let id = record.room.id;
    let found = connection.rooms.find_one(doc! { "_id": id.to_string() });
    let state = |document: &RawDocument| {
        let indexed = document.get_document("search").ok();
        Some(StoredState {
            member_key: text_in(document, "memberKey").to_owned(),
            is_large: flag_in(document, "large"),
            should_be_large: is_large(&documents::room(document)?),
            active_until: time_in(document, "activeUntil"),
            indexed_up_to: indexed
                .map(|range| seq_in(range, "upTo"))
                .unwrap_or_default(),
        })
    };
    let Some(stored) = connection.one(found, state).await? else {
        return Ok(());
    };
    if stored.is_large != stored.should_be_large {
        findings.add("the mark of a large room is wrong");
    }
    let latest = replay.latest.map(|(at, _)| at);
    if !stored.is_large && latest.is_some_and(|at| at > stored.active_until) {
        findings.add(format_args!(
            "the room is active until {}, but has a later message",
            stored.active_until
        ));
    }
    if record.found_by_members
        && !stored.member_key.is_empty()
        && stored.member_key != member_key(&record.room)
    {
        findings.add("the key by which the room is found is not that of its members");
    }
    let last_seq = end(connection, id).await?;
    if stored.indexed_up_to > last_seq {
        findings.add(format_args!(
            "the search index goes up to entry {}, but the last entry is {}",
            stored.indexed_up_to.0, last_seq.0
        ));
    }
    Ok(())
}
