//! Every counter and histogram of pgweir. `proxy` makes one `Metrics`, hands each worker its `WorkerCells`, and gives
//! the rest to `admin`, which prints them. The data's way only adds to its own cells (see `cells`); whoever scrapes
//! pays for summing them. Nothing here imports another part of pgweir: labels arrive as text, nodes as numbers.

mod cells;
mod export;
mod families;
pub mod labels;
mod samples;
mod totals;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use cells::{AccountCells, BOUNDS, Count, NODES, Route, WorkerCells};
pub use export::Exporter;
pub use samples::{ClusterSample, NodeSample, PoolSample};
pub use totals::{AccountTotals, ErrorTotal, HistogramTotals, RoutedTotal, Totals};

/// Every set of cells there is, and what the side loops count.
pub struct Metrics {
    started: Instant,
    workers: Mutex<Vec<Arc<WorkerCells>>>,
    nodes: Mutex<Nodes>,
    side: SideCells,
}

/// The nodes' names, by the index that `Route` uses.
#[derive(Default)]
struct Nodes {
    names: Vec<String>,
    /// What a slot had counted when it was given to its present node. A reload may put another node at an index, and
    /// that node must not inherit the counts of the one before it; the workers' cells only ever grow.
    before: Vec<Option<Vec<u64>>>,
}

impl Metrics {
    /// `nodes` are the names of the configured nodes, in the order of their `NodeId`s.
    pub fn new(nodes: Vec<String>) -> Arc<Metrics> {
        let before = vec![None; nodes.len()];
        Arc::new(Metrics {
            started: Instant::now(),
            workers: Mutex::default(),
            nodes: Mutex::new(Nodes { names: nodes, before }),
            side: SideCells::default(),
        })
    }

    /// Cells for a thread that starts counting: each worker's, and the listener's.
    pub fn worker(&self) -> Arc<WorkerCells> {
        let cells = Arc::new(WorkerCells::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cells));
        cells
    }

    /// A reload changed the list of nodes: an index that now means another node starts again at 0.
    pub fn set_nodes(&self, names: Vec<String>) {
        let workers = self.workers();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = names
            .iter()
            .enumerate()
            .map(|(index, name)| match nodes.names.get(index) {
                Some(old) if old == name => nodes.before[index].clone(),
                _ => Some(totals::sum_node(&workers, index)),
            })
            .collect();
        *nodes = Nodes { names, before };
    }

    /// What the side loops count; any thread may.
    pub fn side(&self) -> &SideCells {
        &self.side
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that was counted so far.
    pub fn totals(&self) -> Totals {
        let workers = self.workers();
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        totals::sum(&workers, &nodes.names, &nodes.before)
    }

    fn workers(&self) -> Vec<Arc<WorkerCells>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Rare events of the control side. These are ordinary shared atomics: no query pays for them.
#[derive(Default)]
pub struct SideCells {
    evictions: [AtomicU64; NODES],
    readmissions: [AtomicU64; NODES],
    primary_samples: AtomicU64,
    catalog_reloads: AtomicU64,
    catalog_failures: AtomicU64,
    config_reloads: AtomicU64,
    config_failures: AtomicU64,
}

impl SideCells {
    /// A node was taken out of service, for lag or because it was down.
    pub fn evicted(&self, node: usize) {
        self.evictions[node.min(NODES - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// An evicted node is back.
    pub fn readmitted(&self, node: usize) {
        self.readmissions[node.min(NODES - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// The primary was asked `n` times where its log is.
    pub fn primary_sampled(&self, n: u64) {
        self.primary_samples.fetch_add(n, Ordering::Relaxed);
    }

    /// `n` catalog snapshots were read.
    pub fn catalogs_reloaded(&self, n: u64) {
        self.catalog_reloads.fetch_add(n, Ordering::Relaxed);
    }

    /// So often a database's catalog could not be read.
    pub fn catalogs_failed(&self, n: u64) {
        self.catalog_failures.fetch_add(n, Ordering::Relaxed);
    }

    /// A changed configuration is in force.
    pub fn config_reloaded(&self) {
        self.config_reloads.fetch_add(1, Ordering::Relaxed);
    }

    /// A changed configuration was refused; the old one stays in force.
    pub fn config_refused(&self) {
        self.config_failures.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
