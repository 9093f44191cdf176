//! What the side door sees of the running parts, as closures. Built by `proxy`.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::Proxy;
use crate::admin::AdminSources;
use crate::metrics::PoolSample;
use crate::pool::stats::PoolStats;

/// Where a reload's outcome is sent.
pub type Answer = std::sync::mpsc::Sender<Result<String, String>>;

pub(super) fn admin(proxy: &Proxy, stopped: watch::Receiver<bool>, reload: mpsc::Sender<Answer>) -> AdminSources {
    let (cluster, pools) = (Arc::clone(&proxy.cluster), Arc::clone(&proxy.pools));
    let workers = proxy.workers.handles.len();
    AdminSources {
        view: Box::new(move || cluster.view()),
        pools: Box::new(move || pools.stats().into_iter().map(sample).collect()),
        metrics: Arc::clone(&proxy.metrics),
        accepting: Box::new(move || if *stopped.borrow() { 0 } else { workers }),
        reload: Box::new(move || {
            let (answer, answered) = std::sync::mpsc::channel();
            let gone = |_| "pgweir is shutting down".to_owned();
            reload.blocking_send(answer).map_err(|_| "pgweir is shutting down".to_owned())?;
            answered.recv().map_err(gone)?
        }),
    }
}

/// Ready when the stop was spoken.
pub(super) async fn until(mut stopped: watch::Receiver<bool>) {
    // Whoever could say stop is gone: that is a stop, too.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

fn sample(stats: PoolStats) -> PoolSample {
    PoolSample {
        node: stats.node_name,
        database: stats.database,
        user: stats.user,
        in_use: stats.in_use as u64,
        idle: stats.idle as u64,
        waiting: stats.waiting as u64,
        size: stats.size as u64,
        opened: stats.counters.opened,
        failed: stats.counters.errors,
        longest_wait_seconds: stats.oldest_wait.unwrap_or_default().as_secs_f64(),
    }
}
