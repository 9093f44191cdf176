//! Our CancelKey → the session that it belongs to. Sessions register at login; a CancelRequest, which comes over a
//! connection of its own, travels to the session's worker and wakes it. The session alone knows whether it is at work, and
//! where: it delivers the cancel to the node that works for it, fails the statement that still waits for one, or has nothing
//! to cancel. So a cancel can never meet a connection that was released in the same moment.
//! A wrong key is ignored in silence, as PostgreSQL does.
//!
//! By the same numbers a session is told that the process which it takes for its own was ended while it did not use it:
//! its client hears the process's last words, as it would without us. That is so only right after somebody asked for the
//! end of processes: a node that shuts down says the same to all, and must not cost clients that can do without it.

mod secret;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::pool::connection::{CancelTarget, CancelUnderWay, dial};
use crate::worker::{ResidentId, Worker, WorkerHandle, WorkerId};

pub use secret::SecretLength;
use secret::{Secret, are_equal};

/// A node that has not taken the cancel by then is not waited for; the server connection is closed instead of reused.
const PATIENCE: Duration = Duration::from_secs(5);
/// CancelRequest's code (manual: "Message Formats").
const CANCEL_REQUEST: u32 = 80_877_102;

/// What became of a CancelRequest; for counters, the client learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The node took it, or the statement had not reached a node and ended there.
    Delivered,
    /// No session has this key.
    UnknownKey,
    /// The session had no statement at work.
    NothingToCancel,
    /// The node could not be reached, or did not close the connection in time.
    Failed,
}

/// All sessions that can be cancelled, of all workers.
#[derive(Default)]
pub struct Cancels {
    registry: Mutex<Registry>,
    numbers: AtomicU32,
    /// How many looks for ended processes are under way.
    looks: AtomicU32,
}

/// Ten thousand idle sessions are in it, so it holds nothing twice.
#[derive(Default)]
struct Registry {
    /// More than one session may come to have the same number, should the numbers wrap around.
    sessions: HashMap<u32, SmallVec<[Entry; 1]>>,
    /// What `Cancels::end` left for sessions.
    ended: Vec<(Owner, Box<Ended>)>,
    /// Those that ever had a session.
    workers: Vec<WorkerHandle>,
}

struct Entry {
    secret: Secret,
    owner: Owner,
}

/// Where a session is to be found.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    worker: WorkerId,
    session: ResidentId,
}

/// A server process was ended that is a session's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The server connection.
    pub connection: u64,
    /// The body of its ErrorResponse.
    pub words: Box<[u8]>,
}

/// pg_cancel_backend was done to the process that a session takes for its own.
struct Struck {
    /// Who did it.
    user: Box<str>,
    at: Instant,
}

/// A session's cell.
#[derive(Default)]
struct Slot {
    /// In a box that most sessions never have.
    told: RefCell<Option<Box<Told>>>,
    session: RefCell<Option<Waker>>,
}

/// What a session was told.
#[derive(Default)]
struct Told {
    /// Whoever asked for a cancel and has had no answer.
    asked: Askers,
    /// Those of the last cancel that was sent to a node; it is held by whoever sends it.
    sent: Rc<RefCell<Askers>>,
    struck: Option<Struck>,
}

type Askers = Vec<oneshot::Sender<CancelOutcome>>;

/// A session's registration; dropping it ends it.
pub struct CancelRegistration {
    cancels: Arc<Cancels>,
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    session: ResidentId,
    pid: u32,
}

impl Cancels {
    pub fn new() -> Arc<Cancels> {
        Arc::new(Cancels::default())
    }

    /// A number that no other session of this process has, to be shown to the client as the process ID.
    pub fn next_pid(&self) -> u32 {
        // Some drivers read it as a signed number, and 0 means none.
        self.numbers.fetch_add(1, Ordering::Relaxed) % (i32::MAX as u32) + 1
    }

    /// Registers a session of this worker under `pid` with a fresh random secret.
    pub fn register(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        pid: u32,
        length: SecretLength,
    ) -> io::Result<CancelRegistration> {
        let secret = Secret::random(length)?;
        let slot = Rc::new(Slot::default());
        let session = worker.settle(Rc::clone(&slot) as Rc<dyn std::any::Any>);
        let mut registry = self.lock();
        if registry.worker(worker.id).is_none() {
            registry.workers.push(worker.handle().clone());
        }
        let entry = Entry { secret, owner: Owner { worker: worker.id, session } };
        registry.sessions.entry(pid).or_default().push(entry);
        Ok(CancelRegistration { cancels: Arc::clone(self), worker: Rc::clone(worker), slot, session, pid })
    }

