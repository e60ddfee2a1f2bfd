//! The threads that talk to SQLite: one that writes, a few that read. Async code hands them work and waits without blocking.
//!
//! Work for which nobody waits (erasing, indexing) is handed to the writer in slices of a few milliseconds, each a transaction of its own. A
//! slice is done when nothing else waits for the writer, and now and then when something always does.
//!
//! The writer commits in groups: whatever waits when it begins a transaction goes into that transaction, and the answers go out after the
//! commit. So the price of reaching the disk is shared by all who wait for it. Work that fails is undone alone: the first of a group by
//! beginning the transaction again, each further one by a savepoint (which has its price: SQLite copies every page that it changes).

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::{Result, StoreError, lock::Lock, writer::write_all};

/// How much work may wait for the writer, and for the readers, before callers wait to hand theirs in.
const QUEUE: usize = 1024;
/// How long a statement waits for a lock that somebody else's tool holds on the file.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the readers, and then the writer, may take to finish when the database is closed. What they are at then is interrupted.
const READERS_END: Duration = Duration::from_millis(500);
const WRITER_END: Duration = Duration::from_secs(5);
/// How often it is looked then whether they have finished.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Work for a thread: done on its connection, then answered.
pub trait Job: Send {
    /// False when nobody waits for the answer any more.
    fn is_wanted(&self) -> bool;
    /// Whether it takes something away that should be found in no file any more.
    fn erases(&self) -> bool;
    /// False when the work failed.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers with what `run` found, unless what it did could not be committed.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Work<F, T> {
    task: Option<F>,
    erases: bool,
    outcome: Result<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Work<F, T>
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
        if let Some(task) = self.task.take() {
            self.outcome = task(connection).map_err(|error| explain(&error));
        }
        self.outcome.is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        // A caller that has gone away needs no answer.
        let _ = self.reply.send(committed.and(self.outcome));
    }
}

type Queue = mpsc::Sender<Box<dyn Job>>;

/// The threads of one database.
pub struct Threads {
    readers: Pool,
    /// Reads what may not wait behind other reads.
    reader_ahead: Pool,
    writer: Pool,
    /// Slices for the writer.
    slices: Pool,
}

/// Threads that take their work from one queue.
struct Pool(Mutex<Option<(Queue, Vec<Thread>)>>);

struct Thread {
    handle: JoinHandle<()>,
    interrupt: InterruptHandle,
}

impl Pool {
    fn new(queue: Queue, threads: Vec<Thread>) -> Self {
        Self(Mutex::new(Some((queue, threads))))
    }

    /// Has `work` done by one of the threads, and waits for the answer.
    async fn run<T: Send + 'static>(
        &self,
        erases: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(queue, _)| queue.clone());
        let (reply, answer) = oneshot::channel();
        let job = Work { task: Some(work), erases, outcome: Err(closed()), reply };
        queue.ok_or_else(closed)?.send(Box::new(job)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets the threads finish what was handed in, and waits for their end; after `patience` statements are interrupted. Blocks.
    fn stop(&self, patience: Duration) {
        let Some((queue, threads)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        drop(queue);
        let deadline = Instant::now() + patience;
        for Thread { handle, interrupt } in threads {
            while !handle.is_finished() {
                if Instant::now() >= deadline {
                    interrupt.interrupt();
                }
                thread::sleep(LOOK_AGAIN);
            }
            // One that panicked has been reported by the panic hook.
            let _ = handle.join();
        }
    }
}

impl Threads {
    /// Starts one thread that writes through `writer` and `readers` that read from the file at `path`. The lock is held until all of them have
    /// closed their connections.
    pub fn start(path: &Path, writer: Connection, readers: usize, lock: Option<Lock>) -> rusqlite::Result<Self> {
        let lock = Arc::new(lock);
        let (write, write_jobs) = mpsc::channel(QUEUE);
        let (slice, slices) = mpsc::channel(QUEUE);
        let (readers, reader_ahead) = (start_readers(path, readers, &lock)?, start_readers(path, 1, &lock)?);
        let writing = start_thread("sqlite-writer", writer, lock, move |connection| write_all(connection, write_jobs, slices));
        Ok(Self { readers, reader_ahead, writer: Pool::new(write, vec![writing]), slices: Pool::new(slice, Vec::new()) })
    }

    /// Does `work` in a transaction; answers once it is on disk. An error undoes this work alone.
    pub async fn write<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T> {
        self.writer.run(false, work).await
    }

    /// The same for work that erases something: within a second or so that is gone from the write-ahead log as well.
    pub async fn write_and_scrub<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.run(true, work).await
    }

    /// Does a slice of work for which nobody waits, in a transaction: it may take a few milliseconds, and comes behind everything else.
    pub async fn slice<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T> {
        self.slices.run(false, work).await
    }

    /// The same for a slice that erases something.
    pub async fn erase_slice<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.slices.run(true, work).await
    }

    /// Does `work`, which only reads, on one snapshot of the database.
    pub async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T> {
        self.readers.run(false, work).await
    }

    /// The same ahead of all other reads, for work that is short.
    pub async fn read_ahead<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T> {
        self.reader_ahead.run(false, work).await
    }

    /// Finishes what was handed in, but for slices, and closes the database. Blocks.
    pub fn stop(&self) {
        self.slices.stop(Duration::ZERO);
        // The writer last: only it may tidy up the write-ahead log, and only the last connection does.
        self.readers.stop(READERS_END);
        self.reader_ahead.stop(READERS_END);
        self.writer.stop(WRITER_END);
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
        threads.push(start_thread("sqlite-reader", connection, Arc::clone(lock), move |connection| read_all(connection, &jobs)));
    }
    Ok(Pool::new(queue, threads))
}

