//! The session's loop: bytes in, ask the machine, do the Step. It moves bytes and leases and decides nothing.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::Shared;
use super::cancel::CancelRegistration;
use super::checkout::{Answer, Queued};
use super::event::{Event, Waiting};
use super::machine::{ClientIo, Env, Link, LinkRole, Machine, Rules, SessionEnd, Step};
use super::pins::Pins;
use super::relay::Outbox;
use super::stall::Stall;
use super::tally::Tally;
use super::vacate::Abroad;
use crate::auth::Credentials;
use crate::catalog::handle::DatabaseCatalog;
use crate::cluster::{Change, ClusterView, NodeId, Role};
use crate::metrics::AccountCells;
use crate::pool::{Home, Lease, Pool};
use crate::protocol::backend;
use crate::protocol::frame::FrameError;
use crate::protocol::sqlstate::ClientError;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::Lent;
use crate::worker::timers::Timer;

/// After a primary's connection died a read is tried again so much later at the latest.
pub(super) const PRIMARY_LOST: Duration = Duration::from_millis(50);

/// A client that closed its side hears the answers that come within this time.
const FAREWELL: Duration = Duration::from_secs(1);

/// Whether the client may still say something.
pub(super) enum ClientSide {
    Open,
    /// It closed its side, and may be listening still.
    Closed(Box<Farewell>),
}

/// Nobody listens for longer than this.
pub(super) struct Farewell {
    pub until: Instant,
    pub timer: Option<Timer>,
}

impl ClientSide {
    pub fn is_open(&self) -> bool {
        matches!(self, ClientSide::Open)
    }
}

/// One logged-in client.
pub struct Session {
    pub(super) id: u64,
    /// The client's address, for the log.
    pub(super) peer: Box<str>,
    pub(super) worker: Rc<Worker>,
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Arc<Rules>,
    pub(super) client: Stream,
    pub(super) client_side: ClientSide,
    /// When a server connection died under this session last.
    pub(super) lost: Option<Instant>,
    pub(super) machine: Machine,
    pub(super) lease: Option<Lease>,
    pub(super) home: Home,
    pub(super) tally: Tally,
    /// A pinned connection waits here while a read runs on a replica.
    pub(super) parked: Option<Lease>,
    /// These two are rare, and large beside what a session at rest is.
    pub(super) waiter: Option<Box<Queued>>,
    pub(super) waiting: Option<Box<Waiting>>,
    pub(super) stall: Option<Box<Stall>>,
    /// Counts what was exchanged with server connections.
    pub(super) heard: u32,
    pub(super) bytes: Lent,
    /// The unit in `bytes.inbox` is incomplete: more of it must be read.
    pub(super) reading_unit: bool,
    pub(super) credentials: Credentials,
    pub(super) pools: Vec<(NodeId, Arc<Pool>)>,
    /// What a transaction under way changes that all databases share, and the catalogs that were told of it.
    pub(super) abroad: Vec<(Abroad, Vec<Arc<DatabaseCatalog>>)>,
    pub(super) catalog: Arc<DatabaseCatalog>,
    pub(super) account: Arc<AccountCells>,
    pub(super) cancel: CancelRegistration,
}

impl Session {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Until the client goes, the node ends it, or something is wrong beyond repair.
    pub async fn run(mut self: Box<Self>) {
        let end = loop {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            if let Err(end) = self.on_event(event) {
                break end;
            }
        };
        Box::pin(self.finish(end)).await;
    }

    fn awaits_node(&self) -> bool {
        self.machine.awaits_node() || self.waiter.is_some() || self.waiting.is_some()
    }

    fn on_event(&mut self, event: Event) -> Result<(), SessionEnd> {
        self.machine.resume(|| self.worker.take_desk());
        if self.bytes.is_none() {
            self.bytes.put(self.worker.take_buffers());
        }
        self.handle(event)?;
        self.rest();
        if !self.client_side.is_open() && !self.awaits_node() { Err(SessionEnd::Client) } else { Ok(()) }
    }

