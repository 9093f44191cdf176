"""The benchmark's own primary and two streaming replicas, in a directory that goes away with everything that runs in it,
also when the benchmark is killed. Each server is a child of this process. Nothing here touches a server of anybody else."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
from wire import PASSWORD, USER, ServerError, Session

# Small and quick; nothing of it is worth keeping. synchronous_commit stays on, as in life; fsync would measure the disk.
SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": "300",
    "shared_buffers": "256MB",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "wal_keep_size": "512MB",
    "max_wal_size": "2GB",
    "wal_retrieve_retry_interval": "200ms",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "log_min_messages": "fatal",
}

# The benchmark's own way in is trust; what is measured logs in with SCRAM.
HBA = """
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""

# 1.3 kB a row, 8,000 rows: a result of 10 MB. Stored plainly, so that the servers have little to do for it.
TABLES = """
ALTER TABLE pgbench_accounts OWNER TO app; ALTER TABLE pgbench_branches OWNER TO app;
ALTER TABLE pgbench_tellers OWNER TO app; ALTER TABLE pgbench_history OWNER TO app;
CREATE TABLE large (id int PRIMARY KEY, body text NOT NULL);
ALTER TABLE large ALTER COLUMN body SET STORAGE PLAIN;
INSERT INTO large SELECT i, repeat(md5(i::text), 41) FROM generate_series(1, 8000) i;
CREATE TABLE beat (id int PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO beat SELECT i, 0 FROM generate_series(0, 9) i;
ALTER TABLE large OWNER TO app; ALTER TABLE beat OWNER TO app;
"""

# A process of its own: waits for the end of a pipe, which comes when we close it and also when we die; then ends whatever
# has its working directory in ours, and removes that. Politely first, so that servers give back their shared memory.
REAPER = """
import os, shutil, signal, sys, time

def inside():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if (os.readlink(f"/proc/{pid}/cwd") + "/").startswith(sys.argv[1] + "/"):
                yield int(pid)
        except OSError:
            continue

def tell(*signals):
    for pid in inside():
        for number in signals:
            try:
                os.kill(pid, number)
            except OSError:
                continue

sys.stdin.read()
tell(signal.SIGCONT, signal.SIGQUIT)
for round in range(60):
    if not any(inside()):
        break
    if round > 30:
        tell(signal.SIGKILL)
    time.sleep(0.1)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Scratch:
    """A directory that goes away with its processes, which must have their working directory in it."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="pgweir-bench-"))
        self.path.chmod(0o755)
        self.reaper = subprocess.Popen(
            [sys.executable, "-c", REAPER, str(self.path)],
            cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        self.user = machine.server_user()

    def folder(self, name):
        """A folder inside that belongs to whom the servers run as."""
        path = self.path / name
        path.mkdir(mode=0o700)
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def own(self, path):
        """Gives a file that we wrote to whom the servers run as."""
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def as_server(self):
        """How subprocess starts something as whom the servers run as, without what the environment says of others."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        options = {"env": env, "stdin": subprocess.DEVNULL}
        if self.user:
            options |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return options

    def close(self):
        self.reaper.stdin.close()
        self.reaper.wait()


class Node:
    """One server."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.port = cluster.ports.take()
        self.dir = cluster.scratch.folder(name)
        self.process = None

    def start(self):
        log = open(self.dir.parent / f"{self.name}.log", "ab")
        command = [self.cluster.bin / "postgres", "-D", self.dir, "-c", f"port={self.port}"]
        self.process = subprocess.Popen(command, cwd=self.dir, stdout=log, stderr=log, **self.cluster.scratch.as_server())
        log.close()
        self.cluster.until(f"{self.name} answers", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise SystemExit(f"bench: {self.name} did not start:\n" + (self.dir.parent / f"{self.name}.log").read_text())
        try:
            self.ask("SELECT 1")
            return True
        except (ServerError, OSError):
            return False

    def ask(self, sql, database="postgres"):
        """One value, as the superuser and past every proxy; None when no row comes."""
        session = Session(self.port, "postgres", "", database)
        try:
            rows = session.query(sql)
            return rows[0][0] if rows else None
        finally:
            session.close()

    def kill(self):
        """As a power cut would: no good-bye from anybody."""
        for pid in machine.tree(self.process.pid):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.process.wait()

    def follow(self, primary):
        text = f"host=127.0.0.1 port={primary.port} user=postgres application_name={self.name}"
        self.ask(f"ALTER SYSTEM SET primary_conninfo = '{text}'")
        self.ask("SELECT pg_reload_conf()")

    def pause(self):
        self.ask("SELECT pg_wal_replay_pause()")

    def resume(self):
        self.ask("SELECT pg_wal_replay_resume()")


class Cluster:
    """A primary and its replicas."""

    def __init__(self, scratch, ports, scale, replicas=2):
        self.scratch, self.ports, self.bin, self.scale = scratch, ports, machine.postgres_bin(), scale
        self.primary = Node(self, "primary")
        self.run("initdb", "-D", self.primary.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        (self.primary.dir / "pg_hba.conf").write_text(HBA)
        with open(self.primary.dir / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.writelines(f"{key} = {value}\n" for key, value in SETTINGS.items())
        self.primary.start()
        self.primary.ask(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor")
        self.primary.ask(f"CREATE DATABASE app OWNER {USER}")
        self.run("pgbench", "-i", "-q", "-s", str(scale), f"postgres://postgres@127.0.0.1:{self.primary.port}/app")
        self.primary.ask(TABLES, "app")
        self.primary.ask("VACUUM ANALYZE", "app")
        self.replicas = [self.make_replica(number + 1) for number in range(replicas)]
        self.until("the replicas have everything", self.level)

    def make_replica(self, number):
        node = Node(self, f"replica{number}")
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres"
        self.run("pg_basebackup", "-d", source, "-D", node.dir, "-X", "stream", "-c", "fast", "--no-sync")
        with open(node.dir / "postgresql.auto.conf", "a", encoding="utf-8") as conf:
            conf.write(f"primary_conninfo = '{source} application_name={node.name}'\n")
        (node.dir / "standby.signal").touch()
        self.scratch.own(node.dir / "standby.signal")
        node.start()
        return node

    @property
    def nodes(self):
        return [self.primary, *self.replicas]

    def level(self):
        """Have all replicas replayed what the primary has written?"""
        written = self.primary.ask("SELECT pg_current_wal_lsn()")
        return all(node.ask(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") == "t" for node in self.replicas)

    def program(self, name):
        beside = self.bin / name
        found = str(beside) if beside.is_file() else shutil.which(name)
        if not found:
            raise SystemExit(f"bench: {name} was not found; run config/setup.sh bench")
        return found

    def run(self, name, *arguments):
        done = subprocess.run(
            [self.program(name), *arguments], cwd=self.scratch.path, capture_output=True, text=True, check=False, **self.scratch.as_server()
        )
        if done.returncode:
            raise SystemExit(f"bench: {name} failed:\n{done.stdout}{done.stderr}")

    @staticmethod
    def until(what, condition, patience=60):
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"bench: gave up waiting: {what}")
            time.sleep(0.05)
