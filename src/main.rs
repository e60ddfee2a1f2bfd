//! The program: command-line arguments, settings, log and signals around the server of the library.

#[path = "main/create_user.rs"]
mod create_user;
#[path = "main/data.rs"]
mod data;
#[path = "main/log.rs"]
mod log;

use std::{
    error::Error,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use causerie::{
    Server,
    clock::Clock,
    config::{AccessMode, Config},
    descriptors::{self, RaisedLimit},
    operator::DataError,
    store::OpenError,
};
use clap::{Parser, Subcommand};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use create_user::CreateUser;
use data::{Backup, Check, Export, Import, Restore};
use log::Log;

/// A post makes many small allocations on one thread that another thread frees, which is slow with
/// the system allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code if the server cannot start until an operator acts: a setting is wrong, or the database
/// is not usable.
const CANNOT_START: u8 = 2;
/// Exit code if a later attempt may succeed: the database was not reachable in time, or the server
/// that was probed is not ready. Also if a check of the database found something.
const TRY_LATER: u8 = 1;

/// How long the program waits for its tasks after the server has stopped.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);
/// Timeouts of a health check: to connect to the server, and then to receive its response. Together
/// they are shorter than the time that a container gives its health check, which would otherwise be
/// killed before it reports the error.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A chat server: REST and Socket.IO on an embedded database or on MongoDB.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Settings come from the environment (CAUSERIE_LISTEN, CAUSERIE_DATABASE, …) and from a file; config/default.toml lists them all."
)]
struct Arguments {
    /// Read settings from this TOML file (also: the environment variable `CAUSERIE_CONFIG`)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the settings in force, with secrets masked, and exit
    #[arg(long)]
    check_config: bool,
    /// Ask the server that runs here with these settings whether it is ready, and exit: with 0 if
    /// it is, with 1 if not
    #[arg(long)]
    health: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The subcommands of the program.
#[derive(Subcommand)]
enum Command {
    CreateUser(CreateUser),
    Backup(Backup),
    Restore(Restore),
    Export(Export),
    Import(Import),
    Check(Check),
}

impl Command {
    fn run(self, config: &Config) -> Result<(), Problem> {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| format!("cannot start the async runtime: {error}"))
        };
        match self {
            Self::CreateUser(user) => return user.run(config),
            Self::Backup(backup) => backup.run(config)?,
            Self::Restore(restore) => restore.run(config)?,
            Self::Export(export) => export.run(config, &runtime()?)?,
            Self::Import(import) => import.run(config, &runtime()?)?,
            Self::Check(_) => Check::run(config, &runtime()?)?,
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // An error is ignored: if standard error is closed, it cannot be reported.
            let _ = writeln!(
                io::stderr(),
                "causerie: {}",
                printable(&problem.to_string())
            );
            ExitCode::from(exit_code(problem.as_ref()))
        }
    }
}

/// The reason why the program ends, as a single line.
type Problem = Box<dyn Error>;

fn exit_code(problem: &(dyn Error + 'static)) -> u8 {
    let may_pass =
        problem.is::<NotReady>() || matches!(problem.downcast_ref(), Some(OpenError::Absent(_)));
    let of_command = problem.downcast_ref::<DataError>();
    let has_findings = matches!(of_command, Some(DataError::Findings(_)));
    if may_pass || has_findings || of_command.is_some_and(DataError::may_pass) {
        TRY_LATER
    } else {
        CANNOT_START
    }
}

fn start() -> Result<(), Problem> {
    let arguments = Arguments::parse();
    let config = Config::from_process(arguments.config, std::env::vars_os())?;
    let filter = config.log.as_str();
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("settings: log: '{filter}': {error}"))?;
    if arguments.check_config {
        // An error is ignored: the reader may have closed the pipe early.
        let _ = write!(io::stdout(), "{}", config.to_toml());
        return Ok(());
    }
    if arguments.health {
        return Ok(check_health(config.listen, config.http.base_path.as_str())?);
    }
    if let Some(command) = arguments.command {
        return command.run(&config);
    }
    let log = Log::start(filter, config.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the async runtime: {error}"))?;
    runtime.spawn(log.keep_flushing());
    let outcome = runtime.block_on(run(config));
    // Waits for the tasks of the database driver, which may panic if the runtime ends under them, but
    // not for a database that could not be closed in time.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    outcome
}

/// Returns the text as a single line, with control characters escaped.
fn printable(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut printable, c| {
            if c.is_control() {
                printable.extend(c.escape_default());
            } else {
                printable.push(c);
            }
            printable
        })
}

/// The server is not ready, or not running.
#[derive(Debug, thiserror::Error)]
#[error("no server is ready on {address}: {reason}")]
struct NotReady {
    address: SocketAddr,
    reason: String,
}

/// Sends the readiness request that a load balancer would send. Minimal HTTP is enough between two
/// processes on the same machine.
fn check_health(mut address: SocketAddr, base_path: &str) -> Result<(), NotReady> {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let request = || {
        let mut connection = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        connection.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        let head = format!(
            "GET {base_path}/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        );
        connection.write_all(head.as_bytes())?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        connection.read_exact(&mut status)?;
        Ok::<_, io::Error>(status)
    };
    let reason = match request() {
        Ok(status) if status.ends_with(b" 200") => return Ok(()),
        Ok(status) => format!("it answers {:?}", String::from_utf8_lossy(&status)),
        // The operating system's messages for these two errors are not helpful.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            format!("no answer within {RESPONSE_TIMEOUT:?}")
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "it hangs up".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(NotReady { address, reason })
}

async fn run(config: Config) -> Result<(), Problem> {
    let (listen, database, access) = (config.listen, config.database.clone(), config.access);
    let base_path = config.http.base_path.clone();
    // Every connection uses a file descriptor, and the usual limit is low.
    let raised = descriptors::raise();
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("listen: cannot listen on {listen}: {error}"))?;
    let server = Server::start(listener, config, Clock::system()).await?;
    let address = server
        .address()
        .map_err(|error| format!("listen: {error}"))?;
    let stopped = stop_signal().map_err(|error| format!("cannot listen for signals: {error}"))?;
    // Logged only after the server has started: a start-up error is reported as a single line.
    match raised {
        Ok(RaisedLimit { former, limit }) => tracing::info!(former, limit, "limit of open files"),
        Err(error) => tracing::warn!(%error, "failed to raise the limit of open files"),
    }
    if access == AccessMode::Open && !address.ip().is_loopback() {
        tracing::warn!(%address, "open mode on a non-loopback address, as allowed by settings: any client may act as any user");
    }
    // An error is ignored: the parent process may have closed standard output.
    let _ = writeln!(
        io::stdout(),
        "Causerie listens on http://{address}{} (database {database}, access {access})",
        base_path.as_str()
    );
    server.run(stopped).await;
    Ok(())
}

/// Returns a future that completes at the first Ctrl-C or SIGTERM.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
