//! What a tiny SQL does in a virtual PostgreSQL process: rows, settings with their transactions and savepoints, prepared
//! statements, temporary tables, sequences, locks. `backend` speaks for it.

use std::collections::{BTreeMap, BTreeSet};

use super::backend::{Failure, Store};

pub type Settings = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    #[default]
    Idle,
    Block,
    Failed,
}

/// What a statement came to.
pub enum Done {
    Rows(Vec<String>, String),
    Tag(String),
    /// With a warning in front.
    Noticed(&'static str, &'static str, &'static str),
    CopyIn,
    CopyOut(String),
}

/// What a rollback takes back.
#[derive(Clone, Default, PartialEq)]
pub struct Kept {
    pub settings: Settings,
    local: Settings,
    pub temp: bool,
    pub listens: bool,
    /// Rows written by the transaction at hand.
    pending: Vec<u32>,
}

#[derive(Clone, Default, PartialEq)]
pub struct Process {
    pub kept: Kept,
    /// As it was when the transaction began.
    before: Option<Box<Kept>>,
    savepoints: Vec<(String, Kept)>,
    pub statements: BTreeMap<Vec<u8>, String>,
    from_sql: BTreeSet<Vec<u8>>,
    pub status: Status,
    pub read_only: bool,
    pub locks: bool,
    pub sequence: Option<u64>,
    reported: String,
    /// The statement at hand is the only one of its Query.
    pub alone: bool,
}

const ABORTED: &str = "current transaction is aborted, commands ignored until end of transaction block";

/// Without the comment in front.
fn bare(text: &str) -> &str {
    text.strip_prefix("/*").and_then(|rest| rest.split_once("*/ ")).map_or(text, |(_, text)| text)
}

pub fn has_rows(text: &str) -> bool {
    let text = bare(text);
    text.starts_with("SELECT") || text.starts_with("SHOW")
}

pub fn parameters(text: &str) -> usize {
    usize::from(text.contains("$1"))
}

fn tag(tag: &str) -> Result<Done, Failure> {
    Ok(Done::Tag(tag.to_owned()))
}

fn row(value: String) -> Result<Done, Failure> {
    Ok(Done::Rows(vec![value], "SELECT 1".to_owned()))
}

impl Process {
    pub fn is_idle(&self) -> bool {
        self.status == Status::Idle && self.kept.pending.is_empty() && self.before.is_none()
    }

    /// What an audit finds, besides settings.
    pub fn pins(&self) -> Vec<&'static str> {
        let found = [
            ("temp_objects", self.kept.temp),
            ("advisory_lock", self.locks),
            ("listen", self.kept.listens),
            ("sql_prepare", !self.from_sql.is_empty()),
        ];
        found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }

    /// The new value, if a setting that clients hear of has one.
    pub fn report(&mut self) -> Option<String> {
        let value = self.setting("application_name").unwrap_or_default();
        if value == self.reported {
            return None;
        }
        self.reported = value.clone();
        Some(value)
    }

    pub fn setting(&self, name: &str) -> Option<String> {
        self.kept.local.get(name).or_else(|| self.kept.settings.get(name)).cloned()
    }

    pub fn write(&mut self, row: u32) {
        self.kept.pending.push(row);
    }

    pub fn lose(&mut self, in_block: bool) {
        self.kept.pending.clear();
        if let Some(before) = &mut self.before {
            before.pending.clear();
        }
        if in_block && self.status != Status::Idle {
            self.status = Status::Failed;
            self.savepoints.clear();
        } else {
            self.rollback();
        }
    }

    fn rollback(&mut self) {
        if let Some(before) = self.before.take() {
            self.kept = *before;
        }
        self.savepoints.clear();
        (self.status, self.read_only) = (Status::Idle, false);
    }

    /// A statement failed.
    pub fn abort(&mut self) {
        match self.status {
            Status::Idle => self.rollback(),
            Status::Block | Status::Failed => self.status = Status::Failed,
        }
    }

    /// Before ReadyForQuery. The number of what was committed.
    pub fn finish(&mut self, store: &mut dyn Store) -> Option<u64> {
        if self.status != Status::Idle {
            return None;
        }
        self.before = None;
        self.savepoints.clear();
        self.read_only = false;
        self.kept.local.clear();
        let rows = std::mem::take(&mut self.kept.pending);
        (!rows.is_empty()).then(|| store.commit(&rows))
    }

    pub fn check_aborted(&self, text: &str) -> Result<(), Failure> {
        let ends = text.is_empty() || text.starts_with("COMMIT") || text.starts_with("ROLLBACK");
        if self.status == Status::Failed && !ends { Err(("25P02", ABORTED.to_owned())) } else { Ok(()) }
    }

    /// Refuses what a READ ONLY transaction, or a replica, refuses.
    fn writes(&self, what: &str, text: &str, store: &mut dyn Store) -> Result<(), Failure> {
        if !store.is_writable() && !self.read_only {
            store.wrote_on_replica(text);
        }
        if self.read_only || !store.is_writable() {
            return Err(("25006", format!("cannot execute {what} in a read-only transaction")));
        }
        Ok(())
    }

