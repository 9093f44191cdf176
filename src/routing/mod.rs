//! Pure: where may it run? `decide` is the only place that says primary or replica, always with its reason.

use std::time::Duration;

use crate::cluster::{NodeId, Position};
use crate::sql::{Consistency, Verdict};

/// What this session's next read may not miss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// Nothing yet.
    None,
    /// Everything up to here.
    At(Position),
    /// Something was written (or read on the primary) and nobody knows how far the log was: any sample of the primary
    /// whose number is *greater* than `ticket` was asked for afterwards and is an upper bound.
    Unknown { ticket: u64, at_least: Option<Position> },
}

/// The last replica read: other replicas must have replayed what that one may have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRead {
    pub node: NodeId,
    /// The node's `probes_started` when the reply was complete: an observation above it covers what was read.
    pub probes_started: u64,
}

/// The newest sample of the primary's insert position, from `cluster::sampler`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub number: u64,
    pub position: Position,
}

/// What of a session matters for the choice.
#[derive(Clone, Copy, Debug)]
pub struct SessionState {
    pub consistency: Consistency,
    pub route: RouteSetting,
    pub floor: Floor,
    pub last_read: Option<LastRead>,
    pub transaction: Transaction,
    /// A pin that reads depend on (temp objects, random seed, unknown settings): they follow it to the primary.
    pub reads_pinned: bool,
}

/// `SET pgweir.route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSetting {
    Auto,
    Primary,
    Replica,
}

/// The transaction block that the unit runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// None: the unit is a transaction of its own.
    None,
    /// A block was announced (lazy BEGIN), nothing was sent yet. `read_only`: READ ONLY, READ COMMITTED, so it may run
    /// on a replica.
    Announced {
        read_only: bool,
    },
    OnPrimary,
    /// A READ ONLY block that runs on this replica.
    OnReplica(NodeId),
}

/// One routing unit.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The worst member's verdict decides.
    pub verdict: &'a Verdict,
    pub session: &'a SessionState,
    /// The catalog snapshot that the verdict was made with; `None` if it is out of date (DDL under way).
    pub catalog: Option<Position>,
    pub sample: Option<Sample>,
    /// Two numbers from a random source, for the choice among equals.
    pub dice: (u32, u32),
    /// The read came back from this replica without an answer: not this one again.
    pub avoid: Option<NodeId>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub target: Target,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Primary,
    Replica(NodeId),
    /// A replica is about to reach the floor: ask again when the view or the sample changed, at most so long.
    Wait(Duration),
    /// `on_no_replica = "error"`.
    Refuse,
}

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
    FloorUnknown,
    ReplicaBehind,
    NoReplica,
    CatalogChanging,
}
