//! Pure: what the session's prepared statements are called on the server connection at hand, and getting them there. Part of
//! the machine; `emit` calls it.

use std::rc::Rc;

use smallvec::SmallVec;

use super::machine::{ClientIo, Env, Link, LinkRole, Machine};
use super::pipeline::{Ours, Owed, Parsed};
use super::statements::{self, Statement};
use super::undo::Undo;
use super::unit::names_statements;
use super::work::{Replay, Traces};
use crate::pool::state::{StatementKey, server_name};
use crate::protocol::{TransactionStatus, frontend};
use crate::sql::{Act, Pin, Verdict};

impl Machine {
    /// DEALLOCATE of a statement that was prepared by protocol: on the server it has another name, if it is there, and may
    /// serve other sessions. The server deallocates one that was made for this.
    pub(super) fn deallocated(
        &mut self,
        verdict: &Verdict,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
    ) -> Option<String> {
        let [Act::Deallocate { name }] = verdict.acts.as_slice() else {
            return None;
        };
        if self.own_names(link) {
            return None;
        }
        self.statements.named(name.as_bytes())?;
        let number = link.state.statements.spare();
        frontend::put_parse(io.to_server.put(), server_name(number).as_bytes(), b"\0\0\0");
        self.now.owed.push(Owed::OurStandIn(number));
        link.state.orphans.push(number);
        self.now.aliases.push((number, SmallVec::from_slice(name.as_bytes())));
        Some(format!("DEALLOCATE {}", server_name(number)))
    }

    /// A new named statement. It is prepared anew even where another session prepared the same: its errors are its own.
    pub(super) fn emit_named_parse(
        &mut self,
        parse: &frontend::Parse<'_>,
        verdict: Rc<Verdict>,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &Env<'_>,
    ) {
        let key = statements::key(parse.name, parse.rest, self.settings.current(), env.catalog.version);
        if self.own_names(link) {
            frontend::put_parse(io.to_server.put(), parse.name, parse.rest);
        } else {
            if let Some(number) = link.state.statements.remove(key) {
                self.close_on_server(number, io);
            }
            let number = self.claim(key, io, link, env);
            frontend::put_parse(io.to_server.put(), server_name(number).as_bytes(), parse.rest);
            self.now.aliases.push((number, SmallVec::from_slice(parse.name)));
        }
        let statement = Statement {
            key,
            rest: parse.rest.into(),
            text_length: parse.text.len(),
            verdict,
            edition: env.verdicts.edition(env.catalog),
            serial: self.statements.next_serial(),
        };
        self.statements.insert(parse.name, statement);
        if self.now.work.replay != Replay::Never {
            self.now.undo.push(Undo::Parsed(parse.name.into()));
        }
        self.now.owed.push(Owed::Parse(Parsed::Named { name: parse.name.into(), key }));
    }

    /// A number for a statement on this connection; the least recently used one makes room.
    pub(super) fn claim(
        &mut self,
        key: StatementKey,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &Env<'_>,
    ) -> u32 {
        if let Some(number) = link.state.statements.evict(env.rules.server_statements) {
            self.close_on_server(number, io);
        }
        link.state.statements.insert(key)
    }

    pub(super) fn close_on_server(&mut self, number: u32, io: &mut ClientIo<'_>) {
        frontend::put_statement(io.to_server.put(), b'C', server_name(number).as_bytes());
        self.now.owed.push(Owed::OurClose(Some(number)));
    }

    /// The number that a statement of the session has on this connection, after preparing it if need be.
    pub(super) fn ensure_named(
        &mut self,
        name: &[u8],
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &Env<'_>,
    ) -> Option<u32> {
        if self.own_names(link) {
            return None;
        }
        let key = self.statements.named(name)?.key;
        let number = match link.state.statements.touch(key) {
            Some(number) => number,
            None => {
                let number = self.claim(key, io, link, env);
                let statement = self.statements.named(name)?;
                frontend::put_parse(io.to_server.put(), server_name(number).as_bytes(), &statement.rest);
                self.now.owed.push(Owed::OurParse(key));
                number
            }
        };
        if !self.now.aliases.iter().any(|(known, _)| *known == number) {
            self.now.aliases.push((number, SmallVec::from_slice(name)));
        }
        Some(number)
    }

