//! A session reads its own writes, never goes back in time, and hands its floor to others, while one replica stands still.
//! The checker is small on purpose: it believes only what it wrote itself. PGWEIR_IT_SECONDS makes it run longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use crate::harness::front::{self, Front};
use crate::harness::{Session, wait};

const CLIENTS: usize = 20;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Simple,
    Extended,
    Prepared,
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Simple, Protocol::Extended, Protocol::Prepared];

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    pairs: AtomicU64,
    stale: AtomicU64,
    errors: AtomicU64,
}

fn duration() -> Duration {
    let seconds = std::env::var("PGWEIR_IT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    Duration::from_secs(seconds)
}

/// One row of `kv`, written and read by one client in one protocol.
struct Register<'a> {
    session: &'a Session,
    protocol: Protocol,
    id: i32,
    statements: Option<(tokio_postgres::Statement, tokio_postgres::Statement)>,
}

const WRITE: &str = "UPDATE kv SET value = $1 WHERE id = $2";
const READ: &str = "SELECT value FROM kv WHERE id = $1";

impl<'a> Register<'a> {
    async fn new(session: &'a Session, protocol: Protocol, id: i32) -> Result<Register<'a>, tokio_postgres::Error> {
        let statements = match protocol {
            Protocol::Prepared => Some((session.prepare(WRITE).await?, session.prepare(READ).await?)),
            _ => None,
        };
        Ok(Register { session, protocol, id, statements })
    }

    async fn write(&self, value: i64) -> Result<(), tokio_postgres::Error> {
        match (&self.statements, self.protocol) {
            (Some((write, _)), _) => self.session.execute(write, &[&value, &self.id]).await.map(drop),
            (None, Protocol::Simple) => {
                self.session.batch_execute(&format!("UPDATE kv SET value = {value} WHERE id = {}", self.id)).await
            }
            (None, _) => {
                self.session.query_typed(WRITE, &[(&value, Type::INT8), (&self.id, Type::INT4)]).await.map(drop)
            }
        }
    }

    async fn read(&self) -> Result<i64, tokio_postgres::Error> {
        match (&self.statements, self.protocol) {
            (Some((_, read)), _) => Ok(self.session.query_one(read, &[&self.id]).await?.get(0)),
            (None, Protocol::Simple) => {
                let sql = format!("SELECT value FROM kv WHERE id = {}", self.id);
                Ok(self.session.try_value(&sql).await?.parse().expect("a number"))
            }
            (None, _) => Ok(self.session.query_typed(READ, &[(&self.id, Type::INT4)]).await?[0].get(0)),
        }
    }
}

/// Writes and reads back at once, and now and then reads again, until told to stop.
async fn write_and_read_back(front: Arc<Front>, tally: Arc<Tally>, client: usize) {
    let session = front.connect("traced").await;
    let register = Register::new(&session, PROTOCOLS[client % 3], client as i32 + 1).await.expect("it is prepared");
    let mut value = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        value += 1;
        if let Err(error) = register.write(value).await {
            println!("client {client}, write: {error:?}");
            tally.errors.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        for _ in 0..3 {
            match register.read().await {
                Ok(read) if read == value => {}
                Ok(read) => {
                    println!("client {client} ({:?}) wrote {value} and read {read}", register.protocol);
                    tally.stale.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    println!("client {client}, read: {error:?}");
                    tally.errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        tally.pairs.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads what another client writes; it may be old, but never older than what was read before.
async fn never_go_back(front: Arc<Front>, tally: Arc<Tally>, id: i32) {
    let session = front.connect("traced").await;
    let register = Register::new(&session, PROTOCOLS[id as usize % 3], id).await.expect("it is prepared");
    let mut newest = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        match register.read().await {
            Ok(read) if read >= newest => newest = read,
            Ok(read) => {
                println!("a reader saw {newest} and then {read}");
                tally.stale.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                println!("a reader: {error:?}");
                tally.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A replica stands still for three seconds of every six, the first one first.
async fn hold_back_a_replica(front: &Front, until: Instant) {
    let mut round = 0;
    while Instant::now() < until {
        let replica = &front.cluster.replicas[round % 2];
        replica.pause_replay().await;
        tokio::time::sleep_until((Instant::now() + Duration::from_secs(3)).min(until).into()).await;
        replica.resume_replay().await;
        tokio::time::sleep_until((Instant::now() + Duration::from_secs(3)).min(until).into()).await;
        round += 1;
    }
}

#[tokio::test]
async fn read_your_writes_while_a_replica_stands_still() {
    let front = Arc::new(front::alone("consistency", &[]).await);
    front.cluster.primary.run_in("postgres", "ALTER ROLE traced RESET log_statement").await;
    let reads_before = replica_reads(&front).await;
    let tally = Arc::new(Tally::default());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(write_and_read_back(front.clone(), tally.clone(), client));
    }
    for id in 1..=3 {
        clients.spawn(never_go_back(front.clone(), tally.clone(), id));
    }
    hold_back_a_replica(&front, Instant::now() + duration()).await;
    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ran to its end");
    }
    let count = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let (pairs, stale, errors) = (count(&tally.pairs), count(&tally.stale), count(&tally.errors));
    println!("{pairs} writes, each read back 3 times: {stale} stale, {errors} errors");
    if front.proxy().is_some() {
        let on_replicas = replica_reads(&front).await - reads_before;
        println!("of {} reads back and those of 3 watchers, replicas served about {on_replicas}", pairs * 3);
    }
    assert!(pairs > 100, "the clients got somewhere: {pairs}");
    assert_eq!((stale, errors), (0, 0), "0 stale, 0 errors");
}

/// Index scans of `kv` on the replicas, as they count them themselves (each read of the checker is one).
async fn replica_reads(front: &Front) -> i64 {
    let mut sum = 0;
    for replica in &front.cluster.replicas {
        let count = replica.ask("SELECT coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'kv'").await;
        sum += count.parse::<i64>().unwrap_or(0);
    }
    sum
}

/// Every way to write, each followed by a read at once, while no replica replays anything.
#[tokio::test]
async fn every_kind_of_write_is_read_back() {
    let front = front::alone("writes", &[]).await;
    for replica in &front.cluster.replicas {
        replica.pause_replay().await;
    }
    let writer = front.connect("admin").await;
    let writes = [
        "INSERT INTO kv VALUES ({id}, 1)",
        "BEGIN; INSERT INTO kv VALUES ({id}, 1); COMMIT",
        "SET synchronous_commit = off; INSERT INTO kv VALUES ({id}, 1)",
        "WITH n AS (INSERT INTO kv VALUES ({id}, 1) RETURNING id) SELECT * FROM n",
        "DO $$ BEGIN INSERT INTO kv VALUES ({id}, 1); END $$",
        "PREPARE w{id} AS INSERT INTO kv VALUES ({id}, 1); EXECUTE w{id}",
        "CREATE FUNCTION w{id}() RETURNS int LANGUAGE sql AS 'INSERT INTO kv VALUES ({id}, 1) RETURNING id'; SELECT w{id}()",
        "SELECT 1; INSERT INTO kv VALUES ({id}, 1); SELECT 2",
        "BEGIN; SAVEPOINT a; INSERT INTO kv VALUES ({id}, 1); RELEASE a; COMMIT",
        "BEGIN; INSERT INTO kv VALUES ({id}, 1); PREPARE TRANSACTION 'w{id}' ;; COMMIT PREPARED 'w{id}'",
        "COPY kv FROM PROGRAM 'printf ''{id}\\t1\\n'''",
        "EXPLAIN ANALYZE INSERT INTO kv VALUES ({id}, 1)",
    ];
    for (index, write) in writes.iter().enumerate() {
        let id = 20_000 + index;
        // ";;" parts what must not be in one Query.
        for sql in write.replace("{id}", &id.to_string()).split(";;") {
            writer.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        assert_eq!(writer.value(&format!("SELECT count(*) FROM kv WHERE id = {id}")).await, "1", "after {write}");
    }
    // Nobody waits for a replica that stands still forever.
    wait::in_time("a read of an untouched table", writer.value("SELECT name FROM numbers WHERE id = 1")).await;
}

/// A notification tells another session of a row; that session must find it.
#[tokio::test]
async fn whoever_is_notified_finds_the_row() {
    let front = front::shared().await;
    let (writer, url) = (front.connect("app").await, front.url("app"));
    let (client, mut connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a login");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(tokio_postgres::AsyncMessage::Notification(note))) => {
                    drop(tell.send(note.payload().to_string()));
                }
                Some(Ok(_)) => {}
                _ => return,
            }
        }
    });
    client.batch_execute("LISTEN news").await.expect("it listens");
    for round in 0..100 {
        let id = 30_000 + round;
        writer
            .batch_execute(&format!("BEGIN; INSERT INTO kv VALUES ({id}, {round}); NOTIFY news, '{id}'; COMMIT"))
            .await
            .expect("it is written");
        let payload = wait::in_time("the notification", told.recv()).await.expect("the session lives");
        assert_eq!(payload, id.to_string());
        let row = client.query_one("SELECT value FROM kv WHERE id = $1", &[&id]).await.expect("the row is there");
        assert_eq!(row.get::<_, i64>(0), i64::from(round));
    }
    writer.batch_execute("DELETE FROM kv WHERE id >= 30000 AND id < 30100").await.expect("tidied up");
}

/// A web request hands what it wrote to the next one, which is another session.
#[tokio::test]
async fn a_floor_is_handed_to_another_session() {
    let front = front::alone("floor", &[]).await;
    if front.proxy().is_none() {
        return;
    }
    let (writer, reader) = (front.connect("app").await, front.connect("app").await);
    for replica in &front.cluster.replicas {
        replica.pause_replay().await;
    }
    for round in 1..=20 {
        writer.batch_execute(&format!("UPDATE kv SET value = {round} WHERE id = 77")).await.expect("it is written");
        let floor = writer.value("SHOW pgweir.floor").await;
        reader.batch_execute(&format!("SET pgweir.floor = '{floor}'")).await.expect("the floor is taken");
        assert_eq!(reader.value("SELECT value FROM kv WHERE id = 77").await, round.to_string());
    }
    for replica in &front.cluster.replicas {
        replica.resume_replay().await;
    }
}
