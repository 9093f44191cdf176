//! One pool: the connections of one user to one database on one node, shared by all workers. Sessions check out and
//! release (see `lease`); the pool opens on the worker that asked, and keeps a short lock that is never held across an
//! await.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::auth::Credentials;
use crate::cluster::{NodeId, Role};
use crate::config::PoolConfig;
use crate::worker::Worker;

use super::backoff::Backoff;
use super::connection::{self, ConnectionId, Endpoint, Opening, ServerConnection};
use super::error::CheckoutError;
use super::home::{Home, Renewals};
use super::idle::{self, Heard};
use super::lease::{Lease, Waiter};
use super::ledger::{Ledger, Next, Sequel};
use super::login::ServerStartup;
use super::queue::Book;
use super::stats::{Counters, PoolStats};
use super::{Align, Shared};

/// See the file's head.
pub struct Pool {
    pub node: NodeId,
    pub database: String,
    pub user: String,
    pub(super) endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    ledger: Mutex<Ledger>,
}

/// What a checkout gives.
pub enum Checkout {
    Ready(Lease),
    Wait(Waiter),
}

impl Pool {
    pub(super) fn new(
        (endpoint, database, user): (Arc<Endpoint>, &str, &str),
        (credentials, role, align): (Credentials, Role, Align),
        config: PoolConfig,
        shared: Arc<Shared>,
    ) -> Arc<Pool> {
        let ledger = Ledger {
            book: Book::new(config.size, shared.workers),
            counters: Counters::default(),
            backoff: Backoff::default(),
            role,
            align,
            generation: 0,
            defaults: 0,
            credentials,
            config,
            renewals: Renewals::default(),
            closed: false,
        };
        let (database, user) = (database.to_owned(), user.to_owned());
        Arc::new(Pool { node: endpoint.id, database, user, endpoint, shared, ledger: Mutex::new(ledger) })
    }

    /// For people and for error 53300: `database/user@node`.
    pub fn name(&self) -> String {
        format!("{}/{}@{}", self.database, self.user, self.endpoint.name)
    }

    /// A connection to a node that is `expected` (`Unknown`: whatever it is). `home` is the connection that the session
    /// used last, and is preferred if it is idle here. Nobody waits longer than `deadline`.
    pub fn checkout(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        expected: Role,
        home: Option<ConnectionId>,
        deadline: Instant,
    ) -> Checkout {
        loop {
            let next = self.lock().next(worker.id.0, expected, home.map(|id| id.0), &self.endpoint.name);
            match next {
                Next::Take(connection) => {
                    if let Some(connection) = self.receive(connection, worker) {
                        return Checkout::Ready(Lease::new(Arc::clone(self), Rc::clone(worker), connection));
                    }
                }
                Next::Wait { ticket, since, sequel } => {
                    self.follow(sequel, worker);
                    let waiter = Waiter::new((Arc::clone(self), Rc::clone(worker)), ticket, (since, deadline));
                    return Checkout::Wait(waiter.expecting(expected));
                }
                Next::Fail(error) => {
                    let failed = Waiter::failed(Arc::clone(self), Rc::clone(worker), error, deadline);
                    return Checkout::Wait(failed);
                }
            }
        }
    }

    /// Makes a connection fit for use on this worker: registered here, and not spoiled while it was idle. `None`: it was
    /// closed, try again.
    pub(super) fn receive(
        self: &Arc<Self>,
        mut connection: Box<ServerConnection>,
        worker: &Rc<Worker>,
    ) -> Option<Box<ServerConnection>> {
        let moves = connection.worker != worker.id.0;
        if moves {
            let ServerConnection { stream, .. } = *connection;
            match stream.rehome() {
                Ok(stream) => connection.stream = stream,
                Err(error) => {
                    tracing::warn!(pool = self.name(), %error, "a connection could not change its worker");
                    self.lose(worker);
                    return None;
                }
            }
            connection.worker = worker.id.0;
            self.lock().counters.takeovers += 1;
        }
        self.is_usable(&mut connection, worker).then_some(connection).or_else(|| {
            self.lose(worker);
            None
        })
    }

