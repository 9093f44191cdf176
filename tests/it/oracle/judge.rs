//! Runs a statement on both nodes and holds the classifier against what happened. On the primary it runs twice, each time
//! in a transaction that is rolled back: an answer that is another one the second time says nothing, and whoever was let go
//! to a replica must have left nothing behind. Rows are compared as a multiset.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::TryStreamExt;
use pgweir::catalog::{Catalog, loader};
use pgweir::config::RoutingConfig;
use pgweir::sql::{Effect, classify, proof};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::{Source, Statement};
use crate::harness::Cluster;

/// Where the classifier lets a statement go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    Replica,
    Primary,
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Rows(Vec<String>),
    Refused(String),
}

impl Answer {
    /// It ran out of time.
    fn is_unfinished(&self) -> bool {
        matches!(self, Answer::Refused(error) if error.starts_with("57014"))
    }
}

/// How both nodes answered alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Like {
    Rows,
    Error,
    /// One of them did not come to its end, which says nothing.
    Unfinished,
}

/// The transaction wrote, or left something in the server process.
const TRACES: &str = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL,
    EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    (SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name)) FROM pg_settings WHERE source = 'session')";

pub struct Judge<'a> {
    cluster: &'a Cluster,
    primary: Client,
    replica: Client,
    catalog: Catalog,
    /// What `TRACES` says when nothing happened.
    clean: Answer,
}

impl<'a> Judge<'a> {
    pub async fn new(cluster: &'a Cluster) -> Judge<'a> {
        let primary = session(cluster, 0).await;
        let replica = session(cluster, 1).await;
        let control = cluster.primary.superuser("app").await;
        loader::prepare(&control).await.expect("the control session is prepared");
        let routing = RoutingConfig::default();
        let mut catalog = loader::read(&control, &routing, proof::catalog).await.expect("the catalog is read");
        catalog.version = 1;
        let mut judge = Judge { cluster, primary, replica, catalog, clean: Answer::Rows(Vec::new()) };
        judge.caught_up().await;
        judge.clean = ask(&judge.primary, TRACES).await;
        judge
    }

    /// `server_version_num`.
    pub fn version(&self) -> u32 {
        self.catalog.server_version
    }

    /// A commit brings everything before it to the replicas, aborted transactions' row marks too.
    async fn caught_up(&self) {
        self.primary.batch_execute("INSERT INTO o_beat VALUES (1)").await.expect("a row is written");
        self.cluster.wait_for_replay().await;
    }

    pub async fn hear(&mut self, statement: &Statement, verdicts: &mut Verdicts) {
        let verdict = classify::classify(&statement.sql, &self.catalog);
        let routed = if verdict.effect == Effect::Read { Routed::Replica } else { Routed::Primary };
        let tally = verdicts.by_source.entry(format!("{:?}", statement.source)).or_default();
        tally.statements += 1;
        let mut wrong = |why: &str| {
            let wrong = format!("{why}: {}", statement.sql.escape_debug());
            // A long run shows at once what it found.
            println!("oracle: {wrong}");
            verdicts.wrong.push(wrong);
        };
        if statement.expected.is_some_and(|expected| expected != routed) {
            wrong(&format!("goes to the {routed:?} ({})", verdict.reason));
        }
        let runs = match routed {
            // A COPY among other statements is none that this client can read.
            Routed::Replica => is_copy(&statement.sql) || !statement.sql.contains("COPY "),
            Routed::Primary => statement.may_run && is_query(&statement.sql),
        };
        if !runs {
            tally.not_run += 1;
            return;
        }
        let mut outcome = self.compare(&statement.sql).await;
        if routed == Routed::Replica && outcome.is_err() {
            // Perhaps the replica had not everything yet that the runs before left in the log.
            self.caught_up().await;
            outcome = self.compare(&statement.sql).await;
        }
        if let (Routed::Replica, Err(why)) = (routed, &outcome) {
            wrong(why);
        }
        if outcome == Ok(Like::Unfinished) {
            tally.unfinished += 1;
            return;
        }
        tally.errors += usize::from(outcome == Ok(Like::Error));
        let alike = outcome.is_ok();
        let cell = match (routed, alike) {
            (Routed::Replica, true) => &mut tally.offloaded,
            (Routed::Replica, false) => &mut tally.unsafe_,
            (Routed::Primary, true) => &mut tally.kept,
            (Routed::Primary, false) => &mut tally.rightly_kept,
        };
        *cell += 1;
        if (routed, alike) == (Routed::Primary, true) {
            *verdicts.kept_for.entry(verdict.reason.to_string()).or_default() += 1;
        }
    }

    /// What differs, if anything does.
    async fn compare(&self, sql: &str) -> Result<Like, String> {
        let (first, traces) = self.on_primary(sql).await;
        if traces.is_some_and(|traces| traces != self.clean) {
            return Err("leaves something behind on the primary".to_owned());
        }
        if first.is_unfinished() {
            return Ok(Like::Unfinished);
        }
        self.replica.batch_execute("BEGIN").await.expect("a transaction begins");
        let there = ask(&self.replica, sql).await;
        self.replica.batch_execute("ROLLBACK").await.expect("it is rolled back");
        if first == there {
            return Ok(if matches!(first, Answer::Rows(_)) { Like::Rows } else { Like::Error });
        }
        if there.is_unfinished() {
            return Ok(Like::Unfinished);
        }
        let (second, _) = self.on_primary(sql).await;
        match (&first, &there) {
            (Answer::Rows(_), Answer::Rows(_)) if first != second => Ok(Like::Rows),
            _ => Err(format!("primary {}, replica {}", Short(&first), Short(&there))),
        }
    }

    /// The answer, and what it left behind if it was no error.
    async fn on_primary(&self, sql: &str) -> (Answer, Option<Answer>) {
        self.primary.batch_execute("BEGIN").await.expect("a transaction begins");
        let answer = ask(&self.primary, sql).await;
        let traces = match &answer {
            Answer::Rows(_) => Some(ask(&self.primary, TRACES).await),
            Answer::Refused(_) => None,
        };
        self.primary.batch_execute("ROLLBACK; SELECT pg_advisory_unlock_all()").await.expect("it is rolled back");
        (answer, traces)
    }
}

/// A statement that does not end soon is one of the grammar's many cross joins; all of them would be most of a run.
async fn session(cluster: &Cluster, node: usize) -> Client {
    let client = cluster.nodes()[node].superuser("app").await;
    let settings = "SET statement_timeout = '250ms'; SET client_min_messages = error; SET application_name = 'oracle'";
    client.batch_execute(settings).await.expect("the session is set up");
    client
}

/// What can be rolled back and leaves the server as it was.
fn is_query(sql: &str) -> bool {
    let word = sql.trim_start_matches(['(', ' ']).split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|w| word.eq_ignore_ascii_case(w))
}

