//! Pure: everything that the side loops learned, and what follows: which system is ours, who is the primary, who is fit.
//! `Cluster` keeps one behind a mutex that only side loops take, and publishes the `ClusterView` that it makes.
//! It logs nothing itself; each change comes back as an `Event`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::Event;
use super::health::{HealthState, Limits, Observation};
use super::lag::LsnTimeline;
use super::likeness::{self, Likeness, Traits};
use super::lsn::{Lsn, Position, Timeline};
use super::probe::Reading;
use super::{ClusterView, Health, NodeFacts, NodeId, NodeStats, NodeView, Role};
use crate::config::{ClusterConfig, NodeConfig};

/// A node answered a full probe.
#[derive(Clone, Debug)]
pub struct Status {
    pub reading: Reading,
    pub system: Option<u64>,
    /// The probe's number, see `NodeStats::probes_started`.
    pub number: u64,
    /// That number just before the connection was opened.
    pub connected: u64,
    /// Before the question was sent.
    pub sent: Instant,
    /// When the answer was here.
    pub answered: Instant,
    /// Read now and then, on a new connection always.
    pub traits: Option<Traits>,
    /// Read with a primary's first probe.
    pub switch: Option<(Timeline, Lsn)>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    weight: u32,
    stats: Arc<NodeStats>,
    state: HealthState,
    role: Role,
    /// Of the last answer; `None` before the first, and where the node hides it.
    timeline: Option<Timeline>,
    system: Option<u64>,
    /// Whether the last probe was answered: decides who can be the primary.
    answers: bool,
    replay: Option<Lsn>,
    observation: u64,
    /// When the last answer was here.
    observed: Option<Instant>,
    connected: u64,
    lag_observed: Option<Duration>,
    traits: Option<Traits>,
    likeness: Likeness,
    switch: Option<(Timeline, Lsn)>,
    facts: Arc<NodeFacts>,
    attempts: u64,
}

#[derive(Debug)]
pub struct Roster {
    entries: Vec<Entry>,
    config: ClusterConfig,
    log: LsnTimeline,
    system: u64,
    primary: Option<NodeId>,
    /// The last primary that there was, which `epoch` counts changes of.
    reign: Option<(NodeId, Timeline)>,
    timeline: Timeline,
    switch: Option<(Timeline, Lsn)>,
    epoch: u64,
    started: Instant,
}

/// Nodes that have not answered yet may be those of the right cluster; we wait so long for them before we settle on one.
const SYSTEM_GRACE: Duration = Duration::from_millis(500);

impl Roster {
    pub fn new(nodes: &[NodeConfig], config: ClusterConfig, now: Instant) -> Roster {
        Roster {
            entries: nodes.iter().map(Entry::new).collect(),
            config,
            log: LsnTimeline::new(),
            system: 0,
            primary: None,
            reign: None,
            timeline: Timeline::default(),
            switch: None,
            epoch: 0,
            started: now,
        }
    }

    pub fn stats(&self, node: NodeId) -> Arc<NodeStats> {
        Arc::clone(&self.entries[usize::from(node.0)].stats)
    }

    /// A full probe was answered.
    pub fn on_status(&mut self, node: NodeId, status: Status) -> Vec<Event> {
        let (mut events, now) = (Vec::new(), status.answered);
        let entry = &mut self.entries[usize::from(node.0)];
        if entry.role != status.reading.role {
            events.push(Event::Role { node, from: entry.role, to: status.reading.role });
        }
        entry.on_status(&status);
        self.settle_system(now, &mut events);
        self.settle_primary(&mut events);
        if self.primary == Some(node)
            && let Some(insert) = status.reading.position
        {
            self.log.record(status.sent, insert);
        }
        self.compare(node);
        let observation = self.observe(node, now);
        self.apply(node, observation, now, &mut events);
        events
    }

    /// A replica answered where its replay is, and nothing else.
    pub fn on_replay(&mut self, node: NodeId, replay: Lsn, number: u64, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let entry = &mut self.entries[usize::from(node.0)];
        entry.answers = true;
        entry.replay = Some(replay);
        entry.observation = number;
        entry.observed = Some(now);
        let observation = self.observe(node, now);
        self.apply(node, observation, now, &mut events);
        events
    }

