//! The pool against a scripted node: trust login, then it does what the test says. The node runs on threads of its own,
//! the workers of most tests share one runtime (they differ by their ids, and each lease is registered anew all the same).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::cluster::NodeStats;
use crate::worker::tests::worker;

const STANDBY: &str = "in_hot_standby";

/// How the node treats who connects.
#[derive(Clone)]
enum Script {
    Welcome {
        parameters: Vec<(&'static str, &'static str)>,
    },
    Refuse {
        sqlstate: &'static str,
    },
    /// Takes the connection and says nothing.
    Freeze,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// Sockets of those who logged in, in order, with their startup parameters.
    sessions: Vec<(TcpStream, HashMap<String, String>)>,
    attempts: usize,
    /// Sessions that ended, and how: with a Terminate message or without.
    terminated: usize,
    broken: usize,
    pub(crate) cancels: Vec<(u32, Vec<u8>)>,
    /// Cancel connections are kept open while this is set.
    pub(crate) hold_cancels: bool,
}

pub(crate) struct Node {
    port: u16,
    script: Mutex<Script>,
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Node {
    fn start(script: Script) -> Arc<Node> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (script, seen, changed) = (Mutex::new(script), Mutex::default(), Condvar::new());
        let node = Arc::new(Node { port, script, seen, changed });
        let own = Arc::clone(&node);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let node = Arc::clone(&own);
                std::thread::spawn(move || node.serve(stream));
            }
        });
        node
    }

    pub(crate) fn primary() -> Arc<Node> {
        Node::start(Script::Welcome { parameters: vec![(STANDBY, "off"), ("TimeZone", "UTC")] })
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            id: NodeId(0),
            name: "n1".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: self.port,
            tls: None,
            stats: Arc::new(NodeStats::default()),
        }
    }

    pub(crate) fn see<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        let result = act(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
        result
    }

    fn serve(&self, mut stream: TcpStream) {
        let script = self.script.lock().unwrap().clone();
        let mut length = [0; 4];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut body).unwrap();
        if body[..4] == 80_877_102_u32.to_be_bytes() {
            return self.take_cancel(&body);
        }
        self.see(|seen| seen.attempts += 1);
        match script {
            Script::Freeze => drop(stream.read(&mut [0])),
            Script::Refuse { sqlstate } => {
                let fields = format!("SFATAL\0C{sqlstate}\0Mno\0\0");
                stream.write_all(&message(b'E', fields.as_bytes())).unwrap();
            }
            Script::Welcome { parameters } => self.welcome(stream, &body[4..], &parameters),
        }
    }

    fn welcome(&self, mut stream: TcpStream, startup: &[u8], parameters: &[(&str, &str)]) {
        let words: Vec<_> = startup.split(|byte| *byte == 0).map(|w| String::from_utf8(w.to_vec()).unwrap()).collect();
        let startup = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let number = self.see(|seen| {
            seen.sessions.push((stream.try_clone().unwrap(), startup));
            seen.sessions.len() as u32
        });
        let mut greeting = message(b'R', &[0; 4]);
        for (name, value) in parameters {
            greeting.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
        }
        greeting.extend(message(b'K', &[number.to_be_bytes(), *b"key!"].concat()));
        greeting.extend(message(b'Z', b"I"));
        stream.write_all(&greeting).unwrap();
        // A session echoes whole messages and ends as PostgreSQL does.
        let mut head = [0; 5];
        loop {
            if stream.read_exact(&mut head).is_err() {
                return self.see(|seen| seen.broken += 1);
            }
            if head[0] == b'X' {
                return self.see(|seen| seen.terminated += 1);
            }
            stream.write_all(&head).unwrap();
        }
    }

    fn take_cancel(&self, body: &[u8]) {
        let pid = u32::from_be_bytes(body[4..8].try_into().unwrap());
        self.see(|seen| seen.cancels.push((pid, body[8..].to_vec())));
        let mut seen = self.seen.lock().unwrap();
        while seen.hold_cancels {
            seen = self.changed.wait(seen).unwrap();
        }
    }

    pub(crate) fn logins(&self) -> usize {
        self.see(|seen| seen.sessions.len())
    }

    /// Says something to the session that logged in as the `at`th.
    fn say(&self, at: usize, bytes: &[u8]) {
        self.see(|seen| seen.sessions[at].0.write_all(bytes).unwrap());
    }

    fn cut(&self, at: usize) {
        self.see(|seen| seen.sessions[at].0.shutdown(std::net::Shutdown::Both).unwrap());
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

/// A trusting node asks for nothing.
pub(crate) fn anyone() -> Credentials {
    Credentials { user: "alice".into(), proof: crate::auth::Proof::Nothing }
}

pub(crate) fn config(size: usize) -> PoolConfig {
    PoolConfig {
        mode: crate::config::PoolMode::Transaction,
        size,
        min_idle: 0,
        checkout_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(5),
        statements: 500,
        auto_prepare: 0,
        renewals: 10,
    }
}

/// Pools of one node, for two workers; the counter counts reported failures.
fn pools_of(node: &Node, config: PoolConfig) -> (Arc<Pools>, Arc<AtomicUsize>) {
    let failures = Arc::new(AtomicUsize::new(0));
    let reported = Arc::clone(&failures);
    let report = move |_| {
        reported.fetch_add(1, Ordering::SeqCst);
    };
    (Pools::new(vec![node.endpoint()], 2, (config, Vec::new()), report, |_, _| ()), failures)
}

pub(crate) fn pool_of(node: &Node, config: PoolConfig) -> Arc<Pool> {
    pools_of(node, config).0.pool(NodeId(0), "app", "alice", &anyone())
}

pub(crate) fn local<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::LocalRuntime::new().unwrap().block_on(work)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) async fn checkout(pool: &Arc<Pool>, worker: &Rc<Worker>) -> Result<Lease, CheckoutError> {
    match pool.checkout(worker, Role::Unknown, None, later()) {
        Checkout::Ready(lease) => Ok(lease),
        Checkout::Wait(waiter) => waiter.await,
    }
}

