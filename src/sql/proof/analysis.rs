//! Pure: rows of the system catalogs → a `Catalog`. Builds the graph of what uses what, lets unsafety and conduct flow,
//! and files the result by name. `fixpoint` calls it, each time with more functions proven; anything that is not known
//! to be safe is unsafe.

use std::collections::{HashMap, HashSet};

use super::body;
use crate::catalog::builtin::{self, Builtins};
use crate::catalog::graph::{Flow, Graph, Object};
use crate::catalog::query::{FunctionRow, OperatorRow, RelationRow, Rows, TreeRow, TypeRow};
use crate::catalog::tree::{self, FIRST_USER};
use crate::catalog::{Catalog, Conduct, Function, IsSequence, Named, Relation, Safety, TakesRow, Writes};
use crate::sql::setting;

/// The built-in functions behind a range type's constructors.
const RANGE_CONSTRUCTORS: [&str; 5] = [
    "range_constructor2",
    "range_constructor3",
    "multirange_constructor0",
    "multirange_constructor1",
    "multirange_constructor2",
];

/// What is looked up again and again while the graph is built.
pub struct Analysis<'a> {
    rows: &'a Rows,
    builtins: Builtins,
    read_functions: &'a [String],
    trees: Vec<(&'a TreeRow, tree::References)>,
    bodies: HashMap<u32, body::Body>,
    functions: HashMap<u32, &'a FunctionRow>,
    by_name: HashMap<String, Vec<Object>>,
    /// The functions that an operator may run.
    operators: HashMap<u32, Vec<u32>>,
}

impl<'a> Analysis<'a> {
    pub fn new(rows: &'a Rows, read_functions: &'a [String]) -> Self {
        let user_sources = rows.functions.iter().filter(|f| f.oid >= FIRST_USER && has_readable_source(f));
        let mut by_name: HashMap<String, Vec<Object>> = HashMap::new();
        for function in &rows.functions {
            by_name.entry(function.name.to_lowercase()).or_default().push(Object::Function(function.oid));
        }
        for relation in &rows.relations {
            let objects = by_name.entry(relation.name.to_lowercase()).or_default();
            objects.extend([Object::Relation(relation.oid), Object::Writing(relation.oid)]);
        }
        Analysis {
            rows,
            builtins: Builtins::of(rows.server_version),
            read_functions,
            trees: rows.trees.iter().map(|t| (t, tree::read(&t.text))).collect(),
            bodies: user_sources.map(|f| (f.oid, body::read(&f.source))).collect(),
            functions: rows.functions.iter().map(|f| (f.oid, f)).collect(),
            by_name,
            operators: rows.operators.iter().map(|o| (o.oid, may_run(o))).collect(),
        }
    }

    /// The catalog, if the bodies of these SQL functions are proven.
    pub fn catalog(&self, proven: &HashSet<u32>) -> Catalog {
        let mut graph = Graph::default();
        for function in &self.rows.functions {
            self.function(function, proven, &mut graph);
        }
        for type_ in &self.rows.types {
            self.type_(type_, &mut graph);
        }
        for relation in &self.rows.relations {
            relation_itself(relation, &mut graph);
        }
        for (row, references) in &self.trees {
            let (object, reading) = match row.of.as_str() {
                "type" => (Object::Type(row.oid), Reading::Evaluated),
                "read" => (Object::Relation(row.oid), Reading::Evaluated),
                _ => (Object::Writing(row.oid), Reading::Written),
            };
            if row.of == "plan" {
                self.folded(row, references, &mut graph);
            }
            self.references(object, references, reading, &mut graph);
        }
        self.links(&mut graph);
        graph.propagate(|object| self.name(object));
        self.file(&graph)
    }

    fn function(&self, row: &FunctionRow, proven: &HashSet<u32>, graph: &mut Graph) {
        let object = Object::Function(row.oid);
        if row.oid < FIRST_USER {
            if let Safety::Unsafe(why) = self.builtins.safety(&row.name, &row.signature) {
                graph.taint(object, &why);
            }
            if row.schema == "pg_catalog" {
                graph.conduct(object, builtin::conduct(&row.name).unwrap_or_default());
            }
            return;
        }
        if self.is_vouched_for(row) {
            graph.trust(object);
        }
        self.user_function(row, proven, graph);
        for type_ in row.types.iter().filter(|t| **t >= FIRST_USER) {
            graph.uses(object, Object::Type(*type_), Flow::Both);
        }
        for text in [&row.body_tree, &row.default_tree].into_iter().flatten() {
            self.references(object, &tree::read(text), Reading::Evaluated, graph);
        }
    }

