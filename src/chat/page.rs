//! Serializes the items of a page. A page is limited in bytes as well as in items: it must fit into
//! the memory of the server and of the client, however long its texts and names are, and a client
//! may request many pages and read none of them.

use serde_json::value::RawValue;

/// The maximum number of bytes of messages or entries in one response; the first item is always
/// included.
pub const LOG_BYTES: u64 = 4 * 1024 * 1024;

/// A serialized item.
pub(super) type Written = Box<RawValue>;

/// Serializes at most `limit` items, as many as fit into `bytes` but at least one. Returns true if
/// some are left over; after one that did not fit, `bytes` is 0.
///
/// A serialized message is longer than its text. So a page that the store ended at the same number
/// of bytes, see [`Limit`](crate::store::Limit), has an item that does not fit.
pub(super) fn fitting<T>(
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
