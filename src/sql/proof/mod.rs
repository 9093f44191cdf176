//! Pure: proves the bodies of SQL functions that are stored as text. Starts with none proven, classifies each body by
//! the catalog so far, and goes on until no more are proven; what calls itself, or cannot be read, never is. `proxy` hands
//! it to the catalog's loader, which must not import the classifier itself. Names are by name here too, so that a function's own search_path does not matter.

pub mod analysis;
pub mod body;

use std::collections::HashSet;

use super::{Effect, classify};
use crate::catalog::Catalog;
use crate::catalog::query::Rows;
use crate::catalog::tree::FIRST_USER;
use analysis::Analysis;

/// Each round proves functions that call only proven ones; deeper chains than this stay unproven.
const ROUNDS: usize = 16;

/// The catalog of these rows.
pub fn catalog(rows: &Rows, read_functions: &[String]) -> Catalog {
    let analysis = Analysis::new(rows, read_functions);
    let mut proven = HashSet::new();
    let mut catalog = analysis.catalog(&proven);
    for _ in 0..ROUNDS {
        catalog.version = 1;
        // What nobody names (implicit casts, operator classes) counts as safe here, or such a function could never be
        // proven. Should one stay unproven, the finished catalog lets no read pass, and no proof is ever relied on.
        let poison = catalog.poison.take();
        let before = proven.len();
        for function in &rows.functions {
            let text = function.language == "sql" && function.body_tree.is_none() && function.kind == "f";
            if function.oid < FIRST_USER || !text || proven.contains(&function.oid) {
                continue;
            }
            if classify::classify(&function.source, &catalog).effect == Effect::Read {
                proven.insert(function.oid);
            }
        }
        if proven.len() == before {
            catalog.poison = poison;
            break;
        }
        catalog = analysis.catalog(&proven);
    }
    catalog.version = 0;
    catalog
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::query::{FunctionRow, LinkRow};

    const CASTING: u32 = FIRST_USER;

    fn with_implicit_cast(source: &str) -> Catalog {
        let function = FunctionRow {
            oid: CASTING,
            schema: "public".into(),
            name: "casting".into(),
            signature: "casting(int4)".into(),
            arguments: 1,
            kind: "f".into(),
            volatility: "i".into(),
            language: "sql".into(),
            source: source.into(),
            ..FunctionRow::default()
        };
        let cast = LinkRow { kind: "implicit cast".into(), from: 0, to: CASTING };
        let rows = Rows { server_version: 150_000, functions: vec![function], links: vec![cast], ..Rows::default() };
        catalog(&rows, &[])
    }

    #[test]
    fn an_implicit_cast_poisons_the_catalog_only_while_it_is_unproven() {
        assert_eq!(with_implicit_cast("SELECT 1").poison, None);
        assert!(with_implicit_cast("DELETE FROM t").poison.is_some());
    }
}
