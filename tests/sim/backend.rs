//! A virtual PostgreSQL process: the messages of one connection in, its replies out. It knows a tiny SQL, prepared
//! statements, settings and transaction blocks. The same code is the ideal single server that replies are compared with.

use std::collections::BTreeMap;

use pgweir::protocol::frontend::{self, Named, message};
use pgweir::session::audit;

/// What lies behind a connection: a node's rows, or those of the ideal server.
pub trait Store {
    /// The version of a row (the position of the commit that wrote it) and the position of the snapshot.
    fn read(&mut self, row: u32) -> (u64, u64);
    /// The position of the commit.
    fn commit(&mut self, rows: &[u32]) -> u64;
    fn is_writable(&self) -> bool;
    /// An error out of nowhere, as recovery conflicts are.
    fn fault(&mut self) -> Option<&'static str>;
    /// A write was asked of a replica.
    fn wrote_on_replica(&mut self, text: &str);
}

type Failure = (&'static str, String);
type Answer = Result<(Option<Vec<String>>, String), Failure>;
type Settings = BTreeMap<String, String>;

#[derive(Clone, Default)]
pub struct Backend {
    pub settings: Settings,
    saved: Settings,
    pub statements: BTreeMap<Vec<u8>, String>,
    portal: Option<(String, String)>,
    status: Status,
    read_only: bool,
    skipping: bool,
    /// Rows written by the transaction at hand.
    pending: Vec<u32>,
    input: Vec<u8>,
    pub out: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Idle,
    Block,
    Failed,
}

impl Backend {
    pub fn is_clean(&self) -> bool {
        self.status == Status::Idle && self.input.is_empty() && !self.skipping && self.pending.is_empty()
    }

    pub fn is_failed(&self) -> bool {
        self.status == Status::Failed
    }

    pub fn is_in_block(&self) -> bool {
        self.status != Status::Idle
    }

    /// The connection is gone, and with it what was not committed: a block can only be ended.
    pub fn lose(&mut self, in_block: bool) {
        self.pending.clear();
        self.input.clear();
        (self.portal, self.skipping) = (None, false);
        if in_block && self.status == Status::Block {
            self.status = Status::Failed;
        } else if !in_block && self.status != Status::Idle {
            self.end("ROLLBACK");
        }
    }

    pub fn on_bytes(&mut self, bytes: &[u8], data: &mut dyn Store) {
        self.input.extend_from_slice(bytes);
        while self.input.len() >= 5 {
            let total = 1 + u32::from_be_bytes(self.input[1..5].try_into().expect("four")) as usize;
            if self.input.len() < total {
                return;
            }
            let rest = self.input.split_off(total);
            let whole = std::mem::replace(&mut self.input, rest);
            self.on_message(whole[0], &whole[5..], data);
        }
    }

    fn on_message(&mut self, tag: u8, body: &[u8], data: &mut dyn Store) {
        if tag == b'S' {
            self.skipping = false;
            return self.ready(data);
        }
        if self.skipping {
            return;
        }
        if tag == b'Q' {
            return self.query(body, data);
        }
        if let Err(failure) = self.extended(tag, body, data) {
            self.fail(&failure);
            self.skipping = true;
        }
    }

    fn query(&mut self, body: &[u8], data: &mut dyn Store) {
        self.statements.remove(&b""[..]);
        let text = String::from_utf8(body[..body.len() - 1].to_vec()).expect("text");
        let texts: Vec<&str> = if text.starts_with(audit::QUERY) {
            vec![&text]
        } else {
            text.split(';').filter(|one| !one.is_empty()).collect()
        };
        for one in texts {
            match self.execute(one.trim(), "", data) {
                Ok((rows, tag)) => {
                    if let Some(rows) = rows {
                        self.describe(true);
                        self.rows(&rows);
                    }
                    self.complete(&tag);
                }
                Err(failure) => {
                    self.fail(&failure);
                    break;
                }
            }
        }
        self.ready(data);
    }

    fn extended(&mut self, tag: u8, body: &[u8], data: &mut dyn Store) -> Result<(), Failure> {
        match tag {
            b'P' => {
                let parse = frontend::parse(body).expect("a Parse");
                let text = String::from_utf8(parse.text.to_vec()).expect("text");
                if parse.name.is_empty() {
                    self.statements.remove(&b""[..]);
                }
                self.check_aborted(&text)?;
                if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
                    return Err((
                        "42P05",
                        format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(parse.name)),
                    ));
                }
                if text.contains("nosuch") {
                    return Err(("42883", "function nosuch() does not exist".to_owned()));
                }
                self.statements.insert(parse.name.to_vec(), text);
                message(&mut self.out, b'1', |_| {});
            }
            b'B' => {
                let bind = frontend::bind(body).expect("a Bind");
                let text = self.statement(bind.statement)?;
                self.check_aborted(&text)?;
                // No formats, one text parameter or none.
                let value = bind.rest.get(8..bind.rest.len() - 2).unwrap_or_default();
                self.portal = Some((text, String::from_utf8(value.to_vec()).expect("text")));
                message(&mut self.out, b'2', |_| {});
            }
            b'D' => match frontend::named(body).expect("a Describe") {
                Named::Statement(name) => {
                    let text = self.statement(name)?;
                    self.check_described(&text)?;
                    let parameters = u16::from(text.contains("$1"));
                    message(&mut self.out, b't', |out| {
                        out.extend_from_slice(&parameters.to_be_bytes());
                        out.extend((0..parameters).flat_map(|_| 25_u32.to_be_bytes()));
                    });
                    self.describe(has_rows(&text));
                }
                Named::Portal(_) => {
                    let (text, _) = self.portal.clone().ok_or(("34000", "portal \"\" does not exist".to_owned()))?;
                    self.check_described(&text)?;
                    self.describe(has_rows(&text));
                }
            },
            b'E' => {
                let (text, value) = self.portal.clone().ok_or(("34000", "portal \"\" does not exist".to_owned()))?;
                let (rows, tag) = self.execute(&text, &value, data)?;
                self.rows(&rows.unwrap_or_default());
                self.complete(&tag);
            }
            b'C' => {
                if let Some(Named::Statement(name)) = frontend::named(body) {
                    self.statements.remove(name);
                }
                message(&mut self.out, b'3', |_| {});
            }
            b'H' => {}
            _ => panic!("a message {tag} that nobody sends"),
        }
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<String, Failure> {
        let missing = || match name {
            b"" => ("26000", "unnamed prepared statement does not exist".to_owned()),
            name => ("26000", format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))),
        };
        self.statements.get(name).cloned().ok_or_else(missing)
    }

    /// A statement without a result can be described in a block that failed.
    fn check_described(&self, text: &str) -> Result<(), Failure> {
        if has_rows(text) { self.check_aborted(text) } else { Ok(()) }
    }

    fn check_aborted(&self, text: &str) -> Result<(), Failure> {
        let ends = text.is_empty() || text.starts_with("COMMIT") || text.starts_with("ROLLBACK");
        if self.status == Status::Failed && !ends {
            return Err((
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block".to_owned(),
            ));
        }
        Ok(())
    }

    fn execute(&mut self, text: &str, value: &str, data: &mut dyn Store) -> Answer {
        self.check_aborted(text)?;
        let done = |tag: &str| Ok((None, tag.to_owned()));
        let row = |value: String, tag: &str| Ok((Some(vec![value]), tag.to_owned()));
        if let Some(name) = text.strip_prefix("SHOW ") {
            return row(self.settings.get(name).cloned().unwrap_or_else(|| "default".to_owned()), "SHOW");
        }
        if let Some(rest) = text.strip_prefix("SELECT v FROM t WHERE id = ") {
            if let Some(sqlstate) = data.fault() {
                return Err((sqlstate, "an error of the replica's own".to_owned()));
            }
            let id: u32 = if rest == "$1" { value } else { rest }.parse().expect("a number");
            if self.pending.contains(&id) {
                return row("mine".to_owned(), "SELECT 1");
            }
            let (version, snapshot) = data.read(id);
            return row(format!("v:{version:016}:{snapshot:016}"), "SELECT 1");
        }
        if let Some(rest) = text.strip_prefix("UPDATE t SET v = 1 WHERE id = ") {
            let id = if rest == "$1" { value } else { rest }.parse().expect("a number");
            if !data.is_writable() {
                data.wrote_on_replica(text);
            }
            if self.read_only || !data.is_writable() {
                return Err(("25006", "cannot execute UPDATE in a read-only transaction".to_owned()));
            }
            self.pending.push(id);
            return done("UPDATE 1");
        }
        if text.contains("nosuch") {
            return Err(("42883", "function nosuch() does not exist".to_owned()));
        }
        if text == "SELECT loud_writer()" {
            self.settings.insert("search_path".to_owned(), "loud".to_owned());
            return row(String::new(), "SELECT 1");
        }
        if text.starts_with(audit::QUERY) {
            self.put_audit();
            return Ok((None, "SELECT 1".to_owned()));
        }
        self.control(text).unwrap_or_else(|| panic!("not known: {text}"))
    }

    /// Settings, statements, transaction blocks.
    fn control(&mut self, text: &str) -> Option<Answer> {
        let done = |tag: &str| Some(Ok((None, tag.to_owned())));
        if let Some(rest) = text.strip_prefix("SELECT pg_catalog.set_config(") {
            let mut parts = rest.split('\'');
            let (name, value) = (parts.nth(1)?, parts.nth(1)?);
            self.settings.insert(name.to_owned(), value.to_owned());
            return Some(Ok((Some(vec![value.to_owned()]), "SELECT 1".to_owned())));
        }
        if let Some(rest) = text.strip_prefix("SET ") {
            let (name, value) = rest.split_once(" TO ")?;
            self.settings.insert(name.to_owned(), value.trim_matches('\'').to_owned());
            return done("SET");
        }
        if let Some(name) = text.strip_prefix("DEALLOCATE ") {
            if name == "ALL" {
                self.statements.clear();
                return done("DEALLOCATE ALL");
            }
            return match self.statements.remove(name.as_bytes()) {
                Some(_) => done("DEALLOCATE"),
                None => Some(Err(("26000", format!("prepared statement \"{name}\" does not exist")))),
            };
        }
        match text {
            "RESET ALL" => self.settings.clear(),
            "DISCARD ALL" if self.status != Status::Idle => {
                return Some(Err(("25001", "DISCARD ALL cannot run inside a transaction block".to_owned())));
            }
            "DISCARD ALL" => {
                self.settings.clear();
                self.statements.clear();
                return done("DISCARD ALL");
            }
            "ROLLBACK TO pgweir_lost" => {
                return Some(Err(("3B001", "savepoint \"pgweir_lost\" does not exist".to_owned())));
            }
            "COMMIT" | "ROLLBACK" => return Some(Ok((None, self.end(text)))),
            _ if text.starts_with("BEGIN") => {
                self.status = Status::Block;
                self.saved = self.settings.clone();
                self.read_only = text == "BEGIN READ ONLY";
                return done("BEGIN");
            }
            _ => {
                let name = text.strip_prefix("RESET ")?.trim_matches('"');
                self.settings.remove(name);
            }
        }
        done("RESET")
    }

    fn end(&mut self, text: &str) -> String {
        let commits = text == "COMMIT" && self.status == Status::Block;
        if !commits {
            self.pending.clear();
            self.settings = std::mem::take(&mut self.saved);
        }
        (self.status, self.read_only) = (Status::Idle, false);
        if commits { "COMMIT" } else { "ROLLBACK" }.to_owned()
    }

    fn fail(&mut self, (sqlstate, text): &Failure) {
        message(&mut self.out, b'E', |out| {
            out.extend_from_slice(format!("SERROR\0VERROR\0C{sqlstate}\0M{text}\0\0").as_bytes())
        });
        if self.status == Status::Block {
            self.status = Status::Failed;
        } else if self.status == Status::Idle {
            self.pending.clear();
        }
    }

    fn describe(&mut self, has_rows: bool) {
        if !has_rows {
            return message(&mut self.out, b'n', |_| {});
        }
        message(&mut self.out, b'T', |out| {
            out.extend_from_slice(b"\0\x01v\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        });
    }

    fn rows(&mut self, rows: &[String]) {
        for row in rows {
            message(&mut self.out, b'D', |out| {
                out.extend_from_slice(b"\0\x01");
                out.extend_from_slice(&(row.len() as u32).to_be_bytes());
                out.extend_from_slice(row.as_bytes());
            });
        }
    }

    fn complete(&mut self, tag: &str) {
        message(&mut self.out, b'C', |out| out.extend_from_slice(format!("{tag}\0").as_bytes()));
    }

    /// Commits what is not in a block, and is ready.
    fn ready(&mut self, data: &mut dyn Store) {
        if self.status == Status::Idle {
            self.portal = None;
            if !self.pending.is_empty() {
                let at = data.commit(&std::mem::take(&mut self.pending));
                let notice = format!("SNOTICE\0C00000\0Mcommitted v:{at:016}:{at:016}\0\0");
                message(&mut self.out, b'N', |out| out.extend_from_slice(notice.as_bytes()));
            }
        }
        let status = match self.status {
            Status::Idle => b'I',
            Status::Block => b'T',
            Status::Failed => b'E',
        };
        message(&mut self.out, b'Z', |out| out.push(status));
    }

    /// The rows of an audit: kind, name, value.
    fn put_audit(&mut self) {
        for (name, value) in &self.settings {
            message(&mut self.out, b'D', |out| {
                out.extend_from_slice(b"\0\x03");
                for part in ["s", name.as_str(), value.as_str()] {
                    out.extend_from_slice(&(part.len() as u32).to_be_bytes());
                    out.extend_from_slice(part.as_bytes());
                }
            });
        }
    }
}

fn has_rows(text: &str) -> bool {
    text.starts_with("SELECT") || text.starts_with("SHOW")
}