    /// The unnamed statement is the session's own, or nobody's.
    pub(super) fn ensure_unnamed(&mut self, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        match self.statements.unnamed() {
            Some((key, rest, _)) => {
                if link.state.unnamed != Some(key) {
                    frontend::put_parse(io.to_server.put(), b"", rest);
                    self.now.owed.push(Owed::OurUnnamed);
                    link.state.unnamed = Some(key);
                }
            }
            None if link.state.unnamed.is_some() => {
                frontend::put_statement(io.to_server.put(), b'C', b"");
                self.now.owed.push(Owed::OurClose(None));
                link.state.unnamed = None;
            }
            None => {}
        }
    }

    /// A Describe of a statement.
    pub(super) fn emit_name(
        &mut self,
        tag: u8,
        name: &[u8],
        range: std::ops::Range<usize>,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &Env<'_>,
    ) {
        if name.is_empty() {
            self.ensure_unnamed(io, link);
            io.to_server.pass(range);
        } else if let Some(number) = self.ensure_named(name, io, link, env) {
            frontend::put_statement(io.to_server.put(), tag, server_name(number).as_bytes());
        } else {
            io.to_server.pass(range);
        }
    }

    /// Whether statements have the client's own names on this connection.
    pub(super) fn own_names(&self, link: &Link<'_>) -> bool {
        link.role == LinkRole::Primary && self.traces.has(Traces::OWN_NAMES)
    }

    /// A text in the middle of a block or of a pipeline, which was routed before it was read, may name statements as well.
    pub(super) fn own_names_for(
        &mut self,
        verdict: &Verdict,
        text: Option<&[u8]>,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
    ) {
        let names = text.is_some_and(|text| names_statements(verdict, text));
        if !names || self.own_names(link) {
            return;
        }
        if self.status == TransactionStatus::Failed {
            if self.now.owed.is_empty() && text.is_some_and(ends_first) {
                self.name_behind_block(io, link);
            }
            return;
        }
        if self.now.owed.is_empty() && self.status == TransactionStatus::InTransaction {
            return self.take_own_names(io, link);
        }
        // A Sync of ours would commit what the client's pipeline did so far.
        for number in link.state.statements.drain() {
            self.close_on_server(number, io);
        }
        for (name, statement) in self.statements.all() {
            frontend::put_parse(io.to_server.put(), name, &statement.rest);
            self.now.owed.push(Owed::OurParse(statement.key));
        }
        self.traces.add(Traces::OWN_NAMES);
        self.pins.insert(Pin::SqlPrepare);
    }

    /// Nothing can be prepared in a block that failed. This one ends with the client's text, so it ends here already, and the
    /// text finds another that failed as well.
    fn name_behind_block(&mut self, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        frontend::put_query(io.to_server.put(), b"ROLLBACK");
        self.now.owed.push(Owed::Ours(Ours::End));
        self.take_own_names(io, link);
        self.doom(b"BEGIN", io, link);
    }

    /// From now on they have: the session's SQL is about to name them (EXECUTE, pg_prepared_statements). Other sessions'
    /// statements leave the connection, and this session stays on it.
    pub(super) fn take_own_names(&mut self, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        for number in link.state.statements.drain() {
            self.close_on_server(number, io);
        }
        let out = io.to_server.put();
        frontend::message(out, b'S', |_| {});
        self.now.owed.push(Owed::Ours(Ours::Discard));
        // Each for itself: one that cannot be prepared any more must not take the others with it.
        for (name, statement) in self.statements.all() {
            frontend::put_parse(out, name, &statement.rest);
            frontend::message(out, b'S', |_| {});
            self.now.owed.push(Owed::OurParse(statement.key));
            self.now.owed.push(Owed::Ours(Ours::Discard));
        }
        self.traces.add(Traces::OWN_NAMES);
        self.pins.insert(Pin::SqlPrepare);
    }
}

/// Whether the text ends the transaction block before it does anything else, and not as a chain.
fn ends_first(text: &[u8]) -> bool {
    let first = text.split(|byte| *byte == b';').next().unwrap_or_default().to_ascii_uppercase();
    let mut words = first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    matches!(words.next(), Some(b"ROLLBACK" | b"COMMIT" | b"ABORT" | b"END"))
        && matches!(words.next(), None | Some(b"WORK" | b"TRANSACTION"))
        && words.next().is_none()
}
