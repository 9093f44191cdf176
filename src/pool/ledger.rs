//! What a pool keeps behind its mutex: the book of who holds and who waits, the counters, the back-off, the role that the
//! node is expected to have. `pool::Pool` locks it, asks, unlocks, and then does what the returned [`Sequel`] says.
//! Nothing here opens, closes, wakes or waits while the lock is held.

use std::task::Waker;
use std::time::Instant;

use crate::auth::Credentials;
use crate::cluster::Role;
use crate::config::PoolConfig;

use super::Align;
use super::backoff::Backoff;
use super::connection::ServerConnection;
use super::error::{CheckoutError, Scope};
use super::home::{Home, Renewals};
use super::queue::{Book, Ticket};
use super::stats::Counters;

pub(super) struct Ledger {
    pub book: Book<Box<ServerConnection>, CheckoutError>,
    pub counters: Counters,
    pub backoff: Backoff<CheckoutError>,
    /// What the cluster says the node is; connections are opened for, and checked against, this.
    pub role: Role,
    /// Sent at the opening of a connection to a replica.
    pub align: Align,
    /// Grows when all connections that exist are to be given up; those in use are closed at release.
    pub generation: u64,
    /// Grows when what a process begins with became another: connections of before are only for whom they are home.
    pub defaults: u64,
    /// From the latest login, so that a changed password is used as soon as a client proved it.
    pub credentials: Credentials,
    pub config: PoolConfig,
    pub renewals: Renewals,
    pub closed: bool,
}

/// What is to be done once the lock is free.
#[derive(Default)]
pub(super) struct Sequel {
    pub wake: Vec<Waker>,
    /// So many places were taken for connections that must be opened now.
    pub open: usize,
    pub close: Vec<Box<ServerConnection>>,
}

/// The answer to a checkout.
pub(super) enum Next {
    Take(Box<ServerConnection>),
    Wait { ticket: Ticket, since: Instant, sequel: Sequel },
    Fail(CheckoutError),
}

impl Ledger {
    /// The session's home, else an idle connection that is nobody's home, else a new one, else whichever is idle, one's own
    /// before another worker's, else the queue.
    pub fn next(&mut self, worker: usize, expected: Role, home: Option<u64>, node: &str) -> Next {
        if self.closed {
            return Next::Fail(CheckoutError::Shutdown);
        }
        if expected != self.role && expected != Role::Unknown && self.role != Role::Unknown {
            return Next::Fail(CheckoutError::WrongRole { node: node.to_owned(), expected, found: self.role });
        }
        if self.role == Role::Unknown {
            // Who asks has seen a newer view than we were told of.
            self.role = expected;
        }
        let defaults = self.defaults;
        let at_home = home.and_then(|home| self.book.take_home(worker, home));
        if let Some(connection) =
            at_home.or_else(|| self.book.take_own(worker, |idle| idle.is_vacant() && idle.defaults == defaults))
        {
            self.counters.at_once += 1;
            return Next::Take(connection);
        }
        let now = Instant::now();
        let resting = self.backoff.error(now);
        let may_open = resting.is_none() && self.book.total() < self.book.size;
        if !may_open
            && let Some(connection) = self.book.take_own(worker, |_| true).or_else(|| self.book.take_over(worker))
        {
            self.counters.at_once += 1;
            return Next::Take(connection);
        }
        if let Some(error) = resting
            && (self.book.total() == 0 || error.scope() == Scope::Everyone)
        {
            return Next::Fail(error.clone());
        }
        let mut sequel = Sequel::default();
        sequel.open = usize::from(may_open && self.book.start_opening());
        Next::Wait { ticket: self.book.enqueue(worker, now), since: now, sequel }
    }

    /// A connection in use that nobody needs any more: to a waiter, to the idle, or away. A session's home is lent only if
    /// there is nothing else to hope for.
    pub fn free(&mut self, connection: Box<ServerConnection>, now: Instant) -> Sequel {
        let mut sequel = Sequel::default();
        let old = connection.generation != self.generation
            || connection.expires <= now
            || connection.is_outdated(self.defaults);
        let spoiled = connection.state.spoiled || connection.cancel.is_uncertain();
        if old || spoiled || self.closed || connection.contradicts().is_some() || self.book.total() > self.book.size {
            self.book.forget();
            self.counters.closed += 1;
            sequel.close.push(connection);
            self.settle(&mut sequel);
        } else if connection.is_vacant() || self.book.lacks_openings() {
            sequel.wake.extend(self.book.give(connection.worker, connection.id.0, connection));
        } else {
            self.book.rest(connection.worker, connection.id.0, connection);
        }
        sequel
    }

    pub fn on_open(&mut self, connection: Box<ServerConnection>, now: Instant) -> Sequel {
        self.book.finish_opening();
        self.counters.opened += 1;
        self.backoff.reset();
        let mut sequel = self.free(connection, now);
        self.settle(&mut sequel);
        sequel
    }

