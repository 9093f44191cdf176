#!/bin/bash
# PostgreSQL's regression or isolation suite by its own driver, up to twenty connections at once, or libpq_pipeline with its
# traces. What fails directly (DIRECT_PORT as PORT) for reasons of the machine may fail through pgweir, nothing else.
#
#   installcheck.sh SOURCES PORT regress|isolation|libpq_pipeline     (see README.md beside it)
set -u
[ $# -eq 3 ] || { echo "usage: $0 SOURCES PORT regress|isolation|libpq_pipeline" >&2; exit 2; }
sources=$(realpath "$1") port=$2 suite=$3
host=${PGHOST:-127.0.0.1} user=${PGUSER:-app}
out=$(mktemp -d)
echo "outputs: $out" >&2

traces() {
    local module=$sources/src/test/modules/libpq_pipeline status=0
    for test in $("$module/libpq_pipeline" tests); do
        "$module/libpq_pipeline" -t "$out/$test.trace" "$test" "host=$host port=$port user=$user" >"$out/$test.log" 2>&1 &&
            { [ ! -e "$module/traces/$test.trace" ] || diff "$module/traces/$test.trace" "$out/$test.trace"; } ||
            { echo "$test: failed"; status=1; }
    done
    return $status
}

case $suite in
regress) driver=pg_regress schedule=parallel_schedule database=regression ;;
isolation) driver=pg_isolation_regress schedule=isolation_schedule database=isolation_regression ;;
*) traces && echo "All tests passed."; exit ;;
esac
cd "$sources/src/test/$suite" &&
    "./$driver" --host="$host" --port="$port" --user="$user" --bindir="$(dirname "$(command -v psql)")" --inputdir=. \
        --outputdir="$out" --dlpath="$sources/src/test/regress" --dbname=$database --schedule=$schedule \
        --max-concurrent-tests=20
