//! Pure: `postgres://user:password@host:port/database?sslmode=…` as libpq reads it → nodes.
//! `--node` and the file's `nodes` come through here. What we cannot honour is refused by name, never skipped.

use std::path::PathBuf;

use super::{NodeConfig, NodeTls, Secret};

/// A URL says all of a node; several hosts in one URL are several nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeUrl {
    pub nodes: Vec<NodeConfig>,
    /// Whether the URL itself named a database; clients are then served that one.
    pub database: Option<String>,
}

/// What the URL says, before the defaults.
#[derive(Default)]
struct Parts {
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<String>,
    ports: Vec<String>,
    database: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
}

/// Reads one URL. The error never repeats the URL, for it may hold a password.
pub fn parse(url: &str) -> Result<NodeUrl, String> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("is no node URL; one looks like postgres://app:secret@db1:5432/app")?;
    let mut parts = Parts::default();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) =
                credentials.split_once(':').map_or((credentials, None), |(user, password)| (user, Some(password)));
            parts.user = not_empty(decode(user)?);
            parts.password = password.map(decode).transpose()?.and_then(not_empty);
            hosts
        }
        None => authority,
    };
    read_hosts(hosts, &mut parts)?;
    parts.database = not_empty(decode(path)?);
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("has a parameter without value: {pair}"))?;
        read_parameter(&decode(name)?, decode(value)?, &mut parts)?;
    }
    finish(parts)
}

fn not_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `%41` → `A`. A broken escape is refused, as libpq does.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = rest.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let value = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = value.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(0) => return Err("has a forbidden %00".to_owned()),
            Some(value) => bytes.push(value),
            None => return Err("has a % that two hexadecimal digits do not follow; write % itself as %25".to_owned()),
        }
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "has percent-encoded bytes that are not UTF-8".to_owned())
}

fn read_hosts(hosts: &str, parts: &mut Parts) -> Result<(), String> {
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        let (name, port) = if let Some(rest) = host.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or("has an IPv6 address without its closing ]")?;
            let port = match rest.strip_prefix(':') {
                Some(port) => port,
                None if rest.is_empty() => "",
                None => return Err("has something between ] and the port".to_owned()),
            };
            address.parse::<std::net::Ipv6Addr>().map_err(|_| format!("has no IPv6 address in [{address}]"))?;
            (address.to_owned(), port)
        } else {
            let (name, port) = host.split_once(':').unwrap_or((host, ""));
            if port.contains(':') {
                return Err("has an IPv6 address without brackets; write [::1]:5432".to_owned());
            }
            (decode(name)?, port)
        };
        parts.hosts.push(name);
        parts.ports.push(port.to_owned());
    }
    Ok(())
}

fn read_parameter(name: &str, value: String, parts: &mut Parts) -> Result<(), String> {
    let split = |value: &str| value.split(',').map(str::to_owned).collect();
    match name {
        "host" | "hostaddr" => parts.hosts = split(&value),
        "port" => parts.ports = split(&value),
        "user" => parts.user = not_empty(value),
        "password" => parts.password = not_empty(value),
        "dbname" => parts.database = not_empty(value),
        "sslmode" => parts.sslmode = Some(value),
        "sslrootcert" => parts.sslrootcert = not_empty(value),
        // What these ask for is what we do anyway.
        "channel_binding" if value == "prefer" => {}
        "gssencmode" if value == "disable" || value == "prefer" => {}
        "sslnegotiation" if value == "postgres" => {}
        "connect_timeout" => return Err("sets connect_timeout; use the key `pool.connect_timeout`".to_owned()),
        "target_session_attrs" | "load_balance_hosts" => {
            return Err(format!("sets {name}; leave it out: pgweir finds the nodes' roles and spreads reads itself"));
        }
        "application_name" | "options" | "client_encoding" => {
            return Err(format!("sets {name}; leave it out: each client's own is used"));
        }
        "sslcert" | "sslkey" | "sslpassword" => {
            return Err(format!("sets {name}; client certificates towards nodes are not supported"));
        }
        _ => return Err(format!("has the parameter {name}, which pgweir does not know")),
    }
    Ok(())
}

/// The node's TLS mode as libpq names it; `root` is a file of certificates that we trust.
pub fn tls_mode(sslmode: &str, root: Option<&str>) -> Result<NodeTls, String> {
    let root = root.filter(|root| !root.is_empty()).map(PathBuf::from);
    let needs = |mode: &str| format!("{mode} needs the file of trusted certificates (sslrootcert)");
    Ok(match (sslmode, root) {
        ("disable", _) => NodeTls::Disable,
        ("prefer" | "allow", _) => NodeTls::Prefer,
        ("require", None) => NodeTls::Require,
        // libpq: if a root certificate file exists, require behaves like verify-ca.
        ("require" | "verify-ca", Some(root)) => NodeTls::VerifyCa { root },
        ("verify-full", Some(root)) => NodeTls::VerifyFull { root },
        (mode @ ("verify-ca" | "verify-full"), None) => return Err(needs(mode)),
        (other, _) => {
            return Err(format!("{other:?} is no sslmode: disable, prefer, require, verify-ca or verify-full"));
        }
    })
}

