//! Operations on rooms, by REST and by socket: checks permissions and limits, executes the
//! operation and announces it to subscribers.

mod pages;

use std::{borrow::Cow, sync::Arc};

use futures_util::future::join_all;

use crate::{
    access::{Access, Action, Caller},
    clock::Clock,
    config::{History, RoomsConfig},
    error::{Error, Result},
    limits::Limits,
    model::{ClientId, MAX_ROOM, Message, MessageId, ReadMark, Room, Seq, User, UserId},
    store::{Marked, Store},
    timeline::{self, Draft, Edit, RoomEvent, RoomEventKind, Timeline},
    view::{Large, Members, People, Post, Shown, present, present_members},
};

pub use pages::{Conversation, Found, LOG_BYTES, Recents};

/// Executes the operations of callers on rooms.
#[derive(Clone)]
pub struct Chat {
    /// Authorizes callers.
    pub access: Access,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Appends entries to the logs.
    pub timeline: Timeline,
    /// Rate limits and quotas.
    pub limits: Arc<Limits>,
    /// The source of times and ids.
    pub clock: Clock,
    /// The settings of rooms.
    pub config: RoomsConfig,
}

/// A message that was posted.
pub struct Posted {
    /// The message in its current state: without its text if it has been deleted since.
    pub post: Post,
    /// Whether the author's client had sent it before.
    pub duplicate: bool,
}

/// The number of members added to a room concurrently.
const ADDED_AT_ONCE: usize = 32;

