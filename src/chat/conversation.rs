//! Reads the messages and the log of a room, page by page.

use std::{collections::HashSet, sync::Arc};

use super::{
    members::RoomDetails,
    page::{LOG_BYTES, Written, fitting},
    service::Chat,
};
use crate::{
    access::Action,
    auth::Caller,
    config::History,
    error::{Error, Result},
    model::{Entry, EntryKind, Message, Room, RoomId, Seq, UserId},
    store::{Limit, Page},
    view::{ConversationMessage, EntryView, LogPage, Members, People, Shown, raw},
};

/// A page of a conversation.
pub struct Conversation {
    /// The messages, ascending.
    pub messages: Vec<Written>,
    /// The members of the room or, if there are too many to list, the authors of the messages.
    pub users: Members,
    /// The room.
    pub room: RoomDetails,
    /// The last entry of the room's log.
    pub last_seq: Seq,
    /// Whether there are more messages beyond the page, in the direction requested.
    pub has_more: bool,
}

/// A page of messages, with their authors.
struct MessagePage {
    messages: Vec<Written>,
    authors: People,
    last_seq: Seq,
    has_more: bool,
}

/// The part of a log to read.
#[derive(Clone, Copy)]
pub struct LogRange {
    /// The entry after which to begin.
    pub since: Seq,
    /// The entry with which to end; `None` for the last one of the log.
    pub up_to: Option<Seq>,
    /// The maximum number of entries.
    pub limit: u64,
}

impl Chat {
    /// Returns a page of the messages of a room. Errors: those of reading in
    /// [`authorize`](crate::access::Access::authorize).
    pub async fn conversation(
        &self,
        caller: &Caller,
        room: &str,
        page: Page,
        limit: u64,
    ) -> Result<Conversation> {
        let room = self.access.authorize(caller, Action::Read, room).await?;
        let page = self.messages(caller.user.id, &room, page, limit).await?;
        let (users, details) = tokio::try_join!(
            self.users(&room, &page.authors),
            self.details(Arc::clone(&room)),
        )?;
        Ok(Conversation {
            messages: page.messages,
            users,
            room: details,
            last_seq: page.last_seq,
            has_more: page.has_more,
        })
    }

    async fn messages(
        &self,
        user: UserId,
        room: &Arc<Room>,
        page: Page,
        limit: u64,
    ) -> Result<MessagePage> {
        let hidden = self.hidden(room, user);
        let page = match page {
            Page::After(after) => Page::After(after.max(hidden)),
            page => page,
        };
        let mut bytes = if matches!(page, Page::Newest { .. }) {
            self.max_bytes_of_numbered_page()
        } else {
            LOG_BYTES
        };
        let one_more = Limit {
            items: limit.saturating_add(1),
            bytes,
        };
        let rooms = [room.id];
        let (mut found, last) = tokio::try_join!(
            self.store.history.messages(room.id, page, one_more),
            self.store.history.last_seqs(&rooms),
        )?;
        found.retain(|message| message.seq > hidden);
        let ascends = matches!(page, Page::After(_));
        if !ascends {
            found.reverse();
        }
        let shown = self.shown(room, found.iter()).await?;
        let write = |message: &Message| raw(&ConversationMessage::new(message, &shown));
        let (mut messages, has_more) = fitting(&found, limit, &mut bytes, write);
        found.truncate(messages.len());
        if !ascends {
            messages.reverse();
        }
        Ok(MessagePage {
            messages,
            authors: authors(&found, shown),
            last_seq: last.first().map(|(_, seq)| *seq).unwrap_or_default(),
            has_more,
        })
    }

