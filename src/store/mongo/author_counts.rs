//! The number of entries per author in a log, in MongoDB, counted once for each block of entries
//! and stored.
//!
//! When a user marks a conversation as read, the number of their own entries in a long range is
//! needed. An index by author would provide it, but costs a sixth of every post. So the entries of
//! a log are counted in blocks: by the server that appends the last entry of a block, in the
//! background, or, if that did not happen because the server was killed or the log was imported, by
//! the server that needs the count. An entry never changes its author, so the counts stay valid.

use std::ops::Range;

use mongodb::bson::{Document, RawDocument, doc};
use tokio::try_join;

use super::{
    connection::Connection,
    documents::{self, number, number_in},
    indexes::{self, by_name},
    pages::entries_between,
};
use crate::{
    model::{RoomId, Seq, UserId},
    store::Result,
};

/// The number of entries in a block.
pub const BLOCK: u64 = 1_000;

/// Returns the block that ends with this entry, if any.
pub fn ends_with(last: Seq) -> Option<u64> {
    (last.0 > 0 && last.0.is_multiple_of(BLOCK)).then(|| last.0 / BLOCK - 1)
}

/// Counts the entries in `after < seq <= last` by this author, deleted or not.
pub async fn posted_by(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    let blocks = after.0.div_ceil(BLOCK)..last.0 / BLOCK;
    if blocks.is_empty() {
        return count(connection, author, room, after, last).await;
    }
    let (begin, end) = (Seq(blocks.start * BLOCK), Seq(blocks.end * BLOCK));
    let (before, within, behind) = try_join!(
        count(connection, author, room, after, begin),
        in_blocks(connection, author, room, blocks),
        count(connection, author, room, end, last)
    )?;
    Ok(before + within + behind)
}

/// Counts by reading every entry.
async fn count(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    if after >= last {
        return Ok(0);
    }
    let mut own = entries_between(room, after, last);
    own.insert("postedByUser", author.to_string());
    connection
        .within(
            connection
                .messages
                .count_documents(own)
                .hint(by_name(indexes::LOG)),
        )
        .await
}

async fn in_blocks(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    blocks: Range<u64>,
) -> Result<u64> {
    let (own, tallied) = sum(connection, author, room, &blocks).await?;
    if tallied == blocks.end - blocks.start {
        return Ok(own);
    }
    tally_missing(connection, room, blocks.clone()).await?;
    let (own, tallied) = sum(connection, author, room, &blocks).await?;
    if tallied == blocks.end - blocks.start {
        return Ok(own);
    }
    // A block could not be counted yet, because the majority is behind.
    count(
        connection,
        author,
        room,
        Seq(blocks.start * BLOCK),
        Seq(blocks.end * BLOCK),
    )
    .await
}

/// Returns the number of the author's entries in the counted ones of the blocks, and how many
/// blocks are counted.
async fn sum(
    connection: &Connection,
    author: UserId,
    room: RoomId,
    blocks: &Range<u64>,
) -> Result<(u64, u64)> {
    let sum = doc! { "$group": { "_id": null, "own": { "$sum": format!("$authors.{author}") }, "tallied": { "$sum": 1 } } };
    let sum = connection
        .author_counts
        .aggregate([doc! { "$match": these(room, blocks) }, sum]);
    let found = connection
        .all(sum, |sum| {
            Some((number_in(sum, "own"), number_in(sum, "tallied")))
        })
        .await?;
    Ok(found.first().copied().unwrap_or_default())
}

/// Counts the blocks that are not counted yet.
async fn tally_missing(connection: &Connection, room: RoomId, blocks: Range<u64>) -> Result<()> {
    let there = connection
        .author_counts
        .find(these(room, &blocks))
        .projection(doc! { "_id": 1 });
    let there = connection
        .all(there, |tally| {
            Some(documents::text_in(tally, "_id").to_owned())
        })
        .await?;
    if connection.standalone {
        // A standalone server also returns entries that are only in memory. After the flush they
        // are on disk.
        connection.flush().await?;
    }
    for block in blocks {
        if !there.contains(&id(room, block)) {
            count_block(connection, room, block).await?;
        }
    }
    Ok(())
}

/// Counts a block whose entries are durable. Does nothing if the block is incomplete.
pub async fn count_block(connection: &Connection, room: RoomId, block: u64) -> Result<()> {
    let entries = entries_between(room, Seq(block * BLOCK), Seq((block + 1) * BLOCK));
    let by_author = doc! { "$group": { "_id": "$postedByUser", "count": { "$sum": 1 } } };
    let by_author = connection
        .messages
        .aggregate([doc! { "$match": entries }, by_author])
        .hint(by_name(indexes::LOG));
    let of_one = |author: &RawDocument| {
        Some((
            UserId::parse(documents::text_in(author, "_id")),
            number_in(author, "count"),
        ))
    };
    let by_author = connection.all(by_author, of_one).await?;
    if by_author.iter().map(|(_, count)| count).sum::<u64>() < BLOCK {
        return Ok(());
    }
    let authors: Document = by_author
        .into_iter()
        .filter_map(|(author, count)| Some((author?.to_string(), number(count).into())))
        .collect();
    connection
        .add(
            &connection.author_counts,
            &doc! { "_id": id(room, block), "authors": authors },
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
                .delete_many(these(room, &(0..u64::MAX))),
        )
        .await
        .map(|_| ())
}

/// Block numbers are padded with zeros, so that ids sort in the order of the blocks.
fn id(room: RoomId, block: u64) -> String {
    format!("{room}:{block:020}")
}

fn these(room: RoomId, blocks: &Range<u64>) -> Document {
    doc! { "_id": { "$gte": id(room, blocks.start), "$lt": id(room, blocks.end) } }
}
