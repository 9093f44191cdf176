//! Tests of loading: the shipped files, the error texts that people see, precedence, secrets.

use std::time::Duration;

use super::super::{AuthMethod, OnNoReplica, PoolMode};
use super::*;

/// A file that lives as long as the test.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> File {
        let mut name = [0; 8];
        getrandom::fill(&mut name).unwrap();
        let path = std::env::temp_dir().join(format!("pgweir-{:x}.toml", u64::from_ne_bytes(name)));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn load(text: &str, env: &[(&str, &str)], sets: &[(&str, &str)]) -> Result<Config, String> {
    let file = File::new(text);
    let overrides = sets.iter().map(|(key, value)| Override {
        origin: format!("--set {key}"),
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    });
    let source = ConfigSource { file: Some(file.0.clone()), nodes: Vec::new(), overrides: overrides.collect() };
    let outside = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let names: Vec<String> = env.iter().map(|(name, _)| (*name).to_owned()).collect();
    let shown = file.0.display().to_string();
    source.load_with(&outside, &names).map_err(|error| error.to_string().replace(&shown, "F"))
}

fn from_urls(urls: &[&str]) -> Result<Config, String> {
    let nodes = urls.iter().map(|url| (*url).to_owned()).collect();
    let source = ConfigSource { nodes, ..ConfigSource::default() };
    source.load_with(&|_| None, &[]).map_err(|error| error.to_string())
}

const NODES: &str = "nodes = ['postgres://app:secret@db1/app']\n";

#[test]
fn the_reference_file_is_the_defaults() {
    let config = load(include_str!("../../config/pgweir.toml"), &[], &[]).unwrap();
    assert_eq!(config.nodes.len(), 2);
    assert_eq!((config.nodes[0].name.as_str(), config.nodes[1].name.as_str()), ("db1", "db2.example:5432"));
    let mut expect = Config { nodes: config.nodes.clone(), ..Config::default() };
    expect.auth.users = config.auth.users.clone();
    assert_eq!(expect.auth.users.len(), 1);
    assert_eq!(config, expect);
}

#[test]
fn the_reference_file_names_every_key() {
    let text = include_str!("../../config/pgweir.toml");
    for (key, _) in schema::KEYS {
        let name = key.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{name} =")) || text.contains(&format!("[[{key}]]")), "{key} is not documented");
    }
}

#[test]
fn the_minimal_file_works_and_is_short() {
    let text = include_str!("../../config/pgweir.minimal.toml");
    assert_eq!(text.lines().count(), 3);
    let config = load(text, &[], &[]).unwrap();
    assert_eq!(config.nodes.len(), 2);
    assert_eq!((config.auth.users[0].name.as_str(), config.auth.users[0].password.as_deref()), ("app", Some("secret")));
    assert!(config.databases.is_empty());
}

#[test]
fn every_key_of_the_schema_is_read() {
    // serde lists the fields that it knows when it meets one that it does not.
    for section in ["listen", "admin", "pool", "routing", "cluster", "limits", "auth", "client_tls", "log"] {
        let table: Table = format!("[{section}]\nxyzzy = 1").parse().unwrap();
        let error = serde_path_to_error::deserialize::<_, Raw>(Value::Table(table)).unwrap_err().to_string();
        for (key, _) in schema::KEYS.iter().filter(|(key, _)| key.split('.').next() == Some(section)) {
            let name = key.split('.').nth(1).unwrap();
            assert!(error.contains(&format!("`{name}`")), "{key} is not a field: {error}");
        }
        let known = schema::KEYS.iter().filter(|(key, _)| key.split('.').next() == Some(section));
        let known = known.filter(|(key, _)| key.split('.').count() == 2).count();
        // Beside the fields, the unknown one and the section stand in quotes.
        assert_eq!(error.matches('`').count() / 2 - 2, known, "{section} has a field that the schema lacks: {error}");
    }
}

