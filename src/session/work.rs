//! Pure: what the machine is made of: the phase, the transaction block, the unit under way, and what a transaction left to
//! look after. Data only; the parts of the machine give it its meaning.

use std::rc::Rc;

use super::unit::End;
use crate::routing::Target;
use crate::sql::{TransactionModes, Verdict};

/// See house.md: Idle and Queued are `Ready` and `Routed` here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between units.
    Ready,
    /// Decided; a server connection is on its way.
    Routed(Target),
    /// The unit is being sent, or its replies are owed.
    Running,
    /// A transaction is being rolled back on its replica, to be opened elsewhere.
    Leaving,
    /// The unit failed before it was sent: its messages are dropped up to Sync.
    Skipping,
}

/// The transaction block, as the client sees it.
#[derive(Debug, Default)]
pub(super) enum Block {
    #[default]
    None,
    /// The client was told that its BEGIN is done; no node has heard of it yet.
    Announced(Box<Announced>),
    /// Open on a replica: so far only reads were in it, so it can move.
    Replica(Box<Announced>),
    Primary,
    /// It was lost, or could not be opened: everything fails until the client ends it. A node that hears of it is made to
    /// fail one of its own, opened alike where that is known, so that its words are PostgreSQL's and AND CHAIN goes on as it
    /// would.
    Doomed(Box<Announced>),
}

impl Block {
    /// It goes on as one that failed.
    pub fn doom(&mut self) {
        *self = match std::mem::take(self) {
            Block::Announced(announced) | Block::Replica(announced) | Block::Doomed(announced) => {
                Block::Doomed(announced)
            }
            Block::None | Block::Primary => {
                Block::Doomed(Box::new(Announced { text: b"BEGIN".to_vec(), ..Announced::default() }))
            }
        }
    }
}

/// A BEGIN that is sent with the first real statement.
#[derive(Clone, Debug, Default)]
pub(super) struct Announced {
    /// The client's own texts, joined by semicolons.
    pub text: Vec<u8>,
    pub modes: TransactionModes,
}

/// Where the portals of a unit must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Portals {
    /// Anywhere: it binds the unnamed one, and uses it up.
    #[default]
    Own,
    /// Where an earlier unit bound the unnamed one.
    Earlier,
    /// Where later units find it: it has a name, or only a part of its rows is wanted.
    Lasting,
}

/// How a COPY FROM STDIN is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CopyIn {
    #[default]
    None,
    Simple,
    Extended,
}

/// What happened to a unit so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Clean,
    /// An error was forwarded.
    Failed,
    /// The node's last words (FATAL) were forwarded.
    Ended,
    /// A replica's error was held back: the primary is asked instead when the replica is done.
    Refused,
}

/// Whether a reply may go to the client at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reply {
    #[default]
    Direct,
    /// From a replica: held back while it can still be asked for elsewhere.
    Held,
}

/// A message that is longer than what has arrived of it goes through in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piecemeal {
    pub left: usize,
    pub forward: Forward,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Forward {
    #[default]
    Pass,
    Drop,
}

/// The unit that is being executed.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// What ended it; `None` while more of it is to be sent.
    pub end: Option<End>,
    /// Which of the unit's texts is the next to be sent.
    pub next_text: usize,
    pub fate: Fate,
    pub reply: Reply,
    /// Whether it may be run a second time (a proven read, autocommit).
    pub replay: Replay,
    pub copy: CopyIn,
    /// Something of it was sent.
    pub begun: bool,
    /// After an error the server ignores everything up to a Sync that was not sent yet.
    pub skipping: bool,
    pub from_client: Piecemeal,
    pub from_server: Piecemeal,
    /// What stands for the unnamed statement on the server connection: a shared one of this number.
    pub promoted: Option<u32>,
    /// The texts with acts whose execution is over.
    pub executed: Vec<Executed>,
}

/// What must be seen to succeed before more of the unit is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Awaited {
    #[default]
    Nothing,
    /// A change of role.
    Settings,
    /// DEALLOCATE, DISCARD ALL in a pipeline.
    Forgetting,
}

/// A text that was executed, and whether it failed: one that succeeded may stand in a unit that fails later.
#[derive(Clone, Debug)]
pub(super) struct Executed {
    pub verdict: Rc<Verdict>,
    pub fate: Fate,
}

impl Executed {
    /// A statement that failed and stood alone: nothing of it was done but what outlives a transaction.
    pub fn is_void(&self) -> bool {
        self.fate == Fate::Failed && self.verdict.statements <= 1
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replay {
    #[default]
    Never,
    Read,
    /// It was already run a second time.
    Again,
}

/// The metrics' word for SQLSTATE 25006.
pub(super) const READ_ONLY: &str = "read_only";

/// The metrics' word for a replica that had not replayed what the read must see.
pub(super) const BEHIND: &str = "replica_behind";

/// The metrics' word for an error where a shared statement stood for an unnamed one.
pub(super) const PROMOTED: &str = "auto_prepared";

/// What kept a unit from being answered where it was sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Setback {
    #[default]
    None,
    /// A node that was to answer, or was about to, did not (the metrics' word for it): it is among those to avoid.
    Lost(&'static str),
    /// The replica answered with an error (the metrics' word for it): only the primary's word counts.
    Refused(&'static str),
}

/// What the transaction at hand did that must be looked after when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces(u8);

impl Traces {
    /// Acts about settings or the server process were seen inside a block.
    pub(super) const AUDIT: Traces = Traces(1);
    /// The catalog may change.
    pub(super) const DDL: Traces = Traces(2);
    /// A setting went back to the server's default, although the session came with a value of its own.
    pub(super) const TELL: Traces = Traces(4);
    /// The session reads currval or lastval: taking a sequence value pins it from now on.
    pub(super) const SEQUENCES: Traces = Traces(8);
    /// The session's SQL names its prepared statements: on its primary connection they have the names that it gave them.
    pub(super) const OWN_NAMES: Traces = Traces(16);

    pub(super) fn add(&mut self, trace: Traces) {
        self.0 |= trace.0;
    }

    pub(super) fn remove(&mut self, trace: Traces) {
        self.0 &= !trace.0;
    }

    pub(super) fn has(self, trace: Traces) -> bool {
        self.0 & trace.0 != 0
    }
}
