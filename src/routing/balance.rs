//! Pure: choose one of the eligible replicas. `decide` calls it with the replicas that would all give a right answer;
//! here only load counts. Randomness comes in as dice.
//!
//! Least lag without a stampede: whoever lags little more than the least lagged takes part, and of two random ones the
//! better gets the read. Choosing the best of all would send every session to the same node until the next probe.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cluster::{NodeId, NodeView};

/// Replicas under consideration; more than eight spill to the heap.
pub(super) type Candidates<'a> = SmallVec<[&'a NodeView; 8]>;

/// Keeps those that lag at most `tolerance` more than the least lagged.
pub(super) fn within_tolerance(candidates: &mut Candidates<'_>, tolerance: Duration) {
    let lag = |node: &NodeView| node.lag_observed.unwrap_or(Duration::MAX);
    let Some(least) = candidates.iter().map(|node| lag(node)).min() else { return };
    let most = least.saturating_add(tolerance);
    candidates.retain(|node| lag(node) <= most);
}

/// The better of two that the dice pick by weight; `None` only of none.
pub(super) fn choose(candidates: &[&NodeView], dice: (u32, u32)) -> Option<NodeId> {
    let first = pick(candidates, None, dice.0)?;
    let Some(second) = pick(candidates, Some(first), dice.1) else { return Some(candidates[first].id) };
    let explore = dice.1.trailing_zeros() >= 5;
    let winner = if is_better(candidates[second], candidates[first], explore) { second } else { first };
    Some(candidates[winner].id)
}

