//! The chat rooms that each socket has joined. socketioxide finds the sockets in a room; this
//! module finds and counts the rooms of a socket.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use socketioxide::extract::SocketRef;

use super::{is_closing, room_name};
use crate::{
    auth::Caller,
    error::{Error, Result},
    model::{RoomId, UserId},
};

/// Number of tracked users before users without sockets are removed.
const MIN_USERS: usize = 1_024;

/// The subscriptions of all sockets, with their limits.
pub struct Subscriptions {
    all: Arc<Count>,
    users: Mutex<HashMap<UserId, Weak<Count>>>,
    most_of_user: usize,
}

/// A number of subscriptions and its limit.
struct Count {
    number: AtomicUsize,
    most: usize,
}

/// The subscriptions of one socket.
struct SocketRooms {
    rooms: Mutex<Rooms>,
    all: Arc<Count>,
    /// The count for all sockets of the user, if the user is authenticated.
    user: Option<Arc<Count>>,
}

#[derive(Default)]
struct Rooms {
    ids: HashSet<RoomId>,
    /// The socket is closing and joins no more rooms.
    is_closed: bool,
}

impl Subscriptions {
    /// Creates the limits for all sockets and for the sockets of one authenticated user; 0 means no
    /// limit.
    pub fn new(most: usize, most_of_user: usize) -> Self {
        Self {
            all: Count::new(most),
            users: Mutex::default(),
            most_of_user,
        }
    }

    /// Prepares a socket for subscriptions, counted for its authenticated user if there is one.
    pub fn begin(&self, socket: &SocketRef) {
        let user = socket
            .extensions
            .get::<Caller>()
            .map(|caller| self.of_user(caller.user.id));
        socket.extensions.insert(Arc::new(SocketRooms {
            rooms: Mutex::default(),
            all: Arc::clone(&self.all),
            user,
        }));
    }

    fn of_user(&self, user: UserId) -> Arc<Count> {
        let mut users = self.users.lock();
        if let Some(count) = users.get(&user).and_then(Weak::upgrade) {
            return count;
        }
        // Removes unused entries before the map would grow, so that it holds at most twice the
        // entries in use.
        if users.len() >= MIN_USERS && users.len() == users.capacity() {
            users.retain(|_, count| count.strong_count() > 0);
        }
        let count = Count::new(self.most_of_user);
        users.insert(user, Arc::downgrade(&count));
        count
    }
}

impl Count {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            number: AtomicUsize::new(0),
            most: if most == 0 { usize::MAX } else { most },
        })
    }

    fn add_one(&self) -> bool {
        let fits = self.number.fetch_add(1, Ordering::Relaxed) < self.most;
        if !fits {
            self.take_off(1);
        }
        fits
    }

    fn take_off(&self, number: usize) {
        self.number.fetch_sub(number, Ordering::Relaxed);
    }

    fn has_room_for(&self, more: usize) -> bool {
        self.number.load(Ordering::Relaxed).saturating_add(more) <= self.most
    }
}

impl SocketRooms {
    fn add_one(&self) -> Result<()> {
        if let Some(user) = &self.user
            && !user.add_one()
        {
            return Err(Error::TooManySubscriptions);
        }
        if self.all.add_one() {
            return Ok(());
        }
        self.user.iter().for_each(|user| user.take_off(1));
        Err(Error::OutOfMemory)
    }

    fn take_off(&self, number: usize) {
        self.all.take_off(number);
        self.user.iter().for_each(|user| user.take_off(number));
    }

    fn leave_all(&self) {
        let mut rooms = self.rooms.lock();
        self.take_off(rooms.ids.len());
        *rooms = Rooms {
            is_closed: true,
            ..Rooms::default()
        };
    }
}

impl Drop for SocketRooms {
    fn drop(&mut self) {
        self.leave_all();
    }
}

/// Checks whether a socket may join these rooms, some of which it may have joined already.
///
/// Errors: [`Error::TooManySubscriptions`] if the user's sockets would be in too many rooms,
/// [`Error::OutOfMemory`] if all sockets together would.
pub fn may_subscribe(socket: &SocketRef, rooms: impl IntoIterator<Item = RoomId>) -> Result<()> {
    let Some(own) = own(socket) else {
        return Ok(());
    };
    let more = {
        let own = own.rooms.lock();
        rooms
            .into_iter()
            .filter(|room| !own.ids.contains(room))
            .count()
    };
    if own
        .user
        .as_ref()
        .is_some_and(|user| !user.has_room_for(more))
    {
        return Err(Error::TooManySubscriptions);
    }
    if own.all.has_room_for(more) {
        Ok(())
    } else {
        Err(Error::OutOfMemory)
    }
}

/// Returns whether a socket is in a room.
pub fn is_in(socket: &SocketRef, room: RoomId) -> bool {
    own(socket).is_some_and(|own| own.rooms.lock().ids.contains(&room))
}

/// Returns the rooms that a socket is in.
pub fn rooms_of(socket: &SocketRef) -> HashSet<RoomId> {
    own(socket).map_or_else(HashSet::new, |own| own.rooms.lock().ids.clone())
}

/// Joins a room. If the socket closes meanwhile it leaves all rooms again, because nothing else
/// would remove it. Returns false if the socket is in the room already or is closed.
///
/// Errors: see [`may_subscribe`].
pub fn subscribe(socket: &SocketRef, room: RoomId) -> Result<bool> {
    let Some(own) = own(socket) else {
        return Ok(false);
    };
    {
        // Held until socketioxide has joined the room too, because another task may be removing the
        // socket from the same room.
        let mut rooms = own.rooms.lock();
        if rooms.is_closed || rooms.ids.contains(&room) {
            return Ok(false);
        }
        own.add_one()?;
        rooms.ids.insert(room);
        socket.join(room_name(room));
    }
    let stays = socket.connected() && !is_closing(socket);
    if !stays {
        leave_all(socket);
    }
    Ok(stays)
}

/// Leaves a room.
pub fn unsubscribe(socket: &SocketRef, room: RoomId) {
    let Some(own) = own(socket) else { return };
    let mut rooms = own.rooms.lock();
    if rooms.ids.remove(&room) {
        own.take_off(1);
        socket.leave(room_name(room));
    }
}

/// Leaves all rooms permanently, including those of the user and the session.
pub fn leave_all(socket: &SocketRef) {
    if let Some(own) = own(socket) {
        own.leave_all();
    }
    socket.leave_all();
}

fn own(socket: &SocketRef) -> Option<Arc<SocketRooms>> {
    socket.extensions.get()
}
