//! Searches messages by the index.

use mongodb::bson::{Document, doc};

use super::{
    logs::SearchedLog,
    matches::{Match, Matches, not_after, read_match},
};
use crate::{
    model::Seq,
    store::{
        EntryPosition, Result,
        mongo::{
            connection::Connection,
            documents::{date, document_count, number},
            indexes::{self, by_name},
        },
        search::Query,
    },
};

/// How many rooms one query searches. MongoDB merges the messages of this many rooms in order; with
/// more, it would read all of them first.
const ROOMS_PER_QUERY: usize = 100;
/// How many messages with the rarest term one query examines for the other terms.
const MAX_CANDIDATES: u64 = 2_000;
/// The limit when counting the messages with a term. A term with more is treated as common.
const MAX_COUNTED: u64 = 1_000;
/// A term with at most this many messages is rare enough; counting the other terms stops.
const FEW_MATCHES: u64 = 20;

/// Finds the newest messages of these logs that have all terms of a query.
pub async fn find(
    connection: &Connection,
    logs: &[SearchedLog],
    query: &Query,
    before: Option<EntryPosition>,
    limit: u64,
) -> Result<Matches> {
    let queries: Vec<_> = logs
        .chunks(ROOMS_PER_QUERY)
        .map(|logs| find_in_logs(connection, logs, query.terms(), before, limit))
        .collect();
    Matches::of_all(queries).await
}

/// Finds messages in as many logs as one query searches.
async fn find_in_logs(
    connection: &Connection,
    logs: &[SearchedLog],
    terms: &[String],
    before: Option<EntryPosition>,
    limit: u64,
) -> Result<Matches> {
    let rooms: Vec<_> = logs.iter().map(|log| log.room.to_string()).collect();
    let mut other_terms = terms.to_vec();
    let rarest = other_terms.swap_remove(rarest_term(connection, &rooms, terms).await?);
    let mut with_rarest = doc! { "chatRoomId": { "$in": rooms }, "terms": rarest };
    let mut conditions: Vec<_> = logs
        .iter()
        .filter(|log| log.hidden_up_to > Seq(0))
        .map(is_visible)
        .collect();
    if let Some(before) = before {
        with_rarest.extend(not_after(before));
        conditions.push(is_before(before));
    }
    if !conditions.is_empty() {
        with_rarest.insert("$and", conditions);
    }
    // The last results may include messages of several rooms with the same time and sequence
    // number, of which others are missing.
    let limit = limit.saturating_add(logs.len() as u64);
    let candidates = Candidates {
        filter: with_rarest,
        limit: MAX_CANDIDATES.max(limit),
    };
    let is_filtered = !other_terms.is_empty();
    let found = candidates.find(connection, other_terms, limit).await?;
    let last = if found.len() as u64 >= limit {
        found.last().map(|(position, _)| *position)
    } else if is_filtered {
        candidates.last(connection).await?
    } else {
        None
    };
    Ok(Matches {
        found,
        cutoff: last.map(|position| (position.at, position.seq)),
    })
}

/// The newest messages with the rarest term, up to a limit. They are examined for the other terms.
struct Candidates {
    filter: Document,
    limit: u64,
}

impl Candidates {
    /// Returns up to `limit` of the candidates that have all of these terms.
    async fn find(
        &self,
        connection: &Connection,
        terms: Vec<String>,
        limit: u64,
    ) -> Result<Vec<Match>> {
        let mut stages = vec![
            doc! { "$match": &self.filter },
            doc! { "$sort": newest_first() },
            doc! { "$limit": document_count(self.limit) },
        ];
        if !terms.is_empty() {
            stages.push(doc! { "$match": { "terms": { "$all": terms } } });
        }
        stages.extend([
            doc! { "$limit": document_count(limit) },
            doc! { "$project": match_fields() },
        ]);
        let found = connection
            .messages
            .aggregate(stages)
            .hint(by_name(indexes::BY_TERM));
        connection.all(found, read_match).await
    }

    /// Returns the position of the last candidate, if there are as many as the limit.
    async fn last(&self, connection: &Connection) -> Result<Option<EntryPosition>> {
        let last = connection
            .messages
            .find(self.filter.clone())
            .sort(newest_first())
            .skip(self.limit - 1)
            .limit(1)
            .projection(match_fields())
            .hint(by_name(indexes::BY_TERM));
        let last = connection.all(last, read_match).await?.pop();
        Ok(last.map(|(position, _)| position))
    }
}

fn newest_first() -> Document {
    doc! { "createdAt": -1, "seq": -1 }
}

/// Returns the projection for [`read_match`].
fn match_fields() -> Document {
    doc! { "_id": 1, "chatRoomId": 1, "seq": 1, "createdAt": 1 }
}

/// Returns the condition that hides the entries of a room up to `log.hidden_up_to`.
fn is_visible(log: &SearchedLog) -> Document {
    doc! { "$or": [{ "chatRoomId": { "$ne": log.room.to_string() } }, { "seq": { "$gt": number(log.hidden_up_to.0) } }] }
}

fn is_before(EntryPosition { at, seq, room }: EntryPosition) -> Document {
    let (at, seq) = (date(at), number(seq.0));
    let same_number =
        doc! { "createdAt": at, "seq": seq, "chatRoomId": { "$lt": room.to_string() } };
    doc! { "$or": [{ "createdAt": { "$lt": at } }, { "createdAt": at, "seq": { "$lt": seq } }, same_number] }
}

/// Returns the index of the term with the fewest messages in these rooms. The index is scanned by
/// one term, and each message with it is examined for the others. Counting stops at the lowest
/// count so far.
async fn rarest_term(connection: &Connection, rooms: &[String], terms: &[String]) -> Result<usize> {
    let (mut rarest, mut fewest) = (0, MAX_COUNTED);
    if terms.len() < 2 {
        return Ok(rarest);
    }
    for (index, term) in terms.iter().enumerate() {
        let with_term = connection
            .messages
            .count_documents(doc! { "chatRoomId": { "$in": rooms }, "terms": term });
        let count = connection
            .within(with_term.limit(fewest).hint(by_name(indexes::BY_TERM)))
            .await?;
        if count < fewest {
            (rarest, fewest) = (index, count);
        }
        if fewest <= FEW_MATCHES {
            break;
        }
    }
    Ok(rarest)
}
