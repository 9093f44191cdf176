"""`make bench`: pgweir beside PostgreSQL itself and the peers of this machine, in interleaved rounds of one run, then what
splitting itself gives. Prints Markdown and leaves it, the samples as JSON and the chart as SVG in BENCH_OUT (target/bench).

    BENCH_BINARY   the pgweir to measure (target/release/pgweir); a relay beside it in examples/ is measured too
    BENCH_ROUNDS, BENCH_SECONDS, BENCH_IDLE, BENCH_SCALE    5, 4, 5000, 10
    BENCH_CASES    only these, by name (simple,one_1,…); BENCH_PART=peers or splitting: only that part
    BENCH_SMALL=1  seconds instead of half an hour, to keep all this alive; its figures mean nothing
    BENCH_README=1 puts the result into README.md and tests/bench/chart.svg
    BENCH_PORT     the first port to use; BENCH_PGBOUNCER, BENCH_HAPROXY, BENCH_PGPOOL: other builds of the peers

Standard library only. It must leave no process and no file behind but its results."""

import datetime
import json
import os
import re
import resource
import signal
import sys
from pathlib import Path

# Nothing is left beside the sources.
sys.dont_write_bytecode = True

import fronts as peers
import load
import machine
import report
import splitting
from cluster import Cluster, Scratch

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = os.environ.get("BENCH_SMALL") == "1"


def chosen(name, usual, small):
    return type(usual)(os.environ.get(f"BENCH_{name}", small if SMALL else usual))


def wanted_cases():
    cases = [*load.CASES, load.LARGE_CASE]
    if only := os.environ.get("BENCH_CASES", "prepared,mix,churn,large" if SMALL else ""):
        cases = [case for case in cases if case.name in only.split(",")]
    return cases


def rounds_of(loads, fronts, cases, rounds, amount):
    """Every case at every front, round by round; who comes first changes, since the machine's mood does."""
    samples, given_up = [], set()
    # A round that does not count fills pools and caches.
    first = 0 if SMALL else -1
    for number in range(first, rounds):
        print(f"bench: {'warming up' if number < 0 else f'round {number + 1} of {rounds}'}", flush=True)
        for case in cases:
            turn = max(number, 0) % len(fronts)
            for front in fronts[turn:] + fronts[:turn]:
                if (case.name, front.label) in given_up:
                    continue
                sample = loads.measure(front, case, load.Amount(1) if number < 0 else amount)
                if sample.error:
                    given_up.add((case.name, front.label))
                    print(f"bench: {front.label}, {case.name}: {sample.error}", flush=True)
                if number >= 0 or sample.error:
                    samples.append({"case": case.name, "front": front.label, "round": number} | vars(sample))
    return samples


def split_part(loads, fronts, rounds, amount):
    pgweir = fronts["pgweir"]
    print("bench: what a verdict costs", flush=True)
    classified = splitting.classification(loads, fronts, rounds, amount)
    print("bench: how old reads are", flush=True)
    stale = splitting.staleness(loads, pgweir, amount.seconds)
    print("bench: a replica dies, then the primary", flush=True)
    events = [splitting.killed_replica(loads, pgweir, amount.seconds), splitting.failover(loads, pgweir, amount.seconds)]
    return {"classification": classified, "staleness": stale, "events": events}


def measured(scratch, binary):
    rounds = chosen("ROUNDS", 5, 1)
    amount = load.Amount(chosen("SECONDS", 4.0, 0.2), 5 if SMALL else None)
    part = os.environ.get("BENCH_PART", "")
    cluster = Cluster(scratch, machine.Ports(), chosen("SCALE", 10, 1))
    fronts, versions = peers.all_of(cluster, binary, ("pgbouncer",) if SMALL else ("pgbouncer", "haproxy", "pgpool", "relay"))
    loads = load.Loads(cluster)
    cases = wanted_cases() if part != "splitting" else []
    by_label = {front.label: front for front in fronts}
    result = {
        "date": datetime.date.today().isoformat(), "machine": machine.description(), "versions": versions, "scale": cluster.scale,
        "amount": {"rounds": rounds, "seconds": amount.seconds, "transactions": amount.transactions},
        "fronts": [{"label": front.label, "note": front.note} for front in fronts],
        "cases": [{"name": case.name, "title": case.title} for case in cases],
        "samples": rounds_of(loads, fronts, cases, rounds, amount), "idle": {}, "logins": {}, "allocations": {},
    }
    counting = Path(binary).parent / "examples" / "counting"
    if part != "splitting" and counting.is_file():
        print("bench: what a query asks of the allocator", flush=True)
        result["allocations"] = load.allocations(loads, str(counting), SMALL)
    if part != "splitting":
        print("bench: logins beside running clients, idle clients", flush=True)
        for label in ("pgweir", "PgBouncer"):
            if label in by_label:
                result["logins"][label] = load.churn_beside(loads, by_label[label], amount)
        for front in fronts:
            if held := load.idle(front, chosen("IDLE", 5000, 20)):
                result["idle"][front.label] = held
    if part != "peers":
        result["splitting"] = split_part(loads, by_label, rounds, amount)
    return result


def publish(result, markdown):
    out = Path(os.environ.get("BENCH_OUT", ROOT / "target" / "bench"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.md").write_text(markdown)
    (out / "bench.json").write_text(json.dumps(result, indent=1))
    (out / "chart.svg").write_text(report.chart(result))
    if os.environ.get("BENCH_README") == "1":
        readme = ROOT / "README.md"
        marked = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.S)
        text, count = marked.subn(lambda found: found[1] + report.readme(result) + found[2], readme.read_text())
        if count != 1:
            raise SystemExit("bench: README.md has lost its markers <!-- bench --> and <!-- /bench -->")
        readme.write_text(text)
        (ROOT / "tests" / "bench" / "chart.svg").write_text(report.chart(result))
    return out


def main():
    binary = Path(os.environ.get("BENCH_BINARY", ROOT / "target" / "release" / "pgweir")).resolve()
    if not binary.is_file():
        raise SystemExit(f"bench: {binary} is missing; build it first (make bench does)")
    # Thousands of idle clients: each is a socket here and one in the proxy, which inherits the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = Scratch()
    try:
        result = measured(scratch, str(binary))
    except KeyboardInterrupt:
        raise SystemExit("bench: interrupted") from None
    finally:
        scratch.close()
    markdown = report.markdown(result)
    out = publish(result, markdown)
    print(markdown)
    print(f"bench: {out}/bench.md, bench.json, chart.svg")


if __name__ == "__main__":
    main()
