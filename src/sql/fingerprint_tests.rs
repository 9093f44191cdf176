//! Tables for the lexer: what it writes down, what it declines, and that it never hides what PostgreSQL would run.

use super::*;

fn text(sql: &str) -> Result<String, Odd> {
    let mut out = Vec::new();
    normalize(sql.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).expect("test texts are UTF-8").replace('\x01', "?").replace('\x02', "''"))
}

fn check(sql: &str, expect: &str) {
    assert_eq!(text(sql).as_deref(), Ok(expect), "{sql}");
}

#[test]
fn literals_comments_and_space_go_away() {
    check(
        "SELECT abalance FROM pgbench_accounts WHERE aid = 42;",
        "SELECT abalance FROM pgbench_accounts WHERE aid = ?;",
    );
    check("SELECT  'it''s'\n, 1.5e-3 -- end", "SELECT '' , ?");
    check("SELECT/* a /* nested */ b */1", "SELECT ?");
    check("SELECT a$b$c, $1, \"x''y\" FROM t1", "SELECT a$b$c, $1, \"x''y\" FROM t1");
    check("SELECT 1@--x\n2", "SELECT ?@ ?");
    check("SELECT 3*/*x*/4", "SELECT ?* ?");
}

#[test]
fn a_literal_never_hides_the_text_after_it() {
    check("SELECT 'a\\' ; INSERT INTO pt VALUES(1) --'", "SELECT '' ; INSERT INTO pt VALUES(?)");
    check("SELECT E'a\\' ; INSERT' ; DELETE FROM t", "SELECT \x03 ; DELETE FROM t");
    check("SELECT E'a'\n'b\\'c' ; DELETE FROM t --'", "SELECT \x03 ; DELETE FROM t");
    check("SELECT E'a' 'b\\' ; DELETE FROM t --'", "SELECT \x03 '' ; DELETE FROM t");
    check("SELECT $x$; DELETE FROM t;$y$ $x$; SELECT 1", "SELECT \x0f; SELECT ?");
    check("SELECT fe'x' ; DELETE FROM t", "SELECT fe'' ; DELETE FROM t");
    check("SELECT U&'\\0041' ; DELETE FROM t", "SELECT \x04 ; DELETE FROM t");
    check("SELECT U&\"d\\0061t\" FROM t", "SELECT U&\"d\\0061t\" FROM t");
    check("SELECT b'01', x'ff', n'a'", "SELECT \x05, \x06, \x0e");
}

#[test]
fn what_versions_cut_differently_is_declined() {
    for sql in [
        "SELECT 0x1f",
        "SELECT 1_000",
        "SELECT 12abc",
        "SELECT 1..2",
        "SELECT 'open",
        "SELECT \"open",
        "SELECT /* open",
        "SELECT $a",
        "SELECT\u{b}1",
        "SELECT \u{1}",
    ] {
        assert_eq!(text(sql), Err(Odd), "{sql}");
    }
}

#[test]
fn kinds_of_literals_stay_apart() {
    let all = [
        "SELECT 1",
        "SELECT '1'",
        "SELECT E'1'",
        "SELECT B'1'",
        "SELECT X'1'",
        "SELECT $$1$$",
        "SELECT U&'1'",
        "SELECT $1",
    ];
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            assert_ne!(text(a), text(b));
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 4000, failure_persistence: None, ..Default::default() })]

    /// The parser's own scanner is the oracle: outside of literals and comments, both see the same bytes.
    #[test]
    fn agrees_with_the_scanner_of_postgresql(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "'", "''", "\"", "\\", "$", "$$", "$a$", "$1", "a", "E'", "e", "U&'", "U&\"", "B'", "x'", "--", "/*", "*/", "\n", " ", ";",
            "1", "1.5", "1e3", ".", "+", "@", "/", "*", "SELECT", "delete", "é", "(", ")",
        ]), 0..24),
    ) {
        let sql: String = pieces.concat();
        let mut ours = Vec::new();
        if normalize(sql.as_bytes(), &mut ours).is_ok()
            && let Some(theirs) = super::super::parse::tokens_without_literals(&sql)
        {
            let ours: Vec<u8> = ours.into_iter().filter(|b| *b >= 0x10 && *b != b' ').collect();
            // Spaces inside quoted names are kept by both, those between tokens by neither.
            proptest::prop_assert_eq!(String::from_utf8_lossy(&ours), theirs.replace(' ', ""), "{}", sql);
        }
    }
}
