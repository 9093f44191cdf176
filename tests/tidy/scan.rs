//! Reads a Rust file well enough for the house rules: what is code, what is comment or literal, what is test, where
//! functions and structs begin and end. Called by the rules; it knows no rule itself. It is no compiler: it relies on
//! the file being rustfmt's output and compiling.

use std::ops::Range;

/// One file, read.
pub struct Source {
    /// From the repository's root, with slashes.
    pub path: String,
    pub text: String,
    /// The text with comments and the insides of literals turned to spaces; each byte at its old place.
    pub code: String,
    /// For each line, whether it belongs to tests.
    is_test: Vec<bool>,
}

/// A function that has a body.
pub struct Function {
    pub name: String,
    /// Byte range in the file, from `fn` to the closing brace.
    pub range: Range<usize>,
    /// Byte range of the body, with its braces.
    pub body: Range<usize>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let lines = text.lines().count();
        let mut is_test = vec![is_test_file(path); lines];
        for range in test_regions(&code) {
            let (first, last) = (line_of(text, range.start), line_of(text, range.end));
            is_test[first - 1..last.min(lines)].fill(true);
        }
        Source { path: path.to_owned(), text: text.to_owned(), code, is_test }
    }

    /// The line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        line_of(&self.text, at)
    }

    pub fn is_test(&self, at: usize) -> bool {
        self.is_test.get(self.line(at) - 1).copied().unwrap_or(false)
    }

    pub fn lines_without_tests(&self) -> usize {
        self.is_test.iter().filter(|test| !**test).count()
    }

    /// Where `needle` stands in the code, not as a part of a longer word.
    pub fn words(&self, needle: &str) -> Vec<usize> {
        words(&self.code, needle)
    }

    /// The same, outside of tests.
    pub fn words_without_tests(&self, needle: &str) -> Vec<usize> {
        self.words(needle).into_iter().filter(|at| !self.is_test(*at)).collect()
    }

    /// Every function with a body, also nested ones.
    pub fn functions(&self) -> Vec<Function> {
        let named = self.words("fn").into_iter().filter_map(|at| Some((at, ident_at(&self.code, at + 2)?)));
        named
            .filter_map(|(at, name)| {
                let open = opening(&self.code, at)?;
                let close = closing(&self.code, open)?;
                Some(Function { name, range: at..close + 1, body: open..close + 1 })
            })
            .collect()
    }

    /// Every struct's name and the byte range of its fields.
    pub fn structs(&self) -> Vec<(String, Range<usize>)> {
        let named = self.words("struct").into_iter().filter_map(|at| Some((at, ident_at(&self.code, at + 6)?)));
        named
            .filter_map(|(at, name)| {
                let open = at + self.code[at..].find(['{', '(', ';'])?;
                Some((name, open..closing(&self.code, open)? + 1))
            })
            .collect()
    }

    /// How many lines hold nothing but a comment, and how many hold anything.
    pub fn comment_lines(&self) -> (usize, usize) {
        let filled = self.text.lines().filter(|line| !line.trim().is_empty());
        let (comments, all) = filled.fold((0, 0), |(comments, all), line| {
            (comments + usize::from(line.trim_start().starts_with("//")), all + 1)
        });
        (comments, all)
    }
}

/// Files that hold only tests: everything below tests/, and a module `tests` of its own.
fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub fn words(code: &str, needle: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let stands_alone = |at: &usize| {
        let end = at + needle.len();
        let starts = *at == 0 || !is_word(bytes[at - 1]) || !is_word(needle.as_bytes()[0]);
        let ends = end >= bytes.len() || !is_word(bytes[end]) || !is_word(needle.as_bytes()[needle.len() - 1]);
        starts && ends
    };
    code.match_indices(needle).map(|(at, _)| at).filter(stands_alone).collect()
}

/// The identifier that follows `at`, after spaces.
pub fn ident_at(code: &str, at: usize) -> Option<String> {
    let rest = code.get(at..)?.trim_start();
    let end = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

/// The brace that opens the body of the item at `at`; none if a `;` ends it first.
fn opening(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, byte) in code.as_bytes()[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(at + offset),
            _ => {}
        }
    }
    None
}

/// The bracket that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(open + offset);
                }
            }
            _ => {}
        }
    }
    None
}

/// What `#[cfg(test)]` stands in front of.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let attributes = ["#[cfg(test)]", "#[cfg(all(test"].iter().flat_map(|attribute| code.match_indices(attribute));
    attributes
        .map(|(at, _)| {
            let item = closing(code, at + 1).map_or(at, |end| end + 1);
            let body = opening(code, item).and_then(|open| closing(code, open));
            at..body.or_else(|| code[item..].find(';').map(|end| item + end)).unwrap_or(code.len())
        })
        .collect()
}

/// Comments and the insides of string and character literals become spaces; line ends stay.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (hidden, next) = literal(bytes, at);
        for byte in &mut code[hidden] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8(code).expect("only whole literals and comments were replaced, by spaces")
}

/// What starts at `at`: the bytes to hide, and where to go on.
fn literal(bytes: &[u8], at: usize) -> (Range<usize>, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        return (at..end, end);
    }
    if rest.starts_with(b"/*") {
        let end = block_comment(bytes, at);
        return (at..end, end);
    }
    let after_word = at > 0 && is_word(bytes[at - 1]);
    if let Some(hashes) = raw_string(rest).filter(|_| !after_word) {
        let open = at + rest.iter().position(|byte| *byte == b'"').unwrap_or(0) + 1;
        let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
        let end = find(bytes, open, &close);
        return (open..end, end + close.len());
    }
    if rest[0] == b'"' {
        let end = quoted(bytes, at + 1, b'"');
        return (at + 1..end, end + 1);
    }
    if rest[0] == b'\'' && is_character(bytes, at) {
        let end = quoted(bytes, at + 1, b'\'');
        return (at + 1..end, end + 1);
    }
    (at..at, at + 1)
}

fn block_comment(bytes: &[u8], open: usize) -> usize {
    let (mut at, mut depth) = (open, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The number of hashes of `r"`, `r#"`, `br"`, `cr##"`, ….
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix =
        if rest.starts_with(b"r") { 1 } else { usize::from(rest.starts_with(b"br") || rest.starts_with(b"cr")) * 2 };
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    (prefix > 0 && rest.get(prefix + hashes) == Some(&b'"')).then_some(hashes)
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> usize {
    let found = bytes[from..].windows(needle.len()).position(|window| window == needle);
    found.map_or(bytes.len(), |at| from + at)
}

fn quoted(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from;
    while at < bytes.len() && bytes[at] != quote {
        at += 1 + usize::from(bytes[at] == b'\\');
    }
    at.min(bytes.len())
}

/// A character literal, and no lifetime: `'x'`, `'\n'`, `'ü'`, but not `'a`.
fn is_character(bytes: &[u8], at: usize) -> bool {
    match bytes.get(at + 1) {
        Some(b'\\') => true,
        Some(first) => {
            let width = match first {
                0..=0x7F => 1,
                0x80..=0xDF => 2,
                0xE0..=0xEF => 3,
                _ => 4,
            };
            bytes.get(at + 1 + width) == Some(&b'\'')
        }
        None => false,
    }
}
