//! The checker of what a consistency level promises: clients write in every way and read in every way, through one session,
//! through two, and past pgweir, while one replica stands still half of the time. It believes only what was acknowledged.
//! PGWEIR_IT_SECONDS makes it run longer, PGWEIR_IT_LEVEL chooses the level; pointed at a replica it must find stale reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::Error;
use tokio_postgres::types::Type;

use crate::harness::front::{self, Front};
use crate::harness::{Session, wait};

/// Registers with one writer each; in `strict`, the last ones are written past pgweir.
const REGISTERS: usize = 12;
const OUTSIDERS: usize = 3;
const WATCHERS: usize = 4;
const ACCOUNTS: i32 = 10;

const SCHEMA: &str = "
CREATE TABLE register (id int PRIMARY KEY, value bigint NOT NULL);
INSERT INTO register SELECT i, 0 FROM generate_series(0, 99) i;
CREATE VIEW register_view AS SELECT id, value FROM register;
CREATE TABLE inbox (id int, value bigint);
CREATE TABLE source (id int PRIMARY KEY, value bigint NOT NULL);
INSERT INTO source SELECT i, 0 FROM generate_series(0, 99) i;
CREATE FUNCTION put(int, bigint) RETURNS bigint LANGUAGE plpgsql AS
  $$ BEGIN UPDATE register SET value = $2 WHERE id = $1; RETURN $2; END $$;
CREATE FUNCTION pass_on() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM put(NEW.id, NEW.value); RETURN NULL; END $$;
CREATE TRIGGER pass_on AFTER UPDATE ON source FOR EACH ROW EXECUTE FUNCTION pass_on();
CREATE TRIGGER pass_on AFTER INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION pass_on();
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT i, 1000 FROM generate_series(1, 10) i;
";

/// One Query each: plain, in a transaction, and where no lexer sees it.
const QUERIES: [&str; 8] = [
    "UPDATE register SET value = {value} WHERE id = {id}",
    "BEGIN; UPDATE register SET value = {value} WHERE id = {id}; COMMIT",
    "BEGIN; SAVEPOINT s; UPDATE register SET value = {value} WHERE id = {id}; RELEASE s; COMMIT",
    "SELECT put({id}, {value})",
    "UPDATE source SET value = {value} WHERE id = {id}",
    "WITH w AS (UPDATE register SET value = {value} WHERE id = {id} RETURNING value) SELECT value FROM w",
    "DO $$ BEGIN UPDATE register SET value = {value} WHERE id = {id}; END $$",
    "SET LOCAL synchronous_commit = off; UPDATE register SET value = {value} WHERE id = {id}",
];
const WRITE: &str = "UPDATE register SET value = $1 WHERE id = $2";
const READ: &str = "SELECT value FROM register WHERE id = $1";

/// What all clients share.
struct World {
    level: String,
    stop: AtomicBool,
    /// The newest acknowledged value of each register.
    acknowledged: Vec<AtomicI64>,
    reads: AtomicU64,
    anomalies: AtomicU64,
    errors: AtomicU64,
}

