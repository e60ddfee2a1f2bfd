//! Who may do what. The only place that decides; a handler gets the room from here, or it gets none.
//!
//! | action | open mode |
//! |---|---|
//! | read, post, mark as read | members |
//! | subscribe a socket, delete a room or a message | anyone, as in the original application |

use std::sync::Arc;

use crate::{
    config::AccessMode,
    error::{Error, Result},
    model::{Message, MessageId, Room, RoomId, User},
    store::Store,
};

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Somebody who proved to be this user.
    User(Arc<User>),
    /// Somebody who proved nothing.
    Anyone,
}

/// What they ask for.
///
/// To add one: the variant here, its row in the table above, its case in `Access::permits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// See the conversation.
    Read,
    /// Add a message.
    Post,
    /// Mark the conversation as read.
    MarkRead,
    /// Hear what happens in the room.
    Subscribe,
    /// Delete the room, or a message in it.
    Delete,
}

/// Decides by the mode that the server runs in.
#[derive(Clone)]
pub struct Access {
    mode: AccessMode,
    store: Arc<dyn Store>,
}

impl Access {
    /// Access to what is kept in `store`.
    #[must_use]
    pub fn new(mode: AccessMode, store: Arc<dyn Store>) -> Self {
        Self { mode, store }
    }

    /// The room with this id, if the caller may do this in it. Errors: [`Error::NoRoom`], [`Error::NotAMember`].
    pub async fn admit(&self, caller: &Caller, action: Action, room: &str) -> Result<Arc<Room>> {
        let room = match RoomId::parse(room) {
            Some(id) => self.store.room(id).await?,
            None => None,
        };
        let room = room.ok_or(Error::NoRoom)?;
        self.permits(caller, action, &room).then_some(room).ok_or(Error::NotAMember)
    }

    /// The message with this id, if the caller may do this in its room; `None` when there is no such message.
    pub async fn admit_to_message(&self, caller: &Caller, action: Action, message: &str) -> Result<Option<Message>> {
        let message = match MessageId::parse(message) {
            Some(id) => self.store.message(id).await?,
            None => None,
        };
        let Some(message) = message else { return Ok(None) };
        match self.store.room(message.room).await? {
            Some(room) if self.permits(caller, action, &room) => Ok(Some(message)),
            Some(_) => Err(Error::NotAMember),
            None => Ok(None),
        }
    }

    fn permits(&self, caller: &Caller, action: Action, room: &Room) -> bool {
        match (self.mode, action) {
            (AccessMode::Open, Action::Subscribe | Action::Delete) => true,
            (AccessMode::Open, Action::Read | Action::Post | Action::MarkRead) | (AccessMode::Secure, _) => match caller {
                Caller::User(user) => room.has_member(user.id),
                Caller::Anyone => false,
            },
        }
    }
}
