//! Finds log entries that other servers have written.

use socketioxide::SocketIo;
use tokio::time::MissedTickBehavior;

use super::TICK;
use crate::{chat::Chat, model::RoomId};

/// Maximum number of rooms checked per tick for log entries written by other servers.
const ROOMS_AT_ONCE: usize = 500;

/// Repeatedly makes the timeline check the logs for entries that were not broadcast yet, because
/// other servers write to them too. Covers the rooms that have sockets, in turns of
/// [`ROOMS_AT_ONCE`].
pub(super) async fn follow_logs(io: SocketIo, chat: Chat) {
    if !chat.is_shared() {
        return;
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = Vec::new();
    loop {
        ticks.tick().await;
        if left.is_empty() {
            left = rooms_in_use(&io).await;
        }
        let rooms = left.split_off(left.len().saturating_sub(ROOMS_AT_ONCE));
        if !rooms.is_empty() {
            // If the database is unavailable, a later tick retries.
            let _ = chat.catch_up(&rooms).await;
        }
    }
}

async fn rooms_in_use(io: &SocketIo) -> Vec<RoomId> {
    let Some(sockets) = io.of("/") else {
        return Vec::new();
    };
    let Ok(rooms) = sockets.rooms().await;
    rooms
        .iter()
        .filter_map(|room| RoomId::parse(room.strip_prefix("room:")?))
        .collect()
}
