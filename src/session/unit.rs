//! Pure: one routing unit, read before anything of it is sent: a Query string, or a pipeline up to Sync. What PostgreSQL
//! makes one transaction is routed as one, and the worst member decides.

use std::rc::Rc;

use smallvec::SmallVec;

use super::statements::Statements;
use super::work::Portals;
use crate::catalog::Catalog;
use crate::protocol::frame::{self, FrameError};
use crate::protocol::frontend::{self, Named};
use crate::sql::cache::VerdictCache;
use crate::sql::{Act, Effect, Lexis, Reason, Verdict};

/// What the unit's reading needs to know.
pub struct Reader<'a> {
    pub texts: Texts<'a>,
    pub statements: &'a mut Statements,
    /// Bytes that a unit may have before it is decided without having been read whole.
    pub limit: usize,
}

/// What it takes to tell what a text would do.
pub struct Texts<'a> {
    pub catalog: &'a Catalog,
    pub verdicts: &'a mut VerdictCache,
    pub lexis: Lexis,
    /// The unit is read once more because a replica refused it as a write.
    pub refused: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    No,
    AsWrite,
}

impl Texts<'_> {
    pub fn verdict(&mut self, text: &[u8]) -> Rc<Verdict> {
        if self.refused == Refused::AsWrite && self.lexis == Lexis::Standard {
            self.verdicts.learn(text, self.catalog);
        }
        self.verdicts.verdict(text, self.catalog, self.lexis)
    }

    /// Of what a Parse carries behind the name: the text, and the types that the client declares.
    fn verdict_of_parse(&mut self, rest: &[u8]) -> Rc<Verdict> {
        let text = &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())];
        let verdict = self.verdict(text);
        match frontend::declared_types(rest).find(|type_| !self.catalog.takes_parameter(*type_)) {
            Some(type_) if verdict.effect == Effect::Read => Rc::new(Verdict {
                effect: Effect::Primary,
                reason: Reason::UnsafeType(format!("number {type_}")),
                ..(*verdict).clone()
            }),
            _ => verdict,
        }
    }
}

/// How far the reading came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The unit goes on in bytes that have not arrived.
    Incomplete,
    /// The unit ends here.
    Complete(End),
}

/// What ended the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Query,
    Sync,
    FunctionCall,
    /// The client waits for replies (Flush), or may, although the pipeline goes on.
    Flush,
    /// More bytes than are held; what follows is not known.
    Overlong,
    Terminate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamesStatements {
    #[default]
    No,
    Yes,
}

/// The unit at the head of a session's input.
#[derive(Debug, Default)]
pub struct Unit {
    /// Bytes read so far.
    pub length: usize,
    /// What ended it, once that was read: a unit that waits for a replica is decided more than once.
    end: Option<End>,
    /// Of the texts in it (Query, Parse), in order: sending the unit needs them again.
    pub texts: SmallVec<[Rc<Verdict>; 2]>,
    /// The one that decides.
    pub worst: Option<Rc<Verdict>>,
    /// More than Close, Flush and Sync is in it, which need no server connection.
    pub needs_node: bool,
    /// Its SQL may name prepared statements.
    pub names_statements: NamesStatements,
    pub portals: Portals,
    /// So many Execute messages so far.
    executes: u32,
    /// The kinds of its last eight messages, the newest in the lowest byte; a Describe of a statement is a `d`.
    kinds: u64,
    /// Statements and portals that the unit itself names.
    names: SmallVec<[(u8, Box<[u8]>, Rc<Verdict>); 2]>,
}

impl Unit {
    /// Makes room for the next unit without giving its memory back.
    pub fn reset(&mut self) {
        self.length = 0;
        self.end = None;
        self.texts.clear();
        self.worst = None;
        self.needs_node = false;
        self.portals = Portals::Own;
        self.executes = 0;
        self.names_statements = NamesStatements::No;
        self.kinds = 0;
        self.names.clear();
    }

    /// One statement that is parsed, bound to the unnamed portal, described there or not, and executed to its end.
    pub fn is_one_statement(&self) -> bool {
        const KINDS: [u64; 2] = [u64::from_be_bytes(*b"\0\0\0\0PBES"), u64::from_be_bytes(*b"\0\0\0PBDES")];
        KINDS.contains(&self.kinds) && self.portals == Portals::Own
    }