    fn user_function(&self, row: &FunctionRow, proven: &HashSet<u32>, graph: &mut Graph) {
        let object = Object::Function(row.oid);
        // Its body would be cut into other tokens than those that were proven.
        let is_lexis = |name: &str| name == "standard_conforming_strings";
        let names = row.settings.iter().map(|entry| entry.split('=').next().unwrap_or(""));
        let odd_setting = names.into_iter().find(|name| is_lexis(name) || !setting::is_alike_everywhere(name));
        if let Some(setting) = odd_setting {
            graph.taint(object, &format!("changes the setting {setting}"));
        }
        match (row.language.as_str(), row.kind.as_str(), &row.extension) {
            (_, "p", _) => graph.taint(object, "procedure"),
            (_, "a", _) => return,
            ("sql", ..) if row.body_tree.is_some() => return,
            ("sql", ..) if proven.contains(&row.oid) => {}
            // Made by CREATE TYPE AS RANGE; what they may do is what their type may do.
            ("internal", ..) if RANGE_CONSTRUCTORS.contains(&row.source.as_str()) => return,
            ("c" | "internal", _, Some(extension)) => {
                if row.volatility != "i" && !builtin::extension_is_safe(extension, &row.name) {
                    graph.taint(object, "function of an extension that is not IMMUTABLE");
                }
                if row.volatility != "i" {
                    graph.conduct(object, builtin::extension_conduct(extension, &row.name));
                }
                return;
            }
            (language, ..) => {
                graph.taint(object, &format!("{language} function whose body is not proven to read only"))
            }
        }
        let Some(body) = self.bodies.get(&row.oid) else {
            graph.conduct(object, Conduct::AUDIT.and(Conduct::SEQUENCE).and(Conduct::DDL));
            return;
        };
        graph.conduct(object, body.conduct);
        for used in body.words.iter().filter_map(|word| self.by_name.get(word)).flatten() {
            graph.uses(object, *used, Flow::Conduct);
        }
        // Names that are no words ("Weird Name") are looked for as they are.
        for (name, objects) in self.by_name.iter().filter(|(name, _)| !is_word(name)) {
            if row.source.to_lowercase().contains(name.as_str()) {
                objects.iter().for_each(|used| graph.uses(object, *used, Flow::Conduct));
            }
        }
    }

    fn is_vouched_for(&self, row: &FunctionRow) -> bool {
        self.read_functions.iter().any(|entry| match entry.split_once('.') {
            Some((schema, name)) => schema == row.schema && name == row.name,
            None => *entry == row.name,
        })
    }

    fn type_(&self, row: &TypeRow, graph: &mut Graph) {
        let object = Object::Type(row.oid);
        for part in row.parts.iter().filter(|p| **p != 0) {
            graph.uses(object, Object::Type(*part), Flow::Both);
        }
        if row.relation != 0 {
            // The row type has the relation's columns, and nothing else of the relation.
            for link in self.rows.links.iter().filter(|l| l.kind == "column" && l.from == row.relation) {
                graph.uses(object, Object::Type(link.to), Flow::Both);
            }
        }
        for function in row.functions.iter().filter(|f| **f != 0 && !self.is_plain_c(**f)) {
            graph.uses(object, Object::Function(*function), Flow::Both);
        }
    }

    /// Input, output and index support in C that is not VOLATILE is trusted: only a superuser installs it.
    fn is_plain_c(&self, oid: u32) -> bool {
        self.functions.get(&oid).is_some_and(|f| matches!(f.language.as_str(), "c" | "internal") && f.volatility != "v")
    }

