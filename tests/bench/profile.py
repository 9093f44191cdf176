"""`make profile`: the benchmark's loads through a pgweir that records what it runs through. Argument: the binary. It writes
its profile where LLVM_PROFILE_FILE says, when it is stopped."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True

import fronts
import load
import machine
from cluster import Cluster, Scratch

SECONDS = 4


def main():
    scratch = Scratch()
    try:
        cluster = Cluster(scratch, machine.Ports(), scale=5)
        pgweir = fronts.Pgweir(cluster, str(Path(sys.argv[1]).resolve()))
        pgweir.start()
        loads = load.Loads(cluster)
        for case in (*load.CASES, load.LARGE_CASE):
            sample = loads.measure(pgweir, case, load.Amount(SECONDS))
            if sample.error:
                raise SystemExit(f"profile: {case.name}: {sample.error}")
            print(f"profile: {case.name}: {sample.transactions} transactions", flush=True)
        pgweir.stop()
    finally:
        scratch.close()


if __name__ == "__main__":
    main()
