//! Pure: the book of one pool: which connections are idle on which worker, who waits, and who is served next.
//! `pool::Pool` keeps it behind a short mutex. It opens and closes nothing; it says what became of what.
//!
//! Each connection is in exactly one of these places: idle (a worker's stack), in use (a lease or a grant that nobody
//! took yet), or opening. Their sum never exceeds the pool's size.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::{Duration, Instant};

/// A worker's own waiter is served first, unless another worker's has waited so much longer: a connection that changes
/// its worker costs system calls, a waiter that starves costs a client.
const PATIENCE: Duration = Duration::from_millis(1);

/// Where a waiter stands: its worker's queue, and its number in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub worker: usize,
    number: u64,
}

/// What a waiter got.
#[derive(Debug)]
pub enum Grant<C, E> {
    Connection(C),
    Failed(E),
}

/// One who waits.
struct Waiting {
    number: u64,
    since: Instant,
    waker: Waker,
}

/// See the file's head. `C` is a connection, `E` what a waiter may get instead.
pub struct Book<C, E> {
    pub size: usize,
    /// Last in, first out: the warmest connection is used, the coldest may reach its idle timeout.
    idle: Vec<Vec<(u64, C)>>,
    /// First in, first out, one for each worker.
    queues: Vec<VecDeque<Waiting>>,
    /// Between being granted and the waiter's next poll; whoever leaves in this moment must give it back.
    granted: HashMap<u64, Grant<C, E>, foldhash::fast::RandomState>,
    in_use: usize,
    opening: usize,
    arrivals: u64,
}

impl<C, E> Book<C, E> {
    pub fn new(size: usize, workers: usize) -> Book<C, E> {
        Book {
            size,
            idle: (0..workers).map(|_| Vec::new()).collect(),
            queues: (0..workers).map(|_| VecDeque::new()).collect(),
            granted: HashMap::default(),
            in_use: 0,
            opening: 0,
            arrivals: 0,
        }
    }

    pub fn in_use(&self) -> usize {
        self.in_use
    }

    pub fn opening(&self) -> usize {
        self.opening
    }

    pub fn idle(&self) -> usize {
        self.idle.iter().map(Vec::len).sum()
    }

    pub fn waiting(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub fn total(&self) -> usize {
        self.in_use + self.opening + self.idle()
    }

    pub fn oldest_wait(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|waiting| waiting.since).min()
    }

    /// One of the worker's own idle connections.
    pub fn take_home(&mut self, worker: usize, home: u64) -> Option<C> {
        let at = self.idle[worker].iter().rposition(|(id, _)| *id == home)?;
        self.take(worker, at)
    }

    /// The warmest of the worker's own idle connections for which `suits`.
    pub fn take_own(&mut self, worker: usize, suits: impl Fn(&C) -> bool) -> Option<C> {
        let at = self.idle[worker].iter().rposition(|(_, connection)| suits(connection))?;
        self.take(worker, at)
    }

    fn take(&mut self, worker: usize, at: usize) -> Option<C> {
        let (_, connection) = self.idle[worker].remove(at);
        self.in_use += 1;
        Some(connection)
    }

    /// The coldest idle connection of the worker that has most of them.
    pub fn take_over(&mut self, worker: usize) -> Option<C> {
        let others = self.idle.iter_mut().enumerate().filter(|(other, stack)| *other != worker && !stack.is_empty());
        let (_, stack) = others.max_by_key(|(_, stack)| stack.len())?;
        let (_, connection) = stack.remove(0);
        self.in_use += 1;
        Some(connection)
    }

    /// Takes a place for a connection that is about to be opened.
    pub fn start_opening(&mut self) -> bool {
        let room = self.total() < self.size;
        self.opening += usize::from(room);
        room
    }

    /// It is open, and counts as in use until it is given to somebody.
    pub fn finish_opening(&mut self) {
        self.opening -= 1;
        self.in_use += 1;
    }

    pub fn abandon_opening(&mut self) {
        self.opening -= 1;
    }

    /// A connection in use was closed.
    pub fn forget(&mut self) {
        self.in_use -= 1;
    }

    pub fn enqueue(&mut self, worker: usize, now: Instant) -> Ticket {
        self.arrivals += 1;
        let number = self.arrivals;
        self.queues[worker].push_back(Waiting { number, since: now, waker: Waker::noop().clone() });
        Ticket { worker, number }
    }

