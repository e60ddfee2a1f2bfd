//! Checks the complete state while no client is active: the log from every server and through every
//! API that reads it, the clients' views, the members, the read marks and the unread counts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::PoisonError,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    Failure,
    audit::{Known, audit},
    rest::{Caller, Outcome},
    view::{Happening, Id, Log, Said, Taken, said},
    wire::{Packet, Socket},
    world::{Room, Views, World, list},
};

/// Runs all checks and returns the violations. Errors: a request without a usable response.
pub async fn check(world: &World, views: &[Views]) -> Result<Vec<String>, Failure> {
    let mut wrong = Vec::new();
    let mut rooms = HashMap::new();
    for room in world.rooms() {
        let known = Known::new(&room, read_log(&reader(world, &room, 0), room.id).await?);
        let found = check_room(world, &room, &known, views).await?;
        wrong.extend(
            found
                .into_iter()
                .map(|what| format!("room {}: {what}", room.id)),
        );
        rooms.insert(room.id, known);
    }
    let reads = check_reading(world, &rooms, &mut wrong).await?;
    wrong.extend(
        views
            .iter()
            .flat_map(|views| check_heard_marks(views, &reads)),
    );
    for server in 0..world.bases.len() {
        for room in world.rooms() {
            let found = check_history(
                &reader(world, &room, server),
                &room,
                &rooms[&room.id],
                &reads,
            )
            .await?;
            wrong.extend(
                found
                    .into_iter()
                    .map(|what| format!("room {} from server {server}: {what}", room.id)),
            );
        }
        wrong.extend(check_socket(world, server, &rooms).await?);
    }
    Ok(wrong)
}

/// Returns a caller who never leaves the room.
fn reader(world: &World, room: &Room, server: usize) -> Caller {
    world.caller(room.keeper.unwrap_or_default(), server)
}

/// Reads the whole log of a room. Errors: a gap in the sequence numbers, because no other check is
/// possible then.
pub async fn read_log(reader: &Caller, room: Id) -> Result<Log, Failure> {
    let mut log = Log::default();
    loop {
        let page = reader
            .get(&format!(
                "/room/{room}/sync?since={}&limit=500",
                log.position()
            ))
            .await?;
        for entry in list(&page, "entries") {
            take(&mut log, entry)?;
        }
        if page["hasMore"] != true {
            let end = page["lastSeq"].as_u64();
            return if end == Some(log.position()) {
                Ok(log)
            } else {
                Err(format!("a log of {} ends at {end:?}", log.position()).into())
            };
        }
        if list(&page, "entries").is_empty() {
            return Err("a page without entries that says there are more".into());
        }
    }
}

fn take(log: &mut Log, entry: &Value) -> Result<(), Failure> {
    let happening =
        Happening::of_entry(entry).ok_or_else(|| format!("an entry cannot be read: {entry}"))?;
    match log.take(&happening) {
        Taken::Next => Ok(()),
        _ => Err(format!(
            "entry {} comes behind entry {}",
            happening.seq,
            log.position()
        )
        .into()),
    }
}

async fn check_room(
    world: &World,
    room: &Room,
    known: &Known,
    views: &[Views],
) -> Result<Vec<String>, Failure> {
    let mut wrong = audit(known, world.history().room(room.id));
    for server in 0..world.bases.len() {
        let reader = reader(world, room, server);
        if let Some(difference) = read_log(&reader, room.id).await?.difference(&known.log) {
            wrong.push(format!("server {server} has another log: {difference}"));
        }
        let answer = reader
            .get(&format!("/room/{}/members?limit=500", room.id))
            .await?;
        let members: BTreeSet<_> = list(&answer, "users")
            .iter()
            .filter_map(|user| Id::of(&user["_id"]))
            .collect();
        if members != known.members.keys().copied().collect() {
            wrong.push(format!(
                "server {server} says that {members:?} are in it, the log says {:?}",
                known.members
            ));
        }
    }
    for (index, views) in views.iter().enumerate() {
        let views = views.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(view), is_in) = (
            views.get(&room.id),
            known.members.contains_key(&world.people[index].id),
        ) else {
            continue;
        };
        if view.member != is_in {
            wrong.push(format!(
                "client {index} believes itself in: {}; by the log it is {is_in}",
                view.member
            ));
        }
        if let Some(difference) = view.log.difference(&known.log).filter(|_| is_in) {
            wrong.push(format!("client {index} sees another log: {difference}"));
        }
    }
    Ok(wrong)
}

