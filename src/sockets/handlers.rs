//! Handlers of the events that clients send.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::ready,
    sync::Arc,
};

use futures_util::future::Either;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use socketioxide::{
    ProtocolVersion,
    extract::{AckSender, Event, SocketRef, TryData},
};
use tokio::sync::oneshot;
use tracing::field::display;

use super::{
    Guard, SocketAuth, Sockets,
    event_queue::{Arguments, EventQueue, Ticket},
    events::Command,
    handshake, is_closing, join,
    slow_clients::{disconnect_slow, reserve_send, wait_for_capacity},
    subscriptions::{may_subscribe, subscribe, unsubscribe},
    user_name,
};
use crate::{
    access::{Action, Caller, Identity, shown},
    address::ClientAddress,
    budget::{COPIES_OF_A_PAGE, MemoryBudget, Reservation},
    chat::{Chat, LOG_BYTES},
    error::{Error, Fault, Result},
    model::{ClientId, Room, RoomId, Seq, UserId},
    refusals,
    token::Claims,
    view::{MarkedView, Post, raw},
};

/// Maximum number of rooms that are entered in one batch.
const ROOMS_AT_ONCE: u64 = 1_000;
/// Maximum number of entries in the answer to `sync`, per room and in total.
const ENTRIES_OF_A_ROOM: u64 = 1_000;
const ENTRIES_AT_ONCE: u64 = 5_000;

/// Maximum length of a message with the default settings, in bytes.
const LONG_MESSAGE: u64 = 100_000;

/// The dependencies of the event handlers.
pub struct Handlers {
    /// Executes the requests of users.
    pub chat: Chat,
    /// Authenticates sockets.
    pub socket_auth: Arc<SocketAuth>,
    /// All connected sockets.
    pub sockets: Sockets,
    /// The memory budget for answers.
    pub budget: Arc<MemoryBudget>,
}

/// The user that a socket claims to belong to, in open mode.
#[derive(Clone, Copy)]
struct Claimed(UserId);

/// Held by a socket from its creation until it is connected, so that its events wait until then.
#[derive(Clone)]
struct Connecting(#[expect(dead_code, reason = "dropping it is what it is for")] Arc<Ticket>);

/// Registers the handler for the events of a socket that is about to connect. Events are processed
/// one at a time. This must happen before the client is notified that it is connected, because an
/// event without a handler is lost.
fn listen(handlers: &Arc<Handlers>, socket: &SocketRef) {
    let (handlers, event_queue) = (Arc::clone(handlers), Arc::new(EventQueue::default()));
    if let Some(first) = event_queue.take(0) {
        socket.extensions.insert(Connecting(Arc::new(first)));
    }
    socket.on_fallback(
        move |socket: SocketRef,
              Event(name): Event,
              arguments: TryData<Arguments>,
              ack: AckSender| {
            // Tickets are taken here and not in the future, because this closure runs in the order in
            // which the events arrived. Events without a ticket are refused here too: refusals sent
            // from separate tasks could arrive much later in a burst and fill the buffer needed for
            // other events.
            let ticket =
                event_queue.take(name.len() + arguments.as_ref().map_or(0, Arguments::bytes));
            let refusal = match (handlers.sockets.events.arrives(), ticket, arguments.0) {
                (Some(arrived), Some(ticket), Ok(Arguments(arguments))) => {
                    return Either::Left(async move {
                        let answered = async {
                            let memory = handlers
                                .budget
                                .begin(ClientAddress::of(&socket.req_parts().extensions));
                            let outcome = handlers.run(&socket, &name, &arguments, &memory).await;
                            if wait_for_capacity(&socket).await {
                                Handlers::acknowledge(&socket, ack, outcome, Some(&memory));
                            }
                        };
                        ticket.wait(answered).await;
                        drop(arrived);
                    });
                }
                (None, ..) => "The server is stopping",
                (_, Some(_), Err(_)) => "The arguments of the event cannot be read",
                (_, None, _) => "Too many events at once",
            };
            let refused = handlers.count(&socket).and(Err(Error::BadEvent(refusal)));
            Handlers::acknowledge(&socket, ack, refused, None);
            Either::Right(ready(()))
        },
    );
}

/// Starts processing the events that arrived while the socket was connecting.
pub fn connected(socket: &SocketRef) {
    socket.extensions.remove::<Connecting>();
}

/// A room that a socket has entered, and the last log entry before the socket's subscription. The
/// socket receives everything after that entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entered {
    chat_room_id: RoomId,
    last_seq: Seq,
}

