//! What we know about the nodes, published as an immutable snapshot. The monitor writes it; the data's way, the admin
//! side and the tests read it. Nothing here decides where a statement runs.

pub mod dial;
mod event;
pub mod handle;
pub mod health;
pub mod lag;
mod likeness;
pub mod lsn;
pub mod monitor;
pub mod probe;
pub mod roster;
pub mod sampler;

#[cfg(test)]
pub(crate) mod samples;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use handle::Cluster;
pub use lsn::{Lsn, Position, Timeline};

/// A node's index in the configuration's list of nodes; stable until a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// What a node said of itself at its last probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
    Unknown,
}

/// What somebody waits for; see [`Cluster::wake_on_change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Anything,
    /// A sample of the primary with a number above this.
    Sample(u64),
    /// A node that has replayed this, on the present timeline.
    Replay(Lsn),
}

/// Whether a node may be used, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// In use.
    Healthy,
    /// A replica over `max_lag`, until it was under `readmit_lag` for `readmit_after`.
    Lagging,
    /// No probe succeeded lately; the text is the last error.
    Down(String),
    /// Reachable, but its answers could differ from the primary's (other cluster, other settings, …).
    Refused(String),
}

/// One node in a snapshot.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    /// `host:port`, for people.
    pub name: String,
    pub role: Role,
    pub health: Health,
    pub timeline: Timeline,
    /// A replica's replay position at observation `observation`.
    pub replay: Lsn,
    /// The number of the probe that `replay` comes from; see [`NodeStats::probes_started`]. 0 before the first.
    pub observation: u64,
    /// `probes_started` just before the present control connection was opened. That connection still lives, so the server
    /// has not crashed since: what a read showed when the number was above this, the node still has.
    pub connected: u64,
    /// An upper bound of how old the replica's data was at the snapshot, by our own clock only.
    pub lag: Option<Duration>,
    pub lag_bytes: Option<u64>,
    /// The same bound at the moment when the replica answered: what compares replicas with each other, since `lag` also
    /// grows between their probes. `None` too while its answer is overdue.
    pub lag_observed: Option<Duration>,
    /// When it last answered a probe.
    pub answered: Option<Instant>,
    /// Set in the node's configuration; a heavier node takes more reads.
    pub weight: u32,
    pub stats: Arc<NodeStats>,
    /// What changes rarely.
    pub facts: Arc<NodeFacts>,
}

/// What a node said of itself beyond its position, for people and for whoever opens connections to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// `server_version`, as "15.20".
    pub version: String,
    /// `server_version_num`, as 150020; 0 before the first probe.
    pub version_num: u32,
    /// Differences from the primary that do not keep the node from reads, in words.
    pub notes: Vec<String>,
    /// Settings in which the node differs from the primary, with the primary's value: a connection to it that sets them
    /// (as startup parameters) gives the primary's answers. Never one that some role or database has set for itself.
    pub align: Vec<(String, String)>,
    /// The last failed probe, even if later ones succeeded.
    pub last_error: Option<String>,
    /// How long the last successful probe took.
    pub probe_time: Option<Duration>,
}

/// The cells of a node that change faster than snapshots do.
#[derive(Debug, Default)]
pub struct NodeStats {
    /// Statements at work on the node through us.
    pub in_flight: AtomicU32,
    /// Moving average of a read's time on the node, in microseconds.
    pub latency_us: AtomicU32,
    /// Moving average of how many of the reads that the node was to prove itself for it had to turn away, in 65,536ths.
    turned_away: AtomicU32,
    /// How many probes were *sent* so far. A server connection notes this number when it opens; an observation `n`
    /// says something about the connection only if `n >` that number (a crashed replica may come back older).
    pub probes_started: std::sync::atomic::AtomicU64,
}

impl NodeStats {
    /// The node was asked in front of a read whether it has what the read must see.
    pub fn note_proof(&self, proven: bool) {
        let old = self.turned_away.load(Ordering::Relaxed);
        self.turned_away.store(old - old / 8 + if proven { 0 } else { 1 << 13 }, Ordering::Relaxed);
    }

    /// Whether it mostly has it.
    pub fn mostly_proves(&self) -> bool {
        self.turned_away.load(Ordering::Relaxed) < 1 << 15
    }
}

/// The snapshot: read it once for each decision.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub nodes: Vec<NodeView>,
    /// The node that takes writes; `None` while there is none (failover).
    pub primary: Option<NodeId>,
    /// Of the cluster that the nodes belong to; 0 before the first probe.
    pub system: u64,
    /// The primary's.
    pub timeline: Timeline,
    /// Where `timeline` left the one before it: a position of the older timeline at or below it is still true.
    pub switch: Option<(Timeline, Lsn)>,
    /// Grows with every change of the primary or its timeline.
    pub epoch: u64,
    pub taken: Instant,
}

impl ClusterView {
    /// Somebody else than this node takes writes, or did after it: what it still acknowledges is lost.
    pub fn has_another_primary(&self, node: NodeId) -> bool {
        self.primary.is_some_and(|primary| primary != node)
            || self.node(node).is_some_and(|node| node.timeline < self.timeline)
    }

    /// Before anything was probed.
    pub fn unknown(taken: Instant) -> ClusterView {
        let timeline = Timeline::default();
        ClusterView { nodes: Vec::new(), primary: None, system: 0, timeline, switch: None, epoch: 0, taken }
    }

    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(usize::from(id.0)).filter(|node| node.id == id)
    }
}

/// The newest sample of the primary's insert position, from the sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Samples are numbered before they are sent, so that "asked after that moment" is a comparison of numbers.
    pub number: u64,
    pub position: Position,
}

/// What every session of this proxy has been promised together (level `global`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GlobalFloor {
    /// Replicas must have replayed this …
    pub position: Option<Position>,
    /// … and, if a write was acknowledged since, whatever a sample with a number above this says.
    pub unresolved: Option<u64>,
}
