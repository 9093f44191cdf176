//! Statements of the oracle's grammar: joins, subselects, WITH, windows, set operations, aggregates over the tables, views
//! and functions of schema.sql. One statement in three may have hostile parts.

use super::dice::Dice;
use super::expressions::{Column, Expressions, Type};
use super::{Source, Statement};

const PEOPLE: &[(&str, Type)] = &[
    ("id", Type::Int),
    ("name", Type::Text),
    ("age", Type::Int),
    ("score", Type::Numeric),
    ("joined", Type::Time),
    ("tags", Type::Texts),
    ("doc", Type::Json),
    ("boss", Type::Int),
];
const ORDERS: &[(&str, Type)] =
    &[("id", Type::Int), ("person", Type::Int), ("amount", Type::Numeric), ("at", Type::Time), ("note", Type::Text)];

/// What a FROM may name, and the columns that it brings.
const RELATIONS: &[(&str, &[(&str, Type)])] = &[
    ("o_people", PEOPLE),
    ("public.o_people", PEOPLE),
    ("o_orders", ORDERS),
    ("o_parts", &[("id", Type::Int), ("what", Type::Text)]),
    ("ONLY o_parts_new", &[("id", Type::Int), ("what", Type::Text)]),
    ("o_grown_up", &[("id", Type::Int), ("name", Type::Text), ("age", Type::Int), ("joined", Type::Time)]),
    ("o_report", &[("n", Type::Int), ("total", Type::Numeric)]),
    ("o_snapshot", &[("id", Type::Int), ("name", Type::Text)]),
    ("(VALUES (1, 'a'), (2, 'b'))", &[("column1", Type::Int), ("column2", Type::Text)]),
    ("o_orders TABLESAMPLE SYSTEM (100)", ORDERS),
];

const HOSTILE_RELATIONS: &[(&str, &[(&str, Type)])] = &[
    ("o_unlogged", &[("id", Type::Int)]),
    ("o_v_unlogged", &[("id", Type::Int)]),
    ("o_mixed", &[("id", Type::Int)]),
    ("o_parent", &[("id", Type::Int)]),
    ("o_seq", &[("last_value", Type::Int)]),
    ("o_v_lock", &[("id", Type::Int), ("name", Type::Text)]),
    ("o_folded", &[("id", Type::Int)]),
    ("pg_stat_user_tables", &[("seq_scan", Type::Int)]),
];

struct Grammar<'d> {
    e: Expressions<'d>,
    /// Numbers the aliases.
    names: usize,
}

pub fn statement(dice: &mut Dice) -> Statement {
    let hostile = dice.one_in(3).then_some(12);
    let mut grammar = Grammar { e: Expressions { dice, hostile }, names: 0 };
    let (query, _) = grammar.query(&[], 2);
    let sql = match grammar.e.dice.below(20) {
        0 => format!("COPY ({query}) TO STDOUT"),
        1 => format!("{query}; SELECT 1"),
        2 => format!("/* a comment */ {query} -- and one at the end"),
        3 if hostile.is_some() => format!("SELECT * FROM o_people WHERE id IN (SELECT 1 FROM ({query}) z) FOR UPDATE"),
        4 if hostile.is_some() => {
            format!("WITH w AS (INSERT INTO o_log (what) VALUES ('g') RETURNING id) SELECT * FROM ({query}) z, w")
        }
        _ => query,
    };
    Statement { source: Source::Grammar, sql, expected: None, may_run: true }
}

