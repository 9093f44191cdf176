//! Why a checkout gave no server connection. Sessions turn these into an ErrorResponse or into another node; the pool
//! keeps the last one during a back-off, so they are cheap to clone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Role;

use super::login::LoginError;

/// See the file's head.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckoutError {
    /// All connections stayed in use until the deadline; `pool` is `database/user@node`. The client sees 53300.
    #[error("no server connection of pool {pool} became free in time")]
    Timeout { pool: String },
    /// The node answered the login with an error: the body of its ErrorResponse, as it came.
    #[error("node {node} refused the login ({sqlstate})")]
    Refused { node: String, sqlstate: String, error: Arc<[u8]> },
    /// The node could not be reached, or did not speak as expected.
    #[error("cannot connect to node {node}: {error}")]
    Connect { node: String, error: Arc<ConnectError> },
    /// The node is not what the caller takes it for; the cluster was told to look again.
    #[error("node {node} was expected to be a {expected:?} and is a {found:?}")]
    WrongRole { node: String, expected: Role, found: Role },
    #[error("pgweir is shutting down")]
    Shutdown,
}

/// What went wrong on the way to a logged-in connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0} has no address")]
    NoAddress(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("login: {0}")]
    Login(LoginError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Who of the waiting must hear of a failed opening, while connections of the pool are still in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The node is gone, or is something else: nothing will be released that helps.
    Everyone,
    /// Perhaps gone, perhaps slow.
    Oldest,
    /// The node lives but takes no more: waiting for a release is better than an error.
    Nobody,
}

impl CheckoutError {
    pub(super) fn scope(&self) -> Scope {
        match self {
            CheckoutError::Connect { error, .. } if matches!(**error, ConnectError::TimedOut(_)) => Scope::Oldest,
            CheckoutError::Connect { .. } | CheckoutError::WrongRole { .. } | CheckoutError::Shutdown => {
                Scope::Everyone
            }
            CheckoutError::Refused { .. } | CheckoutError::Timeout { .. } => Scope::Nobody,
        }
    }

    /// Whether new credentials may change the answer (SQLSTATE class 28).
    pub(super) fn is_about_credentials(&self) -> bool {
        matches!(self, CheckoutError::Refused { sqlstate, .. } if sqlstate.starts_with("28"))
    }

    /// Whether the cluster's monitor should look at the node at once.
    pub(super) fn is_news_of_the_node(&self) -> bool {
        matches!(self, CheckoutError::Connect { .. } | CheckoutError::WrongRole { .. })
    }
}
