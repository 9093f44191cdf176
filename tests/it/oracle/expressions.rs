//! Expressions of the oracle's grammar: typed, so that most statements are valid, over the columns that are in scope, with
//! a hostile part here and there where the statement was chosen to have some.

use Type::{Bool, Int, Json, Numeric, Text, Texts, Time};

use super::dice::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int,
    Text,
    Bool,
    Numeric,
    Time,
    Texts,
    Json,
}

const TYPES: [Type; 7] = [Int, Text, Bool, Numeric, Time, Texts, Json];

/// A column that an expression may name.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub type_: Type,
}

/// How the expressions of one statement are drawn.
pub struct Expressions<'d> {
    pub dice: &'d mut Dice,
    /// One expression in so many is hostile.
    pub hostile: Option<usize>,
}

/// `#` stands for an expression of the type that is named in the list beside it.
type Form = (&'static str, &'static [Type]);

const INT: &[Form] = &[
    ("(# + #)", &[Int, Int]),
    ("(# % 7)", &[Int]),
    ("-#", &[Int]),
    ("abs(#)", &[Int]),
    ("length(#)", &[Text]),
    ("o_double(#)", &[Int]),
    ("(# <+> #)", &[Int, Int]),
    ("cardinality(#)", &[Texts]),
    ("coalesce(#, #)", &[Int, Int]),
    ("nullif(#, #)", &[Int, Int]),
    ("greatest(#, #)", &[Int, Int]),
    ("CASE WHEN # THEN # ELSE # END", &[Bool, Int, Int]),
    ("CASE # WHEN # THEN 1 ELSE 2 END", &[Int, Int]),
    ("extract(year FROM #)::int", &[Time]),
    ("#::o_dom", &[Int]),
    ("position(# IN #)", &[Text, Text]),
    ("(SELECT count(*)::int FROM o_orders WHERE person = #)", &[Int]),
    ("(SELECT max(id) FROM o_parts WHERE what = #)", &[Text]),
    ("ascii(#)", &[Text]),
    ("(# & #)", &[Int, Int]),
    ("num_nulls(#, #)", &[Int, Text]),
];

const TEXT: &[Form] = &[
    ("(# || #)", &[Text, Text]),
    ("upper(#)", &[Text]),
    ("substring(# FROM 1 FOR 3)", &[Text]),
    ("replace(#, 'a', #)", &[Text, Text]),
    ("#::text", &[Int]),
    ("#::text", &[Numeric]),
    ("to_char(#, 'YYYY-MM-DD HH24:MI')", &[Time]),
    ("concat_ws('-', #, #)", &[Text, Int]),
    ("left(#, 4)", &[Text]),
    ("coalesce(#, 'none')", &[Text]),
    ("array_to_string(#, ',')", &[Texts]),
    ("(# ->> 's')", &[Json]),
    ("(#)[1]", &[Texts]),
    ("md5(#)", &[Text]),
    ("trim(both 'p' FROM #)", &[Text]),
    ("format('%s/%s', #, #)", &[Int, Text]),
    ("CASE WHEN # THEN # END", &[Bool, Text]),
    ("quote_literal(#)", &[Text]),
    ("# COLLATE \"C\"", &[Text]),
    ("(SELECT string_agg(name, ',' ORDER BY id) FROM o_snapshot WHERE id < #)", &[Int]),
];

const BOOL: &[Form] = &[
    ("# = #", &[Int, Int]),
    ("# < #", &[Numeric, Numeric]),
    ("# <> #", &[Text, Text]),
    ("NOT #", &[Bool]),
    ("(# AND #)", &[Bool, Bool]),
    ("(# OR #)", &[Bool, Bool]),
    ("# IS NULL", &[Text]),
    ("# IS NOT TRUE", &[Bool]),
    ("# IS DISTINCT FROM #", &[Int, Int]),
    ("# BETWEEN # AND #", &[Int, Int, Int]),
    ("# IN (1, 2, #)", &[Int, Int]),
    ("# LIKE 'p%'", &[Text]),
    ("# ~* 'on [1-3]'", &[Text]),
    ("# SIMILAR TO '%(1|2)%'", &[Text]),
    ("# = ANY (#)", &[Text, Texts]),
    ("# @> ARRAY[#]", &[Texts, Text]),
    ("# ? 'k'", &[Json]),
    ("# @> '{\"k\": 1}'", &[Json]),
    ("# > #", &[Time, Time]),
    ("(#, #) < (#, #)", &[Int, Text, Int, Text]),
    ("EXISTS (SELECT FROM o_orders WHERE person = # AND amount > 10)", &[Int]),
    ("# IN (SELECT person FROM o_orders WHERE note = #)", &[Int, Text]),
    ("# > ALL (SELECT id FROM o_snapshot)", &[Int]),
    ("(#, #) OVERLAPS (#, #)", &[Time, Time, Time, Time]),
];

const NUMERIC: &[Form] = &[
    ("(# + #)", &[Numeric, Numeric]),
    ("round(#, 1)", &[Numeric]),
    ("#::numeric", &[Int]),
    ("(# * 1.5)", &[Numeric]),
    ("coalesce(#, 0.0)", &[Numeric]),
    ("(# ->> 'k')::numeric", &[Json]),
    ("extract(epoch FROM #)", &[Time]),
    ("least(#, #)", &[Numeric, Numeric]),
    ("(SELECT avg(amount) FROM o_orders WHERE person = #)", &[Int]),
];

