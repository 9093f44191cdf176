//! One worker is one thread with a current-thread Tokio runtime; sessions live and die on it. The listener hands it
//! sockets, `proxy` starts and drains it, sessions and pools use what it owns: the scratch buffer, the timers, the dice.
//!
//! Nothing of a worker is shared: other threads only send errands to its inbox. It must never block.

pub mod buffers;
mod task;
pub mod timers;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{Notify, mpsc};

use crate::cluster::handle::Watch;
use crate::metrics::WorkerCells;
use crate::sql::cache::VerdictCache;
use crate::stream::{Socket, Stream};

use buffers::Buffers;
use task::SessionTask;
use timers::Timers;

/// Larger than what one `recv` brings on most paths, small enough to stay in the second-level cache.
pub const SCRATCH: usize = 64 * 1024;

/// A worker's index, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub usize);

/// Names something that lives on one worker, so that other threads can ask for it by an errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResidentId(u64);

/// What a session may use of its thread. Never leaves the thread.
pub struct Worker {
    pub id: WorkerId,
    /// Deadlines; see `timers`.
    pub timers: Rc<Timers>,
    pub metrics: Arc<WorkerCells>,
    pub verdicts: RefCell<VerdictCache>,
    /// What is known of the nodes.
    pub cluster: RefCell<Watch>,
    /// Empty buffers with their memory, for what is on its way out.
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Rooms for the bytes of sessions that have some.
    lent: RefCell<Vec<Box<Buffers>>>,
    /// Room for what is under way in a session, which those at rest do without. A worker knows not what is on them.
    desks: RefCell<Vec<Box<dyn Any>>>,
    scratch: Cell<Option<Box<[u8]>>>,
    dice: Cell<u64>,
    coarse_now: Cell<Instant>,
    phase: Cell<Phase>,
    serial: Cell<u64>,
    residents: RefCell<HashMap<ResidentId, Rc<dyn Any>, foldhash::fast::RandomState>>,
    /// Wakes each session once, when draining starts: an idle session waits for its client only.
    sessions: RefCell<Slab<Waker>>,
    empty: Notify,
    handle: WorkerHandle,
}

/// What the sessions of one worker share; made for each worker.
pub struct Fittings {
    pub metrics: Arc<WorkerCells>,
    pub verdicts: VerdictCache,
    pub cluster: Watch,
}

/// A worker's life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Sessions end when they are between transactions.
    Draining,
    /// The runtime is being dropped: nothing may be spawned any more.
    Stopped,
}

/// A worker as other threads see it.
#[derive(Clone)]
pub struct WorkerHandle {
    pub id: WorkerId,
    /// Sessions, counted from the moment the listener chose this worker, so that a burst is spread.
    load: Arc<AtomicUsize>,
    inbox: mpsc::UnboundedSender<Errand>,
}

/// What other threads may ask of a worker. The inbox needs no limit of its own: sockets are capped by the listener, and
/// each other errand comes from a client that is one of them.
enum Errand {
    Serve(Socket, String),
    Run(Box<dyn FnOnce(&Rc<Worker>) + Send>),
    Drain(Duration),
}

