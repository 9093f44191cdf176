//! From what is written to the validated `Config`, in one step: defaults, the places of secrets, what must go together.
//! Called by `load` only. It reads secrets' files and, through `Outside`, the environment; it prints nothing.

use std::path::{Path, PathBuf};

use super::node_url::{self, NodeUrl};
use super::raw::{Raw, RawAuth, RawNode, RawNodeTable, RawOverride, RawPool, Workers};
use super::*;

/// The environment that `${NAME}` and `password_env` mean.
pub type Outside<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value that does not go with the others; `path` leads to its key.
#[derive(Debug, PartialEq)]
pub struct Fault {
    pub path: Vec<String>,
    pub why: String,
}

fn fault(path: &str, why: impl Into<String>) -> Fault {
    Fault { path: path.split('.').map(str::to_owned).collect(), why: why.into() }
}

/// Whether a URL's database limits what clients may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlDatabases {
    /// No file: the URLs are all the operator said.
    Limit,
    Ignore,
}

pub fn validate(raw: Raw, urls: UrlDatabases, outside: Outside<'_>) -> Result<Config, Fault> {
    let default = Config::default();
    let pool = pool(raw.pool, &default.pool);
    let pool_overrides = raw.pool_overrides.into_iter().map(|raw| pool_override(raw, &pool)).collect();
    let (nodes, named) = nodes(raw.nodes, &raw.auth, outside)?;
    let databases = match (raw.databases, urls, named) {
        (Some(databases), ..) => databases,
        (None, UrlDatabases::Limit, Some(named)) => named,
        _ => Vec::new(),
    };
    let config = Config {
        listen: listen(raw.listen, default.listen),
        admin: AdminConfig {
            address: match raw.admin.address.as_deref() {
                None => default.admin.address,
                Some(text) => schema::address(text),
            },
        },
        auth: auth(raw.auth, &nodes, outside)?,
        nodes,
        pool,
        pool_overrides,
        routing: routing(raw.routing, default.routing),
        cluster: cluster(raw.cluster, default.cluster),
        limits: limits(raw.limits, default.limits),
        databases,
        client_tls: ClientTlsConfig {
            mode: raw.client_tls.mode.unwrap_or(default.client_tls.mode),
            certificate: path(raw.client_tls.certificate),
            key: path(raw.client_tls.key),
        },
        log: LogConfig {
            format: raw.log.format.unwrap_or(default.log.format),
            level: raw.log.level.unwrap_or(default.log.level),
        },
    };
    together(&config)?;
    Ok(config)
}

