//! A replica that says nothing: a machine that stands still keeps its connections open, so no error tells. The session's loop
//! polls this while a replica's answer is owed; what can be asked elsewhere then is the machine's word. It must cost nothing
//! per read: the timer stays armed over many of them, and only its ticks look at the clock.

use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use super::cancel;
use super::checkout::Queued;
use super::machine::{SessionEnd, Step};
use super::run::{Session, is_replica};
use crate::cluster::NodeId;
use crate::routing::Target;
use crate::worker::timers::Timer;

/// Silence is measured in so many steps of `read_stall_timeout`, which may be exceeded by one of them.
const STEPS: u32 = 4;

/// A node that answers its probes is given so much longer: one long read must not be run twice lightly.
const ALIVE: u32 = 6;

/// The next look at a silent replica.
pub(super) struct Stall {
    timer: Timer,
    /// `Session::heard` at the last look.
    heard: u32,
    /// Steps without a word.
    silent: u32,
}

impl Session {
    /// Whether the replica at hand has been silent for too long. Polled last, when nothing else happened.
    pub(super) fn poll_stall(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stall.as_ref().is_some_and(|stall| !stall.timer.is_due()) {
            return false;
        }
        let last = self.stall.take();
        let Some(node) = self.owing_replica() else { return false };
        let silent = last.filter(|stall| stall.heard == self.heard).map_or(0, |stall| stall.silent + 1);
        if silent >= STEPS * if self.is_alive(node) { ALIVE } else { 1 } {
            return true;
        }
        let step = self.rules.routing.read_stall_timeout / STEPS;
        let timer = self.worker.timers.wake_at(Instant::now() + step, cx.waker().clone());
        self.stall = Some(Box::new(Stall { timer, heard: self.heard, silent }));
        false
    }

    /// The replica that a read waits for, if it could still be run elsewhere.
    fn owing_replica(&self) -> Option<NodeId> {
        if let Some(Queued { target: Target::Replica(node), .. }) = self.waiter.as_deref() {
            return Some(*node);
        }
        let owes = self.machine.holds_reply() && self.machine.awaits_node();
        self.lease.as_ref().filter(|lease| owes && is_replica(lease)).map(|lease| lease.node)
    }

    fn is_alive(&self, node: NodeId) -> bool {
        let patience = self.rules.routing.read_stall_timeout.max(self.rules.cluster.probe_interval * 2);
        let answered = self.look(|view| view.node(node).and_then(|node| node.answered));
        answered.is_some_and(|answered| answered.elapsed() <= patience)
    }

    /// The read is asked elsewhere. A server process that lives after all is told to stop.
    pub(super) fn on_stalled(&mut self) -> Result<(), SessionEnd> {
        if let Some(&Queued { target: Target::Replica(node), .. }) = self.waiter.as_deref() {
            self.waiter = None;
            self.machine.on_lost_lease(node, "stalled");
            return self.feed_inbox();
        }
        let Some(lease) = &self.lease else { return Ok(()) };
        let (node, target) = (lease.node, Arc::clone(&lease.cancel));
        if self.machine.on_stall(node) != Step::Retry {
            return Ok(());
        }
        tracing::warn!(session = self.id, node = self.node_name(node), "a replica did not answer; asking another node");
        self.shared.cluster.report_failure(node);
        self.bytes.reply.clear();
        self.bytes.server_in.clear();
        self.drop_lease();
        self.worker.spawn(cancel::stop(target));
        self.again();
        self.feed_inbox()
    }
}
