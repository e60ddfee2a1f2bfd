//! Search, in MongoDB.
//!
//! An indexed message stores its [terms](crate::store::search::terms) beside its text. The index
//! leads from a room and a term to messages, newest first. MongoDB's own text index is not used: it
//! finds messages with any of the words, matches phrases against parts of words, cannot return
//! results in order without reading all of them, and makes every post wait.
//!
//! The document of a room stores the indexed range of its log as `search: {above, upTo}`, which
//! `search_index` extends. An edit writes its terms, and a deletion removes them, wherever in the
//! log the message is.
//!
//! `logs` reads how far the logs are indexed, `indexed` and `unindexed` search the two parts, and
//! `matches` merges the results.

mod indexed;
mod logs;
mod matches;
mod unindexed;

use std::{cmp::Reverse, collections::HashSet};

use async_trait::async_trait;
use mongodb::bson::doc;

use super::{
    connection::Connection,
    documents::{self, time_in},
    indexes::{self, by_name},
    joined::joined_rooms,
    read::{batch_len, entries_between},
    store::Mongo,
};
use crate::{
    model::{Message, RoomId, Seq},
    store::{
        EntryPosition, Found, Limit, Result, Scope, Search, SearchQuery, limit::PageBuilder,
        search::Query,
    },
};
use logs::read_logs;
use matches::Match;

#[async_trait]
impl Search for Mongo {
    async fn search(&self, query: SearchQuery) -> Result<Found> {
        let nothing = Found {
            messages: Vec::new(),
            next: None,
        };
        let words = Query::parse(&query.words);
        if words.terms().is_empty() || query.limit.items == 0 {
            return Ok(nothing);
        }
        let connection = &self.connection;
        let Some(Target { rooms, before }) = Target::read(connection, &query).await? else {
            return Ok(nothing);
        };
        let logs = read_logs(connection, &self.search_index, rooms).await?;
        let mut matches =
            unindexed::find(connection, &self.to_index, &logs, &words, before).await?;
        if self.search_index.is_ready() {
            let limit = query.limit.items;
            matches.add(indexed::find(connection, &logs, &words, before, limit).await?);
        }
        let (found, next) = matches.newest(query.limit.items);
        let found = read_found(connection, &words, &found, query.limit).await?;
        Ok(Found {
            next: found.next.or(next),
            ..found
        })
    }
}

/// Reads the messages of these results that still match, up to the limit. `next` is set only if some
/// of the results are left over.
async fn read_found(
    connection: &Connection,
    words: &Query,
    found: &[Match],
    limit: Limit,
) -> Result<Found> {
    let still_matches = |message: &Message| {
        // A message may have been edited meanwhile, and the index does not cover phrases.
        words.matches(&message.text) && !connection.pending.is_deleted(message.room, message.id)
    };
    let (mut page, mut next) = (PageBuilder::new(limit), None);
    for matches in found.chunks(batch_len(limit)) {
        let mut messages = read_messages(connection, matches).await?;
        messages.retain(still_matches);
        if !page.fill(messages) {
            next = page.last().map(EntryPosition::of);
            break;
        }
    }
    Ok(Found {
        messages: page.into_items(),
        next,
    })
}

/// What is searched.
struct Target {
    /// The rooms, each with the entry up to which it is hidden from the user.
    rooms: Vec<(RoomId, Seq)>,
    /// Only messages before this position are searched.
    before: Option<EntryPosition>,
}

impl Target {
    /// Reads what a query searches; `None` if there is nothing before the given position.
    async fn read(connection: &Connection, query: &SearchQuery) -> Result<Option<Self>> {
        match query.scope {
            Scope::Room { room, after } => {
                let rooms = vec![(room, after)];
                let Some(before) = query.before else {
                    let before = None;
                    return Ok(Some(Self { rooms, before }));
                };
                let before = position_before(connection, room, before.seq).await?;
                Ok(before.is_some().then_some(Self { rooms, before }))
            }
            Scope::RoomsOf { user, since_joined } => {
                let joined = joined_rooms(connection, user, None).await?;
                let rooms = joined
                    .into_iter()
                    .map(|(room, joined)| (room, if since_joined { joined } else { Seq(0) }))
                    .collect();
                let before = query.before;
                Ok(Some(Self { rooms, before }))
            }
        }
    }
}

/// Returns the position before an entry of a room, or `None` if no entry precedes it.
async fn position_before(
    connection: &Connection,
    room: RoomId,
    seq: Seq,
) -> Result<Option<EntryPosition>> {
    let before = entries_between(room, Seq(0), seq.prev());
    let last = connection
        .messages
        .find_one(before)
        .sort(doc! { "seq": -1 })
        .projection(doc! { "createdAt": 1 })
        .hint(by_name(indexes::LOG));
    connection
        .one(last, |entry| {
            Some(EntryPosition {
                at: time_in(entry, "createdAt"),
                seq,
                room,
            })
        })
        .await
}

/// Reads these messages in the same order, without those that were deleted meanwhile.
async fn read_messages(connection: &Connection, matches: &[Match]) -> Result<Vec<Message>> {
    let ids: Vec<_> = matches.iter().map(|(_, id)| id.as_str()).collect();
    let found = connection.messages.find(doc! { "_id": { "$in": ids } });
    let mut messages = connection.all(found, documents::message).await?;
    let positions: HashSet<_> = matches.iter().map(|(position, _)| *position).collect();
    messages.retain(|message| positions.contains(&EntryPosition::of(message)));
    messages.sort_unstable_by_key(|message| Reverse(EntryPosition::of(message)));
    Ok(messages)
}