    /// Hands a CancelRequest to its session. Returns when the node has taken it: only then the client's connection should be
    /// closed, so that a driver that waits for this knows that its next statement is safe.
    pub async fn cancel(&self, pid: u32, secret: &[u8]) -> CancelOutcome {
        let Some((worker, session)) = self.find(pid, secret) else { return CancelOutcome::UnknownKey };
        let (answer, answered) = oneshot::channel();
        worker.run(move |worker| {
            let Some(slot) = worker.resident::<Slot>(session) else { return };
            worker.spawn(async move {
                // A statement that its client sent before it asked for this has arrived by now, but its session may not
                // have been woken yet.
                tokio::task::yield_now().await;
                slot.tell(|told| told.asked.push(answer));
            });
        });
        // The session, or its worker, ended in between.
        answered.await.unwrap_or(CancelOutcome::NothingToCancel)
    }

    /// A session of `user` had the process with this number cancelled: whoever was told that it is his may be reading from a
    /// replica, of which that process knows nothing.
    pub fn strike(&self, pid: u32, user: &str) {
        let registry = self.lock();
        for entry in registry.sessions.get(&pid).into_iter().flatten() {
            let struck = Struck { user: user.into(), at: Instant::now() };
            registry.tell(entry.owner, |told| told.struck = Some(struck));
        }
    }

