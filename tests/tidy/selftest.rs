//! Each rule fails on bad input and passes on good input that looks like it. Without this, a broken scanner would call
//! everything tidy.

use super::rules::{self, Finding};
use super::scan::{Source, blank};

fn source(text: &str) -> Source {
    Source::new("src/pool/mod.rs", text)
}

/// The lines that a rule complains about.
fn lines(rule: fn(&Source) -> Vec<Finding>, text: &str) -> Vec<usize> {
    rule(&source(text)).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn literals_and_comments_are_no_code() {
    let text = "let a = \"x // y\"; // fn b\n/* fn /* c */ d */ let e = r#\"fn \" f\"#; let g = '\"'; let h: &'a str = b\"\\\"fn\";";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    for hidden in ["fn", "x", "y", " c ", " d "] {
        assert!(!code.contains(hidden) || hidden.trim().is_empty(), "{hidden} in {code}");
    }
    for kept in ["let a", "let e", "let g", "let h", "&'a str"] {
        assert!(code.contains(kept), "{kept} missing in {code}");
    }
}

#[test]
fn a_character_that_is_a_quote_does_not_open_a_string() {
    let code = blank("if c == '\"' || c == '\\'' || c == 'ü' { static_call() } // \"");
    assert!(code.contains("{ static_call() }"), "{code}");
}

#[test]
fn a_file_without_its_purpose() {
    assert_eq!(lines(rules::opens_with_its_purpose, "use std::fmt;\n"), [1]);
    assert_eq!(lines(rules::opens_with_its_purpose, "//! x\nfn main() {}\n"), [1]);
    assert!(lines(rules::opens_with_its_purpose, "//! The pools: who gets which server connection.\n").is_empty());
}

#[test]
fn a_long_file_but_not_its_tests() {
    let long = format!("//! Long.\n{}", "fn a() {}\n".repeat(400));
    assert_eq!(lines(rules::is_short, &long), [1]);
    let tests = format!("//! Tests.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn a() {}\n".repeat(400));
    assert!(lines(rules::is_short, &tests).is_empty());
    assert_eq!(source(&tests).lines_without_tests(), 1);
}

#[test]
fn code_after_the_tests_counts() {
    let text = "#[cfg(test)]\nmod tests;\n\nfn late() { x.unwrap(); }\n";
    assert_eq!(lines(rules::has_no_shortcuts, text), [4]);
}

#[test]
fn a_long_function() {
    let long = format!("fn short() {{}}\nfn long(a: [u8; 4]) -> u8 {{\n{}}}\n", "    call();\n".repeat(70));
    assert_eq!(lines(rules::functions_are_short, &long), [2]);
    let fits = format!("fn fits() {{\n{}}}\n", "    call();\n".repeat(68));
    assert!(lines(rules::functions_are_short, &fits).is_empty());
}

#[test]
fn a_deep_function_but_not_a_deep_literal() {
    let deep = "fn f() {\n if a {\n for b in c {\n match d {\n E => {\n while g {\n if h { i() } } } } } } }\n";
    assert_eq!(lines(rules::functions_are_flat, deep), [7]);
    let literal = "fn f() -> A {\n A { b: B { c: C { d: D { e: E { f: F { g: 1 } } } } } }\n}\n";
    assert!(lines(rules::functions_are_flat, literal).is_empty());
    let type_in_condition = "fn f() {\n if a == Phase::Idle {\n if a == B { if a == C { if a == D { if a == E { if a == F { g() } } } } } } }\n";
    assert_eq!(lines(rules::functions_are_flat, type_in_condition), [3]);
}

#[test]
fn a_struct_of_flags() {
    let text = "struct Few { a: bool, b: bool, c: Option<bool>, d: fn() -> bool }\nstruct Many {\n a: bool,\n b: bool,\n c: bool,\n}\nstruct Tuple(bool, bool, bool);\n";
    assert_eq!(lines(rules::structs_have_few_bools, text), [2, 7]);
}

#[test]
fn a_static_but_not_a_lifetime() {
    let text = "const A: &'static str = \"static B\";\nstatic C: u8 = 1;\nfn f<T: 'static>() { static mut D: u8 = 1; }\nuse std::sync::LazyLock;\n";
    assert_eq!(lines(rules::has_no_statics, text), [2, 3, 4]);
}

#[test]
fn shortcuts() {
    let text = "fn f() {\n a.unwrap();\n b.unwrap_or(c);\n todo!();\n dbg!(d);\n e.expect(\"why\");\n}\n#[ignore]\nfn g() { unimplemented!() }\n#[cfg(test)]\nmod tests { fn h() { i.unwrap(); } }\n";
    let mut found = lines(rules::has_no_shortcuts, text);
    found.sort_unstable();
    assert_eq!(found, [2, 4, 5, 8, 9]);
    assert_eq!(lines(rules::has_no_shortcuts, concat!("// TO", "DO: later\n")), [1]);
}

#[test]
fn sleeping() {
    let text =
        "fn f() {\n thread::sleep(a);\n sql(\"select pg_sleep(1)\");\n tokio::time::sleep(b).await;\n sleeper(c);\n}\n";
    assert_eq!(lines(rules::does_not_sleep, text), [2, 4]);
}

#[test]
fn paths_of_a_machine() {
    let text = concat!("a\nb = \"/ro", "ot/x\"\nc = \"/var/lib\"\nnetwo", "rk/d\n/wo", "rk/e\n");
    let found: Vec<_> =
        rules::names_no_machine("config/x.toml", text).into_iter().map(|finding| finding.line).collect();
    assert_eq!(found, [2, 5]);
}

#[test]
fn empty_names() {
    let text = "fn get_a() {}\nfn target() {}\nfn b_impl() {}\nstruct PoolManager;\nenum Contextual { A }\ntrait SessionContext {}\nstruct CopyData;\nstruct PoolInfo;\n";
    let mut found = lines(rules::names_say_something, text);
    found.sort_unstable();
    assert_eq!(found, [1, 3, 4, 6, 8]);
    assert_eq!(rules::names_say_something(&Source::new("src/pool/util.rs", "//! x\n")).len(), 1);
    assert_eq!(rules::names_say_something(&Source::new("src/common/pool.rs", "//! x\n")).len(), 1);
}

#[test]
fn purity_is_claimed_and_kept() {
    let body = "use std::time::Instant;\nfn f() { Instant::now(); }\nasync fn g() {}\nfn h() { tokio::spawn(i); }\n#[cfg(test)]\nmod tests { fn j() { Instant::now(); } }\n";
    assert!(lines(rules::keeps_its_purity, &format!("//! Has a clock.\n{body}")).is_empty());
    let mut found = lines(rules::keeps_its_purity, &format!("//! Pure: has no clock.\n{body}"));
    found.sort_unstable();
    assert_eq!(found, [3, 4, 5]);
}

fn modules() -> Vec<String> {
    ["sql", "session", "pool", "catalog", "metrics", "config", "routing", "stream", "cluster"]
        .map(str::to_owned)
        .to_vec()
}

fn arrows(path: &str, text: &str) -> Vec<String> {
    let findings = rules::follows_the_arrows(&Source::new(path, text), &modules());
    findings.into_iter().map(|finding| finding.what).collect()
}

#[test]
fn arrows_against_the_list() {
    assert_eq!(arrows("src/sql/cache.rs", "use crate::session::Session;\n"), ["sql may not import session"]);
    assert_eq!(arrows("src/sql/cache.rs", "use crate::{catalog::{Catalog, x}, pool};\n"), ["sql may not import pool"]);
    assert_eq!(arrows("src/metrics/mod.rs", "fn f(a: crate::sql::Reason) {}\n"), ["metrics may not import sql"]);
    assert!(arrows("src/sql/cache.rs", "use crate::catalog::Catalog;\nuse crate::sql::Verdict;\n").is_empty());
    assert!(
        arrows("src/sql/cache.rs", "// crate::pool\n#[cfg(test)]\nmod tests { use crate::pool::Pool; }\n").is_empty()
    );
    assert_eq!(arrows("src/attic/mod.rs", "//! x\n").len(), 1);
}

#[test]
fn arrows_of_pure_files_and_of_the_whole_config() {
    assert!(arrows("src/session/mod.rs", "//! Loops.\nuse crate::pool::Pool;\n").is_empty());
    assert_eq!(arrows("src/session/machine.rs", "//! Pure: decides.\nuse crate::pool::Pool;\n").len(), 1);
    assert!(arrows("src/pool/mod.rs", "use crate::config::PoolConfig;\n").is_empty());
    assert_eq!(arrows("src/pool/mod.rs", "use crate::config::{Config, PoolConfig};\n").len(), 1);
    assert_eq!(arrows("src/pool/mod.rs", "fn f(config: &crate::config::Config) {}\n").len(), 1);
}

#[test]
fn arrows_both_ways() {
    let a = Source::new("src/sql/mod.rs", "use crate::catalog::Catalog;\n");
    let b = Source::new("src/catalog/mod.rs", "use crate::sql::Verdict;\n");
    let c = Source::new("src/pool/mod.rs", "use crate::catalog::Catalog;\n");
    assert_eq!(rules::both_ways(&[a, b, c], &modules()), ["catalog and sql import each other"]);
}
