//! Handlers of the events that clients send.

mod messages;
mod subscribe;
mod sync;

use std::{future::ready, sync::Arc};

use futures_util::future::Either;
use serde_json::{Value, json, value::RawValue};
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
    access::{Caller, Identity, shown},
    address::ClientAddress,
    budget::{MemoryBudget, Reservation},
    chat::Chat,
    error::{Error, Fault, Result},
    model::UserId,
    refusals,
    token::Claims,
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
}

fn id_of(caller: &Caller) -> Result<UserId> {
    caller.user().map(|user| user.id).ok_or(Error::NoIdentity)
}