/// All workers.
pub struct Workers {
    pub handles: Vec<WorkerHandle>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// For a thread's own worker, inside its runtime; also for tests, which have no inbox to attend.
    fn new(handle: WorkerHandle, fittings: Fittings) -> io::Result<Rc<Worker>> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
        let now = Instant::now();
        let worker = Rc::new(Worker {
            id: handle.id,
            timers: Timers::new(now),
            metrics: fittings.metrics,
            verdicts: RefCell::new(fittings.verdicts),
            cluster: RefCell::new(fittings.cluster),
            buffers: RefCell::default(),
            desks: RefCell::default(),
            lent: RefCell::default(),
            scratch: Cell::new(None),
            // A xorshift that starts at zero stays there.
            dice: Cell::new(u64::from_ne_bytes(seed) | 1),
            coarse_now: Cell::new(now),
            phase: Cell::new(Phase::Running),
            serial: Cell::new(0),
            residents: RefCell::default(),
            sessions: RefCell::default(),
            empty: Notify::new(),
            handle,
        });
        tokio::task::spawn_local(Rc::clone(&worker.timers).run());
        Ok(worker)
    }

    /// The scratch buffer, [`SCRATCH`] bytes. Put it back before the next await: the other sessions read into it too.
    pub fn take_scratch(&self) -> Box<[u8]> {
        self.scratch.take().unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice())
    }

    pub fn put_scratch(&self, scratch: Box<[u8]>) {
        self.scratch.set(Some(scratch));
    }

    /// An empty buffer; give it back for the next one who needs it.
    pub fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub fn put_buffer(&self, mut buffer: Vec<u8>) {
        // One without memory is as good as none; what grew for one large message is not kept for all the small ones.
        if (1..=2 * SCRATCH).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.borrow_mut().push(buffer);
        }
    }

    /// The same for all that one session may need.
    pub fn take_buffers(&self) -> Box<Buffers> {
        self.lent.borrow_mut().pop().unwrap_or_default()
    }

    pub fn put_buffers(&self, mut buffers: Box<Buffers>) {
        buffers.clear();
        self.lent.borrow_mut().push(buffers);
    }

    /// A desk that another session left, or a new one. All desks of a worker are of one type.
    pub fn take_desk<T: Default + 'static>(&self) -> Box<T> {
        let left = self.desks.borrow_mut().pop();
        left.and_then(|desk| desk.downcast().ok()).unwrap_or_default()
    }

    pub fn put_desk(&self, desk: Box<dyn Any>) {
        self.desks.borrow_mut().push(desk);
    }

    /// Two random numbers, good enough to choose between replicas and to spread deadlines; never for secrets.
    pub fn dice(&self) -> (u32, u32) {
        let mut x = self.dice.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.dice.set(x);
        let mixed = x.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((mixed >> 32) as u32, mixed as u32)
    }

    /// The time of the last housekeeping tick: for ages of seconds and more, without a clock call.
    pub fn coarse_now(&self) -> Instant {
        self.coarse_now.get()
    }

    pub fn set_coarse_now(&self, now: Instant) {
        self.coarse_now.set(now);
    }

    /// Spawns a task on this worker, unless its runtime is going away.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if self.phase.get() != Phase::Stopped {
            tokio::task::spawn_local(task);
        }
    }

    /// Whether sessions should end as soon as they are between transactions. Each session's task is woken once when
    /// this becomes true.
    pub fn draining(&self) -> bool {
        self.phase.get() != Phase::Running
    }

    /// Makes something findable for errands from other threads.
    pub fn settle(&self, resident: Rc<dyn Any>) -> ResidentId {
        let id = ResidentId(self.next_serial());
        self.residents.borrow_mut().insert(id, resident);
        id
    }

    pub fn unsettle(&self, id: ResidentId) {
        let resident = self.residents.borrow_mut().remove(&id);
        drop(resident);
    }

    pub fn resident<T: 'static>(&self, id: ResidentId) -> Option<Rc<T>> {
        let resident = self.residents.borrow().get(&id).map(Rc::clone)?;
        resident.downcast::<T>().ok()
    }

    /// The way to this worker for other threads.
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }

    /// Sessions that run here.
    pub fn sessions(&self) -> usize {
        self.sessions.borrow().len()
    }

    fn next_serial(&self) -> u64 {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        serial
    }

    fn drain(&self) {
        self.phase.set(Phase::Draining);
        let wakers: Vec<Waker> = self.sessions.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        for waker in wakers {
            waker.wake();
        }
    }
}

impl WorkerHandle {
    fn pair(id: WorkerId) -> (WorkerHandle, mpsc::UnboundedReceiver<Errand>) {
        let (inbox, errands) = mpsc::unbounded_channel();
        (WorkerHandle { id, load: Arc::new(AtomicUsize::new(0)), inbox }, errands)
    }

