//! Sends events to the sockets of their audiences.

use std::collections::{HashMap, HashSet};

use futures_util::FutureExt;
use serde_json::value::RawValue;
use socketioxide::{
    BroadcastError, SocketError, extract::SocketRef, operators::BroadcastOperators,
};

use super::{
    Event, Sockets,
    events::Audience,
    guards::slow_clients::{disconnect_missed, disconnect_slow, has_capacity, reserve_send},
    removed_members::remove_from_room,
    socket::room_name,
    subscriptions::unsubscribe,
};
use crate::{
    accounts::DisconnectUsers,
    model::{RoomId, UserId},
    timeline::{RoomEvent, Subscribers},
    view,
};

impl Subscribers for Sockets {
    fn announce(&self, events: &[RoomEvent]) {
        let events: Vec<_> = events.iter().filter_map(Event::from_room_event).collect();
        self.broadcast_all(&events);
    }

    fn has_subscribers(&self, room: RoomId) -> bool {
        self.are_in(room)
    }

    fn interrupt(&self, room: RoomId) {
        self.close_room(room);
    }

    fn interrupt_user(&self, user: UserId) {
        self.close_user(user);
    }
}

impl Sockets {
    /// Sends each event to its audience, by default every socket in its room.
    pub(super) fn broadcast_all(&self, events: &[Event<'_>]) {
        for (room, events) in by_room(events) {
            let of_room = Audience {
                names: room.map(room_name).into_iter().collect(),
                except: None,
            };
            // The sockets in the room. Reset after an event with its own audience, which may change
            // them.
            let mut listeners = None;
            for event in events {
                match event.audience() {
                    None => {
                        let listeners =
                            listeners.get_or_insert_with(|| self.select(&of_room).sockets());
                        self.send(event, &of_room, listeners);
                    }
                    Some(audience) => {
                        self.send(event, &audience, &mut self.select(&audience).sockets());
                        self.follow(event);
                        listeners = None;
                    }
                }
            }
        }
    }

    /// Sends an event to the sockets of its audience whose buffers have capacity. The others are
    /// disconnected and removed from `listeners`.
    fn send(&self, event: &Event<'_>, audience: &Audience, listeners: &mut Vec<SocketRef>) {
        if listeners.is_empty() {
            return;
        }
        let json = view::raw(event);
        // A broadcast serializes the event once for all sockets but does not report whose buffer
        // was full, so capacity is checked first.
        listeners.retain(|listener| {
            let fits = has_capacity(listener) && reserve_send(listener, json.get().len(), None);
            if !fits {
                disconnect_slow(listener);
            }
            fits
        });
        if listeners.is_empty() {
            return;
        }
        let missed = self.broadcast(event.name(), &json, audience);
        if missed > 0 {
            // Include the sockets that joined after the capacity check.
            let known: HashSet<_> = listeners.iter().map(|listener| listener.id).collect();
            listeners.extend(
                self.select(audience)
                    .sockets()
                    .into_iter()
                    .filter(|listener| !known.contains(&listener.id)),
            );
            disconnect_missed(listeners, missed);
        }
    }

    /// Broadcasts an event. Returns how many sockets had no capacity in their buffers for it.
    fn broadcast(&self, event: &'static str, json: &RawValue, audience: &Audience) -> usize {
        let sending = self.select(audience).emit(event, json);
        // Sockets of this process are sent to synchronously, so the future is ready at once.
        match sending.now_or_never() {
            Some(Err(BroadcastError::Socket(errors))) => errors
                .iter()
                .filter(|error| matches!(error, SocketError::InternalChannelFull))
                .count(),
            Some(Err(error)) => {
                tracing::error!(%error, event, "event broadcast failed");
                0
            }
            Some(Ok(())) | None => 0,
        }
    }

    fn select(&self, audience: &Audience) -> BroadcastOperators {
        // The layer treats an empty list of rooms as all sockets.
        let names = if audience.names.is_empty() {
            vec!["nobody".to_owned()]
        } else {
            audience.names.clone()
        };
        let those = self.io.within(names);
        match &audience.except {
            Some(name) => those.except(name.clone()),
            None => those,
        }
    }

    /// Updates the subscriptions of the sockets after they have received an event.
    fn follow(&self, event: &Event<'_>) {
        match event {
            Event::MemberRemoved {
                chat_room_id,
                user_id,
                ..
            } => remove_from_room(&self.io, *chat_room_id, *user_id),
            Event::RoomDeleted { chat_room_id, .. } => {
                self.io
                    .within(room_name(*chat_room_id))
                    .sockets()
                    .iter()
                    .for_each(|socket| unsubscribe(socket, *chat_room_id));
            }
            _ => {}
        }
    }
}

/// Groups events by room and keeps their order. Events without a room form one group.
fn by_room<'a, 'b>(events: &'a [Event<'b>]) -> HashMap<Option<RoomId>, Vec<&'a Event<'b>>> {
    let mut rooms: HashMap<_, Vec<_>> = HashMap::new();
    for event in events {
        rooms.entry(event.room()).or_default().push(event);
    }
    rooms
}