    pub fn set_waker(&mut self, ticket: Ticket, waker: &Waker) {
        if let Some(at) = self.place(ticket)
            && !self.queues[ticket.worker][at].waker.will_wake(waker)
        {
            self.queues[ticket.worker][at].waker = waker.clone();
        }
    }

    pub fn take_grant(&mut self, ticket: Ticket) -> Option<Grant<C, E>> {
        self.granted.remove(&ticket.number)
    }

    /// Leaves the queue; what was granted in the meantime is handed back to be passed on.
    pub fn withdraw(&mut self, ticket: Ticket) -> Option<Grant<C, E>> {
        if let Some(at) = self.place(ticket) {
            self.queues[ticket.worker].remove(at);
            return None;
        }
        self.take_grant(ticket)
    }

    /// A connection in use becomes free on `worker`: it goes to a waiter, who is to be woken, or to the worker's stack.
    pub fn give(&mut self, worker: usize, id: u64, connection: C) -> Option<Waker> {
        match self.next_waiter(worker) {
            Some(waiting) => Some(self.grant(waiting, Grant::Connection(connection))),
            None => {
                self.rest(worker, id, connection);
                None
            }
        }
    }

    /// A connection in use becomes idle, whoever waits.
    pub fn rest(&mut self, worker: usize, id: u64, connection: C) {
        self.in_use -= 1;
        self.idle[worker].push((id, connection));
    }

    /// Someone waits for whom none is being opened.
    pub fn lacks_openings(&self) -> bool {
        self.waiting() > self.opening
    }

    /// Someone waits although a connection is idle: an opening that he waited for failed.
    pub fn serve_from_idle(&mut self) -> Option<Waker> {
        let queue = self.oldest_queue(None)?;
        let connection = self.take_own(queue, |_| true).or_else(|| self.take_over(queue))?;
        let waiting = self.queues[queue].pop_front()?;
        Some(self.grant(waiting, Grant::Connection(connection)))
    }

    /// Everyone who waits gets this instead of a connection.
    pub fn fail_all(&mut self, error: impl Fn() -> E) -> Vec<Waker> {
        let all: Vec<Waiting> = self.queues.iter_mut().flat_map(|queue| queue.drain(..)).collect();
        all.into_iter().map(|waiting| self.grant(waiting, Grant::Failed(error()))).collect()
    }

    /// The one who waits longest gets this instead of a connection.
    pub fn fail_oldest(&mut self, error: E) -> Option<Waker> {
        let queue = self.oldest_queue(None)?;
        let waiting = self.queues[queue].pop_front()?;
        Some(self.grant(waiting, Grant::Failed(error)))
    }

    /// Takes out the worker's idle connections that `leaves` names; they count as in use until given back or forgotten.
    pub fn take_idle_if(&mut self, worker: usize, mut leaves: impl FnMut(&mut C) -> bool) -> Vec<C> {
        let taken: Vec<C> =
            self.idle[worker].extract_if(.., |(_, connection)| leaves(connection)).map(|(_, taken)| taken).collect();
        self.in_use += taken.len();
        taken
    }

    /// The same of all workers.
    pub fn take_all_idle_if(&mut self, leaves: impl Fn(&C) -> bool) -> Vec<C> {
        (0..self.idle.len()).flat_map(|worker| self.take_idle_if(worker, |connection| leaves(connection))).collect()
    }

    /// Takes out all idle connections of all workers, for good.
    pub fn drain_idle(&mut self) -> Vec<C> {
        self.idle.iter_mut().flat_map(|stack| stack.drain(..)).map(|(_, connection)| connection).collect()
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.queues[ticket.worker].binary_search_by_key(&ticket.number, |waiting| waiting.number).ok()
    }

    fn grant(&mut self, waiting: Waiting, grant: Grant<C, E>) -> Waker {
        self.granted.insert(waiting.number, grant);
        waiting.waker
    }

    fn next_waiter(&mut self, worker: usize) -> Option<Waiting> {
        let own = self.queues[worker].front().map(|waiting| waiting.since);
        let other = self.oldest_queue(Some(worker));
        let queue = match (own, other) {
            (Some(own), Some(other)) => {
                let longer = self.queues[other].front().is_some_and(|waiting| waiting.since + PATIENCE < own);
                if longer { other } else { worker }
            }
            (Some(_), None) => worker,
            (None, other) => other?,
        };
        self.queues[queue].pop_front()
    }

