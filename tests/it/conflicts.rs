//! Recovery conflicts over locks, snapshots, buffers, deadlocks, tablespaces and databases, and a replica that takes no more
//! connections: the client gets its answer from another node and hears nothing.

use std::future::Future;

use crate::harness::Session;
use crate::harness::front::{self, Front};
use crate::harness::wait;

/// One after the other on one cluster.
#[tokio::test]
async fn recovery_conflicts_end_no_read() {
    let front = front::alone("conflicts", &[]).await;
    set_on_replicas(&front, &[("max_standby_streaming_delay", "50ms")]).await;
    a_lock_on_the_primary_ends_no_read(&front).await;
    a_vacuum_on_the_primary_ends_no_read(&front).await;
    a_pinned_buffer_ends_no_read(&front).await;
    a_deadlock_with_replay_ends_no_read(&front).await;
    a_dropped_tablespace_ends_no_read(&front).await;
    a_dropped_database_ends_only_its_own_sessions(&front).await;
}

async fn set_on_replicas(front: &Front, settings: &[(&str, &str)]) {
    for replica in &front.cluster.replicas {
        for (name, value) in settings {
            replica.run_in("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'")).await;
        }
        replica.run_in("postgres", "SELECT pg_reload_conf()").await;
    }
}

fn retried(front: &Front, reason: &str) -> f64 {
    front.proxy().map_or(0.0, |proxy| proxy.metrics().sum("pgweir_retries_total", &[("reason", reason)]))
}

/// Runs `read` again and again until `trouble` met it on a replica; each of its answers is `expect`.
async fn meets<T: Future<Output = ()>>(
    front: &Front,
    session: &Session,
    read: &str,
    expect: &str,
    trouble: impl Fn() -> T,
) {
    if front.proxy().is_none() {
        return;
    }
    let before = retried(front, "recovery_conflict");
    wait::until(&format!("a conflict met {read}"), || async {
        let trouble = async {
            // It runs somewhere by now; the troubles of a read that ran on the primary are only its own.
            for _ in 0..50 {
                if a_replica_reads(front).await {
                    break;
                }
            }
            trouble().await;
        };
        let (answer, ()) = tokio::join!(wait::in_time("the read", session.value(read)), trouble);
        assert_eq!(answer, expect);
        retried(front, "recovery_conflict") > before
    })
    .await;
}

async fn a_replica_reads(front: &Front) -> bool {
    let mut reads = false;
    for replica in &front.cluster.replicas {
        let active = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
        reads |= replica.ask(active).await != "0";
    }
    reads
}

async fn a_lock_on_the_primary_ends_no_read(front: &Front) {
    let session = front.connect("app").await;
    let read = "SELECT count(*) FROM numbers a, numbers b, generate_series(1, 8)";
    meets(front, &session, read, "8000000", || {
        front.cluster.primary.run_in("app", "BEGIN; LOCK TABLE numbers IN ACCESS EXCLUSIVE MODE; COMMIT")
    })
    .await;
}

async fn a_vacuum_on_the_primary_ends_no_read(front: &Front) {
    let session = front.connect("app").await;
    let read = "SELECT count(*) FROM kv a, kv b, generate_series(1, 8)";
    meets(front, &session, read, "8000000", || async {
        front.cluster.primary.run_in("app", "UPDATE kv SET value = value").await;
        front.cluster.primary.run_in("app", "VACUUM kv").await;
    })
    .await;
}

async fn a_pinned_buffer_ends_no_read(front: &Front) {
    let primary = &front.cluster.primary;
    primary
        .run_in("app", "SET SESSION AUTHORIZATION app; CREATE TABLE pinned AS SELECT i FROM generate_series(1, 100) i")
        .await;
    primary.run_in("app", "VACUUM FREEZE pinned").await;
    let session = front.connect("app").await;
    // The scan holds its page between the rows. What an aborted transaction left is nobody's snapshot, only the page is.
    let read = "SELECT sum(n) FROM pinned, LATERAL (SELECT count(*) AS n FROM generate_series(1, 50000 + i * 0)) s";
    meets(front, &session, read, "5000000", || async {
        primary.run_in("app", "BEGIN; INSERT INTO pinned VALUES (0); ROLLBACK").await;
        primary.run_in("app", "VACUUM pinned").await;
    })
    .await;
}

/// Replay has taken a table's lock and waits for a page; who holds the page comes to want the table.
async fn a_deadlock_with_replay_ends_no_read(front: &Front) {
    let primary = &front.cluster.primary;
    set_on_replicas(front, &[("max_standby_streaming_delay", "10min"), ("deadlock_timeout", "10ms")]).await;
    primary
        .run_in(
            "app",
            "CREATE FUNCTION slow(int) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM generate_series(1, 100000)';
             CREATE FUNCTION look() RETURNS bigint STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT count(*) FROM numbers'",
        )
        .await;
    let session = front.connect("app").await;
    // The tables of a function that is not looked through are locked when it is called first: at the last row.
    let read = "SELECT sum(CASE WHEN i < 100 THEN slow(i) ELSE look() END) FROM pinned";
    meets(front, &session, read, "9901000", || async {
        let holder = primary.superuser("app").await;
        holder.batch_execute("BEGIN; LOCK TABLE numbers IN ACCESS EXCLUSIVE MODE").await.expect("it is locked");
        primary.run_in("app", "BEGIN; INSERT INTO pinned VALUES (0); ROLLBACK").await;
        primary.run_in("app", "VACUUM pinned").await;
        wait::until("no replica reads", || async { !a_replica_reads(front).await }).await;
        holder.batch_execute("COMMIT").await.expect("it is let go");
    })
    .await;
    let kind = "User transaction caused buffer deadlock with recovery";
    let met = front.cluster.replicas.iter().any(|replica| replica.log_count(kind) > 0);
    assert!(front.proxy().is_none() || met, "another kind of conflict met it");
    set_on_replicas(front, &[("max_standby_streaming_delay", "50ms")]).await;
}

