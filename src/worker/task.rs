//! A session as its worker sees it: a future that can be woken when draining starts, and that is counted out when it ends.
//! `worker` makes one for each socket; it knows nothing of what a session does.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{Phase, Worker};

/// A session's task: knows its waker, and gives its place back when it ends, however it ends.
pub(super) struct SessionTask<F> {
    worker: Rc<Worker>,
    place: usize,
    /// Boxed, so that the task is not moved into its own state a second time.
    session: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> SessionTask<F> {
    pub fn new(worker: Rc<Worker>, session: F) -> SessionTask<F> {
        let place = worker.sessions.borrow_mut().insert(Waker::noop().clone());
        SessionTask { worker, place, session: Box::pin(session) }
    }
}

impl<F: Future<Output = ()>> Future for SessionTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.worker.phase.get() == Phase::Running
            && let Some(waker) = self.worker.sessions.borrow_mut().get_mut(self.place)
            && !waker.will_wake(cx.waker())
        {
            *waker = cx.waker().clone();
        }
        self.session.as_mut().poll(cx)
    }
}

impl<F> Drop for SessionTask<F> {
    fn drop(&mut self) {
        self.worker.handle.load.fetch_sub(1, Ordering::Relaxed);
        let waker = self.worker.sessions.borrow_mut().remove(self.place);
        drop(waker);
        if self.worker.sessions.borrow().is_empty() {
            self.worker.empty.notify_one();
        }
    }
}
