//! Pure: names in a parse tree → answers of the catalog → findings. The walker calls it for each function, operator,
//! type, relation and attribute that a statement names. It knows no statement kinds.

use super::Reason;
use super::findings::Findings;
use super::parse::{Tree, node};
use super::setting;
use crate::catalog::{Answer, AttributeOf, Catalog, Conduct, IsSequence, Writes};

/// A possibly qualified name; only the last two parts can matter within one database.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    pub schema: Option<&'a str>,
    pub name: &'a str,
}

impl<'a> Name<'a> {
    /// From a list of String nodes; `None` if it holds anything else.
    pub fn from_list(list: &'a [node::Node]) -> Option<Name<'a>> {
        let mut parts = list.iter().map(string);
        let name = parts.next_back()??;
        let schema = match parts.next_back() {
            Some(schema) => Some(schema?),
            None => None,
        };
        parts.all(|p| p.is_some()).then_some(Name { schema, name })
    }

    pub fn of_relation(range: &'a node::RangeVar) -> Name<'a> {
        let schema = Some(range.schemaname.as_str()).filter(|s| !s.is_empty());
        Name { schema, name: &range.relname }
    }

    /// Objects of the session's temporary schema are in no snapshot.
    pub fn is_temporary(&self) -> bool {
        self.schema.is_some_and(|s| s == "pg_temp" || s.starts_with("pg_temp_"))
    }
}

pub fn string(node: &node::Node) -> Option<&str> {
    match node.node.as_ref()? {
        Tree::String(s) => Some(&s.sval),
        _ => None,
    }
}

/// The value of a string constant, through casts (`'t'::regclass` names what `'t'` names).
pub fn literal(node: &node::Node) -> Option<&str> {
    let mut tree = node.node.as_ref()?;
    loop {
        match tree {
            Tree::TypeCast(cast) => tree = cast.arg.as_ref()?.node.as_ref()?,
            Tree::AConst(constant) => match constant.val.as_ref()? {
                node::a_const::Val::Sval(s) => return Some(&s.sval),
                _ => return None,
            },
            _ => return None,
        }
    }
}

fn number(node: &node::Node) -> Option<f64> {
    match node.node.as_ref()? {
        Tree::AConst(constant) => match constant.val.as_ref()? {
            node::a_const::Val::Ival(number) => Some(f64::from(number.ival)),
            node::a_const::Val::Fval(number) => number.fval.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

pub fn function(call: &node::FuncCall, catalog: &Catalog, findings: &mut Findings) {
    let Some(name) = Name::from_list(&call.funcname) else {
        findings.forbid(Reason::Unparsed("a function without a name".to_owned()));
        return;
    };
    let arguments = call.args.len() + if call.agg_within_group { call.agg_order.len() } else { 0 };
    let (answer, conduct) = catalog.function(name.schema, name.name, arguments);
    let conduct =
        if answer == Answer::NoCatalog { builtin_conduct(name.name).unwrap_or(Conduct::AUDIT) } else { conduct };
    findings.conduct(if takes_sequence(name.name) { conduct.and(Conduct::SEQUENCE) } else { conduct });
    match answer {
        Answer::Safe if matches!(name.name, "pg_sleep" | "pg_sleep_for" | "pg_sleep_until") => {
            sleep_argument(call, name.name, findings)
        }
        Answer::Safe => {}
        Answer::BySetting => setting_argument(call, name.name, findings),
        Answer::Unsafe(_) if takes_sequence(name.name) => sequence_argument(call, name.name, catalog, findings),
        Answer::Unsafe(_) => findings.forbid(Reason::UnsafeFunction(name.name.to_owned())),
        Answer::Unknown => {
            findings.act(super::Act::Audit);
            findings.forbid(Reason::UnknownFunction(name.name.to_owned()));
        }
        Answer::NoCatalog => findings.forbid(Reason::NoCatalog),
    }
    // The grammar's own JSON_OBJECT(…), which means pg_catalog's only to a server that has it.
    if name.name == "json_object" {
        construct(name.name, catalog, findings);
    }
    // `name(x)` is a cast if no function fits.
    if arguments == 1 {
        let (answer, conduct) = catalog.type_(name.schema, name.name);
        findings.conduct(if answer == Answer::NoCatalog { Conduct::QUIET } else { conduct });
        if let Answer::Unsafe(_) = answer {
            findings.forbid(Reason::UnsafeType(name.name.to_owned()));
        }
    }
}

/// A construct of SQL/JSON in our parser's eyes. To a server older than the construct it is a call of an ordinary
/// function, which a user may have made.
pub fn construct(name: &str, catalog: &Catalog, findings: &mut Findings) {
    if let (Answer::Unsafe(_), conduct) = catalog.any_function(name) {
        findings.conduct(conduct);
        findings.forbid(Reason::UnsafeFunction(name.to_owned()));
    }
}

/// What is known of a function before any snapshot is there.
fn builtin_conduct(name: &str) -> Option<Conduct> {
    crate::catalog::builtin::conduct(name)
}

fn takes_sequence(name: &str) -> bool {
    matches!(name, "nextval" | "setval")
}

fn setting_argument(call: &node::FuncCall, function: &str, findings: &mut Findings) {
    findings.looked_at_literal();
    match call.args.first().and_then(literal) {
        Some(name) if setting::is_alike_everywhere(name) => {}
        Some(name) => findings.forbid(Reason::UnsafeSetting(name.to_owned())),
        None => findings.forbid(Reason::UnsafeFunction(function.to_owned())),
    }
}

/// Who sleeps for long means to be found in pg_stat_activity, to be cancelled or ended by somebody else: at home.
fn sleep_argument(call: &node::FuncCall, function: &str, findings: &mut Findings) {
    findings.looked_at_literal();
    if function != "pg_sleep" || !call.args.first().and_then(number).is_some_and(|seconds| seconds < 1.0) {
        findings.forbid(Reason::SessionState(format!("a long {function}")));
    }
}

/// nextval and setval: a READ ONLY transaction refuses them alike for permanent sequences.
fn sequence_argument(call: &node::FuncCall, function: &str, catalog: &Catalog, findings: &mut Findings) {
    findings.looked_at_literal();
    let named = call.args.first().and_then(literal).and_then(split_relation_literal);
    let refused = named.is_some_and(|(schema, name)| {
        let mut relations = catalog.relations_of(schema, name).peekable();
        relations.peek().is_some() && relations.all(|r| r.sequence == IsSequence::Yes && r.writes == Writes::Refused)
    });
    let reason = Reason::UnsafeFunction(function.to_owned());
    if refused { findings.refuse(reason) } else { findings.forbid(reason) }
}

/// `name` or `schema.name` in plain lower-case letters; anything quoted is left unread.
fn split_relation_literal(text: &str) -> Option<(Option<&str>, &str)> {
    let plain = |s: &str| {
        let mut bytes = s.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    match text.split_once('.') {
        Some((schema, name)) if plain(schema) && plain(name) => Some((Some(schema), name)),
        None if plain(text) => Some((None, text)),
        _ => None,
    }
}

pub fn operator(list: &[node::Node], catalog: &Catalog, findings: &mut Findings) {
    match Name::from_list(list) {
        Some(name) => operator_named(name, catalog, findings),
        None => findings.forbid(Reason::Unparsed("an operator without a name".to_owned())),
    }
}

pub fn operator_named(name: Name<'_>, catalog: &Catalog, findings: &mut Findings) {
    let (answer, conduct) = catalog.operator(name.schema, name.name);
    if answer == Answer::NoCatalog {
        findings.forbid(Reason::NoCatalog);
        return;
    }
    findings.conduct(conduct);
    if answer != Answer::Safe {
        findings.forbid(Reason::UnsafeOperator(name.name.to_owned()));
    }
}

pub fn type_name(type_name: &node::TypeName, catalog: &Catalog, findings: &mut Findings) {
    let name = Name::from_list(&type_name.names).filter(|_| !type_name.pct_type);
    let Some(name) = name else {
        findings.forbid(Reason::UnsafeType("%TYPE".to_owned()));
        return;
    };
    let (answer, conduct) = catalog.type_(name.schema, name.name);
    match answer {
        Answer::NoCatalog => findings.forbid(Reason::NoCatalog),
        Answer::Safe => findings.conduct(conduct),
        _ => {
            findings.conduct(conduct);
            findings.forbid(Reason::UnsafeType(name.name.to_owned()));
        }
    }
}

pub fn relation(name: Name<'_>, catalog: &Catalog, findings: &mut Findings) {
    let (answer, conduct) = catalog.relation(name.schema, name.name);
    match answer {
        Answer::Safe => findings.conduct(conduct),
        Answer::NoCatalog => findings.forbid(Reason::NoCatalog),
        Answer::Unsafe(why) => {
            findings.conduct(conduct);
            findings.forbid(Reason::UnsafeRelation { name: name.name.to_owned(), why: why.to_owned() });
        }
        Answer::Unknown | Answer::BySetting => {
            findings.forbid(Reason::UnknownRelation(name.name.to_owned()));
        }
    }
}

/// `row.name` (manual: "Using Composite Types in Queries"): a column, or a function or cast in a column's clothing.
pub fn attribute(name: &str, of: AttributeOf, catalog: &Catalog, findings: &mut Findings) {
    let (answer, conduct) = catalog.attribute(name, of);
    match answer {
        Answer::Safe => findings.conduct(conduct),
        Answer::NoCatalog => findings.forbid(Reason::NoCatalog),
        Answer::Unknown if of == AttributeOf::Row || catalog.columns.contains(name) => {}
        Answer::Unknown => findings.forbid(Reason::UnknownFunction(name.to_owned())),
        Answer::Unsafe(_) | Answer::BySetting => {
            findings.conduct(conduct);
            findings.forbid(Reason::UnsafeFunction(name.to_owned()));
        }
    }
}
