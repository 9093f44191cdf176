//! The part of the oracle's corpus that people wrote: cases.txt, and every statement that the tests of this repository
//! send, cut out of the transcripts and of the sources.

use std::fs;
use std::path::{Path, PathBuf};

use super::judge::Routed;
use super::{Source, Statement};

const CASES: &str = include_str!("cases.txt");

/// `replica: SQL` or `primary: SQL`, one a line; `primary before 17: SQL` is free from that version on.
pub fn cases(version: u32) -> Vec<Statement> {
    let lines = CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let case = |line: &str| {
        let (routed, sql) = line.split_once(": ").expect("\"replica: SQL\" or \"primary: SQL\"");
        let expected = match routed.split_once(" before ") {
            Some(("primary", major)) => {
                (version < major.parse::<u32>().expect("a version") * 10_000).then_some(Routed::Primary)
            }
            None if routed == "replica" => Some(Routed::Replica),
            None if routed == "primary" => Some(Routed::Primary),
            _ => panic!("{routed} is no place: {line}"),
        };
        Statement { source: Source::Cases, sql: sql.to_owned(), expected, may_run: true }
    };
    lines.map(case).collect()
}

/// Parameters become NULL, since nobody binds them here.
pub fn of_the_tests() -> Vec<Statement> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for file in files(&root.join("tests")).into_iter().chain(files(&root.join("src/sql"))) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|e| e.to_str()) {
            Some("txt") if file.parent().is_some_and(|p| p.ends_with("transcripts")) => texts.extend(transcript(&text)),
            Some("rs") => texts.extend(literals(&text)),
            _ => {}
        }
    }
    texts.sort_unstable();
    texts.dedup();
    let statement = |sql: String| Statement {
        source: Source::Tests,
        sql: (1..10).rev().fold(sql, |sql, number| sql.replace(&format!("${number}"), "NULL")),
        expected: None,
        may_run: Source::Tests.may_run(),
    };
    texts.into_iter().map(statement).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the repository's folders").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn transcript(text: &str) -> Vec<String> {
    let of_line = |line: &str| match line.split_once(' ') {
        Some(("Query", sql)) => Some(sql.to_owned()),
        Some(("Parse", fields)) => fields.split(" | ").nth(1).map(str::to_owned),
        _ => None,
    };
    text.lines().filter_map(of_line).map(|sql| sql.replace("\\n", "\n").replace("\\t", "\t")).collect()
}

/// String literals of a Rust source that begin like a query.
fn literals(source: &str) -> Vec<String> {
    const WORDS: [&str; 8] = ["SELECT", "WITH", "VALUES", "TABLE", "COPY", "SHOW", "EXPLAIN", "("];
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find('"') {
        rest = &rest[start + 1..];
        let mut text = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    // A literal that goes on in the next line swallows the indent.
                    Some((_, '\n')) => text.push(' '),
                    Some((_, other)) => text.push(other),
                    None => {}
                },
                other => text.push(other),
            }
        }
        rest = &rest[end..];
        if WORDS.iter().any(|word| text.starts_with(word)) && text.contains(' ') && !text.contains('\0') {
            found.push(text);
        }
    }
    found
}
