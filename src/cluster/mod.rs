//! What we know about the nodes, published as an immutable snapshot. The monitor writes it; the data's way, the admin
//! side and the tests read it. Nothing here decides where a statement runs.

pub mod lsn;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

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
    /// An upper bound of how old the replica's data was at the snapshot, by our own clock only.
    pub lag: Option<Duration>,
    pub lag_bytes: Option<u64>,
    /// Set in the node's configuration; a heavier node takes more reads.
    pub weight: u32,
    pub stats: Arc<NodeStats>,
}

/// The cells of a node that change faster than snapshots do.
#[derive(Debug, Default)]
pub struct NodeStats {
    /// Statements at work on the node through us.
    pub in_flight: AtomicU32,
    /// Moving average of a read's time on the node, in microseconds.
    pub latency_us: AtomicU32,
    /// How many probes were *sent* so far. A server connection notes this number when it opens; an observation `n`
    /// says something about the connection only if `n >` that number (a crashed replica may come back older).
    pub probes_started: std::sync::atomic::AtomicU64,
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
