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

/// Reads the body of an SQL or PL/pgSQL function, a DO block, or a text that is not parsed.
pub fn read(text: &str) -> Body {
    let mut cut = Vec::new();
    let readable =
        fingerprint::normalize(text.as_bytes(), &mut cut).is_ok() && !text.contains("U&") && !text.contains("u&");
    if !readable {
        // It cannot be cut: every word of the text counts, strings and comments too, and it is opaque.
        let words = split(text).map(|(w, _)| w).collect();
        return Body { conduct: OPAQUE, words };
    }
    let cut = String::from_utf8_lossy(&cut).into_owned();
    let tokens: Vec<(String, Follows)> = split(&cut).collect();
    let mut conduct = Conduct::QUIET;
    let mut updating = false;
    for (at, (word, follows)) in tokens.iter().enumerate() {
        if *follows == Follows::Semicolon || matches!(word.as_str(), "begin" | "then" | "else" | "loop") {
            updating = false;
        }
        updating |= word == "update";
        let next = tokens.get(at + 1).map_or("", |(w, _)| w.as_str());
        conduct = conduct.and(of_word(word, next, updating));
    }
    Body { conduct, words: tokens.into_iter().map(|(w, _)| w).collect() }
}

fn of_word(word: &str, next: &str, updating: bool) -> Conduct {
    match word {
        // UPDATE … SET and ON CONFLICT DO UPDATE SET change rows, not settings.
        "set" if !updating => Conduct::AUDIT,
        "reset" | "discard" | "listen" | "unlisten" | "prepare" | "deallocate" | "load" | "hold" => Conduct::AUDIT,
        // What is built and run may write anywhere.
        "execute" => Conduct::AUDIT.and(Conduct::SEQUENCE),
        "temp" | "temporary" | "pg_temp" => Conduct::AUDIT,
        "do" if !matches!(next, "update" | "nothing" | "instead" | "also") => Conduct::AUDIT.and(Conduct::DDL),
        "create" | "alter" | "drop" | "grant" | "revoke" | "reassign" => Conduct::DDL,
        _ => Conduct::QUIET,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    Semicolon,
    Other,
}

/// Words in lower case, quoted or not, and whether a semicolon stands before each.
fn split(text: &str) -> impl Iterator<Item = (String, Follows)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(is_word)?;
        let follows = if rest[..start].contains(';') { Follows::Semicolon } else { Follows::Other };
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        rest = &word[end..];
        Some((word[..end].to_lowercase(), follows))
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
