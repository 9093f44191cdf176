//! Pure: a node's messages on their way to the client. Each is matched with what is owed; the answers to our own requests
//! are swallowed, a replica's error is held back, everything else passes unseen. Part of the machine.

use super::lost::refusal;
use super::machine::{Env, Link, Machine, ServerIo, SessionEnd, Step};
use super::pipeline::{Ours, Owed};
use super::work::{
    Awaited, BEHIND, Block, CopyIn, Fate, Forward, PROMOTED, Phase, Piecemeal, Replay, Reply, Setback, Traces,
};
use crate::cluster::Lsn;
use crate::pool::state::server_name;
use crate::protocol::frame::{self, FrameError, HEADER};
use crate::protocol::sqlstate::ClientError;
use crate::protocol::{TransactionStatus, backend, frontend};
use crate::routing::Floor;

/// Query canceled: by the client itself or its statement_timeout, so it is the answer.
const QUERY_CANCELED: &[u8] = b"57014";

/// Backend messages that must be whole before they are looked at, up to this many bytes.
const LONGEST_KEPT: usize = 64 << 20;

/// What becomes of one message.
enum Fare {
    Pass,
    Drop,
    /// Something else was written in its place.
    Replaced,
    /// The unit's last message: what follows from it.
    Ready(TransactionStatus),
    End(SessionEnd),
}

