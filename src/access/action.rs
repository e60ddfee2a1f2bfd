//! What callers may do in rooms.

/// An action in a room that needs authorization.
///
/// To add one: add the variant here, its row in the table of the module `access` and
/// its case in `Access::permits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Read the conversation.
    Read,
    /// Post a message.
    Post,
    /// Mark the conversation as read.
    MarkRead,
    /// Subscribe to the events of the room.
    Subscribe,
    /// Add members, or rename the room.
    Change,
    /// Leave the room.
    Leave,
    /// Remove another member.
    Remove,
    /// Delete the room.
    Delete,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read the room",
            Self::Post => "post in the room",
            Self::MarkRead => "mark the room as read",
            Self::Subscribe => "subscribe to the room",
            Self::Change => "change the room",
            Self::Leave => "leave the room",
            Self::Remove => "remove another member from the room",
            Self::Delete => "delete the room",
        }
    }
}
