//! Pure: what must a replica have replayed for this unit, and has it? `decide` asks; the session's machine calls `settle`
//! to turn an unknown floor into a position. The answer to "cannot tell" is always no.
//!
//! Everything is reduced to one LSN on the primary's present timeline. A position of the timeline before it counts only
//! up to the point where the new one left it (PostgreSQL's timeline history); beyond that, equal numbers mean different
//! records.

use std::time::Duration;

use super::{Floor, LastRead, Reason, Request, Sample};
use crate::cluster::{ClusterView, Lsn, NodeView, Position};
use crate::sql::Consistency;

/// What a replica must have for the unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Replayed at least this, on the view's timeline.
    pub floor: Lsn,
    /// Not behind what the session saw last.
    pub last_read: Option<LastRead>,
    /// A hint's bound.
    pub max_lag: Option<Duration>,
}

/// Why no replica can be proven fresh at all right now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Obstacle {
    /// A sample of the primary with a number above this will tell.
    Unknown(u64),
    /// Lost or incomparable (the reason says): only a new floor helps.
    Other(Timeless),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Timeless {
    Lost,
    Incomparable,
    /// Of a newer timeline than the view knows: the view will catch up.
    Ahead,
}

impl Timeless {
    pub(super) fn reason(self) -> Reason {
        match self {
            Timeless::Lost => Reason::FloorLost,
            Timeless::Incomparable => Reason::FloorIncomparable,
            Timeless::Ahead => Reason::ReplicaBehind,
        }
    }
}

/// One replica held against a demand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing {
    Fresh,
    Behind,
    /// It has the floor, but is not known to have what another replica showed.
    Uncovered,
    /// Too old for the hint's `max_lag`.
    TooOld,
}

/// Turns an unknown floor into a position if the newest sample was asked for after the ticket was taken.
///
/// Only a sample of the view's own primary counts: one that a former primary answered may be numbered higher and still
/// know nothing of what was written on the present one.
pub fn settle(floor: Floor, sample: Option<Sample>, view: &ClusterView) -> Floor {
    let Floor::Unknown { ticket, at_least } = floor else { return floor };
    let Some(position) = resolved(ticket, sample, view) else { return floor };
    Floor::At(at_least.map_or(position, |other| later(position, other)))
}

fn resolved(ticket: u64, sample: Option<Sample>, view: &ClusterView) -> Option<Position> {
    let sample = sample.filter(|sample| sample.number > ticket)?;
    let current = sample.position.system == view.system && sample.position.timeline == view.timeline;
    current.then_some(sample.position)
}

/// The one of the two that covers both, as far as positions of one cluster can be compared.
fn later(sampled: Position, other: Position) -> Position {
    if other.system != sampled.system || other.timeline < sampled.timeline {
        return sampled;
    }
    if other.timeline > sampled.timeline || other.lsn > sampled.lsn { other } else { sampled }
}

/// Where `position` lies on the view's timeline.
fn on_timeline(position: Position, view: &ClusterView) -> Result<Lsn, Timeless> {
    if position.system != view.system {
        return Err(Timeless::Incomparable);
    }
    if position.timeline == view.timeline {
        return Ok(position.lsn);
    }
    if position.timeline > view.timeline {
        return Err(Timeless::Ahead);
    }
    match view.switch {
        Some((old, end)) if old == position.timeline && position.lsn <= end => Ok(position.lsn),
        Some((old, _)) if old == position.timeline => Err(Timeless::Lost),
        _ => Err(Timeless::Incomparable),
    }
}

