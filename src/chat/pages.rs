//! Reads conversations, logs, search results and room lists, page by page. A page is limited in
//! bytes as well as in items: it must fit into the memory of the server and of the client, however
//! long its texts and names are, and a client may request many pages and read none of them.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::try_join_all;
use serde_json::value::RawValue;

use super::Chat;
use crate::{
    config::History,
    error::{Error, Result},
    model::{Entry, EntryKind, Message, Room, Seq, UserId},
    store::{self, EntryPosition, ListedRoom, Page, RoomPage, Scope, Search, Unread},
    view::{
        ConversationMessage, EntryView, LogPage, People, RecentConversation, RoomView, Shown, raw,
    },
};

/// The maximum number of bytes of messages or entries in one response; the first item is always
/// included.
pub const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// No byte limit.
const UNBOUNDED: u64 = u64::MAX;
/// The number of items to read before their size is known, and the maximum number per read after
/// that.
const FIRST_PIECE: u64 = 64;
const MAX_PIECE: u64 = 128;

/// The maximum number of store queries for one page of a search: each finds at most one piece, and
/// less if the search is expensive.
const SEARCHES: usize = 16;

/// A serialized item.
type Written = Box<RawValue>;

/// A page of a conversation.
pub struct Conversation {
    /// The messages, ascending.
    pub messages: Vec<Written>,
    /// The authors of the messages.
    pub people: People,
    /// The last entry of the room's log.
    pub last_seq: Seq,
    /// Whether there are more messages beyond the page, in the direction requested.
    pub has_more: bool,
}

/// A page of search results.
pub struct Found {
    /// The messages, newest first.
    pub messages: Vec<Written>,
    /// The position before which to continue; `None` if there is no more.
    pub next: Option<EntryPosition>,
}

/// A page of a user's rooms.
pub struct Recents {
    /// The rooms, each with its latest message, latest first.
    pub conversation: Vec<Written>,
    /// Whether there are more rooms.
    pub has_more: bool,
}

impl Chat {
    /// Returns a page of the messages of a room.
    pub async fn conversation(
        &self,
        user: UserId,
        room: &Arc<Room>,
        page: Page,
        limit: u64,
    ) -> Result<Conversation> {
        let hidden = self.hidden(room, user);
        let (page, ascends) = match page {
            Page::After(after) => (Page::After(after.max(hidden)), true),
            other => (other, false),
        };
        let mut bytes = if matches!(page, Page::Newest { .. }) {
            self.bytes_of_numbered()
        } else {
            LOG_BYTES
        };
        // Reads the next piece in the direction of the page.
        let next = |found: &[Message], count| {
            let page = match (found.last(), page) {
                (Some(last), Page::After(_)) => Page::After(last.seq),
                (Some(last), _) => Page::Before(last.seq),
                (None, page) => page,
            };
            async move {
                let mut piece = self.store.messages(room.id, page, count).await?;
                if !ascends {
                    piece.reverse();
                }
                Ok(piece)
            }
        };
        let rooms = [room.id];
        let found = pieces(limit.saturating_add(1), bytes, text_of, next);
        let (mut found, last) = tokio::try_join!(found, self.store.last_seqs(&rooms))?;
        found.retain(|message| message.seq > hidden);
        let shown = self.shown(room, found.iter()).await?;
        let write = |message: &Message| raw(&ConversationMessage::new(message, &shown));
        let (mut messages, has_more) = fitting(&found, limit, &mut bytes, write);
        found.truncate(messages.len());
        if !ascends {
            messages.reverse();
        }
        let authors: HashSet<_> = found.iter().map(|message| message.author).collect();
        let people = shown
            .people
            .into_iter()
            .filter(|(id, _)| authors.contains(id))
            .collect();
        Ok(Conversation {
            messages,
            people,
            last_seq: last.first().map(|(_, seq)| *seq).unwrap_or_default(),
            has_more,
        })
    }

    /// Returns the log entries of a room after `since`, at most `limit`, up to `up_to` or the end
    /// of the log. If `since` is beyond the end of the log, it starts from the beginning. The page
    /// ends before the first entry that does not fit into `bytes`; the bytes used are subtracted
    /// from it.
    pub async fn log(
        &self,
        user: UserId,
        room: &Arc<Room>,
        since: Seq,
        up_to: Option<Seq>,
        limit: u64,
        bytes: &mut u64,
    ) -> Result<LogPage> {
        let last_seq = match up_to {
            Some(seq) => seq,
            None => self
                .store
                .last_seqs(&[room.id])
                .await?
                .first()
                .map(|(_, seq)| *seq)
                .ok_or(Error::NoRoom)?,
        };
        let reset = since > last_seq;
        let hidden = self.hidden(room, user);
        let since = if reset { Seq(0) } else { since }.max(hidden);
        let limit = if *bytes == 0 || since >= last_seq {
            0
        } else {
            limit
        };
        let next = |found: &[Entry], count| {
            let after = found.last().map_or(since, |entry| entry.seq);
            self.store.entries(room.id, after, Some(last_seq), count)
        };
        let mut entries = pieces(
            limit,
            *bytes,
            |entry: &Entry| message_of(entry).map_or(0, text_of),
            next,
        )
        .await?;
        for entry in &mut entries {
            // The edit of a hidden message may be listed, because the log has no gaps; its text may
            // not.
            if let EntryKind::Edit { current, .. } = &mut entry.what {
                current.take_if(|message| message.seq <= hidden);
            }
        }
        let shown = self
            .shown(room, entries.iter().filter_map(message_of))
            .await?;
        let (written, _) = fitting(&entries, limit, bytes, |entry| {
            raw(&EntryView::new(entry, &shown))
        });
        entries.truncate(written.len());
        let has_more = entries.last().map_or(since, |entry| entry.seq) < last_seq;
        Ok(LogPage {
            success: None,
            entries: written,
            last_seq,
            has_more,
            reset: reset.then_some(true),
        })
    }

