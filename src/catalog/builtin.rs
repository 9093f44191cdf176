//! Pure: which built-in functions a replica answers as the primary would: one list for each major version of PostgreSQL,
//! by exact signature, and the reviewed rules that the lists are made from (`pgweir builtins --node URL` prints one).
//! The analysis reads it. A function that is on no list is unsafe, and so is every function of a version without a list.
//! Each list was made from a server of its version.

use std::collections::HashSet;

use super::{Conduct, Safety};

const LISTS: [(u32, &str); 5] = [
    (14, include_str!("builtin/pg14.txt")),
    (15, include_str!("builtin/pg15.txt")),
    (16, include_str!("builtin/pg16.txt")),
    (17, include_str!("builtin/pg17.txt")),
    (18, include_str!("builtin/pg18.txt")),
];

/// VOLATILE by label, yet they only read, or only draw from a clock or a random source. Each with its reason.
const VOLATILE_BUT_SAFE: &[(&str, &str)] = &[
    ("random", "draws numbers; a seeded session is pinned"),
    ("random_normal", "draws numbers; a seeded session is pinned"),
    ("gen_random_uuid", "draws numbers"),
    ("uuidv4", "draws numbers"),
    ("uuidv7", "draws numbers and reads the clock"),
    ("array_shuffle", "draws numbers"),
    ("array_sample", "draws numbers"),
    ("bernoulli", "TABLESAMPLE; draws numbers"),
    ("system", "TABLESAMPLE; draws numbers"),
    ("clock_timestamp", "reads the clock"),
    ("timeofday", "reads the clock"),
    ("pg_sleep", "waits"),
    ("pg_sleep_for", "waits"),
    ("pg_sleep_until", "waits"),
    ("lo_get", "reads pg_largeobject, which is replicated"),
    ("pg_partition_tree", "reads the catalog"),
    ("pg_partition_ancestors", "reads the catalog"),
    ("pg_xact_commit_timestamp", "replicated through WAL"),
];

/// STABLE or IMMUTABLE by label, yet a replica answers otherwise, or they run what is named in a text.
const LABEL_LIES: &[(&str, &str)] = &[
    ("pg_current_xact_id", "assigns a transaction id"),
    ("pg_current_xact_id_if_assigned", "the node's transaction id"),
    ("pg_current_snapshot", "the node's snapshot"),
    ("txid_current", "assigns a transaction id"),
    ("txid_current_if_assigned", "the node's transaction id"),
    ("txid_current_snapshot", "the node's snapshot"),
    ("txid_status", "the node's view of a transaction"),
    ("age(xid)", "the node's next transaction id"),
    ("mxid_age", "the node's next multixact id"),
    ("version", "of the node's program"),
    ("icu_unicode_version", "of the node's program"),
    ("system_user", "how the server connection was authenticated"),
    ("pg_backup_start_time", "a file of the node"),
    ("pg_config", "of the node's program"),
    ("pg_jit_available", "of the node's program"),
    ("pg_numa_available", "of the node's machine"),
    ("pg_backend_pid", "the server process"),
    ("pg_postmaster_start_time", "the node's"),
    ("pg_conf_load_time", "the node's"),
    ("pg_show_all_settings", "the node's settings"),
    ("pg_get_replication_slots", "slots are not replicated"),
    ("pg_replication_origin_oid", "refused during recovery"),
    ("pg_cursor", "the server process"),
    ("pg_prepared_statement", "the server process"),
    ("pg_listening_channels", "the server process"),
    ("pg_tablespace_location", "a link on the node"),
    ("pg_tablespace_databases", "directories on the node"),
    ("pg_available_extensions", "files on the node"),
    ("pg_available_extension_versions", "files on the node"),
    ("pg_extension_update_paths", "files on the node"),
    ("pg_walfile_name", "refused during recovery by some versions"),
    ("pg_walfile_name_offset", "refused during recovery by some versions"),
    ("database_to_xml", "reads any relation"),
    ("database_to_xmlschema", "reads any relation"),
    ("database_to_xml_and_xmlschema", "reads any relation"),
    ("schema_to_xml", "reads any relation"),
    ("schema_to_xmlschema", "reads any relation"),
    ("schema_to_xml_and_xmlschema", "reads any relation"),
    ("table_to_xml", "reads any relation"),
    ("table_to_xmlschema", "reads any relation"),
    ("table_to_xml_and_xmlschema", "reads any relation"),
    ("pg_input_is_valid", "runs the input function of a type named in a text, a domain's checks too"),
    ("pg_input_error_info", "runs the input function of a type named in a text, a domain's checks too"),
    ("domain_in", "runs the checks of a domain named by number"),
    ("domain_recv", "runs the checks of a domain named by number"),
    ("record_in", "runs input functions of types named by number"),
    ("record_recv", "runs input functions of types named by number"),
    ("array_in", "runs input functions of types named by number"),
    ("array_recv", "runs input functions of types named by number"),
    ("range_in", "runs input functions of types named by number"),
    ("range_recv", "runs input functions of types named by number"),
    ("multirange_in", "runs input functions of types named by number"),
    ("multirange_recv", "runs input functions of types named by number"),
];

