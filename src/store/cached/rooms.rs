//! The cache of rooms, and of the deleted members of large rooms.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use moka::{future::Cache, ops::compute::Op};

use super::{build, cached_or_loaded, remove, run_detached, users::CachedUsers};
use crate::{
    model::{Room, RoomId, Timestamp, UserId},
    store::{Appended, Log, NewEntry, RemovedMember, Result, Rooms, StoreError, Users, is_large},
};

/// The maximum number of members of all cached rooms together. A member takes 16 bytes.
const ROOM_MEMBERS: u64 = 1_000_000;

/// Rooms, with a cache in front. Appending to a log may change the members or the name of its room,
/// so this is in front of the log as well.
pub struct CachedRooms {
    store: Arc<dyn Rooms>,
    log: Arc<dyn Log>,
    users: Arc<CachedUsers>,
    rooms: Cache<RoomId, Arc<Room>>,
    /// The deleted members of large rooms.
    deleted_members: Cache<RoomId, Arc<DeletedMembers>>,
}

/// The deleted members of a room.
struct DeletedMembers {
    room: Arc<Room>,
    users: Arc<[UserId]>,
    /// The number of completed deletions before the users were read.
    deletions: u64,
}

impl DeletedMembers {
    /// Returns whether this is current for the room after this number of deletions.
    fn is_current(&self, room: &Arc<Room>, deletions: u64) -> bool {
        self.deletions == deletions
            && (Arc::ptr_eq(&self.room, room) || self.room.members == room.members)
    }
}

/// The weight of a cached value that holds a room.
fn weight(room: &Room) -> u32 {
    u32::try_from(room.members.len()).unwrap_or(u32::MAX)
}

impl CachedRooms {
    pub fn new(
        (store, log): (Arc<dyn Rooms>, Arc<dyn Log>),
        users: Arc<CachedUsers>,
        lifetime: Option<Duration>,
    ) -> Self {
        let rooms = Cache::builder()
            .max_capacity(ROOM_MEMBERS)
            .weigher(|_, room: &Arc<Room>| weight(room));
        let deleted_members = Cache::builder()
            .max_capacity(ROOM_MEMBERS)
            .weigher(|_, deleted: &Arc<DeletedMembers>| weight(&deleted.room));
        Self {
            store,
            log,
            users,
            rooms: build(rooms, lifetime),
            deleted_members: build(deleted_members, lifetime),
        }
    }

    async fn deleted_members_of_large(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        let deletions = self.users.deletions();
        if let Some(cached) = self.deleted_members.get(&room.id).await
            && cached.is_current(room, deletions)
        {
            return Ok(Arc::clone(&cached.users));
        }
        let load = async |cached: Option<moka::Entry<_, Arc<DeletedMembers>>>| match cached {
            Some(cached) if cached.value().is_current(room, deletions) => Ok(Op::Nop),
            _ => {
                let users = self.store.deleted_members(room).await?;
                Ok::<_, StoreError>(Op::Put(Arc::new(DeletedMembers {
                    room: Arc::clone(room),
                    users,
                    deletions,
                })))
            }
        };
        let entry = self
            .deleted_members
            .entry(room.id)
            .and_try_compute_with(load)
            .await?
            .into_entry();
        Ok(entry.map_or_else(Arc::default, |entry| Arc::clone(&entry.into_value().users)))
    }
}

#[async_trait]
impl Rooms for CachedRooms {
    async fn find_or_add(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        self.store.find_or_add(room).await
    }

    async fn find(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        cached_or_loaded(&self.rooms, id, async || self.store.find(id).await).await
    }

    /// For a small room, uses the cached users.
    async fn deleted_members(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        if is_large(room) {
            return self.deleted_members_of_large(room).await;
        }
        let members = self.users.find_many(&room.members).await?;
        Ok(members
            .iter()
            .filter(|user| user.deleted)
            .map(|user| user.id)
            .collect())
    }

    async fn delete(&self, id: RoomId) -> Result<Option<u64>> {
        let (store, rooms) = (Arc::clone(&self.store), self.rooms.clone());
        run_detached(async move {
            let mut deleted = None;
            let delete = async |_| {
                deleted = store.delete(id).await?;
                Ok::<_, StoreError>(Op::Remove)
            };
            rooms.entry(id).and_try_compute_with(delete).await?;
            Ok(deleted)
        })
        .await
    }

    async fn removed_members(
        &self,
        since: Option<Timestamp>,
    ) -> Result<(Vec<RemovedMember>, Timestamp)> {
        let (removed, now) = self.store.removed_members(since).await?;
        for RemovedMember { room, user, .. } in &removed {
            let forget = async |cached: Option<moka::Entry<_, Arc<Room>>>| match cached {
                Some(cached) if cached.value().has_member(*user) => Op::Remove,
                _ => Op::Nop,
            };
            self.rooms.entry(*room).and_compute_with(forget).await;
        }
        Ok((removed, now))
    }
}

#[async_trait]
impl Log for CachedRooms {
    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>> {
        let changed: Vec<_> = batch
            .iter()
            .filter(|entry| entry.change.is_of_room())
            .map(|entry| entry.room)
            .collect();
        if changed.is_empty() {
            return self.log.append(batch).await;
        }
        let (log, rooms) = (Arc::clone(&self.log), self.rooms.clone());
        run_detached(async move {
            let appended = log.append(batch).await;
            // Also after a failure, since some entries may have been appended.
            for room in changed {
                remove(&rooms, room).await;
            }
            appended
        })
        .await
    }
}
