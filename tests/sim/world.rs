//! The virtual cluster: three nodes that crash, return, are promoted, and lag; connections to them; a clock; and what pgweir
//! knows of it all, late. What it concludes is concluded by the real roster.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgweir::catalog::Catalog;
use pgweir::cluster::probe::Reading;
use pgweir::cluster::roster::{Roster, Status};
use pgweir::cluster::{ClusterView, GlobalFloor, Lsn, NodeId, Position, Role, Sample, Timeline};
use pgweir::config::{ClusterConfig, NodeConfig, NodeTls};
use pgweir::pool::state::ConnectionState;

use super::backend::{Backend, Store};
use super::catalog::catalog;
use super::history::{History, Place, Shown, Staleness};

/// xorshift64*: the only source of chance.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A server process as its client knows it.
#[derive(Clone, Copy)]
pub struct Seat {
    pub node: usize,
    /// As what it was opened: to a replica's nothing is written, even if the node is promoted under it.
    pub role: Role,
    /// Of the node, when it was opened: the next one finds it dead.
    pub life: u64,
    pub may: Asof,
}

/// What was known of the replica when the connection was taken: reads on it may be older than promised by the time since.
#[derive(Clone, Copy)]
pub struct Asof {
    /// The newest sample of the primary at the node's last observation.
    sampled: Instant,
    taken: Instant,
}

/// A server connection with the bytes under way on it.
pub struct Connection {
    pub id: u64,
    pub seat: Seat,
    pub opened: Instant,
    pub probes_at_open: u64,
    generation: u64,
    pub backend: Backend,
    pub state: ConnectionState,
    pub parameters: Vec<(String, String)>,
    pub to_server: Vec<u8>,
}

/// Why there is no connection.
pub enum Trouble {
    WrongRole,
    Unreachable,
}

struct Node {
    /// What it has of the history.
    place: Place,
    role: Role,
    alive: bool,
    /// Grows with every start.
    life: u64,
    /// The control connection's life, and the number of probes before it was opened.
    control: (u64, u64),
    /// Connections of an older one are given up: the node's role changed.
    generation: u64,
    known: Role,
    sampled: Instant,
}

enum Answer {
    Status(Box<Status>),
    Failure,
}

/// Positions are numbers of commits.
pub struct World {
    pub now: Instant,
    pub history: History,
    nodes: Vec<Node>,
    /// The newest place that some client was told of.
    pub acknowledged: Place,
    pub cluster: ClusterConfig,
    roster: Roster,
    pub view: ClusterView,
    pub sample: Option<Sample>,
    /// When its question was sent.
    sampled: Instant,
    pub ticket: u64,
    /// Samples and probes that were answered and not yet published.
    samples: VecDeque<(Sample, Instant)>,
    probes: VecDeque<(usize, Answer)>,
    global: Global,
    pub idle: Vec<Connection>,
    connections: u64,
    pub broken: Vec<String>,
    pub dice: Dice,
    pub catalog: Catalog,
    pub replica_reads: u64,
    /// Unnamed Parses that were not sent.
    pub spared: u64,
    /// Replicas that were asked in front of a read what they have.
    pub proofs: u64,
    pub promotions: usize,
    /// So many disasters are still to come.
    disasters: usize,
    /// Of the one sequence.
    value: u64,
}

/// As in `Cluster`: what was written is told by a sample that was asked for afterwards.
#[derive(Default)]
struct Global {
    ticket: u64,
    through: u64,
    position: Option<Position>,
}

pub fn at(timeline: usize, end: usize) -> Position {
    Position { system: 7, timeline: Timeline(timeline as u32 + 1), lsn: Lsn(end as u64) }
}

/// Short, so that the clock's leaps go beyond them.
fn times() -> ClusterConfig {
    ClusterConfig {
        max_lag: Duration::from_millis(500),
        readmit_lag: Duration::from_millis(200),
        readmit_after: Duration::from_millis(5),
        probe_interval: Duration::from_millis(100),
        failover_timeout: Duration::from_millis(200),
        ..ClusterConfig::default()
    }
}