/// What the unit demands at this consistency level.
pub(super) fn demand(request: &Request<'_>, level: Consistency, view: &ClusterView) -> Result<Demand, Obstacle> {
    let mut floor = Lsn::default();
    let mut raise = |position: Position| -> Result<(), Obstacle> {
        floor = floor.max(on_timeline(position, view).map_err(Obstacle::Other)?);
        Ok(())
    };
    // A statement that names nothing may come with an empty catalog, which no replica can be behind of.
    if let Some(catalog) = request.catalog.filter(|catalog| catalog.system != 0) {
        raise(catalog)?;
    }
    if level == Consistency::Eventual {
        return Ok(Demand { floor, last_read: None, max_lag: None });
    }
    match settle(request.session.floor, request.sample, view) {
        Floor::None => {}
        Floor::At(position) => raise(position)?,
        Floor::Unknown { ticket, .. } => return Err(Obstacle::Unknown(ticket)),
    }
    if level == Consistency::Global {
        if let Some(position) = request.global.position {
            raise(position)?;
        }
        if let Some(ticket) = request.global.unresolved {
            raise(resolved(ticket, request.sample, view).ok_or(Obstacle::Unknown(ticket))?)?;
        }
    }
    if level == Consistency::Strict {
        raise(resolved(request.arrived, request.sample, view).ok_or(Obstacle::Unknown(request.arrived))?)?;
    }
    Ok(Demand { floor, last_read: request.session.last_read, max_lag: None })
}

/// Holds one replica against the demand.
pub(super) fn standing(demand: &Demand, node: &NodeView, view: &ClusterView, sample: Option<Sample>) -> Standing {
    if node.timeline != view.timeline || node.observation == 0 || node.replay < demand.floor {
        return Standing::Behind;
    }
    if demand.max_lag.is_some_and(|max| node.lag.is_none_or(|lag| lag > max)) {
        return Standing::TooOld;
    }
    if demand.last_read.is_some_and(|last| !covers(node, &last, view, sample)) {
        return Standing::Uncovered;
    }
    Standing::Fresh
}

/// What `node` must have replayed when the read comes, so that it may answer although that is not known of it yet; `None` if
/// no position would do.
pub(super) fn proof(demand: &Demand, node: &NodeView, view: &ClusterView, sample: Option<Sample>) -> Option<Lsn> {
    if node.timeline != view.timeline || node.observation == 0 || demand.max_lag.is_some() {
        return None;
    }
    match demand.last_read {
        Some(last) if !is_unbroken(node, &last) || node.id != last.node => {
            resolved(last.ticket, sample, view).map(|position| position.lsn.max(demand.floor))
        }
        _ => Some(demand.floor),
    }
}

/// A node that crashed since may have come back older than what it showed (replay restarts at the last restartpoint).
fn is_unbroken(former: &NodeView, last: &LastRead) -> bool {
    last.probes_started > former.connected
}

