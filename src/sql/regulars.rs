//! Pure: which unnamed statements come so often that they are worth being kept prepared, bounded in bytes. One of them for
//! each worker, beside its verdicts. It also says of a text whether a statement that was prepared earlier, and planned for
//! no value in particular, would answer the same.

use std::collections::{HashMap, HashSet};

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
            Count::Seen(_) if answers_alike(rest, text) => Count::Regular,
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
/// compared with a column leaves nothing to compute, if it is of the column's type or becomes so without fail: one that
/// comes twice may get its type at one place, and be cast at the other.
fn answers_alike(rest: &[u8], text: &[u8]) -> bool {
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
    // Behind the text, its NUL and their count.
    let types = rest.get(text.len() + 3..).unwrap_or_default().as_chunks::<4>().0;
    let types: HashSet<u32> = types.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
    let lasting = Lasting { untyped: types.iter().all(|type_| *type_ == 0) };
    let nodes = tree.nodes();
    let limits = [&select.limit_count, &select.limit_offset];
    let limits = limits.into_iter().flatten().filter_map(|limit| lasting.parameter(limit));
    let compared = nodes.iter().flat_map(|(node, ..)| lasting.compared(*node));
    let parameters: Vec<i32> = limits.chain(compared).collect();
    let strings = nodes.iter().filter(|(node, ..)| is_lasting_string(*node)).count() + texts_put_out(select);
    let numbers: HashSet<i32> = parameters.iter().copied().collect();
    // Every dollar sign must be accounted for: there may be parameters where nobody looked, or a string quoted by two.
    // And so must every quote.
    types.iter().all(|type_| becomes_another_without_fail(*type_))
        && text.matches('$').count() == parameters.len()
        && parameters.len() == numbers.len()
        && text.matches('\'').count() == 2 * strings
}

/// Whether no value of this type of PostgreSQL's own fails where one of another type is asked for: not every bigint is an
/// oid, and not every numeric a float.
fn becomes_another_without_fail(type_: u32) -> bool {
    const INT8: u32 = 20;
    const NUMERIC: u32 = 1700;
    const FIRST_USER: u32 = 16384;
    type_ < FIRST_USER && !matches!(type_, INT8 | NUMERIC)
}

/// How many strings the query puts out as they are: each of type text, whatever is in it.
fn texts_put_out(select: &node::SelectStmt) -> usize {
    // The branches of a UNION agree upon a type.
    if select.op() != node::SetOperation::SetopNone {
        return 0;
    }
    let values = select.target_list.iter().filter_map(|target| match &target.node {
        Some(Tree::ResTarget(target)) => target.val.as_ref(),
        _ => None,
    });
    values.filter(|value| string(value).is_some()).count()
}

/// A string with a type that makes the same of it each time, of a name that nothing else has (the grammar's own ones).
fn is_lasting_string(node: NodeRef<'_>) -> bool {
    let NodeRef::TypeCast(cast) = node else {
        return false;
    };
    let (Some(text), Some(type_)) = (cast.arg.as_ref().and_then(|arg| string(arg)), builtin_type(cast)) else {
        return false;
    };
    match type_ {
        "bool" | "int2" | "int4" | "int8" | "float4" | "float8" | "numeric" | "varchar" => true,
        // intervalstyle says what a leading minus is the sign of.
        "interval" => !text.contains('-'),
        // The year first is read alike under any datestyle.
        "timestamp" => {
            let is_date = |c: char| c.is_ascii_digit() || matches!(c, '-' | ':' | ' ');
            text.chars().all(is_date) && text.find('-') == Some(4)
        }
        _ => false,
    }
}

fn string(node: &node::Node) -> Option<&str> {
    match &node.node {
        Some(Tree::AConst(_)) => super::names::literal(node),
        _ => None,
    }
}

/// The type of PostgreSQL's own that this casts to; `None` if a length comes with it, which costs a computation.
fn builtin_type(cast: &node::TypeCast) -> Option<&str> {
    let name = cast.type_name.as_ref()?;
    match name.names.as_slice() {
        [schema, type_] if name.typmods.is_empty() && super::names::string(schema) == Some("pg_catalog") => {
            super::names::string(type_)
        }
        _ => None,
    }
}

/// What a parameter may look like.
struct Lasting {
    /// The client left all types open: then `$1::int` is how the statement itself says one, and casts nothing.
    untyped: bool,
}

