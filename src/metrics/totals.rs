//! The sums over all workers' cells, in words: what `export` prints for Prometheus and `admin` for the dashboard.
//! `Metrics::totals` calls in here; nothing here writes a cell.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cells::{ACCOUNT_CELLS, AccountCount, BOUNDS, Count, HISTOGRAM, NODES, WorkerCells, at};
use super::labels::{CLASSES, FAULTS, Labels, PINS, REASONS, RETRIES};

/// Everything that was counted, at one moment.
pub struct Totals {
    sheet: Vec<u64>,
    /// With the node's name; one for each node that is configured.
    nodes: Vec<(String, Vec<u64>)>,
    pub accounts: Vec<AccountTotals>,
}

/// A count by where and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RoutedTotal {
    /// `primary`, `replica` or `pgweir`.
    pub route: &'static str,
    /// The node's name; empty for `pgweir`.
    pub node: String,
    pub reason: &'static str,
    pub count: u64,
}

/// Errors sent to clients.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ErrorTotal {
    pub fault: &'static str,
    pub class: &'static str,
    pub count: u64,
}

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HistogramTotals {
    /// How many were in each bucket; the last is for what is above all bounds. Not cumulative.
    pub buckets: Vec<u64>,
    pub sum_micros: u64,
}

impl HistogramTotals {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn read(cells: &[u64]) -> HistogramTotals {
        HistogramTotals { buckets: cells[..=BOUNDS.len()].to_vec(), sum_micros: cells[BOUNDS.len() + 1] }
    }
}

/// One database and user.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct AccountTotals {
    pub database: String,
    pub user: String,
    pub clients: u64,
    pub transactions: u64,
    pub statements: u64,
    pub query_seconds: f64,
    pub errors: u64,
}

impl Totals {
    pub fn count(&self, count: Count) -> u64 {
        self.sheet[count as usize]
    }

    /// Clients connected now. The two counts are read one after the other, so a client may be seen closed only.
    pub fn clients(&self) -> u64 {
        self.count(Count::ClientsOpened).saturating_sub(self.count(Count::ClientsClosed))
    }

    /// Transactions by node, role and reason; without those that never happened.
    pub fn transactions(&self) -> Vec<RoutedTotal> {
        self.routed(at::TRANSACTIONS, at::OWN_TRANSACTIONS)
    }

    /// Statements by node, role and reason; without those that never happened.
    pub fn statements(&self) -> Vec<RoutedTotal> {
        self.routed(at::STATEMENTS, at::OWN_STATEMENTS)
    }

    fn routed(&self, block: usize, own: usize) -> Vec<RoutedTotal> {
        let mut found = Vec::new();
        let mut add = |route, node: &str, cells: &[u64]| {
            let counted = REASONS.names().iter().zip(cells).filter(|(_, count)| **count > 0);
            found.extend(counted.map(|(reason, count)| RoutedTotal {
                route,
                node: node.to_owned(),
                reason,
                count: *count,
            }));
        };
        for (name, cells) in &self.nodes {
            add("primary", name, &cells[block..block + REASONS.len()]);
            add("replica", name, &cells[at::ROLE + block..at::ROLE + block + REASONS.len()]);
        }
        add("pgweir", "", &self.sheet[own..own + REASONS.len()]);
        found
    }

    /// Query times: route, node, histogram; without empty ones.
    pub fn query_times(&self) -> Vec<(&'static str, &str, HistogramTotals)> {
        self.times(at::QUERY_TIME)
    }

    /// Checkout times: route, node, histogram; without empty ones.
    pub fn checkout_times(&self) -> Vec<(&'static str, &str, HistogramTotals)> {
        self.times(at::CHECKOUT_TIME)
    }

