//! The validated configuration. `raw` reads TOML, flags and environment; what arrives here is checked and complete.
//! `Config` as a whole is seen by cli, proxy and admin only; every other module is handed its own section by value.

pub mod defaults;
pub mod error;
pub mod load;
pub mod node_url;
pub mod overrides;
pub mod raw;
pub mod reload;
pub mod schema;
pub mod secret;
pub mod units;
mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::sql::Consistency;

pub use error::ConfigError;
pub use load::{ConfigSource, Override};
pub use secret::Secret;

/// Everything, validated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub listen: ListenConfig,
    pub admin: AdminConfig,
    pub nodes: Vec<NodeConfig>,
    pub pool: PoolConfig,
    /// Exceptions to `pool`, first match wins.
    pub pool_overrides: Vec<PoolOverride>,
    pub routing: RoutingConfig,
    pub cluster: ClusterConfig,
    pub limits: LimitsConfig,
    /// The databases that clients may name; empty (the default): every one. Without a file, the URLs' if all name one.
    pub databases: Vec<String>,
    pub auth: AuthConfig,
    pub client_tls: ClientTlsConfig,
    pub log: LogConfig,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenConfig {
    /// TCP addresses; default 127.0.0.1:6432.
    pub addresses: Vec<SocketAddr>,
    /// A directory for the Unix socket `.s.PGSQL.<port of the first address>`; default none.
    pub unix_socket_dir: Option<PathBuf>,
    /// Worker threads; default one for each two cores.
    pub workers: usize,
}

/// The side door: /metrics, /healthz, /readyz, the dashboard.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// Default 127.0.0.1:9632; `None` when set to "off".
    pub address: Option<SocketAddr>,
}

/// One PostgreSQL server. Roles are found, not configured.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// For people; default `host:port`.
    pub name: String,
    /// A host name, an address, or a directory of a Unix socket.
    pub host: String,
    pub port: u16,
    /// Control connections (probes, catalog) log in with this; default: the first user of `auth.users`.
    pub user: String,
    pub password: Option<Secret>,
    /// The database of probes; default `postgres`, or the URL's.
    pub database: String,
    /// A heavier node takes more reads; default 1.
    pub weight: u32,
    pub tls: NodeTls,
}

/// How a node's certificate is treated, as libpq's sslmode.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeTls {
    Disable,
    Prefer,
    Require,
    VerifyCa { root: PathBuf },
    VerifyFull { root: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    Transaction,
    Session,
}

/// Each (node, database, user) has a pool of its own with these limits.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// Default `transaction`.
    pub mode: PoolMode,
    /// Most server connections of one pool; default 40.
    pub size: usize,
    /// Connections kept open when idle; default 0.
    pub min_idle: usize,
    /// How long a statement waits for a server connection before error 53300; default 30s.
    pub checkout_timeout: Duration,
    /// An idle server connection is closed after this; default 10min.
    pub idle_timeout: Duration,
    /// A server connection is closed when it is this old and free; default 1h.
    pub max_lifetime: Duration,
    /// How long connecting and logging in to a node may take; default 5s.
    pub connect_timeout: Duration,
    /// Most prepared statements on one server connection, least recently used go first; default 500.
    pub statements: usize,
    /// An unnamed statement that came so often is kept prepared on server connections; default 0: never.
    pub auto_prepare: usize,
    /// Server processes that a session has marked are closed when it leaves, this many a second; default 10.
    pub renewals: usize,
}

/// A pool of this database and/or user differs.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolOverride {
    pub database: Option<String>,
    pub user: Option<String>,
    pub pool: PoolConfig,
}

/// Where reads go.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingConfig {
    /// Default `session`.
    pub consistency: Consistency,
    /// Functions that the operator vouches for: they only read. `schema.name` or `name`; default none.
    pub read_functions: Vec<String>,
    /// Default `primary`.
    pub on_no_replica: OnNoReplica,
    /// How long a read may wait for a replica to reach the session's floor before the primary answers; default 10ms.
    pub floor_wait: Duration,
    /// Of an incomplete reply of a replica, so much is held back so that it can be run elsewhere; default 64KiB.
    pub hold_back: usize,
    /// A replica that sends nothing of a read's reply for so long, and answers no probe either, is given up: another node
    /// is asked. While it answers probes, it is the read that may be long, or one server process that stands still: six
    /// times as long. Default 5s.
    pub read_stall_timeout: Duration,
    /// How often changes of the catalog made elsewhere are looked for; default 1s.
    pub catalog_poll: Duration,
}

/// What happens to a read when no replica is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNoReplica {
    Primary,
    /// Wait so long, then the primary.
    Wait(Duration),
    Error,
}

/// Probing, lag, failover.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// Between probes of a node; default 500ms.
    pub probe_interval: Duration,
    /// While sessions wait on floors, replicas are probed this often; default 4ms.
    pub fast_probe_interval: Duration,
    /// A probe that takes longer has failed; default 2s.
    pub probe_timeout: Duration,
    /// So many failed probes in a row take a node out; default 3.
    pub down_after: u32,
    /// A replica further behind is evicted; default 5s.
    pub max_lag: Duration,
    /// It may come back under this …; default 2s.
    pub readmit_lag: Duration,
    /// … held for so long; default 5s.
    pub readmit_after: Duration,
    /// Replicas that lag at most this more than the least lagged share the reads; default 100ms.
    pub lag_tolerance: Duration,
    /// Writes wait so long for a primary; default 30s.
    pub failover_timeout: Duration,
}

/// Everything has a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Clients connected at once; default 10000.
    pub clients: usize,
    /// Bytes of one pipeline held until it is decided where it runs; over it, the primary; default 1MiB.
    pub held_request: usize,
    /// Longer statements are not parsed: primary; default 256KiB.
    pub parsed_statement: usize,
    /// Bytes of verdicts that a worker caches; default 16MiB.
    pub verdict_cache: usize,
    /// Prepared statements of one session; default 10000.
    pub session_statements: usize,
    /// A client must have logged in within this; default 15s.
    pub login_timeout: Duration,
    /// At shutdown, sessions may end their transactions for so long; default 30s.
    pub shutdown_timeout: Duration,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// Default `scram-sha-256`.
    pub method: AuthMethod,
    /// Who may log in; default: the nodes' own users, unless there is an `auth_query`.
    pub users: Vec<UserConfig>,
    /// `SELECT user, verifier` for one user name ($1), run on the primary, for users that are not listed; default none.
    pub auth_query: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    Md5,
    /// No password is asked of clients.
    Trust,
}

/// A user of clients, and how we log in to nodes for it.
#[derive(Clone, Debug, PartialEq)]
pub struct UserConfig {
    pub name: String,
    /// In the clear, or a `SCRAM-SHA-256$…` verifier, or `md5…`; `None`: the node asks for none (trust), and neither do we.
    pub password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClientTlsConfig {
    /// Default `disable`.
    pub mode: ClientTlsMode,
    /// PEM files; both are needed unless the mode is `disable`, and are read again on reload.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientTlsMode {
    Disable,
    Allow,
    Require,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Default `text`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, or a tracing filter; default info.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}