/// Maximum size of an [`Entered`] in an answer, in bytes.
const ENTERED_BYTES: u64 = 100;

/// The serialized acknowledgement of an event.
type Answer = Box<RawValue>;

fn done() -> Answer {
    raw(&json!({ "success": true }))
}

impl Handlers {
    /// Authenticates and connects a socket. Errors are sent as `connect_error`.
    pub async fn connect(self: Arc<Self>, socket: &SocketRef, auth: Value) -> Result<()> {
        let guard = Guard::of(socket).ok_or_else(|| Error::internal("connection has no guard"))?;
        let authorized = match handshake::take_slot(socket).await {
            Ok(()) => self.socket_auth.authorize(socket, &auth).await,
            refused => refused,
        };
        if authorized.is_err() && socket.protocol() == ProtocolVersion::V4 {
            // Clients of socket.io 2 send CONNECT once, when the connection opens, and never retry
            // on the same connection.
            guard.close_refused();
        }
        authorized?;
        // Must happen before the client is notified that it is connected, because it may disconnect
        // from then on.
        self.sockets.on_disconnect(&self.socket_auth, socket);
        listen(&self, socket);
        guard.connected(
            socket
                .extensions
                .get::<Identity>()
                .map(|identity| identity.user.id),
        );
        Ok(())
    }

    /// Counts an event against the user's rate limit, in secure mode.
    fn count(&self, socket: &SocketRef) -> Result<()> {
        let user = socket
            .extensions
            .get::<Identity>()
            .map(|identity| identity.user.id);
        user.map_or(Ok(()), |user| self.chat.limits.event(user))
    }

    fn acknowledge(
        socket: &SocketRef,
        ack: AckSender,
        outcome: Result<Answer>,
        memory: Option<&Reservation>,
    ) {
        if let Err(Error::Internal(Fault(cause)) | Error::Unavailable(Fault(cause))) = &outcome {
            // Do not log the socket id: anyone who knows it could act for a client that polls.
            let user = socket
                .extensions
                .get::<Identity>()
                .map(|identity| display(identity.user.id));
            if refusals::is_first(
                ClientAddress::of(&socket.req_parts().extensions),
                "events not carried out",
            ) {
                tracing::error!(user, %cause, "event handler failed");
            }
        }
        let answer = outcome.unwrap_or_else(|error| raw(&error.to_json()));
        if reserve_send(socket, answer.get().len(), memory) {
            // A failure means that the client has disconnected or reads too slowly; it needs no
            // answer.
            let _ = ack.send(&answer);
        } else if socket.connected() {
            disconnect_slow(socket);
        }
    }

    async fn run(
        &self,
        socket: &SocketRef,
        event: &str,
        arguments: &[Value],
        memory: &Reservation,
    ) -> Result<Answer> {
        if is_closing(socket) || self.sockets.events.is_over() {
            return Err(Error::BadEvent("This socket is being closed"));
        }
        self.count(socket)?;
        let command = Command::read(event, arguments)?;
        if !socket.connected() && command.concerns_the_socket_alone() {
            return Err(Error::BadEvent("This socket has left"));
        }
        let caller = self
            .socket_auth
            .caller(socket, matches!(command, Command::RefreshToken(_)))
            .await?;
        match command {
            Command::Identity(user) => self.identify(socket, &caller, user).await.map(|()| done()),
            Command::Subscribe { room, other } => self
                .subscribe(socket, &caller, &room, other)
                .await
                .map(|()| done()),
            Command::RefreshToken(token) => self
                .socket_auth
                .replace(socket, &caller, &token)
                .await
                .map(|()| done()),
            Command::Unsubscribe(room) => {
                unsubscribe(socket, room);
                Ok(done())
            }
            Command::SubscribeToAll => {
                self.subscribe_to_all(socket, &self.acting(socket, caller).await?, memory)
                    .await
            }
            Command::SendMessage {
                room,
                text,
                client_id,
            } => {
                self.send_message(&self.acting(socket, caller).await?, &room, text, client_id)
                    .await
            }
            Command::Sync(rooms) => {
                self.sync(socket, &self.acting(socket, caller).await?, rooms, memory)
                    .await
            }
            Command::MarkRead { room, up_to } => {
                self.mark_read(&self.acting(socket, caller).await?, &room, up_to)
                    .await
            }
            Command::Typing { room, begun } => {
                self.typing(socket, &self.acting(socket, caller).await?, &room, begun)
                    .await
            }
        }
    }

