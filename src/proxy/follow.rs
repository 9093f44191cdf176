//! The loop that carries what the side loops published to those who must be told: roles and settings to the pools, the
//! end of an epoch to the greetings, counts to the metrics. `proxy` spawns it once. It decides nothing and no session
//! waits for it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::catalog::handle::Catalogs;
use crate::cluster::{Cluster, ClusterView, Health};
use crate::listener::Door;
use crate::metrics::{Metrics, WorkerCells};
use crate::pool::Pools;
use crate::session::Shared;
use crate::worker::Worker;

/// A publication between looking and asking for the next is made up for by the clock.
const LONGEST: Duration = Duration::from_millis(100);

/// While sessions wait on floors, publications come every few milliseconds, which is more often than roles change.
const SHORTEST: Duration = Duration::from_millis(20);

/// Between two readings of a worker's verdict cache.
const COUNTING: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    pub cluster: Arc<Cluster>,
    pub pools: Arc<Pools>,
    pub shared: Arc<Shared>,
    pub catalogs: Arc<Catalogs>,
    pub door: Arc<Door>,
    pub metrics: Arc<Metrics>,
}

/// What was counted up to the last look.
#[derive(Default)]
struct Seen {
    epoch: Option<u64>,
    /// Of each database's catalog, what new sessions begin with.
    defaults: HashMap<u32, Box<str>>,
    standing: Vec<Standing>,
    samples: u64,
    refused: u64,
    reloads: u64,
    failures: u64,
}

/// A node that was never in service cannot be evicted from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    New,
    In,
    Out,
}

impl Follower {
    /// As long as the process runs.
    pub async fn run(self) {
        let (mut seen, cells) = (Seen::default(), self.metrics.worker());
        loop {
            {
                let view = self.cluster.view();
                self.tell(&view, &mut seen);
                self.count_nodes(&view, &mut seen);
            }
            self.count(&cells, &mut seen);
            drop(tokio::time::timeout(LONGEST, self.cluster.changed()).await);
            tokio::time::sleep(SHORTEST).await;
        }
    }

    fn tell(&self, view: &ClusterView, seen: &mut Seen) {
        for node in &view.nodes {
            self.pools.set_role(node.id, node.role);
            self.pools.set_align(node.id, &node.facts.align);
        }
        if seen.epoch.replace(view.epoch) != Some(view.epoch) {
            self.shared.greetings.forget();
        }
        for name in self.catalogs.give_up_wanted() {
            tracing::info!(database = %name, "its connections are given up: somebody drops, renames or copies it");
            self.pools.retire_database(&name);
        }
        let mut outdated = false;
        for database in self.catalogs.all() {
            let catalog = database.snapshot();
            if seen.defaults.get(&database.id) == Some(&catalog.defaults) {
                continue;
            }
            // Of a catalog that was not loaded before, nothing was known.
            let before = seen.defaults.insert(database.id, catalog.defaults.clone());
            outdated |= before.is_some_and(|before| !before.is_empty());
        }
        if outdated {
            self.shared.outdate();
        }
    }

    fn count_nodes(&self, view: &ClusterView, seen: &mut Seen) {
        seen.standing.resize(view.nodes.len(), Standing::New);
        for (index, (node, standing)) in view.nodes.iter().zip(&mut seen.standing).enumerate() {
            let (now, side) = (after(*standing, &node.health), self.metrics.side());
            match (*standing, now) {
                (Standing::In, Standing::Out) => side.evicted(index),
                (Standing::Out, Standing::In) => side.readmitted(index),
                _ => {}
            }
            *standing = now;
        }
    }

    fn count(&self, cells: &WorkerCells, seen: &mut Seen) {
        let (side, stats) = (self.metrics.side(), self.cluster.stats());
        let samples = stats.samples_published.load(Ordering::Relaxed) + stats.samples_failed.load(Ordering::Relaxed);
        side.primary_sampled(grown(&mut seen.samples, samples));
        cells.clients_refused(grown(&mut seen.refused, self.door.refused.load(Ordering::Relaxed)));
        let (mut reloads, mut failures) = (0, 0);
        for database in self.catalogs.all() {
            reloads += database.snapshot().version;
            failures += database.failures();
        }
        side.catalogs_reloaded(grown(&mut seen.reloads, reloads));
        side.catalogs_failed(grown(&mut seen.failures, failures));
    }
}

fn after(standing: Standing, health: &Health) -> Standing {
    match (standing, health) {
        (_, Health::Healthy) => Standing::In,
        (Standing::New, _) => Standing::New,
        _ => Standing::Out,
    }
}

/// By how much; `before` is `now` from here on.
fn grown(before: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(before, now))
}

/// On each worker: what its verdict cache counted.
pub(super) async fn count_verdicts(worker: Rc<Worker>) {
    loop {
        worker.timers.sleep_until(Instant::now() + COUNTING).await;
        let stats = worker.verdicts.borrow_mut().take_stats();
        worker.metrics.verdicts(stats.hits, stats.misses, stats.parsed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_evicted_only_from_service() {
        let down = Health::Down("not probed yet".into());
        assert_eq!(after(Standing::New, &down), Standing::New);
        assert_eq!(after(Standing::New, &Health::Healthy), Standing::In);
        assert_eq!(after(Standing::In, &Health::Lagging), Standing::Out);
        assert_eq!(after(Standing::Out, &down), Standing::Out);
        assert_eq!(after(Standing::Out, &Health::Healthy), Standing::In);
    }

    #[test]
    fn only_growth_is_counted() {
        let mut before = 3;
        assert_eq!((grown(&mut before, 5), grown(&mut before, 5), grown(&mut before, 6)), (2, 0, 1));
    }
}
