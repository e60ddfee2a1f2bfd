//! `sync`: joins rooms and returns what the client has missed in them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use socketioxide::extract::SocketRef;

use super::{
    Answer, Handlers, id_of,
    subscribe::{Entered, ROOMS_AT_ONCE},
};
use crate::{
    access::{Action, Caller},
    budget::{COPIES_OF_A_PAGE, Reservation},
    chat::LOG_BYTES,
    error::{Error, Result},
    model::Seq,
    sockets::subscriptions::may_subscribe,
    view::raw,
};

/// Maximum number of entries in the answer to `sync`, per room and in total.
const ENTRIES_OF_A_ROOM: u64 = 1_000;
const ENTRIES_AT_ONCE: u64 = 5_000;
/// Maximum length of a message with the default settings, in bytes.
const LONG_MESSAGE: u64 = 100_000;

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
            rooms: BTreeMap<String, Answer>,
        }
        if rooms.len() as u64 > ROOMS_AT_ONCE {
            return Err(Error::BadEvent("sync takes at most 1000 rooms at once"));
        }
        let user = id_of(caller)?;
        let (mut answers, mut authorized, mut refused) = (BTreeMap::new(), HashMap::new(), 0_usize);
        for (id, since) in rooms {
            let room = match self.chat.limits.read(user, 1) {
                Ok(()) => {
                    self.chat
                        .access
                        .authorize_silently(caller, Action::Read, &id)
                        .await
                }
                Err(error) => Err(error),
            };
            match room {
                Ok(room) => _ = authorized.insert(room.id, (room, since)),
                Err(error) => {
                    refused += usize::from(matches!(error, Error::NotAMember));
                    answers.insert(id, raw(&error.to_json()));
                }
            }
        }
        if refused > 0 {
            // One log line for all refused rooms: a request may name a thousand.
            self.chat.access.deny(
                caller,
                "read rooms, so many",
                Some(&refused),
                Error::NotAMember,
            );
        }
        may_subscribe(socket, authorized.keys().copied())?;
        let entered = self
            .enter(socket, user, authorized.keys().copied().collect())
            .await?;
        let missed = |Entered {
                          chat_room_id,
                          last_seq,
                      }: &Entered| {
            authorized
                .get(chat_room_id)
                .map_or(0, |(_, since)| last_seq.0.saturating_sub(since.0))
        };
        let missed = entered.iter().map(missed).fold(0, u64::saturating_add);
        memory
            .take_for_user(
                user,
                COPIES_OF_A_PAGE * LOG_BYTES.min(missed.saturating_mul(LONG_MESSAGE)),
            )
            .await?;
        let (mut left, mut bytes) = (ENTRIES_AT_ONCE, LOG_BYTES);
        for Entered {
            chat_room_id: id,
            last_seq: end,
        } in entered
        {
            let Some((room, since)) = authorized.remove(&id) else {
                continue;
            };
            let page = self
                .chat
                .log(
                    user,
                    &room,
                    since,
                    Some(end),
                    left.min(ENTRIES_OF_A_ROOM),
                    &mut bytes,
                )
                .await?;
            left = left.saturating_sub(page.entries.len() as u64);
            answers.insert(id.to_string(), raw(&page));
        }
        // Rooms that were deleted or lost while they were being entered.
        answers.extend(
            authorized
                .into_keys()
                .map(|id| (id.to_string(), raw(&Error::NotAMember.to_json()))),
        );
        Ok(raw(&Synced {
            success: true,
            rooms: answers,
        }))
    }
}
