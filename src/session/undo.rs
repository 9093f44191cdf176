//! Pure: what sending a unit changed in the session's statements, kept until the unit is over: a read that a replica could
//! not answer is sent once more, and must find the session as it was.

use super::statements::Statement;

/// One change, by its opposite.
#[derive(Debug)]
pub(super) enum Undo {
    /// The name is new.
    Parsed(Box<[u8]>),
    /// The name was closed.
    Closed(Box<[u8]>, Statement),
}
