//! Pure: what a server connection's process holds on behalf of sessions: settings that differ from its own defaults,
//! prepared statements under names of ours, the unnamed statement. The session keeps it true; the pool only carries it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::sync::Arc;

/// Settings that differ from a fresh connection's: lower-case name → value as `set_config` takes it.
pub type Settings = BTreeMap<Box<str>, Box<[u8]>>;

/// Names a prepared statement by what it is: a digest of its text, its parameter types and the settings that its
/// analysis depended on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementKey(pub [u8; 16]);

/// Which session's unnamed statement, and which of its many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnnamedKey {
    pub session: u64,
    pub serial: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct ConnectionState {
    pub settings: Arc<Settings>,
    pub statements: ServerStatements,
    /// Statements that nobody can use any more and that are still to be closed.
    pub orphans: Vec<u32>,
    /// What the unnamed statement is at the moment; `None` if there is none.
    pub unnamed: Option<UnnamedKey>,
    /// The session that took values from sequences here: `currval` and `lastval` are its own.
    pub sequences: Option<u64>,
    /// The session that ran a closed book here, which may have set what cannot be listed.
    pub opaque: Option<u64>,
    /// A session left something that only closing the connection removes.
    pub spoiled: bool,
    /// A session ran what leaves marks on the process that are nobody's state and yet can be seen: loaded libraries, a
    /// temporary schema. Or it cancelled a statement, as a program does that is about to end, and its process with it.
    pub worn: bool,
}

/// The prepared statements of one server connection, least recently used first to go.
#[derive(Debug, Default)]
pub struct ServerStatements {
    entries: HashMap<StatementKey, Entry, foldhash::fast::RandomState>,
    serial: u32,
    /// Prepared since `take_made` was called last.
    made: u32,
    /// Unnamed Parses for which one of these stood, since `take_spared` was called last.
    spared: u32,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u32,
    used: u64,
}

impl ServerStatements {
    /// The statement's number on this connection, if it is prepared here.
    pub fn touch(&mut self, key: StatementKey) -> Option<u32> {
        self.clock += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry.number)
    }

    /// Notes that the statement is prepared under the returned number.
    pub fn insert(&mut self, key: StatementKey) -> u32 {
        self.clock += 1;
        self.made += 1;
        let number = self.spare();
        self.entries.insert(key, Entry { number, used: self.clock });
        number
    }

    /// A number that no statement has.
    pub fn spare(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub fn remove(&mut self, key: StatementKey) -> Option<u32> {
        self.entries.remove(&key).map(|entry| entry.number)
    }

    /// The same by its number.
    pub fn forget(&mut self, number: u32) {
        self.entries.retain(|_, entry| entry.number != number);
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Takes all out; their numbers must then be closed.
    pub fn drain(&mut self) -> Vec<u32> {
        self.entries.drain().map(|(_, entry)| entry.number).collect()
    }

    /// How many were prepared since the last call, for metrics.
    pub fn take_made(&mut self) -> u32 {
        std::mem::take(&mut self.made)
    }

    /// A Parse need not be sent.
    pub fn spare_parse(&mut self) {
        self.spared += 1;
    }

    /// How many need not be sent since the last call, for metrics.
    pub fn take_spared(&mut self) -> u32 {
        std::mem::take(&mut self.spared)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes the least recently used statement out if there are `limit` or more; its number must then be closed.
    pub fn evict(&mut self, limit: usize) -> Option<u32> {
        if self.entries.len() < limit.max(1) {
            return None;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key)?;
        self.remove(oldest)
    }
}

/// The name that statement `number` has on its server connection.
pub fn server_name(number: u32) -> ServerName {
    let mut name = ServerName { bytes: [0; 17], length: 0 };
    let fits = write!(name, "pgweir_{number}");
    debug_assert!(fits.is_ok(), "a u32 has at most ten digits");
    name
}

/// What `server_name` makes: each Bind of a prepared statement needs one, so it allocates nothing.
pub struct ServerName {
    bytes: [u8; 17],
    length: usize,
}

impl Write for ServerName {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + part.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.length += part.len();
        Ok(())
    }
}

impl ServerName {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_the_number_behind_our_word() {
        for number in [0, 7, 10, 4_294_967_295] {
            assert_eq!(server_name(number).to_string(), format!("pgweir_{number}"));
        }
    }

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut statements = ServerStatements::default();
        let keys: Vec<_> = (0..3).map(|byte| StatementKey([byte; 16])).collect();
        let numbers: Vec<_> = keys.iter().map(|key| statements.insert(*key)).collect();
        assert_eq!(statements.touch(keys[0]), Some(numbers[0]));
        assert_eq!(statements.evict(4), None);
        assert_eq!(statements.evict(3), Some(numbers[1]));
        assert_eq!(statements.touch(keys[1]), None);
        assert_eq!(statements.len(), 2);
    }
}