    /// A probe failed.
    pub fn on_failure(&mut self, node: NodeId, refusing: bool, why: String, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let entry = &mut self.entries[usize::from(node.0)];
        entry.attempts += 1;
        entry.facts = Arc::new(NodeFacts { last_error: Some(why.clone()), ..(*entry.facts).clone() });
        let observation = if refusing { Observation::Refusing(why) } else { Observation::Silent(why) };
        self.apply(node, observation, now, &mut events);
        let entry = &mut self.entries[usize::from(node.0)];
        // A primary that is merely silent keeps its office until it counts as down: writes wait for it meanwhile.
        entry.answers &= !matches!(entry.state.health(), Health::Down(_));
        self.settle_primary(&mut events);
        events
    }

    /// The sampler learned where the primary's log is.
    pub fn on_insert(&mut self, position: Position, sent: Instant) {
        if position.system == self.system && position.timeline == self.timeline {
            self.log.record(sent, position.lsn);
        }
    }

    /// Which cluster is ours: the one that most of the answering nodes belong to, once settled for as long as any of its
    /// nodes answers.
    fn settle_system(&mut self, now: Instant, events: &mut Vec<Event>) {
        let known = |entry: &Entry| entry.system.filter(|_| entry.answers);
        if self.entries.iter().filter_map(known).any(|system| system == self.system) {
            return;
        }
        let waiting = self.entries.iter().any(|entry| entry.attempts == 0);
        if self.system == 0 && waiting && now.saturating_duration_since(self.started) < SYSTEM_GRACE {
            return;
        }
        let votes = |system: u64| self.entries.iter().filter_map(known).filter(|other| *other == system).count();
        // Ties go to the node that is configured first.
        let best = self.entries.iter().rev().filter_map(known).max_by_key(|&system| votes(system));
        if let Some(system) = best {
            (self.system, self.timeline) = (system, Timeline::default());
            events.push(Event::System { system });
        }
    }

    /// The answering primary of our system with the highest timeline; of equals the present one, then the first. Never one
    /// of an older timeline than there was: it knows nothing of what was written since, and what it takes will be lost.
    fn settle_primary(&mut self, events: &mut Vec<Event>) {
        let settled = self.system != 0 || self.entries.iter().all(|entry| entry.system.is_none());
        let found = self
            .ids()
            .filter(|&id| {
                let entry = self.entry(id);
                let known = entry.timeline.is_none_or(|timeline| timeline >= self.timeline);
                settled && entry.answers && entry.role == Role::Primary && self.is_ours(entry) && known
            })
            .max_by_key(|&id| (self.entry(id).timeline, self.primary == Some(id), std::cmp::Reverse(id)));
        let timeline = found.and_then(|id| self.entry(id).timeline).unwrap_or(self.timeline);
        if found != self.primary || timeline != self.timeline {
            events.push(Event::Primary { node: found, timeline });
        }
        self.primary = found;
        let Some(id) = found else { return };
        if self.reign == Some((id, timeline)) {
            self.switch = self.entry(id).switch.or(self.switch);
            return;
        }
        self.reign = Some((id, timeline));
        self.epoch += 1;
        self.timeline = timeline;
        self.switch = self.entry(id).switch;
        self.log.clear();
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.system.is_none_or(|system| system == self.system)
    }

    /// Holds the node against the primary, or, if it is the primary, all the others against it.
    fn compare(&mut self, node: NodeId) {
        let Some(primary) = self.primary else { return };
        let Some(ours) = self.entry(primary).traits.clone() else { return };
        for id in self.ids().filter(|&id| id == node || node == primary) {
            let entry = &mut self.entries[usize::from(id.0)];
            let likeness = match &entry.traits {
                Some(theirs) if id != primary => likeness::compare(&ours, theirs),
                _ => Likeness::default(),
            };
            if likeness != entry.likeness {
                let Likeness { notes, align, .. } = likeness.clone();
                entry.facts = Arc::new(NodeFacts { notes, align, ..(*entry.facts).clone() });
                entry.likeness = likeness;
            }
        }
    }

