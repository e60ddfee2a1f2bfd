use std::{fs, sync::mpsc as blocking};

use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{sleep, timeout},
};

use super::*;
use crate::{
    model::{RoomId, Timestamp, User, UserId, UserType},
    store::{History, Sqlite, Store, cached::cached},
};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A thread that is blocked until it is released.
struct Held {
    release: blocking::Sender<()>,
    done: JoinHandle<Result<()>>,
}

impl Held {
    async fn on<F: Future<Output = Result<()>> + Send + 'static>(
        run: impl FnOnce(Wait) -> F,
    ) -> Self {
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
            held.push(
                Self::on(|wait| async move { threads.read(move |_| wait.wait()).await }).await,
            );
        }
        held
    }

    async fn writer(threads: &Arc<Threads>) -> Self {
        let threads = Arc::clone(threads);
        Self::on(|wait| async move { threads.write(move |_| wait.wait()).await }).await
    }

    async fn release(self) {
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
        self.begun
            .send(())
            .map_err(|()| rusqlite::Error::InvalidQuery)?;
        // An error means that the test has failed.
        let _ = self.released.recv();
        Ok(())
    }
}

impl Pool {
    fn waiting(&self) -> usize {
        let queue = self.0.lock();
        queue
            .as_ref()
            .map_or(0, |(queue, _)| queue.max_capacity() - queue.capacity())
    }
}

async fn open(folder: &TempDir) -> Sqlite {
    Sqlite::open(folder.path().join("causerie.db"))
        .await
        .unwrap()
}

/// In this module because it has to block reads.
#[tokio::test]
async fn erased_data_leaves_the_wal_once_no_reader_uses_it_and_no_write_waits_for_that() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let emptied = async || {
        while fs::metadata(folder.path().join("causerie.db-wal"))
            .unwrap()
            .len()
            > 0
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let add = |name: &'static str| {
        store.threads.write(move |connection| {
            connection.execute(
                "INSERT INTO secrets (name, value) VALUES (?, x'00')",
                [name],
            )
        })
    };
    add("erased").await.unwrap();
    let threads = Arc::clone(&store.threads);
    let reads = |wait: Wait| async move {
        let count = "SELECT count(*) FROM secrets";
        threads
            .read(move |connection| {
                connection
                    .query_row(count, [], |_| Ok(()))
                    .and_then(|()| wait.wait())
            })
            .await
    };
    let reader = Held::on(reads).await;
    store
        .threads
        .write_and_scrub(|connection| connection.execute("DELETE FROM secrets", []))
        .await
        .unwrap();
    timeout(Duration::from_millis(1_500), emptied())
        .await
        .expect_err("a reader still uses it");
    timeout(TIMEOUT, add("later"))
        .await
        .expect("the write waits for a reader")
        .unwrap();
    reader.release().await;
    timeout(TIMEOUT, emptied())
        .await
        .expect("no reader uses it any more");
}

#[tokio::test]
async fn a_read_is_skipped_if_its_caller_was_dropped() {
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
        reader.release().await;
    }
    assert!(patient.await.unwrap().unwrap());
    // The threads are stopped first, so that all queued reads have finished.
    store.threads.stop();
    drop(read);
    assert_eq!(was_read.iter().collect::<Vec<_>>(), ["patient"]);
}

#[tokio::test]
async fn last_seqs_do_not_wait_for_other_reads() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let held = Held::readers(&store.threads).await;
    let ends = timeout(TIMEOUT, store.last_seqs(&[RoomId::from_bytes([1; 16])])).await;
    assert_eq!(ends.expect("it waits for other reads").unwrap(), []);
    for reader in held {
        reader.release().await;
    }
}

/// In this module because it has to block reads and writes.
#[tokio::test]
async fn a_user_read_just_before_being_deleted_is_not_cached() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let threads = Arc::clone(&store.threads);
    let store = cached(Store::new(store));
    let (id, at) = (UserId::from_bytes([1; 16]), Timestamp(1));
    let (first_name, last_name) = ("Ada".to_owned(), "Test".to_owned());
    let ada = User {
        id,
        first_name,
        last_name,
        kind: UserType::Support,
        created_at: at,
        updated_at: at,
        deleted: false,
    };
    store.accounts.add(ada, None).await.unwrap();
    let (writer, mut readers) = (Held::writer(&threads).await, Held::readers(&threads).await);
    let erasing = tokio::spawn({
        let users = Arc::clone(&store.users);
        async move { users.delete(id, at).await }
    });
    while threads.writer.waiting() < 1 {
        yield_now().await;
    }
    let reading = tokio::spawn({
        let users = Arc::clone(&store.users);
        async move { users.find(id).await }
    });
    while threads.readers.waiting() < 1 {
        yield_now().await;
    }
    // A reader takes the jobs in order: when this later read has finished, the read of the user
    // has finished too.
    readers.pop().unwrap().release().await;
    threads.read(|_| Ok(())).await.unwrap();
    writer.release().await;
    assert!(erasing.await.unwrap().unwrap());
    assert!(
        reading.await.unwrap().unwrap().is_some(),
        "it was read before"
    );
    assert_eq!(store.users.find(id).await.unwrap(), None);
    for reader in readers {
        reader.release().await;
    }
}
