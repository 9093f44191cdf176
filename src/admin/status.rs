//! The whole state as JSON, for the dashboard and for scripts. `http` asks for one at each GET /api/status. Counters are
//! totals since the start; whoever wants a rate subtracts two answers. No password, query text or bind value is in it.

use serde::Serialize;

use super::{AdminSources, sample};
use crate::cluster::{ClusterView, NodeView};
use crate::metrics::{
    AccountTotals, BOUNDS, Count, ErrorTotal, HistogramTotals, NodeSample, PoolSample, RoutedTotal, Totals,
};

/// GET /api/status.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: f64,
    /// Empty when ready.
    not_ready: Vec<String>,
    cluster: ClusterStatus,
    nodes: Vec<NodeStatus>,
    clients: ClientStatus,
    bytes: ByteStatus,
    verdicts: VerdictStatus,
    /// Upper bounds of the buckets of every histogram below, in microseconds.
    bounds_micros: &'static [u32],
    query_times: Vec<TimeStatus>,
    checkout_times: Vec<TimeStatus>,
    floor_waits: HistogramTotals,
    transactions: Vec<RoutedTotal>,
    statements: Vec<RoutedTotal>,
    retries: Vec<CountStatus>,
    pins: Vec<CountStatus>,
    errors: Vec<ErrorTotal>,
    accounts: Vec<AccountTotals>,
    pools: Vec<PoolSample>,
}

#[derive(Serialize)]
struct ClusterStatus {
    /// The primary's name.
    primary: Option<String>,
    /// As text: it does not fit a JavaScript number.
    system: String,
    timeline: u32,
    epoch: u64,
    snapshot_age_seconds: f64,
}

#[derive(Serialize)]
struct NodeStatus {
    id: u16,
    name: String,
    role: &'static str,
    health: &'static str,
    /// Why it is out of service.
    trouble: Option<String>,
    timeline: u32,
    replay_lsn: String,
    lag_seconds: Option<f64>,
    lag_bytes: Option<u64>,
    weight: u32,
    in_flight: u32,
    read_latency_seconds: f64,
}

#[derive(Serialize)]
struct ClientStatus {
    connected: u64,
    accepted: u64,
    refused: u64,
    login_failures: u64,
    prepared_statements: u64,
}

#[derive(Serialize)]
struct ByteStatus {
    from_clients: u64,
    to_clients: u64,
    from_servers: u64,
    to_servers: u64,
}

#[derive(Serialize)]
struct VerdictStatus {
    hits: u64,
    misses: u64,
    parses: u64,
}

#[derive(Serialize)]
struct TimeStatus {
    route: &'static str,
    node: String,
    times: HistogramTotals,
}

#[derive(Serialize)]
struct CountStatus {
    name: &'static str,
    count: u64,
}

pub(super) fn status(sources: &AdminSources) -> Status {
    let view = (sources.view)();
    let totals = sources.metrics.totals();
    let sampled = sample::cluster(&view);
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: sources.metrics.uptime().as_secs_f64(),
        not_ready: not_ready(&view, (sources.accepting)()),
        cluster: ClusterStatus {
            primary: sampled.primary.map(|index| view.nodes[index].name.clone()),
            system: view.system.to_string(),
            timeline: view.timeline.0,
            epoch: view.epoch,
            snapshot_age_seconds: view.taken.elapsed().as_secs_f64(),
        },
        nodes: view.nodes.iter().zip(sampled.nodes).map(node).collect(),
        clients: clients(&totals),
        bytes: ByteStatus {
            from_clients: totals.count(Count::BytesFromClients),
            to_clients: totals.count(Count::BytesToClients),
            from_servers: totals.count(Count::BytesFromServers),
            to_servers: totals.count(Count::BytesToServers),
        },
        verdicts: VerdictStatus {
            hits: totals.count(Count::VerdictHits),
            misses: totals.count(Count::VerdictMisses),
            parses: totals.count(Count::Parses),
        },
        bounds_micros: &BOUNDS,
        query_times: times(totals.query_times()),
        checkout_times: times(totals.checkout_times()),
        floor_waits: totals.floor_waits(),
        transactions: totals.transactions(),
        statements: totals.statements(),
        retries: happened(totals.retries().into_iter()),
        pins: happened(totals.pins().into_iter().map(|(kind, now, _)| (kind, now))),
        errors: totals.errors(),
        accounts: totals.accounts,
        pools: (sources.pools)(),
    }
}

/// What keeps pgweir from serving everything; empty when it is ready.
pub(super) fn not_ready(view: &ClusterView, accepting: usize) -> Vec<String> {
    let mut why = Vec::new();
    if accepting == 0 {
        why.push("no worker accepts clients (starting, or shutting down)".to_owned());
    }
    if view.primary.is_none() {
        why.push("no primary is known".to_owned());
        why.extend(
            view.nodes.iter().filter_map(|node| {
                sample::trouble(&node.health).map(|trouble| format!("node {}: {trouble}", node.name))
            }),
        );
    }
    why
}

fn node((view, sample): (&NodeView, NodeSample)) -> NodeStatus {
    NodeStatus {
        id: view.id.0,
        name: sample.name,
        role: sample.role,
        health: sample.health,
        trouble: sample::trouble(&view.health).map(str::to_owned),
        timeline: view.timeline.0,
        replay_lsn: view.replay.to_string(),
        lag_seconds: sample.lag_seconds,
        lag_bytes: sample.lag_bytes,
        weight: view.weight,
        in_flight: sample.in_flight,
        read_latency_seconds: sample.read_latency_seconds,
    }
}

fn clients(totals: &Totals) -> ClientStatus {
    let kept = totals.count(Count::StatementsKept);
    ClientStatus {
        connected: totals.clients(),
        accepted: totals.count(Count::ClientsOpened),
        refused: totals.count(Count::ClientsRefused),
        login_failures: totals.count(Count::LoginFailures),
        prepared_statements: kept.saturating_sub(totals.count(Count::StatementsClosed)),
    }
}

fn times(all: Vec<(&'static str, &str, HistogramTotals)>) -> Vec<TimeStatus> {
    all.into_iter().map(|(route, node, times)| TimeStatus { route, node: node.to_owned(), times }).collect()
}

fn happened(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<CountStatus> {
    counts.filter(|(_, count)| *count > 0).map(|(name, count)| CountStatus { name, count }).collect()
}
