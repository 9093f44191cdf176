//! The seeded simulation: many sessions' machines, virtual PostgreSQL nodes, chance, faults, failovers (every other seed) and
//! a clock that leaps; no socket, no real time. Every reply is compared with an ideal single server's, and every read with
//! its level's promise. SIM_SEED=n runs one seed with a trace, SIM_SECONDS=n as many as fit, from SIM_FROM=n on.

#![allow(clippy::unwrap_used, reason = "a simulation that cannot go on has failed")]

mod backend;
mod catalog;
mod client;
mod history;
mod session;
mod sql;
mod world;

use std::time::{Duration, Instant};

use client::Client;
use pgweir::cluster::Role;
use pgweir::config::{ClusterConfig, RoutingConfig};
use pgweir::session::machine::Rules;
use pgweir::sql::Consistency;
use pgweir::sql::cache::VerdictCache;
use session::Session;
use world::World;

/// Turns for each session at most; a session that is not done by then hangs.
const TURNS: usize = 15_000;

struct Pair {
    client: Client,
    session: Session,
    level: Consistency,
    /// What the client has sent and pgweir has not read.
    wire: Vec<u8>,
    /// A connection of it to the primary was killed: its session may end with an error that says so.
    bereaved: bool,
    over: bool,
}

fn rules(id: u64, level: Consistency, hold_back: usize, cluster: &ClusterConfig) -> Rules {
    Rules {
        routing: RoutingConfig { consistency: level, hold_back, ..RoutingConfig::default() },
        cluster: cluster.clone(),
        held_request: 1 << 20,
        session_statements: 100,
        server_statements: 2,
        auto_prepare: [0, 1, 2][id as usize % 3],
        checkout_timeout: Duration::from_millis(300),
        session_pooling: id.is_multiple_of(5),
        user: "app".into(),
    }
}

struct Simulation {
    world: World,
    verdicts: VerdictCache,
    pairs: Vec<Pair>,
    trace: bool,
}

impl Simulation {
    fn new(seed: u64, trace: bool) -> Simulation {
        let mut world = World::new(seed);
        let levels = [Consistency::Session, Consistency::Global, Consistency::Strict, Consistency::Eventual];
        let cluster = world.cluster.clone();
        let pair = |id: u64, level, hold_back| Pair {
            client: Client::new(16, level, id.is_multiple_of(3), hold_back < 1024),
            session: Session::new(id, rules(id, level, hold_back, &cluster)),
            level,
            wire: Vec::new(),
            bereaved: false,
            over: false,
        };
        // Now and then a crowd.
        let count = if seed.is_multiple_of(20) { 200 } else { 5 };
        let pairs = (1..=count)
            .map(|id| pair(id, levels[world.dice.below(4)], [64 << 10, 64 << 10, 64][world.dice.below(3)]))
            .collect();
        Simulation { world, verdicts: VerdictCache::new(1 << 20, 1 << 16), pairs, trace }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..TURNS * self.pairs.len() {
            if self.pairs.iter().all(|pair| pair.over) {
                return Ok(());
            }
            self.turn()?;
            if let Some(broken) = self.world.broken.pop() {
                return Err(broken);
            }
        }
        let hanging = self.pairs.iter().filter(|pair| !pair.over);
        let hanging: Vec<_> = hanging
            .map(|pair| {
                (pair.session.id, pair.client.left, pair.client.is_quiet(), pair.wire.len(), pair.session.is_idle())
            })
            .collect();
        Err(format!("(session, units left, answered, bytes unread, idle) {hanging:?} hang"))
    }

    fn turn(&mut self) -> Result<(), String> {
        let (world, verdicts) = (&mut self.world, &mut self.verdicts);
        let index = world.dice.below(self.pairs.len());
        let pair = &mut self.pairs[index];
        if pair.over || world.dice.one_in(5) {
            world.turn();
            return Ok(());
        }
        let die = world.dice.below(40);
        let done = match die {
            // What the node had said before it died may still arrive.
            16..=36 if pair.session.is_bereft(world) => match die {
                26..=30 if pair.has_heard() => pair.reply(world, verdicts, self.trace),
                _ => pair.lose(world, verdicts, self.trace),
            },
            0 if world.dice.one_in(3) && !pair.client.is_quiet() => pair.session.cancel(world, verdicts),
            0 => pair.kill(world, verdicts, self.trace),
            1..=5 => pair.send(world, self.trace),
            6..=15 => {
                let count = pair.wire.len().min(1 + world.dice.below(60));
                let bytes: Vec<u8> = pair.wire.drain(..count).collect();
                pair.session.on_client(&bytes, world, verdicts)
            }
            16..=25 => {
                let count = 1 + world.dice.below(80);
                pair.session.serve(count, world);
                Ok(())
            }
            26..=36 => pair.reply(world, verdicts, self.trace),
            _ => pair.session.wake(world, verdicts),
        };
        pair.hear(world).map_err(|what| format!("session {} ({:?}): {what}", pair.session.id, pair.level))?;
        if pair.over || (done.is_ok() && world.dice.one_in(2_000)) {
            pair.session.vanish(world);
            pair.over = true;
        }
        if let Err(end) = done {
            pair.session.vanish(world);
            pair.over = true;
            if !(pair.bereaved && session::is_told_of_loss(&end)) {
                return Err(format!("session {} ended: {end:?}", pair.session.id));
            }
        }
        Ok(())
    }
}

