//! The virtual cluster: a primary and replicas with their rows, connections to them, and what pgweir knows of them, late.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgweir::catalog::{Catalog, Conduct, Function, IsSequence, Named, Relation, Safety, TakesRow, Writes};
use pgweir::cluster::{
    ClusterView, GlobalFloor, Health, Lsn, NodeFacts, NodeId, NodeStats, NodeView, Position, Role, Sample, Timeline,
};
use pgweir::pool::state::ConnectionState;

use super::backend::{Backend, Store};

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

/// A server connection with the bytes under way on it.
pub struct Connection {
    pub id: u64,
    pub node: usize,
    pub backend: Backend,
    pub state: ConnectionState,
    pub parameters: Vec<(String, String)>,
    pub to_server: Vec<u8>,
}

/// Positions are numbers of commits: the log is the list of rows that each wrote.
pub struct World {
    pub log: Vec<Vec<u32>>,
    /// How much each node has of the log; node 0 is the primary.
    pub replayed: Vec<usize>,
    /// The newest position that some client was told of.
    pub acknowledged: u64,
    pub view: ClusterView,
    pub sample: Option<Sample>,
    pub ticket: u64,
    /// Samples and probes that were answered and not yet published.
    samples: Vec<Sample>,
    probes: Vec<(usize, u64, u64)>,
    pub idle: Vec<Connection>,
    connections: u64,
    pub broken: Vec<String>,
    pub dice: Dice,
    pub catalog: Catalog,
    pub replica_reads: u64,
    unresolved: u64,
    /// Of the one sequence.
    value: u64,
}

fn at(lsn: u64) -> Position {
    Position { system: 7, timeline: Timeline(1), lsn: Lsn(lsn) }
}

