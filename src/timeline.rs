//! The one door by which entries enter the logs.
//!
//! Callers hand in a draft and wait. While one batch is being committed the next one gathers: no timer, no latency added when idle. A
//! batch is committed, then announced in the order of `seq`, then its callers are answered; so nothing is announced or acknowledged
//! that is not on disk, and whoever listens hears each room in order.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    error::{Error, Result},
    model::{Message, MessageId, Room, Timestamp, User},
    store::{self, NewMessage, Placed, Store},
    view::Post,
};

/// How many drafts may wait before callers wait to hand theirs in.
const QUEUE: usize = 1024;
/// The most drafts in one batch.
const BATCH: usize = 256;

/// A message that somebody wants posted.
#[derive(Debug)]
pub struct Draft {
    /// Where.
    pub room: Arc<Room>,
    /// By whom.
    pub author: Arc<User>,
    /// Who is shown as being in the room.
    pub members: Vec<Arc<User>>,
    /// What it says.
    pub text: String,
}

struct Waiting {
    draft: Draft,
    reply: oneshot::Sender<Result<Post>>,
}

enum Job {
    Post(Box<Waiting>),
    Close(oneshot::Sender<()>),
}

/// Hands drafts to the task that commits them.
#[derive(Clone)]
pub struct Timeline {
    queue: mpsc::Sender<Job>,
}

impl Timeline {
    /// Starts the task. It calls `announce` for every post, in order, and must not be held up by it.
    pub fn start(store: Arc<dyn Store>, clock: Clock, announce: impl Fn(&Post) + Send + Sync + 'static) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let committer = Committer { store, clock, announce, last: Timestamp::default() };
        tokio::spawn(committer.run(jobs));
        Self { queue }
    }

    /// Posts a message; answers once it is on disk and announced. Dropping the future does not take the draft back. Errors:
    /// [`Error::NoRoom`] when the room is gone, and those of the store.
    pub async fn post(&self, draft: Draft) -> Result<Post> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Post(Box::new(Waiting { draft, reply }));
        self.queue.send(job).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Commits, announces and answers all that was handed in before this call, and takes no more.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Job::Close(done)).await.is_ok() {
            // An error: the task has ended and dropped `done`.
            let _ = closed.await;
        }
    }
}

fn closed() -> Error {
    store::StoreError::Unavailable("the server is stopping".into()).into()
}

struct Committer<F> {
    store: Arc<dyn Store>,
    clock: Clock,
    announce: F,
    /// The time of the latest batch: a clock that goes back does not take the messages with it.
    last: Timestamp,
}

impl<F: Fn(&Post) + Send + Sync + 'static> Committer<F> {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut gathered = Vec::with_capacity(BATCH);
        // Dropped when this function ends, by which whoever waits for the end learns of it.
        let mut closers = Vec::new();
        while jobs.recv_many(&mut gathered, BATCH).await > 0 {
            let mut batch = Vec::with_capacity(gathered.len());
            for job in gathered.drain(..) {
                match job {
                    Job::Post(waiting) => batch.push(*waiting),
                    Job::Close(closer) => {
                        closers.push(closer);
                        jobs.close();
                    }
                }
            }
            self.commit(batch).await;
        }
    }

    async fn commit(&mut self, batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        self.last = self.last.max(self.clock.now());
        let new: Vec<_> = batch.iter().map(|waiting| self.number(&waiting.draft)).collect();
        let ids: Vec<_> = new.iter().map(|message| message.id).collect();
        match self.store.append(new).await {
            Ok(placed) => {
                for ((waiting, id), placed) in batch.into_iter().zip(ids).zip(placed) {
                    self.finish(waiting, id, placed);
                }
            }
            Err(error) => {
                for waiting in batch {
                    // A caller that has gone away needs no answer; so too below.
                    let _ = waiting.reply.send(Err(error.clone().into()));
                }
            }
        }
    }

    fn number(&self, draft: &Draft) -> NewMessage {
        NewMessage {
            id: self.clock.new_id(self.last).into(),
            room: draft.room.id,
            author: draft.author.id,
            text: draft.text.clone(),
            created_at: self.last,
        }
    }

    fn finish(&self, waiting: Waiting, id: MessageId, placed: Option<Placed>) {
        let Waiting { draft, reply } = waiting;
        let Some(placed) = placed else {
            let _ = reply.send(Err(Error::NoRoom));
            return;
        };
        let message =
            Message { id, room: draft.room.id, seq: placed.seq, author: draft.author.id, text: draft.text, created_at: placed.created_at };
        let post = Post::new(&message, &draft.author, &draft.members);
        (self.announce)(&post);
        let _ = reply.send(Ok(post));
    }
}
