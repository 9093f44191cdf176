//! The session's side of the pools: which pool, what to do while it waits, what a refusal means, and giving back. Called by
//! the loop in `run`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use super::cancel::{CancelOutcome, Ended};
use super::machine::{SessionEnd, WorksFor};
use super::run::{Session, is_replica};
use crate::cluster::{NodeId, Role};
use crate::metrics::Route;
use crate::pool::{Checkout, CheckoutError, Lease, Pool, Waiter};
use crate::protocol::sqlstate::{ClientError, Fault};
use crate::protocol::{backend, frontend};
use crate::routing::Target;

/// How soon a primary that could not be reached is tried again, if nothing is heard of it earlier.
const PRIMARY_RETRY: Duration = Duration::from_millis(50);

/// A read on a connection that was just opened waits so long for the first probe behind it; one takes milliseconds.
const OBSERVATION_PATIENCE: Duration = Duration::from_millis(250);

/// What became of a request for a server connection.
pub(super) enum Answer {
    /// `Session::lease` is it.
    Ready,
    /// An event will tell.
    Wait,
    /// `Session::lease` leads to what was the primary.
    Deposed,
    /// Ask the machine once more.
    Again,
    /// Ask it once more when the replica has been observed, or after so long.
    Unobserved(Duration),
    Failed(Box<ClientError>),
}

/// A place in a pool's queue.
pub(super) struct Queued {
    pub target: Target,
    pub waiter: Waiter,
    pub asked: Instant,
}

impl Session {
    /// The machine wants a server connection to this target.
    pub(super) fn checkout(&mut self, target: Target) -> Result<Answer, SessionEnd> {
        if self.waiter.is_some() {
            return Ok(Answer::Wait);
        }
        if self.machine.is_cancelled() {
            return Ok(Answer::Failed(ClientError::canceled().into()));
        }
        let node = match target {
            Target::Replica(node) => node,
            Target::Refuse => return Ok(Answer::Failed(ClientError::no_replica().into())),
            Target::Primary | Target::Wait(..) => match self.look(|view| view.primary) {
                Some(node) => node,
                None => return Ok(self.await_primary(None)),
            },
        };
        if let Some(lease) = self.lease.take() {
            // Pinned: it waits while a read runs on a replica.
            self.parked = Some(lease);
        }
        if matches!(target, Target::Primary) && self.parked.is_some() {
            self.lease = self.parked.take();
            let deposed = self.lease.as_ref().is_some_and(|lease| lease.node != node);
            return Ok(if deposed { Answer::Deposed } else { Answer::Ready });
        }
        let pool = self.pool(node);
        let asked = Instant::now();
        let deadline = asked + self.rules.checkout_timeout;
        let role = if matches!(target, Target::Replica(_)) { Role::Replica } else { Role::Primary };
        let home = self.machine.home().map(crate::pool::ConnectionId);
        let checkout = pool.checkout(&self.worker, role, home, deadline);
        if let Some(ended) = self.ended() {
            // Found out just now: the unit must not run elsewhere, as if nothing had happened.
            if let Checkout::Ready(lease) = checkout {
                lease.release();
            }
            return Err(self.end_with(&ended));
        }
        match checkout {
            Checkout::Ready(lease) if self.is_unproven(&lease) => {
                self.decline(lease);
                Ok(self.await_observation(node))
            }
            Checkout::Ready(lease) => {
                self.adopt(lease, asked, asked);
                Ok(Answer::Ready)
            }
            Checkout::Wait(waiter) => {
                self.waiter = Some(Box::new(Queued { target, waiter, asked }));
                Ok(Answer::Wait)
            }
        }
    }

