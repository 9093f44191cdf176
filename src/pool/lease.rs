//! A server connection in the hands of one session, and a session's place in the queue for one.
//!
//! Release is spoken: `lease.release()` says that the connection is clean. A lease that is dropped otherwise closes its
//! socket, so a forgotten path costs a connection and never leaks one client's state to another.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::cluster::Role;
use crate::timers::Timer;
use crate::worker::Worker;

use super::checkout::{Checkout, Pool};
use super::connection::ServerConnection;
use super::error::CheckoutError;
use super::queue::{Grant, Ticket};

/// See the file's head.
pub struct Lease {
    /// Taken by `release` and by `drop`, and by nothing else.
    connection: Option<Box<ServerConnection>>,
    pool: Arc<Pool>,
    worker: Rc<Worker>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, worker: Rc<Worker>, connection: Box<ServerConnection>) -> Lease {
        Lease { connection: Some(connection), pool, worker }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The connection is between transactions and nothing is owed on it: the next session may have it. While a cancel is
    /// on its way to it, it waits; the cancel would hit the next session's statement.
    pub fn release(mut self) {
        let Some(connection) = self.connection.take() else { return };
        if !connection.cancel.is_under_way() {
            return self.pool.put_back(connection, &self.worker);
        }
        let lease = Lease::new(Arc::clone(&self.pool), Rc::clone(&self.worker), connection);
        self.worker.spawn(async move {
            // Each cancel has its own time limit, after which the connection counts as uncertain and is closed.
            lease.cancel.settled().await;
            lease.release();
        });
    }
}

impl Deref for Lease {
    type Target = ServerConnection;

    fn deref(&self) -> &ServerConnection {
        self.connection.as_deref().expect("only release and drop take the connection, and both end the lease")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ServerConnection {
        self.connection.as_deref_mut().expect("only release and drop take the connection, and both end the lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection);
            self.pool.lose(&self.worker);
        }
    }
}

/// A place in the queue; dropping it leaves. A future: await it, or poll it beside other things.
pub struct Waiter {
    pool: Arc<Pool>,
    worker: Rc<Worker>,
    expected: Role,
    place: Place,
    since: Instant,
    deadline: Instant,
    timer: Option<Timer>,
}

enum Place {
    Queued(Ticket),
    /// The checkout failed at once.
    Failed(CheckoutError),
    /// The result was handed out.
    Left,
}

impl Waiter {
    pub(super) fn new(
        (pool, worker): (Arc<Pool>, Rc<Worker>),
        ticket: Ticket,
        (since, deadline): (Instant, Instant),
    ) -> Waiter {
        let place = Place::Queued(ticket);
        Waiter { pool, worker, expected: Role::Unknown, place, since, deadline, timer: None }
    }

    pub(super) fn expecting(mut self, expected: Role) -> Waiter {
        self.expected = expected;
        self
    }

    pub(super) fn failed(pool: Arc<Pool>, worker: Rc<Worker>, error: CheckoutError, deadline: Instant) -> Waiter {
        let place = Place::Failed(error);
        Waiter { pool, worker, expected: Role::Unknown, place, since: deadline, deadline, timer: None }
    }

    /// Ready once; must not be polled again after that.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Lease, CheckoutError>> {
        loop {
            let ticket = match std::mem::replace(&mut self.place, Place::Left) {
                Place::Queued(ticket) => ticket,
                Place::Failed(error) => return Poll::Ready(Err(error)),
                Place::Left => return Poll::Pending,
            };
            let Some(grant) = self.look(ticket, cx) else {
                self.place = Place::Queued(ticket);
                return self.wait(cx);
            };
            match grant {
                Grant::Failed(error) => return Poll::Ready(Err(error)),
                Grant::Connection(connection) => {
                    if let Some(lease) = self.accept(connection) {
                        return Poll::Ready(Ok(lease));
                    }
                }
            }
        }
    }

    /// What was granted; if nothing, leaves our waker, or the queue when the time is over.
    fn look(&mut self, ticket: Ticket, cx: &Context<'_>) -> Option<Grant<Box<ServerConnection>, CheckoutError>> {
        let mut ledger = self.pool.lock();
        if let Some(grant) = ledger.book.take_grant(ticket) {
            return Some(grant);
        }
        if Instant::now() >= self.deadline {
            ledger.book.withdraw(ticket);
            ledger.counters.timeouts += 1;
            return Some(Grant::Failed(CheckoutError::Timeout { pool: self.pool.name() }));
        }
        ledger.book.set_waker(ticket, cx.waker());
        None
    }

    fn wait(&mut self, cx: &Context<'_>) -> Poll<Result<Lease, CheckoutError>> {
        match &self.timer {
            Some(timer) => timer.set_waker(cx.waker()),
            None => self.timer = Some(self.worker.timers.wake_at(self.deadline, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// `None`: the connection turned out to be dead, and we stand in the queue again.
    fn accept(&mut self, connection: Box<ServerConnection>) -> Option<Lease> {
        let lease = match self.pool.receive(connection, &self.worker) {
            Some(connection) => Lease::new(Arc::clone(&self.pool), Rc::clone(&self.worker), connection),
            None => match self.pool.checkout(&self.worker, self.expected, None, self.deadline) {
                Checkout::Ready(lease) => lease,
                Checkout::Wait(mut again) => {
                    self.place = std::mem::replace(&mut again.place, Place::Left);
                    return None;
                }
            },
        };
        self.pool.lock().counters.on_wait(self.since.elapsed());
        Some(lease)
    }
}

impl Future for Waiter {
    type Output = Result<Lease, CheckoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Waiter::poll(&mut self, cx)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Place::Queued(ticket) = self.place else { return };
        let grant = self.pool.lock().book.withdraw(ticket);
        if let Some(Grant::Connection(connection)) = grant {
            self.pool.put_back(connection, &self.worker);
        }
    }
}
