//! Pure: a text + a `Catalog` → its `Verdict`. An allow-list: what is not proven to be a read of what replicas have too
//! goes to the primary. Called on a miss of `cache`, by `explain`, and by the catalog for the bodies of SQL functions.

use super::findings::{Findings, Literals};
use super::parse::{self, ParseError};
use super::proof::body;
use super::{Act, Effect, Reason, Verdict, hint, statement};
use crate::catalog::Catalog;

/// A verdict, and whether it holds for the text with other literals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified {
    pub verdict: Verdict,
    pub literals: Literals,
}

/// What the text would do.
pub fn classify(sql: &str, catalog: &Catalog) -> Verdict {
    examine(sql, catalog).verdict
}

/// The same, for the cache.
pub fn examine(sql: &str, catalog: &Catalog) -> Classified {
    match findings(sql, catalog) {
        Ok((findings, statements)) => {
            let (effect, reason, acts, literals) = findings.into_parts();
            Classified { verdict: Verdict { effect, reason, acts, hint: hint::leading(sql), statements }, literals }
        }
        Err(error) => Classified { verdict: unread(sql, &error.to_string()), literals: Literals::Matter },
    }
}

fn findings(sql: &str, catalog: &Catalog) -> Result<(Findings, u32), ParseError> {
    let parsed = parse::parse(sql)?;
    let mut all = Findings::default();
    let mut statements = 0;
    for tree in parsed.statements()? {
        let found = statement::read(tree, catalog);
        if statements == 0 {
            all = found
        } else {
            all.add(found)
        }
        statements += 1;
    }
    Ok((all, statements))
}

/// A text that is not parsed: too long, no SQL to us, or of another lexis. Its words still tell whether the catalog may
/// change, over-approximated.
pub fn unread(sql: &str, why: &str) -> Verdict {
    let mut findings = Findings::default();
    findings.forbid(Reason::Unparsed(why.to_owned()));
    findings.act(Act::Audit);
    findings.act(Act::Sequence);
    findings.conduct(body::conduct(sql));
    let (effect, reason, acts, _) = findings.into_parts();
    debug_assert_eq!(effect, Effect::Primary);
    Verdict { effect, reason, acts, hint: hint::leading(sql), statements: 1 }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
pub(super) mod tests;
