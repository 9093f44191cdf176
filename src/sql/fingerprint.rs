//! Pure: a lexer that cuts a text exactly as PostgreSQL's scan.l does under standard_conforming_strings = on, and writes
//! it down without comments, extra space and the contents of literals. `cache` compares that text itself, never only a
//! hash of it, so that two texts share a verdict only if they are the same but for literals. `catalog::body` reads words
//! from it. Where versions of PostgreSQL differ (odd numbers, vertical tabs, control bytes), it declines.
//!
//! Each literal is replaced by one control byte that tells its kind. Control bytes cannot come from the text itself:
//! outside literals and quoted names PostgreSQL refuses them, and so does this lexer.

const NUMBER: u8 = 0x01;
const STRING: u8 = 0x02;
const ESCAPE_STRING: u8 = 0x03;
const UNICODE_STRING: u8 = 0x04;
const BIT_STRING: u8 = 0x05;
const HEX_STRING: u8 = 0x06;
const NATIONAL_STRING: u8 = 0x0e;
const DOLLAR_STRING: u8 = 0x0f;

/// The text has something that PostgreSQL's versions cut differently, or that no version accepts: take it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd;

/// What a byte may begin; one look-up for each token instead of a chain of comparisons.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Identifier,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Other,
    Control,
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Identifier,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            0x00..=0x1f | 0x7f => Class::Control,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
}

/// What was copied last, as far as it decides what the next byte is.
const SPACE: u8 = 0;
const WORD: u8 = 1;
const OTHER: u8 = 2;
const STOP: u8 = 3;

/// What stays as it is needs no more than this: behind each of the states above, each byte's next one.
const PLAIN: [[u8; 256]; 3] = [plain(SPACE), plain(WORD), plain(OTHER)];

const fn plain(behind: u8) -> [u8; 256] {
    let mut table = [STOP; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match (CLASSES[byte], byte as u8) {
            (Class::Space, b' ') if behind != SPACE => SPACE,
            (Class::Identifier, _) => WORD,
            (Class::Digit | Class::Dollar, _) if behind == WORD => WORD,
            (Class::Other, b'-' | b'/' | b'.' | b'&') => STOP,
            (Class::Other, _) => OTHER,
            _ => STOP,
        };
        byte += 1;
    }
    table
}

fn continues_identifier(byte: u8) -> bool {
    matches!(CLASSES[usize::from(byte)], Class::Identifier | Class::Digit | Class::Dollar)
}

/// Appends the text without comments and literals to `out`.
pub fn normalize(sql: &[u8], out: &mut Vec<u8>) -> Result<(), Odd> {
    let mut lexer = Lexer { sql, at: 0, out };
    loop {
        lexer.plain();
        if lexer.at == sql.len() {
            break;
        }
        lexer.token()?;
    }
    if lexer.out.last() == Some(&b' ') {
        lexer.out.pop();
    }
    Ok(())
}

struct Lexer<'a, 'o> {
    sql: &'a [u8],
    at: usize,
    out: &'o mut Vec<u8>,
}

