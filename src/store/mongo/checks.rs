//! Checks which entries may not be appended, or would change nothing, in MongoDB.

use std::collections::{HashMap, HashSet};

use futures_util::future::try_join_all;
use mongodb::bson::{RawDocument, doc};

use super::{
    changes::{self, RoomState},
    connection::Connection,
    documents::{room_id, text_in},
    heads::{Head, Heads},
    indexes::by_name,
};
use crate::{
    model::{MessageId, RoomId, UserId, entry::Subject},
    store::{Appended, NewEntry, Result},
};

/// Returns how many of the waiting entries, from the first on, do not depend on a change by an
/// entry before them. Only these can be checked against the current state.
pub fn count_independent(entries: &[NewEntry], waiting: &[usize]) -> usize {
    if waiting
        .iter()
        .all(|index| entries[*index].change.subject().is_none())
    {
        // Only new messages, which do not depend on each other.
        return waiting.len();
    }
    let mut changed = HashSet::new();
    let depends = |entry: &NewEntry, changed: &HashSet<(RoomId, Subject)>| {
        let is_changed = |subject| changed.contains(&(entry.room, subject));
        is_changed(entry.subject())
            || (entry.change.is_for_members() && is_changed(Subject::Member(entry.author)))
            || entry
                .change
                .required_members()
                .iter()
                .any(|member| is_changed(Subject::Member(*member)))
    };
    for (position, index) in waiting.iter().enumerate() {
        let entry = &entries[*index];
        if depends(entry, &changed) {
            return position;
        }
        changed.insert((entry.room, entry.subject()));
    }
    waiting.len()
}

/// Returns the entries that may not be appended or would change nothing, with their answers.
/// Queries nothing for a message in a room whose members never changed.
pub async fn refused(
    connection: &Connection,
    entries: &[NewEntry],
    indices: &[usize],
    heads: &Heads,
) -> Result<HashMap<usize, Appended>> {
    let candidates: Vec<_> = indices
        .iter()
        .filter_map(|index| Some((*index, &entries[*index], heads.get(&entries[*index].room)?)))
        .collect();
    let messages = existing_messages(connection, &candidates);
    let rooms = room_states(connection, &candidates);
    let (messages, rooms) = tokio::try_join!(messages, rooms)?;
    let refused = |(index, entry, head): (usize, &NewEntry, &Head)| {
        Some((
            index,
            refusal(entry, head, &messages, rooms.get(&entry.room))?,
        ))
    };
    Ok(candidates.into_iter().filter_map(refused).collect())
}

/// An entry to check: its index in the batch, and the head of its log.
type Candidate<'a> = (usize, &'a NewEntry, &'a Head);

fn refusal(
    entry: &NewEntry,
    head: &Head,
    messages: &HashSet<(RoomId, MessageId)>,
    room: Option<&RoomState>,
) -> Option<Appended> {
    let is_member = |user: &UserId| room.is_some_and(|room| room.members.contains(user));
    if head.members_changed && entry.change.is_for_members() && !is_member(&entry.author) {
        return Some(Appended::NotAMember);
    }
    let required_members = entry.change.required_members();
    if !required_members.is_empty() && !required_members.iter().any(is_member) {
        return Some(Appended::NoRequiredMember);
    }
    (!changes::has_effect(entry, messages, room)).then_some(Appended::Unchanged)
}

