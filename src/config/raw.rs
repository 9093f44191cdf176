//! Pure: the configuration as it is written, every key optional. `schema` has checked names and values before, so serde
//! refuses nothing that a person typed; `validate` makes the `Config` of it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::units;
use super::{AuthMethod, ClientTlsMode, Consistency, LogFormat, PoolMode, Secret};

/// The file's top level.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    pub listen: RawListen,
    pub admin: RawAdmin,
    pub nodes: Vec<RawNode>,
    pub pool: RawPool,
    pub pool_overrides: Vec<RawOverride>,
    pub routing: RawRouting,
    pub cluster: RawCluster,
    pub limits: RawLimits,
    pub databases: Option<Vec<String>>,
    pub auth: RawAuth,
    pub client_tls: RawClientTls,
    pub log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    pub addresses: Option<Vec<String>>,
    pub unix_socket_dir: Option<String>,
    pub workers: Option<Workers>,
}

/// `auto` or a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Workers {
    Number(usize),
    Auto(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdmin {
    pub address: Option<String>,
}

/// A URL, or a table.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum RawNode {
    Url(Secret),
    Table(Box<RawNodeTable>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNodeTable {
    pub url: Option<Secret>,
    pub name: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    pub database: Option<String>,
    pub weight: Option<u32>,
    pub sslmode: Option<String>,
    pub sslrootcert: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPool {
    pub mode: Option<PoolMode>,
    pub size: Option<usize>,
    pub min_idle: Option<usize>,
    pub checkout_timeout: Option<Span>,
    pub idle_timeout: Option<Span>,
    pub max_lifetime: Option<Span>,
    pub connect_timeout: Option<Span>,
    pub statements: Option<usize>,
    pub auto_prepare: Option<usize>,
    pub renewals: Option<usize>,
}

/// `RawPool` with what it applies to; serde refuses no unknown key through `flatten`, hence the same fields again.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawOverride {
    pub database: Option<String>,
    pub user: Option<String>,
    pub mode: Option<PoolMode>,
    pub size: Option<usize>,
    pub min_idle: Option<usize>,
    pub checkout_timeout: Option<Span>,
    pub idle_timeout: Option<Span>,
    pub max_lifetime: Option<Span>,
    pub connect_timeout: Option<Span>,
    pub statements: Option<usize>,
    pub auto_prepare: Option<usize>,
    pub renewals: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRouting {
    pub consistency: Option<Consistency>,
    pub read_functions: Option<Vec<String>>,
    pub on_no_replica: Option<String>,
    pub floor_wait: Option<Span>,
    pub hold_back: Option<Size>,
    pub read_stall_timeout: Option<Span>,
    pub catalog_poll: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCluster {
    pub probe_interval: Option<Span>,
    pub fast_probe_interval: Option<Span>,
    pub probe_timeout: Option<Span>,
    pub down_after: Option<u32>,
    pub max_lag: Option<Span>,
    pub readmit_lag: Option<Span>,
    pub readmit_after: Option<Span>,
    pub lag_tolerance: Option<Span>,
    pub failover_timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    pub clients: Option<usize>,
    pub held_request: Option<Size>,
    pub parsed_statement: Option<Size>,
    pub verdict_cache: Option<Size>,
    pub session_statements: Option<usize>,
    pub login_timeout: Option<Span>,
    pub shutdown_timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAuth {
    pub method: Option<AuthMethod>,
    pub users: Vec<RawUser>,
    pub auth_query: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawUser {
    pub name: String,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawClientTls {
    pub mode: Option<ClientTlsMode>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub format: Option<LogFormat>,
    pub level: Option<String>,
}

/// A duration as text.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        units::duration(&text).map(Span).ok_or_else(|| de::Error::custom(format!("expected {}", units::DURATION)))
    }
}

/// A size as text or as a number of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(usize),
            Text(String),
        }
        let size = match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Some(bytes),
            Written::Text(text) => units::size(&text),
        };
        size.map(Size).ok_or_else(|| de::Error::custom(format!("expected {}", units::SIZE)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::from)
    }
}