pub(crate) fn wait(pool: &Arc<Pool>, worker: &Rc<Worker>) -> Waiter {
    match pool.checkout(worker, Role::Unknown, None, later()) {
        Checkout::Ready(_) => panic!("nobody should have to be waited for"),
        Checkout::Wait(waiter) => waiter,
    }
}

/// Whether the waiter has something already.
pub(crate) fn now(waiter: &mut Waiter) -> Option<Result<Lease, CheckoutError>> {
    match waiter.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// Lets the reactor and the other tasks run until it is so.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "in vain: {what}");
        tokio::task::yield_now().await;
    }
}

async fn echo(lease: &mut Lease) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    lease.stream.write_all(b"H\0\0\0\x04").await.unwrap();
    let mut answer = [0; 5];
    lease.stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"H\0\0\0\x04");
}

/// A view is published before the pools are told of it.
#[test]
fn whoever_asks_for_a_role_tells_it_to_a_pool_that_does_not_know_its_own() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let (pools, _) = pools_of(&node, config(2));
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let Checkout::Wait(waiter) = pool.checkout(&worker, Role::Primary, None, later()) else { panic!("it is open") };
        let lease = waiter.await.unwrap();
        let id = lease.id;
        assert_eq!(lease.role, Role::Primary);
        lease.release();
        pools.set_role(NodeId(0), Role::Primary);
        let Checkout::Ready(lease) = pool.checkout(&worker, Role::Primary, Some(id), later()) else { panic!("closed") };
        assert_eq!(lease.id, id);
    });
}

