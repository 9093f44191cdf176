//! Pure: the server connection is gone. What the client hears of it depends on what was under way: nothing, if it can be
//! done once more; an error that says what is known, if not. Part of the machine.

use super::machine::{LinkRole, Machine, SessionEnd, Step};
use super::unit::End;
use super::work::{Awaited, Block, CopyIn, Fate, Phase, READ_ONLY, Replay, Reply, Setback, Traces, Work};
use crate::cluster::NodeId;
use crate::protocol::sqlstate::ClientError;
use crate::protocol::{TransactionStatus, backend};
use crate::sql::Act;

impl Machine {
    /// The node closed the connection, or it broke.
    pub fn on_server_eof(&mut self, node: NodeId, name: &str, role: LinkRole, to_client: &mut Vec<u8>) -> Step {
        self.awaited = Awaited::Nothing;
        if self.phase == Phase::Leaving || self.may_replay(role) {
            return self.replay(node, role);
        }
        if self.rests_on_replica(role) {
            // So far only reads were in the block, each with a snapshot of its own: it is opened again with the next one.
            self.replay(node, role);
            self.statements.drop_portals();
            return Step::Release;
        }
        if self.now.work.fate == Fate::Ended {
            // The node said why, and the client heard it.
            return Step::Close(SessionEnd::Server);
        }
        let error = match role {
            LinkRole::Replica => ClientError::reply_cut(name),
            LinkRole::Primary => ClientError::outcome_unknown(name),
        };
        let cut = self.now.work.from_server.left > 0
            || self.now.work.copy != CopyIn::None
            || self.now.work.from_client.left > 0;
        // Its answer went out, and what it left in the process died with it before we could ask: it must not be missed
        // in silence.
        let unlisted = self.audit.is_some() || self.traces.has(Traces::AUDIT);
        if !self.pins.is_empty() || cut || unlisted || !self.now.touched.is_empty() {
            let error = if self.now.work.begun { error } else { ClientError::session_lost(name) };
            return Step::Close(SessionEnd::Error(error.into()));
        }
        self.survive(error, to_client)
    }

    /// The connection that died was older than the loss before it: it says nothing new, so the unit may be tried once more.
    pub fn on_stale_loss(&mut self) {
        if self.now.work.replay == Replay::Again {
            self.now.work.replay = Replay::Read;
        }
    }

    /// The replica has been silent for too long. `AwaitReply`: its answer has to be waited for all the same.
    pub fn on_stall(&mut self, node: NodeId) -> Step {
        if !self.may_replay(LinkRole::Replica) {
            return Step::AwaitReply;
        }
        let step = self.replay(node, LinkRole::Replica);
        self.now.setback = Setback::Lost("stalled");
        step
    }

    /// Between two statements of a block that runs on a replica.
    pub(super) fn rests_on_replica(&self, role: LinkRole) -> bool {
        role == LinkRole::Replica && self.phase == Phase::Ready && matches!(self.block, Block::Replica(_))
    }

    fn may_replay(&self, role: LinkRole) -> bool {
        let again = match role {
            LinkRole::Replica => self.now.work.replay != Replay::Never,
            // Once: a statement that takes the primary down must not do so for ever.
            // Nor does a session go on as if nothing were missing that had left something in the process.
            LinkRole::Primary => {
                self.now.work.replay == Replay::Read && self.pins.hold_nothing() && !self.traces.has(Traces::AUDIT)
            }
        };
        again
            && self.now.work.reply == Reply::Held
            && matches!(self.now.work.fate, Fate::Clean | Fate::Refused)
            && self.phase == Phase::Running
            // Its BEGIN was sent and is gone: a read done once more would run outside of the block, and so would the rest.
            && !matches!(self.block, Block::Primary)
    }

    /// The unit is done once more, elsewhere if possible.
    fn replay(&mut self, node: NodeId, role: LinkRole) -> Step {
        self.undo();
        self.give_up_replica();
        if self.phase == Phase::Running || role == LinkRole::Primary {
            let refused = self.now.work.fate == Fate::Refused;
            self.now.setback = Setback::Lost(if refused { self.now.refusal } else { "connection_lost" });
            self.now.avoid.push(node);
        }
        self.status = TransactionStatus::Idle;
        self.phase = Phase::Ready;
        self.now.unit.reset();
        Step::Retry
    }

    /// The block's replica has it no more: as the client knows it, it is announced again or has failed.
    pub(super) fn give_up_replica(&mut self) {
        self.block = match std::mem::take(&mut self.block) {
            Block::Replica(announced) if self.status == TransactionStatus::Failed => Block::Doomed(announced),
            Block::Replica(announced) => Block::Announced(announced),
            block => block,
        };
    }

    /// As far as the answers went that the client has.
    fn is_in_block(&self) -> bool {
        let open = matches!(self.block, Block::Primary | Block::Replica(_));
        let done = self.now.work.executed.iter().filter(|executed| !executed.is_void());
        let acts = done.flat_map(|executed| &executed.verdict.acts);
        acts.fold(open, |open, act| match act {
            Act::Begin(_) => true,
            Act::Commit { chain } | Act::Rollback { chain } => *chain,
            _ => open,
        })
    }

    /// The session goes on without what the connection held, and hears what became of its statement.
    fn survive(&mut self, error: ClientError, to_client: &mut Vec<u8>) -> Step {
        let (running, end) = (self.now.work.begun, self.now.work.end);
        let commits = self.now.owed.texts().any(|text| text.acts.iter().any(|act| matches!(act, Act::Commit { .. })));
        let in_block = self.is_in_block();
        if in_block && !(running && commits) {
            self.block.doom();
        } else {
            self.block = Block::None;
        }
        self.status = TransactionStatus::Idle;
        let owed = self.now.owed.take();
        self.take_back(owed, drop);
        self.statements.drop_portals();
        self.done();
        if running {
            backend::put_error(to_client, &ClientError { severity: "ERROR", ..error });
            if matches!(end, None | Some(End::Flush | End::Overlong)) {
                self.now.work = Work::default();
                self.phase = Phase::Skipping;
            } else {
                backend::put_ready_for_query(to_client, self.client_status());
            }
        }
        Step::Release
    }
}

/// What kind of trouble a replica had, in the metrics' words.
pub(super) fn refusal(sqlstate: &[u8]) -> &'static str {
    match sqlstate {
        b"40001" | b"40P01" | b"57P04" => "recovery_conflict",
        b"25006" => READ_ONLY,
        b"53300" => "too_many_connections",
        b"42501" => "permission",
        b"57P01" | b"57P02" | b"57P03" => "shutdown",
        code if code.starts_with(b"42") || code.starts_with(b"3") => "missing_object",
        _ => "server_error",
    }
}
