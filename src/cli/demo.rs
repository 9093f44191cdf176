//! `pgweir demo`: placeholder while the tests are proven.
pub mod servers;