#[test]
fn a_released_connection_is_used_again() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(2));
        let mut lease = checkout(&pool, &worker).await.unwrap();
        echo(&mut lease).await;
        assert_eq!((lease.pid(), lease.secret()), (1, &b"key!"[..]));
        assert_eq!(lease.parameters()[1], ("TimeZone".to_owned(), "UTC".to_owned()));
        let id = lease.id;
        lease.release();
        let Checkout::Ready(lease) = pool.checkout(&worker, Role::Unknown, Some(id), later()) else { panic!("idle") };
        assert_eq!(lease.id, id);
        assert_eq!(node.logins(), 1);
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.idle, stats.counters.opened), (1, 0, 1));
    });
}

#[test]
pub(crate) fn waiters_are_served_in_order_and_never_more_than_size_are_open() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let lease = checkout(&pool, &worker).await.unwrap();
        let mut waiters: Vec<_> = (0..3).map(|_| wait(&pool, &worker)).collect();
        assert!(waiters.iter_mut().all(|waiter| now(waiter).is_none()));
        assert_eq!(pool.stats().waiting, 3);
        lease.release();
        assert!(now(&mut waiters[1]).is_none());
        for mut waiter in waiters {
            now(&mut waiter).expect("it is this one's turn").unwrap().release();
        }
        assert_eq!(node.logins(), 1);
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.waiting), (1, 0));
        assert_eq!(stats.counters.waits.iter().sum::<u64>(), 4);
    });
}

#[test]
fn a_waiter_whose_time_is_over_is_told_the_pool() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let lease = checkout(&pool, &worker).await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let Checkout::Wait(waiter) = pool.checkout(&worker, Role::Unknown, None, deadline) else { panic!("in use") };
        let Err(CheckoutError::Timeout { pool: name }) = waiter.await else { panic!("nothing was released") };
        assert!(Instant::now() >= deadline);
        assert_eq!(name, "app/alice@n1");
        lease.release();
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.waiting, stats.counters.timeouts), (1, 0, 1));
    });
}

#[test]
fn another_workers_idle_connection_is_taken_over() {
    local(async {
        let (node, first, second) = (Node::primary(), worker(0), worker(1));
        let pool = pool_of(&node, config(1));
        checkout(&pool, &first).await.unwrap().release();
        let mut lease = checkout(&pool, &second).await.unwrap();
        echo(&mut lease).await;
        lease.release();
        assert_eq!(pool.stats().counters.takeovers, 1);
        // It lives on the second worker now.
        let Checkout::Ready(_) = pool.checkout(&second, Role::Unknown, None, later()) else { panic!("idle") };
        assert_eq!((node.logins(), pool.stats().counters.takeovers), (1, 1));
    });
}

#[test]
fn below_the_size_a_worker_opens_its_own() {
    local(async {
        let (node, first, second) = (Node::primary(), worker(0), worker(1));
        let pool = pool_of(&node, config(2));
        checkout(&pool, &first).await.unwrap().release();
        let _waiter = wait(&pool, &second);
        assert_eq!((pool.stats().opening, pool.stats().idle), (1, 1));
    });
}

#[test]
fn a_connection_that_ended_while_idle_is_replaced_unseen() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let (pools, failures) = pools_of(&node, config(1));
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        checkout(&pool, &worker).await.unwrap().release();
        node.cut(0);
        until("the end is noticed", || {
            let mut ledger = pool.lock();
            let mut ended = false;
            let none = ledger.book.take_idle_if(0, |connection| {
                ended = connection.stream.has_input();
                false
            });
            assert!(none.is_empty());
            ended
        })
        .await;
        let mut lease = checkout(&pool, &worker).await.unwrap();
        echo(&mut lease).await;
        assert_eq!((lease.pid(), node.logins()), (2, 2));
        assert_eq!(failures.load(Ordering::SeqCst), 1);
        assert_eq!((pool.stats().in_use, pool.stats().counters.closed), (1, 1));
    });
}

