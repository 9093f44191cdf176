//! Cancels against a scripted node, and cancels and pools against PostgreSQL itself: proof of the role, a terminated server
//! process, a refusal.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::cluster::{NodeId, NodeStats, Role};
use crate::pool::tests::{Node, anyone, checkout, config, local, now, pool_of, until, wait};
use crate::pool::{Checkout, CheckoutError, Endpoint, Lease, Pool, Pools};
use crate::worker::tests::worker;

/// What a CancelRequest leads to, once it is known.
fn ask_for_cancel(cancels: &Arc<Cancels>, pid: u32, secret: &[u8]) -> Rc<RefCell<Option<CancelOutcome>>> {
    let outcome = Rc::new(RefCell::new(None));
    let (cancels, secret, answer) = (Arc::clone(cancels), secret.to_vec(), Rc::clone(&outcome));
    tokio::task::spawn_local(async move {
        let outcome = cancels.cancel(pid, &secret).await;
        answer.replace(Some(outcome));
    });
    outcome
}

#[test]
fn a_cancel_reaches_the_node_and_its_connection_waits_for_it() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let cancels = Cancels::new();
        let session = cancels.register(&worker, cancels.next_pid(), SecretLength::ThirtyTwo).unwrap();
        assert_eq!(session.secret().len(), 32);
        let (pid, secret) = (session.pid(), session.secret());
        let (idle, outcome) = tokio::join!(
            async {
                poll_fn(|cx| session.poll_asked(cx)).await;
                session.answer(CancelOutcome::NothingToCancel);
            },
            cancels.cancel(pid, &secret)
        );
        assert_eq!((idle, outcome), ((), CancelOutcome::NothingToCancel));

        let lease = checkout(&pool, &worker).await.unwrap();
        assert_eq!(cancels.cancel(pid, &secret[..31]).await, CancelOutcome::UnknownKey);
        assert_eq!(cancels.cancel(pid + 1, &secret).await, CancelOutcome::UnknownKey);
        node.see(|seen| seen.hold_cancels = true);
        let outcome = ask_for_cancel(&cancels, pid, &secret);
        poll_fn(|cx| session.poll_asked(cx)).await;
        session.deliver(&lease.cancel, false);
        until("the node hears of it", || node.see(|seen| seen.cancels.clone()) == [(1, b"key!".to_vec())]).await;
        lease.release();
        let mut waiter = wait(&pool, &worker);
        assert!(now(&mut waiter).is_none());
        assert!(outcome.borrow().is_none());

        node.see(|seen| seen.hold_cancels = false);
        let lease = waiter.await.unwrap();
        assert_eq!((lease.pid(), node.logins()), (1, 1));
        until("the asker is answered", || outcome.borrow().is_some()).await;
        assert_eq!(*outcome.borrow(), Some(CancelOutcome::Delivered));
        drop(session);
        assert_eq!(cancels.cancel(pid, &secret).await, CancelOutcome::UnknownKey);
    });
}

/// Drivers cancel twice; a second one that came late would strike the next statement.
#[test]
fn a_cancel_on_its_way_serves_all_who_ask_for_the_same_statement() {
    local(async {
        let (node, worker) = (Node::primary(), worker(0));
        let pool = pool_of(&node, config(1));
        let cancels = Cancels::new();
        let session = cancels.register(&worker, cancels.next_pid(), SecretLength::Four).unwrap();
        let (pid, secret) = (session.pid(), session.secret());
        let lease = checkout(&pool, &worker).await.unwrap();
        node.see(|seen| seen.hold_cancels = true);
        let mut outcomes = Vec::new();
        let one = (1, b"key!".to_vec());
        for (again, heard) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
            outcomes.push(ask_for_cancel(&cancels, pid, &secret));
            poll_fn(|cx| session.poll_asked(cx)).await;
            session.deliver(&lease.cancel, again);
            until("the node hears of it", || node.see(|seen| seen.cancels.len()) >= heard).await;
            assert_eq!(node.see(|seen| seen.cancels.clone()), vec![one.clone(); heard]);
        }
        assert!(outcomes.iter().all(|outcome| outcome.borrow().is_none()));
        node.see(|seen| seen.hold_cancels = false);
        until("all are answered", || outcomes.iter().all(|outcome| outcome.borrow().is_some())).await;
        assert!(outcomes.iter().all(|outcome| *outcome.borrow() == Some(CancelOutcome::Delivered)));
        // One that was taken is over.
        let again = ask_for_cancel(&cancels, pid, &secret);
        poll_fn(|cx| session.poll_asked(cx)).await;
        session.deliver(&lease.cancel, true);
        until("it is answered", || again.borrow().is_some()).await;
        assert_eq!(node.see(|seen| seen.cancels.len()), 3);
    });
}

/// A throw-away PostgreSQL on a Unix socket, gone when dropped.
struct Postgres {
    dir: PathBuf,
    process: Child,
}

