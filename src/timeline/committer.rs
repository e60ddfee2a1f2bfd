//! Commits drafts in batches: the drafts that arrive while a batch is being committed form the next
//! one.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Barrier, Job, announcer::Step, append::PendingAppend};
use crate::{
    clock::Clock,
    model::Timestamp,
    store::{Appended, NewEntry, Store},
};

/// The maximum number of drafts in one batch.
const BATCH: usize = 256;

/// The maximum number of text bytes in one batch, unless a single text is longer. Bounds how long a
/// caller waits for the texts of others.
const BATCH_BYTES: usize = 1 << 20;

/// Returns how many of these drafts fit into one batch.
fn fitting(drafts: &[PendingAppend]) -> usize {
    let mut bytes = 0;
    let fits = |draft: &&PendingAppend| {
        bytes += draft.change.text().map_or(0, str::len);
        bytes <= BATCH_BYTES
    };
    drafts.iter().take_while(fits).count().max(1)
}

/// The state of the committing thread.
pub struct Committer {
    store: Arc<dyn Store>,
    clock: Clock,
    on_disk: mpsc::Sender<Step>,
}

impl Committer {
    pub fn new(store: Arc<dyn Store>, clock: Clock, on_disk: mpsc::Sender<Step>) -> Self {
        Self {
            store,
            clock,
            on_disk,
        }
    }

    /// Commits the jobs it receives, until the channel closes.
    pub async fn run(self, mut jobs: mpsc::Receiver<Job>, announcer: JoinHandle<()>) {
        let mut gathered = Vec::with_capacity(BATCH);
        // Dropped when this function ends, which notifies the callers that wait for the end.
        let mut closers = Vec::new();
        while jobs.recv_many(&mut gathered, BATCH).await > 0 {
            let mut batch = Vec::with_capacity(gathered.len());
            let (mut asides, mut betweens) = (Vec::new(), Vec::new());
            for job in gathered.drain(..) {
                match job {
                    Job::Commit(waiting) => batch.push(*waiting),
                    Job::Tell(events, reply) => asides.push(Step::Tell(events, reply)),
                    Job::CatchUp(ends, reply) => asides.push(Step::CatchUp(ends, reply)),
                    Job::Barrier(between) => betweens.push(between),
                    Job::Close(closer) => {
                        closers.push(closer);
                        jobs.close();
                    }
                }
            }
            let mut rest = batch;
            while !rest.is_empty() {
                let later = rest.split_off(fitting(&rest));
                self.commit(rest).await;
                rest = later;
            }
            for transient in asides {
                // Fails only if the announcer has panicked, here and below.
                let _ = self.on_disk.send(transient).await;
            }
            if !betweens.is_empty() {
                self.look(betweens).await;
            }
        }
        drop(self.on_disk);
        // The announcer ends once it has announced everything it received. If it panicked, the
        // panic hook has reported that.
        let _ = announcer.await;
    }

    async fn commit(&self, batch: Vec<PendingAppend>) {
        let now = self.clock.monotonic_now();
        let new: Vec<_> = batch
            .iter()
            .map(|waiting| self.number(waiting, now))
            .collect();
        let ids: Vec<_> = new.iter().map(|entry| entry.id).collect();
        match self.store.append(new).await {
            Ok(appended) => {
                // An entry with a later time means that the room's log was written by a server
                // whose clock is ahead. The entries of other rooms must follow it in time too.
                if let Some(latest) = appended
                    .iter()
                    .filter_map(Appended::placed)
                    .map(|placed| placed.created_at)
                    .max()
                    .filter(|at| *at > now)
                {
                    self.clock.advance_past(latest);
                }
                let committed = batch
                    .into_iter()
                    .zip(ids)
                    .zip(appended)
                    .map(|((waiting, id), appended)| (waiting, id, appended));
                // Fails only if the announcer has panicked; the callers then get an error because
                // their reply channels are dropped.
                let _ = self.on_disk.send(Step::Announce(committed.collect())).await;
            }
            Err(error) => {
                for waiting in batch {
                    waiting.answer(Err(error.clone().into()));
                }
            }
        }
    }

    /// Reads the ends of the logs for all barriers at once. Meanwhile only other servers can
    /// append.
    async fn look(&self, betweens: Vec<Barrier>) {
        let mut rooms: Vec<_> = betweens
            .iter()
            .flat_map(|between| between.rooms.iter().copied())
            .collect();
        rooms.sort_unstable();
        rooms.dedup();
        match self.store.last_seqs(&rooms).await {
            Ok(ends) => {
                let ends: HashMap<_, _> = ends.into_iter().collect();
                for between in betweens {
                    let own = between
                        .rooms
                        .iter()
                        .filter_map(|room| Some((*room, *ends.get(room)?)))
                        .collect();
                    let _ = self.on_disk.send(Step::Barrier(between, own)).await;
                }
            }
            Err(error) => betweens
                .into_iter()
                .for_each(|between| _ = between.reply.send(Err(error.clone().into()))),
        }
    }

    fn number(&self, waiting: &PendingAppend, now: Timestamp) -> NewEntry {
        NewEntry {
            id: self.clock.new_id(now).into(),
            room: waiting.room,
            author: waiting.author,
            created_at: now,
            change: waiting.change.clone(),
        }
    }
}
