//! Pure: everything that the side loops learned, and what follows: which system is ours, who is the primary, who is fit.
//! `Cluster` keeps one behind a mutex that only side loops take, and publishes the `ClusterView` that it makes.
//! It logs nothing itself; each change comes back as an `Event`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::{HealthState, Limits, Observation};
use super::lag::LsnTimeline;
use super::likeness::{self, Likeness, Traits};
use super::lsn::{Lsn, Position, Timeline};
use super::probe::Reading;
use super::{ClusterView, Health, NodeFacts, NodeId, NodeStats, NodeView, Role};
use crate::config::{ClusterConfig, NodeConfig};

/// A node answered a full probe.
#[derive(Clone, Debug)]
pub(super) struct Status {
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

/// A change that people want to read one line about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Health { node: NodeId, from: Health, to: Health, lag: Option<Duration> },
    Role { node: NodeId, from: Role, to: Role },
    Primary { node: Option<NodeId>, timeline: Timeline },
    System { system: u64 },
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
    connected: u64,
    lag_observed: Option<Duration>,
    traits: Option<Traits>,
    likeness: Likeness,
    switch: Option<(Timeline, Lsn)>,
    facts: Arc<NodeFacts>,
    attempts: u64,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Roster {
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
        let mut events = Vec::new();
        let now = status.answered;
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
            self.system = system;
            events.push(Event::System { system });
        }
    }

    /// The answering primary of our system with the highest timeline; of equals the present one, then the first.
    fn settle_primary(&mut self, events: &mut Vec<Event>) {
        let settled = self.system != 0 || self.entries.iter().all(|entry| entry.system.is_none());
        let found = self
            .ids()
            .filter(|&id| {
                let entry = self.entry(id);
                settled && entry.answers && entry.role == Role::Primary && self.is_ours(entry)
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
        let judged = self.judged_lag(node, now);
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
        Observation::Replica { lag: judged }
    }

    /// The lag that decides about eviction. While the primary is silent, every replica's lag grows, and evicting them all
    /// for that would stop the reads too; so the primary's silence counts for one probe interval at most.
    fn judged_lag(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let (newest, _) = self.log.newest()?;
        let replay = self.entry(node).replay?;
        let silence = now.saturating_duration_since(newest).min(self.config.probe_interval);
        Some(self.log.lag(replay, newest)?.saturating_add(silence))
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
            let replica = entry.role == Role::Replica;
            let replay = entry.replay.filter(|_| replica);
            NodeView {
                id,
                name: entry.name.clone(),
                role: entry.role,
                health: entry.state.health(),
                timeline: self.timeline_of(entry),
                replay: replay.unwrap_or_default(),
                observation: entry.observation,
                connected: entry.connected,
                lag: replay.and_then(|replay| self.log.lag(replay, now)),
                lag_bytes: replay.and_then(|replay| self.log.lag_bytes(replay)),
                lag_observed: entry.lag_observed.filter(|_| replica),
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
        self.timeline = status.reading.timeline;
        self.system = status.system;
        self.replay = status.reading.position.filter(|_| self.role == Role::Replica);
        self.observation = status.number;
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
