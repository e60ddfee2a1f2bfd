//! `causerie export`: all data of the database as a text file.
//!
//! The log of each room is exported up to the entry that was its last one when the room was read, so
//! that servers can work on the database meanwhile.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    sync::Arc,
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    backup::refuse_missing,
    error::DataError,
    format::{EndLine, ExportTotals, Header, Line, RoomEndLine, VERSION, signing_key_line},
    progress::Progress,
};
use crate::{
    clock::Clock,
    config::Config,
    model::{ReadMark, RoomId, Seq, UserId},
    new_file::NewFile,
    store::{self, EntryRecord, Limit, RoomRecord, Transfer},
};

/// How many users, rooms or marks are read at once.
const PAGE: u64 = 1_000;
/// How many entries, and bytes of their texts, are read at once.
const ENTRIES: Limit = Limit {
    items: 1_000,
    bytes: 4 << 20,
};
/// How many pages wait to be written.
const QUEUE: usize = 2;

/// Writes all data of the database to a new file, also while servers work on it.
pub async fn export(
    file: &Path,
    config: &Config,
    clock: &Clock,
) -> Result<ExportTotals, DataError> {
    refuse_missing(&config.database)?;
    let output = NewFile::create(file).map_err(|error| DataError::file(file, error))?;
    let store = store::open_shared(&config.database, &config.mongodb).await?;
    let now = clock.now();
    let header = Header {
        causerie: VERSION,
        exported_at: now.to_string(),
        id: clock.new_id(now).simple().to_string(),
    };
    let (pages, received) = mpsc::channel(QUEUE);
    let writing = spawn_blocking(move || write(&header, output, received));
    let reading = read(Arc::clone(&store.transfer), pages).await;
    let written = writing.await?;
    store.database.close().await;
    // If writing fails, reading fails as well, since the pages are not received.
    written.map_err(|error| DataError::file(file, error))?;
    reading
}

/// What is passed from reading to writing.
enum Page {
    Lines(Vec<Line>),
    End(ExportTotals),
}

/// Writes the pages that are received. The file gets its name only after the end was received.
fn write(header: &Header, output: NewFile, mut pages: mpsc::Receiver<Page>) -> io::Result<()> {
    let mut lines = LineWriter {
        output: BufWriter::new(output.file()),
        hash: Sha256::new(),
    };
    lines.write(header)?;
    while let Some(page) = pages.blocking_recv() {
        match page {
            Page::Lines(page) => page.iter().try_for_each(|line| lines.write(line))?,
            Page::End(totals) => {
                let sha256 = HEXLOWER.encode(&lines.hash.clone().finalize());
                lines.write(&Line::End(EndLine { totals, sha256 }))?;
                lines.output.flush()?;
                drop(lines);
                return output.complete();
            }
        }
    }
    Ok(())
}

/// Writes lines and hashes them.
struct LineWriter<W> {
    output: W,
    hash: Sha256,
}

impl<W: Write> LineWriter<W> {
    fn write(&mut self, line: &impl serde::Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.output.write_all(&text)
    }
}

/// Reads all data and passes it on.
async fn read(
    transfer: Arc<dyn Transfer>,
    pages: mpsc::Sender<Page>,
) -> Result<ExportTotals, DataError> {
    let mut reader = Reader {
        progress: Progress::new("exporting", transfer.count_entries().await?),
        transfer,
        pages,
        totals: ExportTotals::default(),
    };
    let key = reader.transfer.signing_key().await?;
    reader.send(key.map(signing_key_line)).await?;
    reader.read_rooms().await?;
    // After the rooms, so that every user is exported who is in one of them.
    reader.read_users().await?;
    reader.pass_on(Page::End(reader.totals)).await?;
    Ok(reader.totals)
}

struct Reader {
    transfer: Arc<dyn Transfer>,
    pages: mpsc::Sender<Page>,
    progress: Progress,
    totals: ExportTotals,
}

impl Reader {
    async fn pass_on(&self, page: Page) -> Result<(), DataError> {
        self.pages
            .send(page)
            .await
            .map_err(|_| DataError::Refused("the file cannot be written".into()))
    }

    async fn send(&self, lines: impl IntoIterator<Item = Line>) -> Result<(), DataError> {
        self.pass_on(Page::Lines(lines.into_iter().collect())).await
    }

