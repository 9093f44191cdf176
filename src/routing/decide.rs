//! Pure: the choice itself. The session's machine calls `decide` once for each routing unit, and again after each wake-up
//! of a `Target::Wait`; nobody else says primary or replica. Whatever is not known leads to the primary.
//!
//! The order is the contract's: what the unit is inside of, what it may do, what the client asked for, and only then
//! what the replicas have.

use std::time::Duration;

use super::balance::{self, Candidates};
use super::freshness::{self, Demand, Obstacle, Standing};
use super::{Decision, Reason, Request, RouteSetting, Target, Transaction};
use crate::cluster::{Change, ClusterView, Health, NodeId, NodeView, Role};
use crate::config::{ClusterConfig, OnNoReplica, RoutingConfig};
use crate::sql::{Consistency, Effect, Hint};

/// Where `request` runs, and why.
pub fn decide(request: &Request<'_>, view: &ClusterView, config: &RoutingConfig, cluster: &ClusterConfig) -> Decision {
    let block = match request.session.transaction {
        Transaction::OnReplica(node) => Some(node),
        _ => None,
    };
    // A hint cannot tear a block apart, only what must not run there, or its replica does not have.
    let wish = || by_wish(request).filter(|_| block.is_none());
    let level = match by_statement(request).or_else(wish) {
        Some(decision) => return decision,
        None => level(request),
    };
    // A single server, or several primaries-to-be that we do not know: nothing to choose from, nothing to wait for.
    if view.nodes.len() <= 1 {
        return primary(Reason::NoReplica);
    }
    let mut usable: Candidates<'_> = view.nodes.iter().filter(|node| is_usable(node, view)).collect();
    usable.retain(|node| block.is_none_or(|block| block == node.id));
    if usable.is_empty() && request.avoid.is_empty() && block.is_none() {
        return without_replica(request, config);
    }
    usable.retain(|node| !request.avoid.contains(&node.id));
    if usable.is_empty() {
        return primary(Reason::ReplicaFailed);
    }
    if request.catalog.is_none() {
        return primary(Reason::CatalogChanging);
    }
    match freshness::demand(request, level, view) {
        Ok(demand) => among(request, with_hint(demand, request), usable, view, config, cluster),
        Err(Obstacle::Unknown(ticket)) => {
            let hope = view.primary.is_some() && usable.iter().any(|node| is_near(node, config, cluster));
            wait_or_primary(request, hope, Change::Sample(ticket), config.floor_wait, Reason::FloorUnknown)
        }
        Err(Obstacle::Other(timeless)) => primary(timeless.reason()),
    }
}

fn primary(reason: Reason) -> Decision {
    to(Target::Primary, reason)
}

fn stays(node: NodeId) -> Decision {
    to(Target::Replica(node), Reason::ReadOnlyTransaction)
}

fn to(target: Target, reason: Reason) -> Decision {
    Decision { target, reason, proof: None }
}

/// What the transaction and the statement itself leave no choice about.
fn by_statement(request: &Request<'_>) -> Option<Decision> {
    let verdict = request.verdict;
    let statement = || primary(Reason::Statement(verdict.reason.clone()));
    match request.session.transaction {
        // Each of its reads takes a snapshot of its own, and must see what any other read must.
        Transaction::OnReplica(node) => match verdict.effect {
            Effect::Read => None,
            Effect::RefusedReadOnly | Effect::Follow => Some(stays(node)),
            Effect::Primary => Some(statement()),
        },
        Transaction::OnPrimary | Transaction::Announced { read_only: false } => {
            Some(primary(Reason::ExplicitTransaction))
        }
        Transaction::None | Transaction::Announced { read_only: true } => {
            (verdict.effect != Effect::Read).then(statement)
        }
    }
}

/// What hints, pins and settings ask for: the statement's hint outranks the session's setting, which outranks the level.
/// No wish makes a replica of what is not a proven read, and none lifts a floor: for that there is the hint
/// `consistency`.
fn by_wish(request: &Request<'_>) -> Option<Decision> {
    let session = request.session;
    match request.verdict.hint {
        Some(Hint::Primary) => return Some(primary(Reason::Hint)),
        Some(Hint::Consistency(Consistency::Primary)) => return Some(primary(Reason::ConsistencyPrimary)),
        _ => {}
    }
    if session.reads_pinned {
        return Some(primary(Reason::Pinned));
    }
    if request.verdict.hint == Some(Hint::Replica) {
        return None;
    }
    match session.route {
        RouteSetting::Primary => Some(primary(Reason::RouteSetting)),
        RouteSetting::Auto if level(request) == Consistency::Primary => Some(primary(Reason::ConsistencyPrimary)),
        RouteSetting::Auto | RouteSetting::Replica => None,
    }
}

fn level(request: &Request<'_>) -> Consistency {
    match request.verdict.hint {
        Some(Hint::Consistency(level)) => level,
        _ => request.session.consistency,
    }
}

fn with_hint(demand: Demand, request: &Request<'_>) -> Demand {
    match request.verdict.hint {
        Some(Hint::MaxLag(max)) => Demand { max_lag: Some(max), ..demand },
        _ => demand,
    }
}

/// A replica on the primary's timeline that takes reads at all.
fn is_usable(node: &NodeView, view: &ClusterView) -> bool {
    node.role == Role::Replica
        && node.health == Health::Healthy
        && node.weight > 0
        && node.timeline == view.timeline
        && view.primary != Some(node.id)
}