    /// A place in a pool's queue led somewhere.
    pub(super) fn on_checkout(&mut self, result: Result<Lease, CheckoutError>) -> Result<(), SessionEnd> {
        let Some(Queued { target, asked, .. }) = self.waiter.take().map(|queued| *queued) else {
            return Ok(());
        };
        match result {
            Ok(lease) if self.is_unproven(&lease) || self.is_deposed(&lease) => {
                // Decided anew at once, and then it waits for the observation.
                self.decline(lease);
                self.machine.reconsider();
                Ok(())
            }
            Ok(lease) => {
                self.adopt(lease, asked, Instant::now());
                let mut own = self.worker.take_buffer();
                let mut answers = Vec::new();
                {
                    let to_server = super::relay::Outbox::new(&[], &mut own);
                    let mut io = super::machine::ClientIo { to_server, to_client: &mut answers };
                    if let Some(mut lease) = self.lease.take() {
                        self.machine.on_lease(0, &mut io, &mut super::run::link(&mut lease));
                        self.lease = Some(lease);
                    }
                }
                // The preamble leaves together with the unit, which follows at once.
                self.bytes.server_out.extend_from_slice(&own);
                self.worker.put_buffer(own);
                self.end_waiting();
                Ok(())
            }
            Err(error) => {
                let answer = self.on_refused(target, error);
                self.on_answer(answer)
            }
        }
    }

    /// The process that the client was told is its own was ended while it was not in use.
    pub(super) fn ended(&self) -> Option<Box<Ended>> {
        self.cancel.ended().filter(|ended| self.machine.home() == Some(ended.connection))
    }

    /// The client hears the process's last words, as it would without us.
    pub(super) fn end_with(&mut self, ended: &Ended) -> SessionEnd {
        let mut words = Vec::new();
        frontend::message(&mut words, b'E', |out| out.extend_from_slice(&ended.words));
        self.send_client(&words);
        SessionEnd::Server
    }

    /// Whether a cancel has to be dealt with now. It waits while the node is at something of ours, unless that is what
    /// follows an answer: PostgreSQL has nothing to cancel then.
    pub(super) fn is_cancelled(&self, cx: &Context<'_>) -> bool {
        let asked = self.cancel.poll_asked(cx).is_ready();
        let deaf =
            || self.machine.works_for() == WorksFor::Us && !(self.machine.audits() && self.bytes.inbox.is_empty());
        (asked && !deaf()) || (self.waiting.is_some() && self.machine.is_cancelled())
    }

    fn under_way_since(&self) -> Option<Instant> {
        let queued = self.waiter.as_ref().map(|queued| queued.asked);
        let waiting = self.waiting.as_ref().map(|waiting| waiting.since);
        queued.or(waiting).or(self.lease.as_ref().map(|lease| lease.leased))
    }

    /// Somebody asks for the statement at work to be cancelled. One that waits for a connection, a replica or a primary is
    /// at work in its client's eyes, and ends as PostgreSQL ends one that waits for a lock.
    pub(super) fn on_cancel(&mut self) -> Result<(), SessionEnd> {
        if let Some(struck) = self.cancel.take_strike(&self.rules.user)
            && self.under_way_since().is_some_and(|since| since <= struck)
            && !self.is_at_work_at_home()
        {
            self.cancel.ask();
        }
        if !self.cancel.is_asked() && !self.machine.is_cancelled() {
            return Ok(());
        }
        if self.waiter.take().is_some() || self.waiting.is_some() {
            self.on_answer(Answer::Failed(ClientError::canceled().into()))?;
            self.cancel.answer(CancelOutcome::Delivered);
            return self.feed_inbox();
        }
        match &mut self.lease {
            Some(lease) if self.machine.works_for() == WorksFor::Client => {
                // Who cancels and leaves may look whether its process is gone.
                lease.state.worn = true;
                self.cancel.deliver(&lease.cancel, self.machine.note_cancel());
            }
            _ => self.cancel.answer(CancelOutcome::NothingToCancel),
        }
        Ok(())
    }

