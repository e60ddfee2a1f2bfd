//! Deliveries per second: events received by a thousand sockets in one room.
//!
//! The slowest socket limits the rate of posts: at most [`WINDOW`] of them have not yet reached all
//! sockets. Otherwise a server that answers posts faster than it delivers them would fill the
//! queues of its sockets and start to drop events.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::Outcome;
use crate::comparison::{Comparison, Contender, Pair, Round};
use crate::http::Connection;
use crate::latency::Latencies;
use crate::report::Report;
use crate::scale::Scale;
use crate::seed;
use crate::server;
use crate::sockets::Socket;

const SOCKETS: u64 = 1_000;
/// How many sockets parse the send time in each event, to measure latencies.
const WATCHES: u64 = 16;
const POSTERS: usize = 64;
/// Half of the events that socketioxide queues per socket before it drops any.
const WINDOW: usize = 64;
/// A delivery that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// The minimum share of the baseline's rate.
const TARGET: f64 = 0.9;

/// The number of digits of the send time in a message text, in microseconds since [`Tally::epoch`].
const DIGITS: usize = 12;
const MARK: &[u8] = b"\"messageText\":\"sent at ";

/// Runs the case.
pub async fn measure(pair: &Pair, scale: &Scale, report: &mut Report) -> Outcome<()> {
    let figure = "deliveries/s, 1,000 sockets in one room";
    report.progress(figure);
    let mut ours = Hall::fill(&pair.ours).await?;
    let mut baseline = Hall::fill(&pair.baseline).await?;
    ours.round(scale.warm_up).await?;
    baseline.round(scale.warm_up).await?;
    let mut comparison = Comparison::default();
    for _ in 0..scale.rounds {
        comparison.add(
            ours.round(scale.round).await?,
            baseline.round(scale.round).await?,
        );
    }
    comparison.report(figure, TARGET, report);
    for (name, hall) in [("Causerie", &ours), ("The baseline", &baseline)] {
        if hall.unheard > 0 {
            let unheard = hall.unheard;
            report.note(&format!("{name} overlooked {unheard} subscriptions that were sent as soon as it said it was connected."));
        }
    }
    Ok(())
}

/// A room with its sockets and the connections that post to it.
struct Hall<'a> {
    contender: &'a Contender,
    tally: Arc<Tally>,
    posters: Vec<Poster>,
    unheard: u32,
    /// Aborted when dropped.
    _audience: JoinSet<Outcome<()>>,
}

/// What the sockets have received so far.
struct Tally {
    epoch: Instant,
    delivered: AtomicU64,
    /// A permit to post; returned when the post has reached all sockets.
    window: Semaphore,
    /// The number of sockets that each pending post has reached; the nth post is at index n modulo
    /// [`WINDOW`].
    reached: [AtomicU64; WINDOW],
    latencies: Mutex<Latencies>,
}

impl Tally {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            delivered: AtomicU64::new(0),
            window: Semaphore::new(WINDOW),
            reached: [const { AtomicU64::new(0) }; WINDOW],
            latencies: Mutex::default(),
        })
    }

    fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Counts the `number`th event of a socket, which is the `number`th post.
    fn count(&self, number: usize) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        let reached = &self.reached[number % WINDOW];
        if reached.fetch_add(1, Ordering::Relaxed) + 1 == SOCKETS {
            reached.store(0, Ordering::Relaxed);
            self.window.add_permits(1);
        }
    }

    fn watch(&self, event: &[u8]) {
        let sent = event
            .windows(MARK.len())
            .position(|bytes| bytes == MARK)
            .and_then(|at| {
                let digits = event.get(at + MARK.len()..)?.get(..DIGITS)?;
                str::from_utf8(digits).ok()?.parse().ok()
            });
        let Some(sent) = sent else { return };
        let latency = self
            .epoch
            .elapsed()
            .saturating_sub(Duration::from_micros(sent));
        self.latencies.lock().expect("no watch panics").add(latency);
    }

    fn take_latencies(&self) -> Latencies {
        std::mem::take(&mut *self.latencies.lock().expect("no watch panics"))
    }
}

