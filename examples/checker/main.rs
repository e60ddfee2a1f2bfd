//! Realtime that loses nothing? This runs clients of random behaviour against servers that it starts, and kills, and looks at what is left.
//!
//! Each client ([`client`]) builds its view of each room from events and answers to `sync` alone. What it sends and what it is told becomes of it
//! is written down in the [`history`]. Every now and then the clients rest and catch up, and the [`checks`] compare: the logs with the ledger
//! ([`audit`]), the views with the logs, the unread counts with a recount.

mod audit;
mod catch_up;
mod checks;
mod client;
mod history;
#[path = "../../tests/it/mongod.rs"]
#[expect(dead_code, reason = "the tests do more to their servers")]
mod mongod;
mod operations;
mod report;
mod rest;
mod run;
mod servers;
mod view;
mod wire;
mod world;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum, builder::TypedValueParser, value_parser};

/// What ends a run before it has come to a result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs clients of random behaviour against servers that are killed at random, and checks that nothing is lost, doubled or out of order.
///
/// Clients post by REST and by socket, edit, delete, mark as read, come into rooms and leave them, lose their connection at any moment, catch up
/// and send again whatever they are unsure of. The run ends with the first of --minutes, --operations and --kills that is reached (without any
/// of them after one minute), prints what happened, and exits with 1 if anything happened that must not.
///
/// A seed replays what each client chooses to do in which order, and when what is killed. It does not replay how the threads and processes of
/// the machine take turns, on which it depends what a client has seen when it chooses: the same seed may pass once and fail once. What failed
/// is told with the last operations of the client, and the files are kept.
#[derive(Parser, Debug)]
struct Arguments {
    /// Where messages are kept
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    store: Store,
    /// How many servers work on the database: 1, or 2 on MongoDB
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u8).range(1..=2).map(usize::from))]
    servers: usize,
    /// How many clients there are, each with one socket
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u16).range(2..=100).map(usize::from))]
    clients: usize,
    /// How many rooms all of them are in. Besides, half of the clients keep a room of their own, in which the others come and go
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u16).range(1..=1000).map(usize::from))]
    rooms: usize,
    /// What the choices of the clients and the faults follow from; at random if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// End after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// End after so many operations
    #[arg(long)]
    operations: Option<u64>,
    /// End after so many kills
    #[arg(long)]
    kills: Option<u64>,
    /// Seconds between two kills, on average; 0: nothing is killed
    #[arg(long, default_value_t = 3.0)]
    kill_every: f64,
    /// Kill MongoDB's process as well
    #[arg(long)]
    kill_mongod: bool,
    /// Seconds between two times at which everybody rests and everything is checked
    #[arg(long, default_value_t = 15.0)]
    check_every: f64,
    /// How the servers let people in
    #[arg(long, value_enum, default_value_t = Mode::Open)]
    access: Mode,
    /// The server to run; without it the one that was built beside this program
    #[arg(long)]
    server: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Store {
    Sqlite,
    /// A MongoDB server of its own
    Mongodb,
    /// A MongoDB replica set of one member
    ReplicaSet,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Mode {
    Open,
    /// Everybody has a password
    Secure,
}

impl Arguments {
    fn is_secure(&self) -> bool {
        self.access == Mode::Secure
    }

    /// The program of the servers: in the folder above that of this program.
    fn program(&self) -> Result<PathBuf, Failure> {
        let program = match &self.server {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.ancestors().nth(2).ok_or("this program lies nowhere")?.join("causerie"),
        };
        if !program.is_file() {
            return Err(format!("there is no server at {}; build it, or name another with --server", program.display()).into());
        }
        Ok(program.canonicalize()?)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.store == Store::Sqlite && (self.servers > 1 || self.kill_mongod) {
            return Err("--servers 2 and --kill-mongod need --store mongodb or replica-set".into());
        }
        Ok(())
    }

    /// Whether the run has been long enough.
    fn are_met(&self, report: &report::Report) -> bool {
        let minutes = self.minutes.or_else(|| (self.operations.is_none() && self.kills.is_none()).then_some(1.0));
        minutes.is_some_and(|minutes| report.elapsed().as_secs_f64() >= minutes * 60.0)
            || self.operations.is_some_and(|operations| report.operations() >= operations)
            || self.kills.is_some_and(|kills| report.kills() >= kills)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
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

/// The command line of this run, with its seed.
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