#[test]
fn what_an_idle_connection_is_told_is_recorded_and_its_end_is_housekeepings() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let (pools, _) = pools_of(&node, config(1));
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        checkout(&pool, &worker).await.unwrap().release();
        let mut words = message(b'S', b"TimeZone\0Asia/Tokyo\0");
        words.extend(message(b'N', b"SNOTICE\0\0"));
        node.say(0, &words);
        let zone = |pools: &Pools| {
            pools.tick(&worker, Instant::now());
            let Checkout::Ready(lease) = pool.checkout(&worker, Role::Unknown, None, later()) else { panic!("idle") };
            let zone = lease.parameters()[1].1.clone();
            lease.release();
            zone
        };
        until("the new time zone", || zone(&pools) == "Asia/Tokyo").await;
        assert_eq!(node.logins(), 1);
        node.say(0, &message(b'E', b"SFATAL\0C57P01\0Mgoodbye\0\0"));
        until("the connection is closed", || {
            pools.tick(&worker, Instant::now());
            pool.stats().idle == 0
        })
        .await;
        assert_eq!(pool.stats().counters.closed, 1);
    });
}

#[test]
fn idle_and_old_connections_are_closed_with_a_word_and_min_idle_is_kept() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let (pools, _) = pools_of(&node, PoolConfig { min_idle: 1, ..config(3) });
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let leases = [checkout(&pool, &worker).await.unwrap(), checkout(&pool, &worker).await.unwrap()];
        leases.into_iter().for_each(Lease::release);
        let started = Instant::now();
        pools.tick(&worker, started + Duration::from_secs(599));
        assert_eq!(pool.stats().idle, 2);
        pools.tick(&worker, started + Duration::from_secs(601));
        assert_eq!(pool.stats().idle, 1);
        until("the node hears Terminate", || node.see(|seen| seen.terminated) == 1).await;
        // Old age spares nobody, and what `min_idle` wants is opened at once.
        pools.tick(&worker, started + Duration::from_secs(3601));
        assert_eq!((pool.stats().idle, pool.stats().opening), (0, 1));
        until("it is open", || pool.stats().idle == 1).await;
        assert_eq!(node.logins(), 3);
    });
}

#[test]
fn a_connection_too_old_is_closed_when_it_is_released() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let lease = checkout(&pool, &worker).await.unwrap();
        worker.set_coarse_now(Instant::now() + Duration::from_secs(3601));
        lease.release();
        assert_eq!((pool.stats().idle, pool.stats().in_use), (0, 0));
    });
}

#[test]
fn an_unreachable_node_is_left_alone_for_a_while() {
    local(async {
        let worker = worker(0);
        // Bound and closed again: nobody listens there.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let node = Node::primary();
        let endpoint = Endpoint { port, ..node.endpoint() };
        let failures = Arc::new(AtomicUsize::new(0));
        let reported = Arc::clone(&failures);
        let report = move |_| {
            reported.fetch_add(1, Ordering::SeqCst);
        };
        let pools = Pools::new(vec![endpoint], 1, (config(5), Vec::new()), report, |_, _| ());
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        assert!(matches!(checkout(&pool, &worker).await, Err(CheckoutError::Connect { .. })));
        let mut second = wait(&pool, &worker);
        assert!(matches!(now(&mut second), Some(Err(CheckoutError::Connect { .. }))));
        assert_eq!((failures.load(Ordering::SeqCst), pool.stats().counters.errors), (1, 1));
        assert!(pool.stats().resting.is_some());
        // After the pause it is tried again.
        until("the pause ends", || pool.stats().resting.is_none()).await;
        assert!(checkout(&pool, &worker).await.is_err());
        assert_eq!(pool.stats().counters.errors, 2);
    });
}

#[test]
fn a_node_that_says_nothing_is_given_up() {
    local(async {
        let (node, worker) = (Node::start(Script::Freeze), worker(0));
        let pool = pool_of(&node, PoolConfig { connect_timeout: Duration::from_millis(30), ..config(1) });
        let Err(CheckoutError::Connect { error, .. }) = checkout(&pool, &worker).await else { panic!("frozen") };
        assert!(matches!(*error, error::ConnectError::TimedOut(_)));
        assert_eq!((pool.stats().opening, pool.stats().waiting), (0, 0));
    });
}

