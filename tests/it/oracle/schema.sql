-- Objects of every kind for the oracle: half of them are what applications have, half try to fool the classifier. Few
-- rows, for statements join many of them.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE TABLE o_beat (n int);
CREATE TABLE o_people (id int PRIMARY KEY, name text NOT NULL, age int, score numeric, joined timestamptz, tags text[], doc jsonb, mood mood, boss int);
INSERT INTO o_people SELECT i, 'person ' || i, i % 90, i * 1.25, timestamptz '2020-01-01 00:00+00' + i * interval '7 hours',
  ARRAY['t' || i % 5, 't' || i % 7], jsonb_build_object('k', i % 10, 'l', ARRAY[i, i + 1], 's', 'v' || i % 3),
  (ARRAY['calm', 'wild']::mood[])[1 + i % 2], NULLIF(i % 17, 0) FROM generate_series(1, 40) i;
CREATE TABLE o_orders (id int PRIMARY KEY, person int REFERENCES o_people, amount numeric, at timestamptz, note text);
INSERT INTO o_orders SELECT i, 1 + i % 40, i * 0.5, timestamptz '2020-02-01 00:00+00' + i * interval '1 hour', 'note ' || i % 11 FROM generate_series(1, 50) i;
CREATE INDEX ON o_orders (person);
CREATE TABLE o_parts (id int, at date, what text) PARTITION BY RANGE (at);
CREATE TABLE o_parts_old PARTITION OF o_parts FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
CREATE TABLE o_parts_new PARTITION OF o_parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
INSERT INTO o_parts SELECT i, date '2019-06-01' + 10 * i, 'w' || i % 4 FROM generate_series(1, 30) i;
CREATE VIEW o_grown_up AS SELECT id, name, age, joined FROM o_people WHERE age >= 18;
CREATE VIEW o_report AS SELECT p.mood, count(*) AS n, sum(o.amount) AS total FROM o_people p JOIN o_orders o ON o.person = p.id GROUP BY p.mood;
CREATE MATERIALIZED VIEW o_snapshot AS SELECT id, name FROM o_people WHERE id < 20;
CREATE FUNCTION o_double(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION o_count() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM o_people';
CREATE FUNCTION o_named(p o_people) RETURNS text LANGUAGE sql STABLE AS 'SELECT p.name || '' ('' || p.id || '')''';
CREATE FUNCTION o_atomic(int) RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM o_orders WHERE person = $1; END;
CREATE AGGREGATE o_total(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE DOMAIN o_dom AS int CHECK (VALUE > -1000000);
CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
SELECT lo_from_bytea(77777, 'hello');

-- The hostile half.
CREATE TABLE o_log (id serial PRIMARY KEY, what text);
CREATE SEQUENCE o_seq CACHE 20;
SELECT nextval('o_seq');
CREATE UNLOGGED TABLE o_unlogged (id int);
INSERT INTO o_unlogged VALUES (1), (2);
CREATE MATERIALIZED VIEW o_snapshot_of_unlogged AS SELECT * FROM o_unlogged;
CREATE VIEW o_v_unlogged AS SELECT * FROM o_unlogged;
CREATE VIEW o_v_deep AS SELECT * FROM o_v_unlogged;
CREATE VIEW o_v_seq AS SELECT nextval('o_seq') AS n;
CREATE VIEW o_v_recovery AS SELECT pg_is_in_recovery() AS r;
CREATE VIEW o_v_lock AS SELECT * FROM o_people WHERE id = 1 FOR UPDATE;
CREATE VIEW o_v_setting AS SELECT current_setting('port') AS p;
CREATE TABLE o_mixed (id int) PARTITION BY LIST (id);
CREATE UNLOGGED TABLE o_mixed_1 PARTITION OF o_mixed FOR VALUES IN (1);
CREATE TABLE o_mixed_2 PARTITION OF o_mixed FOR VALUES IN (2);
CREATE TABLE o_parent (id int);
CREATE UNLOGGED TABLE o_child () INHERITS (o_parent);
CREATE FUNCTION o_write() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('w'); RETURN 1; END $$;
CREATE FUNCTION o_write_sql() RETURNS int LANGUAGE sql AS $$ INSERT INTO o_log (what) VALUES ('s') RETURNING 1 $$;
CREATE FUNCTION o_calls() RETURNS int LANGUAGE sql STABLE AS 'SELECT o_write()';
CREATE FUNCTION o_default(a int DEFAULT o_write()) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION o_recovery() RETURNS bool LANGUAGE sql STABLE AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION o_atomic_bad() RETURNS bool LANGUAGE sql STABLE BEGIN ATOMIC SELECT pg_is_in_recovery(); END;
CREATE FUNCTION o_swallow() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('x'); RETURN 'written'; EXCEPTION WHEN OTHERS THEN RETURN 'not'; END $$;
CREATE FUNCTION o_lies() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN nextval('o_seq'); END $$;
CREATE FUNCTION o_lies(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM nextval('public.o_seq'); RETURN true; END $$;
CREATE FUNCTION o_seen(o_people) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('row'); RETURN 1; END $$;
CREATE FUNCTION o_any(anyelement) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('any'); RETURN 1; END $$;
CREATE FUNCTION o_step(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('agg'); RETURN $1 + $2; END $$;
CREATE AGGREGATE o_total_bad(int) (sfunc = o_step, stype = int, initcond = '0');
CREATE FUNCTION o_equal(int, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('op'); RETURN $1 = $2; END $$;
CREATE OPERATOR ==! (LEFTARG = int, RIGHTARG = int, FUNCTION = o_equal);
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq, NEGATOR = !===);
CREATE OPERATOR !=== (LEFTARG = int, RIGHTARG = int, FUNCTION = o_equal, NEGATOR = ===);
CREATE FUNCTION o_check(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('dom'); RETURN true; END $$;
CREATE DOMAIN o_dom_bad AS text CHECK (o_check(VALUE));
CREATE TYPE o_row AS (a int, b o_dom_bad);
CREATE TYPE o_cast AS (a int);
CREATE FUNCTION o_casts(int) RETURNS o_cast LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('cast'); RETURN ROW($1)::o_cast; END $$;
CREATE CAST (int AS o_cast) WITH FUNCTION o_casts(int);
CREATE TABLE o_ruled (id int, owner text);
INSERT INTO o_ruled VALUES (1, 'app');
ALTER TABLE o_ruled ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON o_ruled USING (o_check(owner));
CREATE TABLE o_folded (id int, CHECK (o_lies(1)));
CREATE TABLE o_indexed (id int);
CREATE INDEX ON o_indexed ((id + CASE WHEN o_lies(2) THEN 1 ELSE 0 END));
CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('lower'); RETURN 'x'; END $$;
CREATE TABLE o_varchar (v varchar(20));
INSERT INTO o_varchar VALUES ('A');
CREATE SCHEMA o_shadow;
CREATE FUNCTION o_shadow.sqrt(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO o_log (what) VALUES ('sqrt'); RETURN 1; END $$;
CREATE UNLOGGED TABLE o_shadow.o_varchar_too (id int);
CREATE TABLE public.o_varchar_too (id int);
-- A newer parser takes this for a construct of its own; PostgreSQL 17 and newer do, too, and refuse the definition.
DO $$ BEGIN
  EXECUTE 'CREATE FUNCTION json_value(jsonb, text) RETURNS text LANGUAGE plpgsql AS ''BEGIN INSERT INTO o_log (what) VALUES (1); RETURN 1; END''';
EXCEPTION WHEN syntax_error THEN NULL;
END $$;
-- Its text is another one under its own setting: a literal for the classifier ends where a second statement begins.
SET check_function_bodies = off;
CREATE FUNCTION o_lexis() RETURNS SETOF text LANGUAGE sql SET standard_conforming_strings = off AS $$ SELECT 'a\'' || o_write()::text || ' ' $$;
RESET check_function_bodies;
ANALYZE;
