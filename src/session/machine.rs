//! Pure: one client session as a state machine: bytes in, Steps out. It owns the phase and is the only place that decides
//! what happens next; `session::mod` does the I/O that a Step asks for. The work is spread over `route` (where a unit runs),
//! `emit` (client's messages to a node), `replies` (a node's messages to the client) and `settle` (what a unit left behind).

use std::time::Duration;

use super::audit::Audit;
use super::desk::{Desk, UnderWay};
use super::pins::Pins;
use super::relay::Outbox;
use super::settings::SessionSettings;
use super::statements::Statements;
use super::unit::{Reader, Refused, Texts, Unit};
use super::work::{Awaited, Block, CopyIn, Fate, Phase, READ_ONLY, Replay, Reply, Setback, Traces};
use crate::catalog::Catalog;
use crate::cluster::{Change, ClusterView, GlobalFloor, NodeId, Sample};
use crate::config::{ClusterConfig, RoutingConfig};
use crate::pool::state::ConnectionState;
use crate::protocol::TransactionStatus;
use crate::protocol::frame::FrameError;
use crate::protocol::sqlstate::ClientError;
use crate::routing::{self, Floor, RouteSetting, SessionState, Target};
use crate::sql::cache::VerdictCache;
use crate::sql::{Consistency, Lexis};

/// What the machine asks of the session's loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing more can be done with these bytes: read more, from whoever sends first.
    ReadMore,
    /// The client's next bytes must wait for the node's reply.
    AwaitReply,
    /// A server connection is needed; `on_lease` goes on.
    Checkout(Target),
    /// No replica has reached the session's floor yet: ask again when this has changed, or after so long.
    AwaitReplica(Change, Duration),
    /// The unit is over and the server connection is free of everything that is this session's.
    Release,
    /// The replica could not answer: let go of it, and give the client's bytes of this unit to `on_client` again.
    Retry,
    /// The server connection at hand leads to a node that is the primary no more: it is as lost as if the node had died.
    Deposed,
    /// The session is over.
    Close(SessionEnd),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEnd {
    /// Terminate, or the client closed its side.
    Client,
    /// With this error as the last words; boxed, for a `Step` is handed about all the time, and this is rare.
    Error(Box<ClientError>),
    /// The node ended it; its last words were forwarded.
    Server,
    /// The client's bytes are no messages.
    Violation,
}

/// What the session knows at this moment; read once for each wake-up.
pub struct Env<'a> {
    pub view: &'a ClusterView,
    pub sample: Option<Sample>,
    /// `Cluster::ticket()`, now.
    pub ticket: u64,
    pub global: GlobalFloor,
    pub catalog: &'a Catalog,
    /// `false` while DDL is under way.
    pub catalog_current: bool,
    /// Somebody has just had server processes ended. Reads run at home now, where it shows whether this session's was one.
    pub ends_expected: bool,
    pub verdicts: &'a mut VerdictCache,
    pub dice: (u32, u32),
    /// How long the unit at hand has been waiting for a replica.
    pub waited: Duration,
    pub rules: &'a Rules,
}

/// The configuration of a session, by value.
#[derive(Clone, Debug)]
pub struct Rules {
    pub routing: RoutingConfig,
    pub cluster: ClusterConfig,
    pub held_request: usize,
    pub session_statements: usize,
    pub server_statements: usize,
    pub auto_prepare: usize,
    pub checkout_timeout: Duration,
    pub session_pooling: bool,
    /// The user that server connections log in as.
    pub user: Box<str>,
}

/// The server connection that the session holds, as far as the machine may see it.
pub struct Link<'a> {
    pub id: u64,
    pub node: NodeId,
    pub role: LinkRole,
    pub state: &'a mut ConnectionState,
    pub parameters: &'a mut Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    Primary,
    Replica,
}

/// Whose request the node is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorksFor {
    Nobody,
    Us,
    Client,
}

/// Where the client's messages go.
pub struct ClientIo<'a> {
    pub to_server: Outbox<'a>,
    /// Answers that need no node.
    pub to_client: &'a mut Vec<u8>,
}

/// Where a node's messages go.
pub struct ServerIo<'a> {
    pub to_client: Outbox<'a>,
    /// What we ask of the node ourselves.
    pub to_server: &'a mut Vec<u8>,
}

