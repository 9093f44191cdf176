//! The handle to what is known of the nodes: one `Cluster` for each process, in an `Arc`. The data's way reads the view
//! and the newest sample from it and asks for more; the side loops (`monitor`, `sampler`) publish through it.
//! Whatever the data's way calls is atomics, or a mutex that is held for a few instructions; it never waits for a loop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::Notify;

use super::dial::Dial;
use super::event::Event;
use super::roster::Roster;
use super::{Change, ClusterView, GlobalFloor, NodeId, NodeStats, Position, Role, Sample};
use crate::config::{ClusterConfig, NodeConfig};

/// After the last `want_replay` the replicas are probed quickly for so long.
const REPLAY_DEMAND: Duration = Duration::from_millis(50);

/// Counters of the side loops, for metrics and the console.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Samples of the primary's position that were answered: the queries that the floors cost the primary.
    pub samples_published: AtomicU64,
    /// Samples that were sent and brought nothing (connection lost, timeout, primary changed meanwhile).
    pub samples_failed: AtomicU64,
    /// The last sample's time from just before sending to publication, in microseconds.
    pub sample_us: AtomicU64,
    pub views_published: AtomicU64,
    pub evictions: AtomicU64,
    pub readmissions: AtomicU64,
    /// Changes of the primary or its timeline, the first included.
    pub primary_changes: AtomicU64,
    pub probes_failed: AtomicU64,
}

/// See the file's head.
pub struct Cluster {
    pub(super) nodes: Vec<NodeConfig>,
    pub(super) config: ClusterConfig,
    pub(super) dial: Arc<dyn Dial>,
    published: Arc<ArcSwap<Published>>,
    /// Samples started, counted *before* they are sent.
    started: AtomicU64,
    sample_wanted: Notify,
    /// Milliseconds since `origin` until which replicas are to be probed quickly.
    replay_until: AtomicU64,
    pub(super) replay_wanted: Notify,
    /// One for each node: probe now.
    pub(super) urgent: Vec<Notify>,
    /// Views and samples published so far.
    publications: AtomicU64,
    /// Sessions that wait for something to be published. They are many at once, and each wants to be woken exactly once.
    wakers: Mutex<Vec<(Change, Waker)>>,
    /// Tickets of acknowledged writes, plus one; see `wrote`.
    global_ticket: AtomicU64,
    /// Only side loops take this lock.
    roster: Mutex<Roster>,
    origin: Instant,
    stats: ClusterStats,
}

/// All that a decision needs, in one piece: reading it costs one load.
#[derive(Clone)]
struct Published {
    view: Arc<ClusterView>,
    /// The newest answered sample of the primary's position.
    sample: Option<Sample>,
    global: Settled,
}

/// What one worker looks through: as long as nothing is published, a look costs a comparison.
pub struct Watch {
    cluster: Arc<Cluster>,
    published: Cache<Arc<ArcSwap<Published>>, Arc<Published>>,
}

impl Watch {
    pub fn new(cluster: &Arc<Cluster>) -> Watch {
        Watch { cluster: Arc::clone(cluster), published: Cache::new(Arc::clone(&cluster.published)) }
    }

    /// Everything that is known now, for the data's way: nothing is counted or copied.
    pub fn moment(&mut self) -> Moment<'_> {
        self.cluster.moment(self.published.load())
    }
}

/// What is known at a moment; see [`Watch`].
pub struct Moment<'a> {
    published: &'a Published,
    /// [`Cluster::ticket`], read after everything else.
    pub ticket: u64,
    global_ticket: u64,
}

impl Moment<'_> {
    pub fn view(&self) -> &ClusterView {
        &self.published.view
    }

    pub fn sample(&self) -> Option<Sample> {
        self.published.sample
    }

    pub fn global_floor(&self) -> GlobalFloor {
        let settled = self.published.global;
        let unresolved = (self.global_ticket > settled.through).then(|| self.global_ticket - 1);
        GlobalFloor { position: settled.position, unresolved }
    }
}

/// The global floor as far as samples have settled it.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    /// All writes whose `ticket + 1` is at most this are covered by `position`.
    through: u64,
    position: Option<Position>,
}

