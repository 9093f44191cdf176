//! Deadlines of one worker: a sorted list and one Tokio timer. Sessions, waiters for a server connection and logins ask to
//! be woken at an instant; the worker runs [`Timers::run`]. It must never re-arm the Tokio timer for a deadline that lies
//! behind the one it is armed for, because most deadlines are withdrawn long before they come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The sorted list. The order of equal milliseconds is the order of asking.
pub struct Timers {
    start: Instant,
    entries: RefCell<BTreeMap<(u64, u64), Waker>>,
    asked: Cell<u64>,
    /// The millisecond that the Tokio timer waits for; `u64::MAX` while it waits for nothing.
    armed: Cell<u64>,
    /// All deadlines up to this millisecond were called.
    fired: Cell<u64>,
    earlier: Notify,
}

/// A place in the list; dropping it withdraws the deadline.
pub struct Timer {
    timers: Rc<Timers>,
    key: (u64, u64),
}

impl Timers {
    pub fn new(start: Instant) -> Rc<Timers> {
        Rc::new(Timers {
            start,
            entries: RefCell::new(BTreeMap::new()),
            asked: Cell::new(0),
            armed: Cell::new(u64::MAX),
            fired: Cell::new(0),
            earlier: Notify::new(),
        })
    }

    /// Wakes `waker` at `when` or up to a millisecond later, unless the returned timer is dropped before.
    #[must_use = "dropping the timer withdraws it"]
    pub fn wake_at(self: &Rc<Self>, when: Instant, waker: Waker) -> Timer {
        let millisecond = self.round_up(when);
        let serial = self.asked.get();
        self.asked.set(serial.wrapping_add(1));
        let key = (millisecond, serial);
        self.entries.borrow_mut().insert(key, waker);
        if millisecond < self.armed.get() {
            self.earlier.notify_one();
        }
        Timer { timers: Rc::clone(self), key }
    }

    /// Returns at `when` or up to a millisecond later.
    pub async fn sleep_until(self: &Rc<Self>, when: Instant) {
        let mut timer: Option<Timer> = None;
        poll_fn(|cx| {
            if Instant::now() >= when {
                return Poll::Ready(());
            }
            match &timer {
                Some(timer) => timer.set_waker(cx.waker()),
                None => timer = Some(self.wake_at(when, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }

    /// Runs as long as the worker does.
    pub async fn run(self: Rc<Self>) {
        loop {
            let next = self.entries.borrow().keys().next().map(|key| key.0);
            self.armed.set(next.unwrap_or(u64::MAX));
            match next {
                None => self.earlier.notified().await,
                Some(millisecond) => {
                    let when = self.start + Duration::from_millis(millisecond);
                    tokio::select! {
                        () = tokio::time::sleep_until(when.into()) => self.fire(),
                        () = self.earlier.notified() => {}
                    }
                }
            }
        }
    }

    /// Wakers run code of other tasks' schedulers, so the list is not borrowed while they are called.
    fn fire(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.fired.set(now);
        let due = {
            let mut entries = self.entries.borrow_mut();
            let later = entries.split_off(&(now + 1, 0));
            std::mem::replace(&mut *entries, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }

    fn round_up(&self, when: Instant) -> u64 {
        let after = when.saturating_duration_since(self.start);
        let whole = after.as_millis() as u64;
        if after.subsec_nanos().is_multiple_of(1_000_000) { whole } else { whole + 1 }
    }
}

impl Timer {
    /// Whether the deadline has come. Costs no look at the clock.
    pub fn is_due(&self) -> bool {
        self.key.0 <= self.timers.fired.get()
    }

    /// The task that polls may have changed since the deadline was set.
    pub fn set_waker(&self, waker: &Waker) {
        let mut entries = self.timers.entries.borrow_mut();
        match entries.get_mut(&self.key) {
            Some(kept) if kept.will_wake(waker) => {}
            Some(kept) => *kept = waker.clone(),
            // It fired already, a moment before its instant by the caller's clock: ask once more, for at once.
            None => waker.wake_by_ref(),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.entries.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::LocalRuntime::new().unwrap().block_on(work)
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_deadlines_and_not_before() {
        local(async {
            let timers = Timers::new(Instant::now());
            tokio::task::spawn_local(Rc::clone(&timers).run());
            let order = Rc::new(RefCell::new(Vec::new()));
            let mut tasks = Vec::new();
            for milliseconds in [30, 10, 20] {
                let (timers, order) = (Rc::clone(&timers), Rc::clone(&order));
                tasks.push(tokio::task::spawn_local(async move {
                    let when = Instant::now() + Duration::from_millis(milliseconds);
                    timers.sleep_until(when).await;
                    assert!(Instant::now() >= when);
                    order.borrow_mut().push(milliseconds);
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*order.borrow(), [10, 20, 30]);
            assert!(timers.entries.borrow().is_empty());
        });
    }

    #[test]
    fn a_dropped_timer_leaves_nothing_behind() {
        local(async {
            let timers = Timers::new(Instant::now());
            let timer = timers.wake_at(Instant::now() + Duration::from_secs(60), Waker::noop().clone());
            assert_eq!(timers.entries.borrow().len(), 1);
            drop(timer);
            assert!(timers.entries.borrow().is_empty());
        });
    }

    #[test]
    fn a_later_deadline_does_not_rearm_the_timer() {
        local(async {
            let timers = Timers::new(Instant::now());
            tokio::task::spawn_local(Rc::clone(&timers).run());
            let soon = timers.wake_at(Instant::now() + Duration::from_secs(1), Waker::noop().clone());
            tokio::task::yield_now().await;
            let armed = timers.armed.get();
            assert_ne!(armed, u64::MAX);
            let _late = timers.wake_at(Instant::now() + Duration::from_secs(9), Waker::noop().clone());
            drop(soon);
            tokio::task::yield_now().await;
            assert_eq!(timers.armed.get(), armed);
        });
    }
}