    /// Returns the caller with the user they act as: the authenticated user or, in open mode, the
    /// claimed one.
    async fn acting(&self, socket: &SocketRef, caller: Caller) -> Result<Caller> {
        if caller.identity.is_some() {
            return Ok(caller);
        }
        let Claimed(id) = socket.extensions.get().ok_or(Error::NoIdentity)?;
        let user = self.chat.store.user(id).await?.ok_or(Error::CallerGone)?;
        let token = Claims {
            user: id,
            session: None,
            ends: None,
        };
        Ok(Caller {
            identity: Some(Identity { user, token }),
            ..caller
        })
    }

    /// Assigns a socket to the user that it claims, in open mode. In secure mode the socket already
    /// belongs to the user of its token, and only that user is accepted.
    async fn identify(&self, socket: &SocketRef, caller: &Caller, user: UserId) -> Result<()> {
        let access = &self.chat.access;
        if let Some(authenticated) = caller.user() {
            if authenticated.id == user {
                return Ok(());
            }
            return Err(access.deny(caller, "be the user", shown(Some(&user)), Error::NotYou));
        }
        self.chat.store.user(user).await?.ok_or(Error::NobodyToBe)?;
        let name = user_name(user);
        let former = socket
            .rooms()
            .into_iter()
            .filter(|room| super::is_user_name(room) && *room != name);
        socket.leave(former.collect::<Vec<_>>());
        socket.extensions.insert(Claimed(user));
        join(socket, name);
        self.sockets.track(socket, user);
        Ok(())
    }

    async fn subscribe(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        id: &str,
        other: Option<UserId>,
    ) -> Result<()> {
        let room = self.authorize(caller, id, other).await?;
        if self.chat.store.is_shared() {
            // With a shared store, the timeline must know a room before it can detect new entries
            // in the room's log.
            self.chat.timeline.barrier(vec![room.id], || ()).await?;
        }
        may_subscribe(socket, [room.id])?;
        let siblings = other
            .map(|other| socket.within(user_name(other)).sockets())
            .unwrap_or_default();
        // Excludes sockets that are in the room already, so that a failure does not unsubscribe
        // them.
        let brought: Vec<_> = siblings
            .into_iter()
            .filter(|sibling| matches!(subscribe(sibling, room.id), Ok(true)))
            .collect();
        subscribe(socket, room.id)?;
        // If the user lost access meanwhile, their sockets were unsubscribed, perhaps before this
        // subscription. Check again.
        let authorized = self.authorize(caller, id, other).await;
        if authorized.is_err() {
            unsubscribe(socket, room.id);
            if !self.is_member(room.id, other).await {
                for sibling in &brought {
                    unsubscribe(sibling, room.id);
                }
            }
        }
        authorized.map(drop)
    }

    /// Returns whether the other user is a member of the room and so may have subscribed to it
    /// themselves. False if the database does not answer.
    async fn is_member(&self, room: RoomId, other: Option<UserId>) -> bool {
        let Some(other) = other else { return false };
        self.chat
            .store
            .room(room)
            .await
            .is_ok_and(|room| room.is_some_and(|room| room.has_member(other)))
    }

    /// Returns the room if the caller may subscribe to it. In secure mode, `other` must be a member
    /// too.
    async fn authorize(
        &self,
        caller: &Caller,
        room: &str,
        other: Option<UserId>,
    ) -> Result<Arc<Room>> {
        let access = &self.chat.access;
        let room = access.authorize(caller, Action::Subscribe, room).await?;
        match other {
            Some(other) if access.is_secure() && !room.has_member(other) => Err(access.deny(
                caller,
                "subscribe for the user",
                shown(Some(&other)),
                Error::OtherNotAMember,
            )),
            _ => Ok(room),
        }
    }

