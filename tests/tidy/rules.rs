//! The house rules, each a function from a file to its findings. `tests/tidy.rs` runs them over the repository, and
//! over bad input, so that a rule that stopped working is noticed too.

use super::scan::{Source, closing, ident_at, words};

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub rule: &'static str,
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

fn finding(source: &Source, at: usize, rule: &'static str, what: impl Into<String>) -> Finding {
    Finding { path: source.path.clone(), line: source.line(at), rule, what: what.into() }
}

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 70;
const NESTING: usize = 5;
const BOOLS: usize = 2;

pub fn opens_with_its_purpose(source: &Source) -> Vec<Finding> {
    if source.text.starts_with("//! ") && source.text.lines().next().is_some_and(|line| line.len() >= 20) {
        return Vec::new();
    }
    vec![finding(source, 0, "file docs", "a file opens with //!: what it does, who calls it, what it must never do")]
}

pub fn is_short(source: &Source) -> Vec<Finding> {
    let lines = source.lines_without_tests();
    if lines <= FILE_LINES {
        return Vec::new();
    }
    vec![finding(source, 0, "file length", format!("{lines} lines without tests, at most {FILE_LINES}"))]
}

pub fn functions_are_short(source: &Source) -> Vec<Finding> {
    let functions = source.functions().into_iter().filter(|function| !source.is_test(function.range.start));
    functions
        .filter_map(|function| {
            let lines = source.line(function.range.end) - source.line(function.range.start) + 1;
            let what = || format!("fn {} has {lines} lines, at most {FUNCTION_LINES}", function.name);
            (lines > FUNCTION_LINES).then(|| finding(source, function.range.start, "function length", what()))
        })
        .collect()
}

pub fn functions_are_flat(source: &Source) -> Vec<Finding> {
    let functions = source.functions().into_iter().filter(|function| !source.is_test(function.range.start));
    functions
        .filter_map(|function| {
            let (depth, at) = deepest(&source.code, function.body.start, function.body.end);
            let what = || format!("fn {} nests {depth} blocks deep, at most {NESTING}", function.name);
            (depth > NESTING).then(|| finding(source, at, "nesting", what()))
        })
        .collect()
}

/// How deep blocks lie in each other inside the body, and where the deepest begins.
fn deepest(code: &str, open: usize, end: usize) -> (usize, usize) {
    let mut braces = Vec::new();
    let mut most = (0, open);
    for (offset, byte) in code.as_bytes()[open + 1..end - 1].iter().enumerate() {
        let at = open + 1 + offset;
        match byte {
            b'{' => {
                braces.push(is_block(code, at));
                let depth = braces.iter().filter(|block| **block).count();
                if depth > most.0 {
                    most = (depth, at);
                }
            }
            b'}' => {
                braces.pop();
            }
            _ => {}
        }
    }
    most
}

/// A brace that opens a block, and not a struct's literal or pattern (those follow a type's name).
fn is_block(code: &str, at: usize) -> bool {
    let before = code[..at].trim_end();
    let start = before.rfind([';', '{', '}', ',', '(', ')', '|']).map_or(0, |found| found + 1);
    let phrase = &before[start..];
    let controls = ["if", "while", "for", "match", "else", "loop", "unsafe", "async", "fn", "impl"];
    if controls.iter().any(|word| !words(phrase, word).is_empty()) {
        return true;
    }
    let last = phrase.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
    !last.starts_with(char::is_uppercase) && !phrase.trim_end().ends_with("Self")
}

pub fn structs_have_few_bools(source: &Source) -> Vec<Finding> {
    let structs = source.structs().into_iter().filter(|(_, fields)| !source.is_test(fields.start));
    structs
        .filter_map(|(name, fields)| {
            let body = &source.code[fields.clone()];
            let bools = words(body, "bool").into_iter().filter(|at| {
                let before = body[..*at].trim_end();
                (before.ends_with(':') && !before.ends_with("::")) || before.ends_with(['(', ','])
            });
            let bools = bools.count();
            let what = || format!("struct {name} has {bools} bool fields, at most {BOOLS}; an enum says more");
            (bools > BOOLS).then(|| finding(source, fields.start, "bool fields", what()))
        })
        .collect()
}

pub fn has_no_statics(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for at in source.words_without_tests("static") {
        if !source.code[..at].ends_with('\'') {
            found.push(finding(source, at, "no statics", "state has an owner, who hands it on"));
        }
    }
    for word in ["lazy_static", "LazyLock", "thread_local"] {
        found.extend(
            source
                .words_without_tests(word)
                .into_iter()
                .map(|at| finding(source, at, "no statics", format!("{word} hides one"))),
        );
    }
    found
}

