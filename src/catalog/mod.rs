//! Pure: what a database's functions, operators, types and relations may do, as an immutable snapshot, by name.
//! The loader makes it from the primary; `sql::classify` reads it. It holds no connection and never changes.

use crate::cluster::Position;

/// A snapshot of one database.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Grows with every snapshot of this database; verdicts of another version are void.
    pub version: u64,
    /// The primary's insert position when the snapshot was read: a replica behind it may know older definitions.
    pub position: Position,
}
