//! Replicas are killed, frozen, restarted and made to conflict every few seconds under 32 clients of reads in all protocols:
//! whatever happens to a replica is nobody's business but pgweir's. PGWEIR_IT_SECONDS makes it run longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Error;
use tokio_postgres::types::Type;

use crate::harness::cluster::Node;
use crate::harness::front::{self, Front};
use crate::harness::{Session, Stop, wait};

const CLIENTS: i32 = 32;

const SETTINGS: &[(&str, &str)] = &[
    ("cluster.probe_interval", "\"100ms\""),
    ("cluster.probe_timeout", "\"1s\""),
    ("cluster.readmit_after", "\"200ms\""),
    ("routing.read_stall_timeout", "\"500ms\""),
];

const READ: &str = "SELECT name FROM numbers WHERE id = $1";
/// Long enough to be met by a conflict.
const SLOW: &str = "SELECT name FROM numbers, (SELECT count(*) FROM generate_series(1, 20000)) c WHERE id = $1";

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    reads: AtomicU64,
    errors: AtomicU64,
}

/// A row read in one of the ways.
async fn read(session: &Session, way: i32, id: i32) -> Result<Vec<String>, Error> {
    let typed = |sql, id| async move { Ok(session.query_typed(sql, &[(id, Type::INT4)]).await?[0].get(0)) };
    let prepared = |sql, id| async move { Ok(session.query_one(sql, &[id]).await?.get(0)) };
    let simple = || async { session.try_value(&format!("SELECT name FROM numbers WHERE id = {id}")).await };
    Ok(match way {
        0 => vec![simple().await?],
        1 => vec![typed(READ, &id).await?],
        2 => vec![prepared(READ, &id).await?],
        3 => vec![typed(SLOW, &id).await?],
        4 => {
            session.batch_execute("BEGIN READ ONLY").await?;
            let both = vec![simple().await?, prepared(READ, &id).await?];
            session.batch_execute("COMMIT").await?;
            both
        }
        _ => {
            let (a, b, c, d) = tokio::join!(simple(), typed(READ, &id), prepared(READ, &id), typed(SLOW, &id));
            vec![a?, b?, c?, d?]
        }
    })
}

async fn client(session: Session, tally: Arc<Tally>, number: i32) {
    let mut id = number * 31;
    while !tally.stop.load(Ordering::Relaxed) {
        id = id % 1000 + 1;
        let way = (number + id) % 6;
        match tokio::time::timeout(wait::PATIENCE, read(&session, way, id)).await {
            Ok(Ok(names)) => {
                assert!(names.iter().all(|name| *name == format!("number {id}")), "way {way}, {id}: {names:?}");
                tally.reads.fetch_add(names.len() as u64, Ordering::Relaxed);
            }
            Ok(Err(error)) => {
                println!("client {number}, way {way}: {error:?}");
                tally.errors.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(_) => {
                println!("client {number}, way {way}: no answer");
                tally.errors.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

async fn server_process(replica: &Node) -> Option<u32> {
    let active = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY state = 'active' DESC LIMIT 1";
    replica.ask(active).await.parse().ok()
}

/// One misfortune of a replica.
async fn strike(front: &Front, round: usize) {
    let replica = &front.cluster.replicas[round / 2 % 2];
    let pause = || wait::pace(Duration::from_millis(1500));
    let on_primary = |sql| front.cluster.primary.run_in("app", sql);
    match round % 9 {
        0 => {
            replica.kill9();
            pause().await;
            replica.start().await;
        }
        1 => on_primary("BEGIN; LOCK TABLE numbers IN ACCESS EXCLUSIVE MODE; COMMIT").await,
        2 => {
            replica.freeze();
            pause().await;
            replica.thaw();
        }
        3 => {
            replica.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'").await;
        }
        4 => {
            replica.stop(Stop::Fast).await;
            replica.start().await;
        }
        5 => {
            on_primary("UPDATE numbers SET half = half").await;
            on_primary("VACUUM numbers").await;
        }
        6 => {
            if let Some(pid) = server_process(replica).await {
                replica.kill_one("-STOP", pid);
                pause().await;
                pause().await;
                replica.kill_one("-CONT", pid);
            }
        }
        // The server takes this for a crash, ends all its processes and recovers.
        7 => {
            if let Some(pid) = server_process(replica).await {
                replica.kill_one("-KILL", pid);
            }
        }
        _ => {
            replica.stop(Stop::Immediate).await;
            pause().await;
            replica.start().await;
        }
    }
}

#[tokio::test]
async fn chaos_among_the_replicas_is_no_error_of_clients() {
    let front = front::alone("chaos", SETTINGS).await;
    let Some(proxy) = front.proxy() else { return };
    for replica in &front.cluster.replicas {
        replica.run_in("postgres", "ALTER SYSTEM SET max_standby_streaming_delay = '50ms'").await;
        replica.run_in("postgres", "SELECT pg_reload_conf()").await;
    }
    let session = front.connect("app").await;
    wait::until("the reads have moved", || async {
        session.value("SELECT name FROM numbers WHERE id = 1").await;
        proxy.metrics().sum("pgweir_transactions_total", &[("route", "replica")]) > 0.0
    })
    .await;
    let tally = Arc::new(Tally::default());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        // One after the other: 32 logins at once take longer than login_timeout on a machine with much else to do.
        clients.spawn(client(front.connect("app").await, tally.clone(), number));
    }
    let seconds = std::env::var("PGWEIR_IT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < until && tally.errors.load(Ordering::Relaxed) == 0 {
        strike(&front, rounds).await;
        rounds += 1;
        wait::pace(Duration::from_millis(500)).await;
    }
    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ran to its end");
    }
    let (reads, errors) = (tally.reads.load(Ordering::Relaxed), tally.errors.load(Ordering::Relaxed));
    let metrics = proxy.metrics();
    let reasons = ["connection_lost", "connect_failed", "shutdown", "recovery_conflict", "stalled", "replica_behind"];
    let retries: Vec<String> = reasons
        .iter()
        .map(|reason| format!("{reason} {}", metrics.sum("pgweir_retries_total", &[("reason", reason)])))
        .collect();
    println!("{rounds} strikes, {reads} reads, {errors} errors; asked elsewhere: {}", retries.join(", "));
    assert_eq!(errors, 0, "0 errors at the clients");
}
