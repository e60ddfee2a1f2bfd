//! The writer thread: runs all waiting jobs in one transaction, and in between runs background
//! slices and empties the write-ahead log.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{
    job::{Job, explain},
    wal::WalCheckpointer,
};

/// The maximum number of jobs in one transaction.
const GROUP: usize = 256;
/// How long jobs are added to a transaction. Later jobs should not have to wait for a long
/// transaction.
const GROUP_TIME: Duration = Duration::from_millis(10);
/// How long a slice may wait while other jobs are always waiting.
const SLICE_WAIT: Duration = Duration::from_millis(100);

type Jobs = mpsc::Receiver<Box<dyn Job>>;

/// Runs jobs until their queue is closed, and slices when no job is waiting.
pub fn write_all(connection: &Connection, mut jobs: Jobs, mut slices: Jobs) {
    let mut checkpointer = WalCheckpointer::new();
    let mut last_slice = Instant::now();
    loop {
        let slice = match receive(&mut jobs, &mut slices, checkpointer.due()) {
            Next::Job(first) => {
                if write_group(connection, first, Some(&mut jobs)) {
                    checkpointer.note();
                }
                if last_slice.elapsed() < SLICE_WAIT {
                    None
                } else {
                    slices.try_recv().ok()
                }
            }
            Next::Slice(slice) => Some(slice),
            Next::Late => None,
            Next::Closed => return,
        };
        if let Some(slice) = slice {
            if write_group(connection, slice, None) {
                checkpointer.note();
            }
            last_slice = Instant::now();
        }
        checkpointer.checkpoint(connection);
    }
}

/// The next thing for the writer to do.
enum Next {
    Job(Box<dyn Job>),
    Slice(Box<dyn Job>),
    /// The deadline has passed without work.
    Late,
    Closed,
}

/// Waits for work, but not longer than `until`.
fn receive(jobs: &mut Jobs, slices: &mut Jobs, until: Option<Instant>) -> Next {
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(job) = jobs.poll_recv(&mut context) {
            return job.map_or(Next::Closed, Next::Job);
        }
        if let Poll::Ready(Some(slice)) = slices.poll_recv(&mut context) {
            return Next::Slice(slice);
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => return Next::Late,
            Some(left) => thread::park_timeout(left),
            None => thread::park(),
        }
    }
}

/// Unparks the writer thread when there is work.
struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `first` and the jobs that wait in `jobs` in one transaction, and sends their results.
/// Returns true if something was erased.
fn write_group(connection: &Connection, first: Box<dyn Job>, jobs: Option<&mut Jobs>) -> bool {
    let mut group = vec![first];
    let committed = transact(connection, jobs, &mut group).map_err(|error| explain(&error));
    if !connection.is_autocommit() {
        // Only after a failure. An error here means that SQLite has already rolled back.
        let _ = connection.execute_batch("ROLLBACK");
    }
    let erased = group.iter().any(|job| job.erases());
    for job in group {
        job.answer(committed.clone());
    }
    erased
}

/// Runs the first job of `group`, and those that arrive meanwhile, in one transaction.
fn transact(
    connection: &Connection,
    mut jobs: Option<&mut Jobs>,
    group: &mut Vec<Box<dyn Job>>,
) -> rusqlite::Result<()> {
    execute(connection, "BEGIN IMMEDIATE")?;
    let begun = Instant::now();
    if !group[0].run(connection) {
        // Undoes the changes of the failed job. If SQLite itself has ended the transaction (disk
        // full, I/O error), they are already undone.
        if !connection.is_autocommit() {
            execute(connection, "ROLLBACK")?;
        }
        execute(connection, "BEGIN IMMEDIATE")?;
    }
    while group.len() < GROUP
        && begun.elapsed() < GROUP_TIME
        && let Some(Ok(mut next)) = jobs.as_mut().map(|jobs| jobs.try_recv())
    {
        execute(connection, "SAVEPOINT work")?;
        let worked = next.run(connection);
        group.push(next);
        if connection.is_autocommit() {
            // SQLite has ended the transaction and undone the changes of the other jobs as well.
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK),
                None,
            ));
        }
        if !worked {
            execute(connection, "ROLLBACK TO work")?;
        }
        execute(connection, "RELEASE work")?;
    }
    execute(connection, "COMMIT")
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}
