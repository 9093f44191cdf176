//! Encrypted all the way: a client that trusts nobody unencrypted, pgweir, and nodes that let nobody in without TLS, with
//! SCRAM bound to the channel where the client asks for it. The certificate is made anew for each run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use pgweir::cli::demo::servers::{ServerUser, run_to_end};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::clients::{attempt, program, run};
use crate::harness::front::Front;
use crate::harness::raw::say;
use crate::harness::{Cluster, wait};

/// Only the harness's own user comes in without TLS.
const HBA: &str = "
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
hostssl all all 127.0.0.1/32 scram-sha-256
";

/// Makes every node of the cluster speak TLS, and tells where the certificate lies.
async fn encrypt(cluster: &Cluster) -> PathBuf {
    let user = ServerUser::find().expect("a user for the servers");
    let (certificate, key) = (cluster.dir().join("server.crt"), cluster.dir().join("server.key"));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-newkey", "rsa:2048"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    run_to_end(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).expect("openssl makes a certificate");
    for node in cluster.nodes() {
        let dir = cluster.dir().join(node.name);
        for file in [&certificate, &key] {
            let own = dir.join(file.file_name().expect("a file's name"));
            fs::copy(file, &own).expect("the node gets its certificate");
            user.give(&own).expect("the node's user owns it");
        }
        fs::write(dir.join("pg_hba.conf"), HBA).expect("pg_hba.conf");
        node.run_in("postgres", "ALTER SYSTEM SET ssl = on").await;
        node.ask("SELECT pg_reload_conf()").await;
        wait::until("the node speaks TLS", || async { node.ask("SHOW ssl").await == "on" }).await;
    }
    certificate
}

async fn encrypted_front() -> (Front, PathBuf) {
    let cluster = Arc::new(Cluster::start("encrypted").await);
    let root = encrypt(&cluster).await;
    let mut arguments = Vec::new();
    for node in cluster.nodes() {
        let (port, root) = (node.port, root.display());
        arguments.push("--node".to_owned());
        arguments.push(format!("postgres://app:secret@127.0.0.1:{port}/app?sslmode=verify-full&sslrootcert={root}"));
    }
    let key = root.with_extension("key");
    for (name, value) in [("mode", Path::new("require")), ("certificate", &root), ("key", &key)] {
        arguments.extend(["--set".to_owned(), format!("client_tls.{name}={}", value.display())]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Front::from_arguments(cluster, &arguments).await, root)
}

fn psql(front: &Front, security: &str) -> Command {
    let mut command = Command::new(program("psql"));
    let way = format!("host=127.0.0.1 port={} user=app password=secret dbname=app {security}", front.port());
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &way]);
    command
}

#[tokio::test]
async fn every_hop_is_encrypted_and_scram_is_bound_to_it() {
    let (front, root) = encrypted_front().await;
    let bound = format!("sslmode=verify-full channel_binding=require sslrootcert={}", root.display());
    for security in [bound.as_str(), "sslmode=require channel_binding=disable"] {
        let mut client = psql(&front, security);
        client.args(["-c", "INSERT INTO scribble (who, note) VALUES ('tls', repeat('x', 3000000))"]);
        client.args(["-c", "SELECT length(note) FROM scribble WHERE who = 'tls'", "-c", "DELETE FROM scribble"]);
        client.args(["-c", "COPY (SELECT sum(id) FROM numbers) TO STDOUT", "-c", "SELECT pg_backend_pid()"]);
        client.args(["-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"]);
        let said = run(&mut client).await;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[0], lines[1], lines[3]), ("3000000", "500500", "t"), "{said}");
    }
    for _ in 0..20 {
        assert_eq!(run(psql(&front, &bound).args(["-c", "SELECT count(*) FROM numbers"])).await, "1000\n");
    }
    if front.proxy().is_some() {
        for node in front.cluster.nodes() {
            let server_connections = "SELECT string_agg(DISTINCT ssl::text, ',') FROM pg_stat_ssl
                                        JOIN pg_stat_activity USING (pid) WHERE usename = 'app'";
            assert_eq!(node.ask(server_connections).await, "true", "{}", node.name);
        }
    }
    a_statement_is_cancelled(&front, &bound).await;
    a_cancel_ends_properly(&front).await;
    let refused = attempt(psql(&front, "sslmode=disable").args(["-c", "SELECT 1"])).await;
    assert!(!refused.status.success(), "{refused:?}");
}

/// Newer libpq sends its cancel in TLS and calls it failed if the connection just breaks off.
async fn a_cancel_ends_properly(front: &Front) {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-ign_eof", "-starttls", "postgres", "-connect"]);
    openssl.arg(format!("127.0.0.1:{}", front.port()));
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = openssl.spawn().expect("openssl starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&say::cancel_request(1, b"none")).await.expect("it is sent");
    let output = wait::in_time("openssl ends", child.wait_with_output()).await.expect("openssl ran");
    drop(input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("unexpected eof"), "{said}");
}

/// libpq's cancel goes over a connection of its own, which pgweir answers to by one of its own to the node.
async fn a_statement_is_cancelled(front: &Front, bound: &str) {
    let mut client = psql(front, bound);
    client.args(["-c", "SELECT pg_sleep(100)"]).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = client.spawn().expect("psql starts");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(100)' AND state = 'active'";
    wait::until("the statement runs", || async { front.cluster.primary.ask(sleeping).await == "1" }).await;
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let output = wait::in_time("psql ends", child.wait_with_output()).await.expect("psql ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("canceling statement due to user request"), "{said}");
}