impl Grammar<'_> {
    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// A query and the columns that it has.
    fn query(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        match self.e.dice.below(10) {
            0 if depth > 0 => self.set_operation(outer, depth),
            1 if depth > 0 => self.with(outer, depth),
            2 => self.grouped(outer, depth),
            3 => self.windowed(outer, depth),
            _ => self.select(outer, depth),
        }
    }

    fn select(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        let (from, mut scope) = self.from(outer, depth);
        scope.extend_from_slice(outer);
        let (list, columns) = self.targets(&scope);
        let distinct = if self.e.dice.one_in(6) { "DISTINCT " } else { "" };
        let mut sql = format!("SELECT {distinct}{list} FROM {from}");
        self.filter(&mut sql, &scope);
        // Everything is ordered by before it is cut off, so that both nodes cut alike.
        if self.e.dice.one_in(3) {
            let all: Vec<String> = (1..=columns.len()).map(|n| n.to_string()).collect();
            sql += &format!(" ORDER BY {}", all.join(", "));
            if self.e.dice.one_in(2) {
                sql += *self.e.dice.of(&[" LIMIT 5", " LIMIT 3 OFFSET 1", " FETCH FIRST 2 ROWS ONLY"]);
            }
        }
        (sql, columns)
    }

    fn targets(&mut self, scope: &[Column]) -> (String, Vec<Column>) {
        let mut list = Vec::new();
        let mut columns = Vec::new();
        for _ in 0..1 + self.e.dice.below(3) {
            let column = self.e.any(scope, 2);
            let name = self.name("c");
            list.push(format!("{} AS {name}", column.name));
            columns.push(Column { name, type_: column.type_ });
        }
        (list.join(", "), columns)
    }

    fn filter(&mut self, sql: &mut String, scope: &[Column]) {
        if self.e.dice.below(3) > 0 {
            *sql += &format!(" WHERE {}", self.e.of(Type::Bool, scope, 2));
        }
    }

    fn from(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        let (mut text, mut scope) = self.item(&[], depth);
        for _ in 0..self.e.dice.below(3) {
            let lateral = depth > 0 && self.e.dice.one_in(5);
            let seen: Vec<Column> = scope.iter().chain(outer).cloned().collect();
            let (item, columns) =
                if lateral { self.lateral(&seen, depth) } else { self.item(&[], depth.saturating_sub(1)) };
            scope.extend(columns);
            let join = *self.e.dice.of(&["JOIN", "LEFT JOIN", "CROSS JOIN"]);
            text += &format!(" {join} {item}");
            if join != "CROSS JOIN" {
                text += &format!(" ON {} = {}", self.e.of(Type::Int, &scope, 0), self.e.of(Type::Int, &scope, 0));
            }
        }
        (text, scope)
    }

    fn lateral(&mut self, seen: &[Column], depth: usize) -> (String, Vec<Column>) {
        let (query, columns) = self.query(seen, depth - 1);
        let alias = self.name("l");
        (format!("LATERAL ({query}) AS {alias}"), qualified(&columns, &alias))
    }

    fn item(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        if depth > 0 && self.e.dice.one_in(6) {
            let (query, columns) = self.query(outer, depth - 1);
            let alias = self.name("s");
            return (format!("({query}) AS {alias}"), qualified(&columns, &alias));
        }
        if self.e.dice.one_in(10) {
            let alias = self.name("f");
            let column = Column { name: format!("{alias}.{alias}"), type_: Type::Int };
            return (format!("generate_series(1, 3) AS {alias}"), vec![column]);
        }
        let hostile = self.e.hostile.is_some() && self.e.dice.one_in(12);
        let (relation, columns) = *self.e.dice.of(if hostile { HOSTILE_RELATIONS } else { RELATIONS });
        let alias = self.name("r");
        // The alias stands in front of TABLESAMPLE.
        let text = match relation.split_once(' ') {
            Some((name, sample)) if sample.starts_with("TABLESAMPLE") => format!("{name} AS {alias} {sample}"),
            _ => format!("{relation} AS {alias}"),
        };
        let column = |(name, type_): &(&str, Type)| Column { name: format!("{alias}.{name}"), type_: *type_ };
        (text, columns.iter().map(column).collect())
    }

    fn set_operation(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        let types: Vec<Type> = (0..2).map(|_| self.e.any(&[], 0).type_).collect();
        let arm = |grammar: &mut Self| {
            let (from, mut scope) = grammar.from(outer, depth - 1);
            scope.extend_from_slice(outer);
            let list: Vec<String> = types.iter().map(|t| grammar.e.of(*t, &scope, 1)).collect();
            let mut sql = format!("SELECT {} FROM {from}", list.join(", "));
            grammar.filter(&mut sql, &scope);
            sql
        };
        let (left, right) = (arm(self), arm(self));
        let operator = *self.e.dice.of(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
        let alias = self.name("u");
        let names: Vec<String> = (0..types.len()).map(|n| format!("{alias}c{n}")).collect();
        let columns = names.iter().zip(&types).map(|(name, type_)| Column { name: name.clone(), type_: *type_ });
        let columns = columns.collect();
        (format!("SELECT * FROM (({left}) {operator} ({right})) AS {alias}({})", names.join(", ")), columns)
    }

    fn with(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        // Sometimes the name hides a table that replicas do not have.
        let name = if self.e.dice.one_in(5) { "o_unlogged".to_owned() } else { self.name("w") };
        let (inner, columns) = self.query(&[], depth - 1);
        let mut scope = qualified(&columns, "x");
        scope.extend_from_slice(outer);
        let (list, columns) = self.targets(&scope);
        let kind = *self.e.dice.of(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
        let mut sql = format!("WITH {name} AS {kind}({inner}) SELECT {list} FROM {name} AS x");
        self.filter(&mut sql, &scope);
        (sql, columns)
    }

    fn grouped(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        let (from, scope) = self.from(outer, depth);
        let key = self.e.of(Type::Int, &scope, 1);
        let of_int = self.e.of(Type::Int, &scope, 1);
        let of_text = self.e.of(Type::Text, &scope, 0);
        let aggregate = *self.e.dice.of(&[
            "count(#)",
            "sum(#)",
            "max(#)",
            "o_total(#)",
            "count(DISTINCT #)",
            "sum(#) FILTER (WHERE true)",
            "percentile_disc(0.5) WITHIN GROUP (ORDER BY #)",
        ]);
        let (a, b, c) = (self.name("g"), self.name("g"), self.name("g"));
        let mut sql = format!(
            "SELECT {key} AS {a}, ({})::int AS {b}, string_agg({of_text}, ',' ORDER BY {of_text}) AS {c} FROM {from}",
            aggregate.replace('#', &of_int)
        );
        self.filter(&mut sql, &scope);
        sql += *self.e.dice.of(&[" GROUP BY 1", " GROUP BY ROLLUP (1)", " GROUP BY 1 HAVING count(*) > 1"]);
        let column = |name, type_| Column { name, type_ };
        (sql, vec![column(a, Type::Int), column(b, Type::Int), column(c, Type::Text)])
    }

    fn windowed(&mut self, outer: &[Column], depth: usize) -> (String, Vec<Column>) {
        let (from, scope) = self.from(outer, depth);
        let argument = self.e.of(Type::Int, &scope, 1);
        let order = self.e.of(Type::Text, &scope, 0);
        let function = *self.e.dice.of(&["rank()", "dense_rank()", "sum(#)", "max(#)", "count(#)", "o_total(#)"]);
        let name = self.name("v");
        let mut sql = format!(
            "SELECT ({} OVER (PARTITION BY {} ORDER BY {order}))::int AS {name} FROM {from}",
            function.replace('#', &argument),
            self.e.of(Type::Int, &scope, 0),
        );
        self.filter(&mut sql, &scope);
        (sql, vec![Column { name, type_: Type::Int }])
    }
}

fn qualified(columns: &[Column], alias: &str) -> Vec<Column> {
    columns.iter().map(|c| Column { name: format!("{alias}.{}", c.name), type_: c.type_ }).collect()
}
