//! `pgweir demo` makes its own cluster, moves the reads, and leaves nothing behind.

use pgweir::cli::demo::cluster::DemoCluster;
use pgweir::cli::demo::servers::postgres_bin;
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::clients::run;
use crate::harness::{front, wait};

#[tokio::test]
async fn its_cluster_streams_and_goes_away() {
    let cluster =
        DemoCluster::start(&postgres_bin().expect("PostgreSQL's programs"), 2).await.expect("the cluster starts");
    let path = cluster.path().to_path_buf();
    let mut sessions = Vec::new();
    for port in &cluster.ports {
        let url = format!("postgres://demo:demo@127.0.0.1:{port}/demo");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a login");
        tokio::spawn(connection);
        sessions.push(client);
    }
    sessions[0].batch_execute("UPDATE accounts SET balance = 4711 WHERE id = 1").await.expect("a write");
    for replica in &sessions[1..] {
        wait::until("the row streams", || async {
            let row = replica.query_one("SELECT balance FROM accounts WHERE id = 1", &[]).await.expect("a read");
            row.get::<_, i64>(0) == 4711
        })
        .await;
    }
    cluster.hold(2).await.expect("replay is paused");
    cluster.let_go(2).await.expect("replay is resumed");
    drop(cluster);
    assert!(!path.exists(), "its directory is gone");
    for session in &sessions {
        assert!(session.query_one("SELECT 1", &[]).await.is_err(), "its servers are gone");
    }
}

#[tokio::test]
async fn it_moves_the_reads_and_cleans_up() {
    if front::direct() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    let said = run(command.args(["demo", "--seconds", "6"])).await;
    assert!(said.contains("DATABASE_URL=postgres://"), "{said}");
    let last =
        said.lines().rev().find(|line| line.contains("reads/s")).unwrap_or_else(|| panic!("no live line: {said}"));
    assert!(last.contains("stale 0  errors 0"), "{last}");
    let share = last
        .split("% of reads off the primary")
        .next()
        .and_then(|text| text.split_whitespace().last())
        .expect("a share");
    assert!(share.parse::<f64>().expect("a number") > 50.0, "{last}");
}
