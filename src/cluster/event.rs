//! Pure: what changed among the nodes. The roster tells it, `monitor` writes one line about each, `handle` acts on a new
//! primary.

use std::time::Duration;

use super::{Health, NodeId, Role, Timeline};

/// A change that people want to read one line about.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Health { node: NodeId, from: Health, to: Health, lag: Option<Duration> },
    Role { node: NodeId, from: Role, to: Role },
    Primary { node: Option<NodeId>, timeline: Timeline },
    System { system: u64 },
}