    /// The process that the client was told of is at work for it, and heard of the cancel itself.
    fn is_at_work_at_home(&self) -> bool {
        let at_home = |lease: &Lease| !is_replica(lease) && lease.pid() == self.cancel.pid();
        self.machine.awaits_node() && self.lease.as_ref().is_some_and(at_home)
    }

    fn on_answer(&mut self, answer: Answer) -> Result<(), SessionEnd> {
        if let Answer::Failed(error) = answer {
            self.end_waiting();
            self.count_error(&error);
            let (inbox, mut at, mut answers) = (std::mem::take(&mut self.bytes.inbox), 0, Vec::new());
            let step = self.machine.on_no_lease(&error, &inbox, &mut at, &mut answers);
            self.bytes.inbox.extend_from_slice(&inbox[at..]);
            self.send_client(&answers);
            if self.lease.as_ref().is_some_and(is_replica) {
                // The block there has failed for the client, and goes on as one that was lost.
                self.drop_lease();
            }
            if let super::machine::Step::Close(end) = step {
                return Err(end);
            }
        }
        Ok(())
    }

    fn on_refused(&mut self, target: Target, error: CheckoutError) -> Answer {
        if let (Target::Replica(node), false) = (target, matches!(error, CheckoutError::Shutdown)) {
            // A replica's failure is not the client's: another one, or the primary.
            self.machine.on_lost_lease(node, trouble(&error));
            return Answer::Again;
        }
        match error {
            CheckoutError::Timeout { pool } => Answer::Failed(ClientError::checkout_timeout(&pool).into()),
            CheckoutError::Refused { error, .. } => Answer::Failed(quoted(&error).into()),
            CheckoutError::Connect { .. } | CheckoutError::WrongRole { .. } => {
                self.await_primary(Some(error.to_string()))
            }
            other => Answer::Failed(Box::new(ClientError {
                severity: "FATAL",
                ..ClientError::unreachable("primary", &other.to_string())
            })),
        }
    }

    fn is_unproven(&self, lease: &Lease) -> bool {
        is_replica(lease) && !self.machine.has_observed(lease.probes_at_open)
    }

    /// Another node was promoted while we waited for this one.
    fn is_deposed(&self, lease: &Lease) -> bool {
        !is_replica(lease) && self.look(|view| view.has_another_primary(lease.node))
    }

    /// The connection is younger than what is known of its replica; the next probe will tell.
    fn await_observation(&mut self, node: NodeId) -> Answer {
        let waited = self.waiting.as_ref().map_or(Duration::ZERO, |waiting| waiting.since.elapsed());
        let left = OBSERVATION_PATIENCE.saturating_sub(waited);
        if left.is_zero() {
            self.machine.on_lost_lease(node, super::work::BEHIND);
            return Answer::Again;
        }
        self.machine.reconsider();
        Answer::Unobserved(left)
    }

    /// There is no primary, or not where we thought: it may be failing over.
    fn await_primary(&mut self, why: Option<String>) -> Answer {
        let longest = self.rules.cluster.failover_timeout;
        let now = Instant::now();
        if self.waiting.as_ref().is_some_and(|waiting| now.duration_since(waiting.since) >= longest) {
            let error = why.map_or_else(ClientError::no_primary, |why| ClientError::unreachable("primary", &why));
            return Answer::Failed(error.into());
        }
        self.await_anything(longest, Some(now + PRIMARY_RETRY));
        Answer::Wait
    }

    /// The session's pool on a node; looked up once.
    pub(super) fn pool(&mut self, node: NodeId) -> Arc<Pool> {
        if let Some((_, pool)) = self.pools.iter().find(|(known, _)| *known == node) {
            return Arc::clone(pool);
        }
        let pool = self.shared.pools.pool(node, &self.catalog.name, &self.rules.user, &self.credentials);
        // Most sessions need one or two for all their life.
        self.pools.reserve_exact(1);
        self.pools.push((node, Arc::clone(&pool)));
        pool
    }

