//! pgweir: a read/write-splitting PostgreSQL proxy.

pub mod auth;
pub mod catalog;
pub mod cluster;
pub mod cli;
pub mod config;
pub mod pool;
pub mod routing;
pub mod session;
pub mod sql;
pub mod stream;
pub mod tls;
