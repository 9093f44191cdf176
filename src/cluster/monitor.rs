//! The loop: probe each node, let the roster judge, publish. proxy.rs spawns `run` on the control runtime; dropping it
//! ends every probe. Each node has a task of its own, so that a frozen one holds up nobody. The data's way is never
//! called from here; it reads what `Cluster` publishes.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::dial::DialError;
use super::event::Event;
use super::handle::Cluster;
use super::lsn::Timeline;
use super::probe::Probe;
use super::roster::Status;
use super::{Health, NodeId, NodeStats, Role, sampler};

/// Settings, collations and the like are read again so often; they change with a reload of the server's configuration.
const TRAITS_EVERY: Duration = Duration::from_secs(10);

/// Reports of failures cause at most one probe in so long.
const URGENT_GAP: Duration = Duration::from_millis(20);

/// One node's control connection.
struct Link {
    probe: Probe,
    /// `NodeStats::probes_started` just before it was opened.
    connected: u64,
    traits_read: Option<Instant>,
    /// The timeline whose history was read.
    history: Option<Timeline>,
}

/// Watches all nodes and samples the primary until it is dropped.
pub async fn run(cluster: Arc<Cluster>) {
    let mut tasks = JoinSet::new();
    // All nodes are probed at the same ticks: their lags are compared with each other, and a probe that is half an
    // interval older would look like lag.
    let start = Instant::now();
    for index in 0..cluster.nodes.len() {
        let Ok(index) = u16::try_from(index) else { break };
        tasks.spawn(watch(Arc::clone(&cluster), NodeId(index), start));
    }
    tasks.spawn(sampler::run(Arc::clone(&cluster)));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a watcher of the cluster ended; its node will not be probed any more");
        }
    }
}

/// One node, for ever.
async fn watch(cluster: Arc<Cluster>, node: NodeId, start: Instant) {
    let stats = cluster.node_stats(node);
    let mut ticks = interval_at(start, cluster.config.probe_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let mut link = None;
    loop {
        let probed = Instant::now();
        full_probe(&cluster, node, &stats, &mut link).await;
        let replica = cluster.view().node(node).is_some_and(|node| node.role == Role::Replica);
        if replica && link.is_some() {
            until_due(&cluster, node, &stats, &mut link, &mut ticks).await;
        } else {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cluster.urgent[usize::from(node.0)].notified() => sleep_until(probed + URGENT_GAP).await,
            }
        }
    }
}

/// Between two full probes of a replica: quick ones while somebody waits for a floor. Returns when a full one is due.
async fn until_due(cluster: &Cluster, node: NodeId, stats: &NodeStats, link: &mut Option<Link>, ticks: &mut Interval) {
    let began = Instant::now();
    let urgent = &cluster.urgent[usize::from(node.0)];
    while let Some(open) = link {
        // Registered before the demand is looked at, so that none is missed in between.
        let wanted = cluster.replay_wanted.notified();
        tokio::pin!(wanted);
        wanted.as_mut().enable();
        let quick = cluster.is_replay_wanted();
        tokio::select! {
            biased;
            _ = ticks.tick() => return,
            () = urgent.notified() => return sleep_until(began + URGENT_GAP).await,
            () = sleep(cluster.config.fast_probe_interval), if quick => {}
            () = wanted, if !quick => {}
        }
        let number = stats.probes_started.fetch_add(1, SeqCst) + 1;
        match open.probe.replay().await {
            Ok(Some(replay)) => {
                let now = std::time::Instant::now();
                cluster.learn(|roster| roster.on_replay(node, replay, number, now));
            }
            // A replica no more, or nothing replayed yet: the full probe tells.
            Ok(None) => return,
            Err(_) => *link = None,
        }
    }
}

