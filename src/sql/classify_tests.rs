//! Tables: a text, and what it would do by a small catalog built by hand.

use super::*;
use crate::catalog::{Conduct, Function, IsSequence, Named, Relation, Safety, TakesRow, Writes};
use crate::sql::{Isolation, Pin, TransactionModes};

fn bad() -> Safety {
    Safety::Unsafe("bad".into())
}

/// A catalog with a few built-ins, user functions of every kind, and tables.
pub(in crate::sql) fn fixture() -> Catalog {
    let mut catalog = Catalog { version: 1, ..Catalog::default() };
    let mut function = |schema: &str, name: &str, arguments: (u16, u16), takes_row, safety, conduct| {
        catalog.functions.entry(name.into()).or_default().push(Function {
            schema: schema.into(),
            least_arguments: arguments.0,
            most_arguments: arguments.1,
            takes_row,
            safety,
            conduct,
        });
    };
    let any = (0, u16::MAX);
    for name in [
        "count",
        "abs",
        "lower",
        "upper",
        "sum",
        "random",
        "pg_sleep",
        "generate_series",
        "timezone",
        "extract",
        "like_escape",
    ] {
        function("pg_catalog", name, any, TakesRow::Yes, Safety::Safe, Conduct::QUIET);
    }
    for name in ["pg_is_in_recovery", "pg_stat_file", "pg_notify"] {
        function("pg_catalog", name, any, TakesRow::No, bad(), Conduct::QUIET);
    }
    for name in [
        "nextval",
        "setval",
        "currval",
        "lastval",
        "setseed",
        "pg_backend_pid",
        "pg_terminate_backend",
        "set_config",
        "pg_advisory_lock",
    ] {
        function("pg_catalog", name, any, TakesRow::No, bad(), crate::catalog::builtin::conduct(name).unwrap());
    }
    function("pg_catalog", "pg_advisory_xact_lock", any, TakesRow::No, bad(), Conduct::QUIET);
    function("pg_catalog", "current_setting", (1, 2), TakesRow::No, Safety::BySetting, Conduct::QUIET);
    // A user's own, from before it became a key word.
    function("public", "json_value", (2, 2), TakesRow::No, bad(), Conduct::QUIET);
    function("public", "json_object", (1, 1), TakesRow::No, bad(), Conduct::QUIET);
    function("pg_catalog", "json_object", (1, 1), TakesRow::No, Safety::Safe, Conduct::QUIET);
    function("pg_catalog", "age", (1, 1), TakesRow::No, bad(), Conduct::QUIET);
    function("pg_catalog", "age", (2, 2), TakesRow::No, Safety::Safe, Conduct::QUIET);
    function("shadow", "abs", (1, 1), TakesRow::No, bad(), Conduct::QUIET);
    function("public", "quiet_writer", (0, 0), TakesRow::No, bad(), Conduct::QUIET);
    function("public", "loud_writer", (0, 0), TakesRow::No, bad(), Conduct::AUDIT);
    function("public", "row_writer", (1, 1), TakesRow::Yes, bad(), Conduct::QUIET);
    for name in ["=", "<", ">", "<=", ">=", "<>", "~~", "~~*", "!~~", "~", "+", "-", "*", "||"] {
        catalog.operators.entry(name.into()).or_default().push(named("pg_catalog", Safety::Safe));
    }
    catalog.operators.entry("==!".into()).or_default().push(named("public", bad()));
    for name in ["int4", "text", "regclass", "interval", "bool", "numeric", "timestamptz", "varchar"] {
        catalog.types.entry(name.into()).or_default().push(named("pg_catalog", Safety::Safe));
    }
    catalog.types.entry("dom_w".into()).or_default().push(named("public", bad()));
    for (name, safety, write_conduct, writes, sequence) in [
        ("t", Safety::Safe, Conduct::QUIET, Writes::Refused, IsSequence::No),
        ("serial", Safety::Safe, Conduct::SEQUENCE, Writes::Refused, IsSequence::No),
        ("noisy", Safety::Safe, Conduct::AUDIT, Writes::Refused, IsSequence::No),
        ("v", Safety::Safe, Conduct::QUIET, Writes::Unclear, IsSequence::No),
        ("tu", bad(), Conduct::QUIET, Writes::Unclear, IsSequence::No),
        ("s1", bad(), Conduct::QUIET, Writes::Refused, IsSequence::Yes),
        ("Weird Name", Safety::Safe, Conduct::QUIET, Writes::Refused, IsSequence::No),
    ] {
        let relation =
            Relation { schema: "public".into(), safety, conduct: Conduct::QUIET, write_conduct, writes, sequence };
        catalog.relations.entry(name.into()).or_default().push(relation);
    }
    catalog.columns.insert("id".into());
    catalog
}

