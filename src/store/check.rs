//! Checking that what a database stores about the logs agrees with the logs: the parts that all
//! stores share.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{
    Result,
    transfer::{ChangeRecord, EntryRecord},
};
use crate::model::{MessageId, Room, RoomId, Seq, Timestamp, UserId};

/// The maximum number of findings that are listed for one room.
const MAX_FINDINGS: usize = 100;

/// Checking the stored data, also while servers work on the database. Each finding is one line.
#[async_trait]
pub trait Check: Send + Sync {
    /// Checks one room: its log, its members, its read marks, and everything that is stored in
    /// addition to speed up queries. Finds nothing if the room was deleted.
    async fn check_room(&self, room: RoomId) -> Result<Vec<String>>;

    /// Checks what does not belong to a single room.
    async fn check_database(&self) -> Result<Vec<String>>;
}

/// The findings in one room.
pub(super) struct Findings {
    room: RoomId,
    listed: Vec<String>,
    not_listed: u64,
}

impl Findings {
    pub fn new(room: RoomId) -> Self {
        Self {
            room,
            listed: Vec::new(),
            not_listed: 0,
        }
    }

    /// Adds a finding.
    pub fn add(&mut self, finding: impl std::fmt::Display) {
        if self.listed.len() < MAX_FINDINGS {
            self.listed.push(format!("room {}: {finding}", self.room));
        } else {
            self.not_listed += 1;
        }
    }

    /// Returns the findings, with their number if they are too many to be listed.
    pub fn into_lines(mut self) -> Vec<String> {
        if self.not_listed > 0 {
            let more = format!("room {}: {} more findings", self.room, self.not_listed);
            self.listed.push(more);
        }
        self.listed
    }
}

/// Follows a log from its first entry, and compares the state of the room with it.
#[derive(Default)]
pub(super) struct LogReplay {
    pub last_seq: Seq,
    pub last_at: Timestamp,
    /// The latest message that is not deleted.
    pub latest: Option<(Timestamp, MessageId)>,
    /// The last change of each user who was added or removed: the entry, and whether it added the
    /// user.
    members: HashMap<UserId, (Seq, bool)>,
    renamed: Option<Renamed>,
}

/// The last change of a room's name, which may have removed it.
struct Renamed {
    to: Option<String>,
}

impl LogReplay {
    /// Follows the next entry.
    pub fn add(&mut self, entry: &EntryRecord, findings: &mut Findings) {
        self.reach(entry.seq.prev(), findings);
        if entry.created_at < self.last_at {
            findings.add(format_args!(
                "entry {} is earlier than the entry before it",
                entry.seq.0
            ));
        }
        self.last_seq = entry.seq;
        self.last_at = entry.created_at;
        match &entry.change {
            ChangeRecord::Message { text: Some(_), .. } => {
                self.latest = Some((entry.created_at, entry.id));
            }
            ChangeRecord::MemberAdded(user) => _ = self.members.insert(*user, (entry.seq, true)),
            ChangeRecord::MemberRemoved(user) => {
                self.members.insert(*user, (entry.seq, false));
            }
            ChangeRecord::Renamed(name) => self.renamed = Some(Renamed { to: name.clone() }),
            ChangeRecord::Message { .. } | ChangeRecord::Edit(_) | ChangeRecord::Deletion(_) => {}
        }
    }

    /// Notes that the log should have all entries up to this one.
    pub fn reach(&mut self, seq: Seq, findings: &mut Findings) {
        let missing = self.last_seq.next();
        if seq == missing {
            findings.add(format_args!("entry {} is missing", seq.0));
        } else if seq > missing {
            findings.add(format_args!(
                "entries {} to {} are missing",
                missing.0, seq.0
            ));
        }
        self.last_seq = self.last_seq.max(seq);
    }

    /// Returns whether members were added or removed.
    pub fn members_changed(&self) -> bool {
        !self.members.is_empty()
    }