/// One session.
pub struct Machine {
    pub(super) id: u64,
    pub(super) phase: Phase,
    pub(super) now: Desk,
    pub(super) state: SessionState,
    /// The level where the session has set none.
    pub(super) configured: Consistency,
    pub(super) block: Block,
    /// Of the server connection at hand.
    pub(super) status: TransactionStatus,
    pub(super) statements: Statements,
    pub(super) settings: SessionSettings,
    pub(super) pins: Pins,
    pub(super) audit: Option<Box<Audit>>,
    pub(super) traces: Traces,
    /// The server connection that took sequence values for this session.
    pub(super) home: Option<u64>,
    /// Nothing may follow a change of role, or DEALLOCATE in a pipeline, before it was seen to succeed.
    pub(super) awaited: Awaited,
}

/// A unit that is over: for the metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub replica: Option<NodeId>,
    pub reason: Option<routing::Reason>,
    pub statements: u32,
    pub setback: Option<&'static str>,
}

impl Machine {
    /// A session that just logged in.
    pub fn new(id: u64, rules: &Rules, settings: SessionSettings) -> Machine {
        let mut machine = Machine {
            id,
            phase: Phase::Ready,
            now: Desk::default(),
            state: SessionState {
                consistency: rules.routing.consistency,
                route: RouteSetting::Auto,
                floor: Floor::None,
                last_read: None,
                transaction: routing::Transaction::None,
                reads_pinned: false,
            },
            configured: rules.routing.consistency,
            block: Block::None,
            status: TransactionStatus::Idle,
            statements: Statements::new(id),
            settings,
            pins: Pins::default(),
            audit: None,
            traces: Traces::default(),
            home: None,
            awaited: Awaited::Nothing,
        };
        if rules.session_pooling {
            machine.pins.insert(crate::sql::Pin::SessionPooling);
        }
        machine.adopt_settings();
        machine
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    pub fn settings_mut(&mut self) -> &mut SessionSettings {
        &mut self.settings
    }

    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// The server connection to be preferred: it took sequence values for this session.
    pub fn home(&self) -> Option<u64> {
        self.home
    }

    pub fn set_home(&mut self, home: Option<u64>) {
        self.home = home;
    }

    /// Nothing is under way, and there is no room for anything: call `resume` before anything else.
    pub fn is_at_rest(&self) -> bool {
        self.now.is_empty()
    }

    /// Makes sure of room for what comes, new or from `rest` of any machine.
    pub fn resume(&mut self, room: impl FnOnce() -> Box<UnderWay>) {
        if self.is_at_rest() {
            self.now.put(room());
        }
    }

    /// Gives the room back if nothing is under way, nor to be tried once more.
    pub fn rest(&mut self) -> Option<Box<UnderWay>> {
        let rests = self.is_at_rest() || self.is_idle() && self.now.setback == Setback::None;
        if rests { self.now.take() } else { None }
    }

    /// Nothing is under way: no unit, no transaction block, nothing owed.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Ready
            && matches!(self.block, Block::None)
            && self.status == TransactionStatus::Idle
            && (self.is_at_rest() || self.now.unit.length == 0 && self.now.owed.is_empty())
    }

    /// The unit at hand was decided and has no server connection yet.
    pub fn is_routed(&self) -> bool {
        matches!(self.phase, Phase::Routed(_))
    }

    /// A node will say something next, without anything more from the client.
    pub fn awaits_node(&self) -> bool {
        match self.phase {
            Phase::Running => {
                self.now.work.end.is_some() && self.now.work.copy == CopyIn::None && self.now.work.from_client.left == 0
            }
            Phase::Leaving | Phase::Routed(_) => true,
            Phase::Ready | Phase::Skipping => false,
        }
    }

    /// The node at hand is at work for the client, and not at something of ours: what brings a connection to the session's
    /// state must not be cut short, or the client's statement behind it would run in another state.
    pub fn works_for(&self) -> WorksFor {
        if self.is_at_rest() {
            return WorksFor::Nobody;
        }
        match self.now.owed.front() {
            None => WorksFor::Nobody,
            Some(_) if self.now.owed.begins_with_ours() => WorksFor::Us,
            Some(_) => WorksFor::Client,
        }
    }

    /// A node is told to cancel the unit at hand. True if one was before.
    pub fn note_cancel(&mut self) -> bool {
        std::mem::replace(&mut self.now.cancelled, true)
    }

    /// Whether a node was told to cancel the unit at hand: should its answer be lost, it must not be done again.
    pub fn is_cancelled(&self) -> bool {
        !self.is_at_rest() && self.now.cancelled
    }