    pub fn execute(&mut self, text: &str, value: &str, store: &mut dyn Store) -> Result<Done, Failure> {
        self.check_aborted(text)?;
        let text = bare(text);
        self.alone &= self.before.is_none();
        if self.before.is_none() {
            self.before = Some(Box::new(self.kept.clone()));
        }
        if text == "SELECT pg_catalog.pg_last_wal_replay_lsn()" {
            return row(store.replayed());
        }
        let reads = text.strip_prefix("SELECT v FROM t WHERE id = ").map(|rest| (rest, false));
        let copies = || {
            let rest = text.strip_prefix("COPY (SELECT v FROM t WHERE id = ")?;
            Some((rest.strip_suffix(") TO STDOUT")?, true))
        };
        if let Some((id, copied)) = reads.or_else(copies) {
            if let Some(sqlstate) = store.fault() {
                return Err((sqlstate, "an error of the replica's own".to_owned()));
            }
            let id: u32 = if id == "$1" { value } else { id }.parse().expect("a number");
            let found =
                if self.kept.pending.contains(&id) { "mine".to_owned() } else { format!("v:{:016}", store.read(id)) };
            return if copied { Ok(Done::CopyOut(found)) } else { row(found) };
        }
        if text == "SELECT v FROM three" {
            return Ok(Done::Rows(["a", "b", "c"].map(str::to_owned).to_vec(), "SELECT 3".to_owned()));
        }
        if let Some(id) = text.strip_prefix("UPDATE t SET v = 1 WHERE id = ") {
            self.writes("UPDATE", text, store)?;
            self.write(if id == "$1" { value } else { id }.parse().expect("a number"));
            return tag("UPDATE 1");
        }
        if text == "COPY t FROM STDIN" {
            self.writes("COPY FROM", text, store)?;
            return Ok(Done::CopyIn);
        }
        if text.contains("nosuch: run before") {
            return Err(("55000", "portal \"\" cannot be run".to_owned()));
        }
        if text.contains("nosuch") {
            return Err(("42883", "function nosuch() does not exist".to_owned()));
        }
        if let Some(name) = text.strip_prefix("EXECUTE ") {
            let (name, value) = name.strip_suffix(')').and_then(|name| name.split_once('(')).unwrap_or((name, ""));
            let missing = || ("26000", format!("prepared statement \"{name}\" does not exist"));
            let text = self.statements.get(name.as_bytes()).cloned().ok_or_else(missing)?;
            if parameters(&text) != usize::from(!value.is_empty()) {
                return Err(("42601", format!("wrong number of parameters for prepared statement \"{name}\"")));
            }
            return self.execute(&text, value, store);
        }
        let done = self.settings(text).or_else(|| self.control(text)).or_else(|| self.objects(text, store));
        done.unwrap_or_else(|| panic!("not known: {text}"))
    }

    fn settings(&mut self, text: &str) -> Option<Result<Done, Failure>> {
        if let Some(name) = text.strip_prefix("SHOW ") {
            let value = self.setting(name).unwrap_or_else(|| "default".to_owned());
            return Some(Ok(Done::Rows(vec![value], "SHOW".to_owned())));
        }
        if let Some(rest) = text.strip_prefix("SELECT pg_catalog.set_config(") {
            let mut parts = rest.split('\'');
            let (name, value) = (parts.nth(1)?, parts.nth(1)?);
            self.set(name, value);
            return Some(row(value.to_owned()));
        }
        if text == "SELECT loud_writer()" {
            self.set("search_path", "loud");
            return Some(row(String::new()));
        }
        if let Some(rest) = text.strip_prefix("SET LOCAL ") {
            if self.status == Status::Idle {
                return Some(Ok(Done::Noticed("25P01", "SET LOCAL can only be used in transaction blocks", "SET")));
            }
            let (name, value) = rest.split_once(" TO ")?;
            self.kept.local.insert(name.to_owned(), value.trim_matches('\'').to_owned());
            return Some(tag("SET"));
        }
        if let Some(rest) = text.strip_prefix("SET ") {
            let (name, value) = rest.split_once(" TO ")?;
            self.set(name, value.trim_matches('\''));
            return Some(tag("SET"));
        }
        if text == "RESET ALL" {
            self.kept.settings.clear();
            self.kept.local.clear();
            return Some(tag("RESET"));
        }
        let name = text.strip_prefix("RESET ")?.replace('"', "");
        self.kept.settings.remove(&name);
        self.kept.local.remove(&name);
        Some(tag("RESET"))
    }

