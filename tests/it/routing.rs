//! Reads go to the replicas and writes to the primary. The proof is the nodes' own: user `traced` has every statement
//! written to the log of the node that ran it.

use std::sync::Arc;

use tokio_postgres::SimpleQueryMessage;

use crate::harness::cluster::Cluster;
use crate::harness::front::{self, Front};
use crate::harness::{Session, wait};

/// pgweir moves reads once it knows the catalog and a replica has caught up; both take a moment after the start.
async fn reads_have_moved(front: &Front, session: &Session, marker: &str) {
    wait::until("reads move to the replicas", || async {
        session.value(&format!("SELECT /* warm-up {marker} */ name FROM numbers WHERE id = 1")).await;
        let runs = front.runs_of(&format!("warm-up {marker}"));
        runs[1] + runs[2] > 0
    })
    .await;
}

#[tokio::test]
async fn reads_run_on_replicas_and_never_on_the_primary() {
    let front = front::shared().await;
    let session = front.connect("traced").await;
    if front.proxy().is_none() {
        return assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
    }
    reads_have_moved(front, &session, "reads").await;
    let reads = [
        "SELECT /* routed-read */ name FROM numbers WHERE id = 5",
        "SELECT /* routed-read */ count(*), sum(half), max(lower(name)) FROM numbers",
        "WITH few AS (SELECT * FROM numbers LIMIT 3) SELECT /* routed-read */ * FROM few ORDER BY 1",
        "TABLE /* routed-read */ elsewhere.numbers",
        "SELECT /* routed-read */ id FROM big_numbers ORDER BY id DESC LIMIT 2",
        "SELECT /* routed-read */ a.id FROM numbers a JOIN kv b ON a.id = b.id AND b.id < 3",
        "VALUES /* routed-read */ (1, 'x'), (2, 'y')",
        // The constructors of a range type are functions that CREATE TYPE made.
        "SELECT /* routed-read */ spans(span(1, 2.5), '[7,9)'::span) FROM numbers WHERE id = 1",
    ];
    for sql in reads {
        session.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let prepared =
        session.prepare("SELECT /* routed-read */ name FROM numbers WHERE id = $1").await.expect("it is prepared");
    for id in 1..=10i32 {
        let row = session.query_one(&prepared, &[&id]).await.expect("the row is there");
        assert_eq!(row.get::<_, String>(0), format!("number {id}"));
    }
    let [primary, one, two] = front.runs_of("routed-read");
    assert_eq!(primary, 0, "no read ran on the primary; its log:\n{}", lines(front, "routed-read"));
    assert!(one + two >= reads.len() + 10, "every read ran on a replica: {one} + {two}");
}

fn lines(front: &Front, marker: &str) -> String {
    let log = front.cluster.primary.log();
    log.lines().filter(|line| line.contains(marker)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn writes_and_everything_not_proven_run_on_the_primary_only() {
    let front = front::shared().await;
    let session = front.connect("traced").await;
    let writes = [
        "INSERT INTO scribble /* routed-write */ (who) VALUES ('routing')",
        "UPDATE scribble /* routed-write */ SET note = 'x' WHERE who = 'routing'",
        "SELECT /* routed-write */ nextval('tickets')",
        "SELECT /* routed-write */ id FROM kv WHERE id = 2 FOR UPDATE",
        "WITH gone AS (DELETE FROM scribble WHERE who = 'nobody' RETURNING id) SELECT /* routed-write */ count(*) FROM gone",
        "SELECT /* routed-write */ scribble_and_count('routing')",
        "SELECT /* routed-write */ pg_is_in_recovery()",
        "SELECT /* routed-write */ last_value FROM tickets",
        "SELECT /* routed-write */ pg_advisory_xact_lock(4711)",
        "DO /* routed-write */ $$ BEGIN PERFORM 1; END $$",
        "BEGIN; SELECT /* routed-write */ name FROM numbers WHERE id = 1; COMMIT",
        "SELECT 1; DELETE FROM scribble /* routed-write */ WHERE who = 'routing'",
        "EXPLAIN ANALYZE /* routed-write */ DELETE FROM scribble WHERE who = 'routing'",
        "LOCK TABLE /* routed-write */ scribble IN ACCESS SHARE MODE",
    ];
    for sql in writes {
        let sql = if sql.starts_with("LOCK") { format!("BEGIN; {sql}; COMMIT") } else { sql.to_string() };
        session.simple_query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    assert_eq!(session.value("SELECT pg_is_in_recovery()").await, "f");
    let [primary, one, two] = front.runs_of("routed-write");
    assert_eq!((one, two), (0, 0), "nothing of it was tried on a replica");
    assert!(primary >= writes.len(), "all ran on the primary: {primary}");
}

#[tokio::test]
async fn reads_are_spread_over_both_replicas() {
    // Of its own: other tests' DDL would make a replica wait for its next probe.
    let front = &front::alone("spread", &[]).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("traced").await;
    reads_have_moved(front, &session, "spread").await;
    // Each session stays with the replica that it reads from until others are known to have caught up.
    for _ in 0..40 {
        let session = front.connect("traced").await;
        for _ in 0..5 {
            let read = "SELECT /* spread-read */ id FROM numbers WHERE id = 3";
            session.simple_query(read).await.expect("the read succeeds");
        }
    }
    let [primary, one, two] = front.runs_of("spread-read");
    assert_eq!((primary, one + two), (0, 200));
    assert!(one >= 40 && two >= 40, "both have a fair share: {one} and {two}");
}

#[tokio::test]
async fn hints_outrank_the_choice_but_never_move_a_write() {
    let front = front::shared().await;
    let session = front.connect("traced").await;
    session
        .simple_query("/* pgweir: primary */ SELECT /* hinted-home */ id FROM numbers WHERE id = 3")
        .await
        .expect("a read");
    assert_eq!(front.runs_of("hinted-home"), [1, 0, 0]);
    session
        .simple_query("/*NO LOAD BALANCE*/ SELECT /* hinted-old */ id FROM numbers WHERE id = 3")
        .await
        .expect("a read");
    assert_eq!(front.runs_of("hinted-old"), [1, 0, 0]);
    let write = "/* pgweir: replica */ INSERT INTO scribble /* hinted-write */ (who) VALUES ('hint')";
    session.simple_query(write).await.expect("the write succeeds");
    assert_eq!(front.runs_of("hinted-write"), [1, 0, 0]);
}

#[tokio::test]
async fn the_proxys_lines_of_metrics_tell_reads_from_writes() {
    let front = front::with(&[]).await;
    let Some(proxy) = front.proxy() else { return };
    let session = front.connect("traced").await;
    reads_have_moved(&front, &session, "metrics").await;
    for page in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(proxy.http(page).map(|(status, _)| status), Some(200), "{page}");
    }
    let metrics = proxy.metrics();
    assert!(metrics.names().iter().any(|name| name.starts_with("pgweir_")), "{:?}", metrics.names());
    assert!(metrics.names().iter().all(|name| !name.contains("secret")));
    assert!(!proxy.log().contains("secret"), "no password in the log");
}

/// A function that pgweir sees created must count at once, and so must its replacement by one that writes.
#[tokio::test]
async fn a_view_that_begins_to_write_is_followed_to_the_primary() {
    let front = front::with(&[]).await;
    let (owner, session) = (front.connect("admin").await, front.connect("traced").await);
    owner
        .batch_execute(
            "DROP SCHEMA IF EXISTS shifty CASCADE; CREATE SCHEMA shifty; GRANT USAGE ON SCHEMA shifty TO PUBLIC",
        )
        .await
        .unwrap();
    owner.batch_execute("CREATE SEQUENCE shifty.seq; GRANT USAGE ON SEQUENCE shifty.seq TO PUBLIC").await.unwrap();
    owner
        .batch_execute("CREATE VIEW shifty.v AS SELECT id::bigint AS id FROM public.numbers WHERE id = 1")
        .await
        .unwrap();
    owner.batch_execute("GRANT SELECT ON shifty.v TO PUBLIC").await.unwrap();
    assert_eq!(session.value("SELECT /* shifty-before */ id FROM shifty.v").await, "1");
    owner.batch_execute("CREATE OR REPLACE VIEW shifty.v AS SELECT nextval('shifty.seq') AS id").await.unwrap();
    for expected in 1..=20 {
        assert_eq!(session.value("SELECT /* shifty-after */ id FROM shifty.v").await, expected.to_string());
    }
    owner.batch_execute("DROP SCHEMA shifty CASCADE").await.unwrap();
    assert_eq!(front.runs_of("shifty-after")[0], 20);
}

#[tokio::test]
async fn one_node_alone_serves_reads_and_writes() {
    let cluster = front::shared_cluster().await;
    let url = format!("postgres://app:secret@127.0.0.1:{}/app", cluster.primary.port);
    let front = Front::from_arguments(cluster, &["--node", &url]).await;
    let session = front.connect("app").await;
    assert_eq!(session.value("SELECT name FROM numbers WHERE id = 9").await, "number 9");
    session.batch_execute("INSERT INTO scribble (who) VALUES ('alone')").await.expect("a write");
    assert_ne!(session.value("SELECT count(*) FROM scribble WHERE who = 'alone'").await, "0");
}

#[tokio::test]
async fn three_urls_on_the_command_line_are_enough() {
    let cluster = front::shared_cluster().await;
    let urls = cluster.nodes().map(|node| format!("postgres://traced:secret@127.0.0.1:{}/app", node.port));
    // The order says nothing about roles: a replica comes first.
    let front = Front::from_arguments(cluster, &["--node", &urls[1], "--node", &urls[0], "--node", &urls[2]]).await;
    let session = wait::in_time("the login", front.connect("traced")).await;
    if front.proxy().is_some() {
        reads_have_moved(&front, &session, "urls").await;
    }
    session.batch_execute("INSERT INTO scribble (who) VALUES ('urls')").await.expect("a write");
    assert_ne!(session.value("SELECT count(*) FROM scribble WHERE who = 'urls'").await, "0");
}

/// Someone tuned the replicas otherwise: their answers are still the primary's.
#[tokio::test]
async fn replicas_with_other_settings_answer_as_the_primary_does() {
    const VALUES: &str = "SELECT /* aligned */ '1 day 2 hours'::interval, '\\x01ff'::bytea, timestamptz '2026-01-31 12:00Z', \
                          date '2026-01-31', 0.1::float8 + 0.2::float8, (SELECT count(*) FROM numbers)";
    let cluster = Arc::new(Cluster::start("aligned").await);
    for replica in &cluster.replicas {
        let session = replica.superuser("postgres").await;
        for setting in [
            "IntervalStyle = 'iso_8601'",
            "bytea_output = 'escape'",
            "TimeZone = 'Asia/Kolkata'",
            "DateStyle = 'German'",
            "extra_float_digits = 0",
            "search_path = 'pg_catalog'",
        ] {
            session.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.expect("the setting is written");
        }
        session.batch_execute("SELECT pg_reload_conf()").await.expect("the settings are read");
        wait::until("the settings are in force", || async {
            replica.ask("SHOW search_path").await == "pg_catalog"
                && replica.ask("SHOW IntervalStyle").await == "iso_8601"
        })
        .await;
    }
    let url = format!("postgres://traced:secret@127.0.0.1:{}/app", cluster.primary.port);
    let right = row_of(&Session::open(&url).await.expect("the primary takes sessions"), VALUES).await;
    let front = Front::before(Arc::clone(&cluster), &[]).await;
    let session = front.connect("traced").await;
    if front.proxy().is_some() {
        reads_have_moved(&front, &session, "aligned-warm-up").await;
    }
    let before = front.runs_of("/* aligned */");
    for _ in 0..5 {
        assert_eq!(row_of(&session, VALUES).await, right);
    }
    // A session's own value outranks both, and RESET gives the primary's, not the replica's.
    session.batch_execute("SET IntervalStyle = 'sql_standard'").await.expect("it is set");
    assert_eq!(session.value("SELECT '1 day 2 hours'::interval").await, "1 2:00:00");
    session.batch_execute("RESET IntervalStyle").await.expect("it is reset");
    assert_eq!(row_of(&session, VALUES).await, right);
    if front.proxy().is_some() {
        let after = front.runs_of("/* aligned */");
        assert_eq!((after[0], after[1] + after[2] - before[1] - before[2]), (before[0], 6), "replicas answered");
    }
}

async fn row_of(session: &Session, sql: &str) -> Vec<String> {
    let messages = session.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages
        .into_iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_owned()).collect())
            }
            _ => None,
        })
        .expect("a row")
}
