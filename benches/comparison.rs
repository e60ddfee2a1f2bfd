//! Comparison of Causerie and the baseline, which run in alternating rounds.

use std::time::Duration;

use crate::Outcome;
use crate::http::Connection;
use crate::latency::Latencies;
use crate::report::{self, Report, Row};
use crate::seed;
use crate::server::{Kind, Launcher, Server};

/// The rooms of each contender.
const ROOMS: u32 = 16;

/// A server and the rooms that receive the load.
pub struct Contender {
    /// The running server.
    pub server: Server,
    /// The rooms to post to, with the tokens of their members.
    pub endpoints: Vec<Endpoint>,
}

impl Contender {
    async fn start(launcher: &Launcher, kind: Kind, database: &str) -> Outcome<Self> {
        let server = launcher.start(kind, database).await?;
        let endpoints = if kind == Kind::Baseline {
            open_endpoints()
        } else {
            endpoints(&server, kind).await?
        };
        Ok(Self { server, endpoints })
    }
}

/// A room of two members.
pub struct Endpoint {
    /// The room's id.
    pub room: String,
    /// The tokens of both members.
    pub tokens: [String; 2],
}

/// Both contenders. Both run all the time; one is idle while the other is measured.
pub struct Pair {
    /// Causerie (a second baseline when calibrating).
    pub ours: Contender,
    /// The baseline, or Causerie in another mode.
    pub baseline: Contender,
}

impl Pair {
    /// Starts both servers.
    pub async fn start(launcher: &Launcher, ours: Kind, baseline: Kind) -> Outcome<Self> {
        let ours = Contender::start(launcher, ours, "posts").await?;
        Ok(Self {
            ours,
            baseline: Contender::start(launcher, baseline, "compared").await?,
        })
    }

    /// Stops both servers.
    pub async fn stop(self) -> Outcome<()> {
        self.ours.server.stop().await?;
        self.baseline.server.stop().await?;
        Ok(())
    }
}

async fn endpoints(server: &Server, kind: Kind) -> Outcome<Vec<Endpoint>> {
    let mut connection = Connection::open(server.address).await?;
    let mut endpoints = Vec::new();
    for _ in 0..ROOMS {
        let pair = if kind.is_secure() {
            seed::accounts(&mut connection, 2).await?
        } else {
            seed::users_by_id(&mut connection, 2).await?
        };
        let room = seed::room(&mut connection, &pair[0], &pair[1..], "consumer").await?;
        let tokens = [pair[0].token.clone(), pair[1].token.clone()];
        endpoints.push(Endpoint { room, tokens });
    }
    Ok(endpoints)
}

/// Returns endpoints for the baseline, which checks neither rooms nor tokens. Their requests have
/// the same length as Causerie's.
fn open_endpoints() -> Vec<Endpoint> {
    let token = "x".repeat(230);
    let endpoint = |number| Endpoint {
        room: format!("{number:032x}"),
        tokens: [token.clone(), token.clone()],
    };
    (1..=ROOMS).map(endpoint).collect()
}

/// The measurements of one round of one contender.
pub struct Round {
    /// The number of completed operations, in the unit of the case.
    pub count: u32,
    /// The duration of the round.
    pub elapsed: Duration,
    /// The latency of each operation.
    pub latencies: Latencies,
    /// The processor time of the server.
    pub processor: Duration,
    /// The processor time of the server's database, if that is a separate process.
    pub database: Duration,
}

impl Round {
    /// Prints the round as progress, with the processor time of the load, which must not be what
    /// limits the rate.
    pub fn tell(&self, load: Duration) {
        let Self {
            count,
            elapsed,
            processor,
            database,
            ..
        } = self;
        eprintln!(
            "  {count} in {elapsed:.2?}; processor time: server {processor:.2?}, database {database:.2?}, load {load:.2?}"
        );
    }

    fn rate(&self) -> f64 {
        f64::from(self.count) / self.elapsed.as_secs_f64()
    }

    fn cost(&self) -> f64 {
        (self.processor + self.database).as_secs_f64() * 1e6 / f64::from(self.count.max(1))
    }

    /// Returns the database's share of the processor time of all cores.
    fn database_share(&self) -> f64 {
        let cores = std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        self.database.as_secs_f64() / self.elapsed.as_secs_f64() / f64::from(cores)
    }
}

/// The rounds of both contenders, in pairs that ran one after the other.
#[derive(Default)]
pub struct Comparison {
    pairs: Vec<(Round, Round)>,
}

impl Comparison {
    /// Adds a round of Causerie and the baseline's round that followed it.
    pub fn add(&mut self, ours: Round, baseline: Round) {
        self.pairs.push((ours, baseline));
    }

    /// Adds the rows of a case, and whether its target was reached.
    pub fn report(&self, figure: &str, target: f64, report: &mut Report) {
        self.report_against(figure, "the baseline", target, report);
    }

    /// Adds the rows of a case, compared with `other` instead of the baseline.
    pub fn report_against(&self, figure: &str, other: &str, target: f64, report: &mut Report) {
        let ratio = self.median(|ours, baseline| ours.rate() / baseline.rate());
        let (ours, baseline) = self.latencies();
        report.row(Row {
            figure: figure.to_owned(),
            ours: report::thousands(self.median(|ours, _| ours.rate())),
            baseline: report::thousands(self.median(|_, baseline| baseline.rate())),
            ratio: format!("{ratio:.2}"),
            p50: report::both(ours.p50(), baseline.p50()),
            p99: report::both(ours.p99(), baseline.p99()),
        });
        let cost = self.median(|ours, _| ours.cost());
        let baseline_cost = self.median(|_, baseline| baseline.cost());
        report.row(Row {
            figure: format!("processor time of server and database per unit of {figure}"),
            ours: format!("{cost:.1} µs"),
            baseline: format!("{baseline_cost:.1} µs"),
            ratio: format!("{:.2}", cost / baseline_cost),
            ..Row::default()
        });
        let share = self.median(|ours, _| ours.database_share());
        if share > 0.0 {
            let figure = format!("mongod's share of the machine during {figure}");
            report.row(Row {
                figure,
                ours: format!("{:.0} %", share * 100.0),
                ..Row::default()
            });
        }
        let found = format!("{:.0} %", ratio * 100.0);
        report.verdict(
            &format!("{figure}: at least {:.0} % of {other}", target * 100.0),
            ratio >= target,
            &found,
        );
    }

    /// Returns the median of a value over the pairs. The machine's speed drifts over a run, but
    /// hardly within one pair.
    fn median(&self, of: impl Fn(&Round, &Round) -> f64) -> f64 {
        let mut values: Vec<f64> = self
            .pairs
            .iter()
            .map(|(ours, baseline)| of(ours, baseline))
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn latencies(&self) -> (Latencies, Latencies) {
        let mut both = (Latencies::default(), Latencies::default());
        for (ours, baseline) in &self.pairs {
            both.0.merge(&ours.latencies);
            both.1.merge(&baseline.latencies);
        }
        both
    }
}
