//! Everything has a limit, and at the limit a clear error that names it.

use std::time::{Duration, Instant};

use crate::harness::front;
use crate::harness::raw::{RawSession, say, sqlstate};
use crate::harness::{Session, wait};

#[tokio::test]
async fn a_full_pool_answers_53300_and_names_itself() {
    let front = front::with(&[("pool.size", "1"), ("pool.checkout_timeout", "\"400ms\"")]).await;
    if front.proxy().is_none() {
        return;
    }
    let holder = front.connect("app").await;
    holder.batch_execute("BEGIN; INSERT INTO scribble (who) VALUES ('holder')").await.expect("a transaction");
    let mut waiting = RawSession::log_in(front.port(), "app");
    let started = Instant::now();
    let answer = waiting.query("INSERT INTO scribble (who) VALUES ('waiting')");
    assert_eq!(sqlstate(&answer).as_deref(), Some("53300"), "{answer:?}");
    assert!(started.elapsed() >= Duration::from_millis(350), "it waited first: {:?}", started.elapsed());
    let message = answer.iter().find_map(|message| message.field(b'M')).expect("a message");
    for part in ["app", "primary"] {
        assert!(message.contains(part), "the pool is named: {message}");
    }
    assert_eq!(answer.last().map(|message| message.tag), Some(b'Z'), "the session lives on");
    // The same in the extended protocol, within a pipeline.
    waiting.send(
        &[
            say::parse("", "INSERT INTO scribble (who) VALUES ('x')", &[]),
            say::bind("", "", &[], &[]),
            say::execute("", 0),
            say::sync(),
        ]
        .concat(),
    );
    assert_eq!(sqlstate(&waiting.read_until(b'Z')).as_deref(), Some("53300"));
    holder.batch_execute("ROLLBACK").await.expect("the transaction ends");
    assert_eq!(sqlstate(&waiting.query("INSERT INTO scribble (who) VALUES ('waiting')")), None);
}

#[tokio::test]
async fn who_waits_for_the_pool_is_served_in_turn() {
    let front = front::with(&[("pool.size", "1")]).await;
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..20 {
        let url = front.url("app");
        sessions.spawn(async move {
            let session = Session::open(&url).await.expect("a login");
            for _ in 0..10 {
                session
                    .batch_execute("BEGIN; INSERT INTO scribble (who) VALUES ('turn'); COMMIT")
                    .await
                    .expect("a turn");
            }
            number
        });
    }
    while let Some(ended) = wait::in_time("every session has its turns", sessions.join_next()).await {
        ended.expect("it had its turns");
    }
}

#[tokio::test]
async fn too_many_clients_are_told_53300() {
    let front = front::with(&[("limits.clients", "3")]).await;
    if front.proxy().is_none() {
        return;
    }
    let held: Vec<RawSession> = (0..3).map(|_| RawSession::log_in(front.port(), "app")).collect();
    let mut refused = RawSession::connect(front.port());
    let _ = refused.try_send(&say::startup((3, 0), &[("user", "app"), ("database", "app")]));
    let answer = refused.read_to_end();
    assert_eq!(sqlstate(&answer).as_deref(), Some("53300"), "{answer:?}");
    drop(held);
    wait::until("there is room again", || async { Session::open(&front.url("app")).await.is_ok() }).await;
}

#[tokio::test]
async fn a_pool_never_opens_more_server_connections_than_its_size() {
    let front = front::with(&[("pool.size", "3")]).await;
    if front.proxy().is_none() {
        return;
    }
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..30 {
        // A user of no other test, so that every connection of its is this proxy's.
        let url = front.url("streamer");
        sessions.spawn(async move {
            let session = Session::open(&url).await.expect("a login");
            for _ in 0..5 {
                session.batch_execute("BEGIN; SELECT pg_sleep(0.01); COMMIT").await.expect("a transaction");
            }
        });
    }
    let mut most = 0;
    while !sessions.is_empty() {
        let count = front.cluster.primary.ask("SELECT count(*) FROM pg_stat_activity WHERE usename = 'streamer'").await;
        most = most.max(count.parse::<usize>().expect("a number"));
        while let Some(ended) = sessions.try_join_next() {
            ended.expect("the session ended well");
        }
    }
    assert!((1..=3).contains(&most), "{most} server connections at once");
}

#[tokio::test]
async fn idle_server_connections_are_closed_in_time() {
    let front = front::with(&[("pool.idle_timeout", "\"300ms\"")]).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("app").await;
    session.value("/* pgweir: primary */ SELECT 'idle now'").await;
    let pid = front
        .cluster
        .primary
        .ask("SELECT pid FROM pg_stat_activity WHERE query LIKE '%''idle now''%' AND pid <> pg_backend_pid()")
        .await;
    wait::until("the idle connection is closed", || async {
        front.cluster.primary.ask(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).await == "0"
    })
    .await;
    assert_eq!(session.value("SELECT 'alive'").await, "alive");
}

#[tokio::test]
async fn a_server_connection_that_was_terminated_is_not_given_to_anyone() {
    let front = front::with(&[("pool.size", "1")]).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("app").await;
    for _ in 0..5 {
        // Not pg_backend_pid(): a session that asks for it keeps that server connection.
        assert_eq!(session.value("/* pgweir: primary */ SELECT 'terminate me'").await, "terminate me");
        let terminated = front
            .cluster
            .primary
            .ask("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE query LIKE '%''terminate me''%' AND pid <> pg_backend_pid()")
            .await;
        assert_ne!(terminated, "0");
        assert_eq!(session.value("/* pgweir: primary */ SELECT 'alive'").await, "alive", "a fresh one, and no error");
    }
}

#[tokio::test]
async fn a_shutdown_lets_transactions_end() {
    let front = front::with(&[("limits.shutdown_timeout", "\"20s\"")]).await;
    let Some(proxy) = front.proxy() else { return };
    let session = front.connect("app").await;
    session.batch_execute("BEGIN; INSERT INTO scribble (who) VALUES ('last')").await.expect("a transaction");
    proxy.signal("TERM");
    wait::until("nobody new is let in", || async { Session::open(&front.url("app")).await.is_err() }).await;
    session.batch_execute("COMMIT").await.expect("the transaction may end");
    wait::until("the process ends", || async { !proxy.is_running() }).await;
    assert_ne!(front.cluster.primary.ask("SELECT count(*) FROM scribble WHERE who = 'last'").await, "0");
}
