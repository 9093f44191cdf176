"""What is compared: PostgreSQL itself, pgweir, and whichever peers this machine has. Each front is one process tree on a
port of its own in front of the same cluster; all run at once and are measured in turn. Settings are the peers' defaults
except for what the files below say."""

import hashlib
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import machine
from wire import PASSWORD, USER, ServerError, Session

SERVER_CONNECTIONS = 20


class Front:
    """Somewhere to connect to. `label` is its name in tables, `note` what a reader must know of it."""

    splits = False
    # So many sessions it is asked to hold idle; None: as many as the benchmark wants.
    idle_limit = None

    def __init__(self, label, cluster, note=""):
        self.label, self.cluster, self.note = label, cluster, note
        self.port = cluster.ports.take()
        self.process = None

    @property
    def url(self):
        return f"postgres://{USER}:{PASSWORD}@127.0.0.1:{self.port}/app?sslmode=disable&gssencmode=disable"

    def folder(self):
        """Its directory, made at the first start."""
        path = self.cluster.scratch.path / f"{self.label.replace(' ', '-')}-{self.port}"
        return path if path.is_dir() else self.cluster.scratch.folder(path.name)

    def write(self, name, text):
        path = self.folder() / name
        path.write_text(text)
        path.chmod(0o600)
        self.cluster.scratch.own(path)
        return path

    def spawn(self, command, **options):
        log = open(self.cluster.scratch.path / f"{self.folder().name}.log", "ab")
        self.process = subprocess.Popen(command, cwd=self.folder(), stdout=log, stderr=log, **options)
        log.close()
        self.cluster.until(f"{self.label} answers", self.answers)

    def answers(self):
        if self.process and self.process.poll() is not None:
            log = self.cluster.scratch.path / f"{self.folder().name}.log"
            raise SystemExit(f"bench: {self.label} ended:\n{log.read_text()[-3000:]}")
        try:
            session = Session(self.port, timeout=5)
        except (ServerError, OSError):
            return False
        try:
            return session.value("SELECT 1") == "1"
        except ServerError:
            return False
        finally:
            session.close()

    def start(self):
        """Starts it and waits until it answers."""

    def stop(self):
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in machine.tree(self.process.pid):
                os.kill(pid, 9)
            self.process.wait()

    def restart(self):
        self.stop()
        self.start()

    @property
    def roots(self):
        return [self.process.pid] if self.process else []


class Direct(Front):
    """The primary itself."""

    # Each idle client would be a server process.
    idle_limit = 0

    def __init__(self, cluster):
        super().__init__("direct", cluster)
        self.port = cluster.primary.port


class Pgweir(Front):
    """The binary under test, configured as a newcomer would, with a pool as large as the peers'."""

    splits = True

    def __init__(self, cluster, binary, label="pgweir", nodes=None):
        nodes = nodes or cluster.nodes
        replicas = len(nodes) - 1
        super().__init__(label, cluster, f"splitting over {replicas} replicas, session consistency" if replicas else "the primary only")
        self.binary, self.nodes = binary, nodes
        self.admin = cluster.ports.take()

    def start(self):
        command = [self.binary, "run", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
        for node in self.nodes:
            command += ["--node", f"postgres://{USER}:{PASSWORD}@127.0.0.1:{node.port}/app"]
        for setting in (f"pool.size={SERVER_CONNECTIONS}", "limits.clients=20000", "log.level=error"):
            command += ["--set", setting]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PGWEIR_")}
        self.spawn(command, env=env, stdin=subprocess.DEVNULL)
        if len(self.nodes) > 1:
            self.cluster.until("reads move to the replicas", self.moves_reads)

    def log(self):
        return (self.cluster.scratch.path / f"{self.folder().name}.log").read_text()

    def moves_reads(self):
        session = Session(self.port)
        try:
            before = self.counted("pgweir_statements_total", 'route="replica"')
            session.query("SELECT n FROM beat WHERE id = 0")
            session.query("SELECT n FROM beat WHERE id = 0")
            # The counters of a worker are summed when they are asked for.
            return self.counted("pgweir_statements_total", 'route="replica"') > before
        except ServerError:
            return False
        finally:
            session.close()

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=20) as answer:
            return answer.read().decode()

    def counted(self, family, label):
        """The sum of a family's samples that carry a label."""
        lines = (line for line in self.metrics().splitlines() if line.startswith(family + "{") and label in line)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class PgBouncer(Front):
    """One primary behind it: it does not split."""

    def __init__(self, cluster, program):
        super().__init__("PgBouncer", cluster, f"transaction pooling, {SERVER_CONNECTIONS} server connections, the primary only")
        self.binary = program

    def start(self):
        users = self.write("users.txt", f'"{USER}" "{PASSWORD}"\n')
        ini = self.write("pgbouncer.ini", f"""
[databases]
app = host=127.0.0.1 port={self.cluster.primary.port} dbname=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 20000
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
{"max_prepared_statements = 500" if self.prepares() else ""}
""")
        self.spawn([self.binary, "-q", ini], **self.cluster.scratch.as_server())

    def prepares(self):
        """From 1.21 on it keeps prepared statements apart in transaction mode."""
        numbers = machine.version(self.binary, "--version").split()[-1].split(".")
        return tuple(int(number) for number in numbers[:2]) >= (1, 21)