pub fn has_no_shortcuts(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for at in source.words_without_tests(".unwrap()") {
        found.push(finding(source, at, "no unwrap", "say what was expected, or return the error"));
    }
    for word in ["todo!", "unimplemented!", "dbg!"] {
        found.extend(source.words(word).into_iter().map(|at| finding(source, at, "no stubs", word)));
    }
    for at in source.words("#[ignore") {
        found.push(finding(source, at, "no ignored tests", "a test runs, or it is no test"));
    }
    for marker in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")] {
        found.extend(
            words(&source.text, marker)
                .into_iter()
                .map(|at| finding(source, at, "no stubs", format!("a comment says {marker}"))),
        );
    }
    found
}

/// Tests wait for a condition, never for a time.
pub fn does_not_sleep(source: &Source) -> Vec<Finding> {
    // Waiting for a condition is asking again after a pause; this is the one place that does.
    if source.path == "tests/it/harness/wait.rs" {
        return Vec::new();
    }
    let slept = source.words("sleep").into_iter().filter(|at| source.code[at + 5..].starts_with('('));
    slept.map(|at| finding(source, at, "no sleep", "wait for the condition instead")).collect()
}

/// A path of the machine that this was written on.
pub fn names_no_machine(path: &str, text: &str) -> Vec<Finding> {
    let paths = [concat!("/wo", "rk/"), concat!("/tmp/", "pgw"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let places = paths.iter().flat_map(|wrong| text.match_indices(wrong));
    places
        .filter(|(at, _)| *at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric())
        .map(|(at, wrong)| Finding {
            path: path.to_owned(),
            line: text[..at].matches('\n').count() + 1,
            rule: "no machine's paths",
            what: wrong.to_owned(),
        })
        .collect()
}

const FILE_NAMES: [&str; 10] =
    ["util", "utils", "common", "core", "types", "manager", "managers", "helper", "helpers", "misc"];
const TYPE_ENDS: [&str; 5] = ["Manager", "Helper", "Context", "Info", "Data"];
/// Names of messages and of the standard library, not ours.
const TYPE_EXCEPTIONS: [&str; 3] = ["CopyData", "BackendKeyData", "PhantomData"];

pub fn names_say_something(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let parts = source.path.trim_end_matches(".rs").split('/');
    if let Some(part) = parts.into_iter().find(|part| FILE_NAMES.contains(part)) {
        found.push(finding(source, 0, "names", format!("a file or folder \"{part}\" is a drawer, not a noun")));
    }
    for at in source.words("fn") {
        let name = ident_at(&source.code, at + 2).unwrap_or_default();
        if name.starts_with("get_") || name.ends_with("_impl") {
            found.push(finding(source, at, "names", format!("fn {name}: say what it answers, without get_ and _impl")));
        }
    }
    for keyword in ["struct", "enum", "trait", "type"] {
        for at in source.words(keyword) {
            let name = ident_at(&source.code, at + keyword.len()).unwrap_or_default();
            if TYPE_ENDS.iter().any(|end| name.ends_with(end)) && !TYPE_EXCEPTIONS.contains(&name.as_str()) {
                found.push(finding(source, at, "names", format!("{keyword} {name}: name the thing itself")));
            }
        }
    }
    found
}

pub fn is_pure(source: &Source) -> bool {
    source.text.starts_with("//! Pure:")
}

pub fn keeps_its_purity(source: &Source) -> Vec<Finding> {
    if !is_pure(source) {
        return Vec::new();
    }
    // Addresses are values; sockets are not.
    let banned = [
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "ToSocketAddrs",
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "std::io",
        "tokio",
        "tokio_postgres",
        "Instant::now",
        "SystemTime",
        ".await",
        "async",
        "rand",
        "getrandom",
        "thread::spawn",
        "elapsed()",
    ];
    let found = banned.iter().flat_map(|word| source.words_without_tests(word).into_iter().map(move |at| (at, *word)));
    found.map(|(at, word)| finding(source, at, "purity", format!("{word} in a file that says //! Pure:"))).collect()
}

/// Who may import whom (house.md, with the notes in src/lib.rs). `*` is everything.
const ARROWS: [(&str, &[&str]); 18] = [
    ("main", &["cli"]),
    // explain and check show what the deciding parts say, so they call them as the proxy would.
    ("cli", &["*"]),
    ("proxy", &["*"]),
    // Shared by everyone below: the sections' own enums (Consistency) live with what they mean.
    ("config", &["sql"]),
    ("protocol", &[]),
    ("metrics", &[]),
    ("stream", &[]),
    // A worker's one coarse timer, for whoever waits on that worker.
    ("timers", &[]),
    ("tls", &["config", "stream"]),
    ("listener", &["worker", "stream", "config", "metrics"]),
    // The session's entry is handed to the worker as a function, so the arrow to session is no import.
    ("worker", &["stream", "sql", "cluster", "config", "metrics", "timers"]),
    (
        "session",
        &[
            "sql", "routing", "pool", "protocol", "stream", "auth", "cluster", "catalog", "metrics", "tls", "config",
            "worker", "timers",
        ],
    ),
    // A checkout belongs to a worker: its idle stack and its reactor.
    ("pool", &["stream", "protocol", "auth", "cluster", "tls", "config", "metrics", "worker", "timers"]),
    ("routing", &["sql", "cluster", "config"]),
    ("sql", &["catalog"]),
    ("cluster", &["protocol", "config", "tls"]),
    ("catalog", &["protocol", "config", "tls", "cluster"]),
    ("auth", &["protocol", "config", "tls", "cluster", "stream"]),
];

/// admin reads what the others publish.
const PUBLISHED: [&str; 8] = ["cluster", "metrics", "config", "pool", "catalog", "routing", "sql", "session"];

/// What session's pure files may see.
const FOR_PURE_SESSION: [&str; 6] = ["session", "protocol", "sql", "routing", "cluster", "config"];

/// The top-level module of a file below src/.
pub fn module(path: &str) -> &str {
    let inside = path.trim_start_matches("src/");
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// The top-level modules that a file's code names, outside of tests.
pub fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for start in ["crate::", "pgweir::"] {
        for at in source.words_without_tests(start) {
            let next = at + start.len();
            if source.code[next..].starts_with('{') {
                let end = closing(&source.code, next).unwrap_or(next);
                found.extend(group(&source.code[next + 1..end]).into_iter().map(|name| (at, name)));
            } else {
                found.extend(ident_at(&source.code, next).map(|name| (at, name)));
            }
        }
    }
    found
}

/// The first names of `a, b::c, d::{e, f}`.
fn group(inside: &str) -> Vec<String> {
    let mut depth = 0;
    let parts = inside.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts.filter_map(|part| ident_at(part, 0)).collect()
}

pub fn follows_the_arrows(source: &Source, modules: &[String]) -> Vec<Finding> {
    let own = module(&source.path);
    if own == "lib" {
        return Vec::new();
    }
    let allowed: &[&str] = match ARROWS.iter().find(|(from, _)| *from == own) {
        Some((_, to)) => to,
        None if own == "admin" => &PUBLISHED,
        None => {
            return vec![finding(
                source,
                0,
                "arrows",
                format!("{own} is no room of the house; see tests/tidy/rules.rs"),
            )];
        }
    };
    let imported = imports(source).into_iter().filter(|(_, to)| to != own && modules.contains(to));
    let mut found = Vec::new();
    for (at, to) in imported {
        if !allowed.contains(&"*") && !allowed.contains(&to.as_str()) {
            found.push(finding(source, at, "arrows", format!("{own} may not import {to}")));
        }
        if own == "session"
            && is_pure(source)
            && !FOR_PURE_SESSION.contains(&to.as_str())
            && !is_plain_state(source, at)
        {
            found.push(finding(source, at, "arrows", format!("a pure file of session may not import {to}")));
        }
        // The whole configuration is for those who assemble; all others get their section by value.
        if to == "config" && !["cli", "proxy", "admin"].contains(&own) && names_whole_config(source, at) {
            found.push(finding(source, at, "arrows", format!("{own} sees the whole Config instead of its section")));
        }
    }
    found
}

/// Pure data that pure files of session may see: what a server connection holds, and the catalog's snapshot.
fn is_plain_state(source: &Source, at: usize) -> bool {
    let rest = &source.code[at..];
    ["crate::pool::state", "crate::pool::sync", "crate::catalog::Catalog"].iter().any(|plain| rest.starts_with(plain))
}

fn names_whole_config(source: &Source, at: usize) -> bool {
    let rest = &source.code[at..];
    let statement = &rest[..rest.find(';').unwrap_or(rest.len())];
    statement.contains("config::") && !words(statement, "Config").is_empty()
}

/// Pairs of modules that import each other.
pub fn both_ways(sources: &[Source], modules: &[String]) -> Vec<String> {
    let mut arrows = Vec::new();
    for source in sources {
        let own = module(&source.path).to_owned();
        let targets = imports(source).into_iter().map(|(_, to)| to);
        arrows.extend(targets.filter(|to| *to != own && modules.contains(to)).map(|to| (own.clone(), to)));
    }
    arrows.sort();
    arrows.dedup();
    let back = |(from, to): &&(String, String)| from < to && arrows.contains(&(to.clone(), from.clone()));
    arrows.iter().filter(back).map(|(from, to)| format!("{from} and {to} import each other")).collect()
}
