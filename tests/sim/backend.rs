//! A virtual PostgreSQL process: the messages of one connection in, its replies out, as the manual's "Message Flow" has them.
//! What statements do is in `sql`. The same code is the ideal single server that replies are compared with.

use std::collections::{BTreeMap, VecDeque};

use pgweir::protocol::frontend::{self, Named, message};
use pgweir::session::audit;

use super::sql::{Done, Process, Status, has_rows, parameters};

/// What lies behind a connection: a node's rows, or those of the ideal server.
pub trait Store {
    /// The number under which what was shown is found.
    fn read(&mut self, row: u32) -> u64;
    /// The same of the commit.
    fn commit(&mut self, rows: &[u32]) -> u64;
    fn next_value(&mut self) -> u64;
    fn is_writable(&self) -> bool;
    /// A standby's replay position, as text.
    fn replayed(&mut self) -> String;
    /// An error out of nowhere, as recovery conflicts are.
    fn fault(&mut self) -> Option<&'static str>;
    /// A write was asked of a replica.
    fn wrote_on_replica(&mut self, text: &str);
}

/// A node's own words, so that they are not taken for pgweir's.
pub const CANCELED: &str = "canceling statement due to user request, on the node";

pub type Failure = (&'static str, String);

#[derive(Clone, PartialEq)]
struct Portal {
    text: String,
    value: String,
    /// What is left of its rows, once it was run.
    rows: Option<VecDeque<String>>,
}

#[derive(Clone, Copy, PartialEq)]
enum CopyIn {
    Simple(u32),
    Extended(u32),
}

#[derive(Clone, Default, PartialEq)]
pub struct Backend {
    pub process: Process,
    portals: BTreeMap<Vec<u8>, Portal>,
    skipping: bool,
    copy: Option<CopyIn>,
    input: Vec<u8>,
    pub out: Vec<u8>,
    /// A cancel strikes so many statements later, if the unit lasts so long.
    pub cancelled: Option<usize>,
    /// The so many-th use of a statement in a block that failed finds it absent: pgweir may not have it on that connection,
    /// where nothing can be prepared any more.
    pub absent: Option<usize>,
}

fn missing(name: &[u8]) -> Failure {
    match name {
        b"" => ("26000", "unnamed prepared statement does not exist".to_owned()),
        name => ("26000", format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))),
    }
}

impl Backend {
    /// Between transactions, and nothing under way.
    pub fn is_clean(&self) -> bool {
        self.process.is_idle() && self.input.is_empty() && !self.skipping && self.copy.is_none()
    }

    pub fn status(&self) -> Status {
        self.process.status
    }

    /// The connection is gone, and with it what was not committed: a block can only be ended.
    pub fn lose(&mut self, in_block: bool) {
        self.input.clear();
        self.portals.clear();
        (self.copy, self.skipping, self.cancelled, self.absent) = (None, false, None, None);
        self.process.lose(in_block);
    }

    /// A READ ONLY block goes on without its unnamed portal.
    pub fn leave_portal(&mut self) {
        if self.process.read_only {
            self.portals.remove(&b""[..]);
        }
    }

    pub fn on_bytes(&mut self, bytes: &[u8], store: &mut dyn Store) {
        self.input.extend_from_slice(bytes);
        while self.input.len() >= 5 {
            let total = 1 + u32::from_be_bytes(self.input[1..5].try_into().expect("four")) as usize;
            if self.input.len() < total {
                return;
            }
            let rest = self.input.split_off(total);
            let whole = std::mem::replace(&mut self.input, rest);
            self.on_message(whole[0], &whole[5..], store);
        }
    }