fn names() -> Vec<NodeConfig> {
    let node = |id: u16| NodeConfig {
        name: format!("node{id}"),
        host: "node".into(),
        port: 5432 + id,
        user: "app".into(),
        password: None,
        database: "app".into(),
        weight: 1,
        tls: NodeTls::Disable,
    };
    (0..3).map(node).collect()
}

impl World {
    pub fn new(seed: u64) -> World {
        let now = Instant::now();
        let (cluster, mut dice) = (times(), Dice::new(seed));
        let roster = Roster::new(&names(), cluster.clone(), now);
        let node = |id| Node {
            place: Place::default(),
            role: if id == 0 { Role::Primary } else { Role::Replica },
            alive: true,
            life: 1,
            control: (1, 0),
            generation: 0,
            known: Role::Unknown,
            sampled: now,
        };
        let disasters = if seed.is_multiple_of(2) { 1 + dice.below(12) } else { 0 };
        let mut world = World {
            now,
            history: History::new(),
            nodes: (0..3).map(node).collect(),
            acknowledged: Place::default(),
            view: roster.view(now),
            cluster,
            roster,
            sample: None,
            sampled: now,
            ticket: 0,
            samples: VecDeque::new(),
            probes: VecDeque::new(),
            global: Global::default(),
            idle: Vec::new(),
            connections: 0,
            broken: Vec::new(),
            dice,
            catalog: catalog(),
            replica_reads: 0,
            spared: 0,
            proofs: 0,
            promotions: 0,
            disasters,
            value: 0,
        };
        for node in 0..3 {
            world.probe(node);
            world.hear_of_probe();
        }
        world
    }

    /// One thing happens that no session asked for.
    pub fn turn(&mut self) {
        self.now += Duration::from_micros(self.dice.below(60) as u64);
        // The machine stood still, or the clock was set.
        if self.dice.one_in(1_500) {
            self.now += Duration::from_millis([20, 100, 400, 3_000][self.dice.below(4)]);
        }
        let node = self.dice.below(3);
        match self.dice.below(6) {
            0 => self.replay(node),
            1 => self.ask_for_sample(),
            2 => self.probe(node),
            3 => self.hear_of_sample(),
            4 => self.hear_of_probe(),
            // Somebody writes who does not come through pgweir.
            5 if self.dice.one_in(8) && self.is_primary(node) => {
                let row = self.dice.below(4) as u32;
                self.commit(node, &[row]);
            }
            5 if self.disasters > 0 && self.dice.one_in(40) => {
                self.disaster();
                self.disasters -= 1;
                if self.disasters == 0 {
                    self.repair();
                }
            }
            _ => {}
        }
    }

    fn is_primary(&self, node: usize) -> bool {
        self.nodes[node].alive && self.nodes[node].role == Role::Primary
    }

    fn commit(&mut self, node: usize, rows: &[u32]) -> Place {
        let place = self.history.commit(self.nodes[node].place.timeline, rows, self.now);
        self.nodes[node].place = place;
        place
    }

    /// A replica gets on, and changes to the newest timeline if it is not beyond where that began.
    fn replay(&mut self, node: usize) {
        if !self.nodes[node].alive || self.nodes[node].role == Role::Primary {
            return;
        }
        let (place, newest) = (self.nodes[node].place, self.history.newest());
        let kept = self.history.carried(place, newest.timeline);
        if place.timeline < newest.timeline && kept < place.end {
            // It has what was lost: it must be rewound, which needs a restart.
            if self.dice.one_in(10) {
                self.start(node, Place { timeline: newest.timeline, end: kept });
            }
            return;
        }
        let left = self.history.end(newest.timeline).end - kept;
        self.nodes[node].place = Place { timeline: newest.timeline, end: kept + self.dice.below(left + 1) };
    }

