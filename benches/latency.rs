//! The latencies of one case, and their percentiles.

use std::time::Duration;

/// All measured latencies, so that percentiles are exact.
#[derive(Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds a latency.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Adds all latencies of another case.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// Returns the number of latencies.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the median.
    pub fn p50(&self) -> Duration {
        self.percentile(50)
    }

    /// Returns the 99th percentile.
    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// Returns the maximum.
    pub fn max(&self) -> Duration {
        self.percentile(100)
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        if sorted.is_empty() {
            return Duration::ZERO;
        }
        let index = (sorted.len() * percent / 100).min(sorted.len() - 1);
        *sorted.select_nth_unstable(index).1
    }
}
