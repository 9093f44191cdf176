//! What comes from a node: given to the machine, sent on or held back; a connection that died; accounts of what is over. Part
//! of the session's loop in `run`.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::machine::{LinkRole, ServerIo, SessionEnd, Step};
use super::relay::Outbox;
use super::run::{PRIMARY_LOST, Session, link};
use super::vacate::Abroad;
use crate::metrics::Route;
use crate::protocol::sqlstate::ClientError;

impl Session {
    pub(super) fn on_server_bytes(&mut self, bytes: &[u8]) -> Result<(), SessionEnd> {
        if bytes.is_empty() {
            return self.on_server_lost();
        }
        self.worker.metrics.bytes_from_server(bytes.len());
        self.heard = self.heard.wrapping_add(1);
        if self.bytes.server_in.is_empty() {
            let taken = self.relay_all(bytes)?;
            // A message of the node that is not whole yet; the lease may be gone with everything else.
            self.bytes.server_in.extend_from_slice(&bytes[taken..]);
        } else {
            let mut input = std::mem::take(&mut self.bytes.server_in);
            input.extend_from_slice(bytes);
            let taken = self.relay_all(&input)?;
            input.drain(..taken);
            self.bytes.server_in = input;
        }
        if self.lease.is_none() {
            self.bytes.server_in.clear();
        }
        self.feed_inbox()
    }

    /// The machine stops where a unit ends; a notification may stand right behind it.
    fn relay_all(&mut self, input: &[u8]) -> Result<usize, SessionEnd> {
        let mut at = 0;
        while at < input.len() && self.lease.is_some() {
            let taken = self.relay(&input[at..])?;
            if taken == 0 {
                break;
            }
            at += taken;
        }
        Ok(at)
    }

    /// What is about to be sent, or was done, concerns others than this session.
    pub(super) fn go_abroad(&mut self, abroad: Abroad) {
        match abroad {
            Abroad::Vacates(database) => {
                self.shared.pools.retire_database(&database);
                self.shared.catalogs.forget(&database);
            }
            Abroad::Cancelled(processes) => {
                processes.into_iter().for_each(|pid| self.shared.cancels.strike(pid, &self.rules.user));
            }
            Abroad::Terminates => self.shared.look_for_ends(&self.worker),
            Abroad::Privileges | Abroad::Defaults => {
                let databases = self.shared.catalogs.all();
                databases.iter().for_each(|database| database.ddl_started());
                self.abroad.push((abroad, databases));
            }
        }
    }

    /// A transaction that changed what all databases share is over; before its client hears of it.
    pub(super) fn come_home(&mut self) {
        for (abroad, databases) in self.abroad.drain(..) {
            databases.iter().for_each(|database| database.ddl_ended());
            self.shared.auth.load().outdate();
            if abroad == Abroad::Defaults {
                self.shared.outdate();
            }
        }
    }

    /// Gives the machine what the node sent; returns how many bytes were taken.
    pub(super) fn relay(&mut self, input: &[u8]) -> Result<usize, SessionEnd> {
        let (mut own, mut requests, mut at) = (self.worker.take_buffer(), self.worker.take_buffer(), 0);
        let had_ddl = self.machine.has_ddl();
        let mut io = ServerIo { to_client: Outbox::new(input, &mut own), to_server: &mut requests };
        let step = self.ask(|machine, link, env| match link {
            Some(link) => machine.on_server(input, &mut at, &mut io, link, env),
            None => Ok(Step::ReadMore),
        });
        let step = step.unwrap_or_else(|error| {
            let error = ClientError::protocol_violation(format!("pgweir: a node sent an {error}"));
            Step::Close(SessionEnd::Error(error.into()))
        });
        if had_ddl && !self.machine.has_ddl() {
            self.catalog.ddl_ended();
        }
        if !self.machine.has_ddl() {
            self.come_home();
        }
        self.on_finished();
        self.count_holdings();
        self.forward(io.to_client.bytes(), &step);
        self.send_server(io.to_server);
        self.worker.put_buffer(own);
        self.worker.put_buffer(requests);
        self.follow(step).map(|()| at)
    }

    /// Sends a reply on, or holds it back while another node may still have to be asked.
    pub(super) fn forward(&mut self, bytes: &[u8], step: &Step) {
        if matches!(step, Step::Retry) || self.machine.discards_reply() {
            self.bytes.reply.clear();
            return;
        }
        if self.machine.holds_reply() {
            self.bytes.reply.extend_from_slice(bytes);
            if self.bytes.reply.len() <= self.rules.routing.hold_back {
                return;
            }
            self.machine.reply_overflowed();
            self.bytes.request = Vec::new();
            self.send_held();
            return;
        }
        if self.bytes.reply.is_empty() {
            self.send_client(bytes);
        } else {
            self.bytes.reply.extend_from_slice(bytes);
            self.send_held();
        }
    }

