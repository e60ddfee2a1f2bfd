//! Counting again what is counted along with appending: how many entries each member of a room has
//! added, in total and up to the last read mark.

use std::collections::BTreeMap;

use rusqlite::{Connection, Result};

use crate::model::{RoomId, Seq, UserId};

/// The counts of a room. They are complete once every entry of its log was added.
pub struct Recount(pub BTreeMap<UserId, MemberCount>);

/// The counts of a member.
pub struct MemberCount {
    /// The entry by which the member joined. The member's own entries are counted from there.
    pub joined: Seq,
    /// The member's own entries.
    pub posted: Count,
    /// The member's last read mark, unless it is from before the member joined.
    pub last_mark: Option<MarkCount>,
}

/// The count of a read mark.
pub struct MarkCount {
    pub up_to: Seq,
    /// The member's own entries up to the mark.
    pub posted: Count,
}

/// A number as it is stored, and as it was counted again.
#[derive(Clone, Copy)]
pub struct Count {
    pub stored: u64,
    pub counted: u64,
}

impl Count {
    fn new(stored: u64) -> Self {
        Self { stored, counted: 0 }
    }

    pub fn is_right(self) -> bool {
        self.stored == self.counted
    }
}

impl Recount {
    /// Reads the members and their last read marks.
    pub fn begin(connection: &Connection, room: RoomId) -> Result<Self> {
        let mut members = connection
            .prepare_cached("SELECT user, joined, posted FROM memberships WHERE room = ?")?
            .query_map([room], |row| {
                let member = MemberCount {
                    joined: row.get(1)?,
                    posted: Count::new(row.get(2)?),
                    last_mark: None,
                };
                Ok((row.get(0)?, member))
            })?
            .collect::<Result<BTreeMap<UserId, _>>>()?;
        // With `max`, SQLite takes the other columns from the row that has the maximum.
        let mut marks = connection.prepare_cached(
            "SELECT user, max(up_to_seq), posted FROM read_marks WHERE room = ? GROUP BY user",
        )?;
        let mut marks = marks.query([room])?;
        while let Some(row) = marks.next()? {
            let (user, up_to): (UserId, Seq) = (row.get(0)?, row.get(1)?);
            if let Some(member) = members.get_mut(&user)
                && up_to > member.joined
            {
                member.last_mark = Some(MarkCount {
                    up_to,
                    posted: Count::new(row.get(2)?),
                });
            }
        }
        Ok(Self(members))
    }

    /// Counts an entry.
    pub fn add(&mut self, seq: Seq, author: UserId) {
        let Some(member) = self.0.get_mut(&author).filter(|member| seq > member.joined) else {
            return;
        };
        member.posted.counted += 1;
        if let Some(mark) = &mut member.last_mark
            && seq <= mark.up_to
        {
            mark.posted.counted += 1;
        }
    }
}