    fn on_message(&mut self, tag: u8, body: &[u8], store: &mut dyn Store) {
        if let Some(copy) = self.copy {
            return self.on_copy(copy, tag, body, store);
        }
        if tag == b'S' {
            self.skipping = false;
            return self.ready(store);
        }
        // What still comes of a COPY that failed is ignored, and a cancel that comes meanwhile strikes nothing.
        if matches!(tag, b'd' | b'c' | b'f') {
            self.cancelled = self.cancelled.filter(|_| self.skipping);
            return;
        }
        if self.skipping {
            return;
        }
        match tag {
            b'Q' => self.query(body, store),
            b'F' => {
                message(&mut self.out, b'V', |out| out.extend_from_slice(&[0; 4]));
                self.ready(store);
            }
            _ => {
                if let Err(failure) = self.extended(tag, body, store) {
                    self.fail(&failure);
                    self.skipping = true;
                }
            }
        }
    }

    fn on_copy(&mut self, copy: CopyIn, tag: u8, body: &[u8], store: &mut dyn Store) {
        let (CopyIn::Simple(rows) | CopyIn::Extended(rows)) = copy;
        let failure = match tag {
            b'd' if body == b"bad\n" => ("22P02", "invalid input syntax for type integer: \"bad\"".to_owned()),
            b'f' => ("57014", "COPY from stdin failed: enough".to_owned()),
            b'd' => {
                let more = if let CopyIn::Simple(_) = copy { CopyIn::Simple } else { CopyIn::Extended };
                self.copy = Some(more(rows + 1));
                return;
            }
            b'c' => {
                self.copy = None;
                self.process.write(0);
                self.complete(&format!("COPY {rows}"));
                return if let CopyIn::Simple(_) = copy {
                    self.ready(store)
                };
            }
            _ => return,
        };
        self.copy = None;
        self.fail(&failure);
        match copy {
            CopyIn::Simple(_) => self.ready(store),
            CopyIn::Extended(_) => self.skipping = true,
        }
    }

    fn query(&mut self, body: &[u8], store: &mut dyn Store) {
        self.process.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        let text = String::from_utf8(body[..body.len() - 1].to_vec()).expect("text");
        if text.starts_with(audit::QUERY) {
            self.put_audit();
            self.complete("SELECT 1");
            return self.ready(store);
        }
        let texts: Vec<&str> = text.split(';').filter(|one| !one.trim().is_empty()).collect();
        for one in &texts {
            self.process.alone = texts.len() == 1;
            let done = self.interrupt().and_then(|()| self.process.execute(one.trim(), "", store));
            match done {
                Ok(Done::Rows(rows, tag)) => {
                    self.describe(true);
                    self.rows(rows);
                    self.complete(&tag);
                }
                Ok(Done::Tag(tag)) => self.complete(&tag),
                Ok(Done::Noticed(sqlstate, text, tag)) => {
                    self.notice(sqlstate, text);
                    self.complete(tag);
                }
                Ok(Done::CopyOut(row)) => self.copy_out(&row),
                Ok(Done::CopyIn) => {
                    self.begin_copy(CopyIn::Simple(0));
                    return;
                }
                Err(failure) => {
                    self.fail(&failure);
                    break;
                }
            }
        }
        self.ready(store);
    }

