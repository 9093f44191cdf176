//! The cells that the data's way counts in, one set for each worker thread. Sessions call the methods of `WorkerCells`
//! and `AccountCells`; `Metrics` sums them when somebody scrapes.
//!
//! A cell has one writer: the worker's own thread. So an increment is a plain load and store, with no locked
//! instruction and no cache line that wanders between cores. Never hand a worker's cells to another thread to write:
//! nothing breaks, but counts get lost. No method here allocates, locks or reads a clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::labels::{CLASSES, FAULTS, PINS, REASONS, RETRIES};

/// Nodes with cells of their own; further ones share the last slot.
pub const NODES: usize = 32;

/// Pairs of database and user with cells of their own, for each worker; further ones share the pair `other`, `other`.
const ACCOUNTS: usize = 512;

/// Upper bounds of the buckets of every histogram, in microseconds: 1-2-5 from 50 µs to 10 s.
pub const BOUNDS: [u32; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

/// Cells of a histogram: its buckets, one for what is above all bounds, and the sum in microseconds.
pub const HISTOGRAM: usize = BOUNDS.len() + 2;

/// The counters without labels; each value is a cell's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    ClientsOpened,
    ClientsClosed,
    ClientsRefused,
    LoginFailures,
    BytesFromClients,
    BytesToClients,
    BytesFromServers,
    BytesToServers,
    VerdictHits,
    VerdictMisses,
    Parses,
    StatementsKept,
    StatementsClosed,
    ServerPrepares,
    AutoPrepared,
    CancelsDelivered,
    CancelsUnknown,
}

/// Where the blocks of cells begin in a worker's sheet.
pub(super) mod at {
    use super::*;

    const COUNTS: usize = Count::CancelsUnknown as usize + 1;
    pub const PINS_STARTED: usize = COUNTS;
    pub const PINS_ENDED: usize = PINS_STARTED + PINS.len();
    pub const RETRIES: usize = PINS_ENDED + PINS.len();
    pub const ERRORS: usize = RETRIES + super::RETRIES.len();
    pub const OWN_TRANSACTIONS: usize = ERRORS + FAULTS.len() * CLASSES.len();
    pub const OWN_STATEMENTS: usize = OWN_TRANSACTIONS + REASONS.len();
    pub const FLOOR_WAIT: usize = OWN_STATEMENTS + REASONS.len();
    pub const SHEET: usize = FLOOR_WAIT + HISTOGRAM;

    /// In a node's sheet, for each of the two roles that it may have had.
    pub const TRANSACTIONS: usize = 0;
    pub const STATEMENTS: usize = REASONS.len();
    pub const QUERY_TIME: usize = STATEMENTS + REASONS.len();
    pub const CHECKOUT_TIME: usize = QUERY_TIME + HISTOGRAM;
    pub const ROLE: usize = CHECKOUT_TIME + HISTOGRAM;
    pub const NODE_SHEET: usize = 2 * ROLE;
}

/// Where something ran. The number is the node's index in the configuration (`NodeId`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Primary(usize),
    Replica(usize),
    /// pgweir answered by itself: `SHOW pgweir.floor`, a transaction block in which nothing was sent to a node, …
    Pgweir,
}

/// A row of cells with one writer.
pub(super) struct Sheet(Box<[AtomicU64]>);

impl Sheet {
    fn new(cells: usize) -> Sheet {
        Sheet((0..cells).map(|_| AtomicU64::new(0)).collect())
    }

