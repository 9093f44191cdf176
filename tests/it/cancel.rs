//! A cancel reaches the statement that its session runs now, and nothing else. Ctrl-C in psql and PQcancel are this
//! request; the drivers' own ways are tried in clients.rs.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::harness::front;
use crate::harness::raw::{RawSession, say, sqlstate};
use crate::harness::wait;

const LONG: &str = "SELECT pg_sleep(62)";

#[tokio::test]
async fn a_cancel_ends_the_running_statement_with_57014() {
    let front = front::with(&[("pool.size", "2")]).await;
    let session = front.connect("app").await;
    for sql in [
        LONG,
        "/* pgweir: replica */ SELECT pg_sleep(62)",
        "SELECT pg_sleep(62) FROM numbers",
        "DO $$ BEGIN PERFORM pg_sleep(62); END $$",
        "BEGIN; SELECT pg_sleep(62)",
    ] {
        let token = session.cancel_token();
        let started = Instant::now();
        let cancel = async {
            wait::until("the statement runs", || async { sleepers(&front.cluster, "pg_sleep(62)").await == 1 }).await;
            token.cancel_query(NoTls).await.expect("the cancel is taken");
        };
        let (outcome, ()) = tokio::join!(session.simple_query(sql), cancel);
        let code = outcome.expect_err("it was cancelled").code().map(|code| code.code().to_string());
        assert_eq!(code.as_deref(), Some("57014"), "{sql}");
        assert!(started.elapsed() < Duration::from_secs(25));
        session.batch_execute("ROLLBACK").await.expect("the session lives on");
        assert_eq!(session.value("SELECT 'alive'").await, "alive");
    }
}