#[test]
fn errors_name_file_line_column_key_and_remedy() {
    for (text, expect) in [
        ("[pool]\nszie = 5", "F:2:1: unknown key `pool.szie`; did you mean `pool.size`?"),
        ("nodes = []\n[poll]\nsize = 5", "F:2:2: unknown key `poll`; did you mean `pool`?"),
        ("size = 5", "F:1:1: unknown key `size`; did you mean `pool.size`?"),
        ("[zebra]\na = 1", "F:1:2: unknown key `zebra`"),
        ("[pool]\n  size = \"many\"", "F:2:3: `pool.size` is \"many\", expected a whole number from 1"),
        (
            "[pool]\nmode = \"statement\"",
            "F:2:1: `pool.mode` is \"statement\", expected \"transaction\" or \"session\"",
        ),
        (
            "[cluster]\nmax_lag = \"5 sec\"",
            "F:2:1: `cluster.max_lag` is \"5 sec\", expected a duration such as \"250ms\", \"5s\", \"10min\" or \"1h\"",
        ),
        (
            "[[nodes]]\nhost = \"a\"\n[[nodes]]\nport = 70000",
            "F:4:1: `nodes[1].port` is 70000, expected a port, 1 to 65535",
        ),
        ("[[nodes]]\nhots = \"a\"", "F:2:1: unknown key `nodes[0].hots`; did you mean `nodes.host`?"),
        ("nodes = ['postgres://app:geheim@db1:x/app']", "F:1:10: `nodes[0]` has no port number in \"x\""),
        (
            "[[nodes]]\nhost = 'a'",
            "F:1:1: `nodes[0].user` is missing, and auth.users lists nobody whose name could be used",
        ),
        (
            "[[auth.users]]\nname = 'a'\n[[nodes]]\nhost = 'a'",
            "F:1:1: `auth.users[0].password` is missing; nobody could log in. Give one, or set auth.method = \"trust\"",
        ),
        (
            "[[auth.users]]\nname = 'a'\npassword = 'md562af4dd09bbb41884907a838a3233294'",
            "F:3:1: `auth.users[0].password` is an md5 hash, which the method scram-sha-256 cannot check; set \
             auth.method = \"md5\"",
        ),
        (
            "[[auth.users]]\nname = 'a'\npassword = '${NOT_SET}'",
            "F:3:1: `auth.users[0].password` names the environment variable NOT_SET, which is not set",
        ),
        (
            "nodes = ['postgres://a:b@c/d']\n[client_tls]\nmode = 'require'",
            "F:2:2: `client_tls.certificate` is missing; client_tls.mode needs it",
        ),
        ("nodes = ['postgres://a:b@c/d', 'postgres://a:b@c/e']", "F:1:32: `nodes[1]` names c:5432 a second time"),
        (
            "nodes = ['postgres://a:b@c', 'postgres://a:x@d']",
            "F:1:30: `nodes[1]` gives a another password than a node before it; list auth.users",
        ),
        (
            "nodes = ['postgres://a:b@c']\n[cluster]\nreadmit_lag = '1h'",
            "F:3:1: `cluster.readmit_lag` is more than cluster.max_lag",
        ),
        (
            "[pool]\nsize = 5",
            "F: `nodes` names no PostgreSQL server; give --node postgres://user:password@host:5432/database, or a file \
             with nodes by --config",
        ),
    ] {
        let error = load(text, &[], &[]).unwrap_err();
        assert_eq!(error, expect, "{text}");
        assert!(!error.contains("geheim"));
    }
    let syntax = load("[pool]\nsize = = 5", &[], &[]).unwrap_err();
    assert!(syntax.starts_with("F:2:8: not TOML: "), "{syntax}");
    let missing = ConfigSource { file: Some("/nonexistent/x.toml".into()), ..ConfigSource::default() };
    let error = missing.load_with(&|_| None, &[]).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/x.toml: cannot be read: "), "{error}");
}

#[test]
fn flags_outrank_variables_outrank_the_file() {
    let text = format!("{NODES}[pool]\nsize = 5\nmin_idle = 2\n[routing]\non_no_replica = 'wait 2s'");
    let config =
        load(&text, &[("PGWEIR_POOL_SIZE", "6"), ("PGWEIR_POOL_MIN_IDLE", "3")], &[("pool.size", "7")]).unwrap();
    assert_eq!((config.pool.size, config.pool.min_idle), (7, 3));
    assert_eq!(config.routing.on_no_replica, OnNoReplica::Wait(Duration::from_secs(2)));
}

