//! `pgweir demo`: a throw-away primary with two streaming replicas, pgweir in front of them as anybody would start it, and
//! a mixed load; one line a second tells where the reads go. The command line calls `run`. Nothing of it is left
//! afterwards, however it ends.

pub mod cluster;
pub mod live;
pub mod load;
pub mod scratch;
pub mod servers;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use cluster::DemoCluster;
use live::Reading;
use load::Tally;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The folder of initdb and postgres; found where packages install them.
    pub postgres: Option<PathBuf>,
    /// At least one.
    pub replicas: u16,
    /// How many clients make the load; 0 for none.
    pub clients: u16,
    /// Ends by itself after so long; otherwise at Ctrl-C.
    pub seconds: Option<u64>,
    /// Where pgweir listens; default 127.0.0.1:6432, or any free port where that is taken.
    pub listen: Option<SocketAddr>,
    /// Its side door; default 127.0.0.1:9632, likewise.
    pub admin: Option<SocketAddr>,
}

impl Default for DemoOptions {
    fn default() -> DemoOptions {
        DemoOptions { postgres: None, replicas: 2, clients: 16, seconds: None, listen: None, admin: None }
    }
}

/// A replica stands still for so long once in a while, so that one sees what pgweir makes of it.
const HOLD_EVERY: u64 = 30;
const HOLD_FROM: u64 = 12;
const HOLD_FOR: u64 = 8;

/// Runs the demo. The exit code is a failure if a client saw an error or did not see its own write.
pub async fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    println!("pgweir demo: making a primary and {} streaming replicas …", options.replicas);
    let bin = options.postgres.map_or_else(servers::postgres_bin, servers::given_bin)?;
    let cluster = DemoCluster::start(&bin, options.replicas.max(1)).await?;
    let listen = options.listen.map_or_else(|| free_address(6432), Ok)?;
    let admin = options.admin.map_or_else(|| free_address(9632), Ok)?;
    let mut proxy = start_pgweir(&cluster, listen, admin)?;
    let ended = tokio::select! {
        ended = until_ready(&mut proxy, admin) => ended,
        ended = interrupted() => ended,
    };
    ended?;
    let url = format!("postgres://demo:demo@{listen}/demo");
    introduce(&cluster, &url, admin);

    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    for client in 0..options.clients {
        clients.spawn(load::run(url.clone(), client, tally.clone()));
    }
    tokio::select! {
        shown = show(&cluster, admin, &tally, options.seconds) => shown?,
        ended = interrupted() => ended?,
        ended = proxy.wait() => bail!("pgweir ended by itself: {}", ended?),
    }
    clients.shutdown().await;
    stop(&mut proxy).await;
    summary(&tally)
}

/// The preferred port of the loopback, or any.
fn free_address(preferred: u16) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", preferred)).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    Ok(listener.context("no free port on the loopback")?.local_addr()?)
}

/// Starts this very program as a newcomer would: two addresses and three URLs. What it logs stays in the scratch.
fn start_pgweir(cluster: &DemoCluster, listen: SocketAddr, admin: SocketAddr) -> anyhow::Result<Child> {
    let log = std::fs::File::create(cluster.path().join("pgweir.log"))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    command.arg("run").arg("--listen").arg(listen.to_string()).arg("--admin").arg(admin.to_string());
    for port in &cluster.ports {
        command.arg("--node").arg(node_url(*port));
    }
    // The environment may configure another pgweir; the demo's is told everything here.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGWEIR_")) {
        command.env_remove(name);
    }
    command.current_dir(cluster.path()).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("cannot start pgweir")
}

fn node_url(port: u16) -> String {
    format!("postgres://demo:demo@127.0.0.1:{port}/demo")
}

/// Waits for /readyz.
async fn until_ready(proxy: &mut Child, admin: SocketAddr) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        if let Some(status) = proxy.try_wait()? {
            bail!("pgweir did not start: {status}");
        }
        if page(admin, "/readyz")
            .await
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"))
        {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(30) {
            bail!("pgweir was not ready within 30 s");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A page of the side door, head and body.
async fn page(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn introduce(cluster: &DemoCluster, url: &str, admin: SocketAddr) {
    println!();
    for (number, port) in cluster.ports.iter().enumerate() {
        println!("  {:9} 127.0.0.1:{port}", cluster::name(number));
    }
    println!("  try it    DATABASE_URL={url}");
    println!("            psql {url} -c 'SELECT count(*) FROM accounts'");
    println!("  look      http://{admin}/  and  http://{admin}/metrics");
    println!("  end       Ctrl-C");
    println!();
}

/// A line each second, until the time is up; now and then a replica stands still.
async fn show(cluster: &DemoCluster, admin: SocketAddr, tally: &Tally, seconds: Option<u64>) -> anyhow::Result<()> {
    // pgweir names a node by its address, where its configuration does not.
    let nodes: Vec<(String, String)> = cluster
        .ports
        .iter()
        .enumerate()
        .map(|(number, port)| (format!("127.0.0.1:{port}"), cluster::name(number)))
        .collect();
    let last = nodes.len() - 1;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let mut before = read(admin, tally).await?;
    for second in 1.. {
        ticks.tick().await;
        let now = read(admin, tally).await?;
        println!("{}", live::line(second, &before, &now, &nodes));
        before = now;
        if seconds.is_some_and(|limit| second >= limit) {
            break;
        }
        match second % HOLD_EVERY {
            HOLD_FROM => {
                println!(
                    "        replica2 stops replaying for {HOLD_FOR} s: its reads move, and nobody reads old rows"
                );
                cluster.hold(2).await?;
            }
            resumed if resumed == HOLD_FROM + HOLD_FOR => {
                println!("        {} replays again", cluster::name(last));
                cluster.let_go(last).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn read(admin: SocketAddr, tally: &Tally) -> anyhow::Result<Reading> {
    let count = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed);
    let mut reading = Reading {
        reads: count(&tally.reads),
        writes: count(&tally.writes),
        stale: count(&tally.stale),
        errors: count(&tally.errors),
        ..Reading::default()
    };
    reading.take_metrics(&page(admin, "/metrics").await.context("pgweir's /metrics does not answer")?);
    Ok(reading)
}

/// Ctrl-C, or a polite request to end.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    println!("\npgweir demo: cleaning up …");
    Ok(())
}

/// Its clients are gone, so it needs no time; killed anyway if it takes some.
async fn stop(proxy: &mut Child) {
    let _ = proxy.start_kill();
    let _ = tokio::time::timeout(Duration::from_secs(5), proxy.wait()).await;
}

fn summary(tally: &Tally) -> anyhow::Result<ExitCode> {
    let count = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed);
    let (reads, writes, stale, errors) =
        (count(&tally.reads), count(&tally.writes), count(&tally.stale), count(&tally.errors));
    println!("{reads} reads, {writes} writes, {stale} of them not read back, {errors} errors");
    Ok(if stale == 0 && errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
