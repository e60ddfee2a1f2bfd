//! The cost of an idle server: its memory, the memory per socket, and the time until it is ready.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::Outcome;
use crate::http::Connection;
use crate::reads;
use crate::report::{self, Report, Row};
use crate::scale::Scale;
use crate::seed;
use crate::server::{self, Kind, Launcher, Server};
use crate::sockets::Socket;

/// How many sockets connect concurrently.
const DOOR_WIDTH: usize = 50;
/// Sockets per user, as for several browser tabs and devices.
const SOCKETS_PER_USER: usize = 10;
/// File descriptors that this process needs in addition to the sockets.
const SPARE_FILES: usize = 200;

/// Runs all cases on new servers, because memory left over from an earlier load would hide the
/// memory of the sockets.
pub async fn measure(
    launcher: &Launcher,
    ours: Kind,
    scale: &Scale,
    report: &mut Report,
) -> Outcome<()> {
    start(launcher, ours, scale, report).await?;
    let count = scale
        .idle_sockets
        .min(server::file_limits()?.0.saturating_sub(SPARE_FILES));
    report.progress(&format!("{count} idle sockets"));
    let (memory, per_socket) = hold(launcher, ours, count).await?;
    let (baseline_memory, baseline_per_socket) = hold(launcher, Kind::Baseline, count).await?;
    report.row(Row {
        figure: "memory of an idle server, empty database".to_owned(),
        ours: mebibytes(memory),
        baseline: mebibytes(baseline_memory),
        ratio: format!("{:.2}", f64::from(memory) / f64::from(baseline_memory)),
        ..Row::default()
    });
    report.row(Row {
        figure: format!(
            "memory per idle websocket, {} of them",
            report::count(u32::try_from(count)?)
        ),
        ours: format!("{per_socket:.1} KiB"),
        baseline: format!("{baseline_per_socket:.1} KiB"),
        ratio: format!("{:.2}", per_socket / baseline_per_socket),
        ..Row::default()
    });
    Ok(())
}

/// Measures the time until the server is ready, and its memory then, on an existing database.
async fn start(launcher: &Launcher, ours: Kind, scale: &Scale, report: &mut Report) -> Outcome<()> {
    launcher.start(ours, reads::DATABASE).await?.stop().await?;
    let (mut times, mut baseline_times) = (Vec::new(), Vec::new());
    let mut memory = 0;
    for _ in 0..scale.starts {
        let server = launcher.start(ours, reads::DATABASE).await?;
        times.push(server.ready_after);
        memory = server.settled_memory().await?;
        server.stop().await?;
        let server = launcher.start(Kind::Baseline, "").await?;
        baseline_times.push(server.ready_after);
        server.stop().await?;
    }
    times.sort();
    baseline_times.sort();
    let (time, baseline) = (
        times[times.len() / 2],
        baseline_times[baseline_times.len() / 2],
    );
    report.row(Row {
        figure: "start to ready, existing database".to_owned(),
        ours: report::duration(time),
        baseline: report::duration(baseline),
        ratio: format!("{:.2}", time.as_secs_f64() / baseline.as_secs_f64()),
        ..Row::default()
    });
    report.row(Row {
        figure: "memory of an idle server, existing database".to_owned(),
        ours: mebibytes(memory),
        ..Row::default()
    });
    Ok(())
}

/// Returns the memory of a new server in KiB, and the average memory of each of `count` sockets in
/// KiB.
async fn hold(launcher: &Launcher, kind: Kind, count: usize) -> Outcome<(u32, f64)> {
    let server = launcher.start(kind, "idle").await?;
    let fresh = server.settled_memory().await?;
    let crowd = crowd(&server, kind, count.div_ceil(SOCKETS_PER_USER)).await?;
    let before = server.settled_memory().await?;
    let sockets = connect(server.address, &crowd, count).await?;
    let after = server.settled_memory().await?;
    if sockets.len() < count {
        return Err("the server hung up on idle sockets".into());
    }
    eprintln!("  {fresh} KiB fresh, {before} KiB before, {after} KiB with {count} sockets");
    drop(sockets);
    server.stop().await?;
    let per_socket = f64::from(after.saturating_sub(before)) / f64::from(u32::try_from(count)?);
    Ok((fresh, per_socket))
}

/// A user and the room that the user subscribes to.
struct Visitor {
    user: String,
    room: String,
}

/// Creates users, with one room per pair of users.
async fn crowd(server: &Server, kind: Kind, count: usize) -> Outcome<Vec<Visitor>> {
    if kind == Kind::Baseline {
        let visitor = |number| Visitor {
            user: format!("{number:032x}"),
            room: format!("{:032x}", number / 2),
        };
        return Ok((0..count).map(visitor).collect());
    }
    let mut connection = Connection::open(server.address).await?;
    let mut crowd = Vec::with_capacity(count);
    while crowd.len() < count {
        let pair = seed::users_by_id(&mut connection, 2).await?;
        let room = seed::room(&mut connection, &pair[0], &pair[1..], "consumer").await?;
        for person in pair {
            crowd.push(Visitor {
                user: person.id,
                room: room.clone(),
            });
        }
    }
    Ok(crowd)
}

/// Connects `count` sockets. They stay connected until the returned set is dropped.
async fn connect(
    address: SocketAddr,
    crowd: &[Visitor],
    count: usize,
) -> Outcome<JoinSet<Outcome<()>>> {
    let mut idle = JoinSet::new();
    let mut arriving = JoinSet::new();
    for number in 0..count {
        if arriving.len() == DOOR_WIDTH {
            seat(&mut arriving, &mut idle).await?;
        }
        let visitor = &crowd[number % crowd.len()];
        arriving.spawn(arrive(address, visitor.user.clone(), visitor.room.clone()));
    }
    while !arriving.is_empty() {
        seat(&mut arriving, &mut idle).await?;
    }
    Ok(idle)
}

async fn seat(
    arriving: &mut JoinSet<Outcome<Socket>>,
    idle: &mut JoinSet<Outcome<()>>,
) -> Outcome<()> {
    if let Some(socket) = arriving.join_next().await {
        idle.spawn(socket??.listen(|_| {}));
    }
    Ok(())
}

async fn arrive(address: SocketAddr, user: String, room: String) -> Outcome<Socket> {
    let mut socket = Socket::open(address).await?;
    socket.emit("identity", &user).await?;
    socket.emit("subscribe", &room).await?;
    Ok(socket)
}

fn mebibytes(kibibytes: u32) -> String {
    format!("{:.1} MiB", f64::from(kibibytes) / 1024.0)
}
