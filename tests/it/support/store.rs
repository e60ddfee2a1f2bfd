//! Users, rooms and entries for tests that use the store directly.

use causerie::{
    model::{Message, MessageId, Room, RoomId, RoomType, Timestamp, User, UserId, UserType},
    store::{Appended, Limit, NewEntry, NewEntryKind, RoomPage, Store},
};

use crate::support::databases::Database;

pub fn user_id(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

pub fn user(n: u8) -> User {
    let created_at = Timestamp(1_000 + i64::from(n));
    User {
        id: user_id(n),
        first_name: format!("first {n}"),
        last_name: format!("last {n}"),
        kind: UserType::Support,
        created_at,
        updated_at: created_at,
        deleted: false,
    }
}

pub fn room(n: u8, members: &[u8]) -> Room {
    Room {
        id: RoomId::from_bytes([n; 16]),
        kind: RoomType::ConsumerToConsumer,
        name: None,
        initiator: user_id(members[0]),
        members: members.iter().map(|n| user_id(*n)).collect(),
        joined: Vec::new(),
        created_at: Timestamp(5_000),
    }
}

/// Returns a message by member `author`, whose id increases with `n`.
pub fn draft(room: &Room, author: u8, n: u64) -> NewEntry {
    NewEntry {
        id: MessageId::from_bytes(u128::from(n).to_be_bytes()),
        room: room.id,
        author: user_id(author),
        created_at: Timestamp(10_000 + i64::try_from(n).unwrap()),
        change: NewEntryKind::Message {
            text: format!("text {n}"),
            client_id: None,
        },
    }
}

/// Returns an entry by member `author` that is not a message. Its timestamp is as early as
/// possible, so it gets that of the preceding entry.
pub fn change(room: &Room, author: u8, change: NewEntryKind) -> NewEntry {
    let id = uuid::Uuid::new_v4().into();
    NewEntry {
        id,
        room: room.id,
        author: user_id(author),
        created_at: Timestamp(1),
        change,
    }
}

/// Returns the latest messages of a user's rooms.
pub async fn recents(store: &Store, user: u8, skip: u64, limit: u64) -> Vec<Message> {
    let page = RoomPage {
        user: user_id(user),
        since_joined: false,
        with_empty: false,
        skip,
        limit: Limit::items(limit),
    };
    store
        .history
        .recents(page)
        .await
        .unwrap()
        .into_iter()
        .map(|listed| listed.latest.unwrap())
        .collect()
}

pub async fn append(store: &Store, entry: NewEntry) -> Appended {
    store.log.append(vec![entry]).await.unwrap().remove(0)
}

/// Deletes message `n` as member 1. Returns false when there was none.
pub async fn delete(store: &Store, room: &Room, n: u64) -> bool {
    let outcome = append(
        store,
        change(room, 1, NewEntryKind::Deletion(draft(room, 1, n).id)),
    )
    .await;
    assert!(
        matches!(
            outcome,
            Appended::Placed(_) | Appended::Unchanged | Appended::NoRoom
        ),
        "{outcome:?}"
    );
    outcome.placed().is_some()
}

/// Marks the room as read to the end. Returns how many messages became read.
pub async fn mark_read(store: &Store, room: &Room, user: UserId, at: i64) -> u64 {
    store
        .read_marks
        .mark_read(room.id, user, None, Timestamp(at))
        .await
        .unwrap()
        .unwrap()
        .became_read
}

pub fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.seq.0).collect()
}

/// Returns a store with a room of users 1 and 2, which holds messages 1 to `count`. The two take
/// turns as authors, beginning with user 1.
pub async fn with_messages(database: &Database, count: u64) -> (Store, Room) {
    let store = database.open().await;
    for n in [1, 2] {
        store.accounts.add(user(n), None).await.unwrap();
    }
    let room = room(100, &[1, 2]);
    store.rooms.find_or_add(room.clone()).await.unwrap();
    store
        .log
        .append(
            (1..=count)
                .map(|n| draft(&room, if n % 2 == 1 { 1 } else { 2 }, n))
                .collect(),
        )
        .await
        .unwrap();
    (store, room)
}

pub async fn there(store: &Store, room: &Room) -> Room {
    Room::clone(store.rooms.find(room.id).await.unwrap().unwrap().as_ref())
}

pub fn remove_if(n: u8, required_members: &[u8]) -> NewEntryKind {
    NewEntryKind::RemoveMember {
        user: user_id(n),
        required_members: required_members.iter().copied().map(user_id).collect(),
    }
}

pub fn members(room: &Room) -> Vec<u8> {
    room.members
        .iter()
        .map(|member| member.as_bytes()[0])
        .collect()
}

pub fn add(n: u8) -> NewEntryKind {
    NewEntryKind::AddMember(user_id(n))
}

pub fn remove(n: u8) -> NewEntryKind {
    remove_if(n, &[])
}
