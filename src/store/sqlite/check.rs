//! Checking the data, in SQLite. Each room is checked on one snapshot of the database.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Sqlite,
    export::{self, entry_record},
    head::Head,
    recount::{MemberCount, Recount},
    rows,
};
use crate::{
    model::{MessageId, Room, RoomId, Seq, UserId},
    store::{
        Check, Result, RoomRecord,
        check::{Findings, LogReplay},
        is_large, member_key,
    },
};

/// The maximum number of damaged places of the file that are listed.
const MAX_DAMAGES: u64 = 100;

#[async_trait]
impl Check for Sqlite {
    async fn check_room(&self, room: RoomId) -> Result<Vec<String>> {
        self.threads
            .read(move |connection| check_room(connection, room))
            .await
    }

    async fn check_database(&self) -> Result<Vec<String>> {
        let mut findings = self.threads.read(check_file).await?;
        findings.extend(self.threads.read(check_owners).await?);
        Ok(findings)
    }
}

fn check_room(connection: &Connection, id: RoomId) -> rusqlite::Result<Vec<String>> {
    let mut findings = Findings::new(id);
    let Some(head) = Head::find(connection, id)? else {
        if exists(connection, "rooms", "id", id)? {
            findings.add("the head of the log is missing");
        }
        return Ok(findings.into_lines());
    };
    let Some(record) = export::room(connection, id)? else {
        return Ok(findings.into_lines());
    };
    let (replay, recount) = replay(connection, id, &mut findings)?;
    replay.compare(&record.room, &mut findings);
    check_head(&head, &replay, &mut findings);
    check_members(connection, &record, &head, &mut findings)?;
    for (user, member) in &recount.0 {
        check_counts(*user, member, &mut findings);
    }
    check_marks(connection, id, replay.last_seq, &mut findings)?;
    check_search(connection, id, replay.last_seq, &mut findings)?;
    Ok(findings.into_lines())
}

/// Reads the log from its first entry.
fn replay(
    connection: &Connection,
    room: RoomId,
    findings: &mut Findings,
) -> rusqlite::Result<(LogReplay, Recount)> {
    let (mut replay, mut recount) = (LogReplay::default(), Recount::begin(connection, room)?);
    let mut entries = connection.prepare_cached(&format!(
        "SELECT {} FROM entries WHERE room = ? ORDER BY seq",
        rows::ENTRY
    ))?;
    let mut entries = entries.query([room])?;
    while let Some(row) = entries.next()? {
        match entry_record(row) {
            Ok(entry) => {
                recount.add(entry.seq, entry.author);
                replay.add(&entry, findings);
            }
            Err(error) => findings.add(format_args!("an entry cannot be read: {error}")),
        }
    }
    Ok((replay, recount))
}

fn check_head(head: &Head, replay: &LogReplay, findings: &mut Findings) {
    if head.last_seq != replay.last_seq {
        findings.add(format_args!(
            "the head says that the last entry is {}, but it is {}",
            head.last_seq.0, replay.last_seq.0
        ));
    }
    if head.last_at != replay.last_at {
        findings.add(format_args!(
            "the head says that the last entry is of {}, but it is of {}",
            head.last_at, replay.last_at
        ));
    }
    if head.latest != replay.latest.map(|(_, id)| id) {
        findings.add("the head has another latest message than the log");
    }
    if replay.members_changed() && !head.members_changed {
        findings.add("the head says that the members have never changed, but they have");
    }
}

/// What a membership stores besides the count.
struct Membership {
    joined: Seq,
    large: bool,
    latest: Option<MessageId>,
}

fn check_members(
    connection: &Connection,
    record: &RoomRecord,
    head: &Head,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let room = &record.room;
    let mut memberships = connection
        .prepare_cached("SELECT user, joined, large, latest FROM memberships WHERE room = ?")?
        .query_map([room.id], |row| {
            let membership = Membership {
                joined: row.get(1)?,
                large: row.get(2)?,
                latest: row.get(3)?,
            };
            Ok((row.get(0)?, membership))
        })?
        .collect::<rusqlite::Result<BTreeMap<UserId, _>>>()?;
    for member in &room.members {
        match memberships.remove(member) {
            Some(membership) => check_membership(room, head, (*member, &membership), findings),
            None => findings.add(format_args!("the membership of user {member} is missing")),
        }
    }
    for user in memberships.keys() {
        findings.add(format_args!(
            "user {user} has a membership, but is not a member"
        ));
    }
    if record.found_by_members && !has_right_key(connection, room)? {
        findings.add("the key by which the room is found is not that of its members");
    }
    Ok(())
}

