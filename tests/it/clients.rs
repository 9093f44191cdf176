//! Real clients through the real binary: psql, pgbench, psycopg, asyncpg, node-postgres. Each script in clients/ checks its
//! own answers and says what is wrong; the same scripts run against PostgreSQL itself.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use pgweir::cli::demo::servers::postgres_bin;
use tokio::process::Command;

use crate::harness::front::{self, Front};
use crate::harness::wait;

/// A program of PostgreSQL: beside the servers, or on the PATH where those came without clients.
pub fn program(name: &str) -> PathBuf {
    let beside = postgres_bin().expect("PostgreSQL's programs").join(name);
    if beside.is_file() { beside } else { PathBuf::from(name) }
}

/// Where config/setup.sh put the drivers.
fn drivers() -> PathBuf {
    let cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let dir = std::env::var_os("PGWEIR_TEST_DRIVERS").map_or_else(|| cache().join("pgweir/clients"), PathBuf::from);
    assert!(dir.join("stamp").is_file(), "the drivers are not installed in {}: run `make setup`", dir.display());
    dir
}

fn home() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").expect("HOME is set"))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)
}

/// Runs a client to its end; it must succeed.
pub async fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = attempt(command).await;
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}\n{out}\n{err}");
    format!("{out}{err}")
}

pub async fn attempt(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true).env("PGCONNECT_TIMEOUT", "20").env_remove("PGOPTIONS");
    tokio::time::timeout(wait::PATIENCE * 4, command.output()).await.expect("the client ends").expect("the client runs")
}

fn psql(front: &Front) -> Command {
    let mut command = Command::new(program("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &front.url("app")]);
    command
}

#[tokio::test]
async fn psql_prints_what_it_prints_at_the_primary() {
    let front = front::shared().await;
    let here = run(psql(front).arg("-f").arg(script("psql.sql")).current_dir(front.cluster.dir())).await;
    let url = format!("postgres://app:secret@127.0.0.1:{}/app", front.cluster.primary.port);
    let mut straight = Command::new(program("psql"));
    straight.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url]).arg("-f").arg(script("psql.sql"));
    let there = run(straight.current_dir(front.cluster.dir())).await;
    assert_eq!(here, there);
    assert!(here.contains("number 7") && here.contains("done"), "{here}");
}

#[tokio::test]
async fn psql_reports_errors_with_their_place() {
    let front = front::shared().await;
    let output = attempt(psql(front).args(["-c", "SELECT id,\n  nonsense FROM numbers"])).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("column \"nonsense\" does not exist") && said.contains("LINE 2:"), "{said}");
}

/// Ctrl-C: psql sends a cancel of its own and lives on.
#[tokio::test]
async fn an_interrupted_psql_cancels_its_statement() {
    let front = front::with(&[]).await;
    let mut command = psql(&front);
    command.args(["-c", "SELECT pg_sleep(100)", "-c", "SELECT 'afterwards'"]).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("psql starts");
    wait::until("the statement runs", || async {
        let mut running = 0;
        for node in front.cluster.nodes() {
            let count = node.ask(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(100)%' AND state = 'active'",
            );
            running += count.await.parse::<i32>().expect("a number");
        }
        running == 1
    })
    .await;
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let output = wait::in_time("psql ends", child.wait_with_output()).await.expect("psql ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("canceling statement due to user request"), "{said}");
}

fn pgbench(front: &Front, mode: &str) -> Command {
    let mut command = Command::new(program("pgbench"));
    command.args(["-n", "-c", "32", "-j", "2", "-M", mode, &front.url("traced")]);
    command
}

#[tokio::test]
async fn pgbench_select_only_uses_both_replicas_evenly_and_the_primary_not_at_all() {
    let front = front::alone("selects", &[]).await;
    if front.proxy().is_some() {
        // Before that, the catalog may not be loaded yet.
        let session = front.connect("traced").await;
        wait::until("reads move to the replicas", || async {
            session.value("SELECT /* warm-up */ aid FROM pgbench_accounts WHERE aid = 1").await;
            let runs = front.runs_of("warm-up");
            runs[1] > 0 && runs[2] > 0
        })
        .await;
    }
    let mut before = [0; 3];
    for mode in ["simple", "extended", "prepared"] {
        let said = run(pgbench(&front, mode).args(["-S", "-t", "50"])).await;
        assert!(said.contains("number of transactions actually processed: 1600/1600"), "{said}");
        assert!(!said.contains("failed transactions: 1") && !said.contains("error"), "{said}");
        let after = front.runs_of("SELECT abalance FROM pgbench_accounts");
        let [primary, one, two] = [0, 1, 2].map(|node| after[node] - before[node]);
        println!("pgbench -S -M {mode}: primary {primary}, replica 1 {one}, replica 2 {two}");
        if front.proxy().is_some() {
            assert_eq!(primary, 0, "{mode}: none on the primary");
            assert!(one + two >= 1600 && one.min(two) * 3 >= one.max(two), "{mode}: about evenly: {one} and {two}");
        }
        before = after;
    }
}

#[tokio::test]
async fn pgbench_tpc_b_at_32_clients_keeps_its_books() {
    let front = front::shared().await;
    let history = || async {
        front.cluster.primary.ask("SELECT count(*) FROM pgbench_history").await.parse::<i64>().expect("a number")
    };
    let before = history().await;
    for mode in ["simple", "extended", "prepared"] {
        let mut command = Command::new(program("pgbench"));
        command.args(["-n", "-c", "32", "-j", "2", "-M", mode, "-t", "20", &front.url("app")]);
        let said = run(&mut command).await;
        assert!(said.contains("number of transactions actually processed: 640/640"), "{said}");
    }
    assert_eq!(history().await - before, 3 * 640);
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
        AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
        AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(front.cluster.primary.ask(sums).await, "t");
}

/// New connections all the time.
#[tokio::test]
async fn pgbench_may_connect_anew_for_every_transaction() {
    let front = front::shared().await;
    let mut command = Command::new(program("pgbench"));
    command.args(["-n", "-C", "-S", "-c", "8", "-t", "20", &front.url("app")]);
    let said = run(&mut command).await;
    assert!(said.contains("number of transactions actually processed: 160/160"), "{said}");
}

async fn python(front: &Front, name: &str) {
    let mut command = Command::new(drivers().join("venv/bin/python"));
    println!("{}", run(command.arg("-B").arg(script(name)).arg(front.url("app"))).await);
}

#[tokio::test]
async fn psycopg_works_with_pipelines_too() {
    python(&front::with(&[("pool.size", "5")]).await, "psycopg_client.py").await;
}

#[tokio::test]
async fn asyncpg_works() {
    python(&front::with(&[("pool.size", "5")]).await, "asyncpg_client.py").await;
}

#[tokio::test]
async fn node_postgres_works() {
    let front = front::with(&[("pool.size", "5")]).await;
    let mut command = Command::new("node");
    command.arg(script("node_postgres_client.js")).arg(front.url("app"));
    println!("{}", run(command.env("NODE_PATH", drivers().join("node_modules"))).await);
}
