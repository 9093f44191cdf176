//! Pure: the expressions of the walker's allow-list, kind by kind. What is not listed here goes to the primary.

use super::names::{self, Name};
use super::parse::{Tree, node};
use super::walker::Walker;
use crate::catalog::AttributeOf;

impl<'a> Walker<'a, '_> {
    pub(super) fn expression(&mut self, tree: &'a Tree, scope: usize) {
        match tree {
            Tree::AConst(_)
            | Tree::ParamRef(_)
            | Tree::AStar(_)
            | Tree::SqlvalueFunction(_)
            | Tree::SetToDefault(_) => {}
            // Parts of names and constants in lists.
            Tree::String(_) | Tree::Integer(_) | Tree::Float(_) | Tree::Boolean(_) | Tree::BitString(_) => {}
            Tree::ColumnRef(column) => self.column(column),
            Tree::FuncCall(call) => self.call(call, scope),
            Tree::AExpr(expression) => self.operation(expression, scope),
            Tree::BoolExpr(expression) => self.push_list(&expression.args, scope),
            Tree::TypeCast(cast) => {
                self.push_node(&cast.arg, scope);
                self.type_name(cast.type_name.as_ref(), scope);
            }
            Tree::SubLink(link) => self.sublink(link, scope),
            Tree::CaseExpr(case) => {
                if case.arg.is_some() {
                    self.builtin_operators(&["="]);
                }
                self.push_node(&case.arg, scope);
                self.push_list(&case.args, scope);
                self.push_node(&case.defresult, scope);
            }
            Tree::CaseWhen(when) => {
                self.push_node(&when.expr, scope);
                self.push_node(&when.result, scope);
            }
            Tree::CoalesceExpr(coalesce) => self.push_list(&coalesce.args, scope),
            Tree::MinMaxExpr(extreme) => {
                self.builtin_operators(&["<"]);
                self.push_list(&extreme.args, scope);
            }
            Tree::NullTest(test) => self.push_node(&test.arg, scope),
            Tree::BooleanTest(test) => self.push_node(&test.arg, scope),
            Tree::RowExpr(row) => self.push_list(&row.args, scope),
            Tree::AArrayExpr(array) => self.push_list(&array.elements, scope),
            // A collation only orders: user-made ones run no code of the user's.
            Tree::CollateClause(collate) => self.push_node(&collate.arg, scope),
            Tree::NamedArgExpr(argument) => self.push_node(&argument.arg, scope),
            Tree::AIndices(indices) => {
                self.push_node(&indices.lidx, scope);
                self.push_node(&indices.uidx, scope);
            }
            Tree::AIndirection(indirection) => {
                self.push_node(&indirection.arg, scope);
                self.indirection(&indirection.indirection, scope);
            }
            Tree::XmlExpr(xml) => {
                self.push_list(&xml.named_args, scope);
                self.push_list(&xml.args, scope);
            }
            Tree::XmlSerialize(xml) => {
                self.push_node(&xml.expr, scope);
                self.type_name(xml.type_name.as_ref(), scope);
            }
            _ => self.json(tree, scope),
        }
    }

    fn column(&mut self, column: &'a node::ColumnRef) {
        let Some(last) = column.fields.last().filter(|_| column.fields.len() > 1) else { return };
        if let Some(name) = names::string(last) {
            self.attribute(name, AttributeOf::Row);
        }
    }

    fn indirection(&mut self, list: &'a [node::Node], scope: usize) {
        for step in list {
            match names::string(step) {
                Some(name) => self.attribute(name, AttributeOf::Anything),
                None => self.push_list(std::slice::from_ref(step), scope),
            }
        }
    }

    fn call(&mut self, call: &'a node::FuncCall, scope: usize) {
        names::function(call, self.catalog, self.findings);
        self.push_list(&call.args, scope);
        self.push_list(&call.agg_order, scope);
        self.push_node(&call.agg_filter, scope);
        if let Some(window) = &call.over {
            self.window(window, scope);
        }
    }

    fn operation(&mut self, expression: &'a node::AExpr, scope: usize) {
        use node::AExprKind as Kind;
        match expression.kind() {
            Kind::AexprOp
            | Kind::AexprOpAny
            | Kind::AexprOpAll
            | Kind::AexprDistinct
            | Kind::AexprNotDistinct
            | Kind::AexprNullif
            | Kind::AexprIn
            | Kind::AexprLike
            | Kind::AexprIlike
            | Kind::AexprSimilar => names::operator(&expression.name, self.catalog, self.findings),
            Kind::AexprBetween | Kind::AexprNotBetween | Kind::AexprBetweenSym | Kind::AexprNotBetweenSym => {
                self.builtin_operators(&["<", "<=", ">", ">="]);
            }
            Kind::Undefined => self.unknown("operator"),
        }
        if matches!(expression.kind(), Kind::AexprDistinct | Kind::AexprNotDistinct) {
            self.builtin_operators(&["="]);
        }
        self.push_node(&expression.lexpr, scope);
        self.push_node(&expression.rexpr, scope);
    }

    fn sublink(&mut self, link: &'a node::SubLink, scope: usize) {
        if !link.oper_name.is_empty() {
            names::operator(&link.oper_name, self.catalog, self.findings);
        } else if link.testexpr.is_some() {
            names::operator_named(Name { schema: None, name: "=" }, self.catalog, self.findings);
        }
        self.push_node(&link.testexpr, scope);
        self.push_node(&link.subselect, scope);
    }
}
