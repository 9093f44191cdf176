//! The side door: what operators, Prometheus and Kubernetes see of a running pgweir. `proxy` builds `AdminSources` and
//! runs `http::Admin` on the control runtime. This module reads snapshots that others publish; nothing reads it, and
//! nothing here is on the data's way.

pub mod http;
pub mod log;
mod sample;
mod status;

use std::sync::Arc;

use crate::cluster::ClusterView;
use crate::metrics::{Metrics, PoolSample};

/// Everything that the side door can see or ask for, as closures, so that it holds no part of the proxy itself.
pub struct AdminSources {
    pub view: Box<dyn Fn() -> Arc<ClusterView> + Send + Sync>,
    pub pools: Box<dyn Fn() -> Vec<PoolSample> + Send + Sync>,
    pub metrics: Arc<Metrics>,
    /// How many workers accept clients now; 0 before the start is complete and during shutdown.
    pub accepting: Box<dyn Fn() -> usize + Send + Sync>,
    /// Reads the configuration again: what changed, or why the old one stays in force. It may block.
    pub reload: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
}
