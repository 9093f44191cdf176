//! The admin port over real sockets, with a made-up cluster behind it.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::cluster::{ClusterView, Health, Lsn, NodeId, NodeView, Role, Timeline};
use crate::metrics::{Metrics, PoolSample, Route};

fn node(id: u16, role: Role, health: Health) -> NodeView {
    NodeView {
        id: NodeId(id),
        name: format!("db{id}:5432"),
        role,
        health,
        timeline: Timeline(1),
        replay: Lsn(0x16_B374_D848),
        observation: 1,
        connected: 0,
        lag: (role == Role::Replica).then_some(Duration::from_millis(1500)),
        lag_bytes: (role == Role::Replica).then_some(8192),
        lag_observed: (role == Role::Replica).then_some(Duration::from_millis(1500)),
        answered: None,
        weight: 1,
        stats: Arc::default(),
        facts: Arc::default(),
    }
}

fn view(nodes: Vec<NodeView>, primary: Option<NodeId>) -> ClusterView {
    let (system, timeline) = (7_300_000_000_000_000_001, Timeline(1));
    ClusterView { nodes, primary, system, timeline, switch: None, epoch: 1, taken: Instant::now() }
}

fn healthy() -> ClusterView {
    let nodes = vec![node(0, Role::Primary, Health::Healthy), node(1, Role::Replica, Health::Healthy)];
    view(nodes, Some(NodeId(0)))
}

fn sources(view: ClusterView, accepting: usize) -> AdminSources {
    let view = Arc::new(view);
    let metrics = Metrics::new(view.nodes.iter().map(|node| node.name.clone()).collect());
    AdminSources {
        view: Box::new(move || Arc::clone(&view)),
        pools: Box::new(|| vec![PoolSample { node: "db1:5432".into(), in_use: 3, size: 20, ..PoolSample::default() }]),
        metrics,
        accepting: Box::new(move || accepting),
        reload: Box::new(|| Ok("nothing changed".to_owned())),
    }
}

/// One request over its own connection: status, headers, body.
async fn ask(sources: AdminSources, request: &str) -> (u16, String, String) {
    let admin = Admin::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = admin.address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(admin.serve(sources, async {
        let _ = stopped.await;
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    drop(stop);
    served.await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn metrics_come_in_the_text_format_with_the_view_in_them() {
    let sources = sources(healthy(), 2);
    sources.metrics.worker().transaction(Route::Replica(1), "read", 1);
    let (status, head, body) = ask(sources, "GET /metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    for line in [
        r#"pgweir_transactions_total{route="replica",node="db1:5432",reason="read"} 1"#,
        r#"pgweir_replica_lag_seconds{node="db1:5432"} 1.5"#,
        r#"pgweir_node_role{node="db0:5432",role="primary"} 1"#,
        r#"pgweir_pool_connections{node="db1:5432",database="",user="",state="in_use"} 3"#,
        "pgweir_primary_known 1",
    ] {
        assert!(body.lines().any(|found| found == line), "no line {line}\nin\n{body}");
    }
}

#[tokio::test]
async fn health_is_the_process_and_readiness_is_the_service() {
    let alone = || view(vec![node(1, Role::Unknown, Health::Down("connection refused".into()))], None);
    assert_eq!(ask(sources(alone(), 0), "GET /healthz").await.0, 200);
    let (status, _, body) = ask(sources(alone(), 0), "GET /readyz").await;
    assert_eq!(status, 503);
    for told in ["no worker accepts", "no primary is known", "node db1:5432: connection refused"] {
        assert!(body.contains(told), "{body}");
    }
    let (status, _, body) = ask(sources(healthy(), 1), "GET /readyz").await;
    assert_eq!((status, body.as_str()), (200, "ready\n"));
}

#[tokio::test]
async fn status_is_json_with_nodes_pools_and_reasons() {
    let sources = sources(healthy(), 2);
    sources.metrics.worker().transaction(Route::Primary(0), "write", 9);
    let (status, head, body) = ask(sources, "GET /api/status").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["cluster"]["primary"], "db0:5432");
    assert_eq!(told["cluster"]["system"], "7300000000000000001");
    assert_eq!(told["nodes"][1]["role"], "replica");
    assert_eq!(told["nodes"][1]["lag_seconds"], 1.5);
    assert_eq!(told["nodes"][1]["replay_lsn"], "16/B374D848");
    assert_eq!(told["pools"][0]["in_use"], 3);
    assert_eq!(told["statements"][0]["reason"], "write");
    assert_eq!(told["statements"][0]["count"], 9);
}

#[tokio::test]
async fn the_page_is_whole_and_may_load_nothing_from_elsewhere() {
    for path in ["/", "/dashboard"] {
        let (status, head, body) = ask(sources(healthy(), 1), &format!("GET {path}")).await;
        assert_eq!(status, 200);
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        assert!(body.trim_start().to_lowercase().starts_with("<!doctype html>"), "{body}");
    }
    for text in [PAGE, STYLE, SCRIPT] {
        let text = std::str::from_utf8(text).unwrap().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("url(//"));
    }
    for (path, kind) in
        [("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript"), ("/icon.svg", "image/svg+xml")]
    {
        let (status, head, _) = ask(sources(healthy(), 1), &format!("GET {path}")).await;
        assert_eq!(status, 200);
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
    }
}

#[tokio::test]
async fn reload_answers_what_changed_or_why_not() {
    let (status, _, body) = ask(sources(healthy(), 1), "POST /reload").await;
    assert_eq!((status, body.as_str()), (200, "nothing changed\n"));
    let refused = AdminSources {
        reload: Box::new(|| Err("pgweir.toml:3: unknown key \"szie\"".to_owned())),
        ..sources(healthy(), 1)
    };
    let (status, _, body) = ask(refused, "POST /reload").await;
    assert_eq!(status, 422);
    assert!(body.contains("unknown key \"szie\""), "{body}");
    assert_eq!(ask(sources(healthy(), 1), "GET /reload").await.0, 405);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_reload() {
    let called = Arc::new(Mutex::new(0));
    let counts = Arc::clone(&called);
    let watched = AdminSources {
        reload: Box::new(move || {
            *counts.lock().unwrap() += 1;
            Ok(String::new())
        }),
        ..sources(healthy(), 1)
    };
    // The header stands in front of the request line's end, as `ask` appends the rest.
    let (status, _, _) = ask(watched, "POST /reload HTTP/1.1\r\nOrigin: https://elsewhere.example\r\nX-Rest:").await;
    assert_eq!(status, 403);
    assert_eq!(*called.lock().unwrap(), 0);
}

#[tokio::test]
async fn an_unknown_path_says_what_there_is() {
    let (status, _, body) = ask(sources(healthy(), 1), "GET /metric").await;
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"), "{body}");
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_key() {
    let first = Admin::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = first.address().unwrap();
    let error = Admin::bind(address).await.err().unwrap().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("admin.address"), "{error}");
}
