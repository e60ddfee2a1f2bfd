//! Commits entries in batches: those that are submitted while a batch is being committed form the
//! next one.

use std::collections::HashMap;

use tokio::sync::mpsc;

use super::command::{Append, Barrier, Command, Committed, Request, Submitted, Written};
use crate::{
    clock::Clock,
    model::{RoomId, Timestamp},
    store::{Appended, NewEntry, Store},
};

/// The maximum number of entries in one batch.
const BATCH: usize = 256;

/// The maximum number of text bytes in one batch, unless a single text is longer. Bounds how long a
/// caller waits for the texts of others.
const BATCH_BYTES: usize = 1 << 20;

/// The state of the writing thread.
pub struct Writer {
    store: Store,
    clock: Clock,
    announcer: mpsc::Sender<Written>,
}

impl Writer {
    /// Creates a writer that passes the commands on to the announcer.
    pub fn new(store: Store, clock: Clock, announcer: mpsc::Sender<Written>) -> Self {
        Self {
            store,
            clock,
            announcer,
        }
    }

    /// Processes the commands it receives, until the channel closes. Of the commands that have
    /// arrived together, appends come first and barriers last.
    pub async fn run(self, mut commands: mpsc::Receiver<Submitted>) {
        let mut received = Vec::with_capacity(BATCH);
        while commands.recv_many(&mut received, BATCH).await > 0 {
            let mut appends = Vec::with_capacity(received.len());
            let (mut others, mut barriers) = (Vec::new(), Vec::new());
            for command in received.drain(..) {
                match command {
                    Command::Append(append) => appends.push(*append),
                    Command::Announce(event, reply) => others.push(Command::Announce(event, reply)),
                    Command::Barrier(barrier) => barriers.push(barrier),
                    Command::CatchUp(ends, reply) => others.push(Command::CatchUp(ends, reply)),
                    Command::Close(done) => {
                        commands.close();
                        others.push(Command::Close(done));
                    }
                }
            }
            while !appends.is_empty() {
                let later = appends.split_off(count_fitting(&appends));
                self.commit(appends).await;
                appends = later;
            }
            for command in others {
                self.pass_on(command).await;
            }
            if !barriers.is_empty() {
                self.find_ends(barriers).await;
            }
        }
    }

    /// Appends a batch to the logs.
    async fn commit(&self, batch: Vec<Append>) {
        let now = self.clock.monotonic_now();
        let (entries, requests): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|append| self.new_entry(append, now))
            .unzip();
        match self.store.log.append(entries.clone()).await {
            Ok(appended) => {
                self.advance_clock(&appended, now);
                let batch = entries
                    .into_iter()
                    .zip(appended)
                    .zip(requests)
                    .map(|((entry, appended), request)| Committed {
                        entry,
                        appended,
                        request,
                    })
                    .collect();
                self.pass_on(Command::Append(batch)).await;
            }
            Err(error) => {
                for request in requests {
                    request.answer(Err(error.clone().into()));
                }
            }
        }
    }

    fn new_entry(&self, append: Append, now: Timestamp) -> (NewEntry, Request) {
        let Append {
            room,
            author,
            change,
            request,
        } = append;
        let entry = NewEntry {
            id: self.clock.new_id(now).into(),
            room,
            author,
            created_at: now,
            change,
        };
        (entry, request)
    }

    /// Advances the clock past the times of the entries. An entry with a later time than `now`
    /// means that the room's log was written by a server whose clock is ahead. The entries of other
    /// rooms must follow it in time too.
    fn advance_clock(&self, appended: &[Appended], now: Timestamp) {
        let latest = appended
            .iter()
            .filter_map(Appended::placed)
            .map(|position| position.created_at)
            .max();
        if let Some(latest) = latest.filter(|latest| *latest > now) {
            self.clock.advance_past(latest);
        }
    }

    /// Reads the ends of the logs for all barriers at once. Meanwhile only other servers can
    /// append.
    async fn find_ends(&self, barriers: Vec<Barrier<Vec<RoomId>>>) {
        let mut rooms: Vec<_> = barriers
            .iter()
            .flat_map(|barrier| barrier.rooms.iter().copied())
            .collect();
        rooms.sort_unstable();
        rooms.dedup();
        match self.store.history.last_seqs(&rooms).await {
            Ok(ends) => {
                let ends: HashMap<_, _> = ends.into_iter().collect();
                for barrier in barriers {
                    let barrier = Barrier {
                        rooms: barrier
                            .rooms
                            .into_iter()
                            .filter_map(|room| Some((room, *ends.get(&room)?)))
                            .collect(),
                        action: barrier.action,
                        reply: barrier.reply,
                    };
                    self.pass_on(Command::Barrier(barrier)).await;
                }
            }
            Err(error) => {
                for barrier in barriers {
                    let _ = barrier.reply.send(Err(error.clone().into()));
                }
            }
        }
    }

    async fn pass_on(&self, command: Written) {
        // Fails only if the announcer has panicked; the callers then get an error because their
        // reply channels are dropped.
        let _ = self.announcer.send(command).await;
    }
}

/// Returns how many of these entries, from the first on, fit into one batch.
fn count_fitting(appends: &[Append]) -> usize {
    let mut bytes = 0;
    let fits = |append: &&Append| {
        bytes += append.change.text().map_or(0, str::len);
        bytes <= BATCH_BYTES
    };
    appends.iter().take_while(fits).count().max(1)
}
