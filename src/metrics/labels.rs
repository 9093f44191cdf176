//! Pure: the label values that counters may carry, each list fixed at compile time. `cells` turns a value into a cell's
//! index here, once for each event and without allocating; `export` reads the names back. A value that no list knows
//! counts as `other`, so a new reason can never grow memory or break a scrape; tests/tidy.rs tells when one is missing.

/// A fixed list of label values with a hash table over it, built by the compiler.
pub struct Labels {
    names: &'static [&'static str],
    /// Index into `names` plus one, 0 where free; open addressing.
    slots: [u8; SLOTS],
}

const SLOTS: usize = 128;

impl Labels {
    /// The first name is the one for values that are not in the list.
    const fn new(names: &'static [&'static str]) -> Labels {
        // A table that is at most half full keeps a look-up at one or two comparisons.
        assert!(names.len() <= SLOTS / 2, "too many label values for the table");
        let mut slots = [0; SLOTS];
        let mut index = 0;
        while index < names.len() {
            let mut slot = hash(names[index].as_bytes());
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8 + 1;
            index += 1;
        }
        Labels { names, slots }
    }

    /// The index of `name`, or 0 (`other`).
    pub fn index(&self, name: &str) -> usize {
        let mut slot = hash(name.as_bytes());
        loop {
            match self.slots[slot] {
                0 => return 0,
                found if self.names[found as usize - 1] == name => return found as usize - 1,
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }

    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }

    pub const fn len(&self) -> usize {
        self.names.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

const fn hash(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    let (first, middle, last) = (name[0] as usize, name[name.len() / 2] as usize, name[name.len() - 1] as usize);
    (name.len() * 29 + first * 7 + middle * 13 + last * 3) % SLOTS
}

/// Why a transaction or statement went where it went: the labels of `sql::Reason` and `routing::Reason`.
pub const REASONS: Labels = Labels::new(&[
    "other",
    // sql::Reason
    "read",
    "unparsed",
    "utility",
    "write",
    "row_lock",
    "select_into",
    "modifying_cte",
    "transaction_control",
    "session_state",
    "unsafe_function",
    "unknown_function",
    "unsafe_relation",
    "unknown_relation",
    "unsafe_type",
    "unsafe_operator",
    "unsafe_cast",
    "unsafe_setting",
    "explain",
    "copy",
    "no_catalog",
    // routing::Reason
    "replica",
    "explicit_transaction",
    "read_only_transaction",
    "pinned",
    "hint",
    "route_setting",
    "consistency_primary",
    "floor_unknown",
    "floor_lost",
    "floor_incomparable",
    "replica_behind",
    "last_read_uncovered",
    "max_lag",
    "no_replica",
    "replica_failed",
    "no_primary",
    "catalog_changing",
    "rebalance",
    // What is no statement that a verdict exists for.
    "session_pooling",
    "replication",
    "function_call",
    "retry",
    "learned",
    "too_large",
    "session",
]);

/// Why a replica's answer was not used and the read ran again elsewhere.
pub const RETRIES: Labels = Labels::new(&[
    "other",
    "recovery_conflict",
    "read_only",
    "server_error",
    "connection_lost",
    "connect_failed",
    "shutdown",
    "too_many_connections",
    "missing_object",
    "permission",
    "replica_behind",
    "wrong_role",
    "stalled",
    "checkout_timeout",
    "auto_prepared",
]);

/// The kinds of `sql::Pin`.
pub const PINS: Labels = Labels::new(&[
    "other",
    "temp_objects",
    "hold_cursor",
    "advisory_lock",
    "listen",
    "sql_prepare",
    "random_seed",
    "sequence",
    "backend_pid",
    "load",
    "replication_origin",
    "large_object",
    "opaque",
    "session_pooling",
]);

/// Whose fault an error was.
pub const FAULTS: Labels = Labels::new(&["other", "client", "server", "proxy", "operator"]);

/// The classes of SQLSTATE (manual: "PostgreSQL Error Codes").
pub const CLASSES: Labels = Labels::new(&[
    "other", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25",
    "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57",
    "58", "72", "F0", "HV", "P0", "XX",
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_finds_its_own_index() {
        for labels in [REASONS, RETRIES, PINS, FAULTS, CLASSES] {
            for (index, name) in labels.names().iter().enumerate() {
                assert_eq!(labels.index(name), index, "{name}");
            }
        }
    }

    #[test]
    fn a_name_stands_once() {
        for labels in [REASONS, RETRIES, PINS, FAULTS, CLASSES] {
            let mut names = labels.names().to_vec();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), labels.len());
        }
    }

    #[test]
    fn what_is_unknown_counts_as_other() {
        for unknown in ["", "x", "rea", "readx", "a reason of a later version", "ü"] {
            assert_eq!(REASONS.index(unknown), 0, "{unknown}");
        }
        assert_eq!(REASONS.names()[0], "other");
    }
}
