"""What this machine says: which programs there are, and what a tree of processes has cost so far. Everything else of the
benchmark asks here; nothing here starts a server."""

import os
import platform
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def postgres_bin():
    """The folder of initdb and postgres: PGWEIR_POSTGRES_BIN, else the newest of Debian's, else pg_config's."""
    if given := os.environ.get("PGWEIR_POSTGRES_BIN"):
        return Path(given)
    debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if debian:
        return max(debian, key=lambda path: float(path.parent.name))
    if shutil.which("pg_config"):
        return Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    raise SystemExit("bench: PostgreSQL's servers were not found; run config/setup.sh bench")


def program(name):
    """A program's path or None. Debian keeps daemons in sbin, which is not on everybody's PATH."""
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/local/sbin"
    return os.environ.get("BENCH_" + name.upper()) or shutil.which(name, path=path)


def server_user():
    """Whom servers that refuse root run as: None means ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SystemExit("bench: started as root, and neither postgres nor nobody exists to run the servers as")


class Ports:
    """Ports that are free now, below the range of outgoing connections, from BENCH_PORT on."""

    def __init__(self):
        self.next = int(os.environ.get("BENCH_PORT", 0)) or 12000 + os.getpid() % 1000 * 20

    def take(self):
        while self.next < 32000:
            self.next += 1
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", self.next))
                except OSError:
                    continue
                return self.next
        raise SystemExit("bench: no free port below 32000")


def tree(root):
    """The process and all its descendants that live now."""
    found, open_ = [], [root]
    while open_:
        pid = open_.pop()
        found.append(pid)
        # Each thread has children of its own.
        try:
            threads = list(Path(f"/proc/{pid}/task").glob("*/children"))
        except OSError:
            # It ended while it was looked at.
            continue
        for path in threads:
            try:
                open_ += [int(child) for child in path.read_text().split()]
            except OSError:
                continue
    return found


def stat_of(pid):
    """The fields of /proc/PID/stat after the name, or None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def cpu_seconds(roots):
    """CPU of the trees so far: each process's own, and what it has inherited from children that ended."""
    ticks = 0
    for root in roots:
        for pid in tree(root):
            if stat := stat_of(pid):
                ticks += sum(int(field) for field in stat[11:15])
    return ticks / TICKS


def memory_kib(roots):
    """Proportional memory of the trees, so that what forked processes share counts once. Kernel buffers are not in it."""
    total = 0
    for root in roots:
        for pid in tree(root):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def description():
    """The machine as a reader of the figures needs it."""
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024 // 1024
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": memory, "kernel": platform.release()}


def version(*command):
    """The first line that a program tells of itself."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"
