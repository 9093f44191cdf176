//! The command line: arguments and `PGWEIR_…` variables → a command and its `ConfigSource`. main calls `Cli::run`; each
//! command has a file of its own. Nothing else reads arguments or the environment.

pub mod check;
pub mod demo;
pub mod explain;
pub mod health;
pub mod run;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigSource, Override};

/// A read/write-splitting PostgreSQL proxy: reads go to the replicas, writes to the primary, and a session always reads
/// its own writes.
#[derive(Debug, Parser)]
#[command(name = "pgweir", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Try it without any set-up:  pgweir demo\n\
    In front of your own servers:  pgweir run --node postgres://app:secret@db1:5432/app --node postgres://app:secret@db2:5432/app")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Run(RunArgs),
    /// Validate the configuration, connect to every node and report its role, lag, version and differing settings
    Check(ConfigArgs),
    /// Tell where a statement would run, and why
    Explain(ExplainArgs),
    /// Start a throw-away primary with streaming replicas, pgweir in front, and a mixed load
    Demo(DemoArgs),
    /// Ask a running pgweir whether it is alive (for container health checks)
    Health(HealthArgs),
    /// Print the allow-list of built-in functions of a server's version, for src/catalog/builtin
    #[command(hide = true)]
    Builtins(ConfigArgs),
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where its metrics and health are served
    #[arg(short, long, value_name = "ADDRESS", env = "PGWEIR_ADMIN", default_value = "127.0.0.1:9632")]
    pub admin: SocketAddr,
    /// Ask whether it is ready for clients, not only alive
    #[arg(long, env = "PGWEIR_READY")]
    pub ready: bool,
}

/// Where the configuration comes from.
#[derive(Debug, Default, Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML); config/pgweir.toml documents every key
    #[arg(short, long, value_name = "FILE", env = "PGWEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// A PostgreSQL server; repeat it for each. Which one is the primary is found out. Its user may log in to pgweir
    /// with the same password; a URL without a database serves every database. Replaces the file's nodes.
    /// In the variable, URLs are separated by spaces
    #[arg(
        short,
        long = "node",
        value_name = "URL",
        env = "PGWEIR_NODE",
        value_delimiter = ' ',
        hide_env_values = true
    )]
    pub nodes: Vec<String>,
    /// Set any key of the configuration, e.g. --set pool.size=50; each key also has a variable, e.g. PGWEIR_POOL_SIZE=50
    #[arg(short, long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub sets: Vec<(String, String)>,
}

#[derive(Debug, Default, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
    /// Where clients connect; repeat it for more addresses [default: 127.0.0.1:6432]
    #[arg(short, long, value_name = "ADDRESS", env = "PGWEIR_LISTEN", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// Metrics, health and dashboard, or "off" [default: 127.0.0.1:9632]
    #[arg(short, long, value_name = "ADDRESS", env = "PGWEIR_ADMIN")]
    pub admin: Option<String>,
}

#[derive(Debug, Default, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
    /// The statement
    #[arg(value_name = "SQL", required_unless_present = "cases")]
    pub sql: Option<String>,
    /// A file of cases (TSV with the columns sql, context, before, role, expected): prints each disagreement and a
    /// summary, and exits with 1 if any case that is not replica-ok would reach a replica
    #[arg(long, value_name = "FILE", env = "PGWEIR_CASES", conflicts_with = "sql")]
    pub cases: Option<PathBuf>,
    /// The database whose catalog is read [default: the node's]
    #[arg(short, long, value_name = "NAME", env = "PGWEIR_DATABASE")]
    pub database: Option<String>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// PostgreSQL's binaries (initdb, postgres, pg_basebackup); found by itself where packages install them
    #[arg(long, value_name = "DIR", env = "PGWEIR_POSTGRES")]
    pub postgres: Option<PathBuf>,
    /// How many streaming replicas
    #[arg(long, value_name = "N", env = "PGWEIR_REPLICAS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: u16,
    /// How many clients make the load
    #[arg(long, value_name = "N", env = "PGWEIR_CLIENTS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub clients: u16,
    /// Make no load
    #[arg(long, env = "PGWEIR_NO_LOAD")]
    pub no_load: bool,
    /// Stop by itself after so many seconds
    #[arg(long, value_name = "N", env = "PGWEIR_SECONDS")]
    pub seconds: Option<u64>,
    /// Where clients connect [default: 127.0.0.1:6432, or any free port where that is taken]
    #[arg(short, long, value_name = "ADDRESS", env = "PGWEIR_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Metrics, health and dashboard [default: 127.0.0.1:9632, likewise]
    #[arg(short, long, value_name = "ADDRESS", env = "PGWEIR_ADMIN")]
    pub admin: Option<SocketAddr>,
}

