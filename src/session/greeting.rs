//! What a client hears after its login: ParameterStatus, BackendKeyData, ReadyForQuery. The values are the primary's own, after
//! the client's startup settings were applied to one of its connections; they are remembered, so that most logins need none.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cancel::SecretLength;
use super::greetings::{APPLICATION_NAME, Greeting, is_taken_as_it_is};
use super::machine::Machine;
use super::run::{ClientSide, Session};
use super::settings::SessionSettings;
use super::startup::{ProtocolVersion, StartupRequest};
use super::{Refusal, Shared};
use crate::auth::Credentials;
use crate::cluster::{NodeId, Role};
use crate::pool::state::Settings;
use crate::pool::sync;
use crate::pool::{Checkout, CheckoutError, Home, Lease, Pool};
use crate::protocol::sqlstate::ClientError;
use crate::protocol::{backend, frame};
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::Lent;

/// A connection that a login waits for, in an interval of looking for a primary.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A login waits so long for a home to be opened, and again as long as the primary answers probes meanwhile: one that is
/// silent is not well, and reads go on without it.
const HOME_PATIENCE: Duration = Duration::from_secs(1);

impl Session {
    /// Greets a client that was let in.
    pub(super) async fn open(
        worker: &Rc<Worker>,
        shared: &Arc<Shared>,
        mut client: Stream,
        peer: &str,
        request: &StartupRequest,
        credentials: Credentials,
    ) -> Result<Box<Session>, Refusal> {
        let mut startup = Arc::new(startup_settings(request));
        let rules = shared.rules(&request.database, &request.user);
        let home = Home::default();
        let (greeting, connection) = match greet(worker, shared, request, (&credentials, &home), &startup).await {
            Ok(greeting) => greeting,
            Err(Unfit::Said(body)) => return Err(Refusal::quoting(client, &body)),
            Err(Unfit::Error(error)) => return Err(Refusal::new(client, &error)),
        };
        let cancel = match shared.cancels.register(worker, greeting.pid, secret_length(request)) {
            Ok(cancel) => cancel,
            Err(error) => return Err(Refusal::new(client, &ClientError::unreachable("pgweir", &error.to_string()))),
        };
        let words = greeting.words(&startup, cancel.pid(), &cancel.secret());
        if greeting.startup == startup {
            startup = greeting.startup;
        }
        // A client that is gone is found out by the first read.
        drop(write_all(&mut client, &words).await);
        let id = shared.next_session();
        let (catalog, mut settings) = (shared.catalogs.database(&request.database), SessionSettings::new(startup));
        settings.began_otherwise(&catalog.snapshot(), &request.user);
        let mut machine = Machine::new(id, &rules, settings);
        machine.set_home(connection);
        Ok(Box::new(Session {
            id,
            peer: peer.into(),
            worker: Rc::clone(worker),
            shared: Arc::clone(shared),
            client,
            client_side: ClientSide::Open,
            lost: None,
            machine,
            lease: None,
            home,
            tally: super::tally::Tally::default(),
            parked: None,
            waiter: None,
            waiting: None,
            stall: None,
            heard: 0,
            bytes: Lent::default(),
            reading_unit: true,
            credentials,
            pools: Vec::new(),
            abroad: Vec::new(),
            catalog,
            account: worker.metrics.account(&request.database, &request.user),
            cancel,
            rules,
        }))
    }
}

/// What the greeting depends on.
fn kind(startup: &Settings) -> Settings {
    let mut kind = startup.clone();
    if let Some(name) = kind.get_mut(APPLICATION_NAME).filter(|name| is_taken_as_it_is(name)) {
        *name = Box::default();
    }
    kind
}

/// The client's own settings from its StartupMessage, in the form of the mirror.
fn startup_settings(request: &StartupRequest) -> Settings {
    let mut settings = Settings::new();
    for (name, value) in &request.parameters {
        settings.insert(name.to_ascii_lowercase().into(), value.as_bytes().into());
    }
    settings
}

pub(super) fn secret_length(request: &StartupRequest) -> SecretLength {
    match request.version {
        ProtocolVersion::V3_0 => SecretLength::Four,
        ProtocolVersion::V3_2 => SecretLength::ThirtyTwo,
    }
}

/// Why nobody can be greeted.
enum Unfit {
    /// The node's ErrorResponse body.
    Said(Vec<u8>),
    Error(ClientError),
}

