//! The report: the table and the verdicts at the end, and the progress messages until then.

use std::time::{Duration, Instant};

/// A row of the table; cells that do not apply are empty.
#[derive(Default)]
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// Causerie's value.
    pub ours: String,
    /// The baseline's value.
    pub baseline: String,
    /// The ratio of Causerie's value to the baseline's, or (`×`) to Causerie's own in the smallest
    /// case.
    pub ratio: String,
    /// The median latency.
    pub p50: String,
    /// The 99th percentile of the latencies.
    pub p99: String,
}

impl Row {
    fn cells(&self) -> [&str; 6] {
        [
            &self.figure,
            &self.ours,
            &self.baseline,
            &self.ratio,
            &self.p50,
            &self.p99,
        ]
        .map(String::as_str)
    }
}

/// The contents of the report.
pub struct Report {
    started: Instant,
    title: String,
    /// The name of the store that is being measured.
    store: &'static str,
    rows: Vec<Row>,
    verdicts: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// Creates an empty report.
    pub fn new(quick: bool, calibrate: bool) -> Self {
        let command = if quick {
            "cargo bench -- --quick"
        } else {
            "cargo bench"
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut title = format!("`{command}` on {cores} cores, which servers and load share");
        if calibrate {
            title += "; CALIBRATION: \"Causerie\" is a second baseline";
        }
        Self {
            started: Instant::now(),
            title,
            store: "",
            rows: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Sets the store of all following figures.
    pub fn on(&mut self, store: &'static str) {
        self.store = store;
    }

    /// Adds a row to the table.
    pub fn row(&mut self, row: Row) {
        let figure = format!("{}: {}", self.store, row.figure);
        self.rows.push(Row { figure, ..row });
    }

    /// Adds whether a target was reached.
    pub fn verdict(&mut self, target: &str, reached: bool, found: &str) {
        let verdict = if reached { "reached" } else { "missed" };
        self.verdicts.push(format!(
            "{verdict}: {}: {target} (found: {found})",
            self.store
        ));
    }

    /// Adds a note.
    pub fn note(&mut self, note: &str) {
        self.notes.push(format!("{}: {note}", self.store));
    }

    /// Prints the current step to standard error.
    pub fn progress(&self, what: &str) {
        eprintln!(
            "[{:3.0} s] {}: {what}",
            self.started.elapsed().as_secs_f64(),
            self.store
        );
    }

    /// Prints the report to standard output.
    pub fn print(&self) {
        let head = ["figure", "Causerie", "baseline", "ratio", "p50", "p99"];
        let lines: Vec<[&str; 6]> = std::iter::once(head)
            .chain(self.rows.iter().map(Row::cells))
            .collect();
        let width = |column: usize| {
            lines
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        println!(
            "\n{}; {:.0} s in all\n",
            self.title,
            self.started.elapsed().as_secs_f64()
        );
        for (number, cells) in lines.iter().enumerate() {
            let cells: Vec<String> = cells
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
        println!(
            "\nTwo latencies in one cell are Causerie's and the baseline's; a ratio with × is to the smallest case."
        );
        for note in &self.notes {
            println!("{note}");
        }
        println!();
        for verdict in &self.verdicts {
            println!("- {verdict}");
        }
    }
}

/// Formats a number with separators: `12,345`.
pub fn count(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

/// Formats a rate, rounded and with separators: `12,345`.
pub fn thousands(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    digits.parse().map_or(digits, count)
}

/// Formats a duration: `1.23 s`, `1.23 ms` or `123 µs`.
pub fn duration(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.2} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

/// Formats Causerie's latency and the baseline's.
pub fn both(ours: Duration, baseline: Duration) -> String {
    format!("{} / {}", self::duration(ours), self::duration(baseline))
}
