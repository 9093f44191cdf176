#!/usr/bin/env bash
# The primary's first start (the postgres image runs it once, as user postgres, with its local socket open): a user for
# the replicas, a user and database for the application, and the right for replicas to connect.
set -euo pipefail

psql --set=ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set=replication="$REPLICATION_PASSWORD" --set=app="$APP_PASSWORD" <<'SQL'
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication';
-- pg_monitor: pgweir's probes read the replicas' positions, and its catalog loader every definition.
CREATE ROLE app LOGIN PASSWORD :'app' IN ROLE pg_monitor;
CREATE DATABASE app OWNER app;
-- A slot for each replica: the primary keeps what a stopped one has not read yet.
SELECT pg_create_physical_replication_slot(name) FROM (VALUES ('db2'), ('db3')) AS slots(name);
SQL

echo 'host replication replicator all scram-sha-256' >> "$PGDATA/pg_hba.conf"
