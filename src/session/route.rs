//! Pure: what becomes of a unit that was read: answered here, or sent to the node that `routing::decide` names. Part of
//! the machine.

use std::time::Duration;

use super::machine::{ClientIo, Env, Link, LinkRole, Machine, SessionEnd, Step};
use super::pipeline::{Ours, Owed};
use super::settle::show_floor;
use super::unit::{self, End, NamesStatements, Progress};
use super::vacate::Abroad;
use super::work::{Awaited, Block, Phase, Portals, Replay, Reply, Setback, Traces, Work};
use crate::cluster::Change;
use crate::pool::sync::{self, Sync};
use crate::protocol::TransactionStatus;
use crate::protocol::frame::FrameError;
use crate::protocol::frontend::{self};
use crate::routing::{self, Floor, Request, Target, Transaction};
use crate::sql::{Act, Effect, Isolation, Reason, TransactionModes, Verdict};

/// A transaction of its own, or the read behind it could have an older snapshot than what it says (hazards.md, 3.2).
const PROOF: &[u8] = b"SELECT pg_catalog.pg_last_wal_replay_lsn()";

/// A client that asks for its floor waits so long for a sample of the primary.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(2);

impl Machine {
    /// Reads the unit at the head of the input and finds a place for it. `None`: it was dealt with, go on.
    pub(super) fn on_unit(
        &mut self,
        input: &[u8],
        at: &mut usize,
        io: &mut ClientIo<'_>,
        link: Option<&mut Link<'_>>,
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, FrameError> {
        if self.now.unit.length == 0 {
            self.pass_rest(input, at, io);
            *at += unit::stray(&input[*at..]);
            if *at == input.len() {
                return Ok(Some(Step::ReadMore));
            }
        }
        // Somebody else was promoted: what it still acknowledged would be lost, and what it still shows is old.
        if link.as_ref().is_some_and(|link| is_deposed(link, env)) {
            return Ok(Some(Step::Deposed));
        }
        if self.is_direct()
            && let Some(link) = link
        {
            self.now.unit.reset();
            self.now.decision = Some(routing::Reason::ExplicitTransaction);
            self.begin(io, link);
            return Ok(None);
        }
        self.now.arrived.get_or_insert(env.ticket);
        self.now.unit_start = *at;
        let (unit, mut reader) = self.reader(env);
        let end = match unit.read(&input[*at..], &mut reader)? {
            Progress::Incomplete => {
                if !self.now.unit.needs_node {
                    // Nothing was asked yet.
                    self.now.arrived = None;
                }
                return Ok(Some(Step::ReadMore));
            }
            Progress::Complete(end) => end,
        };
        if end == End::Terminate {
            return Ok(Some(Step::Close(SessionEnd::Client)));
        }
        if self.answer_here(&input[*at..], end, io) {
            *at += self.now.unit.length;
            self.now.end_unit();
            return Ok(None);
        }
        Ok(self.place(end, io, link, env))
    }

    /// Inside a transaction block on the primary there is nothing to decide: messages go on as they come.
    fn is_direct(&self) -> bool {
        match self.status {
            TransactionStatus::Idle => false,
            TransactionStatus::InTransaction => matches!(self.block, Block::Primary),
            TransactionStatus::Failed => !matches!(self.block, Block::Replica(_)),
        }
    }

    /// Decides where the unit runs.
    fn place(
        &mut self,
        end: End,
        io: &mut ClientIo<'_>,
        link: Option<&mut Link<'_>>,
        env: &mut Env<'_>,
    ) -> Option<Step> {
        let verdict = self.now.unit.verdict();
        if let Reason::UnsafeSetting(name) = &verdict.reason
            && let Some(own) = name.strip_prefix("pgweir.")
            && !self.publish_setting(own, env)
        {
            return Some(Step::AwaitReplica(Change::Anything, SAMPLE_PATIENCE));
        }
        let (target, reason) = self.decide(&verdict, env);
        match target {
            Target::Wait(change, longest) => return Some(Step::AwaitReplica(change, longest)),
            Target::Refuse => {
                self.now.decision = Some(reason);
                self.phase = Phase::Routed(Target::Refuse);
                return Some(Step::Checkout(Target::Refuse));
            }
            Target::Primary | Target::Replica(_) => {}
        }
        self.now.decision = Some(reason);
        self.now.work = Work::default();
        let autocommit_read = verdict.effect == Effect::Read && matches!(end, End::Query | End::Sync);
        if autocommit_read && !matches!(self.block, Block::Primary) {
            self.now.work.replay = if self.now.setback == Setback::None { Replay::Read } else { Replay::Again };
        }
        if let Target::Replica(_) = target {
            self.now.work.replay = Replay::Read;
        }
        if self.now.work.replay != Replay::Never {
            self.now.work.reply = Reply::Held;
        }
        let Some(link) = link else {
            self.phase = Phase::Routed(target);
            return Some(Step::Checkout(target));
        };
        match (target, link.role) {
            (Target::Primary, LinkRole::Primary) => self.begin(io, link),
            (Target::Replica(node), LinkRole::Replica) if node == link.node => self.begin(io, link),
            (_, LinkRole::Replica) => self.leave(io, link),
            (_, LinkRole::Primary) => {
                self.phase = Phase::Routed(target);
                return Some(Step::Checkout(target));
            }
        }
        None
    }

    /// SHOW of a setting of ours: the server connection gets its value like any other setting's. `false`: it is not known
    /// yet.
    fn publish_setting(&mut self, name: &str, env: &Env<'_>) -> bool {
        let value = match name {
            "floor" => {
                self.state.floor = routing::settle(self.state.floor, env.sample, env.view);
                if matches!(self.state.floor, Floor::Unknown { .. }) && env.waited < SAMPLE_PATIENCE {
                    return false;
                }
                self.known_floor().map(show_floor).unwrap_or_default()
            }
            "consistency" => format!("{:?}", self.state.consistency).to_lowercase(),
            "route" => format!("{:?}", self.state.route).to_lowercase(),
            _ => return true,
        };
        self.settings.apply(&Act::Set { name: format!("pgweir.{name}"), value });
        true
    }

    fn decide(&mut self, verdict: &Verdict, env: &Env<'_>) -> (Target, routing::Reason) {
        self.now.proof = None;
        self.state.transaction = match &self.block {
            Block::None => Transaction::None,
            Block::Announced(announced) => Transaction::Announced { read_only: self.may_move(&announced.modes) },
            Block::Replica(_) => match self.state.transaction {
                Transaction::OnReplica(node) => Transaction::OnReplica(node),
                _ => Transaction::OnPrimary,
            },
            Block::Primary | Block::Doomed(_) => Transaction::OnPrimary,
        };
        // Statements that have the client's own names are prepared and closed where they are.
        let named = self.traces.has(Traces::OWN_NAMES);
        let otherwise = self.settings.began_otherwise(env.catalog, &env.rules.user);
        let held = self.pins.hold_reads() || self.settings.refused_by_replicas() || otherwise;
        self.state.reads_pinned = named || held || env.ends_expected;
        if let (Portals::Earlier, Block::Replica(_), Transaction::OnReplica(node)) =
            (self.now.unit.portals, &self.block, self.state.transaction)
            && self.now.setback == Setback::None
            && (verdict.effect == Effect::Read || self.now.unit.worst.is_none())
        {
            // Its snapshot was taken when it was bound.
            return (Target::Replica(node), routing::Reason::ReadOnlyTransaction);
        }
        // A block on a replica stays movable only while plain reads run in it.
        let fixed = self.now.unit.portals == Portals::Lasting && self.state.transaction != Transaction::None;
        if matches!(self.now.setback, Setback::Refused(_)) || (fixed && verdict.effect == Effect::Read) {
            return (Target::Primary, routing::Reason::Statement(verdict.reason.clone()));
        }
        // One that failed there is good for its end only: a node that runs what comes behind must be the right one.
        let only_ends = verdict.effect != Effect::Read || self.status == TransactionStatus::Failed;
        if only_ends && matches!(self.block, Block::Replica(_)) && !self.now.unit.ends_block() {
            return (Target::Primary, routing::Reason::Statement(verdict.reason.clone()));
        }
        self.state.floor = routing::settle(self.state.floor, env.sample, env.view);
        let request = Request {
            verdict,
            session: &self.state,
            catalog: env.catalog_current.then_some(env.catalog.position),
            sample: env.sample,
            arrived: self.now.arrived.unwrap_or(env.ticket),
            global: env.global,
            waited: env.waited,
            dice: env.dice,
            avoid: &self.now.avoid,
        };
        let decision = routing::decide(&request, env.view, &env.rules.routing, &env.rules.cluster);
        self.now.proof = decision.proof;
        if let Target::Replica(node) = decision.target {
            self.now.observation = env.view.node(node).map_or(0, |node| node.observation);
        }
        (decision.target, decision.reason)
    }

    /// A READ ONLY block may run on a replica, and move, if each of its statements takes a snapshot of its own.
    fn may_move(&self, modes: &TransactionModes) -> bool {
        let read_only = modes.read_only.or_else(|| self.settings.is_on("default_transaction_read_only"));
        let committed = match modes.isolation {
            Some(level) => matches!(level, Isolation::ReadCommitted | Isolation::ReadUncommitted),
            None => self.settings.text("default_transaction_isolation").is_none_or(|level| level.starts_with("read")),
        };
        read_only == Some(true) && committed && modes.deferrable != Some(true)
    }

    /// Starts sending the unit on the connection at hand: first what brings it to the session's state.
    ///
    /// Each Query of ours destroys the unnamed statement there, as the manual says of any simple Query.
    pub(super) fn begin(&mut self, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        self.phase = Phase::Running;
        if self.now.unit.length == 0 {
            self.now.work = Work::default();
        }
        if self.status == TransactionStatus::Idle {
            self.prepare(io, link);
        }
        if self.now.proof.is_some() {
            link.state.unnamed = None;
            frontend::put_query(io.to_server.put(), PROOF);
            self.now.owed.push(Owed::Ours(Ours::Proof));
        }
        let begins = match std::mem::take(&mut self.block) {
            Block::Announced(announced) => Some(announced),
            Block::Doomed(announced) => {
                self.doom(&announced.text, io, link);
                None
            }
            block => {
                self.block = block;
                None
            }
        };
        if let Some(announced) = begins {
            link.state.unnamed = None;
            frontend::put_query(io.to_server.put(), &announced.text);
            self.now.owed.push(Owed::Ours(Ours::Begin));
            self.block = match link.role {
                LinkRole::Primary => Block::Primary,
                LinkRole::Replica => Block::Replica(announced),
            };
        }
        if let (Block::Replica(_), LinkRole::Replica) = (&self.block, link.role) {
            self.state.transaction = Transaction::OnReplica(link.node);
        }
    }

    /// Opens a block and makes it fail.
    pub(super) fn doom(&mut self, begin: &[u8], io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        link.state.unnamed = None;
        frontend::put_query(io.to_server.put(), &[begin, b"\n;ROLLBACK TO pgweir_lost"].concat());
        self.now.owed.push(Owed::Ours(Ours::Doom));
        self.block = Block::Primary;
    }

    /// Settings, and another session's sequence values: the connection becomes this session's.
    fn prepare(&mut self, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        if link.state.sequences.is_some_and(|session| session != self.id) {
            link.state.unnamed = None;
            frontend::put_query(io.to_server.put(), b"DISCARD SEQUENCES");
            self.now.owed.push(Owed::Ours(Ours::Discard));
            link.state.sequences = None;
        }
        if link.state.opaque.is_some_and(|session| session != self.id) {
            link.state.unnamed = None;
            frontend::put_query(io.to_server.put(), b"RESET ALL");
            self.now.owed.push(Owed::Ours(Ours::Discard));
            link.state.opaque = None;
            // RESET ALL leaves whoever the session was.
            let kept = |name: &str| matches!(name, "role" | "session_authorization");
            let identity = link.state.settings.iter().filter(|(name, _)| kept(name));
            let identity = identity.map(|(name, value)| (name.clone(), value.clone())).collect();
            link.state.settings = std::sync::Arc::new(identity);
        }
        if !link.state.orphans.is_empty() {
            for number in std::mem::take(&mut link.state.orphans) {
                self.close_on_server(number, io);
            }
            frontend::message(io.to_server.put(), b'S', |_| {});
            self.now.owed.push(Owed::Ours(Ours::Discard));
        }
        let own_names = link.role == LinkRole::Primary && self.traces.has(Traces::OWN_NAMES);
        if self.now.unit.names_statements == NamesStatements::Yes && !own_names {
            self.take_own_names(io, link);
        }
        if self.settings.are_shared(&mut link.state.settings) {
            return;
        }
        let wanted = self.settings.current();
        let mut query = Vec::new();
        let sync = sync::put_sync(&mut query, &link.state.settings, wanted, link.role == LinkRole::Replica);
        link.state.settings = std::sync::Arc::clone(wanted);
        if sync == Sync::Nothing {
            return;
        }
        link.state.unnamed = None;
        io.to_server.put().extend_from_slice(&query);
        self.now.owed.push(Owed::Ours(Ours::Settings));
        self.awaited = if sync == Sync::First { Awaited::Settings } else { Awaited::Nothing };
    }

    /// The block cannot stay on its replica: it is rolled back there, to be opened on the primary.
    fn leave(&mut self, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        link.state.unnamed = None;
        self.give_up_replica();
        frontend::put_query(io.to_server.put(), b"ROLLBACK");
        self.now.owed.push(Owed::Ours(Ours::Rollback));
        self.now.setback = Setback::Refused("moved");
        self.phase = Phase::Leaving;
    }

    /// Notes that the catalog may change, or processes end; the loop tells whom it concerns before the bytes leave.
    pub(super) fn trace(&mut self, verdict: &Verdict) {
        if verdict.acts.contains(&Act::Ddl) {
            self.traces.add(Traces::DDL);
        }
        if verdict.acts.contains(&Act::Terminate) {
            self.now.abroad = Some(Abroad::Terminates);
        }
    }

    /// What must be looked after in other databases before what was just written leaves.
    pub fn take_abroad(&mut self) -> Option<Abroad> {
        self.now.abroad.take()
    }
}

fn is_deposed(link: &Link<'_>, env: &Env<'_>) -> bool {
    link.role == LinkRole::Primary && env.view.has_another_primary(link.node)
}