fn is_copy(sql: &str) -> bool {
    sql.starts_with("COPY ")
}

async fn ask(client: &Client, sql: &str) -> Answer {
    let rows = if is_copy(sql) { copied(client, sql).await } else { queried(client, sql).await };
    match rows {
        Ok(mut rows) => {
            rows.sort_unstable();
            Answer::Rows(rows)
        }
        Err(error) => Answer::Refused(error.as_db_error().map_or_else(
            || panic!("{sql}: {error:?}"),
            |error| format!("{} {}", error.code().code(), error.message()),
        )),
    }
}

async fn copied(client: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let stream = client.copy_out(sql).await?;
    let chunks: Vec<_> = stream.try_collect().await?;
    Ok(chunks.iter().map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect())
}

async fn queried(client: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let fields = (0..row.len()).map(|at| row.get(at).map_or("∅".to_owned(), str::to_owned));
            Some(fields.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    });
    Ok(rows.collect())
}

struct Short<'a>(&'a Answer);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Answer::Rows(rows) => {
                let text: String = rows.join(";").chars().take(120).collect();
                write!(f, "{} rows [{text}]", rows.len())
            }
            Answer::Refused(error) => write!(f, "[{error}]"),
        }
    }
}

/// The confusion matrix.
#[derive(Default)]
pub struct Verdicts {
    by_source: BTreeMap<String, Tally>,
    kept_for: BTreeMap<String, usize>,
    pub wrong: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    statements: usize,
    offloaded: usize,
    unsafe_: usize,
    kept: usize,
    rightly_kept: usize,
    not_run: usize,
    unfinished: usize,
    /// Both nodes refused it alike; counted among what is alike.
    errors: usize,
}

impl Verdicts {
    /// Of what replicas answer alike, the part that may go there.
    pub fn share(&self) -> f64 {
        let all = self.sum();
        all.offloaded as f64 / (all.offloaded + all.kept).max(1) as f64
    }

    fn sum(&self) -> Tally {
        self.by_source.values().fold(Tally::default(), |sum, t| Tally {
            statements: sum.statements + t.statements,
            offloaded: sum.offloaded + t.offloaded,
            unsafe_: sum.unsafe_ + t.unsafe_,
            kept: sum.kept + t.kept,
            rightly_kept: sum.rightly_kept + t.rightly_kept,
            not_run: sum.not_run + t.not_run,
            unfinished: sum.unfinished + t.unfinished,
            errors: sum.errors + t.errors,
        })
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "                         to a replica      to the primary")?;
        writeln!(f, "           statements    alike   UNSAFE    alike  differs  not run unfinished   errors")?;
        for (name, t) in self.by_source.iter().chain([(&"all".to_owned(), &self.sum())]) {
            let Tally { statements, offloaded, unsafe_, kept, rightly_kept, not_run, unfinished, errors } = t;
            write!(f, "{name:>9} {statements:>11} {offloaded:>8} {unsafe_:>8} {kept:>8}")?;
            writeln!(f, " {rightly_kept:>8} {not_run:>8} {unfinished:>10} {errors:>8}")?;
        }
        writeln!(f, "offload share {:.1} %; what is alike and kept, by reason:", self.share() * 100.0)?;
        let mut kept: Vec<_> = self.kept_for.iter().collect();
        kept.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        kept.iter().take(25).try_for_each(|(reason, count)| writeln!(f, "{count:>8}  {reason}"))
    }
}

impl Source {
    /// Statements of the tests were written for a session of pgweir's, not for being rolled back.
    pub fn may_run(self) -> bool {
        self != Source::Tests
    }
}