    async fn subscribe_to_all(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        memory: &Reservation,
    ) -> Result<Answer> {
        #[derive(Serialize)]
        struct Subscribed {
            success: bool,
            rooms: Vec<Entered>,
        }
        let user = id_of(caller)?;
        let (mut pieces, mut count, mut after) = (Vec::new(), 0, None);
        loop {
            let piece = self.chat.store.rooms_of(user, after, ROOMS_AT_ONCE).await?;
            after = piece.last().copied();
            let is_last = (piece.len() as u64) < ROOMS_AT_ONCE;
            count += piece.len();
            pieces.push(piece);
            if is_last {
                break;
            }
        }
        self.chat.limits.read(user, count)?;
        may_subscribe(socket, pieces.iter().flatten().copied())?;
        memory
            .take_for_user(user, COPIES_OF_A_PAGE * ENTERED_BYTES * count as u64)
            .await?;
        let mut rooms = Vec::with_capacity(count);
        for piece in pieces {
            rooms.extend(self.enter(socket, user, piece).await?);
        }
        Ok(raw(&Subscribed {
            success: true,
            rooms,
        }))
    }

    /// Subscribes a socket to rooms between two broadcasts, so that it receives exactly the events
    /// after the log entries in the answer.
    async fn enter(
        &self,
        socket: &SocketRef,
        user: UserId,
        rooms: Vec<RoomId>,
    ) -> Result<Vec<Entered>> {
        let (joining, names) = (socket.clone(), rooms.clone());
        let (tell, told) = oneshot::channel();
        let join_all = move || {
            let mut entered = HashSet::new();
            let refused = names.into_iter().try_for_each(|room| {
                if subscribe(&joining, room)? {
                    entered.insert(room);
                }
                Ok(())
            });
            // The receiver is dropped if the client has disconnected.
            let _ = tell.send((entered, refused));
        };
        let ends = self.chat.timeline.barrier(rooms, join_all).await?;
        let (mut unchecked, refused) = told.await.unwrap_or_else(|_| (HashSet::new(), Ok(())));
        let checked = match refused {
            Ok(()) => self.check(socket, user, ends, &mut unchecked).await,
            Err(error) => Err(error),
        };
        // Left over if the database did not answer, the room is gone, or the subscription limit was
        // reached.
        for room in unchecked {
            unsubscribe(socket, room);
        }
        checked
    }

    /// Returns those of the rooms that the user is a member of, and unsubscribes the socket from
    /// the others. A user who lost access meanwhile was unsubscribed, perhaps before this
    /// subscription, so membership is checked again.
    async fn check(
        &self,
        socket: &SocketRef,
        user: UserId,
        ends: Vec<(RoomId, Seq)>,
        unchecked: &mut HashSet<RoomId>,
    ) -> Result<Vec<Entered>> {
        let mut entered = Vec::with_capacity(ends.len());
        for (id, end) in ends {
            match self
                .chat
                .store
                .room(id)
                .await?
                .filter(|room| room.has_member(user))
            {
                Some(_) => entered.push(Entered {
                    chat_room_id: id,
                    last_seq: end,
                }),
                None => unsubscribe(socket, id),
            }
            unchecked.remove(&id);
        }
        Ok(entered)
    }

    async fn send_message(
        &self,
        caller: &Caller,
        room: &str,
        text: String,
        client_id: Option<ClientId>,
    ) -> Result<Answer> {
        #[derive(Serialize)]
        struct Sent<'a> {
            success: bool,
            duplicate: bool,
            post: &'a Post,
        }
        let posted = self.chat.post(caller, room, text, client_id).await?;
        Ok(raw(&Sent {
            success: true,
            duplicate: posted.duplicate,
            post: &posted.post,
        }))
    }

    /// Subscribes to rooms and returns the log entries that the client has missed in each. A room
    /// that the caller may not read gets its own error; the others still succeed.
    async fn sync(
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

    async fn mark_read(&self, caller: &Caller, room: &str, up_to: Option<Seq>) -> Result<Answer> {
        Ok(raw(&MarkedView::from(
            self.chat.mark_read(caller, room, up_to).await?,
        )))
    }

    async fn typing(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        room: &str,
        begun: bool,
    ) -> Result<Answer> {
        let user = id_of(caller)?;
        let room = self
            .chat
            .access
            .authorize(caller, Action::Post, room)
            .await?;
        self.sockets.types(room.id, user, socket, begun);
        Ok(done())
    }
}

fn id_of(caller: &Caller) -> Result<UserId> {
    caller.user().map(|user| user.id).ok_or(Error::NoIdentity)
}