/// PostgreSQL signals the process that the session was told of, which has nothing to do while a replica reads for it.
#[tokio::test]
async fn pg_cancel_backend_reaches_a_read_wherever_it_runs() {
    let front = front::with(&[]).await;
    let mut session = RawSession::log_in(front.port(), "app");
    let mut other = RawSession::log_in(front.port(), "app");
    if front.proxy().is_some() {
        // Else it waits for what the last cancel may have left on the primary.
        session.query("SET pgweir.consistency = 'eventual'");
    }
    let pid = session.pid.to_string();
    let bound = [say::bind("", "", &[Some(pid.as_bytes())], &[]), say::execute("", 0), say::sync()].concat();
    let cancels = [
        say::query(&format!("SELECT pg_cancel_backend({pid})")),
        [say::parse("", "SELECT pg_cancel_backend($1)", &[23]), bound].concat(),
    ];
    let mut on_replicas = 0;
    let replicas =
        || front.proxy().map(|proxy| proxy.metrics().sum("pgweir_transactions_total", &[("route", "replica")]));
    for request in cancels.iter().cycle().take(20) {
        let before = replicas();
        while front.proxy().is_some() && replicas() == before {
            session.query("SELECT count(*) FROM numbers");
            // What reads leave in the log of an idle primary is not flushed for long, and replicas seem behind.
            front.cluster.primary.ask("SELECT txid_current()").await;
            wait::pace(Duration::from_millis(20)).await;
        }
        session.send(&say::query("SELECT pg_sleep(0.864) FROM numbers"));
        wait::until("the statement runs", || async { sleepers(&front.cluster, "pg_sleep(0.864)").await == 1 }).await;
        let active =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(0.8%'";
        on_replicas += usize::from(front.cluster.primary.ask(active).await == "0");
        other.send(request);
        assert_eq!(other.read_until(b'D').last().map(|row| row.columns()), Some(vec![Some("t".to_owned())]));
        other.read_until(b'Z');
        let answer = session.read_until(b'Z');
        assert_eq!(sqlstate(&answer).as_deref(), Some("57014"), "{answer:?}");
        assert_eq!(session.value("SELECT 'alive'"), "alive");
        if on_replicas == 2 || front.proxy().is_none() {
            return;
        }
    }
    panic!("of 20 reads {on_replicas} were on a replica");
}

/// A session may run elsewhere than in the process that it was told of, if that one is lent to another.
#[tokio::test]
async fn pg_cancel_backend_reaches_a_session_that_is_not_at_home() {
    let front = front::with(&[("pool.size", "2")]).await;
    let [mut one, _two, mut third] = [(); 3].map(|()| RawSession::log_in(front.port(), "app"));
    third.query("BEGIN");
    third.send(&say::query("SELECT pg_sleep(5.731)"));
    wait::until("the statement runs", || async { sleepers(&front.cluster, "pg_sleep(5.731)").await == 1 }).await;
    one.query(&format!("SELECT pg_cancel_backend({})", third.pid));
    let answer = third.read_until(b'Z');
    assert_eq!(sqlstate(&answer).as_deref(), Some("57014"), "{answer:?}");
}

/// Statements that sleep, on any node.
/// Of a text that no other test sends: they share the cluster.
async fn sleepers(cluster: &crate::harness::Cluster, sleep: &str) -> i64 {
    let mut sum = 0;
    let count =
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND strpos(query, '{sleep}') > 0");
    for node in cluster.nodes() {
        sum += node.ask(&count).await.parse::<i64>().expect("a number");
    }
    sum
}

#[tokio::test]
async fn a_cancel_with_a_wrong_key_does_nothing() {
    let front = front::with(&[]).await;
    let mut session = RawSession::log_in(front.port(), "app");
    session.send(&say::query("SELECT pg_sleep(0.5), 'slept'"));
    wait::until("the statement runs", || async { sleepers(&front.cluster, "pg_sleep(0.5)").await == 1 }).await;
    let mut wrong = session.secret.clone();
    wrong[0] ^= 1;
    for (pid, secret) in [(session.pid, wrong), (session.pid ^ 0x10_0000, session.secret.clone()), (0, vec![0; 4])] {
        let mut cancel = RawSession::connect(front.port());
        cancel.send(&say::cancel_request(pid, &secret));
        assert!(cancel.read_to_end().is_empty(), "a cancel is never answered");
    }
    let answer = session.read_until(b'Z');
    assert_eq!(sqlstate(&answer), None, "{answer:?}");
}

/// Ctrl-C ends a program in its transaction; psycopg's own test looks for its process in pg_stat_activity afterwards.
#[tokio::test]
async fn who_cancelled_a_statement_and_leaves_takes_the_server_process_along() {
    let front = front::with(&[]).await;
    let mut session = RawSession::log_in(front.port(), "admin");
    session.query("BEGIN");
    session.send(&[say::parse("", LONG, &[]), say::bind("", "", &[], &[]), say::execute("", 0), say::sync()].concat());
    wait::until("the statement runs", || async { sleepers(&front.cluster, "pg_sleep(62)").await == 1 }).await;
    let mut cancel = RawSession::connect(front.port());
    cancel.send(&say::cancel_request(session.pid, &session.secret));
    assert_eq!(sqlstate(&session.read_until(b'Z')), Some("57014".into()));
    session.query("ROLLBACK");
    let here = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {}", session.pid);
    assert_eq!(front.cluster.primary.ask(&here).await, "1");
    session.send(&say::terminate());
    session.read_to_end();
    wait::until("the process is gone", || async { front.cluster.primary.ask(&here).await == "0" }).await;
}

#[tokio::test]
async fn a_cancel_of_an_idle_session_spares_what_comes_next_and_who_comes_next() {
    let front = front::with(&[("pool.size", "1")]).await;
    let mut idle = RawSession::log_in(front.port(), "app");
    let mut other = RawSession::log_in(front.port(), "app");
    for round in 0..50 {
        idle.query("SELECT 1");
        let mut cancel = RawSession::connect(front.port());
        cancel.send(&say::cancel_request(idle.pid, &idle.secret));
        assert!(cancel.read_to_end().is_empty());
        let answer = other.query("SELECT count(*) FROM numbers a, numbers b");
        assert_eq!(sqlstate(&answer), None, "round {round}: {answer:?}");
    }
}

/// A CancelRequest that arrived while its statement waited for a server connection was lost, and the statement ran on.
#[tokio::test]
async fn a_statement_that_waits_for_a_connection_is_cancelled_like_one_that_runs() {
    let front = front::with(&[("pool.size", "1")]).await;
    let Some(proxy) = front.proxy() else { return };
    let mut holder = RawSession::log_in(front.port(), "app");
    holder.query("BEGIN; CREATE TEMP TABLE held ()");
    let mut waiting = RawSession::log_in(front.port(), "app");
    let pipeline =
        |sql| [say::parse("", sql, &[]), say::bind("", "", &[], &[]), say::execute("", 0), say::sync()].concat();
    for request in [say::query("CREATE TABLE never ()"), pipeline("CREATE TABLE never ()")] {
        waiting.send(&request);
        // A cancel that came before the statement would be for nothing, as with PostgreSQL itself.
        wait::until("the statement waits", || async {
            proxy.metrics().sum("pgweir_pool_waiting_sessions", &[("user", "app")]) == 1.0
        })
        .await;
        let mut cancel = RawSession::connect(front.port());
        cancel.send(&say::cancel_request(waiting.pid, &waiting.secret));
        assert!(cancel.read_to_end().is_empty(), "a cancel is never answered");
        let answer = waiting.read_until(b'Z');
        assert_eq!(sqlstate(&answer).as_deref(), Some("57014"), "{answer:?}");
    }
    holder.query("ROLLBACK");
    assert_eq!(sqlstate(&waiting.query("SELECT 1 / (1 - count(*)) FROM pg_class WHERE relname = 'never'")), None);
}

/// The sleep ran on a replica, and was answered as if nothing had happened.
#[tokio::test]
async fn a_session_that_was_told_its_process_ends_with_it() {
    let front = front::with(&[]).await;
    let mut session = RawSession::log_in(front.port(), "app");
    let process = session.value("SELECT pg_backend_pid()");
    session.send(&say::query("SELECT pg_sleep(61)"));
    wait::until("the statement runs", || async { sleepers(&front.cluster, "pg_sleep(61)").await == 1 }).await;
    front.cluster.primary.ask(&format!("SELECT pg_terminate_backend({process})")).await;
    assert_eq!(sqlstate(&session.read_to_end()).as_deref(), Some("57P01"));
}

#[tokio::test]
async fn every_session_has_a_key_of_its_own() {
    let front = front::shared().await;
    let keys: std::collections::HashSet<(u32, Vec<u8>)> = (0..20)
        .map(|_| RawSession::log_in(front.port(), "app"))
        .collect::<Vec<_>>()
        .iter()
        .map(|session| (session.pid, session.secret.clone()))
        .collect();
    assert_eq!(keys.len(), 20);
}

#[tokio::test]
async fn a_statement_timeout_is_the_sessions_own() {
    let front = front::with(&[("pool.size", "1")]).await;
    let (hasty, patient) = (front.connect("app").await, front.connect("app").await);
    hasty.batch_execute("SET statement_timeout = '100ms'").await.expect("a setting");
    for _ in 0..3 {
        assert_eq!(hasty.sqlstate("SELECT pg_sleep(30)").await, "57014");
        assert_eq!(patient.value("SELECT 'slept' FROM pg_sleep(0.3)").await, "slept");
    }
}