fn named(schema: &str, safety: Safety) -> Named {
    Named { schema: schema.into(), safety, conduct: Conduct::QUIET }
}

fn check(sql: &str, effect: Effect) {
    let verdict = classify(sql, &fixture());
    assert_eq!(verdict.effect, effect, "{sql}: {}", verdict.reason);
}

fn acts(sql: &str, expect: &[Act]) {
    assert_eq!(classify(sql, &fixture()).acts, expect, "{sql}");
}

#[test]
fn reads() {
    for sql in [
        "",
        ";",
        "SELECT",
        "SELECT 1;;SELECT 2;",
        "SELECT * FROM t WHERE id = $1 AND v ILIKE 'a%' ORDER BY id LIMIT 3",
        "TABLE v",
        "VALUES (1,'a')",
        "SELECT * FROM \"Weird Name\"",
        "SELECT pg_catalog.abs(-1)",
        "SELECT pg_sleep(0.01)",
        "SELECT age(now, now) FROM t",
        "SELECT (t).id FROM t",
        "SELECT t.age FROM t",
        "SELECT x BETWEEN 1 AND 2, x IN (1, 2), x = ANY('{1}') FROM t",
        "WITH tu AS (SELECT 1) SELECT * FROM tu",
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r) SELECT sum(i) FROM r",
        "SELECT current_setting('TimeZone')",
        "SELECT json_query('{}', '$.a'), json_array(1, 2), json_scalar(1)",
        "SHOW search_path",
        "COPY t TO STDOUT",
        "COPY (SELECT id FROM t) TO STDOUT",
        "SELECT 'nextval(''s1'')', $x$; DELETE FROM t;$x$",
    ] {
        check(sql, Effect::Read);
    }
}

#[test]
fn not_reads() {
    for sql in [
        "SELECT abs(-1)",
        "SELECT pg_sleep(1)",
        "SELECT pg_sleep($1)",
        "SELECT pg_sleep_for('1 s')",
        "SELECT nosuch(1)",
        "SELECT * FROM nosuch",
        "SELECT * FROM tu",
        "SELECT * FROM other.t",
        "WITH tu AS (SELECT * FROM tu) SELECT * FROM tu",
        "SELECT * FROM tu, (WITH tu AS (SELECT 1) SELECT * FROM tu) x",
        "SELECT q.row_writer FROM t q",
        "SELECT (q).row_writer FROM t q",
        "SELECT (1).nosuch",
        "SELECT age(x) FROM t",
        "SELECT 1 ==! 1",
        "SELECT 1 OPERATOR(public.==!) 1",
        "SELECT 'x'::dom_w",
        "SELECT ARRAY['x']::dom_w[]",
        "SELECT dom_w('x')",
        "SELECT 1 FROM t GROUP BY id HAVING pg_is_in_recovery()",
        "SELECT current_setting('port')",
        "SELECT current_setting(v) FROM t",
        "SELECT json_value('{}', '$.a')",
        "SELECT json_object('a')",
        "SELECT json_object('a': 1)",
        "SELECT * INTO x FROM t",
        "WITH w AS (DELETE FROM t RETURNING id) SELECT * FROM w",
        "SHOW port",
        "SHOW ALL",
        "EXPLAIN SELECT 1",
        "COPY t TO '/tmp/x'",
        "COPY (SELECT * FROM t FOR UPDATE) TO STDOUT",
        "COPY t FROM STDIN",
        "BEGIN; SELECT 1; COMMIT",
        "SELECT 1; SET a.b = 'c'",
        "LOCK TABLE t",
        "DO $$begin end$$",
        "CALL p()",
        "CHECKPOINT",
        "SELEC 1",
        "PREPARE TRANSACTION 'x'",
    ] {
        check(sql, Effect::Primary);
    }
}

