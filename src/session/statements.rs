//! Pure: a session's prepared statements and portals: client name ↔ text ↔ what the text would do. How a statement is
//! called on a server connection is the connection's own state (`pool::state`).

use std::collections::HashMap;
use std::rc::Rc;

use ring::digest;
use smallvec::SmallVec;

use crate::pool::state::{Settings, StatementKey, UnnamedKey};
use crate::sql::Verdict;

/// A named statement as the client prepared it.
#[derive(Debug)]
pub struct Statement {
    pub key: StatementKey,
    /// Text, NUL, parameter types: what a Parse carries behind the name.
    pub rest: Box<[u8]>,
    pub text_length: usize,
    pub verdict: Rc<Verdict>,
    /// What the verdict was made with (`VerdictCache::edition`).
    pub edition: u64,
    /// Its place among the session's statements (`Statements::next_serial`).
    pub serial: u64,
}

/// The unnamed statement; its buffer is reused.
#[derive(Debug, Default)]
pub struct Unnamed {
    rest: Vec<u8>,
    verdict: Option<Rc<Verdict>>,
    serial: u64,
}

/// All that a session prepared.
#[derive(Debug, Default)]
pub struct Statements {
    session: u64,
    /// Of the newest statement that there ever was.
    serial: u64,
    /// Not there before the first.
    prepared: Option<Box<Prepared>>,
}

#[derive(Debug, Default)]
struct Prepared {
    named: HashMap<Box<[u8]>, Statement, foldhash::fast::RandomState>,
    unnamed: Unnamed,
    portals: SmallVec<[(Box<[u8]>, Rc<Verdict>); 1]>,
}

impl Statements {
    pub fn new(session: u64) -> Statements {
        Statements { session, ..Statements::default() }
    }

    pub fn named(&self, name: &[u8]) -> Option<&Statement> {
        self.prepared.as_ref()?.named.get(name)
    }

    /// In the order in which the client prepared them, which pg_prepared_statements tells by the time.
    pub fn all(&self) -> Vec<(&[u8], &Statement)> {
        let mut all: Vec<_> =
            self.prepared.iter().flat_map(|known| known.named.iter().map(|(name, one)| (&**name, one))).collect();
        all.sort_unstable_by_key(|(_, statement)| statement.serial);
        all
    }