    /// Reads on in `input`, which begins with the unit's first byte.
    pub fn read(&mut self, input: &[u8], reader: &mut Reader<'_>) -> Result<Progress, FrameError> {
        loop {
            if let Some(end) = self.end {
                return Ok(Progress::Complete(end));
            }
            let rest = &input[self.length..];
            let Some(header) = frame::frontend_header(rest)? else {
                return Ok(Progress::Incomplete);
            };
            if self.length + header.total > reader.limit {
                // A claim alone takes no server connection: so much must have come first.
                if input.len() < reader.limit {
                    return Ok(Progress::Incomplete);
                }
                self.needs_node = true;
                self.judge(opaque("longer than is held"));
                self.end = Some(End::Overlong);
                continue;
            }
            let Some(body) = rest.get(frame::HEADER..header.total) else {
                return Ok(Progress::Incomplete);
            };
            self.length += header.total;
            self.end = self.member(header.tag, body, reader);
        }
    }

    fn member(&mut self, tag: u8, body: &[u8], reader: &mut Reader<'_>) -> Option<End> {
        let kind = if (tag, body.first()) == (b'D', Some(&b'S')) { b'd' } else { tag };
        self.kinds = self.kinds << 8 | u64::from(kind);
        match tag {
            b'Q' => {
                if self.needs_node {
                    // After an error before it, this Query would be skipped up to a Sync that is not here yet.
                    self.judge(plain(Reason::Utility("a Query inside a pipeline".to_owned())));
                }
                let text = frontend::query(body);
                let verdict = text.map_or_else(malformed, |text| reader.texts.verdict(text));
                self.text(text, verdict);
                return Some(End::Query);
            }
            b'P' => self.parse(body, reader),
            b'B' => self.bind(body, reader),
            b'D' => self.describe(body, reader),
            b'E' => {
                self.needs_node = true;
                self.executes += 1;
                match frontend::execute(body) {
                    Some((b"", 0)) => self.unnamed_portal(),
                    _ => self.portals = Portals::Lasting,
                }
                if self.worst.as_ref().is_some_and(|worst| worst.effect != Effect::Read) && !self.ends_block() {
                    // It is the primary's in any case, and a COPY FROM STDIN answers before the Sync.
                    return Some(End::Flush);
                }
            }
            b'S' | b'H' if !body.is_empty() => {
                self.malformed();
                return Some(End::Sync).filter(|_| tag == b'S');
            }
            b'C' if frontend::named(body).is_none() => self.malformed(),
            b'S' => return Some(End::Sync),
            b'H' => {
                if self.needs_node {
                    self.judge(flush());
                }
                return Some(End::Flush);
            }
            b'F' => {
                self.needs_node = true;
                self.judge(opaque("a function call by number"));
                return Some(End::FunctionCall);
            }
            b'X' => return Some(End::Terminate),
            // Close needs no server; CopyData & co. outside of a COPY are ignored, as PostgreSQL ignores them.
            _ => {}
        }
        None
    }

    /// The server says what is wrong with it.
    fn malformed(&mut self) {
        self.needs_node = true;
        self.judge(malformed());
    }

    fn text(&mut self, text: Option<&[u8]>, verdict: Rc<Verdict>) -> Rc<Verdict> {
        self.needs_node = true;
        self.texts.push(Rc::clone(&verdict));
        self.judge(Rc::clone(&verdict));
        if text.is_some_and(|text| names_statements(&verdict, text)) {
            self.names_statements = NamesStatements::Yes;
        }
        verdict
    }

    fn parse(&mut self, body: &[u8], reader: &mut Reader<'_>) {
        let parse = frontend::parse(body);
        let verdict = parse.map_or_else(malformed, |parse| reader.texts.verdict_of_parse(parse.rest));
        let verdict = self.text(parse.map(|parse| parse.text), verdict);
        if let Some(parse) = parse {
            self.name(b'S', parse.name, verdict);
        }
    }

    fn bind(&mut self, body: &[u8], reader: &mut Reader<'_>) {
        self.needs_node = true;
        let bind = frontend::bind(body);
        let verdict = bind.and_then(|bind| self.statement(bind.statement, reader)).unwrap_or_else(unknown);
        self.judge(Rc::clone(&verdict));
        if let Some(bind) = bind {
            if !bind.portal.is_empty() {
                self.portals = Portals::Lasting;
            }
            self.name(b'P', bind.portal, verdict);
        }
    }

    fn describe(&mut self, body: &[u8], reader: &mut Reader<'_>) {
        self.needs_node = true;
        match frontend::named(body) {
            Some(Named::Statement(name)) => {
                let verdict = self.statement(name, reader).unwrap_or_else(unknown);
                self.judge(verdict);
            }
            Some(Named::Portal(b"")) => self.unnamed_portal(),
            Some(Named::Portal(_)) => {}
            None => self.malformed(),
        }
    }

    /// It is described or run.
    fn unnamed_portal(&mut self) {
        if self.portals == Portals::Own && !self.names.iter().any(|(kind, name, _)| *kind == b'P' && name.is_empty()) {
            self.portals = Portals::Earlier;
        }
    }

