//! The latencies of one case, and what is told of them.

use std::time::Duration;

/// Every latency that was measured, not a summary: percentiles are exact.
#[derive(Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Adds all of another case.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Half of them took no longer.
    pub fn p50(&self) -> Duration {
        self.percentile(50)
    }

    /// 99 of 100 took no longer.
    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// None took longer.
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
