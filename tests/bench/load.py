"""One measurement: a load through one front for a while, and what it cost. pgbench makes the load, except for large results
and idle sessions, which this file makes itself. What is compared runs the same load right before and after."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass, field

import fronts
import machine
from wire import ServerError, Session

SELECT_ONE = "SELECT 1;\n"
UPDATE = (
    "\\set aid random(1, 100000 * :scale)\n\\set delta random(-5000, 5000)\n"
    "UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n"
)
READ = "\\set aid random(1, 100000 * :scale)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
LARGE = "SELECT id, body FROM large"


@dataclass(frozen=True)
class Case:
    """A load that every front gets."""

    name: str
    title: str
    clients: int
    arguments: tuple = ()
    # Weights of the scripts; by name, as `Loads.scripts` has them.
    scripts: tuple = ()


CASES = (
    Case("simple", "`-S` simple, 16 clients", 16, ("-S", "-M", "simple")),
    Case("extended", "`-S` extended, 16", 16, ("-S", "-M", "extended")),
    Case("prepared", "`-S` prepared, 16", 16, ("-S", "-M", "prepared")),
    Case("one_64", "`SELECT 1`, 64", 64, (), (("one", 1),)),
    Case("one_1", "`SELECT 1`, 1", 1, (), (("one", 1),)),
    Case("tpc_b", "TPC-B, 16", 16),
    Case("mix", "9 reads : 1 update, 16", 16, (), (("read", 9), ("update", 1))),
    Case("churn", "login and `SELECT 1`, 8", 8, ("-C",), (("one", 1),)),
)
LARGE_CASE = Case("large", "10-MB results, 2", 2)


@dataclass
class Sample:
    """What one run showed. Times in ms, CPU in µs for a transaction."""

    tps: float = 0.0
    p50: float | None = None
    p99: float | None = None
    transactions: int = 0
    proxy_cpu: float = 0.0
    server_cpu: float = 0.0
    megabytes_a_second: float | None = None
    offloaded: float | None = None
    error: str | None = None


@dataclass
class Amount:
    """How much: seconds, or in the small form so many transactions a client."""

    seconds: float
    transactions: int | None = None

    def arguments(self):
        return ["-t", str(self.transactions)] if self.transactions else ["-T", str(max(1, round(self.seconds)))]


@dataclass
class Loads:
    """Runs loads against a cluster and accounts for them."""

    cluster: object
    scripts: dict = field(default_factory=lambda: {"one": SELECT_ONE, "read": READ, "update": UPDATE})
    number: int = 0

    def script(self, name):
        path = self.cluster.scratch.path / f"{name}.sql"
        path.write_text(self.scripts[name])
        return path

    def command(self, front, case, amount, extra=()):
        command = [self.cluster.program("pgbench"), "-n", "-c", str(case.clients), "-j", str(min(2, case.clients))]
        command += [*case.arguments, *extra, *amount.arguments()]
        if case.scripts:
            command += ["-D", f"scale={self.cluster.scale}"]
        for name, weight in case.scripts:
            command += ["-f", f"{self.script(name)}@{weight}"]
        return command + [front.url]

    def measure(self, front, case, amount):
        """A sample of one case at one front."""
        if case is LARGE_CASE:
            return self.accounted(front, lambda: self.large(front, case.clients, amount))
        return self.accounted(front, lambda: self.pgbench(front, case, amount))

    def accounted(self, front, run):
        """Runs it between two readings of every process's CPU, and of where pgweir sent the statements."""
        servers = [node.process.pid for node in self.cluster.nodes]
        before = machine.cpu_seconds(front.roots), machine.cpu_seconds(servers), routes(front)
        sample = run()
        after = machine.cpu_seconds(front.roots), machine.cpu_seconds(servers), routes(front)
        if sample.transactions:
            sample.proxy_cpu = (after[0] - before[0]) * 1e6 / sample.transactions
            sample.server_cpu = (after[1] - before[1]) * 1e6 / sample.transactions
        if before[2] and sum(after[2]) > sum(before[2]):
            sample.offloaded = (after[2][1] - before[2][1]) / (sum(after[2]) - sum(before[2]))
        return sample

    def pgbench(self, front, case, amount, extra=()):
        self.number += 1
        folder = self.cluster.scratch.path / f"run-{self.number}"
        folder.mkdir()
        command = self.command(front, case, amount, ("--log", f"--log-prefix={folder}/log", *extra))
        limit = amount.seconds * 3 + 120
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return Sample(error=f"no end within {limit:.0f} s")
        times = sorted(int(line.split(" ", 3)[2]) for path in folder.iterdir() for line in path.read_text().splitlines())
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        tps = re.search(r"^tps = ([\d.]+)", done.stdout, re.M)
        if done.returncode or not tps or not times:
            told = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no transactions"]
            return Sample(error=told[0])
        sample = Sample(float(tps[1]), percentile(times, 50) / 1000, percentile(times, 99) / 1000, len(times))
        if "-C" in case.arguments:
            # pgbench's clock starts after the login, which is what this case is about.
            sample.p50 = sample.p99 = None
        return sample

    def large(self, front, clients, amount):
        """Results of 10 MB, taken as fast as they come and not looked at."""
        times, sizes, errors = [], [], []
        end = time.monotonic() + amount.seconds

        def client():
            session = None
            try:
                session, scratch = Session(front.port), memoryview(bytearray(256 * 1024))
                while time.monotonic() < end or not times:
                    started = time.monotonic()
                    sizes.append(session.swallow(LARGE, scratch))
                    times.append(time.monotonic() - started)
            except (ServerError, OSError) as error:
                errors.append(str(error))
            finally:
                if session:
                    session.close()

        started = time.monotonic()
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        if errors:
            return Sample(error=errors[0])
        times.sort()
        sample = Sample(len(times) / seconds, percentile(times, 50) * 1000, percentile(times, 99) * 1000, len(times))
        sample.megabytes_a_second = sum(sizes) / seconds / 1e6
        return sample