impl DemoArgs {
    fn options(self) -> demo::DemoOptions {
        demo::DemoOptions {
            postgres: self.postgres,
            replicas: self.replicas,
            clients: if self.no_load { 0 } else { self.clients },
            seconds: self.seconds,
            listen: self.listen,
            admin: self.admin,
        }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("needs KEY=VALUE, e.g. pool.size=50")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => {
                let source = args.source();
                run::run(source.load()?, source)
            }
            Command::Check(args) => {
                let config = args.source().load()?;
                let dial = crate::proxy::dial(&config)?;
                on_runtime(check::run_with(&config, dial))
            }
            Command::Explain(args) => {
                let mut config = args.source.source().load()?;
                for node in &mut config.nodes {
                    node.database = args.database.clone().unwrap_or_else(|| node.database.clone());
                }
                let question = match (args.cases, args.sql) {
                    (Some(file), _) => explain::Question::Cases(file),
                    (None, sql) => explain::Question::Statement(sql.unwrap_or_default()),
                };
                let dial = crate::proxy::dial(&config)?;
                on_runtime(explain::run((&config.nodes, &*dial), &config.routing, question))
            }
            Command::Demo(args) => on_runtime(demo::run(args.options())),
            Command::Builtins(args) => {
                let config = args.source().load()?;
                let dial = crate::proxy::dial(&config)?;
                on_runtime(async {
                    print!("{}", explain::builtins((&config.nodes, &*dial)).await?);
                    Ok(ExitCode::SUCCESS)
                })
            }
            Command::Health(args) => {
                let path = if args.ready { "/readyz" } else { "/healthz" };
                health::health(args.admin, path, Duration::from_secs(3))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn on_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

impl ConfigArgs {
    /// All that was said, for loading now and at each reload.
    pub fn source(self) -> ConfigSource {
        let overrides =
            self.sets.into_iter().map(|(key, value)| Override { origin: format!("--set {key}"), key, value });
        // A variable that is set but empty means nothing.
        let nodes = self.nodes.into_iter().filter(|url| !url.is_empty()).collect();
        ConfigSource {
            file: self.config.filter(|file| !file.as_os_str().is_empty()),
            nodes,
            overrides: overrides.collect(),
        }
    }
}

impl RunArgs {
    pub fn source(self) -> ConfigSource {
        let mut source = self.source.source();
        let mut flag = |origin: &str, key: &str, value: String| {
            source.overrides.push(Override { origin: origin.to_owned(), key: key.to_owned(), value });
        };
        if !self.listen.is_empty() {
            flag("--listen", "listen.addresses", self.listen.join(","));
        }
        if let Some(address) = self.admin {
            flag("--admin", "admin.address", address);
        }
        source
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"pgweir").chain(args))
    }

    #[test]
    fn is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_without_a_file() {
        let args = [
            "run",
            "--listen",
            "127.0.0.1:6432",
            "--admin",
            "off",
            "--node",
            "postgres://a:b@db1/x",
            "--node",
            "postgres://a:b@db2/x",
            "--set",
            "pool.size=50",
        ];
        let Command::Run(run) = parse(&args).unwrap().command else { panic!("not run") };
        let source = run.source();
        assert_eq!(source.nodes, ["postgres://a:b@db1/x", "postgres://a:b@db2/x"]);
        let config = source.load_with(&|_| None, &[]).unwrap();
        assert_eq!((config.pool.size, config.nodes.len(), config.admin.address), (50, 2, None));
        assert_eq!(config.databases, ["x"]);
    }

    #[test]
    fn explain_needs_a_statement_or_cases() {
        assert!(parse(&["explain", "SELECT 1"]).is_ok());
        assert!(parse(&["explain", "--cases", "x.tsv"]).is_ok());
        assert!(parse(&["explain"]).is_err());
        assert!(parse(&["explain", "--cases", "x.tsv", "SELECT 1"]).is_err());
        assert!(parse(&["run", "--set", "pool.size"]).unwrap_err().to_string().contains("needs KEY=VALUE"));
    }

    #[test]
    fn every_flag_has_a_variable() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "set")) {
                let expected = arg.get_env().map(|name| name.to_string_lossy().starts_with("PGWEIR_"));
                assert_eq!(expected, Some(true), "{} {arg}", command.get_name());
            }
        }
    }
}