    /// The next statement's place.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub fn insert(&mut self, name: &[u8], statement: Statement) {
        self.prepared.get_or_insert_default().named.insert(name.into(), statement);
    }

    /// Of a statement, or of the unnamed one.
    pub fn text(&self, name: &[u8]) -> Option<&[u8]> {
        let rest = if name.is_empty() { self.unnamed()?.1 } else { &*self.named(name)?.rest };
        rest.split(|byte| *byte == 0).next()
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Statement> {
        self.prepared.as_mut()?.named.remove(name)
    }

    /// DEALLOCATE ALL.
    pub fn clear(&mut self) {
        if let Some(prepared) = &mut self.prepared {
            prepared.named.clear();
        }
    }

    pub fn len(&self) -> usize {
        self.prepared.as_ref().map_or(0, |prepared| prepared.named.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a newer verdict in the place of a statement's old one.
    pub fn renew(&mut self, name: &[u8], verdict: Rc<Verdict>, edition: u64) {
        if let Some(statement) = self.prepared.as_mut().and_then(|prepared| prepared.named.get_mut(name)) {
            statement.verdict = verdict;
            statement.edition = edition;
        }
    }

    /// The client prepared an unnamed statement; returns what it is to be known by.
    pub fn set_unnamed(&mut self, rest: &[u8], verdict: Rc<Verdict>) -> UnnamedKey {
        let serial = self.next_serial();
        let unnamed = &mut self.prepared.get_or_insert_default().unnamed;
        unnamed.rest.clear();
        unnamed.rest.extend_from_slice(rest);
        unnamed.verdict = Some(verdict);
        unnamed.serial = serial;
        UnnamedKey { session: self.session, serial }
    }

    /// Its key, the rest of its Parse and its verdict.
    pub fn unnamed(&self) -> Option<(UnnamedKey, &[u8], &Rc<Verdict>)> {
        let unnamed = &self.prepared.as_ref()?.unnamed;
        let key = UnnamedKey { session: self.session, serial: unnamed.serial };
        Some((key, &unnamed.rest, unnamed.verdict.as_ref()?))
    }

    /// A simple Query, or a Parse that failed, leaves no unnamed statement behind.
    pub fn drop_unnamed(&mut self) {
        if let Some(prepared) = &mut self.prepared {
            prepared.unnamed.verdict = None;
        }
    }

    /// Leaves none behind, and returns what it was.
    pub fn take_unnamed(&mut self) -> Unnamed {
        self.prepared.as_mut().map(|prepared| std::mem::take(&mut prepared.unnamed)).unwrap_or_default()
    }

    pub fn put_unnamed(&mut self, unnamed: Unnamed) {
        if unnamed.verdict.is_some() || self.prepared.is_some() {
            self.prepared.get_or_insert_default().unnamed = unnamed;
        }
    }

    pub fn set_portal(&mut self, name: &[u8], verdict: Rc<Verdict>) {
        let portals = &mut self.prepared.get_or_insert_default().portals;
        match portals.iter_mut().find(|(portal, _)| **portal == *name) {
            Some((_, known)) => *known = verdict,
            None => portals.push((name.into(), verdict)),
        }
    }

    pub fn portal(&self, name: &[u8]) -> Option<&Rc<Verdict>> {
        self.prepared.as_ref()?.portals.iter().find(|(portal, _)| **portal == *name).map(|(_, verdict)| verdict)
    }

    /// Portals end with their transaction.
    pub fn drop_portals(&mut self) {
        if let Some(prepared) = &mut self.prepared {
            prepared.portals.clear();
        }
    }
}

/// The key of a statement with this Parse `rest`, prepared under these settings when the catalog was at this version.
///
/// Names resolve by search_path and role; and a statement prepared before some DDL may not pass for one prepared after it
/// ("cached plan must not change result type").
///
/// The client's own name is in it, too: two names of one session are two statements, and an error names the right one.
pub fn key(name: &[u8], rest: &[u8], settings: &Settings, catalog: u64) -> StatementKey {
    let value = |name| settings.get(name).map(|value| &**value).unwrap_or_default();
    let parts = [name, value("search_path"), value("role"), value("session_authorization")];
    digest_of(parts.into_iter(), rest, catalog)
}

/// The key of an unnamed statement that all sessions share that have the same settings: plans depend on more of them than
/// names do. What a session calls itself changes nothing.
pub fn shared_key(rest: &[u8], settings: &Settings, catalog: u64) -> StatementKey {
    let settings = settings.iter().filter(|(name, _)| &***name != "application_name");
    let settings = settings.flat_map(|(name, value)| [name.as_bytes(), value]);
    // No name, and then pairs: never as many parts as `key` has.
    digest_of(std::iter::once(&b""[..]).chain(settings), rest, catalog)
}

fn digest_of<'p>(parts: impl Iterator<Item = &'p [u8]>, rest: &[u8], catalog: u64) -> StatementKey {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&catalog.to_le_bytes());
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    // No part is so long: here they end.
    hash.update(&u64::MAX.to_le_bytes());
    hash.update(rest);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finish().as_ref()[..16]);
    StatementKey(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_apart_what_postgresql_would() {
        let none = Settings::new();
        let path: Settings = [("search_path".into(), b"a".as_slice().into())].into_iter().collect();
        let base = key(b"s", b"SELECT 1\0\0\0", &none, 1);
        assert_eq!(base, key(b"s", b"SELECT 1\0\0\0", &none, 1));
        assert_ne!(base, key(b"s", b"SELECT 1\0\0\x01\0\0\0\x17", &none, 1));
        assert_ne!(base, key(b"s", b"SELECT 1\0\0\0", &path, 1));
        assert_ne!(base, key(b"s", b"SELECT 1\0\0\0", &none, 2));
        assert_ne!(base, key(b"t", b"SELECT 1\0\0\0", &none, 1));
    }

    #[test]
    fn a_shared_key_tells_all_settings_apart_but_the_sessions_name() {
        let settings = |name: &str| [(name.into(), b"a".as_slice().into())].into_iter().collect();
        let base = shared_key(b"SELECT 1\0\0\0", &Settings::new(), 1);
        assert_eq!(base, shared_key(b"SELECT 1\0\0\0", &settings("application_name"), 1));
        assert_ne!(base, shared_key(b"SELECT 1\0\0\0", &settings("datestyle"), 1));
        assert_ne!(base, shared_key(b"SELECT 1\0\0\x01\0\0\0\x17", &Settings::new(), 1));
        assert_ne!(base, shared_key(b"SELECT 1\0\0\0", &Settings::new(), 2));
        assert_ne!(base, key(b"", b"SELECT 1\0\0\0", &Settings::new(), 1));
    }
}
