//! Announces committed entries to subscribers, each room in the order of its log, and then
//! completes the callers' requests.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{
    Barrier, RoomEvent, RoomEventKind, Subscribers,
    append::{AppendResult, Edited, PendingAppend},
    missed::missed,
};
use crate::{
    error::{Error, Result},
    model::{MessageId, RoomId, Seq},
    store::{self, Appended, Store},
};

/// The maximum number of missed entries to announce. Clients that missed more must resynchronize.
const MAX_MISSED: u64 = 20_000;
/// The maximum number of missed entries to read and announce at once: fewer than may be queued for
/// a client.
const BATCH_SIZE: u64 = 500;
/// The minimum number of rooms whose last announced entry is remembered.
const MIN_ANNOUNCED_SEQS: usize = 100_000;

/// A batch that is on disk.
pub type Committed = Vec<(PendingAppend, MessageId, Appended)>;

/// A step of the announcer, processed in order.
pub enum Step {
    Announce(Committed),
    Tell(RoomEvent, oneshot::Sender<()>),
    /// Includes the ends of the logs.
    Barrier(Barrier, Vec<(RoomId, Seq)>),
    /// The logs reach at least up to these entries, written by any server.
    CatchUp(Vec<(RoomId, Seq)>, oneshot::Sender<()>),
}

/// The task that announces.
pub struct Announcer<L> {
    store: Arc<dyn Store>,
    subscribers: L,
    listed_members: usize,
    /// `None` if no other server writes to the logs, so that no entry is ever missed.
    announced_seqs: Option<AnnouncedSeqs>,
}

impl<L: Subscribers> Announcer<L> {
    pub fn new(store: Arc<dyn Store>, subscribers: L, listed_members: usize) -> Self {
        let announced_seqs = store.is_shared().then(AnnouncedSeqs::default);
        Self {
            store,
            subscribers,
            listed_members,
            announced_seqs,
        }
    }

    /// Announces the steps it receives, until the channel closes.
    pub async fn run(mut self, mut steps: mpsc::Receiver<Step>) {
        while let Some(step) = steps.recv().await {
            match step {
                Step::Announce(batch) => self.announce(batch).await,
                Step::Tell(events, reply) => {
                    self.subscribers.announce(&[events]);
                    let _ = reply.send(());
                }
                Step::Barrier(Barrier { act, reply, .. }, mut ends) => {
                    for (room, end) in &mut ends {
                        *end = self.announce_up_to(*room, *end).await;
                    }
                    act();
                    let _ = reply.send(Ok(ends));
                }
                Step::CatchUp(ends, reply) => {
                    for (room, end) in ends {
                        self.announce_up_to(room, end).await;
                    }
                    let _ = reply.send(());
                }
            }
        }
    }

    async fn announce(&mut self, mut batch: Committed) {
        let unseen = self.load_readers(&mut batch).await;
        let mut placed = Vec::with_capacity(batch.len());
        for (mut waiting, id, appended) in batch {
            if let Some(error) = unseen.get(&id) {
                // Subscribers will not get this entry, so they must resynchronize.
                self.subscribers.interrupt(waiting.room);
                waiting.answer(Err(error.clone().into()));
                continue;
            }
            match appended {
                Appended::Placed(at) => placed.push((waiting.events(id, at), waiting)),
                Appended::Duplicate(earlier) => waiting.answer_with_earlier(*earlier),
                Appended::Unchanged => waiting.answer(Ok(AppendResult::default())),
                Appended::NotAMember => waiting.answer(Err(Error::NotAMember)),
                Appended::NoRequiredMember => waiting.answer(Err(Error::LastSupport)),
                Appended::NoRoom => waiting.answer(Err(Error::NoRoom)),
                // If the entry is in the log nevertheless, it is announced with the next one.
                Appended::Failed(error) => waiting.answer(Err(error.into())),
            }
        }
        // The order may differ, because a store may need several attempts for a batch.
        placed.sort_by_key(|(events, _)| events.placed.seq);
        let (events, waiting): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
        self.announce_new(&events).await;
        for (waiting, RoomEvent { placed, what, .. }) in waiting.into_iter().zip(events) {
            let post = match what {
                RoomEventKind::Posted(post) | RoomEventKind::Edited(post) => Some(post),
                _ => None,
            };
            waiting.answer(Ok(AppendResult {
                placed: Some(placed),
                post,
                earlier: None,
            }));
        }
    }

