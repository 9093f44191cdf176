//! Pure: the tables of `decide`, in a file of their own because they are longer than it. Each row is one sentence of the
//! routing contract; nothing but `cargo test` comes here.

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use proptest::prelude::*;

    use crate::cluster::samples::{at, replica, view};
    use crate::cluster::{ClusterView, Health, Lsn, NodeView, Role, Timeline};
    use crate::config::{ClusterConfig, OnNoReplica, RoutingConfig};
    use crate::routing::*;
    use crate::sql::{self, Effect, Hint};

    const WAIT: Duration = Duration::from_millis(10);

    /// Everything that a decision depends on, with the most ordinary values: an autocommit read of a fresh session, two
    /// replicas that have replayed up to 1000.
    #[derive(Clone)]
    struct Case {
        verdict: Verdict,
        session: SessionState,
        catalog: Option<Position>,
        sample: Option<Sample>,
        arrived: u64,
        global: GlobalFloor,
        waited: Duration,
        dice: (u32, u32),
        avoid: Vec<NodeId>,
        view: ClusterView,
        on_no_replica: OnNoReplica,
        /// The replicas mostly have what they are asked for in front of a read.
        prove: bool,
    }

    fn case() -> Case {
        Case {
            verdict: Verdict {
                effect: Effect::Read,
                reason: sql::Reason::Read,
                acts: Vec::new(),
                hint: None,
                statements: 1,
            },
            session: SessionState {
                consistency: Consistency::Session,
                route: RouteSetting::Auto,
                floor: Floor::None,
                last_read: None,
                transaction: Transaction::None,
                reads_pinned: false,
            },
            catalog: Some(at(2, 10)),
            sample: Some(Sample { number: 50, position: at(2, 1000) }),
            arrived: 50,
            global: GlobalFloor::default(),
            waited: Duration::ZERO,
            dice: (1, 1),
            avoid: Vec::new(),
            view: view(vec![replica(1, 1000), replica(2, 1000)]),
            on_no_replica: OnNoReplica::Primary,
            prove: false,
        }
    }

    impl Case {
        fn with(mut self, change: impl FnOnce(&mut Case)) -> Case {
            change(&mut self);
            self
        }

        fn decide(&self) -> Decision {
            let request = Request {
                verdict: &self.verdict,
                session: &self.session,
                catalog: self.catalog,
                sample: self.sample,
                arrived: self.arrived,
                global: self.global,
                waited: self.waited,
                dice: self.dice,
                avoid: &self.avoid,
            };
            for node in &self.view.nodes {
                (0..32).for_each(|_| node.stats.note_proof(self.prove));
            }
            decide(&request, &self.view, &self.routing(), &cluster())
        }

        fn routing(&self) -> RoutingConfig {
            RoutingConfig {
                consistency: Consistency::Session,
                read_functions: Vec::new(),
                on_no_replica: self.on_no_replica,
                floor_wait: WAIT,
                hold_back: 65536,
                read_stall_timeout: Duration::from_secs(5),
                catalog_poll: Duration::from_secs(1),
            }
        }

        #[track_caller]
        fn is_primary(&self, reason: Reason) {
            assert_eq!(self.decide(), plain(Target::Primary, reason));
        }

        #[track_caller]
        fn waits(&self, change: Change, left: Duration, reason: Reason) {
            assert_eq!(self.decide(), plain(Target::Wait(change, left), reason));
        }

        #[track_caller]
        fn is_replica(&self, allowed: &[u16]) {
            for high in [0_u32, 1 << 30, 1 << 31, 3 << 30] {
                let case = self.clone().with(|c| c.dice = (high | 1 << 26, !high));
                let Decision { target: Target::Replica(node), reason: Reason::Replica, proof: None } = case.decide()
                else {
                    panic!("{:?}", case.decide());
                };
                assert!(allowed.contains(&node.0), "{node:?} not of {allowed:?}");
            }
        }
    }

    fn plain(target: Target, reason: Reason) -> Decision {
        Decision { target, reason, proof: None }
    }

    fn cluster() -> ClusterConfig {
        ClusterConfig::default()
    }

    fn effect(effect: Effect) -> impl Fn(&mut Case) {
        move |case| {
            case.verdict.effect = effect;
            case.verdict.reason = sql::Reason::Write("INSERT".into());
        }
    }

    fn hint(hint: Hint) -> impl Fn(&mut Case) {
        move |case| case.verdict.hint = Some(hint)
    }

    fn floor(floor: Floor) -> impl Fn(&mut Case) {
        move |case| case.session.floor = floor
    }

    fn level(level: Consistency) -> impl Fn(&mut Case) {
        move |case| case.session.consistency = level
    }

    fn nodes(replicas: Vec<NodeView>) -> impl FnOnce(&mut Case) {
        move |case| case.view = view(replicas)
    }

    fn lagging(id: u16, replay: u64, ms: u64) -> NodeView {
        let lag = Some(Duration::from_millis(ms));
        NodeView { lag, lag_observed: lag, ..replica(id, replay) }
    }

    fn write() -> Reason {
        Reason::Statement(sql::Reason::Write("INSERT".into()))
    }

    const UNKNOWN: Floor = Floor::Unknown { ticket: 50, at_least: None };

    #[test]
    fn a_read_goes_to_a_replica_and_all_else_to_the_primary() {
        case().is_replica(&[1, 2]);
        for other in [Effect::Primary, Effect::RefusedReadOnly, Effect::Follow] {
            case().with(effect(other)).is_primary(write());
            case().with(effect(other)).with(hint(Hint::Replica)).is_primary(write());
            case().with(effect(other)).with(|c| c.session.route = RouteSetting::Replica).is_primary(write());
            let announced = Transaction::Announced { read_only: true };
            case().with(effect(other)).with(|c| c.session.transaction = announced).is_primary(write());
        }
    }

    #[test]
    fn a_transaction_stays_where_it_is() {
        let inside = |transaction| move |c: &mut Case| c.session.transaction = transaction;
        case().with(inside(Transaction::OnPrimary)).is_primary(Reason::ExplicitTransaction);
        let announced = |read_only| inside(Transaction::Announced { read_only });
        case().with(announced(false)).is_primary(Reason::ExplicitTransaction);
        case().with(announced(true)).is_replica(&[1, 2]);
        let stays = plain(Target::Replica(NodeId(2)), Reason::ReadOnlyTransaction);
        for kind in [Effect::Read, Effect::RefusedReadOnly, Effect::Follow] {
            let here = case().with(inside(Transaction::OnReplica(NodeId(2)))).with(effect(kind));
            assert_eq!(here.decide(), stays);
            assert_eq!(here.with(hint(Hint::Primary)).decide(), stays);
        }
        case().with(inside(Transaction::OnReplica(NodeId(2)))).with(effect(Effect::Primary)).is_primary(write());
    }

    /// Seed 3161 of the simulation: at READ COMMITTED the second read of a block sees what was committed after the first.
    #[test]
    fn a_block_leaves_a_replica_that_lacks_what_its_next_read_must_see() {
        let here = case().with(|c| c.session.transaction = Transaction::OnReplica(NodeId(2)));
        let lacking = here.clone().with(|c| {
            c.session.consistency = Consistency::Strict;
            c.sample = Some(Sample { number: 51, position: at(2, 1100) });
        });
        lacking.waits(Change::Replay(Lsn(1100)), WAIT, Reason::ReplicaBehind);
        lacking.clone().with(|c| c.waited = WAIT).is_primary(Reason::ReplicaBehind);
        let asked = lacking.clone().with(|c| c.arrived = 51);
        asked.waits(Change::Sample(51), WAIT, Reason::FloorUnknown);
        // The other replica has it, but has not the block.
        lacking.with(|c| c.view.nodes[1].replay = Lsn(1100)).waits(
            Change::Replay(Lsn(1100)),
            WAIT,
            Reason::ReplicaBehind,
        );
        here.clone().with(|c| c.view.nodes[2].health = Health::Lagging).is_primary(Reason::ReplicaFailed);
        let only_ends = here.with(effect(Effect::Follow)).with(floor(UNKNOWN)).decide();
        assert_eq!(only_ends.target, Target::Replica(NodeId(2)));
    }

    #[test]
    fn wishes_in_their_order() {
        let route = |route| move |c: &mut Case| c.session.route = route;
        case().with(hint(Hint::Primary)).is_primary(Reason::Hint);
        case().with(hint(Hint::Primary)).with(route(RouteSetting::Replica)).is_primary(Reason::Hint);
        case().with(route(RouteSetting::Primary)).is_primary(Reason::RouteSetting);
        case().with(route(RouteSetting::Primary)).with(hint(Hint::Replica)).is_replica(&[1, 2]);
        case().with(level(Consistency::Primary)).is_primary(Reason::ConsistencyPrimary);
        case().with(level(Consistency::Primary)).with(hint(Hint::Replica)).is_replica(&[1, 2]);
        case().with(level(Consistency::Primary)).with(route(RouteSetting::Replica)).is_replica(&[1, 2]);
        let eventual = Hint::Consistency(Consistency::Eventual);
        case().with(level(Consistency::Primary)).with(hint(eventual)).is_replica(&[1, 2]);
        case().with(hint(Hint::Consistency(Consistency::Primary))).is_primary(Reason::ConsistencyPrimary);
        // A pin is no wish: the answer depends on it.
        let pinned = case().with(|c| c.session.reads_pinned = true);
        pinned.is_primary(Reason::Pinned);
        pinned.with(hint(Hint::Replica)).is_primary(Reason::Pinned);
    }

    #[test]
    fn no_hint_lets_a_session_miss_its_write() {
        let ahead = case().with(floor(Floor::At(at(2, 1001)))).with(|c| c.waited = WAIT);
        ahead.clone().with(hint(Hint::Replica)).is_primary(Reason::ReplicaBehind);
        ahead.clone().with(|c| c.session.route = RouteSetting::Replica).is_primary(Reason::ReplicaBehind);
        ahead.with(hint(Hint::Consistency(Consistency::Eventual))).is_replica(&[1, 2]);
    }

    #[test]
    fn a_floor_waits_a_little_and_then_goes_to_the_primary() {
        case().with(floor(Floor::At(at(2, 1000)))).is_replica(&[1, 2]);
        let ahead = case().with(floor(Floor::At(at(2, 1001))));
        ahead.waits(Change::Replay(Lsn(1001)), WAIT, Reason::ReplicaBehind);
        ahead.clone().with(|c| c.waited = WAIT / 2).waits(Change::Replay(Lsn(1001)), WAIT / 2, Reason::ReplicaBehind);
        ahead.clone().with(|c| c.waited = WAIT).is_primary(Reason::ReplicaBehind);
        ahead.clone().with(|c| c.waited = WAIT * 9).is_primary(Reason::ReplicaBehind);
        // It failed on a replica once; that was wait enough.
        ahead.with(|c| c.avoid = vec![NodeId(1)]).is_primary(Reason::ReplicaBehind);
        let far = nodes(vec![lagging(1, 1000, 3000), lagging(2, 1000, 2000)]);
        case().with(floor(Floor::At(at(2, 1001)))).with(far).is_primary(Reason::ReplicaBehind);
        let one_is_there = nodes(vec![lagging(1, 500, 3000), replica(2, 1001)]);
        case().with(floor(Floor::At(at(2, 1001)))).with(one_is_there).is_replica(&[2]);
    }

    #[test]
    fn an_unknown_floor_is_settled_by_a_later_sample_only() {
        case().with(floor(UNKNOWN)).waits(Change::Sample(50), WAIT, Reason::FloorUnknown);
        case().with(floor(UNKNOWN)).with(|c| c.waited = WAIT).is_primary(Reason::FloorUnknown);
        case().with(floor(UNKNOWN)).with(|c| c.view.primary = None).is_primary(Reason::FloorUnknown);
        let far = nodes(vec![lagging(1, 1000, 3000)]);
        case().with(floor(UNKNOWN)).with(far).is_primary(Reason::FloorUnknown);
        let sampled = |lsn| move |c: &mut Case| c.sample = Some(Sample { number: 51, position: at(2, lsn) });
        case().with(floor(UNKNOWN)).with(sampled(1000)).is_replica(&[1, 2]);
        case().with(floor(UNKNOWN)).with(sampled(1001)).waits(Change::Replay(Lsn(1001)), WAIT, Reason::ReplicaBehind);
    }

    #[test]
    fn what_each_level_demands() {
        let unresolved = |c: &mut Case| c.global = GlobalFloor { position: None, unresolved: Some(50) };
        let ahead = |c: &mut Case| c.global = GlobalFloor { position: Some(at(2, 1001)), unresolved: None };
        case().with(unresolved).is_replica(&[1, 2]);
        case().with(unresolved).with(level(Consistency::Global)).waits(Change::Sample(50), WAIT, Reason::FloorUnknown);
        case().with(ahead).with(level(Consistency::Global)).waits(
            Change::Replay(Lsn(1001)),
            WAIT,
            Reason::ReplicaBehind,
        );
        let resolved = |c: &mut Case| c.global = GlobalFloor { position: None, unresolved: Some(49) };
        case().with(resolved).with(level(Consistency::Global)).is_replica(&[1, 2]);

        case().with(level(Consistency::Strict)).waits(Change::Sample(50), WAIT, Reason::FloorUnknown);
        case().with(level(Consistency::Strict)).with(|c| c.arrived = 49).is_replica(&[1, 2]);

        case().with(floor(UNKNOWN)).with(level(Consistency::Eventual)).is_replica(&[1, 2]);
        case().with(floor(UNKNOWN)).with(hint(Hint::Consistency(Consistency::Strict))).waits(
            Change::Sample(50),
            WAIT,
            Reason::FloorUnknown,
        );
    }

    #[test]
    fn a_failover_voids_floors_beyond_the_switch_point() {
        // The view's timeline 2 left timeline 1 at 300.
        case().with(floor(Floor::At(at(1, 300)))).is_replica(&[1, 2]);
        case().with(floor(Floor::At(at(1, 301)))).is_primary(Reason::FloorLost);
        case().with(floor(Floor::At(at(0, 1)))).is_primary(Reason::FloorIncomparable);
        case().with(floor(Floor::At(Position { system: 9, ..at(2, 1) }))).is_primary(Reason::FloorIncomparable);
        case().with(floor(Floor::At(at(3, 1)))).is_primary(Reason::ReplicaBehind);
        let old = NodeView { timeline: Timeline(1), ..replica(1, 9000) };
        case().with(nodes(vec![old])).is_primary(Reason::NoReplica);
    }

    #[test]
    fn the_catalog_is_a_floor_too() {
        case().with(|c| c.catalog = None).is_primary(Reason::CatalogChanging);
        case().with(|c| c.catalog = Some(at(2, 1001))).waits(Change::Replay(Lsn(1001)), WAIT, Reason::ReplicaBehind);
        case().with(|c| c.catalog = Some(at(2, 1001))).with(level(Consistency::Eventual)).waits(
            Change::Replay(Lsn(1001)),
            WAIT,
            Reason::ReplicaBehind,
        );
        case().with(|c| c.catalog = Some(Position::default())).is_replica(&[1, 2]);
    }

    #[test]
    fn reads_are_monotonic() {
        let read = |node, probes_started| {
            move |c: &mut Case| c.session.last_read = Some(LastRead { node: NodeId(node), probes_started, ticket: 50 })
        };
        case().with(read(1, 100)).is_replica(&[1]);
        case().with(read(1, 99)).is_replica(&[1, 2]);
        case().with(read(1, 100)).with(level(Consistency::Eventual)).is_replica(&[1, 2]);
        let only_other =
            nodes(vec![NodeView { health: Health::Down("x".into()), ..replica(1, 1000) }, replica(2, 1000)]);
        let orphan = case().with(read(1, 100)).with(only_other);
        orphan.waits(Change::Anything, WAIT, Reason::LastReadUncovered);
        orphan.clone().with(|c| c.waited = WAIT).is_primary(Reason::LastReadUncovered);
        orphan.with(|c| c.sample = Some(Sample { number: 51, position: at(2, 1000) })).is_replica(&[2]);
        let unknown = case().with(read(7, 99));
        unknown.waits(Change::Anything, WAIT, Reason::LastReadUncovered);
    }

    #[test]
    fn a_session_leaves_a_crowded_replica_now_and_then() {
        let crowded = || {
            let node = replica(1, 1000);
            node.stats.in_flight.store(8, Relaxed);
            let last = LastRead { node: NodeId(1), probes_started: 100, ticket: 50 };
            case().with(nodes(vec![node, replica(2, 1000)])).with(|c| c.session.last_read = Some(last))
        };
        crowded().with(|c| c.dice.0 = 1).waits(Change::Anything, WAIT, Reason::Rebalance);
        crowded().is_replica(&[1]);
        let stays = crowded().with(|c| c.waited = WAIT).decide();
        assert_eq!(stays.target, Target::Replica(NodeId(1)));
        // The observation came: both are covered, and the idle one takes the read.
        crowded().with(|c| c.waited = WAIT).with(|c| c.view.nodes[1].observation = 101).is_replica(&[2]);
    }

    #[test]
    fn only_the_least_lagged_take_part() {
        case().with(nodes(vec![lagging(1, 1000, 10), lagging(2, 1000, 110)])).is_replica(&[1, 2]);
        case().with(nodes(vec![lagging(1, 1000, 10), lagging(2, 1000, 111)])).is_replica(&[1]);
        // The least lagged does not have the floor, so it sets no measure.
        let odd = nodes(vec![lagging(1, 900, 10), lagging(2, 1000, 500)]);
        case().with(floor(Floor::At(at(2, 1000)))).with(odd).is_replica(&[2]);
    }

    #[test]
    fn a_hint_bounds_the_lag() {
        let bound = |ms| hint(Hint::MaxLag(Duration::from_millis(ms)));
        let pair = || nodes(vec![lagging(1, 1000, 10), lagging(2, 1000, 60)]);
        case().with(pair()).with(bound(60)).is_replica(&[1, 2]);
        case().with(pair()).with(bound(59)).is_replica(&[1]);
        case().with(pair()).with(bound(9)).is_primary(Reason::MaxLag);
        // Old news of a fresh replica: a new observation may show it.
        let stale = NodeView { lag: Some(Duration::from_millis(400)), ..lagging(1, 1000, 5) };
        case().with(nodes(vec![stale])).with(bound(50)).waits(Change::Anything, WAIT, Reason::MaxLag);
    }

    #[test]
    fn without_a_usable_replica_the_operator_decides() {
        let down = || {
            let evicted = NodeView { health: Health::Lagging, ..replica(1, 1000) };
            let refused = NodeView { health: Health::Refused("x".into()), ..replica(2, 1000) };
            let resting = NodeView { weight: 0, ..replica(3, 1000) };
            let lost = NodeView { role: Role::Unknown, ..replica(4, 1000) };
            case().with(nodes(vec![evicted, refused, resting, lost]))
        };
        down().is_primary(Reason::NoReplica);
        let long = Duration::from_secs(1);
        let wait = |c: &mut Case| c.on_no_replica = OnNoReplica::Wait(long);
        down().with(wait).waits(Change::Anything, long, Reason::NoReplica);
        down().with(wait).with(|c| c.waited = long).is_primary(Reason::NoReplica);
        let refuse = |c: &mut Case| c.on_no_replica = OnNoReplica::Error;
        assert_eq!(down().with(refuse).decide(), plain(Target::Refuse, Reason::NoReplica));
        // A read that a replica failed is answered, whatever the operator wants of new ones.
        down().with(refuse).with(|c| c.avoid = vec![NodeId(1)]).is_primary(Reason::ReplicaFailed);
        // A single server is no outage.
        case().with(nodes(vec![])).with(refuse).is_primary(Reason::NoReplica);
        case().with(nodes(vec![])).with(wait).is_primary(Reason::NoReplica);
    }

    #[test]
    fn a_replica_is_asked_in_front_of_a_read_where_that_mostly_succeeds() {
        let asked = |case: Case| {
            let decision = case.decide();
            let Target::Replica(node) = decision.target else { return None };
            Some((node.0, decision.proof?.0))
        };
        let behind = || case().with(nodes(vec![replica(1, 900)])).with(floor(Floor::At(at(2, 950))));
        let proves = |c: &mut Case| c.prove = true;
        assert_eq!(asked(behind()), None);
        assert_eq!(asked(behind().with(proves)), Some((1, 950)));
        assert_eq!(asked(behind().with(|c| c.dice.0 = 16)), Some((1, 950)), "once in a while, to find out");
        let announced = |c: &mut Case| c.session.transaction = Transaction::Announced { read_only: true };
        assert_eq!(asked(behind().with(proves).with(announced)), Some((1, 950)));
        let inside = |c: &mut Case| c.session.transaction = Transaction::OnReplica(NodeId(1));
        assert_eq!(asked(behind().with(proves).with(inside)), None);
        let hinted = hint(Hint::MaxLag(Duration::from_millis(20)));
        assert_eq!(asked(behind().with(proves).with(hinted)), None, "a position says nothing of age");
        assert_eq!(asked(behind().with(proves).with(|c| c.avoid = vec![NodeId(2)])), None);
        let far = |c: &mut Case| c.view.nodes[1].lag_observed = Some(Duration::from_secs(1));
        assert_eq!(asked(behind().with(proves).with(far)), None);
        // What the session saw elsewhere is within the sample that was asked for afterwards.
        let read = |ticket| {
            move |c: &mut Case| {
                c.session.last_read = Some(LastRead { node: NodeId(2), probes_started: 100, ticket });
            }
        };
        assert_eq!(asked(behind().with(proves).with(read(49))), Some((1, 1000)));
        assert_eq!(asked(behind().with(proves).with(read(50))), None);
    }

    #[test]
    fn a_replica_that_failed_is_not_asked_again() {
        case().with(|c| c.avoid = vec![NodeId(1)]).is_replica(&[2]);
        case().with(|c| c.avoid = vec![NodeId(1), NodeId(2)]).is_primary(Reason::ReplicaFailed);
        case()
            .with(nodes(vec![replica(1, 1000)]))
            .with(|c| c.avoid = vec![NodeId(1)])
            .is_primary(Reason::ReplicaFailed);
    }

    #[test]
    fn reads_go_on_without_a_primary() {
        case().with(|c| c.view.primary = None).is_replica(&[1, 2]);
    }

    #[test]
    fn labels_are_stable_snake_case() {
        for reason in [Reason::Replica, Reason::FloorUnknown, Reason::LastReadUncovered, write()] {
            assert!(reason.label().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", reason.label());
            assert!(!reason.to_string().is_empty());
        }
        assert_eq!(write().label(), "write");
    }

    prop_compose! {
        fn any_node(id: u16)(
            replay in 0_u64..200, lag in 0_u64..400, observation in 95_u64..105, connected in 0_u64..105,
            healthy in prop::bool::weighted(0.8), timeline in 1_u32..3, work in 0_u32..9, weight in 0_u32..3,
        ) -> NodeView {
            let health = if healthy { Health::Healthy } else { Health::Lagging };
            let lag = Some(Duration::from_millis(lag));
            let node = NodeView {
                observation, connected, health, timeline: Timeline(timeline.max(2)), lag, lag_observed: lag, weight,
                ..replica(id, replay)
            };
            let node = NodeView { timeline: Timeline(timeline), ..node };
            node.stats.in_flight.store(work, Relaxed);
            node
        }
    }

    fn any_floor() -> impl Strategy<Value = Floor> {
        prop_oneof![
            Just(Floor::None),
            (1_u32..4, 0_u64..400).prop_map(|(timeline, lsn)| Floor::At(at(timeline, lsn))),
            (45_u64..55).prop_map(|ticket| Floor::Unknown { ticket, at_least: None }),
        ]
    }

    fn any_effect() -> impl Strategy<Value = Effect> {
        prop_oneof![
            6 => Just(Effect::Read),
            1 => Just(Effect::Primary),
            1 => Just(Effect::Follow),
            1 => Just(Effect::RefusedReadOnly)
        ]
    }

    fn any_level() -> impl Strategy<Value = Consistency> {
        prop_oneof![Just(Consistency::Session), Just(Consistency::Global), Just(Consistency::Strict)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Stated anew and without sharing code with `decide`: what any target replica must satisfy.
        #[test]
        fn no_replica_below_the_promise(
            nodes in (any_node(1), any_node(2), any_node(3)), floor in any_floor(), effect in any_effect(),
            level in any_level(), sample in 45_u64..56, sampled in 0_u64..200, last in prop::option::of((1_u16..5, 90_u64..105)),
            waited in 0_u64..20, dice: (u32, u32), avoid in prop::option::of(1_u16..4), prove: bool,
        ) {
            let nodes = vec![nodes.0, nodes.1, nodes.2];
            let case = case().with(|c| {
                c.view = view(nodes);
                c.verdict.effect = effect;
                c.session.floor = floor;
                c.session.consistency = level;
                c.session.last_read =
                    last.map(|(node, probes_started)| LastRead { node: NodeId(node), probes_started, ticket: 48 });
                c.sample = Some(Sample { number: sample, position: at(2, sampled) });
                c.global = GlobalFloor { position: Some(at(2, 20)), unresolved: Some(46) };
                c.waited = Duration::from_millis(waited);
                c.dice = dice;
                c.avoid = avoid.map(NodeId).into_iter().collect();
                c.prove = prove;
            });
            let decision = case.decide();
            if let Target::Wait(_, left) = decision.target {
                prop_assert!(Duration::from_millis(waited) + left <= WAIT, "a wait must end");
            }
            let Target::Replica(id) = decision.target else { return Ok(()) };
            let node = case.view.node(id).expect("in the view");
            prop_assert_eq!(effect, Effect::Read);
            prop_assert_eq!(node.health.clone(), Health::Healthy);
            prop_assert_eq!(node.timeline, Timeline(2));
            prop_assert!(!case.avoid.contains(&id));
            // What it will have replayed, or its answer is nobody's.
            let replay = decision.proof.unwrap_or(node.replay).max(node.replay);
            let covered = |ticket: u64| sample > ticket && replay >= Lsn(sampled);
            match floor {
                Floor::None => {}
                Floor::At(position) => {
                    prop_assert!(position.timeline == Timeline(2) || (position.timeline == Timeline(1) && position.lsn <= Lsn(300)));
                    prop_assert!(replay >= position.lsn);
                }
                Floor::Unknown { ticket, .. } => prop_assert!(covered(ticket)),
            }
            if level == Consistency::Global {
                prop_assert!(covered(46) && replay >= Lsn(20));
            }
            if level == Consistency::Strict {
                prop_assert!(covered(50));
            }
            if let Some(last) = case.session.last_read {
                let former = case.view.node(last.node);
                let unbroken = former.is_some_and(|former| former.connected < last.probes_started);
                let same = last.node == id && unbroken;
                let shown = former.is_some_and(|former| {
                    unbroken && former.timeline == Timeline(2)
                        && former.observation > last.probes_started && replay >= former.replay
                });
                prop_assert!(same || shown || covered(last.ticket));
            }
        }
    }
}
