//! Pure: the session's SET values. A checkout brings a server connection to them (`pool::sync`); what a statement changed
//! arrives here either from its own text or, where that is not certain, from an audit of the server process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::pool::state::Settings;
use crate::sql::Act;

/// What the session has set, and what it came with.
#[derive(Debug, Default)]
pub struct SessionSettings {
    /// From the StartupMessage: what RESET returns to.
    startup: Arc<Settings>,
    current: Arc<Settings>,
    /// See [`SessionSettings::standard_lexis`]; asked for each statement, so it is kept.
    unusual_lexis: bool,
    refused_by_replicas: bool,
    began: Beginning,
}

/// What ALTER ROLE … SET and ALTER DATABASE … SET gave the session at its login. It keeps that for its life, while
/// connections to replicas come and go.
#[derive(Debug, Default)]
struct Beginning {
    /// `None`: no catalog was known then.
    with: Option<u32>,
    /// The version of the snapshot that was looked at last, and whether a session would begin otherwise now.
    seen: u64,
    otherwise: bool,
}

impl SessionSettings {
    pub fn new(startup: Arc<Settings>) -> SessionSettings {
        let current = Arc::clone(&startup);
        let mut settings = SessionSettings { startup, current, ..SessionSettings::default() };
        settings.look();
        settings
    }

    pub fn current(&self) -> &Arc<Settings> {
        &self.current
    }

    /// The whole truth, read back from the server process.
    pub fn replace(&mut self, settings: Settings) {
        self.current = Arc::new(settings);
        self.look();
    }

    /// Whether a connection has the same settings. If so, both come to hold one map, that at the lower address: sessions
    /// and connections that are alike soon all hold the same, which pointers tell and which takes the room of one.
    pub fn are_shared(&mut self, other: &mut Arc<Settings>) -> bool {
        if Arc::ptr_eq(&self.current, other) {
            return true;
        }
        if self.current != *other {
            return false;
        }
        if Arc::as_ptr(&self.current) < Arc::as_ptr(other) {
            *other = Arc::clone(&self.current);
            return true;
        }
        if Arc::ptr_eq(&self.current, &self.startup) {
            self.startup = Arc::clone(other);
        }
        self.current = Arc::clone(other);
        true
    }

    /// Accounts for an act that succeeded outside of a transaction block. `true` if it was about settings.
    pub fn apply(&mut self, act: &Act) -> bool {
        let changed = self.follow(act);
        if changed {
            self.look();
        }
        changed
    }

    fn follow(&mut self, act: &Act) -> bool {
        match act {
            Act::Set { name, value } => {
                let settings = Arc::make_mut(&mut self.current);
                if name == "session_authorization" {
                    settings.remove("role");
                }
                if name == "role" && value == "none" {
                    settings.remove("role");
                } else {
                    settings.insert(name.as_str().into(), value.as_bytes().into());
                }
                true
            }
            Act::Reset { name } => {
                let startup = self.startup.get(name.as_str()).cloned();
                let settings = Arc::make_mut(&mut self.current);
                match startup {
                    Some(value) => drop(settings.insert(name.as_str().into(), value)),
                    None => drop(settings.remove(name.as_str())),
                }
                if name == "session_authorization" {
                    settings.remove("role");
                }
                true
            }
            Act::ResetAll | Act::DiscardAll => {
                // RESET ALL leaves the role alone; DISCARD ALL does not.
                let identity: Vec<_> = match act {
                    Act::ResetAll => ["role", "session_authorization"]
                        .iter()
                        .filter_map(|name| self.current.get_key_value(*name))
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect(),
                    _ => Vec::new(),
                };
                self.current = Arc::clone(&self.startup);
                if !identity.is_empty() {
                    Arc::make_mut(&mut self.current).extend(identity);
                }
                true
            }
            _ => false,
        }
    }

    /// A boolean setting's value, if the session set it.
    pub fn is_on(&self, name: &str) -> Option<bool> {
        let value = self.current.get(name)?;
        Some(matches!(value.to_ascii_lowercase().as_slice(), b"on" | b"true" | b"yes" | b"1" | b"t" | b"y"))
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.current.get(name).map(|value| String::from_utf8_lossy(value).to_lowercase())
    }

    /// Statements are cut as the standard says, and no character of the encoding hides an ASCII byte.
    pub fn standard_lexis(&self) -> bool {
        !self.unusual_lexis
    }

    /// Whether a session of this user that began now would begin with other settings: a replica would then answer under
    /// those. Called at the login, and for each statement. A login while the catalog is behind goes by what is known: it
    /// may come to be held for one that began before the change.
    pub fn began_otherwise(&mut self, catalog: &Catalog, user: &str) -> bool {
        let began = &mut self.began;
        if began.seen != catalog.version {
            let mut now = DefaultHasher::new();
            (catalog.beginnings.get(""), catalog.beginnings.get(user)).hash(&mut now);
            let now = now.finish() as u32;
            began.seen = catalog.version;
            began.otherwise = *began.with.get_or_insert(now) != now;
        }
        began.otherwise
    }

    /// Under these settings a replica would refuse, or answer otherwise.
    pub fn refused_by_replicas(&self) -> bool {
        self.refused_by_replicas
    }