    async fn read_users(&mut self) -> Result<(), DataError> {
        let mut after = None;
        loop {
            let users = self.transfer.users(after, PAGE).await?;
            let Some(last) = users.last() else {
                return Ok(());
            };
            after = Some(last.user.id);
            self.totals.users += users.len() as u64;
            let lines = users.into_iter().map(|user| Line::User(user.into()));
            self.send(lines).await?;
        }
    }

    async fn read_rooms(&mut self) -> Result<(), DataError> {
        let mut after = None;
        loop {
            let rooms = self.transfer.rooms(after, PAGE).await?;
            let Some(last) = rooms.last() else {
                return Ok(());
            };
            after = Some(*last);
            for room in rooms {
                if let Some(room) = self.transfer.room(room).await? {
                    self.read_room(room).await?;
                }
            }
        }
    }

    async fn read_room(&mut self, room: RoomRecord) -> Result<(), DataError> {
        let (id, last_seq) = (room.room.id, room.last_seq);
        self.send([Line::Room(room.into())]).await?;
        let Some(messages) = self.read_log(id, last_seq).await? else {
            return self.send([Line::RoomDeleted(id)]).await;
        };
        let marks = self.read_marks(id, last_seq).await?;
        let end = RoomEndLine {
            id,
            messages,
            marks,
        };
        self.send([Line::RoomEnd(end)]).await?;
        self.totals.rooms += 1;
        self.totals.entries += last_seq.0;
        self.totals.messages += messages;
        self.totals.marks += marks;
        Ok(())
    }

    /// Reads the entries of a room. Returns the number of messages, or `None` if the room was
    /// deleted meanwhile.
    async fn read_log(&self, room: RoomId, last_seq: Seq) -> Result<Option<u64>, DataError> {
        let (mut after, mut messages) = (Seq(0), 0);
        while after < last_seq {
            let entries = self
                .transfer
                .entries(room, after, last_seq, ENTRIES)
                .await?;
            let Some(last) = last_without_gap(&entries, after) else {
                return match self.transfer.room(room).await? {
                    None => Ok(None),
                    Some(_) => Err(DataError::Refused(format!(
                        "room {room} has no entry {} or one after it: see 'causerie check'",
                        after.next().0
                    ))),
                };
            };
            after = last;
            let readable = entries
                .iter()
                .filter(|entry| entry.change.is_readable_message());
            messages += readable.count() as u64;
            self.progress.add(entries.len() as u64);
            let lines = entries.into_iter().map(|entry| Line::Entry(entry.into()));
            self.send(lines).await?;
        }
        Ok(Some(messages))
    }

    /// Reads the read marks of a room. Returns their number.
    async fn read_marks(&self, room: RoomId, last_seq: Seq) -> Result<u64, DataError> {
        let (mut after, mut count) = (None, 0);
        let mut last_exported = None;
        loop {
            let marks = self.transfer.marks(room, after, PAGE).await?;
            let Some(last) = marks.last() else {
                return Ok(count);
            };
            after = Some((last.user, last.up_to));
            let within = marks
                .into_iter()
                .filter_map(|mark| within_log(mark, last_seq, &mut last_exported));
            let lines: Vec<_> = within.map(|mark| Line::Mark(mark.into())).collect();
            count += lines.len() as u64;
            self.send(lines).await?;
        }
    }
}

/// Returns the last of these entries, unless one is missing between them or after `after`.
fn last_without_gap(entries: &[EntryRecord], after: Seq) -> Option<Seq> {
    let mut last = after;
    for entry in entries {
        if entry.seq != last.next() {
            return None;
        }
        last = entry.seq;
    }
    (last > after).then_some(last)
}

/// Returns the mark, but not beyond the end of the log that is exported: the user may have read
/// entries that were added since. `None` if the user's mark before, which is `last`, goes as far.
fn within_log(mark: ReadMark, last_seq: Seq, last: &mut Option<(UserId, Seq)>) -> Option<ReadMark> {
    let up_to = mark.up_to.min(last_seq);
    let position = Some((mark.user, up_to));
    if *last == position || up_to == Seq(0) {
        return None;
    }
    *last = position;
    Some(ReadMark { up_to, ..mark })
}
