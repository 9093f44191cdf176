//! Pure: a function's body as words: what it may leave behind in the server process, over-approximated. Comments and
//! literals are no words; text that is built and run is EXECUTE's, which is never quiet. The analysis and the classifier
//! of DO blocks call it.

use std::collections::HashSet;

use crate::catalog::Conduct;
use crate::sql::fingerprint;

/// What a body's words tell.
#[derive(Debug, Default)]
pub struct Body {
    pub conduct: Conduct,
    /// All words in lower case: names of functions and relations are among them.
    pub words: HashSet<String>,
}

const OPAQUE: Conduct = Conduct::AUDIT.and_const(Conduct::SEQUENCE).and_const(Conduct::DDL);

/// Reads the body of an SQL or PL/pgSQL function, or a DO block.
pub fn read(text: &str) -> Body {
    let mut words = HashSet::new();
    let conduct = walk(text, |word| {
        words.insert(word.to_lowercase());
    });
    Body { conduct, words }
}

/// The conduct alone, of a text of any length: nothing is kept of it.
pub fn conduct(text: &str) -> Conduct {
    walk(text, |_| {})
}

fn walk(text: &str, mut seen: impl FnMut(&str)) -> Conduct {
    let mut cut = Vec::new();
    let readable =
        fingerprint::normalize(text.as_bytes(), &mut cut).is_ok() && !text.contains("U&") && !text.contains("u&");
    if !readable {
        // It cannot be cut: every word of the text counts, strings and comments too, and it is opaque.
        split(text).for_each(|(word, _)| seen(word));
        return OPAQUE;
    }
    let cut = String::from_utf8_lossy(&cut);
    let mut conduct = Conduct::QUIET;
    let mut updating = false;
    let mut tokens = split(&cut).peekable();
    while let Some((word, follows)) = tokens.next() {
        if follows == Follows::Semicolon || is_any(word, &["begin", "then", "else", "loop"]) {
            updating = false;
        }
        updating |= is_any(word, &["update"]);
        conduct = conduct.and(of_word(word, tokens.peek().map_or("", |(next, _)| next), updating));
        seen(word);
    }
    conduct
}

fn is_any(word: &str, of: &[&str]) -> bool {
    of.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// Of a word in any case.
fn of_word(word: &str, next: &str, updating: bool) -> Conduct {
    // UPDATE … SET and ON CONFLICT DO UPDATE SET change rows, not settings.
    if is_any(word, &["set"]) && !updating {
        return Conduct::AUDIT;
    }
    if is_any(word, &["reset", "discard", "listen", "unlisten", "prepare", "deallocate", "load", "hold"]) {
        return Conduct::AUDIT;
    }
    // What is built and run may write anywhere.
    if is_any(word, &["execute"]) {
        return Conduct::AUDIT.and(Conduct::SEQUENCE);
    }
    if is_any(word, &["temp", "temporary", "pg_temp"]) {
        return Conduct::AUDIT;
    }
    if is_any(word, &["do"]) && !is_any(next, &["update", "nothing", "instead", "also"]) {
        return Conduct::AUDIT.and(Conduct::DDL);
    }
    if is_any(word, &["create", "alter", "drop", "grant", "revoke", "reassign"]) {
        return Conduct::DDL;
    }
    Conduct::QUIET
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    Semicolon,
    Other,
}

/// Words, quoted or not, and whether a semicolon stands before each.
fn split(text: &str) -> impl Iterator<Item = (&str, Follows)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(is_word)?;
        let follows = if rest[..start].contains(';') { Follows::Semicolon } else { Follows::Other };
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        rest = &word[end..];
        Some((&word[..end], follows))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Conduct) {
        assert_eq!(read(text).conduct, expect, "{text}");
    }

    #[test]
    fn words_that_change_the_session_are_seen() {
        check("begin insert into audit(m) values('w'); return 1; end", Conduct::QUIET);
        check("begin update t set n = 1 where id = new.id; return new; end", Conduct::QUIET);
        check("BEGIN Update t SET n = 1; Set work_mem = '1MB'; end", Conduct::AUDIT);
        check("insert into t values(1) on conflict (id) do update set n = 2", Conduct::QUIET);
        check("begin set search_path = pg_catalog; return 'ok'; end", Conduct::AUDIT);
        check("begin update t set n = 1; set work_mem = '1MB'; end", Conduct::AUDIT);
        check("begin -- update\n set work_mem = '1MB'; end", Conduct::AUDIT);
        check("begin raise notice 'set x'; end", Conduct::QUIET);
        check("begin execute 'select 1'; end", Conduct::AUDIT.and(Conduct::SEQUENCE));
        check("begin create temp table zz(i int); end", Conduct::AUDIT.and(Conduct::DDL));
        check("begin perform U&\"s\\0065tseed\"(1); end", OPAQUE);
    }
}