/// No replica is usable: what the operator wants then.
fn without_replica(request: &Request<'_>, config: &RoutingConfig) -> Decision {
    match config.on_no_replica {
        OnNoReplica::Primary => primary(Reason::NoReplica),
        OnNoReplica::Wait(limit) => wait_or_primary(request, true, Change::Anything, limit, Reason::NoReplica),
        OnNoReplica::Error => to(Target::Refuse, Reason::NoReplica),
    }
}

/// Waits while there is hope and time left; a read that failed on a replica has lost enough time already.
fn wait_or_primary(request: &Request<'_>, hope: bool, change: Change, limit: Duration, reason: Reason) -> Decision {
    let left = limit.saturating_sub(request.waited);
    if !hope || left.is_zero() || !request.avoid.is_empty() {
        return primary(reason);
    }
    to(Target::Wait(change, left), reason)
}

/// Whether the replica is so little behind that it may reach a floor within `floor_wait`.
fn is_near(node: &NodeView, config: &RoutingConfig, cluster: &ClusterConfig) -> bool {
    node.lag_observed.is_some_and(|lag| lag <= cluster.lag_tolerance.saturating_add(config.floor_wait))
}

/// Chooses among the usable replicas by what they have.
fn among(
    request: &Request<'_>,
    demand: Demand,
    usable: Candidates<'_>,
    view: &ClusterView,
    config: &RoutingConfig,
    cluster: &ClusterConfig,
) -> Decision {
    let held: Held<'_> =
        usable.iter().map(|&node| (node, freshness::standing(&demand, node, view, request.sample))).collect();
    let mut fresh: Candidates<'_> = with_standing(&held, Standing::Fresh).collect();
    balance::within_tolerance(&mut fresh, cluster.lag_tolerance);
    if is_worth_moving(request, &fresh, &held, cluster) && !config.floor_wait.is_zero() {
        return to(Target::Wait(Change::Anything, config.floor_wait), Reason::Rebalance);
    }
    if let Some(node) = balance::choose(&fresh, request.dice) {
        return match request.session.transaction {
            Transaction::OnReplica(_) => stays(node),
            _ => to(Target::Replica(node), Reason::Replica),
        };
    }
    let near = |node: &&&NodeView| is_near(node, config, cluster);
    if let Some(decision) = to_be_proven(request, &demand, usable.iter().filter(near).copied().collect(), view) {
        return decision;
    }
    let (reason, change) = if with_standing(&held, Standing::Uncovered).next().is_some() {
        (Reason::LastReadUncovered, Change::Anything)
    } else if with_standing(&held, Standing::TooOld).next().is_some() {
        (Reason::MaxLag, Change::Anything)
    } else {
        (Reason::ReplicaBehind, Change::Replay(demand.floor))
    };
    let hope = usable.iter().any(|node| is_near(node, config, cluster) && may_keep(node, &demand));
    wait_or_primary(request, hope, change, config.floor_wait, reason)
}

/// One time in so many a replica that mostly has to turn reads away is asked again.
const PROOF_ANEW: u32 = 16;

/// A replica may have what is demanded although nobody has seen it so far: it is asked in front of the read, which is
/// cheaper and sooner than a wait for the next probe, where it mostly succeeds. What runs in a block there cannot be asked in
/// front of.
fn to_be_proven(
    request: &Request<'_>,
    demand: &Demand,
    mut replicas: Candidates<'_>,
    view: &ClusterView,
) -> Option<Decision> {
    if !request.avoid.is_empty() || matches!(request.session.transaction, Transaction::OnReplica(_)) {
        return None;
    }
    let proof = |node: &NodeView| freshness::proof(demand, node, view, request.sample);
    let anew = request.dice.0.is_multiple_of(PROOF_ANEW);
    replicas.retain(|node| (anew || node.stats.mostly_proves()) && proof(node).is_some());
    let node = balance::choose(&replicas, request.dice)?;
    Some(Decision { proof: proof(view.node(node)?), ..to(Target::Replica(node), Reason::Replica) })
}

type Held<'a> = smallvec::SmallVec<[(&'a NodeView, Standing); 8]>;

fn with_standing<'v, 'a>(held: &'v Held<'a>, wanted: Standing) -> impl Iterator<Item = &'a NodeView> + use<'v, 'a> {
    held.iter().filter(move |(_, standing)| *standing == wanted).map(|(node, _)| *node)
}

/// Between probes `lag` grows although the replica may be fresh; only a fresh observation can show it.
fn may_keep(node: &NodeView, demand: &Demand) -> bool {
    demand.max_lag.is_none_or(|max| node.lag_observed.is_some_and(|lag| lag <= max))
}

/// A session that reads without pause never sees an observation that is younger than its last read, so it would stay on
/// its first replica for ever: after another one came back, that one would stay idle. Once in a while, and only if its
/// replica is crowded and another one is not, it waits for the next observation, which sets it free.
fn is_worth_moving(request: &Request<'_>, fresh: &[&NodeView], held: &Held<'_>, cluster: &ClusterConfig) -> bool {
    let [only] = fresh else { return false };
    if !request.waited.is_zero() || !request.avoid.is_empty() || request.dice.0 >> 26 != 0 {
        return false;
    }
    let most = only.lag_observed.unwrap_or(Duration::ZERO).saturating_add(cluster.lag_tolerance);
    with_standing(held, Standing::Uncovered)
        .any(|node| node.lag_observed.is_some_and(|lag| lag <= most) && balance::is_crowded(only, node))
}