    fn references(&self, object: Object, references: &tree::References, reading: Reading, graph: &mut Graph) {
        let asks_odd_setting = !references.settings.iter().flatten().all(|s| setting::is_alike_or_custom(s));
        if references.settings.contains(&None) || asks_odd_setting {
            graph.taint(object, "asks for a setting that nodes may have differently");
        }
        if references.writes == tree::Writes::Yes && reading == Reading::Evaluated {
            graph.taint(object, "locks rows or writes");
        }
        for function in &references.functions {
            graph.uses(object, Object::Function(*function), Flow::Both);
        }
        for function in references.operators.iter().filter_map(|o| self.operators.get(o)).flatten() {
            graph.uses(object, Object::Function(*function), Flow::Both);
        }
        for type_ in &references.types {
            graph.uses(object, Object::Type(*type_), Flow::Both);
        }
        for relation in &references.relations {
            graph.uses(object, Object::Relation(*relation), Flow::Both);
            graph.uses(writer(object), Object::Writing(*relation), Flow::Conduct);
        }
    }

    /// Whoever plans a read of the relation folds the constant calls of functions labelled IMMUTABLE in its CHECKs and
    /// indexes, and those of what it inlines there. Most such labels are true; one that is not proven does not count.
    fn folded(&self, row: &TreeRow, references: &tree::References, graph: &mut Graph) {
        let inlined =
            references.functions.iter().filter(|f| self.functions.get(f).is_some_and(|f| f.language == "sql"));
        for function in references.constant_calls.iter().chain(inlined) {
            graph.uses(Object::Relation(row.oid), Object::Function(*function), Flow::Both);
        }
    }

    fn links(&self, graph: &mut Graph) {
        for link in &self.rows.links {
            let (from, to) = (link.from, link.to);
            match link.kind.as_str() {
                "child" => {
                    graph.uses(Object::Relation(from), Object::Relation(to), Flow::Both);
                    graph.uses(Object::Writing(from), Object::Writing(to), Flow::Conduct);
                    // A row may move to a partition's sibling, and a child's trigger sees the parent's write.
                    graph.uses(Object::Writing(to), Object::Writing(from), Flow::Conduct);
                }
                "column" => {
                    graph.uses(Object::Relation(from), Object::Type(to), Flow::Both);
                    graph.uses(Object::Writing(from), Object::Type(to), Flow::Conduct);
                }
                "identity" => graph.conduct(Object::Writing(from), Conduct::SEQUENCE),
                "aggregate" => graph.uses(Object::Function(from), Object::Function(to), Flow::Both),
                "trigger" => graph.uses(Object::Writing(from), Object::Function(to), Flow::Conduct),
                // ON DELETE CASCADE and its kin write to the referencing table.
                "reference" => graph.uses(Object::Writing(from), Object::Writing(to), Flow::Conduct),
                "cast" => graph.uses(Object::Type(from), Object::Function(to), Flow::Both),
                _ => {}
            }
        }
    }

    fn poison(&self, graph: &Graph) -> Option<Box<str>> {
        let unsafe_function = |oid: u32| graph.why(Object::Function(oid)).is_some() && !self.is_plain_c(oid);
        for link in &self.rows.links {
            let function = match link.kind.as_str() {
                "class" => link.from,
                "implicit cast" => link.to,
                _ => continue,
            };
            if unsafe_function(function) {
                let name = self.name(Object::Function(function));
                return Some(format!("{name} (a function of an operator class, or an implicit cast)").into());
            }
        }
        None
    }

    fn name(&self, object: Object) -> String {
        let relation = |oid| self.rows.relations.iter().find(|r: &&RelationRow| r.oid == oid).map(|r| r.name.clone());
        let name = match object {
            Object::Function(oid) => self.functions.get(&oid).map(|f| format!("function {}", f.name)),
            Object::Relation(oid) | Object::Writing(oid) => relation(oid).map(|name| format!("relation {name}")),
            Object::Type(oid) => self.rows.types.iter().find(|t| t.oid == oid).map(|t| format!("type {}", t.name)),
        };
        name.unwrap_or_else(|| "an unknown object".to_owned())
    }

