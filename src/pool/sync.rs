//! Pure: what must be sent so that a server connection's settings match a session's. Called at each checkout whose
//! settings differ; most do not, and then nothing is sent.

use super::state::Settings;
use crate::protocol::frontend;

/// How the difference may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// The settings match.
    Nothing,
    /// One Query was written; the session's own messages may follow at once.
    Ahead,
    /// One Query was written that changes who the session is: nothing may follow before it was seen to succeed.
    First,
}

/// Settings that are not mirrored to a replica: there our own value guards against writes after a promotion.
const KEPT_ON_REPLICAS: &str = "default_transaction_read_only";

const ENCODING: &str = "client_encoding";

const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// How the bytes of a value are written.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    Plain,
    /// What cannot be UTF-8 is of this encoding, which the Query is not read in yet.
    Of(&'a [u8]),
    /// In whatever encoding the server reads the Query. It takes such bytes for its own encoding's.
    Escaped,
}

/// Writes the Query that takes a connection from `have` to `want`, if they differ.
///
/// Whoever the session is must change last, since a role may lack the right to change the others; and first of all back,
/// for the same reason.
pub fn put_sync(out: &mut Vec<u8>, have: &Settings, want: &Settings, replica: bool) -> Sync {
    let skip = |name: &str| replica && name == KEPT_ON_REPLICAS;
    let differs = |name: &str, value: &[u8]| want.get(name).is_none_or(|wanted| &**wanted != value);
    let mut text = Vec::new();
    let bytes = match want.get(ENCODING) {
        wanted if have.get(ENCODING) == wanted => Bytes::Plain,
        Some(wanted) if !is_utf8(Some(wanted)) => Bytes::Of(wanted),
        _ => Bytes::Escaped,
    };
    let identity = IDENTITY.iter().any(|name| have.get(*name) != want.get(*name));
    let others = have.iter().any(|(name, value)| !is_identity(name) && !skip(name) && differs(name, value))
        || want.iter().any(|(name, _)| !is_identity(name) && !skip(name) && !have.contains_key(name));
    if !identity && !others {
        return Sync::Nothing;
    }
    if IDENTITY.iter().any(|name| have.contains_key(*name)) {
        text.extend_from_slice(b"RESET ROLE;RESET SESSION AUTHORIZATION;");
    }
    for (name, _) in have.iter().filter(|(name, _)| !is_identity(name) && !skip(name) && !want.contains_key(*name)) {
        text.extend_from_slice(b"RESET ");
        put_name(&mut text, name);
        text.push(b';');
    }
    for (name, value) in want.iter().filter(|(name, _)| !is_identity(name) && !skip(name)) {
        if have.get(name) != Some(value) {
            put_set_config(&mut text, name, value, bytes);
        }
    }
    let mut first = identity;
    for name in IDENTITY {
        if let Some(value) = want.get(name) {
            put_set_config(&mut text, name, value, bytes);
            first = true;
        }
    }
    frontend::put_query(out, &text);
    if first { Sync::First } else { Sync::Ahead }
}

fn is_identity(name: &str) -> bool {
    IDENTITY.contains(&name)
}

/// PostgreSQL's default in nearly all databases, or its name.
fn is_utf8(encoding: Option<&[u8]>) -> bool {
    encoding.is_none_or(|name| {
        let mut name = name.to_ascii_lowercase();
        name.retain(u8::is_ascii_alphanumeric);
        name == b"utf8" || name == b"unicode"
    })
}

fn put_set_config(text: &mut Vec<u8>, name: &str, value: &[u8], bytes: Bytes<'_>) {
    text.extend_from_slice(b"SELECT pg_catalog.set_config(");
    put_literal(text, name.as_bytes(), Bytes::Plain);
    text.push(b',');
    match bytes {
        Bytes::Of(encoding) if std::str::from_utf8(value).is_err() => {
            text.extend_from_slice(b"pg_catalog.convert_from(E'\\\\x");
            value.iter().for_each(|byte| text.extend_from_slice(format!("{byte:02X}").as_bytes()));
            text.extend_from_slice(b"'::pg_catalog.bytea,");
            put_literal(text, encoding, Bytes::Plain);
            text.push(b')');
        }
        _ => put_literal(text, value, bytes),
    }
    text.extend_from_slice(b",false);");
}

