//! The rows of the system catalogs that a snapshot is made of, and the statements that fetch them from a primary of
//! PostgreSQL 14 or newer. The loader runs them in one read-only transaction; the analysis reads the rows.

use tokio_postgres::{Client, Error, Row};

/// The rows of one database.
#[derive(Debug, Default)]
pub struct Rows {
    pub server_version: u32,
    pub functions: Vec<FunctionRow>,
    pub types: Vec<TypeRow>,
    pub relations: Vec<RelationRow>,
    pub operators: Vec<OperatorRow>,
    pub trees: Vec<TreeRow>,
    pub links: Vec<LinkRow>,
    pub columns: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct FunctionRow {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub signature: String,
    pub arguments: i16,
    pub defaults: i16,
    pub variadic: bool,
    /// `f`, `p`, `a` or `w`.
    pub kind: String,
    /// `i`, `s` or `v`.
    pub volatility: String,
    pub language: String,
    /// Of users' functions only.
    pub source: String,
    /// A BEGIN ATOMIC body's tree, and the defaults of arguments.
    pub body_tree: Option<String>,
    pub default_tree: Option<String>,
    /// Input arguments first, in their order, then all others and the result.
    pub types: Vec<u32>,
    pub extension: Option<String>,
    pub settings: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct TypeRow {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `b`, `c`, `d`, `e`, `p`, `r`, `m`.
    pub kind: String,
    pub relation: u32,
    /// Element, base type, subtype and so on.
    pub parts: Vec<u32>,
    /// Input, output and the other functions that values of the type go through.
    pub functions: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct RelationRow {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `r`, `p`, `v`, `m`, `f`, `S`, `c`.
    pub kind: String,
    /// `p` or `u`.
    pub persistence: String,
}

#[derive(Clone, Debug, Default)]
pub struct OperatorRow {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub function: u32,
    /// The functions of its commutator and its negator: the planner may call them in its place (`NOT a = b` is `a <> b`).
    pub stand_ins: Vec<u32>,
}

/// A stored node tree.
#[derive(Clone, Debug, Default)]
pub struct TreeRow {
    /// `read`, `plan` or `write` of a relation, `type`.
    pub of: String,
    pub oid: u32,
    pub text: String,
}

/// Two objects of which the first uses the second.
#[derive(Clone, Debug, Default)]
pub struct LinkRow {
    pub kind: String,
    pub from: u32,
    pub to: u32,
}

const FUNCTIONS: &str = "
SELECT p.oid, n.nspname::text, p.proname::text, p.proname::text || '(' || replace(oidvectortypes(p.proargtypes), ', ', ',') || ')',
       p.pronargs, p.pronargdefaults, p.provariadic <> 0, p.prokind::text, p.provolatile::text, l.lanname::text,
       CASE WHEN p.oid >= 16384 THEN p.prosrc ELSE '' END,
       CASE WHEN p.oid >= 16384 THEN p.prosqlbody::text END,
       CASE WHEN p.oid >= 16384 THEN p.proargdefaults::text END,
       p.proargtypes::oid[] || array_append(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.prorettype),
       e.extname::text, coalesce(p.proconfig, '{}')
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  LEFT JOIN pg_extension e ON e.oid = d.refobjid
 WHERE n.nspname NOT LIKE 'pg\\_temp\\_%'";

const TYPES: &str = "
SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typrelid,
       ARRAY[t.typelem, t.typbasetype, coalesce(r.rngsubtype, 0), coalesce(m.rngtypid, 0)]::oid[],
       ARRAY[coalesce(r.rngcanonical::oid, 0), coalesce(r.rngsubdiff::oid, 0)]::oid[]
         || CASE WHEN t.typtype = 'b' AND t.oid >= 16384
                 THEN ARRAY[t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout]::oid[] ELSE '{}' END
  FROM pg_type t
  JOIN pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_range r ON r.rngtypid = t.oid
  LEFT JOIN pg_range m ON m.rngmultitypid = t.oid
 WHERE n.nspname NOT LIKE 'pg\\_temp\\_%' AND n.nspname NOT LIKE 'pg\\_toast%'";

const RELATIONS: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r','p','v','m','f','S','c','t') AND c.relpersistence <> 't'";

const OPERATORS: &str = "
SELECT o.oid, n.nspname::text, o.oprname::text, o.oprcode::oid,
       ARRAY(SELECT s.oprcode::oid FROM pg_operator s WHERE s.oid IN (o.oprcom, o.oprnegate) AND s.oprcode <> 0)
  FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace";

const TREES: &str = "
SELECT CASE WHEN r.ev_type = '1' AND c.relkind <> 'm' THEN 'read' ELSE 'write' END, r.ev_class, r.ev_action::text || coalesce(r.ev_qual::text, '')
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
UNION ALL SELECT 'read', polrelid, polqual::text FROM pg_policy WHERE polcmd IN ('*', 'r') AND polqual IS NOT NULL
UNION ALL SELECT 'write', polrelid, coalesce(polqual::text, '') || coalesce(polwithcheck::text, '') FROM pg_policy
UNION ALL SELECT 'read', d.adrelid, d.adbin::text FROM pg_attrdef d
            JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated = 'v'
UNION ALL SELECT 'write', adrelid, adbin::text FROM pg_attrdef
UNION ALL SELECT 'type', contypid, conbin::text FROM pg_constraint WHERE contypid <> 0 AND conbin IS NOT NULL
UNION ALL SELECT 'plan', conrelid, conbin::text FROM pg_constraint WHERE conrelid <> 0 AND conbin IS NOT NULL
UNION ALL SELECT 'plan', indrelid, coalesce(indexprs::text, '') || coalesce(indpred::text, '') FROM pg_index
           WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
UNION ALL SELECT 'plan', stxrelid, stxexprs::text FROM pg_statistic_ext WHERE stxexprs IS NOT NULL
UNION ALL SELECT 'plan', partrelid, partexprs::text FROM pg_partitioned_table WHERE partexprs IS NOT NULL";

/// `child` … : relation → relation; `column`: relation → type; `aggregate`: function → function; `trigger`: relation →
/// function; `identity`: relation; `class`: a function of a users' operator class; `cast` …: type → function.
const LINKS: &str = "
SELECT 'child', inhparent, inhrelid FROM pg_inherits
UNION ALL SELECT DISTINCT 'column', a.attrelid, a.atttypid FROM pg_attribute a
           WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
UNION ALL SELECT 'identity', attrelid, 0::oid FROM pg_attribute WHERE attidentity <> '' AND NOT attisdropped
UNION ALL SELECT 'aggregate', aggfnoid::oid, f FROM pg_aggregate,
            unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]) f
           WHERE f <> 0 AND aggfnoid >= 16384
UNION ALL SELECT 'aggregate', aggfnoid::oid, o.oprcode::oid FROM pg_aggregate JOIN pg_operator o ON o.oid = aggsortop WHERE aggfnoid >= 16384
UNION ALL SELECT 'trigger', tgrelid, tgfoid FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'reference', confrelid, conrelid FROM pg_constraint WHERE contype = 'f'
UNION ALL SELECT 'class', amproc::oid, 0::oid FROM pg_amproc WHERE oid >= 16384
UNION ALL SELECT 'class', o.oprcode::oid, 0::oid FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr WHERE a.oid >= 16384
UNION ALL SELECT CASE WHEN castcontext = 'e' AND casttarget NOT IN ('json'::regtype, 'jsonb'::regtype) THEN 'cast' ELSE 'implicit cast' END,
                 casttarget, castfunc FROM pg_cast WHERE castfunc <> 0 AND oid >= 16384
UNION ALL SELECT 'row cast', c.castsource, 0::oid FROM pg_cast c JOIN pg_type t ON t.oid = c.castsource
           WHERE c.oid >= 16384 AND c.castcontext = 'i' AND (t.typtype = 'c' OR t.typname = 'record')";

const COLUMNS: &str = "SELECT DISTINCT attname::text FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped";

/// Changes whenever something that a snapshot is made of changes, or privileges, or what sessions begin with; temporary
/// objects aside. VACUUM and ANALYZE leave it.
pub const FINGERPRINT: &str = "
WITH temporary AS MATERIALIZED (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_temp\\_%' OR nspname LIKE 'pg\\_toast%'),
rows(hash) AS (
  SELECT hashtextextended(concat('p', oid, '/', xmin, ctid), 1) FROM pg_proc WHERE oid >= 16384 AND pronamespace NOT IN (SELECT oid FROM temporary)
  UNION ALL SELECT hashtextextended(concat('r', r.oid, '/', r.xmin, r.ctid), 1) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
             WHERE r.oid >= 16384 AND c.relpersistence <> 't'
  UNION ALL SELECT hashtextextended(concat('l', oid, '/', xmin, ctid), 1) FROM pg_policy
  UNION ALL SELECT hashtextextended(concat('o', oid, '/', xmin, ctid), 1) FROM pg_operator WHERE oid >= 16384
  UNION ALL SELECT hashtextextended(concat('k', oid, '/', xmin, ctid), 1) FROM pg_cast WHERE oid >= 16384
  UNION ALL SELECT hashtextextended(concat('t', oid, '/', xmin, ctid), 1) FROM pg_type WHERE oid >= 16384 AND typnamespace NOT IN (SELECT oid FROM temporary)
  UNION ALL SELECT hashtextextended(concat('n', n.oid, '/', n.xmin, n.ctid), 1) FROM pg_constraint n
             WHERE n.oid >= 16384 AND n.connamespace NOT IN (SELECT oid FROM temporary)
  UNION ALL SELECT hashtextextended(concat('i', inhrelid, '/', inhparent), 1) FROM pg_inherits
  UNION ALL SELECT hashtextextended(concat('g', oid, '/', xmin, ctid), 1) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT hashtextextended(concat('d', d.oid, '/', d.xmin, d.ctid), 1) FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid WHERE c.relpersistence <> 't'
  UNION ALL SELECT hashtextextended(concat('s', oid, '/', nspname, nspacl), 1) FROM pg_namespace WHERE oid >= 16384 AND oid NOT IN (SELECT oid FROM temporary)
  UNION ALL SELECT hashtextextended(concat('a', aggfnoid::oid, '/', xmin, ctid), 1) FROM pg_aggregate WHERE aggfnoid >= 16384
  UNION ALL SELECT hashtextextended(concat('m', oid, '/', xmin), 1) FROM pg_amproc WHERE oid >= 16384
  UNION ALL SELECT hashtextextended(concat('w', oid, '/', xmin), 1) FROM pg_amop WHERE oid >= 16384
  UNION ALL SELECT hashtextextended(concat('e', oid, '/', xmin, ctid), 1) FROM pg_extension
  UNION ALL SELECT hashtextextended(concat('x', indexrelid, '/', xmin), 1) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
  UNION ALL SELECT hashtextextended(concat('y', oid, '/', xmin, ctid), 1) FROM pg_statistic_ext WHERE stxexprs IS NOT NULL
  UNION ALL SELECT hashtextextended(concat('u', attrelid, '/', attnum, attname, atttypid, attidentity, attgenerated, attacl), 1)
              FROM pg_attribute WHERE attnum > 0 AND attrelid >= 16384
               AND attrelid IN (SELECT oid FROM pg_class WHERE relpersistence <> 't' AND relkind IN ('r','p','v','m','f','c'))
  UNION ALL SELECT hashtextextended(concat('b', r::text), 1) FROM pg_roles r
  UNION ALL SELECT hashtextextended(concat('f', m::text), 1) FROM pg_auth_members m
  UNION ALL SELECT hashtextextended(concat('z', z::text), 1) FROM pg_db_role_setting z
  UNION ALL SELECT hashtextextended(concat('c', oid, '/', relname, relnamespace, relkind, relpersistence, relrowsecurity, relacl), 1)
              FROM pg_class WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r','p','v','m','f','S','c'))
SELECT count(*)::text || '/' || coalesce(sum(hash::numeric), 0)::text FROM rows";

/// Whether somebody holds the lock of DROP DATABASE and ALTER DATABASE … RENAME, or that of CREATE DATABASE … TEMPLATE, on
/// this database. Those take it before they wait, 5 s, for the others to leave.
pub const WANTED: &str = "
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'object' AND database = 0 AND classid = 'pg_database'::regclass
  AND objid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND granted AND mode IN ('AccessExclusiveLock', 'ShareLock'))";

/// What new sessions begin with: ALTER ROLE … SET, ALTER DATABASE … SET.
pub const DEFAULTS: &str =
    "SELECT coalesce(sum(hashtextextended(s::text, 1)::numeric), 0)::text FROM pg_db_role_setting s";

/// Of this database's sessions, by role; the empty name is that of all roles.
pub const BEGINNINGS: &str = "
SELECT coalesce((SELECT rolname::text FROM pg_roles r WHERE r.oid = s.setrole), ''),
       sum(hashtextextended(s::text, 1)::numeric)::text
FROM pg_db_role_setting s
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) GROUP BY 1";

/// The position, after the snapshot was read; also proves that the server is a primary.
pub const POSITION: &str = "
SELECT (SELECT system_identifier::text FROM pg_control_system()), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8),
       pg_current_wal_insert_lsn()::text, (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')";

/// Fetches everything in one transaction, so that the rows fit each other.
pub async fn fetch(client: &Client) -> Result<Rows, Error> {
    let version = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await?;
    let (functions, types, relations, operators, trees, links, columns) = tokio::try_join!(
        client.prepare(FUNCTIONS),
        client.prepare(TYPES),
        client.prepare(RELATIONS),
        client.prepare(OPERATORS),
        client.prepare(TREES),
        client.prepare(LINKS),
        client.prepare(COLUMNS),
    )?;
    // Sent all at once: whoever looks for sessions that are idle in a transaction must not find this one.
    let (begun, functions, types, relations, operators, trees, links, columns, ended) = tokio::join!(
        biased;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        client.query(&functions, &[]),
        client.query(&types, &[]),
        client.query(&relations, &[]),
        client.query(&operators, &[]),
        client.query(&trees, &[]),
        client.query(&links, &[]),
        client.query(&columns, &[]),
        client.batch_execute("ROLLBACK"),
    );
    begun.and(ended)?;
    Ok(Rows {
        server_version: u32::try_from(version.get::<_, i32>(0)).unwrap_or(0),
        functions: functions?.iter().map(function).collect(),
        types: types?.iter().map(type_).collect(),
        relations: relations?.iter().map(relation).collect(),
        operators: operators?.iter().map(operator).collect(),
        trees: trees?.iter().map(|r| TreeRow { of: r.get(0), oid: r.get(1), text: r.get(2) }).collect(),
        links: links?.iter().map(|r| LinkRow { kind: r.get(0), from: r.get(1), to: r.get(2) }).collect(),
        columns: columns?.iter().map(|r| r.get(0)).collect(),
    })
}

fn function(r: &Row) -> FunctionRow {
    FunctionRow {
        oid: r.get(0),
        schema: r.get(1),
        name: r.get(2),
        signature: r.get(3),
        arguments: r.get(4),
        defaults: r.get(5),
        variadic: r.get(6),
        kind: r.get(7),
        volatility: r.get(8),
        language: r.get(9),
        source: r.get(10),
        body_tree: r.get(11),
        default_tree: r.get(12),
        types: r.get(13),
        extension: r.get(14),
        settings: r.get(15),
    }
}

fn type_(r: &Row) -> TypeRow {
    TypeRow {
        oid: r.get(0),
        schema: r.get(1),
        name: r.get(2),
        kind: r.get(3),
        relation: r.get(4),
        parts: r.get(5),
        functions: r.get(6),
    }
}

fn relation(r: &Row) -> RelationRow {
    RelationRow { oid: r.get(0), schema: r.get(1), name: r.get(2), kind: r.get(3), persistence: r.get(4) }
}

fn operator(r: &Row) -> OperatorRow {
    OperatorRow { oid: r.get(0), schema: r.get(1), name: r.get(2), function: r.get(3), stand_ins: r.get(4) }
}
