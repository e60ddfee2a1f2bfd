//! A run: clients execute random operations while processes are killed; at regular intervals all
//! clients pause and the complete state is checked.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    Arguments, Failure, Store,
    checks::{check, read_log},
    client::{Client, Phase},
    report::Report,
    rest::Caller,
    servers::Servers,
    view::Log,
    world::{Room, Views, World},
};

/// How long clients may take until all of them have paused or caught up.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long events sent before the pause may still arrive, and data cached by the servers may be
/// stale.
const AFTERMATH: Duration = Duration::from_secs(15);
/// A room whose log is longer is replaced by a new one, to limit the time that checks take.
const MAX_LOG: u64 = 3_000;

/// A replaced room, with the fingerprint of its log at that time.
struct Retired {
    room: Room,
    log: u64,
}

/// The state of a run.
struct Run<'a> {
    arguments: &'a Arguments,
    world: Arc<World>,
    servers: Servers,
    phases: watch::Sender<Phase>,
    done: mpsc::Receiver<usize>,
    views: Vec<Views>,
    clients: Vec<JoinHandle<()>>,
    rng: StdRng,
    retired: Vec<Retired>,
    asked: u64,
}

/// Runs until a limit of the arguments is reached. Returns the final state of the world.
pub async fn run(arguments: &Arguments, seed: u64) -> Result<Arc<World>, Failure> {
    arguments.check()?;
    let mut run = Run::start(arguments, seed).await?;
    let outcome = run.goes_on().await;
    if outcome.is_err() || run.world.report.violations() > 0 {
        eprintln!(
            "the files of the servers are kept in {}",
            run.servers.keep().display()
        );
    }
    outcome.map(|()| run.world)
}

impl<'a> Run<'a> {
    async fn start(arguments: &'a Arguments, seed: u64) -> Result<Self, Failure> {
        let servers = Servers::start(arguments).await?;
        let world = Arc::new(World::populate(arguments, seed, servers.bases()).await?);
        for _ in 0..arguments.rooms {
            world.open_room(None).await?;
        }
        for keeper in 0..arguments.clients.div_ceil(2) {
            world.open_room(Some(keeper)).await?;
        }
        let (phases, phase) = watch::channel(Phase::Run);
        let (tell, done) = mpsc::channel(arguments.clients);
        let views: Vec<_> = (0..arguments.clients).map(|_| Views::default()).collect();
        let start = |(index, views): (usize, &Views)| {
            let client = Client::new(Arc::clone(&world), index, Arc::clone(views));
            tokio::spawn(client.run(phase.clone(), tell.clone()))
        };
        let clients = views.iter().enumerate().map(start).collect();
        Ok(Self {
            arguments,
            world,
            servers,
            phases,
            done,
            views,
            clients,
            rng: StdRng::seed_from_u64(!seed),
            retired: Vec::new(),
            asked: 0,
        })
    }

    async fn goes_on(&mut self) -> Result<(), Failure> {
        while !self.arguments.are_met(&self.world.report) {
            self.runs().await?;
            self.looks().await?;
            self.turns_over().await?;
        }
        self.phases.send_replace(Phase::End);
        for client in self.clients.drain(..) {
            client.await?;
        }
        self.looks_back().await
    }

    fn report(&self) -> &Report {
        &self.world.report
    }

    /// Lets the clients run, and kills processes, until the next check.
    async fn runs(&mut self) -> Result<(), Failure> {
        self.phases.send_replace(Phase::Run);
        let until = Instant::now() + Duration::from_secs_f64(self.arguments.check_every);
        while Instant::now() < until && !self.arguments.are_met(self.report()) {
            let pause = if self.arguments.kill_every > 0.0 {
                self.arguments.kill_every * self.rng.random_range(0.3..1.7)
            } else {
                1.0
            };
            sleep(Duration::from_secs_f64(pause).min(until - Instant::now())).await;
            if self.arguments.kill_every > 0.0 {
                self.kills().await?;
            }
            for server in self.servers.fallen() {
                self.report().violation(&format!(
                    "server {server} has ended though nobody killed it"
                ));
                self.servers.start_server(server).await?;
            }
        }
        Ok(())
    }

    /// Kills a server, or MongoDB, or both, and starts them again.
    async fn kills(&mut self) -> Result<(), Failure> {
        let server = self.rng.random_range(0..self.arguments.servers);
        let (of_mongod, of_both) = (self.rng.random_bool(0.4), self.rng.random_bool(0.2));
        let down = Duration::from_millis(self.rng.random_range(0..800));
        let mongod =
            self.arguments.kill_mongod && self.arguments.store != Store::Sqlite && of_mongod;
        if mongod {
            self.report().fault("kills of mongod");
            self.servers.kill_mongod();
        }
        if !mongod || of_both {
            self.report().fault("kills of servers");
            self.servers.kill_server(server).await?;
        }
        sleep(down).await;
        if mongod {
            self.servers.start_mongod().await;
        }
        if !mongod || of_both {
            self.servers.start_server(server).await?;
        }
        Ok(())
    }

    /// Sets the phase of the clients, and waits until all have completed it.
    async fn asks_all(&mut self, phase: Phase) -> Result<(), Failure> {
        self.phases.send_replace(phase);
        for _ in 0..self.arguments.clients {
            timeout(PATIENCE, self.done.recv())
                .await
                .map_err(|_| format!("a client does not come to an end with {phase:?}"))?;
        }
        Ok(())
    }

    /// Pauses all clients, lets them catch up and checks the complete state. Violations are checked
    /// again for up to [`AFTERMATH`], because events sent before the pause may only have arrived
    /// meanwhile.
    async fn looks(&mut self) -> Result<(), Failure> {
        self.asks_all(Phase::Rest).await?;
        sleep(Duration::from_millis(300)).await;
        let deadline = Instant::now() + AFTERMATH;
        loop {
            self.asked += 1;
            self.asks_all(Phase::CatchUp(self.asked)).await?;
            let found = check(&self.world, &self.views)
                .await
                .unwrap_or_else(|error| vec![format!("it cannot be checked: {error}")]);
            if found.is_empty() {
                self.report().count("checks");
                return Ok(());
            }
            if Instant::now() > deadline {
                for what in found {
                    self.report().violation(&what);
                }
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Replaces rooms with long logs by new ones.
    async fn turns_over(&mut self) -> Result<(), Failure> {
        for room in self.world.rooms() {
            let log = read_log(&self.reader(&room), room.id).await?;
            if log.position() > MAX_LOG {
                self.world.retire(room.id);
                self.world.open_room(room.keeper).await?;
                self.retired.push(Retired {
                    room,
                    log: fingerprint(&log),
                });
            }
        }
        Ok(())
    }

    /// Checks that the logs of the replaced rooms have not changed.
    async fn looks_back(&mut self) -> Result<(), Failure> {
        for Retired { room, log } in &self.retired {
            let now = read_log(&self.reader(room), room.id)
                .await
                .map_or_else(|error| Err(error.to_string()), |log| Ok(fingerprint(&log)));
            if now != Ok(*log) {
                self.report().violation(&format!(
                    "room {} is not as it was when it was left: {now:?}",
                    room.id
                ));
            }
        }
        Ok(())
    }

    fn reader(&self, room: &Room) -> Caller {
        self.world.caller(room.keeper.unwrap_or_default(), 0)
    }
}

fn fingerprint(log: &Log) -> u64 {
    let mut hasher = DefaultHasher::new();
    log.entries().hash(&mut hasher);
    hasher.finish()
}
