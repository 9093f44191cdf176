//! pgweir: a read/write-splitting PostgreSQL proxy.

pub mod admin;
pub mod catalog;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod metrics;
pub mod routing;
pub mod sql;
pub mod stream;
