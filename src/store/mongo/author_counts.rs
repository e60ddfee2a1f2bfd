//! The number of entries per author in a log, in MongoDB, counted once for each block of entries
//! and stored.
//!
//! When a user marks a conversation as read, the number of their own entries in a long range is
//! needed. An index by author would provide it, but costs a sixth of every post. So the entries of
//! a log are counted in blocks: by the server that appends the last entry of a block, in the
//! background, or, if that did not happen because the server was killed or the log was imported, by
//! the server that needs the count. An entry never changes its author, so the counts stay valid.

use std::{collections::HashMap, ops::Range};

use mongodb::bson::{Bson, Document, RawDocument, doc};
use tokio::try_join;

use super::{
    connection::Connection,
    documents::{number, number_in, text_in},
    indexes::{self, by_name},
    read::entries_between,
};
use crate::{
    model::{RoomId, Seq, UserId},
    store::Result,
};

/// The number of entries in a block.
pub const BLOCK_SIZE: u64 = 1_000;

/// Returns the block that ends with this entry, if any.
pub fn block_ending_with(last: Seq) -> Option<u64> {
    (last.0 > 0 && last.0.is_multiple_of(BLOCK_SIZE)).then(|| last.0 / BLOCK_SIZE - 1)
}

/// Counts the entries in `after < seq <= last` by this author, deleted or not.
pub async fn count_by_author(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    let blocks = after.0.div_ceil(BLOCK_SIZE)..last.0 / BLOCK_SIZE;
    if blocks.is_empty() {
        return count_entries(connection, author, room, after, last).await;
    }
    let (first_block, end_of_blocks) =
        (Seq(blocks.start * BLOCK_SIZE), Seq(blocks.end * BLOCK_SIZE));
    let (before_blocks, in_blocks, after_blocks) = try_join!(
        count_entries(connection, author, room, after, first_block),
        count_in_blocks(connection, author, room, blocks),
        count_entries(connection, author, room, end_of_blocks, last)
    )?;
    Ok(before_blocks + in_blocks + after_blocks)
}

/// Counts by reading every entry.
async fn count_entries(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    if after >= last {
        return Ok(0);
    }
    let mut by_author = entries_between(room, after, last);
    by_author.insert("postedByUser", author.to_string());
    connection
        .within(
            connection
                .messages
                .count_documents(by_author)
                .hint(by_name(indexes::LOG)),
        )
        .await
}

async fn count_in_blocks(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    blocks: Range<u64>,
) -> Result<u64> {
    let (by_author, counted_blocks) = stored_count(connection, author, room, &blocks).await?;
    if counted_blocks == blocks.end - blocks.start {
        return Ok(by_author);
    }
    count_missing_blocks(connection, room, blocks.clone()).await?;
    let (by_author, counted_blocks) = stored_count(connection, author, room, &blocks).await?;
    if counted_blocks == blocks.end - blocks.start {
        return Ok(by_author);
    }
    // A block could not be counted yet, because the majority is behind.
    count_entries(
        connection,
        author,
        room,
        Seq(blocks.start * BLOCK_SIZE),
        Seq(blocks.end * BLOCK_SIZE),
    )
    .await
}

/// Returns the number of the author's entries in the counted ones of the blocks, and how many
/// blocks are counted.
async fn stored_count(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    blocks: &Range<u64>,
) -> Result<(u64, u64)> {
    let sum = doc! { "$group": {
        "_id": null, "byAuthor": { "$sum": format!("$authors.{author}") }, "blocks": { "$sum": 1 },
    } };
    let sum = connection
        .author_counts
        .aggregate([doc! { "$match": block_filter(room, blocks) }, sum]);
    let found = connection
        .all(sum, |sum| {
            Some((number_in(sum, "byAuthor"), number_in(sum, "blocks")))
        })
        .await?;
    Ok(found.first().copied().unwrap_or_default())
}

/// Counts the blocks that are not counted yet.
async fn count_missing_blocks(
    connection: &Connection,
    room: RoomId,
    blocks: Range<u64>,
) -> Result<()> {
    let counted = connection
        .author_counts
        .find(block_filter(room, &blocks))
        .projection(doc! { "_id": 1 });
    let counted = connection
        .all(counted, |counts| Some(text_in(counts, "_id").to_owned()))
        .await?;
    if connection.standalone {
        // A standalone server also returns entries that are only in memory. After the flush they
        // are on disk.
        connection.flush().await?;
    }
    for block in blocks {
        if !counted.contains(&block_id(room, block)) {
            count_block(connection, room, block).await?;
        }
    }
    Ok(())
}

/// Returns the stored counts of a block by author, unless the block is not counted yet.
pub async fn stored_block(
    connection: &Connection,
    room: RoomId,
    block: u64,
) -> Result<Option<HashMap<UserId, u64>>> {
    let stored = connection
        .author_counts
        .find_one(doc! { "_id": block_id(room, block) });
    let by_author = |counts: &RawDocument| {
        let authors = Document::try_from(counts.get_document("authors").ok()?).ok()?;
        let count = |(author, count): (String, Bson)| {
            let count = count
                .as_i64()
                .or_else(|| count.as_i32().map(i64::from))
                .and_then(|count| u64::try_from(count).ok());
            Some((UserId::parse(&author)?, count?))
        };
        Some(authors.into_iter().filter_map(count).collect())
    };
    connection.one(stored, by_author).await
}

/// Counts a block whose entries are durable. Does nothing if the block is incomplete.
pub async fn count_block(connection: &Connection, room: RoomId, block: u64) -> Result<()> {
    let entries = entries_between(room, Seq(block * BLOCK_SIZE), Seq((block + 1) * BLOCK_SIZE));
    let by_author = doc! { "$group": { "_id": "$postedByUser", "count": { "$sum": 1 } } };
    let by_author = connection
        .messages
        .aggregate([doc! { "$match": entries }, by_author])
        .hint(by_name(indexes::LOG));
    let author_count = |author: &RawDocument| {
        Some((
            UserId::parse(text_in(author, "_id")),
            number_in(author, "count"),
        ))
    };
    let by_author = connection.all(by_author, author_count).await?;
    if by_author.iter().map(|(_, count)| count).sum::<u64>() < BLOCK_SIZE {
        return Ok(());
    }
    let authors: Document = by_author
        .into_iter()
        .filter_map(|(author, count)| Some((author?.to_string(), number(count).into())))
        .collect();
    connection
        .add(
            &connection.author_counts,
            &doc! { "_id": block_id(room, block), "authors": authors },
        )
        .await
        .map(|_| ())
}

/// Deletes the counts of a deleted room.
pub async fn purge(connection: &Connection, room: RoomId) -> Result<()> {
    connection
        .within(
            connection
                .author_counts
                .delete_many(block_filter(room, &(0..u64::MAX))),
        )
        .await
        .map(|_| ())
}

/// Returns the id of the counts of a block. Block numbers are padded with zeros, so that ids sort
/// in the order of the blocks.
fn block_id(room: RoomId, block: u64) -> String {
    format!("{room}:{block:020}")
}

fn block_filter(room: RoomId, blocks: &Range<u64>) -> Document {
    doc! { "_id": { "$gte": block_id(room, blocks.start), "$lt": block_id(room, blocks.end) } }
}