    /// The client has its answer; the process is being asked what it holds.
    pub fn audits(&self) -> bool {
        self.audit.is_some()
    }

    /// The reply is being held back: the loop keeps what comes from the node until this turns false.
    pub fn holds_reply(&self) -> bool {
        self.phase == Phase::Running && self.now.work.reply == Reply::Held
    }

    /// What comes from the node now is nobody's answer.
    pub fn discards_reply(&self) -> bool {
        self.phase == Phase::Leaving || !self.is_at_rest() && self.now.work.fate == Fate::Refused
    }

    /// The loop could hold no more and sends on what it held: from now on the unit cannot be retried.
    pub fn reply_overflowed(&mut self) {
        self.now.work.reply = Reply::Direct;
        self.now.work.replay = Replay::Never;
    }

    /// The loop must keep the client's bytes of this unit: they may be needed once more.
    pub fn keeps_request(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Leaving) && self.now.work.replay != Replay::Never
    }

    /// Which of the bytes that `on_client` took belong to the unit at hand. To be called when they leave the input: what
    /// the unit may still take then stands at the beginning of the next.
    pub fn of_unit<'i>(&mut self, taken: &'i [u8]) -> &'i [u8] {
        let start = std::mem::take(&mut self.now.unit_start);
        taken.get(start..).unwrap_or_default()
    }

    /// The unit that ended since the last call.
    pub fn take_finished(&mut self) -> Option<Finished> {
        self.now.finished.take()
    }

    /// DDL of this session is under way, by what it sent so far.
    pub fn has_ddl(&self) -> bool {
        self.traces.has(Traces::DDL)
    }

    pub(super) fn reader<'a>(&'a mut self, env: &'a mut Env<'_>) -> (&'a mut Unit, Reader<'a>) {
        let lexis = if self.settings.standard_lexis() { Lexis::Standard } else { Lexis::Unusual };
        let refused = if self.now.setback == Setback::Refused(READ_ONLY) { Refused::AsWrite } else { Refused::No };
        let reader = Reader {
            texts: Texts { catalog: env.catalog, verdicts: env.verdicts, lexis, refused },
            statements: &mut self.statements,
            limit: env.rules.held_request,
        };
        (&mut self.now.unit, reader)
    }

    /// Takes the client's bytes from `input[*at..]` as far as it can.
    pub fn on_client(
        &mut self,
        input: &[u8],
        at: &mut usize,
        io: &mut ClientIo<'_>,
        mut link: Option<&mut Link<'_>>,
        env: &mut Env<'_>,
    ) -> Result<Step, FrameError> {
        loop {
            match self.phase {
                Phase::Routed(target) => return Ok(Step::Checkout(target)),
                Phase::Leaving => return Ok(Step::AwaitReply),
                Phase::Skipping => {
                    if !self.skip(input, at, io)? {
                        return Ok(Step::ReadMore);
                    }
                }
                Phase::Running => {
                    let Some(link) = link.as_deref_mut() else {
                        return Ok(Step::AwaitReply);
                    };
                    return self.emit(input, at, io, link, env);
                }
                Phase::Ready if *at == input.len() => return Ok(Step::ReadMore),
                Phase::Ready => {
                    if let Some(step) = self.on_unit(input, at, io, link.as_deref_mut(), env)? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// The server connection cannot be had: another replica, or the primary. Call `on_client` again.
    pub fn on_lost_lease(&mut self, node: NodeId, why: &'static str) {
        self.now.setback = Setback::Lost(why);
        self.now.avoid.push(node);
        self.reconsider();
    }

    /// Whether what the decision rests on was observed after a connection to the replica was opened that noted this
    /// number: one that was opened later may lead to a replica that crashed in between and came back older.
    pub fn has_observed(&self, probes_at_open: u64) -> bool {
        self.now.observation > probes_at_open
    }

    /// The server connection came too early: what is known of the replica is older. Decide once more.
    pub fn reconsider(&mut self) {
        self.phase = Phase::Ready;
        self.now.unit.reset();
    }

    /// The server connection is here; the unit may be sent (call `on_client` again).
    /// `start` is where the unit begins in the input of that call: what stood in front of it may have gone meanwhile.
    pub fn on_lease(&mut self, start: usize, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        self.now.unit_start = start;
        self.status = TransactionStatus::Idle;
        self.begin(io, link);
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
