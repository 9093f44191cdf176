//! Pure: which unnamed statements come so often that they are worth being kept prepared, bounded in bytes. One of them for
//! each worker, beside its verdicts. It also says of a text whether a statement that was prepared earlier, and planned for
//! no value in particular, would answer the same.

use std::collections::HashMap;

use super::parse::{self, NodeRef, Tree, node};

/// Of texts counted; the older half goes when the younger has taken half of this.
const BYTES: usize = 1 << 20;
/// What an entry takes besides its text.
const OVERHEAD: usize = 64;
/// A longer text is never one.
const LONGEST: usize = BYTES / 16;

type Map = HashMap<Box<[u8]>, Count, foldhash::fast::RandomState>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Seen(usize),
    Regular,
    /// It came often enough, and must be parsed each time.
    Peculiar,
}

#[derive(Default)]
pub struct Regulars {
    young: Map,
    old: Map,
    /// Of the young.
    bytes: usize,
}

impl Regulars {
    /// Counts a Parse of this `text` with what stands behind it (`rest`), and tells whether there were so many before.
    pub fn is_regular(&mut self, rest: &[u8], text: &[u8], many: usize) -> bool {
        if rest.len() > LONGEST {
            return false;
        }
        if !self.young.contains_key(rest) {
            let count = self.old.remove(rest).unwrap_or(Count::Seen(0));
            self.admit(rest, count);
        }
        let Some(count) = self.young.get_mut(rest) else {
            return false;
        };
        *count = match *count {
            Count::Seen(times) if times < many => Count::Seen(times + 1),
            Count::Seen(_) if answers_alike(text) => Count::Regular,
            Count::Seen(_) => Count::Peculiar,
            known => known,
        };
        *count == Count::Regular
    }

    /// It led to an error, as it may each time.
    pub fn start_over(&mut self, rest: &[u8]) {
        if let Some(count) = self.young.get_mut(rest) {
            *count = Count::Seen(0);
        }
    }

    fn admit(&mut self, rest: &[u8], count: Count) {
        let bytes = rest.len() + OVERHEAD;
        if self.bytes + bytes > BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.young.insert(rest.into(), count);
    }
}

/// Whether a query means at each execution what it meant when it was parsed, and a plan for any values fails where one
/// for the very values would.
///
/// Of a string, a type may make something else each day (`'today'`), or under another setting. And a plan for given values
/// computes what is constant with them beforehand: `1 / $1` fails even where no row asks for it. A parameter that is only
/// compared with a column leaves nothing to compute.
fn answers_alike(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let Ok(parsed) = parse::parse(text) else {
        return false;
    };
    let trees = parsed.statements().unwrap_or_default();
    let [tree @ Tree::SelectStmt(select)] = trees.as_slice() else {
        return false;
    };
    let limits = [&select.limit_count, &select.limit_offset];
    let limits = limits.into_iter().flatten().filter(|limit| is_parameter(limit)).count();
    let compared: usize = tree.nodes().into_iter().map(|(node, ..)| compared(node)).sum();
    // Every dollar sign must be accounted for: there may be parameters where nobody looked, or a string quoted by two.
    !text.contains('\'') && text.matches('$').count() == limits + compared
}

/// How many parameters are compared with a column here.
fn compared(node: NodeRef<'_>) -> usize {
    use node::AExprKind as Kind;
    let NodeRef::AExpr(expression) = node else {
        return 0;
    };
    let (Some(left), Some(right)) = (&expression.lexpr, &expression.rexpr) else {
        return 0;
    };
    let operator = match expression.name.as_slice() {
        [name] => super::names::string(name).unwrap_or_default(),
        _ => "",
    };
    let compares = match expression.kind() {
        Kind::AexprOp => matches!(operator, "=" | "<>" | "<" | ">" | "<=" | ">="),
        Kind::AexprOpAny | Kind::AexprIn => operator == "=",
        Kind::AexprBetween => true,
        _ => false,
    };
    match (compares, is_column(left), is_column(right)) {
        (true, true, false) => parameters(right),
        (true, false, true) => parameters(left),
        _ => 0,
    }
}

/// Of a parameter or a list of them.
fn parameters(node: &node::Node) -> usize {
    match &node.node {
        Some(Tree::List(list)) => list.items.iter().filter(|item| is_parameter(item)).count(),
        _ => usize::from(is_parameter(node)),
    }
}

fn is_parameter(node: &node::Node) -> bool {
    matches!(node.node, Some(Tree::ParamRef(_)))
}

fn is_column(node: &node::Node) -> bool {
    matches!(node.node, Some(Tree::ColumnRef(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_alike() {
        for (text, expect) in [
            ("SELECT abalance FROM accounts WHERE aid = $1;", true),
            ("SELECT 1", true),
            ("SELECT now()", true),
            (
                "SELECT a.* FROM a JOIN b ON a.id = b.id AND b.x = $2 WHERE $1 < a.y ORDER BY a.id LIMIT $3 OFFSET $4",
                true,
            ),
            ("SELECT a FROM t WHERE a IN ($1, $2) AND b = ANY ($3) AND c BETWEEN $4 AND $5", true),
            ("SELECT a FROM t WHERE EXISTS (SELECT FROM u WHERE u.t = t.id AND u.x = $1)", true),
            ("SELECT a FROM t WHERE a = 1 / $1", false),
            ("SELECT a FROM t WHERE a = $1::int", false),
            ("SELECT a FROM t WHERE $1 = $2", false),
            ("SELECT a FROM t WHERE a LIKE $1", false),
            ("SELECT $1", false),
            ("SELECT a FROM t WHERE a IN ($1, 1 / $2)", false),
            ("SELECT a FROM t WHERE d = 'today'", false),
            ("SELECT a FROM t WHERE d = $$today$$", false),
            ("SELECT a FROM f($1) WHERE b = $2", false),
            ("SELECT (SELECT a FROM t LIMIT $1)", false),
            ("SELECT 1; SELECT 2", false),
            ("SHOW work_mem", false),
            ("", false),
        ] {
            assert_eq!(answers_alike(text.as_bytes()), expect, "{text}");
        }
    }

    #[test]
    fn a_text_is_one_after_so_many_times_and_starts_over_after_an_error() {
        let mut regulars = Regulars::default();
        let mut come = |rest: &[u8], start_over: bool| {
            if start_over {
                regulars.start_over(rest);
            }
            regulars.is_regular(rest, &rest[..rest.len() - 3], 2)
        };
        let one = b"SELECT 1\0\0\0";
        assert_eq!([(); 4].map(|()| come(one, false)), [false, false, true, true]);
        assert!(!come(b"SELECT 2\0\0\0", false));
        assert!(!come(one, true));
        assert_eq!([(); 2].map(|()| come(one, false)), [false, true]);
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_comes() {
        let mut regulars = Regulars::default();
        let one = b"SELECT 1\0\0\0";
        for number in 0..100_000 {
            regulars.is_regular(format!("SELECT {number} AS a\0\0\0").as_bytes(), b"", 5);
            if number % 1_000 == 0 {
                regulars.is_regular(one, &one[..8], 5);
            }
        }
        assert!(regulars.young.len() + regulars.old.len() <= BYTES / OVERHEAD);
        assert!(regulars.is_regular(one, &one[..8], 5));
        assert!(!regulars.is_regular(&[b'x'; LONGEST + 1], b"", 0));
    }
}
