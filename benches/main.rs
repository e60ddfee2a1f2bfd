//! `cargo bench`: the performance of Causerie, compared with a minimal server on the same machine
//! at the same time.
//!
//! Absolute figures depend more on the machine than on the server, so the throughput figures are
//! ratios to a baseline ([`baseline`]): the same libraries and responses, without database, tokens
//! or log. Both run as child processes in alternating rounds, and this process generates the load
//! over loopback. The figures about growth (deep pages, many rooms, many unread messages) compare
//! Causerie with itself.
//!
//! `cargo bench -- --quick` takes two minutes; `--only posts` (secure, deliveries, reads, realtime,
//! idle) runs a part; `--calibrate` replaces Causerie by a second baseline: the deviation of its
//! ratios from 1 is the noise of the method.

mod baseline;
mod comparison;
mod deliveries;
mod http;
mod idle;
mod latency;
#[path = "../tests/it/support/mongod.rs"]
#[expect(dead_code, reason = "the tests do more to their servers")]
mod mongod;
mod posts;
mod reads;
mod realtime;
mod report;
mod scale;
mod seed;
mod server;
mod sockets;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};

use crate::comparison::Pair;
use crate::report::Report;
use crate::scale::Scale;
use crate::server::{Kind, Launcher};

/// The result of a benchmark step: a benchmark stops at the first error and prints it.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The arguments after `cargo bench --`.
#[derive(Parser)]
struct Arguments {
    /// Role of this process; by default the benchmark
    role: Option<Role>,
    /// Shorter rounds, smaller rooms, fewer sockets: two minutes
    #[arg(long)]
    quick: bool,
    /// Run only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure only this store
    #[arg(long)]
    store: Option<Store>,
    /// Compare the baseline with itself
    #[arg(long)]
    calibrate: bool,
    /// Passed by cargo; ignored
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// The minimal server, started by the benchmark itself
    Baseline,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Sqlite,
    /// A standalone MongoDB server
    Mongodb,
    /// A replica set of one member: posts only, since it differs in how writes reach the disk
    ReplicaSet,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Mongodb => "MongoDB",
            Self::ReplicaSet => "MongoDB replica set",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Sqlite => Kind::OnSqlite,
            Self::Mongodb | Self::ReplicaSet => Kind::OnMongodb,
        }
    }

    /// Returns the server on this store in secure mode.
    fn secure(self) -> Kind {
        match self {
            Self::Sqlite => Kind::SecureOnSqlite,
            Self::Mongodb | Self::ReplicaSet => Kind::SecureOnMongodb,
        }
    }

    /// Returns the minimum share of the baseline's posts per second.
    fn posts_target(self) -> f64 {
        match self {
            Self::Sqlite => 0.5,
            Self::Mongodb | Self::ReplicaSet => 0.3,
        }
    }

    /// Returns whether a part is measured on this store.
    fn has(self, part: Part) -> bool {
        self != Self::ReplicaSet || part == Part::Posts
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Posts,
    /// Posts in secure mode, compared with posts in open mode
    Secure,
    Deliveries,
    Reads,
    /// Catching up, sending over sockets, large rooms, unread counts, and many clients that
    /// reconnect at once
    Realtime,
    Idle,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Returns the server to compare with the baseline on this store.
    fn ours(&self, store: Store) -> Kind {
        if self.calibrate {
            Kind::Baseline
        } else {
            store.kind()
        }
    }

    /// Returns the stores to measure. When calibrating, one run is enough, because the baseline has
    /// no store.
    fn stores(&self) -> Vec<Store> {
        let all = if self.calibrate {
            &[Store::Sqlite][..]
        } else {
            &[Store::Sqlite, Store::Mongodb, Store::ReplicaSet]
        };
        all.iter()
            .copied()
            .filter(|store| self.store.is_none_or(|only| only == *store))
            .collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Some(Role::Baseline) => baseline::run(),
        None => measure(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark broke: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A single thread generates the load: it leaves the servers most of the machine, and needs fewer
/// context switches than two threads.
#[tokio::main(flavor = "current_thread")]
async fn measure(arguments: &Arguments) -> Outcome<()> {
    raise_file_limit()?;
    let mut report = Report::new(arguments.quick, arguments.calibrate);
    let outcome = run_parts(arguments, &mut report).await;
    // Print the measurements made before an error, too.
    report.print();
    outcome
}

async fn run_parts(arguments: &Arguments, report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut launcher = Launcher::new(folder.path());
    let scale = Scale::new(arguments.quick);
    let stores = arguments.stores();
    for store in &stores {
        report.on(store.name());
        match store {
            Store::Sqlite => {}
            Store::Mongodb => launcher.start_mongodb(),
            Store::ReplicaSet => launcher.start_replica_set().await,
        }
        run_parts_on(*store, arguments, &launcher, &scale, report).await?;
    }
    // The cost of a socket and of a start does not depend on the store, except for a start on
    // MongoDB, which waits for another process.
    if arguments.wants(Part::Idle) && stores.contains(&Store::Sqlite) {
        report.on(Store::Sqlite.name());
        idle::measure(&launcher, arguments.ours(Store::Sqlite), &scale, report).await?;
    }
    Ok(())
}

async fn run_parts_on(
    store: Store,
    arguments: &Arguments,
    launcher: &Launcher,
    scale: &Scale,
    report: &mut Report,
) -> Outcome<()> {
    let ours = arguments.ours(store);
    let wants = |part| arguments.wants(part) && store.has(part);
    if wants(Part::Posts) || wants(Part::Deliveries) {
        let pair = Pair::start(launcher, ours, Kind::Baseline).await?;
        if wants(Part::Posts) {
            posts::measure(&pair, store.posts_target(), scale, report).await?;
        }
        if wants(Part::Deliveries) {
            deliveries::measure(&pair, scale, report).await?;
        }
        pair.stop().await?;
    }
    if wants(Part::Secure) && !arguments.calibrate {
        let pair = Pair::start(launcher, store.secure(), store.kind()).await?;
        posts::compare_modes(&pair, scale, report).await?;
        pair.stop().await?;
    }
    if wants(Part::Reads) && !arguments.calibrate {
        reads::measure(launcher, ours, scale, report).await?;
    }
    if wants(Part::Realtime) && !arguments.calibrate {
        realtime::measure(launcher, ours, scale, report).await?;
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard limit.
///
/// Ten thousand sockets need as many file descriptors, here and in the server, which inherits the
/// limit. Raising it takes a system call that is not available in safe Rust but in every shell, so
/// this process restarts itself once through `sh`.
fn raise_file_limit() -> Outcome<()> {
    let (soft, hard) = server::file_limits()?;
    if soft >= hard {
        return Ok(());
    }
    let error = Command::new("sh")
        .args(["-c", "ulimit -n $(ulimit -Hn) && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error.into())
}
