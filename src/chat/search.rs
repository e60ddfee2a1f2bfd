//! Searches for messages.

use futures_util::future::try_join_all;

use super::{
    page::{LOG_BYTES, Written},
    service::Chat,
};
use crate::{
    access::Action,
    auth::Caller,
    config::History,
    error::Result,
    model::{Message, Seq, Timestamp},
    store::{EntryPosition, Limit, Scope, SearchQuery},
    view::{ConversationMessage, raw},
};

/// The maximum number of store queries for one page of a search: one finds fewer messages than it
/// could if the search is expensive.
const MAX_QUERIES: usize = 16;

/// What to search for. `P` is the kind of position before which to search.
pub struct SearchRequest<P> {
    /// The words that a message must contain.
    pub words: String,
    /// The position before which to search; `None` for the latest messages.
    pub before: Option<P>,
    /// The maximum number of messages.
    pub limit: u64,
}

/// A page of search results.
pub struct SearchResults {
    /// The messages, newest first.
    pub messages: Vec<Written>,
    /// The position before which to continue; `None` if there is no more.
    pub next: Option<EntryPosition>,
}

impl Chat {
    /// Searches one room. Errors: those of reading in
    /// [`authorize`](crate::access::Access::authorize).
    pub async fn search_room(
        &self,
        caller: &Caller,
        room: &str,
        request: SearchRequest<Seq>,
    ) -> Result<SearchResults> {
        let room = self.access.authorize(caller, Action::Read, room).await?;
        let scope = Scope::Room {
            room: room.id,
            after: self.hidden(&room, caller.user.id),
        };
        let before = request.before.map(|seq| EntryPosition {
            at: Timestamp::default(),
            seq,
            room: room.id,
        });
        let request = SearchRequest {
            words: request.words,
            before,
            limit: request.limit,
        };
        self.search(scope, request).await
    }

    /// Searches all rooms of the caller.
    pub async fn search_all(
        &self,
        caller: &Caller,
        request: SearchRequest<EntryPosition>,
    ) -> Result<SearchResults> {
        let scope = Scope::RoomsOf {
            user: caller.user.id,
            since_joined: self.config.history == History::FromJoining,
        };
        self.search(scope, request).await
    }

    async fn search(
        &self,
        scope: Scope,
        request: SearchRequest<EntryPosition>,
    ) -> Result<SearchResults> {
        let (found, next) = self.find(scope, &request).await?;
        let written = try_join_all(found.iter().map(|message| self.write(message))).await?;
        let (mut messages, mut bytes, mut last) = (Vec::new(), LOG_BYTES, None);
        for (count, (message, written)) in found.iter().zip(written).enumerate() {
            let size = written
                .as_ref()
                .map_or(0, |written| written.get().len() as u64);
            if count as u64 >= request.limit || (size > bytes && !messages.is_empty()) {
                return Ok(SearchResults {
                    messages,
                    next: last,
                });
            }
            bytes = bytes.saturating_sub(size);
            messages.extend(written);
            last = Some(EntryPosition::of(message));
        }
        Ok(SearchResults { messages, next })
    }

    /// Returns the messages of a page, perhaps one more, and the position before which to continue.
    async fn find(
        &self,
        scope: Scope,
        request: &SearchRequest<EntryPosition>,
    ) -> Result<(Vec<Message>, Option<EntryPosition>)> {
        let mut left = Limit {
            items: request.limit.saturating_add(1),
            bytes: LOG_BYTES,
        };
        let (mut found, mut next) = (Vec::new(), request.before);
        for _ in 0..MAX_QUERIES {
            let query = SearchQuery {
                scope,
                words: request.words.clone(),
                before: next,
                limit: left,
            };
            let more = self.store.search.search(query).await?;
            let bytes: usize = more.messages.iter().map(|message| message.text.len()).sum();
            left.items = left.items.saturating_sub(more.messages.len() as u64);
            left.bytes = left.bytes.saturating_sub(bytes as u64);
            found.extend(more.messages);
            next = more.next;
            if next.is_none() || left.items == 0 || left.bytes == 0 {
                break;
            }
        }
        Ok((found, next))
    }

    /// Serializes a message; `None` if it was deleted with its room in the meantime.
    async fn write(&self, message: &Message) -> Result<Option<Written>> {
        let Some(room) = self.store.rooms.find(message.room).await? else {
            return Ok(None);
        };
        let shown = self.shown(&room, std::iter::once(message)).await?;
        Ok(Some(raw(&ConversationMessage::new(message, &shown))))
    }
}