#[test]
fn a_nodes_refusal_is_kept_word_for_word_and_new_credentials_try_anew() {
    local(async {
        let (node, worker) = (Node::start(Script::Refuse { sqlstate: "28P01" }), worker(0));
        let (pools, _) = pools_of(&node, config(1));
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let Err(CheckoutError::Refused { error, sqlstate, .. }) = checkout(&pool, &worker).await else { panic!("no") };
        assert_eq!((&*error, &*sqlstate), (&b"SFATAL\0C28P01\0Mno\0\0"[..], "28P01"));
        *node.script.lock().unwrap() = Script::Welcome { parameters: Vec::new() };
        pools.pool(NodeId(0), "app", "alice", &anyone());
        checkout(&pool, &worker).await.unwrap();
    });
}

#[test]
fn while_a_node_takes_no_more_waiters_wait_for_a_release() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(5));
        let lease = checkout(&pool, &worker).await.unwrap();
        *node.script.lock().unwrap() = Script::Refuse { sqlstate: "53300" };
        let mut waiter = wait(&pool, &worker);
        until("the refusal", || pool.stats().counters.errors == 1).await;
        assert!(now(&mut waiter).is_none());
        lease.release();
        now(&mut waiter).expect("released").unwrap().release();
        assert_eq!(node.logins(), 1);
    });
}

#[test]
fn a_dropped_lease_closes_its_socket_and_frees_its_place() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let lease = checkout(&pool, &worker).await.unwrap();
        let waiter = wait(&pool, &worker);
        drop(lease);
        until("the node sees the end", || node.see(|seen| seen.broken) == 1).await;
        let lease = waiter.await.unwrap();
        assert_eq!((lease.pid(), pool.stats().in_use), (2, 1));
    });
}

#[test]
fn who_stops_waiting_leaves_the_queue_and_what_was_granted_goes_on() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let lease = checkout(&pool, &worker).await.unwrap();
        let (first, second, mut third) = (wait(&pool, &worker), wait(&pool, &worker), wait(&pool, &worker));
        drop(first);
        lease.release();
        // Granted to the second, who never looks.
        assert!(now(&mut third).is_none());
        drop(second);
        now(&mut third).expect("passed on").unwrap().release();
        assert_eq!((pool.stats().idle, pool.stats().in_use, node.logins()), (1, 0, 1));
    });
}

#[test]
fn a_node_that_is_not_what_it_should_be_gives_no_lease() {
    local(async {
        let (node, worker) = (Node::start(Script::Welcome { parameters: vec![(STANDBY, "on")] }), worker(0));
        let (pools, failures) = pools_of(&node, config(1));
        pools.set_role(NodeId(0), Role::Primary);
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let Err(CheckoutError::WrongRole { expected, found, .. }) = checkout(&pool, &worker).await else {
            panic!("a replica")
        };
        assert_eq!((expected, found), (Role::Primary, Role::Replica));
        assert_eq!(failures.load(Ordering::SeqCst), 1);

        pools.set_role(NodeId(0), Role::Replica);
        let lease = checkout(&pool, &worker).await.unwrap();
        assert_eq!(lease.role, Role::Replica);
        let startup = node.see(|seen| seen.sessions.last().unwrap().1.clone());
        assert_eq!(startup["default_transaction_read_only"], "on");
        assert_eq!((startup["user"].as_str(), startup["database"].as_str()), ("alice", "app"));
        // Whoever decided by an older view is told so.
        let Checkout::Wait(mut stale) = pool.checkout(&worker, Role::Primary, None, later()) else { panic!("stale") };
        assert!(matches!(now(&mut stale), Some(Err(CheckoutError::WrongRole { .. }))));
    });
}