    /// What the node's last answer means for its health.
    fn observe(&mut self, node: NodeId, now: Instant) -> Observation {
        let lag = self.entry(node).replay.and_then(|replay| self.log.lag(replay, now));
        self.entries[usize::from(node.0)].lag_observed = lag;
        let entry = self.entry(node);
        if !self.is_ours(entry) && self.system != 0 {
            return Observation::Unfit(format!(
                "it belongs to another cluster (system identifier {}, ours is {})",
                entry.system.unwrap_or_default(),
                self.system
            ));
        }
        if entry.role == Role::Primary {
            return match self.primary {
                Some(primary) if primary == node => Observation::Primary,
                Some(primary) => Observation::Unfit(format!(
                    "it is a second primary, on timeline {}; the primary is {} on timeline {}",
                    entry.timeline.unwrap_or_default().0,
                    self.entry(primary).name,
                    self.timeline.0
                )),
                None if entry.timeline < Some(self.timeline) => {
                    Observation::Unfit("a primary of an old timeline".into())
                }
                None => Observation::Silent("a primary, but it is not known of which cluster".into()),
            };
        }
        if let Some(why) = &entry.likeness.refused {
            return Observation::Unfit(why.clone());
        }
        let timeline = self.timeline_of(entry);
        if self.epoch > 0 && timeline != self.timeline {
            return Observation::Unfit(format!(
                "it is on timeline {}, the primary on {}{}",
                timeline.0,
                self.timeline.0,
                if entry.timeline.is_none() { " (its timeline is hidden from us: grant pg_monitor)" } else { "" }
            ));
        }
        Observation::Replica { lag: self.judged_lag(node, now) }
    }

    /// The lag that decides about eviction. While the primary is silent, every replica's lag grows, and evicting them all
    /// for that would stop the reads too; so the primary's silence counts for one probe interval at most.
    fn judged_lag(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let (newest, _) = self.log.newest()?;
        let replay = self.entry(node).replay?;
        let silence = now.saturating_duration_since(newest).min(self.config.probe_interval);
        match self.log.lag(replay, newest) {
            Some(lag) => Some(lag.saturating_add(silence)),
            // It was behind before we knew it. How far is unknown, that it is too far is not.
            None => self.log.reach().filter(|&reach| reach > self.config.max_lag),
        }
    }

    fn apply(&mut self, node: NodeId, observation: Observation, now: Instant, events: &mut Vec<Event>) {
        let limits = Limits {
            down_after: self.config.down_after,
            max_lag: self.config.max_lag,
            readmit_lag: self.config.readmit_lag,
            readmit_after: self.config.readmit_after,
        };
        let entry = &mut self.entries[usize::from(node.0)];
        let from = entry.state.health();
        entry.state = std::mem::take(&mut entry.state).on_observation(observation, now, &limits);
        let to = entry.state.health();
        if std::mem::discriminant(&from) != std::mem::discriminant(&to) {
            events.push(Event::Health { node, from, to, lag: entry.lag_observed });
        }
    }

    /// A hidden timeline is taken for the primary's as long as there was no failover that it could have missed.
    fn timeline_of(&self, entry: &Entry) -> Timeline {
        entry.timeline.unwrap_or(if self.epoch <= 1 { self.timeline } else { Timeline::default() })
    }

    /// What the data's way gets to see.
    pub fn view(&self, now: Instant) -> ClusterView {
        let node = |id: NodeId| {
            let entry = self.entry(id);
            let replay = entry.replay.filter(|_| entry.role == Role::Replica);
            // Positions of another timeline share the numbers, not the history: no lag follows from them.
            let comparable = replay.filter(|_| self.timeline_of(entry) == self.timeline);
            // A node that has stopped answering is not evicted yet, but its last lag must not make it look the best.
            let patience = self.config.probe_interval.saturating_mul(2);
            let prompt = entry.observed.is_some_and(|at| now.saturating_duration_since(at) <= patience);
            NodeView {
                id,
                name: entry.name.clone(),
                role: entry.role,
                health: entry.state.health(),
                timeline: self.timeline_of(entry),
                replay: replay.unwrap_or_default(),
                observation: entry.observation,
                connected: entry.connected,
                lag: comparable.and_then(|replay| self.log.lag(replay, now)),
                lag_bytes: comparable.and_then(|replay| self.log.lag_bytes(replay)),
                lag_observed: entry.lag_observed.filter(|_| comparable.is_some() && prompt),
                answered: entry.observed,
                weight: entry.weight,
                stats: Arc::clone(&entry.stats),
                facts: Arc::clone(&entry.facts),
            }
        };
        ClusterView {
            nodes: self.ids().map(node).collect(),
            primary: self.primary,
            system: self.system,
            timeline: self.timeline,
            switch: self.switch,
            epoch: self.epoch,
            taken: now,
        }
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u16::try_from(self.entries.len()).unwrap_or(u16::MAX)).map(NodeId)
    }

    fn entry(&self, id: NodeId) -> &Entry {
        &self.entries[usize::from(id.0)]
    }
}

