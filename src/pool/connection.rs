//! One connection of ours to a node: reaching the node, logging in, checking that its role is the expected one. The pool
//! opens them; `session::cancel` uses the same way to a node for a CancelRequest.
//!
//! A connection proves its role: one that says `in_hot_standby` otherwise than expected is never handed out.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use crate::auth::Credentials;
use crate::cluster::{NodeId, NodeStats, Role};
use crate::stream::Stream;

use super::error::{CheckoutError, ConnectError};
use super::home::Home;
use super::login::{self, LoginError, ServerStartup};
use super::state::ConnectionState;

/// Names a server connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// Encrypts a fresh TCP connection to a node as the node's configuration demands: SSLRequest, its answer, the handshake.
/// With `prefer` it may give the stream back in the clear.
pub trait Secure: Send + Sync {
    fn secure(&self, tcp: TcpStream) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + '_>>;
}

/// How to reach a node, and what is counted for it.
#[derive(Clone)]
pub struct Endpoint {
    pub id: NodeId,
    /// For people.
    pub name: String,
    /// A host name, an address, or a directory of a Unix socket.
    pub host: String,
    pub port: u16,
    /// `None`: in the clear.
    pub tls: Option<Arc<dyn Secure>>,
    pub stats: Arc<NodeStats>,
}

/// A logged-in connection. Whoever holds the lease owns it alone.
pub struct ServerConnection {
    pub id: ConnectionId,
    pub node: NodeId,
    /// What the node was taken for when this was opened; a replica's refuses writes even after a promotion.
    pub role: Role,
    pub stream: Stream,
    pub opened: Instant,
    /// [`NodeStats::probes_started`] at the moment before connecting: later probes say something about this connection.
    pub probes_at_open: u64,
    /// Since when it has been at work for the session that has it; the session sets it.
    pub leased: Instant,
    /// What the session layer knows of the server process's state.
    pub state: ConnectionState,
    /// The session whose home this is, or the last one whose home it was.
    pub resident: Option<Home>,
    /// Where a cancel for the statement at work here is to be sent; the session shows it to `session::cancel`.
    pub cancel: Arc<CancelTarget>,
    /// Current ParameterStatus values.
    pub parameters: Vec<(String, String)>,
    /// What the node said last; `None` before PostgreSQL 14.
    in_hot_standby: Option<bool>,
    /// `max_lifetime` with some variation, so that connections opened together do not all end together.
    pub(super) expires: Instant,
    pub(super) idle_since: Instant,
    /// The pool's generation at opening; an older one than the pool's is closed at release.
    pub(super) generation: u64,
    /// The pool's `defaults` at opening; an older one is closed once it is nobody's home.
    pub(super) defaults: u64,
    /// The worker whose reactor the stream is registered with.
    pub(super) worker: usize,
}

/// A server process that can be asked to cancel, and the gate that keeps its connection from being reused meanwhile: a
/// cancel that arrives late would hit the next client's statement.
pub struct CancelTarget {
    pub endpoint: Arc<Endpoint>,
    pub pid: u32,
    pub secret: Vec<u8>,
    under_way: AtomicUsize,
    /// The node did not close the cancel's connection in time: nobody knows when it will act on it.
    uncertain: AtomicBool,
    done: Notify,
}

/// A cancel under way; the gate opens when it is dropped.
pub struct CancelUnderWay {
    target: Arc<CancelTarget>,
    certain: bool,
}

impl CancelTarget {
    pub fn new(endpoint: Arc<Endpoint>, pid: u32, secret: Vec<u8>) -> Arc<CancelTarget> {
        let (under_way, uncertain) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(CancelTarget { endpoint, pid, secret, under_way, uncertain, done: Notify::new() })
    }

    /// Closes the gate. Call it on the worker that holds the lease, before anything is awaited.
    pub fn begin(self: &Arc<Self>) -> CancelUnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        CancelUnderWay { target: Arc::clone(self), certain: false }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) > 0
    }

    pub(super) fn is_uncertain(&self) -> bool {
        self.uncertain.load(Ordering::SeqCst)
    }

    pub(super) async fn settled(&self) {
        loop {
            let done = self.done.notified();
            if !self.is_under_way() {
                return;
            }
            done.await;
        }
    }
}

impl CancelUnderWay {
    /// The node closed the cancel's connection, so its signal was sent.
    pub fn was_delivered(mut self) {
        self.certain = true;
    }
}

impl Drop for CancelUnderWay {
    fn drop(&mut self) {
        if !self.certain {
            self.target.uncertain.store(true, Ordering::SeqCst);
        }
        self.target.under_way.fetch_sub(1, Ordering::SeqCst);
        self.target.done.notify_waiters();
    }
}

/// What a pool says about a connection to be opened.
pub(super) struct Opening {
    pub id: ConnectionId,
    pub role: Role,
    pub generation: u64,
    pub defaults: u64,
    pub worker: usize,
    pub expires: Instant,
    pub timeout: Duration,
    pub startup: ServerStartup,
    pub credentials: Credentials,
}

impl ServerConnection {
    pub fn pid(&self) -> u32 {
        self.cancel.pid
    }

    pub fn secret(&self) -> &[u8] {
        &self.cancel.secret
    }