    /// Looks at what the node said meanwhile, if anything.
    fn is_usable(&self, connection: &mut ServerConnection, worker: &Worker) -> bool {
        if !connection.stream.has_input() {
            return true;
        }
        let mut scratch = worker.take_scratch();
        let heard = idle::listen(connection, &mut scratch);
        let usable = heard == Heard::Nothing;
        if let (Heard::Ended(words), false) = (heard, connection.is_vacant()) {
            (self.shared.report_end)(connection, words);
        }
        worker.put_scratch(scratch);
        if !usable {
            (self.shared.report_failure)(self.node);
        }
        usable
    }

    /// Takes back a connection in use that is clean.
    pub(super) fn put_back(self: &Arc<Self>, mut connection: Box<ServerConnection>, worker: &Rc<Worker>) {
        let now = worker.coarse_now();
        connection.idle_since = now;
        let sequel = self.lock().free(connection, now);
        self.follow(sequel, worker);
    }

    /// A connection in use is gone.
    pub(super) fn lose(self: &Arc<Self>, worker: &Rc<Worker>) {
        let sequel = self.lock().on_loss();
        self.follow(sequel, worker);
    }

    /// On each worker, about every second: closes what is old or dead, opens what `min_idle` asks for.
    pub(super) fn tick(self: &Arc<Self>, worker: &Rc<Worker>, now: Instant) {
        let (sequel, talking) = self.lock().sweep(worker.id.0, now);
        self.follow(sequel, worker);
        for mut connection in talking {
            if self.is_usable(&mut connection, worker) {
                let sequel = self.lock().free(connection, now);
                self.follow(sequel, worker);
            } else {
                self.lose(worker);
            }
        }
        let sequel = self.lock().fill_up(now);
        self.follow(sequel, worker);
    }

    /// The cluster says what the node is now. Connections that were opened for another role are given up, and so is
    /// waiting for one.
    pub(super) fn set_role(&self, role: Role) {
        let mut ledger = self.lock();
        if ledger.role == role {
            return;
        }
        let (node, expected) = (self.endpoint.name.clone(), ledger.role);
        ledger.role = role;
        ledger.backoff.reset();
        let mut sequel = ledger.retire();
        let changed = CheckoutError::WrongRole { node, expected, found: role };
        sequel.wake = ledger.book.fail_all(|| changed.clone());
        drop(ledger);
        sequel.close_and_wake();
    }

    /// See [`super::Pools::set_align`].
    pub(super) fn set_align(&self, align: &Align) {
        let mut ledger = self.lock();
        ledger.align = Arc::clone(align);
        let sequel = ledger.retire();
        drop(ledger);
        sequel.close_and_wake();
    }

    /// Idle connections are closed now, those in use at release. Nobody waits while something is idle, so nothing needs
    /// to be opened instead.
    pub fn retire(&self) {
        let sequel = self.lock().retire();
        sequel.close_and_wake();
    }

    /// See [`super::Pools::outdate`].
    pub(super) fn outdate(&self) {
        let sequel = self.lock().outdate();
        sequel.close_and_wake();
    }

    /// No more checkouts; whoever waits is told [`CheckoutError::Shutdown`].
    pub(super) fn close(&self) {
        let mut ledger = self.lock();
        ledger.closed = true;
        let mut sequel = ledger.retire();
        ledger.settle(&mut sequel);
        drop(ledger);
        sequel.close_and_wake();
    }

    /// Nobody gets a connection now without waiting for another session.
    pub fn is_exhausted(&self) -> bool {
        self.lock().is_exhausted(Instant::now())
    }

    /// A session ended whose home may be here, idle.
    pub fn leave(self: &Arc<Self>, worker: &Rc<Worker>, home: &Home) {
        let sequel = self.lock().leave(worker.id.0, home, worker.coarse_now());
        self.follow(sequel, worker);
    }

    /// Whether a process that a session has marked is to be closed rather than cleaned for the next session.
    pub fn may_renew(&self) -> bool {
        let ledger = &mut *self.lock();
        ledger.renewals.spend(&ledger.config, Instant::now())
    }

