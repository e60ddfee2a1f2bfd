//! Handlers of the events that clients send.

mod messages;
mod subscribe;
mod sync;

use std::{future::ready, sync::Arc};

use futures_util::future::Either;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use socketioxide::{
    ProtocolVersion,
    extract::{AckSender, Event, SocketRef, TryData},
};
use tracing::field::display;

use super::{
    Guard, SocketAuth, Sockets,
    commands::Command,
    guards::event_queue::{Arguments, EventQueue, Ticket},
    guards::handshake,
    guards::slow_clients::{disconnect_slow, reserve_send, wait_for_capacity},
    is_closing, join,
    subscriptions::unsubscribe,
    user_name,
};
use crate::{
    access::deny,
    address::ClientAddress,
    auth::{Caller, MaybeAuthenticated},
    budget::{MemoryBudget, Reservation},
    chat::Chat,
    error::{Error, Fault, Result},
    limits::Limits,
    model::UserId,
    refusals,
    view::raw,
};

/// The dependencies of the event handlers.
pub struct Handlers {
    /// Executes the requests of users.
    pub chat: Chat,
    /// Authenticates sockets.
    pub socket_auth: Arc<SocketAuth>,
    /// All connected sockets.
    pub sockets: Sockets,
    /// Rate limits.
    pub limits: Arc<Limits>,
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
                        let answer = async {
                            let memory = handlers
                                .budget
                                .begin(ClientAddress::of(&socket.req_parts().extensions));
                            let outcome = handlers.run(&socket, &name, &arguments, &memory).await;
                            if wait_for_capacity(&socket).await {
                                Handlers::acknowledge(&socket, ack, outcome, Some(&memory));
                            }
                        };
                        ticket.wait(answer).await;
                        drop(arrived);
                    });
                }
                (None, ..) => Error::ServerStopping,
                (_, Some(_), Err(_)) => {
                    Error::BadEvent("The arguments of the event cannot be read")
                }
                (_, None, _) => Error::TooManyEvents,
            };
            let refused = handlers.count(&socket).and(Err(refusal));
            Handlers::acknowledge(&socket, ack, refused, None);
            Either::Right(ready(()))
        },
    );
}

/// Starts processing the events that arrived while the socket was connecting.
pub fn connected(socket: &SocketRef) {
    socket.extensions.remove::<Connecting>();
}

/// The serialized acknowledgement of an event.
type Answer = Box<RawValue>;

/// Returns the acknowledgement of an event that returns no data.
fn done() -> Answer {
    #[derive(Serialize)]
    struct Done {
        success: bool,
    }
    raw(&Done { success: true })
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
        guard.connected(authenticated_user(socket));
        Ok(())
    }

    /// Counts an event against the user's rate limit, in secure mode.
    fn count(&self, socket: &SocketRef) -> Result<()> {
        authenticated_user(socket).map_or(Ok(()), |user| self.limits.event(user))
    }

    fn acknowledge(
        socket: &SocketRef,
        ack: AckSender,
        outcome: Result<Answer>,
        memory: Option<&Reservation>,
    ) {
        if let Err(Error::Internal(Fault(cause)) | Error::Unavailable(Fault(cause))) = &outcome {
            // Do not log the socket id: anyone who knows it could act for a client that polls.
            let user = authenticated_user(socket).map(display);
            if refusals::is_first(
                ClientAddress::of(&socket.req_parts().extensions),
                "events not carried out",
            ) {
                tracing::error!(user, %cause, "event handler failed");
            }
        }
        let answer = outcome.unwrap_or_else(|error| raw(&error.body()));
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
            return Err(Error::SocketClosing);
        }
        self.count(socket)?;
        let command = Command::read(event, arguments)?;
        if !socket.connected() && command.is_dropped_after_disconnect() {
            return Err(Error::SocketDisconnected);
        }
        let replaces_token = matches!(command, Command::RefreshToken(_));
        let sender = self.socket_auth.sender(socket, replaces_token).await?;
        self.execute(socket, sender, command, memory).await
    }

    async fn execute(
        &self,
        socket: &SocketRef,
        sender: MaybeAuthenticated,
        command: Command,
        memory: &Reservation,
    ) -> Result<Answer> {
        match command {
            Command::Identity(user) => self.identify(socket, &sender, user).await,
            Command::Subscribe { room, other } => {
                self.subscribe(socket, &sender, &room, other).await
            }
            Command::RefreshToken(token) => {
                self.socket_auth.replace(socket, &sender, &token).await?;
                Ok(done())
            }
            Command::Unsubscribe(room) => {
                unsubscribe(socket, room);
                Ok(done())
            }
            Command::SubscribeToAll => {
                let caller = self.acting(socket, sender).await?;
                self.subscribe_to_all(socket, &caller, memory).await
            }
            Command::SendMessage {
                room,
                text,
                client_id,
            } => {
                let caller = self.acting(socket, sender).await?;
                self.send_message(&caller, &room, text, client_id).await
            }
            Command::Sync(rooms) => {
                let caller = self.acting(socket, sender).await?;
                self.sync(socket, &caller, rooms, memory).await
            }
            Command::MarkRead { room, up_to } => {
                let caller = self.acting(socket, sender).await?;
                self.mark_read(&caller, &room, up_to).await
            }
            Command::Typing { room, begun } => {
                let caller = self.acting(socket, sender).await?;
                self.typing(socket, &caller, &room, begun).await
            }
        }
    }

    /// Returns the user that the sender acts as: the authenticated user or, in open mode, the
    /// claimed one. Errors: [`Error::NoIdentity`], [`Error::CallerGone`].
    async fn acting(&self, socket: &SocketRef, sender: MaybeAuthenticated) -> Result<Caller> {
        if let Some(caller) = sender.caller {
            return Ok(caller);
        }
        let Claimed(user) = socket.extensions.get().ok_or(Error::NoIdentity)?;
        let caller = self.socket_auth.unproven(socket, user).await?;
        caller.ok_or(Error::CallerGone)
    }

    /// Assigns a socket to the user that it claims, in open mode. In secure mode the socket already
    /// belongs to the user of its token, and only that user is accepted.
    async fn identify(
        &self,
        socket: &SocketRef,
        sender: &MaybeAuthenticated,
        user: UserId,
    ) -> Result<Answer> {
        if let Some(caller) = &sender.caller {
            if caller.is(user) {
                return Ok(done());
            }
            return Err(deny(sender, "be the user", Some(&user), Error::NotYou));
        }
        let caller = self.socket_auth.unproven(socket, user).await?;
        caller.ok_or(Error::NobodyToBe)?;
        let name = user_name(user);
        let former = socket
            .rooms()
            .into_iter()
            .filter(|room| super::is_user_name(room) && *room != name);
        socket.leave(former.collect::<Vec<_>>());
        socket.extensions.insert(Claimed(user));
        join(socket, name);
        self.sockets.track(socket, user);
        Ok(done())
    }
}

fn authenticated_user(socket: &SocketRef) -> Option<UserId> {
    let caller = socket.extensions.get::<Caller>();
    caller.map(|caller| caller.user.id)
}