impl Lasting {
    /// The parameters that are compared with a column here.
    fn compared(&self, node: NodeRef<'_>) -> Vec<i32> {
        use node::AExprKind as Kind;
        let NodeRef::AExpr(expression) = node else {
            return Vec::new();
        };
        let (Some(left), Some(right)) = (&expression.lexpr, &expression.rexpr) else {
            return Vec::new();
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
            (true, true, false) => self.parameters(right),
            (true, false, true) => self.parameters(left),
            _ => Vec::new(),
        }
    }

    /// Of a parameter or a list of them.
    fn parameters(&self, node: &node::Node) -> Vec<i32> {
        match &node.node {
            Some(Tree::List(list)) => list.items.iter().filter_map(|item| self.parameter(item)).collect(),
            _ => self.parameter(node).into_iter().collect(),
        }
    }

    /// The number of a parameter.
    fn parameter(&self, node: &node::Node) -> Option<i32> {
        const KNOWN: [&str; 8] = ["bool", "int2", "int4", "float4", "float8", "varchar", "timestamp", "timestamptz"];
        let cast = match node.node.as_ref()? {
            Tree::ParamRef(parameter) => return Some(parameter.number),
            Tree::TypeCast(cast) if self.untyped && KNOWN.contains(&builtin_type(cast)?) => cast,
            _ => return None,
        };
        match cast.arg.as_ref()?.node.as_ref()? {
            Tree::ParamRef(parameter) => Some(parameter.number),
            _ => None,
        }
    }
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
            ("SELECT a FROM t WHERE a = $1::int AND b IN ($2::VARCHAR, $3::VARCHAR) AND c = ANY ($4::int[])", true),
            ("SELECT a FROM t WHERE a = $1::varchar(3)", false),
            ("SELECT a FROM t WHERE a = $1::numeric", false),
            ("SELECT a FROM t WHERE a = $1::text", false),
            ("SELECT a FROM t WHERE a = $1::int::float", false),
            ("SELECT a FROM t WHERE a = $1 OR b = $1", false),
            ("SELECT a FROM t WHERE a = $1 AND b = $1::int", false),
            ("SELECT a, 'today' AS b FROM t WHERE a = $1", true),
            ("SELECT 'today' UNION SELECT d FROM t", false),
            ("SELECT 'it''s'", false),
            ("SELECT (SELECT 'x')", false),
            ("SELECT a FROM t WHERE b = 'x'::varchar AND d > now() - interval '7 days'", true),
            ("SELECT a FROM t WHERE d > now() - interval '-1 1:00'", false),
            ("SELECT a FROM t WHERE d > timestamp '2024-01-02 03:04'", true),
            ("SELECT a FROM t WHERE d > timestamp '01-02-2024'", false),
            ("SELECT a FROM t WHERE d > timestamp 'today'", false),
            ("SELECT a FROM t WHERE d > timestamptz '2024-01-02'", false),
            ("SELECT a FROM t WHERE d > '2024-01-02'::mine", false),
            ("SELECT a FROM t /* ' */ WHERE b = 'x'::varchar /* ' */", false),
            ("SELECT a FROM t WHERE b = 'x'", false),
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
            assert_eq!(alike(text, &[]), expect, "{text}");
        }
    }

    fn alike(text: &str, types: &[u32]) -> bool {
        let types = types.iter().flat_map(|type_| type_.to_be_bytes());
        let count = u16::try_from(types.clone().count() / 4).unwrap();
        let rest: Vec<u8> = text.bytes().chain([0]).chain(count.to_be_bytes()).chain(types).collect();
        answers_alike(&rest, text.as_bytes())
    }

    #[test]
    fn types_that_the_client_declares() {
        for (text, types, expect) in [
            ("SELECT a FROM t WHERE a = $1", &[23][..], true),
            ("SELECT a FROM t WHERE a = $1 AND b = $2", &[0, 25], true),
            ("SELECT a FROM t WHERE a = $1", &[1700], false),
            ("SELECT a FROM t WHERE a = $1", &[20], false),
            ("SELECT a FROM t WHERE a = $1", &[16384], false),
            ("SELECT a FROM t WHERE a = $1::int", &[0], true),
            ("SELECT a FROM t WHERE a = $1::int", &[25], false),
        ] {
            assert_eq!(alike(text, types), expect, "{text} {types:?}");
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
