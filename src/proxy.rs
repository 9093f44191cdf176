//! Assembly: builds every part, starts workers and side loops, owns reload and shutdown. The one place that knows them all;
//! nothing imports it but the command line.

mod control;
mod follow;
mod sources;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::http::Admin;
use crate::auth::{self, Auth};
use crate::catalog::handle::Catalogs;
use crate::cluster::handle::Watch;
use crate::cluster::{self, Cluster};
use crate::config::{Config, ConfigSource};
use crate::listener::{Door, Listener};
use crate::metrics::Metrics;
use crate::pool::{self, Endpoint, Pools};
use crate::session::cancel::Cancels;
use crate::session::{self, Sections, Shared};
use crate::sql::cache::VerdictCache;
use crate::tls::{Acceptor, Connector};
use crate::worker::{Fittings, Workers};
use control::{Catalogued, SecureDial, Secured};
use follow::Follower;

/// Everything that runs, and what a reload may change.
struct Proxy {
    config: Config,
    source: ConfigSource,
    cluster: Arc<Cluster>,
    pools: Arc<Pools>,
    metrics: Arc<Metrics>,
    acceptor: Option<Arc<Acceptor>>,
    shared: Arc<Shared>,
    workers: Workers,
    door: Arc<Door>,
    primary: auth::Primary,
}

/// Runs until a signal asks for the end (TERM and INT: sessions may finish their transactions; a second one: now).
pub async fn run(config: Config, source: ConfigSource) -> anyhow::Result<()> {
    let listener = Listener::bind(&config.listen)?;
    let admin = match config.admin.address {
        Some(address) => Some(Admin::bind(address).await?),
        None => None,
    };
    let proxy = build(config, source)?;
    let (stop, stopped) = watch::channel(false);
    for address in listener.addresses() {
        info!(%address, nodes = proxy.config.nodes.len(), "listening for clients");
    }
    let patience = proxy.config.limits.shutdown_timeout;
    let (reload, mut reloads) = tokio::sync::mpsc::channel(1);
    let accepting = tokio::spawn(listener.run(Arc::clone(&proxy.door), stopped.clone()));
    let admin = admin.map(|admin| {
        let sources = sources::admin(&proxy, stopped.clone(), reload);
        tokio::spawn(admin.serve(sources, sources::until(stopped)))
    });
    let mut proxy = proxy;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => drop(proxy.reload()),
            Some(answer) = reloads.recv() => {
                let answer: std::sync::mpsc::Sender<Result<String, String>> = answer;
                // Whoever asked may have gone.
                let _ = answer.send(proxy.reload());
            }
        }
    }
    info!("shutting down: sessions may finish their transactions");
    // Receivers that are gone need no telling.
    let _ = stop.send(true);
    proxy.workers.drain(patience);
    drop(accepting.await);
    let workers = proxy.workers;
    let joined = tokio::task::spawn_blocking(move || workers.join());
    tokio::select! {
        _ = joined => {}
        _ = terminate.recv() => warn!("told twice: ending at once"),
        _ = interrupt.recv() => warn!("told twice: ending at once"),
    }
    proxy.pools.close();
    if let Some(admin) = admin {
        admin.abort();
    }
    Ok(())
}

/// Builds every part; nothing runs before all of them are there.
fn build(config: Config, source: ConfigSource) -> anyhow::Result<Proxy> {
    let control = tokio::runtime::Handle::current();
    let connectors = connectors(&config)?;
    let names: Vec<String> = config.nodes.iter().map(|node| node.name.clone()).collect();
    let metrics = Metrics::new(names);
    let dial = Arc::new(SecureDial::new(&config.nodes, &connectors));
    let cluster = Cluster::new(config.nodes.clone(), config.cluster.clone(), dial);
    let catalogued = Arc::new(Catalogued::new(Arc::clone(&cluster)));
    let catalogs = Catalogs::new(catalogued, config.routing.clone(), crate::sql::proof::catalog, control.clone());
    let primary = auth::Primary { find: control::find_primary(&cluster, &connectors), control };
    let auth = warmed(Auth::new(&config.auth, config.databases.clone(), Some(primary.clone()))?);
    let acceptor = Acceptor::new(&config.client_tls)?.map(Arc::new);
    let failures = Arc::clone(&cluster);
    let cancels = Cancels::new();
    let ends = Arc::clone(&cancels);
    let pools = Pools::new(
        endpoints(&config, &connectors, &cluster),
        config.listen.workers,
        (config.pool.clone(), config.pool_overrides.clone()),
        move |node| failures.report_failure(node),
        move |connection, words| ends.end(connection.pid(), connection.id.0, words),
    );
    let shared = Arc::new(Shared::new(
        sections(&config),
        Arc::clone(&cluster),
        Arc::clone(&catalogs),
        Arc::clone(&pools),
        auth,
        acceptor.clone(),
        cancels,
    ));
    let workers = start_workers(&config, &metrics, &pools, &shared, &cluster)?;
    let door = Door::new(workers.handles.clone(), config.limits.clients);
    tokio::spawn(cluster::monitor::run(Arc::clone(&cluster)));
    let follower = Follower {
        cluster: Arc::clone(&cluster),
        pools: Arc::clone(&pools),
        shared: Arc::clone(&shared),
        catalogs,
        door: Arc::clone(&door),
        metrics: Arc::clone(&metrics),
    };
    tokio::spawn(follower.run());
    Ok(Proxy { config, source, cluster, pools, metrics, acceptor, shared, workers, door, primary })
}

