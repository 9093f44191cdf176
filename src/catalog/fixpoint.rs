//! Pure: proves the bodies of SQL functions that are stored as text. Starts with none proven, classifies each body by
//! the catalog so far, and goes on until no more are proven; what calls itself, or cannot be read, never is. The loader
//! calls it. Names are by name here too, so that a function's own search_path does not matter.

use std::collections::HashSet;

use super::Catalog;
use super::analysis::Analysis;
use super::query::Rows;
use super::tree::FIRST_USER;
use crate::sql::{Effect, classify};

/// Each round proves functions that call only proven ones; deeper chains than this stay unproven.
const ROUNDS: usize = 16;

/// The catalog of these rows.
pub fn catalog(rows: &Rows, read_functions: &[String]) -> Catalog {
    let analysis = Analysis::new(rows, read_functions);
    let mut proven = HashSet::new();
    let mut catalog = analysis.catalog(&proven);
    for _ in 0..ROUNDS {
        catalog.version = 1;
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
            break;
        }
        catalog = analysis.catalog(&proven);
    }
    catalog.version = 0;
    catalog
}