/// The read marks, by room and user.
type Reads = HashMap<(Id, Id), u64>;

/// Checks the read marks, and the unread counts in every response that contains them.
async fn check_reading(
    world: &World,
    rooms: &HashMap<Id, Known>,
    wrong: &mut Vec<String>,
) -> Result<Reads, Failure> {
    let mut reads = Reads::new();
    for (index, person) in world.people.iter().enumerate() {
        let caller = world.caller(index, index % world.bases.len());
        let unread = caller.get("/room/unread").await?;
        let recents = caller.get("/room?limit=500").await?;
        for (room, known) in rooms {
            let Some(joined) = known.members.get(&person.id).copied() else {
                continue;
            };
            // Marking an earlier position as read changes nothing and returns the current read
            // mark.
            let answer = caller
                .sends(
                    Method::PUT,
                    &format!("/room/{room}/mark-read"),
                    &json!({ "upToSeq": 0 }),
                )
                .await?;
            let read = answer["lastReadSeq"].as_u64().unwrap_or_default();
            reads.insert((*room, person.id), read);
            wrong.extend(
                check_mark(world, *room, person.id, joined, read)
                    .map(|what| format!("room {room}, client {index}: {what}")),
            );
            let expected = known.unread(person.id, read.max(joined));
            let told = of_room(&unread, "rooms", *room)
                .map_or(0, |shown| shown["unreadCount"].as_u64().unwrap_or_default());
            if told != expected || answer["unreadCount"] != expected {
                let marked = &answer["unreadCount"];
                wrong.push(format!(
                    "room {room}, client {index}: {expected} are unread behind {read}; unread says {told}, mark-read {marked}"
                ));
            }
            let Some(recent) = of_room(&recents, "conversation", *room) else {
                continue;
            };
            if recent["unreadCount"] != expected || recent["lastSeq"] != known.log.position() {
                wrong.push(format!("room {room}, client {index}: {expected} are unread, and the recents say {recent}"));
            }
            if known.name.is_some() && recent["name"].as_str() != known.name.as_deref() {
                wrong.push(format!(
                    "room {room} is called {:?}, and the recents say {}",
                    known.name, recent["name"]
                ));
            }
        }
    }
    Ok(reads)
}

/// Returns the item about a room in a list of the answer.
fn of_room<'a>(answer: &'a Value, field: &str, room: Id) -> Option<&'a Value> {
    list(answer, field)
        .iter()
        .find(|shown| Id::of(&shown["chatRoomId"]) == Some(room))
}

fn check_mark(world: &World, room: Id, user: Id, joined: u64, read: u64) -> Option<String> {
    let mut history = world.history();
    let mark = history.room(room).marks.entry(user).or_default();
    let acknowledged = mark.up_to.max(joined);
    let fits = if mark.is_unsure() {
        read >= acknowledged
    } else {
        read == acknowledged
    };
    mark.learn(read);
    (!fits)
        .then(|| format!("it was told that it has read up to {acknowledged}, and now up to {read}"))
}

/// Checks that no client was sent a read mark beyond the actual one.
fn check_heard_marks(views: &Views, reads: &Reads) -> Vec<String> {
    let views = views.lock().unwrap_or_else(PoisonError::into_inner);
    let heard = views
        .iter()
        .flat_map(|(room, view)| view.read.iter().map(|(user, up_to)| (*room, *user, *up_to)));
    let invented = heard
        .filter(|(room, user, up_to)| reads.get(&(*room, *user)).is_some_and(|read| read < up_to));
    invented
        .map(|(room, user, up_to)| {
            format!("room {room}: {user} was heard to have read up to {up_to}, and has not")
        })
        .collect()
}