    /// What is asked for each statement, found out once.
    fn look(&mut self) {
        const SAFE: [&str; 11] =
            ["utf8", "unicode", "latin", "iso8859", "win125", "sqlascii", "koi8", "euc", "win866", "win874", "mulei"];
        let mut encoding = self.text("client_encoding").unwrap_or_default();
        // As PostgreSQL compares their names; asyncpg puts its own into quotes.
        encoding.retain(|c| c.is_ascii_alphanumeric());
        let encoding_safe = encoding.is_empty() || SAFE.iter().any(|safe| encoding.starts_with(safe));
        self.unusual_lexis = !encoding_safe || self.is_on("standard_conforming_strings") == Some(false);
        self.refused_by_replicas =
            self.text("default_transaction_isolation").is_some_and(|level| level == "serializable")
                || self.is_on("transform_null_equals") == Some(true);
    }

    /// What the server connection holds after the same act as [`SessionSettings::apply`]: it knows no startup values of the
    /// session, so RESET returns it to its own defaults.
    pub fn on_server(have: &Arc<Settings>, act: &Act) -> Arc<Settings> {
        let mut bare = SessionSettings { current: Arc::clone(have), ..SessionSettings::default() };
        bare.follow(act);
        bare.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup() -> Arc<Settings> {
        Arc::new([("timezone".into(), b"UTC".as_slice().into())].into_iter().collect())
    }

    fn set(name: &str, value: &str) -> Act {
        Act::Set { name: name.into(), value: value.into() }
    }

    #[test]
    fn reset_returns_to_what_the_session_came_with() {
        let mut settings = SessionSettings::new(startup());
        assert!(settings.apply(&set("timezone", "Asia/Tokyo")));
        assert_eq!(settings.text("timezone").as_deref(), Some("asia/tokyo"));
        assert!(settings.apply(&Act::Reset { name: "timezone".into() }));
        assert_eq!(settings.text("timezone").as_deref(), Some("utc"));
        let on_server = SessionSettings::on_server(settings.current(), &Act::Reset { name: "timezone".into() });
        assert!(on_server.is_empty());
    }

    #[test]
    fn who_began_before_a_change_of_its_beginning_began_otherwise() {
        let catalog = |version, beginnings: &[(&str, &str)]| Catalog {
            version,
            beginnings: beginnings.iter().map(|(role, digest)| ((*role).into(), (*digest).into())).collect(),
            ..Catalog::default()
        };
        let mut old = SessionSettings::new(startup());
        assert!(!old.began_otherwise(&catalog(0, &[]), "app"), "nothing is known");
        assert!(!old.began_otherwise(&catalog(1, &[("app", "7")]), "app"));
        assert!(!old.began_otherwise(&catalog(2, &[("app", "7"), ("other", "1")]), "app"), "another role's");
        for (version, beginnings) in [(3, vec![("app", "8")]), (4, vec![]), (5, vec![("app", "7"), ("", "1")])] {
            assert!(old.began_otherwise(&catalog(version, &beginnings), "app"), "{beginnings:?}");
        }
        assert!(!old.began_otherwise(&catalog(6, &[("app", "7")]), "app"), "it was taken back");
    }

    #[test]
    fn equal_settings_come_to_be_one_map() {
        let maps = [startup(), startup(), startup()];
        let lowest = maps.iter().map(Arc::as_ptr).min().unwrap();
        let mut sessions = maps.clone().map(SessionSettings::new);
        let mut connections = maps;
        for _ in 0..2 {
            for (session, connection) in (0..9).map(|n| (n % 3, n / 3)) {
                assert!(sessions[session].are_shared(&mut connections[connection]));
            }
        }
        assert!(connections.iter().all(|map| Arc::as_ptr(map) == lowest));
        assert!(sessions.iter().all(|it| Arc::as_ptr(&it.current) == lowest && Arc::as_ptr(&it.startup) == lowest));
        sessions[0].apply(&set("timezone", "Asia/Tokyo"));
        assert!(!sessions[0].are_shared(&mut connections[0]));
        assert_eq!((sessions[1].text("timezone").as_deref(), connections[0].len()), (Some("utc"), 1));
    }

    #[test]
    fn reset_all_keeps_the_role_and_discard_all_does_not() {
        let mut settings = SessionSettings::new(startup());
        settings.apply(&set("role", "x"));
        settings.apply(&Act::ResetAll);
        assert_eq!(settings.text("role").as_deref(), Some("x"));
        settings.apply(&Act::DiscardAll);
        assert_eq!(settings.current(), &startup());
    }

    #[test]
    fn unusual_lexis_is_noticed() {
        let mut settings = SessionSettings::new(Arc::default());
        assert!(settings.standard_lexis());
        for encoding in ["UTF-8", "'utf-8'", "LATIN1", "SQL_ASCII", "EUC_JP", "win1252"] {
            settings.apply(&set("client_encoding", encoding));
            assert!(settings.standard_lexis(), "{encoding}");
        }
        for encoding in ["SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB"] {
            settings.apply(&set("client_encoding", encoding));
            assert!(!settings.standard_lexis(), "{encoding}");
        }
        settings.apply(&Act::Reset { name: "client_encoding".into() });
        settings.apply(&set("standard_conforming_strings", "off"));
        assert!(!settings.standard_lexis());
    }
}
