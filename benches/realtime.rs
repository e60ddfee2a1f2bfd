//! Realtime: catching up, sending over a socket, large rooms, unread counts, and many clients that
//! reconnect at once. Causerie is compared with itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Outcome;
use crate::http::{Connection, request};
use crate::latency::Latencies;
use crate::report::{self, Report, Row};
use crate::scale::Scale;
use crate::seed::{self, Person};
use crate::server::{Kind, Launcher, Server};
use crate::sockets::Socket;

/// The number of entries that a client has missed when it catches up.
const MISSED: u32 = 1_000;
/// The number of members of the large and of the small room.
const MANY: usize = 10_000;
const FEW: usize = 10;
/// The maximum cost of a post in a large room, relative to a small one.
const LARGE_TARGET: f64 = 1.3;
/// The number of rooms with unread messages.
const ROOMS: usize = 1_000;
/// The number of messages posted to each room while its members are disconnected.
const MEANWHILE: u32 = 3;
/// The number of concurrent connections for work that is not measured.
const AT_ONCE: usize = 64;

/// Runs all cases.
pub async fn measure(
    launcher: &Launcher,
    ours: Kind,
    scale: &Scale,
    report: &mut Report,
) -> Outcome<()> {
    let server = launcher.start(ours, "realtime").await?;
    sync(&server, scale, report).await?;
    send(&server, scale, report).await?;
    large_rooms(&server, scale, report).await?;
    unread(&server, scale, report).await?;
    storm(&server, scale, report).await?;
    server.stop().await?;
    Ok(())
}

/// Creates two users, their room and a connection.
async fn pair(server: &Server) -> Outcome<(Connection, Vec<Person>, String)> {
    let mut connection = Connection::open(server.address).await?;
    let people = seed::users_by_id(&mut connection, 2).await?;
    let room = seed::room(&mut connection, &people[0], &people[1..], "consumer").await?;
    Ok((connection, people, room))
}

async fn sync(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    report.progress("catching up");
    let (_, people, room) = pair(server).await?;
    seed::fill(server.address, &room, &people[0], MISSED * 3).await?;
    let mut socket = identified(server.address, &people[1].id).await?;
    let mut latencies = Latencies::default();
    for _ in 0..scale.samples / 10 {
        let asked = Instant::now();
        let answer = socket.ask("sync", &positions(&room, MISSED * 2)).await?;
        latencies.add(asked.elapsed());
        let found = entries(&answer, &room)?.as_array().map_or(0, Vec::len);
        if found != MISSED as usize {
            return Err(format!("{found} entries came, not {MISSED}").into());
        }
    }
    row(
        "sync of 1,000 missed entries over a socket",
        &latencies,
        None,
        report,
    );
    Ok(())
}

async fn send(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    report.progress("sending over a socket and by REST, in turn");
    let (mut connection, people, room) = pair(server).await?;
    let mut socket = identified(server.address, &people[0].id).await?;
    let post = seed::post(&room, &people[0].token, seed::TEXT);
    let message = json!({ "chatRoomId": room, "messageText": seed::TEXT }).to_string();
    let (mut by_rest, mut by_socket) = (Latencies::default(), Latencies::default());
    for _ in 0..scale.samples {
        let asked = Instant::now();
        connection.exchange(&post).await?;
        by_rest.add(asked.elapsed());
        let asked = Instant::now();
        socket.ask("send message", &message).await?;
        by_socket.add(asked.elapsed());
    }
    row("post by REST, one after the other", &by_rest, None, report);
    row(
        "send over a socket, one after the other",
        &by_socket,
        Some(&by_rest),
        report,
    );
    Ok(())
}

async fn large_rooms(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    report.progress("making a room of 10,000 members");
    let people = crowd(server.address, MANY).await?;
    let mut connection = Connection::open(server.address).await?;
    let mut rooms = Vec::new();
    for members in [FEW, MANY] {
        let room = seed::room(&mut connection, &people[0], &people[1..members], "consumer").await?;
        rooms.push((
            seed::post(&room, &people[0].token, seed::TEXT),
            Latencies::default(),
        ));
    }
    report.progress("posting into rooms of 10 and of 10,000 members, in turn");
    for _ in 0..scale.samples {
        for (post, latencies) in &mut rooms {
            let asked = Instant::now();
            connection.exchange(post).await?;
            latencies.add(asked.elapsed());
        }
    }
    let [(_, small), (_, large)] = &rooms[..] else {
        return Err("two rooms were made".into());
    };
    row("post into a room of 10 members", small, Some(small), report);
    let ratio = row(
        "post into a room of 10,000 members",
        large,
        Some(small),
        report,
    );
    report.verdict(
        "a post into a room of 10,000 members: within 1.3 × of one of 10",
        ratio <= LARGE_TARGET,
        &format!("{ratio:.2} ×"),
    );
    Ok(())
}

async fn unread(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    report.progress("making 1,000 rooms with unread messages");
    let partners = crowd(server.address, ROOMS / 2).await?;
    let mut connection = Connection::open(server.address).await?;
    let caller = seed::person(&mut connection).await?;
    let mut posts = Vec::with_capacity(ROOMS);
    for partner in &partners {
        for with in ["consumer", "support"] {
            let room = seed::room(
                &mut connection,
                &caller,
                std::slice::from_ref(partner),
                with,
            )
            .await?;
            posts.push(seed::post(&room, &partner.token, seed::TEXT));
        }
    }
    each(server.address, posts, scale.unread_per_room).await?;
    let mut connection = Connection::open(server.address).await?;
    let total = request("GET", "/room/unread", &caller.token, None);
    let expected = u64::from(scale.unread_per_room) * ROOMS as u64;
    let (mut first, mut again) = (Latencies::default(), Latencies::default());
    let asked = Instant::now();
    let found = connection.ask(&total).await?["total"].as_u64();
    first.add(asked.elapsed());
    if found != Some(expected) {
        return Err(format!("{found:?} unread, not {expected}").into());
    }
    for _ in 0..scale.samples / 10 {
        let asked = Instant::now();
        connection.exchange(&total).await?;
        again.add(asked.elapsed());
    }
    let figure = format!(
        "unread total, {} messages in 1,000 rooms",
        report::count(u32::try_from(expected)?)
    );
    row(&format!("{figure}, asked once"), &first, None, report);
    row(&format!("{figure}, asked again"), &again, None, report);
    Ok(())
}

