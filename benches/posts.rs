//! Posts per second: 64 connections with one pending post each, to many rooms and to one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Outcome;
use crate::comparison::{Comparison, Contender, Pair, Round};
use crate::http::Connection;
use crate::latency::Latencies;
use crate::report::Report;
use crate::scale::Scale;
use crate::seed;
use crate::server;

const CONNECTIONS: usize = 64;

/// Runs both cases; `target` is the minimum share of the baseline's rate.
pub async fn measure(pair: &Pair, target: f64, scale: &Scale, report: &mut Report) -> Outcome<()> {
    compare_answers(pair, report).await?;
    for (rooms, figure) in [
        (16, "posts/s, 64 connections, 16 rooms"),
        (1, "posts/s, 64 connections, 1 room"),
    ] {
        report.progress(figure);
        comparison(pair, rooms, scale)
            .await?
            .report(figure, target, report);
    }
    Ok(())
}

/// Measures the cost of secure mode, compared with open mode in alternating rounds.
pub async fn compare_modes(pair: &Pair, scale: &Scale, report: &mut Report) -> Outcome<()> {
    let figure = "posts/s in secure mode, beside open mode in the baseline's place";
    report.progress(figure);
    comparison(pair, 16, scale)
        .await?
        .report_against(figure, "open mode", 0.95, report);
    Ok(())
}

/// Reports the length of both servers' responses: with a shorter response, the baseline would not
/// be comparable.
async fn compare_answers(pair: &Pair, report: &mut Report) -> Outcome<()> {
    let mut lengths = Vec::new();
    for contender in [&pair.ours, &pair.baseline] {
        let mut connection = Connection::open(contender.server.address).await?;
        let endpoint = &contender.endpoints[0];
        let request = seed::post(&endpoint.room, &endpoint.tokens[0], seed::TEXT);
        lengths.push(connection.exchange(&request).await?.len());
    }
    report.note(&format!(
        "An answer to a post is {} bytes, the baseline's (always message 12345) {} bytes.",
        lengths[0], lengths[1]
    ));
    Ok(())
}

async fn comparison(pair: &Pair, rooms: usize, scale: &Scale) -> Outcome<Comparison> {
    let mut ours = Crowd::gather(&pair.ours, rooms).await?;
    let mut baseline = Crowd::gather(&pair.baseline, rooms).await?;
    ours.round(scale.warm_up).await?;
    baseline.round(scale.warm_up).await?;
    let mut comparison = Comparison::default();
    for _ in 0..scale.rounds {
        comparison.add(
            ours.round(scale.round).await?,
            baseline.round(scale.round).await?,
        );
    }
    Ok(comparison)
}

/// The connections to one contender, kept open between rounds.
struct Crowd<'a> {
    contender: &'a Contender,
    posters: Vec<Poster>,
}

struct Poster {
    connection: Connection,
    request: Arc<[u8]>,
    latencies: Latencies,
}

impl<'a> Crowd<'a> {
    /// Opens the connections and distributes them evenly over the rooms and their members.
    async fn gather(contender: &'a Contender, rooms: usize) -> Outcome<Self> {
        let mut posters = Vec::with_capacity(CONNECTIONS);
        for number in 0..CONNECTIONS {
            let endpoint = &contender.endpoints[number % rooms];
            let token = &endpoint.tokens[number / rooms % 2];
            posters.push(Poster {
                connection: Connection::open(contender.server.address).await?,
                request: seed::post(&endpoint.room, token, seed::TEXT).into(),
                latencies: Latencies::default(),
            });
        }
        Ok(Self { contender, posters })
    }

    async fn round(&mut self, length: Duration) -> Outcome<Round> {
        let processor = self.contender.server.processor_time()?;
        let database = self.contender.server.database_time()?;
        let own = server::processor_time("self")?;
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for poster in self.posters.drain(..) {
            tasks.spawn(poster.post_until(started + length));
        }
        let mut latencies = Latencies::default();
        while let Some(poster) = tasks.join_next().await {
            let mut poster = poster??;
            latencies.merge(&std::mem::take(&mut poster.latencies));
            self.posters.push(poster);
        }
        let round = Round {
            count: u32::try_from(latencies.count())?,
            elapsed: started.elapsed(),
            latencies,
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
}

impl Poster {
    async fn post_until(mut self, end: Instant) -> Outcome<Self> {
        let mut now = Instant::now();
        while now < end {
            self.connection.exchange(&self.request).await?;
            let before = std::mem::replace(&mut now, Instant::now());
            self.latencies.add(now - before);
        }
        Ok(self)
    }
}
