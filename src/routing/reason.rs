//! Pure: why a unit runs where it runs. One enum for logs, metrics, the console, `explain` and the tests; `decide` is
//! its only author. Names are stable: dashboards and alerts are built on `label`.

use std::fmt;

/// Why the target is what it is: the statement's own reason, or one of the session's or cluster's.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// A read on a replica that satisfies everything.
    Replica,
    Statement(crate::sql::Reason),
    ExplicitTransaction,
    ReadOnlyTransaction,
    Pinned,
    Hint,
    RouteSetting,
    ConsistencyPrimary,
    /// The session wrote, and the sample that tells how far the log was has not come yet.
    FloorUnknown,
    /// The floor lies beyond the point where the new timeline left the old one: those writes are lost. The session's
    /// floor is to be set to `Unknown` with a fresh ticket, the loss to be counted and logged.
    FloorLost,
    /// The floor is of another cluster or of a timeline whose end is not known; to be treated like `FloorLost`, without
    /// the claim that something is lost.
    FloorIncomparable,
    /// No usable replica has replayed the floor.
    ReplicaBehind,
    /// What the session read last from another replica is not known to be on any other yet.
    LastReadUncovered,
    /// A hint's `max_lag` that no replica keeps.
    MaxLag,
    /// No replica is configured or none is usable.
    NoReplica,
    /// A replica was asked, failed, and no other one is fit.
    ReplicaFailed,
    CatalogChanging,
    /// A short wait for a fresh observation, after which this session may leave a crowded replica.
    Rebalance,
}

impl Reason {
    /// A short stable name without the details: the metrics' label.
    pub fn label(&self) -> &'static str {
        match self {
            Reason::Replica => "replica",
            Reason::Statement(reason) => reason.label(),
            Reason::ExplicitTransaction => "explicit_transaction",
            Reason::ReadOnlyTransaction => "read_only_transaction",
            Reason::Pinned => "pinned",
            Reason::Hint => "hint",
            Reason::RouteSetting => "route_setting",
            Reason::ConsistencyPrimary => "consistency_primary",
            Reason::FloorUnknown => "floor_unknown",
            Reason::FloorLost => "floor_lost",
            Reason::FloorIncomparable => "floor_incomparable",
            Reason::ReplicaBehind => "replica_behind",
            Reason::LastReadUncovered => "last_read_uncovered",
            Reason::MaxLag => "max_lag",
            Reason::NoReplica => "no_replica",
            Reason::ReplicaFailed => "replica_failed",
            Reason::CatalogChanging => "catalog_changing",
            Reason::Rebalance => "rebalance",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Reason::Statement(reason) => return reason.fmt(f),
            Reason::Replica => "a read, and this replica has replayed all that the session may not miss",
            Reason::ExplicitTransaction => "inside a transaction that is not declared READ ONLY",
            Reason::ReadOnlyTransaction => "inside a READ ONLY transaction that runs on this replica",
            Reason::Pinned => "the session holds something in its primary connection that reads depend on",
            Reason::Hint => "a hint in the statement asks for the primary",
            Reason::RouteSetting => "pgweir.route is set to primary",
            Reason::ConsistencyPrimary => "the consistency level is primary",
            Reason::FloorUnknown => "the session wrote, and the position of that write is not known yet",
            Reason::FloorLost => "the session's write was on a timeline that lost it at the failover",
            Reason::FloorIncomparable => "the session's floor cannot be compared with the primary's timeline",
            Reason::ReplicaBehind => "no replica has replayed the session's last write yet",
            Reason::LastReadUncovered => "no other replica is known to have replayed what the session read last",
            Reason::MaxLag => "no replica is within the hint's max_lag",
            Reason::NoReplica => "no replica is usable",
            Reason::ReplicaFailed => "a replica failed the read and no other one is fit",
            Reason::CatalogChanging => "the catalog is changing",
            Reason::Rebalance => "waits for a fresh observation to leave a crowded replica",
        };
        f.write_str(sentence)
    }
}
