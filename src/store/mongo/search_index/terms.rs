//! Adds the terms to messages, by which the search index finds them.

use mongodb::bson::{Document, RawDocument, doc};

use crate::{
    model::{RoomId, Seq},
    store::{
        Result, StoreError,
        mongo::{
            connection::Connection,
            documents::{document_count, flag_in, number, number_in, seq_in, text_in},
            indexes::{self, by_name},
            read::entries_between,
        },
        search::terms,
    },
};

/// How many entries are read in one batch.
pub const MAX_ENTRIES: u64 = 250;
/// Up to how many bytes of entries are read in one batch.
const MAX_BYTES: usize = 1 << 20;
/// The most bytes of terms in one command. MongoDB accepts 16 MiB, including what it adds.
const MAX_COMMAND_BYTES: usize = 2 << 20;

/// At which end of a range a batch starts.
#[derive(Clone, Copy)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Adds the terms to the messages in `after < seq <= up_to`, starting at one end and reading at most
/// one batch. Returns the last entry that was read, and whether the byte limit ended the batch, so
/// that the range may have more entries.
pub async fn index_entries(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    up_to: Seq,
    order: Order,
) -> Result<(Option<Seq>, bool)> {
    let order: i32 = match order {
        Order::OldestFirst => 1,
        Order::NewestFirst => -1,
    };
    let fields =
        doc! { "seq": 1, "message.messageText": 1, "deleted": 1, "closed": 1, "editSeq": 1 };
    let entries = connection
        .messages
        .find(entries_between(room, after, up_to))
        .sort(doc! { "seq": order })
        .projection(fields);
    let entries = entries
        .hint(by_name(indexes::LOG))
        .limit(document_count(MAX_ENTRIES));
    let (mut updates, mut last, mut bytes) = (Vec::new(), None, 0);
    let reading = async {
        let mut entries = entries.await?;
        while bytes < MAX_BYTES && entries.advance().await? {
            let entry = entries.current();
            bytes += entry.as_bytes().len();
            last = Some(seq_in(entry, "seq"))
                .filter(|_| !flag_in(entry, "closed"))
                .or(last);
            updates.extend(terms_update(entry));
        }
        Ok(())
    };
    connection.within(reading).await?;
    send_updates(connection, connection.messages.name(), updates).await?;
    Ok((last, bytes >= MAX_BYTES))
}

/// Returns the update that adds the terms to a message. It does not match if the message has been
/// edited or deleted since: an edit writes its own terms.
fn terms_update(entry: &RawDocument) -> Option<Document> {
    if flag_in(entry, "deleted") {
        return None;
    }
    let text = entry
        .get_document("message")
        .ok()
        .map(|content| text_in(content, "messageText"))?;
    let edited = Some(number_in(entry, "editSeq"))
        .filter(|seq| *seq > 0)
        .map(number);
    let unchanged = doc! { "_id": text_in(entry, "_id"), "deleted": null, "editSeq": edited };
    Some(
        doc! { "q": unchanged, "u": { "$set": { "terms": terms(text) }, "$unset": { "words": "" } } },
    )
}

/// Sends updates in commands of bounded size. An update that is refused is logged and skipped, so
/// that it does not block the others.
pub async fn send_updates(
    connection: &Connection,
    collection: &str,
    updates: Vec<Document>,
) -> Result<()> {
    let (mut command, mut size) = (Vec::new(), 0);
    for update in updates {
        let bytes = update.to_vec().map_or(0, |bytes| bytes.len());
        if size + bytes > MAX_COMMAND_BYTES && !command.is_empty() {
            send_command(connection, collection, std::mem::take(&mut command)).await?;
            size = 0;
        }
        size += bytes;
        command.push(update);
    }
    if command.is_empty() {
        Ok(())
    } else {
        send_command(connection, collection, command).await
    }
}

async fn send_command(
    connection: &Connection,
    collection: &str,
    updates: Vec<Document>,
) -> Result<()> {
    let command = doc! { "update": collection, "updates": updates, "ordered": false, "writeConcern": connection.durable() };
    let reply = match connection
        .within(connection.database.run_command(command))
        .await
    {
        Err(StoreError::Fault(error)) => {
            tracing::warn!(%error, "failed to index messages; searches do not find them");
            return Ok(());
        }
        reply => reply?,
    };
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!(
            "the majority did not confirm: {concern}"
        )));
    }
    for error in reply.get_array("writeErrors").into_iter().flatten() {
        tracing::warn!(%error, "failed to index a message; searches do not find it");
    }
    Ok(())
}
