//! What a session waits for: its client, its server connection, a place in a pool, a replica that catches up, the clock.
//! One poll for all, so that an idle session is one registered socket and nothing else. Called by the loop in `run` only.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::cancel::Ended;
use super::run::{ClientSide, Session};
use crate::cluster::Change;
use crate::pool::{CheckoutError, Lease};
use crate::stream::Stream;
use crate::worker::timers::Timer;

/// More than this unsent to one side stops reading from the other.
const BACK_PRESSURE: usize = 64 << 10;

/// Unread client bytes that a session keeps while a reply is owed; more waits in the socket.
const READ_AHEAD: usize = 64 << 10;

/// What happened.
pub(super) enum Event {
    /// So many bytes are in the scratch buffer; 0 is the end.
    Client(Box<[u8]>, usize),
    Server(Box<[u8]>, usize),
    ClientLost,
    ServerLost,
    /// An administrator ended the server process that the session takes for its own, while it was not in use.
    Ended(Box<Ended>),
    /// Somebody asks for the statement at work to be cancelled.
    Cancel,
    Lease(Result<Lease, CheckoutError>),
    /// Something that the unit waits for may have come true.
    Again,
    /// A replica has been silent for too long.
    Stalled,
    Shutdown,
}

/// A unit waits for a replica or a primary.
pub(super) struct Waiting {
    pub since: Instant,
    pub change: Change,
    /// `Cluster::publications()` before it was decided to wait.
    pub seen: u64,
    pub longest: Duration,
    /// The clock alone may make it worth looking again.
    pub look_again: Option<Instant>,
    pub timer: Option<Timer>,
}

impl Session {
    /// Waits for one event, writing what is unsent meanwhile.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(lost) = self.poll_unsent(cx) {
            return Poll::Ready(lost);
        }
        if !self.machine.is_in_message()
            && let Some(ended) = self.ended()
        {
            return Poll::Ready(Event::Ended(ended));
        }
        if self.is_cancelled(cx) {
            return Poll::Ready(Event::Cancel);
        }
        if let Some(queued) = self.waiter.as_deref_mut()
            && let Poll::Ready(result) = queued.waiter.poll(cx)
        {
            return Poll::Ready(Event::Lease(result));
        }
        if self.bytes.client_out.len() < BACK_PRESSURE
            && let Some(lease) = &mut self.lease
        {
            match read(&self.worker, &mut lease.stream, cx) {
                Poll::Ready(Ok((scratch, n))) => return Poll::Ready(Event::Server(scratch, n)),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::ServerLost),
                Poll::Pending => {}
            }
        }
        if self.wants_client() {
            match read(&self.worker, &mut self.client, cx) {
                Poll::Ready(Ok((scratch, n))) => return Poll::Ready(Event::Client(scratch, n)),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientLost),
                Poll::Pending => {}
            }
        }
        if self.poll_stall(cx) {
            return Poll::Ready(Event::Stalled);
        }
        self.poll_waiting(cx)
    }

    fn wants_client(&self) -> bool {
        let limit = if self.reading_unit { self.rules.held_request + READ_AHEAD } else { READ_AHEAD };
        self.client_side.is_open() && self.bytes.server_out.len() < BACK_PRESSURE && self.bytes.inbox.len() < limit
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if self.bytes.is_none() {
            return None;
        }
        if let Some(lease) = &mut self.lease
            && write(&mut lease.stream, &mut self.bytes.server_out, cx).is_err()
        {
            // The node may have said why before it closed; reading finds that, or the end.
            self.bytes.server_out.clear();
        }
        if write(&mut self.client, &mut self.bytes.client_out, cx).is_err() {
            return Some(Event::ClientLost);
        }
        None
    }

    /// A unit that waits for a replica or a primary is decided anew at every change, and when its time is up.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let ClientSide::Closed(farewell) = &mut self.client_side {
            if Instant::now() >= farewell.until {
                return Poll::Ready(Event::ClientLost);
            }
            farewell.timer = Some(self.worker.timers.wake_at(farewell.until, cx.waker().clone()));
        }
        if self.worker.draining() && self.machine.is_idle() && self.bytes.inbox.is_empty() {
            return Poll::Ready(Event::Shutdown);
        }
        // Who stands in a pool's queue has been decided; the pool wakes it.
        let Some(waiting) = self.waiting.as_mut().filter(|_| self.waiter.is_none()) else {
            return Poll::Pending;
        };
        if waiting.timer.is_some() {
            // Woken after having registered: whatever it was, look again.
            waiting.timer = None;
            return Poll::Ready(Event::Again);
        }
        if self.shared.cluster.wake_on_change(waiting.change, waiting.seen, cx.waker()) {
            waiting.seen = self.shared.cluster.publications();
            return Poll::Ready(Event::Again);
        }
        let until = waiting.look_again.unwrap_or(Instant::now() + waiting.longest);
        waiting.timer = Some(self.worker.timers.wake_at(until, cx.waker().clone()));
        Poll::Pending
    }

    /// The unit is decided anew when this changes that was not known when so much was published, or after so long.
    pub(super) fn await_change(&mut self, change: Change, seen: u64, longest: Duration, look_again: Option<Instant>) {
        self.shared.cluster.want(change);
        let since = self.waiting.as_ref().map_or_else(Instant::now, |waiting| waiting.since);
        self.waiting = Some(Box::new(Waiting { since, change, seen, longest, look_again, timer: None }));
    }

    /// The same at whatever is published next.
    pub(super) fn await_anything(&mut self, longest: Duration, look_again: Option<Instant>) {
        self.await_change(Change::Anything, self.shared.cluster.publications(), longest, look_again);
    }

    /// Whatever the unit waited for has come, or is waited for no more.
    pub(super) fn end_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.worker.metrics.floor_wait(waiting.since.elapsed());
        }
    }
}

fn read(
    worker: &crate::worker::Worker,
    stream: &mut Stream,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(Box<[u8]>, usize)>> {
    let mut scratch = worker.take_scratch();
    match stream.poll_read_into(cx, &mut scratch) {
        Poll::Ready(Ok(n)) => Poll::Ready(Ok((scratch, n))),
        Poll::Ready(Err(error)) => {
            worker.put_scratch(scratch);
            Poll::Ready(Err(error))
        }
        Poll::Pending => {
            worker.put_scratch(scratch);
            Poll::Pending
        }
    }
}

/// Writes what fits of `unsent`.
fn write(stream: &mut Stream, unsent: &mut Vec<u8>, cx: &mut Context<'_>) -> io::Result<()> {
    let mut sent = 0;
    while sent < unsent.len() {
        match stream.poll_write_from(cx, &unsent[sent..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => sent += n,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    if sent == unsent.len() {
        unsent.clear();
        unsent.shrink_to(4096);
    } else {
        unsent.drain(..sent);
    }
    match stream.poll_flush_out(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}
