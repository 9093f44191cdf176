//! Pure: what other parts know and a scrape wants to see, as plain values. `admin` fills them from the cluster's
//! snapshot and the pools at the moment of a scrape; `export` and the dashboard print them.

/// One node at the moment of a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSample {
    pub name: String,
    /// `primary`, `replica` or `unknown`.
    pub role: &'static str,
    /// `healthy`, `lagging`, `down` or `refused`.
    pub health: &'static str,
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<u64>,
    pub in_flight: u32,
    pub read_latency_seconds: f64,
    pub probes: u64,
}

/// The cluster at the moment of a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSample {
    pub nodes: Vec<NodeSample>,
    /// The index of the node that takes writes.
    pub primary: Option<usize>,
    pub timeline: u32,
    /// Grows with every change of the primary.
    pub epoch: u64,
}

/// One pool at the moment of a scrape: a node, a database and a user.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct PoolSample {
    /// The node's name.
    pub node: String,
    pub database: String,
    pub user: String,
    /// Server connections at work for a session.
    pub in_use: u64,
    pub idle: u64,
    /// Sessions in the queue.
    pub waiting: u64,
    /// The limit of `in_use + idle`.
    pub size: u64,
    /// Server connections that were opened, and that could not be opened, since the start.
    pub opened: u64,
    pub failed: u64,
    /// Seconds that the session at the head of the queue has waited.
    pub longest_wait_seconds: f64,
}
