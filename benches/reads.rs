//! The cost of reading large amounts of data: long histories, many rooms, many unread messages.
//! Causerie is compared with itself.
//!
//! One connection sends one request at a time and alternates between the sizes, so that a slowdown
//! of the machine affects all of them.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;
use crate::http::{Connection, request};
use crate::latency::Latencies;
use crate::report::{self, Report, Row};
use crate::scale::Scale;
use crate::seed::{self, Person};
use crate::server::{Kind, Launcher, Server};

/// The name of the database of these cases; the idle cases reuse it as a large database.
pub const DATABASE: &str = "reads";

/// The number of kinds of pages that are read from each history.
const PAGES: usize = 3;
/// The maximum cost of a page in the longest history, relative to the shortest.
const PAGE_TARGET: f64 = 1.3;
/// The maximum cost of the list of rooms with a thousand rooms, relative to twenty.
const ROOMS_TARGET: f64 = 2.0;
/// The limit for marking as read, in milliseconds.
const MARK_TARGET: u128 = 20;
/// The number of users who mark as read; each marks the long room once.
const READERS: usize = 12;
const UNREAD: u32 = 100_000;

const FEW: u32 = 10;
/// How often each reader marks [`FEW`] messages as read.
const FEW_ROUNDS: u32 = 10;

/// Runs all cases.
pub async fn measure(
    launcher: &Launcher,
    ours: Kind,
    scale: &Scale,
    report: &mut Report,
) -> Outcome<()> {
    let server = launcher.start(ours, DATABASE).await?;
    histories(&server, scale, report).await?;
    recents(&server, scale, report).await?;
    mark_read(&server, report).await?;
    let stopped = server.stop().await?;
    report.note(&format!(
        "Stopping with this database took {}.",
        report::duration(stopped)
    ));
    Ok(())
}

/// A request with its name in the report and its latencies.
struct Case {
    figure: String,
    request: Vec<u8>,
    latencies: Latencies,
}

impl Case {
    fn new(figure: String, path: &str, caller: &Person) -> Self {
        Self {
            figure,
            request: request("GET", path, &caller.token, None),
            latencies: Latencies::default(),
        }
    }

    /// Checks that the page has this many messages: a short page would be cheaper to read.
    async fn check(&self, connection: &mut Connection, messages: usize) -> Outcome<()> {
        let answer = connection.ask(&self.request).await?;
        let found = answer["conversation"].as_array().map_or(0, Vec::len);
        if found != messages {
            return Err(format!("{}: {found} messages, not {messages}", self.figure).into());
        }
        Ok(())
    }

    async fn time(&mut self, connection: &mut Connection) -> Outcome<()> {
        let asked = Instant::now();
        connection.exchange(&self.request).await?;
        self.latencies.add(asked.elapsed());
        Ok(())
    }
}

async fn histories(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    let mut cases = Vec::new();
    for &messages in scale.histories {
        report.progress(&format!("filling a room with {messages} messages"));
        cases.extend(history(server, messages).await?);
    }
    report.progress("reading pages");
    take_turns(server, &mut cases, scale.samples).await?;
    for kind in 0..PAGES {
        let of_kind: Vec<&Case> = cases.iter().skip(kind).step_by(PAGES).collect();
        report_growth(&of_kind, PAGE_TARGET, report);
    }
    Ok(())
}

/// Creates a room with this many messages. Returns the cases that read its pages.
async fn history(server: &Server, messages: u32) -> Outcome<[Case; PAGES]> {
    let mut connection = Connection::open(server.address).await?;
    let members = seed::users_by_id(&mut connection, 2).await?;
    let room = seed::room(&mut connection, &members[0], &members[1..], "consumer").await?;
    seed::fill(server.address, &room, &members[0], messages).await?;
    let three_quarters = messages / 20 * 3 / 4;
    let case = |page, query| {
        Case::new(
            format!("{page}, {} messages", report::count(messages)),
            &format!("/room/{room}?{query}"),
            &members[0],
        )
    };
    let cases = [
        case("first page", "limit=20".to_owned()),
        case("deep page by cursor", "before=30&limit=20".to_owned()),
        case(
            "deep page by number",
            format!("page={three_quarters}&limit=20"),
        ),
    ];
    let mut connection = Connection::open(server.address).await?;
    for case in &cases {
        case.check(&mut connection, 20).await?;
    }
    Ok(cases)
}