impl Machine {
    /// Takes a node's bytes from `input[*at..]`. Stops where the unit ends.
    pub fn on_server(
        &mut self,
        input: &[u8],
        at: &mut usize,
        io: &mut ServerIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Result<Step, FrameError> {
        while *at < input.len() {
            let left = self.now.work.from_server.left.min(input.len() - *at);
            if left > 0 {
                if self.now.work.from_server.forward == Forward::Pass {
                    io.to_client.pass(*at..*at + left);
                }
                *at += left;
                self.now.work.from_server.left -= left;
                continue;
            }
            let Some(header) = frame::header(&input[*at..])? else {
                break;
            };
            let range = *at..(*at + header.total).min(input.len());
            let whole = range.len() == header.total;
            if !whole && self.must_be_whole(header.tag) {
                if header.total > LONGEST_KEPT {
                    return Err(FrameError::Length { tag: header.tag });
                }
                break;
            }
            let fare = self.on_message(header.tag, &input[range.clone()], io, link, env);
            *at = range.end;
            let left = header.total - range.len();
            match fare {
                Fare::Pass => {
                    self.forwarded();
                    io.to_client.pass(range);
                    self.now.work.from_server = Piecemeal { left, forward: Forward::Pass };
                }
                Fare::Drop => self.now.work.from_server = Piecemeal { left, forward: Forward::Drop },
                Fare::Replaced => {}
                Fare::End(end) => return Ok(Step::Close(end)),
                Fare::Ready(status) => {
                    if let Some(step) = self.on_ready(status, range, io, link, env) {
                        return Ok(step);
                    }
                }
            }
        }
        Ok(if self.phase == Phase::Ready { Step::ReadMore } else { Step::AwaitReply })
    }

    /// The client has a part of a message.
    pub fn is_in_message(&self) -> bool {
        !self.is_at_rest() && self.now.work.from_server.left > 0 && !self.holds_reply()
    }

    /// Something of the answer goes to the client: unless it is held back, the unit cannot be sent a second time.
    fn forwarded(&mut self) {
        if self.now.work.reply == Reply::Direct {
            self.now.work.replay = Replay::Never;
        }
    }

    fn must_be_whole(&self, tag: u8) -> bool {
        match tag {
            b'E' | b'S' | b'Z' => true,
            b'D' => matches!(self.now.owed.front(), Some(Owed::Ours(_))),
            _ => false,
        }
    }

    fn on_message(
        &mut self,
        tag: u8,
        message: &[u8],
        io: &mut ServerIo<'_>,
        link: &mut Link<'_>,
        env: &Env<'_>,
    ) -> Fare {
        if let Some(Owed::Known) = self.now.owed.front() {
            self.now.owed.pop();
            frontend::message(io.to_client.put(), b'1', |_| {});
        }
        let ours = matches!(
            self.now.owed.front(),
            Some(Owed::Ours(_) | Owed::OurParse(_) | Owed::OurClose(_) | Owed::OurUnnamed | Owed::OurStandIn(_))
        );
        match tag {
            b'D' | b'T' | b'C' | b'I' | b'N' | b'n' if ours => {
                if tag == b'D' {
                    self.on_own_row(&message[HEADER..]);
                }
                Fare::Drop
            }
            b'D' | b'd' | b't' | b'N' | b'H' | b'c' | b'V' | b'W' => Fare::Pass,
            b'C' | b'I' | b's' => {
                if let Some(Owed::Execute(verdict)) = self.now.owed.front() {
                    let verdict = verdict.clone();
                    self.now.owed.pop();
                    verdict.into_iter().for_each(|verdict| self.executed(verdict, link));
                }
                Fare::Pass
            }
            b'T' | b'n' => {
                if matches!(self.now.owed.front(), Some(Owed::DescribeStatement | Owed::DescribePortal)) {
                    self.now.owed.pop();
                }
                Fare::Pass
            }
            b'1' | b'2' | b'3' => {
                self.now.owed.pop();
                if ours { Fare::Drop } else { Fare::Pass }
            }
            b'G' => {
                self.on_copy_in();
                Fare::Pass
            }
            b'A' => {
                // What a notification tells of was committed before: the next read must see it.
                self.state.floor = Floor::Unknown { ticket: env.ticket, at_least: self.known_floor() };
                Fare::Pass
            }
            b'S' => self.on_parameter(&message[HEADER..], ours, link),
            b'E' => self.on_error(&message[HEADER..], io, link, env),
            b'Z' => match message.get(HEADER).copied().and_then(TransactionStatus::from_byte) {
                Some(status) => Fare::Ready(status),
                None => {
                    let error = ClientError::protocol_violation("pgweir: a node sent a malformed ReadyForQuery");
                    Fare::End(SessionEnd::Error(error.into()))
                }
            },
            _ => Fare::Drop,
        }
    }

    fn on_own_row(&mut self, row: &[u8]) {
        match (self.now.owed.front(), &mut self.audit) {
            (Some(Owed::Ours(Ours::Proof)), _) => {
                let columns = backend::data_row(row);
                let Some([Some(replayed)]) = columns.as_deref() else { return };
                let replayed = std::str::from_utf8(replayed).ok().and_then(|replayed| replayed.parse().ok());
                self.now.proof = self.now.proof.filter(|proof| replayed.is_none_or(|replayed: Lsn| replayed < *proof));
            }
            (_, Some(audit)) => audit.on_row(row),
            _ => {}
        }
    }

    fn on_copy_in(&mut self) {
        self.now.work.copy = match self.now.owed.front() {
            Some(Owed::Execute(_)) => {
                if self.now.owed.drop_sync_behind_execute() {
                    self.now.work.end = None;
                }
                CopyIn::Extended
            }
            _ => CopyIn::Simple,
        };
    }

    /// The client sees the primary's values, and never what only tells nodes apart.
    fn on_parameter(&mut self, body: &[u8], ours: bool, link: &mut Link<'_>) -> Fare {
        let Some((name, value)) = backend::parameter_status(body) else {
            return Fare::Drop;
        };
        let (name_text, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        match link.parameters.iter_mut().find(|(known, _)| *known == name_text) {
            Some((_, known)) => *known = value.into_owned(),
            None => link.parameters.push((name_text.into_owned(), value.into_owned())),
        }
        let hidden = name == b"in_hot_standby" || Machine::on_replica(link);
        let told = match self.now.owed.front() {
            Some(Owed::Ours(Ours::Settings)) => self.traces.has(Traces::TELL),
            // The client's own end of the block will find nothing to tell.
            owed => matches!(owed, Some(Owed::Ours(Ours::End))),
        };
        if hidden || (ours && !told) { Fare::Drop } else { Fare::Pass }
    }

    fn on_error(&mut self, body: &[u8], io: &mut ServerIo<'_>, link: &mut Link<'_>, env: &Env<'_>) -> Fare {
        self.now.work.copy = CopyIn::None;
        if self.awaited == Awaited::Forgetting && !matches!(self.now.owed.front(), Some(Owed::Ours(_))) {
            self.awaited = Awaited::Nothing;
        }
        if let Some(Owed::Ours(ours)) = self.now.owed.front() {
            return self.on_own_error(*ours, body, io, link);
        }
        if self.now.owed.fails_alone() {
            // It cannot be prepared any more; should the client use it, the server says that it is not there.
            self.on_skip(link);
            return Fare::Drop;
        }
        if self.now.work.fate == Fate::Refused {
            // What a replica says that is not asked any more.
            if !matches!(self.now.owed.front(), None | Some(Owed::Query(_) | Owed::FunctionCall)) {
                self.on_skip(link);
            }
            return Fare::Drop;
        }
        let sqlstate = backend::error_field(body, b'C').unwrap_or_default();
        let severity = backend::error_field(body, b'V');
        let ended = matches!(severity, Some(b"FATAL" | b"PANIC"));
        if ended && self.rests_on_replica(link.role) {
            // Nobody asked it anything, and the block goes on elsewhere.
            return Fare::Drop;
        }
        let promoted = self.demote(link);
        // The primary's word counts, unless it is its last that nobody asked for, or was said of a statement that stands for
        // the client's.
        let counts = if ended { env.ends_expected } else { !promoted };
        let matters = !Machine::on_replica(link) && counts;
        let held = self.now.work.reply == Reply::Held && sqlstate != QUERY_CANCELED && !matters;
        self.now.work.fate = match (held, ended) {
            (true, _) => Fate::Refused,
            (false, true) => Fate::Ended,
            (false, false) => Fate::Failed,
        };
        if self.now.work.fate == Fate::Ended {
            // Nothing comes behind it that would send on what is held back.
            self.now.work.reply = Reply::Direct;
        }
        self.now.refusal = if promoted && !Machine::on_replica(link) { PROMOTED } else { refusal(sqlstate) };
        if !matches!(self.now.owed.front(), None | Some(Owed::Query(_) | Owed::FunctionCall)) {
            self.on_skip(link);
        }
        if held {
            return Fare::Drop;
        }
        for (number, name) in &self.now.aliases {
            let server = format!("\"{}\"", server_name(*number));
            if memchr::memmem::find(body, server.as_bytes()).is_some() {
                let client = [b"\"", &**name, b"\""].concat();
                backend::put_error_renamed(io.to_client.put(), body, server.as_bytes(), &client);
                return Fare::Replaced;
            }
        }
        Fare::Pass
    }

    /// A request of our own failed.
    fn on_own_error(&mut self, ours: Ours, body: &[u8], io: &mut ServerIo<'_>, link: &mut Link<'_>) -> Fare {
        if ours == Ours::Audit {
            if let Some(audit) = &mut self.audit {
                audit.on_error();
            }
            return Fare::Drop;
        }
        if matches!(ours, Ours::Doom | Ours::Proof) {
            return Fare::Drop;
        }
        link.state.spoiled = true;
        if Machine::on_replica(link) {
            self.now.work.fate = Fate::Refused;
            return Fare::Drop;
        }
        // The connection is not what the session needs, and what was sent behind must not count: this is the end.
        frontend::message(io.to_client.put(), b'E', |out| out.extend_from_slice(body));
        Fare::End(SessionEnd::Server)
    }

    /// ReadyForQuery. `Some`: what the loop must do before anything else.
    fn on_ready(
        &mut self,
        status: TransactionStatus,
        range: std::ops::Range<usize>,
        io: &mut ServerIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Option<Step> {
        while let Some(owed) = self.now.owed.pop() {
            match owed {
                Owed::Ours(ours) => return self.on_own_ready(ours, status, io, link, env),
                Owed::Query(verdict) => {
                    verdict.into_iter().for_each(|verdict| self.executed(verdict, link));
                    return self.on_unit_ready(status, range, io, link, env);
                }
                Owed::Sync | Owed::FunctionCall => return self.on_unit_ready(status, range, io, link, env),
                _ => {}
            }
        }
        None
    }

    fn on_own_ready(
        &mut self,
        ours: Ours,
        status: TransactionStatus,
        io: &mut ServerIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Option<Step> {
        self.status = status;
        match ours {
            Ours::Settings => {
                if self.awaited == Awaited::Settings {
                    self.awaited = Awaited::Nothing;
                }
                self.traces.remove(Traces::TELL);
                None
            }
            Ours::Begin | Ours::Doom | Ours::Discard | Ours::End => None,
            Ours::Proof => {
                let proven = self.now.proof.take().is_none();
                if let Some(node) = env.view.node(link.node) {
                    node.stats.note_proof(proven);
                }
                if !proven {
                    self.now.work.fate = Fate::Refused;
                    self.now.refusal = BEHIND;
                }
                None
            }
            Ours::Rollback => {
                self.phase = Phase::Ready;
                self.now.unit.reset();
                Some(Step::Retry)
            }
            Ours::Audit => Some(self.on_audited(io, link, env)),
        }
    }

    fn on_unit_ready(
        &mut self,
        status: TransactionStatus,
        range: std::ops::Range<usize>,
        io: &mut ServerIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Option<Step> {
        self.status = status;
        self.now.work.copy = CopyIn::None;
        if self.now.work.fate == Fate::Refused {
            return Some(self.refuse(io, link));
        }
        io.to_client.pass(range);
        self.settle(status, io, link, env)
    }

    /// A replica's error: the client gets the primary's answer instead.
    fn refuse(&mut self, io: &mut ServerIo<'_>, link: &mut Link<'_>) -> Step {
        io.to_client.clear();
        self.undo();
        self.now.setback = match self.now.refusal {
            BEHIND => {
                self.now.avoid.push(link.node);
                Setback::Lost(BEHIND)
            }
            refusal => Setback::Refused(refusal),
        };
        if let Block::Replica(announced) = std::mem::take(&mut self.block) {
            self.block = Block::Announced(announced);
        }
        if self.status != TransactionStatus::Idle {
            link.state.unnamed = None;
            frontend::put_query(io.to_server, b"ROLLBACK");
            self.now.owed.push(Owed::Ours(Ours::Rollback));
            self.phase = Phase::Leaving;
            return Step::AwaitReply;
        }
        self.phase = Phase::Ready;
        self.now.unit.reset();
        Step::Retry
    }
}