class PgpoolII(Front):
    """Load balancing over the replicas, one process for each client at a time."""

    splits = True
    CHILDREN = 100
    idle_limit = 80

    def __init__(self, cluster, program):
        super().__init__("Pgpool-II", cluster, f"load balancing, {self.CHILDREN} child processes")
        self.binary = program
        self.pcp = cluster.ports.take()

    def start(self):
        self.write("pool_passwd", f"{USER}:TEXT{PASSWORD}\n")
        hba = self.write("pool_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
        pcp = self.write("pcp.conf", f"nobody:{hashlib.md5(os.urandom(16)).hexdigest()}\n")
        folder = self.folder()
        nodes = "".join(
            f"backend_hostname{i} = '127.0.0.1'\nbackend_port{i} = {node.port}\nbackend_weight{i} = 1\n"
            f"backend_flag{i} = 'DISALLOW_TO_FAILOVER'\n"
            for i, node in enumerate(self.cluster.nodes)
        )
        conf = self.write("pgpool.conf", f"""
backend_clustering_mode = 'streaming_replication'
listen_addresses = '127.0.0.1'
port = {self.port}
{self.socket_keys(folder)}
pcp_listen_addresses = '127.0.0.1'
pcp_port = {self.pcp}
pid_file_name = '{folder}/pgpool.pid'
logdir = '{folder}'
work_dir = '{folder}'
{nodes}
enable_pool_hba = on
pool_passwd = '{folder}/pool_passwd'
num_init_children = {self.CHILDREN}
max_pool = 1
load_balance_mode = on
sr_check_period = 5
sr_check_user = '{USER}'
sr_check_password = '{PASSWORD}'
sr_check_database = 'app'
delay_threshold = 10000000
log_min_messages = error
memory_cache_enabled = off
use_watchdog = off
""")
        command = [self.binary, "-n", "-f", conf, "-F", pcp, "-a", hba]
        self.spawn(command, **self.cluster.scratch.as_server())

    def socket_keys(self, folder):
        """The sockets' folder has another name since 4.4; what it does not know it takes for an error."""
        numbers = machine.version(self.binary, "--version").split("version")[-1].split()[0]
        major, minor = (int(part.rstrip("devbetarc") or 0) for part in numbers.split(".")[:2])
        if (major, minor) >= (4, 4):
            names = ("unix_socket_directories", "pcp_socket_dir", "wd_ipc_socket_dir")
        else:
            names = ("socket_dir", "pcp_socket_dir", "wd_ipc_socket_dir")
        return "\n".join(f"{name} = '{folder}'" for name in names)


class HAProxy(Front):
    """TCP only: what moving the bytes costs when nobody looks at them."""

    # Each client would be a server process.
    idle_limit = 80

    def __init__(self, cluster, program):
        super().__init__("HAProxy", cluster, "TCP mode, the primary only")
        self.binary = program

    def start(self):
        conf = self.write("haproxy.cfg", f"""
global
    maxconn 2000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend clients
    bind 127.0.0.1:{self.port}
    default_backend primary
backend primary
    server primary 127.0.0.1:{self.cluster.primary.port}
""")
        self.spawn([self.binary, "-db", "-f", conf], **self.cluster.scratch.as_server())


class Relay(Front):
    """tests/bench/relay.rs: two sockets and a Tokio runtime, the floor under every proxy of this kind."""

    idle_limit = 80

    def __init__(self, cluster, binary):
        super().__init__("bare relay", cluster, "a Tokio program that only copies bytes")
        self.binary = binary

    def start(self):
        self.spawn([self.binary, f"127.0.0.1:{self.port}", f"127.0.0.1:{self.cluster.primary.port}"], stdin=subprocess.DEVNULL)


def all_of(cluster, binary, wanted):
    """The fronts that this machine can show, started; and the versions of everything, for the record."""
    versions = {"PostgreSQL": machine.version(cluster.bin / "postgres", "--version"), "pgweir": machine.version(binary, "--version")}
    fronts = [Direct(cluster), Pgweir(cluster, binary)]
    for name, kind, flag in (("pgbouncer", PgBouncer, "--version"), ("haproxy", HAProxy, "-v"), ("pgpool", PgpoolII, "--version")):
        found = machine.program(name) if name in wanted else None
        if found:
            fronts.append(kind(cluster, found))
            versions[fronts[-1].label] = machine.version(found, flag)
    relay = Path(binary).parent / "examples" / "relay"
    if relay.is_file() and "relay" in wanted:
        fronts.append(Relay(cluster, str(relay)))
    started = time.monotonic()
    for front in fronts:
        front.start()
    print(f"bench: {', '.join(front.label for front in fronts)} (started in {time.monotonic() - started:.0f} s)", flush=True)
    return fronts, versions