async fn recents(server: &Server, scale: &Scale, report: &mut Report) -> Outcome<()> {
    report.progress("making rooms");
    let mut connection = Connection::open(server.address).await?;
    let partners = seed::users_by_id(&mut connection, 500).await?;
    let mut cases = Vec::new();
    for (rooms, partners) in [(20, &partners[..10]), (1_000, &partners[..])] {
        let caller = seed::person(&mut connection).await?;
        for partner in partners {
            for with in ["consumer", "support"] {
                let room = seed::room(
                    &mut connection,
                    &caller,
                    std::slice::from_ref(partner),
                    with,
                )
                .await?;
                connection
                    .exchange(&seed::post(&room, &partner.token, seed::TEXT))
                    .await?;
            }
        }
        let case = Case::new(
            format!("recent conversations, {} rooms", report::count(rooms)),
            "/room?limit=10",
            &caller,
        );
        case.check(&mut connection, 10).await?;
        cases.push(case);
    }
    take_turns(server, &mut cases, scale.samples).await?;
    report_growth(&cases.iter().collect::<Vec<_>>(), ROOMS_TARGET, report);
    Ok(())
}

async fn take_turns(server: &Server, cases: &mut [Case], samples: usize) -> Outcome<()> {
    let mut connection = Connection::open(server.address).await?;
    for _ in 0..samples / 10 {
        for case in &*cases {
            connection.exchange(&case.request).await?;
        }
    }
    for _ in 0..samples {
        for case in &mut *cases {
            case.time(&mut connection).await?;
        }
    }
    Ok(())
}

/// Adds a row per case with its cost relative to the first, and whether the highest ratio is within
/// the target.
fn report_growth(cases: &[&Case], target: f64, report: &mut Report) {
    let Some(base) = cases.first() else { return };
    let mut worst = 0.0_f64;
    for case in cases {
        let ratio = case.latencies.p50().as_secs_f64() / base.latencies.p50().as_secs_f64();
        worst = worst.max(ratio);
        report.row(Row {
            figure: case.figure.clone(),
            ours: report::duration(case.latencies.p50()),
            ratio: format!("{ratio:.2} ×"),
            p50: report::duration(case.latencies.p50()),
            p99: report::duration(case.latencies.p99()),
            ..Row::default()
        });
    }
    let last = cases.last().map_or("", |case| &case.figure);
    report.verdict(
        &format!("{last}: within {target} × of {}", base.figure),
        worst <= target,
        &format!("{worst:.2} ×"),
    );
}

async fn mark_read(server: &Server, report: &mut Report) -> Outcome<()> {
    report.progress(&format!("filling a room with {UNREAD} unread messages"));
    let mut connection = Connection::open(server.address).await?;
    let people = seed::users_by_id(&mut connection, READERS + 1).await?;
    let (author, readers) = people.split_first().expect("there is an author");
    let short = seed::room(&mut connection, author, readers, "support").await?;
    let long = seed::room(&mut connection, author, readers, "consumer").await?;
    seed::fill(server.address, &long, author, UNREAD).await?;
    let mut connection = Connection::open(server.address).await?;
    let mut few = Latencies::default();
    let mut many = Latencies::default();
    for reader in readers {
        many.add(mark(&mut connection, &long, reader, UNREAD).await?);
    }
    for _ in 0..FEW_ROUNDS {
        seed::fill(server.address, &short, author, FEW).await?;
        for reader in readers {
            few.add(mark(&mut connection, &short, reader, FEW).await?);
        }
    }
    for (unread, latencies) in [(FEW, &few), (UNREAD, &many)] {
        report_mark(unread, latencies, report);
    }
    Ok(())
}

async fn mark(
    connection: &mut Connection,
    room: &str,
    reader: &Person,
    expected: u32,
) -> Outcome<Duration> {
    let request = request(
        "PUT",
        &format!("/room/{room}/mark-read"),
        &reader.token,
        None,
    );
    let asked = Instant::now();
    let answer = connection.exchange(&request).await?;
    let took = asked.elapsed();
    let answer: Value = serde_json::from_slice(answer)?;
    if answer["data"]["n"] != expected {
        return Err(format!("marked {answer}, not {expected}").into());
    }
    Ok(took)
}

fn report_mark(unread: u32, latencies: &Latencies, report: &mut Report) {
    let figure = format!("mark read, {} unread", report::count(unread));
    let max = report::duration(latencies.max());
    report.row(Row {
        figure: figure.clone(),
        ours: format!("max {max}"),
        p50: report::duration(latencies.p50()),
        p99: report::duration(latencies.p99()),
        ..Row::default()
    });
    let reached = latencies.max().as_millis() < MARK_TARGET;
    report.verdict(
        &format!("{figure}: never more than {MARK_TARGET} ms"),
        reached,
        &max,
    );
}
