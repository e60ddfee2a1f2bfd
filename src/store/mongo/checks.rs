//! Checks which entries may not be appended, or would change nothing, in MongoDB.

use std::collections::{HashMap, HashSet};

use futures_util::future::try_join_all;
use mongodb::bson::{RawDocument, doc};

use super::{
    connection::Connection,
    documents::text_in,
    indexes::by_name,
    log::{Head, Heads},
};
use crate::{
    model::{MessageId, RoomId, UserId},
    store::{Appended, NewEntry, NewEntryKind, Result},
};

/// The subject of a change, by which entries of one batch can depend on each other.
#[derive(PartialEq, Eq, Hash)]
enum Subject {
    Message(MessageId),
    Member(RoomId, UserId),
    Name(RoomId),
}

/// Returns the subject that the entry changes.
fn changed_by(entry: &NewEntry) -> Subject {
    match &entry.change {
        NewEntryKind::Message { .. } => Subject::Message(entry.id),
        NewEntryKind::Edit { message, .. } | NewEntryKind::Deletion(message) => {
            Subject::Message(*message)
        }
        NewEntryKind::AddMember(user) | NewEntryKind::RemoveMember { user, .. } => {
            Subject::Member(entry.room, *user)
        }
        NewEntryKind::Rename(_) => Subject::Name(entry.room),
    }
}

/// Returns how many of the waiting entries, from the first on, do not depend on a change by an
/// entry before them. Only these can be checked against the current state.
pub fn first_wave(entries: &[NewEntry], waiting: &[usize]) -> usize {
    if waiting
        .iter()
        .all(|index| matches!(entries[*index].change, NewEntryKind::Message { .. }))
    {
        return waiting.len();
    }
    let mut changed = HashSet::new();
    let depends = |index: &usize, changed: &HashSet<Subject>| {
        let entry = &entries[*index];
        let author = Subject::Member(entry.room, entry.author);
        changed.contains(&changed_by(entry))
            || (entry.change.is_for_members() && changed.contains(&author))
            || entry
                .change
                .required_members()
                .iter()
                .any(|keeper| changed.contains(&Subject::Member(entry.room, *keeper)))
    };
    for (position, index) in waiting.iter().enumerate() {
        if depends(index, &changed) {
            return position;
        }
        changed.insert(changed_by(&entries[*index]));
    }
    waiting.len()
}

/// Returns the entries that may not be appended or would change nothing, with their answers.
/// Queries nothing for a message in a room whose members never changed.
pub async fn refused(
    connection: &Connection,
    entries: &[NewEntry],
    wave: &[usize],
    heads: &Heads,
) -> Result<HashMap<usize, Appended>> {
    let asked: Vec<_> = wave
        .iter()
        .filter_map(|index| Some((*index, &entries[*index], heads.get(&entries[*index].room)?)))
        .collect();
    let messages = messages(connection, &asked);
    let rooms = rooms(connection, &asked);
    let (messages, rooms) = tokio::try_join!(messages, rooms)?;
    let refused = |(index, entry, head): (usize, &NewEntry, &Head)| {
        Some((
            index,
            refusal(entry, head, &messages, rooms.get(&entry.room))?,
        ))
    };
    Ok(asked.into_iter().filter_map(refused).collect())
}

type Asked<'a> = [(usize, &'a NewEntry, &'a Head)];

/// The state of a room, as far as the checks need it.
struct Known {
    name: Option<String>,
    /// The relevant users who are members.
    members: HashSet<UserId>,
}

fn refusal(
    entry: &NewEntry,
    head: &Head,
    messages: &HashSet<(RoomId, MessageId)>,
    room: Option<&Known>,
) -> Option<Appended> {
    let is_member = |user: &UserId| room.is_some_and(|room| room.members.contains(user));
    if head.members_changed && entry.change.is_for_members() && !is_member(&entry.author) {
        return Some(Appended::NotAMember);
    }
    let required_members = entry.change.required_members();
    if !required_members.is_empty() && !required_members.iter().any(is_member) {
        return Some(Appended::NoRequiredMember);
    }
    let changes = match &entry.change {
        NewEntryKind::Message { .. } => true,
        NewEntryKind::Edit { message, .. } | NewEntryKind::Deletion(message) => {
            messages.contains(&(entry.room, *message))
        }
        NewEntryKind::AddMember(user) => !is_member(user),
        NewEntryKind::RemoveMember { user, .. } => is_member(user),
        NewEntryKind::Rename(name) => room.is_some_and(|room| room.name != *name),
    };
    (!changes).then_some(Appended::Unchanged)
}

