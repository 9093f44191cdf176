-- What people do in psql. The output must be the same through pgweir as at the primary; it must not change the database.
\set VERBOSITY verbose
\pset null '(null)'
\d numbers
\d+ big_numbers
\dt
\dn
\df shout
\du app
\l app
\dT+ mood
\echo
SELECT id, name, half FROM numbers WHERE id = 7;
SELECT * FROM numbers WHERE id < 3 \gx
SELECT 'SELECT ' || id || ' AS generated' FROM numbers WHERE id < 4 ORDER BY id \gexec
SELECT count(*) AS how_many FROM numbers \gset
\echo :how_many
\if :{?how_many} \echo counted \endif
\copy (SELECT id, name FROM numbers WHERE id <= 5 ORDER BY id) TO 'psql.copy.tmp'
BEGIN;
CREATE TEMP TABLE copied (id int, name text);
\copy copied FROM 'psql.copy.tmp'
SELECT * FROM copied ORDER BY id;
\copy copied (id) FROM stdin
101
102
\.
SELECT count(*) FROM copied;
ROLLBACK;
\! rm -f psql.copy.tmp
BEGIN READ ONLY;
SELECT count(*) FROM numbers;
COMMIT;
\set FETCH_COUNT 100
SELECT id FROM numbers WHERE id <= 250 ORDER BY id;
\unset FETCH_COUNT
\set ON_ERROR_STOP 0
SELECT 1/0;
SELECT nonsense FROM numbers;
SELECT * FROM numbers WHERE id = 'x';
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1/0;
SELECT 'the transaction lives' AS still;
COMMIT;
\set ON_ERROR_ROLLBACK off
SET DateStyle = 'German';
SELECT '2026-01-31'::date;
RESET DateStyle;
\encoding LATIN1
\encoding
\encoding UTF8
SELECT shout('psql');
PREPARE q(int) AS SELECT name FROM numbers WHERE id = $1;
EXECUTE q(9);
DEALLOCATE q;
\sf shout
SELECT 1; SELECT 2; SELECT 3;
SELECT 1\; SELECT 2\; SELECT 3;
\echo done