impl Settled {
    /// The first sample that was sent after the last write covers all of them.
    fn settle(&mut self, ticket: u64, sample: Sample) {
        if ticket > 0 && sample.number >= ticket && self.through < ticket {
            *self = Settled { through: ticket, position: Some(later(self.position, sample.position)) };
        }
    }
}

impl Cluster {
    pub fn new(nodes: Vec<NodeConfig>, config: ClusterConfig, dial: Arc<dyn Dial>) -> Arc<Cluster> {
        let now = Instant::now();
        let roster = Roster::new(&nodes, config.clone(), now);
        Arc::new(Cluster {
            published: Arc::new(ArcSwap::from_pointee(Published {
                view: Arc::new(roster.view(now)),
                sample: None,
                global: Settled::default(),
            })),
            started: AtomicU64::new(0),
            sample_wanted: Notify::new(),
            replay_until: AtomicU64::new(0),
            replay_wanted: Notify::new(),
            urgent: nodes.iter().map(|_| Notify::new()).collect(),
            publications: AtomicU64::new(0),
            wakers: Mutex::default(),
            global_ticket: AtomicU64::new(0),
            roster: Mutex::new(roster),
            origin: now,
            stats: ClusterStats::default(),
            nodes,
            config,
            dial,
        })
    }

    fn moment<'a>(&self, published: &'a Published) -> Moment<'a> {
        let ticket = self.ticket();
        Moment { published, ticket, global_ticket: self.global_ticket.load(Ordering::SeqCst) }
    }

    /// The newest snapshot, to keep.
    pub fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.published.load().view)
    }

    /// The newest answered sample of the primary's position.
    pub fn sample(&self) -> Option<Sample> {
        self.published.load().sample
    }

    /// How many samples were started so far: one with a greater number was sent after this call.
    pub fn ticket(&self) -> u64 {
        self.started.load(Ordering::SeqCst)
    }

    /// Asks for a sample that is sent after this call. A thousand calls cost one query.
    pub fn want_sample(&self) {
        self.sample_wanted.notify_one();
    }

    /// Somebody waits for this: makes the side loops look.
    pub fn want(&self, change: Change) {
        match change {
            // One that was started since is on its way.
            Change::Sample(ticket) if self.ticket() > ticket => {}
            // What the sample says will be asked of a replica itself, or waited for.
            Change::Sample(_) => self.want_sample(),
            Change::Replay(_) => self.want_replay(),
            Change::Anything => {
                self.want_sample();
                self.want_replay();
            }
        }
    }

    /// Observations every `fast_probe_interval` for a short while.
    fn want_replay(&self) {
        let now = self.origin.elapsed();
        let until = millis(now.saturating_add(REPLAY_DEMAND));
        let before = self.replay_until.swap(until, Ordering::Relaxed);
        if before <= millis(now) {
            self.replay_wanted.notify_waiters();
        }
    }

    pub(super) fn is_replay_wanted(&self) -> bool {
        self.replay_until.load(Ordering::Relaxed) > millis(self.origin.elapsed())
    }

    /// How often something was published. Read it before what is known is looked at: see `wake_on_change`.
    pub fn publications(&self) -> u64 {
        self.publications.load(Ordering::SeqCst)
    }

    /// Wakes `waker` once, when the change may have come, or anything that changes more than positions. Not woken by what
    /// was published before: `false` says that this is no more than the caller had `seen`, otherwise look once more.
    pub fn wake_on_change(&self, change: Change, seen: u64, waker: &Waker) -> bool {
        lock(&self.wakers).push((change, waker.clone()));
        self.publications() != seen
    }

    /// Returns after the next publication (or a little early; look at the view again).
    pub async fn changed(&self) {
        let mut registered = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut registered, true) {
                return Poll::Ready(());
            }
            self.wake_on_change(Change::Anything, 0, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// A write was acknowledged, or may have been: nobody who reads with `global` from now on may miss it. Call it before
    /// the client sees the acknowledgement.
    pub fn wrote(&self) {
        let ticket = self.ticket() + 1;
        if self.global_ticket.load(Ordering::SeqCst) < ticket {
            self.global_ticket.fetch_max(ticket, Ordering::SeqCst);
        }
    }

    pub fn global_floor(&self) -> GlobalFloor {
        self.moment(&self.published.load()).global_floor()
    }

    fn publish(&self, change: impl Fn(&mut Published)) {
        self.published.rcu(|known| {
            let mut known = Published::clone(known);
            change(&mut known);
            known
        });
        self.publications.fetch_add(1, Ordering::SeqCst);
    }

    /// The data's way saw a connection to `node` die: probe it at once.
    pub fn report_failure(&self, node: NodeId) {
        if let Some(urgent) = self.urgent.get(usize::from(node.0)) {
            urgent.notify_one();
        }
    }

    pub fn stats(&self) -> &ClusterStats {
        &self.stats
    }

    /// How this cluster's control connections are opened; the catalog's loader uses it too.
    pub fn dial(&self) -> &Arc<dyn Dial> {
        &self.dial
    }

    pub fn node_config(&self, node: NodeId) -> Option<&NodeConfig> {
        self.nodes.get(usize::from(node.0))
    }

    pub(super) fn node_stats(&self, node: NodeId) -> Arc<NodeStats> {
        lock(&self.roster).stats(node)
    }

    /// Waits until somebody wants a sample.
    pub(super) async fn sample_demand(&self) {
        self.sample_wanted.notified().await;
    }

    /// Numbers a sample that is about to be sent.
    pub(super) fn start_sample(&self) -> u64 {
        self.started.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Publishes a sample that was sent at `sent`, and wakes who waits.
    pub(super) fn publish_sample(&self, sample: Sample, sent: Instant) {
        let ticket = self.global_ticket.load(Ordering::SeqCst);
        self.publish(|known| {
            known.sample = Some(sample);
            known.global.settle(ticket, sample);
        });
        self.wake(|change| match change {
            Change::Anything => true,
            Change::Sample(ticket) => sample.number > ticket,
            Change::Replay(_) => false,
        });
        let took = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.sample_us.store(took, Ordering::Relaxed);
        self.stats.samples_published.fetch_add(1, Ordering::Relaxed);
        lock(&self.roster).on_insert(sample.position, sent);
    }

    /// Lets a side loop tell the roster what it learned, publishes what follows, and wakes who waits.
    pub(super) fn learn(&self, learn: impl FnOnce(&mut Roster) -> Vec<Event>) {
        let (events, furthest) = {
            let mut roster = lock(&self.roster);
            let events = learn(&mut roster);
            let view = roster.view(Instant::now());
            let changed = view.epoch != self.published.load().view.epoch;
            let here = view.nodes.iter().filter(|node| node.role == Role::Replica && node.timeline == view.timeline);
            let furthest = here.map(|node| node.replay).max();
            let view = Arc::new(view);
            // Under the lock, so that snapshots are published in the order in which they were made.
            self.publish(|known| {
                known.view = Arc::clone(&view);
                if changed {
                    // Positions of the former timeline bind nobody; what was written until now must be asked for anew.
                    known.global = Settled::default();
                }
            });
            if changed {
                self.wrote();
                self.stats.primary_changes.fetch_add(1, Ordering::Relaxed);
            }
            (events, furthest)
        };
        self.stats.views_published.fetch_add(1, Ordering::Relaxed);
        self.wake(|change| match change {
            _ if !events.is_empty() => true,
            Change::Anything => true,
            Change::Sample(_) => false,
            Change::Replay(lsn) => furthest >= Some(lsn),
        });
        // A new primary changes what every other node is worth; nobody should have to wait for the next tick to know.
        if events.iter().any(|event| matches!(event, Event::Primary { .. })) {
            self.urgent.iter().for_each(Notify::notify_one);
            self.want_sample();
        }
        super::monitor::log(self, &events);
    }

    fn wake(&self, has_come: impl Fn(Change) -> bool) {
        let woken: Vec<_> = lock(&self.wakers).extract_if(.., |(change, _)| has_come(*change)).collect();
        for (_, waker) in woken {
            waker.wake();
        }
    }
}

/// A thread that panicked with the lock held left nothing half done that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The one that covers both; a position of a newer timeline replaces one of an older.
fn later(present: Option<Position>, new: Position) -> Position {
    match present {
        Some(present) if present.system == new.system && present.timeline > new.timeline => present,
        Some(present) if (present.system, present.timeline) == (new.system, new.timeline) && present.lsn > new.lsn => {
            present
        }
        _ => new,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::cluster::Lsn;
    use crate::cluster::dial::Plain;
    use crate::cluster::samples::at;

    fn cluster() -> Arc<Cluster> {
        let config = ClusterConfig::default();
        Cluster::new(Vec::new(), config, Arc::new(Plain))
    }

    fn publish(cluster: &Cluster, number: u64, lsn: u64) {
        cluster.publish_sample(Sample { number, position: at(2, lsn) }, Instant::now());
    }

    fn floor(position: Option<u64>, unresolved: Option<u64>) -> GlobalFloor {
        GlobalFloor { position: position.map(|lsn| at(2, lsn)), unresolved }
    }

    #[test]
    fn the_global_floor_is_settled_by_the_first_sample_after_the_last_write() {
        let cluster = cluster();
        assert_eq!(cluster.global_floor(), floor(None, None));
        let under_way = cluster.start_sample();
        cluster.wrote();
        assert_eq!(cluster.global_floor(), floor(None, Some(1)));
        // It was sent before the write was acknowledged.
        publish(&cluster, under_way, 100);
        assert_eq!(cluster.global_floor(), floor(None, Some(1)));
        let after = cluster.start_sample();
        publish(&cluster, after, 200);
        assert_eq!(cluster.global_floor(), floor(Some(200), None));
        // Later samples are of no concern to anybody who wrote before.
        let idle = cluster.start_sample();
        publish(&cluster, idle, 900);
        assert_eq!(cluster.global_floor(), floor(Some(200), None));
        cluster.wrote();
        assert_eq!(cluster.global_floor(), floor(Some(200), Some(idle)));
    }

    #[test]
    fn a_global_floor_never_sinks() {
        assert_eq!(later(None, at(2, 500)), at(2, 500));
        assert_eq!(later(Some(at(2, 500)), at(2, 400)), at(2, 500));
        assert_eq!(later(Some(at(2, 500)), at(1, 900)), at(2, 500));
        assert_eq!(later(Some(at(2, 500)), at(3, 10)), at(3, 10));
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waker_is_woken_once_by_the_next_publication() {
        let cluster = cluster();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        cluster.wake_on_change(Change::Anything, 0, &Waker::from(Arc::clone(&count)));
        publish(&cluster, 1, 100);
        publish(&cluster, 2, 100);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        cluster.wake_on_change(Change::Anything, 0, &Waker::from(Arc::clone(&count)));
        cluster.learn(|_| Vec::new());
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn who_waits_for_a_position_is_woken_by_what_may_reach_it_only() {
        let cluster = cluster();
        let woken = |change| {
            let count = Arc::new(Count(AtomicUsize::new(0)));
            cluster.wake_on_change(change, cluster.publications(), &Waker::from(Arc::clone(&count)));
            move || count.0.load(Ordering::Relaxed)
        };
        let (sample, replay) = (woken(Change::Sample(5)), woken(Change::Replay(Lsn(100))));
        publish(&cluster, 5, 100);
        cluster.learn(|_| Vec::new());
        assert_eq!((sample(), replay()), (0, 0));
        publish(&cluster, 6, 100);
        assert_eq!((sample(), replay()), (1, 0));
        // Something happened that may change what can be hoped for.
        cluster.learn(|_| vec![Event::System { system: 1 }]);
        assert_eq!((sample(), replay()), (1, 1));
    }

    #[test]
    fn what_was_published_since_is_looked_at_once_more() {
        let cluster = cluster();
        let seen = cluster.publications();
        let waker = Waker::noop();
        assert!(!cluster.wake_on_change(Change::Sample(0), seen, waker));
        publish(&cluster, 1, 100);
        assert!(cluster.wake_on_change(Change::Sample(0), seen, waker));
    }

    #[test]
    fn tickets_number_what_was_started_and_samples_what_was_answered() {
        let cluster = cluster();
        assert_eq!((cluster.ticket(), cluster.sample()), (0, None));
        let number = cluster.start_sample();
        assert_eq!((number, cluster.ticket(), cluster.sample()), (1, 1, None));
        publish(&cluster, number, 100);
        assert_eq!(cluster.sample(), Some(Sample { number: 1, position: at(2, 100) }));
    }

    #[test]
    fn demand_for_replay_lasts_a_little() {
        let cluster = cluster();
        assert!(!cluster.is_replay_wanted());
        cluster.want_replay();
        assert!(cluster.is_replay_wanted());
    }
}
