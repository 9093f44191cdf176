//! The defaults of every section, as the fields' docs tell them. config/pgweir.toml is held against this by a test.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Default for ListenConfig {
    fn default() -> ListenConfig {
        ListenConfig { addresses: vec![loopback(6432)], unix_socket_dir: None, workers: cores() }
    }
}

/// One worker for each core that we may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
            fast_probe_interval: Duration::from_millis(2),
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