impl Chat {
    /// Posts a message, unless the author's client has sent it before.
    pub async fn post(
        &self,
        caller: &Caller,
        room: &str,
        text: String,
        client_id: Option<ClientId>,
    ) -> Result<Posted> {
        let author = author(caller)?;
        self.limits.post(author.id)?;
        let room = self.access.authorize(caller, Action::Post, room).await?;
        self.limits.store(author.id, text.len())?;
        let members = self.members(&room, &author).await?;
        let draft = Draft {
            room: Arc::clone(&room),
            author: Arc::clone(&author),
            members,
            text,
            client_id,
        };
        match self.timeline.post(draft).await? {
            timeline::Posted::Now(post) => Ok(Posted {
                post,
                duplicate: false,
            }),
            timeline::Posted::Before(message) => {
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
        let author = author(caller)?;
        self.limits.post(author.id)?;
        let room = self.access.authorize(caller, Action::Post, room).await?;
        let message = self.message_in(&room, message).await?;
        if message.author != author.id {
            return Err(self
                .access
                .deny(caller, "edit the message", None, Error::NotYourMessage));
        }
        self.limits.store(author.id, text.len())?;
        let members = self.members(&room, &author).await?;
        let marks = if self.large(&room).await?.is_some() {
            Some(self.marks_of(&room, &message).await?)
        } else {
            None
        };
        let edited = self
            .timeline
            .edit(Edit {
                room,
                message,
                author,
                members,
                text,
                marks,
            })
            .await?;
        edited.map(|(post, _)| post).ok_or(Error::NoMessage)
    }

    /// Returns the read marks of a message.
    async fn marks_of(&self, room: &Room, message: &Message) -> Result<Vec<ReadMark>> {
        Ok(self
            .store
            .read_marks(room.id, &room.members, message.seq, message.seq)
            .await?)
    }

    async fn message_in(&self, room: &Room, message: &str) -> Result<Message> {
        let id = MessageId::parse(message).ok_or(Error::NoMessage)?;
        self.store
            .message(id)
            .await?
            .filter(|message| message.room == room.id)
            .ok_or(Error::NoMessage)
    }

    /// Deletes a message. Returns false if it does not exist, or no longer.
    pub async fn delete_message(&self, caller: &Caller, message: &str) -> Result<bool> {
        self.count(caller)?;
        let Some(message) = self.access.authorize_delete(caller, message).await? else {
            return Ok(false);
        };
        let by = caller.user().map_or(UserId::NOBODY, |user| user.id);
        match self.timeline.delete(message.room, message.id, by).await {
            Ok(deleted) => Ok(deleted.is_some()),
            // The message was deleted with its room.
            Err(Error::NoRoom) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a room with all messages and returns their number. `None` if it does not exist, or
    /// no longer.
    pub async fn delete_room(&self, caller: &Caller, room: &str) -> Result<Option<u64>> {
        self.count(caller)?;
        let room = match self.access.authorize(caller, Action::Delete, room).await {
            Ok(room) => room,
            // Deleting a room that does not exist succeeds, as in the original application.
            Err(Error::NoRoom) => return Ok(None),
            Err(error) => return Err(error),
        };
        let chat = self.clone();
        run_detached(async move {
            let deleted = chat.store.delete_room(room.id).await?;
            if deleted.is_some() {
                chat.timeline
                    .tell(RoomEvent::transient(
                        room.id,
                        RoomEventKind::RoomDeleted(room.members.clone()),
                    ))
                    .await;
            }
            Ok(deleted)
        })
        .await
    }

    /// Marks a room as read, up to an entry or to the end of its log.
    pub async fn mark_read(
        &self,
        caller: &Caller,
        room: &str,
        up_to: Option<Seq>,
    ) -> Result<Marked> {
        let reader = author(caller)?;
        let room = self
            .access
            .authorize(caller, Action::MarkRead, room)
            .await?;
        self.limits.store(reader.id, 0)?;
        let chat = self.clone();
        run_detached(async move {
            let marked = chat
                .store
                .mark_read(room.id, reader.id, up_to, chat.clock.now())
                .await?
                .ok_or(Error::NotAMember)?;
            if let Some(mark) = marked.mark {
                let is_large = chat.large(&room).await?.is_some();
                chat.timeline
                    .tell(RoomEvent::transient(
                        room.id,
                        RoomEventKind::Read { mark, is_large },
                    ))
                    .await;
            }
            Ok(marked)
        })
        .await
    }

    /// Returns the existing room of these members, or creates one; a room with a name is always
    /// created. Returns true if the room is new.
    pub async fn initiate(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        if room.members.len() > MAX_ROOM {
            return Err(Error::TooManyMembers);
        }
        // Costs as much as adding the other members one by one.
        self.limits
            .posts(room.initiator, room.members.len().saturating_sub(1).max(1))?;
        self.limits
            .store(room.initiator, room.name.as_ref().map_or(0, String::len))?;
        let chat = self.clone();
        run_detached(async move {
            let (room, is_new) = chat.store.find_or_add_room(room).await?;
            if is_new {
                chat.timeline
                    .tell(RoomEvent::transient(
                        room.id,
                        RoomEventKind::RoomCreated(Arc::clone(&room)),
                    ))
                    .await;
            }
            Ok((room, is_new))
        })
        .await
    }

    /// Adds users to a room, except those who already are members. All of them are added, even if
    /// the caller drops the future.
    pub async fn add_members(
        &self,
        caller: &Caller,
        room: &str,
        users: Vec<Arc<User>>,
    ) -> Result<Arc<Room>> {
        let by = author(caller)?.id;
        let room = self.access.authorize(caller, Action::Change, room).await?;
        let new = users
            .iter()
            .filter(|user| !room.has_member(user.id))
            .count();
        if room.members.len() + new > MAX_ROOM {
            return Err(Error::TooManyMembers);
        }
        self.limits.posts(by, new)?;
        let chat = self.clone();
        run_detached(async move {
            // Several at once, so that they share a commit; in a large room, all at once would
            // delay the posts of everyone else.
            for users in users.chunks(ADDED_AT_ONCE) {
                let added = join_all(
                    users
                        .iter()
                        .map(|user| chat.timeline.add_member(room.id, user.id, by)),
                )
                .await;
                added.into_iter().collect::<Result<Vec<_>>>()?;
            }
            chat.store.room(room.id).await?.ok_or(Error::NoRoom)
        })
        .await
    }

    /// Removes a user from a room: the caller or another member. `None` if they are not a member.
    pub async fn remove_member(
        &self,
        caller: &Caller,
        room: &str,
        user: &str,
    ) -> Result<Option<Seq>> {
        let by = author(caller)?.id;
        self.limits.post(by)?;
        let leaves = UserId::parse(user) == Some(by);
        let room = self
            .access
            .authorize(
                caller,
                if leaves {
                    Action::Leave
                } else {
                    Action::Remove
                },
                room,
            )
            .await?;
        // The log decides whether the user is a member: the cached room may be out of date if
        // another server has changed it since.
        let Some(user) = UserId::parse(user) else {
            return Ok(None);
        };
        let required_members = self.access.authorize_remove(caller, &room, user).await?;
        Ok(self
            .timeline
            .remove_member(room.id, user, required_members, by)
            .await?
            .map(|placed| placed.seq))
    }

    /// Renames a room.
    pub async fn rename(&self, caller: &Caller, room: &str, name: String) -> Result<Arc<Room>> {
        let by = author(caller)?.id;
        self.limits.post(by)?;
        let room = self.access.authorize(caller, Action::Change, room).await?;
        self.limits.store(by, name.len())?;
        self.timeline.rename(room.id, Some(name), by).await?;
        self.store.room(room.id).await?.ok_or(Error::NoRoom)
    }

    /// Counts a change of the caller, if authenticated. With limits, unauthenticated callers cannot
    /// change anything.
    fn count(&self, caller: &Caller) -> Result<()> {
        caller
            .user()
            .map_or(Ok(()), |user| self.limits.post(user.id))
    }

    /// Returns the data shown along with messages of a room.
    pub async fn shown<'a>(
        &self,
        room: &Arc<Room>,
        messages: impl Iterator<Item = &'a Message> + Clone,
    ) -> Result<Shown> {
        let seqs = || messages.clone().map(|message| message.seq);
        let marks = match (seqs().min(), seqs().max()) {
            (Some(first), Some(last)) => {
                self.store
                    .read_marks(room.id, &room.members, first, last)
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
    #[must_use]
    pub fn hidden(&self, room: &Room, user: UserId) -> Seq {
        match self.config.history {
            History::All => Seq(0),
            History::FromJoining => Seq(room.visible_from(user).0.saturating_sub(1)),
        }
    }

    /// Returns the members to list in a room: all members, or in a large room the author, and the
    /// member count.
    async fn members(&self, room: &Arc<Room>, author: &Arc<User>) -> Result<Members> {
        self.listed(room, || vec![Arc::clone(author)]).await
    }

    /// Returns the members of a room as users; in a large room only those in `shown`, and the
    /// member count.
    pub async fn users(&self, room: &Arc<Room>, shown: &People) -> Result<Members> {
        let mentioned_users = || {
            let mut listed: Vec<_> = shown
                .values()
                .filter(|user| room.has_member(user.id))
                .cloned()
                .collect();
            listed.sort_unstable_by_key(|user| user.id);
            present(listed)
        };
        self.listed(room, mentioned_users).await
    }

    /// Returns the members of a room, or `instead` and the member count if there are too many to
    /// list.
    async fn listed(
        &self,
        room: &Arc<Room>,
        instead: impl FnOnce() -> Vec<Arc<User>>,
    ) -> Result<Members> {
        Ok(Members::of(
            self.store.as_ref(),
            room,
            self.config.listed_members,
            instead,
        )
        .await?)
    }

    /// Returns the members of a room that are not deleted, in ascending order.
    pub async fn present<'a>(&self, room: &'a Arc<Room>) -> Result<Cow<'a, [UserId]>> {
        Ok(present_members(self.store.as_ref(), room).await?)
    }

    /// Returns the member count if the room has too many members to list.
    async fn large(&self, room: &Arc<Room>) -> Result<Option<Large>> {
        let listed = self.config.listed_members;
        if room.members.len() <= listed {
            return Ok(None);
        }
        let members = self.present(room).await?.len();
        Ok((members > listed).then_some(Large { members, listed }))
    }

    /// Returns these users, reading each only once.
    pub async fn users_by_id(&self, ids: impl Iterator<Item = UserId>) -> Result<People> {
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        let people = self.store.users_by_id(&ids).await?;
        Ok(people.into_iter().map(|user| (user.id, user)).collect())
    }
}

/// Runs work in a task of its own, so that it completes, and is announced, once it has started: the
/// handler of a request is dropped at any await point when its client disconnects.
pub async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::internal(error.to_string())),
        },
    }
}

/// Returns the authenticated user. Operations in rooms require one.
fn author(caller: &Caller) -> Result<Arc<User>> {
    caller
        .identity
        .as_ref()
        .map(|identity| Arc::clone(&identity.user))
        .ok_or(Error::NoToken)
}
