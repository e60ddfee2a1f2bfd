//! Reading an export, and checking that it is complete, unchanged and in order.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    error::DataError,
    format::{self, EndLine, ExportTotals, Header, Line, MarkLine, RoomEndLine, VERSION},
};
use crate::{
    model::{ReadMark, RoomId, Seq, UserId},
    store::{EntryRecord, MarkRecord, RoomRecord, RoomTotals, UserRecord},
};

/// The maximum length of a line in bytes. The longest text, with every character escaped, is
/// shorter.
const MAX_LINE: u64 = 128 << 20;
/// The size of the buffer for reading the file.
const BUFFER: usize = 256 << 10;

/// What a line of an export has.
pub enum Item {
    /// The key that signs tokens.
    SigningKey([u8; 32]),
    /// A room, whose entries and marks follow.
    Room(RoomRecord),
    Entry(EntryRecord),
    Mark(MarkRecord),
    /// The end of the room.
    RoomEnd(RoomTotals),
    /// The end of the room, which is not to be imported.
    RoomDeleted(RoomId),
    User(UserRecord),
    /// The end of the file.
    End(ExportTotals),
}

/// Reads an export line by line. Each line is checked as far as the lines before it allow.
pub struct ExportReader {
    path: PathBuf,
    input: BufReader<File>,
    buffer: Vec<u8>,
    /// The number of the current line, from 1.
    line: u64,
    /// The number of bytes read so far.
    bytes: u64,
    /// The hash of the lines before the current one.
    hash: Sha256,
    header: Header,
    order: Order,
}

