//! The catalog of the virtual cluster: one plain table, functions that leave something in the process, a sequence.

use std::collections::HashMap;

use pgweir::catalog::{Catalog, Conduct, Function, IsSequence, Named, Relation, Safety, TakesRow, Writes};

use super::world::at;

pub fn catalog() -> Catalog {
    let mut catalog = Catalog { version: 1, position: at(0, 0), ..Catalog::default() };
    let function = |schema: &str, safety, conduct| Function {
        schema: schema.into(),
        least_arguments: 0,
        most_arguments: 1,
        takes_row: TakesRow::No,
        safety,
        conduct,
    };
    catalog.functions = HashMap::default();
    for (name, schema, conduct) in [
        ("loud_writer", "public", Conduct::AUDIT),
        ("pg_advisory_lock", "pg_catalog", Conduct::AUDIT),
        ("pg_advisory_unlock_all", "pg_catalog", Conduct::AUDIT),
        ("nextval", "pg_catalog", Conduct::SEQUENCE),
        ("currval", "pg_catalog", Conduct::LAST_SEQUENCE),
    ] {
        let found = function(schema, Safety::Unsafe("it leaves something".into()), conduct);
        catalog.functions.entry(name.into()).or_default().push(found);
    }
    let equals = Named { schema: "pg_catalog".into(), safety: Safety::Safe, conduct: Conduct::QUIET };
    catalog.operators.entry("=".into()).or_default().push(equals);
    for (name, sequence) in [("t", IsSequence::No), ("three", IsSequence::No), ("s", IsSequence::Yes)] {
        let safety = if sequence == IsSequence::No { Safety::Safe } else { Safety::Unsafe("a sequence".into()) };
        catalog.relations.entry(name.into()).or_default().push(Relation {
            schema: "public".into(),
            safety,
            conduct: Conduct::QUIET,
            write_conduct: Conduct::QUIET,
            writes: Writes::Refused,
            sequence,
        });
    }
    catalog
}
