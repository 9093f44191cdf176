//! Pure: routing hints in comments. Only comments in front of the first token count, so that no string, identifier or
//! text that somebody pasted into a query can be one. `classify` and the fingerprint call it.
//!
//! `/* pgweir: primary */`, `replica`, `max_lag=500ms`, `consistency=strict`; `--` comments too. For people who come from
//! elsewhere: `/*NO LOAD BALANCE*/` and `/* pgdog_role: primary */` (or `replica`).

use std::time::Duration;

use super::{Consistency, Hint};

/// The hint in front of a text's first token; the first one counts.
pub fn leading(sql: &str) -> Option<Hint> {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c', '\x0b']);
        let (comment, after) = if let Some(body) = rest.strip_prefix("/*") {
            block_comment(body)?
        } else if let Some(body) = rest.strip_prefix("--") {
            body.split_at(body.find(['\n', '\r']).unwrap_or(body.len()))
        } else {
            return None;
        };
        if let Some(hint) = read(comment) {
            return Some(hint);
        }
        rest = after;
    }
}

/// The inside of a comment that nests, and what follows it.
fn block_comment(body: &str) -> Option<(&str, &str)> {
    let bytes = body.as_bytes();
    let mut depth = 1;
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some((&body[..at - 2], &body[at..]));
                }
            }
            _ => at += 1,
        }
    }
    None
}

fn read(comment: &str) -> Option<Hint> {
    let comment = comment.trim();
    if comment.eq_ignore_ascii_case("NO LOAD BALANCE") {
        return Some(Hint::Primary);
    }
    let (name, value) = comment.split_once(':')?;
    let value = value.trim();
    match name.trim() {
        "pgweir" => ours(value),
        "pgdog_role" => role(value),
        _ => None,
    }
}

fn role(value: &str) -> Option<Hint> {
    match value {
        "primary" => Some(Hint::Primary),
        "replica" => Some(Hint::Replica),
        _ => None,
    }
}

fn ours(value: &str) -> Option<Hint> {
    let Some((key, value)) = value.split_once('=') else { return role(value) };
    match key.trim() {
        "max_lag" => duration(value.trim()).map(Hint::MaxLag),
        "consistency" => consistency(value.trim()).map(Hint::Consistency),
        _ => None,
    }
}

/// The names of the levels, as the configuration spells them.
pub fn consistency(text: &str) -> Option<Consistency> {
    match text {
        "eventual" => Some(Consistency::Eventual),
        "session" => Some(Consistency::Session),
        "global" => Some(Consistency::Global),
        "strict" => Some(Consistency::Strict),
        "primary" => Some(Consistency::Primary),
        _ => None,
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_only_in_front() {
        let lag = Hint::MaxLag(Duration::from_millis(500));
        for (sql, expect) in [
            ("/* pgweir: primary */ SELECT 1", Some(Hint::Primary)),
            ("/*pgweir:replica*/SELECT 1", Some(Hint::Replica)),
            ("\n /* app=7 */ -- pgweir: max_lag=500ms\nSELECT 1", Some(lag)),
            ("/* pgweir: consistency=strict */ SELECT 1", Some(Hint::Consistency(Consistency::Strict))),
            ("/*NO LOAD BALANCE*/ SELECT 1", Some(Hint::Primary)),
            ("/* pgdog_role: primary */ SELECT 1", Some(Hint::Primary)),
            ("/*+ primary */ SELECT 1", None),
            ("SELECT 1 /* pgweir: replica */", None),
            ("SELECT '/* pgweir: replica */'", None),
            ("/* pgweir: replica SELECT 1", None),
            ("/* a /* pgweir: replica */ b */ SELECT 1", None),
            ("/* pgweir: master */ SELECT 1", None),
        ] {
            assert_eq!(leading(sql), expect, "{sql}");
        }
    }
}
