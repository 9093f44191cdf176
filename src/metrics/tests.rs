//! What is counted is what is printed. Run by `cargo test`; each test reads the text that Prometheus would read.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::*;

fn text(metrics: &Arc<Metrics>, cluster: ClusterSample, pools: Vec<PoolSample>) -> String {
    let cluster = Box::new(move || cluster.clone());
    let pools = Box::new(move || pools.clone());
    Exporter::new(Arc::clone(metrics), cluster, pools).unwrap().text().unwrap()
}

fn plain(metrics: &Arc<Metrics>) -> String {
    text(metrics, ClusterSample::default(), Vec::new())
}

fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line}\nin\n{text}");
}

#[test]
fn transactions_are_told_by_route_node_and_reason_over_all_workers() {
    let metrics = Metrics::new(vec!["db1:5432".into(), "db2:5432".into()]);
    let (first, second) = (metrics.worker(), metrics.worker());
    first.transaction(Route::Primary(0), "write", 1);
    first.transaction(Route::Replica(1), "read", 1);
    second.transaction(Route::Replica(1), "read", 40);
    second.transaction(Route::Pgweir, "session_state", 2);
    let text = plain(&metrics);
    assert_line(&text, r#"pgweir_transactions_total{route="primary",node="db1:5432",reason="write"} 1"#);
    assert_line(&text, r#"pgweir_transactions_total{route="replica",node="db2:5432",reason="read"} 2"#);
    assert_line(&text, r#"pgweir_statements_total{route="replica",node="db2:5432",reason="read"} 41"#);
    assert_line(&text, r#"pgweir_statements_total{route="pgweir",node="",reason="session_state"} 2"#);
    assert!(
        !text.contains(r#"pgweir_transactions_total{route="replica",node="db2:5432",reason="write""#),
        "what never happened is no line"
    );
}

#[test]
fn a_node_beyond_the_cells_and_a_reason_beyond_the_table_still_count_somewhere() {
    let names = (0..NODES + 5).map(|n| format!("db{n}")).collect();
    let metrics = Metrics::new(names);
    let cells = metrics.worker();
    cells.transaction(Route::Primary(usize::MAX), "a reason from the future", 1);
    let total: u64 = metrics.totals().transactions().iter().map(|routed| routed.count).sum();
    assert_eq!(total, 1);
}

#[test]
fn histograms_put_each_time_into_the_bucket_that_bounds_it() {
    let metrics = Metrics::new(vec!["db1".into()]);
    let cells = metrics.worker();
    for micros in [0, 50, 51, 1_000, 10_000_000, 10_000_001] {
        cells.query_time(Route::Primary(0), Duration::from_micros(micros));
    }
    let text = plain(&metrics);
    // Bounds are inclusive, as Prometheus has them.
    for (bound, count) in [("0.00005", 2), ("0.0001", 3), ("0.001", 4), ("5", 4), ("10", 5), ("+Inf", 6)] {
        let line =
            format!(r#"pgweir_query_duration_seconds_bucket{{route="primary",node="db1",le="{bound}"}} {count}"#);
        assert_line(&text, &line);
    }
    assert_line(&text, r#"pgweir_query_duration_seconds_count{route="primary",node="db1"} 6"#);
    assert_line(&text, r#"pgweir_query_duration_seconds_sum{route="primary",node="db1"} 20.001102"#);
}

#[test]
fn gauges_fall_again() {
    let metrics = Metrics::new(Vec::new());
    let cells = metrics.worker();
    cells.client_opened();
    cells.client_opened();
    cells.client_closed();
    cells.pin_changed(2, "listen");
    cells.pin_changed(-1, "listen");
    cells.session_statements_changed(5);
    cells.session_statements_changed(-3);
    let text = plain(&metrics);
    assert_line(&text, "pgweir_client_connections 1");
    assert_line(&text, "pgweir_client_connections_total 2");
    assert_line(&text, r#"pgweir_pinned_sessions{kind="listen"} 1"#);
    assert_line(&text, r#"pgweir_pins_total{kind="listen"} 2"#);
    assert_line(&text, "pgweir_session_prepared_statements 2");
}

#[test]
fn errors_are_told_by_fault_and_class_whatever_the_node_sent() {
    let metrics = Metrics::new(Vec::new());
    let cells = metrics.worker();
    cells.error("client", "42P01");
    cells.error("client", "42601");
    cells.error("server", "ZZ");
    cells.error("who?", "");
    cells.error("proxy", "ü1234");
    cells.retry("recovery_conflict");
    let text = plain(&metrics);
    assert_line(&text, r#"pgweir_errors_total{fault="client",sqlstate_class="42"} 2"#);
    assert_line(&text, r#"pgweir_errors_total{fault="server",sqlstate_class="other"} 1"#);
    assert_line(&text, r#"pgweir_errors_total{fault="other",sqlstate_class="other"} 1"#);
    assert_line(&text, r#"pgweir_errors_total{fault="proxy",sqlstate_class="other"} 1"#);
    assert_line(&text, r#"pgweir_retries_total{reason="recovery_conflict"} 1"#);
}

#[test]
fn a_database_is_one_line_over_all_workers_and_hostile_names_are_escaped() {
    let metrics = Metrics::new(Vec::new());
    let (first, second) = (metrics.worker(), metrics.worker());
    first.account("app", "a\"b\n").transaction(3, Duration::from_millis(250));
    second.account("app", "a\"b\n").transaction(1, Duration::from_millis(250));
    let again = second.account("app", "a\"b\n");
    again.opened();
    again.opened();
    again.closed();
    let text = plain(&metrics);
    assert_line(&text, r#"pgweir_database_transactions_total{database="app",user="a\"b\n"} 2"#);
    assert_line(&text, r#"pgweir_database_statements_total{database="app",user="a\"b\n"} 4"#);
    assert_line(&text, r#"pgweir_database_query_seconds_total{database="app",user="a\"b\n"} 0.5"#);
    assert_line(&text, r#"pgweir_database_client_connections{database="app",user="a\"b\n"} 1"#);
}

#[test]
fn accounts_are_bounded() {
    let metrics = Metrics::new(Vec::new());
    let cells = metrics.worker();
    for n in 0..2_000 {
        cells.account("app", &format!("user{n}")).transaction(1, Duration::ZERO);
    }
    let accounts = metrics.totals().accounts;
    assert!(accounts.len() <= 513, "{}", accounts.len());
    assert_eq!(accounts.iter().map(|account| account.transactions).sum::<u64>(), 2_000);
    assert!(accounts.iter().any(|account| account.user == "other" && account.transactions > 1_000));
}

#[test]
fn a_node_that_takes_over_an_index_starts_at_zero() {
    let metrics = Metrics::new(vec!["old".into(), "stays".into()]);
    let cells = metrics.worker();
    cells.transaction(Route::Primary(0), "write", 1);
    cells.transaction(Route::Replica(1), "read", 1);
    metrics.set_nodes(vec!["new".into(), "stays".into()]);
    cells.transaction(Route::Replica(0), "read", 1);
    metrics.set_nodes(vec!["new".into(), "stays".into(), "third".into()]);
    let told: Vec<_> = metrics.totals().transactions().into_iter().map(|t| (t.node, t.route, t.count)).collect();
    assert_eq!(told, [("new".to_owned(), "replica", 1), ("stays".to_owned(), "replica", 1)]);
}

#[test]
fn nodes_and_pools_are_read_at_the_scrape() {
    let metrics = Metrics::new(vec!["db2".into()]);
    metrics.side().evicted(0);
    metrics.side().primary_sampled(1);
    let replica = NodeSample {
        name: "db2".into(),
        role: "replica",
        health: "lagging",
        lag_seconds: Some(7.5),
        lag_bytes: Some(4096),
        in_flight: 3,
        read_latency_seconds: 0.001,
        probes: 12,
    };
    let cluster = ClusterSample { nodes: vec![replica], primary: None, timeline: 2, epoch: 4 };
    let pool = PoolSample {
        node: "db2".into(),
        database: "app".into(),
        user: "u".into(),
        in_use: 5,
        idle: 2,
        waiting: 1,
        size: 20,
        ..PoolSample::default()
    };
    let text = text(&metrics, cluster, vec![pool]);
    assert_line(&text, "pgweir_primary_known 0");
    assert_line(&text, r#"pgweir_node_up{node="db2"} 1"#);
    assert_line(&text, r#"pgweir_node_role{node="db2",role="replica"} 1"#);
    assert_line(&text, r#"pgweir_node_role{node="db2",role="primary"} 0"#);
    assert_line(&text, r#"pgweir_node_health{node="db2",health="lagging"} 1"#);
    assert_line(&text, r#"pgweir_replica_lag_seconds{node="db2"} 7.5"#);
    assert_line(&text, r#"pgweir_replica_lag_bytes{node="db2"} 4096"#);
    assert_line(&text, r#"pgweir_node_evictions_total{node="db2"} 1"#);
    assert_line(&text, "pgweir_primary_samples_total 1");
    assert_line(&text, r#"pgweir_pool_connections{node="db2",database="app",user="u",state="in_use"} 5"#);
    assert_line(&text, r#"pgweir_pool_waiting_sessions{node="db2",database="app",user="u"} 1"#);
}

#[test]
fn a_scrape_while_workers_count_never_sees_a_count_fall() {
    let metrics = Metrics::new(vec!["db1".into()]);
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let cells = metrics.worker();
            thread::spawn(move || (0..50_000).for_each(|_| cells.transaction(Route::Primary(0), "write", 1)))
        })
        .collect();
    let mut last = 0;
    while !writers.iter().all(thread::JoinHandle::is_finished) {
        let now = metrics.totals().transactions().iter().map(|routed| routed.count).sum();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(metrics.totals().transactions()[0].count, 100_000);
}

#[test]
fn the_process_is_told_too() {
    let text = plain(&Metrics::new(Vec::new()));
    assert!(text.contains("process_resident_memory_bytes"), "{text}");
    assert!(text.contains(concat!("pgweir_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
}