/// Deriving keys from the listed passwords takes milliseconds each: nobody's first login should pay for it.
fn warmed(auth: Auth) -> Arc<Auth> {
    let auth = Arc::new(auth);
    let warming = Arc::clone(&auth);
    tokio::spawn(async move { warming.warm_up().await });
    auth
}

fn endpoints(config: &Config, connectors: &[Connector], cluster: &Cluster) -> Vec<Endpoint> {
    let view = cluster.view();
    let nodes = config.nodes.iter().zip(connectors).zip(&view.nodes);
    nodes
        .map(|((node, connector), seen)| Endpoint {
            id: seen.id,
            name: node.name.clone(),
            host: node.host.clone(),
            port: node.port,
            tls: Some(Arc::new(Secured(connector.clone())) as Arc<dyn pool::Secure>),
            stats: Arc::clone(&seen.stats),
        })
        .collect()
}

fn start_workers(
    config: &Config,
    metrics: &Arc<Metrics>,
    pools: &Arc<Pools>,
    shared: &Arc<Shared>,
    cluster: &Arc<Cluster>,
) -> anyhow::Result<Workers> {
    let (cells, limits) = (Arc::clone(metrics), config.limits.clone());
    let watched = Arc::clone(cluster);
    let fit = move || Fittings {
        metrics: cells.worker(),
        verdicts: VerdictCache::new(limits.verdict_cache, limits.parsed_statement),
        cluster: Watch::new(&watched),
    };
    let housekeeping = Arc::clone(pools);
    let begin = move |worker: &Rc<_>| {
        tokio::task::spawn_local(follow::count_verdicts(Rc::clone(worker)));
        tokio::task::spawn_local(pool::housekeeping(Arc::clone(&housekeeping), Rc::clone(worker)));
    };
    let shared = Arc::clone(shared);
    let serve = move |worker, stream, peer| session::serve(worker, Arc::clone(&shared), stream, peer);
    Ok(Workers::start(config.listen.workers, fit, begin, serve)?)
}

impl Proxy {
    /// Reads the configuration again and applies what can change while running. An error leaves everything as it was.
    fn reload(&mut self) -> Result<String, String> {
        let new = match self.source.load() {
            Ok(new) => new,
            Err(error) => {
                self.metrics.side().config_refused();
                warn!(%error, "the new configuration is refused, the old one stays in force");
                return Err(error.to_string());
            }
        };
        if let Some(acceptor) = &self.acceptor
            && let Err(error) = acceptor.reload(&new.client_tls)
        {
            self.metrics.side().config_refused();
            warn!(%error, "the new certificate is refused, the old configuration stays in force");
            return Err(error.to_string());
        }
        let mut later = self.config.restart_needed(&new);
        if self.config.nodes != new.nodes {
            later.push("nodes");
        }
        self.pools.reconfigure(new.pool.clone(), new.pool_overrides.clone());
        let auth = match Auth::new(&new.auth, new.databases.clone(), Some(self.primary.clone())) {
            Ok(auth) => auth,
            Err(error) => return Err(error.to_string()),
        };
        self.shared.reconfigure(sections(&new), warmed(auth));
        self.door.limit.store(new.limits.clients, Ordering::Relaxed);
        self.metrics.side().config_reloaded();
        let said = match later.as_slice() {
            [] => "the configuration was reloaded".to_owned(),
            keys => format!("the configuration was reloaded; these need a restart: {}", keys.join(", ")),
        };
        info!("{said}");
        self.config = new;
        Ok(said)
    }
}

/// Control connections for commands that run no proxy.
pub fn dial(config: &Config) -> anyhow::Result<Arc<dyn cluster::dial::Dial>> {
    let connectors = connectors(config)?;
    Ok(Arc::new(SecureDial::new(&config.nodes, &connectors)))
}

fn connectors(config: &Config) -> anyhow::Result<Vec<Connector>> {
    let of_node = |node: &crate::config::NodeConfig| {
        Connector::new(&node.tls, &node.host).with_context(|| format!("node {}", node.name))
    };
    config.nodes.iter().map(of_node).collect()
}

/// What sessions see of the configuration.
fn sections(config: &Config) -> Sections {
    Sections {
        routing: config.routing.clone(),
        cluster: config.cluster.clone(),
        pool: config.pool.clone(),
        pool_overrides: config.pool_overrides.clone(),
        limits: config.limits.clone(),
    }
}
