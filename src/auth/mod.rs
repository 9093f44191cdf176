//! Placeholder of engineer C's module, so that the pool compiles alone: REPLACE with C's at the merge.

use std::sync::Arc;

/// What logs a user in to a node.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub user: Arc<str>,
    pub proof: Proof,
}

#[derive(Clone, Debug)]
pub enum Proof {
    Nothing,
}