async fn full_probe(cluster: &Cluster, node: NodeId, stats: &NodeStats, link: &mut Option<Link>) {
    let was_open = link.is_some();
    let mut answer = attempt(cluster, node, stats, link).await;
    // That an old connection is gone says only that it is gone: the server may have restarted, or somebody ended it.
    // A new one tells how the node is now.
    if was_open && answer.is_err() && link.as_ref().is_none_or(|link| link.probe.is_closed()) {
        *link = None;
        answer = attempt(cluster, node, stats, link).await;
    }
    let now = std::time::Instant::now();
    match answer {
        Ok(status) => cluster.learn(|roster| roster.on_status(node, status)),
        Err(error) => {
            *link = None;
            cluster.stats().probes_failed.fetch_add(1, Relaxed);
            cluster.learn(|roster| roster.on_failure(node, error.is_refusal(), error.to_string(), now));
        }
    }
}

/// One probe, on the open connection or a new one.
async fn attempt(
    cluster: &Cluster,
    node: NodeId,
    stats: &NodeStats,
    link: &mut Option<Link>,
) -> Result<Status, DialError> {
    let open = match link {
        Some(open) => open,
        None => {
            let connected = stats.probes_started.load(SeqCst);
            let config = &cluster.nodes[usize::from(node.0)];
            let probe = Probe::open(&*cluster.dial, config, cluster.config.probe_timeout).await?;
            link.insert(Link { probe, connected, traits_read: None, history: None })
        }
    };
    // Before the position is asked for: this takes milliseconds, and a position should be young when it is published.
    let mut traits = None;
    if open.traits_read.is_none_or(|read| read.elapsed() >= TRAITS_EVERY) {
        traits = Some(open.probe.traits().await?);
        open.traits_read = Some(Instant::now());
    }
    // Counted before it is sent: an observation speaks of connections that were opened before.
    let number = stats.probes_started.fetch_add(1, SeqCst) + 1;
    let sent = std::time::Instant::now();
    let reading = open.probe.status().await?;
    let answered = std::time::Instant::now();
    let mut switch = None;
    if let Some(timeline) =
        reading.timeline.filter(|_| reading.role == Role::Primary && reading.timeline != open.history)
    {
        switch = open.probe.switch(timeline).await;
        open.history = Some(timeline);
    }
    Ok(Status { reading, system: open.probe.system, number, connected: open.connected, sent, answered, traits, switch })
}

/// One line for each event.
pub(super) fn log(cluster: &Cluster, events: &[Event]) {
    let name = |id: &NodeId| cluster.nodes[usize::from(id.0)].name.as_str();
    for event in events {
        match event {
            Event::Health { node, from, to, lag } => log_health(cluster, name(node), from, to, *lag),
            Event::Role { node, from: Role::Unknown, to } => {
                tracing::info!(node = name(node), role = ?to, "node found")
            }
            Event::Role { node, from, to } => {
                tracing::warn!(node = name(node), ?from, ?to, "node changed its role");
            }
            Event::Primary { node: Some(node), timeline } => {
                tracing::info!(node = name(node), timeline = timeline.0, "this node takes writes");
            }
            Event::Primary { node: None, .. } => {
                tracing::error!("no node takes writes: writes wait until there is a primary");
            }
            Event::System { system } => tracing::info!(system, "the nodes belong to this cluster"),
        }
    }
}

fn log_health(cluster: &Cluster, node: &str, from: &Health, to: &Health, lag: Option<Duration>) {
    let lag_ms = lag.map(|lag| lag.as_millis());
    match (from, to) {
        (Health::Down(_), Health::Healthy) => tracing::info!(node, "node is up"),
        (_, Health::Healthy) => {
            cluster.stats().readmissions.fetch_add(1, Relaxed);
            tracing::info!(node, lag_ms, "node readmitted");
        }
        (Health::Healthy, Health::Lagging) => {
            cluster.stats().evictions.fetch_add(1, Relaxed);
            tracing::warn!(node, lag_ms, max_lag = ?cluster.config.max_lag, "node evicted: it lags too much");
        }
        (_, Health::Lagging) => tracing::info!(node, lag_ms, "node is on probation until it kept up for a while"),
        (_, Health::Down(why)) => tracing::error!(node, why, "node is down"),
        (_, Health::Refused(why)) => tracing::error!(node, why, "node refused"),
    }
}
