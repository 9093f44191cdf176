//! Pure: would this replica's answers be the primary's? Compares what two nodes said of their settings, version,
//! collations and time zones. The roster refuses a node for what no connection can set right, and publishes the
//! primary's values for what a connection can.

use std::collections::{BTreeMap, BTreeSet};

/// Settings that change answers and that a connection may set for itself. `default_transaction_read_only` is not among
/// them: connections to replicas always set it.
pub(super) const SETTABLE: [&str; 22] = [
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "extra_float_digits",
    "gin_fuzzy_search_limit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "quote_all_identifiers",
    "row_security",
    "search_path",
    "standard_conforming_strings",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
];

/// Settings that load code into every session: what it changes cannot be known.
pub(super) const FIXED: [&str; 2] = ["local_preload_libraries", "session_preload_libraries"];

/// What a node said of itself. What it did not let us see is missing, and missing is not different.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traits {
    pub version: String,
    pub version_num: u32,
    pub settings: BTreeMap<String, String>,
    /// Names that some role or database sets for itself (pg_db_role_setting, the same on all nodes).
    pub overridden: BTreeSet<String>,
    /// Versions of the collation libraries, as text to be compared.
    pub collations: Option<String>,
    /// A digest of local times in zones whose rules changed.
    pub zones: Option<String>,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Likeness {
    /// Why the node must not answer reads.
    pub refused: Option<String>,
    pub notes: Vec<String>,
    /// Settings to set on each connection, with the primary's values.
    pub align: Vec<(String, String)>,
}

/// Holds a replica against the primary.
pub(super) fn compare(primary: &Traits, replica: &Traits) -> Likeness {
    let mut likeness = Likeness::default();
    if primary.version_num / 10_000 != replica.version_num / 10_000 {
        likeness.refuse(format!("it runs PostgreSQL {}, the primary {}", replica.version, primary.version));
    } else if primary.version_num != replica.version_num {
        likeness.notes.push(format!("PostgreSQL {}, the primary runs {}", replica.version, primary.version));
    }
    let differs = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    if differs(&primary.collations, &replica.collations) {
        likeness.refuse(format!(
            "its collation versions differ ({}, the primary has {}): text may sort differently there",
            replica.collations.as_deref().unwrap_or_default(),
            primary.collations.as_deref().unwrap_or_default(),
        ));
    }
    if differs(&primary.zones, &replica.zones) {
        likeness.refuse("its time zone data differ from the primary's: local times may differ there".into());
    }
    for (name, ours) in &replica.settings {
        if let Some(theirs) = primary.settings.get(name).filter(|theirs| *theirs != ours) {
            likeness.on_setting(name, ours, theirs, primary);
        }
    }
    likeness
}

impl Likeness {
    fn refuse(&mut self, why: String) {
        self.refused.get_or_insert(why);
    }

    fn on_setting(&mut self, name: &str, ours: &str, theirs: &str, primary: &Traits) {
        if FIXED.contains(&name) {
            return self.refuse(format!("{name} is '{ours}' there and '{theirs}' on the primary"));
        }
        // A startup parameter outranks what a role or database sets for itself, so for such a role it would be wrong.
        if primary.overridden.contains(&name.to_ascii_lowercase()) {
            return self.refuse(format!(
                "{name} is '{ours}' there and '{theirs}' on the primary, and some role or database sets it for itself"
            ));
        }
        self.notes.push(format!("{name} is '{ours}', on the primary '{theirs}': set on each connection"));
        self.align.push((name.to_owned(), theirs.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(settings: &[(&str, &str)]) -> Traits {
        Traits {
            version: "15.20".into(),
            version_num: 150_020,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            collations: Some("icu 153.120".into()),
            ..Traits::default()
        }
    }

    #[test]
    fn alike_nodes_need_nothing() {
        let node = traits(&[("bytea_output", "hex")]);
        assert_eq!(compare(&node, &node), Likeness::default());
    }

    #[test]
    fn what_a_connection_can_set_is_aligned_with_the_primary() {
        let found = compare(&traits(&[("bytea_output", "hex")]), &traits(&[("bytea_output", "escape")]));
        assert_eq!(found.align, [("bytea_output".to_owned(), "hex".to_owned())]);
        assert_eq!(found.refused, None);
    }

    #[test]
    fn what_a_role_sets_for_itself_cannot_be_aligned() {
        let mut primary = traits(&[("TimeZone", "UTC")]);
        primary.overridden.insert("timezone".into());
        let found = compare(&primary, &traits(&[("TimeZone", "Europe/Paris")]));
        assert!(found.refused.expect("refused").contains("TimeZone"));
        assert!(found.align.is_empty());
    }

    #[test]
    fn preloaded_code_collations_zones_and_majors_refuse() {
        let loaded = compare(
            &traits(&[("session_preload_libraries", "")]),
            &traits(&[("session_preload_libraries", "auto_explain")]),
        );
        assert!(loaded.refused.is_some());
        let other = Traits { collations: Some("icu 153.112".into()), ..traits(&[]) };
        assert!(compare(&traits(&[]), &other).refused.expect("refused").contains("153.112"));
        let zones = |digest: &str| Traits { zones: Some(digest.into()), ..traits(&[]) };
        assert!(compare(&zones("a"), &zones("b")).refused.is_some());
        let newer = Traits { version: "16.1".into(), version_num: 160_001, ..traits(&[]) };
        assert!(compare(&traits(&[]), &newer).refused.is_some());
    }

    #[test]
    fn a_minor_version_is_worth_a_note_and_the_unseen_is_not_different() {
        let patched = Traits { version: "15.18".into(), version_num: 150_018, ..traits(&[]) };
        let found = compare(&traits(&[]), &patched);
        assert_eq!((found.refused, found.notes.len()), (None, 1));
        let hidden = Traits { collations: None, ..traits(&[]) };
        assert_eq!(compare(&traits(&[("session_preload_libraries", "x")]), &hidden), Likeness::default());
    }
}
