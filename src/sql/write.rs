//! Pure: INSERT, UPDATE, DELETE and MERGE: never a replica's, but what they name decides the acts, and whether a READ
//! ONLY transaction refuses them alike on every node. Called by `statement`, and by the walker for WITH queries.

use super::names::Name;
use super::parse::{Tree, node};
use super::walker::Walker;
use super::{Act, Reason};
use crate::catalog::{Answer, Conduct, Writes};

/// A data-modifying WITH query.
pub(super) fn inside_query<'a>(walker: &mut Walker<'a, '_>, tree: &'a Tree, scope: usize) {
    walker.findings.forbid(Reason::ModifyingCte);
    statement(walker, tree, scope);
}

/// The statement's own relation and everything inside it; the walker runs afterwards.
pub(super) fn statement<'a>(walker: &mut Walker<'a, '_>, tree: &'a Tree, outer: usize) {
    match tree {
        Tree::InsertStmt(insert) => {
            let scope = walker.push_with(insert.with_clause.as_ref(), outer);
            target(walker, insert.relation.as_ref(), "INSERT");
            walker.push_list(&insert.cols, scope);
            walker.push_node(&insert.select_stmt, scope);
            returning(walker, insert.returning_clause.as_ref(), scope);
            if let Some(conflict) = &insert.on_conflict_clause {
                on_conflict(walker, conflict, scope);
            }
        }
        Tree::UpdateStmt(update) => {
            let scope = walker.push_with(update.with_clause.as_ref(), outer);
            target(walker, update.relation.as_ref(), "UPDATE");
            walker.push_list(&update.from_clause, scope);
            walker.push_node(&update.where_clause, scope);
            assignments(walker, &update.target_list, scope);
            returning(walker, update.returning_clause.as_ref(), scope);
        }
        Tree::DeleteStmt(delete) => {
            let scope = walker.push_with(delete.with_clause.as_ref(), outer);
            target(walker, delete.relation.as_ref(), "DELETE");
            walker.push_list(&delete.using_clause, scope);
            walker.push_node(&delete.where_clause, scope);
            returning(walker, delete.returning_clause.as_ref(), scope);
        }
        Tree::MergeStmt(merge) => {
            let scope = walker.push_with(merge.with_clause.as_ref(), outer);
            target(walker, merge.relation.as_ref(), "MERGE");
            walker.push_node(&merge.source_relation, scope);
            walker.push_node(&merge.join_condition, scope);
            for clause in &merge.merge_when_clauses {
                merge_clause(walker, clause, scope);
            }
            returning(walker, merge.returning_clause.as_ref(), scope);
        }
        other => walker.unknown_tree(other),
    }
}

/// What writing the relation does to the session, and how it fails when it may not write.
pub(super) fn target(walker: &mut Walker<'_, '_>, relation: Option<&node::RangeVar>, command: &str) {
    let reason = Reason::Write(command.to_owned());
    let Some(range) = relation else {
        walker.unknown("statement without a relation");
        return;
    };
    let name = Name::of_relation(range);
    let mut conduct = Conduct::QUIET;
    let mut writes = Writes::Refused;
    let mut known = false;
    for relation in walker.catalog.relations_of(name.schema, name.name) {
        known = true;
        conduct = conduct.and(relation.write_conduct);
        if relation.writes == Writes::Unclear {
            writes = Writes::Unclear;
        }
    }
    walker.findings.conduct(conduct);
    if !known {
        // A temporary table, or one younger than the snapshot: its triggers and defaults are unknown.
        walker.findings.act(Act::Audit);
        walker.findings.act(Act::Sequence);
    }
    let safe = walker.catalog.relation(name.schema, name.name).0 == Answer::Safe;
    if known && safe && writes == Writes::Refused {
        walker.findings.refuse(reason);
    } else {
        walker.findings.forbid(reason);
    }
}

fn assignments<'a>(walker: &mut Walker<'a, '_>, list: &'a [node::Node], scope: usize) {
    for item in list {
        let Some(Tree::ResTarget(target)) = item.node.as_ref() else {
            walker.unknown("assignment");
            continue;
        };
        let source = target.val.as_ref().and_then(|v| v.node.as_ref());
        match source {
            Some(Tree::MultiAssignRef(reference)) => walker.push_node(&reference.source, scope),
            _ => walker.push_node(&target.val, scope),
        }
        // Field names and subscripts of the target: a field there is a field, never a function.
        for step in &target.indirection {
            if super::names::string(step).is_none() {
                walker.push_list(std::slice::from_ref(step), scope);
            }
        }
    }
}

fn returning<'a>(walker: &mut Walker<'a, '_>, clause: Option<&'a node::ReturningClause>, scope: usize) {
    if let Some(clause) = clause {
        walker.push_list(&clause.exprs, scope);
    }
}

fn on_conflict<'a>(walker: &mut Walker<'a, '_>, conflict: &'a node::OnConflictClause, scope: usize) {
    if let Some(infer) = &conflict.infer {
        for element in &infer.index_elems {
            match element.node.as_ref() {
                Some(Tree::IndexElem(element)) => walker.push_node(&element.expr, scope),
                _ => walker.unknown("conflict target"),
            }
        }
        walker.push_node(&infer.where_clause, scope);
    }
    assignments(walker, &conflict.target_list, scope);
    walker.push_node(&conflict.where_clause, scope);
}

fn merge_clause<'a>(walker: &mut Walker<'a, '_>, clause: &'a node::Node, scope: usize) {
    let Some(Tree::MergeWhenClause(clause)) = clause.node.as_ref() else {
        walker.unknown("MERGE clause");
        return;
    };
    walker.push_node(&clause.condition, scope);
    if clause.command_type() == node::CmdType::CmdUpdate {
        assignments(walker, &clause.target_list, scope);
    }
    walker.push_list(&clause.values, scope);
}
