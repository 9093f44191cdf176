//! Pure: what would this statement do? `classify` reads a statement with a `Catalog` in hand and answers with a
//! `Verdict`; `cache` keeps verdicts by fingerprint. Nothing here knows nodes, sessions or sockets.

pub mod cache;
pub mod classify;
mod control;
mod expression;
pub mod findings;
pub mod fingerprint;
pub mod hint;
mod json;
mod keyword;
mod names;
pub mod parse;
pub mod proof;
mod regulars;
pub mod setting;
mod statement;
mod utility;
mod walker;
mod weight;
mod write;

use std::fmt;
use std::time::Duration;

/// Everything that the data's way needs to know of one Query string or one Parse text, computed once and cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub effect: Effect,
    /// Why the effect is not `Read`; for a `Read`, `Reason::Read`.
    pub reason: Reason,
    /// What the session must account for if the text succeeds, in the order of its statements.
    pub acts: Vec<Act>,
    pub hint: Option<Hint>,
    /// Number of (non-empty) statements in the text.
    pub statements: u32,
}

/// Where the text may run at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Proven: only reads, and reads only what a caught-up replica answers alike. Also the empty text.
    Read,
    /// Like `Read`, and error-equivalent in a READ ONLY transaction: the replica refuses it with exactly the error that
    /// the primary would give there (plain DML, row locks, nextval, CREATE TABLE: 25006). Elsewhere like `Primary`.
    RefusedReadOnly,
    /// Only transaction control, settings or cursors: runs where the session is.
    Follow,
    /// Anything else, and everything unknown.
    Primary,
}

/// Why a text is not a replica's. One enum for logs, metrics, `explain`, console and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Read,
    /// The text is no SQL that we can read, or longer than we read.
    Unparsed(String),
    Utility(String),
    Write(String),
    RowLock,
    SelectInto,
    ModifyingCte,
    TransactionControl,
    SessionState(String),
    UnsafeFunction(String),
    UnknownFunction(String),
    UnsafeRelation {
        name: String,
        why: String,
    },
    UnknownRelation(String),
    UnsafeType(String),
    UnsafeOperator(String),
    UnsafeCast(String),
    UnsafeSetting(String),
    Explain,
    Copy(String),
    NoCatalog,
    Learned,
}

impl Reason {
    /// A short stable name without the details: the metrics' label.
    pub fn label(&self) -> &'static str {
        match self {
            Reason::Read => "read",
            Reason::Unparsed(_) => "unparsed",
            Reason::Utility(_) => "utility",
            Reason::Write(_) => "write",
            Reason::RowLock => "row_lock",
            Reason::SelectInto => "select_into",
            Reason::ModifyingCte => "modifying_cte",
            Reason::TransactionControl => "transaction_control",
            Reason::SessionState(_) => "session_state",
            Reason::UnsafeFunction(_) => "unsafe_function",
            Reason::UnknownFunction(_) => "unknown_function",
            Reason::UnsafeRelation { .. } => "unsafe_relation",
            Reason::UnknownRelation(_) => "unknown_relation",
            Reason::UnsafeType(_) => "unsafe_type",
            Reason::UnsafeOperator(_) => "unsafe_operator",
            Reason::UnsafeCast(_) => "unsafe_cast",
            Reason::UnsafeSetting(_) => "unsafe_setting",
            Reason::Explain => "explain",
            Reason::Copy(_) => "copy",
            Reason::NoCatalog => "no_catalog",
            Reason::Learned => "learned",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Read => write!(f, "reads only what replicas have too"),
            Reason::Unparsed(why) => write!(f, "not understood: {why}"),
            Reason::Utility(command) => write!(f, "{command} runs on the primary"),
            Reason::Write(command) => write!(f, "{command} writes"),
            Reason::RowLock => write!(f, "locks rows"),
            Reason::SelectInto => write!(f, "SELECT INTO creates a table"),
            Reason::ModifyingCte => write!(f, "a WITH query writes"),
            Reason::TransactionControl => write!(f, "controls a transaction"),
            Reason::SessionState(what) => write!(f, "{what} belongs to the session"),
            Reason::UnsafeFunction(name) => write!(f, "function {name} is not safe on a replica"),
            Reason::UnknownFunction(name) => write!(f, "function {name} is not in the catalog"),
            Reason::UnsafeRelation { name, why } => write!(f, "relation {name}: {why}"),
            Reason::UnknownRelation(name) => write!(f, "relation {name} is not in the catalog"),
            Reason::UnsafeType(name) => write!(f, "type {name} is not safe on a replica"),
            Reason::UnsafeOperator(name) => write!(f, "operator {name} is not safe on a replica"),
            Reason::UnsafeCast(name) => write!(f, "cast {name} is not safe on a replica"),
            Reason::UnsafeSetting(name) => write!(f, "setting {name} differs from node to node"),
            Reason::Explain => write!(f, "EXPLAIN shows the primary's plan"),
            Reason::Copy(what) => write!(f, "COPY {what}"),
            Reason::NoCatalog => write!(f, "the catalog is not loaded yet"),
            Reason::Learned => write!(f, "a replica refused it as a write"),
        }
    }
}

