"""The second part: what splitting itself gives and costs. How old reads are at each consistency level while replicas lag,
what a verdict costs in latency, and what clients notice of a killed replica and of a failover. Ages are taken with one
clock, this process's: a read is as old as the oldest acknowledged write that it does not show."""

import collections
import subprocess
import threading
import time

from fronts import Pgweir
from load import Case, percentile
from wire import ServerError, Session

LEVELS = ("eventual", "session", "global", "strict", "primary")

CLASSIFIED = {
    "known": Case("known", "`-S`, a verdict from the cache", 1, ("-M", "simple"), (("read", 1),)),
    "new": Case("new", "a statement never seen before", 1, ("-M", "simple"), (("new", 1),)),
}
# Another name is another statement; only literals are taken out of the cache's key.
NEW = (
    "\\set aid random(1, 100000 * :scale)\n\\set a random(1, 1000000000)\n"
    "SELECT abalance AS c:a FROM pgbench_accounts WHERE aid = :aid;\n"
)


class Worker(threading.Thread):
    """Repeats one operation on a session of its own until told to stop, and reconnects when it was thrown out."""

    def __init__(self, port, operation, settings=()):
        super().__init__(daemon=True)
        self.port, self.operation, self.settings = port, operation, settings
        self.ended = threading.Event()
        self.done, self.errors = [], collections.Counter()
        self.start()

    def run(self):
        session = None
        while not self.ended.is_set():
            try:
                if session is None:
                    session = Session(self.port)
                    for setting in self.settings:
                        session.query(setting)
                self.operation(session)
                self.done.append(time.monotonic())
            except (ServerError, OSError) as error:
                self.errors[getattr(error, "sqlstate", "08001")] += 1
                if session and getattr(error, "sqlstate", "08006").startswith(("08", "57P")):
                    session.close()
                    session = None
                # A client that hammers a server that is away shows nothing.
                self.ended.wait(0.02)
        if session:
            session.close()

    def stop(self):
        self.ended.set()
        self.join()

    def longest_pause(self, start):
        """ms between two successes after `start`."""
        times = [start] + [moment for moment in self.done if moment >= start]
        return max((b - a for a, b in zip(times, times[1:])), default=time.monotonic() - start) * 1000


class Beat:
    """A row that is counted up through pgweir all the time, and when each value was acknowledged."""

    def __init__(self, port):
        self.acknowledged = {}
        self.worker = Worker(port, self.write)

    def write(self, session):
        value = int(session.value("UPDATE beat SET n = n + 1 WHERE id = 0 RETURNING n"))
        self.acknowledged[value] = time.monotonic()
        time.sleep(0.003)

    def age(self, value, asked):
        """How old a read of `value` was that was asked for at `asked`, in ms."""
        missed = self.acknowledged.get(value + 1)
        return max(0.0, asked - missed) * 1000 if missed else 0.0


class Lagging:
    """Replicas whose replay stands still for a second, then runs for a moment, and again."""

    def __init__(self, nodes, standing=1.0, running=0.25):
        self.nodes, self.standing, self.running = nodes, standing, running
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.nodes and not self.ended.is_set():
            for node in self.nodes:
                node.pause()
            self.ended.wait(self.standing)
            for node in self.nodes:
                node.resume()
            self.ended.wait(self.running)

    def stop(self):
        self.ended.set()
        self.thread.join()
        for node in self.nodes:
            node.resume()