const TIME: &[Form] = &[
    ("(# + interval '1 day')", &[Time]),
    ("date_trunc('month', #)", &[Time]),
    ("coalesce(#, #)", &[Time, Time]),
    ("(# AT TIME ZONE 'UTC')::timestamptz", &[Time]),
    ("make_timestamptz(2020, 1 + abs(# % 12), 1, 0, 0, 0)", &[Int]),
    ("(SELECT max(at) FROM o_orders WHERE person = #)", &[Int]),
];

const TEXTS: &[Form] = &[
    ("(# || #)", &[Texts, Text]),
    ("ARRAY[#, #]", &[Text, Text]),
    ("string_to_array(#, ' ')", &[Text]),
    ("array_remove(#, #)", &[Texts, Text]),
    ("ARRAY(SELECT name FROM o_grown_up WHERE id < # ORDER BY 1)", &[Int]),
    ("regexp_split_to_array(#, ' ')", &[Text]),
];

const JSON: &[Form] = &[
    ("jsonb_build_object('a', #, 'b', #)", &[Int, Text]),
    ("(# || #)", &[Json, Json]),
    ("(# - 'k')", &[Json]),
    ("jsonb_set(#, '{k}', to_jsonb(#))", &[Json, Int]),
    ("to_jsonb(#)", &[Texts]),
    ("(# -> 'l')", &[Json]),
    ("jsonb_path_query_first(#, '$.l[*] ? (@ > 3)')", &[Json]),
];

/// Each writes, locks, tells of the node, or reads what replicas do not have.
const HOSTILE: &[(Type, &str)] = &[
    (Int, "nextval('o_seq')::int"),
    (Int, "o_write()"),
    (Int, "o_write_sql()"),
    (Int, "o_calls()"),
    (Int, "o_default()"),
    (Int, "(SELECT max(id) FROM o_unlogged)"),
    (Int, "(SELECT max(id) FROM o_v_deep)"),
    (Int, "(SELECT count(*)::int FROM o_mixed)"),
    (Int, "(SELECT last_value::int FROM o_seq)"),
    (Int, "(SELECT id FROM o_people WHERE id = 1 FOR UPDATE)"),
    (Int, "pg_backend_pid()"),
    (Int, "inet_server_port()"),
    (Int, "(SELECT o_total_bad(id) FROM o_snapshot)"),
    (Bool, "pg_is_in_recovery()"),
    (Bool, "o_recovery()"),
    (Bool, "o_atomic_bad()"),
    (Bool, "1 ==! 1"),
    (Bool, "NOT (length('a') === 1)"),
    (Bool, "pg_try_advisory_xact_lock(5)"),
    (Text, "current_setting('port')"),
    (Text, "'x'::o_dom_bad"),
    (Text, "(SELECT lower(v) FROM o_varchar)"),
    (Text, "o_swallow()"),
    (Text, "set_config('application_name', 'o', true)"),
    (Text, "pg_current_wal_lsn()::text"),
    (Text, "txid_current()::text"),
    (Text, "(SELECT p FROM o_v_setting)"),
    (Numeric, "o_lies()::numeric"),
    (Time, "pg_postmaster_start_time()"),
    (Time, "coalesce(pg_last_xact_replay_timestamp(), 'epoch')"),
    (Texts, "ARRAY(SELECT name FROM o_v_lock)"),
    (Json, "to_jsonb((SELECT r FROM o_v_recovery))"),
];

impl Expressions<'_> {
    pub fn any(&mut self, scope: &[Column], depth: usize) -> Column {
        let type_ = *self.dice.of(&TYPES);
        Column { name: self.of(type_, scope, depth), type_ }
    }

    /// The text of an expression of this type.
    pub fn of(&mut self, type_: Type, scope: &[Column], depth: usize) -> String {
        if self.hostile.is_some_and(|chances| self.dice.one_in(chances)) {
            let fitting: Vec<_> = HOSTILE.iter().filter(|(of, _)| *of == type_).collect();
            return self.dice.of(&fitting).1.to_owned();
        }
        let columns: Vec<_> = scope.iter().filter(|c| c.type_ == type_).collect();
        if !columns.is_empty() && (depth == 0 || self.dice.one_in(3)) {
            return self.dice.of(&columns).name.clone();
        }
        if depth == 0 {
            return self.constant(type_);
        }
        let forms = match type_ {
            Int => INT,
            Text => TEXT,
            Bool => BOOL,
            Numeric => NUMERIC,
            Time => TIME,
            Texts => TEXTS,
            Json => JSON,
        };
        let (form, parts) = *self.dice.of(forms);
        let mut text = String::new();
        let mut parts = parts.iter();
        for piece in form.split_inclusive('#') {
            let (fixed, hole) = piece.strip_suffix('#').map_or((piece, false), |fixed| (fixed, true));
            text.push_str(fixed);
            if hole {
                let part = *parts.next().expect("a type for each hole");
                text.push_str(&self.of(part, scope, depth - 1));
            }
        }
        text
    }

    fn constant(&mut self, type_: Type) -> String {
        let list: &[&str] = match type_ {
            Int => &["0", "1", "-3", "42", "NULL::int"],
            Text => &["'a'", "'person 7'", "''", "E'x\\ty'", "$$d$$", "NULL::text"],
            Bool => &["true", "false", "NULL::bool"],
            Numeric => &["0.5", "-2.25", "1e3", "NULL::numeric"],
            Time => &["timestamptz '2020-02-03 04:05+00'", "'2020-01-01 00:00+00'::timestamptz", "NULL::timestamptz"],
            Texts => &["ARRAY['t1','x']", "'{a,b}'::text[]"],
            Json => &["'{\"k\": 1, \"l\": [4]}'::jsonb", "'[]'::jsonb"],
        };
        (*self.dice.of(list)).to_owned()
    }
}
