//! The defaults of every section, as the fields' docs tell them. config/pgweir.toml is held against this by a test.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Default for ListenConfig {
    fn default() -> ListenConfig {
        ListenConfig { addresses: vec![loopback(6432)], unix_socket_dir: None, workers: half_of_the_cores() }
    }
}

/// One worker for each two cores that we may use, and one at least.
///
/// A proxy shares its machine with what it serves. A worker that has a core to itself sleeps and is woken for each message;
/// one that has as much to do as it can finds several sockets ready at each wake-up, and spends less on each.
fn half_of_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2)
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig { address: Some(loopback(9632)) }
    }
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            mode: PoolMode::Transaction,
            size: 40,
            min_idle: 0,
            checkout_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(5),
            statements: 500,
            auto_prepare: 0,
            renewals: 10,
        }
    }
}

impl Default for RoutingConfig {
    fn default() -> RoutingConfig {
        RoutingConfig {
            consistency: Consistency::Session,
            read_functions: Vec::new(),
            on_no_replica: OnNoReplica::Primary,
            floor_wait: Duration::from_millis(10),
            hold_back: 64 << 10,
            read_stall_timeout: Duration::from_secs(5),
            catalog_poll: Duration::from_secs(1),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            probe_interval: Duration::from_millis(500),
            fast_probe_interval: Duration::from_millis(4),
            probe_timeout: Duration::from_secs(2),
            down_after: 3,
            max_lag: Duration::from_secs(5),
            readmit_lag: Duration::from_secs(2),
            readmit_after: Duration::from_secs(5),
            lag_tolerance: Duration::from_millis(100),
            failover_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            clients: 10_000,
            held_request: 1 << 20,
            parsed_statement: 256 << 10,
            verdict_cache: 16 << 20,
            session_statements: 10_000,
            login_timeout: Duration::from_secs(15),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for AuthConfig {
    fn default() -> AuthConfig {
        AuthConfig { method: AuthMethod::ScramSha256, users: Vec::new(), auth_query: None }
    }
}

impl Default for ClientTlsConfig {
    fn default() -> ClientTlsConfig {
        ClientTlsConfig { mode: ClientTlsMode::Disable, certificate: None, key: None }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { format: LogFormat::Text, level: "info".to_owned() }
    }
}
