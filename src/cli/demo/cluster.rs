//! The demo's own primary and streaming replicas, made with initdb and pg_basebackup in a scratch directory on free
//! ports of the loopback. Only `pgweir demo` uses it; the tests copy a template instead. It must leave nothing behind.

use std::fs::{self, DirBuilder, File};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, process};

use anyhow::{Context as _, bail};
use tokio_postgres::{Client, NoTls};

use super::scratch::Scratch;
use super::servers::{ServerUser, run_to_end};

/// Small, quick, and with nothing to lose: the data goes when the demo ends.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
wal_level = replica
hot_standby = on
max_wal_senders = 5
wal_keep_size = 128MB
wal_receiver_status_interval = 1s
fsync = off
full_page_writes = off
log_min_messages = warning
";

const PATIENCE: Duration = Duration::from_secs(60);

/// What the load reads and writes; the demo's user owns it.
const TABLES: [&str; 5] = [
    "CREATE ROLE demo LOGIN PASSWORD 'demo' IN ROLE pg_monitor",
    "CREATE DATABASE demo OWNER demo",
    "CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL)",
    "INSERT INTO accounts SELECT i, 'owner ' || i, 0 FROM generate_series(1, 10000) i",
    "ALTER TABLE accounts OWNER TO demo",
];

/// A running primary and its replicas.
pub struct DemoCluster {
    /// The primary's, then the replicas'.
    pub ports: Vec<u16>,
    /// The superuser's, for this demo only: the loopback is shared with everyone on the machine.
    password: String,
    scratch: Scratch,
}

impl DemoCluster {
    /// Makes and starts them all with the programs in `bin`; takes some seconds.
    pub async fn start(bin: &Path, replicas: u16) -> anyhow::Result<DemoCluster> {
        let user = ServerUser::find()?;
        let ports = free_ports(usize::from(replicas) + 1)?;
        let scratch = Scratch::new(env::temp_dir().join(format!("pgweir-demo-{}", process::id())))
            .context("cannot make a directory for the demo's servers")?;
        let cluster = DemoCluster { ports, password: random_password()?, scratch };
        let workshop = Workshop { bin, user: &user, cluster: &cluster };

        let mut server = workshop.make_primary()?;
        let primary = cluster.wait_for(0, &mut server, "postgres").await?;
        for statement in &TABLES[..2] {
            primary.batch_execute(statement).await?;
        }
        cluster.connect(0, "demo").await?.batch_execute(&TABLES[2..].join(";\n")).await?;
        for number in 1..cluster.ports.len() {
            let mut server = workshop.make_replica(number)?;
            cluster.wait_for(number, &mut server, "demo").await?;
        }
        Ok(cluster)
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// A superuser's session on one of the servers.
    async fn connect(&self, number: usize, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.ports[number]).user("postgres").password(&self.password).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        // The connection's error reaches the client's calls too.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Likewise, once a server that was just started takes sessions.
    async fn wait_for(&self, number: usize, server: &mut Child, database: &str) -> anyhow::Result<Client> {
        let started = Instant::now();
        loop {
            let error = match self.connect(number, database).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            if server.try_wait()?.is_some() || started.elapsed() > PATIENCE {
                bail!("{} does not start: {error}\n{}", name(number), self.last_words(number));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn last_words(&self, number: usize) -> String {
        let log = fs::read_to_string(self.scratch.path().join(format!("{}.log", name(number)))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// A replica replays nothing more, so that it lags.
    pub async fn hold(&self, number: usize) -> anyhow::Result<()> {
        Ok(self.connect(number, "postgres").await?.batch_execute("SELECT pg_wal_replay_pause()").await?)
    }

    pub async fn let_go(&self, number: usize) -> anyhow::Result<()> {
        Ok(self.connect(number, "postgres").await?.batch_execute("SELECT pg_wal_replay_resume()").await?)
    }
}

/// Server 0 is the primary.
pub fn name(number: usize) -> String {
    if number == 0 { "primary".to_string() } else { format!("replica{number}") }
}

/// The programs, and for whom they work.
struct Workshop<'a> {
    bin: &'a Path,
    user: &'a ServerUser,
    cluster: &'a DemoCluster,
}

impl Workshop<'_> {
    fn directory(&self, number: usize) -> PathBuf {
        self.cluster.path().join(name(number))
    }

    /// An empty directory that the servers' user owns.
    fn make_directory(&self, number: usize) -> anyhow::Result<PathBuf> {
        let dir = self.directory(number);
        // PostgreSQL refuses a data directory that others may look into.
        DirBuilder::new().mode(0o700).create(&dir)?;
        self.user.give(&dir)?;
        Ok(dir)
    }

    fn make_primary(&self) -> anyhow::Result<Child> {
        let dir = self.make_directory(0)?;
        let secret = self.cluster.path().join("password");
        fs::write(&secret, &self.cluster.password)?;
        self.user.give(&secret)?;
        let mut initdb = self.user.command(&self.bin.join("initdb"));
        initdb.arg("-D").arg(&dir).arg("--pwfile").arg(&secret);
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run_to_end(initdb.current_dir("/"))?;
        fs::remove_file(&secret)?;
        let conf = dir.join("postgresql.conf");
        fs::write(&conf, fs::read_to_string(&conf)? + SETTINGS)?;
        self.start(0)
    }

    /// A physical copy of the running primary. The connection to it is written by hand: what `-R` writes depends on the
    /// version of the tool, and an older server may not understand it.
    fn make_replica(&self, number: usize) -> anyhow::Result<Child> {
        let dir = self.make_directory(number)?;
        let port = self.cluster.ports[0];
        let mut backup = self.user.command(&self.bin.join("pg_basebackup"));
        backup.arg("-D").arg(&dir).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres"]);
        backup.args(["-X", "stream", "-c", "fast", "--no-sync"]).env("PGPASSWORD", &self.cluster.password);
        run_to_end(backup.current_dir("/"))?;
        let conninfo = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres password={} application_name={}'\n",
            self.cluster.password,
            name(number)
        );
        let conf = dir.join("postgresql.auto.conf");
        fs::write(&conf, fs::read_to_string(&conf)? + &conninfo)?;
        fs::write(dir.join("standby.signal"), "")?;
        self.user.give(&dir.join("standby.signal"))?;
        self.start(number)
    }

    /// Starts a server; the scratch's reaper ends it.
    fn start(&self, number: usize) -> anyhow::Result<Child> {
        let dir = self.directory(number);
        let log = File::create(self.cluster.path().join(format!("{}.log", name(number))))?;
        let mut command: Command = self.user.command(&self.bin.join("postgres"));
        command.arg("-D").arg(&dir).args(["-p", &self.cluster.ports[number].to_string()]).current_dir(&dir);
        // Ctrl-C is for us; the servers stop when we are done with them.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {}", name(number)))
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    // All are held until the last is found, so that none is found twice.
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
    let held = held.context("no free port on the loopback")?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn random_password() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