    /// The buffer is kept for the next reply.
    fn send_held(&mut self) {
        let mut held = std::mem::take(&mut self.bytes.reply);
        self.send_client(&held);
        held.clear();
        self.bytes.reply = held;
    }

    pub(super) fn follow(&mut self, step: Step) -> Result<(), SessionEnd> {
        if !self.machine.keeps_request() && !matches!(step, Step::Retry) {
            self.bytes.request.clear();
        }
        match step {
            Step::Release => self.release(),
            Step::Retry => {
                self.release();
                self.again();
            }
            Step::Close(end) => return Err(end),
            _ => {}
        }
        Ok(())
    }

    /// The unit's bytes come once more, in front of everything else.
    pub(super) fn again(&mut self) {
        let mut request = std::mem::take(&mut self.bytes.request);
        request.append(&mut self.bytes.inbox);
        self.bytes.inbox = request;
    }

    pub(super) fn on_server_lost(&mut self) -> Result<(), SessionEnd> {
        let Some(mut lease) = self.lease.take() else {
            return Ok(());
        };
        self.shared.cluster.report_failure(lease.node);
        self.bytes.reply.clear();
        self.bytes.server_in.clear();
        self.bytes.server_out.clear();
        let name = self.node_name(lease.node);
        let role = link(&mut lease).role;
        let mut last_words = self.worker.take_buffer();
        if self.lost.is_some_and(|lost| lease.opened < lost) {
            self.machine.on_stale_loss();
        }
        self.lost = Some(Instant::now());
        let step = self.machine.on_server_eof(lease.node, &name, role, &mut last_words);
        self.lease = Some(lease);
        self.drop_lease();
        self.send_client(&last_words);
        self.worker.put_buffer(last_words);
        match step {
            Step::Retry if role == LinkRole::Primary => {
                // Its other connections are about to be found dead, too.
                self.again();
                self.await_anything(PRIMARY_LOST, None);
                return Ok(());
            }
            Step::Retry => self.again(),
            Step::Close(end) => return Err(end),
            _ => self.bytes.request.clear(),
        }
        self.feed_inbox()
    }

    /// The node is the primary no more. What the session has there is lost, although the node may live.
    pub(super) fn abandon(&mut self, to_client: &mut Vec<u8>) -> Result<(), SessionEnd> {
        let Some(node) = self.lease.as_ref().map(|lease| lease.node) else {
            return Ok(());
        };
        let name = self.node_name(node);
        let step = self.machine.on_server_eof(node, &name, LinkRole::Primary, to_client);
        self.drop_lease();
        match step {
            Step::Close(end) => Err(end),
            _ => Ok(()),
        }
    }

    /// Counts a unit that is over.
    pub(super) fn on_finished(&mut self) {
        let Some(finished) = self.machine.take_finished() else {
            return;
        };
        if let Some(abroad) = self.machine.take_abroad() {
            self.go_abroad(abroad);
        }
        let Some(lease) = &mut self.lease else {
            return;
        };
        let made = lease.state.statements.take_made();
        if made > 0 {
            self.worker.metrics.server_prepared(u64::from(made));
        }
        let spared = lease.state.statements.take_spared();
        if spared > 0 {
            self.worker.metrics.auto_prepared(u64::from(spared));
        }
        let node = usize::from(lease.node.0);
        let route = if finished.replica.is_some() { Route::Replica(node) } else { Route::Primary(node) };
        let now = Instant::now();
        let time = now.saturating_duration_since(std::mem::replace(&mut lease.leased, now));
        let reason = finished.reason.as_ref().map_or("read", |reason| reason.label());
        let metrics = &self.worker.metrics;
        metrics.transaction(route, reason, u64::from(finished.statements));
        metrics.query_time(route, time);
        self.account.transaction(u64::from(finished.statements), time);
        if let Some(setback) = finished.setback {
            metrics.retry(setback);
        }
        if finished.replica.is_none() {
            self.shared.cluster.wrote();
            return;
        }
        let node = lease.node;
        self.look(|view| {
            let Some(node) = view.node(node) else { return };
            // An eighth of the new time: a moving average without a lock.
            let (old, new) = (node.stats.latency_us.load(Ordering::Relaxed), time.as_micros().min(1 << 31) as u32);
            node.stats.latency_us.store(old - old / 8 + new / 8, Ordering::Relaxed);
        });
    }
}