/// Whether `node` is known to have everything that the session's last replica read may have shown.
fn covers(node: &NodeView, last: &LastRead, view: &ClusterView, sample: Option<Sample>) -> bool {
    if node.id == last.node && is_unbroken(node, last) {
        return true;
    }
    if let Some(former) = view.node(last.node).filter(|former| former.timeline == view.timeline) {
        let observed = is_unbroken(former, last) && former.observation > last.probes_started;
        if observed && node.replay >= former.replay {
            return true;
        }
    }
    // The former node is gone or not observed since. A replica is never ahead of the primary's log, so a sample that
    // was asked for after the read bounds what the read can have shown.
    resolved(last.ticket, sample, view).is_some_and(|position| node.replay >= position.lsn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeId;
    use crate::cluster::samples::{at, replica, view};

    fn unknown(ticket: u64) -> Floor {
        Floor::Unknown { ticket, at_least: None }
    }

    fn sample(number: u64, position: Position) -> Option<Sample> {
        Some(Sample { number, position })
    }

    #[test]
    fn only_a_later_sample_of_the_present_primary_settles_a_floor() {
        let view = view(vec![]);
        assert_eq!(settle(unknown(4), None, &view), unknown(4));
        assert_eq!(settle(unknown(4), sample(4, at(2, 500)), &view), unknown(4));
        assert_eq!(settle(unknown(4), sample(5, at(2, 500)), &view), Floor::At(at(2, 500)));
        assert_eq!(settle(unknown(4), sample(5, at(1, 500)), &view), unknown(4), "the former primary's answer");
        let foreign = Position { system: 99, ..at(2, 500) };
        assert_eq!(settle(unknown(4), sample(5, foreign), &view), unknown(4));
        assert_eq!(settle(Floor::None, sample(5, at(2, 500)), &view), Floor::None);
    }

    #[test]
    fn what_the_floor_was_before_is_kept_when_it_settles() {
        let view = view(vec![]);
        let floor = |position| Floor::Unknown { ticket: 1, at_least: Some(position) };
        assert_eq!(settle(floor(at(2, 900)), sample(2, at(2, 500)), &view), Floor::At(at(2, 900)));
        assert_eq!(settle(floor(at(2, 100)), sample(2, at(2, 500)), &view), Floor::At(at(2, 500)));
        assert_eq!(settle(floor(at(1, 900)), sample(2, at(2, 500)), &view), Floor::At(at(2, 500)));
        assert_eq!(settle(floor(at(3, 100)), sample(2, at(2, 500)), &view), Floor::At(at(3, 100)));
    }

    #[test]
    fn positions_across_timelines() {
        // The view: timeline 2 left timeline 1 at 300.
        let view = view(vec![]);
        assert_eq!(on_timeline(at(2, 100), &view), Ok(Lsn(100)));
        assert_eq!(on_timeline(at(1, 300), &view), Ok(Lsn(300)));
        assert_eq!(on_timeline(at(1, 301), &view), Err(Timeless::Lost));
        assert_eq!(on_timeline(at(3, 1), &view), Err(Timeless::Ahead));
        assert_eq!(on_timeline(Position { system: 99, ..at(2, 1) }, &view), Err(Timeless::Incomparable));
        let blind = ClusterView { switch: None, ..view };
        assert_eq!(on_timeline(at(1, 1), &blind), Err(Timeless::Incomparable));
    }

    fn check_last_read(former: NodeView, other_replay: u64, last: LastRead, newest: Option<Sample>, expect: Standing) {
        let other = replica(2, other_replay);
        let view = view(vec![former, other.clone()]);
        let demand = Demand { floor: Lsn(0), last_read: Some(last), max_lag: None };
        assert_eq!(standing(&demand, &other, &view, newest), expect);
    }

    #[test]
    fn another_replica_must_have_what_the_former_showed() {
        let last = LastRead { node: NodeId(1), probes_started: 10, ticket: 7 };
        let observed = |observation, replay| NodeView { observation, ..replica(1, replay) };
        check_last_read(observed(11, 500), 500, last, None, Standing::Fresh);
        check_last_read(observed(11, 500), 499, last, None, Standing::Uncovered);
        // That observation was asked for before the read was complete.
        check_last_read(observed(10, 500), 900, last, None, Standing::Uncovered);
        check_last_read(observed(10, 500), 900, last, sample(7, at(2, 100)), Standing::Uncovered);
        check_last_read(observed(10, 500), 900, last, sample(8, at(2, 900)), Standing::Fresh);
        check_last_read(observed(10, 500), 899, last, sample(8, at(2, 900)), Standing::Uncovered);
        // The former node crashed since and came back older: its new position says nothing of what it had shown.
        let restarted = NodeView { connected: 10, ..observed(12, 100) };
        check_last_read(restarted, 200, last, None, Standing::Uncovered);
    }

    #[test]
    fn the_same_replica_is_fine_unless_it_crashed() {
        let last = LastRead { node: NodeId(1), probes_started: 10, ticket: 7 };
        let demand = Demand { floor: Lsn(0), last_read: Some(last), max_lag: None };
        let same = NodeView { observation: 4, connected: 3, ..replica(1, 50) };
        assert_eq!(standing(&demand, &same, &view(vec![same.clone()]), None), Standing::Fresh);
        let crashed = NodeView { observation: 11, connected: 10, ..replica(1, 50) };
        assert_eq!(standing(&demand, &crashed, &view(vec![crashed.clone()]), None), Standing::Uncovered);
    }

    #[test]
    fn a_replica_that_was_never_observed_is_behind() {
        let demand = Demand { floor: Lsn(0), last_read: None, max_lag: None };
        let node = NodeView { observation: 0, ..replica(1, 500) };
        assert_eq!(standing(&demand, &node, &view(vec![node.clone()]), None), Standing::Behind);
    }
}
