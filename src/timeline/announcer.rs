//! Announces committed entries to subscribers, each room in the order of its log, and then
//! completes the callers' requests.

use std::collections::HashSet;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{
    EditMarks, RoomEvent, Subscribers,
    catch_up::{AnnouncedSeqs, MissedEntries},
    command::{Barrier, Command, Committed, LogEnds, Outcome, Rendering, Request, Written},
};
use crate::{
    error::{Error, Result},
    model::{EntryKind, RoomId, Seq},
    store::{Appended, LogPosition, NewEntry, Store},
};

/// The maximum number of missed entries to announce. Clients that missed more must resynchronize.
const MAX_MISSED: u64 = 20_000;
/// The maximum number of missed entries to read and announce at once: fewer than may be queued for
/// a client.
const BATCH_SIZE: u64 = 500;

/// The task that announces.
pub struct Announcer<L> {
    store: Store,
    subscribers: L,
    missed: MissedEntries,
    /// `None` if no other server writes to the logs, so that no entry is ever missed.
    announced_seqs: Option<AnnouncedSeqs>,
}

impl<L: Subscribers> Announcer<L> {
    /// Creates an announcer whose posts list at most `listed_members` of a room.
    pub fn new(store: Store, subscribers: L, listed_members: usize) -> Self {
        let announced_seqs = store.database.is_shared().then(AnnouncedSeqs::default);
        Self {
            missed: MissedEntries::new(store.clone(), listed_members),
            store,
            subscribers,
            announced_seqs,
        }
    }

