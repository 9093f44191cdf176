//! The cluster's snapshot in the words of metrics and status: one translation for Prometheus and the dashboard.
//! Called at each scrape; it reads atomics and clones names, no more.

use std::sync::atomic::Ordering;

use crate::cluster::{ClusterView, Health, NodeView, Role};
use crate::metrics::{ClusterSample, NodeSample};

pub(super) fn cluster(view: &ClusterView) -> ClusterSample {
    ClusterSample {
        nodes: view.nodes.iter().map(node).collect(),
        primary: view.primary.and_then(|id| view.nodes.iter().position(|node| node.id == id)),
        timeline: view.timeline.0,
        epoch: view.epoch,
    }
}

fn node(node: &NodeView) -> NodeSample {
    NodeSample {
        name: node.name.clone(),
        role: role(node.role),
        health: health(&node.health),
        lag_seconds: node.lag.map(|lag| lag.as_secs_f64()),
        lag_bytes: node.lag_bytes,
        in_flight: node.stats.in_flight.load(Ordering::Relaxed),
        read_latency_seconds: f64::from(node.stats.latency_us.load(Ordering::Relaxed)) / 1e6,
        probes: node.stats.probes_started.load(Ordering::Relaxed),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Unknown => "unknown",
    }
}

fn health(health: &Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Lagging => "lagging",
        Health::Down(_) => "down",
        Health::Refused(_) => "refused",
    }
}

/// Why a node is out of service, in the words of the probe.
pub(super) fn trouble(health: &Health) -> Option<&str> {
    match health {
        Health::Down(why) | Health::Refused(why) => Some(why),
        Health::Lagging => Some("too far behind for reads"),
        Health::Healthy => None,
    }
}
