//! Read-only transactions run on replicas, in whichever way they are said to be read-only, and answer as the primary would
//! where the two nodes would differ without a word.

use crate::harness::front::{self, Front};
use crate::harness::{Session, wait};

async fn moved(front: &Front, session: &Session) {
    wait::until("reads have moved", || async {
        session.value("SELECT /* settling-in */ name FROM numbers WHERE id = 1").await;
        let [_, one, two] = front.runs_of("settling-in");
        one + two > 0
    })
    .await;
}

/// (what the session says first, what opens the block)
const WAYS: &[(&str, &[&str])] = &[
    ("", &["BEGIN READ ONLY"]),
    ("", &["BEGIN TRANSACTION READ ONLY, ISOLATION LEVEL READ COMMITTED"]),
    ("", &["START TRANSACTION READ ONLY"]),
    ("", &["BEGIN", "SET TRANSACTION READ ONLY"]),
    ("SET default_transaction_read_only = on", &["BEGIN"]),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", &["BEGIN"]),
];

#[tokio::test]
async fn every_way_to_say_read_only_leads_to_a_replica() {
    let front = front::with(&[]).await;
    if front.proxy().is_none() {
        return;
    }
    let ask = |marker: &str| format!("SELECT /* {marker} */ name FROM numbers WHERE id = 2");
    for (index, (before, opening)) in WAYS.iter().enumerate() {
        let session = front.connect("traced").await;
        moved(&front, &session).await;
        session.batch_execute(before).await.expect("it is set");
        let marker = format!("said-read-only-{index}");
        for sql in *opening {
            session.batch_execute(sql).await.expect("it is opened");
        }
        for _ in 0..3 {
            assert_eq!(session.value(&ask(&marker)).await, "number 2");
        }
        session.batch_execute("COMMIT").await.expect("it is ended");
        let [primary, one, two] = front.runs_of(&marker);
        assert_eq!((primary, one.min(two), one + two), (0, 0, 3), "{before} {opening:?}: on one replica");
        session.close().await;
    }
    let url = format!("{}?options=-c%20default_transaction_read_only%3Don", front.url("traced"));
    let session = Session::open(&url).await.expect("a login");
    moved(&front, &session).await;
    session.batch_execute("BEGIN").await.expect("it is opened");
    session.value(&ask("said-at-login")).await;
    session.batch_execute("COMMIT").await.expect("it is ended");
    let [primary, one, two] = front.runs_of("said-at-login");
    assert_eq!((primary, one + two), (0, 1));
}

#[tokio::test]
async fn other_transactions_run_whole_on_the_primary() {
    let front = front::with(&[]).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("traced").await;
    moved(&front, &session).await;
    let openings = [
        "BEGIN",
        "BEGIN READ WRITE",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
    ];
    for (index, opening) in openings.iter().enumerate() {
        session.batch_execute(opening).await.expect("it is opened");
        let marker = format!("whole-on-primary-{index}");
        session.value(&format!("SELECT /* {marker} */ name FROM numbers WHERE id = 2")).await;
        session.batch_execute("COMMIT").await.expect("it is ended");
        assert_eq!(front.runs_of(&marker), [1, 0, 0], "{opening}");
    }
}

/// The replica goes while the client thinks: the block goes on where it can.
#[tokio::test]
async fn a_read_only_transaction_outlives_its_replica() {
    let front = front::alone("outlives", &[]).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("traced").await;
    moved(&front, &session).await;
    for round in 0..5 {
        session.batch_execute("BEGIN READ ONLY").await.expect("it is opened");
        assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
        for replica in &front.cluster.replicas {
            replica.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'traced'").await;
        }
        assert_eq!(session.value("SHOW transaction_read_only").await, "on", "round {round}");
        assert_eq!(session.value("SELECT name FROM numbers WHERE id = 2").await, "number 2");
        session.batch_execute("COMMIT").await.expect("it is ended");
    }
}

/// What a standby answers otherwise, or not at all (each in a block of its own, after a read that ran on a replica).
#[tokio::test]
async fn in_a_read_only_transaction_the_primarys_answer_counts() {
    let front = front::alone("silent", &[]).await;
    front
        .cluster
        .primary
        .run_in("app", "SET SESSION AUTHORIZATION app; CREATE UNLOGGED TABLE dry AS SELECT 4 AS a")
        .await;
    let session = front.connect("app").await;
    let answers = [
        ("SELECT pg_is_in_recovery()", "f"),
        ("SELECT pg_try_advisory_xact_lock(77)", "t"),
        ("SELECT a FROM dry", "4"),
        ("SELECT txid_current() > 0", "t"),
        ("SELECT length(pg_export_snapshot()) > 0", "t"),
        ("SELECT set_config('pgweir_test.x', 'y', true)", "y"),
        ("SHOW transaction_read_only", "on"),
        ("LOCK TABLE numbers IN ROW SHARE MODE", ""),
        ("NOTIFY nobody", ""),
    ];
    for (sql, expect) in answers {
        session.batch_execute("BEGIN READ ONLY").await.expect("it is opened");
        assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
        assert_eq!(session.value(sql).await, expect, "{sql}");
        assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
        session.batch_execute("COMMIT").await.expect("it is ended");
    }
    let errors = [
        ("INSERT INTO kv VALUES (0, 0)", "25006"),
        ("SELECT nextval('tickets')", "25006"),
        ("SELECT * FROM kv FOR UPDATE", "25006"),
        ("SET TRANSACTION READ WRITE", "25001"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT 1/0", "22012"),
    ];
    for (sql, code) in errors {
        session.batch_execute("BEGIN READ ONLY").await.expect("it is opened");
        assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
        assert_eq!(session.sqlstate(sql).await, code, "{sql}");
        assert_eq!(session.sqlstate("SELECT 1").await, "25P02", "after {sql}");
        session.batch_execute("ROLLBACK").await.expect("it is ended");
    }
    // Before the first query it may still change its mind.
    session.batch_execute("BEGIN READ ONLY").await.expect("it is opened");
    session.batch_execute("SET TRANSACTION READ WRITE").await.expect("nothing was read yet");
    session.batch_execute("UPDATE kv SET value = 3 WHERE id = 3").await.expect("it may write");
    session.batch_execute("COMMIT").await.expect("it is ended");
    assert_eq!(session.value("SELECT value FROM kv WHERE id = 3").await, "3");
}
