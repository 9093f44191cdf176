//! Server connections: one pool for each (node, database, user), shared by all workers. Sessions look their pools up at
//! login and check out from them; `proxy` tells them roles, reloads and the end; the admin side reads their stats.
//!
//! Read `checkout` (the pool), then `queue` (who is served next), then `lease`. The map of pools is behind a mutex that
//! no query touches.

mod backoff;
mod checkout;
pub mod connection;
pub mod error;
mod home;
mod idle;
mod lease;
mod ledger;
pub mod login;
mod queue;
pub mod state;
pub mod stats;
pub mod sync;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::auth::Credentials;
use crate::cluster::{NodeId, Role};
use crate::config::{PoolConfig, PoolOverride};
use crate::worker::Worker;

pub use checkout::{Checkout, Pool};
pub use connection::{ConnectionId, Endpoint, Secure, ServerConnection};
pub use error::CheckoutError;
pub use home::Home;
pub use lease::{Lease, Waiter};

/// What all pools share.
pub(crate) struct Shared {
    workers: usize,
    /// The next connection's id.
    connections: AtomicU64,
    /// Called without any lock when a node did not answer or is not what it should be.
    report_failure: Box<dyn Fn(NodeId) + Send + Sync>,
    /// Called without any lock when an administrator ended the process of an idle home, with its last words.
    report_end: Box<ReportEnd>,
    /// Housekeeping is to look now.
    stir: Notify,
    /// Sent in each StartupMessage beside user and database.
    parameters: Vec<(String, String)>,
}

type ReportEnd = dyn Fn(&ServerConnection, &[u8]) + Send + Sync;

/// All pools.
pub struct Pools {
    shared: Arc<Shared>,
    map: Mutex<Map>,
}

struct Map {
    /// By `NodeId`.
    endpoints: Vec<Node>,
    pools: HashMap<(NodeId, String, String), Arc<Pool>>,
    config: PoolConfig,
    overrides: Vec<PoolOverride>,
}

/// What is known of a node.
struct Node {
    endpoint: Arc<Endpoint>,
    role: Role,
    align: Align,
}

/// Settings in which a replica differs from the primary, with the primary's values: connections to it start with them.
pub(crate) type Align = Arc<[(String, String)]>;

impl Pools {
    /// `endpoints` in the order of their `NodeId`s, `workers` the number of workers. `report_failure` should have the
    /// cluster's monitor look at the node at once. `report_end` is told when an administrator ended the process of an idle
    /// home; the bytes are its ErrorResponse's body.
    pub fn new(
        endpoints: Vec<Endpoint>,
        workers: usize,
        (config, overrides): (PoolConfig, Vec<PoolOverride>),
        report_failure: impl Fn(NodeId) + Send + Sync + 'static,
        report_end: impl Fn(&ServerConnection, &[u8]) + Send + Sync + 'static,
    ) -> Arc<Pools> {
        let endpoints = endpoints.into_iter();
        let endpoints = endpoints
            .map(|endpoint| Node { endpoint: Arc::new(endpoint), role: Role::Unknown, align: Align::default() })
            .collect();
        let shared = Shared {
            workers: workers.max(1),
            connections: AtomicU64::new(1),
            report_failure: Box::new(report_failure),
            report_end: Box::new(report_end),
            stir: Notify::new(),
            parameters: Vec::new(),
        };
        let map = Map { endpoints, pools: HashMap::new(), config, overrides };
        Arc::new(Pools { shared: Arc::new(shared), map: Mutex::new(map) })
    }

    /// All workers look at their idle connections now.
    pub fn stir(&self) {
        self.shared.stir.notify_waiters();
    }

    /// The pool of a user who has just logged in; made on first use. Called at login, not per query.
    pub fn pool(&self, node: NodeId, database: &str, user: &str, credentials: &Credentials) -> Arc<Pool> {
        let mut map = self.map();
        let key = (node, database.to_owned(), user.to_owned());
        if let Some(pool) = map.pools.get(&key) {
            let pool = Arc::clone(pool);
            drop(map);
            pool.renew(credentials);
            return pool;
        }
        let Node { endpoint, role, align } = &map.endpoints[usize::from(node.0)];
        let config = map.config_of(database, user);
        let names = (Arc::clone(endpoint), database, user);
        let known = (credentials.clone(), *role, Arc::clone(align));
        let pool = Pool::new(names, known, config, Arc::clone(&self.shared));
        map.pools.insert(key, Arc::clone(&pool));
        pool
    }

