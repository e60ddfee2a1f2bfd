//! `causerie import`: the data of an export into an empty database.
//!
//! The file is read twice: first to check all of it, before anything is written, and then to import
//! it. An import that was killed is continued by the same command: what is in the database already
//! is skipped, and each log is continued after its last entry. Until the import has finished, no
//! server starts on the database.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    error::DataError,
    format::ExportTotals,
    progress::Progress,
    reader::{ExportReader, Item},
};
use crate::{
    config::Config,
    model::RoomId,
    store::{
        self, EntryRecord, ImportStart, ImportedLog, MarkRecord, RoomRecord, RoomTotals, Transfer,
        UserRecord,
    },
};

/// The size of a batch in records and in bytes of their lines. A batch may exceed the bytes by one
/// line.
const BATCH_RECORDS: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;
/// How many batches wait to be imported.
const QUEUE: usize = 1;

/// Imports an export into the configured database, which has to be empty or to have an unfinished
/// import of the same file. Returns how much the database has then.
pub async fn import(file: &Path, config: &Config) -> Result<ExportTotals, DataError> {
    let path = file.to_owned();
    let plan = spawn_blocking(move || check_file(path)).await??;
    let store = store::open_for_import(&config.database, &config.mongodb).await?;
    let imported = import_into(store.transfer.as_ref(), plan).await;
    // Before anything is reported: it writes the rest to disk.
    store.database.close().await;
    imported
}

/// A file that was checked.
struct Plan {
    file: PathBuf,
    bytes: u64,
    /// The id of the export.
    id: String,
    /// The rooms that were deleted while they were exported.
    deleted: HashSet<RoomId>,
    totals: ExportTotals,
}

/// Reads the whole file.
fn check_file(file: PathBuf) -> Result<Plan, DataError> {
    let metadata = fs::metadata(&file).map_err(|error| DataError::file(&file, error))?;
    let bytes = metadata.len();
    let progress = Progress::new("checking the file", bytes);
    let mut reader = ExportReader::open(&file)?;
    let mut deleted = HashSet::new();
    loop {
        match reader.next_item()? {
            Item::RoomDeleted(room) => _ = deleted.insert(room),
            Item::End(totals) => {
                let id = reader.id().to_owned();
                return Ok(Plan {
                    file,
                    bytes,
                    id,
                    deleted,
                    totals,
                });
            }
            _ => progress.set(reader.bytes()),
        }
    }
}

async fn import_into(transfer: &dyn Transfer, plan: Plan) -> Result<ExportTotals, DataError> {
    let refused = match transfer.begin_import(&plan.id).await? {
        ImportStart::New | ImportStart::Continued => None,
        ImportStart::OtherImport => Some("the import of another file into it has not finished"),
        ImportStart::HasData => Some("it has data; an import needs an empty one"),
    };
    if let Some(refused) = refused {
        return Err(DataError::Refused(refused.into()));
    }
    let totals = plan.totals;
    let (batches, received) = mpsc::channel(QUEUE);
    let reading = spawn_blocking(move || read_batches(&plan, &batches));
    let importing = import_batches(transfer, received).await;
    let read = reading.await?;
    importing?;
    read?;
    let (users, rooms) = transfer.count_users_and_rooms().await?;
    if (users, rooms) != (totals.users, totals.rooms) {
        return Err(DataError::Refused(format!(
            "it has {users} users and {rooms} rooms, and the file {} and {}",
            totals.users, totals.rooms
        )));
    }
    transfer.end_import().await?;
    Ok(totals)
}

/// Records that are imported together.
#[derive(Default)]
struct Batch {
    signing_key: Option<[u8; 32]>,
    rooms: Vec<RoomRecord>,
    entries: Vec<EntryRecord>,
    marks: Vec<MarkRecord>,
    /// The rooms whose entries and marks end in this batch.
    ended: Vec<RoomTotals>,
    users: Vec<UserRecord>,
    records: usize,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }

    /// Adds an item. Returns false if it is the last one.
    fn add(&mut self, item: Item, bytes: usize) -> bool {
        self.records += 1;
        self.bytes += bytes;
        match item {
            Item::SigningKey(key) => self.signing_key = Some(key),
            Item::Room(room) => self.rooms.push(room),
            Item::Entry(entry) => self.entries.push(entry),
            Item::Mark(mark) => self.marks.push(mark),
            Item::RoomEnd(totals) => self.ended.push(totals),
            Item::User(user) => self.users.push(user),
            Item::RoomDeleted(_) => {}
            Item::End(_) => return false,
        }
        true
    }
}

