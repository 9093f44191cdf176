//! Pure: what a server process holds for its session, asked of the process itself. After a statement that may have left
//! something behind (a function that is a closed book, SET in a transaction, CREATE TEMP …) the machine sends this query on
//! the session's own connection before it lets go of it. The answer, not a guess, decides what is mirrored and pinned.

use super::pins::Pins;
use crate::pool::state::Settings;
use crate::protocol::backend;
use crate::sql::Pin;

/// Every name is qualified: the session's search_path must not reach it. Each row is a kind, a name and a value.
pub const QUERY: &str = "\
SELECT 's', name, setting FROM pg_catalog.pg_settings \
WHERE source OPERATOR(pg_catalog.=) 'session' AND NOT name OPERATOR(pg_catalog.~~) 'transaction\\_%' \
UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role') \
WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' \
UNION ALL SELECT 'u', 'session_authorization', session_user::pg_catalog.text \
UNION ALL SELECT 'p', 'temp_objects', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_class \
WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
OR EXISTS (SELECT 1 FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
UNION ALL SELECT 'p', 'advisory_lock', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_locks \
WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'p', 'listen', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_listening_channels()) \
UNION ALL SELECT 'p', 'hold_cursor', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT 'p', 'sql_prepare', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

/// The Query's text. Settings with a dot in their name are in no list of the server's, so those that the session is known to
/// have touched are asked for by name.
pub fn query<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut query = QUERY.to_owned();
    for name in names.filter(|name| name.contains('.')) {
        let name = name.replace('\\', "\\\\").replace('\'', "''");
        query.push_str(&format!(
            " UNION ALL SELECT 's', E'{name}', pg_catalog.current_setting(E'{name}', true) \
             WHERE pg_catalog.current_setting(E'{name}', true) IS NOT NULL"
        ));
    }
    query
}

/// Names with a dot in a text or in bound values: what `set_config` there may set. Most are something else; asking for
/// those does no harm.
pub fn dotted_names(bytes: &[u8]) -> impl Iterator<Item = &str> {
    const LONGEST: usize = 128;
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
    let words = bytes.split(move |byte| !part(byte)).filter(|word| (3..=LONGEST).contains(&word.len()));
    let named = |word: &&str| {
        word.contains('.')
            && word.split('.').all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    };
    words.filter_map(|word| std::str::from_utf8(word).ok()).filter(named)
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub settings: Settings,
    pub pins: Pins,
}

/// Gathers the rows of one audit.
#[derive(Debug)]
pub struct Audit {
    /// Whom the server connection logged in as: that session_authorization is the default.
    user: Box<str>,
    found: Found,
    failed: bool,
}

impl Audit {
    pub fn new(user: &str) -> Audit {
        Audit { user: user.into(), found: Found::default(), failed: false }
    }

    /// A DataRow's body.
    pub fn on_row(&mut self, body: &[u8]) {
        let columns = backend::data_row(body);
        let Some([Some(kind), Some(name), Some(value)]) = columns.as_deref() else {
            self.failed = true;
            return;
        };
        match (*kind, *name) {
            (b"s", name) => self.setting(name, value),
            (b"u", name) if **value != *self.user.as_bytes() => self.setting(name, value),
            (b"u", _) => {}
            (b"p", b"temp_objects") => self.found.pins.insert(Pin::TempObjects),
            (b"p", b"advisory_lock") => self.found.pins.insert(Pin::AdvisoryLock),
            (b"p", b"listen") => self.found.pins.insert(Pin::Listen),
            (b"p", b"hold_cursor") => self.found.pins.insert(Pin::HoldCursor),
            (b"p", b"sql_prepare") => self.found.pins.insert(Pin::SqlPrepare),
            _ => self.failed = true,
        }
    }

    fn setting(&mut self, name: &[u8], value: &[u8]) {
        match std::str::from_utf8(name) {
            Ok(name) => drop(self.found.settings.insert(name.to_ascii_lowercase().into(), value.into())),
            Err(_) => self.failed = true,
        }
    }

    pub fn on_error(&mut self) {
        self.failed = true;
    }

    /// What was found; `None` if the process could not tell.
    pub fn finish(self) -> Option<Found> {
        (!self.failed).then_some(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_dot_are_found_in_any_bytes() {
        let text = b"SELECT set_config('my.number', $1, false), 1.5, '..', app.tenant.id\0\0\x05\xffx.y\0";
        assert_eq!(dotted_names(text).collect::<Vec<_>>(), ["my.number", "app.tenant.id", "x.y"]);
    }

    #[test]
    fn only_names_with_a_dot_are_asked_for_and_cannot_leave_their_literal() {
        assert_eq!(query(["work_mem"].into_iter()), QUERY);
        assert!(query(["a.'\\"].into_iter()).contains("E'a.''\\\\'"));
    }
}
