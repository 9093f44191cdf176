//! Placeholder of engineer C's module, so that the pool compiles alone: REPLACE with C's at the merge.

/// What logs a user in to a node.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub user: String,
}
