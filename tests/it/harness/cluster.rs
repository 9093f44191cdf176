//! A real primary and two streaming replicas, copied from the template and started in a second or two. Tests stop, kill,
//! freeze and promote the nodes, and hold back a replica's replay. Nothing here knows pgweir.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use pgweir::cli::demo::servers::{ServerUser, postgres_bin, run_to_end};
use tokio_postgres::{Client, NoTls};

use super::scratch::{Scratch, free_port};
use super::template::template;
use super::wait;

/// How a node is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Sessions are ended with FATAL 57P01.
    Fast,
    /// No goodbye to anyone and no checkpoint; the next start recovers from the log.
    Immediate,
}

/// One PostgreSQL server.
pub struct Node {
    pub name: &'static str,
    pub port: u16,
    dir: PathBuf,
    bin: PathBuf,
    user: ServerUser,
    process: Mutex<Option<Child>>,
}

impl Node {
    pub fn new(name: &'static str, dir: PathBuf, bin: &Path, user: &ServerUser) -> Node {
        Node { name, port: free_port(), dir, bin: bin.to_path_buf(), user: user.clone(), process: Mutex::new(None) }
    }

    /// Starts the server and waits until it takes sessions.
    pub async fn start(&self) {
        wait::until(&format!("{} starts", self.name), || async {
            if self.is_running() {
                return self.try_connect().await.is_some();
            }
            self.spawn();
            false
        })
        .await;
    }

    /// Starts the server and does not wait; it may refuse to (a killed one's children may still be there): start() tries again.
    pub fn spawn(&self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the node's log opens");
        let mut command = self.user.command(&self.bin.join("postgres"));
        command.arg("-D").arg(&self.dir).args(["-p", &self.port.to_string()]).current_dir(&self.dir);
        command.process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log is shared")).stderr(log);
        *self.process.lock().expect("no test died holding it") = Some(command.spawn().expect("postgres is executable"));
    }

    fn is_running(&self) -> bool {
        let mut process = self.process.lock().expect("no test died holding it");
        process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn pid(&self) -> u32 {
        self.process.lock().expect("no test died holding it").as_ref().expect("the node was started").id()
    }

    fn reap(&self) {
        if let Some(mut child) = self.process.lock().expect("no test died holding it").take() {
            child.wait().expect("postgres is our child");
        }
    }

    /// Stops the server and waits until it is gone.
    pub async fn stop(&self, how: Stop) {
        let signal = match how {
            Stop::Fast => "-INT",
            Stop::Immediate => "-QUIT",
        };
        signal_all(signal, &[self.pid()]);
        wait::until(&format!("{} stops", self.name), || async { !self.is_running() }).await;
        self.reap();
    }

    /// The machine dies: every process of the server at once.
    pub fn kill9(&self) {
        let pids = self.all_processes();
        signal_all("-KILL", &pids);
        self.reap();
        let _ = fs::remove_file(self.dir.join("postmaster.pid"));
    }

    /// The machine stands still: connections stay open and nothing answers.
    pub fn freeze(&self) {
        signal_all("-STOP", &self.all_processes());
    }

    pub fn thaw(&self) {
        signal_all("-CONT", &self.all_processes());
    }

    /// A signal ("-STOP", "-KILL") to one server process, and not to the rest of the server.
    pub fn kill_one(&self, signal: &str, pid: u32) {
        signal_all(signal, &[pid]);
    }

    /// The postmaster first, so that it starts no new children meanwhile.
    fn all_processes(&self) -> Vec<u32> {
        let postmaster = self.pid();
        let mut pids = vec![postmaster];
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // pid (name) state ppid …; the name may hold spaces and parentheses.
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
            if parent == Some(postmaster) {
                pids.push(pid);
            }
        }
        pids
    }

