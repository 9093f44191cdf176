//! What pgweir knows of its nodes, held against a real cluster: roles, lag, eviction, death, promotion, samples. The
//! library's own watcher is asked, without the binary, because clients see these things only by their consequences.

use std::sync::Arc;
use std::time::Duration;

use pgweir::cluster::dial::Plain;
use pgweir::cluster::{Cluster, ClusterView, Health, Lsn, NodeId, Role, Timeline, monitor};
use pgweir::config::{ClusterConfig, NodeConfig, NodeTls};
use pgweir::routing::{Floor, settle};

use crate::harness::cluster::Node;
use crate::harness::{self, Stop, wait};

const MAX_LAG: Duration = Duration::from_millis(1500);

/// The watcher with its task, which ends with the test.
struct Watch {
    cluster: Arc<Cluster>,
    _task: tokio::task::JoinSet<()>,
}

/// Watches the nodes in this order, as ids 0, 1 and 2.
fn watch(nodes: [&Node; 3]) -> Watch {
    let node = |node: &&Node| NodeConfig {
        name: node.name.to_owned(),
        host: "127.0.0.1".into(),
        port: node.port,
        user: "postgres".into(),
        password: None,
        database: "postgres".into(),
        weight: 1,
        tls: NodeTls::Disable,
    };
    let config = ClusterConfig {
        probe_interval: Duration::from_millis(100),
        fast_probe_interval: Duration::from_millis(2),
        probe_timeout: Duration::from_secs(2),
        down_after: 3,
        max_lag: MAX_LAG,
        readmit_lag: Duration::from_millis(500),
        readmit_after: Duration::from_millis(300),
        lag_tolerance: Duration::from_millis(100),
        failover_timeout: Duration::from_secs(30),
    };
    let cluster = Cluster::new(nodes.iter().map(node).collect(), config, Arc::new(Plain));
    let mut task = tokio::task::JoinSet::new();
    task.spawn(monitor::run(Arc::clone(&cluster)));
    Watch { cluster, _task: task }
}

impl Watch {
    /// The first view of which this is true.
    async fn sees(&self, what: &str, mut condition: impl FnMut(&ClusterView) -> bool) -> Arc<ClusterView> {
        let seen = async {
            loop {
                let view = self.cluster.view();
                if condition(&view) {
                    return view;
                }
                self.cluster.changed().await;
            }
        };
        wait::in_time(what, seen).await
    }

    async fn sees_all_healthy(&self) -> Arc<ClusterView> {
        self.sees("three healthy nodes", |view| view.nodes.iter().all(|node| node.health == Health::Healthy)).await
    }
}

fn health(view: &ClusterView, node: u16) -> &Health {
    &view.node(NodeId(node)).expect("it is configured").health
}

