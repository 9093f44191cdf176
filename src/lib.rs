//! pgweir: a read/write-splitting PostgreSQL proxy. An application's DATABASE_URL points at it and nothing else changes:
//! reads go to replicas, everything else to the primary, and a session always reads its own writes.

pub mod proxy;

pub mod listener;
pub mod worker;

pub mod session;

pub mod sql;

pub mod routing;

pub mod pool;

pub mod protocol;
pub mod stream;
pub mod tls;

pub mod auth;
pub mod catalog;
pub mod cluster;
pub mod config;

pub mod admin;
pub mod cli;
pub mod metrics;
