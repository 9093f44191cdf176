//! Pure: the SQL/JSON nodes of the walker's allow-list. They call only built-in code of PostgreSQL; what matters is the
//! expressions and type names inside, and that an older server takes them for calls of functions. (User-made casts to json
//! that are unsafe poison the whole catalog.)

use super::names;
use super::parse::{Tree, node};
use super::walker::Walker;

impl<'a> Walker<'a, '_> {
    pub(super) fn json(&mut self, tree: &'a Tree, scope: usize) {
        if let Some(name) = function_of_old(tree) {
            names::construct(name, self.catalog, self.findings);
        }
        match tree {
            Tree::JsonValueExpr(value) => self.json_value(Some(value), scope),
            Tree::JsonIsPredicate(test) => self.push_node(&test.expr, scope),
            Tree::JsonArgument(argument) => self.json_value(argument.val.as_deref(), scope),
            Tree::JsonKeyValue(pair) => self.json_pair(Some(pair), scope),
            Tree::JsonFuncExpr(function) => {
                self.json_value(function.context_item.as_deref(), scope);
                self.push_node(&function.pathspec, scope);
                self.push_list(&function.passing, scope);
                self.json_output(function.output.as_ref(), scope);
                self.json_behavior(function.on_empty.as_deref(), scope);
                self.json_behavior(function.on_error.as_deref(), scope);
            }
            Tree::JsonParseExpr(parse) => {
                self.json_value(parse.expr.as_deref(), scope);
                self.json_output(parse.output.as_ref(), scope);
            }
            Tree::JsonScalarExpr(scalar) => {
                self.push_node(&scalar.expr, scope);
                self.json_output(scalar.output.as_ref(), scope);
            }
            Tree::JsonSerializeExpr(serialize) => {
                self.json_value(serialize.expr.as_deref(), scope);
                self.json_output(serialize.output.as_ref(), scope);
            }
            Tree::JsonObjectConstructor(object) => {
                self.push_list(&object.exprs, scope);
                self.json_output(object.output.as_ref(), scope);
            }
            Tree::JsonArrayConstructor(array) => {
                self.push_list(&array.exprs, scope);
                self.json_output(array.output.as_ref(), scope);
            }
            Tree::JsonArrayQueryConstructor(array) => {
                self.push_node(&array.query, scope);
                self.json_output(array.output.as_ref(), scope);
            }
            Tree::JsonObjectAgg(aggregate) => {
                self.json_aggregate(aggregate.constructor.as_deref(), scope);
                self.json_pair(aggregate.arg.as_deref(), scope);
            }
            Tree::JsonArrayAgg(aggregate) => {
                self.json_aggregate(aggregate.constructor.as_deref(), scope);
                self.json_value(aggregate.arg.as_deref(), scope);
            }
            _ => self.json_table(tree, scope),
        }
    }

    fn json_table(&mut self, tree: &'a Tree, scope: usize) {
        match tree {
            Tree::JsonTable(table) => {
                self.json_value(table.context_item.as_deref(), scope);
                self.json_path(table.pathspec.as_deref(), scope);
                self.push_list(&table.passing, scope);
                self.push_list(&table.columns, scope);
                self.json_behavior(table.on_error.as_deref(), scope);
            }
            Tree::JsonTableColumn(column) => {
                self.type_name(column.type_name.as_ref(), scope);
                self.json_path(column.pathspec.as_deref(), scope);
                self.push_list(&column.columns, scope);
                self.json_behavior(column.on_empty.as_deref(), scope);
                self.json_behavior(column.on_error.as_deref(), scope);
            }
            Tree::JsonTablePathSpec(path) => self.json_path(Some(path), scope),
            Tree::JsonBehavior(behavior) => self.json_behavior(Some(behavior), scope),
            _ => self.unknown_tree(tree),
        }
    }

    fn json_value(&mut self, value: Option<&'a node::JsonValueExpr>, scope: usize) {
        if let Some(value) = value {
            self.push_node(&value.raw_expr, scope);
            self.push_node(&value.formatted_expr, scope);
        }
    }

    fn json_pair(&mut self, pair: Option<&'a node::JsonKeyValue>, scope: usize) {
        if let Some(pair) = pair {
            self.push_node(&pair.key, scope);
            self.json_value(pair.value.as_deref(), scope);
        }
    }

    fn json_path(&mut self, path: Option<&'a node::JsonTablePathSpec>, scope: usize) {
        if let Some(path) = path {
            self.push_node(&path.string, scope);
        }
    }

    fn json_behavior(&mut self, behavior: Option<&'a node::JsonBehavior>, scope: usize) {
        if let Some(behavior) = behavior {
            self.push_node(&behavior.expr, scope);
        }
    }

    fn json_output(&mut self, output: Option<&'a node::JsonOutput>, scope: usize) {
        if let Some(output) = output {
            self.type_name(output.type_name.as_ref(), scope);
        }
    }

    fn json_aggregate(&mut self, aggregate: Option<&'a node::JsonAggConstructor>, scope: usize) {
        let Some(aggregate) = aggregate else { return };
        self.json_output(aggregate.output.as_ref(), scope);
        self.push_node(&aggregate.agg_filter, scope);
        self.push_list(&aggregate.agg_order, scope);
        if let Some(window) = &aggregate.over {
            self.window(window, scope);
        }
    }
}

/// What the construct is called where it is a function.
fn function_of_old(tree: &Tree) -> Option<&'static str> {
    use node::JsonExprOp as Op;
    Some(match tree {
        Tree::JsonFuncExpr(function) => match function.op() {
            Op::JsonExistsOp => "json_exists",
            Op::JsonQueryOp => "json_query",
            Op::JsonValueOp => "json_value",
            Op::JsonTableOp | Op::Undefined => "json_table",
        },
        Tree::JsonParseExpr(_) => "json",
        Tree::JsonScalarExpr(_) => "json_scalar",
        Tree::JsonSerializeExpr(_) => "json_serialize",
        Tree::JsonObjectConstructor(_) => "json_object",
        Tree::JsonArrayConstructor(_) | Tree::JsonArrayQueryConstructor(_) => "json_array",
        Tree::JsonObjectAgg(_) => "json_objectagg",
        Tree::JsonArrayAgg(_) => "json_arrayagg",
        Tree::JsonTable(_) => "json_table",
        _ => return None,
    })
}