    pub fn on_failure(&mut self, error: &CheckoutError, dice: u32) -> Sequel {
        let mut sequel = Sequel::default();
        self.book.abandon_opening();
        self.counters.errors += 1;
        self.backoff.on_failure(Instant::now(), dice, error.clone());
        match error.scope() {
            Scope::Everyone => sequel.wake.extend(self.book.fail_all(|| error.clone())),
            Scope::Oldest => sequel.wake.extend(self.book.fail_oldest(error.clone())),
            Scope::Nobody => {}
        }
        self.settle(&mut sequel);
        sequel
    }

    /// A connection in use is gone.
    pub fn on_loss(&mut self) -> Sequel {
        let mut sequel = Sequel::default();
        self.book.forget();
        self.counters.closed += 1;
        self.settle(&mut sequel);
        sequel
    }

    /// Gives up all connections that exist: the idle ones now, those in use when they are released.
    pub fn retire(&mut self) -> Sequel {
        self.generation += 1;
        let close = self.book.drain_idle();
        self.counters.closed += close.len() as u64;
        Sequel { close, ..Sequel::default() }
    }

    /// Closes the idle connections that are nobody's home; the others follow when their sessions leave them.
    pub fn outdate(&mut self) -> Sequel {
        self.defaults += 1;
        let mut sequel = Sequel { close: self.book.take_all_idle_if(|idle| idle.is_vacant()), ..Sequel::default() };
        self.counters.closed += sequel.close.len() as u64;
        sequel.close.iter().for_each(|_| self.book.forget());
        self.settle(&mut sequel);
        sequel
    }

    /// Whoever waits must have a reason to hope: an opening, an idle connection, or a release to come. An opening comes first,
    /// as in `next`: what is idle while somebody waits is a session's home.
    pub fn settle(&mut self, sequel: &mut Sequel) {
        let resting = self.backoff.error(Instant::now()).cloned();
        while !self.closed && resting.is_none() && self.book.lacks_openings() && self.book.start_opening() {
            sequel.open += 1;
        }
        while self.book.lacks_openings()
            && let Some(waker) = self.book.serve_from_idle()
        {
            sequel.wake.push(waker);
        }
        if self.book.waiting() == 0 {
            return;
        }
        if self.closed {
            sequel.wake.extend(self.book.fail_all(|| CheckoutError::Shutdown));
        } else if let Some(error) = resting.filter(|_| self.book.total() == 0) {
            sequel.wake.extend(self.book.fail_all(|| error.clone()));
        }
    }

    /// Takes out of a worker's idle connections what is too old, and what has something to say (the second list).
    pub fn sweep(&mut self, worker: usize, now: Instant) -> (Sequel, Vec<Box<ServerConnection>>) {
        let mut surplus = self.book.total().saturating_sub(self.config.min_idle);
        let (idle_timeout, defaults) = (self.config.idle_timeout, self.defaults);
        let close = self.book.take_idle_if(worker, |connection| {
            let unused = now.saturating_duration_since(connection.idle_since) >= idle_timeout && surplus > 0;
            surplus -= usize::from(unused);
            unused || connection.expires <= now || connection.is_outdated(defaults)
        });
        self.counters.closed += close.len() as u64;
        close.iter().for_each(|_| self.book.forget());
        let talking = self.book.take_idle_if(worker, |connection| connection.stream.has_input());
        let mut sequel = Sequel { close, ..Sequel::default() };
        self.settle(&mut sequel);
        (sequel, talking)
    }

    /// Nobody gets a connection now without waiting for another session. What is being opened is for those who wait.
    pub fn is_exhausted(&self, now: Instant) -> bool {
        let may_open = self.book.total() < self.book.size && self.backoff.error(now).is_none();
        self.book.idle() == 0 && self.book.opening() <= self.book.waiting() && !may_open
    }

    /// A session ended: its home is closed if the session has marked it.
    pub fn leave(&mut self, worker: usize, home: &Home, now: Instant) -> Sequel {
        let mut sequel = Sequel::default();
        let defaults = self.defaults;
        let own = |idle: &ServerConnection| {
            (idle.state.worn || idle.defaults != defaults)
                && idle.resident.as_ref().is_some_and(|resident| resident.is(home))
        };
        if let Some(connection) = self.book.take_own(worker, |idle| own(idle)) {
            if connection.defaults != defaults || self.renewals.spend(&self.config, now) {
                self.book.forget();
                self.counters.closed += 1;
                sequel.close.push(connection);
                self.settle(&mut sequel);
            } else {
                return self.free(connection, now);
            }
        }
        sequel
    }

    /// Keeps `min_idle` connections open.
    pub fn fill_up(&mut self, now: Instant) -> Sequel {
        let mut sequel = Sequel::default();
        let may_open = !self.closed && self.backoff.error(now).is_none();
        while may_open && self.book.total() < self.config.min_idle && self.book.start_opening() {
            sequel.open += 1;
        }
        sequel
    }
}