    fn name(&mut self, kind: u8, name: &[u8], verdict: Rc<Verdict>) {
        self.names.push((kind, name.into(), verdict));
    }

    /// The verdict of a statement that this unit or the session prepared.
    fn statement(&self, name: &[u8], reader: &mut Reader<'_>) -> Option<Rc<Verdict>> {
        let own = self.names.iter().rev().find(|(kind, own, _)| *kind == b'S' && **own == *name);
        if let Some((_, _, verdict)) = own {
            return Some(Rc::clone(verdict));
        }
        statement_verdict(name, reader)
    }

    fn judge(&mut self, verdict: Rc<Verdict>) {
        if self.worst.as_ref().is_none_or(|worst| rank(verdict.effect) > rank(worst.effect)) {
            self.worst = Some(verdict);
        }
    }

    /// Only COMMIT or ROLLBACK, which a block on a replica may end with where it is: what comes behind is not of the block.
    pub fn ends_block(&self) -> bool {
        self.executes <= 1
            && self.texts.len() <= 1
            && self.worst.as_ref().is_some_and(|worst| {
                matches!(worst.acts.as_slice(), [Act::Commit { chain: false } | Act::Rollback { chain: false }])
                    && worst.statements == 1
            })
    }

    /// The deciding verdict; a unit without any text is a read of nothing.
    pub fn verdict(&self) -> Rc<Verdict> {
        self.worst.clone().unwrap_or_else(unknown)
    }
}

/// How many bytes of what is left of a COPY that failed stand in front: PostgreSQL ignores them.
pub fn stray(input: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some(header)) = frame::header(&input[at..])
        && matches!(header.tag, b'd' | b'c' | b'f')
        && at + header.total <= input.len()
    {
        at += header.total;
    }
    at
}

/// EXECUTE, EXPLAIN EXECUTE, DEALLOCATE among others, or a look into pg_prepared_statements.
pub(super) fn names_statements(verdict: &Verdict, text: &[u8]) -> bool {
    if verdict.effect == Effect::Read {
        return false;
    }
    if verdict.statements > 1
        && verdict.acts.iter().any(|act| matches!(act, Act::Deallocate { .. } | Act::DeallocateAll))
    {
        return true;
    }
    let starts = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let text_start = text.trim_ascii_start();
    let explained = (starts(b"EXPLAIN") || verdict.statements > 1)
        && memchr::memmem::find(&text.to_ascii_uppercase(), b"EXECUTE").is_some();
    let listed = matches!(verdict.reason, Reason::UnsafeRelation { .. } | Reason::UnsafeFunction(_))
        && memchr::memmem::find(text, b"pg_prepared_statement").is_some();
    explained || listed || text_start.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"EXECUTE"))
}

/// The verdict of a statement that the session prepared earlier, made anew if the catalog has changed since.
pub fn statement_verdict(name: &[u8], reader: &mut Reader<'_>) -> Option<Rc<Verdict>> {
    if name.is_empty() {
        let (_, rest, _) = reader.statements.unnamed()?;
        return Some(reader.texts.verdict_of_parse(rest));
    }
    let statement = reader.statements.named(name)?;
    let texts = &mut reader.texts;
    let edition = texts.verdicts.edition(texts.catalog);
    if statement.edition == edition && texts.lexis == Lexis::Standard && texts.refused == Refused::No {
        return Some(Rc::clone(&statement.verdict));
    }
    let verdict = texts.verdict_of_parse(&statement.rest);
    reader.statements.renew(name, Rc::clone(&verdict), texts.verdicts.edition(texts.catalog));
    Some(verdict)
}

fn rank(effect: Effect) -> u8 {
    match effect {
        Effect::Read => 0,
        Effect::Follow => 1,
        Effect::RefusedReadOnly => 2,
        Effect::Primary => 3,
    }
}

/// Something that was not understood: the primary, and an audit afterwards.
pub fn opaque(why: &str) -> Rc<Verdict> {
    Rc::new(Verdict {
        effect: Effect::Primary,
        reason: Reason::Unparsed(why.to_owned()),
        acts: vec![Act::Audit],
        hint: None,
        statements: 1,
    })
}

fn malformed() -> Rc<Verdict> {
    opaque("a malformed message")
}

/// A name that nobody prepared: the primary says so.
fn unknown() -> Rc<Verdict> {
    plain(Reason::SessionState("an unknown statement".to_owned()))
}

/// A pipeline that stops for replies before its Sync: what follows is not known yet.
fn flush() -> Rc<Verdict> {
    plain(Reason::Utility("a pipeline with Flush".to_owned()))
}

fn plain(reason: Reason) -> Rc<Verdict> {
    Rc::new(Verdict { effect: Effect::Primary, reason, acts: Vec::new(), hint: None, statements: 0 })
}