    /// What only a session that does something needs goes back to the worker.
    fn rest(&mut self) {
        if self.lease.is_some() || self.waiter.is_some() || !self.bytes.is_drained() {
            return;
        }
        if let Some(room) = self.machine.rest() {
            self.worker.put_desk(room);
            if let Some(buffers) = self.bytes.take() {
                self.worker.put_buffers(buffers);
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), SessionEnd> {
        match event {
            Event::Client(scratch, n) => {
                let result = self.on_client_bytes(&scratch[..n]);
                self.worker.put_scratch(scratch);
                result
            }
            Event::Server(scratch, n) => {
                let result = self.on_server_bytes(&scratch[..n]);
                self.worker.put_scratch(scratch);
                result
            }
            Event::ClientLost => Err(SessionEnd::Client),
            Event::ServerLost => self.on_server_lost(),
            Event::Lease(result) => {
                self.on_checkout(result)?;
                self.feed_inbox()
            }
            Event::Ended(ended) => Err(self.end_with(&ended)),
            Event::Cancel => self.on_cancel(),
            Event::Again => self.feed_inbox(),
            Event::Stalled => self.on_stalled(),
            Event::Shutdown => Err(SessionEnd::Error(ClientError::shutdown().into())),
        }
    }

    fn on_client_bytes(&mut self, bytes: &[u8]) -> Result<(), SessionEnd> {
        if bytes.is_empty() {
            // What was asked before is still answered, as PostgreSQL does; then nobody asks any more.
            let until = Instant::now() + FAREWELL;
            self.client_side = ClientSide::Closed(Box::new(Farewell { until, timer: None }));
            return if self.awaits_node() { Ok(()) } else { Err(SessionEnd::Client) };
        }
        self.worker.metrics.bytes_from_client(bytes.len());
        if !self.bytes.inbox.is_empty() {
            self.bytes.inbox.extend_from_slice(bytes);
            return self.feed_inbox();
        }
        let taken = self.feed(bytes)?;
        self.bytes.inbox.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    pub(super) fn feed_inbox(&mut self) -> Result<(), SessionEnd> {
        if self.bytes.inbox.is_empty() {
            return Ok(());
        }
        let mut inbox = std::mem::take(&mut self.bytes.inbox);
        let result = self.feed(&inbox);
        inbox.drain(..*result.as_ref().unwrap_or(&0));
        inbox.shrink_to(if inbox.is_empty() { 0 } else { inbox.len() * 2 });
        // What a retry gave back stands in front of what had not been taken.
        self.bytes.inbox.extend_from_slice(&inbox);
        result.map(drop)
    }

    /// Gives the machine what the client sent, does what it asks for, and returns how many bytes were taken.
    fn feed(&mut self, input: &[u8]) -> Result<usize, SessionEnd> {
        let (mut own, mut answers, mut at) = (self.worker.take_buffer(), self.worker.take_buffer(), 0);
        let had_ddl = self.machine.has_ddl();
        let seen = self.shared.cluster.publications();
        let mut io = ClientIo { to_server: Outbox::new(input, &mut own), to_client: &mut answers };
        let step = self.advance(input, &mut at, &mut io);
        if !had_ddl && self.machine.has_ddl() {
            self.catalog.ddl_started();
        }
        if let Some(abroad) = self.machine.take_abroad() {
            self.go_abroad(abroad);
        }
        let of_unit = self.machine.of_unit(&input[..at]);
        if self.machine.keeps_request() && self.bytes.request.is_empty() {
            self.bytes.request.extend_from_slice(of_unit);
        }
        self.send_server(io.to_server.bytes());
        self.send_client(io.to_client);
        self.worker.put_buffer(own);
        self.worker.put_buffer(answers);
        self.count_holdings();
        self.reading_unit = matches!(step, Ok(Step::ReadMore));
        if !self.machine.is_routed() && !matches!(step, Ok(Step::AwaitReplica(..))) {
            self.end_waiting();
        }
        match step? {
            Step::Close(end) => Err(end),
            Step::AwaitReplica(change, longest) => {
                self.await_change(change, seen, longest, None);
                Ok(at)
            }
            _ => Ok(at),
        }
    }

    /// Asks the machine until it needs something that is not here.
    fn advance(&mut self, input: &[u8], at: &mut usize, io: &mut ClientIo<'_>) -> Result<Step, SessionEnd> {
        loop {
            let step = self.ask(|machine, link, env| machine.on_client(input, at, io, link, env));
            let target = match step.map_err(violation)? {
                Step::Checkout(target) => target,
                Step::Deposed => {
                    self.abandon(io.to_client)?;
                    continue;
                }
                step => return Ok(step),
            };
            match self.checkout(target)? {
                Answer::Ready => {
                    self.end_waiting();
                    if let Some(mut lease) = self.lease.take() {
                        self.machine.on_lease(*at, io, &mut link(&mut lease));
                        self.lease = Some(lease);
                    }
                }
                Answer::Wait => return Ok(Step::AwaitReply),
                Answer::Deposed => self.abandon(io.to_client)?,
                Answer::Again => {}
                Answer::Unobserved(longest) => return Ok(Step::AwaitReplica(Change::Anything, longest)),
                Answer::Failed(error) => {
                    self.end_waiting();
                    self.count_error(&error);
                    if let Step::Close(end) = self.machine.on_no_lease(&error, input, at, io.to_client) {
                        return Err(end);
                    }
                }
            }
        }
    }

    /// Calls the machine with what is known at this moment.
    pub(super) fn ask<T>(&mut self, call: impl FnOnce(&mut Machine, Option<&mut Link<'_>>, &mut Env<'_>) -> T) -> T {
        let mut cluster = self.worker.cluster.borrow_mut();
        let (moment, catalog) = (cluster.moment(), self.catalog.snapshot());
        let mut verdicts = self.worker.verdicts.borrow_mut();
        let mut env = Env {
            view: moment.view(),
            sample: moment.sample(),
            ticket: moment.ticket,
            global: moment.global_floor(),
            catalog: &catalog,
            catalog_current: self.catalog.is_current(),
            ends_expected: self.shared.cancels.expect_ends(),
            verdicts: &mut verdicts,
            dice: self.worker.dice(),
            waited: self.waiting.as_ref().map_or(Duration::ZERO, |waiting| waiting.since.elapsed()),
            rules: &self.rules,
        };
        match &mut self.lease {
            Some(lease) => call(&mut self.machine, Some(&mut link(lease)), &mut env),
            None => call(&mut self.machine, None, &mut env),
        }
    }

    /// What is known of the nodes at this moment.
    pub(super) fn look<T>(&self, at: impl FnOnce(&ClusterView) -> T) -> T {
        at(self.worker.cluster.borrow_mut().moment().view())
    }

    pub(super) fn count_holdings(&mut self) {
        let (pins, statements) = (self.machine.pins(), self.machine.statements.len());
        self.tally.count(&self.worker.metrics, pins, statements);
    }

    pub(super) fn count_error(&self, error: &ClientError) {
        self.worker.metrics.error(error.fault.label(), error.sqlstate);
        self.account.error();
    }

    pub(super) fn node_name(&self, node: NodeId) -> String {
        self.look(|view| view.node(node).map_or_else(|| node.0.to_string(), |node| node.name.clone()))
    }

    /// Writes at once what can be written; the rest goes out when there is room.
    pub(super) fn send_client(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.worker.metrics.bytes_to_client(bytes.len());
        send(&mut self.client, &mut self.bytes.client_out, bytes);
    }

    pub(super) fn send_server(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.worker.metrics.bytes_to_server(bytes.len());
        self.heard = self.heard.wrapping_add(1);
        if let Some(lease) = &mut self.lease {
            send(&mut lease.stream, &mut self.bytes.server_out, bytes);
        }
    }

    /// Last words, then the connections are given back or closed.
    async fn finish(mut self: Box<Self>, end: SessionEnd) {
        let (session, peer) = (self.id, &*self.peer);
        match &end {
            SessionEnd::Error(error) => {
                info!(session, peer, sqlstate = error.sqlstate, error = error.message, "session ended");
            }
            SessionEnd::Violation => info!(session, peer, "session ended: invalid message length"),
            SessionEnd::Client | SessionEnd::Server => debug!(session, peer, ?end, "session ended"),
        }
        if let SessionEnd::Error(error) = &end {
            self.count_error(error);
            let mut words = Vec::new();
            backend::put_error(&mut words, &ClientError { severity: "FATAL", ..ClientError::clone(error) });
            self.send_client(&words);
        }
        if self.machine.has_ddl() {
            self.catalog.ddl_ended();
        }
        self.come_home();
        self.retire_leases();
        self.leave_home();
        self.tally.count(&self.worker.metrics, Pins::default(), 0);
        if end != SessionEnd::Client || !self.bytes.client_out.is_empty() {
            let patience = Duration::from_secs(1);
            let unsent = std::mem::take(&mut self.bytes.client_out);
            let _ = tokio::time::timeout(patience, async {
                use tokio::io::AsyncWriteExt;
                self.client.write_all(&unsent).await?;
                self.client.shutdown().await
            })
            .await;
        }
    }
}

pub(super) fn is_replica(lease: &Lease) -> bool {
    lease.role == Role::Replica
}

/// The machine's view of a lease.
pub(super) fn link(lease: &mut Lease) -> Link<'_> {
    let role = if is_replica(lease) { LinkRole::Replica } else { LinkRole::Primary };
    let (id, node) = (lease.id.0, lease.node);
    let connection = &mut **lease;
    Link { id, node, role, state: &mut connection.state, parameters: &mut connection.parameters }
}

fn send(stream: &mut Stream, unsent: &mut Vec<u8>, bytes: &[u8]) {
    if !unsent.is_empty() {
        unsent.extend_from_slice(bytes);
        return;
    }
    // What cannot be written now, also because the other side is gone, is found out by the loop's next poll.
    let sent = stream.write_now(bytes).unwrap_or(0);
    unsent.extend_from_slice(&bytes[sent..]);
}

/// What a client hears of bytes that are no messages: PostgreSQL just closes on a wrong length.
fn violation(error: FrameError) -> SessionEnd {
    match error {
        FrameError::Length { .. } => SessionEnd::Violation,
        FrameError::Type(_) => SessionEnd::Error(ClientError::protocol_violation(error.to_string()).into()),
    }
}