    fn start(&mut self, node: usize, place: Place) {
        let node = &mut self.nodes[node];
        (node.place, node.alive, node.role) = (place, true, Role::Replica);
        node.life += 1;
    }

    fn stop(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.nodes[node].life += 1;
    }

    /// A node crashes, comes back, or is promoted, also while the primary lives on: nobody fences it.
    fn disaster(&mut self) {
        let node = self.dice.below(3);
        let newest = self.history.newest().timeline;
        let Node { place, role, alive, .. } = self.nodes[node];
        match (alive, role) {
            (false, Role::Primary) if place.timeline == newest => {
                // Nothing was promoted meanwhile: it recovers with all that it acknowledged.
                self.nodes[node].alive = true;
            }
            (false, _) => {
                let end = self.history.carried(place, newest);
                // Replay goes on from the last restartpoint.
                let end = end - self.dice.below(end.min(3) + 1);
                self.start(node, Place { timeline: newest, end });
            }
            (true, Role::Primary) => self.stop(node),
            (true, _) if self.dice.one_in(3) => self.stop(node),
            (true, _) => {
                let is_fenced = !(0..3).any(|other| self.is_primary(other));
                if place.timeline == newest && (is_fenced || self.dice.one_in(4)) {
                    let timeline = self.history.branch(place);
                    (self.nodes[node].place.timeline, self.nodes[node].role) = (timeline, Role::Primary);
                    self.promotions += 1;
                }
            }
        }
    }

    /// The disasters are over: there is one primary, and everybody follows it.
    fn repair(&mut self) {
        let newest = self.history.newest().timeline;
        for node in 0..3 {
            let Node { place, role, alive, .. } = self.nodes[node];
            if role == Role::Primary && place.timeline == newest {
                self.nodes[node].alive = true;
            } else if !alive || role == Role::Primary {
                let end = self.history.carried(place, newest);
                self.start(node, Place { timeline: newest, end });
            }
        }
    }

    fn ask_for_sample(&mut self) {
        let Some(primary) = self.view.primary else { return };
        self.ticket += 1;
        let node = usize::from(primary.0);
        if self.is_primary(node) {
            let place = self.nodes[node].place;
            let sample = Sample { number: self.ticket, position: at(place.timeline, place.end) };
            self.samples.push_back((sample, self.now));
        }
    }

    fn hear_of_sample(&mut self) {
        let Some((sample, sent)) = self.samples.pop_front() else { return };
        (self.sample, self.sampled) = (Some(sample), sent);
        let global = &mut self.global;
        if global.ticket > 0 && sample.number >= global.ticket && global.through < global.ticket {
            let higher =
                |known: &Position| (known.timeline, known.lsn) > (sample.position.timeline, sample.position.lsn);
            global.through = global.ticket;
            global.position = Some(global.position.filter(higher).unwrap_or(sample.position));
        }
        self.roster.on_insert(sample.position, sent);
    }

    fn probe(&mut self, index: usize) {
        let stats = self.roster.stats(NodeId(index as u16));
        let before = stats.probes_started.fetch_add(1, Ordering::Relaxed);
        let node = &mut self.nodes[index];
        if !node.alive {
            return self.probes.push_back((index, Answer::Failure));
        }
        if node.control.0 != node.life {
            node.control = (node.life, before);
        }
        let Place { timeline, end } = node.place;
        let position = at(timeline, end);
        let switch = self.history.switch(timeline).filter(|_| node.role == Role::Primary);
        let status = Status {
            reading: Reading { role: node.role, timeline: Some(position.timeline), position: Some(position.lsn) },
            system: Some(7),
            number: before + 1,
            connected: node.control.1,
            sent: self.now,
            answered: self.now,
            traits: None,
            switch: switch.map(|end| (Timeline(timeline as u32), Lsn(end as u64))),
        };
        self.probes.push_back((index, Answer::Status(Box::new(status))));
    }

