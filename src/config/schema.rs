//! Pure: every key of the configuration with the kind of its value. One table serves the file, the flags, the environment,
//! and the error texts ("did you mean", "expected …"). A key that is not here does not exist; `raw` reads the same ones.

use toml::{Table, Value};

use super::units;

/// What a key's value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Text,
    /// Text that no error may repeat.
    Secret,
    Texts,
    /// `127.0.0.1:6432`.
    Addresses,
    /// An address, or `off`.
    AddressOrOff,
    /// A whole number from 0.
    Count,
    /// A whole number from 1.
    Positive,
    Port,
    /// A number of threads, or `auto`.
    Workers,
    Duration,
    Size,
    OneOf(&'static [&'static str]),
    /// `primary`, `error`, or `wait 2s`.
    OnNoReplica,
    /// URLs or tables.
    Nodes,
    Tables,
}

const MODES: Kind = Kind::OneOf(&["transaction", "session"]);

/// Every key. Keys of a list's tables stand under the list's name.
pub const KEYS: &[(&str, Kind)] = &[
    ("listen.addresses", Kind::Addresses),
    ("listen.unix_socket_dir", Kind::Text),
    ("listen.workers", Kind::Workers),
    ("admin.address", Kind::AddressOrOff),
    ("nodes", Kind::Nodes),
    ("nodes.url", Kind::Secret),
    ("nodes.name", Kind::Text),
    ("nodes.host", Kind::Text),
    ("nodes.port", Kind::Port),
    ("nodes.user", Kind::Text),
    ("nodes.password", Kind::Secret),
    ("nodes.password_file", Kind::Text),
    ("nodes.password_env", Kind::Text),
    ("nodes.database", Kind::Text),
    ("nodes.weight", Kind::Positive),
    ("nodes.sslmode", Kind::OneOf(&["disable", "prefer", "require", "verify-ca", "verify-full"])),
    ("nodes.sslrootcert", Kind::Text),
    ("pool.mode", MODES),
    ("pool.size", Kind::Positive),
    ("pool.min_idle", Kind::Count),
    ("pool.checkout_timeout", Kind::Duration),
    ("pool.idle_timeout", Kind::Duration),
    ("pool.max_lifetime", Kind::Duration),
    ("pool.connect_timeout", Kind::Duration),
    ("pool.statements", Kind::Count),
    ("pool.auto_prepare", Kind::Count),
    ("pool.renewals", Kind::Count),
    ("pool_overrides", Kind::Tables),
    ("pool_overrides.database", Kind::Text),
    ("pool_overrides.user", Kind::Text),
    ("pool_overrides.mode", MODES),
    ("pool_overrides.size", Kind::Positive),
    ("pool_overrides.min_idle", Kind::Count),
    ("pool_overrides.checkout_timeout", Kind::Duration),
    ("pool_overrides.idle_timeout", Kind::Duration),
    ("pool_overrides.max_lifetime", Kind::Duration),
    ("pool_overrides.connect_timeout", Kind::Duration),
    ("pool_overrides.statements", Kind::Count),
    ("pool_overrides.auto_prepare", Kind::Count),
    ("pool_overrides.renewals", Kind::Count),
    ("routing.consistency", Kind::OneOf(&["eventual", "session", "global", "strict", "primary"])),
    ("routing.read_functions", Kind::Texts),
    ("routing.on_no_replica", Kind::OnNoReplica),
    ("routing.floor_wait", Kind::Duration),
    ("routing.hold_back", Kind::Size),
    ("routing.read_stall_timeout", Kind::Duration),
    ("routing.catalog_poll", Kind::Duration),
    ("cluster.probe_interval", Kind::Duration),
    ("cluster.fast_probe_interval", Kind::Duration),
    ("cluster.probe_timeout", Kind::Duration),
    ("cluster.down_after", Kind::Positive),
    ("cluster.max_lag", Kind::Duration),
    ("cluster.readmit_lag", Kind::Duration),
    ("cluster.readmit_after", Kind::Duration),
    ("cluster.lag_tolerance", Kind::Duration),
    ("cluster.failover_timeout", Kind::Duration),
    ("limits.clients", Kind::Positive),
    ("limits.held_request", Kind::Size),
    ("limits.parsed_statement", Kind::Size),
    ("limits.verdict_cache", Kind::Size),
    ("limits.session_statements", Kind::Positive),
    ("limits.login_timeout", Kind::Duration),
    ("limits.shutdown_timeout", Kind::Duration),
    ("databases", Kind::Texts),
    ("auth.method", Kind::OneOf(&["scram-sha-256", "md5", "trust"])),
    ("auth.users", Kind::Tables),
    ("auth.users.name", Kind::Text),
    ("auth.users.password", Kind::Secret),
    ("auth.users.password_file", Kind::Text),
    ("auth.users.password_env", Kind::Text),
    ("auth.auth_query", Kind::Text),
    ("client_tls.mode", Kind::OneOf(&["disable", "allow", "require"])),
    ("client_tls.certificate", Kind::Text),
    ("client_tls.key", Kind::Text),
    ("log.format", Kind::OneOf(&["text", "json"])),
    ("log.level", Kind::Text),
];

