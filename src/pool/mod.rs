//! x
pub mod state;
pub mod sync;