    fn set(&mut self, name: &str, value: &str) {
        self.kept.local.remove(name);
        self.kept.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Transaction blocks and savepoints.
    fn control(&mut self, text: &str) -> Option<Result<Done, Failure>> {
        if let Some(name) = text.strip_prefix("ROLLBACK TO ") {
            let place = self.savepoints.iter().rposition(|(known, _)| known == name);
            let Some(place) = place.filter(|_| self.status != Status::Idle) else {
                let outside = "ROLLBACK TO SAVEPOINT can only be used in transaction blocks".to_owned();
                return Some(Err(match self.status {
                    Status::Idle => ("25P01", outside),
                    _ => ("3B001", format!("savepoint \"{name}\" does not exist")),
                }));
            };
            self.savepoints.truncate(place + 1);
            self.kept = self.savepoints[place].1.clone();
            self.status = Status::Block;
            return Some(tag("ROLLBACK"));
        }
        if let Some(name) = text.strip_prefix("SAVEPOINT ") {
            if self.status == Status::Idle {
                return Some(Err(("25P01", "SAVEPOINT can only be used in transaction blocks".to_owned())));
            }
            self.savepoints.push((name.to_owned(), self.kept.clone()));
            return Some(tag("SAVEPOINT"));
        }
        if text.starts_with("BEGIN") {
            if self.status == Status::Block {
                return Some(Ok(Done::Noticed("25001", "there is already a transaction in progress", "BEGIN")));
            }
            self.status = Status::Block;
            self.read_only = text == "BEGIN READ ONLY";
            return Some(tag("BEGIN"));
        }
        let ended = match (text, self.status) {
            ("COMMIT", Status::Idle) => {
                return Some(Ok(Done::Noticed("25P01", "there is no transaction in progress", "COMMIT")));
            }
            ("ROLLBACK", Status::Idle) => {
                self.rollback();
                return Some(Ok(Done::Noticed("25P01", "there is no transaction in progress", "ROLLBACK")));
            }
            ("COMMIT", Status::Block) => {
                (self.status, self.read_only, self.before) = (Status::Idle, false, None);
                self.savepoints.clear();
                self.kept.local.clear();
                "COMMIT"
            }
            ("COMMIT" | "ROLLBACK", _) => {
                self.rollback();
                "ROLLBACK"
            }
            _ => return None,
        };
        Some(tag(ended))
    }

    /// What else lives in a server process.
    fn objects(&mut self, text: &str, store: &mut dyn Store) -> Option<Result<Done, Failure>> {
        let absent = || Err(("42P01", "relation \"tmp\" does not exist".to_owned()));
        if let Some(name) = text.strip_prefix("DEALLOCATE ") {
            if name == "ALL" {
                self.statements.retain(|name, _| name.is_empty());
                self.from_sql.clear();
                return Some(tag("DEALLOCATE ALL"));
            }
            self.from_sql.remove(name.as_bytes());
            return Some(match self.statements.remove(name.as_bytes()) {
                Some(_) => tag("DEALLOCATE"),
                None => Err(("26000", format!("prepared statement \"{name}\" does not exist"))),
            });
        }
        if let Some((name, body)) = text.strip_prefix("PREPARE ").and_then(|rest| rest.split_once(" AS ")) {
            if self.statements.contains_key(name.as_bytes()) {
                return Some(Err(("42P05", format!("prepared statement \"{name}\" already exists"))));
            }
            self.statements.insert(name.as_bytes().to_vec(), body.to_owned());
            self.from_sql.insert(name.as_bytes().to_vec());
            return Some(tag("PREPARE"));
        }
        Some(match text {
            "DISCARD ALL" if self.status != Status::Idle || !self.alone => {
                Err(("25001", "DISCARD ALL cannot run inside a transaction block".to_owned()))
            }
            "DISCARD ALL" => {
                (self.kept, self.sequence, self.locks) = (Kept::default(), None, false);
                self.statements.retain(|name, _| name.is_empty());
                self.from_sql.clear();
                tag("DISCARD ALL")
            }
            "DISCARD SEQUENCES" => {
                self.sequence = None;
                tag("DISCARD SEQUENCES")
            }
            "CREATE TEMP TABLE tmp (v text)" => self.writes("CREATE TABLE", text, store).and_then(|()| {
                if std::mem::replace(&mut self.kept.temp, true) {
                    return Err(("42P07", "relation \"tmp\" already exists".to_owned()));
                }
                tag("CREATE TABLE")
            }),
            "DROP TABLE tmp" if !self.kept.temp => Err(("42P01", "table \"tmp\" does not exist".to_owned())),
            "DROP TABLE tmp" => {
                self.kept.temp = false;
                tag("DROP TABLE")
            }
            "SELECT v FROM tmp" => {
                if self.kept.temp {
                    row("temp".to_owned())
                } else {
                    absent()
                }
            }
            "LISTEN c" => {
                self.kept.listens = true;
                tag("LISTEN")
            }
            "UNLISTEN *" => {
                self.kept.listens = false;
                tag("UNLISTEN")
            }
            "SELECT pg_advisory_lock(1)" => {
                self.locks = true;
                row(String::new())
            }
            "SELECT pg_advisory_unlock_all()" => {
                self.locks = false;
                row(String::new())
            }
            "SELECT nextval('s')" => self.writes("nextval()", text, store).and_then(|()| {
                let value = store.next_value();
                self.sequence = Some(value);
                row(format!("q:{value:016}n"))
            }),
            "SELECT currval('s')" => match self.sequence {
                Some(value) => row(format!("q:{value:016}c")),
                None => Err(("55000", "currval of sequence \"s\" is not yet defined in this session".to_owned())),
            },
            _ => return None,
        })
    }
}
