//! Pure: an unnamed statement that comes again and again is kept prepared on the server connection under a name of ours,
//! for all sessions (`pool.auto_prepare`). Its Parse is then answered here, and its Bind names that one. Part of the
//! machine; `emit` asks for each Parse, `replies` tells of an error.
//!
//! It must not show. So it is only for a proven read outside of a block whose reply is held back: after any error the unit
//! is done once more as the client sent it, and that answer counts.

use std::rc::Rc;

use super::machine::{ClientIo, Env, Link, Machine};
use super::pipeline::{Owed, Parsed};
use super::statements;
use super::work::{Block, Replay, Setback, Traces};
use crate::pool::state::server_name;
use crate::protocol::{TransactionStatus, frontend};
use crate::sql::Verdict;

impl Machine {
    /// Whether a shared statement stands for the one of this Parse; then all is done.
    pub(super) fn promote(
        &mut self,
        parse: &frontend::Parse<'_>,
        verdict: &Rc<Verdict>,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> bool {
        if !self.may_promote(parse, verdict, env) {
            return false;
        }
        if self.setback != Setback::None {
            env.verdicts.regulars.start_over(parse.rest);
            return false;
        }
        if !env.verdicts.regulars.is_regular(parse.rest, parse.text, env.rules.auto_prepare) {
            return false;
        }
        let key = statements::shared_key(parse.rest, self.settings.current(), env.catalog.version);
        self.forget_unnamed();
        let number = match link.state.statements.touch(key) {
            Some(number) => {
                link.state.statements.spare_parse();
                self.owed.push(Owed::Known);
                number
            }
            None => {
                let number = self.claim(key, io, link, env);
                frontend::put_parse(io.to_server.put(), server_name(number).as_bytes(), parse.rest);
                self.owed.push(Owed::Parse(Parsed::Unnamed));
                number
            }
        };
        // A later unit may bind it again; where it is not the server connection's own unnamed one, it is parsed then.
        self.statements.set_unnamed(parse.rest, Rc::clone(verdict));
        self.work.promoted = Some(number);
        true
    }

    /// A unit of its own that can be done once more, in a session that shares all that its meaning depends on.
    fn may_promote(&self, parse: &frontend::Parse<'_>, verdict: &Verdict, env: &Env<'_>) -> bool {
        env.rules.auto_prepare > 0
            && parse.name.is_empty()
            && self.unit.is_one_statement()
            && self.work.replay != Replay::Never
            && matches!(self.block, Block::None)
            && self.status == TransactionStatus::Idle
            && verdict.acts.is_empty()
            // While DDL is under way, names may come to mean something else.
            && env.catalog_current
            // Temporary objects among others, which hide what has the same name.
            && self.pins.is_empty()
            && !self.traces.has(Traces::OWN_NAMES)
            && !self.settings.current().contains_key("plan_cache_mode")
    }

    /// An error: the shared statement is not used again. `true` if one stood for the client's.
    pub(super) fn demote(&mut self, link: &mut Link<'_>) -> bool {
        let Some(number) = self.work.promoted.take() else {
            return false;
        };
        link.state.statements.forget(number);
        link.state.orphans.push(number);
        true
    }
}
