//! Search in SQLite.
//!
//! The index maps a room, a block of 256 entries of its log and a
//! [term](crate::store::search::terms) to the messages that contain the term, with one byte for
//! each. So a room is searched block by block from the end of its log without reading the data of
//! other rooms, and entries that are indexed together are stored together. [`RunningSearch`]
//! searches and [`Indexer`](index::Indexer) indexes. The write that edits or deletes a message only
//! marks it as stale; until the index is updated, the message is searched by its text.

pub mod index;
pub mod indexed;
mod running;

use async_trait::async_trait;
use rusqlite::Connection;

use super::Sqlite;
use crate::store::{Found, Result, Search, SearchQuery};
use running::RunningSearch;

#[async_trait]
impl Search for Sqlite {
    async fn search(&self, query: SearchQuery) -> Result<Found> {
        let mut search = RunningSearch::new(query);
        loop {
            let step = move |connection: &Connection| {
                let is_done = search.step(connection)?;
                Ok((search, is_done))
            };
            match self.threads.read(step).await? {
                (done, true) => return Ok(done.found()),
                (unfinished, false) => search = unfinished,
            }
        }
    }
}