#[test]
fn refused_alike_in_a_read_only_transaction() {
    for sql in [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET id = 1",
        "DELETE FROM t WHERE false",
        "SELECT * FROM t FOR UPDATE",
        "SELECT nextval('s1')",
        "CREATE TABLE x (i int)",
        "SELECT 1; INSERT INTO t VALUES (1)",
    ] {
        check(sql, Effect::RefusedReadOnly);
    }
    for sql in [
        "INSERT INTO t SELECT pg_notify('a', 'b')",
        "INSERT INTO nosuch VALUES (1)",
        "INSERT INTO v VALUES (1)",
        "SELECT * FROM tu FOR UPDATE",
        "SELECT nextval(v) FROM t",
        "SELECT nextval('t')",
        "CREATE TEMP TABLE x (i int)",
    ] {
        check(sql, Effect::Primary);
    }
}

#[test]
fn follows_the_session() {
    for sql in [
        "BEGIN",
        "COMMIT",
        "SAVEPOINT a",
        "SET x.y = 1",
        "SET LOCAL x.y = 1",
        "FETCH 1 FROM c",
        "CLOSE c",
        "DISCARD ALL",
        "DEALLOCATE q",
        "DECLARE c CURSOR FOR SELECT * FROM t",
    ] {
        check(sql, Effect::Follow);
    }
    check("DECLARE c CURSOR FOR SELECT * FROM tu", Effect::Primary);
    check("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t", Effect::Primary);
}

fn set(name: &str, value: &str) -> Act {
    Act::Set { name: name.to_owned(), value: value.to_owned() }
}

#[test]
fn settings_have_the_value_that_set_config_takes() {
    for (sql, name, value) in [
        ("SET search_path = public", "search_path", "public"),
        ("SET search_path TO \"$user\", public, \"Weird\"", "search_path", "\"$user\", public, \"Weird\""),
        ("SET search_path = 'a b', ''", "search_path", "\"a b\", \"\""),
        ("SET SCHEMA 'public'", "search_path", "public"),
        ("SET DateStyle TO ISO, DMY", "datestyle", "iso, dmy"),
        ("SET work_mem = 1024", "work_mem", "1024"),
        ("SET seed.x = -1.5", "seed.x", "-1.5"),
        ("SET enable_seqscan TO off", "enable_seqscan", "off"),
        ("SET enable_seqscan TO true", "enable_seqscan", "true"),
        ("SET TIME ZONE 'UTC'", "timezone", "UTC"),
        ("SET TIME ZONE -7", "timezone", "-7"),
        ("SET NAMES 'UTF8'", "client_encoding", "UTF8"),
        ("SET ROLE app", "role", "app"),
        ("SET ROLE NONE", "role", "none"),
        ("SET SESSION AUTHORIZATION app", "session_authorization", "app"),
        ("SET XML OPTION DOCUMENT", "xmloption", "DOCUMENT"),
        ("SELECT set_config('My.Setting', 'x y', false)", "my.setting", "x y"),
        ("SELECT pg_catalog.set_config('search_path', '', false)", "search_path", ""),
    ] {
        acts(sql, &[set(name, value)]);
    }
    acts("SET LOCAL work_mem = 1", &[]);
    acts("SELECT set_config('a.b', 'c', true)", &[]);
    acts("SELECT set_config('a.b', v, false) FROM t", &[Act::Audit]);
    acts("SELECT set_config('a.b', 'c', false), 1", &[Act::Audit]);
    acts("SET TIME ZONE INTERVAL '+05:00' HOUR TO MINUTE", &[Act::Audit]);
    acts("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", &[set("default_transaction_read_only", "on")]);
    for (sql, name) in [
        ("RESET work_mem", "work_mem"),
        ("SET TimeZone TO DEFAULT", "timezone"),
        ("SET TIME ZONE LOCAL", "timezone"),
        ("RESET ROLE", "role"),
        ("SET SESSION AUTHORIZATION DEFAULT", "session_authorization"),
    ] {
        let verdict = classify(sql, &fixture());
        assert!(
            matches!(verdict.acts.as_slice(), [Act::Reset { name: n }] if n == name)
                || (sql == "RESET ROLE" && verdict.acts == [set("role", "none")]),
            "{sql} {:?}",
            verdict.acts
        );
    }
    acts("RESET ALL", &[Act::ResetAll]);
    acts("DISCARD ALL", &[Act::DiscardAll]);
    acts("DISCARD PLANS", &[]);
    acts("DISCARD TEMP", &[Act::Audit]);
    acts("DEALLOCATE ALL", &[Act::DeallocateAll]);
    acts("DEALLOCATE q", &[Act::Deallocate { name: "q".to_owned() }]);
}

