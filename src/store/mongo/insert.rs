//! Inserts entries into the logs, in MongoDB.

use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, raw::cstr};

use super::{
    connection::{Connection, readable},
    failure::code::DUPLICATE_KEY,
};
use crate::store::{Result, StoreError};

/// The reason why an entry was not inserted.
#[derive(PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The sequence number is taken, or the entry itself is in the log from an earlier attempt.
    NumberTaken,
    /// The log has a message with the same client id already.
    DuplicateClientId,
    /// The database refuses the entry, for this reason.
    Impossible(String),
}

/// Inserts the entries in order, up to the first that is refused. Returns how many were inserted,
/// which are then on disk on the majority, and why the next one was refused.
pub async fn insert(
    connection: &Connection,
    documents: Vec<RawDocumentBuf>,
) -> Result<(usize, Option<Refusal>)> {
    let count = documents.len();
    let mut entries = RawArrayBuf::new();
    for document in documents {
        entries.push(document);
    }
    // A raw command: the driver's `insert_many` copies each document twice more, and its retryable
    // writes cost the server one record per entry. Retries are handled here, by the ids of the
    // entries.
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("insert"), connection.messages.name());
    command.append(cstr!("documents"), entries);
    command.append(cstr!("ordered"), true);
    command.append(cstr!("writeConcern"), connection.durable.clone());
    // A refusal quotes the duplicate key. MongoDB truncates a long key, possibly inside a
    // character, and then the whole reply cannot be decoded.
    let reply = connection
        .within(readable(connection.database.run_raw_command(command)))
        .await?;
    let reply = reply
        .ok_or_else(|| StoreError::Unavailable("the answer to an insert cannot be read".into()))?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!(
            "the majority did not confirm: {concern}"
        )));
    }
    let error = reply
        .get_array("writeErrors")
        .ok()
        .and_then(|errors| errors.first())
        .and_then(Bson::as_document);
    let Some(error) = error else {
        return Ok((count, None));
    };
    let inserted = error
        .get_i32("index")
        .ok()
        .and_then(|index| usize::try_from(index).ok())
        .filter(|index| *index < count)
        .ok_or_else(|| StoreError::Fault(format!("write error without an index: {error}")))?;
    Ok((inserted, Some(refusal(error))))
}

fn refusal(error: &Document) -> Refusal {
    if error.get_i32("code").ok() != Some(DUPLICATE_KEY) {
        return Refusal::Impossible(format!("entry refused by the database: {error}"));
    }
    let by_client_id = error
        .get_document("keyPattern")
        .is_ok_and(|keys| keys.contains_key("clientMessageId"));
    if by_client_id {
        Refusal::DuplicateClientId
    } else {
        Refusal::NumberTaken
    }
}
