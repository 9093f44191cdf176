//! Pure: what a text would cost the parser, told by one pass of our own lexer, so that a hostile text is never parsed.
//! `parse` asks before each parse. It must never take less than PostgreSQL's scanner sees for what is there: a text that
//! our lexer declines is weighed with its strings and comments.
//!
//! Measured with PostgreSQL 18's grammar: a node of the tree takes about 0.75 KB for each unit of this weight and 1 to 2
//! µs, whatever the text is made of; so the heaviest text takes some 20 MB and 25 ms.

use std::fmt;

use super::fingerprint;

/// A name or key word weighs so much, since it becomes more than one node; everything else 1.
const WORD: usize = 4;
/// About a list of 12,000 numbers, 6,000 columns, or 1,000 rows of ten parameters.
const HEAVIEST: usize = 24_000;
/// Open parentheses and brackets.
const DEEPEST: usize = 256;
/// PostgreSQL's scanner takes a run of operator characters as one token; to cut what may not be at its end (`+-+-…`)
/// takes the cube of its length. Operators' names have 63 characters at most, and nobody's has half of that.
const LONGEST_OPERATOR: usize = 32;
/// Of operator characters in a row, in comments too, where a rule of `=` or `*` is nothing unusual.
const LONG_RUN: usize = 64;
/// What the scanner puts back of a run where a comment begins in it, it reads again: `/*/*/*…` takes quadratic time.
const MOST_OPENINGS: usize = 8;

/// Why a text is not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    Weight,
    Depth,
    Operator,
    Comments,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Weight => write!(f, "it has too many tokens"),
            Excess::Depth => write!(f, "it has more than {DEEPEST} parentheses in each other"),
            Excess::Operator => write!(f, "it has {LONGEST_OPERATOR} operator characters in a row"),
            Excess::Comments => write!(f, "comments begin {MOST_OPENINGS} times in a row"),
        }
    }
}

/// What speaks against parsing the text.
pub fn excess(sql: &[u8]) -> Option<Excess> {
    if opens_comments_in_a_row(sql) {
        return Some(Excess::Comments);
    }
    let mut tokens = Vec::with_capacity(sql.len());
    match fingerprint::normalize(sql, &mut tokens) {
        Ok(()) => weigh(&tokens),
        Err(fingerprint::Odd) => weigh(sql),
    }
}

fn is_operator(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

fn opens_comments_in_a_row(sql: &[u8]) -> bool {
    sql.split(|byte| !is_operator(*byte))
        .any(|run| run.len() > LONG_RUN && run.windows(2).filter(|two| two == b"/*").count() >= MOST_OPENINGS)
}

fn weigh(tokens: &[u8]) -> Option<Excess> {
    let (mut weight, mut depth, mut operator) = (0_usize, 0_usize, 0_usize);
    let mut in_word = false;
    for &byte in tokens {
        let of_word = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80;
        weight += match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b'"' => 0,
            _ if !of_word => 1,
            _ if in_word => 0,
            b'0'..=b'9' | b'$' => 1,
            _ => WORD,
        };
        in_word = of_word;
        operator = if is_operator(byte) { operator + 1 } else { 0 };
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Some(Excess::Depth);
        }
        if operator >= LONGEST_OPERATOR {
            return Some(Excess::Operator);
        }
    }
    (weight > HEAVIEST).then_some(Excess::Weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expect: Option<Excess>) {
        assert_eq!(excess(sql.as_bytes()), expect, "{:.60}…", sql);
    }

    #[test]
    fn what_is_too_much() {
        check(&format!("SELECT {}", vec!["1"; 100_000].join(",")), Some(Excess::Weight));
        check(&format!("INSERT INTO t VALUES {}", vec!["(1, 'a')"; 300_000].join(",")), Some(Excess::Weight));
        check(&"BEGIN;".repeat(40_000), Some(Excess::Weight));
        check(&";".repeat(250_000), Some(Excess::Weight));
        check(&format!("SELECT 'open {}", "a ".repeat(100_000)), Some(Excess::Weight));
        check(&format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)), Some(Excess::Depth));
        check(&format!("SELECT {}1{}", "ARRAY[".repeat(300), "]".repeat(300)), Some(Excess::Depth));
        check(&format!("SELECT 1 {} 1", "+-".repeat(16)), Some(Excess::Operator));
        check(&format!("SELECT 1 {}", "/*".repeat(100_000)), Some(Excess::Comments));
        check(&format!("SELECT 1 {}", "/**/".repeat(100)), Some(Excess::Comments));
        check(&format!("SELECT 1 -- {}", "/*".repeat(40)), Some(Excess::Comments));
    }

    #[test]
    fn what_applications_send_is_parsed() {
        check(&format!("SELECT * FROM t WHERE id IN ({})", vec!["12345678"; 10_000].join(", ")), None);
        let row = format!("({})", ["$1"; 10].join(", "));
        check(&format!("INSERT INTO t VALUES {}", vec![row.as_str(); 1_000].join(", ")), None);
        let column = "\"orders\".\"customer\" AS \"orders_customer\"";
        check(&format!("SELECT {} FROM orders", vec![column; 1_000].join(", ")), None);
        check(&format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200)), None);
        check(&format!("INSERT INTO t VALUES ('{}')", "{\"a\": [1, (2)]} +-+-+ ".repeat(10_000)), None);
        check(&format!("/*{0}*/ SELECT 1 --{1}\n /* a /* nested */ one */", "*".repeat(200), "=-".repeat(100)), None);
        check("SELECT '/*' || '/*' || '/*', 1 <-> 2, a -> 'b' #>> '{c}'", None);
    }
}