#[test]
fn transactions() {
    let modes = |read_only, isolation| TransactionModes { read_only, isolation, deferrable: None };
    acts("BEGIN", &[Act::Begin(modes(None, None))]);
    acts(
        "START TRANSACTION READ ONLY, ISOLATION LEVEL READ COMMITTED",
        &[Act::Begin(modes(Some(true), Some(Isolation::ReadCommitted)))],
    );
    acts(
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE",
        &[Act::Begin(modes(Some(false), Some(Isolation::Serializable)))],
    );
    acts("SET TRANSACTION READ ONLY", &[Act::SetTransaction(modes(Some(true), None))]);
    acts("SET transaction_read_only = off", &[Act::SetTransaction(modes(Some(false), None))]);
    acts(
        "SET LOCAL transaction_isolation = 'repeatable read'",
        &[Act::SetTransaction(modes(None, Some(Isolation::RepeatableRead)))],
    );
    acts("COMMIT AND CHAIN", &[Act::Commit { chain: true }]);
    acts("ROLLBACK", &[Act::Rollback { chain: false }]);
    acts(
        "ABORT; BEGIN; END",
        &[Act::Rollback { chain: false }, Act::Begin(modes(None, None)), Act::Commit { chain: false }],
    );
    acts("PREPARE TRANSACTION 'x'", &[Act::PrepareTransaction]);
    acts("SAVEPOINT a", &[]);
    acts("ROLLBACK TO a", &[]);
    check("SET TRANSACTION SNAPSHOT '0-1'", Effect::Primary);
}

