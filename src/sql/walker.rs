//! Pure: walks everything that a query names and asks `names` about it. An allow-list: each kind of node that may stand
//! in a query of a replica is handled by name, every other kind sends the statement to the primary.
//!
//! It walks with its own stack, so that no text can exhaust the thread's, and it goes on after the first obstacle,
//! because the acts of the rest count too. Called by `statement`; it must never decide on statements other than queries.

use super::Reason;
use super::findings::Findings;
use super::names::{self, Name};
use super::parse::{Tree, node};
use crate::catalog::{AttributeOf, Catalog};

/// An index into `Walker::scopes`; 0 is the empty scope.
type ScopeId = usize;

/// The name of one WITH query and the scope that it was added to.
struct Scope<'a> {
    name: &'a str,
    outer: ScopeId,
}

pub(super) struct Walker<'a, 'f> {
    pub(super) catalog: &'a Catalog,
    pub(super) findings: &'f mut Findings,
    scopes: Vec<Scope<'a>>,
    work: Vec<(Item<'a>, ScopeId)>,
}

/// The parse tree holds some queries as nodes and some bare.
#[derive(Clone, Copy)]
enum Item<'a> {
    Node(&'a Tree),
    Select(&'a node::SelectStmt),
}

impl<'a, 'f> Walker<'a, 'f> {
    pub(super) fn new(catalog: &'a Catalog, findings: &'f mut Findings) -> Self {
        Walker { catalog, findings, scopes: vec![Scope { name: "", outer: 0 }], work: Vec::new() }
    }

    pub(super) fn push_tree(&mut self, tree: &'a Tree) {
        self.work.push((Item::Node(tree), 0));
    }

    pub(super) fn run(&mut self) {
        while let Some((item, scope)) = self.work.pop() {
            match item {
                Item::Select(select) => self.select(select, scope),
                Item::Node(tree) => self.visit(tree, scope),
            }
        }
    }

    fn push(&mut self, node: Option<&'a node::Node>, scope: ScopeId) {
        // An absent child is nothing; a present node without content is an unknown one.
        match node.map(|n| n.node.as_ref()) {
            None => {}
            Some(Some(tree)) => self.work.push((Item::Node(tree), scope)),
            Some(None) => {}
        }
    }

    fn boxed(&mut self, node: &'a Option<Box<node::Node>>, scope: ScopeId) {
        self.push(node.as_deref(), scope);
    }

    fn push_all(&mut self, list: &'a [node::Node], scope: ScopeId) {
        for node in list {
            self.push(Some(node), scope);
        }
    }

    fn is_with_query(&self, name: &str, mut scope: ScopeId) -> bool {
        while scope != 0 {
            if self.scopes[scope].name == name {
                return true;
            }
            scope = self.scopes[scope].outer;
        }
        false
    }

    fn add_scope(&mut self, name: &'a str, outer: ScopeId) -> ScopeId {
        self.scopes.push(Scope { name, outer });
        self.scopes.len() - 1
    }

    /// WITH without RECURSIVE: a query sees those before it; with RECURSIVE, all of them.
    fn with_clause(&mut self, clause: Option<&'a node::WithClause>, outer: ScopeId) -> ScopeId {
        let Some(clause) = clause else { return outer };
        let queries: Vec<&'a node::CommonTableExpr> = clause.ctes.iter().filter_map(common_table).collect();
        if queries.len() != clause.ctes.len() {
            self.unknown("WITH item");
        }
        let mut scope = outer;
        if clause.recursive {
            for query in &queries {
                scope = self.add_scope(&query.ctename, scope);
            }
        }
        for query in queries {
            self.boxed(&query.ctequery, scope);
            if let Some(cycle) = &query.cycle_clause {
                self.boxed(&cycle.cycle_mark_value, scope);
                self.boxed(&cycle.cycle_mark_default, scope);
                self.builtin_operators(&["<>", "="]);
            }
            if !clause.recursive {
                scope = self.add_scope(&query.ctename, scope);
            }
        }
        scope
    }

    fn select(&mut self, select: &'a node::SelectStmt, outer: ScopeId) {
        let scope = self.with_clause(select.with_clause.as_ref(), outer);
        if select.into_clause.is_some() {
            self.findings.forbid(Reason::SelectInto);
            self.findings.act(super::Act::Audit);
            self.findings.act(super::Act::Ddl);
        }
        if !select.locking_clause.is_empty() {
            self.findings.refuse(Reason::RowLock);
        }
        for list in [
            &select.distinct_clause,
            &select.target_list,
            &select.from_clause,
            &select.group_clause,
            &select.window_clause,
            &select.values_lists,
            &select.sort_clause,
        ] {
            self.push_all(list, scope);
        }
        for child in [&select.where_clause, &select.having_clause, &select.limit_offset, &select.limit_count] {
            self.boxed(child, scope);
        }
        for arm in [&select.larg, &select.rarg].into_iter().flatten() {
            self.work.push((Item::Select(arm), scope));
        }
    }

    fn visit(&mut self, tree: &'a Tree, scope: ScopeId) {
        match tree {
            Tree::SelectStmt(select) => self.select(select, scope),
            Tree::InsertStmt(_) | Tree::UpdateStmt(_) | Tree::DeleteStmt(_) | Tree::MergeStmt(_) => {
                super::write::inside_query(self, tree, scope);
            }
            Tree::RangeVar(range) => self.range(range, scope),
            Tree::RangeSubselect(sub) => self.boxed(&sub.subquery, scope),
            Tree::RangeFunction(function) => {
                self.push_all(&function.functions, scope);
                self.push_all(&function.coldeflist, scope);
            }
            Tree::RangeTableSample(sample) => self.sample(sample, scope),
            Tree::RangeTableFunc(_) | Tree::RangeTableFuncCol(_) => self.xml_table(tree, scope),
            Tree::JoinExpr(join) => self.join(join, scope),
            Tree::ColumnDef(column) => self.column_definition(column),
            Tree::List(list) => self.push_all(&list.items, scope),
            Tree::ResTarget(target) => {
                self.boxed(&target.val, scope);
                self.push_all(&target.indirection, scope);
            }
            Tree::SortBy(sort) => {
                if !sort.use_op.is_empty() {
                    names::operator(&sort.use_op, self.catalog, self.findings);
                }
                self.boxed(&sort.node, scope);
            }
            Tree::WindowDef(window) => self.window(window, scope),
            Tree::GroupingSet(set) => self.push_all(&set.content, scope),
            Tree::GroupingFunc(grouping) => self.push_all(&grouping.args, scope),
            _ => self.expression(tree, scope),
        }
    }

    fn range(&mut self, range: &'a node::RangeVar, scope: ScopeId) {
        let name = Name::of_relation(range);
        if name.schema.is_none() && self.is_with_query(name.name, scope) {
            return;
        }
        names::relation(name, self.catalog, self.findings);
    }

    fn sample(&mut self, sample: &'a node::RangeTableSample, scope: ScopeId) {
        self.boxed(&sample.relation, scope);
        self.push_all(&sample.args, scope);
        self.boxed(&sample.repeatable, scope);
        let call =
            node::FuncCall { funcname: sample.method.clone(), args: vec![node::Node::default()], ..Default::default() };
        names::function(&call, self.catalog, self.findings);
    }

    fn xml_table(&mut self, tree: &'a Tree, scope: ScopeId) {
        match tree {
            Tree::RangeTableFunc(table) => {
                self.boxed(&table.docexpr, scope);
                self.boxed(&table.rowexpr, scope);
                self.push_all(&table.namespaces, scope);
                self.push_all(&table.columns, scope);
            }
            Tree::RangeTableFuncCol(column) => {
                self.type_name(column.type_name.as_ref(), scope);
                self.boxed(&column.colexpr, scope);
                self.boxed(&column.coldefexpr, scope);
            }
            other => self.unknown_tree(other),
        }
    }

    fn join(&mut self, join: &'a node::JoinExpr, scope: ScopeId) {
        if join.is_natural || !join.using_clause.is_empty() {
            self.builtin_operators(&["="]);
        }
        self.boxed(&join.larg, scope);
        self.boxed(&join.rarg, scope);
        self.boxed(&join.quals, scope);
    }

    /// In a query a column definition only names a type: `FROM f() AS x(a int)`.
    fn column_definition(&mut self, column: &'a node::ColumnDef) {
        if column.raw_default.is_some() || !column.constraints.is_empty() {
            self.unknown("column definition");
        }
        self.type_name(column.type_name.as_ref(), 0);
    }

    pub(super) fn window(&mut self, window: &'a node::WindowDef, scope: ScopeId) {
        self.push_all(&window.partition_clause, scope);
        self.push_all(&window.order_clause, scope);
        self.boxed(&window.start_offset, scope);
        self.boxed(&window.end_offset, scope);
        if window.start_offset.is_some() || window.end_offset.is_some() {
            self.builtin_operators(&["+", "-", "<", ">"]);
        }
    }

    pub(super) fn type_name(&mut self, type_name: Option<&'a node::TypeName>, scope: ScopeId) {
        if let Some(type_name) = type_name {
            names::type_name(type_name, self.catalog, self.findings);
            self.push_all(&type_name.typmods, scope);
        }
    }

    /// Operators that the text uses without writing them.
    pub(super) fn builtin_operators(&mut self, operators: &[&'static str]) {
        for name in operators {
            names::operator_named(Name { schema: None, name }, self.catalog, self.findings);
        }
    }

    pub(super) fn push_node(&mut self, node: &'a Option<Box<node::Node>>, scope: usize) {
        self.boxed(node, scope);
    }

    pub(super) fn push_list(&mut self, list: &'a [node::Node], scope: usize) {
        self.push_all(list, scope);
    }

    pub(super) fn push_with(&mut self, clause: Option<&'a node::WithClause>, scope: usize) -> usize {
        self.with_clause(clause, scope)
    }

    pub(super) fn unknown(&mut self, what: &str) {
        self.findings.forbid(Reason::Unparsed(format!("an unexpected {what}")));
        self.findings.act(super::Act::Audit);
    }

    pub(super) fn unknown_tree(&mut self, tree: &Tree) {
        let mut kind = format!("{tree:?}");
        kind.truncate(kind.find(['(', ' ', '{']).unwrap_or(kind.len()).min(40));
        self.unknown(&kind);
    }

    pub(super) fn attribute(&mut self, name: &str, of: AttributeOf) {
        names::attribute(name, of, self.catalog, self.findings);
    }
}

fn common_table(node: &node::Node) -> Option<&node::CommonTableExpr> {
    match node.node.as_ref()? {
        Tree::CommonTableExpr(query) => Some(query),
        _ => None,
    }
}