/// Returns those of the messages to edit or delete that exist.
async fn messages(
    connection: &Connection,
    asked: &Asked<'_>,
) -> Result<HashSet<(RoomId, MessageId)>> {
    let target = |entry: &NewEntry| match &entry.change {
        NewEntryKind::Edit { message, .. } | NewEntryKind::Deletion(message) => {
            Some(message.to_string())
        }
        _ => None,
    };
    let ids: Vec<_> = asked
        .iter()
        .filter_map(|(_, entry, _)| target(entry))
        .collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let found = connection
        .messages
        .find(doc! { "_id": { "$in": ids }, "deleted": null })
        .projection(doc! { "chatRoomId": 1 });
    let there = |message: &RawDocument| {
        Some((
            RoomId::parse(text_in(message, "chatRoomId"))?,
            MessageId::parse(text_in(message, "_id"))?,
        ))
    };
    let mut there: HashSet<_> = connection.all(found, there).await?.into_iter().collect();
    there.retain(|(room, message)| !connection.pending.is_deleted(*room, *message));
    Ok(there)
}

/// Returns the state of the rooms, each with the relevant members, without pending removals.
async fn rooms(connection: &Connection, asked: &Asked<'_>) -> Result<HashMap<RoomId, Known>> {
    let mut known = stored_rooms(connection, asked).await?;
    for (room, known) in &mut known {
        let removed = connection.pending.removed_from(*room);
        known.members.retain(|member| !removed.contains(member));
    }
    Ok(known)
}

/// Returns the same from the documents only, regardless of pending effects.
async fn stored_rooms(
    connection: &Connection,
    asked: &Asked<'_>,
) -> Result<HashMap<RoomId, Known>> {
    let matters = |entry: &NewEntry, head: &Head| {
        entry.change.is_of_room() || (head.members_changed && entry.change.is_for_members())
    };
    let asked: Vec<_> = asked
        .iter()
        .filter(|(_, entry, head)| matters(entry, head))
        .collect();
    let mut known = large_rooms(connection, &asked).await?;
    let (mut rooms, mut people) = (HashSet::new(), HashSet::new());
    for (_, entry, _) in asked {
        if !known.contains_key(&entry.room) {
            rooms.insert(entry.room.to_string());
            people.insert(entry.author.to_string());
            if let Subject::Member(_, user) = changed_by(entry) {
                people.insert(user.to_string());
            }
            people.extend(
                entry
                    .change
                    .required_members()
                    .iter()
                    .map(ToString::to_string),
            );
        }
    }
    if rooms.is_empty() {
        return Ok(known);
    }
    let members = doc! { "$setIntersection": ["$userIds", Vec::from_iter(people)] };
    let found = connection
        .rooms
        .find(doc! { "_id": { "$in": Vec::from_iter(rooms) }, "deletedAt": null });
    let of_room = |room: &RawDocument| {
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
        Some((
            RoomId::parse(text_in(room, "_id"))?,
            Known { name, members },
        ))
    };
    let found = found.projection(doc! { "name": 1, "userIds": members });
    known.extend(connection.all(found, of_room).await?);
    Ok(known)
}

/// Returns the large rooms that no entry of the batch changes, and whose authors are all members,
/// as with nearly every post. Checking this with `$all` takes MongoDB a fraction of the time of
/// intersecting a few users with many members.
async fn large_rooms(
    connection: &Connection,
    asked: &[&(usize, &NewEntry, &Head)],
) -> Result<HashMap<RoomId, Known>> {
    let mut authors: HashMap<_, HashSet<_>> = HashMap::new();
    for (_, entry, _) in asked
        .iter()
        .filter(|(_, _, head)| head.active_until.is_none())
    {
        authors.entry(entry.room).or_default().insert(entry.author);
    }
    for (_, entry, _) in asked
        .iter()
        .filter(|(_, entry, _)| entry.change.is_of_room())
    {
        authors.remove(&entry.room);
    }
    let all_in = authors.into_iter().map(async |(room, authors)| {
        let ids: Vec<_> = authors.iter().map(ToString::to_string).collect();
        let found = connection.rooms.find_one(
            doc! { "_id": room.to_string(), "userIds": { "$all": ids }, "deletedAt": null },
        );
        let found = found.projection(doc! { "_id": 1 }).hint(by_name("_id_"));
        let known = Known {
            name: None,
            members: authors,
        };
        Ok(connection.within(found).await?.map(|_| (room, known)))
    });
    Ok(try_join_all(all_in).await?.into_iter().flatten().collect())
}
