//! The thread that writes: one transaction for all that waits, and in between the emptying of the write-ahead log.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{
    threads::{Job, explain},
    wal::Leftovers,
};

/// The most pieces of work in one transaction.
const GROUP: usize = 256;
/// Does what comes in, until that ends.
pub fn write_all(connection: &Connection, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    let mut leftovers = Leftovers::new();
    loop {
        match receive(&mut jobs, leftovers.due()) {
            Next::Job(first) => {
                if write_group(connection, first, &mut jobs) {
                    leftovers.note();
                }
            }
            Next::Late => {}
            Next::Closed => return,
        }
        leftovers.take_away(connection);
    }
}

/// What comes next for the writer.
enum Next {
    Job(Box<dyn Job>),
    /// Nothing, until it was time.
    Late,
    Closed,
}

/// Waits for work; where there is something else to do at a certain time, no longer than that.
fn receive(jobs: &mut mpsc::Receiver<Box<dyn Job>>, until: Option<Instant>) -> Next {
    let next = |job: Option<_>| job.map_or(Next::Closed, Next::Job);
    let Some(until) = until else { return next(jobs.blocking_recv()) };
    let waker = Waker::from(Arc::new(Sleeper(thread::current())));
    loop {
        if let Poll::Ready(job) = jobs.poll_recv(&mut Context::from_waker(&waker)) {
            return next(job);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Next::Late;
        }
        thread::park_timeout(left);
    }
}

/// A thread that sleeps until there is work.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Does `first` and all that waits, in one transaction, and answers. True when something was erased.
fn write_group(connection: &Connection, first: Box<dyn Job>, jobs: &mut mpsc::Receiver<Box<dyn Job>>) -> bool {
    let mut group = vec![first];
    let committed = transact(connection, jobs, &mut group).map_err(|error| explain(&error));
    if !connection.is_autocommit() {
        // Only after a failure; where this fails too, SQLite has rolled back already.
        let _ = connection.execute_batch("ROLLBACK");
    }
    let erased = group.iter().any(|job| job.erases());
    for job in group {
        job.answer(committed.clone());
    }
    erased
}

/// Runs the first job of `group`, and all that come in meanwhile, in one transaction.
fn transact(connection: &Connection, jobs: &mut mpsc::Receiver<Box<dyn Job>>, group: &mut Vec<Box<dyn Job>>) -> rusqlite::Result<()> {
    execute(connection, "BEGIN IMMEDIATE")?;
    if !group[0].run(connection) {
        // What it did before it failed goes; where SQLite itself has ended the transaction (disk full, I/O error), it went already.
        if !connection.is_autocommit() {
            execute(connection, "ROLLBACK")?;
        }
        execute(connection, "BEGIN IMMEDIATE")?;
    }
    while group.len() < GROUP
        && let Ok(mut next) = jobs.try_recv()
    {
        execute(connection, "SAVEPOINT work")?;
        let worked = next.run(connection);
        group.push(next);
        if connection.is_autocommit() {
            // SQLite has ended the transaction, and what the others did went with it.
            return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK), None));
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
