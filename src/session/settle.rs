//! Pure: what a unit left behind: floors, settings, pins, and whether the server process must be asked. Part of the machine.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::audit::{self, Audit};
use super::machine::{Env, Finished, Link, LinkRole, Machine, ServerIo, Step};
use super::pins::Pins;
use super::pipeline::{Ours, Owed};
use super::settings::SessionSettings;
use super::unit::End;
use super::vacate::Abroad;
use super::work::{Awaited, Block, Executed, Fate, Forward, Phase, Setback, Traces, Work};
use crate::cluster::{Lsn, Position, Timeline};
use crate::protocol::{TransactionStatus, frontend};
use crate::routing::{Floor, LastRead, RouteSetting};
use crate::sql::{Act, Consistency, Pin, Verdict};

impl Machine {
    /// The unit was answered. `Some`: what the loop must do.
    pub(super) fn settle(
        &mut self,
        status: TransactionStatus,
        io: &mut ServerIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Option<Step> {
        self.note_position(link, env);
        let executed = std::mem::take(&mut self.now.work.executed);
        let truth = self.truth(&executed, status);
        for executed in &executed {
            self.account(executed, truth, link);
        }
        if !matches!(self.block, Block::Replica(_)) && status != TransactionStatus::Idle {
            self.block = Block::Primary;
        }
        if !self.now.cancels.is_empty() && self.now.work.fate == Fate::Clean {
            self.now.abroad = Some(Abroad::Cancelled(std::mem::take(&mut self.now.cancels)));
        }
        self.report(link, env);
        if status != TransactionStatus::Idle {
            self.done();
            return Some(Step::ReadMore);
        }
        self.block = Block::None;
        self.statements.drop_portals();
        if self.now.work.from_client.left > 0 {
            return Some(self.settle_cut(link));
        }
        if self.traces.has(Traces::AUDIT) && link.role == LinkRole::Primary {
            self.traces.remove(Traces::AUDIT);
            self.audit = Some(Box::new(Audit::new(&env.rules.user)));
            let known = self.settings.current().keys().map(|name| &**name);
            let query = audit::query(known.chain(self.now.touched.iter().map(String::as_str)));
            link.state.unnamed = None;
            frontend::put_query(io.to_server, query.as_bytes());
            self.now.touched.clear();
            self.now.owed.push(Owed::Ours(Ours::Audit));
            self.now.work = Work { end: Some(End::Query), ..Work::default() };
            return None;
        }
        self.traces.remove(Traces::DDL);
        self.done();
        Some(self.free(link))
    }

    /// A COPY failed while one of its rows was on its way: only the rest of that row can follow on this connection.
    fn settle_cut(&mut self, link: &mut Link<'_>) -> Step {
        if self.pins.is_empty() {
            link.state.spoiled = true;
            self.now.work.from_client.forward = Forward::Drop;
            self.traces.remove(Traces::AUDIT);
            self.traces.remove(Traces::DDL);
        }
        self.done();
        self.free(link)
    }

    /// Between units: the connection goes back unless something holds it.
    fn free(&self, link: &Link<'_>) -> Step {
        if self.pins.is_empty() || link.role == LinkRole::Replica { Step::Release } else { Step::ReadMore }
    }

    pub(super) fn done(&mut self) {
        self.phase = Phase::Ready;
        // A row of a COPY that failed may still be on its way.
        self.now.work = Work { from_client: self.now.work.from_client, ..Work::default() };
        self.now.end_unit();
    }

    fn report(&mut self, link: &Link<'_>, _env: &Env<'_>) {
        let statements = self.now.unit.texts.iter().map(|verdict| verdict.statements).sum();
        self.now.finished = Some(Finished {
            replica: (link.role == LinkRole::Replica).then_some(link.node),
            reason: self.now.decision.take(),
            statements,
            setback: match self.now.setback {
                Setback::None => None,
                Setback::Lost(why) | Setback::Refused(why) => Some(why),
            },
        });
    }

    /// What later reads may not miss.
    fn note_position(&mut self, link: &Link<'_>, env: &Env<'_>) {
        match link.role {
            LinkRole::Primary => {
                self.state.floor = Floor::Unknown { ticket: env.ticket, at_least: self.known_floor() };
            }
            LinkRole::Replica => {
                let probes_started =
                    env.view.node(link.node).map_or(u64::MAX, |node| node.stats.probes_started.load(Ordering::Relaxed));
                self.state.last_read = Some(LastRead { node: link.node, probes_started, ticket: env.ticket });
            }
        }
    }

    pub(super) fn known_floor(&self) -> Option<Position> {
        match self.state.floor {
            Floor::None => None,
            Floor::At(position) => Some(position),
            Floor::Unknown { at_least, .. } => at_least,
        }
    }

    /// The execution of a text is over. Statements that it forgot are forgotten at once, since more may be prepared behind
    /// it; everything else waits for the end of the unit.
    pub(super) fn executed(&mut self, verdict: Rc<Verdict>, link: &mut Link<'_>) {
        let failed = self.now.work.fate == Fate::Failed;
        for act in verdict.acts.iter().filter(|act| act.forgets_statements()) {
            self.awaited = Awaited::Nothing;
            match (failed, verdict.statements, act) {
                // DISCARD ALL stands alone, or it fails.
                (true, 0 | 1, _) | (true, _, Act::DiscardAll) => {}
                // Perhaps. They have the client's own names, so the server knows.
                (true, ..) if self.own_names(link) => self.statements.clear(),
                // A block that had failed before: nothing was done.
                (true, ..) => {}
                (false, ..) => self.forget_statements(act, link),
            }
        }
        let work = &mut self.now.work;
        work.executed.push(Executed { verdict, fate: work.fate });
    }

    fn forget_statements(&mut self, act: &Act, link: &mut Link<'_>) {
        if let Act::Deallocate { name } = act {
            match self.statements.remove(name.as_bytes()) {
                // The one that was made for this is gone with it.
                Some(_) => link.state.orphans.retain(|orphan| !self.now.aliases.iter().any(|alias| alias.0 == *orphan)),
                None => self.traces.add(Traces::AUDIT),
            }
            return;
        }
        self.statements.clear();
        link.state.statements.clear();
        link.state.orphans.clear();
        self.pins.remove(Pin::SqlPrepare);
        self.traces.remove(Traces::OWN_NAMES);
    }

    /// What the texts say of settings is true unless a transaction of several statements took it back, or still may.
    fn truth(&self, executed: &[Executed], status: TransactionStatus) -> Truth {
        let mut acts = executed.iter().flat_map(|executed| &executed.verdict.acts);
        let in_block = status != TransactionStatus::Idle || !matches!(self.block, Block::None);
        let mixed = acts.any(|act| matches!(act, Act::Begin(_) | Act::Commit { .. } | Act::Rollback { .. }));
        if in_block || mixed || self.now.work.fate == Fate::Failed { Truth::Asked } else { Truth::Told }
    }

    /// One text that was executed.
    fn account(&mut self, executed: &Executed, truth: Truth, link: &mut Link<'_>) {
        let verdict = &executed.verdict;
        link.state.worn |= verdict.acts.iter().any(|act| matches!(act, Act::Audit | Act::Ddl | Act::Pin(_)));
        for act in &verdict.acts {
            match act {
                Act::Audit => {
                    self.traces.add(Traces::AUDIT);
                    // It may have set what no list of the server's shows: the next session does not get to see it.
                    link.state.opaque = Some(self.id);
                    self.home = Some(link.id);
                }
                // A failed transaction does not give its values back.
                Act::Sequence => self.on_sequence(link),
                Act::LastSequence => self.on_last_sequence(link),
                Act::Pin(pin) if executed.fate == Fate::Failed => self.on_failed_pin(*pin, executed),
                Act::Pin(pin) => self.pins.insert(*pin),
                _ if executed.is_void() => {}
                Act::Set { .. } | Act::Reset { .. } | Act::ResetAll if truth == Truth::Asked => {
                    self.traces.add(Traces::AUDIT);
                    if let Act::Set { name, .. } = act {
                        self.now.touched.push(name.clone());
                    }
                }
                Act::Set { .. } | Act::Reset { .. } | Act::ResetAll => self.change_settings(act, link),
                Act::DiscardAll if executed.fate == Fate::Failed => {}
                Act::DiscardAll => {
                    match truth {
                        Truth::Told => self.change_settings(act, link),
                        Truth::Asked => self.traces.add(Traces::AUDIT),
                    }
                    link.state.sequences = None;
                    for pin in [
                        Pin::TempObjects,
                        Pin::HoldCursor,
                        Pin::AdvisoryLock,
                        Pin::Listen,
                        Pin::Sequence,
                        Pin::BackendPid,
                    ] {
                        self.pins.remove(pin);
                    }
                }
                Act::Deallocate { .. }
                | Act::DeallocateAll
                | Act::Begin(_)
                | Act::Commit { .. }
                | Act::Rollback { .. }
                | Act::PrepareTransaction
                | Act::SetTransaction(_)
                | Act::Terminate
                | Act::Ddl => {}
            }
        }
    }

    /// A session's advisory lock, a seed and an origin outlive the transaction that failed.
    fn on_failed_pin(&mut self, pin: Pin, executed: &Executed) {
        match pin {
            // Nobody was told the number.
            Pin::BackendPid if executed.is_void() => {}
            _ if Pins::are_audited(pin) => self.traces.add(Traces::AUDIT),
            _ => self.pins.insert(pin),
        }
    }

    fn change_settings(&mut self, act: &Act, link: &mut Link<'_>) {
        link.state.settings = SessionSettings::on_server(&link.state.settings, act);
        self.settings.apply(act);
        if *link.state.settings == **self.settings.current() {
            link.state.settings = std::sync::Arc::clone(self.settings.current());
        } else {
            self.traces.add(Traces::TELL);
        }
        self.adopt_settings();
    }

    /// currval and lastval now belong to this connection; whether anyone asks for them is seen later.
    fn on_sequence(&mut self, link: &mut Link<'_>) {
        link.state.sequences = Some(self.id);
        self.home = Some(link.id);
        if self.traces.has(Traces::SEQUENCES) {
            self.pins.insert(Pin::Sequence);
        }
    }

    fn on_last_sequence(&mut self, link: &Link<'_>) {
        self.traces.add(Traces::SEQUENCES);
        if link.state.sequences == Some(self.id) {
            self.pins.insert(Pin::Sequence);
        }
    }

    /// The server process told what it holds.
    pub(super) fn on_audited(&mut self, io: &mut ServerIo<'_>, link: &mut Link<'_>, env: &mut Env<'_>) -> Step {
        match self.audit.take().and_then(|audit| audit.finish()) {
            Some(found) => {
                self.settings.replace(found.settings);
                link.state.settings = std::sync::Arc::clone(self.settings.current());
                self.pins.audited(found.pins);
                if self.traces.has(Traces::OWN_NAMES) {
                    self.pins.insert(Pin::SqlPrepare);
                }
                self.adopt_settings();
            }
            None => self.pins.insert(Pin::Opaque),
        }
        if env.rules.session_pooling {
            self.pins.insert(Pin::SessionPooling);
        }
        debug_assert!(io.to_server.is_empty(), "an audit is the last request of its unit");
        self.traces.remove(Traces::DDL);
        self.done();
        self.free(link)
    }

    /// Our own settings, which travel like all others.
    pub(super) fn adopt_settings(&mut self) {
        let level = self.settings.text("pgweir.consistency").as_deref().and_then(consistency);
        self.state.consistency = level.unwrap_or(self.configured);
        self.state.route = match self.settings.text("pgweir.route").as_deref() {
            Some("primary") => RouteSetting::Primary,
            Some("replica") => RouteSetting::Replica,
            _ => RouteSetting::Auto,
        };
        if let Some(floor) = self.settings.text("pgweir.floor").as_deref().and_then(parse_floor) {
            self.raise_floor(floor);
        }
    }

    fn raise_floor(&mut self, floor: Position) {
        let higher = |known: Position| {
            if (known.timeline, known.lsn) > (floor.timeline, floor.lsn) { known } else { floor }
        };
        self.state.floor = match self.state.floor {
            Floor::None => Floor::At(floor),
            Floor::At(known) => Floor::At(higher(known)),
            Floor::Unknown { ticket, at_least } => {
                Floor::Unknown { ticket, at_least: Some(at_least.map_or(floor, higher)) }
            }
        };
    }
}

/// Where the session's settings are known from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    /// The texts.
    Told,
    /// An audit.
    Asked,
}

fn consistency(level: &str) -> Option<Consistency> {
    Some(match level {
        "eventual" => Consistency::Eventual,
        "session" => Consistency::Session,
        "global" => Consistency::Global,
        "strict" => Consistency::Strict,
        "primary" => Consistency::Primary,
        _ => return None,
    })
}

/// What `SHOW pgweir.floor` answers.
pub fn show_floor(floor: Position) -> String {
    format!("{}:{}:{}", floor.system, floor.timeline.0, floor.lsn)
}

/// `system:timeline:lsn`, as `SHOW pgweir.floor` answers.
pub fn parse_floor(text: &str) -> Option<Position> {
    let mut parts = text.splitn(3, ':');
    let system = parts.next()?.parse().ok()?;
    let timeline = Timeline(parts.next()?.parse().ok()?);
    let lsn: Lsn = parts.next()?.to_uppercase().parse().ok()?;
    Some(Position { system, timeline, lsn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_reads_back() {
        let floor = Position { system: 7, timeline: Timeline(2), lsn: Lsn(0x16_B374_D848) };
        assert_eq!(parse_floor(&show_floor(floor)), Some(floor));
        assert_eq!(parse_floor("7:2"), None);
    }
}
