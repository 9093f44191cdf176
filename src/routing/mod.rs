//! Pure: where may it run? `decide` is the only place that says primary or replica, always with its reason.

mod balance;
mod decide;
mod freshness;
mod reason;
#[cfg(test)]
mod tables;

use std::time::Duration;

use crate::cluster::{Change, Lsn, NodeId, Position};
pub use crate::cluster::{GlobalFloor, Sample};
use crate::sql::{Consistency, Verdict};

pub use decide::decide;
pub use freshness::settle;
pub use reason::Reason;

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
    /// `Cluster::ticket()` at the same moment: a replica can have shown nothing beyond the primary's position then, so
    /// a sample with a greater number covers what was read, too.
    pub ticket: u64,
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
    /// `Cluster::ticket()` when the read arrived: `strict` needs a sample that was asked for afterwards. Taken once for
    /// each unit, not again when it is decided anew.
    pub arrived: u64,
    /// `Cluster::global_floor()`; read when the read arrived or later.
    pub global: GlobalFloor,
    /// How long this unit has been waiting since its first decision; bounds every `Target::Wait`.
    pub waited: Duration,
    /// Two numbers from a random source, for the choice among equals.
    pub dice: (u32, u32),
    /// The read came back from these replicas without an answer: not them again.
    pub avoid: &'a [NodeId],
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub target: Target,
    pub reason: Reason,
    /// Nobody knows whether the replica has replayed this: it is asked in front of the unit, in the same pipeline. If it
    /// has not, its reply is nobody's.
    pub proof: Option<Lsn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Primary,
    Replica(NodeId),
    /// A replica is about to reach the floor: ask again when this has changed, or after so long.
    Wait(Change, Duration),
    /// `on_no_replica = "error"`.
    Refuse,
}
