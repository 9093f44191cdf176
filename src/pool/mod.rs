//! Server connections.

pub mod login;