impl Lexer<'_, '_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.sql.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Copies names, operators and single spaces up to what takes a closer look: most of most texts, in one piece.
    fn plain(&mut self) {
        let rest = &self.sql[self.at..];
        let mut state = if matches!(self.out.last(), Some(b' ') | None) { SPACE } else { OTHER };
        let mut length = 0;
        while let Some(byte) = rest.get(length) {
            let next = PLAIN[usize::from(state)][usize::from(*byte)];
            if next == STOP {
                break;
            }
            state = next;
            length += 1;
        }
        if state == WORD && matches!(rest.get(length), Some(b'\'' | b'&')) {
            // The word may be a literal's prefix.
            length -= rest[..length].iter().rev().take_while(|byte| continues_identifier(**byte)).count();
        }
        self.out.extend_from_slice(&rest[..length]);
        self.at += length;
    }

    fn token(&mut self) -> Result<(), Odd> {
        let byte = self.sql[self.at];
        match CLASSES[usize::from(byte)] {
            Class::Space => {
                self.at += 1;
                self.space();
                Ok(())
            }
            Class::Identifier => self.identifier(),
            Class::Digit => self.number(),
            Class::Quote => self.string(STRING, 0, Escapes::None),
            Class::DoubleQuote => self.quoted_identifier(),
            Class::Dollar => self.dollar(),
            Class::Other if byte == b'-' && self.peek(1) == b'-' => {
                self.line_comment();
                Ok(())
            }
            Class::Other if byte == b'/' && self.peek(1) == b'*' => self.block_comment(),
            // PL/pgSQL's `..` is one token: in `..1` the second dot begins no number.
            Class::Other if byte == b'.' && self.peek(1) == b'.' => Err(Odd),
            Class::Other if byte == b'.' && self.peek(1).is_ascii_digit() => self.number(),
            Class::Other => {
                self.out.push(byte);
                self.at += 1;
                Ok(())
            }
            Class::Control => Err(Odd),
        }
    }

    fn space(&mut self) {
        if !matches!(self.out.last(), Some(b' ') | None) {
            self.out.push(b' ');
        }
    }

    fn identifier(&mut self) -> Result<(), Odd> {
        let start = self.at;
        let length = self.sql[start..].iter().position(|b| !continues_identifier(*b)).unwrap_or(self.sql.len() - start);
        let next = self.peek(length);
        // A single letter directly before a quote is the literal's prefix, not a name (scan.l's longest match).
        if length == 1 && (next == b'\'' || (next == b'&' && matches!(self.peek(2), b'\'' | b'"'))) {
            match (self.sql[start] | 0x20, next) {
                (b'e', b'\'') => return self.string(ESCAPE_STRING, 1, Escapes::Backslash),
                (b'b', b'\'') => return self.string(BIT_STRING, 1, Escapes::None),
                (b'x', b'\'') => return self.string(HEX_STRING, 1, Escapes::None),
                (b'n', b'\'') => return self.string(NATIONAL_STRING, 1, Escapes::None),
                (b'u', b'&') if self.peek(2) == b'\'' => return self.string(UNICODE_STRING, 2, Escapes::None),
                _ => {}
            }
        }
        self.out.extend_from_slice(&self.sql[start..start + length]);
        self.at += length;
        Ok(())
    }

    /// Plain decimal numbers only; `0x1f`, `1_000`, `1..2`, `12abc` mean different things to different versions.
    fn number(&mut self) -> Result<(), Odd> {
        let rest = &self.sql[self.at..];
        let mut length = digits(rest);
        if rest.get(length) == Some(&b'.') {
            length += 1;
            length += digits(&rest[length..]);
        }
        if matches!(rest.get(length), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(length + 1), Some(b'+' | b'-')));
            let exponent = digits(&rest[(length + 1 + sign).min(rest.len())..]);
            if exponent == 0 {
                return Err(Odd);
            }
            length += 1 + sign + exponent;
        }
        match rest.get(length) {
            Some(next) if continues_identifier(*next) || *next == b'.' => Err(Odd),
            _ => {
                self.out.push(NUMBER);
                self.at += length;
                Ok(())
            }
        }
    }

    /// A literal with its opening quote at `prefix`. An E'…' may go on after a line break (manual: "String Constants"),
    /// and then the second part has escapes too; of the other kinds the parts may be read one by one.
    fn string(&mut self, marker: u8, prefix: usize, escapes: Escapes) -> Result<(), Odd> {
        self.at += prefix + 1;
        loop {
            self.skip_string_part(escapes)?;
            if escapes == Escapes::None || !self.continues_after_newline() {
                break;
            }
        }
        self.out.push(marker);
        Ok(())
    }

    /// From behind the opening quote to behind the closing one.
    fn skip_string_part(&mut self, escapes: Escapes) -> Result<(), Odd> {
        loop {
            let rest = &self.sql[self.at.min(self.sql.len())..];
            let found = match escapes {
                Escapes::None => memchr::memchr(b'\'', rest),
                Escapes::Backslash => memchr::memchr2(b'\'', b'\\', rest),
            };
            let Some(found) = found else { return Err(Odd) };
            let byte = rest[found];
            self.at += found + 1;
            if byte == b'\\' || self.peek(0) == b'\'' {
                self.at += 1;
                continue;
            }
            return Ok(());
        }
    }

    /// scan.l's quotecontinue: space and `--` comments with at least one line break, then a quote. If so, `at` is moved
    /// behind that quote.
    fn continues_after_newline(&mut self) -> bool {
        let mut at = self.at;
        let mut newline = false;
        while let Some(&byte) = self.sql.get(at) {
            match byte {
                b'\n' | b'\r' => newline = true,
                b' ' | b'\t' | 0x0c | 0x0b => {}
                b'-' if self.sql.get(at + 1) == Some(&b'-') => {
                    at += line_length(&self.sql[at..]);
                    continue;
                }
                b'\'' if newline => {
                    self.at = at + 1;
                    return true;
                }
                _ => return false,
            }
            at += 1;
        }
        false
    }

    fn quoted_identifier(&mut self) -> Result<(), Odd> {
        let start = self.at;
        self.at += 1;
        loop {
            let Some(found) = memchr::memchr(b'"', &self.sql[self.at.min(self.sql.len())..]) else { return Err(Odd) };
            self.at += found + 1;
            if self.peek(0) != b'"' {
                break;
            }
            self.at += 1;
        }
        let name = &self.sql[start..self.at];
        if name.iter().any(|b| *b < 0x20) {
            // A control byte inside a name could be taken for a literal's marker.
            return Err(Odd);
        }
        self.out.extend_from_slice(name);
        Ok(())
    }

    /// `$1`, `$tag$…$tag$`, or a stray dollar sign.
    fn dollar(&mut self) -> Result<(), Odd> {
        let rest = &self.sql[self.at..];
        let parameter = digits(&rest[1..]);
        if parameter > 0 {
            self.out.extend_from_slice(&rest[..=parameter]);
            self.at += 1 + parameter;
            return Ok(());
        }
        let tag = rest[1..].iter().position(|b| *b == b'$' || !continues_identifier(*b)).map(|n| n + 1);
        let Some(tag) = tag.filter(|n| rest[*n] == b'$') else { return Err(Odd) };
        let delimiter = &rest[..=tag];
        let Some(end) = memchr::memmem::find(&rest[delimiter.len()..], delimiter) else { return Err(Odd) };
        self.at += delimiter.len() + end + delimiter.len();
        self.out.push(DOLLAR_STRING);
        Ok(())
    }

    fn line_comment(&mut self) {
        self.at += line_length(&self.sql[self.at..]);
        self.space();
    }

    /// They nest (manual: "Comments").
    fn block_comment(&mut self) -> Result<(), Odd> {
        let mut depth = 0_u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        self.space();
                        return Ok(());
                    }
                }
                _ if self.at >= self.sql.len() => return Err(Odd),
                _ => self.at += 1,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    None,
    Backslash,
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| !b.is_ascii_digit()).unwrap_or(bytes.len())
}

fn line_length(bytes: &[u8]) -> usize {
    memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len())
}

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
