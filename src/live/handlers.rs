//! What each event of a client does.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::{Value, json};
use socketioxide::extract::{AckSender, Event, SocketRef, TryData};
use tokio::sync::oneshot;

use super::{Proofs, events::Command, is_closing, join, room_name, user_name};
use crate::{
    access::{Access, Action, Caller, Proof, shown},
    error::{Error, Fault, Result},
    limits::Limits,
    model::{Room, UserId},
    store::Store,
};

/// The most events of one socket that may be under way: a client may well subscribe to all its rooms in one go.
const UNDER_WAY: usize = 4_096;
/// How long an event waits for the one in front of it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What the handlers work with.
pub struct Handlers {
    /// Decides who may subscribe to what.
    pub access: Access,
    /// Knows the users.
    pub store: Arc<dyn Store>,
    /// Knows what sockets have proved.
    pub proofs: Arc<Proofs>,
    /// Knows who comes too often.
    pub limits: Arc<Limits>,
}

/// All arguments of an event, however many there are.
struct Arguments(Vec<Value>);

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Arguments;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the arguments of an event")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> std::result::Result<Arguments, A::Error> {
                let mut arguments = Vec::new();
                while let Some(argument) = sequence.next_element()? {
                    arguments.push(argument);
                }
                Ok(Arguments(arguments))
            }
        }
        // Of the shapes that a type can ask for, a tuple is the one for which the parser hands over every argument. JSON arrays have no
        // fixed length, so the one given here binds nobody.
        deserializer.deserialize_tuple(0, All)
    }
}

/// Held by a socket from its first moment until it is connected, so that events wait for that.
#[derive(Clone)]
struct Connecting(#[expect(dead_code, reason = "dropping it is what it is for")] Arc<Turn>);

/// Makes a socket that is about to connect answer to its client's events, one after the other. This has to come before the client is
/// told that it is connected: an event that finds nobody listening is lost.
pub fn listen(handlers: &Arc<Handlers>, socket: &SocketRef) {
    let (handlers, turns) = (Arc::clone(handlers), Arc::new(Turns::default()));
    if let Some(first) = turns.take() {
        socket.extensions.insert(Connecting(Arc::new(first)));
    }
    socket.on_fallback(move |socket: SocketRef, Event(name): Event, arguments: TryData<Arguments>, ack: AckSender| {
        // Taken here and not in the future: this runs in the order in which the events came in.
        let turn = turns.take();
        async move {
            let outcome = match (turn, &arguments.0) {
                (Some(turn), Ok(Arguments(arguments))) => turn.wait(handlers.run(&socket, &name, arguments)).await,
                (Some(_), Err(_)) => Err(Error::BadEvent("The arguments of the event cannot be read")),
                (None, _) => Err(Error::BadEvent("Too many events at once")),
            };
            acknowledge(&socket, ack, outcome);
        }
    });
}

/// Lets the events run that came in while the socket was connecting.
pub fn connected(socket: &SocketRef) {
    socket.extensions.remove::<Connecting>();
}

fn acknowledge(socket: &SocketRef, ack: AckSender, outcome: Result<()>) {
    if let Err(Error::Internal(Fault(cause)) | Error::Unavailable(Fault(cause))) = &outcome {
        tracing::error!(socket = %socket.id, %cause, "an event was not carried out");
    }
    let answer = outcome.map_or_else(|error| error.to_json(), |()| json!({ "success": true }));
    // A client that has gone away, or reads too slowly to be told, needs no answer.
    let _ = ack.send(&answer);
}

impl Handlers {
    async fn run(&self, socket: &SocketRef, event: &str, arguments: &[Value]) -> Result<()> {
        if is_closing(socket) {
            return Err(Error::BadEvent("This socket is being closed"));
        }
        if let Some(proof) = socket.extensions.get::<Proof>() {
            self.limits.event(proof.user.id)?;
        }
        let command = Command::read(event, arguments)?;
        let caller = self.proofs.caller(socket, matches!(command, Command::RefreshToken(_))).await?;
        match command {
            Command::Identity(user) => self.identify(socket, &caller, user).await,
            Command::Subscribe { room, other } => self.subscribe(socket, &caller, &room, other).await,
            Command::Unsubscribe(room) => {
                socket.leave(room_name(room));
                Ok(())
            }
            Command::RefreshToken(token) => self.proofs.replace(socket, &caller, &token).await,
        }
    }

    /// In open mode a socket belongs to whom it says; in secure mode it belongs to the user of its token already.
    async fn identify(&self, socket: &SocketRef, caller: &Caller, user: UserId) -> Result<()> {
        if let Some(proved) = caller.user() {
            return match proved.id == user {
                true => Ok(()),
                false => Err(self.access.refuse(caller, "be the user", shown(Some(&user)), Error::NotYou)),
            };
        }
        self.store.user(user).await?.ok_or(Error::NobodyToBe)?;
        let name = user_name(user);
        let former = socket.rooms().into_iter().filter(|room| super::is_user_name(room) && *room != name);
        socket.leave(former.collect::<Vec<_>>());
        join(socket, name);
        Ok(())
    }

    async fn subscribe(&self, socket: &SocketRef, caller: &Caller, id: &str, other: Option<UserId>) -> Result<()> {
        let room = self.admit(caller, id, other).await?;
        let name = room_name(room.id);
        let siblings = other.map(|other| socket.within(user_name(other)).sockets()).unwrap_or_default();
        let joining = || siblings.iter().chain([socket]);
        joining().for_each(|socket| join(socket, name.clone()));
        // Whoever lost the room meanwhile was taken out of it, perhaps before they were in.
        let admitted = self.admit(caller, id, other).await;
        if admitted.is_err() {
            joining().for_each(|socket| socket.leave(name.clone()));
        }
        admitted.map(drop)
    }

    /// The room, if the caller may subscribe to it, and in secure mode for the other user too.
    async fn admit(&self, caller: &Caller, room: &str, other: Option<UserId>) -> Result<Arc<Room>> {
        let room = self.access.admit(caller, Action::Subscribe, room).await?;
        match other {
            Some(other) if self.access.is_secure() && !room.has_member(other) => {
                Err(self.access.refuse(caller, "subscribe for the user", shown(Some(&other)), Error::OtherNotAMember))
            }
            _ => Ok(room),
        }
    }
}

/// Lets the events of one socket run in the order in which they came in, though each runs in a task of its own. An idle socket keeps
/// nothing but the end of the queue.
#[derive(Default)]
struct Turns {
    last: Mutex<Option<oneshot::Receiver<()>>>,
    under_way: Arc<AtomicUsize>,
}

/// A place in the queue. Dropping it lets the next one go on.
struct Turn {
    former: Option<oneshot::Receiver<()>>,
    _next: oneshot::Sender<()>,
    under_way: Arc<AtomicUsize>,
}

impl Turns {
    /// The next place; none when too many are taken.
    fn take(&self) -> Option<Turn> {
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= UNDER_WAY {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let (next, waits) = oneshot::channel();
        let former = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(waits);
        Some(Turn { former, _next: next, under_way: Arc::clone(&self.under_way) })
    }
}

impl Turn {
    async fn wait<T>(mut self, work: impl Future<Output = T>) -> T {
        if let Some(former) = self.former.take() {
            // An error: the one in front has dropped its end, which is how it says that it is through. The limit is for a socket that
            // never got connected after all.
            let _ = tokio::time::timeout(LONGEST_WAIT, former).await;
        }
        work.await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