/// `initdb` and `postgres` refuse root, so root lends them the user that the package made.
fn command(program: &str) -> Command {
    let versions = Path::new("/usr/lib/postgresql");
    let newest = std::fs::read_dir(versions).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let program = newest.join("bin").join(program);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

impl Postgres {
    fn start() -> Postgres {
        let dir = std::env::temp_dir().join(format!("pgweir-pool-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&dir).status().unwrap().success());
        }
        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "--username=app", "--no-sync", "--pgdata"]).arg(dir.join("data"));
        assert!(initdb.current_dir("/").stdout(Stdio::null()).status().unwrap().success());
        let mut postgres = command("postgres");
        postgres.arg("-D").arg(dir.join("data")).args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(&dir);
        let process = postgres.current_dir("/").stderr(Stdio::null()).spawn().unwrap();
        Postgres { dir, process }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            id: NodeId(0),
            name: "real".to_owned(),
            host: self.dir.to_str().unwrap().to_owned(),
            port: 5432,
            tls: None,
            stats: Arc::new(NodeStats::default()),
        }
    }
}

impl Drop for Postgres {
    /// The postmaster's death ends its children; nothing here is worth a clean shutdown.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn checkout_primary(pool: &Arc<Pool>, worker: &Rc<Worker>) -> Result<Lease, CheckoutError> {
    match pool.checkout(worker, Role::Primary, None, Instant::now() + Duration::from_secs(20)) {
        Checkout::Ready(lease) => Ok(lease),
        Checkout::Wait(waiter) => waiter.await,
    }
}

async fn ask(lease: &mut Lease, sql: &str) {
    let mut message = vec![b'Q'];
    message.extend_from_slice(&(sql.len() as u32 + 5).to_be_bytes());
    message.extend_from_slice(sql.as_bytes());
    message.push(0);
    lease.stream.write_all(&message).await.unwrap();
}

/// Everything up to ReadyForQuery, as text with its bytes.
async fn answer(lease: &mut Lease) -> String {
    let mut all = Vec::new();
    while !all.ends_with(b"Z\0\0\0\x05I") {
        assert!(lease.stream.read_buf(&mut all).await.unwrap() > 0);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_real_node_is_logged_in_to_cancelled_and_replaced() {
    let postgres = Postgres::start();
    tokio::runtime::LocalRuntime::new().unwrap().block_on(async {
        let worker = worker(0);
        let pools = Pools::new(vec![postgres.endpoint()], 1, (config(2), Vec::new()), |_| (), |_, _| ());
        pools.set_role(NodeId(0), Role::Primary);
        let pool = pools.pool(NodeId(0), "postgres", "app", &anyone());
        let patience = Instant::now() + Duration::from_secs(60);
        let mut lease = loop {
            match checkout_primary(&pool, &worker).await {
                Ok(lease) => break lease,
                Err(error) => assert!(Instant::now() < patience, "not started: {error}"),
            }
            tokio::task::yield_now().await;
        };
        assert!(lease.parameters().contains(&("in_hot_standby".to_owned(), "off".to_owned())));

        let cancels = Cancels::new();
        let session = cancels.register(&worker, cancels.next_pid(), SecretLength::Four).unwrap();
        let target = Arc::clone(&lease.cancel);
        let cancel = || async {
            let asked = async {
                poll_fn(|cx| session.poll_asked(cx)).await;
                session.deliver(&target, false);
            };
            let secret = session.secret();
            tokio::join!(cancels.cancel(session.pid(), &secret), asked).0
        };
        ask(&mut lease, "SELECT pg_sleep(600)").await;
        assert_eq!(cancel().await, CancelOutcome::Delivered);
        // The signal may come before the statement began, and is lost then, as with PostgreSQL itself: ask again.
        let mut slept = Box::pin(answer(&mut lease));
        let words = loop {
            tokio::select! {
                words = &mut slept => break words,
                () = worker.timers.sleep_until(Instant::now() + Duration::from_millis(200)) => {
                    cancel().await;
                }
            }
        };
        drop(slept);
        assert!(words.contains("C57014"), "{words}");

        let first = lease.pid();
        let mut other = checkout_primary(&pool, &worker).await.unwrap();
        lease.release();
        ask(&mut other, &format!("SELECT pg_terminate_backend({first}, 10000)")).await;
        assert!(answer(&mut other).await.contains("\0\0\0\u{1}t"));
        let mut third = checkout_primary(&pool, &worker).await.unwrap();
        ask(&mut third, "SELECT 'alive'").await;
        assert!(answer(&mut third).await.contains("alive"));
        assert_ne!(third.pid(), first);

        let nowhere = pools.pool(NodeId(0), "nowhere", "app", &anyone());
        let Err(CheckoutError::Refused { sqlstate, error, .. }) = checkout_primary(&nowhere, &worker).await else {
            panic!("there is no such database")
        };
        assert_eq!(sqlstate, "3D000");
        assert!(String::from_utf8_lossy(&error).contains("database \"nowhere\" does not exist"));
    });
}