fn start_thread(name: &str, connection: Connection, lock: Arc<Option<Lock>>, run: impl FnOnce(&Connection) + Send + 'static) -> Thread {
    let interrupt = connection.get_interrupt_handle();
    let run = move || {
        run(&connection);
        drop(connection);
        drop(lock);
    };
    let handle = thread::Builder::new().name(name.into()).spawn(run).expect("the system starts a thread");
    Thread { handle, interrupt }
}

/// Settings that every connection needs.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // What SQLite sets aside in the middle of a transaction fits into memory.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".into())
}

fn read_all(connection: &Connection, jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(mut job) = next else { return };
        if !job.is_wanted() {
            // Whoever asked has given up, as all do when there is too much to read: reading on for them would keep it so.
            continue;
        }
        let snapshot = connection.execute_batch("BEGIN");
        job.run(connection);
        // Nothing was written, so how the transaction ends makes no difference to the answer.
        let _ = connection.execute_batch("COMMIT");
        job.answer(snapshot.map_err(|error| explain(&error)));
    }
}

/// What an error of SQLite means to the callers of a store.
pub fn explain(error: &rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationAborted
            | ErrorCode::OperationInterrupted,
        ) => StoreError::Unavailable(text),
        _ => StoreError::Fault(text),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc as blocking};

    use tempfile::TempDir;
    use tokio::{
        task::{JoinHandle, yield_now},
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{
        model::{RoomId, Timestamp, User, UserId, UserType},
        store::{Cached, Sqlite, Store, sqlite::READERS},
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A thread that does nothing else until it is let go.
    struct Held {
        release: blocking::Sender<()>,
        done: JoinHandle<Result<()>>,
    }

    impl Held {
        async fn on<F: Future<Output = Result<()>> + Send + 'static>(run: impl FnOnce(Wait) -> F) -> Self {
            let (release, released) = blocking::channel();
            let (begun, begins) = oneshot::channel();
            let done = tokio::spawn(run(Wait { begun, released }));
            begins.await.unwrap();
            Self { release, done }
        }

        async fn readers(threads: &Arc<Threads>) -> Vec<Self> {
            let mut held = Vec::new();
            for _ in 0..READERS {
                let threads = Arc::clone(threads);
                held.push(Self::on(|wait| async move { threads.read(move |_| wait.wait()).await }).await);
            }
            held
        }

        async fn writer(threads: &Arc<Threads>) -> Self {
            let threads = Arc::clone(threads);
            Self::on(|wait| async move { threads.write(move |_| wait.wait()).await }).await
        }

        async fn let_go(self) {
            self.release.send(()).unwrap();
            self.done.await.unwrap().unwrap();
        }
    }

    struct Wait {
        begun: oneshot::Sender<()>,
        released: blocking::Receiver<()>,
    }

    impl Wait {
        fn wait(self) -> rusqlite::Result<()> {
            self.begun.send(()).map_err(|()| rusqlite::Error::InvalidQuery)?;
            // An error: the test has failed.
            let _ = self.released.recv();
            Ok(())
        }
    }

    impl Pool {
        fn waiting(&self) -> usize {
            let queue = self.0.lock().unwrap();
            queue.as_ref().map_or(0, |(queue, _)| queue.max_capacity() - queue.capacity())
        }
    }

    async fn open(folder: &TempDir) -> Sqlite {
        Sqlite::open(folder.path().join("causerie.db")).await.unwrap()
    }

    /// Stands here, where reads can be held up.
    #[tokio::test]
    async fn what_was_erased_leaves_the_log_once_nobody_reads_it_and_no_write_waits_for_that() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        let emptied = async || {
            while fs::metadata(folder.path().join("causerie.db-wal")).unwrap().len() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let add = |name: &'static str| {
            store.threads.write(move |connection| connection.execute("INSERT INTO secrets (name, value) VALUES (?, x'00')", [name]))
        };
        add("erased").await.unwrap();
        let threads = Arc::clone(&store.threads);
        let reads = |wait: Wait| async move {
            let count = "SELECT count(*) FROM secrets";
            threads.read(move |connection| connection.query_row(count, [], |_| Ok(())).and_then(|()| wait.wait())).await
        };
        let reader = Held::on(reads).await;
        store.threads.write_and_scrub(|connection| connection.execute("DELETE FROM secrets", [])).await.unwrap();
        timeout(Duration::from_millis(1_500), emptied()).await.expect_err("it is still read");
        timeout(PATIENCE, add("later")).await.expect("it waits for whoever reads").unwrap();
        reader.let_go().await;
        timeout(PATIENCE, emptied()).await.expect("nobody reads it any more");
    }

    #[tokio::test]
    async fn nothing_is_read_for_those_who_have_gone_away() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        let held = Held::readers(&store.threads).await;
        let (read, was_read) = blocking::channel();
        let ask = |who: &'static str| {
            let (threads, read) = (Arc::clone(&store.threads), read.clone());
            tokio::spawn(async move { threads.read(move |_| Ok(read.send(who).is_ok())).await })
        };
        let impatient = ask("impatient");
        while store.threads.readers.waiting() < 1 {
            yield_now().await;
        }
        let patient = ask("patient");
        impatient.abort();
        assert!(impatient.await.unwrap_err().is_cancelled());
        for reader in held {
            reader.let_go().await;
        }
        assert!(patient.await.unwrap().unwrap());
        // Closed, so that whatever is still to be read has been.
        store.threads.stop();
        drop(read);
        assert_eq!(was_read.iter().collect::<Vec<_>>(), ["patient"]);
    }

    #[tokio::test]
    async fn where_logs_end_is_known_however_long_others_read() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        let held = Held::readers(&store.threads).await;
        let ends = timeout(PATIENCE, store.last_seqs(&[RoomId::from_bytes([1; 16])])).await;
        assert_eq!(ends.expect("it waits for those who read").unwrap(), []);
        for reader in held {
            reader.let_go().await;
        }
    }

    /// Stands here, where reads and writes can be held up.
    #[tokio::test]
    async fn a_user_read_just_before_they_were_erased_is_not_kept() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        let threads = Arc::clone(&store.threads);
        let cached = Arc::new(Cached::new(store));
        let (id, at) = (UserId::from_bytes([1; 16]), Timestamp(1));
        let (first_name, last_name) = ("Ada".to_owned(), "Test".to_owned());
        let ada = User { id, first_name, last_name, kind: UserType::Support, created_at: at, updated_at: at, deleted: false };
        cached.add_user(ada, None).await.unwrap();
        let (writer, mut readers) = (Held::writer(&threads).await, Held::readers(&threads).await);
        let erasing = tokio::spawn({
            let cached = Arc::clone(&cached);
            async move { cached.delete_user(id, at).await }
        });
        while threads.writer.waiting() < 1 {
            yield_now().await;
        }
        let reading = tokio::spawn({
            let cached = Arc::clone(&cached);
            async move { cached.user(id).await }
        });
        while threads.readers.waiting() < 1 {
            yield_now().await;
        }
        // One reader takes what waits in its turn: when it has come to what was asked after the user, it has read the user.
        readers.pop().unwrap().let_go().await;
        threads.read(|_| Ok(())).await.unwrap();
        writer.let_go().await;
        assert!(erasing.await.unwrap().unwrap());
        assert!(reading.await.unwrap().unwrap().is_some(), "it was read before");
        assert_eq!(cached.user(id).await.unwrap(), None);
        for reader in readers {
            reader.let_go().await;
        }
    }
}
