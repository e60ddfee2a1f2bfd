//! Checks that realtime delivery loses nothing: runs clients of random behaviour against servers
//! that it starts and kills, and compares the results.
//!
//! Each client ([`client`]) builds its view of each room only from events and responses to `sync`.
//! What it sends, and the outcome of each request, is recorded in the [`history`]. At regular
//! intervals the clients pause and catch up, and the [`checks`] compare the logs with the history
//! ([`audit`]), the views with the logs, and the unread counts with a recount.

mod audit;
mod catch_up;
mod checks;
mod client;
mod history;
#[path = "../../tests/it/support/mongod.rs"]
#[expect(dead_code, reason = "the tests do more to their servers")]
mod mongod;
mod operations;
mod report;
mod rest;
mod room_operations;
mod run;
mod servers;
mod view;
mod wire;
mod world;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum, builder::TypedValueParser, value_parser};

/// An error that ends a run without a result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs clients of random behaviour against servers that are killed at random, and checks that no
/// message is lost, duplicated or out of order.
///
/// Clients post by REST and by socket, edit, delete, mark as read, join and leave rooms, lose their
/// connection at any moment, catch up, and retry every request whose outcome is unknown. The run
/// ends at the first limit reached of --minutes, --operations and --kills (after one minute if none
/// is given), prints a summary, and exits with 1 if there was any violation.
///
/// A seed replays the order in which each client chooses its operations, and the times and targets
/// of the kills. It does not replay the scheduling of threads and processes, which determines what
/// a client has seen when it chooses: the same seed may pass once and fail once. A violation is
/// printed with the last operations of the client, and the files are kept.
#[derive(Parser, Debug)]
struct Arguments {
    /// Database to store messages in
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    store: Store,
    /// Number of servers on the database: 1, or 2 on MongoDB
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u8).range(1..=2).map(usize::from))]
    servers: usize,
    /// Number of clients, each with one socket
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u16).range(2..=100).map(usize::from))]
    clients: usize,
    /// Number of rooms with all clients as members. In addition, half of the clients own a room
    /// that the other clients join and leave
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u16).range(1..=1000).map(usize::from))]
    rooms: usize,
    /// Seed for the choices of the clients and the faults; random if not given
    #[arg(long)]
    seed: Option<u64>,
    /// End after this many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// End after this many operations
    #[arg(long)]
    operations: Option<u64>,
    /// End after this many kills
    #[arg(long)]
    kills: Option<u64>,
    /// Average seconds between two kills; 0 disables kills
    #[arg(long, default_value_t = 3.0)]
    kill_every: f64,
    /// Kill the MongoDB process as well
    #[arg(long)]
    kill_mongod: bool,
    /// Seconds between two checks, during which all clients pause
    #[arg(long, default_value_t = 15.0)]
    check_every: f64,
    /// How the servers authenticate users
    #[arg(long, value_enum, default_value_t = Mode::Open)]
    access: Mode,
    /// Server binary to run; by default the one built next to this program
    #[arg(long)]
    server: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Store {
    Sqlite,
    /// A standalone MongoDB server
    Mongodb,
    /// A MongoDB replica set of one member
    ReplicaSet,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Mode {
    Open,
    /// Every user has a password
    Secure,
}

impl Arguments {
    fn is_secure(&self) -> bool {
        self.access == Mode::Secure
    }

    /// Returns the path of the server binary; by default in the parent of this program's folder.
    fn program(&self) -> Result<PathBuf, Failure> {
        let program = match &self.server {
            Some(program) => program.clone(),
            None => std::env::current_exe()?
                .ancestors()
                .nth(2)
                .ok_or("this program lies nowhere")?
                .join("causerie"),
        };
        if !program.is_file() {
            return Err(format!(
                "there is no server at {}; build it, or name another with --server",
                program.display()
            )
            .into());
        }
        Ok(program.canonicalize()?)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.store == Store::Sqlite && (self.servers > 1 || self.kill_mongod) {
            return Err("--servers 2 and --kill-mongod need --store mongodb or replica-set".into());
        }
        Ok(())
    }

    /// Returns whether the run has reached one of its limits.
    fn are_met(&self, report: &report::Report) -> bool {
        let minutes = self
            .minutes
            .or_else(|| (self.operations.is_none() && self.kills.is_none()).then_some(1.0));
        minutes.is_some_and(|minutes| report.elapsed().as_secs_f64() >= minutes * 60.0)
            || self
                .operations
                .is_some_and(|operations| report.operations() >= operations)
            || self.kills.is_some_and(|kills| report.kills() >= kills)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let command = replayed(seed);
    println!("seed {seed}; again: {command}");
    match run::run(&arguments, seed).await {
        Ok(world) => {
            println!("{}\nseed {seed}; again: {command}", world.report.summary());
            ExitCode::from(u8::from(world.report.violations() > 0))
        }
        Err(error) => {
            eprintln!("the run came to no result: {error}\nseed {seed}; again: {command}");
            ExitCode::from(2)
        }
    }
}

/// Returns the command line that repeats this run with its seed.
fn replayed(seed: u64) -> String {
    let mut words = vec!["cargo run --release --example checker --".to_owned()];
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        match word.as_str() {
            "--seed" => _ = given.next(),
            _ if word.starts_with("--seed=") => {}
            _ => words.push(word),
        }
    }
    words.push(format!("--seed {seed}"));
    words.join(" ")
}
