//! Committing: what gathered while the batch before was on its way becomes the next batch.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Barrier, Job, PendingAppend, announcer::Step};
use crate::{
    clock::Clock,
    model::Timestamp,
    store::{Appended, NewEntry, Store},
};

/// The most drafts in one batch.
const BATCH: usize = 256;

/// The most bytes of texts in one batch, unless a single one is longer: so long nobody waits for the texts of others.
const BATCH_BYTES: usize = 1 << 20;

/// How many of these drafts make one batch.
fn fitting(drafts: &[PendingAppend]) -> usize {
    let mut bytes = 0;
    let fits = |draft: &&PendingAppend| {
        bytes += draft.change.text().map_or(0, str::len);
        bytes <= BATCH_BYTES
    };
    drafts.iter().take_while(fits).count().max(1)
}

/// The thread that commits.
pub struct Committer {
    store: Arc<dyn Store>,
    clock: Clock,
    on_disk: mpsc::Sender<Step>,
}

impl Committer {
    pub fn new(store: Arc<dyn Store>, clock: Clock, on_disk: mpsc::Sender<Step>) -> Self {
        Self { store, clock, on_disk }
    }

    /// Commits what is handed in, until that ends.
    pub async fn run(self, mut jobs: mpsc::Receiver<Job>, announcer: JoinHandle<()>) {
        let mut gathered = Vec::with_capacity(BATCH);
        // Dropped when this function ends, by which whoever waits for the end learns of it.
        let mut closers = Vec::new();
        while jobs.recv_many(&mut gathered, BATCH).await > 0 {
            let mut batch = Vec::with_capacity(gathered.len());
            let (mut asides, mut betweens) = (Vec::new(), Vec::new());
            for job in gathered.drain(..) {
                match job {
                    Job::Commit(waiting) => batch.push(*waiting),
                    Job::Tell(news, reply) => asides.push(Step::Tell(news, reply)),
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
            for aside in asides {
                // Refused only where the announcer has panicked, here and below.
                let _ = self.on_disk.send(aside).await;
            }
            if !betweens.is_empty() {
                self.look(betweens).await;
            }
        }
        drop(self.on_disk);
        // It ends once it has announced what it was given; a panic in it has been reported by the panic hook.
        let _ = announcer.await;
    }

    async fn commit(&self, batch: Vec<PendingAppend>) {
        let now = self.clock.ordered_now();
        let new: Vec<_> = batch.iter().map(|waiting| self.number(waiting, now)).collect();
        let ids: Vec<_> = new.iter().map(|entry| entry.id).collect();
        match self.store.append(new).await {
            Ok(appended) => {
                // A room whose log is later was written by a server whose clock is ahead of this one: other rooms follow.
                if let Some(latest) =
                    appended.iter().filter_map(Appended::placed).map(|placed| placed.created_at).max().filter(|at| *at > now)
                {
                    self.clock.advance_past(latest);
                }
                let committed = batch.into_iter().zip(ids).zip(appended).map(|((waiting, id), appended)| (waiting, id, appended));
                // Refused only where the announcer has panicked; the callers are then told that there is no answer.
                let _ = self.on_disk.send(Step::Announce(committed.collect())).await;
            }
            Err(error) => {
                for waiting in batch {
                    waiting.answer(Err(error.clone().into()));
                }
            }
        }
    }

    /// Looks where the logs end, for all who ask at once. Nothing is appended meanwhile, but by other servers.
    async fn look(&self, betweens: Vec<Barrier>) {
        let mut rooms: Vec<_> = betweens.iter().flat_map(|between| between.rooms.iter().copied()).collect();
        rooms.sort_unstable();
        rooms.dedup();
        match self.store.last_seqs(&rooms).await {
            Ok(ends) => {
                let ends: HashMap<_, _> = ends.into_iter().collect();
                for between in betweens {
                    let own = between.rooms.iter().filter_map(|room| Some((*room, *ends.get(room)?))).collect();
                    let _ = self.on_disk.send(Step::Barrier(between, own)).await;
                }
            }
            Err(error) => betweens.into_iter().for_each(|between| _ = between.reply.send(Err(error.clone().into()))),
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