    /// Files everything by name.
    fn file(&self, graph: &Graph) -> Catalog {
        let mut catalog =
            Catalog { server_version: self.rows.server_version, poison: self.poison(graph), ..Catalog::default() };
        let rows_are_cast = self.rows.links.iter().any(|l| l.kind == "row cast");
        let kinds: HashMap<u32, &TypeRow> = self.rows.types.iter().map(|t| (t.oid, t)).collect();
        for row in &self.rows.functions {
            let object = Object::Function(row.oid);
            let safety = match graph.why(object) {
                None if row.oid < FIRST_USER => self.builtins.safety(&row.name, &row.signature),
                why => safety(why),
            };
            let variadic = if row.variadic { u16::MAX } else { 0 };
            let takes_row =
                rows_are_cast || row.types.first().is_some_and(|t| may_be_row(kinds.get(t).copied(), &kinds));
            catalog.functions.entry(row.name.as_str().into()).or_default().push(Function {
                schema: row.schema.as_str().into(),
                least_arguments: u16::try_from(row.arguments - row.defaults)
                    .unwrap_or(0)
                    .saturating_sub(u16::from(row.variadic)),
                most_arguments: u16::try_from(row.arguments).unwrap_or(u16::MAX).max(variadic),
                takes_row: if takes_row { TakesRow::Yes } else { TakesRow::No },
                safety,
                conduct: graph.conduct_of(object),
            });
        }
        for row in &self.rows.operators {
            let may_run = may_run(row).into_iter().map(Object::Function);
            let why = may_run.clone().find_map(|f| graph.why(f));
            let conduct = may_run.fold(Conduct::QUIET, |sum, f| sum.and(graph.conduct_of(f)));
            let named = named(&row.schema, why, conduct);
            catalog.operators.entry(row.name.as_str().into()).or_default().push(named);
        }
        for row in &self.rows.types {
            let object = Object::Type(row.oid);
            let named = named(&row.schema, graph.why(object), graph.conduct_of(object));
            catalog.types.entry(row.name.as_str().into()).or_default().push(named);
        }
        for row in self.rows.relations.iter().filter(|r| r.kind != "c") {
            catalog.relations.entry(row.name.as_str().into()).or_default().push(filed_relation(row, graph));
        }
        catalog.columns = self.rows.columns.iter().map(|c| c.as_str().into()).collect();
        catalog
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The tree runs when the object is read.
    Evaluated,
    /// It runs when the relation is written.
    Written,
}

/// Who writes what the tree of this object writes: a view's writer, or a function itself.
fn writer(object: Object) -> Object {
    match object {
        Object::Relation(oid) => Object::Writing(oid),
        other => other,
    }
}

fn may_run(row: &OperatorRow) -> Vec<u32> {
    std::iter::once(row.function).chain(row.stand_ins.iter().copied()).collect()
}

fn has_readable_source(row: &FunctionRow) -> bool {
    matches!(row.language.as_str(), "sql" | "plpgsql") && row.body_tree.is_none()
}

fn relation_itself(row: &RelationRow, graph: &mut Graph) {
    let why = match (row.kind.as_str(), row.persistence.as_str()) {
        ("S", _) => "a sequence: replicas are ahead of its value",
        ("f", _) => "a foreign table",
        (_, "u") => "unlogged: replicas have no rows of it",
        _ => return,
    };
    graph.taint(Object::Relation(row.oid), why);
}

fn filed_relation(row: &RelationRow, graph: &Graph) -> Relation {
    let permanent = row.persistence == "p" && matches!(row.kind.as_str(), "r" | "p" | "S");
    Relation {
        schema: row.schema.as_str().into(),
        safety: safety(graph.why(Object::Relation(row.oid))),
        conduct: graph.conduct_of(Object::Relation(row.oid)),
        write_conduct: graph.conduct_of(Object::Writing(row.oid)),
        writes: if permanent { Writes::Refused } else { Writes::Unclear },
        sequence: if row.kind == "S" { IsSequence::Yes } else { IsSequence::No },
    }
}

fn named(schema: &str, why: Option<&str>, conduct: Conduct) -> Named {
    Named { schema: schema.into(), safety: safety(why), conduct }
}

fn safety(why: Option<&str>) -> Safety {
    why.map_or(Safety::Safe, |why| Safety::Unsafe(why.into()))
}

/// Whether a value of this type may be a whole row.
fn may_be_row(row: Option<&TypeRow>, kinds: &HashMap<u32, &TypeRow>) -> bool {
    let Some(row) = row else { return true };
    match row.kind.as_str() {
        "c" | "p" => true,
        "d" => row.parts.iter().filter(|p| **p != 0).any(|p| may_be_row(kinds.get(p).copied(), kinds)),
        _ => false,
    }
}

fn is_word(name: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$')
}
