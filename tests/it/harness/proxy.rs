//! The real pgweir binary in front of a cluster, in a process of its own. Tests connect to it, read its /metrics, and look
//! at its memory. Nothing here knows what a right answer is.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::cluster::Cluster;
use super::metrics::Metrics;
use super::scratch::free_port;
use super::wait;

/// A running pgweir.
pub struct Proxy {
    pub port: u16,
    pub admin_port: u16,
    log: PathBuf,
    process: Mutex<Child>,
}

impl Proxy {
    /// Starts it in front of all nodes with these settings beside the defaults (`("pool.size", "1")`; values in TOML), and
    /// waits until it says that it is ready.
    pub async fn start(cluster: &Cluster, settings: &[(&str, &str)]) -> Proxy {
        let (port, admin_port) = (free_port(), free_port());
        let stem = cluster.dir().join(format!("pgweir-{port}"));
        let config = stem.with_extension("toml");
        fs::write(&config, config_text(cluster, port, admin_port, settings)).expect("the config is written");
        let proxy = Proxy::spawn(cluster, port, admin_port, &["--config", &config.to_string_lossy()]);
        proxy.wait_until_ready().await;
        proxy
    }

    /// Starts it without a file: `arguments` are the command line's, after the two addresses.
    pub async fn start_with_arguments(cluster: &Cluster, arguments: &[&str]) -> Proxy {
        let (port, admin_port) = (free_port(), free_port());
        let (listen, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin_port}"));
        let mut all = vec!["--listen", listen.as_str(), "--admin", admin.as_str()];
        all.extend(arguments);
        let proxy = Proxy::spawn(cluster, port, admin_port, &all);
        proxy.wait_until_ready().await;
        proxy
    }

    fn spawn(cluster: &Cluster, port: u16, admin_port: u16, arguments: &[&str]) -> Proxy {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let log = cluster.dir().join(format!("pgweir-{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).expect("the proxy's log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
        // Its working directory tells the reaper whose it is.
        command.arg("run").args(arguments).current_dir(cluster.dir()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGWEIR_") || name.starts_with("PG")) {
            command.env_remove(name);
        }
        command.stdout(file.try_clone().expect("the log is shared")).stderr(file);
        let process = Mutex::new(command.spawn().expect("pgweir starts"));
        Proxy { port, admin_port, log, process }
    }

    async fn wait_until_ready(&self) {
        wait::until(&format!("pgweir is ready; its log: {}", self.log.display()), || async {
            let ended = self.process.lock().expect("no test died holding it").try_wait().expect("pgweir is our child");
            assert!(ended.is_none(), "pgweir ended with {ended:?}:\n{}", self.log());
            self.http("/readyz").is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Status and body of a page of the side door.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: pgweir\r\n\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
    }

    pub fn metrics(&self) -> Metrics {
        let (status, body) = self.http("/metrics").expect("/metrics answers");
        assert_eq!(status, 200, "/metrics: {body}");
        Metrics::read(&body)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.lock().expect("no test died holding it").id()
    }

    /// The most memory that the process ever had, in bytes (VmHWM).
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number of kB") * 1024
    }

    pub fn is_running(&self) -> bool {
        matches!(self.process.lock().expect("no test died holding it").try_wait(), Ok(None))
    }

    /// Sends a signal by name ("TERM", "HUP", "INT").
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().expect("kill runs");
        assert!(status.success(), "the proxy is there to be signalled");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the last of pgweir's log:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        if let Ok(mut process) = self.process.lock() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A config with every node of the cluster and the users of the template.
fn config_text(cluster: &Cluster, port: u16, admin_port: u16, settings: &[(&str, &str)]) -> String {
    let mut text = format!("listen.addresses = [\"127.0.0.1:{port}\"]\nadmin.address = \"127.0.0.1:{admin_port}\"\n");
    let nodes: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| {
            format!(
                "{{ name = \"{}\", host = \"127.0.0.1\", port = {}, user = \"weir\", password = \"secret\", database = \"app\" }}",
                node.name, node.port
            )
        })
        .collect();
    writeln!(text, "nodes = [{}]", nodes.join(", ")).expect("a string takes text");
    let users: Vec<String> = ["app", "admin", "traced", "streamer"]
        .iter()
        .map(|name| format!("{{ name = \"{name}\", password = \"secret\" }}"))
        .collect();
    let users = format!("[{}]", users.join(", "));
    // Two workers even where there is one core: what goes wrong between threads must go wrong here.
    let defaults = [
        ("auth.users", users.as_str()),
        ("listen.workers", "2"),
        ("routing.catalog_poll", "\"200ms\""),
        ("log.level", "\"info\""),
    ];
    for (key, value) in defaults.iter().filter(|(key, _)| !settings.iter().any(|(own, _)| own == key)).chain(settings) {
        writeln!(text, "{key} = {value}").expect("a string takes text");
    }
    text
}
