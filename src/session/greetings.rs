//! The greetings that nodes gave so far: what a login is told, remembered by database, user and startup settings.
//! `session::greeting` asks and adds. Nothing of one session may be in what another is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pool::state::Settings;
use crate::protocol::{TransactionStatus, backend};

/// Greetings kept at most; each belongs to a database, a user and a set of startup settings.
const KEPT: usize = 1000;

pub(super) const APPLICATION_NAME: &str = "application_name";
/// A name is shorter (manual: "Identifiers and Key Words").
const NAMEDATALEN: usize = 64;

/// Whether PostgreSQL takes this application_name without a change and a remark; then it is the only thing that differs
/// between many sessions' greetings.
pub(super) fn is_taken_as_it_is(name: &[u8]) -> bool {
    name.len() < NAMEDATALEN && name.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Told to everyone who logs in alike.
#[derive(Clone)]
pub(super) struct Greeting {
    /// What the node remarked on the client's startup settings, as whole messages.
    pub notices: Arc<[u8]>,
    pub parameters: Arc<[(String, String)]>,
    pub pid: u32,
    /// The settings that it answered; sessions with the same share them.
    pub startup: Arc<Settings>,
}

impl Greeting {
    /// With the client's own values in the words that it used, since no node can be asked for the proper ones.
    pub fn with(mut self, startup: &Settings) -> Greeting {
        let own = |name: &str| startup.get(name.to_ascii_lowercase().as_str());
        self.parameters = self
            .parameters
            .iter()
            .map(|(name, value)| match own(name) {
                Some(own) => (name.clone(), String::from_utf8_lossy(own).into_owned()),
                None => (name.clone(), value.clone()),
            })
            .collect();
        self
    }

    /// What the client hears, up to its first ReadyForQuery.
    pub fn words(&self, startup: &Settings, pid: u32, secret: &[u8]) -> Vec<u8> {
        let mut words = self.notices.to_vec();
        let application = startup.get(APPLICATION_NAME).filter(|name| is_taken_as_it_is(name));
        for (name, value) in self.parameters.iter() {
            let value = match (name.as_str(), application) {
                ("in_hot_standby", _) => b"off",
                (APPLICATION_NAME, Some(own)) => &**own,
                _ => value.as_bytes(),
            };
            backend::put_parameter_status(&mut words, name.as_bytes(), value);
        }
        backend::put_backend_key_data(&mut words, pid, secret);
        backend::put_ready_for_query(&mut words, TransactionStatus::Idle);
        words
    }
}

pub(super) type Key = (Box<str>, Box<str>, Settings);

/// The greetings so far. Locked at logins only.
#[derive(Default)]
pub struct Greetings(Mutex<Book>);

#[derive(Default)]
struct Book {
    /// With the term in which each was given.
    given: HashMap<Key, (u64, Greeting)>,
    /// A greeting of an earlier one is told only where nobody can be asked.
    term: u64,
}

impl Greetings {
    pub(super) fn known(&self, key: &Key) -> Option<Greeting> {
        let book = self.book();
        book.given.get(key).filter(|(term, _)| *term == book.term).map(|(_, greeting)| greeting.clone())
    }

    /// One of the same database and user, whatever its settings and however old.
    pub(super) fn alike(&self, key: &Key) -> Option<Greeting> {
        let book = self.book();
        let alike = book.given.iter().filter(|(other, _)| (&other.0, &other.1) == (&key.0, &key.1));
        alike.max_by_key(|(_, (term, _))| *term).map(|(_, (_, greeting))| greeting.clone())
    }

    pub(super) fn keep(&self, key: Key, greeting: Greeting) {
        let mut book = self.book();
        if book.given.len() >= KEPT {
            book.given.clear();
        }
        let term = book.term;
        book.given.insert(key, (term, greeting));
    }

    /// After something that may change them (another primary).
    pub fn forget(&self) {
        self.book().term += 1;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_told_only_where_nobody_can_be_asked() {
        let greetings = Greetings::default();
        let key = |user: &str, encoding: &str| -> Key {
            ("db".into(), user.into(), Settings::from([("client_encoding".into(), encoding.as_bytes().into())]))
        };
        let greeting = |pid| Greeting { notices: [].into(), parameters: [].into(), pid, startup: Arc::default() };
        greetings.keep(key("app", "UTF8"), greeting(1));
        greetings.forget();
        assert!(greetings.known(&key("app", "UTF8")).is_none());
        assert_eq!(greetings.alike(&key("app", "LATIN1")).map(|greeting| greeting.pid), Some(1));
        greetings.keep(key("app", "SQL_ASCII"), greeting(2));
        assert_eq!(greetings.alike(&key("app", "LATIN1")).map(|greeting| greeting.pid), Some(2));
        assert!(greetings.alike(&key("other", "UTF8")).is_none());
    }
}