#[tokio::test]
async fn a_paused_replica_lags_by_the_clock_is_evicted_and_comes_back() {
    let servers = harness::Cluster::start("watch-lag").await;
    let watch = watch(servers.nodes());
    let view = watch.sees_all_healthy().await;
    let roles: Vec<Role> = view.nodes.iter().map(|node| node.role).collect();
    assert_eq!((roles, view.primary), (vec![Role::Primary, Role::Replica, Role::Replica], Some(NodeId(0))));

    servers.replicas[0].pause_replay().await;
    let paused = std::time::Instant::now();
    servers.primary.ask("SELECT txid_current()").await;
    let view = watch.sees("the eviction", |view| *health(view, 1) == Health::Lagging).await;
    let (lag, truth) = (view.nodes[1].lag.expect("it is known"), paused.elapsed());
    assert!(lag > MAX_LAG, "{lag:?}");
    // The replica was fresh when it was paused, or up to one sample (10 ms here) and one probe before.
    assert!(lag < truth + Duration::from_millis(500), "{lag:?} after {truth:?}");
    assert!(view.nodes[1].lag_bytes > Some(0));
    assert_eq!(*health(&view, 2), Health::Healthy);

    servers.replicas[0].resume_replay().await;
    watch.sees_all_healthy().await;
    assert_eq!(watch.cluster.stats().evictions.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_dead_replica_is_out_at_the_first_report_and_a_restarted_one_proves_itself() {
    let servers = harness::Cluster::start("watch-death").await;
    let watch = watch(servers.nodes());
    let before = watch.sees_all_healthy().await;
    servers.replicas[0].kill9();
    watch.cluster.report_failure(NodeId(1));
    watch.sees("the death", |view| matches!(health(view, 1), Health::Down(_))).await;
    servers.replicas[0].start().await;
    let after = watch.sees_all_healthy().await;
    // Observations from before the crash say nothing of what the restarted server has.
    assert!(after.nodes[1].connected >= before.nodes[1].observation);
    assert!(after.nodes[1].observation > after.nodes[1].connected);
    assert_eq!(after.epoch, before.epoch);
}

#[tokio::test]
async fn a_promotion_starts_a_new_timeline_with_its_switch_point() {
    let servers = harness::Cluster::start("watch-promotion").await;
    let watch = watch(servers.nodes());
    let old = watch.sees_all_healthy().await;
    servers.wait_for_replay().await;
    servers.primary.stop(Stop::Fast).await;
    watch.sees("no primary", |view| view.primary.is_none()).await;
    servers.replicas[0].promote().await;
    let view = watch.sees("the new primary", |view| view.primary == Some(NodeId(1))).await;
    assert_eq!(view.epoch, old.epoch + 1);
    assert_eq!(view.timeline, Timeline(old.timeline.0 + 1));
    let (parent, end) = view.switch.expect("a superuser may read the history");
    assert_eq!(parent, old.timeline);
    assert!(end > Lsn(0));
    assert!(!matches!(health(&view, 1), Health::Down(_)));

    // A ticket that was taken now is settled by the new primary's answer only.
    let floor = Floor::Unknown { ticket: watch.cluster.ticket(), at_least: None };
    watch.cluster.want_sample();
    let settled = async {
        loop {
            let view = watch.cluster.view();
            if let Floor::At(position) = settle(floor, watch.cluster.sample(), &view) {
                return position;
            }
            watch.cluster.changed().await;
        }
    };
    let position = wait::in_time("a sample of the new primary", settled).await;
    assert_eq!((position.system, position.timeline), (view.system, view.timeline));
    assert!(position.lsn >= end);

    // The other replica follows, and is fit again.
    let other = servers.replicas.last().expect("there are two");
    other.stop(Stop::Fast).await;
    other.follow(&servers.replicas[0]);
    other.start().await;
    watch.sees("the follower", |view| *health(view, 2) == Health::Healthy).await;
}

#[tokio::test]
async fn samples_cover_what_was_written_before_they_were_asked_for_and_are_shared() {
    let servers = harness::Cluster::start("watch-samples").await;
    let watch = watch(servers.nodes());
    watch.sees_all_healthy().await;
    for node in servers.nodes() {
        assert_eq!(node.log_count("ERROR:"), 0, "what the watcher asked: {}", node.log());
    }
    let published = &watch.cluster.stats().samples_published;
    let before = published.load(std::sync::atomic::Ordering::Relaxed);
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let client = servers.primary.superuser("postgres").await;
        let cluster = Arc::clone(&watch.cluster);
        sessions.spawn(async move {
            for _ in 0..20 {
                client.batch_execute("SELECT txid_current()").await.expect("a write");
                let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.expect("a position");
                let written: Lsn = row.get::<_, &str>(0).parse().expect("a position");
                let floor = Floor::Unknown { ticket: cluster.ticket(), at_least: None };
                cluster.want_sample();
                let position = loop {
                    if let Floor::At(position) = settle(floor, cluster.sample(), &cluster.view()) {
                        break position;
                    }
                    cluster.changed().await;
                };
                assert!(position.lsn >= written.normalized(16 << 20), "{} < {written}", position.lsn);
            }
        });
    }
    while let Some(ended) = wait::in_time("the sessions end", sessions.join_next()).await {
        ended.expect("no session fails");
    }
    let samples = published.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(samples < 32 * 20, "{samples} queries for 640 floors: they were not shared");
}