#[test]
fn a_change_of_role_gives_up_all_connections() {
    local(async {
        let (node, worker) = (Node::start(Script::Welcome { parameters: Vec::new() }), worker(0));
        let (pools, _) = pools_of(&node, config(2));
        pools.set_role(NodeId(0), Role::Replica);
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let used = checkout(&pool, &worker).await.unwrap();
        checkout(&pool, &worker).await.unwrap().release();
        pools.set_role(NodeId(0), Role::Primary);
        assert_eq!((pool.stats().idle, pool.stats().in_use), (0, 1));
        used.release();
        assert_eq!((pool.stats().idle, pool.stats().in_use), (0, 0));
        until("both were told", || node.see(|seen| seen.terminated) == 2).await;
        assert_eq!(checkout(&pool, &worker).await.unwrap().role, Role::Primary);
    });
}

#[test]
fn a_promoted_node_gives_up_its_replica_connections_by_its_own_word() {
    local(async {
        let (node, worker) = (Node::start(Script::Welcome { parameters: vec![(STANDBY, "on")] }), worker(0));
        let (pools, _) = pools_of(&node, config(1));
        pools.set_role(NodeId(0), Role::Replica);
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let mut lease = checkout(&pool, &worker).await.unwrap();
        lease.set_parameter(STANDBY, "off");
        lease.release();
        assert_eq!(pool.stats().idle, 0);
    });
}

#[test]
fn after_the_end_nobody_gets_or_waits_for_anything() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let (pools, _) = pools_of(&node, config(1));
        let pool = pools.pool(NodeId(0), "app", "alice", &anyone());
        let lease = checkout(&pool, &worker).await.unwrap();
        let mut waiter = wait(&pool, &worker);
        pools.close();
        assert!(matches!(now(&mut waiter), Some(Err(CheckoutError::Shutdown))));
        lease.release();
        assert_eq!((pool.stats().idle, pool.stats().in_use), (0, 0));
        assert!(matches!(checkout(&pool, &worker).await, Err(CheckoutError::Shutdown)));
    });
}

#[test]
fn a_connection_is_not_used_again_after_a_cancel_of_unknown_fate() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let lease = checkout(&pool, &worker).await.unwrap();
        drop(lease.cancel.begin());
        lease.release();
        assert_eq!((pool.stats().idle, pool.stats().in_use), (0, 0));
    });
}

#[test]
fn sessions_of_two_threads_share_a_small_pool_without_losing_anything() {
    const SESSIONS: usize = 8;
    const ROUNDS: usize = 200;
    let node = Node::primary();
    let pool = pool_of(&node, config(3));
    let done = Arc::new(AtomicUsize::new(0));
    let (shared, count) = (Arc::clone(&pool), Arc::clone(&done));
    let session = move |worker: Rc<Worker>, stream, _peer| {
        let (pool, done) = (Arc::clone(&shared), Arc::clone(&count));
        async move {
            for round in 0..ROUNDS {
                let mut lease = checkout(&pool, &worker).await.unwrap();
                assert!(pool.stats().in_use <= 3);
                echo(&mut lease).await;
                // Now and then one is lost, and now and then someone stops waiting.
                if round % 50 == 49 {
                    drop(lease)
                } else {
                    lease.release()
                }
                if round % 7 == 0 {
                    drop(pool.checkout(&worker, Role::Unknown, None, later()));
                }
            }
            done.fetch_add(1, Ordering::SeqCst);
            drop::<crate::stream::Stream>(stream);
        }
    };
    let workers = crate::worker::Workers::start(2, crate::worker::tests::fittings, |_| (), session).unwrap();
    let gate = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    for at in 0..SESSIONS {
        clients.push(TcpStream::connect(gate.local_addr().unwrap()).unwrap());
        let socket = crate::stream::Socket::Tcp(gate.accept().unwrap().0);
        workers.handles[at % 2].serve(socket, "test".to_owned());
    }
    for mut client in clients {
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(done.load(Ordering::SeqCst), SESSIONS);
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0));
    assert!(stats.counters.takeovers > 0);
    workers.drain(Duration::from_secs(5));
    assert!(workers.join());
}