fn finish(parts: Parts) -> Result<NodeUrl, String> {
    let user = parts.user.ok_or("names no user; one looks like postgres://app:secret@db1:5432/app")?;
    let tls = tls_mode(parts.sslmode.as_deref().unwrap_or("prefer"), parts.sslrootcert.as_deref())?;
    let hosts = if parts.hosts.is_empty() { vec!["localhost".to_owned()] } else { parts.hosts };
    if parts.ports.len() > 1 && parts.ports.len() != hosts.len() {
        return Err("names a different number of hosts and ports".to_owned());
    }
    let mut nodes = Vec::with_capacity(hosts.len());
    for (i, host) in hosts.into_iter().enumerate() {
        let port = parts.ports.get(i).or(parts.ports.first()).map_or("", String::as_str);
        let port = match port {
            "" => 5432,
            text => text.parse().ok().filter(|port| *port > 0).ok_or(format!("has no port number in {text:?}"))?,
        };
        let host = if host.is_empty() { "localhost".to_owned() } else { host };
        nodes.push(NodeConfig {
            name: node_name(&host, port),
            host,
            port,
            user: user.clone(),
            password: parts.password.clone().map(Secret::from),
            database: parts.database.clone().unwrap_or_else(|| "postgres".to_owned()),
            weight: 1,
            tls: tls.clone(),
        });
    }
    Ok(NodeUrl { nodes, database: parts.database })
}

/// `host:port`, with brackets where the host has colons.
pub fn node_name(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> NodeConfig {
        let mut url = parse(url).unwrap();
        assert_eq!(url.nodes.len(), 1);
        url.nodes.remove(0)
    }

    #[test]
    fn whole_url() {
        let node = one("postgres://app:s%40cr%3Aet@db1:5433/shop?sslmode=disable");
        assert_eq!((node.user.as_str(), node.password.as_deref()), ("app", Some("s@cr:et")));
        assert_eq!((node.host.as_str(), node.port, node.database.as_str()), ("db1", 5433, "shop"));
        assert_eq!((node.name.as_str(), node.tls), ("db1:5433", NodeTls::Disable));
    }

    #[test]
    fn what_is_left_out_has_libpqs_defaults() {
        let url = parse("postgresql://app@db1").unwrap();
        assert_eq!(url.database, None);
        assert_eq!((url.nodes[0].port, url.nodes[0].database.as_str()), (5432, "postgres"));
        assert_eq!((url.nodes[0].password.as_deref(), &url.nodes[0].tls), (None, &NodeTls::Prefer));
        assert_eq!(one("postgres://app@/x").host, "localhost");
    }

    #[test]
    fn unix_sockets_and_ipv6() {
        let node = one("postgres://app@%2Fvar%2Frun%2Fpostgresql:5433/app");
        assert_eq!((node.host.as_str(), node.port), ("/var/run/postgresql", 5433));
        let node = one("postgres:///app?host=/run/pg&port=5434&user=app");
        assert_eq!((node.host.as_str(), node.port, node.user.as_str()), ("/run/pg", 5434, "app"));
        let node = one("postgres://app@[2001:db8::1]:6000/app");
        assert_eq!((node.host.as_str(), node.name.as_str()), ("2001:db8::1", "[2001:db8::1]:6000"));
        assert_eq!(one("postgres://app@[::1]").port, 5432);
    }

    #[test]
    fn many_hosts_are_many_nodes() {
        let names: Vec<_> =
            parse("postgres://a:b@db1,db2:5433,[::1]/x").unwrap().nodes.into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["db1:5432", "db2:5433", "[::1]:5432"]);
    }

    #[test]
    fn tls_parameters() {
        let root = PathBuf::from("/ca.pem");
        for (query, expect) in [
            ("sslmode=require", NodeTls::Require),
            ("sslmode=require&sslrootcert=/ca.pem", NodeTls::VerifyCa { root: root.clone() }),
            ("sslmode=verify-full&sslrootcert=%2Fca.pem", NodeTls::VerifyFull { root }),
            ("sslmode=allow", NodeTls::Prefer),
        ] {
            assert_eq!(one(&format!("postgres://a@b/c?{query}")).tls, expect, "{query}");
        }
    }

    #[test]
    fn refusals_name_the_cause_and_not_the_password() {
        for (url, expect) in [
            ("mysql://a:geheim@b", "is no node URL; one looks like postgres://app:secret@db1:5432/app"),
            ("postgres://db1/app", "names no user; one looks like postgres://app:secret@db1:5432/app"),
            ("postgres://a:geheim@b:x/c", "has no port number in \"x\""),
            ("postgres://a:geheim@b:0/c", "has no port number in \"0\""),
            ("postgres://a:geheim@b:70000/c", "has no port number in \"70000\""),
            ("postgres://a:geheim%@b/c", "has a % that two hexadecimal digits do not follow; write % itself as %25"),
            (
                "postgres://a:geheim@b/c?sslmode=yes",
                "\"yes\" is no sslmode: disable, prefer, require, verify-ca or verify-full",
            ),
            (
                "postgres://a:geheim@b/c?sslmode=verify-full",
                "verify-full needs the file of trusted certificates (sslrootcert)",
            ),
            ("postgres://a:geheim@b/c?schema=public", "has the parameter schema, which pgweir does not know"),
            ("postgres://a:geheim@::1/c", "has an IPv6 address without brackets; write [::1]:5432"),
            ("postgres://a:geheim@[::1/c", "has an IPv6 address without its closing ]"),
            ("postgres://a:geheim@b/c?connect_timeout=3", "sets connect_timeout; use the key `pool.connect_timeout`"),
        ] {
            assert_eq!(parse(url).unwrap_err(), expect);
        }
    }
}