fn check_membership(
    room: &Room,
    head: &Head,
    (user, membership): (UserId, &Membership),
    findings: &mut Findings,
) {
    let joined = room.visible_from(user);
    if membership.joined != joined {
        findings.add(format_args!(
            "the membership of user {user} begins with entry {}, but the user joined by entry {}",
            membership.joined.0, joined.0
        ));
    }
    let large = is_large(room);
    if membership.large != large {
        findings.add(format_args!(
            "the membership of user {user} says that the room is {}, which it is not",
            if membership.large { "large" } else { "small" }
        ));
    } else if membership.latest != head.latest.filter(|_| !large) {
        findings.add(format_args!(
            "the membership of user {user} has another latest message than the head"
        ));
    }
}

fn has_right_key(connection: &Connection, room: &Room) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM rooms WHERE id = ? AND member_key = ?")?
        .exists(params![room.id, member_key(room)])
}

fn check_counts(user: UserId, member: &MemberCount, findings: &mut Findings) {
    let posted = member.posted;
    if !posted.is_right() {
        findings.add(format_args!(
            "the membership of user {user} counts {} own entries, but there are {}",
            posted.stored, posted.counted
        ));
    }
    if let Some(mark) = member.last_mark.as_ref()
        && !mark.posted.is_right()
    {
        findings.add(format_args!(
            "the last read mark of user {user} counts {} own entries, but there are {}",
            mark.posted.stored, mark.posted.counted
        ));
    }
}

fn check_marks(
    connection: &Connection,
    room: RoomId,
    last_seq: Seq,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let mut marks = connection.prepare_cached(
        "SELECT user, up_to_seq FROM read_marks WHERE room = ? AND up_to_seq > ?",
    )?;
    let mut marks = marks.query(params![room, last_seq])?;
    while let Some(row) = marks.next()? {
        let (user, up_to): (UserId, Seq) = (row.get(0)?, row.get(1)?);
        findings.add(format_args!(
            "user {user} has read up to entry {}, but the last entry is {}",
            up_to.0, last_seq.0
        ));
    }
    Ok(())
}

fn check_search(
    connection: &Connection,
    room: RoomId,
    last_seq: Seq,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let indexed: Option<Seq> = connection
        .prepare_cached("SELECT up_to FROM search_logs WHERE room = ?")?
        .query_row([room], |row| row.get(0))
        .optional()?;
    if let Some(up_to) = indexed.filter(|up_to| *up_to > last_seq) {
        findings.add(format_args!(
            "the search index goes up to entry {}, but the last entry is {}",
            up_to.0, last_seq.0
        ));
    }
    Ok(())
}

/// Checks the structure of the file, and that its indexes agree with its tables.
fn check_file(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut damages = connection
        .prepare(&format!("PRAGMA integrity_check({MAX_DAMAGES})"))?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    damages.retain(|damage| damage != "ok");
    let lines = damages
        .iter()
        .map(|damage| format!("file: {}", damage.replace('\n', " ")));
    Ok(lines.collect())
}

/// Checks that everything belongs to a room or a user that exists. The data of deleted rooms is
/// removed after them.
fn check_owners(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut findings = Vec::new();
    for table in ["heads", "entries", "memberships", "read_marks"] {
        let mut next = connection.prepare(&format!(
            "SELECT room FROM {table} WHERE room > ? ORDER BY room LIMIT 1"
        ))?;
        let mut room: Option<RoomId> = None;
        loop {
            let after = room.as_ref().map_or(&[][..], |room| room.as_bytes());
            room = next.query_row([after], |row| row.get(0)).optional()?;
            let Some(room) = room else { break };
            if !exists(connection, "rooms", "id", room)?
                && !exists(connection, "purges", "room", room)?
            {
                findings.push(format!(
                    "{table}: room {room} does not exist, and is not being deleted"
                ));
            }
        }
    }
    for table in ["accounts", "sessions"] {
        let orphans = format!(
            "SELECT count(*) FROM {table} WHERE NOT EXISTS (SELECT 1 FROM users WHERE users.id = {table}.user AND NOT deleted)"
        );
        let orphans = connection.query_row(&orphans, [], |row| row.get::<_, u64>(0))?;
        if orphans > 0 {
            findings.push(format!(
                "{table}: {orphans} belong to no user, or to a deleted one"
            ));
        }
    }
    Ok(findings)
}

fn exists(
    connection: &Connection,
    table: &str,
    column: &str,
    id: RoomId,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(&format!("SELECT 1 FROM {table} WHERE {column} = ?"))?
        .exists([id])
}
