#!/bin/bash
# PostgreSQL's own regression suite, run directly and through pgweir; prints each test whose two outputs differ.
#
#   regress.sh SOURCES DIRECT_PORT PGWEIR_PORT [TEST…]     (see README.md beside it)
set -u
[ $# -ge 3 ] || { echo "usage: $0 SOURCES DIRECT_PORT PGWEIR_PORT [TEST...]" >&2; exit 2; }
suite=$1/src/test/regress direct=$2 through=$3
shift 3
out=$(mktemp -d)
host=${PGHOST:-127.0.0.1} user=${PGUSER:-app}
tests=$*
[ -n "$tests" ] || tests=$(sed -n 's/^test: //p' "$suite/parallel_schedule")
export PG_ABS_SRCDIR=$suite PG_ABS_BUILDDIR=$suite PG_LIBDIR=$suite PG_DLSUFFIX=.so LC_ALL=C
mkdir -p "$suite/results"

anew() {
    # A prepared transaction that a broken run left would keep the database.
    admin regression -At -c "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = 'regression'" \
        2>/dev/null | admin regression 2>/dev/null
    admin postgres -c 'DROP DATABASE IF EXISTS regression WITH (FORCE)' -c 'CREATE DATABASE regression TEMPLATE template0'
    admin postgres -At -c "SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE rolname ~ '^regress'" |
        admin postgres 2>/dev/null
    for setting in "lc_messages TO 'C'" "lc_monetary TO 'C'" "lc_numeric TO 'C'" "lc_time TO 'C'" \
        "bytea_output TO 'hex'" "timezone_abbreviations TO 'Default'"; do
        admin postgres -c "ALTER DATABASE regression SET $setting"
    done
}

admin() { psql -qX -h "$host" -p "$direct" -U "$user" -d "$@"; }

run() {
    mkdir -p "$out/$2"
    for test in $tests; do
        (cd "$out/$2" && PGTZ=PST8PDT PGDATESTYLE='Postgres, MDY' PGOPTIONS='-c intervalstyle=postgres_verbose' \
            timeout 300 psql -X -a -q -h "$host" -p "$1" -U "$user" -d regression -v HIDE_TABLEAM=on \
            -v HIDE_TOAST_COMPRESSION=on <"$suite/sql/$test.sql" >"$test.out" 2>&1)
    done
}

anew 2>/dev/null
run "$direct" direct
anew 2>/dev/null
run "$through" pgweir
diff -r "$out/direct" "$out/pgweir" && echo "no difference"
status=$?
echo "outputs: $out" >&2
exit $status