type Done = Result<(), pgweir::session::machine::SessionEnd>;

impl Pair {
    fn send(&mut self, world: &mut World, trace: bool) -> Done {
        let quiet = self.client.is_quiet() && self.wire.is_empty();
        if self.client.left == 0 && !self.client.has_more() {
            self.over = quiet && (self.session.is_idle() || self.client.is_in_block());
            return Ok(());
        }
        // A unit behind one that is not answered yet is promised what the first of them is.
        if !quiet && !self.client.has_more() && !world.dice.one_in(6) {
            return Ok(());
        }
        if quiet {
            (self.client.globally, self.client.strictly) = (world.acknowledged, world.committed());
        }
        self.client.timeline = world.known_timeline();
        let unit = self.client.next(&mut world.dice);
        if trace && !unit.is_empty() {
            println!("{} sends {}", self.session.id, String::from_utf8_lossy(&unit).escape_debug());
        }
        self.wire.extend_from_slice(&unit);
        Ok(())
    }

    /// The client gets what it was told, and compares.
    fn hear(&mut self, world: &mut World) -> Result<(), String> {
        let mut told = std::mem::take(&mut self.session.to_client);
        if let Some(before) = self.session.abandoned.take() {
            let after = told.split_off(before);
            self.client.got.append(&mut told);
            self.client.check(world, self.bereaved, &mut self.session.refused)?;
            self.bereaved = true;
            self.client.lost_in_silence();
            told = after;
        }
        self.client.got.append(&mut told);
        self.client.check(world, self.bereaved, &mut self.session.refused)
    }

    fn reply(&mut self, world: &mut World, verdicts: &mut VerdictCache, trace: bool) -> Done {
        let Some(lease) = &mut self.session.lease else { return Ok(()) };
        let count = lease.backend.out.len().min(1 + world.dice.below(100));
        if count == 0 {
            return Ok(());
        }
        let bytes: Vec<u8> = lease.backend.out.drain(..count).collect();
        if trace {
            let (id, node) = (lease.id, lease.seat.node);
            println!(
                "{} hears from {id} on node {node} {}",
                self.session.id,
                String::from_utf8_lossy(&bytes).escape_debug()
            );
        }
        self.session.on_server(&bytes, world, verdicts)
    }

    fn kill(&mut self, world: &mut World, verdicts: &mut VerdictCache, trace: bool) -> Done {
        let Some(lease) = &self.session.lease else { return Ok(()) };
        // A primary's connection seldom dies, or no session would come far.
        if lease.seat.role == Role::Primary && !world.dice.one_in(8) {
            return Ok(());
        }
        self.lose(world, verdicts, trace)
    }

    /// Something of the node's is on its way to the session.
    fn has_heard(&self) -> bool {
        self.session.lease.as_ref().is_some_and(|lease| !lease.backend.out.is_empty())
    }

    fn lose(&mut self, world: &mut World, verdicts: &mut VerdictCache, trace: bool) -> Done {
        let Some(lease) = &self.session.lease else { return Ok(()) };
        if trace {
            println!("{} loses {} on node {}", self.session.id, lease.id, lease.seat.node);
        }
        self.bereaved = true;
        let done = self.session.on_server_lost(world, verdicts);
        if self.session.to_client.is_empty() {
            self.client.lost_in_silence();
        }
        done
    }
}

/// How many reads replicas answered, how many unnamed Parses were spared, and how many proofs were asked for.
fn run(seed: u64, trace: bool) -> (u64, u64, u64) {
    let mut simulation = Simulation::new(seed, trace);
    if let Err(what) = simulation.run() {
        if !trace {
            run(seed, true);
        }
        panic!("SIM_SEED={seed}: {what}");
    }
    (simulation.world.replica_reads, simulation.world.spared, simulation.world.proofs)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn sessions_cannot_tell_pgweir_from_one_server() {
    if let Some(seed) = number("SIM_SEED") {
        run(seed, true);
        return;
    }
    let (started, seconds) = (Instant::now(), number("SIM_SECONDS"));
    let (mut reads, mut spared, mut proofs) = (0, 0, 0);
    for seed in number("SIM_FROM").unwrap_or(1).. {
        let enough = seconds.map_or(seed > 240, |seconds| started.elapsed() > Duration::from_secs(seconds));
        if enough {
            break;
        }
        let counts = run(seed, false);
        (reads, spared, proofs) = (reads + counts.0, spared + counts.1, proofs + counts.2);
    }
    assert!(reads > 0, "no replica was read");
    assert!(spared > 0, "no statement was found prepared");
    assert!(proofs > 0, "no replica was asked in front of a read");
}
