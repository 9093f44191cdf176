//! No state of one client is ever visible to the next, and what a session holds stays its own. One table lists every kind
//! of state; each is tried with clients that come after one another, and with clients that take turns.

use crate::harness::front::{self, Front};
use crate::harness::raw::{RawSession, say, sqlstate};
use crate::harness::{Session, wait};

/// A kind of state: what makes it, and what would show it.
struct State {
    name: &'static str,
    user: &'static str,
    make: &'static str,
    show: &'static str,
}

const fn state(name: &'static str, make: &'static str, show: &'static str) -> State {
    State { name, user: "app", make, show }
}

const fn superuser_state(name: &'static str, make: &'static str, show: &'static str) -> State {
    State { name, user: "admin", make, show }
}

/// PostgreSQL itself keeps the *name* of a custom setting after RESET and DISCARD ALL (as an empty value), so that the
/// question is whether its value is seen.
const CUSTOM: &str = "SELECT coalesce(nullif(current_setting('my.tenant', true), ''), 'none')";

/// Calling it would fail with another SQLSTATE where a server process once had a temporary schema.
const TEMPORARY_FUNCTION: &str =
    "SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema() AND pg_my_temp_schema() <> 0";

const STATES: &[State] = &[
    state("a temporary table", "CREATE TEMP TABLE numbers (id int)", "SELECT count(*) FROM numbers"),
    state("a temporary table of its own name", "CREATE TEMP TABLE mine (id int)", "SELECT count(*) FROM mine"),
    state("a temporary view", "CREATE TEMP VIEW peek AS SELECT 1 AS one", "SELECT one FROM peek"),
    state("a temporary sequence", "CREATE TEMP SEQUENCE tick", "SELECT last_value FROM tick"),
    state(
        "a temporary function",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 7'",
        TEMPORARY_FUNCTION,
    ),
    state("a temporary table by SELECT INTO", "SELECT 1 AS a INTO TEMP into_mine", "SELECT a FROM into_mine"),
    state("a setting", "SET work_mem = '77MB'", "SHOW work_mem"),
    state("a setting by set_config", "SELECT set_config('work_mem', '78MB', false)", "SHOW work_mem"),
    state("a setting by DO", "DO $$ BEGIN PERFORM set_config('work_mem', '79MB', false); END $$", "SHOW work_mem"),
    state("a setting within a transaction", "BEGIN; SET work_mem = '80MB'; COMMIT", "SHOW work_mem"),
    state("a reported setting", "SET DateStyle = 'German'", "SELECT '2026-01-31'::date FROM numbers WHERE id = 1"),
    state(
        "the time zone",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SELECT '2026-01-01 00:00+00'::timestamptz FROM numbers WHERE id = 1",
    ),
    state("bytea_output", "SET bytea_output = 'escape'", "SELECT '\\xff'::bytea FROM numbers WHERE id = 1"),
    state("extra_float_digits", "SET extra_float_digits = 0", "SELECT 1::float8 / 3 FROM numbers WHERE id = 1"),
    state("search_path", "SET search_path = elsewhere", "SELECT name FROM numbers WHERE id = 1"),
    state(
        "search_path by set_config",
        "SELECT set_config('search_path', 'elsewhere', false)",
        "SELECT name FROM numbers WHERE id = 1",
    ),
    state("a role", "SET ROLE auditor", "SELECT current_user"),
    superuser_state("a session authorization", "SET SESSION AUTHORIZATION app", "SELECT session_user"),
    superuser_state(
        "session_replication_role",
        "SET session_replication_role = replica",
        "SHOW session_replication_role",
    ),
    state("a custom setting", "SET my.tenant = '7'", CUSTOM),
    state("a custom setting by set_config", "SELECT set_config('my.tenant', '8', false)", CUSTOM),
    state("application_name", "SET application_name = 'evil'", "SHOW application_name"),
    state(
        "client_encoding",
        "SET client_encoding = 'LATIN1'; SET client_encoding = 'UTF8'; SET lock_timeout = 1",
        "SHOW lock_timeout",
    ),
    state("statement_timeout", "SET statement_timeout = '77s'", "SHOW statement_timeout"),
    state("read only by default", "SET default_transaction_read_only = on", "SHOW default_transaction_read_only"),
    state(
        "read only by characteristics",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW transaction_read_only",
    ),
    state("isolation by default", "SET default_transaction_isolation = 'serializable'", "SHOW transaction_isolation"),
    state("row_security", "SET row_security = off", "SHOW row_security"),
    state("standard_conforming_strings", "SET standard_conforming_strings = off", "SELECT length('\\\\')"),
    state("a prepared statement", "PREPARE plan AS SELECT 1", "EXECUTE plan"),
    state("a cursor with hold", "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT", "FETCH 1 FROM held"),
    state(
        "an advisory lock",
        "SELECT pg_advisory_lock(1234)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    state("a listener", "LISTEN gossip", "SELECT count(*) FROM pg_listening_channels()"),
    state("currval", "SELECT nextval('tickets')", "SELECT currval('tickets') IS NOT NULL"),
    state("lastval", "INSERT INTO scribble (who) VALUES ('lastval')", "SELECT lastval() IS NOT NULL"),
    state("a random seed", "SELECT setseed(0.5)", "SELECT random() = {seeded}"),
];

/// What no rollback takes back: left by a statement that then fails.
const LASTING: &[(&str, &str)] = &[
    ("an advisory lock", "SELECT pg_advisory_lock(1234), 1 / (id - 1) FROM numbers WHERE id = 1"),
    ("currval", "SELECT nextval('tickets'), 1 / (id - 1) FROM numbers WHERE id = 1"),
    ("a random seed", "SELECT setseed(0.5), 1 / (id - 1) FROM numbers WHERE id = 1"),
];

/// What a session answers: a value, or the SQLSTATE.
async fn shown(session: &Session, sql: &str) -> String {
    match session.try_value(sql).await {
        Ok(value) => value,
        Err(error) => match error.code() {
            Some(code) => format!("error {}", code.code()),
            None => panic!("{sql}: {error:?}"),
        },
    }
}

/// What a session that was told nothing answers, straight from the primary.
async fn untouched(front: &Front, state: &State) -> String {
    shown(&straight(front, state.user).await, &asks(front, state).await).await
}

async fn straight(front: &Front, user: &str) -> Session {
    let url = format!("postgres://{user}:secret@127.0.0.1:{}/app", front.cluster.primary.port);
    Session::open(&url).await.expect("a login")
}

/// The statement that shows a state; what a seed leads to is asked of the primary.
async fn asks(front: &Front, state: &State) -> String {
    if !state.show.contains("{seeded}") {
        return state.show.to_string();
    }
    let session = straight(front, state.user).await;
    session.batch_execute(state.make).await.expect("a seed");
    state.show.replace("{seeded}", &session.value("SELECT random()").await)
}

#[tokio::test]
async fn nothing_of_a_session_that_left_is_seen_by_the_next() {
    let front = front::with(&[("pool.size", "1"), ("pool.renewals", "0")]).await;
    for state in STATES {
        let first = front.connect(state.user).await;
        first.batch_execute(state.make).await.unwrap_or_else(|error| panic!("{}: {error:?}", state.name));
        first.close().await;
        let next = front.connect(state.user).await;
        assert_eq!(shown(&next, &asks(&front, state).await).await, untouched(&front, state).await, "{}", state.name);
        next.close().await;
    }
}

#[tokio::test]
async fn nothing_of_a_session_that_stays_is_seen_by_others_and_it_keeps_its_own() {
    // Two server connections: one may be pinned by the first session, the other is passed around.
    let front = front::with(&[("pool.size", "2"), ("pool.renewals", "0")]).await;
    for state in STATES {
        let (holder, other) = (front.connect(state.user).await, front.connect(state.user).await);
        let (clean, show) = (untouched(&front, state).await, asks(&front, state).await);
        holder.batch_execute(state.make).await.unwrap_or_else(|error| panic!("{}: {error:?}", state.name));
        // random() answers something else each time; only its first answer shows the seed.
        let turns = if state.name == "a random seed" || state.name == "a cursor with hold" { 1 } else { 3 };
        for turn in 0..turns {
            assert_eq!(shown(&other, &show).await, clean, "{} is not seen, turn {turn}", state.name);
            assert_ne!(shown(&holder, &show).await, clean, "{} is kept, turn {turn}", state.name);
        }
        holder.close().await;
        assert_eq!(shown(&other, &show).await, clean, "{} is not seen afterwards", state.name);
        other.close().await;
    }
}

#[tokio::test]
async fn what_a_failed_statement_left_is_not_seen_by_the_next() {
    let front = front::with(&[("pool.size", "1"), ("pool.renewals", "0")]).await;
    for (name, sql) in LASTING {
        let state = STATES.iter().find(|state| state.name == *name).expect("a kind of state");
        let (clean, show) = (untouched(&front, state).await, asks(&front, state).await);
        let extended =
            [say::parse("", sql, &[]), say::bind("", "", &[], &[]), say::execute("", 0), say::sync()].concat();
        for request in [say::query(sql), extended] {
            let mut first = RawSession::log_in(front.port(), "app");
            first.send(&request);
            assert_eq!(sqlstate(&first.read_until(b'Z')).as_deref(), Some("22012"), "{name}");
            first.send(&say::terminate());
            let next = front.connect("app").await;
            assert_eq!(shown(&next, &show).await, clean, "{name}");
            next.close().await;
        }
    }
}

#[tokio::test]
async fn discard_all_ends_every_state() {
    let front = front::with(&[("pool.size", "1"), ("pool.renewals", "0")]).await;
    for state in STATES.iter().filter(|state| state.name != "a random seed" && !state.name.starts_with("currval")) {
        let session = front.connect(state.user).await;
        let clean = untouched(&front, state).await;
        session.batch_execute(state.make).await.unwrap_or_else(|error| panic!("{}: {error:?}", state.name));
        session.batch_execute("DISCARD ALL").await.expect("DISCARD ALL");
        assert_eq!(shown(&session, state.show).await, clean, "{}", state.name);
        session.close().await;
    }
}

/// A session that vanishes in the middle of something leaves nothing to the next.
#[tokio::test]
async fn a_session_that_vanishes_leaves_nothing() {
    let front = front::with(&[("pool.size", "1"), ("pool.renewals", "0")]).await;
    let begin_copy = [say::query("BEGIN"), say::query("COPY kv FROM STDIN"), say::copy_data(b"40001\t1\n")].concat();
    let half_way: Vec<(&str, Vec<u8>)> = vec![
        ("an open transaction", say::query("BEGIN; INSERT INTO kv VALUES (40001, 1)")),
        (
            "a failed transaction",
            [say::query("BEGIN; INSERT INTO kv VALUES (40001, 1)"), say::query("SELECT 1/0")].concat(),
        ),
        ("a copy", begin_copy),
        ("a copy outside a transaction", [say::query("COPY kv FROM STDIN"), say::copy_data(b"40001\t1\n")].concat()),
        (
            "an unsynced pipeline",
            [
                say::parse("", "INSERT INTO kv VALUES (40001, 1)", &[]),
                say::bind("", "", &[], &[]),
                say::execute("", 0),
                say::flush(),
            ]
            .concat(),
        ),
        ("half a message", say::query("INSERT INTO kv VALUES (40001, 1)")[..20].to_vec()),
        ("an unread result", say::query("SELECT * FROM wide")),
        ("a sleeping statement", say::query("SELECT pg_sleep(600)")),
    ];
    for (what, bytes) in half_way {
        for polite in [true, false] {
            let mut vanishing = RawSession::log_in(front.port(), "app");
            vanishing.send(&bytes);
            if polite && what != "half a message" && !what.contains("copy") {
                vanishing.send(&say::terminate());
            }
            drop(vanishing);
            let next = front.connect("app").await;
            let row = wait::in_time(what, next.value("SELECT count(*) FROM kv WHERE id = 40001")).await;
            assert_eq!(row, "0", "{what}");
            assert_eq!(next.value("SELECT now() = statement_timestamp()").await, "t", "{what}: no transaction is open");
            next.close().await;
        }
    }
}

#[tokio::test]
async fn protocol_statements_of_one_session_are_unknown_to_the_next() {
    let front = front::with(&[("pool.size", "1"), ("pool.renewals", "0")]).await;
    let mut first = RawSession::log_in(front.port(), "app");
    first.send(&[say::parse("mine", "SELECT 'first'", &[]), say::sync()].concat());
    first.read_until(b'Z');
    let mut next = RawSession::log_in(front.port(), "app");
    let use_it = [say::bind("", "mine", &[], &[]), say::execute("", 0), say::sync()].concat();
    next.send(&use_it);
    assert_eq!(sqlstate(&next.read_until(b'Z')).as_deref(), Some("26000"));
    next.send(&[say::parse("mine", "SELECT 'next'", &[]), use_it.clone()].concat());
    assert_eq!(sqlstate(&next.read_until(b'Z')), None);
    for _ in 0..5 {
        for (session, expected) in [(&mut first, "first"), (&mut next, "next")] {
            session.send(&use_it);
            let row = session.read_until(b'Z').into_iter().find(|message| message.tag == b'D').expect("a row");
            assert_eq!(row.columns()[0].as_deref(), Some(expected));
        }
    }
}

/// Drivers' own tests do this: they end the process that another connection was told is its own, and wait for it to hear.
#[tokio::test]
async fn a_session_ends_with_the_process_that_it_takes_for_its_own() {
    let front = front::with(&[]).await;
    let mut judge = RawSession::log_in(front.port(), "app");
    for during in [None, Some("SELECT 1"), Some("INSERT INTO kv VALUES (40002, 1)")] {
        let mut idle = RawSession::log_in(front.port(), "app");
        idle.query("SELECT 1");
        assert_eq!(judge.value(&format!("SELECT pg_terminate_backend({})", idle.pid)), "t");
        if let Some(statement) = during {
            idle.send(&say::query(statement));
        }
        let last = idle.read_to_end();
        assert_eq!(sqlstate(&last).as_deref(), Some("57P01"), "{during:?}: {last:?}");
    }
    assert_eq!(judge.value("SELECT count(*) FROM kv WHERE id = 40002"), "0", "what was sent too late was not done");
    let mut busy = RawSession::log_in(front.port(), "app");
    busy.send(&say::query("SELECT pg_sleep(599)"));
    let asleep =
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(599)' AND wait_event = 'PgSleep'";
    wait::until("the statement runs", || async { front.cluster.primary.ask(asleep).await == "1" }).await;
    judge.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(599)'");
    assert_eq!(sqlstate(&busy.read_to_end()).as_deref(), Some("57P01"));
}

#[tokio::test]
async fn notifications_reach_only_who_listens() {
    let front = front::with(&[("pool.size", "2"), ("pool.renewals", "0")]).await;
    let mut listener = RawSession::log_in(front.port(), "app");
    let mut other = RawSession::log_in(front.port(), "app");
    listener.query("LISTEN gossip");
    other.query("SELECT 1");
    front.cluster.primary.run_in("app", "NOTIFY gossip, 'psst'").await;
    let heard = listener.read_until(b'A').pop().expect("the notification");
    assert!(heard.body.windows(4).any(|four| four == b"psst"), "{heard:?}");
    listener.send(&say::terminate());
    listener.read_to_end();
    front.cluster.primary.run_in("app", "NOTIFY gossip, 'again'").await;
    for _ in 0..5 {
        assert!(other.query("SELECT count(*) FROM pg_listening_channels()").iter().all(|message| message.tag != b'A'));
    }
}

fn key_data(session: &mut RawSession) -> u32 {
    let pid: u32 = session.value("SELECT pg_backend_pid()").parse().expect("a process ID");
    assert_eq!(session.pid, pid, "BackendKeyData tells the process ID");
    pid
}

/// PostgreSQL's isolation tests ask by process ID who waits for whom, drivers compare that of a notification. As long as
/// there are as many server connections as sessions, each session runs on one of its own, and BackendKeyData says which.
#[tokio::test]
async fn a_session_has_a_server_process_of_its_own_while_there_are_enough() {
    let front = front::alone("own-process", &[("pool.size", "3")]).await;
    let mut sessions: Vec<_> = (0..3).map(|_| RawSession::log_in(front.port(), "app")).collect();
    for _ in 0..2 {
        let pids: std::collections::HashSet<u32> = sessions.iter_mut().rev().map(key_data).collect();
        assert_eq!(pids.len(), 3);
    }
}

/// On a busy machine a server process may take longer than a second to begin; a session was then told a number of ours. The
/// last place of the pool may be the one that is being opened.
#[tokio::test]
async fn a_session_whose_server_process_begins_slowly_has_one_of_its_own() {
    let front = front::alone("slow-start", &[("pool.size", "2")]).await;
    let mut first = RawSession::log_in(front.port(), "app");
    front.cluster.primary.run_in("app", "ALTER SYSTEM SET post_auth_delay = 2").await;
    front.cluster.primary.run_in("app", "SELECT pg_reload_conf()").await;
    first.query("BEGIN; SELECT 1");
    let mut second = RawSession::log_in(front.port(), "app");
    assert_ne!(key_data(&mut first), key_data(&mut second));
}

/// PostgreSQL's tests `guc`, `temp` and `stats` see by a loaded library, an empty temporary schema, and a counter whether
/// their session began in a process of its own.
#[tokio::test]
async fn a_session_begins_in_a_fresh_process_when_the_last_one_marked_its_own() {
    let front = front::with(&[]).await;
    let marks = ["DO $$ BEGIN NULL; END $$", "CREATE TEMP TABLE mine (id int); DROP TABLE mine"];
    let fresh = "SELECT pg_my_temp_schema() = 0 AND current_setting('plpgsql.extra_errors', true) IS NULL";
    for mark in marks {
        let mut session = RawSession::log_in(front.port(), "app");
        assert_eq!(session.value(fresh), "t", "before {mark}");
        session.query(mark);
        assert_eq!(session.value(fresh), "f", "after {mark}");
        session.send(&say::terminate());
        session.read_to_end();
    }
    assert_eq!(RawSession::log_in(front.port(), "app").value(fresh), "t");
}

/// Its BEGIN was held back like any other, so that the server process went on delivering (PostgreSQL's async-notify.spec).
#[tokio::test]
async fn a_listener_hears_nothing_while_its_transaction_is_open() {
    let front = front::shared().await;
    let mut listener = RawSession::log_in(front.port(), "app");
    listener.query("LISTEN gossip");
    listener.query("BEGIN");
    front.cluster.primary.run_in("app", "NOTIFY gossip, 'later'").await;
    // Enough time for a signal to the listener's process, which would answer it at once if it were idle.
    assert!(listener.query("SELECT pg_sleep(0.2)").iter().all(|message| message.tag != b'A'));
    listener.send(&say::query("COMMIT"));
    listener.read_until(b'A');
}

/// Fifty sessions, each with settings, prepared statements and transactions of its own, over five server connections.
#[tokio::test]
async fn fifty_stateful_sessions_share_five_server_connections() {
    let front = front::with(&[("pool.size", "5")]).await;
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..50 {
        let url = front.url("app");
        sessions.spawn(async move { be_stateful(Session::open(&url).await.expect("a login"), number).await });
    }
    while let Some(ended) = sessions.join_next().await {
        ended.expect("the session kept its state");
    }
    let count = front
        .cluster
        .primary
        .ask("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = 'app'")
        .await;
    if front.proxy().is_some() {
        assert!(count.parse::<usize>().expect("a number") >= 1);
    }
}

async fn be_stateful(mut session: Session, number: i32) {
    let zone = if number % 2 == 0 { "Asia/Tokyo" } else { "America/New_York" };
    let midnight = if number % 2 == 0 { "2026-01-01 09:00:00+09" } else { "2025-12-31 19:00:00-05" };
    let setup = format!("SET TIME ZONE '{zone}'; SET my.number = '{number}'; SET work_mem = '{}kB'", 2001 + 2 * number);
    session.batch_execute(&setup).await.expect("settings");
    let named =
        session.prepare(&format!("SELECT {number} + id FROM numbers WHERE id = $1")).await.expect("it is prepared");
    for round in 1..=20i32 {
        assert_eq!(session.value("SELECT current_setting('my.number')").await, number.to_string());
        assert_eq!(session.value("SHOW work_mem").await, format!("{}kB", 2001 + 2 * number));
        let moment = "SELECT '2026-01-01 00:00+00'::timestamptz::text FROM numbers WHERE id = 1";
        assert_eq!(session.value(moment).await, midnight);
        let row = session.query_one(&named, &[&round]).await.expect("a row");
        assert_eq!(row.get::<_, i32>(0), number + round);
        let transaction = session.client_mut().transaction().await.expect("BEGIN");
        transaction
            .execute("UPDATE kv SET value = $1 WHERE id = $2", &[&i64::from(round), &(500 + number)])
            .await
            .expect("a write");
        let row = transaction.query_one("SELECT value FROM kv WHERE id = $1", &[&(500 + number)]).await.expect("a row");
        assert_eq!(row.get::<_, i64>(0), i64::from(round));
        transaction.commit().await.expect("COMMIT");
    }
}
