//! Pure: the name, kind, labels and HELP of every metric, each once. `export` fills them with numbers; the alert rules
//! and the Grafana board under config/ use these names, which a test holds together.
//! HELP is for a person who was woken up: what it counts, and what it means when it grows.

/// How Prometheus reads the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
pub(super) struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All of them, to register.
        pub(super) const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    BUILD_INFO Gauge "pgweir_build_info" ["version"]
        "Always 1; the label tells the version that runs.";
    UPTIME Gauge "pgweir_uptime_seconds" []
        "Seconds since pgweir started.";

    CLIENTS Gauge "pgweir_client_connections" []
        "Clients connected now, also those that are still logging in.";
    CLIENTS_TOTAL Counter "pgweir_client_connections_total" []
        "Clients accepted since the start. A steep rise means that an application connects for each request.";
    CLIENTS_REFUSED Counter "pgweir_client_connections_refused_total" []
        "Clients turned away because limits.clients was reached. Above 0, applications see errors.";
    LOGIN_FAILURES Counter "pgweir_client_login_failures_total" []
        "Logins that failed: wrong password, unknown user, timeout. A rise means a bad deployment or a guesser.";
    CLIENT_RECEIVED Counter "pgweir_client_received_bytes_total" []
        "Bytes read from clients.";
    CLIENT_SENT Counter "pgweir_client_sent_bytes_total" []
        "Bytes written to clients.";
    SERVER_RECEIVED Counter "pgweir_server_received_bytes_total" []
        "Bytes read from nodes.";
    SERVER_SENT Counter "pgweir_server_sent_bytes_total" []
        "Bytes written to nodes.";

    TRANSACTIONS Counter "pgweir_transactions_total" ["route", "node", "reason"]
        "Transactions by where they ran and why. Route replica is work taken off the primary; the reasons of route primary say what kept the rest there.";
    STATEMENTS Counter "pgweir_statements_total" ["route", "node", "reason"]
        "Statements by where they ran and why.";
    QUERY_TIME Histogram "pgweir_query_duration_seconds" ["route", "node"]
        "From the last byte sent to the node to the end of its reply. This is the node's time, not pgweir's.";
    CHECKOUT_TIME Histogram "pgweir_checkout_duration_seconds" ["route", "node"]
        "Waiting for a server connection. Above a few milliseconds the pool is too small or statements are too slow.";
    FLOOR_WAIT Histogram "pgweir_floor_wait_seconds" []
        "Reads that waited until a replica had replayed what their session must see.";
    RETRIES Counter "pgweir_retries_total" ["reason"]
        "Reads that a replica failed and another node answered. Clients saw nothing of it, but the replica may be ill.";
    ERRORS Counter "pgweir_errors_total" ["fault", "sqlstate_class"]
        "Errors sent to clients. Fault proxy is a bug, operator a wrong configuration, server a node, client the application.";

    PINS Gauge "pgweir_pinned_sessions" ["kind"]
        "Sessions that keep a server connection to themselves now, and for what. Each one makes the pool smaller.";
    PINS_TOTAL Counter "pgweir_pins_total" ["kind"]
        "How often a session began to keep its server connection.";
    STATEMENTS_KEPT Gauge "pgweir_session_prepared_statements" []
        "Prepared statements that clients hold.";
    SERVER_PREPARES Counter "pgweir_server_prepares_total" []
        "Statements prepared on server connections. Close to the rate of statements, pool.statements is too small.";
    AUTO_PREPARED Counter "pgweir_auto_prepared_total" []
        "Unnamed statements that were prepared on the server connection already (pool.auto_prepare): parsing and planning spared.";
    VERDICT_HITS Counter "pgweir_verdict_cache_hits_total" []
        "Texts whose verdict (may a replica run it?) was known.";
    VERDICT_MISSES Counter "pgweir_verdict_cache_misses_total" []
        "Texts whose verdict had to be found. A high share means that literals or names vary, or that limits.verdict_cache is too small.";
    PARSES Counter "pgweir_statement_parses_total" []
        "Texts that went through the full parser.";
    CANCELS Counter "pgweir_cancel_requests_total" ["result"]
        "CancelRequests, delivered to a node or ignored because nothing ran.";

    DATABASE_CLIENTS Gauge "pgweir_database_client_connections" ["database", "user"]
        "Clients logged in now.";
    DATABASE_TRANSACTIONS Counter "pgweir_database_transactions_total" ["database", "user"]
        "Transactions by database and user.";
    DATABASE_STATEMENTS Counter "pgweir_database_statements_total" ["database", "user"]
        "Statements by database and user.";
    DATABASE_QUERY_SECONDS Counter "pgweir_database_query_seconds_total" ["database", "user"]
        "Seconds that nodes were busy for a database and user.";
    DATABASE_ERRORS Counter "pgweir_database_errors_total" ["database", "user"]
        "Errors sent to the clients of a database and user.";

    PRIMARY_KNOWN Gauge "pgweir_primary_known" []
        "1 while a node takes writes. At 0, writes wait up to cluster.failover_timeout and then fail.";
    PRIMARY_CHANGES Gauge "pgweir_cluster_epoch" []
        "Grows with every change of the primary or its timeline.";
    TIMELINE Gauge "pgweir_cluster_timeline" []
        "The primary's timeline.";
    NODE_UP Gauge "pgweir_node_up" ["node"]
        "1 if the node answers probes.";
    NODE_ROLE Gauge "pgweir_node_role" ["node", "role"]
        "1 at the role that the node has now: primary, replica or unknown.";
    NODE_HEALTH Gauge "pgweir_node_health" ["node", "health"]
        "1 at the node's present state: healthy; lagging (a replica too far behind for reads); down; refused (its answers could differ from the primary's).";
    REPLICA_LAG Gauge "pgweir_replica_lag_seconds" ["node"]
        "How old a replica's data is at most, by pgweir's clock alone. Absent while unknown.";
    REPLICA_LAG_BYTES Gauge "pgweir_replica_lag_bytes" ["node"]
        "Bytes of the primary's log that a replica has not replayed.";
    NODE_IN_FLIGHT Gauge "pgweir_node_statements_in_flight" ["node"]
        "Statements at work on the node through this pgweir.";
    NODE_LATENCY Gauge "pgweir_node_read_latency_seconds" ["node"]
        "Moving average of a read's time on the node, which the balancer uses.";
    NODE_PROBES Counter "pgweir_node_probes_total" ["node"]
        "Probes sent to the node.";
    EVICTIONS Counter "pgweir_node_evictions_total" ["node"]
        "How often the node was taken out of service, for lag or because it was down.";
    READMISSIONS Counter "pgweir_node_readmissions_total" ["node"]
        "How often the node came back.";
    PRIMARY_SAMPLES Counter "pgweir_primary_samples_total" []
        "Times the primary was asked where its log is. Sessions that wrote share one sample.";

    POOL_CONNECTIONS Gauge "pgweir_pool_connections" ["node", "database", "user", "state"]
        "Server connections of a pool: in_use by a session, or idle.";
    POOL_WAITING Gauge "pgweir_pool_waiting_sessions" ["node", "database", "user"]
        "Sessions in the pool's queue. Above 0 for long, pool.size is too small or statements are too slow.";
    POOL_LONGEST_WAIT Gauge "pgweir_pool_longest_wait_seconds" ["node", "database", "user"]
        "How long the session at the head of the queue has waited.";
    POOL_SIZE Gauge "pgweir_pool_size" ["node", "database", "user"]
        "The pool's limit of server connections.";
    POOL_OPENED Counter "pgweir_pool_connections_opened_total" ["node", "database", "user"]
        "Server connections opened. A steady rise means that they do not live long.";
    POOL_FAILED Counter "pgweir_pool_connection_failures_total" ["node", "database", "user"]
        "Server connections that could not be opened: node unreachable, login refused, too many connections.";

    CATALOG_RELOADS Counter "pgweir_catalog_reloads_total" ["result"]
        "Reads of a database's catalog. While one fails, its unknown names go to the primary.";
    CONFIG_RELOADS Counter "pgweir_config_reloads_total" ["result"]
        "Reloads of the configuration; a failed one leaves the old configuration in force.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_prometheus_conventions() {
        for Family { name, kind, labels, help } in ALL {
            assert!(name.starts_with("pgweir_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(
                *kind == Kind::Counter,
                name.ends_with("_total"),
                "{name}: counters, and only they, end in _total"
            );
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}: a histogram tells its unit");
            assert!(help.ends_with('.') && help.len() >= 20, "{name}: HELP is a sentence");
            assert!(!labels.contains(&"le") && !labels.contains(&"job") && !labels.contains(&"instance"), "{name}");
        }
    }

    #[test]
    fn names_stand_once() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
