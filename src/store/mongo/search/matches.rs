//! The results of search queries, merged and ordered.

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocument, doc};

use crate::{
    model::{RoomId, Seq, Timestamp},
    store::{
        EntryPosition, Result,
        mongo::documents::{date, seq_in, text_in, time_in},
    },
};

/// How many queries run at once.
const CONCURRENT_QUERIES: usize = 4;

/// The position and the id of a message.
pub type Match = (EntryPosition, String);

/// The results of one or more queries.
#[derive(Default)]
pub struct Matches {
    pub found: Vec<Match>,
    /// The limit of the results: messages at this time and sequence number, or before it, may be
    /// missing.
    pub cutoff: Option<(Timestamp, Seq)>,
}

impl Matches {
    /// Adds the results of other queries.
    pub fn add(&mut self, more: Self) {
        self.found.extend(more.found);
        self.cutoff = self.cutoff.max(more.cutoff);
    }

    /// Runs these queries, a few at once, and returns the results of all.
    pub async fn of_all(queries: Vec<impl Future<Output = Result<Self>>>) -> Result<Self> {
        let mut results = stream::iter(queries).buffer_unordered(CONCURRENT_QUERIES);
        let mut all = Self::default();
        while let Some(matches) = results.try_next().await? {
            all.add(matches);
        }
        Ok(all)
    }

    /// Returns the newest results, and the position from which the next page continues.
    pub fn newest(mut self, limit: u64) -> (Vec<Match>, Option<EntryPosition>) {
        self.found
            .retain(|(position, _)| Some((position.at, position.seq)) > self.cutoff);
        self.found
            .sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        self.found.dedup_by_key(|(position, _)| *position);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = self.found.len() > limit;
        self.found.truncate(limit);
        let last = self
            .found
            .last()
            .map(|(position, _)| *position)
            .filter(|_| has_more);
        // All results with the time and sequence number of the cutoff were removed, so the next
        // page starts just after them.
        let after_cutoff = self.cutoff.map(|(at, seq)| EntryPosition {
            at,
            seq: seq.next(),
            room: RoomId::from_bytes([0; 16]),
        });
        (self.found, last.or(after_cutoff))
    }
}

/// Reads the position and the id of a message.
pub fn read_match(entry: &RawDocument) -> Option<Match> {
    let room = RoomId::parse(text_in(entry, "chatRoomId"))?;
    let position = EntryPosition {
        at: time_in(entry, "createdAt"),
        seq: seq_in(entry, "seq"),
        room,
    };
    Some((position, text_in(entry, "_id").to_owned()))
}

/// Returns a filter that limits the part of the index that is read to the messages that are not
/// after the position.
pub fn not_after(position: EntryPosition) -> Document {
    doc! { "createdAt": { "$lte": date(position.at) } }
}
