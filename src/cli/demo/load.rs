//! The demo's load: a few clients that mostly read and sometimes write through pgweir, and read back at once what they
//! wrote. It counts; `live` prints. It must believe nothing but what it wrote itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

/// What the clients saw, all together.
#[derive(Default)]
pub struct Tally {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    /// Reads back that did not show the client's own write.
    pub stale: AtomicU64,
    pub errors: AtomicU64,
}

/// One client until it is aborted. It reconnects after an error, as an application would.
pub async fn run(url: String, client: u16, tally: Arc<Tally>) {
    loop {
        if let Ok((session, connection)) = tokio_postgres::connect(&url, NoTls).await {
            let connection = tokio::spawn(connection);
            let _ = work(&session, i32::from(client), &tally).await;
            connection.abort();
        }
        tally.errors.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Nine reads of anything, then a write of an own row and its reading back; a short breath between, so that the demo
/// leaves the machine to its owner.
async fn work(session: &Client, client: i32, tally: &Tally) -> Result<(), tokio_postgres::Error> {
    let read = session.prepare("SELECT owner, balance FROM accounts WHERE id = $1").await?;
    let write = session.prepare("UPDATE accounts SET balance = balance + 1 WHERE id = $1 RETURNING balance").await?;
    let own = client + 1;
    let mut other = own;
    loop {
        for _ in 0..9 {
            other = (other * 7919 + 13) % 10_000;
            session.query(&read, &[&(other + 1)]).await?;
            tally.reads.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let written: i64 = session.query_one(&write, &[&own]).await?.get(0);
        tally.writes.fetch_add(1, Ordering::Relaxed);
        let found: i64 = session.query_one(&read, &[&own]).await?.get(1);
        tally.reads.fetch_add(1, Ordering::Relaxed);
        if found != written {
            tally.stale.fetch_add(1, Ordering::Relaxed);
        }
    }
}
