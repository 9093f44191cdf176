//! One file per command.

pub mod explain;