def routes(front):
    """Statements that pgweir sent to the primary and to replicas so far."""
    if not hasattr(front, "counted"):
        return None
    return [front.counted("pgweir_statements_total", f'route="{route}"') for route in ("primary", "replica")]


def percentile(ordered, share):
    """Of values in order; the nearest rank."""
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


def allocations(loads, binary, small):
    """How often a worker asks for memory, for each query in the three protocols; from runs of two lengths."""
    found = {}
    for case in CASES[:3]:
        shorter, longer = (asked(loads, binary, case, Amount(1, transactions)) for transactions in ((20, 40) if small else (500, 2500)))
        found[case.name] = (longer[1] - shorter[1]) / (longer[0] - shorter[0])
    return found


def asked(loads, binary, case, amount):
    """So many transactions, and so often a worker asked for memory in all."""
    front = fronts.Pgweir(loads.cluster, binary, label="counting")
    front.start()
    sample = loads.measure(front, case, amount)
    front.stop()
    if sample.error:
        raise SystemExit(f"bench: counting, {case.name}: {sample.error}")
    return sample.transactions, int(re.search(r"^asked for memory: (\d+)$", front.log(), re.M)[1])


def idle(front, wanted):
    """KiB that an idle client costs a freshly started front after its first query, and how many were tried."""
    clients = wanted if front.idle_limit is None else min(wanted, front.idle_limit)
    if not clients:
        return None
    front.restart()
    sessions = []
    try:
        # The first ones pay for what all share.
        for number in range(clients + clients // 20 + 1):
            if number == clients // 20:
                time.sleep(0.2)
                before, first = machine.memory_kib(front.roots), len(sessions)
            session = Session(front.port)
            sessions.append(session)
            session.query("SELECT 1")
        time.sleep(0.2)
        grown = machine.memory_kib(front.roots) - before
        return {"clients": len(sessions) - first, "kib": grown / (len(sessions) - first)}
    except (ServerError, OSError) as error:
        return {"clients": len(sessions), "kib": None, "error": str(error)}
    finally:
        for session in sessions:
            session.close()


def churn_beside(loads, front, amount):
    """p99 of 8 running clients without and during 200 logins a second."""
    running, logins = Case("running", "", 8, (), (("one", 1),)), Case("logins", "", 2, ("-C", "-R", "200"), (("one", 1),))
    # Both at a rate that leaves the machine room: what is looked for is being stalled.
    rate = ("-R", "1000")
    alone = loads.pgbench(front, running, amount, rate)
    command = loads.command(front, logins, amount)
    beside = subprocess.Popen(command, cwd=loads.cluster.scratch.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    crowded = loads.pgbench(front, running, amount, rate)
    beside.wait()
    return {"alone": alone.p99, "during": crowded.p99, "error": alone.error or crowded.error}