/// Checks the messages, page by page in both directions, and their readers.
async fn check_history(
    reader: &Caller,
    room: &Room,
    known: &Known,
    reads: &Reads,
) -> Result<Vec<String>, Failure> {
    let expected: Vec<_> = known
        .log
        .messages()
        .map(|(seq, id, author, said)| (seq, id, author, said.clone()))
        .collect();
    let forward = pages(reader, room.id, "after", 0).await?;
    let mut backward = pages(reader, room.id, "before", known.log.position() + 1).await?;
    backward.sort_by_key(|message| message["seq"].as_u64());
    let mut wrong = Vec::new();
    for (direction, messages) in [("after", &forward), ("before", &backward)] {
        let shown: Vec<_> = messages.iter().filter_map(read_message).collect();
        if let Some(place) = (0..shown.len().max(expected.len()))
            .find(|place| shown.get(*place) != expected.get(*place))
        {
            wrong.push(format!(
                "by {direction}= message {place} is {:?}, and ought to be {:?}",
                shown.get(place),
                expected.get(place)
            ));
        }
    }
    for message in &forward {
        wrong.extend(check_readers(message, room.id, known, reads));
    }
    Ok(wrong)
}

async fn pages(reader: &Caller, room: Id, cursor: &str, from: u64) -> Result<Vec<Value>, Failure> {
    let (mut messages, mut at) = (Vec::new(), from);
    loop {
        let page = reader
            .get(&format!("/room/{room}?{cursor}={at}&limit=400"))
            .await?;
        let piece = list(&page, "conversation");
        let next = if cursor == "after" {
            piece.last()
        } else {
            piece.first()
        };
        messages.extend_from_slice(piece);
        let (Some(next), true) = (
            next.and_then(|message| message["seq"].as_u64()),
            page["hasMore"] == true,
        ) else {
            return Ok(messages);
        };
        at = next;
    }
}

fn read_message(message: &Value) -> Option<(u64, Id, Id, Said)> {
    Some((
        message["seq"].as_u64()?,
        Id::of(&message["_id"])?,
        Id::of(&message["postedByUser"]["_id"])?,
        said(message)?,
    ))
}

/// Checks that the readers of a message are its author and the members whose read mark has reached
/// it.
fn check_readers(message: &Value, room: Id, known: &Known, reads: &Reads) -> Option<String> {
    let (seq, author) = (
        message["seq"].as_u64()?,
        Id::of(&message["postedByUser"]["_id"])?,
    );
    let shown: BTreeSet<_> = list(message, "readByRecipients")
        .iter()
        .filter_map(|reader| Id::of(&reader["readByUserId"]))
        .collect();
    let wrong = known.members.iter().find(|(member, joined)| {
        let read = reads.get(&(room, **member)).copied().unwrap_or_default();
        // A member who left and was added again may have read the message before leaving or not.
        let is_certain = **member == author || read > **joined || seq > read || **joined == 0;
        is_certain && shown.contains(*member) != (**member == author || read >= seq)
    });
    wrong.map(|(member, _)| {
        format!(
            "message {seq} is read by {shown:?}; {member} has read up to {:?}",
            reads.get(&(room, *member))
        )
    })
}

/// Checks that `sync` on a new socket returns the same log.
async fn check_socket(
    world: &World,
    server: usize,
    rooms: &HashMap<Id, Known>,
) -> Result<Vec<String>, Failure> {
    let person = &world.people[0];
    let mut socket = Socket::connect(
        &world.bases[server],
        world.secure.then_some(person.token.as_str()),
    )
    .await
    .ok_or("no socket connects")?;
    ask(&mut socket, "identity", json!(person.id.to_string())).await?;
    let mut wrong = Vec::new();
    for (room, known) in rooms
        .iter()
        .filter(|(_, known)| known.members.contains_key(&person.id))
    {
        let mut log = Log::default();
        while log.position() < known.log.position() {
            let mut since = json!({ "rooms": {} });
            since["rooms"][room.to_string()] = json!(log.position());
            let answer = ask(&mut socket, "sync", since).await?;
            let page = &answer["rooms"][room.to_string()];
            if list(page, "entries").is_empty() {
                break;
            }
            for entry in list(page, "entries") {
                take(&mut log, entry)?;
            }
        }
        wrong.extend(
            log.difference(&known.log).map(|what| {
                format!("room {room}: sync on a socket of server {server} tells {what}")
            }),
        );
    }
    Ok(wrong)
}

async fn ask(socket: &mut Socket, event: &str, argument: Value) -> Result<Value, Failure> {
    socket
        .ask(event, &[argument])
        .await
        .ok_or("a socket ends")?;
    loop {
        match socket.receive().await.ok_or("a socket ends")? {
            Packet::Answer(_, answer) => return Outcome::of_ack(answer).done(),
            Packet::Event(..) => {}
        }
    }
}
