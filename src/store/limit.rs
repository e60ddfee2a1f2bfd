//! The maximum size of a page, and collecting a page up to it.

use super::ListedRoom;
use crate::model::{Entry, Message};

/// The maximum size of a page, in items and in bytes of their texts. A deleted message and an item
/// without a message count as 0 bytes.
///
/// The page ends when it has `items` items. It also ends with the first item, other than the first
/// of the page, by which its texts exceed `bytes`. So every page has an item if there is one, and a
/// caller that returns only items that fit into `bytes` sees from the last one that there are more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// The maximum number of items.
    pub items: u64,
    /// The number of bytes; `u64::MAX` for no limit.
    pub bytes: u64,
}

impl Limit {
    /// Creates a limit on the number of items only.
    #[must_use]
    pub const fn items(items: u64) -> Self {
        Self {
            items,
            bytes: u64::MAX,
        }
    }

    /// Returns whether the number of bytes is limited.
    pub(super) const fn has_byte_limit(self) -> bool {
        self.bytes < u64::MAX
    }
}

/// An item of a page.
pub(super) trait PageItem {
    /// Returns the message of the item in its current state, unless it has none.
    fn message(&self) -> Option<&Message>;
}

impl PageItem for Message {
    fn message(&self) -> Option<&Message> {
        Some(self)
    }
}

impl PageItem for Entry {
    fn message(&self) -> Option<&Message> {
        self.current_message()
    }
}

impl PageItem for ListedRoom {
    fn message(&self) -> Option<&Message> {
        self.latest.as_ref()
    }
}

/// Collects the items of a page, up to its limit.
pub(super) struct PageBuilder<T> {
    limit: Limit,
    items: Vec<T>,
    /// The size of the texts of the items.
    bytes: u64,
}

impl<T: PageItem> PageBuilder<T> {
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            items: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds an item.
    pub fn push(&mut self, item: T) {
        let text = item.message().map_or(0, |message| message.text.len());
        self.bytes = self.bytes.saturating_add(text as u64);
        self.items.push(item);
    }

    /// Adds items until the page is full. Returns false if some are left over.
    pub fn fill(&mut self, items: impl IntoIterator<Item = T>) -> bool {
        for item in items {
            if self.is_full() {
                return false;
            }
            self.push(item);
        }
        true
    }

    /// Returns whether the page has reached its limit.
    pub fn is_full(&self) -> bool {
        let count = self.items.len() as u64;
        count >= self.limit.items || (count > 1 && self.bytes > self.limit.bytes)
    }

    /// Returns the last item so far.
    pub fn last(&self) -> Option<&T> {
        self.items.last()
    }

    /// Returns the page.
    pub fn into_items(self) -> Vec<T> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MessageId, RoomId, Seq, Timestamp, UserId};

    /// Returns the sizes of those of these texts that are on the page.
    fn page(limit: Limit, texts: &[usize]) -> Vec<usize> {
        let mut page = PageBuilder::new(limit);
        let is_complete = page.fill(texts.iter().map(|length| message(*length)));
        assert_eq!(is_complete, page.items.len() == texts.len());
        page.into_items()
            .iter()
            .map(|message| message.text.len())
            .collect()
    }

    fn message(length: usize) -> Message {
        Message {
            id: MessageId::from_bytes([1; 16]),
            room: RoomId::from_bytes([2; 16]),
            seq: Seq(1),
            author: UserId::UNKNOWN,
            text: "x".repeat(length),
            created_at: Timestamp(0),
            edited_at: None,
            client_id: None,
        }
    }

    #[test]
    fn a_page_ends_with_the_item_that_exceeds_the_bytes() {
        let limit = |bytes| Limit { items: 4, bytes };
        assert_eq!(page(limit(5), &[2, 3, 1, 1]), [2, 3, 1]);
        assert_eq!(page(limit(4), &[2, 3, 1, 1]), [2, 3]);
        assert_eq!(page(limit(7), &[2, 3, 1, 1, 1]), [2, 3, 1, 1]);
        assert_eq!(page(limit(0), &[0, 0, 1, 1]), [0, 0, 1]);
    }

    #[test]
    fn a_first_item_that_exceeds_the_bytes_is_followed_by_one_more() {
        let limit = Limit { items: 4, bytes: 1 };
        assert_eq!(page(limit, &[9, 9, 9]), [9, 9]);
        assert_eq!(page(limit, &[9]), [9]);
        assert_eq!(page(Limit { items: 1, ..limit }, &[9, 9]), [9]);
    }

    #[test]
    fn a_page_without_a_byte_limit_ends_with_its_number_of_items() {
        assert_eq!(page(Limit::items(3), &[9, 9, 9, 9]), [9, 9, 9]);
        assert!(page(Limit::items(0), &[9]).is_empty());
    }
}
