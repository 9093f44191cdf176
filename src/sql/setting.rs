//! Pure: settings as statements name them: which ones every node answers alike, and what value a SET gives.
//! `statement` and `names` call it; it never knows a session's values.

use super::names;
use super::parse::{Tree, node};

/// Settings that the proxy mirrors on every server connection and that the nodes are compared by when they join, so
/// that a replica answers what the primary would. Everything else may differ in each node's postgresql.conf.
const ALIKE: &[&str] = &[
    "application_name",
    "array_nulls",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_text_search_config",
    "escape_string_warning",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "integer_datetimes",
    "intervalstyle",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "quote_all_identifiers",
    "row_security",
    "search_path",
    "server_encoding",
    "session_authorization",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transform_null_equals",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// Settings whose list items PostgreSQL quotes as identifiers when it puts them together (GUC_LIST_QUOTE).
const QUOTED_LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// SHOW and current_setting() of this one are answered alike by every node.
pub fn is_alike_everywhere(name: &str) -> bool {
    ALIKE.binary_search(&name.to_ascii_lowercase().as_str()).is_ok()
}

/// A policy or view may read such a setting: one that nodes have alike, or a custom one, which only sessions set.
pub fn is_alike_or_custom(name: &str) -> bool {
    is_alike_everywhere(name) || name.contains('.')
}

/// The value of `SET name TO args` as `set_config` would take it (PostgreSQL's flatten_set_variable_args); `None` if
/// the arguments are no plain literals.
pub fn value(name: &str, args: &[node::Node]) -> Option<String> {
    let quoted = QUOTED_LISTS.contains(&name);
    let items: Option<Vec<String>> = args.iter().map(|arg| item(arg, quoted)).collect();
    items.filter(|items| !items.is_empty()).map(|items| items.join(", "))
}

fn item(arg: &node::Node, quoted: bool) -> Option<String> {
    use node::a_const::Val;
    let Tree::AConst(constant) = arg.node.as_ref()? else { return None };
    Some(match constant.val.as_ref()? {
        Val::Ival(i) => i.ival.to_string(),
        Val::Fval(f) => f.fval.clone(),
        Val::Sval(s) if quoted => quote_identifier(&s.sval),
        Val::Sval(s) => s.sval.clone(),
        Val::Boolval(b) => (if b.boolval { "true" } else { "false" }).to_owned(),
        Val::Bsval(_) => return None,
    })
}

/// PostgreSQL's quote_identifier().
pub fn quote_identifier(text: &str) -> String {
    let mut bytes = text.bytes();
    let plain = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && !super::keyword::must_be_quoted(text) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The arguments of a plain `set_config(name, value, false)` call, if all three are literals.
pub fn set_config(call: &node::FuncCall) -> Option<SetConfig> {
    let name = names::Name::from_list(&call.funcname)?;
    if name.name != "set_config" || name.schema.is_some_and(|s| s != "pg_catalog") || call.args.len() != 3 {
        return None;
    }
    let setting = names::literal(&call.args[0])?;
    let value = names::literal(&call.args[1])?;
    Some(SetConfig { name: setting.to_ascii_lowercase(), value: value.to_owned(), lasts: lasts(&call.args[2])? })
}

/// A literal set_config call.
#[derive(Debug, PartialEq, Eq)]
pub struct SetConfig {
    pub name: String,
    pub value: String,
    pub lasts: Lasts,
}

/// How long a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    Session,
    Transaction,
}

fn lasts(node: &node::Node) -> Option<Lasts> {
    use node::a_const::Val;
    let mut tree = node.node.as_ref()?;
    if let Tree::TypeCast(cast) = tree {
        tree = cast.arg.as_ref()?.node.as_ref()?;
    }
    let Tree::AConst(constant) = tree else { return None };
    match constant.val.as_ref()? {
        Val::Boolval(b) if b.boolval => Some(Lasts::Transaction),
        Val::Boolval(_) => Some(Lasts::Session),
        Val::Sval(s) if matches!(s.sval.as_str(), "t" | "true") => Some(Lasts::Transaction),
        Val::Sval(s) if matches!(s.sval.as_str(), "f" | "false") => Some(Lasts::Session),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_the_search() {
        assert!(ALIKE.is_sorted());
    }

    #[test]
    fn identifiers_are_quoted_as_postgresql_does() {
        for (text, expect) in [
            ("public", "public"),
            ("$user", "\"$user\""),
            ("Weird", "\"Weird\""),
            ("", "\"\""),
            ("user", "\"user\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quote_identifier(text), expect);
        }
    }
}