    /// The ParameterStatus values, as the node reported them last.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Records a ParameterStatus.
    pub fn set_parameter(&mut self, name: &str, value: &str) {
        if name == "in_hot_standby" {
            self.in_hot_standby = Some(value == "on");
        }
        match self.parameters.iter_mut().find(|(known, _)| known == name) {
            Some((_, kept)) => value.clone_into(kept),
            None => self.parameters.push((name.to_owned(), value.to_owned())),
        }
    }

    /// No living session has its home here.
    pub fn is_vacant(&self) -> bool {
        self.resident.as_ref().is_none_or(|home| !home.is_shared())
    }

    /// It began with other settings than one that is opened now (`defaults` is the pool's), and is nobody's home.
    pub(super) fn is_outdated(&self, defaults: u64) -> bool {
        self.defaults != defaults && self.is_vacant()
    }

    /// What the node says it is, if that contradicts what it was taken for.
    pub fn contradicts(&self) -> Option<Role> {
        match (self.role, self.in_hot_standby) {
            (Role::Primary, Some(true)) => Some(Role::Replica),
            (Role::Replica, Some(false)) => Some(Role::Primary),
            _ => None,
        }
    }

    /// Says goodbye, if the socket takes it at once, and closes.
    pub(super) fn terminate(mut self: Box<Self>) {
        // A node that does not read it sees the connection's end all the same.
        let _ = self.stream.write_now(b"X\0\0\0\x04");
    }
}

/// Connects, logs in and checks the role, all within the opening's timeout.
pub(super) async fn open(endpoint: &Arc<Endpoint>, opening: Opening) -> Result<Box<ServerConnection>, CheckoutError> {
    let timeout = opening.timeout;
    match tokio::time::timeout(timeout, open_patiently(endpoint, opening)).await {
        Ok(result) => result,
        Err(_) => Err(cannot_connect(endpoint, ConnectError::TimedOut(timeout))),
    }
}

async fn open_patiently(endpoint: &Arc<Endpoint>, opening: Opening) -> Result<Box<ServerConnection>, CheckoutError> {
    let probes_at_open = endpoint.stats.probes_started.load(Ordering::SeqCst);
    let mut stream = dial(endpoint).await.map_err(|error| cannot_connect(endpoint, error))?;
    let greeting = login::log_in(&mut stream, &opening.startup, &opening.credentials).await;
    let greeting = greeting.map_err(|error| match error {
        LoginError::Refused { body, sqlstate, .. } => {
            CheckoutError::Refused { node: endpoint.name.clone(), sqlstate, error: body.into() }
        }
        LoginError::OtherVerifier => not_the_verifier(endpoint, &opening.startup.user),
        other => cannot_connect(endpoint, ConnectError::Login(other)),
    })?;
    let now = Instant::now();
    let standby = greeting.parameters.iter().find(|(name, _)| name == "in_hot_standby");
    let connection = ServerConnection {
        id: opening.id,
        node: endpoint.id,
        role: opening.role,
        stream,
        opened: now,
        probes_at_open,
        leased: now,
        state: ConnectionState::default(),
        resident: None,
        cancel: CancelTarget::new(Arc::clone(endpoint), greeting.pid, greeting.secret),
        in_hot_standby: standby.map(|(_, value)| value == "on"),
        parameters: greeting.parameters,
        expires: opening.expires,
        idle_since: now,
        generation: opening.generation,
        defaults: opening.defaults,
        worker: opening.worker,
    };
    match connection.contradicts() {
        None => Ok(Box::new(connection)),
        Some(found) => Err(CheckoutError::WrongRole { node: endpoint.name.clone(), expected: opening.role, found }),
    }
}

/// The password was changed or has expired (PostgreSQL then makes a verifier up): the node would refuse it in these words.
fn not_the_verifier(endpoint: &Endpoint, user: &str) -> CheckoutError {
    let body = format!("SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"{user}\"\0\0");
    let error = body.into_bytes().into();
    CheckoutError::Refused { node: endpoint.name.clone(), sqlstate: "28P01".to_owned(), error }
}

fn cannot_connect(endpoint: &Endpoint, error: ConnectError) -> CheckoutError {
    CheckoutError::Connect { node: endpoint.name.clone(), error: Arc::new(error) }
}

/// A stream to the node, encrypted if its configuration says so. The caller sets the time limit.
pub async fn dial(endpoint: &Endpoint) -> Result<Stream, ConnectError> {
    if endpoint.host.starts_with('/') {
        let path = Path::new(&endpoint.host).join(format!(".s.PGSQL.{}", endpoint.port));
        return Ok(Stream::Unix(UnixStream::connect(path).await?));
    }
    let tcp = dial_tcp(&endpoint.host, endpoint.port).await?;
    Stream::tune(&tcp)?;
    match &endpoint.tls {
        None => Ok(Stream::Tcp(tcp)),
        Some(tls) => tls.secure(tcp).await.map_err(ConnectError::Tls),
    }
}

/// A name may have several addresses, and not all of them need to answer.
async fn dial_tcp(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::NoAddress(host.to_owned());
    for address in tokio::net::lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = ConnectError::Io(error),
        }
    }
    Err(last)
}
