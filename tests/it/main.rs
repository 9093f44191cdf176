//! The ring of tests with real servers and real clients: one file per promise, all in one binary that shares one cluster.
//! With PGWEIR_IT_DIRECT=1 every test runs against PostgreSQL itself, which proves the test.

mod bench;
mod cancel;
mod chaos;
mod checker;
mod clients;
mod cluster;
mod conflicts;
mod consistency;
mod copy;
mod demo;
mod failover;
mod harness;
mod hostile;
mod isolation;
mod levels;
mod limits;
mod login;
mod oracle;
mod prepared;
mod read_only;
mod routing;
mod shared;
mod tls;
mod transcripts;
