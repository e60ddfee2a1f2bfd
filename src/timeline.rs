//! The one door by which entries enter the logs.
//!
//! Callers hand in a draft and wait. While one batch is being committed the next one gathers: no timer, no latency added when idle. A
//! batch is committed, then announced in the order of `seq`, then its callers are answered; so nothing is announced or acknowledged
//! that is not on disk, and whoever listens hears each room in order. Two share the work, so that a batch can be committed while the one
//! before it is announced to many: a task that announces, and a thread that commits. Every post waits for that thread, and so it stands in
//! no line behind the requests that the other threads are busy with.

use std::{io, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

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

/// Hands drafts to the thread that commits them.
#[derive(Clone)]
pub struct Timeline {
    queue: mpsc::Sender<Job>,
}

impl Timeline {
    /// Starts the task and the thread. They call `announce` with the posts of every batch, in order. An error is the system's, which may
    /// have no more threads to give.
    pub fn start(store: Arc<dyn Store>, clock: Clock, announce: impl Fn(&[Post]) + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (on_disk, batches) = mpsc::channel(1);
        let announcer = tokio::spawn(announce_all(batches, announce));
        let committer = Committer { store, clock, on_disk, last: Timestamp::default() };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("timeline".into()).spawn(move || runtime.block_on(committer.run(jobs, announcer)))?;
        Ok(Self { queue })
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
            // An error: the thread has ended and dropped `done`.
            let _ = closed.await;
        }
    }
}

fn closed() -> Error {
    store::StoreError::Unavailable("the server is stopping".into()).into()
}

/// A batch that is on disk.
type Committed = Vec<(Waiting, MessageId, Option<Placed>)>;

struct Committer {
    store: Arc<dyn Store>,
    clock: Clock,
    on_disk: mpsc::Sender<Committed>,
    /// The time of the latest batch: a clock that goes back does not take the messages with it.
    last: Timestamp,
}

impl Committer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, announcer: JoinHandle<()>) {
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
            if !batch.is_empty() {
                self.commit(batch).await;
            }
        }
        drop(self.on_disk);
        // It ends once it has announced what it was given; a panic in it has been reported by the panic hook.
        let _ = announcer.await;
    }

    async fn commit(&mut self, batch: Vec<Waiting>) {
        self.last = self.last.max(self.clock.now());
        let new: Vec<_> = batch.iter().map(|waiting| self.number(&waiting.draft)).collect();
        let ids: Vec<_> = new.iter().map(|message| message.id).collect();
        match self.store.append(new).await {
            Ok(placed) => {
                let committed = batch.into_iter().zip(ids).zip(placed).map(|((waiting, id), placed)| (waiting, id, placed));
                // Refused only where the announcer has panicked; the callers are then told that there is no answer.
                let _ = self.on_disk.send(committed.collect()).await;
            }
            Err(error) => {
                for waiting in batch {
                    waiting.answer(Err(error.clone().into()));
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
}

async fn announce_all(mut batches: mpsc::Receiver<Committed>, announce: impl Fn(&[Post])) {
    while let Some(batch) = batches.recv().await {
        let (mut posts, mut posted) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (mut waiting, id, placed) in batch {
            match placed {
                Some(placed) => {
                    posts.push(waiting.post(id, placed));
                    posted.push(waiting);
                }
                None => waiting.answer(Err(Error::NoRoom)),
            }
        }
        announce(&posts);
        for (waiting, post) in posted.into_iter().zip(posts) {
            waiting.answer(Ok(post));
        }
    }
}

impl Waiting {
    fn post(&mut self, id: MessageId, Placed { seq, created_at }: Placed) -> Post {
        let text = std::mem::take(&mut self.draft.text);
        let draft = &self.draft;
        let message = Message { id, room: draft.room.id, seq, author: draft.author.id, text, created_at };
        Post::new(&message, &draft.author, &draft.members)
    }

    fn answer(self, outcome: Result<Post>) {
        // A caller that has gone away needs no answer.
        let _ = self.reply.send(outcome);
    }
}