    fn times(&self, block: usize) -> Vec<(&'static str, &str, HistogramTotals)> {
        let both = |(name, cells)| [("primary", 0, name, cells), ("replica", at::ROLE, name, cells)];
        self.nodes
            .iter()
            .map(|(name, cells)| (name.as_str(), cells))
            .flat_map(both)
            .map(|(route, role, name, cells): (_, usize, _, &Vec<u64>)| {
                (route, name, HistogramTotals::read(&cells[role + block..role + block + HISTOGRAM]))
            })
            .filter(|(_, _, histogram)| histogram.count() > 0)
            .collect()
    }

    pub fn floor_waits(&self) -> HistogramTotals {
        HistogramTotals::read(&self.sheet[at::FLOOR_WAIT..at::FLOOR_WAIT + HISTOGRAM])
    }

    /// Retries by reason, all reasons.
    pub fn retries(&self) -> Vec<(&'static str, u64)> {
        self.labelled(&RETRIES, at::RETRIES)
    }

    /// Pins by kind: how many there are now, and how many there ever were.
    pub fn pins(&self) -> Vec<(&'static str, u64, u64)> {
        let ended = self.labelled(&PINS, at::PINS_ENDED);
        let started = self.labelled(&PINS, at::PINS_STARTED);
        started.into_iter().zip(ended).map(|((kind, all), (_, over))| (kind, all.saturating_sub(over), all)).collect()
    }

    fn labelled(&self, labels: &Labels, block: usize) -> Vec<(&'static str, u64)> {
        labels.names().iter().copied().zip(self.sheet[block..].iter().copied()).collect()
    }

    /// Errors by fault and class; without those that never happened.
    pub fn errors(&self) -> Vec<ErrorTotal> {
        let cells = self.sheet[at::ERRORS..].chunks(CLASSES.len());
        let by_fault = FAULTS.names().iter().zip(cells);
        by_fault
            .flat_map(|(fault, row)| {
                let counted = CLASSES.names().iter().zip(row).filter(|(_, count)| **count > 0);
                counted.map(|(class, count)| ErrorTotal { fault, class, count: *count })
            })
            .collect()
    }
}

/// Sums everything. `before` is what a node's slot had counted for the nodes that it belonged to earlier.
pub(super) fn sum(workers: &[Arc<WorkerCells>], names: &[String], before: &[Option<Vec<u64>>]) -> Totals {
    let mut sheet = vec![0; at::SHEET];
    for worker in workers {
        worker.sheet.sum_into(&mut sheet);
    }
    let nodes = names.iter().zip(before).enumerate().take(NODES);
    let nodes = nodes
        .map(|(index, (name, before))| {
            let mut cells = sum_node(workers, index);
            for (cell, before) in cells.iter_mut().zip(before.iter().flatten()) {
                *cell = cell.wrapping_sub(*before);
            }
            (name.clone(), cells)
        })
        .collect();
    Totals { sheet, nodes, accounts: sum_accounts(workers) }
}

pub(super) fn sum_node(workers: &[Arc<WorkerCells>], index: usize) -> Vec<u64> {
    let mut cells = vec![0; at::NODE_SHEET];
    for worker in workers {
        if let Some(node) = worker.nodes.get(index) {
            node.sum_into(&mut cells);
        }
    }
    cells
}

fn sum_accounts(workers: &[Arc<WorkerCells>]) -> Vec<AccountTotals> {
    let mut sums: BTreeMap<(String, String), [u64; ACCOUNT_CELLS]> = BTreeMap::new();
    for (key, cells) in workers.iter().flat_map(|worker| worker.accounts()) {
        cells.0.sum_into(sums.entry(key).or_default());
    }
    let total = |((database, user), cells): ((String, String), [u64; ACCOUNT_CELLS])| {
        let count = |which: AccountCount| cells[which as usize];
        AccountTotals {
            database,
            user,
            clients: count(AccountCount::Opened).saturating_sub(count(AccountCount::Closed)),
            transactions: count(AccountCount::Transactions),
            statements: count(AccountCount::Statements),
            query_seconds: count(AccountCount::QueryMicros) as f64 / 1e6,
            errors: count(AccountCount::Errors),
        }
    };
    sums.into_iter().map(total).collect()
}