/// The same by the beginning of the name.
const LABEL_LIES_PREFIX: &[(&str, &str)] = &[
    ("pg_stat_get_", "statistics are the node's own"),
    ("inet_", "addresses are the connection's own"),
    ("pg_event_trigger_", "only inside an event trigger"),
    ("pg_timezone_", "the node's time zone files"),
];

/// `inet_server_addr` and kin; the other functions of that prefix belong to the type.
const INET_OF_THE_CONNECTION: &[&str] =
    &["inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port"];

/// A built-in's place on a list, by name, signature and label (`i`, `s`, `v`).
pub fn belongs(name: &str, signature: &str, volatility: char) -> bool {
    let listed = |list: &[(&str, &str)]| list.iter().any(|(n, _)| *n == name || *n == signature);
    if volatility == 'v' {
        return listed(VOLATILE_BUT_SAFE) || matches!(name, "current_setting");
    }
    let by_prefix = LABEL_LIES_PREFIX.iter().any(|(p, _)| name.starts_with(p));
    let lies = match name.starts_with("inet_") {
        true => INET_OF_THE_CONNECTION.contains(&name),
        false => by_prefix,
    };
    !lies && !listed(LABEL_LIES)
}

/// The list that a primary of this version is read with.
pub struct Builtins {
    list: Option<HashSet<&'static str, foldhash::fast::FixedState>>,
}

impl Builtins {
    /// `server_version` as in `server_version_num`.
    pub fn of(server_version: u32) -> Builtins {
        let text = LISTS.iter().find(|(major, _)| *major == server_version / 10_000).map(|(_, text)| text);
        Builtins { list: text.map(|text| text.lines().filter(|l| !l.starts_with('#')).collect()) }
    }

    /// `signature` as `name(type,type)`, types as format_type() prints them.
    pub fn safety(&self, name: &str, signature: &str) -> Safety {
        let Some(list) = &self.list else {
            return Safety::Unsafe("no list of built-ins for this version of PostgreSQL".into());
        };
        if !list.contains(signature) {
            return Safety::Unsafe("built-in that differs from node to node, or writes".into());
        }
        match name {
            "current_setting" => Safety::BySetting,
            // Views of information_schema leave the session's temporary objects out by it; a session that has some is
            // pinned. Asked directly it names no setting, and goes to the primary.
            "pg_my_temp_schema" => Safety::BySetting,
            _ => Safety::Safe,
        }
    }
}

/// What a built-in leaves behind in the server process; `None` if no built-in of that name is known to matter.
pub fn conduct(name: &str) -> Option<Conduct> {
    let conduct = match name {
        "nextval" | "setval" => Conduct::SEQUENCE,
        "currval" | "lastval" => Conduct::LAST_SEQUENCE,
        "setseed" => Conduct::SEED,
        "pg_backend_pid" => Conduct::BACKEND_PID,
        "pg_terminate_backend" => Conduct::TERMINATES,
        "set_config" | "ts_stat" | "ts_rewrite" | "lo_open" => Conduct::AUDIT,
        "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => {
            Conduct::AUDIT
        }
        "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => Conduct::AUDIT,
        "pg_replication_origin_session_setup" | "pg_replication_origin_session_reset" => Conduct::ORIGIN,
        // A temporary slot belongs to the server process, and no audit is told of it.
        "pg_create_physical_replication_slot" | "pg_create_logical_replication_slot" => Conduct::ORIGIN,
        "pg_copy_physical_replication_slot" | "pg_copy_logical_replication_slot" => Conduct::ORIGIN,
        // They run a text, or read views that may call anything.
        "query_to_xml" | "query_to_xmlschema" | "query_to_xml_and_xmlschema" | "cursor_to_xml" => {
            Conduct::AUDIT.and(Conduct::SEQUENCE)
        }
        "table_to_xml" | "schema_to_xml" | "database_to_xml" => Conduct::AUDIT.and(Conduct::SEQUENCE),
        "table_to_xml_and_xmlschema" | "schema_to_xml_and_xmlschema" | "database_to_xml_and_xmlschema" => {
            Conduct::AUDIT.and(Conduct::SEQUENCE)
        }
        _ => return None,
    };
    Some(conduct)
}