    /// Processes the commands it receives, in order, until the channel closes.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Written>) {
        // Dropped when this function ends, which notifies the callers that wait for the end.
        let mut closers = Vec::new();
        while let Some(command) = commands.recv().await {
            match command {
                Command::Append(batch) => self.announce_batch(batch).await,
                Command::Announce(event, reply) => {
                    self.subscribers.announce(&[RoomEvent::Transient(event)]);
                    let _ = reply.send(());
                }
                Command::Barrier(barrier) => self.pass_barrier(barrier).await,
                Command::CatchUp(ends, reply) => {
                    for (room, end) in ends {
                        self.announce_up_to(room, end).await;
                    }
                    let _ = reply.send(());
                }
                Command::Close(done) => closers.push(done),
            }
        }
    }

    /// Announces the entries up to the ends of the logs, then runs the action of the barrier.
    async fn pass_barrier(&mut self, barrier: Barrier<LogEnds>) {
        let mut ends = barrier.rooms;
        for (room, end) in &mut ends {
            *end = self.announce_up_to(*room, *end).await;
        }
        (barrier.action)();
        let _ = barrier.reply.send(Ok(ends));
    }

    /// Announces the entries of a batch that were appended, and answers the callers.
    async fn announce_batch(&mut self, mut batch: Vec<Committed>) {
        self.load_marks(&mut batch).await;
        let mut entries = Vec::with_capacity(batch.len());
        for committed in batch {
            let Committed {
                entry,
                appended,
                request,
            } = committed;
            match appended {
                Appended::Placed(position) => entries.push((entry, position, request)),
                Appended::Duplicate(earlier) => request.answer(Ok(earlier
                    .into_message()
                    .map_or(Outcome::Unchanged, Outcome::Duplicate))),
                Appended::Unchanged => request.answer(Ok(Outcome::Unchanged)),
                Appended::NotAMember => request.answer(Err(Error::NotAMember)),
                Appended::NoRequiredMember => request.answer(Err(Error::LastSupport)),
                Appended::NoRoom => request.answer(Err(Error::NoRoom)),
                // If the entry is in the log nevertheless, it is announced with the next one.
                Appended::Failed(error) => request.answer(Err(error.into())),
            }
        }
        self.announce_appended(entries).await;
    }

    /// Announces entries that were appended, and then answers their callers.
    async fn announce_appended(&mut self, mut entries: Vec<(NewEntry, LogPosition, Request)>) {
        // The order may differ, because a store may need several attempts for a batch.
        entries.sort_by_key(|(_, position, _)| position.seq);
        let mut events = Vec::with_capacity(entries.len());
        let mut answers = Vec::with_capacity(entries.len());
        for (entry, position, request) in entries {
            let Request { rendering, reply } = request;
            let (entry, post) = rendering.render(entry, position);
            let outcome = Outcome::Appended {
                position,
                post: post.clone(),
            };
            events.push(RoomEvent::Entry { entry, post });
            answers.push((reply, outcome));
        }
        self.announce_new(&events).await;
        for (reply, outcome) in answers {
            // The caller may have dropped its future.
            let _ = reply.send(Ok(outcome));
        }
    }

    /// Reads the read marks of edited messages.
    async fn load_marks(&self, batch: &mut [Committed]) {
        let edits = batch.iter_mut().filter(|committed| {
            committed.appended.placed().is_some() && committed.request.rendering.needs_marks()
        });
        join_all(edits.map(|edit| self.load_marks_of(edit))).await;
    }

    /// Reads the read marks of an edited message. If this fails, so does the request.
    async fn load_marks_of(&self, edit: &mut Committed) {
        let Rendering::Edit { before, marks, .. } = &mut edit.request.rendering else {
            return;
        };
        let EditMarks::Latest(room) = marks else {
            return;
        };
        let latest = self
            .store
            .read_marks
            .between(room.id, &room.members, before.seq, before.seq)
            .await;
        match latest {
            Ok(latest) => *marks = EditMarks::Known(latest),
            Err(error) => {
                // Subscribers will not get this entry, so they must resynchronize.
                self.subscribers.interrupt(room.id);
                edit.appended = Appended::Failed(error);
            }
        }
    }

    /// Announces entries, and before them those between the last announced entry and them.
    async fn announce_new(&mut self, events: &[RoomEvent]) {
        if self.announced_seqs.is_none() {
            return self.subscribers.announce(events);
        }
        // Entries without a gap before them are announced in one call.
        let mut first = 0;
        for (index, event) in events.iter().enumerate() {
            let RoomEvent::Entry { entry, .. } = event else {
                continue;
            };
            let (room, seq) = (entry.room, entry.seq);
            let announced = self.announced(room);
            if announced.is_some_and(|announced| announced.next() != seq) {
                self.subscribers.announce(&events[first..index]);
                first = index;
                self.announce_up_to(room, seq.prev()).await;
                if announced >= Some(seq) {
                    // A catch-up after the commit has already announced it.
                    first += 1;
                    continue;
                }
            }
            self.record(room, seq);
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
            let is_announced = end.0 - announced.0 <= MAX_MISSED
                && self.announce_missed(room, announced, end).await.is_ok();
            if !is_announced {
                self.subscribers.interrupt(room);
            }
        }
        let end = announced.map_or(end, |announced| announced.max(end));
        self.record(room, end);
        end
    }

    /// Announces the entries of a room after `announced` and up to `end`. Announcing late that a
    /// member left removes their subscription, even if they have subscribed again since, and they
    /// would not notice; so they must resynchronize.
    async fn announce_missed(&self, room: RoomId, mut announced: Seq, end: Seq) -> Result<()> {
        let mut removed = HashSet::new();
        while announced < end {
            let batch_end = Seq(end.0.min(announced.0 + BATCH_SIZE));
            let events = self.missed.read(room, announced, batch_end).await?;
            self.subscribers.announce(&events);
            for event in &events {
                let RoomEvent::Entry { entry, .. } = event else {
                    continue;
                };
                match entry.what {
                    EntryKind::MemberRemoved(user) => _ = removed.insert(user),
                    EntryKind::MemberAdded(user) if removed.contains(&user) => {
                        self.subscribers.interrupt_user(user);
                    }
                    _ => {}
                }
            }
            announced = batch_end;
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
