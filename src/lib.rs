//! pgweir: a read/write-splitting PostgreSQL proxy.

pub mod auth;
pub mod catalog;
pub mod cluster;
pub mod config;
pub mod listener;
pub mod pool;
pub mod routing;
pub mod session;
pub mod sql;
pub mod stream;
pub mod worker;