    /// How to reach a node, for a connection that is no pool's.
    pub fn endpoint(&self, node: NodeId) -> Arc<Endpoint> {
        Arc::clone(&self.map().endpoints[usize::from(node.0)].endpoint)
    }

    /// To be called for each node whenever a view is published. A role that is unknown for the moment changes nothing.
    pub fn set_role(&self, node: NodeId, role: Role) {
        if role == Role::Unknown {
            return;
        }
        let mut map = self.map();
        if let Some(kept) = map.endpoints.get_mut(usize::from(node.0)) {
            kept.role = role;
        }
        drop(map);
        self.each(|pool| pool.node == node, |pool| pool.set_role(role));
    }

    /// To be called for each node whenever a view is published. Connections that were opened with other settings are
    /// given up, so that no read sees the difference for longer than it must.
    pub fn set_align(&self, node: NodeId, align: &[(String, String)]) {
        let mut map = self.map();
        let Some(kept) = map.endpoints.get_mut(usize::from(node.0)).filter(|kept| *kept.align != *align) else {
            return;
        };
        kept.align = align.into();
        let align = Arc::clone(&kept.align);
        drop(map);
        self.each(|pool| pool.node == node, |pool| pool.set_align(&align));
    }

    /// Gives up all connections to a node: the idle ones now, the others at release.
    pub fn retire(&self, node: NodeId) {
        self.each(|pool| pool.node == node, |pool| pool.retire());
    }

    /// Gives up all connections to a database.
    pub fn retire_database(&self, database: &str) {
        self.each(|pool| pool.database == database, |pool| pool.retire());
    }

    /// ALTER ROLE … SET or ALTER DATABASE … SET: sessions go on with the connections that they have, and nobody who comes
    /// from now on is given one that began with the settings of before.
    pub fn outdate(&self) {
        self.each(|_| true, |pool| pool.outdate());
    }

    /// A reload: sizes and times hold from now on; connections above a smaller size are closed at release.
    pub fn reconfigure(&self, config: PoolConfig, overrides: Vec<PoolOverride>) {
        let mut map = self.map();
        (map.config, map.overrides) = (config, overrides);
        for pool in map.pools.values() {
            pool.reconfigure(map.config_of(&pool.database, &pool.user));
        }
    }

    /// No more checkouts; idle connections are closed, and those in use at release.
    pub fn close(&self) {
        self.each(|_| true, |pool| pool.close());
    }

    pub fn stats(&self) -> Vec<stats::PoolStats> {
        let mut all: Vec<_> = self.list().iter().map(|pool| pool.stats()).collect();
        all.sort_by(|a, b| (&a.database, &a.user, a.node).cmp(&(&b.database, &b.user, b.node)));
        all
    }

    /// One look at each pool's connections of this worker.
    pub fn tick(&self, worker: &Rc<Worker>, now: Instant) {
        worker.set_coarse_now(now);
        for pool in self.list() {
            pool.tick(worker, now);
        }
    }

    fn each(&self, meant: impl Fn(&Pool) -> bool, act: impl Fn(&Pool)) {
        self.list().iter().filter(|pool| meant(pool)).for_each(|pool| act(pool));
    }

    fn list(&self) -> Vec<Arc<Pool>> {
        self.map().pools.values().cloned().collect()
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Map {
    fn config_of(&self, database: &str, user: &str) -> PoolConfig {
        let matches = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let exception = self.overrides.iter().find(|o| matches(&o.database, database) && matches(&o.user, user));
        exception.map_or(&self.config, |exception| &exception.pool).clone()
    }
}

/// Between housekeeping ticks.
pub const TICK: Duration = Duration::from_secs(1);

/// Runs on each worker as long as it lives: idle and old connections, `min_idle`, the coarse clock.
pub async fn housekeeping(pools: Arc<Pools>, worker: Rc<Worker>) {
    loop {
        tokio::select! {
            () = worker.timers.sleep_until(Instant::now() + TICK) => {}
            () = pools.shared.stir.notified() => {}
        }
        pools.tick(&worker, Instant::now());
    }
}
