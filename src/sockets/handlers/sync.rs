//! `sync`: joins rooms and returns what the client has missed in them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Serialize;
use socketioxide::extract::SocketRef;

use super::{
    Answer, Handlers,
    subscribe::{Entered, ROOMS_AT_ONCE},
};
use crate::{
    auth::Caller,
    budget::{COPIES_OF_A_PAGE, Reservation},
    chat::{LOG_BYTES, LogRange},
    error::{Error, Result},
    model::{Room, RoomId, Seq, UserId},
    sockets::subscriptions::may_subscribe,
    view::raw,
};

/// Maximum number of entries in the answer to `sync`, per room and in total.
const ENTRIES_OF_A_ROOM: u64 = 1_000;
const ENTRIES_AT_ONCE: u64 = 5_000;
/// Maximum length of a message with the default settings, in bytes.
const LONG_MESSAGE: u64 = 100_000;

/// The answers to `sync` by room: a log page or an error.
type Answers = BTreeMap<String, Answer>;
/// The rooms that the caller may read, and the last entry that the client has of each.
type Readable = HashMap<RoomId, (Arc<Room>, Seq)>;

impl Handlers {
    /// Subscribes to rooms and returns the log entries that the client has missed in each. A room
    /// that the caller may not read gets its own error; the others still succeed.
    pub(super) async fn sync(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        rooms: HashMap<String, Seq>,
        memory: &Reservation,
    ) -> Result<Answer> {
        #[derive(Serialize)]
        struct Synced {
            success: bool,
            rooms: Answers,
        }
        if rooms.len() > ROOMS_AT_ONCE {
            return Err(Error::TooManyRooms);
        }
        let (mut readable, mut answers) = self.readable(caller, rooms).await;
        may_subscribe(socket, readable.keys().copied())?;
        let user = caller.user.id;
        let entered = self
            .enter(socket, user, readable.keys().copied().collect())
            .await?;
        let missed = LONG_MESSAGE.saturating_mul(missed_entries(&entered, &readable));
        memory
            .take_for_user(user, COPIES_OF_A_PAGE * LOG_BYTES.min(missed))
            .await?;
        let pages = self.pages(user, entered, &mut readable).await?;
        answers.extend(pages);
        // Rooms that were deleted or lost while they were being entered.
        answers.extend(
            readable
                .into_keys()
                .map(|id| (id.to_string(), raw(&Error::NotAMember.body()))),
        );
        Ok(raw(&Synced {
            success: true,
            rooms: answers,
        }))
    }

    /// Returns the rooms that the caller may read, and the errors of the others.
    async fn readable(&self, caller: &Caller, rooms: HashMap<String, Seq>) -> (Readable, Answers) {
        let (ids, since): (Vec<_>, Vec<_>) = rooms.into_iter().unzip();
        let rooms = self.chat.readable_rooms(caller, &ids).await;
        let (mut readable, mut errors) = (Readable::new(), Answers::new());
        for ((id, since), room) in ids.into_iter().zip(since).zip(rooms) {
            match room {
                Ok(room) => _ = readable.insert(room.id, (room, since)),
                Err(error) => _ = errors.insert(id, raw(&error.body())),
            }
        }
        (readable, errors)
    }

    /// Returns the missed entries of the rooms that were entered, and removes these rooms from
    /// `readable`.
    async fn pages(
        &self,
        user: UserId,
        entered: Vec<Entered>,
        readable: &mut Readable,
    ) -> Result<Answers> {
        let (mut pages, mut left, mut bytes) = (Answers::new(), ENTRIES_AT_ONCE, LOG_BYTES);
        for Entered {
            chat_room_id: id,
            last_seq,
        } in entered
        {
            let Some((room, since)) = readable.remove(&id) else {
                continue;
            };
            let range = LogRange {
                since,
                up_to: Some(last_seq),
                limit: left.min(ENTRIES_OF_A_ROOM),
            };
            let page = self.chat.log(user, &room, range, &mut bytes).await?;
            left = left.saturating_sub(page.entries.len() as u64);
            pages.insert(id.to_string(), raw(&page));
        }
        Ok(pages)
    }
}

/// Returns the number of entries that the client has missed in the rooms that were entered.
fn missed_entries(entered: &[Entered], readable: &Readable) -> u64 {
    entered
        .iter()
        .filter_map(|room| {
            let (_, since) = readable.get(&room.chat_room_id)?;
            Some(room.last_seq.0.saturating_sub(since.0))
        })
        .fold(0, u64::saturating_add)
}
