//! Every built-in function that can be called by a statement, with generated arguments of its types: the part of the
//! oracle's corpus that nobody has to think of.

use tokio_postgres::{Client, Row};

use super::dice::Dice;
use super::{Source, Statement};

const FUNCTIONS: &str = "
SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname), p.prokind::text, p.proretset, p.provolatile::text,
       ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u(t, o) ORDER BY o),
       coalesce(a.aggkind::text, ''), coalesce(a.aggnumdirectargs, 0::int2)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
 WHERE p.oid < 16384 AND p.prokind <> 'p' AND n.nspname IN ('pg_catalog', 'information_schema')
   AND NOT EXISTS (SELECT FROM unnest(p.proargtypes::oid[]) t
                    WHERE t IN ('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype))
 ORDER BY p.oid";

/// Values for the types that functions take; what is missing is called with NULL.
const VALUES: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false", "NULL::bool"]),
    ("smallint", &["1::int2", "0::int2", "(-7)::int2"]),
    ("integer", &["1", "0", "-1", "7", "60"]),
    ("bigint", &["1::int8", "0::int8", "-3::int8", "1234567890123"]),
    ("numeric", &["1.5", "0.0", "-2.25", "'NaN'::numeric", "1e10"]),
    ("real", &["1.5::real", "0::real", "'-inf'::real"]),
    ("double precision", &["0.5::float8", "0::float8", "-2.25::float8", "'NaN'::float8"]),
    ("money", &["'1.50'::money", "0::money"]),
    (
        "text",
        &[
            "'abc'",
            "''",
            "'o_people'",
            "'public.o_people'",
            "'a,b'",
            "'2020-01-02'",
            "'{\"a\": [1]}'",
            "'UTF8'",
            "'select'",
            "'c'",
            "'YYYY-MM-DD'",
            "'day'",
            "'UTC'",
            "'TimeZone'",
            "'port'",
        ],
    ),
    ("character varying", &["'abc'::varchar", "'2020-01-02'::varchar"]),
    ("character", &["'abc'::bpchar", "' '::bpchar"]),
    ("\"char\"", &["'a'::\"char\"", "'r'::\"char\""]),
    (
        "name",
        &["'o_people'::name", "'app'::name", "'UTF8'::name", "'public'::name", "'pg_class'::name", "'LATIN1'::name"],
    ),
    ("bytea", &["'\\x00ff61'::bytea", "''::bytea"]),
    ("bit", &["B'1010'", "B'0'"]),
    ("bit varying", &["B'1010'::varbit"]),
    ("date", &["date '2020-02-29'", "date 'infinity'", "date '1999-12-31'"]),
    ("time without time zone", &["time '12:34:56'"]),
    ("time with time zone", &["timetz '12:34:56+02'"]),
    ("timestamp without time zone", &["timestamp '2020-02-29 12:34:56'", "timestamp '2020-03-01'"]),
    (
        "timestamp with time zone",
        &["timestamptz '2020-02-29 12:34:56+00'", "timestamptz '2020-03-01 00:00+00'", "now()"],
    ),
    ("interval", &["interval '1 day'", "interval '-1 hour'", "interval '1 month 2 days'"]),
    ("json", &["'{\"a\": [1, null]}'::json", "'[1, \"x\"]'::json", "'3'::json"]),
    ("jsonb", &["'{\"a\": [1, null]}'::jsonb", "'[1, \"x\"]'::jsonb", "'3'::jsonb"]),
    ("jsonpath", &["'$.a'::jsonpath", "'$[*] ? (@ > 0)'::jsonpath"]),
    ("xml", &["'<a>1</a>'::xml"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid"]),
    ("inet", &["inet '10.0.0.1/24'", "inet '::1'"]),
    ("cidr", &["cidr '10.0.0.0/24'"]),
    ("macaddr", &["macaddr '08:00:2b:01:02:03'"]),
    ("macaddr8", &["macaddr8 '08:00:2b:01:02:03:04:05'"]),
    ("point", &["point(1,2)", "point(0,0)"]),
    ("box", &["box(point(0,0),point(2,2))"]),
    ("circle", &["circle(point(0,0),2)"]),
    ("line", &["line(point(0,0),point(1,2))"]),
    ("lseg", &["lseg(point(0,0),point(1,2))"]),
    ("path", &["path '((0,0),(1,1),(2,0))'"]),
    ("polygon", &["polygon '((0,0),(1,1),(2,0))'"]),
    ("tsvector", &["'a:1 b:2'::tsvector", "to_tsvector('english', 'dogs run')"]),
    ("tsquery", &["'a & b'::tsquery", "to_tsquery('english', 'dog')"]),
    ("gtsvector", &["NULL::gtsvector"]),
    (
        "oid",
        &[
            "'o_people'::regclass::oid",
            "1259::oid",
            "23::oid",
            "0::oid",
            "'o_grown_up'::regclass::oid",
            "'app'::regrole::oid",
            "77777::oid",
            "'o_dom_bad'::regtype::oid",
            "'o_lies'::regproc::oid",
        ],
    ),
    ("oidvector", &["'23 25'::oidvector"]),
    ("int2vector", &["'1 2'::int2vector"]),
    ("xid", &["'3'::xid", "'1000'::xid"]),
    ("xid8", &["'3'::xid8"]),
    ("cid", &["'0'::cid"]),
    ("tid", &["'(0,1)'::tid"]),
    ("pg_lsn", &["'0/3000000'::pg_lsn", "'0/1'::pg_lsn"]),
    ("pg_snapshot", &["'10:20:10,14'::pg_snapshot"]),
    ("txid_snapshot", &["'10:20:10,14'::txid_snapshot"]),
    ("regclass", &["'o_people'::regclass", "'pg_class'::regclass", "'o_seq'::regclass", "'o_unlogged'::regclass"]),
    ("regtype", &["'int4'::regtype", "'o_dom_bad'::regtype"]),
    ("regproc", &["'now'::regproc"]),
    ("regprocedure", &["'abs(int)'::regprocedure"]),
    ("regconfig", &["'english'::regconfig", "'simple'::regconfig"]),
    ("regdictionary", &["'simple'::regdictionary"]),
    ("regrole", &["'app'::regrole"]),
    ("regnamespace", &["'public'::regnamespace"]),
    ("aclitem", &["makeaclitem('app'::regrole, 'app'::regrole, 'SELECT', false)"]),
    ("aclitem[]", &["ARRAY[makeaclitem('app'::regrole, 'app'::regrole, 'SELECT', false)]"]),
    ("refcursor", &["'nobody'::refcursor"]),
    ("cstring", &["'1'::cstring", "'abc'::cstring", "'o_people'::cstring", "'{1,2}'::cstring"]),
    ("record", &["ROW(1,'a')", "(SELECT p FROM o_people p WHERE id = 1)"]),
    ("text[]", &["ARRAY['a','b']", "'{}'::text[]"]),
    ("integer[]", &["ARRAY[3,1,2]"]),
    ("bigint[]", &["ARRAY[1,2]::int8[]"]),
    ("double precision[]", &["ARRAY[0.25,0.5]::float8[]"]),
    ("oid[]", &["ARRAY[1259,23]::oid[]"]),
    ("anyelement", &["1", "5"]),
    ("anynonarray", &["1", "5"]),
    ("anyarray", &["ARRAY[3,1,2]", "'{}'::int[]"]),
    ("anyenum", &["'calm'::mood", "'wild'::mood"]),
    ("anyrange", &["'[1,5)'::int4range", "'[3,9]'::int4range"]),
    ("anymultirange", &["'{[1,3),[5,9)}'::int4multirange"]),
    ("anycompatible", &["1", "2"]),
    ("anycompatiblenonarray", &["1"]),
    ("anycompatiblearray", &["ARRAY[1,2]"]),
    ("anycompatiblerange", &["'[1,5)'::int4range"]),
    ("anycompatiblemultirange", &["'{[1,3)}'::int4multirange"]),
    ("\"any\"", &["1", "'x'::text"]),
];

/// `count` calls, spread evenly over all functions; each function at least once if there are so many.
pub async fn calls(primary: &Client, count: usize, dice: &mut Dice) -> Vec<Statement> {
    let functions = primary.query(FUNCTIONS, &[]).await.expect("pg_proc is read");
    let start = dice.below(functions.len());
    let step = (functions.len() / count.max(1)).max(1);
    let order = (0..count).map(|n| (start + n * step) % functions.len());
    order.map(|at| call(&functions[at], dice)).collect()
}

fn call(function: &Row, dice: &mut Dice) -> Statement {
    let (name, kind, returns_set, label): (String, String, bool, String) =
        (function.get(0), function.get(1), function.get(2), function.get(3));
    let types: Vec<String> = function.get(4);
    let (aggregate, direct): (String, i16) = (function.get(5), function.get(6));
    let arguments: Vec<String> = types.iter().map(|t| value(t, dice)).collect();
    let all = arguments.join(", ");
    let sql = match (kind.as_str(), aggregate.as_str()) {
        ("a", "n") if arguments.is_empty() => format!("SELECT {name}(*) FROM generate_series(1, 3)"),
        ("a", "n") => format!("SELECT {name}({all}) FROM generate_series(1, 3)"),
        ("a", _) => {
            let (direct, ordered) = arguments.split_at((direct as usize).min(arguments.len()));
            let ordered = if ordered.is_empty() { "g".to_owned() } else { ordered.join(", ") };
            format!(
                "SELECT {name}({}) WITHIN GROUP (ORDER BY {ordered}) FROM generate_series(1, 3) g",
                direct.join(", ")
            )
        }
        ("w", _) => format!("SELECT {name}({all}) OVER (ORDER BY g) FROM generate_series(1, 3) g"),
        _ if returns_set => format!("SELECT * FROM {name}({all}) LIMIT 50"),
        _ => format!("SELECT {name}({all})"),
    };
    // What is labelled VOLATILE may do anything to the server, promote or stop it: it runs only where the classifier
    // lets it go to a replica, and then there is nothing to fear.
    Statement { source: Source::Builtins, sql, expected: None, may_run: label != "v" }
}

fn value(type_: &str, dice: &mut Dice) -> String {
    match VALUES.iter().find(|(name, _)| *name == type_) {
        Some((_, values)) => (*dice.of(values)).to_owned(),
        None => format!("NULL::{type_}"),
    }
}
