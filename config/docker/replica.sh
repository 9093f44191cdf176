#!/usr/bin/env bash
# A replica's start, in place of the postgres image's entry point, which it calls in the end. On the first start it
# copies the primary; afterwards the copy is there and streaming goes on where it stopped.
set -euo pipefail

: "${PRIMARY_HOST:?the primary that this replica follows}" "${REPLICATION_PASSWORD:?}" "${SLOT:?its replication slot}"
port="${PRIMARY_PORT:-5432}"

# The image starts as root and its entry point becomes postgres; the copy must belong to postgres too.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then gosu postgres "$@"; else "$@"; fi
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  if [ "$(id -u)" = 0 ]; then chown -R postgres:postgres "$PGDATA"; fi
  chmod 700 "$PGDATA"
  # Copied beside it and moved when whole: a copy that was interrupted must not look like a database.
  rm -rf "$PGDATA/.copy"
  until PGPASSWORD="$REPLICATION_PASSWORD" as_postgres pg_basebackup --host="$PRIMARY_HOST" --port="$port" \
    --username=replicator --pgdata="$PGDATA/.copy" --wal-method=stream --checkpoint=fast --slot="$SLOT" --no-password; do
    echo "replica: no copy of $PRIMARY_HOST yet; once more in a second" >&2
    rm -rf "$PGDATA/.copy"
    sleep 1
  done
  as_postgres touch "$PGDATA/.copy/standby.signal"
  as_postgres tee -a "$PGDATA/.copy/postgresql.auto.conf" > /dev/null <<CONF
primary_conninfo = 'host=$PRIMARY_HOST port=$port user=replicator password=$REPLICATION_PASSWORD application_name=$SLOT'
primary_slot_name = '$SLOT'
CONF
  # PG_VERSION goes last: it is what says that the copy is whole.
  as_postgres find "$PGDATA/.copy" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
  as_postgres mv "$PGDATA/.copy/PG_VERSION" "$PGDATA/"
  rmdir "$PGDATA/.copy"
fi

exec "${ENTRYPOINT:-docker-entrypoint.sh}" "$@"