#[test]
fn flags_of_every_kind() {
    let sets = [
        ("listen.addresses", "127.0.0.1:1, [::1]:2"),
        ("listen.workers", "3"),
        ("admin.address", "off"),
        ("routing.read_functions", "[\"a.b\", \"c\"]"),
        ("routing.hold_back", "1MiB"),
        ("limits.held_request", "4096"),
        ("cluster.max_lag", "1min"),
        ("auth.method", "trust"),
        ("auth.users", "[{name = 'x', password = '12'}]"),
        ("databases", "a,b"),
    ];
    let config = load(NODES, &[], &sets).unwrap();
    assert_eq!((config.listen.addresses.len(), config.listen.workers, config.admin.address), (2, 3, None));
    assert_eq!(config.routing.read_functions, ["a.b", "c"]);
    assert_eq!((config.routing.hold_back, config.limits.held_request), (1 << 20, 4096));
    assert_eq!((config.cluster.max_lag, config.auth.method), (Duration::from_secs(60), AuthMethod::Trust));
    assert_eq!((config.auth.users[0].name.as_str(), config.databases), ("x", vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn errors_name_the_flag_or_the_variable() {
    for (env, sets, expect) in [
        (&[][..], &[("pool.szie", "5")][..], "--set pool.szie: unknown key `pool.szie`; did you mean `pool.size`?"),
        (&[], &[("pool.size", "many")], "--set pool.size: `pool.size` is \"many\", expected a whole number from 1"),
        (&[("PGWEIR_POOL_SIZE", "0")], &[], "PGWEIR_POOL_SIZE: `pool.size` is 0, expected a whole number from 1"),
        (
            &[("PGWEIR_POOL_SISE", "5")],
            &[],
            "environment: unknown key `PGWEIR_POOL_SISE`; did you mean `PGWEIR_POOL_SIZE`?",
        ),
        (&[], &[("nodes.host", "x")], "--set nodes.host: unknown key `nodes.host`"),
        (&[], &[("pool.min_idle", "50")], "--set pool.min_idle: `pool.min_idle` is more than the pool's size"),
    ] {
        let error = load(NODES, env, sets).unwrap_err();
        assert!(error.starts_with(expect), "{error}");
    }
    // Kubernetes sets these for a service of our name.
    let foreign = [("PGWEIR_SERVICE_HOST", "10.0.0.1"), ("PGWEIR_PORT", "tcp://10.0.0.1:6432")];
    assert!(load(NODES, &foreign, &[]).is_ok());
}

#[test]
fn urls_alone() {
    let config = from_urls(&["postgres://app:secret@db1/app", "postgres://app:secret@db2/app"]).unwrap();
    assert_eq!((config.databases, config.auth.users.len()), (vec!["app".to_owned()], 1));
    // One URL without a database: every database is served.
    let config = from_urls(&["postgres://app:secret@db1/app", "postgres://app:secret@db2"]).unwrap();
    assert_eq!(config.databases, Vec::<String>::new());
    let config = from_urls(&["postgres://app@db1"]).unwrap();
    assert_eq!(config.auth.users[0].password, None);
    assert_eq!(
        from_urls(&["postgres://db1"]).unwrap_err(),
        "--node: `nodes[0]` names no user; one looks like postgres://app:secret@db1:5432/app"
    );
    assert_eq!(
        from_urls(&[]).unwrap_err(),
        "`nodes` names no PostgreSQL server; give --node postgres://user:password@host:5432/database, or a file with \
         nodes by --config"
    );
}

#[test]
fn secrets_come_from_elsewhere_and_stay_hidden() {
    let secret = File::new("from the file\n");
    let text = format!(
        "nodes = ['postgres://app:${{PW}}@db1']\n[[auth.users]]\nname = 'a'\npassword_file = '{}'\n\
         [[auth.users]]\nname = 'b'\npassword_env = 'PW'\n[[auth.users]]\nname = 'c'\npassword = 'x${{PW}}y'",
        secret.0.display()
    );
    let config = load(&text, &[("PW", "geheim")], &[]).unwrap();
    let passwords: Vec<_> = config.auth.users.iter().map(|user| user.password.as_deref().unwrap()).collect();
    assert_eq!(passwords, ["from the file", "geheim", "xgeheimy"]);
    assert_eq!(config.nodes[0].password.as_deref(), Some("geheim"));
    assert!(!format!("{config:?}").contains("geheim"));
    let twice = "[[auth.users]]\nname = 'a'\npassword = 'x'\npassword_env = 'PW'";
    assert_eq!(
        load(twice, &[("PW", "geheim")], &[]).unwrap_err(),
        "F:3:1: `auth.users[0].password` is given more than once; keep one of password, password_file, password_env"
    );
}

#[test]
fn overrides_of_pools_start_from_the_pool() {
    let text = format!("{NODES}[pool]\nsize = 5\n[[pool_overrides]]\nuser = 'batch'\nmode = 'session'");
    let config = load(&text, &[], &[]).unwrap();
    let other = &config.pool_overrides[0];
    assert_eq!((other.user.as_deref(), other.database.as_deref()), (Some("batch"), None));
    assert_eq!((other.pool.mode, other.pool.size), (PoolMode::Session, 5));
    let text = format!("{NODES}[[pool_overrides]]\nsize = 3");
    assert_eq!(load(&text, &[], &[]).unwrap_err(), "F:2:1: `pool_overrides[0]` names neither a database nor a user");
}

#[test]
fn a_node_as_a_table() {
    let text = "[[auth.users]]\nname = 'app'\npassword = 'pw'\n[[nodes]]\nhost = 'a'\nweight = 3\n\
                [[nodes]]\nurl = 'postgres://x:y@b:1/z'\nname = 'bee'\nsslmode = 'disable'";
    let nodes = load(text, &[], &[]).unwrap().nodes;
    assert_eq!((nodes[0].user.as_str(), nodes[0].password.as_deref(), nodes[0].weight), ("app", Some("pw"), 3));
    assert_eq!((nodes[1].name.as_str(), nodes[1].port, nodes[1].database.as_str()), ("bee", 1, "z"));
    assert_eq!(nodes[1].tls, super::super::NodeTls::Disable);
}
