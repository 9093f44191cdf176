//! Pure: what a pool counts, and the snapshot of it that the admin side reads.

use std::time::Duration;

use crate::cluster::{NodeId, Role};

/// Upper bounds of the buckets of [`Counters::waits`]; one more bucket is for what took longer.
pub const WAIT_BOUNDS: [Duration; 10] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Counts since the pool exists; they only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Checkouts that got a connection at once.
    pub at_once: u64,
    /// Checkouts that waited and got one, by how long: see [`WAIT_BOUNDS`].
    pub waits: [u64; WAIT_BOUNDS.len() + 1],
    pub wait_total: Duration,
    pub timeouts: u64,
    pub opened: u64,
    pub closed: u64,
    /// Openings that failed.
    pub errors: u64,
    /// Connections that another worker took over.
    pub takeovers: u64,
}

impl Counters {
    pub fn on_wait(&mut self, waited: Duration) {
        let bucket = WAIT_BOUNDS.iter().position(|bound| waited <= *bound).unwrap_or(WAIT_BOUNDS.len());
        self.waits[bucket] += 1;
        self.wait_total += waited;
    }
}

/// A pool as it is now.
#[derive(Clone, Debug)]
pub struct PoolStats {
    pub node: NodeId,
    pub node_name: String,
    pub database: String,
    pub user: String,
    pub role: Role,
    pub size: usize,
    pub in_use: usize,
    pub idle: usize,
    pub opening: usize,
    pub waiting: usize,
    /// How long the one who waits longest has waited.
    pub oldest_wait: Option<Duration>,
    /// Why nobody connects at the moment.
    pub resting: Option<String>,
    pub counters: Counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_the_bucket_that_bounds_them() {
        let mut counters = Counters::default();
        for milliseconds in [1, 3, 60_000] {
            counters.on_wait(Duration::from_millis(milliseconds));
        }
        assert_eq!(counters.waits, [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counters.wait_total, Duration::from_millis(60_004));
    }
}