    /// The queue whose first has waited longest, leaving one out.
    fn oldest_queue(&self, except: Option<usize>) -> Option<usize> {
        let fronts = self.queues.iter().enumerate().filter(|(queue, _)| Some(*queue) != except);
        let waits = fronts.filter_map(|(queue, waiting)| Some((waiting.front()?.number, queue)));
        waits.min().map(|(_, queue)| queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Book<u64, &'static str>;

    /// A book in which connections 1..=n are in use.
    fn used(size: usize, n: usize) -> Plain {
        let mut book = Plain::new(size, 2);
        for _ in 0..n {
            assert!(book.start_opening());
            book.finish_opening();
        }
        book
    }

    fn granted(book: &mut Plain, ticket: Ticket) -> Option<u64> {
        match book.take_grant(ticket)? {
            Grant::Connection(connection) => Some(connection),
            Grant::Failed(_) => None,
        }
    }

    #[test]
    fn openings_stop_at_the_size() {
        let mut book = used(2, 1);
        assert!(book.start_opening());
        assert!(!book.start_opening());
        book.abandon_opening();
        assert!(book.start_opening());
        assert_eq!((book.in_use(), book.opening(), book.total()), (1, 1, 2));
    }

    #[test]
    fn home_is_found_and_else_the_warmest_that_suits() {
        let mut book = used(3, 3);
        for id in 1..=3 {
            assert!(book.give(0, id, id).is_none());
        }
        assert_eq!(book.take_home(0, 2), Some(2));
        assert_eq!(book.take_home(0, 2), None);
        assert_eq!(book.take_own(1, |_| true), None);
        assert_eq!(book.take_own(0, |id| *id == 4), None);
        assert_eq!(book.take_own(0, |_| true), Some(3));
        assert_eq!(book.take_over(1), Some(1));
        assert_eq!((book.in_use(), book.idle()), (3, 0));
    }

    #[test]
    fn waiters_of_one_worker_are_served_in_order() {
        let start = Instant::now();
        let mut book = used(1, 1);
        let tickets: Vec<_> = (0..3).map(|_| book.enqueue(0, start)).collect();
        for (at, ticket) in tickets.iter().enumerate() {
            assert!(book.give(0, 1, 1).is_some());
            assert_eq!(granted(&mut book, *ticket), Some(1));
            assert_eq!(book.waiting(), 2 - at);
        }
    }

    #[test]
    fn a_stranger_is_served_before_ones_own_only_after_a_millisecond_more() {
        let start = Instant::now();
        for (ahead, stranger_first) in [(Duration::from_micros(900), false), (Duration::from_micros(1100), true)] {
            let mut book = used(1, 1);
            let stranger = book.enqueue(1, start);
            let own = book.enqueue(0, start + ahead);
            book.give(0, 1, 1);
            let (first, second) = if stranger_first { (stranger, own) } else { (own, stranger) };
            assert_eq!(granted(&mut book, first), Some(1));
            assert_eq!(granted(&mut book, second), None);
        }
    }

    #[test]
    fn a_stranger_is_served_when_nobody_of_ones_own_waits() {
        let mut book = used(1, 1);
        let stranger = book.enqueue(1, Instant::now());
        assert!(book.give(0, 1, 1).is_some());
        assert_eq!(granted(&mut book, stranger), Some(1));
    }

    #[test]
    fn who_leaves_the_queue_hands_back_what_was_granted() {
        let mut book = used(1, 1);
        let (first, second) = (book.enqueue(0, Instant::now()), book.enqueue(0, Instant::now()));
        assert!(book.withdraw(first).is_none());
        book.give(0, 1, 1);
        let Some(Grant::Connection(connection)) = book.withdraw(second) else { panic!("nothing was granted") };
        assert!(book.give(0, 1, connection).is_none());
        assert_eq!((book.idle(), book.in_use(), book.waiting()), (1, 0, 0));
    }

    #[test]
    fn idle_connections_serve_whoever_an_opening_failed() {
        let mut book = used(2, 1);
        book.give(1, 1, 1);
        let ticket = book.enqueue(0, Instant::now());
        assert!(book.serve_from_idle().is_some());
        assert_eq!(granted(&mut book, ticket), Some(1));
        assert!(book.serve_from_idle().is_none());
    }

    #[test]
    fn all_can_be_failed() {
        let mut book = used(1, 1);
        let tickets = [book.enqueue(0, Instant::now()), book.enqueue(1, Instant::now())];
        assert_eq!(book.fail_all(|| "down").len(), 2);
        for ticket in tickets {
            assert!(matches!(book.take_grant(ticket), Some(Grant::Failed("down"))));
        }
    }
}
