//! The real cluster and the real binary, for every test of this ring: clusters from a cached template, pgweir in front,
//! a raw protocol session, waiting with deadlines. It never decides what a right answer is; the tests do.

pub mod cluster;
pub mod front;
pub mod metrics;
pub mod proxy;
pub mod raw;
pub mod scratch;
pub mod template;
pub mod wait;

pub use cluster::{Cluster, Stop};
pub use front::Session;
