//! Posts, edits and deletes messages, and marks rooms as read.

use std::sync::Arc;

use super::service::Chat;
use crate::{
    access::{Action, deny},
    auth::{Caller, MaybeAuthenticated},
    background::run_detached,
    error::{Error, Result},
    model::{ClientId, Message, MessageId, ReadMark, Room, Seq, UserId},
    store::Marked,
    timeline::{self, EditMarks, PostContext, Transient},
    view::Post,
};

/// A message that was posted.
pub struct Posted {
    /// The message in its current state: without its text if it has been deleted since.
    pub post: Post,
    /// Whether the author's client had sent it before.
    pub duplicate: bool,
}

impl Chat {
    /// Posts a message, unless the author's client has sent it before.
    pub async fn post(
        &self,
        caller: &Caller,
        room: &str,
        text: String,
        client_id: Option<ClientId>,
    ) -> Result<Posted> {
        let author = Arc::clone(&caller.user);
        self.limits.post(author.id)?;
        let room = self.access.authorize(caller, Action::Post, room).await?;
        self.limits.store(author.id, text.len())?;
        let context = PostContext {
            author: Arc::clone(&author),
            members: self.members(&room, &author).await?,
        };
        match self
            .timeline
            .post(room.id, text, client_id, context)
            .await?
        {
            timeline::Posted::New(post) => Ok(Posted {
                post,
                duplicate: false,
            }),
            timeline::Posted::Duplicate(message) => {
                let (members, marks) =
                    tokio::try_join!(self.members(&room, &author), self.marks_of(&room, &message))?;
                Ok(Posted {
                    post: Post::new(&message, &author, &members, &marks),
                    duplicate: true,
                })
            }
        }
    }

    /// Edits a message of the caller. Errors: [`Error::NoMessage`], [`Error::NotYourMessage`].
    pub async fn edit(
        &self,
        caller: &Caller,
        room: &str,
        message: &str,
        text: String,
    ) -> Result<Post> {
        let author = Arc::clone(&caller.user);
        self.limits.post(author.id)?;
        let room = self.access.authorize(caller, Action::Post, room).await?;
        let message = self.message_in(&room, message).await?;
        if message.author != author.id {
            return Err(deny(
                caller,
                "edit the message",
                None,
                Error::NotYourMessage,
            ));
        }
        self.limits.store(author.id, text.len())?;
        let members = self.members(&room, &author).await?;
        let marks = if self.large(&room).await?.is_some() {
            EditMarks::Known(self.marks_of(&room, &message).await?)
        } else {
            EditMarks::Latest(room)
        };
        self.timeline
            .edit(message, text, PostContext { author, members }, marks)
            .await?
            .ok_or(Error::NoMessage)
    }

    /// Returns the read marks of a message.
    async fn marks_of(&self, room: &Room, message: &Message) -> Result<Vec<ReadMark>> {
        Ok(self
            .store
            .read_marks
            .between(room.id, &room.members, message.seq, message.seq)
            .await?)
    }

    async fn message_in(&self, room: &Room, message: &str) -> Result<Message> {
        let id = MessageId::parse(message).ok_or(Error::NoMessage)?;
        self.store
            .history
            .message(id)
            .await?
            .filter(|message| message.room == room.id)
            .ok_or(Error::NoMessage)
    }

    /// Deletes a message. Returns false if it does not exist, or no longer.
    pub async fn delete_message(&self, sender: &MaybeAuthenticated, message: &str) -> Result<bool> {
        self.count_change(sender)?;
        let message = self
            .access
            .authorize_delete_message(sender, message)
            .await?;
        let Some(message) = message else {
            return Ok(false);
        };
        let by = sender
            .caller
            .as_ref()
            .map_or(UserId::UNKNOWN, |caller| caller.user.id);
        match self.timeline.delete(message.room, message.id, by).await {
            Ok(deleted) => Ok(deleted.is_some()),
            // The message was deleted with its room.
            Err(Error::NoRoom) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Marks a room as read, up to an entry or to the end of its log.
    pub async fn mark_read(
        &self,
        caller: &Caller,
        room: &str,
        up_to: Option<Seq>,
    ) -> Result<Marked> {
        let reader = caller.user.id;
        let room = self
            .access
            .authorize(caller, Action::MarkRead, room)
            .await?;
        self.limits.store(reader, 0)?;
        let chat = self.clone();
        run_detached(async move {
            let marked = chat
                .store
                .read_marks
                .mark_read(room.id, reader, up_to, chat.clock.now())
                .await?
                .ok_or(Error::NotAMember)?;
            if let Some(mark) = marked.mark {
                let is_large = chat.large(&room).await?.is_some();
                let read = Transient::Read {
                    room: room.id,
                    mark,
                    is_large,
                };
                chat.timeline.announce(read).await;
            }
            Ok(marked)
        })
        .await
    }
}
