//! Small views for the tables of routing and cluster tests; compiled for tests only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ClusterView, Health, Lsn, NodeFacts, NodeId, NodeStats, NodeView, Position, Role, Timeline};

/// The system identifier of every sample.
pub const SYSTEM: u64 = 7;

pub fn at(timeline: u32, lsn: u64) -> Position {
    Position { system: SYSTEM, timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

fn node(id: u16, role: Role, replay: u64) -> NodeView {
    NodeView {
        id: NodeId(id),
        name: format!("node{id}:5432"),
        role,
        health: Health::Healthy,
        timeline: Timeline(2),
        replay: Lsn(replay),
        observation: 100,
        connected: 0,
        lag: Some(Duration::from_millis(10)),
        lag_bytes: Some(0),
        lag_observed: Some(Duration::from_millis(10)),
        answered: None,
        weight: 1,
        stats: Arc::new(NodeStats::default()),
        facts: Arc::new(NodeFacts::default()),
    }
}

pub fn replica(id: u16, replay: u64) -> NodeView {
    node(id, Role::Replica, replay)
}

/// Node 0 is a primary on timeline 2, which left timeline 1 at 300; `replicas` follow as nodes 1, 2, …
pub fn view(replicas: Vec<NodeView>) -> ClusterView {
    let mut nodes = vec![node(0, Role::Primary, 0)];
    nodes.extend(replicas);
    ClusterView {
        nodes,
        primary: Some(NodeId(0)),
        system: SYSTEM,
        timeline: Timeline(2),
        switch: Some((Timeline(1), Lsn(300))),
        epoch: 1,
        taken: Instant::now(),
    }
}