    /// Searches for messages with these words, in one room or in all rooms of the user.
    pub async fn search(
        &self,
        user: UserId,
        room: Option<&Room>,
        words: &str,
        before: Option<EntryPosition>,
        limit: u64,
    ) -> Result<Found> {
        let scope = match room {
            Some(room) => Scope::Room {
                room: room.id,
                after: self.hidden(room, user),
            },
            None => Scope::RoomsOf {
                user,
                since_joined: self.config.history == History::FromJoining,
            },
        };
        let (mut found, mut next, mut bytes) = (Vec::<Message>::new(), before, 0);
        for _ in 0..SEARCHES {
            let missing = limit
                .saturating_add(1)
                .saturating_sub(found.len() as u64)
                .min(FIRST_PIECE);
            let search = Search {
                scope,
                words: words.to_owned(),
                before: next,
                limit: missing,
            };
            let piece = self.store.search(search).await?;
            bytes += piece.messages.iter().map(text_of).sum::<u64>();
            found.extend(piece.messages);
            next = piece.next;
            if next.is_none() || found.len() as u64 > limit || bytes > LOG_BYTES {
                break;
            }
        }
        // A message that was deleted with its room in the meantime is left out.
        let there = try_join_all(found.iter().map(|message| self.if_there(message))).await?;
        let (mut messages, mut bytes, mut last) = (Vec::new(), LOG_BYTES, None);
        for (count, (message, there)) in found.iter().zip(there).enumerate() {
            let size = there
                .as_ref()
                .map_or(0, |written| written.get().len() as u64);
            if count as u64 >= limit || (size > bytes && !messages.is_empty()) {
                return Ok(Found {
                    messages,
                    next: last,
                });
            }
            bytes = bytes.saturating_sub(size);
            messages.extend(there);
            last = Some(EntryPosition::of(message));
        }
        Ok(Found { messages, next })
    }

    async fn if_there(&self, message: &Message) -> Result<Option<Written>> {
        let Some(room) = self.store.room(message.room).await? else {
            return Ok(None);
        };
        let shown = self.shown(&room, std::iter::once(message)).await?;
        Ok(Some(raw(&ConversationMessage::new(message, &shown))))
    }

    /// Returns a page of a user's rooms, ordered by their latest messages. With `with_empty`, rooms
    /// without messages are included, ordered by their creation, and every room is described.
    pub async fn recents(
        &self,
        user: UserId,
        skip: u64,
        limit: u64,
        with_empty: bool,
    ) -> Result<Recents> {
        let mut bytes = self.bytes_of_numbered();
        let since_joined = self.config.history == History::FromJoining;
        let next = |found: &[ListedRoom], limit| {
            let skip = skip.saturating_add(found.len() as u64);
            self.store.recents(RoomPage {
                user,
                since_joined,
                with_empty,
                skip,
                limit,
            })
        };
        let size = |listed: &ListedRoom| listed.latest.as_ref().map_or(0, text_of);
        let mut listed = pieces(limit.saturating_add(1), bytes, size, next).await?;
        // A message posted between two reads moves its room to the front, and so shifts a room of
        // the previous piece into the next one.
        let mut seen = HashSet::new();
        listed.retain(|listed| seen.insert(listed.room));
        let beyond = listed.len() as u64 > limit;
        listed.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let rooms: Vec<_> = listed.iter().map(|listed| listed.room).collect();
        let unread = self.store.unread(user, Some(&rooms)).await?;
        let found = try_join_all(
            listed
                .into_iter()
                .map(|listed| self.with_room(user, listed, with_empty)),
        )
        .await?;
        // Leaves out rooms that were deleted or left between the two reads.
        let of = |room: &Room| unread.iter().find(|unread| unread.room == room.id).copied();
        let found: Vec<(Unread, InRoom)> = found
            .into_iter()
            .flatten()
            .filter_map(|found| Some((of(&found.room)?, found)))
            .collect();
        let people = self
            .users_by_id(found.iter().flat_map(|(_, found)| found.mentioned_users()))
            .await?;
        let write = |(unread, found): &(Unread, InRoom)| {
            let described = found
                .present
                .as_ref()
                .map(|present| RoomView::new(&found.room, present, self.config.listed_members));
            raw(&RecentConversation::new(
                found.latest.as_ref(),
                &found.room,
                &found.shown,
                &people,
                *unread,
                described,
            ))
        };
        let (conversation, cut) = fitting(&found, limit, &mut bytes, write);
        Ok(Recents {
            conversation,
            has_more: beyond || cut,
        })
    }