    /// A session of the superuser, straight to this node.
    pub async fn superuser(&self, database: &str) -> Client {
        self.connect_to(database).await.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    async fn connect_to(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let url = format!("host=127.0.0.1 port={} user=postgres dbname={database} connect_timeout=10", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn try_connect(&self) -> Option<Client> {
        self.connect_to("postgres").await.ok()
    }

    /// Runs SQL as the superuser, in a session of its own.
    pub async fn run_in(&self, database: &str, sql: &str) {
        self.superuser(database)
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
    }

    /// One value, as text.
    pub async fn ask(&self, sql: &str) -> String {
        let rows = self
            .superuser("app")
            .await
            .simple_query(sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
        rows.into_iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_string()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// This replica replays nothing more: it lags from now on.
    pub async fn pause_replay(&self) {
        self.run_in("postgres", "SELECT pg_wal_replay_pause()").await;
        wait::until("replay is paused", || async {
            self.ask("SELECT pg_get_wal_replay_pause_state()").await == "paused"
        })
        .await;
    }

    pub async fn resume_replay(&self) {
        self.run_in("postgres", "SELECT pg_wal_replay_resume()").await;
    }

    /// Makes this replica a primary and waits until it is.
    pub async fn promote(&self) {
        assert_eq!(self.ask("SELECT pg_promote(true, 30)").await, "t", "{} is promoted", self.name);
    }

    /// Follows another primary from its next start on.
    pub fn follow(&self, primary: &Node) {
        let conninfo = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres application_name={}'\n",
            primary.port, self.name
        );
        fs::write(self.dir.join("postgresql.auto.conf"), conninfo).expect("primary_conninfo is written");
        fs::write(self.dir.join("standby.signal"), "").expect("standby.signal is written");
        self.user.give(&self.dir.join("standby.signal")).expect("standby.signal belongs to the server");
        self.user.give(&self.dir.join("postgresql.auto.conf")).expect("its settings belong to the server");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// What the server wrote to its log, with the statements of user `traced`.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// How many lines of the log hold this text.
    pub fn log_count(&self, marker: &str) -> usize {
        self.log().lines().filter(|line| line.contains(marker)).count()
    }
}

/// The `kill` program, since a signal of our own would take unsafe code.
fn signal_all(signal: &str, pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    // A child that ended meanwhile makes kill complain, and that is fine.
    let _ = Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status().expect("kill runs");
}

/// A primary and two replicas.
pub struct Cluster {
    // Before `scratch`, so that a node's process is let go of before its directory is.
    pub primary: Node,
    pub replicas: [Node; 2],
    scratch: Scratch,
}

impl Cluster {
    /// Copies the template three times and starts all three; returns when both replicas stream.
    pub async fn start(name: &str) -> Cluster {
        let bin = postgres_bin().expect("PostgreSQL's programs");
        let user = ServerUser::find().expect("a user for the servers");
        let template = template(&bin, &user).await;
        let scratch = Scratch::new(name);
        let [primary, one, two] = ["primary", "replica1", "replica2"].map(|name| {
            let dir = scratch.path().join(name);
            run_to_end(Command::new("cp").arg("-a").arg(&template).arg(&dir)).expect("the template is copied");
            Node::new(name, dir, &bin, &user)
        });
        let cluster = Cluster { primary, replicas: [one, two], scratch };
        for replica in &cluster.replicas {
            replica.follow(&cluster.primary);
            replica.spawn();
        }
        cluster.primary.start().await;
        for replica in &cluster.replicas {
            replica.start().await;
        }
        cluster.wait_for_streams(2).await;
        cluster
    }

    pub fn nodes(&self) -> [&Node; 3] {
        [&self.primary, &self.replicas[0], &self.replicas[1]]
    }

    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// So many replicas stream from the primary.
    pub async fn wait_for_streams(&self, count: usize) {
        let count = count.to_string();
        wait::until("the replicas stream", || async {
            self.primary.ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await == count
        })
        .await;
    }

    /// Both replicas have replayed everything that the primary wrote until now.
    pub async fn wait_for_replay(&self) {
        let written = self.primary.ask("SELECT pg_current_wal_flush_lsn()").await;
        for replica in &self.replicas {
            let behind = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
            wait::until("the replica catches up", || async { replica.ask(&behind).await == "t" }).await;
        }
    }
}