/// Its temporary files lie there: replay terminates whoever might have some.
async fn a_dropped_tablespace_ends_no_read(front: &Front) {
    let primary = &front.cluster.primary;
    primary.run_in("postgres", "ALTER SYSTEM SET allow_in_place_tablespaces = on").await;
    primary.run_in("postgres", "SELECT pg_reload_conf()").await;
    set_on_replicas(front, &[("temp_tablespaces", "spilled"), ("work_mem", "64kB")]).await;
    let session = front.connect("app").await;
    let read = "SELECT count(*) FROM (SELECT a.name FROM numbers a, numbers b ORDER BY a.name, b.id OFFSET 0) s";
    meets(front, &session, read, "1000000", || async {
        primary.run_in("postgres", "DROP TABLESPACE IF EXISTS spilled").await;
        primary.run_in("postgres", "CREATE TABLESPACE spilled LOCATION ''").await;
        primary.run_in("postgres", "GRANT CREATE ON TABLESPACE spilled TO app").await;
    })
    .await;
}

/// Nobody can answer its read any more, and nobody else's is touched.
async fn a_dropped_database_ends_only_its_own_sessions(front: &Front) {
    let primary = &front.cluster.primary;
    primary.run_in("postgres", "CREATE DATABASE doomed").await;
    front.cluster.wait_for_replay().await;
    let url = format!("postgres://app:secret@127.0.0.1:{}/doomed", front.port());
    let (doomed, bystander) = (Session::open(&url).await.expect("a login"), front.connect("app").await);
    let read = "SELECT count(*) FROM generate_series(1, 300000000)";
    let drop = async {
        wait::until("it runs somewhere", || async {
            let active = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'doomed' AND state = 'active'";
            let mut count = 0;
            for node in front.cluster.nodes() {
                count += node.ask(active).await.parse::<u32>().expect("a number");
            }
            count > 0
        })
        .await;
        primary.run_in("postgres", "DROP DATABASE doomed WITH (FORCE)").await;
        for _ in 0..20 {
            assert_eq!(bystander.value("SELECT name FROM numbers WHERE id = 3").await, "number 3");
        }
    };
    let (answer, ()) = tokio::join!(wait::in_time("the read's end", doomed.try_value(read)), drop);
    let error = answer.expect_err("its database is gone");
    assert!(error.code().is_none_or(|code| matches!(code.code(), "3D000" | "57P01" | "57P04" | "08006")), "{error:?}");
}

/// Somebody else's sessions fill the replicas: the role may have no more there, and the primary answers.
#[tokio::test]
async fn a_full_replica_is_no_error_of_clients() {
    let front = front::alone("full", &[]).await;
    if front.proxy().is_none() {
        return;
    }
    front.cluster.primary.run_in("postgres", "ALTER ROLE app CONNECTION LIMIT 5").await;
    front.cluster.wait_for_replay().await;
    let mut fillers = Vec::new();
    for replica in &front.cluster.replicas {
        let url = format!("postgres://app:secret@127.0.0.1:{}/app", replica.port);
        for _ in 0..5 {
            fillers.push(Session::open(&url).await.expect("there is room yet"));
        }
    }
    let session = front.connect("app").await;
    wait::until("a read was turned away", || async {
        assert_eq!(session.value("SELECT name FROM numbers WHERE id = 3").await, "number 3");
        retried(&front, "too_many_connections") > 0.0
    })
    .await;
}

/// A replica that has not replayed yet what a read needs would answer that there is no such thing.
#[tokio::test]
async fn ddl_that_a_replica_lacks_is_no_error_of_other_sessions() {
    let front = front::alone("lacking", &[("routing.consistency", "\"eventual\"")]).await;
    let (maker, reader) = (front.connect("app").await, front.connect("app").await);
    for replica in &front.cluster.replicas {
        replica.pause_replay().await;
    }
    for number in 0..5 {
        let ddl =
            format!("CREATE TABLE fresh{number} (a int, b int DEFAULT 7); INSERT INTO fresh{number} VALUES ({number})");
        maker.batch_execute(&ddl).await.expect("it is made");
        assert_eq!(reader.value(&format!("SELECT a FROM fresh{number}")).await, number.to_string());
        maker.batch_execute(&format!("ALTER TABLE fresh{number} ADD COLUMN c int DEFAULT 9")).await.expect("it grows");
        assert_eq!(reader.value(&format!("SELECT c FROM fresh{number}")).await, "9");
    }
    // Made past pgweir: only the replica's error tells, and the primary's word counts.
    front.cluster.primary.run_in("app", "CREATE TABLE past AS SELECT 5 AS a; GRANT SELECT ON past TO app").await;
    assert_eq!(reader.value("SELECT a FROM past").await, "5");
    for replica in &front.cluster.replicas {
        replica.resume_replay().await;
    }
}