    async fn with_room(
        &self,
        user: UserId,
        listed: ListedRoom,
        described: bool,
    ) -> Result<Option<InRoom>> {
        let Some(room) = self.store.room(listed.room).await? else {
            return Ok(None);
        };
        let shown = self.shown(&room, listed.latest.iter()).await?;
        // The user may have left the room and rejoined between the two reads.
        let latest = listed
            .latest
            .filter(|message| message.seq > self.hidden(&room, user));
        if latest.is_none() && !described {
            return Ok(None);
        }
        let present = if described {
            Some(self.present(&room).await?.into_owned())
        } else {
            None
        };
        Ok(Some(InRoom {
            latest,
            room,
            shown,
            present,
        }))
    }

    /// The byte limit of a page that is requested by its number. The next page starts where this
    /// one should have ended, so in open mode the page has the full length, as in the original
    /// application. In secure mode clients are not trusted, so it may end early and then has
    /// `has_more` set.
    fn bytes_of_numbered(&self) -> u64 {
        if self.access.is_secure() {
            LOG_BYTES
        } else {
            UNBOUNDED
        }
    }
}

/// A room in a list, with its latest message and the data shown along with it.
struct InRoom {
    latest: Option<Message>,
    room: Arc<Room>,
    shown: Shown,
    /// The members that are not deleted, if the room is described.
    present: Option<Vec<UserId>>,
}

impl InRoom {
    /// Returns the users whose names appear in a recent conversation.
    fn mentioned_users(&self) -> Vec<UserId> {
        let author = self.latest.as_ref().map(|message| message.author);
        let readers = self.shown.marks.iter().map(|mark| mark.user).chain(author);
        if self.shown.large.is_some() {
            readers.collect()
        } else {
            readers.chain(self.room.members.iter().copied()).collect()
        }
    }
}

/// Returns the message of an entry, if it still exists.
fn message_of(entry: &Entry) -> Option<&Message> {
    match &entry.what {
        EntryKind::Message(message)
        | EntryKind::Edit {
            current: Some(message),
            ..
        } => Some(message),
        _ => None,
    }
}

/// Returns the minimum size of a serialized message.
fn text_of(message: &Message) -> u64 {
    message.text.len() as u64
}

/// Reads at most `limit` items, piece by piece, until their size exceeds `bytes`: then the last
/// item will not fit, unless it is the only one. `next` reads the given number of items after those
/// already found.
async fn pieces<T, F>(
    limit: u64,
    bytes: u64,
    size: impl Fn(&T) -> u64,
    next: impl Fn(&[T], u64) -> F,
) -> store::Result<Vec<T>>
where
    F: Future<Output = store::Result<Vec<T>>>,
{
    let (mut found, mut taken): (Vec<T>, u64) = (Vec::new(), 0);
    loop {
        let count = found.len() as u64;
        // Assumes that further items have the average size so far; [`MAX_PIECE`] bounds the
        // damage if some are much larger.
        let fit = taken.checked_div(count).map_or(FIRST_PIECE, |each| {
            (bytes.saturating_sub(taken) / each.max(1)).saturating_add(2)
        });
        let asked = if bytes == UNBOUNDED {
            limit
        } else {
            fit.min(MAX_PIECE)
        }
        .min(limit - count);
        if asked == 0 {
            return Ok(found);
        }
        let piece = next(&found, asked).await?;
        let is_last = (piece.len() as u64) < asked;
        for item in piece {
            taken = taken.saturating_add(size(&item));
            found.push(item);
            if taken > bytes && found.len() > 1 {
                return Ok(found);
            }
        }
        if is_last {
            return Ok(found);
        }
    }
}

/// Serializes at most `limit` items, as many as fit into `bytes` but at least one. Returns true if
/// some are left over; after one that did not fit, `bytes` is 0.
fn fitting<T>(
    items: &[T],
    limit: u64,
    bytes: &mut u64,
    write: impl Fn(&T) -> Written,
) -> (Vec<Written>, bool) {
    let mut written: Vec<Written> = Vec::new();
    for item in items {
        if written.len() as u64 >= limit {
            return (written, true);
        }
        let item = write(item);
        let size = item.get().len() as u64;
        if size > *bytes && !written.is_empty() {
            *bytes = 0;
            return (written, true);
        }
        *bytes = bytes.saturating_sub(size);
        written.push(item);
    }
    (written, false)
}
