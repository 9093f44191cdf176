//! Pure: what is answered here, without a node: a lazy BEGIN, the end of a block that no node has heard of, Close and Sync,
//! and failures to get a server connection. Part of the machine.

use std::rc::Rc;

use super::machine::{ClientIo, Machine, SessionEnd, Step};
use super::pipeline::Closed;
use super::undo::Undo;
use super::unit::{self, End};
use super::work::{Announced, Block, Fate, Phase, Traces, Work};
use crate::protocol::frame::{self, FrameError};
use crate::protocol::frontend::{self, Named};
use crate::protocol::sqlstate::ClientError;
use crate::protocol::{TransactionStatus, backend};
use crate::sql::{Act, Pin, TransactionModes};

impl Machine {
    /// Answers what needs no node: a lazy BEGIN and the end of a block that no node has heard of, Close and Sync.
    pub(super) fn answer_here(&mut self, input: &[u8], end: End, io: &mut ClientIo<'_>) -> bool {
        // Where statements have the client's own names, the server must hear of a Close.
        if !self.now.unit.needs_node && !self.traces.has(Traces::OWN_NAMES) {
            self.answer_trivial(&input[..self.now.unit.length], end, io);
            return true;
        }
        let single = match (end, self.now.unit.texts.as_slice()) {
            (End::Query, [verdict]) if verdict.statements == 1 && verdict.acts.len() == 1 => Rc::clone(verdict),
            _ => return false,
        };
        let text = frontend::query(&input[frame::HEADER..self.now.unit.length]).unwrap_or_default();
        match (&single.acts[0], &mut self.block) {
            // Whoever listens is told nothing while a transaction is open, so its BEGIN must not wait.
            (Act::Begin(_), Block::None) if self.pins.contains(Pin::Listen) => false,
            (Act::Begin(modes), Block::None) if self.status == TransactionStatus::Idle => {
                let Some(tag) = begin_tag(text) else {
                    return false;
                };
                self.block = Block::Announced(Box::new(Announced { text: text.to_vec(), modes: *modes }));
                self.answer(tag, TransactionStatus::InTransaction, io)
            }
            (Act::SetTransaction(modes), Block::Announced(announced)) => {
                // On a line of its own: the text may end with a comment.
                announced.text.extend_from_slice(b"\n;");
                announced.text.extend_from_slice(text);
                let old = announced.modes;
                announced.modes = TransactionModes {
                    read_only: modes.read_only.or(old.read_only),
                    isolation: modes.isolation.or(old.isolation),
                    deferrable: modes.deferrable.or(old.deferrable),
                };
                self.answer("SET", TransactionStatus::InTransaction, io)
            }
            (Act::Commit { chain: false }, Block::Announced(_)) => self.answer_end("COMMIT", io),
            (Act::Rollback { chain: false }, Block::Announced(_) | Block::Doomed(_)) => self.answer_end("ROLLBACK", io),
            (Act::Commit { chain: false }, Block::Doomed(_)) => self.answer_end("ROLLBACK", io),
            _ => false,
        }
    }

    pub(super) fn answer(&mut self, tag: &str, status: TransactionStatus, io: &mut ClientIo<'_>) -> bool {
        self.statements.drop_unnamed();
        backend::put_command_complete(io.to_client, tag);
        backend::put_ready_for_query(io.to_client, status);
        true
    }

    pub(super) fn answer_end(&mut self, tag: &str, io: &mut ClientIo<'_>) -> bool {
        self.block = Block::None;
        self.answer(tag, TransactionStatus::Idle, io)
    }

    /// What the client is told of its own block, whatever the nodes know.
    pub(super) fn client_status(&self) -> TransactionStatus {
        match self.block {
            Block::Announced(_) => TransactionStatus::InTransaction,
            Block::Doomed(_) => TransactionStatus::Failed,
            _ => self.status,
        }
    }

