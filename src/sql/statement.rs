//! Pure: one statement → its findings. Queries and writes go to the walker, settings and transaction control to their
//! files, everything else to `utility`. `classify` calls it for each statement of a text.

use super::findings::Findings;
use super::parse::{Tree, node};
use super::setting::{self, Lasts};
use super::walker::Walker;
use super::{Act, Effect, Reason, control, utility, write};
use crate::catalog::Catalog;

pub(super) fn read(tree: &Tree, catalog: &Catalog) -> Findings {
    let mut findings = Findings::default();
    match tree {
        Tree::SelectStmt(select) => select_statement(select, tree, catalog, &mut findings),
        Tree::InsertStmt(_) | Tree::UpdateStmt(_) | Tree::DeleteStmt(_) | Tree::MergeStmt(_) => {
            let mut walker = Walker::new(catalog, &mut findings);
            write::statement(&mut walker, tree, 0);
            walker.run();
        }
        Tree::CopyStmt(copy) => copy_statement(copy, catalog, &mut findings),
        Tree::ExplainStmt(explain) => explain_statement(explain, catalog, &mut findings),
        Tree::DeclareCursorStmt(declare) => declare_cursor(declare, catalog, &mut findings),
        Tree::VariableSetStmt(set) => control::set(set, &mut findings),
        Tree::VariableShowStmt(show) => control::show(&show.name, &mut findings),
        Tree::TransactionStmt(transaction) => control::transaction(transaction, &mut findings),
        _ => utility::read(tree, catalog, &mut findings),
    }
    findings
}

/// A query's findings added to those of the statement around it.
pub(super) fn query(tree: &Tree, catalog: &Catalog, findings: &mut Findings) {
    let mut walker = Walker::new(catalog, findings);
    walker.push_tree(tree);
    walker.run();
}

fn select_statement(select: &node::SelectStmt, tree: &Tree, catalog: &Catalog, findings: &mut Findings) {
    if let Some(call) = lone_call(select)
        && let Some(set) = setting::set_config(call)
    {
        lone_set_config(set, findings);
        return;
    }
    query(tree, catalog, findings);
    if let (Effect::Read, Some(why)) = (findings.effect(), &catalog.poison) {
        findings.forbid(Reason::UnsafeCast(why.to_string()));
    }
}

/// `SELECT set_config('name', 'value', false)` and nothing else is a SET.
fn lone_set_config(set: setting::SetConfig, findings: &mut Findings) {
    findings.looked_at_literal();
    let reason = Reason::SessionState(format!("set_config of {}", set.name));
    if set.name.starts_with("transaction_") {
        findings.act(Act::Audit);
        findings.forbid(reason);
        return;
    }
    findings.follow(reason);
    if set.lasts == Lasts::Session {
        findings.act(Act::Set { name: set.name, value: set.value });
    }
}

/// The only thing that a SELECT does, if that is one call.
fn lone_call(select: &node::SelectStmt) -> Option<&node::FuncCall> {
    let [target] = select.target_list.as_slice() else { return None };
    let Some(Tree::ResTarget(target)) = target.node.as_ref() else { return None };
    let Some(Tree::FuncCall(call)) = target.val.as_ref().and_then(|v| v.node.as_ref()) else { return None };
    let plain_call =
        call.agg_filter.is_none() && call.over.is_none() && call.agg_order.is_empty() && !call.agg_distinct;
    let alone = node::SelectStmt { target_list: Vec::new(), ..select.clone() }
        == node::SelectStmt { limit_option: select.limit_option, op: select.op, ..Default::default() };
    (alone && plain_call).then_some(call)
}

fn copy_statement(copy: &node::CopyStmt, catalog: &Catalog, findings: &mut Findings) {
    let mut walker = Walker::new(catalog, findings);
    if copy.is_from {
        write::target(&mut walker, copy.relation.as_ref(), "COPY FROM");
        // COPY FROM reads what the client sends before any error could be alike.
        walker.findings.forbid(Reason::Copy("FROM writes".to_owned()));
        walker.push_node(&copy.where_clause, 0);
    } else if let Some(relation) = &copy.relation {
        super::names::relation(super::names::Name::of_relation(relation), catalog, walker.findings);
    }
    walker.push_node(&copy.query, 0);
    walker.run();
    if copy.is_program || !copy.filename.is_empty() {
        findings.forbid(Reason::Copy("reads or writes a file of the node".to_owned()));
    }
    if findings.effect() == Effect::RefusedReadOnly {
        // The CopyOutResponse is sent before the error: not alike.
        findings.forbid(Reason::Copy("of a query that writes".to_owned()));
    }
    if let (Effect::Read, Some(why)) = (findings.effect(), &catalog.poison) {
        findings.forbid(Reason::UnsafeCast(why.to_string()));
    }
}

fn explain_statement(explain: &node::ExplainStmt, catalog: &Catalog, findings: &mut Findings) {
    findings.forbid(Reason::Explain);
    if explain.options.iter().any(is_analyze)
        && let Some(inner) = explain.query.as_ref().and_then(|q| q.node.as_ref())
    {
        for act in read(inner, catalog).into_parts().2 {
            findings.act(act);
        }
    }
}

/// ANALYZE in any spelling but an explicit off: over-approximated as on.
fn is_analyze(option: &node::Node) -> bool {
    matches!(option.node.as_ref(), Some(Tree::DefElem(option)) if option.defname == "analyze")
}

/// `options` of a DECLARE: parsenodes.h's CURSOR_OPT_HOLD.
const CURSOR_OPT_HOLD: i32 = 0x0020;

fn declare_cursor(declare: &node::DeclareCursorStmt, catalog: &Catalog, findings: &mut Findings) {
    if let Some(inner) = declare.query.as_ref().and_then(|q| q.node.as_ref()) {
        query(inner, catalog, findings);
    }
    if findings.effect() == Effect::RefusedReadOnly {
        findings.forbid(Reason::SessionState("a cursor that locks rows".to_owned()));
    }
    if declare.options & CURSOR_OPT_HOLD != 0 {
        findings.act(Act::Audit);
        findings.forbid(Reason::SessionState("a holdable cursor".to_owned()));
    }
    match &catalog.poison {
        Some(why) => findings.forbid(Reason::UnsafeCast(why.to_string())),
        None => findings.follow(Reason::SessionState("a cursor".to_owned())),
    }
}