/// An empty text means "none": TOML has no other word for it.
fn path(text: Option<String>) -> Option<PathBuf> {
    text.filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn listen(raw: raw::RawListen, default: ListenConfig) -> ListenConfig {
    ListenConfig {
        addresses: match raw.addresses {
            Some(texts) => texts.iter().filter_map(|text| schema::address(text)).collect(),
            None => default.addresses,
        },
        unix_socket_dir: path(raw.unix_socket_dir),
        workers: match raw.workers {
            Some(Workers::Number(number)) => number,
            Some(Workers::Auto(_)) | None => default.workers,
        },
    }
}

fn pool(raw: RawPool, base: &PoolConfig) -> PoolConfig {
    PoolConfig {
        mode: raw.mode.unwrap_or(base.mode),
        size: raw.size.unwrap_or(base.size),
        min_idle: raw.min_idle.unwrap_or(base.min_idle),
        checkout_timeout: raw.checkout_timeout.map_or(base.checkout_timeout, |span| span.0),
        idle_timeout: raw.idle_timeout.map_or(base.idle_timeout, |span| span.0),
        max_lifetime: raw.max_lifetime.map_or(base.max_lifetime, |span| span.0),
        connect_timeout: raw.connect_timeout.map_or(base.connect_timeout, |span| span.0),
        statements: raw.statements.unwrap_or(base.statements),
        auto_prepare: raw.auto_prepare.unwrap_or(base.auto_prepare),
        renewals: raw.renewals.unwrap_or(base.renewals),
    }
}

fn pool_override(raw: RawOverride, base: &PoolConfig) -> PoolOverride {
    let changes = RawPool {
        mode: raw.mode,
        size: raw.size,
        min_idle: raw.min_idle,
        checkout_timeout: raw.checkout_timeout,
        idle_timeout: raw.idle_timeout,
        max_lifetime: raw.max_lifetime,
        connect_timeout: raw.connect_timeout,
        statements: raw.statements,
        auto_prepare: raw.auto_prepare,
        renewals: raw.renewals,
    };
    PoolOverride { database: raw.database, user: raw.user, pool: pool(changes, base) }
}

fn routing(raw: raw::RawRouting, default: RoutingConfig) -> RoutingConfig {
    RoutingConfig {
        consistency: raw.consistency.unwrap_or(default.consistency),
        read_functions: raw.read_functions.unwrap_or(default.read_functions),
        on_no_replica: raw.on_no_replica.and_then(|text| schema::on_no_replica(&text)).unwrap_or(default.on_no_replica),
        floor_wait: raw.floor_wait.map_or(default.floor_wait, |span| span.0),
        hold_back: raw.hold_back.map_or(default.hold_back, |size| size.0),
        read_stall_timeout: raw.read_stall_timeout.map_or(default.read_stall_timeout, |span| span.0),
        catalog_poll: raw.catalog_poll.map_or(default.catalog_poll, |span| span.0),
    }
}

fn cluster(raw: raw::RawCluster, default: ClusterConfig) -> ClusterConfig {
    ClusterConfig {
        probe_interval: raw.probe_interval.map_or(default.probe_interval, |span| span.0),
        fast_probe_interval: raw.fast_probe_interval.map_or(default.fast_probe_interval, |span| span.0),
        probe_timeout: raw.probe_timeout.map_or(default.probe_timeout, |span| span.0),
        down_after: raw.down_after.unwrap_or(default.down_after),
        max_lag: raw.max_lag.map_or(default.max_lag, |span| span.0),
        readmit_lag: raw.readmit_lag.map_or(default.readmit_lag, |span| span.0),
        readmit_after: raw.readmit_after.map_or(default.readmit_after, |span| span.0),
        lag_tolerance: raw.lag_tolerance.map_or(default.lag_tolerance, |span| span.0),
        failover_timeout: raw.failover_timeout.map_or(default.failover_timeout, |span| span.0),
    }
}

fn limits(raw: raw::RawLimits, default: LimitsConfig) -> LimitsConfig {
    LimitsConfig {
        clients: raw.clients.unwrap_or(default.clients),
        held_request: raw.held_request.map_or(default.held_request, |size| size.0),
        parsed_statement: raw.parsed_statement.map_or(default.parsed_statement, |size| size.0),
        verdict_cache: raw.verdict_cache.map_or(default.verdict_cache, |size| size.0),
        session_statements: raw.session_statements.unwrap_or(default.session_statements),
        login_timeout: raw.login_timeout.map_or(default.login_timeout, |span| span.0),
        shutdown_timeout: raw.shutdown_timeout.map_or(default.shutdown_timeout, |span| span.0),
    }
}

/// Replaces `${NAME}` by the environment's value.
fn expand(text: &str, outside: Outside<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("has ${ without its closing }")?;
        let value = outside(name).ok_or_else(|| format!("names the environment variable {name}, which is not set"))?;
        expanded.push_str(before);
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The three ways to give a password; at most one may be used.
fn password(
    written: Option<&Secret>,
    file: Option<&Path>,
    variable: Option<&str>,
    outside: Outside<'_>,
) -> Result<Option<Secret>, (&'static str, String)> {
    match (written, file, variable) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => {
            let text = expand(text, outside).map_err(|why| ("password", why))?;
            Ok(Some(Secret::from(text)).filter(|text| !text.is_empty()))
        }
        (None, Some(file), None) => match std::fs::read_to_string(file) {
            // Files end with a line break that nobody means.
            Ok(text) => Ok(Some(Secret::from(text.trim_end_matches(['\r', '\n'])))),
            Err(error) => Err(("password_file", format!("names {}, which cannot be read: {error}", file.display()))),
        },
        (None, None, Some(name)) => match outside(name) {
            Some(text) => Ok(Some(Secret::from(text))),
            None => Err(("password_env", format!("names the environment variable {name}, which is not set"))),
        },
        _ => Err(("password", "is given more than once; keep one of password, password_file, password_env".to_owned())),
    }
}

/// The nodes, and the databases that their URLs name if every one names one.
type Nodes = (Vec<NodeConfig>, Option<Vec<String>>);

fn nodes(raw: Vec<RawNode>, auth: &RawAuth, outside: Outside<'_>) -> Result<Nodes, Fault> {
    let mut nodes: Vec<NodeConfig> = Vec::new();
    let mut named = Some(Vec::new());
    for (i, raw) in raw.into_iter().enumerate() {
        let found = match raw {
            RawNode::Url(url) => node_from_url(&url, outside).map_err(|why| fault(&format!("nodes.{i}"), why))?,
            RawNode::Table(table) => {
                let at = |(key, why): (&str, String)| fault(&format!("nodes.{i}.{key}"), why);
                node_from_table(*table, auth, outside).map_err(at)?
            }
        };
        match (&mut named, found.database) {
            (Some(named), Some(database)) if !named.contains(&database) => named.push(database),
            (_, None) => named = None,
            _ => {}
        }
        for node in found.nodes {
            if nodes.iter().any(|other| other.name == node.name) {
                return Err(fault(&format!("nodes.{i}"), format!("names {} a second time", node.name)));
            }
            nodes.push(node);
        }
    }
    Ok((nodes, named.filter(|named| !named.is_empty())))
}

fn node_from_url(url: &str, outside: Outside<'_>) -> Result<NodeUrl, String> {
    node_url::parse(&expand(url, outside)?)
}

fn node_from_table(raw: RawNodeTable, auth: &RawAuth, outside: Outside<'_>) -> Result<NodeUrl, (&'static str, String)> {
    let password = password(raw.password.as_ref(), raw.password_file.as_deref(), raw.password_env.as_deref(), outside)?;
    if let Some(url) = &raw.url {
        if raw.host.is_some() || raw.port.is_some() || raw.user.is_some() || raw.database.is_some() {
            return Err(("url", "stands beside host, port, user or database; give the one or the other".to_owned()));
        }
        let mut found = node_from_url(url, outside).map_err(|why| ("url", why))?;
        if raw.name.is_some() && found.nodes.len() > 1 {
            return Err(("name", "names one node, and the URL has several".to_owned()));
        }
        for node in &mut found.nodes {
            node.name = raw.name.clone().unwrap_or_else(|| node.name.clone());
            node.weight = raw.weight.unwrap_or(1);
            node.password = password.clone().or(node.password.take());
            if let Some(mode) = &raw.sslmode {
                node.tls = node_url::tls_mode(mode, raw.sslrootcert.as_deref()).map_err(|why| ("sslmode", why))?;
            }
        }
        return Ok(found);
    }
    let host = raw.host.filter(|host| !host.is_empty()).ok_or(("host", "is missing".to_owned()))?;
    let port = raw.port.unwrap_or(5432);
    let (user, password) = match (raw.user, auth.users.first()) {
        (Some(user), _) => (user, password),
        (None, Some(first)) => {
            let of_user = user_password(first, outside)?;
            (first.name.clone(), password.or(of_user))
        }
        (None, None) => {
            return Err(("user", "is missing, and auth.users lists nobody whose name could be used".to_owned()));
        }
    };
    let tls = node_url::tls_mode(raw.sslmode.as_deref().unwrap_or("prefer"), raw.sslrootcert.as_deref())
        .map_err(|why| ("sslmode", why))?;
    let node = NodeConfig {
        name: raw.name.unwrap_or_else(|| node_url::node_name(&host, port)),
        host,
        port,
        user,
        password,
        database: raw.database.unwrap_or_else(|| "postgres".to_owned()),
        weight: raw.weight.unwrap_or(1),
        tls,
    };
    Ok(NodeUrl { nodes: vec![node], database: None })
}

fn user_password(raw: &raw::RawUser, outside: Outside<'_>) -> Result<Option<Secret>, (&'static str, String)> {
    password(raw.password.as_ref(), raw.password_file.as_deref(), raw.password_env.as_deref(), outside)
}

fn auth(raw: RawAuth, nodes: &[NodeConfig], outside: Outside<'_>) -> Result<AuthConfig, Fault> {
    let method = raw.method.unwrap_or(AuthMethod::ScramSha256);
    let auth_query = raw.auth_query.filter(|query| !query.trim().is_empty());
    let mut users: Vec<UserConfig> = Vec::new();
    for (i, raw) in raw.users.iter().enumerate() {
        let at = |key: &str, why: String| fault(&format!("auth.users.{i}.{key}"), why);
        if raw.name.is_empty() {
            return Err(at("name", "is missing".to_owned()));
        }
        if users.iter().any(|user| user.name == raw.name) {
            return Err(at("name", format!("lists {} a second time", raw.name)));
        }
        let password = user_password(raw, outside).map_err(|(key, why)| at(key, why))?;
        check_user(method, password.as_deref()).map_err(|why| at("password", why))?;
        users.push(UserConfig { name: raw.name.clone(), password });
    }
    // Nobody was listed: who the nodes are reached as may log in, with the same password.
    if raw.users.is_empty() && auth_query.is_none() {
        for (i, node) in nodes.iter().enumerate() {
            match users.iter().find(|user| user.name == node.user) {
                Some(user) if user.password != node.password => {
                    let why = format!("gives {} another password than a node before it; list auth.users", node.user);
                    return Err(fault(&format!("nodes.{i}"), why));
                }
                Some(_) => {}
                None => users.push(UserConfig { name: node.user.clone(), password: node.password.clone() }),
            }
        }
    }
    Ok(AuthConfig { method, users, auth_query })
}

/// Whether clients of a listed user can be asked for this password by the method.
fn check_user(method: AuthMethod, password: Option<&str>) -> Result<(), String> {
    match (method, password) {
        (AuthMethod::Trust, _) => Ok(()),
        (_, None) => Err("is missing; nobody could log in. Give one, or set auth.method = \"trust\"".to_owned()),
        (AuthMethod::ScramSha256, Some(text)) if looks_like_md5(text) => {
            Err("is an md5 hash, which the method scram-sha-256 cannot check; set auth.method = \"md5\"".to_owned())
        }
        _ => Ok(()),
    }
}

/// `md5` and 32 hexadecimal digits, as pg_authid stores it.
fn looks_like_md5(text: &str) -> bool {
    text.strip_prefix("md5").is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What each value alone cannot tell.
fn together(config: &Config) -> Result<(), Fault> {
    let rule = |good: bool, key: &str, why: &str| if good { Ok(()) } else { Err(fault(key, why)) };
    rule(
        !config.listen.addresses.is_empty() || config.listen.unix_socket_dir.is_some(),
        "listen.addresses",
        "is empty",
    )?;
    let pools = std::iter::once(("pool.min_idle".to_owned(), &config.pool));
    let others = config.pool_overrides.iter().enumerate();
    let others = others.map(|(i, other)| (format!("pool_overrides.{i}.min_idle"), &other.pool));
    for (key, pool) in pools.chain(others) {
        rule(pool.min_idle <= pool.size, &key, "is more than the pool's size")?;
    }
    for (i, other) in config.pool_overrides.iter().enumerate() {
        let named = other.database.is_some() || other.user.is_some();
        rule(named, &format!("pool_overrides.{i}"), "names neither a database nor a user")?;
    }
    let cluster = &config.cluster;
    rule(cluster.readmit_lag <= cluster.max_lag, "cluster.readmit_lag", "is more than cluster.max_lag")?;
    rule(!cluster.probe_interval.is_zero(), "cluster.probe_interval", "must be more than 0")?;
    rule(!cluster.fast_probe_interval.is_zero(), "cluster.fast_probe_interval", "must be more than 0")?;
    rule(!cluster.probe_timeout.is_zero(), "cluster.probe_timeout", "must be more than 0")?;
    rule(!config.routing.catalog_poll.is_zero(), "routing.catalog_poll", "must be more than 0")?;
    let tls = &config.client_tls;
    if tls.mode != ClientTlsMode::Disable {
        rule(tls.certificate.is_some(), "client_tls.certificate", "is missing; client_tls.mode needs it")?;
        rule(tls.key.is_some(), "client_tls.key", "is missing; client_tls.mode needs it")?;
    }
    Ok(())
}