    pub(super) fn answer_trivial(&mut self, mut messages: &[u8], end: End, io: &mut ClientIo<'_>) {
        while let Ok(Some(header)) = frame::header(messages) {
            let body = &messages[frame::HEADER..header.total];
            if header.tag == b'C' {
                if let Some(Named::Statement(name)) = frontend::named(body) {
                    self.close_statement(name);
                }
                frontend::message(io.to_client, b'3', |_| {});
            }
            messages = &messages[header.total..];
        }
        if end == End::Sync {
            backend::put_ready_for_query(io.to_client, self.client_status());
        }
    }

    /// The client's own view of Close.
    pub(super) fn close_statement(&mut self, name: &[u8]) -> Closed {
        if name.is_empty() {
            self.forget_unnamed();
            return Closed::Unnamed;
        }
        match self.statements.remove(name) {
            Some(statement) => {
                self.now.undo.push(Undo::Closed(name.into(), statement));
                Closed::Statement
            }
            None => Closed::Other,
        }
    }

    /// No server connection can be had: the client is told, and what it sent of the unit is dropped.
    pub fn on_no_lease(&mut self, error: &ClientError, input: &[u8], at: &mut usize, to_client: &mut Vec<u8>) -> Step {
        if error.severity == "FATAL" {
            return Step::Close(SessionEnd::Error(error.clone().into()));
        }
        backend::put_error(to_client, error);
        if !matches!(self.block, Block::None) {
            self.block.doom();
        }
        *at += if self.now.unit.length == 0 { unit::stray(&input[*at..]) } else { 0 };
        // One that was about to be decided anew is not read at the moment; of a pipeline the rest goes up to its Sync.
        let length = if self.now.unit.length == 0 { lone(&input[*at..]) } else { self.now.unit.length };
        let sent = &input[*at..][..length.min(input.len() - *at)];
        let ends = last_tag(sent).is_some_and(|tag| matches!(tag, b'Q' | b'S' | b'F'));
        if matches!(input[*at..], [b'Q', ..] | [b'P', _, _, _, _, 0, ..]) {
            // The first thing that PostgreSQL does with either is to forget the unnamed statement.
            self.statements.drop_unnamed();
        }
        *at += sent.len();
        self.status = TransactionStatus::Idle;
        self.now.end_unit();
        if ends {
            self.phase = Phase::Ready;
            backend::put_ready_for_query(to_client, self.client_status());
        } else {
            self.phase = Phase::Skipping;
        }
        Step::ReadMore
    }

    /// Drops messages up to Sync. `true` when it was found.
    pub(super) fn skip(&mut self, input: &[u8], at: &mut usize, io: &mut ClientIo<'_>) -> Result<bool, FrameError> {
        loop {
            let left = self.now.work.from_client.left.min(input.len() - *at);
            self.now.work.from_client.left -= left;
            *at += left;
            let Some(header) = frame::frontend_header(&input[*at..])? else {
                return Ok(false);
            };
            let there = header.total.min(input.len() - *at);
            self.now.work.from_client.left = header.total - there;
            *at += there;
            if header.tag == b'S' {
                self.phase = Phase::Ready;
                self.now.work = Work { fate: Fate::Failed, ..Work::default() };
                backend::put_ready_for_query(io.to_client, self.client_status());
                return Ok(true);
            }
        }
    }
}

/// BEGIN and START TRANSACTION differ in their CommandComplete. `None` where the text does not begin with either.
fn begin_tag(text: &[u8]) -> Option<&'static str> {
    let text = text.trim_ascii_start();
    let starts = |word: &[u8]| text.len() >= word.len() && text[..word.len()].eq_ignore_ascii_case(word);
    match () {
        () if starts(b"BEGIN") => Some("BEGIN"),
        () if starts(b"START") => Some("START TRANSACTION"),
        () => None,
    }
}

/// The length of a message that is a unit of its own.
fn lone(messages: &[u8]) -> usize {
    match frame::header(messages) {
        Ok(Some(header)) if matches!(header.tag, b'Q' | b'F') => header.total,
        _ => 0,
    }
}

fn last_tag(mut messages: &[u8]) -> Option<u8> {
    let mut last = None;
    while let Ok(Some(header)) = frame::header(messages) {
        last = Some(header.tag);
        messages = messages.get(header.total..)?;
    }
    last
}