impl Entry {
    fn new(node: &NodeConfig) -> Entry {
        Entry {
            name: node.name.clone(),
            weight: node.weight,
            stats: Arc::default(),
            state: HealthState::default(),
            role: Role::Unknown,
            timeline: None,
            system: None,
            answers: false,
            replay: None,
            observation: 0,
            observed: None,
            connected: 0,
            lag_observed: None,
            traits: None,
            likeness: Likeness::default(),
            switch: None,
            facts: Arc::default(),
            attempts: 0,
        }
    }

    fn on_status(&mut self, status: &Status) {
        self.attempts += 1;
        self.answers = true;
        self.role = status.reading.role;
        // A standby whose WAL receiver is gone for a while (its primary restarts) shows only the control file's timeline,
        // which is old news. Within one life of a server the timeline never goes back.
        let known = self.timeline.filter(|_| status.connected == self.connected && self.observation > 0);
        self.timeline = status.reading.timeline.max(known);
        self.system = status.system;
        self.replay = status.reading.position.filter(|_| self.role == Role::Replica);
        self.observation = status.number;
        self.observed = Some(status.answered);
        self.connected = status.connected;
        if status.switch.is_some() {
            self.switch = status.switch;
        }
        let mut facts = (*self.facts).clone();
        facts.probe_time = Some(status.answered.saturating_duration_since(status.sent));
        if let Some(traits) = &status.traits {
            facts.version.clone_from(&traits.version);
            facts.version_num = traits.version_num;
            self.traits = Some(traits.clone());
        }
        self.facts = Arc::new(facts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        roster: Roster,
        start: Instant,
        number: u64,
    }

    fn world(nodes: u16) -> World {
        let node = |port| NodeConfig {
            name: format!("node{port}"),
            host: "node".into(),
            port,
            user: "app".into(),
            password: None,
            database: "app".into(),
            weight: 1,
            tls: crate::config::NodeTls::Disable,
        };
        let config = ClusterConfig::default();
        let nodes: Vec<NodeConfig> = (0..nodes).map(node).collect();
        let start = Instant::now();
        World { roster: Roster::new(&nodes, config, start), start, number: 0 }
    }

    impl World {
        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn seen(&mut self, ms: u64, node: u16, role: Role, system: u64, timeline: u32, lsn: u64) -> Vec<Event> {
            self.number += 1;
            let reading = Reading { role, timeline: Some(Timeline(timeline)), position: Some(Lsn(lsn)) };
            let at = self.at(ms);
            let status = Status {
                reading,
                system: Some(system),
                number: self.number,
                connected: 0,
                sent: at,
                answered: at,
                traits: None,
                switch: None,
            };
            self.roster.on_status(NodeId(node), status)
        }

        fn primary(&mut self, ms: u64, node: u16, lsn: u64) -> Vec<Event> {
            self.seen(ms, node, Role::Primary, 7, 1, lsn)
        }

        fn replica(&mut self, ms: u64, node: u16, lsn: u64) -> Vec<Event> {
            self.seen(ms, node, Role::Replica, 7, 1, lsn)
        }

        fn fails(&mut self, ms: u64, node: u16, refusing: bool) {
            let now = self.at(ms);
            self.roster.on_failure(NodeId(node), refusing, "no answer".into(), now);
        }

        fn view(&self, ms: u64) -> ClusterView {
            self.roster.view(self.at(ms))
        }

        fn health(&self, ms: u64, node: u16) -> Health {
            self.view(ms).nodes[usize::from(node)].health.clone()
        }

        fn refusal(&self, node: u16) -> String {
            match self.health(0, node) {
                Health::Refused(why) => why,
                other => panic!("not refused: {other:?}"),
            }
        }
    }

    #[test]
    fn the_cluster_is_the_one_that_most_nodes_belong_to() {
        let mut world = world(3);
        // The stray answers first, and must not become our primary for that.
        world.seen(0, 2, Role::Primary, 99, 5, 9000);
        assert_eq!(world.view(0).primary, None);
        world.primary(1, 0, 100);
        world.replica(2, 1, 100);
        let view = world.view(2);
        assert_eq!((view.system, view.primary, view.epoch), (7, Some(NodeId(0)), 1));
        world.seen(500, 2, Role::Primary, 99, 5, 9000);
        assert!(world.refusal(2).contains("another cluster"));
        assert_eq!(world.view(500).primary, Some(NodeId(0)));
    }

    #[test]
    fn of_two_primaries_the_higher_timeline_rules() {
        let mut world = world(2);
        world.primary(0, 0, 100);
        world.replica(0, 1, 100);
        let events = world.seen(500, 1, Role::Primary, 7, 2, 120);
        assert!(events.contains(&Event::Primary { node: Some(NodeId(1)), timeline: Timeline(2) }));
        world.primary(1000, 0, 500);
        assert!(world.refusal(0).contains("second primary"));
        let view = world.view(1000);
        assert_eq!((view.primary, view.timeline, view.epoch), (Some(NodeId(1)), Timeline(2), 2));
    }

    /// Seed 60 of the simulation: nobody had fenced the old primary, and when the new one died it was taken back.
    #[test]
    fn an_old_primary_is_not_taken_back_when_the_new_one_dies() {
        let mut world = world(2);
        world.primary(0, 0, 100);
        world.seen(500, 1, Role::Primary, 7, 2, 90);
        world.fails(1000, 1, true);
        world.primary(1500, 0, 200);
        let view = world.view(1500);
        assert_eq!((view.primary, view.timeline), (None, Timeline(2)));
        assert_eq!(world.refusal(0), "a primary of an old timeline");
        world.seen(2000, 1, Role::Primary, 7, 2, 95);
        assert_eq!(world.view(2000).primary, Some(NodeId(1)));
        // Promoted in its turn, it is one of now.
        world.seen(2500, 0, Role::Primary, 7, 3, 210);
        assert_eq!((world.view(2500).primary, world.view(2500).timeline), (Some(NodeId(0)), Timeline(3)));
    }

    #[test]
    fn a_replica_left_on_the_old_timeline_is_refused_and_shows_no_lag() {
        let mut world = world(3);
        world.primary(0, 0, 100);
        world.replica(1, 1, 100);
        world.replica(1, 2, 100);
        world.seen(500, 1, Role::Primary, 7, 2, 120);
        world.replica(600, 2, 9000);
        assert!(world.refusal(2).contains("timeline 1"));
        let node = world.view(600).nodes[2].clone();
        assert_eq!((node.lag, node.lag_bytes, node.lag_observed), (None, None, None));
        // It follows, and the numbers mean something again.
        world.seen(1000, 2, Role::Replica, 7, 2, 120);
        assert!(world.view(1000).nodes[2].lag.is_some());
        // Seen on a real cluster: when the new primary restarts, the standby's WAL receiver is gone for five seconds and
        // the control file still says timeline 1.
        world.seen(1500, 2, Role::Replica, 7, 1, 120);
        assert_eq!(world.view(1500).nodes[2].timeline, Timeline(2));
        assert!(!matches!(world.health(1500, 2), Health::Refused(_)));
    }

    #[test]
    fn a_paused_replica_is_evicted_and_comes_back_after_its_probation() {
        let mut world = world(2);
        let mut evicted = None;
        let mut readmitted = None;
        for tick in 0..40_u64 {
            let ms = tick * 500;
            world.primary(ms, 0, 100 + tick);
            let replay = if (4..20).contains(&tick) { 103 } else { 100 + tick };
            for event in world.replica(ms, 1, replay) {
                match event {
                    Event::Health { to: Health::Lagging, .. } => evicted = Some(ms),
                    Event::Health { from: Health::Lagging, to: Health::Healthy, .. } => readmitted = Some(ms),
                    _ => {}
                }
            }
        }
        // Position 103 was the primary's at 1500 ms, so at 7000 ms the replica is 5500 ms behind, at 6500 just 5000.
        assert_eq!(evicted, Some(7000));
        // Fresh again at 10,000 ms, and for five seconds from then.
        assert_eq!(readmitted, Some(15_000));
    }

    #[test]
    fn a_replica_that_was_behind_before_the_first_sample_is_lagging_and_not_down() {
        let mut world = world(2);
        // The samples begin at 500 ms: only then it is known which cluster is ours.
        for ms in (0..=5500).step_by(500) {
            world.primary(ms, 0, 100);
            world.replica(ms, 1, 40);
        }
        assert!(matches!(world.health(5500, 1), Health::Down(_)), "it may be young");
        world.primary(6000, 0, 100);
        world.replica(6000, 1, 40);
        assert_eq!(world.health(6000, 1), Health::Lagging);
        assert_eq!(world.view(6000).nodes[1].lag, None, "a lower bound is not shown as the lag");
        for ms in (6500..=11_500).step_by(500) {
            world.primary(ms, 0, 100);
            world.replica(ms, 1, 100);
        }
        assert_eq!(world.health(11_500, 1), Health::Healthy);
    }

    #[test]
    fn a_silent_primary_does_not_take_the_replicas_with_it() {
        let mut world = world(2);
        world.primary(0, 0, 100);
        world.replica(0, 1, 100);
        // Only now it is known which cluster is ours, so the first answers count again.
        world.primary(0, 0, 100);
        world.replica(0, 1, 100);
        for tick in 1..40_u64 {
            world.fails(tick * 500, 0, false);
            world.replica(tick * 500, 1, 100);
        }
        assert_eq!(world.view(20_000).primary, None);
        assert_eq!(world.health(20_000, 1), Health::Healthy);
        // What people and `max_lag` hints see stays honest.
        assert_eq!(world.view(20_000).nodes[1].lag, Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_replica_that_stops_answering_loses_its_good_reputation_before_it_counts_as_down() {
        let mut world = world(2);
        world.replica(0, 1, 100);
        world.primary(0, 0, 100);
        world.replica(0, 1, 100);
        let observed = |world: &World, ms| world.view(ms).nodes[1].lag_observed;
        assert!(observed(&world, 1000).is_some());
        assert_eq!(observed(&world, 1001), None);
        assert_eq!(world.health(1001, 1), Health::Healthy);
        world.replica(1500, 1, 100);
        assert!(observed(&world, 1500).is_some());
    }

    #[test]
    fn a_primary_that_restarts_is_missing_and_back_without_a_new_epoch() {
        let mut world = world(2);
        world.primary(0, 0, 100);
        world.fails(500, 0, true);
        assert_eq!(world.view(500).primary, None);
        world.primary(600, 0, 100);
        let view = world.view(600);
        assert_eq!((view.primary, view.epoch), (Some(NodeId(0)), 1));
        // One unanswered probe is no failover.
        world.fails(1100, 0, false);
        assert_eq!(world.view(1100).primary, Some(NodeId(0)));
    }

    #[test]
    fn differing_settings_are_aligned_or_refused_once_the_primary_is_known() {
        let mut world = world(2);
        let traits = |value: &str, preload: &str| Traits {
            settings: [("bytea_output", value), ("session_preload_libraries", preload)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Traits::default()
        };
        let mut report = |node: u16, role, traits| {
            let at = world.at(u64::from(node));
            let reading = Reading { role, timeline: Some(Timeline(1)), position: Some(Lsn(1)) };
            let (sent, answered) = (at, at);
            let status = Status {
                reading,
                system: Some(7),
                number: 1,
                connected: 0,
                sent,
                answered,
                traits: Some(traits),
                switch: None,
            };
            world.roster.on_status(NodeId(node), status);
            world.view(10)
        };
        report(1, Role::Replica, traits("escape", ""));
        let view = report(0, Role::Primary, traits("hex", ""));
        assert_eq!(view.nodes[1].facts.align, [("bytea_output".to_owned(), "hex".to_owned())]);
        let view = report(1, Role::Replica, traits("hex", "auto_explain"));
        assert!(matches!(view.nodes[1].health, Health::Refused(_)));
        assert!(view.nodes[1].facts.align.is_empty());
    }
}