/// The kind of a dotted key.
pub fn kind(key: &str) -> Option<Kind> {
    KEYS.iter().find(|(name, _)| *name == key).map(|(_, kind)| *kind)
}

/// The known key or section that was probably meant; of equals, the first in the table.
pub fn nearest(key: &str) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let sections = KEYS.iter().filter_map(|(known, _)| known.split_once('.')).map(|(section, _)| section);
    let mut best: Option<(f64, &str)> = None;
    for known in KEYS.iter().map(|(known, _)| *known).chain(sections) {
        let whole = strsim::normalized_damerau_levenshtein(key, known);
        // `size = 5` in the wrong section means `pool.size`.
        let name = 0.9 * strsim::normalized_damerau_levenshtein(&last(key), &last(known));
        let score = whole.max(name);
        if score > 0.6 && best.is_none_or(|(best, _)| score > best) {
            best = Some((score, known));
        }
    }
    best.map(|(_, known)| known.to_owned())
}

/// One thing that is wrong in a table; `path` leads to it, with list positions as numbers.
#[derive(Debug, PartialEq)]
pub struct Finding {
    pub path: Vec<String>,
    pub wrong: Wrong,
}

#[derive(Debug, PartialEq)]
pub enum Wrong {
    Unknown,
    Value { found: String, expected: String },
}

/// Checks a table against the schema; the first thing wrong is returned.
pub fn check(table: &Table) -> Result<(), Finding> {
    walk(table, "", &mut Vec::new())
}

fn walk(table: &Table, prefix: &str, path: &mut Vec<String>) -> Result<(), Finding> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        path.push(name.clone());
        let section = KEYS.iter().any(|(known, _)| known.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
        match (kind(&key), value) {
            (Some(Kind::Nodes | Kind::Tables), Value::Array(items)) => walk_list(items, &key, path)?,
            (Some(kind), value) => check_value(kind, value, path)?,
            (None, Value::Table(inner)) if section => walk(inner, &key, path)?,
            (None, value) if section => return Err(wrong(path, value, Kind::Text, &format!("a table, [{key}]"))),
            (None, _) => return Err(Finding { path: path.clone(), wrong: Wrong::Unknown }),
        }
        path.pop();
    }
    Ok(())
}

fn walk_list(items: &[Value], key: &str, path: &mut Vec<String>) -> Result<(), Finding> {
    for (i, item) in items.iter().enumerate() {
        path.push(i.to_string());
        match item {
            Value::Table(inner) => walk(inner, key, path)?,
            Value::String(_) if kind(key) == Some(Kind::Nodes) => {}
            other if kind(key) == Some(Kind::Nodes) => {
                return Err(wrong(path, other, Kind::Secret, "a URL or a table"));
            }
            other => return Err(wrong(path, other, Kind::Secret, "a table")),
        }
        path.pop();
    }
    Ok(())
}

fn wrong(path: &[String], value: &Value, kind: Kind, expected: &str) -> Finding {
    let wrong = Wrong::Value { found: describe(value, kind), expected: expected.to_owned() };
    Finding { path: path.to_vec(), wrong }
}

