//! `pgweir explain`: what would become of a statement, and why, without running it. Also judges a file of cases. It
//! needs one node, the primary, and no proxy. `main` calls it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::catalog::builtin;
use crate::catalog::loader;
use crate::catalog::{Catalog, query};
use crate::cluster::dial::Dial;
use crate::config::{NodeConfig, RoutingConfig};
use crate::sql::{Act, Effect, Lexis, Reason, TransactionModes, Verdict, cache::VerdictCache};

/// What to explain.
pub enum Question {
    Statement(String),
    Cases(std::path::PathBuf),
}

/// Where to ask, and how connections are opened.
pub type Nodes<'a> = (&'a [NodeConfig], &'a dyn Dial);

/// The answer for one statement in a session's state.
struct Route {
    replica: Replica,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replica {
    May,
    MayNot,
}

/// `nodes` are tried in order until one is a primary.
pub async fn run((nodes, dial): Nodes<'_>, routing: &RoutingConfig, question: Question) -> anyhow::Result<ExitCode> {
    let catalog = catalog((nodes, dial), routing).await?;
    match question {
        Question::Statement(sql) => {
            let route = Session::default().route(&sql, &catalog);
            println!("{}\t{}", if route.replica == Replica::May { "replica" } else { "primary" }, route.reason);
            Ok(ExitCode::SUCCESS)
        }
        Question::Cases(path) => cases(&path, &catalog),
    }
}

/// Prints the list of built-ins of a node's version, from its own catalog and the reviewed rules.
pub async fn builtins(nodes: Nodes<'_>) -> anyhow::Result<String> {
    let client = primary(nodes).await?;
    let rows = query::fetch(&client).await?;
    let functions = rows.functions.iter().filter(|f| f.oid < crate::catalog::tree::FIRST_USER);
    Ok(builtin::list(
        functions.map(|f| (f.name.as_str(), f.signature.as_str(), f.volatility.chars().next().unwrap_or('v'))),
    ))
}

async fn primary((nodes, dial): Nodes<'_>) -> anyhow::Result<tokio_postgres::Client> {
    let mut failures = Vec::new();
    for node in nodes {
        match connect(node, dial).await {
            Ok(client) => return Ok(client),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!("no node is a primary that can be reached: {}", failures.join("; "))
}

async fn connect(node: &NodeConfig, dial: &dyn Dial) -> anyhow::Result<tokio_postgres::Client> {
    let client = dial.dial(node).await.with_context(|| node.name.clone())?;
    loader::prepare(&client).await?;
    let in_recovery: bool = client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
    if in_recovery {
        bail!("{} is a replica", node.name);
    }
    Ok(client)
}

async fn catalog(nodes: Nodes<'_>, routing: &RoutingConfig) -> anyhow::Result<Catalog> {
    let client = primary(nodes).await?;
    let mut catalog = loader::read(&client, routing, crate::sql::proof::catalog).await?;
    catalog.version = 1;
    Ok(catalog)
}

/// What of a session's past decides about its next statement.
#[derive(Default)]
struct Session {
    /// Why its reads stay on the primary.
    held: Option<String>,
    lexis: Option<Lexis>,
    transaction: Option<TransactionModes>,
}

impl Session {
    fn verdict(&self, sql: &str, catalog: &Catalog) -> Verdict {
        let mut cache = VerdictCache::new(1 << 20, 256 << 10);
        (*cache.verdict(sql.as_bytes(), catalog, self.lexis.unwrap_or(Lexis::Standard))).clone()
    }

    /// Takes note of what an earlier statement left behind, as a session without a mirror would: after a SET a replica's
    /// server connection would have to be told first.
    fn ran(&mut self, sql: &str, catalog: &Catalog) {
        let verdict = self.verdict(sql, catalog);
        for act in verdict.acts {
            match act {
                Act::Begin(modes) | Act::SetTransaction(modes) => self.transaction = Some(modes),
                Act::Commit { chain: false } | Act::Rollback { chain: false } | Act::PrepareTransaction => {
                    self.transaction = None
                }
                Act::Commit { chain: true } | Act::Rollback { chain: true } => {}
                Act::Set { name, value } => {
                    if name == "standard_conforming_strings" && matches!(value.as_str(), "off" | "false" | "no" | "0") {
                        self.lexis = Some(Lexis::Unusual);
                    }
                    self.hold(&format!("the session has set {name}"));
                }
                Act::Reset { .. } | Act::ResetAll | Act::DiscardAll | Act::DeallocateAll | Act::Deallocate { .. } => {}
                Act::Ddl | Act::Sequence | Act::Terminate => {}
                Act::LastSequence | Act::Audit | Act::Pin(_) => {
                    self.hold("the session holds what lives in its server process")
                }
            }
        }
    }

    fn hold(&mut self, why: &str) {
        self.held.get_or_insert_with(|| why.to_owned());
    }

    fn route(&self, sql: &str, catalog: &Catalog) -> Route {
        let verdict = self.verdict(sql, catalog);
        let primary = |reason: String| Route { replica: Replica::MayNot, reason };
        let read_only = self.transaction.is_none_or(|modes| modes.read_only == Some(true));
        match (verdict.effect, &self.held) {
            (Effect::Read, Some(why)) => primary(why.clone()),
            (Effect::Read, None) if !read_only => primary("in a transaction that may write".to_owned()),
            (Effect::Read, None) => Route { replica: Replica::May, reason: Reason::Read.to_string() },
            _ => primary(verdict.reason.to_string()),
        }
    }
}

/// One line of a file of cases.
struct Case<'a> {
    sql: String,
    context: &'a str,
    before: String,
    expected: &'a str,
}

#[derive(Default)]
struct Tally {
    cases: usize,
    /// Would reach a replica although it must not.
    unsafe_: usize,
    offloaded: usize,
    replica_ok: usize,
}

fn cases(path: &Path, catalog: &Catalog) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let column = |name: &str| header.iter().position(|c| *c == name).with_context(|| format!("no column \"{name}\""));
    let (sql, context, before, expected) = (column("sql")?, column("context")?, column("before")?, column("expected")?);
    let mut tally = Tally::default();
    for line in lines.filter(|l| !l.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        let case = Case {
            sql: unescape(field(sql)),
            context: field(context),
            before: unescape(field(before)),
            expected: field(expected),
        };
        judge(&case, catalog, &mut tally);
    }
    let Tally { cases, unsafe_, offloaded, replica_ok } = tally;
    let missed = replica_ok - offloaded;
    println!("{:>24} {:>8} {:>8}", "expected", "replica", "primary");
    println!("{:>24} {offloaded:>8} {missed:>8}", "replica-ok");
    println!("{:>24} {unsafe_:>8} {:>8}", "anything else", cases - replica_ok - unsafe_);
    println!("cases {cases} unsafe {unsafe_} offloaded {offloaded} of {replica_ok}");
    Ok(if unsafe_ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(case: &Case<'_>, catalog: &Catalog, tally: &mut Tally) {
    let mut session = Session::default();
    match case.context {
        "in_read_only_tx" => session.ran("BEGIN READ ONLY", catalog),
        "in_read_committed_tx" => session.ran("BEGIN", catalog),
        _ => {}
    }
    if !case.before.is_empty() {
        session.ran(&case.before, catalog);
    }
    let route = session.route(&case.sql, catalog);
    let replica_ok = case.expected == "replica-ok";
    tally.cases += 1;
    tally.replica_ok += usize::from(replica_ok);
    match (replica_ok, route.replica) {
        (true, Replica::May) => tally.offloaded += 1,
        (false, Replica::MayNot) => {}
        (true, Replica::MayNot) => println!("missed\t{}\t{}", case.sql.escape_debug(), route.reason),
        (false, Replica::May) => {
            tally.unsafe_ += 1;
            println!("UNSAFE\t{}\texpected {}: {}", case.sql.escape_debug(), case.expected, route.reason);
        }
    }
}

/// `\\`, `\t` and `\n` of a file of cases.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('t') => out.push('\t'),
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (c, false) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_cases_are_undone() {
        assert_eq!(unescape(r"a\\b\tc\nd"), "a\\b\tc\nd");
    }
}
