//! The coalesced "where is the primary's WAL now?" for everyone who just wrote. One connection, at most one query in
//! flight; whoever asks while one is under way gets the next one, together with all others who did. `monitor::run` starts
//! it. It must be quick: a session's reads stay on the primary until its answer is here.
//!
//! A sample's number is counted before the query is sent, and only then is the view looked at: a session that wrote on a
//! new primary took its ticket after that view was published, so an answer of the former primary never carries a number
//! above that ticket.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use super::dial::DialError;
use super::handle::Cluster;
use super::probe::Probe;
use super::{NodeId, Position, Sample, Timeline};

/// Pause after a failure, so that a primary that comes up is not hammered.
const RETRY: Duration = Duration::from_millis(50);

/// The connection to one primary in one epoch.
struct Link {
    probe: Probe,
    statement: Statement,
    epoch: u64,
    system: u64,
    timeline: Timeline,
}

/// Samples until it is dropped.
pub(super) async fn run(cluster: Arc<Cluster>) {
    let idle = idle_interval(&cluster);
    let mut link = None;
    loop {
        match idle {
            // The LSN timeline needs samples of its own, or the lag of a replica would be as coarse as the probes.
            Some(idle) => drop(tokio::time::timeout(idle, cluster.sample_demand()).await),
            None => cluster.sample_demand().await,
        }
        if let Err(error) = sample(&cluster, &mut link).await {
            tracing::debug!(%error, "a sample of the primary's position failed");
            cluster.stats().samples_failed.fetch_add(1, Relaxed);
            link = None;
            tokio::time::sleep(RETRY).await;
            // Those who asked during the failure still wait.
            cluster.want_sample();
        }
    }
}

/// A tenth of the probe interval: 50 ms by default. A lone node has no lag to be measured.
fn idle_interval(cluster: &Cluster) -> Option<Duration> {
    let tenth = cluster.config.probe_interval / 10;
    (cluster.nodes.len() > 1).then(|| tenth.clamp(Duration::from_millis(10), Duration::from_millis(100)))
}

/// One sample, on a connection that belongs to the present primary.
async fn sample(cluster: &Cluster, link: &mut Option<Link>) -> Result<(), DialError> {
    let (epoch, primary) = {
        let view = cluster.view();
        (view.epoch, view.primary)
    };
    // The monitor's next view wakes nobody here; whoever waits for a floor falls back to the primary's answer anyway.
    let Some(primary) = primary else { return Ok(()) };
    if link.as_ref().is_none_or(|link| link.epoch != epoch || link.probe.is_closed()) {
        *link = Some(connect(cluster, primary, epoch).await?);
    }
    let Some(link) = link else { return Ok(()) };
    let number = cluster.start_sample();
    if cluster.view().epoch != link.epoch {
        cluster.want_sample();
        return Ok(());
    }
    let sent = Instant::now();
    let lsn = link.probe.insert(&link.statement).await?;
    let position = Position { system: link.system, timeline: link.timeline, lsn };
    cluster.publish_sample(Sample { number, position }, sent);
    Ok(())
}

async fn connect(cluster: &Cluster, primary: NodeId, epoch: u64) -> Result<Link, DialError> {
    let node = &cluster.nodes[usize::from(primary.0)];
    let probe = Probe::open(&*cluster.dial, node, cluster.config.probe_timeout).await?;
    let statement = probe.insert_statement().await?;
    let reading = probe.status().await?;
    // A primary keeps its timeline for as long as its server processes live.
    Ok(Link {
        epoch,
        system: probe.system.unwrap_or(cluster.view().system),
        timeline: reading.timeline.unwrap_or_default(),
        statement,
        probe,
    })
}