    fn hear_of_probe(&mut self) {
        let Some((index, answer)) = self.probes.pop_front() else { return };
        let id = NodeId(index as u16);
        let events = match answer {
            Answer::Status(mut status) => {
                status.answered = self.now;
                if self.view.primary == Some(id) {
                    self.sampled = self.sampled.max(status.sent);
                }
                self.nodes[index].sampled = self.sampled;
                self.roster.on_status(id, *status)
            }
            Answer::Failure => self.roster.on_failure(id, false, "it is gone".into(), self.now),
        };
        drop(events);
        let view = self.roster.view(self.now);
        if view.epoch != self.view.epoch {
            self.global = Global { ticket: self.ticket + 1, ..Global::default() };
        }
        for (node, seen) in self.nodes.iter_mut().zip(&view.nodes) {
            if seen.role != Role::Unknown && seen.role != node.known {
                node.known = seen.role;
                node.generation += 1;
            }
        }
        let nodes = &self.nodes;
        self.idle.retain(|connection| connection.generation == nodes[connection.seat.node].generation);
        self.view = view;
    }

    /// A unit ended on the primary.
    pub fn wrote(&mut self) {
        self.global.ticket = self.global.ticket.max(self.ticket + 1);
    }

    pub fn global_floor(&self) -> GlobalFloor {
        let unresolved = (self.global.ticket > self.global.through).then(|| self.global.ticket - 1);
        GlobalFloor { position: self.global.position, unresolved }
    }

    /// What `strict` promises to a read that arrives now: all that was acknowledged to anyone, by the primary that pgweir
    /// knows of if there are two.
    pub fn committed(&self) -> Place {
        let primaries: Vec<usize> = (0..3).filter(|node| self.is_primary(*node)).collect();
        match (primaries.as_slice(), self.view.primary) {
            ([_, _, ..], Some(known)) => self.history.end(self.nodes[usize::from(known.0)].place.timeline),
            ([_, _, ..], None) => Place::default(),
            _ => self.history.newest(),
        }
    }

    /// The newest that pgweir has heard of.
    pub fn known_timeline(&self) -> usize {
        (self.view.timeline.0 as usize).saturating_sub(1)
    }

    pub fn is_dead(&self, seat: &Seat) -> bool {
        self.nodes[seat.node].life != seat.life
    }

    pub fn connect(&mut self, node: usize, role: Role) -> Result<Connection, Trouble> {
        if self.nodes[node].known != role {
            return Err(Trouble::WrongRole);
        }
        let may = Asof { sampled: self.nodes[node].sampled, taken: self.view.taken };
        let fit: Vec<usize> = (0..self.idle.len()).filter(|index| self.idle[*index].seat.node == node).collect();
        if fit.len() > 2 || (!fit.is_empty() && !self.dice.one_in(4)) {
            let index = fit[self.dice.below(fit.len())];
            let connection = self.idle.swap_remove(index);
            let seat = Seat { may, ..connection.seat };
            return Ok(Connection { seat, ..connection });
        }
        let Node { alive, life, generation, role: found, .. } = self.nodes[node];
        if !alive {
            return Err(Trouble::Unreachable);
        }
        if found != role {
            return Err(Trouble::WrongRole);
        }
        self.connections += 1;
        Ok(Connection {
            id: self.connections,
            seat: Seat { node, role, life, may },
            opened: self.now,
            probes_at_open: self.roster.stats(NodeId(node as u16)).probes_started.load(Ordering::Relaxed),
            generation,
            backend: Backend::default(),
            state: ConnectionState::default(),
            parameters: Vec::new(),
            to_server: Vec::new(),
        })
    }

