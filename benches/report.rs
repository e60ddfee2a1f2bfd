//! The table and the verdicts at the end, and what is said on the way there.

use std::time::{Duration, Instant};

/// One line of the table; what does not apply is empty.
#[derive(Default)]
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// Causerie's value.
    pub ours: String,
    /// The baseline's.
    pub baseline: String,
    /// Causerie's by the baseline's, or (`×`) by Causerie's own in the smallest case.
    pub ratio: String,
    /// Half of the operations took no longer.
    pub p50: String,
    /// 99 of 100 took no longer.
    pub p99: String,
}

impl Row {
    fn cells(&self) -> [&str; 6] {
        [&self.figure, &self.ours, &self.baseline, &self.ratio, &self.p50, &self.p99].map(String::as_str)
    }
}

/// Everything that is to be told.
pub struct Report {
    started: Instant,
    title: String,
    /// Which store is being measured.
    store: &'static str,
    rows: Vec<Row>,
    verdicts: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub fn new(quick: bool, calibrate: bool) -> Self {
        let command = if quick { "cargo bench -- --quick" } else { "cargo bench" };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut title = format!("`{command}` on {cores} cores, which servers and load share");
        if calibrate {
            title += "; CALIBRATION: \"Causerie\" is a second baseline";
        }
        Self { started: Instant::now(), title, store: "", rows: Vec::new(), verdicts: Vec::new(), notes: Vec::new() }
    }

    /// Says on which store the figures from now on are measured.
    pub fn on(&mut self, store: &'static str) {
        self.store = store;
    }

    /// Adds a line to the table.
    pub fn row(&mut self, row: Row) {
        let figure = format!("{}: {}", self.store, row.figure);
        self.rows.push(Row { figure, ..row });
    }

    /// Adds whether a target was reached.
    pub fn verdict(&mut self, target: &str, reached: bool, found: &str) {
        let verdict = if reached { "reached" } else { "missed" };
        self.verdicts.push(format!("{verdict}: {}: {target} (found: {found})", self.store));
    }

    /// Adds a remark.
    pub fn note(&mut self, note: &str) {
        self.notes.push(format!("{}: {note}", self.store));
    }

    /// Tells whoever waits what is going on.
    pub fn progress(&self, what: &str) {
        eprintln!("[{:3.0} s] {}: {what}", self.started.elapsed().as_secs_f64(), self.store);
    }

    /// The end.
    pub fn print(&self) {
        let head = ["figure", "Causerie", "baseline", "ratio", "p50", "p99"];
        let lines: Vec<[&str; 6]> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        println!("\n{}; {:.0} s in all\n", self.title, self.started.elapsed().as_secs_f64());
        for (number, cells) in lines.iter().enumerate() {
            let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
        println!("\nTwo latencies in one cell are Causerie's and the baseline's; a ratio with × is to the smallest case.");
        for note in &self.notes {
            println!("{note}");
        }
        println!();
        for verdict in &self.verdicts {
            println!("- {verdict}");
        }
    }
}

/// `12,345`
pub fn count(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

/// `12,345`, of a rate.
pub fn thousands(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    digits.parse().map_or(digits, count)
}

/// `1.23 ms` or `123 µs`
pub fn duration(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.2} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

/// Causerie's latency and the baseline's.
pub fn both(ours: Duration, baseline: Duration) -> String {
    format!("{} / {}", self::duration(ours), self::duration(baseline))
}
