//! One client, from its first byte to Terminate. A worker spawns `serve` for every socket; it logs the client in and then
//! runs the loop in `run`, which does what the machine's Steps ask for. What decides is in `machine`; nothing here does.

pub mod audit;
mod checkout;
mod desk;
mod emit;
mod event;
mod forward;
mod greeting;
mod greetings;
mod here;
mod lost;
pub mod machine;
mod naming;
pub mod pins;
pub mod pipeline;
mod promote;
pub mod relay;
mod replication;
mod replies;
mod route;
mod run;
pub mod settings;
mod settle;
mod stall;
pub mod statements;
mod tally;
mod undo;
pub mod unit;
mod vacate;
mod work;

pub mod cancel;
pub mod login;
pub mod refusal;
pub mod startup;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::AsyncWriteExt;
use tracing::{debug, info};

use crate::auth::Auth;
use crate::catalog::handle::Catalogs;
use crate::cluster::Cluster;
use crate::config::{ClusterConfig, LimitsConfig, PoolConfig, PoolMode, PoolOverride, RoutingConfig};
use crate::pool::Pools;
use crate::protocol::backend;
use crate::protocol::sqlstate::ClientError;
use crate::stream::Stream;
use crate::tls::Acceptor;
use crate::worker::Worker;
use cancel::{CancelOutcome, Cancels};
use greetings::Greetings;
use machine::Rules;
use run::Session;
use startup::{Startup, StartupRequest};

/// What every session shares: handles that `proxy` built, and the parts of the configuration that a reload may change.
pub struct Shared {
    cluster: Arc<Cluster>,
    catalogs: Arc<Catalogs>,
    pools: Arc<Pools>,
    auth: ArcSwap<Auth>,
    acceptor: Option<Arc<Acceptor>>,
    cancels: Arc<Cancels>,
    /// What clients are told after the login.
    pub greetings: Greetings,
    in_force: ArcSwap<InForce>,
    sessions: AtomicU64,
}

/// What of the configuration concerns sessions. A session keeps what it started with.
pub struct Sections {
    pub routing: RoutingConfig,
    pub cluster: ClusterConfig,
    pub pool: PoolConfig,
    pub pool_overrides: Vec<PoolOverride>,
    pub limits: LimitsConfig,
}

/// A configuration, and what it means for each database and user: sessions that log in alike share it.
struct InForce {
    sections: Sections,
    /// Locked at logins only.
    rules: Mutex<HashMap<(Box<str>, Box<str>), Arc<Rules>>>,
}

/// Rules kept at most: clients may ask for databases that there are not.
const RULES_KEPT: usize = 1000;

impl InForce {
    fn new(sections: Sections) -> InForce {
        InForce { sections, rules: Mutex::default() }
    }

    fn rules(&self, database: &str, user: &str) -> Arc<Rules> {
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= RULES_KEPT {
            known.clear();
        }
        let rules = || Arc::new(self.sections.rules(database, user));
        Arc::clone(known.entry((database.into(), user.into())).or_insert_with(rules))
    }
}

impl Sections {
    fn rules(&self, database: &str, user: &str) -> Rules {
        let pool = self.pool_config(database, user);
        Rules {
            routing: self.routing.clone(),
            cluster: self.cluster.clone(),
            held_request: self.limits.held_request,
            session_statements: self.limits.session_statements,
            server_statements: pool.statements,
            auto_prepare: pool.auto_prepare,
            checkout_timeout: pool.checkout_timeout,
            session_pooling: pool.mode == PoolMode::Session,
            user: user.into(),
        }
    }

    /// The pool settings of this database and user: the first exception that matches, or the rule.
    fn pool_config(&self, database: &str, user: &str) -> &PoolConfig {
        let matches = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        self.pool_overrides
            .iter()
            .find(|entry| matches(&entry.database, database) && matches(&entry.user, user))
            .map_or(&self.pool, |entry| &entry.pool)
    }
}

impl Shared {
    pub fn new(
        sections: Sections,
        cluster: Arc<Cluster>,
        catalogs: Arc<Catalogs>,
        pools: Arc<Pools>,
        auth: Arc<Auth>,
        acceptor: Option<Arc<Acceptor>>,
        cancels: Arc<Cancels>,
    ) -> Shared {
        Shared {
            cluster,
            catalogs,
            pools,
            auth: ArcSwap::new(auth),
            acceptor,
            cancels,
            greetings: Greetings::default(),
            in_force: ArcSwap::from_pointee(InForce::new(sections)),
            sessions: AtomicU64::new(1),
        }
    }

    /// For sessions that begin from now on.
    pub fn reconfigure(&self, sections: Sections, auth: Arc<Auth>) {
        self.in_force.store(Arc::new(InForce::new(sections)));
        self.auth.store(auth);
    }

    fn rules(&self, database: &str, user: &str) -> Arc<Rules> {
        self.in_force.load().rules(database, user)
    }

    /// What new sessions begin with became another.
    pub fn outdate(&self) {
        self.greetings.forget();
        self.pools.outdate();
    }