    /// Returns the log entries of a room after `since`, at most `limit`. If `since` is beyond the
    /// end of the log, it starts from the beginning. Errors: those of reading in
    /// [`authorize`](crate::access::Access::authorize).
    pub async fn sync(
        &self,
        caller: &Caller,
        room: &str,
        since: Seq,
        limit: u64,
    ) -> Result<LogPage> {
        let room = self.access.authorize(caller, Action::Read, room).await?;
        let range = LogRange {
            since,
            up_to: None,
            limit,
        };
        self.log(caller.user.id, &room, range, &mut { LOG_BYTES })
            .await
    }

    /// Returns the log entries of a room in this range, for a user who may read it. If `since` is
    /// beyond the end, it starts from the beginning. The page ends before the first entry that does
    /// not fit into `bytes`; the bytes used are subtracted from it.
    pub async fn log(
        &self,
        user: UserId,
        room: &Arc<Room>,
        range: LogRange,
        bytes: &mut u64,
    ) -> Result<LogPage> {
        let last_seq = match range.up_to {
            Some(seq) => seq,
            None => self.last_seq(room.id).await?,
        };
        let reset = range.since > last_seq;
        let hidden = self.hidden(room, user);
        let since = if reset { Seq(0) } else { range.since }.max(hidden);
        let limit = Limit {
            items: range.limit,
            bytes: *bytes,
        };
        let mut entries = if limit.items == 0 || limit.bytes == 0 || since >= last_seq {
            Vec::new()
        } else {
            self.store
                .history
                .entries(room.id, since, Some(last_seq), limit)
                .await?
        };
        hide_edits_of(&mut entries, hidden);
        let shown = self
            .shown(room, entries.iter().filter_map(Entry::current_message))
            .await?;
        let (written, _) = fitting(&entries, limit.items, bytes, |entry| {
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

    async fn last_seq(&self, room: RoomId) -> Result<Seq> {
        let last = self.store.history.last_seqs(&[room]).await?;
        last.first().map(|(_, seq)| *seq).ok_or(Error::NoRoom)
    }

    /// Returns the data shown along with messages of a room.
    pub(super) async fn shown<'a>(
        &self,
        room: &Arc<Room>,
        messages: impl Iterator<Item = &'a Message> + Clone,
    ) -> Result<Shown> {
        let seqs = || messages.clone().map(|message| message.seq);
        let marks = match (seqs().min(), seqs().max()) {
            (Some(first), Some(last)) => {
                self.store
                    .read_marks
                    .between(room.id, &room.members, first, last)
                    .await?
            }
            _ => Vec::new(),
        };
        let people = self
            .users_by_id(messages.map(|message| message.author))
            .await?;
        Ok(Shown {
            people,
            marks,
            large: self.large(room).await?,
        })
    }

    /// Returns the last entry of the log that is hidden from a member.
    pub(super) fn hidden(&self, room: &Room, user: UserId) -> Seq {
        match self.config.history {
            History::All => Seq(0),
            History::FromJoining => room.visible_from(user).prev(),
        }
    }

    /// The byte limit of a page that is requested by its number, or `u64::MAX` for none. The next page starts where this
    /// one should have ended, so in open mode the page has the full length, as in the original
    /// application. In secure mode clients are not trusted, so it may end early and then has
    /// `has_more` set.
    pub(super) fn max_bytes_of_numbered_page(&self) -> u64 {
        if self.access.is_secure() {
            LOG_BYTES
        } else {
            u64::MAX
        }
    }
}

/// Returns the authors of messages.
fn authors(messages: &[Message], shown: Shown) -> People {
    let authors: HashSet<_> = messages.iter().map(|message| message.author).collect();
    let mut people = shown.people;
    people.retain(|id, _| authors.contains(id));
    people
}

/// Removes the texts of messages up to `hidden` from their edits: an edit of a hidden message may be
/// listed, because the log has no gaps; the text may not.
fn hide_edits_of(entries: &mut [Entry], hidden: Seq) {
    for entry in entries {
        if let EntryKind::Edit { current, .. } = &mut entry.what {
            current.take_if(|message| message.seq <= hidden);
        }
    }
}