    /// A lease ends: nothing of the session may be left that the connection's state does not know.
    pub fn put_back(&mut self, mut connection: Connection) {
        self.spared += u64::from(connection.state.statements.take_spared());
        if self.is_dead(&connection.seat) || connection.generation != self.nodes[connection.seat.node].generation {
            return;
        }
        let known: std::collections::BTreeMap<String, String> = connection
            .state
            .settings
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        if !connection.backend.is_clean() || !connection.backend.out.is_empty() || !connection.to_server.is_empty() {
            self.broken.push(format!("connection {} was given back with something under way", connection.id));
        }
        let process = &connection.backend.process;
        if known != process.kept.settings {
            let is = &process.kept.settings;
            self.broken.push(format!("connection {} has {is:?}, given back as {known:?}", connection.id));
        }
        if !process.pins().is_empty() || (process.sequence.is_some() && connection.state.sequences.is_none()) {
            self.broken.push(format!("connection {} was given back with {:?}", connection.id, process.pins()));
        }
        let named = process.statements.keys().filter(|name| !name.is_empty()).count();
        // What is to be closed may not be there: Close does not mind.
        let known = connection.state.statements.len();
        if !(known..=known + connection.state.orphans.len()).contains(&named) {
            self.broken.push(format!("connection {} has {named} statements, not {known}", connection.id));
        }
        if process.statements.contains_key(&b""[..]) && connection.state.unnamed.is_none() {
            self.broken
                .push(format!("connection {}: the unnamed statement is {:?}", connection.id, connection.state.unnamed));
        }
        self.idle.push(connection);
    }
}

/// A node as one of its connections sees it.
pub struct Rows<'a> {
    pub world: &'a mut World,
    pub seat: Seat,
}

impl Store for Rows<'_> {
    fn read(&mut self, row: u32) -> u64 {
        let world = &mut *self.world;
        world.replica_reads += u64::from(self.seat.role == Role::Replica);
        let snapshot = world.nodes[self.seat.node].place;
        let age = world.history.age(snapshot, world.now);
        let Asof { sampled, taken } = self.seat.may;
        let may = Staleness {
            evicted: world.now.saturating_duration_since(sampled),
            hinted: world.now.saturating_duration_since(taken),
        };
        let version = world.history.version(snapshot, row);
        world.history.show(Shown { version, snapshot, writable: self.seat.role == Role::Primary, age, may })
    }

    fn commit(&mut self, rows: &[u32]) -> u64 {
        let place = self.world.commit(self.seat.node, rows);
        let (age, may) = (Duration::ZERO, Staleness::default());
        self.world.history.show(Shown { version: place, snapshot: place, writable: true, age, may })
    }

    fn next_value(&mut self) -> u64 {
        self.world.value += 1;
        self.world.value
    }

    fn is_writable(&self) -> bool {
        self.seat.role == Role::Primary
    }

    fn replayed(&mut self) -> String {
        self.world.proofs += 1;
        let place = self.world.nodes[self.seat.node].place;
        at(place.timeline, place.end).lsn.to_string()
    }

    fn fault(&mut self) -> Option<&'static str> {
        let fails = self.seat.role == Role::Replica && self.world.dice.one_in(12);
        fails.then(|| ["40001", "25006", "42P01"][self.world.dice.below(3)])
    }

    fn wrote_on_replica(&mut self, text: &str) {
        // In a READ ONLY block it fails alike everywhere; the caller says so.
        self.world.broken.push(format!("a replica was asked to {text}"));
    }
}

/// The ideal server has no rows: versions are compared apart from the bytes.
pub struct Ideal;

impl Store for Ideal {
    fn read(&mut self, _: u32) -> u64 {
        0
    }

    fn commit(&mut self, _: &[u32]) -> u64 {
        0
    }

    fn next_value(&mut self) -> u64 {
        1
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn replayed(&mut self) -> String {
        String::new()
    }

    fn fault(&mut self) -> Option<&'static str> {
        None
    }

    fn wrote_on_replica(&mut self, _: &str) {}
}