    /// Compares the room, as of the last entry, with the log.
    pub fn compare(&self, room: &Room, findings: &mut Findings) {
        for (user, (seq, is_added)) in &self.members {
            let seq = seq.0;
            match (is_added, room.has_member(*user)) {
                (true, false) => findings.add(format_args!(
                    "user {user} is not a member, although entry {seq} added the user"
                )),
                (false, true) => findings.add(format_args!(
                    "user {user} is a member, although entry {seq} removed the user"
                )),
                (true, true) if room.visible_from(*user).0 != seq => findings.add(format_args!(
                    "user {user} joined by entry {}, but the log says {seq}",
                    room.visible_from(*user).0
                )),
                _ => {}
            }
        }
        for (user, seq) in &room.joined {
            if !self.members.contains_key(user) {
                findings.add(format_args!(
                    "user {user} joined by entry {}, which does not add the user",
                    seq.0
                ));
            }
        }
        if self
            .renamed
            .as_ref()
            .is_some_and(|renamed| renamed.to != room.name)
        {
            findings.add("the name is not the one of the last renaming");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RoomType;

    const ALICE: UserId = UserId::UNKNOWN;

    fn room(members: Vec<UserId>) -> Room {
        Room {
            id: RoomId::from_bytes([1; 16]),
            kind: RoomType::ConsumerToConsumer,
            name: None,
            initiator: ALICE,
            members,
            joined: Vec::new(),
            created_at: Timestamp(0),
        }
    }

    fn entry(seq: u64, at: i64, change: ChangeRecord) -> EntryRecord {
        EntryRecord {
            room: RoomId::from_bytes([1; 16]),
            seq: Seq(seq),
            id: MessageId::from_bytes([2; 16]),
            author: ALICE,
            created_at: Timestamp(at),
            change,
        }
    }

    /// Returns what is found in a log with these entries, which should end with `last_seq`.
    fn found(entries: &[EntryRecord], last_seq: u64, room: &Room) -> Vec<String> {
        let (mut replay, mut findings) = (LogReplay::default(), Findings::new(room.id));
        for entry in entries {
            replay.add(entry, &mut findings);
        }
        replay.reach(Seq(last_seq), &mut findings);
        replay.compare(room, &mut findings);
        let about_room = format!("room {}: ", room.id);
        findings
            .into_lines()
            .iter()
            .map(|line| line.strip_prefix(&about_room).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn gaps_and_times_that_go_back_are_found() {
        let named = |seq, at| entry(seq, at, ChangeRecord::Renamed(None));
        let entries = [named(2, 5), named(5, 4), named(6, 4)];
        assert_eq!(
            found(&entries, 7, &room(Vec::new())),
            [
                "entry 1 is missing",
                "entries 3 to 4 are missing",
                "entry 5 is earlier than the entry before it",
                "entry 7 is missing"
            ]
        );
        let whole = [named(1, 5), named(2, 5), named(3, 6)];
        assert_eq!(found(&whole, 3, &room(Vec::new())), Vec::<String>::new());
    }

    #[test]
    fn members_and_names_that_disagree_with_the_log_are_found() {
        let added = [entry(1, 1, ChangeRecord::MemberAdded(ALICE))];
        assert_eq!(found(&added, 1, &room(Vec::new())).len(), 1);
        // A member without the entry that added them.
        assert_eq!(found(&added, 1, &room(vec![ALICE])).len(), 1);
        let joined = Room {
            joined: vec![(ALICE, Seq(1))],
            ..room(vec![ALICE])
        };
        assert_eq!(found(&added, 1, &joined), Vec::<String>::new());
        assert_eq!(found(&[], 0, &joined).len(), 1);
        let removed = [entry(1, 1, ChangeRecord::MemberRemoved(ALICE))];
        assert_eq!(found(&removed, 1, &room(vec![ALICE])).len(), 1);
        let renamed = [entry(1, 1, ChangeRecord::Renamed(Some("new".into())))];
        assert_eq!(found(&renamed, 1, &room(Vec::new())).len(), 1);
    }
}
