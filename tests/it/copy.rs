//! Much data in both directions: whole, with bounded memory, and with a reader or writer that is slow. Small COPYs, byte by
//! byte, are among the transcripts.

use futures_util::{SinkExt, StreamExt, pin_mut};

use crate::harness::front::{self, Front};
use crate::harness::raw::{Message, RawSession, say};
use crate::harness::wait;

/// What pgweir may need more for any of this; a copy of the data itself would be far more.
const ALLOWED: u64 = 48 << 20;

/// 1000 rows of 10 KB, ten times: 100 MB.
const LARGE: &str = "SELECT id, filler FROM wide, (VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9),(10)) AS times (n)";

fn peak(front: &Front) -> u64 {
    front.proxy().map_or(0, |proxy| proxy.peak_memory())
}

/// Reads to ReadyForQuery and counts rows and their bytes, forgetting them.
fn count(session: &mut RawSession, tag: u8) -> (usize, usize) {
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let message = session.read().expect("the answer goes on");
        match message.tag {
            b'Z' => return (rows, bytes),
            b'E' => panic!("{message:?}"),
            own if own == tag => {
                rows += 1;
                bytes += message.body.len();
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_result_of_100_mb_needs_little_memory() {
    let front = front::with(&[]).await;
    let mut session = RawSession::log_in(front.port(), "app");
    session.query("SELECT 1 FROM numbers WHERE id = 1");
    let before = peak(&front);
    let extended = [say::parse("", LARGE, &[]), say::bind("", "", &[], &[]), say::execute("", 0), say::sync()].concat();
    let asked = [
        (b'D', say::query(LARGE)),
        (b'D', extended),
        (b'd', say::query(&format!("COPY ({LARGE}) TO STDOUT"))),
        (b'D', say::query(&format!("BEGIN; {LARGE}; COMMIT"))),
    ];
    for (tag, bytes) in asked {
        session.send(&bytes);
        let (rows, size) = count(&mut session, tag);
        assert_eq!(rows, 10_000);
        assert!(size > 100_000_000, "{size}");
    }
    assert!(peak(&front) - before < ALLOWED, "{} MiB more", (peak(&front) - before) >> 20);
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_the_server_back() {
    let front = front::with(&[]).await;
    let mut session = RawSession::log_in(front.port(), "app");
    session.query("SELECT 1 FROM numbers WHERE id = 1");
    let before = peak(&front);
    session.send(&say::query(LARGE));
    // Nobody reads, so in the end some node must wait to be rid of its rows.
    wait::until("a server waits for its client", || async {
        for node in front.cluster.nodes() {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND usename = 'app'";
            if node.ask(waiting).await != "0" {
                return true;
            }
        }
        false
    })
    .await;
    assert!(peak(&front) - before < ALLOWED, "{} MiB more", (peak(&front) - before) >> 20);
    let mut other = RawSession::log_in(front.port(), "app");
    assert_eq!(other.value("SELECT name FROM numbers WHERE id = 2"), "number 2", "others are served meanwhile");
    assert_eq!(count(&mut session, b'D').0, 10_000);
}

#[tokio::test]
async fn a_copy_in_of_100_mb_needs_little_memory() {
    let front = front::with(&[]).await;
    let session = front.connect("app").await;
    session.batch_execute("BEGIN; CREATE TEMP TABLE big (id int, filler text)").await.expect("a table");
    let before = peak(&front);
    let sink = session.copy_in("COPY big FROM STDIN").await.expect("COPY begins");
    pin_mut!(sink);
    let filler = "x".repeat(10_000);
    for id in 0..10_000 {
        sink.send(bytes::Bytes::from(format!("{id}\t{filler}\n"))).await.expect("a row is sent");
    }
    assert_eq!(sink.finish().await.expect("COPY ends"), 10_000);
    assert_eq!(session.value("SELECT sum(length(filler)) FROM big").await, "100000000");
    session.batch_execute("ROLLBACK").await.expect("the table goes");
    assert!(peak(&front) - before < ALLOWED, "{} MiB more", (peak(&front) - before) >> 20);
}

#[tokio::test]
async fn a_copy_in_waits_for_a_lock_without_filling_memory() {
    let front = front::with(&[]).await;
    let holder = front.connect("admin").await;
    holder.batch_execute("BEGIN; LOCK TABLE scribble").await.expect("a lock");
    let before = peak(&front);
    let port = front.port();
    // Says everything at once, as a client may that does not wait for CopyInResponse.
    let copier = std::thread::spawn(move || {
        let mut session = RawSession::log_in(port, "app");
        session.send(&say::query("COPY scribble (note) FROM STDIN"));
        let row = say::copy_data(format!("{}\n", "y".repeat(8000)).as_bytes());
        for _ in 0..5000 {
            session.send(&row);
        }
        session.send(&say::copy_done());
        session.read_until(b'Z')
    });
    wait::until("the copy waits for the lock", || async {
        front.cluster.primary.ask("SELECT count(*) FROM pg_locks WHERE NOT granted").await != "0"
    })
    .await;
    holder.batch_execute("COMMIT").await.expect("the lock goes");
    let answer: Vec<Message> = copier.join().expect("the copier is done");
    let done = answer.iter().find(|message| message.tag == b'C').unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!(done.body, b"COPY 5000\0");
    assert!(peak(&front) - before < ALLOWED, "{} MiB more", (peak(&front) - before) >> 20);
    holder.batch_execute("DELETE FROM scribble WHERE length(note) = 8000").await.expect("tidied up");
}

#[tokio::test]
async fn a_copy_out_may_be_read_by_a_driver() {
    let front = front::shared().await;
    let session = front.connect("app").await;
    let stream = session.copy_out("COPY (SELECT id FROM numbers ORDER BY id) TO STDOUT").await.expect("COPY begins");
    pin_mut!(stream);
    let mut text = Vec::new();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.expect("a chunk"));
    }
    let expected: String = (1..=1000).map(|id| format!("{id}\n")).collect();
    assert_eq!(String::from_utf8(text).expect("ASCII"), expected);
}

#[tokio::test]
async fn a_row_and_a_value_of_50_mb_pass() {
    let front = front::shared().await;
    let mut session = RawSession::log_in(front.port(), "app");
    let length = 50_000_000;
    assert_eq!(session.value(&format!("SELECT repeat('z', {length})")).len(), length);
    let value = vec![b'w'; length];
    session.send(
        &[
            say::parse("", "SELECT length($1)", &[25]),
            say::bind("", "", &[Some(&value)], &[]),
            say::execute("", 0),
            say::sync(),
        ]
        .concat(),
    );
    let row = session.read_until(b'Z').into_iter().find(|message| message.tag == b'D').expect("a row");
    assert_eq!(row.columns()[0].as_deref(), Some("50000000"));
}

/// A statement far longer than what pgweir parses still runs.
#[tokio::test]
async fn a_statement_of_10_mb_runs() {
    let front = front::shared().await;
    let mut session = RawSession::log_in(front.port(), "app");
    let sql = format!("SELECT length('{}')", "q".repeat(10_000_000));
    assert_eq!(session.value(&sql), "10000000");
}