fn node(id: usize) -> NodeView {
    let stats = NodeStats::default();
    stats.probes_started.store(1, Ordering::Relaxed);
    NodeView {
        id: NodeId(id as u16),
        name: format!("node{id}"),
        role: if id == 0 { Role::Primary } else { Role::Replica },
        health: Health::Healthy,
        timeline: Timeline(1),
        replay: Lsn(0),
        observation: 1,
        connected: 0,
        lag: Some(Duration::ZERO),
        lag_bytes: Some(0),
        lag_observed: Some(Duration::ZERO),
        answered: None,
        weight: 1,
        stats: Arc::new(stats),
        facts: Arc::new(NodeFacts::default()),
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        let view = ClusterView {
            nodes: (0..3).map(node).collect(),
            primary: Some(NodeId(0)),
            system: 7,
            timeline: Timeline(1),
            switch: None,
            epoch: 1,
            taken: Instant::now(),
        };
        World {
            log: Vec::new(),
            replayed: vec![0; 3],
            acknowledged: 0,
            view,
            sample: None,
            ticket: 0,
            samples: Vec::new(),
            probes: Vec::new(),
            idle: Vec::new(),
            connections: 0,
            broken: Vec::new(),
            dice: Dice::new(seed),
            catalog: catalog(),
            replica_reads: 0,
            unresolved: 0,
            value: 0,
        }
    }

    /// One thing happens that no session asked for.
    pub fn turn(&mut self) {
        let node = 1 + self.dice.below(2);
        match self.dice.below(6) {
            0 => self.replayed[node] += self.dice.below(self.log.len() - self.replayed[node] + 1),
            1 => {
                self.ticket += 1;
                self.samples.push(Sample { number: self.ticket, position: at(self.log.len() as u64) });
            }
            2 => {
                let stats = &self.view.nodes[node].stats;
                let number = stats.probes_started.fetch_add(1, Ordering::Relaxed) + 1;
                self.probes.push((node, number, self.replayed[node] as u64));
            }
            3 if !self.samples.is_empty() => {
                let sample = self.samples.remove(0);
                self.sample = Some(sample);
            }
            4 if !self.probes.is_empty() => {
                let (node, number, replay) = self.probes.remove(0);
                let seen = &mut self.view.nodes[node];
                (seen.observation, seen.replay) = (number, Lsn(replay));
            }
            // Somebody writes who does not come through pgweir.
            5 if self.dice.one_in(8) => self.log.push(vec![self.dice.below(4) as u32]),
            _ => {}
        }
    }

    /// A unit ended on the primary.
    pub fn wrote(&mut self) {
        self.unresolved = self.ticket + 1;
    }

    /// As `Cluster::global_floor`: what was written is told by a sample that was asked for afterwards.
    pub fn global_floor(&self) -> GlobalFloor {
        let settled = self.sample.is_some_and(|sample| sample.number >= self.unresolved);
        let position = if settled { self.sample.map(|sample| sample.position) } else { None };
        GlobalFloor { position, unresolved: (!settled && self.unresolved > 0).then(|| self.unresolved - 1) }
    }

    pub fn connect(&mut self, node: usize) -> Connection {
        let fit: Vec<usize> = (0..self.idle.len()).filter(|index| self.idle[*index].node == node).collect();
        if fit.len() > 2 || (!fit.is_empty() && !self.dice.one_in(4)) {
            let index = fit[self.dice.below(fit.len())];
            return self.idle.swap_remove(index);
        }
        self.connections += 1;
        Connection {
            id: self.connections,
            node,
            backend: Backend::default(),
            state: ConnectionState::default(),
            parameters: Vec::new(),
            to_server: Vec::new(),
        }
    }

    /// A lease ends: nothing of the session may be left that the connection's state does not know.
    pub fn put_back(&mut self, connection: Connection) {
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
        let known = connection.state.statements.len() + connection.state.orphans.len();
        if named != known {
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
    pub node: usize,
}

impl Store for Rows<'_> {
    fn read(&mut self, row: u32) -> (u64, u64) {
        let end = if self.node == 0 { self.world.log.len() } else { self.world.replayed[self.node] };
        self.world.replica_reads += u64::from(self.node > 0);
        let version = self.world.log[..end].iter().rposition(|rows| rows.contains(&row)).map_or(0, |at| at + 1);
        (version as u64, end as u64)
    }

    fn commit(&mut self, rows: &[u32]) -> u64 {
        self.world.log.push(rows.to_vec());
        self.world.log.len() as u64
    }

    fn next_value(&mut self) -> u64 {
        self.world.value += 1;
        self.world.value
    }

    fn is_writable(&self) -> bool {
        self.node == 0
    }

    fn fault(&mut self) -> Option<&'static str> {
        let fails = self.node > 0 && self.world.dice.one_in(12);
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
    fn read(&mut self, _: u32) -> (u64, u64) {
        (0, 0)
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

    fn fault(&mut self) -> Option<&'static str> {
        None
    }

    fn wrote_on_replica(&mut self, _: &str) {}
}

fn catalog() -> Catalog {
    let mut catalog = Catalog { version: 1, position: at(0), ..Catalog::default() };
    let function = |schema: &str, safety, conduct| Function {
        schema: schema.into(),
        least_arguments: 0,
        most_arguments: 1,
        takes_row: TakesRow::No,
        safety,
        conduct,
    };
    catalog.functions = HashMap::default();
    for (name, schema, conduct) in [
        ("loud_writer", "public", Conduct::AUDIT),
        ("pg_advisory_lock", "pg_catalog", Conduct::AUDIT),
        ("pg_advisory_unlock_all", "pg_catalog", Conduct::AUDIT),
        ("nextval", "pg_catalog", Conduct::SEQUENCE),
        ("currval", "pg_catalog", Conduct::LAST_SEQUENCE),
    ] {
        let found = function(schema, Safety::Unsafe("it leaves something".into()), conduct);
        catalog.functions.entry(name.into()).or_default().push(found);
    }
    let equals = Named { schema: "pg_catalog".into(), safety: Safety::Safe, conduct: Conduct::QUIET };
    catalog.operators.entry("=".into()).or_default().push(equals);
    for (name, sequence) in [("t", IsSequence::No), ("three", IsSequence::No), ("s", IsSequence::Yes)] {
        let safety = if sequence == IsSequence::No { Safety::Safe } else { Safety::Unsafe("a sequence".into()) };
        catalog.relations.entry(name.into()).or_default().push(Relation {
            schema: "public".into(),
            safety,
            conduct: Conduct::QUIET,
            write_conduct: Conduct::QUIET,
            writes: Writes::Refused,
            sequence,
        });
    }
    catalog
}
