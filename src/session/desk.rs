//! Pure: what a machine needs only while something is under way. Most sessions of most applications are at rest: they lend
//! the room for it from their worker, where `run` puts it back, cleared, when nothing is under way any more.

use std::ops::{Deref, DerefMut};

use smallvec::SmallVec;

use super::machine::Finished;
use super::pipeline::Pipeline;
use super::undo::Undo;
use super::unit::Unit;
use super::vacate::Abroad;
use super::work::{Setback, Work};
use crate::cluster::{Lsn, NodeId};
use crate::routing;

/// A unit under way, from its first byte to its last reply, and what of a transaction must be looked after at its end.
#[derive(Default)]
pub struct UnderWay {
    pub(super) unit: Unit,
    pub(super) work: Work,
    pub(super) owed: Pipeline,
    pub(super) setback: Setback,
    /// Nodes that failed to answer the unit at hand: it may fail on each of them once.
    pub(super) avoid: SmallVec<[NodeId; 2]>,
    /// Which observation of the replica the decision rests on.
    pub(super) observation: u64,
    /// The replica must have replayed this, and is asked in front of the unit; `None` also after it said so.
    pub(super) proof: Option<Lsn>,
    pub(super) arrived: Option<u64>,
    pub(super) decision: Option<routing::Reason>,
    /// Server names in use by this unit and what the client calls them, for errors that name them.
    pub(super) aliases: Vec<(u32, SmallVec<[u8; 24]>)>,
    pub(super) finished: Option<Finished>,
    pub(super) undo: Vec<Undo>,
    pub(super) unit_start: usize,
    /// A database that nobody may be connected to when the statement at hand arrives.
    pub(super) abroad: Option<Abroad>,
    /// Processes that the unit at hand has cancelled.
    pub(super) cancels: Vec<u32>,
    /// Settings that the transaction at hand changed.
    pub(super) touched: Vec<String>,
    /// See `Machine::is_cancelled`.
    pub(super) cancelled: bool,
    /// Why the last replica's answer was not used, for the metrics.
    pub(super) refusal: &'static str,
}

impl UnderWay {
    /// The unit is over; the transaction may go on.
    pub(super) fn end_unit(&mut self) {
        self.unit.reset();
        self.arrived = None;
        self.proof = None;
        self.setback = Setback::None;
        self.avoid.clear();
        self.undo.clear();
        self.aliases.clear();
        self.cancels.clear();
        self.cancelled = false;
    }

    /// Forgets everything, for the next session, without giving the memory back.
    fn clear(&mut self) {
        self.end_unit();
        // With every field's name, so that none can be forgotten.
        let UnderWay {
            unit: _,
            arrived: _,
            proof: _,
            setback: _,
            avoid: _,
            undo: _,
            aliases: _,
            cancels: _,
            cancelled: _,
            work,
            owed,
            observation,
            decision,
            finished,
            unit_start,
            abroad,
            touched,
            refusal,
        } = self;
        *work = Work::default();
        owed.clear();
        *observation = 0;
        *decision = None;
        *finished = None;
        *unit_start = 0;
        *abroad = None;
        touched.clear();
        *refusal = "";
    }
}

/// Where a machine keeps what is under way; without it while the machine is at rest.
#[derive(Default)]
pub(super) struct Desk(Option<Box<UnderWay>>);

impl Desk {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub fn put(&mut self, under_way: Box<UnderWay>) {
        self.0 = Some(under_way);
    }

    /// Cleared, for whoever is the next.
    pub fn take(&mut self) -> Option<Box<UnderWay>> {
        let mut under_way = self.0.take()?;
        under_way.clear();
        Some(under_way)
    }
}

impl Deref for Desk {
    type Target = UnderWay;

    fn deref(&self) -> &UnderWay {
        self.0.as_deref().expect("only `rest` empties the desk, and `resume` comes before anything is under way")
    }
}

impl DerefMut for Desk {
    fn deref_mut(&mut self) -> &mut UnderWay {
        self.0.as_deref_mut().expect("only `rest` empties the desk, and `resume` comes before anything is under way")
    }
}
