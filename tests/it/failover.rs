//! Nodes die and come back. A replica's death is nobody's business but ours; a primary's ends what was being written, and
//! writes go on with the next one. Each test has a cluster of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::cluster::Cluster;
use crate::harness::front::{self, Front};
use crate::harness::{Session, Stop, wait};

/// Quick to notice, so that the tests are.
const QUICK: &[(&str, &str)] = &[
    ("cluster.probe_interval", "\"100ms\""),
    ("cluster.probe_timeout", "\"1s\""),
    ("cluster.readmit_after", "\"200ms\""),
];

/// Clients that read until told to stop; any error ends the test.
struct Readers {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    clients: tokio::task::JoinSet<()>,
}

impl Readers {
    fn start(front: &Front) -> Readers {
        let mut readers = Readers { stop: Arc::default(), reads: Arc::default(), clients: tokio::task::JoinSet::new() };
        for client in 0..8i32 {
            let (url, stop, reads) = (front.url("app"), readers.stop.clone(), readers.reads.clone());
            readers.clients.spawn(async move {
                let session = Session::open(&url).await.expect("a login");
                let named = session.prepare("SELECT name FROM numbers WHERE id = $1").await.expect("it is prepared");
                let mut id = client;
                while !stop.load(Ordering::Relaxed) {
                    id = id % 1000 + 1;
                    let name: String = if client % 2 == 0 {
                        session.query_one(&named, &[&id]).await.expect("a prepared read").get(0)
                    } else {
                        session
                            .try_value(&format!("SELECT name FROM numbers WHERE id = {id}"))
                            .await
                            .expect("a simple read")
                    };
                    assert_eq!(name, format!("number {id}"));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        readers
    }

    /// So many more reads were answered.
    async fn go_on(&self, count: u64) {
        let goal = self.reads.load(Ordering::Relaxed) + count;
        wait::until("the reads go on", || async { self.reads.load(Ordering::Relaxed) >= goal }).await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("0 errors at the clients");
        }
    }
}

#[tokio::test]
async fn replicas_die_and_come_back_and_no_client_sees_an_error() {
    let front = front::alone("replicas", QUICK).await;
    let readers = Readers::start(&front);
    readers.go_on(500).await;
    for (number, replica) in front.cluster.replicas.iter().enumerate() {
        replica.kill9();
        readers.go_on(500).await;
        replica.start().await;
        readers.go_on(500).await;
        replica.stop(if number == 0 { Stop::Fast } else { Stop::Immediate }).await;
        readers.go_on(500).await;
        replica.start().await;
        readers.go_on(500).await;
    }
    // Both at once: the primary answers.
    front.cluster.replicas[0].stop(Stop::Immediate).await;
    front.cluster.replicas[1].kill9();
    readers.go_on(500).await;
    front.cluster.replicas[0].start().await;
    front.cluster.replicas[1].start().await;
    readers.go_on(500).await;
    readers.end().await;
    if front.proxy().is_some() {
        let session = front.connect("traced").await;
        wait::until("replicas are used again", || async {
            session.value("SELECT /* returned */ name FROM numbers WHERE id = 1").await;
            let [_, one, two] = front.runs_of("returned");
            one > 0 && two > 0
        })
        .await;
    }
}

#[tokio::test]
async fn terminated_replica_sessions_are_no_errors_of_clients() {
    let front = front::alone("terminated", QUICK).await;
    let readers = Readers::start(&front);
    for _ in 0..10 {
        for replica in &front.cluster.replicas {
            replica.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'").await;
            readers.go_on(50).await;
        }
    }
    readers.end().await;
}

#[tokio::test]
async fn reads_go_on_while_there_is_no_primary() {
    let front = front::alone("headless", QUICK).await;
    let Some(proxy) = front.proxy() else { return };
    let readers = Readers::start(&front);
    // Until the catalog is loaded nothing is proven to be a read, and the primary's death would be an error.
    wait::until("the reads have moved", || async {
        let moved = proxy.metrics().sum("pgweir_transactions_total", &[("route", "replica")]);
        moved > 1000.0 && proxy.metrics().sum("pgweir_client_connections", &[]) >= 8.0
    })
    .await;
    readers.go_on(1000).await;
    front.cluster.primary.kill9();
    readers.go_on(1000).await;
    front.cluster.primary.start().await;
    readers.go_on(500).await;
    readers.end().await;
    let session = front.connect("app").await;
    wait::until("writes go on", || async {
        session.batch_execute("UPDATE kv SET value = 5 WHERE id = 5").await.is_ok()
    })
    .await;
    assert_eq!(session.value("SELECT value FROM kv WHERE id = 5").await, "5");
}

#[tokio::test]
async fn after_a_promotion_writes_resume_and_nothing_acknowledged_is_lost() {
    let front = front::alone("promotion", QUICK).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("app").await;
    for id in 50_001..=50_050 {
        session.batch_execute(&format!("INSERT INTO kv VALUES ({id}, 1)")).await.expect("it is written");
    }
    front.cluster.wait_for_replay().await;
    front.cluster.primary.kill9();
    let [heir, other] = &front.cluster.replicas;
    heir.promote().await;
    other.stop(Stop::Fast).await;
    other.follow(heir);
    other.start().await;

    // The session survives its server connection; a write whose outcome is unknown is an error, a later one succeeds.
    wait::until("writes resume", || async { session.batch_execute("INSERT INTO kv VALUES (50051, 1)").await.is_ok() })
        .await;
    assert_eq!(session.value("SELECT count(*) FROM kv WHERE id > 50000").await, "51");
    for value in 2..200 {
        session.batch_execute(&format!("UPDATE kv SET value = {value} WHERE id = 50051")).await.expect("it is written");
        assert_eq!(session.value("SELECT value FROM kv WHERE id = 50051").await, value.to_string());
    }
    assert_eq!(heir.ask("SELECT value FROM kv WHERE id = 50051").await, "199", "the new primary has it");
    assert_eq!(other.ask("SELECT pg_is_in_recovery()").await, "t");
}

/// The old primary comes back as if nothing had happened: the younger timeline wins, and nothing is written to the old one.
#[tokio::test]
async fn an_old_primary_that_returns_gets_no_writes() {
    let front = front::alone("returned", QUICK).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("app").await;
    session.batch_execute("INSERT INTO kv VALUES (60000, 1)").await.expect("it is written");
    front.cluster.wait_for_replay().await;
    front.cluster.primary.kill9();
    front.cluster.replicas[0].promote().await;
    wait::until("writes resume", || async { session.batch_execute("INSERT INTO kv VALUES (60001, 1)").await.is_ok() })
        .await;
    front.cluster.primary.start().await;
    for id in 60_002..60_050 {
        session.batch_execute(&format!("INSERT INTO kv VALUES ({id}, 1)")).await.expect("it is written");
        assert_eq!(session.value(&format!("SELECT count(*) FROM kv WHERE id = {id}")).await, "1");
    }
    assert_eq!(
        front.cluster.primary.ask("SELECT count(*) FROM kv WHERE id > 60000").await,
        "0",
        "nothing came to the old one"
    );
    assert_eq!(front.cluster.replicas[0].ask("SELECT count(*) FROM kv WHERE id > 60000").await, "49");
}

/// A promotion that the old primary never hears of: it runs on, takes connections, and would acknowledge what is lost.
#[tokio::test]
async fn nothing_reaches_an_old_primary_that_nobody_fenced() {
    let front = front::alone("unfenced", QUICK).await;
    if front.proxy().is_none() {
        return;
    }
    let [old, heir, _] = front.cluster.nodes();
    let (writer, holder, other) = (front.connect("app").await, front.connect("app").await, front.connect("app").await);
    writer.batch_execute("BEGIN; INSERT INTO kv VALUES (70001, 1)").await.expect("it is written");
    holder.batch_execute("SELECT pg_advisory_lock(7)").await.expect("it is locked");
    front.cluster.wait_for_replay().await;
    heir.promote().await;
    wait::until("writes reach the new primary", || async {
        let wrote = other.batch_execute("INSERT INTO kv VALUES (70002, 1) ON CONFLICT DO NOTHING").await;
        wrote.is_ok() && heir.ask("SELECT count(*) FROM kv WHERE id = 70002").await == "1"
    })
    .await;
    let before = old.ask("SELECT count(*) FROM kv WHERE id > 70000").await;
    // Both kept a connection to the old one: the block and the lock are lost, with an error.
    let lost = writer.batch_execute("COMMIT").await.expect_err("the block is lost");
    assert!(lost.is_closed() || lost.code().is_some_and(|code| code.code().starts_with("08")), "{lost:?}");
    holder.try_value("SELECT pg_advisory_unlock(7)").await.expect_err("the lock is lost");
    let writer = front.connect("app").await;
    for id in 70_003..70_020 {
        writer.batch_execute(&format!("INSERT INTO kv VALUES ({id}, 1)")).await.expect("it is written");
    }
    assert_eq!(old.ask("SELECT count(*) FROM kv WHERE id > 70000").await, before, "nothing more came to the old one");
    assert_eq!(heir.ask("SELECT count(*) FROM kv WHERE id > 70000").await, "18");
}

/// A primary that dies under a write: the client is told that nobody knows, and never that it worked when it did not.
#[tokio::test]
async fn a_write_whose_primary_dies_is_an_error_and_not_repeated() {
    let front = front::alone("unknown", QUICK).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("app").await;
    let write = "INSERT INTO scribble (who, note) SELECT 'once', pg_sleep(60)::text";
    let death = async {
        wait::until("the write runs", || async {
            front.cluster.primary.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'").await == "1"
        })
        .await;
        front.cluster.primary.kill9();
    };
    let (outcome, ()) = tokio::join!(session.simple_query(write), death);
    let code = outcome.expect_err("the outcome is unknown").code().map(|code| code.code().to_string());
    assert!(matches!(code.as_deref(), Some("08007" | "08006" | "57P01")), "{code:?}");
    front.cluster.primary.start().await;
    wait::until("writes go on", || async {
        session.batch_execute("UPDATE kv SET value = 6 WHERE id = 6").await.is_ok()
    })
    .await;
    assert_eq!(session.value("SELECT count(*) FROM scribble WHERE who = 'once'").await, "0");
}

/// A replica over max_lag is left out until it is back.
#[tokio::test]
async fn a_lagging_replica_is_left_out_and_returns() {
    let mut settings = QUICK.to_vec();
    settings.extend([("cluster.max_lag", "\"800ms\""), ("cluster.readmit_lag", "\"400ms\"")]);
    let front = front::alone("lagging", &settings).await;
    let Some(proxy) = front.proxy() else { return };
    let (session, writer) = (front.connect("traced").await, front.connect("app").await);
    wait::until("both replicas are in use", || async {
        proxy.metrics().sum("pgweir_node_health", &[("health", "healthy")]) == 3.0
    })
    .await;
    front.cluster.replicas[0].pause_replay().await;
    wait::until("the lag is seen", || async {
        writer.batch_execute("UPDATE kv SET value = value + 1 WHERE id = 9").await.expect("a write");
        proxy.metrics().sum("pgweir_replica_lag_seconds", &[("node", "replica1")]) > 1.0
    })
    .await;
    let evicted =
        || async { proxy.metrics().sum("pgweir_node_health", &[("node", "replica1"), ("health", "lagging")]) == 1.0 };
    wait::until("it is evicted", evicted).await;
    for _ in 0..100 {
        session.value("SELECT /* while-lagging */ name FROM numbers WHERE id = 1").await;
    }
    assert_eq!(front.runs_of("while-lagging")[1], 0, "no read goes to the lagging one");
    front.cluster.replicas[0].resume_replay().await;
    wait::until("it is used again", || async {
        session.value("SELECT /* after-lagging */ name FROM numbers WHERE id = 1").await;
        front.runs_of("after-lagging")[1] > 0
    })
    .await;
}

/// A replica that stood still already when pgweir started: nobody knows since when, but not why it should be called down.
#[tokio::test]
async fn a_replica_that_lagged_before_the_start_is_left_out_as_lagging() {
    let cluster = Arc::new(Cluster::start("behind").await);
    cluster.replicas[0].pause_replay().await;
    cluster.primary.run_in("app", "UPDATE kv SET value = 1 WHERE id = 9").await;
    let mut settings = QUICK.to_vec();
    settings.extend([("cluster.max_lag", "\"800ms\""), ("cluster.readmit_lag", "\"400ms\"")]);
    let front = Front::before(cluster, &settings).await;
    let Some(proxy) = front.proxy() else { return };
    let state = |health| proxy.metrics().sum("pgweir_node_health", &[("node", "replica1"), ("health", health)]);
    wait::until("it is evicted", || async { state("lagging") == 1.0 }).await;
    front.cluster.replicas[0].resume_replay().await;
    wait::until("it is used", || async { state("healthy") == 1.0 }).await;
}

/// A replica that stands still with its connections open: reads that hang there are asked elsewhere, nobody is sent there
/// any more once the probes have noticed, and when it wakes it is used again.
#[tokio::test]
async fn a_frozen_replica_holds_up_no_read() {
    let mut settings = QUICK.to_vec();
    settings.push(("routing.read_stall_timeout", "\"600ms\""));
    let front = front::alone("frozen", &settings).await;
    let Some(proxy) = front.proxy() else { return };
    let readers = Readers::start(&front);
    let reads = |node| proxy.metrics().sum("pgweir_transactions_total", &[("route", "replica"), ("node", node)]);
    // Sessions that read without pause stay where they are, so one replica may have them all.
    let replica = wait::until_some("the reads have moved", || async {
        front.cluster.replicas.iter().find(|replica| reads(replica.name) > 200.0)
    })
    .await;
    replica.freeze();
    wait::until("it is found to be down", || async {
        proxy.metrics().sum("pgweir_node_up", &[("node", replica.name)]) == 0.0
    })
    .await;
    readers.go_on(500).await;
    // Each of them ends, so none hangs on the frozen one.
    wait::in_time("every reader's last read", readers.end()).await;
    assert!(proxy.metrics().sum("pgweir_retries_total", &[("reason", "stalled")]) > 0.0, "reads hung there and moved");
    replica.thaw();
    wait::until("it is found to be up", || async {
        proxy.metrics().sum("pgweir_node_up", &[("node", replica.name)]) == 1.0
    })
    .await;
}

/// One server process stands still in a replica that answers all its probes.
#[tokio::test]
async fn a_frozen_server_process_holds_up_no_read() {
    let mut settings = QUICK.to_vec();
    settings.push(("routing.read_stall_timeout", "\"200ms\""));
    let front = front::alone("process", &settings).await;
    let Some(proxy) = front.proxy() else { return };
    let session = front.connect("app").await;
    let stalled = || proxy.metrics().sum("pgweir_retries_total", &[("reason", "stalled")]);
    wait::until("a read was asked elsewhere", || async {
        for replica in &front.cluster.replicas {
            let pid = replica.ask("SELECT min(pid) FROM pg_stat_activity WHERE usename = 'app'").await;
            if let Ok(pid) = pid.parse() {
                replica.kill_one("-STOP", pid);
            }
        }
        assert_eq!(wait::in_time("a read", session.value("SELECT name FROM numbers WHERE id = 1")).await, "number 1");
        stalled() > 0.0
    })
    .await;
    for replica in &front.cluster.replicas {
        replica.thaw();
    }
}
