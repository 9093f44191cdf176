//! Pure: what a statement does to other databases than its own: which one it needs to be free of connections (DROP, RENAME
//! and TEMPLATE fail while anyone is connected, and idle server connections of ours would be someone), and whether it
//! changes what all databases share; and which processes it names to be cancelled. Called by the machine before the statement
//! leaves. Words of comments and strings count: too much is harmless.

use crate::protocol::frontend;

/// What a new database is a copy of if nothing else is said (manual: "CREATE DATABASE").
const TEMPLATE: &str = "template1";

/// What the loop must look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abroad {
    /// Nobody may be connected to this database.
    Vacates(String),
    /// Roles and memberships: a read in any database may be refused from now on.
    Privileges,
    /// pg_terminate_backend: the process may be one that another session was told is its own.
    Terminates,
    /// pg_cancel_backend of these processes was done: a replica may be at work for a session that was told of one.
    Cancelled(Vec<u32>),
    /// The same as `Privileges`, and ALTER ROLE or ALTER DATABASE … SET: who logs in from now on begins with other settings.
    Defaults,
}

pub fn abroad(text: &[u8]) -> Option<Abroad> {
    if let Some(database) = vacated(text) {
        return Some(Abroad::Vacates(database));
    }
    let (mut shared, mut granted, mut on, mut sets) = (false, false, false, false);
    for word in text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_') {
        let is = |words: &[&str]| words.iter().any(|other| word.eq_ignore_ascii_case(other.as_bytes()));
        shared |= is(&["role", "user", "group", "database", "owned", "system"]);
        granted |= is(&["grant", "revoke"]);
        on |= is(&["on"]);
        sets |= is(&["set", "reset"]);
    }
    match shared || (granted && !on) {
        true if sets => Some(Abroad::Defaults),
        true => Some(Abroad::Privileges),
        false => None,
    }
}

/// What a text names as process numbers: those that stand behind a parenthesis, a comma or an equals sign.
pub fn numbers(text: &[u8]) -> impl Iterator<Item = u32> + '_ {
    text.split_inclusive(|byte| matches!(byte, b'(' | b',' | b'=')).skip(1).filter_map(|part| {
        let digits = part.trim_ascii_start();
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    })
}

/// And those among the values of a Bind, behind its names: as text or as an int4.
pub fn bound_numbers(rest: &[u8]) -> Option<Vec<u32>> {
    let number = |value: &[u8]| {
        let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        text.or_else(|| value.try_into().ok().map(u32::from_be_bytes))
    };
    Some(frontend::bound_values(rest)?.into_iter().flatten().filter_map(number).collect())
}

/// The database that nobody may be connected to, if the text is one of those statements.
fn vacated(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = Words { rest: text };
    let (verb, object) = (words.next()?, words.next()?);
    if !object.eq_ignore_ascii_case("database") {
        return None;
    }
    if verb.eq_ignore_ascii_case("create") {
        let template = words.find(|word| word == "template").and_then(|_| words.next());
        return Some(template.filter(|name| name != "default").unwrap_or_else(|| TEMPLATE.to_owned()));
    }
    let drops = verb.eq_ignore_ascii_case("drop");
    if !drops && !(verb.eq_ignore_ascii_case("alter") && text.to_ascii_uppercase().contains("RENAME")) {
        return None;
    }
    let name = words.next()?;
    if drops && name.eq_ignore_ascii_case("if") { words.nth(1) } else { Some(name) }
}

/// Identifiers as PostgreSQL reads them: quoted ones keep their case, others lose it.
struct Words<'a> {
    rest: &'a str,
}

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let rest = self.rest.trim_start_matches(is_between);
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"')?;
            self.rest = &quoted[end + 1..];
            return Some(quoted[..end].to_owned());
        }
        let end = rest.find(is_between).unwrap_or(rest.len());
        self.rest = &rest[end..];
        (end > 0).then(|| rest[..end].to_lowercase())
    }
}

fn is_between(c: char) -> bool {
    c.is_whitespace() || matches!(c, ';' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_databases_share_is_seen() {
        for (text, expect) in [
            ("ALTER ROLE app SET work_mem = '77MB'", Some(Abroad::Defaults)),
            ("alter database app reset timezone", Some(Abroad::Defaults)),
            ("SELECT 1; ALTER USER app IN DATABASE x SET work_mem TO DEFAULT", Some(Abroad::Defaults)),
            ("ALTER ROLE app NOSUPERUSER", Some(Abroad::Privileges)),
            ("REVOKE readers FROM app", Some(Abroad::Privileges)),
            ("DROP OWNED BY app", Some(Abroad::Privileges)),
            ("DROP DATABASE app", Some(Abroad::Vacates("app".to_owned()))),
            ("GRANT SELECT ON t TO app", None),
            ("CREATE TABLE users (id int)", None),
        ] {
            assert_eq!(abroad(text.as_bytes()), expect, "{text}");
        }
    }

    #[test]
    fn the_processes_are_named() {
        let of = |text: &str| numbers(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("SELECT pg_cancel_backend( 4711), 'a12' LIMIT 1"), [4711]);
        assert_eq!(of("SELECT pg_cancel_backend(pid) FROM p1 WHERE pid IN (7, 8) OR pid = 9"), [7, 8, 9]);
        assert_eq!(of("SELECT pg_cancel_backend(99999999999)"), [0; 0]);
        let bind = |value: &[u8]| [b"\0\0\0\x02\xff\xff\xff\xff\0\0\0\x04", value, b"\0\0"].concat();
        assert_eq!(bound_numbers(&bind(b"4711")), Some(vec![4711]));
        assert_eq!(bound_numbers(&bind(&4711_u32.to_be_bytes())), Some(vec![4711]));
        assert_eq!(bound_numbers(b"\0\0\0\x01\0\0\0\x04\x01"), None);
    }

    #[test]
    fn the_database_is_named() {
        for (text, name) in [
            ("DROP DATABASE app", Some("app")),
            ("drop database if exists \"My App\";", Some("My App")),
            ("DROP DATABASE App WITH (FORCE)", Some("app")),
            ("ALTER DATABASE a RENAME TO b", Some("a")),
            ("ALTER DATABASE a SET work_mem = '1MB'", None),
            ("CREATE DATABASE b TEMPLATE = a", Some("a")),
            ("CREATE DATABASE b TEMPLATE=\"A\" OWNER x", Some("A")),
            ("CREATE DATABASE b OWNER x", Some("template1")),
            ("CREATE DATABASE b TEMPLATE DEFAULT;", Some("template1")),
            ("DROP TABLE a", None),
        ] {
            assert_eq!(vacated(text.as_bytes()).as_deref(), name, "{text}");
        }
    }
}