/// Extensions whose C functions keep nothing in the server process, but for the names in `LOUD_C`.
const QUIET_EXTENSIONS: &[&str] = &[
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intarray",
    "lo",
    "ltree",
    "moddatetime",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_trgm",
    "pg_visibility",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "plpgsql",
    "postgis",
    "postgres_fdw",
    "refint",
    "seg",
    "sslinfo",
    "tablefunc",
    "tcn",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "vector",
    "xml2",
];

/// Of those, the functions that set something or run a text.
const LOUD_C: &[&str] =
    &["set_limit", "crosstab", "crosstab_hash", "connectby", "xpath_table", "check_foreign_key", "check_primary_key"];

/// What a C function of an extension leaves behind.
pub fn extension_conduct(extension: &str, name: &str) -> Conduct {
    let loud = LOUD_C.iter().any(|loud| name.starts_with(loud));
    if QUIET_EXTENSIONS.contains(&extension) && !loud { Conduct::QUIET } else { Conduct::AUDIT.and(Conduct::SEQUENCE) }
}

/// C functions of extensions that are not IMMUTABLE, yet a replica answers alike (settings that they read are mirrored).
pub fn extension_is_safe(extension: &str, name: &str) -> bool {
    match extension {
        "pg_trgm" => !matches!(name, "set_limit" | "show_limit"),
        "pgcrypto" => matches!(name, "gen_random_bytes" | "gen_random_uuid" | "gen_salt") || name.starts_with("pgp_"),
        "uuid-ossp" => name.starts_with("uuid_"),
        "unaccent" => name.starts_with("unaccent"),
        _ => false,
    }
}

/// The file of a version's list, from the functions of its server: (name, signature, label).
pub fn list<'a>(functions: impl Iterator<Item = (&'a str, &'a str, char)>) -> String {
    let mut lines: Vec<&str> =
        functions.filter(|(name, signature, label)| belongs(name, signature, *label)).map(|(_, s, _)| s).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut text =
        String::from("# Built-in functions that a replica answers as the primary would. Made by `pgweir builtins`.\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_what_was_reviewed() {
        for version in [140_005, 150_020, 160_001, 170_001, 180_006] {
            let builtins = Builtins::of(version);
            assert_eq!(builtins.safety("abs", "abs(integer)"), Safety::Safe);
            assert_eq!(builtins.safety("random", "random()"), Safety::Safe);
            assert_eq!(builtins.safety("current_setting", "current_setting(text)"), Safety::BySetting);
            for bad in [
                "pg_is_in_recovery()",
                "nextval(regclass)",
                "pg_current_xact_id()",
                "version()",
                "lastval()",
                "pg_walfile_name(pg_lsn)",
                "system_user()",
                // Its fork of free space grows at other times during replay.
                "pg_table_size(regclass)",
            ] {
                let name = bad.split('(').next().unwrap();
                assert!(matches!(builtins.safety(name, bad), Safety::Unsafe(_)), "{version} {bad}");
            }
        }
        assert!(matches!(Builtins::of(190_000).safety("abs", "abs(integer)"), Safety::Unsafe(_)));
    }

    #[test]
    fn the_rules_agree_with_the_lists() {
        for (_, text) in LISTS {
            for line in text.lines().filter(|l| !l.starts_with('#')) {
                let name = line.split('(').next().unwrap();
                assert!(belongs(name, line, 's') || belongs(name, line, 'v'), "{line}");
            }
        }
    }
}
