//! Pure: the client's messages on their way to a node. Prepared statements get the name that they have on this server
//! connection, and are prepared there first if they are not. Part of the machine.

use std::ops::Range;
use std::rc::Rc;

use super::audit;
use super::machine::{ClientIo, Env, Link, LinkRole, Machine, SessionEnd, Step};
use super::pipeline::{Closed, Owed, Parsed};
use super::unit::{End, opaque, statement_verdict};
use super::vacate;
use super::work::{Awaited, CopyIn, Forward, Piecemeal, Traces};
use crate::pool::state::server_name;
use crate::protocol::frame::{self, FrameError, HEADER, Header};
use crate::protocol::frontend::{self, Named};
use crate::protocol::sqlstate::ClientError;
use crate::sql::{Act, Pin, Reason, Verdict};

impl Machine {
    /// Sends as much of the unit as is there.
    pub(super) fn emit(
        &mut self,
        input: &[u8],
        at: &mut usize,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Result<Step, FrameError> {
        while *at < input.len() && self.awaited == Awaited::Nothing {
            let left = self.now.work.from_client.left.min(input.len() - *at);
            if left > 0 {
                self.pass_rest(input, at, io);
                continue;
            }
            if self.now.work.end.is_some() && self.now.work.copy == CopyIn::None {
                return Ok(Step::AwaitReply);
            }
            let Some(header) = frame::frontend_header(&input[*at..])? else {
                return Ok(Step::ReadMore);
            };
            let range = *at..*at + header.total;
            if self.now.work.skipping && !matches!(header.tag, b'S' | b'X') {
                *at = range.end.min(input.len());
                self.now.work.from_client = Piecemeal { left: range.end - *at, forward: Forward::Drop };
                continue;
            }
            if range.end > input.len() && !self.may_split(&header, env) {
                return Ok(Step::ReadMore);
            }
            let there = range.start..range.end.min(input.len());
            if header.tag == b'X' {
                return Ok(Step::Close(SessionEnd::Client));
            }
            if self.now.work.copy != CopyIn::None {
                self.emit_copy(header.tag);
                io.to_server.pass(there.clone());
            } else if let Some(error) = self.emit_message(&header, &input[there.clone()], there.start, io, link, env) {
                return Ok(Step::Close(SessionEnd::Error(error.into())));
            }
            self.now.work.begun = true;
            self.now.work.from_client = Piecemeal { left: range.end - there.end, ..Piecemeal::default() };
            *at = there.end;
        }
        Ok(if self.now.work.end.is_some() { Step::AwaitReply } else { Step::ReadMore })
    }

    /// The rest of a message whose unit is over: rows of a COPY that failed in the middle of one.
    pub(super) fn pass_rest(&mut self, input: &[u8], at: &mut usize, io: &mut ClientIo<'_>) {
        let left = self.now.work.from_client.left.min(input.len() - *at);
        if self.now.work.from_client.forward == Forward::Pass {
            io.to_server.pass(*at..*at + left);
        }
        *at += left;
        self.now.work.from_client.left -= left;
    }

    /// Long messages go through in pieces; the others are gathered.
    fn may_split(&self, header: &Header, env: &Env<'_>) -> bool {
        header.tag == b'd' || header.total > env.rules.held_request
    }

    /// During COPY FROM STDIN the server ignores Flush and Sync, and says itself what it thinks of others.
    fn emit_copy(&mut self, tag: u8) {
        if tag == b'c' || tag == b'f' {
            if self.now.work.copy == CopyIn::Extended {
                self.now.work.end = None;
            }
            self.now.work.copy = CopyIn::None;
        }
    }

    /// One message, whole or (if it is very long) its beginning. An error ends the session.
    fn emit_message(
        &mut self,
        header: &Header,
        message: &[u8],
        start: usize,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Option<ClientError> {
        let range = start..start + message.len();
        let body = &message[HEADER..];
        match header.tag {
            b'Q' => self.emit_query(header, message, start, io, link, env),
            b'P' => return self.emit_parse(header, message, start, io, link, env),
            b'B' => self.emit_bind(header, message, start, io, link, env),
            b'D' => match frontend::named(body) {
                Some(Named::Statement(name)) => {
                    self.emit_name(b'D', name, range, io, link, env);
                    self.now.owed.push(Owed::DescribeStatement);
                }
                _ => {
                    io.to_server.pass(range);
                    self.now.owed.push(Owed::DescribePortal);
                }
            },
            b'C' => self.emit_close(body, range, io, link),
            b'E' => {
                let verdict = frontend::execute(body).and_then(|(portal, _)| self.statements.portal(portal)).cloned();
                self.now.owed.push(Owed::Execute(verdict.filter(|verdict| !verdict.acts.is_empty())));
                io.to_server.pass(range);
                if let Some(Owed::Execute(Some(verdict))) = self.now.owed.last()
                    && verdict.acts.iter().any(|act| act.forgets_statements())
                {
                    // What follows may prepare anew what this is about to forget.
                    frontend::message(io.to_server.put(), b'H', |_| {});
                    self.awaited = Awaited::Forgetting;
                }
            }
            b'S' => {
                self.now.work.end = Some(End::Sync);
                self.now.work.skipping = false;
                self.now.owed.push(Owed::Sync);
                io.to_server.pass(range);
            }
            b'F' => {
                self.now.work.end = Some(End::FunctionCall);
                self.executed(opaque("a function call by number"), link);
                self.now.owed.push(Owed::FunctionCall);
                io.to_server.pass(range);
            }
            b'H' => io.to_server.pass(range),
            // CopyData and its like after a COPY that failed: PostgreSQL ignores them.
            _ => {
                self.now.work.from_client.left = 0;
                if range.len() < header.total {
                    io.to_server.pass(range);
                }
            }
        }
        None
    }

    fn emit_close(&mut self, body: &[u8], range: Range<usize>, io: &mut ClientIo<'_>, link: &mut Link<'_>) {
        let mut closed = Closed::Other;
        match frontend::named(body) {
            Some(Named::Statement(name)) if self.own_names(link) && !name.is_empty() => {
                closed = self.close_statement(name);
                io.to_server.pass(range);
            }
            Some(Named::Statement(name)) if !name.is_empty() => {
                closed = self.close_statement(name);
                // A name that no statement has: the server confirms it, and keeps ours for the next time.
                frontend::put_statement(io.to_server.put(), b'C', b"pgweir_closed");
            }
            Some(Named::Statement(name)) => {
                closed = self.close_statement(name);
                link.state.unnamed = None;
                io.to_server.pass(range);
            }
            _ => io.to_server.pass(range),
        }
        self.now.owed.push(Owed::Close(closed));
    }

    /// The verdict of the next text: known from reading the unit, or looked up now.
    /// `beginning` is what is there of one that has not arrived whole: its words still tell whether the catalog may change.
    fn next_verdict(&mut self, text: Option<&[u8]>, beginning: &[u8], env: &mut Env<'_>) -> Rc<Verdict> {
        let index = self.now.work.next_text;
        self.now.work.next_text += 1;
        if let Some(verdict) = self.now.unit.texts.get(index) {
            return Rc::clone(verdict);
        }
        let (_, mut reader) = self.reader(env);
        match text {
            Some(text) => reader.texts.verdict(text),
            None => reader.texts.verdicts.unparsed(beginning),
        }
    }

    /// What the audit after this statement must ask for by name.
    fn touch(&mut self, verdict: &Verdict, bytes: &[u8]) {
        if verdict.acts.contains(&Act::Ddl) {
            // Behind the type byte and length of a Query, or behind those and an empty name.
            let text = bytes.get(HEADER..).unwrap_or_default();
            let text = text.strip_prefix(b"\0").unwrap_or(text);
            self.now.abroad = vacate::abroad(text.split(|byte| *byte == 0).next().unwrap_or_default());
        }
        const MOST: usize = 100;
        if !verdict.acts.contains(&Act::Audit) {
            return;
        }
        for name in audit::dotted_names(bytes) {
            if self.now.touched.len() < MOST && !self.now.touched.iter().any(|known| known == name) {
                self.now.touched.push(name.to_owned());
            }
        }
    }

    fn emit_query(
        &mut self,
        header: &Header,
        message: &[u8],
        start: usize,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) {
        let whole = message.len() == header.total;
        let text = if whole { frontend::query(&message[HEADER..]) } else { None };
        let verdict = self.next_verdict(text, &message[HEADER..], env);
        self.trace(&verdict);
        if cancels(&verdict, text.unwrap_or_default()) {
            self.now.cancels.extend(vacate::numbers(text.unwrap_or_default()));
        }
        self.touch(&verdict, &message[..message.len().min(env.rules.held_request)]);
        self.own_names_for(&verdict, text, io, link);
        self.forget_unnamed();
        link.state.unnamed = None;
        self.now.work.end = Some(End::Query);
        match self.deallocated(&verdict, io, link) {
            Some(text) => frontend::put_query(io.to_server.put(), text.as_bytes()),
            None => io.to_server.pass(start..start + message.len()),
        }
        self.now.owed.push(Owed::Query((!verdict.acts.is_empty()).then_some(verdict)));
    }

    fn emit_parse(
        &mut self,
        header: &Header,
        message: &[u8],
        start: usize,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) -> Option<ClientError> {
        let range = start..start + message.len();
        let parse = if message.len() == header.total { frontend::parse(&message[HEADER..]) } else { None };
        let beginning = &message[HEADER..];
        // Behind the name.
        let beginning = beginning.iter().position(|byte| *byte == 0).map_or(beginning, |at| &beginning[at + 1..]);
        let verdict = self.next_verdict(parse.map(|parse| parse.text), beginning, env);
        self.touch(&verdict, &message[..message.len().min(env.rules.held_request)]);
        let Some(parse) = parse else {
            // Malformed (the server says how), or so long that it cannot be kept: then the session stays here.
            self.forget_unnamed();
            link.state.unnamed = None;
            self.pins.insert(Pin::Opaque);
            self.now.owed.push(Owed::Parse(Parsed::Unnamed));
            io.to_server.pass(range);
            return None;
        };
        if self.promote(&parse, &verdict, io, link, env) {
            return None;
        }
        self.own_names_for(&verdict, Some(parse.text), io, link);
        if parse.name.is_empty() {
            if let Some(text) = self.deallocated(&verdict, io, link) {
                let rest = [text.as_bytes(), &parse.rest[parse.text.len()..]].concat();
                frontend::put_parse(io.to_server.put(), b"", &rest);
            } else {
                io.to_server.pass(range);
            }
            self.forget_unnamed();
            link.state.unnamed = Some(self.statements.set_unnamed(parse.rest, verdict));
            self.now.owed.push(Owed::Parse(Parsed::Unnamed));
            return None;
        }
        if self.statements.named(parse.name).is_some() {
            if self.own_names(link) {
                io.to_server.pass(range);
            } else if let Some(number) = self.ensure_named(parse.name, io, link, env) {
                frontend::put_parse(io.to_server.put(), server_name(number).as_bytes(), parse.rest);
            }
            self.now.owed.push(Owed::Parse(Parsed::Duplicate));
            return None;
        }
        if self.statements.len() >= env.rules.session_statements {
            let mut error = ClientError::too_many_statements(env.rules.session_statements);
            error.severity = "FATAL";
            return Some(error);
        }
        self.emit_named_parse(&parse, verdict, io, link, env);
        None
    }

    fn emit_bind(
        &mut self,
        header: &Header,
        message: &[u8],
        start: usize,
        io: &mut ClientIo<'_>,
        link: &mut Link<'_>,
        env: &mut Env<'_>,
    ) {
        let range = start..start + message.len();
        let Some(bind) = frontend::bind(&message[HEADER..]) else {
            self.now.owed.push(Owed::Bind);
            io.to_server.pass(range);
            return;
        };
        let (_, mut reader) = self.reader(env);
        if let Some(verdict) = statement_verdict(bind.statement, &mut reader) {
            if verdict.acts.contains(&Act::LastSequence) {
                self.traces.add(Traces::SEQUENCES);
            }
            self.trace(&verdict);
            let text = self.statements.text(bind.statement).unwrap_or_default();
            if cancels(&verdict, text) {
                let bound = vacate::bound_numbers(bind.rest).unwrap_or_default();
                self.now.cancels.extend(vacate::numbers(text).chain(bound));
            }
            if verdict.acts.contains(&Act::Audit) {
                let text = self.statements.named(bind.statement).map(|statement| statement.rest.clone());
                self.touch(&verdict, &text.unwrap_or_default());
                self.touch(&verdict, bind.rest);
            }
            self.statements.set_portal(bind.portal, verdict);
        }
        let number = match (bind.statement, self.now.work.promoted) {
            (b"", None) => {
                self.ensure_unnamed(io, link);
                None
            }
            (b"", promoted) => promoted,
            (name, _) => self.ensure_named(name, io, link, env),
        };
        if let Some(number) = number {
            let name = server_name(number);
            let name = name.as_bytes();
            let total = header.total - bind.statement.len() + name.len();
            let out = io.to_server.put();
            out.push(b'B');
            out.extend_from_slice(&((total - 1) as u32).to_be_bytes());
            for part in [bind.portal, b"\0", name, b"\0", bind.rest] {
                out.extend_from_slice(part);
            }
        } else {
            io.to_server.pass(range);
        }
        self.now.owed.push(Owed::Bind);
    }

    /// Which kind of connection the unit runs on, for the accounts.
    pub(super) fn on_replica(link: &Link<'_>) -> bool {
        link.role == LinkRole::Replica
    }
}

fn cancels(verdict: &Verdict, text: &[u8]) -> bool {
    const CANCEL: &str = "pg_cancel_backend";
    match &verdict.reason {
        Reason::UnsafeFunction(name) => name == CANCEL,
        // Then no name was looked at.
        Reason::NoCatalog => memchr::memmem::find(text, CANCEL.as_bytes()).is_some(),
        _ => false,
    }
}
