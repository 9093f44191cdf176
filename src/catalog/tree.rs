//! Pure: PostgreSQL's stored node trees (pg_rewrite, pg_policy, pg_constraint, pg_proc, …) as text → what they refer to.
//! pg_depend is blind for built-in objects, so the trees are read. The analysis calls it; it never judges.

/// What one tree refers to, by object number.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References {
    pub functions: Vec<u32>,
    /// Those of them that are called with constants only.
    pub constant_calls: Vec<u32>,
    pub operators: Vec<u32>,
    pub types: Vec<u32>,
    pub relations: Vec<u32>,
    /// Names of settings that current_setting() is asked for; `None` is one that is no literal.
    pub settings: Vec<Option<String>>,
    /// Row locks, data-modifying WITH, sequence values: never a replica's.
    pub writes: Writes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    #[default]
    No,
    Yes,
}

/// current_setting(text) and current_setting(text, boolean) have had these numbers since 7.3 and 9.6.
const CURRENT_SETTING: [u32; 2] = [2077, 3294];

/// The first number that users' objects can have.
pub const FIRST_USER: u32 = 16384;

/// Reads one tree. Labels look like `:funcid 2077`; a list of numbers like `(o 96 97)`.
pub fn read(tree: &str) -> References {
    let mut found = References::default();
    for (at, _) in tree.match_indices(" :") {
        let rest = &tree[at + 2..];
        let (label, value) = rest.split_once(' ').unwrap_or((rest, ""));
        let value = &value[..value.find(" :").unwrap_or(value.len())];
        field(label, value, rest, &mut found);
    }
    for (kind, label) in [("{FUNCEXPR ", ":funcid "), ("{OPEXPR ", ":opfuncid ")] {
        for (at, _) in tree.match_indices(kind) {
            let call = node(&tree[at..]);
            if !call.contains("{VAR ") {
                found.constant_calls.extend(call.split_once(label).and_then(|(_, rest)| numbers(rest).next()));
            }
        }
    }
    if tree.contains("NEXTVALUEEXPR") || tree.contains("{ROWMARKCLAUSE") {
        found.writes = Writes::Yes;
    }
    found
}

fn field(label: &str, value: &str, rest: &str, found: &mut References) {
    match label {
        "funcid" | "aggfnoid" | "winfnoid" | "opfuncid" | "hashfuncid" | "negfuncid" | "tsmhandler"
        | "startInRangeFunc" | "endInRangeFunc" => {
            for function in numbers(value).filter(|n| *n != 0) {
                found.functions.push(function);
                if CURRENT_SETTING.contains(&function) {
                    found.settings.push(first_text_constant(rest));
                }
            }
        }
        "opno" | "eqop" | "sortop" | "opnos" | "cycle_mark_neop" => {
            found.operators.extend(numbers(value).filter(|n| *n != 0))
        }
        "relid" => found.relations.extend(numbers(value).filter(|n| *n != 0)),
        // 1 is SELECT.
        "commandType" if numbers(value).any(|n| n != 1) => found.writes = Writes::Yes,
        "hasForUpdate" | "hasModifyingCTE" if value.starts_with("true") => found.writes = Writes::Yes,
        _ if label.contains("type") => found.types.extend(numbers(value).filter(|n| *n >= FIRST_USER)),
        _ => {}
    }
}

/// The node that begins here, to its closing brace. A brace within a name is escaped by a backslash.
fn node(text: &str) -> &str {
    let mut depth = 0;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return &text[..=at];
                }
            }
            _ => {}
        }
    }
    text
}

/// The numbers of a value, up to the next node.
fn numbers(value: &str) -> impl Iterator<Item = u32> {
    let end = value.find(['{', '}']).unwrap_or(value.len());
    value[..end].split([' ', '(', ')', '\n', 'o', 'i']).filter_map(|n| n.parse().ok())
}

/// The first argument of a call, if it is a constant of type text. A varlena's bytes stand as signed numbers between
/// brackets, its header first: `:constvalue 12 [ 48 0 0 0 84 105 … ]`.
fn first_text_constant(call: &str) -> Option<String> {
    let arguments = call.split_once(":args (")?.1;
    let constant = arguments.strip_prefix("{CONST ")?;
    let constant = &constant[..constant.find('}')?];
    if !constant.contains(":consttype 25 ") {
        return None;
    }
    let bytes = constant.split_once(":constvalue ")?.1.split_once('[')?.1.split_once(']')?.0;
    let bytes: Option<Vec<u8>> =
        bytes.split_whitespace().map(|b| b.parse::<i16>().ok().map(|b| (b & 0xff) as u8)).collect();
    String::from_utf8(bytes?.get(4..)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_operators_types_and_relations_are_found() {
        let tree = "({QUERY :commandType 1 :hasForUpdate false :rtable ({RTE :rtekind 0 :relid 16500 :relkind r}) :targetList \
                    ({TARGETENTRY :expr {OPEXPR :opno 96 :opfuncid 65 :opresulttype 16 :args ({FUNCEXPR :funcid 3810 :funcresulttype 16})}}\
                    {COERCETODOMAIN :arg {CONST :consttype 25} :resulttype 17000 :resulttypmod -1}) :sortClause \
                    ({SORTGROUPCLAUSE :tleSortGroupRef 1 :eqop 96 :sortop 97})})";
        let found = read(tree);
        assert_eq!(found.functions, [65, 3810]);
        assert_eq!(found.operators, [96, 96, 97]);
        assert_eq!(found.relations, [16500]);
        assert_eq!(found.types, [17000]);
        assert_eq!(found.writes, Writes::No);
    }

    #[test]
    fn calls_with_constants_only_are_told_apart() {
        let inner = "{FUNCEXPR :funcid 17001 :funcresulttype 23 :args ({CONST :consttype 23 :location 1})}";
        let outer = format!("{{OPEXPR :opno 96 :args ({{FUNCEXPR :funcid 17000 :args ({{VAR :varno 1}} {inner})}})}}");
        let found = read(&outer);
        assert_eq!((found.functions, found.constant_calls), (vec![17000, 17001], vec![17001]));
    }

    #[test]
    fn writes_are_seen() {
        assert_eq!(read("{QUERY :hasModifyingCTE true :x 1}").writes, Writes::Yes);
        assert_eq!(read("{QUERY :hasForUpdate true}").writes, Writes::Yes);
    }

    #[test]
    fn the_setting_of_a_call_is_read() {
        let tree = "{OPEXPR :args ({FUNCEXPR :funcid 2077 :funcresulttype 25 :args ({CONST :consttype 25 :consttypmod -1 :constcollid 100 :constlen -1 \
                    :constbyval false :constisnull false :location 1 :constvalue 7 [ 28 0 0 0 97 46 98 ]}) :location 5})}";
        assert_eq!(read(tree).settings, [Some("a.b".to_owned())]);
        assert_eq!(read("{FUNCEXPR :funcid 2077 :args ({VAR :varno 1})}").settings, [None]);
    }
}