async fn greet(
    worker: &Rc<Worker>,
    shared: &Arc<Shared>,
    request: &StartupRequest,
    (credentials, home): (&Credentials, &Home),
    startup: &Arc<Settings>,
) -> Result<(Greeting, Option<u64>), Unfit> {
    let key = (request.database.as_str().into(), request.user.as_str().into(), kind(startup));
    if let Some(mut greeting) = shared.greetings.known(&key) {
        let lease = home_lease(worker, shared, request, credentials).await?;
        greeting.pid = told_pid(shared, lease.as_ref());
        let connection = lease.map(|mut lease| {
            settle_in(&mut lease, home);
            let id = lease.id.0;
            lease.release();
            id
        });
        return Ok((greeting, connection));
    }
    if let Some(greeting) = shared.greetings.alike(&key)
        && is_exhausted(shared, request, credentials)
    {
        return Ok((Greeting { pid: shared.cancels.next_pid(), ..greeting.with(startup) }, None));
    }
    let mut lease = first_lease(worker, shared, request, credentials).await?;
    let (mut query, mut notices) = (Vec::new(), Vec::new());
    let mut have = (*lease.state.settings).clone();
    if startup.contains_key(APPLICATION_NAME) {
        // Set anew even if it is there already, for the remark on it.
        have.remove(APPLICATION_NAME);
    }
    let synced = sync::put_sync(&mut query, &have, startup, false);
    if synced != sync::Sync::Nothing {
        // Only the text: `exchange` makes a Query of it.
        let text = query[frame::HEADER..query.len() - 1].to_vec();
        match exchange(&mut lease, &text, &mut notices).await {
            Ok(None) => {}
            Ok(Some(body)) => {
                lease.release();
                return Err(Unfit::Said(fatal(&body)));
            }
            Err(error) => return Err(Unfit::Error(ClientError::unreachable("primary", &error.to_string()))),
        }
    }
    lease.state.settings = Arc::clone(startup);
    let greeting = Greeting {
        notices: notices.into(),
        parameters: lease.parameters().into(),
        pid: told_pid(shared, Some(&lease)),
        startup: Arc::clone(startup),
    };
    settle_in(&mut lease, home);
    let connection = lease.id.0;
    lease.release();
    shared.greetings.keep(key, greeting.clone());
    Ok((greeting, Some(connection)))
}

/// Whether a refusal is about who asks, or for what, and not about a node that takes nobody now.
fn is_final(sqlstate: &str) -> bool {
    !sqlstate.starts_with("53") && !sqlstate.starts_with("57")
}

/// The process that will be the session's own, else a number of our own: another session's process must not be taken for
/// this one's.
fn told_pid(shared: &Shared, lease: Option<&Lease>) -> u32 {
    let vacant = lease.filter(|lease| lease.is_vacant());
    vacant.map_or_else(|| shared.cancels.next_pid(), |lease| lease.pid())
}

/// If there are more sessions than connections, some have no home.
fn settle_in(lease: &mut Lease, home: &Home) {
    if lease.is_vacant() {
        lease.resident = Some(home.clone());
    }
}

/// Nobody can be asked now: a login must not wait for other clients' transactions.
fn is_exhausted(shared: &Shared, request: &StartupRequest, credentials: &Credentials) -> bool {
    let primary = shared.cluster.view().primary;
    primary.is_none_or(|node| pool(shared, node, request, credentials).is_exhausted())
}

fn pool(shared: &Shared, node: NodeId, request: &StartupRequest, credentials: &Credentials) -> Arc<Pool> {
    shared.pools.pool(node, &request.database, &request.user, credentials)
}

/// A connection for a session that could also be greeted without one: it waits for the primary, not for other sessions.
async fn home_lease(
    worker: &Rc<Worker>,
    shared: &Shared,
    request: &StartupRequest,
    credentials: &Credentials,
) -> Result<Option<Lease>, Unfit> {
    let until = Instant::now() + shared.rules(&request.database, &request.user).checkout_timeout;
    while let Some(primary) = shared.cluster.view().primary {
        let (since, pool) = (Instant::now(), pool(shared, primary, request, credentials));
        if pool.is_exhausted() {
            break;
        }
        match checkout(&pool, worker, until.min(since + HOME_PATIENCE)).await {
            Ok(lease) => return Ok(Some(lease)),
            Err(CheckoutError::Refused { sqlstate, error, .. }) if is_final(&sqlstate) => {
                return Err(Unfit::Said(error.to_vec()));
            }
            Err(CheckoutError::Timeout { .. }) if Instant::now() < until && has_answered(shared, primary, since) => {}
            Err(_) => break,
        }
    }
    Ok(None)
}