    fn interrupt(&mut self) -> Result<(), Failure> {
        match &mut self.cancelled {
            Some(0) => {
                self.cancelled = None;
                Err(("57014", CANCELED.to_owned()))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn extended(&mut self, tag: u8, body: &[u8], store: &mut dyn Store) -> Result<(), Failure> {
        match tag {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.on_describe(body),
            b'E' => {
                let (portal, most) = frontend::execute(body).expect("an Execute");
                self.run(portal, most as usize, store)
            }
            b'C' => {
                match frontend::named(body).expect("a Close") {
                    Named::Statement(name) => drop(self.process.statements.remove(name)),
                    Named::Portal(name) => drop(self.portals.remove(name)),
                }
                message(&mut self.out, b'3', |_| {});
                Ok(())
            }
            b'H' => Ok(()),
            _ => panic!("a message {tag} that nobody sends"),
        }
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Failure> {
        let parse = frontend::parse(body).expect("a Parse");
        let text = String::from_utf8(parse.text.to_vec()).expect("text");
        if parse.name.is_empty() {
            self.process.statements.remove(&b""[..]);
        }
        self.process.check_aborted(&text)?;
        if text.contains("nosuch") {
            return Err(("42883", "function nosuch() does not exist".to_owned()));
        }
        if self.process.statements.contains_key(parse.name) {
            let name = String::from_utf8_lossy(parse.name);
            return Err(("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.process.statements.insert(parse.name.to_vec(), text);
        message(&mut self.out, b'1', |_| {});
        Ok(())
    }

    /// A statement's text.
    fn prepared(&mut self, name: &[u8]) -> Result<String, Failure> {
        let text = self.process.statements.get(name).cloned().ok_or_else(|| missing(name))?;
        let aborted = self.process.check_aborted(&text);
        self.absent = match self.absent {
            Some(0) if aborted.is_err() => return aborted.map(|()| text),
            Some(left) if aborted.is_err() => Some(left - 1),
            left => left,
        };
        Ok(text)
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Failure> {
        let bind = frontend::bind(body).expect("a Bind");
        let text = self.prepared(bind.statement)?;
        // No formats, one text parameter or none.
        let (count, wanted) = (usize::from(bind.rest[3]), parameters(&text));
        if count != wanted {
            let name = String::from_utf8_lossy(bind.statement);
            return Err((
                "08P01",
                format!(
                    "bind message supplies {count} parameters, but prepared statement \"{name}\" requires {wanted}"
                ),
            ));
        }
        self.process.check_aborted(&text)?;
        if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
            return Err(("42P03", format!("cursor \"{}\" already exists", String::from_utf8_lossy(bind.portal))));
        }
        let value = if count == 1 { &bind.rest[8..bind.rest.len() - 2] } else { b"" };
        let value = String::from_utf8(value.to_vec()).expect("text");
        self.portals.insert(bind.portal.to_vec(), Portal { text, value, rows: None });
        message(&mut self.out, b'2', |_| {});
        Ok(())
    }

    fn portal(&mut self, name: &[u8]) -> Result<&mut Portal, Failure> {
        let missing = || ("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)));
        self.portals.get_mut(name).ok_or_else(missing)
    }

    fn on_describe(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (text, parameters) = match frontend::named(body).expect("a Describe") {
            Named::Statement(name) => {
                let text = self.prepared(name)?;
                let count = parameters(&text);
                (text, Some(count))
            }
            Named::Portal(name) => (self.portal(name)?.text.clone(), None),
        };
        // A statement without a result can be described in a block that failed.
        if has_rows(&text) {
            self.process.check_aborted(&text)?;
        }
        if let Some(count) = parameters {
            message(&mut self.out, b't', |out| {
                out.extend_from_slice(&(count as u16).to_be_bytes());
                out.extend((0..count).flat_map(|_| 25_u32.to_be_bytes()));
            });
        }
        self.describe(has_rows(&text));
        Ok(())
    }

    fn run(&mut self, name: &[u8], most: usize, store: &mut dyn Store) -> Result<(), Failure> {
        let portal = self.portal(name)?.clone();
        self.process.check_aborted(&portal.text)?;
        self.process.alone = true;
        let Some(left) = portal.rows else {
            self.interrupt()?;
            match self.process.execute(&portal.text, &portal.value, store)? {
                Done::Rows(rows, tag) if tag.starts_with("SELECT") => {
                    self.portal(name)?.rows = Some(rows.into());
                    return self.run(name, most, store);
                }
                Done::Rows(rows, tag) => {
                    self.rows(rows);
                    self.complete(&tag);
                }
                Done::Tag(tag) => self.complete(&tag),
                Done::Noticed(sqlstate, text, tag) => {
                    self.notice(sqlstate, text);
                    self.complete(tag);
                }
                Done::CopyOut(row) => self.copy_out(&row),
                Done::CopyIn => self.begin_copy(CopyIn::Extended(0)),
            }
            if let Ok(portal) = self.portal(name) {
                portal.text = "nosuch: run before".to_owned();
            }
            return Ok(());
        };
        let count = if most == 0 { left.len() } else { left.len().min(most) };
        let mut left = left;
        let now: Vec<String> = left.drain(..count).collect();
        self.portal(name)?.rows = Some(left);
        self.rows(now);
        if most > 0 && count == most {
            message(&mut self.out, b's', |_| {});
        } else {
            self.complete(&format!("SELECT {count}"));
        }
        Ok(())
    }

    fn begin_copy(&mut self, copy: CopyIn) {
        message(&mut self.out, b'G', |out| out.extend_from_slice(b"\0\0\x01\0\0"));
        self.copy = Some(copy);
    }

    fn copy_out(&mut self, row: &str) {
        message(&mut self.out, b'H', |out| out.extend_from_slice(b"\0\0\x01\0\0"));
        message(&mut self.out, b'd', |out| out.extend_from_slice(format!("{row}\n").as_bytes()));
        message(&mut self.out, b'c', |_| {});
        self.complete("COPY 1");
    }

    fn fail(&mut self, (sqlstate, text): &Failure) {
        message(&mut self.out, b'E', |out| {
            out.extend_from_slice(format!("SERROR\0VERROR\0C{sqlstate}\0M{text}\0\0").as_bytes())
        });
        self.process.abort();
    }

    fn notice(&mut self, sqlstate: &str, text: &str) {
        message(&mut self.out, b'N', |out| {
            out.extend_from_slice(format!("SWARNING\0VWARNING\0C{sqlstate}\0M{text}\0\0").as_bytes())
        });
    }

    fn describe(&mut self, has_rows: bool) {
        if !has_rows {
            return message(&mut self.out, b'n', |_| {});
        }
        message(&mut self.out, b'T', |out| {
            out.extend_from_slice(b"\0\x01v\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        });
    }

    fn rows(&mut self, rows: Vec<String>) {
        for row in rows {
            self.row(&[&row]);
        }
    }

    fn row(&mut self, columns: &[&str]) {
        message(&mut self.out, b'D', |out| {
            out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for column in columns {
                out.extend_from_slice(&(column.len() as u32).to_be_bytes());
                out.extend_from_slice(column.as_bytes());
            }
        });
    }

    fn complete(&mut self, tag: &str) {
        message(&mut self.out, b'C', |out| out.extend_from_slice(format!("{tag}\0").as_bytes()));
    }

    /// Commits what is not in a block, tells what changed, and is ready.
    fn ready(&mut self, store: &mut dyn Store) {
        (self.cancelled, self.absent) = (None, None);
        if let Some(at) = self.process.finish(store) {
            let notice = format!("SNOTICE\0C00000\0Mcommitted v:{at:016}\0\0");
            message(&mut self.out, b'N', |out| out.extend_from_slice(notice.as_bytes()));
        }
        if self.process.status == Status::Idle {
            self.portals.clear();
        }
        if let Some(value) = self.process.report() {
            message(&mut self.out, b'S', |out| {
                out.extend_from_slice(format!("application_name\0{value}\0").as_bytes())
            });
        }
        let status = match self.process.status {
            Status::Idle => b'I',
            Status::Block => b'T',
            Status::Failed => b'E',
        };
        message(&mut self.out, b'Z', |out| out.push(status));
    }

    /// The rows of an audit: kind, name, value.
    fn put_audit(&mut self) {
        let process = self.process.clone();
        for (name, value) in &process.kept.settings {
            self.row(&["s", name, value]);
        }
        for pin in process.pins() {
            self.row(&["p", pin, ""]);
        }
    }
}