/// A literal that means the same under both values of standard_conforming_strings and any of backslash_quote.
fn put_literal(text: &mut Vec<u8>, value: &[u8], bytes: Bytes<'_>) {
    text.extend_from_slice(b"E'");
    for &byte in value {
        match byte {
            0x80.. if matches!(bytes, Bytes::Escaped) => text.extend_from_slice(format!("\\x{byte:02X}").as_bytes()),
            b'\'' => text.extend_from_slice(b"''"),
            b'\\' => text.extend_from_slice(b"\\\\"),
            byte => text.push(byte),
        }
    }
    text.push(b'\'');
}

/// A setting's name, each part quoted.
fn put_name(text: &mut Vec<u8>, name: &str) {
    for (index, part) in name.split('.').enumerate() {
        if index > 0 {
            text.push(b'.');
        }
        text.push(b'"');
        text.extend_from_slice(part.replace('"', "\"\"").as_bytes());
        text.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).into(), value.as_bytes().into())).collect()
    }

    fn check(have: &[(&str, &str)], want: &[(&str, &str)], replica: bool, expect: (Sync, &str)) {
        let mut out = Vec::new();
        let sync = put_sync(&mut out, &settings(have), &settings(want), replica);
        let text = out.get(5..out.len().saturating_sub(1)).unwrap_or_default();
        assert_eq!((sync, String::from_utf8_lossy(text).as_ref()), expect);
    }

    #[test]
    fn only_the_difference_is_sent() {
        check(&[("a", "1")], &[("a", "1")], false, (Sync::Nothing, ""));
        check(
            &[("a", "1"), ("my.x", "y")],
            &[("a", "2")],
            false,
            (Sync::Ahead, "RESET \"my\".\"x\";SELECT pg_catalog.set_config(E'a',E'2',false);"),
        );
    }

    #[test]
    fn values_cannot_leave_their_literal() {
        check(&[], &[("a", "'\\")], false, (Sync::Ahead, "SELECT pg_catalog.set_config(E'a',E'''\\\\',false);"));
    }

    /// The server reads the Query in the encoding that the connection still has.
    #[test]
    fn bytes_do_not_depend_on_the_encoding_that_is_left() {
        let reset = "RESET \"client_encoding\";SELECT pg_catalog.set_config(E'a',E'\\xC3\\xA9\t',false);";
        check(&[("client_encoding", "LATIN1")], &[("a", "\u{e9}\t")], false, (Sync::Ahead, reset));
        let (same, plain) = (("client_encoding", "LATIN1"), "SELECT pg_catalog.set_config(E'a',E'\u{e9}',false);");
        check(&[same], &[same, ("a", "\u{e9}")], false, (Sync::Ahead, plain));
        check(&[], &[("a", "\u{e9}")], false, (Sync::Ahead, plain));
    }

    /// A value that a LATIN1 session was given broke the Query that brought it to a connection in UTF-8 (22021), and with it
    /// the session.
    #[test]
    fn what_is_no_utf8_is_of_the_encoding_that_comes() {
        let mut want = settings(&[("client_encoding", "LATIN1"), ("b", "\u{e9}")]);
        want.insert("a".into(), b"caf\xe9".as_slice().into());
        let mut out = Vec::new();
        put_sync(&mut out, &Settings::new(), &want, false);
        let expect = "SELECT pg_catalog.set_config(E'a',pg_catalog.convert_from(E'\\\\x636166E9'::pg_catalog.bytea,E'LATIN1'),false);\
                      SELECT pg_catalog.set_config(E'b',E'\u{e9}',false);\
                      SELECT pg_catalog.set_config(E'client_encoding',E'LATIN1',false);";
        assert_eq!(String::from_utf8_lossy(&out[5..out.len() - 1]), expect);
    }

    #[test]
    fn a_role_is_left_first_and_taken_last() {
        check(
            &[("role", "x")],
            &[("a", "1"), ("role", "y")],
            false,
            (
                Sync::First,
                "RESET ROLE;RESET SESSION AUTHORIZATION;SELECT pg_catalog.set_config(E'a',E'1',false);SELECT pg_catalog.set_config(E'role',E'y',false);",
            ),
        );
    }

    #[test]
    fn a_replica_keeps_its_guard() {
        check(&[], &[("default_transaction_read_only", "off")], true, (Sync::Nothing, ""));
    }
}