    fn adopt(&mut self, mut lease: Lease, asked: Instant, now: Instant) {
        if !is_replica(&lease) && !self.home.is_shared() && lease.is_vacant() {
            lease.resident = Some(self.home.clone());
            self.machine.set_home(Some(lease.id.0));
        }
        self.look(|view| view.node(lease.node).map(|node| node.stats.in_flight.fetch_add(1, Ordering::Relaxed)));
        lease.leased = now;
        let node = usize::from(lease.node.0);
        let route = if is_replica(&lease) { Route::Replica(node) } else { Route::Primary(node) };
        self.worker.metrics.checkout_time(route, now.saturating_duration_since(asked));
        self.lease = Some(lease);
    }

    /// Gives back what came too early, or too late.
    fn decline(&mut self, lease: Lease) {
        lease.release();
        self.lease = self.parked.take();
    }

    fn left(&mut self, node: NodeId) {
        self.look(|view| view.node(node).map(|node| node.stats.in_flight.fetch_sub(1, Ordering::Relaxed)));
        self.bytes.server_out.clear();
    }

    /// The connection is free of everything that is this session's; a pinned one comes back into its place.
    pub(super) fn release(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        // Rows of a COPY that failed may be unsent, the first of them in part.
        let cut = !self.bytes.server_out.is_empty();
        self.left(lease.node);
        if cut || lease.state.spoiled {
            drop(lease)
        } else {
            lease.release()
        }
        self.lease = self.parked.take();
    }

    /// The connection is lost, or no longer to be trusted.
    pub(super) fn drop_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.left(lease.node);
            drop(lease);
        }
        self.lease = self.parked.take();
    }

    /// The session is over. A pinned connection is cleaned and given back if that is possible, everything else is closed.
    pub(super) fn retire_leases(&mut self) {
        let idle = self.machine.is_idle() && !self.machine.pins().spoil() && self.bytes.server_out.is_empty();
        for lease in [self.parked.take(), self.lease.take()].into_iter().flatten() {
            self.left(lease.node);
            if idle && !is_replica(&lease) && !lease.state.spoiled && !(lease.state.worn && lease.pool().may_renew()) {
                self.worker.spawn(clean(lease));
            }
        }
    }

    /// The session is over: the next one should find a process that looks as if it were new.
    pub(super) fn leave_home(&mut self) {
        if !self.home.is_shared() {
            return;
        }
        let primary = self.look(|view| view.primary);
        if let Some((_, pool)) = self.pools.iter().find(|(node, _)| Some(*node) == primary) {
            pool.leave(&self.worker, &self.home);
        }
    }
}

/// Takes everything of a session out of a server process.
async fn clean(mut lease: Lease) {
    let mut notices = Vec::new();
    let discard = super::greeting::exchange(&mut lease, b"DISCARD ALL", &mut notices);
    if let Ok(Ok(None)) = tokio::time::timeout(Duration::from_secs(5), discard).await {
        let worn = lease.state.worn;
        lease.state = crate::pool::state::ConnectionState { worn, ..Default::default() };
        lease.release();
    }
}

/// Why a replica gave no connection, in the metrics' words.
fn trouble(error: &CheckoutError) -> &'static str {
    match error {
        CheckoutError::Timeout { .. } => "checkout_timeout",
        CheckoutError::Refused { sqlstate, .. } => super::lost::refusal(sqlstate.as_bytes()),
        CheckoutError::WrongRole { .. } => "wrong_role",
        CheckoutError::Connect { .. } | CheckoutError::Shutdown => "connect_failed",
    }
}

/// A node's refusal to let us in, as an error of the statement that needed the connection.
fn quoted(body: &[u8]) -> ClientError {
    let field = |code| String::from_utf8_lossy(backend::error_field(body, code).unwrap_or_default()).into_owned();
    let error = ClientError::unreachable("primary", &field(b'M'));
    ClientError { detail: Some(format!("{} (SQLSTATE {})", field(b'M'), field(b'C'))), fault: Fault::Server, ..error }
}