/// Returns those of the messages to edit or delete that exist.
async fn existing_messages(
    connection: &Connection,
    candidates: &[Candidate<'_>],
) -> Result<HashSet<(RoomId, MessageId)>> {
    let changed_message = |entry: &NewEntry| match entry.change.subject() {
        Some(Subject::Message(message)) => Some(message.to_string()),
        _ => None,
    };
    let ids: Vec<_> = candidates
        .iter()
        .filter_map(|(_, entry, _)| changed_message(entry))
        .collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let found = connection
        .messages
        .find(doc! { "_id": { "$in": ids }, "deleted": null })
        .projection(doc! { "chatRoomId": 1 });
    let room_and_id = |message: &RawDocument| {
        Some((
            RoomId::parse(text_in(message, "chatRoomId"))?,
            MessageId::parse(text_in(message, "_id"))?,
        ))
    };
    let mut existing: HashSet<_> = connection
        .all(found, room_and_id)
        .await?
        .into_iter()
        .collect();
    existing.retain(|(room, message)| !connection.pending.is_deleted(*room, *message));
    Ok(existing)
}

/// Returns the state of the rooms, each with the relevant members, without pending removals.
async fn room_states(
    connection: &Connection,
    candidates: &[Candidate<'_>],
) -> Result<HashMap<RoomId, RoomState>> {
    let mut states = stored_room_states(connection, candidates).await?;
    for (room, state) in &mut states {
        let removed = connection.pending.removed_from(*room);
        state.members.retain(|member| !removed.contains(member));
    }
    Ok(states)
}

/// Returns the same from the documents only, regardless of pending effects.
async fn stored_room_states(
    connection: &Connection,
    candidates: &[Candidate<'_>],
) -> Result<HashMap<RoomId, RoomState>> {
    let needs_room = |entry: &NewEntry, head: &Head| {
        entry.change.is_of_room() || (head.members_changed && entry.change.is_for_members())
    };
    let candidates: Vec<_> = candidates
        .iter()
        .copied()
        .filter(|(_, entry, head)| needs_room(entry, head))
        .collect();
    let mut states = large_room_states(connection, &candidates).await?;
    let others: Vec<_> = candidates
        .into_iter()
        .map(|(_, entry, _)| entry)
        .filter(|entry| !states.contains_key(&entry.room))
        .collect();
    if !others.is_empty() {
        states.extend(read_rooms(connection, &others).await?);
    }
    Ok(states)
}

/// Reads the rooms of these entries, each with the members that the entries are about.
async fn read_rooms(
    connection: &Connection,
    entries: &[&NewEntry],
) -> Result<Vec<(RoomId, RoomState)>> {
    let (mut rooms, mut users) = (HashSet::new(), HashSet::new());
    for entry in entries {
        rooms.insert(entry.room.to_string());
        users.insert(entry.author.to_string());
        if let Subject::Member(user) = entry.subject() {
            users.insert(user.to_string());
        }
        let required_members = entry.change.required_members();
        users.extend(required_members.iter().map(ToString::to_string));
    }
    let members = doc! { "$setIntersection": ["$userIds", Vec::from_iter(users)] };
    let found = connection
        .rooms
        .find(doc! { "_id": { "$in": Vec::from_iter(rooms) }, "deletedAt": null })
        .projection(doc! { "name": 1, "userIds": members });
    let state = |room: &RawDocument| {
        let listed = room
            .get_array("userIds")
            .ok()
            .into_iter()
            .flatten()
            .flatten();
        let members = listed
            .filter_map(|id| UserId::parse(id.as_str()?))
            .collect();
        let name = room.get_str("name").ok().map(ToOwned::to_owned);
        Some((room_id(room)?, RoomState { name, members }))
    };
    connection.all(found, state).await
}

/// Returns the large rooms that no entry of the batch changes, and whose authors are all members,
/// as with nearly every post. Checking this with `$all` takes MongoDB a fraction of the time of
/// intersecting a few users with many members.
async fn large_room_states(
    connection: &Connection,
    candidates: &[Candidate<'_>],
) -> Result<HashMap<RoomId, RoomState>> {
    let mut authors: HashMap<_, HashSet<_>> = HashMap::new();
    for (_, entry, _) in candidates
        .iter()
        .filter(|(_, _, head)| head.active_until.is_none())
    {
        authors.entry(entry.room).or_default().insert(entry.author);
    }
    for (_, entry, _) in candidates
        .iter()
        .filter(|(_, entry, _)| entry.change.is_of_room())
    {
        authors.remove(&entry.room);
    }
    let all_are_members = authors.into_iter().map(async |(room, authors)| {
        let ids: Vec<_> = authors.iter().map(ToString::to_string).collect();
        let found = connection.rooms.find_one(
            doc! { "_id": room.to_string(), "userIds": { "$all": ids }, "deletedAt": null },
        );
        let found = found.projection(doc! { "_id": 1 }).hint(by_name("_id_"));
        let state = RoomState {
            name: None,
            members: authors,
        };
        Ok(connection.within(found).await?.map(|_| (room, state)))
    });
    Ok(try_join_all(all_are_members)
        .await?
        .into_iter()
        .flatten()
        .collect())
}