    /// Sessions that this worker has or is about to have.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Hands a client's socket over. A worker that is gone drops it.
    pub fn serve(&self, socket: Socket, peer: String) {
        self.load.fetch_add(1, Ordering::Relaxed);
        if self.inbox.send(Errand::Serve(socket, peer)).is_err() {
            self.load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Runs something short on the worker's thread. If the worker is gone it is dropped unrun.
    pub fn run(&self, errand: impl FnOnce(&Rc<Worker>) + Send + 'static) {
        // A worker that is gone has no sessions, so nobody is left for whom the errand could matter.
        let _ = self.inbox.send(Errand::Run(Box::new(errand)));
    }
}

impl Workers {
    /// Starts `count` threads. `begin` is called once on each, to spawn the worker's own loops (housekeeping); `serve`
    /// makes a client's session.
    pub fn start<S, F>(
        count: usize,
        fit: impl Fn() -> Fittings + Clone + Send + 'static,
        begin: impl Fn(&Rc<Worker>) + Clone + Send + 'static,
        serve: S,
    ) -> io::Result<Workers>
    where
        S: Fn(Rc<Worker>, Stream, String) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let mut workers = Workers { handles: Vec::new(), threads: Vec::new() };
        for index in 0..count.max(1) {
            let (handle, errands) = WorkerHandle::pair(WorkerId(index));
            workers.handles.push(handle.clone());
            let (fit, begin, serve) = (fit.clone(), begin.clone(), serve.clone());
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || match runtime() {
                    Ok(runtime) => runtime.block_on(attend(handle, fit(), errands, begin, serve)),
                    Err(error) => tracing::error!(worker = index, %error, "a worker could not start"),
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Lets sessions end between transactions; what is left after `patience` is cut.
    pub fn drain(&self, patience: Duration) {
        for handle in &self.handles {
            // A worker that is gone is drained.
            let _ = handle.inbox.send(Errand::Drain(patience));
        }
    }

    /// Waits for the threads to end after [`Workers::drain`]. Blocks; `false` if one panicked.
    pub fn join(mut self) -> bool {
        let results: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        results.iter().all(Result::is_ok)
    }

    /// Sessions of all workers.
    pub fn sessions(&self) -> usize {
        self.handles.iter().map(WorkerHandle::load).sum()
    }
}

impl Drop for Workers {
    /// Threads that nobody drained must not outlive whoever started them.
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

/// A worker's main task: errands until it is told to drain, then until the last session left or patience is over.
async fn attend<S, F>(
    handle: WorkerHandle,
    fittings: Fittings,
    mut errands: mpsc::UnboundedReceiver<Errand>,
    begin: impl Fn(&Rc<Worker>),
    serve: S,
) where
    S: Fn(Rc<Worker>, Stream, String) -> F,
    F: Future<Output = ()> + 'static,
{
    let worker = match Worker::new(handle, fittings) {
        Ok(worker) => worker,
        Err(error) => return tracing::error!(%error, "a worker could not be seeded"),
    };
    begin(&worker);
    let patience = loop {
        match errands.recv().await {
            Some(Errand::Serve(socket, peer)) => welcome(&worker, socket, peer, &serve),
            Some(Errand::Run(errand)) => errand(&worker),
            Some(Errand::Drain(patience)) => break patience,
            None => break Duration::ZERO,
        }
    };
    let deadline = Instant::now() + patience;
    worker.drain();
    while worker.sessions() > 0 {
        tokio::select! {
            Some(errand) = errands.recv() => match errand {
                // Cancels are still delivered: they are what lets a long statement end in time.
                Errand::Run(errand) => errand(&worker),
                Errand::Serve(..) => {
                    worker.handle.load.fetch_sub(1, Ordering::Relaxed);
                }
                Errand::Drain(_) => {}
            },
            () = worker.empty.notified() => {}
            () = worker.timers.sleep_until(deadline) => break,
        }
    }
    worker.phase.set(Phase::Stopped);
}

fn welcome<S, F>(worker: &Rc<Worker>, socket: Socket, peer: String, serve: &S)
where
    S: Fn(Rc<Worker>, Stream, String) -> F,
    F: Future<Output = ()> + 'static,
{
    match Stream::from_socket(socket) {
        Ok(stream) => {
            let session = serve(Rc::clone(worker), stream, peer);
            tokio::task::spawn_local(SessionTask::new(Rc::clone(worker), session));
        }
        Err(error) => {
            worker.handle.load.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%peer, %error, "a client's socket could not be registered");
        }
    }
}

#[cfg(test)]
pub mod tests {

    use std::task::Poll;

    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::dial::Plain;
    use crate::config::ClusterConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    pub fn fittings() -> Fittings {
        let cluster = Cluster::new(Vec::new(), ClusterConfig::default(), Arc::new(Plain));
        let verdicts = VerdictCache::new(1 << 20, 1 << 18);
        Fittings { metrics: Arc::default(), verdicts, cluster: Watch::new(&cluster) }
    }

    /// A worker without a thread of its own, inside a test's `LocalRuntime`.
    pub fn worker(index: usize) -> Rc<Worker> {
        let (handle, mut errands) = WorkerHandle::pair(WorkerId(index));
        let worker = Worker::new(handle, fittings()).unwrap();
        let attended = Rc::downgrade(&worker);
        tokio::task::spawn_local(async move {
            while let (Some(Errand::Run(errand)), Some(worker)) = (errands.recv().await, attended.upgrade()) {
                errand(&worker);
            }
        });
        worker
    }

    fn pair() -> (std::net::TcpStream, Socket) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Socket::Tcp(listener.accept().unwrap().0))
    }

    /// Echoes until the client leaves or the worker drains.
    async fn echo(worker: Rc<Worker>, mut stream: Stream, _peer: String) {
        loop {
            let mut byte = [0];
            let read = std::future::poll_fn(|cx| {
                if worker.draining() {
                    return Poll::Ready(Ok(0));
                }
                stream.poll_read_into(cx, &mut byte)
            });
            match read.await {
                Ok(1) => stream.write_all(&byte).await.unwrap(),
                _ => return,
            }
        }
    }

    #[test]
    fn a_socket_is_served_and_an_idle_session_ends_when_the_worker_drains() {
        use std::io::{Read, Write};
        let workers = Workers::start(2, fittings, |_| (), echo).unwrap();
        let (mut client, socket) = pair();
        workers.handles[1].serve(socket, "test".to_owned());
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!((byte, workers.sessions()), (*b"x", 1));
        workers.drain(Duration::from_secs(60));
        assert_eq!(client.read(&mut byte).unwrap(), 0);
        let handles = workers.handles.clone();
        assert!(workers.join());
        assert_eq!(handles[1].load(), 0);
    }

    #[test]
    fn a_session_that_does_not_end_is_cut_after_patience() {
        use std::io::Read;
        let stubborn = |_worker, mut stream: Stream, _peer| async move {
            let mut byte = [0];
            while stream.read(&mut byte).await.is_ok() {}
        };
        let workers = Workers::start(1, fittings, |_| (), stubborn).unwrap();
        let (mut client, socket) = pair();
        workers.handles[0].serve(socket, "test".to_owned());
        workers.drain(Duration::from_millis(20));
        assert!(workers.join());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn residents_are_found_by_their_own_type_only() {
        tokio::runtime::LocalRuntime::new().unwrap().block_on(async {
            let worker = worker(0);
            let id = worker.settle(Rc::new(7_u32));
            assert_eq!(worker.resident::<u32>(id).as_deref(), Some(&7));
            assert!(worker.resident::<u64>(id).is_none());
            worker.unsettle(id);
            assert!(worker.resident::<u32>(id).is_none());
        });
    }

    #[test]
    fn dice_differ_from_throw_to_throw() {
        tokio::runtime::LocalRuntime::new().unwrap().block_on(async {
            let worker = worker(0);
            let throws: std::collections::HashSet<_> = (0..1000).map(|_| worker.dice()).collect();
            assert_eq!(throws.len(), 1000);
        });
    }
}