    pub(super) fn renew(&self, credentials: &Credentials) {
        let mut ledger = self.lock();
        ledger.credentials = credentials.clone();
        let refused = ledger.backoff.error(Instant::now()).is_some_and(CheckoutError::is_about_credentials);
        if refused {
            ledger.backoff.reset();
        }
    }

    pub(super) fn reconfigure(&self, config: PoolConfig) {
        let mut ledger = self.lock();
        ledger.book.size = config.size;
        ledger.config = config;
    }

    pub fn stats(&self) -> PoolStats {
        let now = Instant::now();
        let ledger = self.lock();
        PoolStats {
            node: self.node,
            node_name: self.endpoint.name.clone(),
            database: self.database.clone(),
            user: self.user.clone(),
            role: ledger.role,
            size: ledger.book.size,
            in_use: ledger.book.in_use(),
            idle: ledger.book.idle(),
            opening: ledger.book.opening(),
            waiting: ledger.book.waiting(),
            oldest_wait: ledger.book.oldest_wait().map(|since| now.saturating_duration_since(since)),
            resting: ledger.backoff.error(now).map(ToString::to_string),
            counters: ledger.counters.clone(),
        }
    }

    /// A panic elsewhere leaves the book as consistent as each of its methods does: go on.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn follow(self: &Arc<Self>, mut sequel: Sequel, worker: &Rc<Worker>) {
        for _ in 0..std::mem::take(&mut sequel.open) {
            self.open(worker);
        }
        sequel.close_and_wake();
    }

    /// Opens a connection in a task of this worker; a place was taken for it.
    fn open(self: &Arc<Self>, worker: &Rc<Worker>) {
        let place = OpeningPlace { pool: Arc::clone(self), worker: Rc::clone(worker), taken: true };
        let opening = self.describe_opening(worker);
        worker.spawn(async move {
            let result = connection::open(&place.pool.endpoint, opening).await;
            place.finish(result);
        });
    }

    fn describe_opening(&self, worker: &Worker) -> Opening {
        let ledger = self.lock();
        let mut parameters = self.shared.parameters.clone();
        if ledger.role == Role::Replica {
            parameters.extend_from_slice(&ledger.align);
            // Survives RESET ALL, and holds even when the node is promoted under this connection.
            parameters.push(("default_transaction_read_only".to_owned(), "on".to_owned()));
        }
        let lifetime = ledger.config.max_lifetime;
        let earlier = lifetime.mul_f64(f64::from(worker.dice().0) / f64::from(u32::MAX) / 10.0);
        Opening {
            id: ConnectionId(self.shared.connections.fetch_add(1, Ordering::Relaxed)),
            role: ledger.role,
            generation: ledger.generation,
            defaults: ledger.defaults,
            worker: worker.id.0,
            expires: Instant::now() + lifetime - earlier,
            timeout: ledger.config.connect_timeout,
            startup: ServerStartup { user: self.user.clone(), database: self.database.clone(), parameters },
            credentials: ledger.credentials.clone(),
        }
    }
}

impl Sequel {
    fn close_and_wake(self) {
        self.close.into_iter().for_each(ServerConnection::terminate);
        self.wake.into_iter().for_each(std::task::Waker::wake);
    }
}

/// The place of a connection that is being opened. A worker that stops drops its tasks, and the place must not be lost
/// to the other workers then.
struct OpeningPlace {
    pool: Arc<Pool>,
    worker: Rc<Worker>,
    taken: bool,
}

impl OpeningPlace {
    fn finish(mut self, result: Result<Box<ServerConnection>, CheckoutError>) {
        self.taken = false;
        let (pool, worker) = (Arc::clone(&self.pool), Rc::clone(&self.worker));
        let sequel = match result {
            Ok(connection) => pool.lock().on_open(connection, Instant::now()),
            Err(error) => {
                tracing::warn!(pool = pool.name(), %error, "a server connection could not be opened");
                if error.is_news_of_the_node() {
                    (pool.shared.report_failure)(pool.node);
                }
                pool.lock().on_failure(&error, worker.dice().0)
            }
        };
        pool.follow(sequel, &worker);
    }
}

impl Drop for OpeningPlace {
    fn drop(&mut self) {
        if self.taken {
            self.pool.lock().book.abandon_opening();
        }
    }
}
