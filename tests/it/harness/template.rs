//! The data directory that all clusters of the tests are copied from: initdb and the fixtures cost seconds and are paid
//! once per machine, PostgreSQL version and content of this file. It must never be changed after it was built.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use pgweir::cli::demo::servers::{ServerUser, run_to_end};

use super::cluster::{Node, Stop};
use super::scratch::Scratch;

/// What every server of the tests runs with.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
superuser_reserved_connections = 10
shared_buffers = 64MB
dynamic_shared_memory_type = mmap
wal_level = logical
hot_standby = on
max_wal_senders = 10
max_replication_slots = 10
wal_keep_size = 512MB
max_wal_size = 512MB
max_prepared_transactions = 10
wal_receiver_timeout = 5s
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 200ms
fsync = off
full_page_writes = off
autovacuum = off
jit = off
log_line_prefix = '%m [%p] %u@%d '
log_min_messages = warning
timezone = 'UTC'
log_timezone = 'UTC'
";

/// `postgres` is the harness's own way in; everyone else shows a password, as in life.
const HBA: &str = "
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

/// Roles first (run in `postgres`). All passwords are `secret`; `traced` writes each of its statements to the node's log.
const ROLES: &str = "
CREATE ROLE app LOGIN PASSWORD 'secret';
CREATE ROLE admin LOGIN SUPERUSER PASSWORD 'secret';
CREATE ROLE traced LOGIN PASSWORD 'secret';
CREATE ROLE weir LOGIN PASSWORD 'secret' IN ROLE pg_monitor;
CREATE ROLE auditor NOLOGIN;
CREATE ROLE streamer LOGIN REPLICATION PASSWORD 'secret';
GRANT auditor TO app;
GRANT app TO traced;
ALTER ROLE traced SET log_statement = 'all';
";

const DATABASES: [&str; 2] = ["CREATE DATABASE app OWNER app", "CREATE DATABASE other OWNER app"];

/// Then tables (run in `app`, as app).
const FIXTURES: &str = "
CREATE TABLE numbers (id int PRIMARY KEY, name text NOT NULL, half numeric);
INSERT INTO numbers SELECT i, 'number ' || i, i / 2.0 FROM generate_series(1, 1000) i;
CREATE TABLE kv (id int PRIMARY KEY, value bigint NOT NULL);
INSERT INTO kv SELECT i, 0 FROM generate_series(1, 1000) i;
CREATE TABLE scribble (id serial PRIMARY KEY, who text, note text, at timestamptz DEFAULT now());
CREATE SEQUENCE tickets;
CREATE TABLE wide (id int PRIMARY KEY, filler text NOT NULL);
INSERT INTO wide SELECT i, repeat(md5(i::text), 320) FROM generate_series(1, 1000) i;
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (fillfactor = 90);
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO pgbench_branches VALUES (1, 0);
INSERT INTO pgbench_tellers SELECT i, 1, 0 FROM generate_series(1, 10) i;
INSERT INTO pgbench_accounts SELECT i, 1, 0, '' FROM generate_series(1, 100000) i;
ANALYZE;
CREATE VIEW big_numbers AS SELECT id, name FROM numbers WHERE id > 900;
CREATE FUNCTION shout(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'shout: %', $1; RETURN upper($1); END $$;
CREATE FUNCTION scribble_and_count(text) RETURNS bigint LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO scribble (who) VALUES ($1); RETURN (SELECT count(*) FROM scribble WHERE who = $1); END $$;
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans);
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.numbers (id int PRIMARY KEY, name text NOT NULL, half numeric);
INSERT INTO elsewhere.numbers VALUES (1, 'another one', 0.5);
GRANT USAGE ON SCHEMA public, elsewhere TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, elsewhere TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
";

/// The finished template's directory, built now if this machine has none yet.
pub async fn template(bin: &Path, user: &ServerUser) -> PathBuf {
    let path = env::temp_dir().join(format!("pgweir-it-template-{:016x}", key(bin, user)));
    if path.join("standby-ready").exists() {
        return path;
    }
    // Made in a scratch, so that a failure leaves nothing behind.
    let scratch = Scratch::new("template");
    let half_made = scratch.path().join("template");
    fs::create_dir(&half_made).expect("a directory for the template");
    user.give(&half_made).expect("the directory is given to the servers' user");
    build(bin, user, &half_made).await;
    fs::write(half_made.join("standby-ready"), "").expect("the template is marked as complete");
    // Another test run may have been quicker; its template is as good as ours.
    if let Err(error) = fs::rename(&half_made, &path) {
        assert!(path.join("standby-ready").exists(), "the template is put in its place: {error}");
    }
    path
}

/// Everything that the template's content depends on.
fn key(bin: &Path, user: &ServerUser) -> u64 {
    let version = Command::new(bin.join("postgres")).arg("--version").output().expect("postgres tells its version");
    let mut hasher = DefaultHasher::new();
    (version.stdout, bin, SETTINGS, HBA, ROLES, FIXTURES, format!("{user:?}")).hash(&mut hasher);
    hasher.finish()
}

async fn build(bin: &Path, user: &ServerUser, dir: &Path) {
    let mut initdb = user.command(&bin.join("initdb"));
    initdb.arg("-D").arg(dir).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    run_to_end(initdb.current_dir("/")).expect("initdb");
    fs::write(dir.join("pg_hba.conf"), HBA).expect("pg_hba.conf");
    let conf = dir.join("postgresql.conf");
    let settings = fs::read_to_string(&conf).expect("postgresql.conf is readable") + SETTINGS;
    fs::write(&conf, settings).expect("postgresql.conf is writable");

    let node = Node::new("template", dir.to_path_buf(), bin, user);
    node.start().await;
    node.run_in("postgres", ROLES).await;
    for database in DATABASES {
        node.run_in("postgres", database).await;
    }
    // What the app owns it makes itself.
    node.run_in("app", &format!("SET SESSION AUTHORIZATION app;\n{FIXTURES}")).await;
    node.run_in("postgres", "CHECKPOINT").await;
    node.stop(Stop::Fast).await;
    for leftover in ["node.log", "postmaster.opts"] {
        let _ = fs::remove_file(dir.join(leftover));
    }
}