/// One thing that the session must account for after a text succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// BEGIN or START TRANSACTION.
    Begin(TransactionModes),
    /// COMMIT or END; `chain` as in AND CHAIN.
    Commit {
        chain: bool,
    },
    /// ROLLBACK or ABORT (of the whole transaction).
    Rollback {
        chain: bool,
    },
    /// PREPARE TRANSACTION: ends the transaction block.
    PrepareTransaction,
    /// SET TRANSACTION.
    SetTransaction(TransactionModes),
    /// A plain SET of a session's setting whose final value is this text (SET SESSION; SET ROLE is `role`, SET SESSION
    /// AUTHORIZATION is `session_authorization`, SET TIME ZONE is `timezone`, SET NAMES is `client_encoding`).
    /// Also set_config(name, value, false) with literals, as the whole select list. Lower-case name.
    Set {
        name: String,
        value: String,
    },
    /// RESET name, SET name TO DEFAULT.
    Reset {
        name: String,
    },
    ResetAll,
    DiscardAll,
    /// DEALLOCATE ALL, DISCARD PLANS does not count.
    DeallocateAll,
    Deallocate {
        name: String,
    },
    /// DDL, GRANT, … : what the catalog snapshot says may change when this commits.
    Ddl,
    /// Takes a value from a sequence (nextval, setval, serial or identity default): currval and lastval are set.
    Sequence,
    /// Names currval or lastval: needs the very server process that took the value.
    LastSequence,
    /// May have changed what lives in the server process (settings by function, temp object, LISTEN, session advisory
    /// lock, holdable cursor, SQL PREPARE, …), and only asking the server process tells what.
    Audit,
    /// Ends server processes, which other sessions may take for theirs.
    Terminate,
    /// Leaves state that an audit cannot see; the session keeps its server connection until it ends.
    Pin(Pin),
}

impl Act {
    /// Prepared statements end with it.
    pub fn forgets_statements(&self) -> bool {
        matches!(self, Act::DiscardAll | Act::DeallocateAll | Act::Deallocate { .. })
    }
}

/// Why a session keeps its primary connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    TempObjects,
    HoldCursor,
    AdvisoryLock,
    Listen,
    SqlPrepare,
    RandomSeed,
    Sequence,
    BackendPid,
    Load,
    ReplicationOrigin,
    /// The audit failed or could not see; nothing is known.
    Opaque,
    /// The pool's mode is `session`.
    SessionPooling,
}

impl Pin {
    /// The metrics' and the console's name.
    pub fn label(self) -> &'static str {
        match self {
            Pin::TempObjects => "temp_objects",
            Pin::HoldCursor => "hold_cursor",
            Pin::AdvisoryLock => "advisory_lock",
            Pin::Listen => "listen",
            Pin::SqlPrepare => "sql_prepare",
            Pin::RandomSeed => "random_seed",
            Pin::Sequence => "sequence",
            Pin::BackendPid => "backend_pid",
            Pin::Load => "load",
            Pin::ReplicationOrigin => "replication_origin",
            Pin::Opaque => "opaque",
            Pin::SessionPooling => "session_pooling",
        }
    }
}

/// The modes that a BEGIN or SET TRANSACTION names; `None` where it is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    pub read_only: Option<bool>,
    pub isolation: Option<Isolation>,
    pub deferrable: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// What a comment in the text asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    Primary,
    /// Honoured unless the text is a proven write.
    Replica,
    MaxLag(Duration),
    Consistency(Consistency),
}

/// What a read may not miss; see the README's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    Eventual,
    Session,
    Global,
    Strict,
    Primary,
}

/// What of the session changes how its text is cut into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lexis {
    /// standard_conforming_strings on, and a client_encoding in which no byte of a character looks like ASCII.
    Standard,
    /// Anything else: the text is not read, and goes to the primary.
    Unusual,
}