    /// A client has server processes ended. Those that are idle are heard within the moments that it takes, and sessions
    /// whose own they are end with them.
    fn look_for_ends(self: &Arc<Self>, worker: &Rc<Worker>) {
        self.cancels.start_looking();
        let (shared, looking) = (Arc::clone(self), Rc::clone(worker));
        worker.spawn(async move {
            for pause in ENDS_ARE_HEARD_AFTER {
                looking.timers.sleep_until(Instant::now() + Duration::from_millis(pause)).await;
                shared.pools.stir();
            }
            shared.cancels.stop_looking();
        });
    }

    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }
}

/// Milliseconds, one after the other: a process ends within one or two, and the statement may have to wait for its turn.
const ENDS_ARE_HEARD_AFTER: [u64; 7] = [3, 5, 10, 20, 50, 100, 300];

/// One accepted socket. Never fails: what goes wrong is told to the client and counted.
pub fn serve(worker: Rc<Worker>, shared: Arc<Shared>, stream: Stream, peer: String) -> impl Future<Output = ()> {
    // In a box that is dropped afterwards: ten thousand idle sessions must not keep the room that their logins took.
    let admission = Box::pin(admit(Rc::clone(&worker), shared, stream, peer));
    async move {
        worker.metrics.client_opened();
        if let Some(session) = admission.await {
            session.run().await;
        }
        worker.metrics.client_closed();
    }
}

/// Everything up to a session that was greeted. `None`: the connection was for something else, or did not come so far.
async fn admit(worker: Rc<Worker>, shared: Arc<Shared>, stream: Stream, peer: String) -> Option<Box<Session>> {
    let (worker, shared, peer) = (&worker, &shared, peer.as_str());
    let patience = shared.in_force.load().sections.limits.login_timeout;
    let startup = tokio::time::timeout(patience, startup::negotiate(stream, shared.acceptor.as_deref())).await;
    match startup.ok() {
        Some(Ok(Startup::Session { stream, request })) => {
            return open_session(worker, shared, stream, request, peer).await;
        }
        Some(Ok(Startup::Cancel { mut stream, key })) => {
            match shared.cancels.cancel(key.pid, &key.secret).await {
                CancelOutcome::Delivered => worker.metrics.cancel_delivered(),
                _ => worker.metrics.cancel_ignored(),
            }
            // Only now: a driver that waits for the end knows that its next statement is safe. In TLS it waits for a proper
            // end; one that is gone needs none.
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
        }
        Some(Ok(Startup::Closed)) => debug!(peer, "closed before startup"),
        Some(Err(error)) => {
            worker.metrics.login_failed();
            debug!(peer, %error, "startup failed");
        }
        None => {
            worker.metrics.login_failed();
            info!(peer, "client did not log in within login_timeout");
        }
    }
    None
}

async fn open_session(
    worker: &Rc<Worker>,
    shared: &Arc<Shared>,
    mut stream: Stream,
    request: StartupRequest,
    peer: &str,
) -> Option<Box<Session>> {
    let patience = shared.in_force.load().sections.limits.login_timeout;
    let auth = shared.auth.load_full();
    let login = login::authenticate(&mut stream, &request, &auth);
    let credentials = match tokio::time::timeout(patience, login).await.ok() {
        Some(Ok(credentials)) => credentials,
        // psql leaves so when it must first ask its user for the password: that is no failure.
        Some(Err(login::LoginError::Closed)) => {
            debug!(peer, user = request.user, "the client left before it had logged in");
            return None;
        }
        Some(Err(error)) => {
            worker.metrics.login_failed();
            info!(peer, user = request.user, database = request.database, %error, "login failed");
            return None;
        }
        None => {
            worker.metrics.login_failed();
            info!(peer, user = request.user, "client did not log in within login_timeout");
            return None;
        }
    };
    if request.replication.is_some() {
        replication::serve(worker, shared, stream, &request, &credentials).await;
        return None;
    }
    match Session::open(worker, shared, stream, peer, &request, credentials).await {
        Ok(session) => {
            debug!(session = session.id(), peer, user = request.user, database = request.database, "session opened");
            Some(session)
        }
        Err(mut refused) => {
            worker.metrics.login_failed();
            info!(peer, user = request.user, database = request.database, error = refused.why, "session refused");
            refused.tell().await;
            None
        }
    }
}

/// The client was let in but cannot be served; it gets these last words.
struct Refusal {
    stream: Stream,
    last_words: Vec<u8>,
    why: String,
}

impl Refusal {
    fn new(stream: Stream, error: &ClientError) -> Refusal {
        let mut last_words = Vec::new();
        backend::put_error(&mut last_words, &ClientError { severity: "FATAL", ..error.clone() });
        Refusal { stream, last_words, why: error.message.clone() }
    }

    /// In a node's own words.
    fn quoting(stream: Stream, body: &[u8]) -> Refusal {
        let mut last_words = Vec::new();
        crate::protocol::frontend::message(&mut last_words, b'E', |out| out.extend_from_slice(body));
        let why = String::from_utf8_lossy(backend::error_field(body, b'M').unwrap_or_default()).into_owned();
        Refusal { stream, last_words, why }
    }

    async fn tell(&mut self) {
        // The client may be gone already; then nobody is left to be told.
        let told = tokio::time::timeout(Duration::from_secs(1), async {
            self.stream.write_all(&self.last_words).await?;
            self.stream.shutdown().await
        });
        drop(told.await);
    }
}