    /// From now on until `stop_looking`, sessions hear of the end of their processes.
    pub fn start_looking(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn stop_looking(&self) {
        self.looks.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn expect_ends(&self) -> bool {
        self.looks.load(Ordering::Relaxed) > 0
    }

    /// An idle server process with this number was ended by an administrator: wakes whoever was told that it is his.
    pub fn end(&self, pid: u32, connection: u64, words: &[u8]) {
        if !self.expect_ends() {
            return;
        }
        let mut registry = self.lock();
        let owners: Vec<Owner> = registry.sessions.get(&pid).into_iter().flatten().map(|entry| entry.owner).collect();
        for owner in owners {
            registry.ended.retain(|(other, _)| *other != owner);
            registry.ended.push((owner, Box::new(Ended { connection, words: words.into() })));
            registry.tell(owner, |_| {});
        }
    }

    /// Looks at all candidates whole, so that the time tells nothing about secrets.
    fn find(&self, pid: u32, secret: &[u8]) -> Option<(WorkerHandle, ResidentId)> {
        let registry = self.lock();
        let mut found = None;
        for entry in registry.sessions.get(&pid)? {
            if are_equal(entry.secret.bytes(), secret) {
                found = Some(entry.owner);
            }
        }
        let owner = found?;
        Some((registry.worker(owner.worker)?.clone(), owner.session))
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn worker(&self, id: WorkerId) -> Option<&WorkerHandle> {
        self.workers.iter().find(|worker| worker.id == id)
    }

    /// On the session's own worker; then it is woken.
    fn tell(&self, owner: Owner, tell: impl FnOnce(&mut Told) + Send + 'static) {
        let Some(worker) = self.worker(owner.worker) else { return };
        worker.run(move |worker| {
            if let Some(slot) = worker.resident::<Slot>(owner.session) {
                slot.tell(tell);
            }
        });
    }
}

impl CancelRegistration {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The rest of the key, for BackendKeyData.
    pub fn secret(&self) -> Vec<u8> {
        let registry = self.cancels.lock();
        let entry = registry.sessions.get(&self.pid).into_iter().flatten().find(|entry| entry.owner == self.owner());
        entry.map(|entry| entry.secret.bytes().to_vec()).unwrap_or_default()
    }

    /// Ready while somebody asks for a cancel and has no answer.
    pub fn poll_asked(&self, cx: &Context<'_>) -> Poll<()> {
        let mut session = self.slot.session.borrow_mut();
        if !session.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *session = Some(cx.waker().clone());
        }
        let told = self.slot.told.borrow();
        let news = told.as_ref().is_some_and(|told| !told.asked.is_empty() || told.struck.is_some());
        if news { Poll::Ready(()) } else { Poll::Pending }
    }

    pub fn is_asked(&self) -> bool {
        self.slot.told.borrow().as_ref().is_some_and(|told| !told.asked.is_empty())
    }

    /// Since when a statement must have been at work that pg_cancel_backend was to end. The primary lets any session cancel
    /// those of its own user; of others it is not known here what it would have said.
    pub fn take_strike(&self, user: &str) -> Option<Instant> {
        let struck = self.slot.told.borrow_mut().as_mut()?.struck.take()?;
        (*struck.user == *user).then_some(struck.at)
    }

    /// A cancel is asked for by somebody who does not wait for it.
    pub fn ask(&self) {
        self.slot.told.borrow_mut().get_or_insert_default().asked.push(oneshot::channel().0);
    }

    fn take_asked(&self) -> Askers {
        self.slot.told.borrow_mut().as_mut().map(|told| std::mem::take(&mut told.asked)).unwrap_or_default()
    }

    /// What `Cancels::end` left for this session. Costs one look at a number as long as nobody looks for ends.
    pub fn ended(&self) -> Option<Box<Ended>> {
        if !self.cancels.expect_ends() {
            return None;
        }
        let ended = &mut self.cancels.lock().ended;
        let place = ended.iter().position(|(owner, _)| *owner == self.owner())?;
        Some(ended.swap_remove(place).1)
    }

    fn owner(&self) -> Owner {
        Owner { worker: self.worker.id, session: self.session }
    }

    /// The session dealt with it alone.
    pub fn answer(&self, outcome: CancelOutcome) {
        for asked in self.take_asked() {
            // The asker may have left; nobody else wants to know.
            let _ = asked.send(outcome);
        }
    }

    /// This server connection is at work for the session: its node is told. Call it while the lease is held: it is not
    /// given to anybody else before the node has taken the cancel.
    /// `again`: the node was told to cancel the same unit before. While that is on its way, it serves all who ask: drivers
    /// cancel twice, and the second one would come late and strike what follows.
    pub fn deliver(&self, target: &Arc<CancelTarget>, again: bool) {
        let asked = self.take_asked();
        let mut told = self.slot.told.borrow_mut();
        let told = told.get_or_insert_default();
        if again && Rc::strong_count(&told.sent) > 1 {
            told.sent.borrow_mut().extend(asked);
            return;
        }
        let askers = Rc::new(RefCell::new(asked));
        told.sent = Rc::clone(&askers);
        let (target, under_way) = (Arc::clone(target), target.begin());
        self.worker.spawn(async move {
            let outcome = deliver(&target, under_way).await;
            for asked in askers.take() {
                let _ = asked.send(outcome);
            }
        });
    }
}

impl Drop for CancelRegistration {
    fn drop(&mut self) {
        self.worker.unsettle(self.session);
        let (owner, mut registry) = (self.owner(), self.cancels.lock());
        registry.ended.retain(|(ended, _)| *ended != owner);
        if let Some(entries) = registry.sessions.get_mut(&self.pid) {
            entries.retain(|entry| entry.owner != owner);
            if entries.is_empty() {
                registry.sessions.remove(&self.pid);
            }
        }
    }
}

impl Slot {
    /// And wakes it.
    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        tell(self.told.borrow_mut().get_or_insert_default());
        if let Some(session) = &*self.session.borrow() {
            session.wake_by_ref();
        }
    }
}

/// Stops what runs on a server connection that its session gave up.
pub async fn stop(target: Arc<CancelTarget>) {
    let under_way = target.begin();
    deliver(&target, under_way).await;
}

/// Tells the node, and waits until it closes the connection: then its signal was sent.
async fn deliver(target: &CancelTarget, under_way: CancelUnderWay) -> CancelOutcome {
    let sent = async {
        let mut stream = dial(&target.endpoint).await.map_err(io::Error::other)?;
        stream.write_all(&cancel_request(target)).await?;
        stream.flush().await?;
        // It answers nothing; a reset is as good as an end.
        while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
        io::Result::Ok(())
    };
    match tokio::time::timeout(PATIENCE, sent).await {
        Ok(Ok(())) => {
            under_way.was_delivered();
            CancelOutcome::Delivered
        }
        Ok(Err(error)) => {
            tracing::warn!(node = target.endpoint.name, %error, "a cancel could not be delivered");
            CancelOutcome::Failed
        }
        Err(_) => {
            tracing::warn!(node = target.endpoint.name, "a cancel was not taken in time");
            CancelOutcome::Failed
        }
    }
}

fn cancel_request(target: &CancelTarget) -> Vec<u8> {
    let mut message = (12 + target.secret.len() as u32).to_be_bytes().to_vec();
    message.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
    message.extend_from_slice(&target.pid.to_be_bytes());
    message.extend_from_slice(&target.secret);
    message
}

#[cfg(test)]
mod tests;
