#!/usr/bin/env bash
# Installs what building and testing pgweir needs and this Debian or Ubuntu lacks. Run by `make setup`, `make test`,
# `make demo` and `make bench`. It looks first, says what is missing, asks for sudo only to install that, and touches no
# network when nothing is missing. Running it again costs well under a second.
#
#   config/setup.sh build     compiler, libclang (pg_query's build reads C headers with it), Rust
#   config/setup.sh demo      build, and PostgreSQL's servers
#   config/setup.sh bench     demo, pgbench, Python, and the peers: PgBouncer, Pgpool-II, HAProxy
#   config/setup.sh profile   bench, and llvm-profdata of rustc's LLVM
#   config/setup.sh test      demo, and PostgreSQL's clients and contrib, Python and Node with the drivers under test
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
goal="${1:-test}"
case "$goal" in build | demo | bench | profile | test) ;; *) echo "usage: $0 [build|demo|bench|profile|test]" >&2; exit 2 ;; esac

say() { echo "setup: $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- what is missing -------------------------------------------------------------------------------------------------

has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  local file
  for file in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib/libclang*.so*; do
    [ -e "$file" ] && return 0
  done
  return 1
}

# pg_query's headers are read by libclang, which brings its own stddef.h only with the -dev package.
has_clang_headers() {
  local file
  for file in /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib/clang/*/include/stddef.h; do
    [ -e "$file" ] && return 0
  done
  [ -n "${LIBCLANG_PATH:-}" ]
}

postgres_bin() {
  local dir
  if [ -n "${PGWEIR_POSTGRES_BIN:-}" ]; then echo "$PGWEIR_POSTGRES_BIN"; return 0; fi
  for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -n -r); do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then echo "$dir"; return 0; fi
  done
  if have pg_config; then
    dir="$(pg_config --bindir)"
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then echo "$dir"; return 0; fi
  fi
  return 1
}

has_contrib() {
  local bin share
  bin="$(postgres_bin)" || return 1
  if [ -n "${PGWEIR_POSTGRES_BIN:-}" ]; then return 0; fi
  for share in "/usr/share/postgresql/$(basename "$(dirname "$bin")")" "$bin/../share" "$bin/../share/postgresql"; do
    [ -e "$share/extension/pg_stat_statements.control" ] && return 0
  done
  return 1
}

# The system's own Python, so that a version manager's shims do not decide what the tests run with.
python="$([ -x /usr/bin/python3 ] && echo /usr/bin/python3 || command -v python3 || true)"

has_venv() { [ -n "$python" ] && "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; }

packages=()
need() { say "missing: $1"; shift; packages+=("$@"); }

{ have cc && have c++; } || need "a C compiler" build-essential
have make || need "make" make
{ has_libclang && has_clang_headers; } || need "libclang, for pg_query's build" libclang-dev
if [ "$goal" != build ]; then
  postgres_bin >/dev/null || need "PostgreSQL's servers (initdb, postgres, pg_basebackup)" postgresql postgresql-contrib
fi
# Debian puts daemons where not everybody's PATH looks.
has_daemon() { have "$1" || [ -x "/usr/sbin/$1" ]; }

if [ "$goal" = bench ] || [ "$goal" = profile ]; then
  have pgbench || need "pgbench" postgresql postgresql-contrib postgresql-client
  [ -n "$python" ] || need "Python" python3
  has_daemon pgbouncer || need "PgBouncer, to compare with" pgbouncer
  has_daemon pgpool || need "Pgpool-II, to compare with" pgpool2
  has_daemon haproxy || need "HAProxy, to compare with" haproxy
fi
if [ "$goal" = test ]; then
  { have psql && have pgbench; } || need "psql and pgbench" postgresql postgresql-contrib postgresql-client
  has_contrib || need "PostgreSQL's contrib extensions" postgresql-contrib
  has_venv || need "Python with venv" python3 python3-venv
  have node || need "Node.js" nodejs
  have npm || have node || need "npm" npm
fi

# --- install it ------------------------------------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; return; fi
  if ! have sudo; then
    say "this needs root and there is no sudo; run as root: $*" >&2
    exit 1
  fi
  sudo "$@"
}

if [ "${#packages[@]}" -gt 0 ]; then
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  if ! have apt-get; then
    say "this is no Debian or Ubuntu; please install the equivalents of: ${packages[*]}" >&2
    exit 1
  fi
  say "installing with apt-get: ${packages[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

# rustup installs into the home directory and needs no root; rust-toolchain's minimum is Cargo.toml's rust-version.
export PATH="$HOME/.cargo/bin:$PATH"
if ! have cargo; then
  say "missing: Rust; installing the stable toolchain with rustup into $HOME/.cargo"
  if ! have rustup; then
    if have apt-get && apt-cache show rustup >/dev/null 2>&1; then
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustup
    else
      have curl || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends curl ca-certificates
      curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default --no-modify-path
    fi
  fi
  have cargo || rustup default stable
fi

# A profile is read by the LLVM that rustc has, or a newer one.
if [ "$goal" = profile ]; then
  llvm="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"
  if [ ! -x "/usr/lib/llvm-$llvm/bin/llvm-profdata" ] && ! ls "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata >/dev/null 2>&1; then
    say "missing: llvm-profdata"
    rustup component add llvm-tools || { as_root apt-get update -qq; as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "llvm-$llvm"; }
  fi
fi

# --- the drivers under test ------------------------------------------------------------------------------------------

# They live in the user's cache, so that a fresh clone finds them; a stamp says for which pinned versions.
if [ "$goal" = test ]; then
  clients="${PGWEIR_TEST_DRIVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/pgweir/clients}"
  wanted="$root/tests/it/clients"
  stamp="$(cat "$wanted/requirements.txt" "$wanted/package.json" "$wanted/package-lock.json" | sha256sum | cut -d' ' -f1)"
  if [ "$(cat "$clients/stamp" 2>/dev/null || true)" != "$stamp" ]; then
    have npm || { say "missing: npm"; as_root apt-get update -qq; as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm; }
    say "installing psycopg, asyncpg and node-postgres into $clients"
    rm -rf "$clients"
    mkdir -p "$clients"
    "$python" -m venv "$clients/venv"
    "$clients/venv/bin/pip" install --quiet --no-input --disable-pip-version-check -r "$wanted/requirements.txt"
    cp "$wanted/package.json" "$wanted/package-lock.json" "$clients/"
    (cd "$clients" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    echo "$stamp" >"$clients/stamp"
  fi
fi

say "ready for $goal"
