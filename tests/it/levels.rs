//! What a read may miss, said by session and by statement; and what becomes of a read that no replica is there for.

use crate::harness::cluster::Stop;
use crate::harness::front::{self, Front};
use crate::harness::{Session, wait};

/// Where the statement ran: replicas, primary.
async fn run(front: &Front, session: &Session, hint: &str, marker: &str) -> (usize, usize) {
    session.value(&format!("{hint}SELECT name FROM numbers WHERE id = 7 /* {marker} */")).await;
    let [primary, one, two] = front.runs_of(&format!("{marker} */"));
    (one + two, primary)
}

#[tokio::test]
async fn a_session_and_a_statement_choose_what_they_may_miss() {
    // Without tolerance no replica that is behind is so near that it would be asked what it has.
    let settings =
        [("routing.floor_wait", "\"0ms\""), ("cluster.max_lag", "\"1h\""), ("cluster.lag_tolerance", "\"0ms\"")];
    let front = front::alone("levels", &settings).await;
    if front.proxy().is_none() {
        return;
    }
    let session = front.connect("traced").await;
    wait::until("a replica is asked", || async {
        session.value("SELECT name FROM numbers WHERE id = 7 /* warm */").await;
        front.runs_of("/* warm */")[1..].iter().sum::<usize>() > 0
    })
    .await;
    for replica in &front.cluster.replicas {
        replica.pause_replay().await;
    }
    session.batch_execute("INSERT INTO scribble (who) VALUES ('levels')").await.expect("a write");
    assert_eq!(run(&front, &session, "", "own-write").await, (0, 1), "no replica has this session's write");
    // What was written before does not matter to who says so, for one statement or for all.
    let eventual = "/* pgweir: consistency=eventual */ ";
    assert_eq!(run(&front, &session, eventual, "statement-eventual").await, (1, 0));
    assert_eq!(run(&front, &session, "", "own-again").await, (0, 1), "the hint was for one statement");
    session.batch_execute("SET pgweir.consistency = 'eventual'").await.expect("a setting");
    assert_eq!(session.value("SHOW pgweir.consistency").await, "eventual");
    assert_eq!(run(&front, &session, "", "session-eventual").await, (1, 0));
    let strict = "/* pgweir: consistency=strict */ ";
    assert_eq!(run(&front, &session, strict, "statement-strict").await, (0, 1));
    session.batch_execute("RESET pgweir.consistency").await.expect("a setting");
    assert_eq!(run(&front, &session, "", "own-after-reset").await, (0, 1));
    // Another session wrote nothing: only `global` and `strict` care for the write.
    let other = front.connect("traced").await;
    assert_eq!(run(&front, &other, "", "other-session").await, (1, 0));
    for level in ["global", "strict", "primary"] {
        let set = format!("SET pgweir.consistency = '{level}'");
        other.batch_execute(&set).await.expect("a setting");
        assert_eq!(run(&front, &other, "", &format!("other-{level}")).await, (0, 1));
    }
}

/// Nobody has seen yet that the replicas have the write: one is asked in front of the read.
#[tokio::test]
async fn a_read_behind_a_write_runs_on_the_replica_that_says_it_has_it() {
    let settings = [
        ("cluster.fast_probe_interval", "\"1min\""),
        ("cluster.max_lag", "\"1h\""),
        ("cluster.lag_tolerance", "\"1min\""),
    ];
    let front = front::alone("proofs", &settings).await;
    let (Some(proxy), cluster) = (front.proxy(), &front.cluster) else { return };
    let session = front.connect("traced").await;
    let probes = || proxy.metrics().sum("pgweir_node_probes_total", &[]);
    let (written, number) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let write = async || {
        session.batch_execute("INSERT INTO scribble (who) VALUES ('proofs')").await.expect("a write");
        written.set(written.get() + 1);
    };
    let own = async || {
        number.set(number.get() + 1);
        let marker = format!("proof-{} */", number.get());
        let read = format!("SELECT count(*)::text FROM scribble WHERE who = 'proofs' /* {marker}");
        assert_eq!(session.value(&read).await, written.get().to_string(), "own writes are seen");
        front.runs_of(&marker)
    };
    wait::until("a replica answers without having been probed", || async {
        write().await;
        cluster.wait_for_replay().await;
        let before = probes();
        let [primary, one, two] = own().await;
        (primary, one + two) == (0, 1) && probes() == before
    })
    .await;
    for replica in &cluster.replicas {
        replica.pause_replay().await;
    }
    wait::until("a replica that lacks the write is found out", || async {
        write().await;
        let [primary, one, two] = own().await;
        (primary, one + two) == (1, 1)
    })
    .await;
    assert!(proxy.metrics().sum("pgweir_retries_total", &[("reason", "replica_behind")]) > 0.0);
}

#[tokio::test]
async fn without_a_replica_the_operator_decides() {
    let quick = [("cluster.probe_interval", "\"100ms\""), ("cluster.down_after", "1")];
    let of = |what: &'static str| [&quick[..], &[("routing.on_no_replica", what)]].concat();
    let front = front::alone("no-replica", &of("\"primary\"")).await;
    let (Some(primary), cluster) = (front.proxy(), &front.cluster) else { return };
    let refusing = Front::before(std::sync::Arc::clone(cluster), &of("\"error\"")).await;
    let waiting = Front::before(std::sync::Arc::clone(cluster), &of("\"wait 500ms\"")).await;
    for replica in &cluster.replicas {
        replica.stop(Stop::Fast).await;
    }
    let read = "SELECT name FROM numbers WHERE id = 7";
    let session = front.connect("app").await;
    assert_eq!(session.value(read).await, "number 7", "the primary answers");
    assert!(primary.is_running());
    let refused = refusing.connect("app").await;
    wait::until("it is refused", || async { refused.try_value(read).await.is_err() }).await;
    let code = refused.sqlstate(read).await;
    assert_eq!(code, "57P03", "as a server that cannot be used now says");
    refused.batch_execute("UPDATE kv SET value = value WHERE id = 1").await.expect("the primary is there");
    let patient = waiting.connect("app").await;
    wait::until("it waits first", || async {
        let started = std::time::Instant::now();
        assert_eq!(patient.value(read).await, "number 7");
        started.elapsed() >= std::time::Duration::from_millis(450)
    })
    .await;
    // Whoever waits goes on as soon as one is there.
    cluster.replicas[0].start().await;
    wait::until("replicas are read from again", || async { refused.try_value(read).await.is_ok() }).await;
}