    fn add(&self, cell: usize, n: u64) {
        let cell = &self.0[cell];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn observe(&self, histogram: usize, time: Duration) {
        let micros = time.as_micros().min(u128::from(u64::MAX)) as u64;
        // Most times are short: from below.
        let bucket = BOUNDS.iter().position(|bound| micros <= u64::from(*bound)).unwrap_or(BOUNDS.len());
        self.add(histogram + bucket, 1);
        self.add(histogram + BOUNDS.len() + 1, micros);
    }

    /// Adds the cells to `sums`, which has as many.
    pub(super) fn sum_into(&self, sums: &mut [u64]) {
        for (sum, cell) in sums.iter_mut().zip(&self.0) {
            *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
        }
    }
}

/// What one worker thread counts. The listener's thread, which refuses clients, has a set of its own too.
pub struct WorkerCells {
    pub(super) sheet: Sheet,
    pub(super) nodes: Box<[Sheet]>,
    /// Locked at a login and at a scrape, never for a query.
    accounts: Mutex<BTreeMap<(String, String), Arc<AccountCells>>>,
}

impl Default for WorkerCells {
    fn default() -> WorkerCells {
        WorkerCells {
            sheet: Sheet::new(at::SHEET),
            nodes: (0..NODES).map(|_| Sheet::new(at::NODE_SHEET)).collect(),
            accounts: Mutex::default(),
        }
    }
}

impl WorkerCells {
    fn count(&self, count: Count, n: u64) {
        self.sheet.add(count as usize, n);
    }

    fn node(&self, node: usize) -> &Sheet {
        &self.nodes[node.min(NODES - 1)]
    }

    /// A socket was accepted.
    pub fn client_opened(&self) {
        self.count(Count::ClientsOpened, 1);
    }

    /// The end of what `client_opened` began, on the same worker.
    pub fn client_closed(&self) {
        self.count(Count::ClientsClosed, 1);
    }

    /// `n` sockets were turned away at `limits.clients`, instead of `client_opened`.
    pub fn clients_refused(&self, n: u64) {
        self.count(Count::ClientsRefused, n);
    }

    /// A login ended without a session: wrong password, unknown user, timeout, no database.
    pub fn login_failed(&self) {
        self.count(Count::LoginFailures, 1);
    }

    pub fn bytes_from_client(&self, n: usize) {
        self.count(Count::BytesFromClients, n as u64);
    }

    pub fn bytes_to_client(&self, n: usize) {
        self.count(Count::BytesToClients, n as u64);
    }

    pub fn bytes_from_server(&self, n: usize) {
        self.count(Count::BytesFromServers, n as u64);
    }

    pub fn bytes_to_server(&self, n: usize) {
        self.count(Count::BytesToServers, n as u64);
    }

    /// A transaction of `statements` was routed: once for each decision that was carried out, with its reason's label.
    pub fn transaction(&self, route: Route, reason: &str, statements: u64) {
        let reason = REASONS.index(reason);
        let (sheet, transactions, of_statements) = match route {
            Route::Primary(node) => (self.node(node), at::TRANSACTIONS, at::STATEMENTS),
            Route::Replica(node) => (self.node(node), at::ROLE + at::TRANSACTIONS, at::ROLE + at::STATEMENTS),
            Route::Pgweir => (&self.sheet, at::OWN_TRANSACTIONS, at::OWN_STATEMENTS),
        };
        sheet.add(transactions + reason, 1);
        sheet.add(of_statements + reason, statements);
    }

    /// From the last byte sent to the node to the ReadyForQuery that answers it.
    pub fn query_time(&self, route: Route, time: Duration) {
        self.timed(route, at::QUERY_TIME, time);
    }

    /// From asking the pool to having the server connection.
    pub fn checkout_time(&self, route: Route, time: Duration) {
        self.timed(route, at::CHECKOUT_TIME, time);
    }

    fn timed(&self, route: Route, histogram: usize, time: Duration) {
        match route {
            Route::Primary(node) => self.node(node).observe(histogram, time),
            Route::Replica(node) => self.node(node).observe(at::ROLE + histogram, time),
            Route::Pgweir => {}
        }
    }

    /// How long a read waited for a replica to reach its floor, whether one did or not.
    pub fn floor_wait(&self, time: Duration) {
        self.sheet.observe(at::FLOOR_WAIT, time);
    }

    /// A read runs again on another node; `reason` is one of `labels::RETRIES`.
    pub fn retry(&self, reason: &str) {
        self.sheet.add(at::RETRIES + RETRIES.index(reason), 1);
    }