def staleness(loads, front, seconds):
    """For each number of lagging replicas and each level: how old reads were, where they ran, what they took."""
    rows = []
    update = Case("update", "", 2, ("-R", "200"), (("update", 1),))
    for lagging in range(len(loads.cluster.replicas) + 1):
        command = loads.command(front, update, Forever)
        load = subprocess.Popen(command, cwd=loads.cluster.scratch.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        beat, lag = Beat(front.port), Lagging(loads.cluster.replicas[:lagging])
        try:
            # Until the lag has been seen by whoever decides on it.
            time.sleep(min(1.5, seconds))
            rows += [{"lagging": lagging, "level": level} | read_at(front, level, beat, seconds) for level in LEVELS]
        finally:
            lag.stop()
            beat.worker.stop()
            load.terminate()
            load.wait()
        loads.cluster.until("the replicas have caught up", loads.cluster.level)
    return rows


class Forever:
    """An amount of load that is ended by who started it."""

    @staticmethod
    def arguments():
        return ["-T", "3600"]


def read_at(front, level, beat, seconds):
    """Reads at one level in one session; every tenth time it writes a row of its own first, and must find it."""
    session = Session(front.port)
    ages, times, missed, own = [], [], 0, 0
    before = front.counted("pgweir_statements_total", 'route="replica"')
    error = None
    try:
        session.query(f"SET pgweir.consistency = '{level}'")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            asked = time.monotonic()
            value = int(session.value("SELECT n FROM beat WHERE id = 0"))
            times.append((time.monotonic() - asked) * 1000)
            ages.append(beat.age(value, asked))
            if len(ages) % 10 == 0:
                own += 1
                written = session.value("UPDATE beat SET n = n + 1 WHERE id = 1 RETURNING n")
                missed += session.value("SELECT n FROM beat WHERE id = 1") != written
    except ServerError as told:
        error = str(told)
    finally:
        session.close()
    if not ages:
        return {"error": error or "no read was made"}
    offloaded = (front.counted("pgweir_statements_total", 'route="replica"') - before) / (len(ages) + own)
    ages.sort()
    times.sort()
    return {
        "reads": len(ages), "offloaded": offloaded, "own_missed": missed, "own": own, "error": error,
        "age": {"p50": percentile(ages, 50), "p99": percentile(ages, 99), "max": ages[-1], "none": ages.count(0.0) / len(ages)},
        "latency": {"p50": percentile(times, 50), "p99": percentile(times, 99)},
    }


def classification(loads, fronts, rounds, amount):
    """Latency of one client: direct, pgweir before the primary only (nothing to decide), and pgweir with replicas."""
    loads.scripts["new"] = NEW
    alone = Pgweir(loads.cluster, fronts["pgweir"].binary, "pgweir, one node", [loads.cluster.primary])
    alone.start()
    rows = []
    try:
        for number in range(rounds):
            for name, case in CLASSIFIED.items():
                for front in (fronts["direct"], alone, fronts["pgweir"]):
                    sample = loads.accounted(front, lambda: loads.pgbench(front, case, amount))
                    rows.append({"round": number, "statement": name, "front": front.label} | vars(sample))
    finally:
        alone.stop()
    return rows


def under_way(front):
    """Four readers and two writers, each on a session of its own."""
    readers = [Worker(front.port, lambda session: session.query("SELECT n FROM beat WHERE id = 5")) for _ in range(4)]
    writers = [
        Worker(front.port, lambda session, row=row: session.query(f"UPDATE beat SET n = n + 1 WHERE id = {row}")) for row in (6, 7)
    ]
    return readers, writers


def told(what, readers, writers, start):
    """What clients noticed since `start`."""
    return {"event": what} | {
        kind: {
            "done": sum(len(worker.done) for worker in workers),
            "errors": dict(sum((worker.errors for worker in workers), collections.Counter())),
            "pause": max(worker.longest_pause(start) for worker in workers),
        }
        for kind, workers in (("reads", readers), ("writes", writers))
    }


def killed_replica(loads, front, seconds):
    """One replica dies in the middle of reads, and comes back."""
    readers, writers = under_way(front)
    time.sleep(min(1, seconds))
    replica, start = loads.cluster.replicas[0], time.monotonic()
    replica.kill()
    time.sleep(seconds)
    for worker in readers + writers:
        worker.stop()
    noticed = told("a replica is killed", readers, writers, start)
    replica.start()
    loads.cluster.until("the replica has caught up", loads.cluster.level)
    return noticed


def failover(loads, front, seconds):
    """The primary dies and, half a second later, somebody promotes a replica. The cluster is spent afterwards: last."""
    readers, writers = under_way(front)
    time.sleep(min(1, seconds))
    cluster, start = loads.cluster, time.monotonic()
    cluster.primary.kill()
    time.sleep(0.5)
    chosen = cluster.replicas[1]
    chosen.ask("SELECT pg_promote(true, 60)")
    promoted = (time.monotonic() - start) * 1000
    for other in cluster.replicas:
        if other is not chosen:
            other.follow(chosen)
    # Until a write has come through, and then some more.
    before = [len(worker.done) for worker in writers]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(len(w.done) > n + 2 for w, n in zip(writers, before)):
        time.sleep(0.05)
    time.sleep(seconds / 2)
    for worker in readers + writers:
        worker.stop()
    return told("the primary is killed, a replica promoted", readers, writers, start) | {"promoted": promoted}
