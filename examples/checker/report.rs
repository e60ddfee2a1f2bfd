//! Counters of a run, and its violations.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::rest::Outcome;

/// How many violations are printed.
const TOLD: usize = 30;

/// The counters and violations of a run.
pub struct Report {
    started: Instant,
    seed: u64,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// Operations by kind: acknowledged, unsure, refused.
    operations: BTreeMap<&'static str, [u64; 3]>,
    /// Faults and other events, by kind.
    events: BTreeMap<&'static str, u64>,
    killed_at: Option<Instant>,
    longest_recovery: Duration,
    violations: usize,
}

impl Report {
    pub fn new(seed: u64) -> Self {
        Self {
            started: Instant::now(),
            seed,
            tally: Mutex::default(),
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a completed operation.
    pub fn operation(&self, kind: &'static str, outcome: &Outcome) {
        let mut tally = self.tally();
        let which = match outcome {
            Outcome::Done(_) => 0,
            Outcome::Unsure | Outcome::Broken(_) => 1,
            Outcome::Refused(..) => 2,
        };
        tally.operations.entry(kind).or_default()[which] += 1;
        if which == 0
            && let Some(killed_at) = tally.killed_at.take()
        {
            tally.longest_recovery = tally.longest_recovery.max(killed_at.elapsed());
        }
    }

    /// Counts an event.
    pub fn count(&self, what: &'static str) {
        *self.tally().events.entry(what).or_default() += 1;
    }

    /// Counts a kill, and starts to measure the time until the next successful operation.
    pub fn fault(&self, what: &'static str) {
        self.count(what);
        self.tally().killed_at.get_or_insert_with(Instant::now);
    }

    /// Counts a violation, and prints it unless `TOLD` were printed before.
    pub fn violation(&self, what: &str) {
        let count = {
            let mut tally = self.tally();
            tally.violations += 1;
            tally.violations
        };
        if count <= TOLD {
            let at = self.started.elapsed().as_secs_f64();
            eprintln!(
                "VIOLATION {count} after {at:.3} s, seed {}: {what}",
                self.seed
            );
        }
    }

    pub fn violations(&self) -> usize {
        self.tally().violations
    }

    /// Returns the number of operations, whatever their outcome.
    pub fn operations(&self) -> u64 {
        self.tally().operations.values().flatten().sum()
    }

    /// Returns the number of kills.
    pub fn kills(&self) -> u64 {
        let tally = self.tally();
        tally
            .events
            .iter()
            .filter(|(what, _)| what.starts_with("kill"))
            .map(|(_, count)| count)
            .sum()
    }

    /// Returns the duration of the run so far.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns all counters as lines of text.
    pub fn summary(&self) -> String {
        let tally = self.tally();
        let mut lines = format!(
            "{:<24}{:>14}{:>10}{:>10}\n",
            "operation", "acknowledged", "unsure", "refused"
        );
        let mut total = [0; 3];
        for (kind, counts) in &tally.operations {
            (0..3).for_each(|which| total[which] += counts[which]);
            line(&mut lines, kind, *counts);
        }
        line(&mut lines, "all", total);
        for (what, count) in &tally.events {
            let _ = writeln!(lines, "{what}: {count}");
        }
        let _ = writeln!(
            lines,
            "longest recovery: {:.1} s from a kill to the next success",
            tally.longest_recovery.as_secs_f64()
        );
        let _ = writeln!(lines, "time: {:.0} s", self.started.elapsed().as_secs_f64());
        let _ = write!(lines, "violations: {}", tally.violations);
        lines
    }
}

fn line(lines: &mut String, kind: &str, [acknowledged, unsure, refused]: [u64; 3]) {
    // Writing to a string does not fail.
    let _ = writeln!(
        lines,
        "{kind:<24}{acknowledged:>14}{unsure:>10}{refused:>10}"
    );
}
