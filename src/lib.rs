//! pgweir: a read/write-splitting PostgreSQL proxy.

pub mod catalog;
pub mod cluster;
pub mod config;
pub mod pool;
pub mod protocol;
pub mod routing;
pub mod session;
pub mod sql;
pub mod stream;