impl World {
    fn new(level: &str) -> Arc<World> {
        Arc::new(World {
            level: level.to_string(),
            stop: AtomicBool::new(false),
            acknowledged: (0..REGISTERS).map(|_| AtomicI64::new(0)).collect(),
            reads: AtomicU64::new(0),
            anomalies: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, what: &str, error: &Error) {
        println!("{what}: {error:?}");
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A read must have shown at least `least`.
    fn judge(&self, what: &str, least: i64, read: i64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if read < least && self.anomalies.fetch_add(1, Ordering::Relaxed) < 20 {
            println!("{}: {what} should have read {least} and read {read}", self.level);
        }
    }

    /// What any session must see of a register, before its read is sent.
    fn promised(&self, register: usize) -> i64 {
        match self.level.as_str() {
            "session" => 0,
            "global" if register >= REGISTERS - OUTSIDERS => 0,
            _ => self.acknowledged[register].load(Ordering::SeqCst),
        }
    }
}

/// Where a client writes and where it reads; through pgweir both are one session.
#[derive(Clone)]
struct Pair {
    write: Arc<Session>,
    read: Arc<Session>,
}

async fn write(session: &Session, way: usize, id: i32, value: i64) -> Result<(), Error> {
    if let Some(query) = QUERIES.get(way) {
        let sql = query.replace("{id}", &id.to_string()).replace("{value}", &value.to_string());
        return session.batch_execute(&sql).await;
    }
    match way - QUERIES.len() {
        0 => session.query_typed(WRITE, &[(&value, Type::INT8), (&id, Type::INT4)]).await.map(drop),
        1 => session.execute(WRITE, &[&value, &id]).await.map(drop),
        2 => {
            session.batch_execute("BEGIN").await?;
            session.execute(WRITE, &[&value, &id]).await?;
            session.batch_execute("COMMIT").await
        }
        _ => {
            let sink = session.copy_in::<_, Bytes>("COPY inbox FROM STDIN").await?;
            tokio::pin!(sink);
            sink.send(Bytes::from(format!("{id}\t{value}\n"))).await?;
            sink.finish().await.map(drop)
        }
    }
}

const WRITES: usize = QUERIES.len() + 4;

async fn read(session: &Session, way: usize, id: i32) -> Result<i64, Error> {
    let number = |text: String| text.trim().parse().expect("a number");
    Ok(match way {
        0 => number(session.try_value(&format!("SELECT value FROM register WHERE id = {id}")).await?),
        1 => number(session.try_value(&format!("SELECT value FROM register_view WHERE id = {id}")).await?),
        2 => session.query_typed(READ, &[(&id, Type::INT4)]).await?[0].get(0),
        3 => session.query_one(READ, &[&id]).await?.get(0),
        4 => {
            session.batch_execute("BEGIN READ ONLY").await?;
            let value = session.query_one(READ, &[&id]).await?.get(0);
            session.batch_execute("COMMIT").await?;
            value
        }
        _ => {
            let copy = format!("COPY (SELECT value FROM register WHERE id = {id}) TO STDOUT");
            let chunks: Vec<Bytes> = session.copy_out(&copy).await?.try_collect().await?;
            number(String::from_utf8(chunks.concat()).expect("digits"))
        }
    })
}

const READS: usize = 6;

/// The only writer of its register reads it back, at once and in the same flight.
async fn write_and_read_back(world: Arc<World>, pair: Pair, register: usize, handed: tokio::sync::mpsc::Sender<Note>) {
    let id = register as i32;
    let mut value = 0;
    while world.goes_on() {
        value += 1;
        let (way, how) = (value as usize % WRITES, value as usize % READS);
        let what = format!("register {register}, write {way}, read {how}");
        let in_flight = value % 5 == 0 && way < QUERIES.len() && how < 4;
        let (written, at_once) = if in_flight {
            let (written, read) = tokio::join!(biased; write(&pair.write, way, id, value), read(&pair.read, how, id));
            (written, Some(read))
        } else {
            (write(&pair.write, way, id, value).await, None)
        };
        if let Err(error) = written {
            world.fail(&what, &error);
            continue;
        }
        world.acknowledged[register].store(value, Ordering::SeqCst);
        let again = [read(&pair.read, how, id).await, read(&pair.read, (how + 1) % READS, id).await];
        for answer in at_once.into_iter().chain(again) {
            match answer {
                Ok(read) => world.judge(&what, value, read),
                Err(error) => world.fail(&what, &error),
            }
        }
        if value % 7 == 0
            && let Ok(floor) = pair.write.try_value("SHOW pgweir.floor").await
        {
            // Nobody may be listening any more at the end.
            let _ = handed.try_send(Note { register, value, floor });
        }
    }
}

/// What one session hands to another.
struct Note {
    register: usize,
    value: i64,
    floor: String,
}

/// Takes floors over and reads what they cover.
async fn take_over(world: Arc<World>, pair: Pair, mut notes: tokio::sync::mpsc::Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        let answer = async {
            pair.read.batch_execute(&format!("SET pgweir.floor = '{}'", note.floor)).await?;
            read(&pair.read, note.value as usize % READS, note.register as i32).await
        };
        match answer.await {
            Ok(read) => world.judge("whoever took over a floor", note.value, read),
            Err(error) => world.fail("whoever took over a floor", &error),
        }
    }
}

/// Writes past pgweir.
async fn write_outside(world: Arc<World>, session: Session, register: usize) {
    let mut value = 0;
    while world.goes_on() {
        value += 1;
        match write(&session, 0, register as i32, value).await {
            Ok(()) => world.acknowledged[register].store(value, Ordering::SeqCst),
            Err(error) => world.fail("an outsider", &error),
        }
        wait::pace(Duration::from_millis(5)).await;
    }
}

/// Reads what others write: never older than before, nor than the level promises.
async fn watch(world: Arc<World>, pair: Pair, seed: usize) {
    let mut newest = [0; REGISTERS];
    let mut round = seed;
    while world.goes_on() {
        round += 1;
        let (register, how) = (round % REGISTERS, round / 3 % READS);
        let least = world.promised(register).max(newest[register]);
        match read(&pair.read, how, register as i32).await {
            Ok(read) => {
                world.judge(&format!("a watcher of register {register}, read {how}"), least, read);
                newest[register] = read.max(least);
            }
            Err(error) => world.fail("a watcher", &error),
        }
    }
}

/// Moves money about; the sum never changes.
async fn transfer(world: Arc<World>, pair: Pair, seed: i32) {
    let mut round = seed;
    while world.goes_on() {
        round += 1;
        let (from, to) = (round % ACCOUNTS + 1, (round * 7 + 3) % ACCOUNTS + 1);
        // In one order, or two transfers would lock each other out.
        let moved = format!(
            "BEGIN; SELECT 1 FROM account WHERE id IN ({from}, {to}) ORDER BY id FOR UPDATE;
             UPDATE account SET balance = balance - 1 WHERE id = {from};
             UPDATE account SET balance = balance + 1 WHERE id = {to}; COMMIT"
        );
        if let Err(error) = pair.write.batch_execute(&moved).await {
            world.fail("a transfer", &error);
        }
        match pair.read.try_value("SELECT sum(balance) FROM account").await {
            Ok(sum) if sum == "10000" => world.judge("the bank", 0, 0),
            Ok(sum) => world.judge(&format!("the bank has {sum}"), 1, 0),
            Err(error) => world.fail("the bank", &error),
        }
    }
}

/// The first replica stands still for three seconds of every five.
async fn hold_back(front: &Front, until: Instant) {
    let lagging = &front.cluster.replicas[0];
    while Instant::now() < until {
        lagging.pause_replay().await;
        tokio::time::sleep_until((Instant::now() + Duration::from_secs(3)).min(until).into()).await;
        lagging.resume_replay().await;
        tokio::time::sleep_until((Instant::now() + Duration::from_secs(2)).min(until).into()).await;
    }
}

async fn prepare(front: &Front) {
    front.cluster.primary.run_in("app", &format!("SET SESSION AUTHORIZATION app; {SCHEMA}")).await;
    front.cluster.wait_for_replay().await;
    let session = front.connect("app").await;
    let Some(proxy) = front.proxy() else { return };
    wait::until("the tables are known to be read on replicas", || async {
        session.value("SELECT value FROM register WHERE id = 0").await;
        proxy.metrics().sum("pgweir_transactions_total", &[("route", "replica")]) > 0.0
    })
    .await;
}

/// Runs everything for so long. `past`: reads go there instead of through pgweir.
async fn check(front: &Front, level: &str, seconds: u64, past: Option<&str>) -> Arc<World> {
    let world = World::new(level);
    let pair = || async {
        let session = Arc::new(front.connect("app").await);
        match past {
            None => Pair { write: session.clone(), read: session },
            Some(url) => Pair { write: session, read: Arc::new(Session::open(url).await.expect("a login")) },
        }
    };
    let mut clients = tokio::task::JoinSet::new();
    let (hand, handed) = tokio::sync::mpsc::channel(64);
    for register in 0..REGISTERS - OUTSIDERS {
        clients.spawn(write_and_read_back(world.clone(), pair().await, register, hand.clone()));
    }
    drop(hand);
    clients.spawn(take_over(world.clone(), pair().await, handed));
    for register in REGISTERS - OUTSIDERS..REGISTERS {
        let url = format!("postgres://app:secret@127.0.0.1:{}/app", front.cluster.primary.port);
        clients.spawn(write_outside(world.clone(), Session::open(&url).await.expect("a login"), register));
    }
    for seed in 0..WATCHERS {
        clients.spawn(watch(world.clone(), pair().await, seed * 5));
    }
    for seed in 0..2 {
        clients.spawn(transfer(world.clone(), pair().await, seed));
    }
    hold_back(front, Instant::now() + Duration::from_secs(seconds)).await;
    world.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ran to its end");
    }
    world
}

/// Scans of the checker's tables on the replicas, as they count them themselves: each of its reads is one.
async fn scans(front: &Front) -> i64 {
    let count = "SELECT sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0))
                 FROM pg_stat_user_tables WHERE relname IN ('register', 'account')";
    let mut sum = 0;
    for replica in &front.cluster.replicas {
        sum += replica.ask(count).await.parse().unwrap_or(0);
    }
    sum
}

fn seconds(default: u64) -> u64 {
    std::env::var("PGWEIR_IT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn no_anomaly(level: &str) {
    if std::env::var("PGWEIR_IT_LEVEL").is_ok_and(|wanted| !wanted.is_empty() && wanted != level) {
        return;
    }
    let front = front::alone(level, &[("routing.consistency", &format!("\"{level}\""))]).await;
    let Some(proxy) = front.proxy() else { return };
    prepare(&front).await;
    let samples = || proxy.metrics().sum("pgweir_primary_samples_total", &[]);
    let (before, asked) = (scans(&front).await, samples());
    let world = check(&front, level, seconds(6), None).await;
    let count = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let (reads, anomalies, errors) = (count(&world.reads), count(&world.anomalies), count(&world.errors));
    let served = scans(&front).await - before;
    println!(
        "{level}: {reads} reads, {:.0} % served by replicas, {} samples of the primary; {anomalies} anomalies, {errors} errors",
        served as f64 * 100.0 / reads as f64,
        samples() - asked,
    );
    assert!(reads > 100 && served > 0, "the clients got somewhere: {reads} reads, {served} by replicas");
    assert_eq!((anomalies, errors), (0, 0), "0 anomalies, 0 errors at {level}");
}

#[tokio::test]
async fn checker_finds_nothing_at_level_session() {
    no_anomaly("session").await;
}

#[tokio::test]
async fn checker_finds_nothing_at_level_global() {
    no_anomaly("global").await;
}

#[tokio::test]
async fn checker_finds_nothing_at_level_strict() {
    no_anomaly("strict").await;
}

/// Whoever never finds anything proves nothing.
#[tokio::test]
async fn checker_finds_stale_reads_of_a_bare_replica() {
    let front = front::alone("bare", &[]).await;
    prepare(&front).await;
    let url = format!("postgres://app:secret@127.0.0.1:{}/app", front.cluster.replicas[0].port);
    let world = check(&front, "strict", 3, Some(&url)).await;
    let (reads, anomalies) = (world.reads.load(Ordering::Relaxed), world.anomalies.load(Ordering::Relaxed));
    println!("a bare replica: {reads} reads, {anomalies} anomalies");
    assert!(anomalies > 0, "the checker can fail");
}