impl<'a> Hall<'a> {
    async fn fill(contender: &'a Contender) -> Outcome<Self> {
        let tally = Tally::new();
        let mut audience = JoinSet::new();
        let mut unheard = 0;
        for number in 0..SOCKETS {
            let mut socket = Socket::open(contender.server.address).await?;
            socket
                .emit("subscribe", &contender.endpoints[0].room)
                .await?;
            unheard += socket.unheard;
            let tally = Arc::clone(&tally);
            let mut heard = 0;
            audience.spawn(socket.listen(move |event| {
                if number < WATCHES {
                    tally.watch(event);
                }
                tally.count(heard);
                heard += 1;
            }));
        }
        let mut posters = Vec::new();
        for number in 0..POSTERS {
            posters.push(Poster::new(contender, number, Arc::clone(&tally)).await?);
        }
        Ok(Self {
            contender,
            tally,
            posters,
            unheard,
            _audience: audience,
        })
    }

    async fn round(&mut self, length: Duration) -> Outcome<Round> {
        let processor = self.contender.server.processor_time()?;
        let database = self.contender.server.database_time()?;
        let own = server::processor_time("self")?;
        let before = self.tally.delivered();
        let started = Instant::now();
        let posted = self.post_until(started + length).await?;
        self.drain(before + posted * SOCKETS).await?;
        let round = Round {
            count: u32::try_from(posted * SOCKETS)?,
            elapsed: started.elapsed(),
            latencies: self.tally.take_latencies(),
            processor: self
                .contender
                .server
                .processor_time()?
                .saturating_sub(processor),
            database: self
                .contender
                .server
                .database_time()?
                .saturating_sub(database),
        };
        round.tell(server::processor_time("self")?.saturating_sub(own));
        Ok(round)
    }

    /// Posts over all connections until `end`. Returns the number of posts.
    async fn post_until(&mut self, end: Instant) -> Outcome<u64> {
        let mut tasks = JoinSet::new();
        for poster in self.posters.drain(..) {
            tasks.spawn(poster.post_until(end));
        }
        let mut total = 0;
        while let Some(outcome) = tasks.join_next().await {
            let (poster, count) = outcome??;
            total += count;
            self.posters.push(poster);
        }
        Ok(total)
    }

    /// Waits for pending deliveries. Errors: a lost delivery, because it would invalidate the
    /// figures.
    async fn drain(&self, expected: u64) -> Outcome<()> {
        let everything = self.tally.window.acquire_many(u32::try_from(WINDOW)?);
        match timeout(PATIENCE, everything).await {
            Ok(permits) => drop(permits?),
            Err(_) => {
                return Err(format!(
                    "{} deliveries were lost",
                    expected.saturating_sub(self.tally.delivered())
                )
                .into());
            }
        }
        Ok(())
    }
}

struct Poster {
    connection: Connection,
    request: Vec<u8>,
    /// The offset of the send time in the request.
    time_at: usize,
    tally: Arc<Tally>,
}

impl Poster {
    async fn new(contender: &Contender, number: usize, tally: Arc<Tally>) -> Outcome<Self> {
        let endpoint = &contender.endpoints[0];
        let text = format!(
            "sent at {}, and the rest of the line is padding",
            "0".repeat(DIGITS)
        );
        let request = seed::post(&endpoint.room, &endpoint.tokens[number % 2], &text);
        let mark = request
            .windows(MARK.len())
            .position(|bytes| bytes == MARK)
            .expect("the text is in the request");
        let connection = Connection::open(contender.server.address).await?;
        Ok(Self {
            connection,
            request,
            time_at: mark + MARK.len(),
            tally,
        })
    }

    async fn post(&mut self) -> Outcome<()> {
        let time = format!("{:0DIGITS$}", self.tally.epoch.elapsed().as_micros());
        self.request[self.time_at..self.time_at + DIGITS].copy_from_slice(time.as_bytes());
        self.connection.exchange(&self.request).await?;
        Ok(())
    }

    /// Posts whenever the window permits. Returns the number of posts.
    async fn post_until(mut self, end: Instant) -> Outcome<(Self, u64)> {
        let mut posted = 0;
        let tally = Arc::clone(&self.tally);
        while Instant::now() < end {
            match timeout_at(end.into(), tally.window.acquire()).await {
                Ok(permit) => permit?.forget(),
                Err(_) => break,
            }
            self.post().await?;
            posted += 1;
        }
        Ok((self, posted))
    }
}