#[test]
fn what_is_left_in_the_server_process() {
    for (sql, expect) in [
        ("INSERT INTO t VALUES (1)", &[][..]),
        ("UPDATE t SET id = abs(id)", &[]),
        ("INSERT INTO serial DEFAULT VALUES", &[Act::Sequence]),
        ("INSERT INTO noisy VALUES (1)", &[Act::Audit]),
        ("INSERT INTO my_temp VALUES (1)", &[Act::Audit, Act::Sequence]),
        ("SELECT quiet_writer()", &[]),
        ("SELECT loud_writer()", &[Act::Audit]),
        ("SELECT nextval('s1')", &[Act::Sequence]),
        ("SELECT currval('s1')", &[Act::LastSequence]),
        ("SELECT setseed(0.5)", &[Act::Pin(Pin::RandomSeed)]),
        ("SELECT pg_backend_pid()", &[Act::Pin(Pin::BackendPid)]),
        ("SELECT pg_terminate_backend(pid) FROM t", &[Act::Terminate]),
        ("SELECT pg_advisory_lock(1)", &[Act::Audit]),
        ("SELECT pg_advisory_xact_lock(1)", &[]),
        ("LISTEN ch", &[Act::Audit]),
        ("UNLISTEN *", &[Act::Audit]),
        ("LOAD 'x'", &[Act::Pin(Pin::Load)]),
        ("PREPARE q AS SELECT 1", &[Act::Audit]),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", &[Act::Audit]),
        ("CREATE TEMP TABLE x (i int)", &[Act::Audit]),
        ("CREATE TABLE public.x (i int)", &[Act::Ddl]),
        ("CREATE TABLE x (i int)", &[Act::Ddl, Act::Audit]),
        ("DROP TABLE x", &[Act::Ddl, Act::Audit]),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'select 1'", &[Act::Audit]),
        ("GRANT SELECT ON t TO app", &[Act::Ddl]),
        ("TRUNCATE t", &[]),
        ("VACUUM t", &[]),
        ("DO $$begin perform 1; end$$", &[Act::Audit, Act::Sequence]),
        ("DO $$begin create table x(); end$$", &[Act::Audit, Act::Sequence, Act::Ddl]),
        ("EXPLAIN ANALYZE INSERT INTO serial DEFAULT VALUES", &[Act::Sequence]),
        ("WITH w AS (INSERT INTO serial DEFAULT VALUES RETURNING 1) SELECT * FROM w", &[Act::Sequence]),
    ] {
        acts(sql, expect);
    }
}

#[test]
fn without_a_catalog_only_what_names_nothing_is_read() {
    let empty = Catalog::default();
    assert_eq!(classify("SELECT 1", &empty).effect, Effect::Read);
    for sql in ["SELECT * FROM t", "SELECT abs(1)", "SELECT 1 + 1", "SELECT '1'::int"] {
        assert_eq!(classify(sql, &empty).reason, Reason::NoCatalog, "{sql}");
    }
}

#[test]
fn a_poisoned_catalog_lets_nothing_pass() {
    let poisoned = Catalog { poison: Some("f".into()), ..fixture() };
    assert_eq!(classify("SELECT 1", &poisoned).effect, Effect::Primary);
    assert_eq!(classify("COPY t TO STDOUT", &poisoned).effect, Effect::Primary);
}

#[test]
fn literals_matter_only_where_they_were_looked_at() {
    let of = |sql| examine(sql, &fixture()).literals;
    assert_eq!(of("SELECT * FROM t WHERE id = 7"), Literals::Irrelevant);
    for sql in [
        "SET a.b = 'c'",
        "SELECT set_config('a','b',false)",
        "SELECT current_setting('port')",
        "SELECT nextval('s1')",
        "SELECT pg_sleep(7)",
        "SELEC 1",
    ] {
        assert_eq!(of(sql), Literals::Matter, "{sql}");
    }
}

/// Each as long as a text may be that is parsed. Neither PostgreSQL's C code nor the walk may run out of the thread's
/// stack, and none may take more than linear time.
#[test]
fn hostile_depth_is_no_crash() {
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("NOT ", "true", ""),
        ("1+", "1", ""),
        ("", "1", "::int"),
        ("(SELECT ", "1", ")"),
        ("ARRAY[", "1", "]"),
        ("CASE WHEN true THEN ", "1", " END"),
        ("", "1", " UNION SELECT 1"),
        ("/*", "", "*/"),
        ("", "1", "+/**/"),
    ] {
        let count = (200 << 10) / (open.len() + close.len());
        let text = format!("SELECT {}{middle}{}", open.repeat(count), close.repeat(count));
        assert_eq!(classify(&text, &fixture()).effect, Effect::Primary, "{open}{middle}{close}");
    }
}