impl ExportReader {
    /// Opens the file and reads its header.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|error| DataError::file(path, error))?;
        let mut reader = Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(BUFFER, file),
            buffer: Vec::new(),
            line: 0,
            bytes: 0,
            hash: Sha256::new(),
            header: Header {
                causerie: 0,
                exported_at: String::new(),
                id: String::new(),
            },
            order: Order::default(),
        };
        reader.read_header()?;
        Ok(reader)
    }

    /// Returns the id of the export.
    pub fn id(&self) -> &str {
        &self.header.id
    }

    /// Returns the number of bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the length of the last line in bytes.
    pub fn line_length(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the next item. The last one is [`Item::End`], after which this must not be called.
    pub fn next_item(&mut self) -> Result<Item, DataError> {
        if !self.read_line()? {
            return Err(self.flaw("the file ends before its last line"));
        }
        let line = self.parse()?;
        if let Line::End(EndLine { sha256, .. }) = &line {
            if *sha256 != HEXLOWER.encode(&self.hash.clone().finalize()) {
                return Err(self.flaw("the lines before are not those that were exported"));
            }
            if !self.is_at_end()? {
                return Err(self.flaw("there is something after the last line"));
            }
        }
        self.order.accept(line).map_err(|reason| self.flaw(reason))
    }

    fn read_header(&mut self) -> Result<(), DataError> {
        let header = if self.read_line()? {
            self.parse::<serde_json::Value>().ok()
        } else {
            None
        };
        let version = header.and_then(|header| header.get("causerie")?.as_u64());
        match version {
            Some(version) if version == u64::from(VERSION) => {
                self.header = self.parse()?;
                Ok(())
            }
            Some(version) => Err(self.flaw(format!(
                "it is an export of format {version}, and this program knows format {VERSION}"
            ))),
            None => Err(self.flaw("this is not an export of Causerie")),
        }
    }

    /// Reads the next line. Returns false at the end of the file.
    fn read_line(&mut self) -> Result<bool, DataError> {
        self.line += 1;
        self.hash.update(&self.buffer);
        self.buffer.clear();
        let read = self
            .input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| DataError::file(&self.path, error))?;
        self.bytes += read as u64;
        match self.buffer.last() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) if read as u64 == MAX_LINE => Err(self.flaw("the line is too long")),
            Some(_) => Err(self.flaw("the file ends within this line")),
        }
    }

    fn is_at_end(&mut self) -> Result<bool, DataError> {
        self.input
            .fill_buf()
            .map(<[u8]>::is_empty)
            .map_err(|error| DataError::file(&self.path, error))
    }

    /// Parses the current line.
    fn parse<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        serde_json::from_slice(&self.buffer).map_err(|error| {
            // The line that it names is always the first, since it is given only one.
            self.flaw(
                error
                    .to_string()
                    .replace(" at line 1 column ", " at column "),
            )
        })
    }

    fn flaw(&self, reason: impl Into<String>) -> DataError {
        DataError::Line {
            file: self.path.clone(),
            line: self.line,
            reason: reason.into(),
        }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Order {
    totals: ExportTotals,
    /// The room that has begun and not ended.
    room: Option<OpenRoom>,
    last_room: Option<RoomId>,
    last_user: Option<UserId>,
}

/// A room of which some lines have been read.
struct OpenRoom {
    id: RoomId,
    last_seq: Seq,
    /// The last entry that has been read.
    read: Seq,
    messages: u64,
    marks: u64,
    last_mark: Option<(UserId, Seq)>,
}

impl Order {
    /// Checks the line and returns what it has.
    fn accept(&mut self, line: Line) -> Result<Item, format::Flaw> {
        match line {
            Line::SigningKey(key) => {
                if self.room.is_some() || self.last_room.is_some() || self.last_user.is_some() {
                    return Err("the key has to be the second line");
                }
                format::signing_key(&key).map(Item::SigningKey)
            }
            Line::Room(room) => self.begin_room(room.into_record()?).map(Item::Room),
            Line::Entry(entry) => {
                let room = self.room.as_mut().ok_or("an entry belongs to no room")?;
                let entry = entry.into_record(room.id)?;
                room.add_entry(&entry)?;
                Ok(Item::Entry(entry))
            }
            Line::Mark(mark) => {
                let room = self.room.as_mut().ok_or("a mark belongs to no room")?;
                room.add_mark(mark).map(Item::Mark)
            }
            Line::RoomEnd(end) => self.end_room(&end).map(Item::RoomEnd),
            Line::RoomDeleted(id) => match self.room.take() {
                Some(room) if room.id == id => Ok(Item::RoomDeleted(id)),
                _ => Err("it ends a room that has not begun"),
            },
            Line::User(user) => self.add_user(user.into_record()?).map(Item::User),
            Line::End(end) => self.end(&end).map(Item::End),
        }
    }

    fn begin_room(&mut self, record: RoomRecord) -> Result<RoomRecord, format::Flaw> {
        let id = record.room.id;
        if self.room.is_some() {
            return Err("the room before has not ended");
        }
        if self.last_user.is_some() || self.last_room.is_some_and(|last| last >= id) {
            return Err("the room is not in order");
        }
        self.last_room = Some(id);
        self.room = Some(OpenRoom {
            id,
            last_seq: record.last_seq,
            read: Seq(0),
            messages: 0,
            marks: 0,
            last_mark: None,
        });
        Ok(record)
    }

    fn end_room(&mut self, end: &RoomEndLine) -> Result<RoomTotals, format::Flaw> {
        let room = self
            .room
            .take_if(|room| room.id == end.id)
            .ok_or("it ends a room that has not begun")?;
        if room.read != room.last_seq {
            return Err("entries of the room are missing");
        }
        if (room.messages, room.marks) != (end.messages, end.marks) {
            return Err("messages or marks of the room are missing");
        }
        let totals = RoomTotals {
            room: room.id,
            last_seq: room.last_seq,
            entries: room.last_seq.0,
            messages: room.messages,
            marks: room.marks,
        };
        self.totals.rooms += 1;
        self.totals.entries += totals.entries;
        self.totals.messages += totals.messages;
        self.totals.marks += totals.marks;
        Ok(totals)
    }

    fn add_user(&mut self, record: UserRecord) -> Result<UserRecord, format::Flaw> {
        let id = record.user.id;
        if self.room.is_some() {
            return Err("the room before has not ended");
        }
        if self.last_user.is_some_and(|last| last >= id) {
            return Err("the user is not in order");
        }
        self.last_user = Some(id);
        self.totals.users += 1;
        Ok(record)
    }

    fn end(&mut self, end: &EndLine) -> Result<ExportTotals, format::Flaw> {
        if self.room.is_some() {
            return Err("the room before has not ended");
        }
        if end.totals != self.totals {
            return Err("users or rooms are missing");
        }
        Ok(self.totals)
    }
}

impl OpenRoom {
    fn add_entry(&mut self, entry: &EntryRecord) -> Result<(), format::Flaw> {
        if entry.seq != self.read.next() || entry.seq > self.last_seq {
            return Err("the entry is not the next one of the room");
        }
        self.read = entry.seq;
        self.messages += u64::from(entry.change.is_readable_message());
        Ok(())
    }

    fn add_mark(&mut self, mark: MarkLine) -> Result<MarkRecord, format::Flaw> {
        let mark = ReadMark::from(mark);
        if self.read != self.last_seq {
            return Err("entries of the room are missing");
        }
        let position = (mark.user, mark.up_to);
        if mark.up_to > self.last_seq || self.last_mark.is_some_and(|last| last >= position) {
            return Err("the mark is not in order");
        }
        let before = self.last_mark.replace(position);
        self.marks += 1;
        Ok(MarkRecord {
            room: self.id,
            mark,
            after: before
                .filter(|(user, _)| *user == mark.user)
                .map(|(_, up_to)| up_to)
                .unwrap_or_default(),
        })
    }
}