/// Measures how long clients take to be current again when all of them lose their connections, miss
/// a few messages and reconnect at once.
async fn storm(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    let figure = format!(
        "reconnect storm, {} sockets",
        report::count(u32::try_from(scale.storm)?)
    );
    report.progress(&figure);
    let people = crowd(server.address, scale.storm).await?;
    let mut connection = Connection::open(server.address).await?;
    let (mut visitors, mut posts) = (Vec::with_capacity(scale.storm), Vec::new());
    for pair in people.chunks(2) {
        let room = seed::room(&mut connection, &pair[0], &pair[1..], "consumer").await?;
        posts.push(seed::post(&room, &pair[0].token, seed::TEXT));
        visitors.extend(pair.iter().map(|person| (person.id.clone(), room.clone())));
    }
    let visitors = Arc::new(visitors);
    come(server.address, &visitors, 0, 0).await?;
    each(server.address, posts, MEANWHILE).await?;
    let started = Instant::now();
    let latencies = come(server.address, &visitors, 0, MEANWHILE).await?;
    report.row(Row {
        figure: format!("{figure}: until all are current"),
        ours: report::duration(started.elapsed()),
        p50: report::duration(latencies.p50()),
        p99: report::duration(latencies.p99()),
        ..Row::default()
    });
    Ok(())
}

/// Connects all visitors at once. Each sends `identity` and catches up after `since`. Returns how
/// long each took from the common start. The sockets are closed at the end.
async fn come(
    address: SocketAddr,
    visitors: &Arc<Vec<(String, String)>>,
    since: u32,
    expected: u32,
) -> Outcome<Latencies> {
    let started = Instant::now();
    let mut coming = JoinSet::new();
    for number in 0..visitors.len() {
        let visitors = Arc::clone(visitors);
        coming.spawn(async move {
            let (user, room) = &visitors[number];
            let mut socket = identified(address, user).await?;
            let answer = socket.ask("sync", &positions(room, since)).await?;
            let found = entries(&answer, room)?.as_array().map_or(0, Vec::len);
            if found != expected as usize {
                return Err(format!("{found} entries came, not {expected}").into());
            }
            Outcome::Ok((started.elapsed(), socket))
        });
    }
    let (mut latencies, mut sockets) = (Latencies::default(), Vec::with_capacity(visitors.len()));
    while let Some(came) = coming.join_next().await {
        let (took, socket) = came??;
        latencies.add(took);
        sockets.push(socket);
    }
    Ok(latencies)
}

async fn identified(address: SocketAddr, user: &str) -> Outcome<Socket> {
    let mut socket = Socket::open(address).await?;
    socket.ask("identity", &json!(user).to_string()).await?;
    Ok(socket)
}

fn positions(room: &str, since: u32) -> String {
    json!({ "rooms": { room: since } }).to_string()
}

fn entries(answer: &Value, room: &str) -> Outcome<Value> {
    answer
        .pointer(&format!("/rooms/{room}/entries"))
        .cloned()
        .ok_or_else(|| format!("no entries in {answer}").into())
}

/// Creates `count` users over several connections.
async fn crowd(address: SocketAddr, count: usize) -> Outcome<Vec<Person>> {
    let mut making = JoinSet::new();
    for number in 0..AT_ONCE.min(count) {
        let share = count / AT_ONCE + usize::from(number < count % AT_ONCE);
        making.spawn(async move {
            seed::users_by_id(&mut Connection::open(address).await?, share).await
        });
    }
    let mut people = Vec::with_capacity(count);
    while let Some(made) = making.join_next().await {
        people.extend(made??);
    }
    Ok(people)
}

/// Sends each request `times` times, over several connections.
async fn each(address: SocketAddr, requests: Vec<Vec<u8>>, times: u32) -> Outcome<()> {
    let requests = Arc::new(requests);
    let mut sending = JoinSet::new();
    for number in 0..AT_ONCE {
        let requests = Arc::clone(&requests);
        sending.spawn(async move {
            let mut connection = Connection::open(address).await?;
            for request in requests.iter().skip(number).step_by(AT_ONCE) {
                for _ in 0..times {
                    connection.exchange(request).await?;
                }
            }
            Outcome::Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(())
}

/// Adds a row, with the cost relative to `base`. Returns that ratio, or 1 without a base.
fn row(figure: &str, latencies: &Latencies, base: Option<&Latencies>, report: &mut Report) -> f64 {
    let seconds = |latencies: &Latencies| Duration::as_secs_f64(&latencies.p50());
    let ratio = base.map(|base| seconds(latencies) / seconds(base));
    report.row(Row {
        figure: figure.to_owned(),
        ours: report::duration(latencies.p50()),
        ratio: ratio
            .map(|ratio| format!("{ratio:.2} ×"))
            .unwrap_or_default(),
        p50: report::duration(latencies.p50()),
        p99: report::duration(latencies.p99()),
        ..Row::default()
    });
    ratio.unwrap_or(1.0)
}
