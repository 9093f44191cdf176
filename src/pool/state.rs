//! Placeholder of the integrator's file, so that the pool compiles alone: REPLACE with the integrator's at the merge.

#[derive(Debug, Default)]
pub struct ConnectionState {
    /// A session left something that only closing the connection removes.
    pub spoiled: bool,
}