/// Whether the node answered a probe lately.
fn has_answered(shared: &Shared, node: NodeId, since: Instant) -> bool {
    shared.cluster.view().node(node).and_then(|node| node.answered).is_some_and(|at| at >= since)
}

/// A connection to the primary, as soon as there is one.
async fn first_lease(
    worker: &Rc<Worker>,
    shared: &Arc<Shared>,
    request: &StartupRequest,
    credentials: &Credentials,
) -> Result<Lease, Unfit> {
    let sections = shared.rules(&request.database, &request.user);
    let until = Instant::now() + sections.cluster.failover_timeout;
    loop {
        let primary = shared.cluster.view().primary;
        let failure = match primary {
            None => ClientError::no_primary(),
            Some(node) => {
                let pool = pool(shared, node, request, credentials);
                match checkout(&pool, worker, Instant::now() + sections.checkout_timeout).await {
                    Ok(lease) => return Ok(lease),
                    Err(CheckoutError::Refused { error, .. }) => return Err(Unfit::Said(error.to_vec())),
                    Err(CheckoutError::Timeout { pool }) => {
                        return Err(Unfit::Error(ClientError::checkout_timeout(&pool)));
                    }
                    Err(error) => ClientError::unreachable("primary", &error.to_string()),
                }
            }
        };
        if Instant::now() >= until {
            return Err(Unfit::Error(failure));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub(super) async fn checkout(pool: &Arc<Pool>, worker: &Rc<Worker>, deadline: Instant) -> Result<Lease, CheckoutError> {
    match pool.checkout(worker, Role::Primary, None, deadline) {
        Checkout::Ready(lease) => Ok(lease),
        Checkout::Wait(mut waiter) => poll_fn(|cx| waiter.poll(cx)).await,
    }
}

/// Runs one Query of ours on a connection that nobody else uses; its rows are dropped, ParameterStatus is noted, and
/// notices are gathered. `Some` is the body of the node's ErrorResponse.
pub(super) async fn exchange(
    lease: &mut Lease,
    text: &[u8],
    notices: &mut Vec<u8>,
) -> std::io::Result<Option<Vec<u8>>> {
    let mut query = Vec::new();
    lease.state.unnamed = None;
    crate::protocol::frontend::put_query(&mut query, text);
    write_all(&mut lease.stream, &query).await?;
    let (mut input, mut error) = (Vec::new(), None);
    loop {
        let invalid = |_| std::io::Error::from(std::io::ErrorKind::InvalidData);
        while let Some(header) = frame::header(&input).map_err(invalid)? {
            if input.len() < header.total {
                break;
            }
            let rest = input.split_off(header.total);
            let body = &input[frame::HEADER..];
            match header.tag {
                b'E' => error = Some(body.to_vec()),
                b'N' => notices.extend_from_slice(&input),
                b'S' => note_parameter(lease, body),
                b'Z' => return Ok(error),
                _ => {}
            }
            input = rest;
        }
        let mut chunk = [0; 4096];
        let n = poll_fn(|cx| lease.stream.poll_read_into(cx, &mut chunk)).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(&chunk[..n]);
    }
}

fn note_parameter(lease: &mut Lease, body: &[u8]) {
    let Some((name, value)) = backend::parameter_status(body) else {
        return;
    };
    lease.set_parameter(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
}

/// A startup setting that the node refuses ends the login, as it would without us.
fn fatal(body: &[u8]) -> Vec<u8> {
    let mut fatal = Vec::new();
    let mut rest = body;
    while let Some((&code, tail)) = rest.split_first() {
        let Some(end) = memchr::memchr(0, tail) else {
            break;
        };
        let value: &[u8] = if code == b'S' || code == b'V' { b"FATAL" } else { &tail[..end] };
        fatal.push(code);
        fatal.extend_from_slice(value);
        fatal.push(0);
        rest = &tail[end + 1..];
    }
    fatal.push(0);
    fatal
}

pub(super) async fn write_all(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    stream.write_all(bytes).await?;
    stream.flush().await
}