    /// Looks up the read marks of edited messages. Returns the errors, by entry, for those where
    /// this failed.
    async fn load_readers(&self, batch: &mut Committed) -> HashMap<MessageId, store::StoreError> {
        let edits = batch.iter_mut().filter_map(|(waiting, id, appended)| {
            let edited = waiting.shown.as_mut()?.edited.as_mut()?;
            matches!(appended, Appended::Placed(_)).then_some((*id, edited))
        });
        let failed = edits.map(
            async |(
                id,
                Edited {
                    room,
                    message,
                    marks,
                },
            )| {
                if marks.is_none() {
                    match self
                        .store
                        .read_marks(room.id, &room.members, message.seq, message.seq)
                        .await
                    {
                        Ok(found) => *marks = Some(found),
                        Err(error) => return Some((id, error)),
                    }
                }
                None
            },
        );
        join_all(failed).await.into_iter().flatten().collect()
    }

    /// Announces entries, and before them those between the last announced entry and them.
    async fn announce_new(&mut self, events: &[RoomEvent]) {
        if self.announced_seqs.is_none() {
            return self.subscribers.announce(events);
        }
        // Entries without a gap before them are announced in one call.
        let mut first = 0;
        for (index, RoomEvent { room, placed, .. }) in events.iter().enumerate() {
            let announced = self.announced(*room);
            if announced.is_some_and(|announced| Seq(announced.0 + 1) != placed.seq) {
                self.subscribers.announce(&events[first..index]);
                first = index;
                self.announce_up_to(*room, Seq(placed.seq.0 - 1)).await;
                if announced >= Some(placed.seq) {
                    // A catch-up after the commit has already announced it.
                    first += 1;
                    continue;
                }
            }
            self.record(*room, placed.seq);
        }
        self.subscribers.announce(&events[first..]);
    }

    /// Announces the entries of a room up to `end` that have not been announced. Returns up to
    /// where the log is announced then.
    async fn announce_up_to(&mut self, room: RoomId, end: Seq) -> Seq {
        let announced = self.announced(room);
        if let Some(announced) =
            announced.filter(|announced| *announced < end && self.subscribers.has_subscribers(room))
        {
            let is_told = end.0 - announced.0 <= MAX_MISSED
                && self.announce_missed(room, announced, end).await.is_ok();
            if !is_told {
                self.subscribers.interrupt(room);
            }
        }
        let end = announced.map_or(end, |announced| announced.max(end));
        self.record(room, end);
        end
    }

    /// Announces the entries of a room after `announced` and up to `end`. Announcing late that a member
    /// left removes their subscription, even if they have subscribed again since, and they would
    /// not notice; so they must resynchronize.
    async fn announce_missed(&self, room: RoomId, mut announced: Seq, end: Seq) -> Result<()> {
        let mut removed = HashSet::new();
        while announced < end {
            let piece = Seq(end.0.min(announced.0 + BATCH_SIZE));
            let events = missed(
                self.store.as_ref(),
                self.listed_members,
                room,
                announced,
                piece,
            )
            .await?;
            self.subscribers.announce(&events);
            for RoomEvent { what, .. } in events {
                match what {
                    RoomEventKind::MemberRemoved(user) => _ = removed.insert(user),
                    RoomEventKind::MemberAdded(user) if removed.contains(&user) => {
                        self.subscribers.interrupt_user(user);
                    }
                    _ => {}
                }
            }
            announced = piece;
        }
        Ok(())
    }

    fn announced(&self, room: RoomId) -> Option<Seq> {
        self.announced_seqs
            .as_ref()
            .and_then(|announced_seqs| announced_seqs.of(room))
    }

    fn record(&mut self, room: RoomId, seq: Seq) {
        if let Some(announced_seqs) = &mut self.announced_seqs {
            announced_seqs.set(room, seq);
        }
    }
}

/// The last announced entry of each room. Rooms without events for a long time are dropped.
#[derive(Default)]
struct AnnouncedSeqs {
    latest: HashMap<RoomId, Seq>,
    earlier: HashMap<RoomId, Seq>,
}

impl AnnouncedSeqs {
    fn of(&self, room: RoomId) -> Option<Seq> {
        self.latest
            .get(&room)
            .or_else(|| self.earlier.get(&room))
            .copied()
    }

    fn set(&mut self, room: RoomId, seq: Seq) {
        if self.latest.len() >= MIN_ANNOUNCED_SEQS && !self.latest.contains_key(&room) {
            self.earlier = std::mem::take(&mut self.latest);
        }
        self.latest.insert(room, seq);
    }
}
