//! Whose the entries of a log are, in MongoDB: counted once for each block of them, and kept.
//!
//! Whoever marks a conversation as read wants to know how many entries of a long stretch are their own. An index by author would tell, at
//! the price of a sixth of every post. So the entries of a log are tallied in blocks: by whoever appends the last entry of a block, on the
//! side, and if that did not happen, because the server was killed or the log was taken over, by whoever needs the tally. An entry never changes its author, so a
//! tally stays true.

use std::ops::Range;

use mongodb::bson::{Document, RawDocument, doc};
use tokio::try_join;

use super::{
    connection::Connection,
    documents::{self, number, number_in},
    pages::entries_between,
    schema::{self, by_name},
};
use crate::{
    model::{RoomId, Seq, UserId},
    store::Result,
};

/// How many entries a block has.
pub const BLOCK: u64 = 1_000;

/// The block that ends with this entry.
pub fn ends_with(last: Seq) -> Option<u64> {
    (last.0 > 0 && last.0.is_multiple_of(BLOCK)).then(|| last.0 / BLOCK - 1)
}

/// How many entries in `after < seq <= last` are by this author, deleted or not.
pub async fn posted_by(connection: &Connection, author: UserId, room: RoomId, after: Seq, last: Seq) -> Result<u64> {
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

/// Looks at every entry.
async fn count(connection: &Connection, author: UserId, room: RoomId, after: Seq, last: Seq) -> Result<u64> {
    if after >= last {
        return Ok(0);
    }
    let mut own = entries_between(room, after, last);
    own.insert("postedByUser", author.to_string());
    connection.within(connection.messages.count_documents(own).hint(by_name(schema::LOG))).await
}

async fn in_blocks(connection: &Connection, author: UserId, room: RoomId, blocks: Range<u64>) -> Result<u64> {
    let (own, tallied) = sum(connection, author, room, &blocks).await?;
    if tallied == blocks.end - blocks.start {
        return Ok(own);
    }
    tally_missing(connection, room, blocks.clone()).await?;
    let (own, tallied) = sum(connection, author, room, &blocks).await?;
    if tallied == blocks.end - blocks.start {
        return Ok(own);
    }
    // The majority is behind, so that a block could not be tallied yet.
    count(connection, author, room, Seq(blocks.start * BLOCK), Seq(blocks.end * BLOCK)).await
}

/// How many entries are the author's in those of the blocks that have been tallied, and how many these are.
async fn sum(connection: &Connection, author: UserId, room: RoomId, blocks: &Range<u64>) -> Result<(u64, u64)> {
    let sum = doc! { "$group": { "_id": null, "own": { "$sum": format!("$authors.{author}") }, "tallied": { "$sum": 1 } } };
    let sum = connection.author_counts.aggregate([doc! { "$match": these(room, blocks) }, sum]);
    let found = connection.all(sum, |sum| Some((number_in(sum, "own"), number_in(sum, "tallied")))).await?;
    Ok(found.first().copied().unwrap_or_default())
}

/// Tallies those of the blocks that have not been.
async fn tally_missing(connection: &Connection, room: RoomId, blocks: Range<u64>) -> Result<()> {
    let there = connection.author_counts.find(these(room, &blocks)).projection(doc! { "_id": 1 });
    let there = connection.all(there, |tally| Some(documents::text_in(tally, "_id").to_owned())).await?;
    if connection.standalone {
        // A server alone shows what is in its memory only. Once it is on disk, it stays.
        connection.flush().await?;
    }
    for block in blocks {
        if !there.contains(&id(room, block)) {
            count_block(connection, room, block).await?;
        }
    }
    Ok(())
}

/// Tallies a block whose entries are sure to stay.
pub async fn count_block(connection: &Connection, room: RoomId, block: u64) -> Result<()> {
    let entries = entries_between(room, Seq(block * BLOCK), Seq((block + 1) * BLOCK));
    let by_author = doc! { "$group": { "_id": "$postedByUser", "count": { "$sum": 1 } } };
    let by_author = connection.messages.aggregate([doc! { "$match": entries }, by_author]).hint(by_name(schema::LOG));
    let of_one = |author: &RawDocument| Some((UserId::parse(documents::text_in(author, "_id")), number_in(author, "count")));
    let by_author = connection.all(by_author, of_one).await?;
    if by_author.iter().map(|(_, count)| count).sum::<u64>() < BLOCK {
        return Ok(());
    }
    let authors: Document = by_author.into_iter().filter_map(|(author, count)| Some((author?.to_string(), number(count).into()))).collect();
    connection.add(&connection.author_counts, &doc! { "_id": id(room, block), "authors": authors }).await.map(|_| ())
}

/// Takes away the tallies of a deleted room.
pub async fn purge(connection: &Connection, room: RoomId) -> Result<()> {
    connection.within(connection.author_counts.delete_many(these(room, &(0..u64::MAX)))).await.map(|_| ())
}

/// Ids ascend with the blocks, whose numbers have as many digits as any.
fn id(room: RoomId, block: u64) -> String {
    format!("{room}:{block:020}")
}

fn these(room: RoomId, blocks: &Range<u64>) -> Document {
    doc! { "_id": { "$gte": id(room, blocks.start), "$lt": id(room, blocks.end) } }
}