/// An index, with a probability in proportion to the weight.
fn pick(candidates: &[&NodeView], except: Option<usize>, die: u32) -> Option<usize> {
    let open = || candidates.iter().enumerate().filter(|(index, _)| Some(*index) != except);
    let total: u64 = open().map(|(_, node)| u64::from(node.weight)).sum();
    let mut point = (u64::from(die) * total) >> 32;
    for (index, node) in open() {
        let weight = u64::from(node.weight);
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

/// Differences of less than a millisecond are the scheduler's, not the node's.
const NOISE_US: u32 = 1000;

/// Fewer statements at work for its weight; among equals, only a latency of less than half counts, and not when we
/// explore, because a node that gets no reads would keep its bad average for ever.
fn is_better(challenger: &NodeView, first: &NodeView, explore: bool) -> bool {
    let work = |node: &NodeView, other: &NodeView| {
        u64::from(node.stats.in_flight.load(Relaxed)) * u64::from(other.weight.max(1))
    };
    let (theirs, ours) = (work(challenger, first), work(first, challenger));
    if theirs != ours {
        return theirs < ours;
    }
    let (theirs, ours) = (challenger.stats.latency_us.load(Relaxed), first.stats.latency_us.load(Relaxed));
    !explore && theirs > 0 && u64::from(theirs) * 2 < u64::from(ours) && ours - theirs > NOISE_US
}

/// Whether `crowded` has so much more work than `other` that a session should take the trouble of moving.
pub(super) fn is_crowded(crowded: &NodeView, other: &NodeView) -> bool {
    let mine = u64::from(crowded.stats.in_flight.load(Relaxed));
    let theirs = u64::from(other.stats.in_flight.load(Relaxed));
    mine >= 3 && mine * u64::from(other.weight) >= 2 * (theirs + 1) * u64::from(crowded.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::samples::replica;
    use proptest::prelude::*;

    fn weighted(id: u16, weight: u32, in_flight: u32, latency_us: u32) -> NodeView {
        let node = NodeView { weight, ..replica(id, 0) };
        node.stats.in_flight.store(in_flight, Relaxed);
        node.stats.latency_us.store(latency_us, Relaxed);
        node
    }

    fn shares(nodes: &[NodeView]) -> Vec<u32> {
        let candidates: Vec<&NodeView> = nodes.iter().collect();
        let mut counts = vec![0; nodes.len()];
        for a in 0..64_u32 {
            for b in 0..64_u32 {
                let id = choose(&candidates, ((a << 26) | 1, (b << 26) | 1)).expect("there are candidates");
                let index = nodes.iter().position(|node| node.id == id).expect("one of them");
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn equals_share_evenly_and_weights_count() {
        assert_eq!(shares(&[weighted(1, 1, 0, 0), weighted(2, 1, 0, 0)]), [2048, 2048]);
        assert_eq!(shares(&[weighted(1, 3, 0, 0), weighted(2, 1, 0, 0)]), [3072, 1024]);
        assert_eq!(shares(&[weighted(1, 1, 7, 0)]), [4096]);
    }

    #[test]
    fn less_work_wins_by_weight() {
        assert_eq!(shares(&[weighted(1, 1, 2, 0), weighted(2, 1, 3, 0)]), [4096, 0]);
        assert_eq!(shares(&[weighted(1, 2, 5, 0), weighted(2, 1, 3, 0)]), [4096, 0]);
        assert_eq!(shares(&[weighted(1, 1, 9, 0), weighted(2, 1, 0, 90_000)]), [0, 4096]);
    }

    #[test]
    fn the_most_loaded_of_three_gets_nothing() {
        let counts = shares(&[weighted(1, 1, 0, 0), weighted(2, 1, 5, 0), weighted(3, 1, 9, 0)]);
        assert_eq!(counts[2], 0);
        assert!(counts[0] > counts[1] && counts[1] > 0);
    }

    #[test]
    fn latency_breaks_ties_only_when_it_is_clear() {
        assert_eq!(shares(&[weighted(1, 1, 0, 1000), weighted(2, 1, 0, 1900)]), [2048, 2048]);
        assert_eq!(shares(&[weighted(1, 1, 0, 1000), weighted(2, 1, 0, 2010)]), [4096, 0]);
        // Nothing is known of a node that was never read from.
        assert_eq!(shares(&[weighted(1, 1, 0, 0), weighted(2, 1, 0, 9000)]), [2048, 2048]);
    }

    #[test]
    fn a_slow_node_is_tried_again_now_and_then() {
        let nodes = [weighted(1, 1, 0, 100), weighted(2, 1, 0, 9_000)];
        let candidates: Vec<&NodeView> = nodes.iter().collect();
        assert_eq!(choose(&candidates, (u32::MAX, 1 << 5)), Some(NodeId(2)));
        assert_eq!(choose(&candidates, (u32::MAX, 1 << 4)), Some(NodeId(1)));
    }

    #[test]
    fn tolerance_is_measured_from_the_least_lagged() {
        let lagging = |id, ms| NodeView { lag_observed: Some(Duration::from_millis(ms)), ..replica(id, 0) };
        let nodes = [lagging(1, 40), lagging(2, 140), lagging(3, 141)];
        let unknown = NodeView { lag_observed: None, ..replica(4, 0) };
        let mut candidates: Candidates<'_> = nodes.iter().chain([&unknown]).collect();
        within_tolerance(&mut candidates, Duration::from_millis(100));
        let ids: Vec<u16> = candidates.iter().map(|node| node.id.0).collect();
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn crowding() {
        let check = |mine, theirs, expect| {
            assert_eq!(is_crowded(&weighted(1, 1, mine, 0), &weighted(2, 1, theirs, 0)), expect, "{mine} {theirs}");
        };
        check(2, 0, false);
        check(3, 0, true);
        check(9, 5, false);
        check(12, 5, true);
    }

    proptest! {
        #[test]
        fn always_chooses_one_of_them(
            nodes in prop::collection::vec((1_u32..100, 0_u32..50, 0_u32..9_000), 1..12), a: u32, b: u32,
        ) {
            let nodes: Vec<NodeView> =
                (0_u16..).zip(nodes).map(|(id, (weight, work, latency))| weighted(id, weight, work, latency)).collect();
            let candidates: Vec<&NodeView> = nodes.iter().collect();
            let chosen = choose(&candidates, (a, b));
            prop_assert!(nodes.iter().any(|node| Some(node.id) == chosen));
        }
    }
}