/// A value for an error text; of secrets only what type they have.
fn describe(value: &Value, kind: Kind) -> String {
    match value {
        Value::String(text) if kind != Kind::Secret => format!("{text:?}"),
        Value::Integer(number) if kind != Kind::Secret => number.to_string(),
        Value::Float(number) if kind != Kind::Secret => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Array(_) if kind == Kind::Addresses => value.to_string(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::String(_) => "a text".to_owned(),
        Value::Integer(_) | Value::Float(_) => "a number".to_owned(),
        Value::Datetime(_) => "a date".to_owned(),
    }
}

fn check_value(kind: Kind, value: &Value, path: &[String]) -> Result<(), Finding> {
    let text = value.as_str();
    let from = |least: i64, most: i64| value.as_integer().is_some_and(|number| (least..=most).contains(&number));
    let texts = |good: &dyn Fn(&str) -> bool| match value {
        Value::Array(items) => items.iter().all(|item| item.as_str().is_some_and(good)),
        _ => false,
    };
    let most = i64::from(u32::MAX);
    let (good, expected) = match kind {
        Kind::Text | Kind::Secret => (text.is_some(), "a text in quotes".to_owned()),
        Kind::Texts => (texts(&|_| true), "a list of texts".to_owned()),
        Kind::Addresses => {
            (texts(&|text| address(text).is_some()), "a list of addresses such as [\"127.0.0.1:6432\"]".to_owned())
        }
        Kind::AddressOrOff => (
            text.is_some_and(|text| text == "off" || address(text).is_some()),
            "an address such as \"127.0.0.1:9632\", or \"off\"".to_owned(),
        ),
        Kind::Count => (from(0, most), "a whole number from 0".to_owned()),
        Kind::Positive => (from(1, most), "a whole number from 1".to_owned()),
        Kind::Port => (from(1, 65_535), "a port, 1 to 65535".to_owned()),
        Kind::Workers => {
            (from(1, 1024) || text == Some("auto"), "a number of threads from 1 to 1024, or \"auto\"".to_owned())
        }
        Kind::Duration => (text.and_then(units::duration).is_some(), units::DURATION.to_owned()),
        Kind::Size => (from(0, i64::MAX) || text.and_then(units::size).is_some(), units::SIZE.to_owned()),
        Kind::OneOf(names) => (text.is_some_and(|text| names.contains(&text)), one_of(names)),
        Kind::OnNoReplica => (
            text.is_some_and(|text| on_no_replica(text).is_some()),
            "\"primary\", \"error\", or \"wait 2s\"".to_owned(),
        ),
        // What stands there may be a URL with a password.
        Kind::Nodes => return Err(wrong(path, value, Kind::Secret, "a list of URLs or tables, [[nodes]]")),
        Kind::Tables => (false, format!("a list of tables, [[{}]]", path.join("."))),
    };
    if good { Ok(()) } else { Err(wrong(path, value, kind, &expected)) }
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let (last, others) = quoted.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
    format!("{} or {last}", others.join(", "))
}

/// An address to listen on; `localhost` means IPv4's.
pub fn address(text: &str) -> Option<std::net::SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(std::net::SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// What to do with reads when no replica is usable.
pub fn on_no_replica(text: &str) -> Option<super::OnNoReplica> {
    match text {
        "primary" => Some(super::OnNoReplica::Primary),
        "error" => Some(super::OnNoReplica::Error),
        _ => units::duration(text.strip_prefix("wait ")?).map(super::OnNoReplica::Wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_keys() {
        for (key, expect) in [
            ("pool.szie", Some("pool.size")),
            ("size", Some("pool.size")),
            ("routing.max_lag", Some("cluster.max_lag")),
            ("listen.adresses", Some("listen.addresses")),
            ("poll", Some("pool")),
            ("node", Some("nodes")),
            ("zebra", None),
        ] {
            assert_eq!(nearest(key).as_deref(), expect, "{key}");
        }
    }

    #[test]
    fn values_of_each_kind() {
        for (text, expect) in [
            ("pool.size = 0", Some("0 … a whole number from 1")),
            ("pool.size = 5", None),
            ("pool.size = 5.5", Some("5.5 … a whole number from 1")),
            ("pool.mode = 'statement'", Some("\"statement\" … \"transaction\" or \"session\"")),
            ("pool = 5", Some("5 … a table, [pool]")),
            (
                "listen.addresses = '127.0.0.1:1'",
                Some("\"127.0.0.1:1\" … a list of addresses such as [\"127.0.0.1:6432\"]"),
            ),
            ("listen.addresses = ['localhost:1', '[::1]:2']", None),
            (
                "listen.addresses = ['nonsense']",
                Some("[\"nonsense\"] … a list of addresses such as [\"127.0.0.1:6432\"]"),
            ),
            ("nodes = [5]", Some("a number … a URL or a table")),
            ("nodes = 'postgres://a:b@c'", Some("a text … a list of URLs or tables, [[nodes]]")),
            ("auth.users = [{name = 'a', password = 5}]", Some("a number … a text in quotes")),
            ("routing.on_no_replica = 'wait 2s'", None),
            ("routing.on_no_replica = 'wait'", Some("\"wait\" … \"primary\", \"error\", or \"wait 2s\"")),
            ("cluster.max_lag = 5", Some("5 … a duration such as \"250ms\", \"5s\", \"10min\" or \"1h\"")),
        ] {
            let found = check(&text.parse().unwrap()).err().map(|finding| match finding.wrong {
                Wrong::Value { found, expected } => format!("{found} … {expected}"),
                Wrong::Unknown => "unknown".to_owned(),
            });
            assert_eq!(found.as_deref(), expect, "{text}");
        }
    }
}