/// Reads the file again and passes its records on, without those of deleted rooms.
fn read_batches(plan: &Plan, batches: &mpsc::Sender<Batch>) -> Result<(), DataError> {
    let progress = Progress::new("importing", plan.bytes);
    let mut reader = ExportReader::open(&plan.file)?;
    let (mut batch, mut is_skipping) = (Batch::default(), false);
    loop {
        let item = reader.next_item()?;
        match &item {
            Item::Room(room) => is_skipping = plan.deleted.contains(&room.room.id),
            Item::User(_) | Item::End(_) => is_skipping = false,
            _ => {}
        }
        let is_last = !is_skipping && !batch.add(item, reader.line_length());
        if is_last || batch.is_full() {
            // An error means that importing has failed.
            if batches.blocking_send(std::mem::take(&mut batch)).is_err() || is_last {
                return Ok(());
            }
            progress.set(reader.bytes());
        }
    }
}

async fn import_batches(
    transfer: &dyn Transfer,
    mut batches: mpsc::Receiver<Batch>,
) -> Result<(), DataError> {
    let mut continued = HashMap::new();
    while let Some(batch) = batches.recv().await {
        import_batch(transfer, batch, &mut continued).await?;
    }
    Ok(())
}

/// Imports a batch. `continued` has the logs that an earlier run has begun, of the rooms that have
/// begun in this run and have not ended.
async fn import_batch(
    transfer: &dyn Transfer,
    batch: Batch,
    continued: &mut HashMap<RoomId, ImportedLog>,
) -> Result<(), DataError> {
    if let Some(key) = batch.signing_key {
        transfer.set_signing_key(key).await?;
    }
    if !batch.rooms.is_empty() {
        let logs = transfer.add_rooms(batch.rooms).await?;
        continued.extend(logs.into_iter().map(|log| (log.room, log)));
    }
    let entries = missing_entries(batch.entries, continued)?;
    if !entries.is_empty() {
        transfer.add_entries(entries).await?;
    }
    if !batch.marks.is_empty() {
        transfer.add_marks(batch.marks).await?;
    }
    if !batch.ended.is_empty() {
        let rooms = batch.ended.iter().map(|totals| totals.room).collect();
        let found = transfer.finish_rooms(rooms).await?;
        compare_totals(&batch.ended, &found)?;
        for totals in &batch.ended {
            continued.remove(&totals.room);
        }
    }
    if !batch.users.is_empty() {
        transfer.add_users(batch.users).await?;
    }
    Ok(())
}

/// Returns the entries that are not in their logs yet.
fn missing_entries(
    mut entries: Vec<EntryRecord>,
    continued: &HashMap<RoomId, ImportedLog>,
) -> Result<Vec<EntryRecord>, DataError> {
    let is_another = |entry: &&EntryRecord| {
        continued
            .get(&entry.room)
            .is_some_and(|log| log.last_seq == entry.seq && log.last_id != entry.id)
    };
    if let Some(entry) = entries.iter().find(is_another) {
        return Err(DataError::Refused(format!(
            "entry {} of room {} is another one than in the file",
            entry.seq.0, entry.room
        )));
    }
    entries.retain(|entry| {
        continued
            .get(&entry.room)
            .is_none_or(|log| entry.seq > log.last_seq)
    });
    Ok(entries)
}

/// Checks that the database has of each room what the file has.
fn compare_totals(expected: &[RoomTotals], found: &[RoomTotals]) -> Result<(), DataError> {
    let differs = |(expected, found): &(&RoomTotals, &RoomTotals)| expected != found;
    match expected.iter().zip(found).find(differs) {
        None => Ok(()),
        Some((expected, found)) => Err(DataError::Refused(format!(
            "room {} has {} entries up to {}, {} messages and {} marks, and in the file {}, {} and {}",
            expected.room,
            found.entries,
            found.last_seq.0,
            found.messages,
            found.marks,
            expected.entries,
            expected.messages,
            expected.marks
        ))),
    }
}