    /// The client was sent an error; `fault` is one of `labels::FAULTS`.
    pub fn error(&self, fault: &str, sqlstate: &str) {
        let class = CLASSES.index(sqlstate.get(..2).unwrap_or(""));
        self.sheet.add(at::ERRORS + FAULTS.index(fault) * CLASSES.len() + class, 1);
    }

    /// `delta` more pins of this kind (`sql::Pin::label`); fewer if negative.
    pub fn pin_changed(&self, delta: i64, kind: &str) {
        let block = if delta > 0 { at::PINS_STARTED } else { at::PINS_ENDED };
        self.sheet.add(block + PINS.index(kind), delta.unsigned_abs());
    }

    /// What the worker's verdict cache counted since the last call.
    pub fn verdicts(&self, hits: u64, misses: u64, parses: u64) {
        self.count(Count::VerdictHits, hits);
        self.count(Count::VerdictMisses, misses);
        self.count(Count::Parses, parses);
    }

    /// Sessions hold `delta` more prepared statements; fewer if negative.
    pub fn session_statements_changed(&self, delta: i64) {
        let count = if delta > 0 { Count::StatementsKept } else { Count::StatementsClosed };
        self.count(count, delta.unsigned_abs());
    }

    /// `n` statements were prepared on a server connection.
    pub fn server_prepared(&self, n: u64) {
        self.count(Count::ServerPrepares, n);
    }

    /// For `n` unnamed Parses the server connection had a statement.
    pub fn auto_prepared(&self, n: u64) {
        self.count(Count::AutoPrepared, n);
    }

    /// A CancelRequest was passed to the node that works for the session.
    pub fn cancel_delivered(&self) {
        self.count(Count::CancelsDelivered, 1);
    }

    /// A CancelRequest named no session, or one that nothing worked for.
    pub fn cancel_ignored(&self) {
        self.count(Count::CancelsUnknown, 1);
    }

    /// The cells of a database and user on this worker. Call it after the login succeeded (an attacker's names must
    /// not fill the table), once, and keep the answer with the session.
    pub fn account(&self, database: &str, user: &str) -> Arc<AccountCells> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = (database.to_owned(), user.to_owned());
        if let Some(found) = accounts.get(&wanted) {
            return Arc::clone(found);
        }
        let key = if accounts.len() < ACCOUNTS { wanted } else { ("other".to_owned(), "other".to_owned()) };
        Arc::clone(accounts.entry(key).or_default())
    }

    /// The accounts as they are now; the lock is held no longer than it takes to clone the list.
    pub(super) fn accounts(&self) -> Vec<((String, String), Arc<AccountCells>)> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().map(|(key, cells)| (key.clone(), Arc::clone(cells))).collect()
    }
}

/// What a worker counts for one database and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum AccountCount {
    Opened,
    Closed,
    Transactions,
    Statements,
    QueryMicros,
    Errors,
}

/// Cells of an account.
pub(super) const ACCOUNT_CELLS: usize = AccountCount::Errors as usize + 1;

/// One database and user on one worker, found at login.
pub struct AccountCells(pub(super) Sheet);

impl Default for AccountCells {
    fn default() -> AccountCells {
        AccountCells(Sheet::new(ACCOUNT_CELLS))
    }
}

impl AccountCells {
    /// A session logged in.
    pub fn opened(&self) {
        self.0.add(AccountCount::Opened as usize, 1);
    }

    /// The end of what `opened` began.
    pub fn closed(&self) {
        self.0.add(AccountCount::Closed as usize, 1);
    }

    /// A transaction ended that ran so many statements, which kept a node busy for `time`.
    pub fn transaction(&self, statements: u64, time: Duration) {
        self.0.add(AccountCount::Transactions as usize, 1);
        self.0.add(AccountCount::Statements as usize, statements);
        self.0.add(AccountCount::QueryMicros as usize, time.as_micros().min(u128::from(u64::MAX)) as u64);
    }

    /// The client was sent an error.
    pub fn error(&self) {
        self.0.add(AccountCount::Errors as usize, 1);
    }
}
