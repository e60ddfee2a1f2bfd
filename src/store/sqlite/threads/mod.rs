//! The threads that access SQLite: one writer and a few readers. Async code sends them jobs and
//! waits for the results without blocking.
//!
//! Background work that no caller waits for (erasing, indexing) is sent to the writer in slices of
//! a few milliseconds, each in its own transaction. A slice runs when the writer has nothing else
//! to do, and from time to time if it always has.
//!
//! The writer commits in groups: all jobs that are waiting when a transaction begins become part of
//! it, and their results are sent after the commit. So they share the cost of one write to disk. A
//! job that fails is undone alone: for the first job of a group by restarting the transaction, for
//! each further job by a savepoint (which has a cost: SQLite copies every page that it changes).

use std::{
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{Connection, InterruptHandle, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::{
    job::{BUSY_TIMEOUT, Job, explain},
    lock::Lock,
    writer::write_all,
};
use crate::store::{Result, StoreError};

/// The number of reader threads. Reads are short, so more threads than cores only add switching.
pub const READERS: usize = 2;
/// How many jobs may wait for the writer, and for the readers, before callers have to wait to add
/// theirs.
const QUEUE: usize = 1024;
/// How long the readers, and then the writer, may take to finish when the database is closed. After
/// that, their statements are interrupted.
const READERS_TIMEOUT: Duration = Duration::from_millis(500);
const WRITER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often `stop` checks whether a thread has finished.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

struct Task<F, T> {
    work: Option<F>,
    erases: bool,
    outcome: Result<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Task<F, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn erases(&self) -> bool {
        self.erases
    }

    fn run(&mut self, connection: &Connection) -> bool {
        if let Some(work) = self.work.take() {
            self.outcome = work(connection).map_err(|error| explain(&error));
        }
        self.outcome.is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        // An error means that the caller was dropped and needs no result.
        let _ = self.reply.send(committed.and(self.outcome));
    }
}

type Queue = mpsc::Sender<Box<dyn Job>>;

/// The threads of one database.
pub struct Threads {
    readers: Pool,
    /// For reads that must not wait for other reads.
    reader_ahead: Pool,
    writer: Pool,
    /// Background slices for the writer.
    slices: Pool,
}

/// A set of threads that take jobs from one queue.
struct Pool(Mutex<Option<(Queue, Vec<Thread>)>>);

struct Thread {
    handle: JoinHandle<()>,
    interrupt: InterruptHandle,
}

impl Pool {
    fn new(queue: Queue, threads: Vec<Thread>) -> Self {
        Self(Mutex::new(Some((queue, threads))))
    }

    /// Runs `work` on one of the threads and returns its result.
    async fn run<T: Send + 'static>(
        &self,
        erases: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let queue = self.0.lock().as_ref().map(|(queue, _)| queue.clone());
        let (reply, answer) = oneshot::channel();
        let job = Task {
            work: Some(work),
            erases,
            outcome: Err(closed()),
            reply,
        };
        queue
            .ok_or_else(closed)?
            .send(Box::new(job))
            .await
            .map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets the threads finish the queued jobs and waits until they end; after `timeout`, their
    /// statements are interrupted. Blocks.
    fn stop(&self, timeout: Duration) {
        let Some((queue, threads)) = self.0.lock().take() else {
            return;
        };
        drop(queue);
        let deadline = Instant::now() + timeout;
        for Thread { handle, interrupt } in threads {
            while !handle.is_finished() {
                if Instant::now() >= deadline {
                    interrupt.interrupt();
                }
                thread::sleep(POLL_INTERVAL);
            }
            // If the thread panicked, the panic hook has already reported it.
            let _ = handle.join();
        }
    }
}

impl Threads {
    /// Starts one thread that writes through `writer`, and `readers` threads plus one that read
    /// from the file at `path`. The lock is held until all of them have closed their connections.
    pub fn start(
        path: &Path,
        writer: Connection,
        readers: usize,
        lock: Option<Lock>,
    ) -> rusqlite::Result<Self> {
        let lock = Arc::new(lock);
        let (write, write_jobs) = mpsc::channel(QUEUE);
        let (slice, slices) = mpsc::channel(QUEUE);
        let (readers, reader_ahead) = (
            start_readers(path, readers, &lock)?,
            start_readers(path, 1, &lock)?,
        );
        let writing = start_thread("sqlite-writer", writer, lock, move |connection| {
            write_all(connection, write_jobs, slices);
        });
        Ok(Self {
            readers,
            reader_ahead,
            writer: Pool::new(write, vec![writing]),
            slices: Pool::new(slice, Vec::new()),
        })
    }

    /// Runs `work` in a transaction; returns once it is committed to disk. An error undoes this job
    /// only.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.run(false, work).await
    }

    /// Like [`write`](Self::write), for work that erases data: within about a second, the data is
    /// removed from the write-ahead log as well.
    pub async fn write_and_scrub<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.run(true, work).await
    }

    /// Runs a slice of background work in a transaction. It may take a few milliseconds, and runs
    /// after all other jobs.
    pub async fn slice<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.slices.run(false, work).await
    }

    /// Like [`slice`](Self::slice), for a slice that erases data.
    pub async fn erase_slice<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.slices.run(true, work).await
    }

    /// Runs `work`, which must only read, on one snapshot of the database.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run(false, work).await
    }

    /// Like [`read`](Self::read), but does not wait for other reads; for short work.
    pub async fn read_ahead<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.reader_ahead.run(false, work).await
    }

    /// Finishes the queued jobs, except for slices, and closes the database. Blocks.
    pub fn stop(&self) {
        self.slices.stop(Duration::ZERO);
        // The writer stops last: only the last connection to close cleans up the write-ahead log,
        // and only the writer is allowed to.
        self.readers.stop(READERS_TIMEOUT);
        self.reader_ahead.stop(READERS_TIMEOUT);
        self.writer.stop(WRITER_TIMEOUT);
    }
}

fn start_readers(path: &Path, count: usize, lock: &Arc<Option<Lock>>) -> rusqlite::Result<Pool> {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let jobs = Arc::new(Mutex::new(jobs));
    let mut threads = Vec::with_capacity(count);
    for _ in 0..count {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        prepare(&connection)?;
        let jobs = Arc::clone(&jobs);
        threads.push(start_thread(
            "sqlite-reader",
            connection,
            Arc::clone(lock),
            move |connection| read_all(connection, &jobs),
        ));
    }
    Ok(Pool::new(queue, threads))
}

fn start_thread(
    name: &str,
    connection: Connection,
    lock: Arc<Option<Lock>>,
    run: impl FnOnce(&Connection) + Send + 'static,
) -> Thread {
    let interrupt = connection.get_interrupt_handle();
    let run = move || {
        run(&connection);
        drop(connection);
        drop(lock);
    };
    let handle = thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .expect("the system starts a thread");
    Thread { handle, interrupt }
}

/// Settings that every connection needs.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // The temporary data of a transaction fits into memory.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

fn closed() -> StoreError {
    StoreError::Unavailable("database is closed".into())
}

fn read_all(connection: &Connection, jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
    loop {
        let next = jobs.lock().blocking_recv();
        let Some(mut job) = next else { return };
        if !job.is_wanted() {
            // The caller has given up, which happens when there is too much to read: running its
            // job would keep the readers overloaded.
            continue;
        }
        let snapshot = connection.execute_batch("BEGIN");
        job.run(connection);
        // Nothing was written, so the outcome of the transaction does not affect the result.
        let _ = connection.execute_batch("COMMIT");
        job.answer(snapshot.map_err(|error| explain(&error)));
    }
}

#[cfg(test)]
mod tests;
