//! Messages, edits and logs for tests that use the store directly.

use causerie::{
    model::{Entry, MessageId, Room, Seq, Timestamp},
    store::{Appended, Limit, LogPosition, NewEntryKind, Store},
};

use crate::support::store::room;

pub fn id(n: u64) -> MessageId {
    MessageId::from_bytes(u128::from(n).to_be_bytes())
}

pub fn edit(n: u64, text: &str) -> NewEntryKind {
    NewEntryKind::Edit {
        message: id(n),
        text: text.into(),
    }
}

pub fn placed(seq: u64, at: i64) -> Appended {
    Appended::Placed(LogPosition {
        seq: Seq(seq),
        created_at: Timestamp(at),
    })
}

pub async fn text(store: &Store, n: u64) -> Option<String> {
    store
        .history
        .message(id(n))
        .await
        .unwrap()
        .map(|message| message.text)
}

pub async fn log(store: &Store, room: &Room) -> Vec<Entry> {
    let entries = store
        .history
        .entries(room.id, Seq(0), None, Limit::items(10_000))
        .await
        .unwrap();
    assert!(
        entries
            .iter()
            .zip(1..)
            .all(|(entry, seq)| entry.seq == Seq(seq)),
        "a hole or a repeat: {entries:?}"
    );
    entries
}

pub async fn room_of_two(store: &Store, n: u8) -> Room {
    let room = Room {
        name: Some(format!("room {n}")),
        ..room(n, &[1, 2])
    };
    assert!(store.rooms.find_or_add(room.clone()).await.unwrap().1);
    room
}
