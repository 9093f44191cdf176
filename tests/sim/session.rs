//! The session's loop around the real machine, as `session::run` is, but on bytes of the simulation: it decides nothing.

use std::time::{Duration, Instant};

use pgweir::cluster::{Change, NodeId, Role};
use pgweir::protocol::sqlstate::ClientError;
use pgweir::routing::Target;
use pgweir::session::machine::{ClientIo, Env, Link, LinkRole, Machine, Rules, ServerIo, SessionEnd, Step, WorksFor};
use pgweir::session::relay::Outbox;
use pgweir::session::settings::SessionSettings;
use pgweir::sql::cache::VerdictCache;

use super::world::{Connection, Rows, Trouble, World};

pub struct Session {
    pub id: u64,
    machine: Machine,
    rules: Rules,
    pub lease: Option<Connection>,
    parked: Option<Connection>,
    inbox: Vec<u8>,
    request: Vec<u8>,
    reply: Vec<u8>,
    server_in: Vec<u8>,
    pub to_client: Vec<u8>,
    /// Since when the unit at hand waits for a replica, the primary, or a place in a pool.
    waiting: Option<Instant>,
    /// When a connection was lost last.
    lost: Option<Instant>,
    /// Errors of pgweir's own in place of an answer to a unit, which then was not begun.
    pub refused: Vec<ClientError>,
    /// A node was told to cancel the unit under way.
    cancelled: bool,
    /// Behind so much of `to_client` it lost its connection because the node was the primary no more.
    pub abandoned: Option<usize>,
}

/// As `session::checkout::Answer`.
enum Answer {
    Ready,
    Deposed,
    Again,
    Wait,
    Failed(ClientError),
}

/// A read on a connection that was just opened waits so long for the first probe behind it.
const OBSERVATION_PATIENCE: Duration = Duration::from_millis(50);

fn link(connection: &mut Connection) -> Link<'_> {
    Link {
        id: connection.id,
        node: NodeId(connection.seat.node as u16),
        role: if connection.seat.role == Role::Primary { LinkRole::Primary } else { LinkRole::Replica },
        state: &mut connection.state,
        parameters: &mut connection.parameters,
    }
}

impl Session {
    pub fn new(id: u64, rules: Rules) -> Session {
        Session {
            id,
            machine: Machine::new(id, &rules, SessionSettings::default()),
            rules,
            lease: None,
            parked: None,
            inbox: Vec::new(),
            request: Vec::new(),
            reply: Vec::new(),
            server_in: Vec::new(),
            to_client: Vec::new(),
            waiting: None,
            lost: None,
            refused: Vec::new(),
            cancelled: false,
            abandoned: None,
        }
    }

    fn ask<T>(
        &mut self,
        world: &mut World,
        verdicts: &mut VerdictCache,
        call: impl FnOnce(&mut Machine, Option<&mut Link<'_>>, &mut Env<'_>) -> T,
    ) -> T {
        let dice = (world.dice.next() as u32, world.dice.next() as u32);
        let mut env = Env {
            view: &world.view,
            sample: world.sample,
            ticket: world.ticket,
            global: world.global_floor(),
            catalog: &world.catalog,
            catalog_current: true,
            ends_expected: false,
            verdicts,
            dice,
            waited: waited(self.waiting, world),
            rules: &self.rules,
        };
        match &mut self.lease {
            Some(lease) => call(&mut self.machine, Some(&mut link(lease)), &mut env),
            None => call(&mut self.machine, None, &mut env),
        }
    }

    pub fn on_client(
        &mut self,
        bytes: &[u8],
        world: &mut World,
        verdicts: &mut VerdictCache,
    ) -> Result<(), SessionEnd> {
        self.rest_and_resume();
        self.inbox.extend_from_slice(bytes);
        self.feed(world, verdicts)
    }

    /// As the session's loop does between units: the machine must not miss what it left on its desk.
    fn rest_and_resume(&mut self) {
        if self.lease.is_some() || self.waiting.is_some() || !self.inbox.is_empty() {
            return;
        }
        let room = self.machine.rest();
        self.machine.resume(|| room.unwrap_or_default());
    }

    /// A unit that waits is decided anew.
    pub fn wake(&mut self, world: &mut World, verdicts: &mut VerdictCache) -> Result<(), SessionEnd> {
        if self.waiting.is_some() { self.feed(world, verdicts) } else { Ok(()) }
    }

    fn feed(&mut self, world: &mut World, verdicts: &mut VerdictCache) -> Result<(), SessionEnd> {
        if self.inbox.is_empty() {
            return Ok(());
        }
        let input = std::mem::take(&mut self.inbox);
        let (mut own, mut answers, mut at) = (Vec::new(), Vec::new(), 0);
        let mut io = ClientIo { to_server: Outbox::new(&input, &mut own), to_client: &mut answers };
        let step = self.advance(&input, &mut at, &mut io, world, verdicts);
        let of_unit = self.machine.of_unit(&input[..at]);
        if self.machine.keeps_request() && self.request.is_empty() {
            self.request.extend_from_slice(of_unit);
        }
        if let Some(lease) = &mut self.lease {
            lease.to_server.extend_from_slice(io.to_server.bytes());
        } else if !io.to_server.bytes().is_empty() {
            world.broken.push(format!("session {} sends without a lease", self.id));
        }
        self.to_client.extend_from_slice(io.to_client);
        self.inbox.extend_from_slice(&input[at..]);
        if !self.machine.is_routed() && !matches!(step, Ok(Step::AwaitReplica(..))) {
            self.waiting = None;
        }
        match step? {
            Step::Close(end) => return Err(end),
            Step::AwaitReplica(..) => drop(self.waiting.get_or_insert(world.now)),
            _ => {}
        }
        Ok(())
    }

    fn advance(
        &mut self,
        input: &[u8],
        at: &mut usize,
        io: &mut ClientIo<'_>,
        world: &mut World,
        verdicts: &mut VerdictCache,
    ) -> Result<Step, SessionEnd> {
        loop {
            let step = self.ask(world, verdicts, |machine, link, env| machine.on_client(input, at, io, link, env));
            let target = match step {
                Ok(Step::Checkout(target)) => target,
                Ok(Step::Deposed) => {
                    self.abandon(io.to_client)?;
                    continue;
                }
                Ok(step) => return Ok(step),
                Err(error) => panic!("session {}: {error}", self.id),
            };
            match self.checkout(target, world) {
                Answer::Ready => {
                    self.waiting = None;
                    if let Some(mut lease) = self.lease.take() {
                        self.machine.on_lease(*at, io, &mut link(&mut lease));
                        self.lease = Some(lease);
                    }
                }
                Answer::Again => {}
                Answer::Deposed => self.abandon(io.to_client)?,
                Answer::Wait => {
                    self.waiting.get_or_insert(world.now);
                    return Ok(Step::AwaitReplica(Change::Anything, Duration::ZERO));
                }
                Answer::Failed(error) => {
                    self.waiting = None;
                    let step = self.machine.on_no_lease(&error, input, at, io.to_client);
                    self.refused.push(error);
                    if let Step::Close(end) = step {
                        return Err(end);
                    }
                }
            }
        }
    }

    /// Somebody asks for what is under way to be cancelled.
    pub fn cancel(&mut self, world: &mut World, verdicts: &mut VerdictCache) -> Result<(), SessionEnd> {
        if self.waiting.take().is_some() {
            self.cancelled = false;
            let (inbox, mut at) = (std::mem::take(&mut self.inbox), 0);
            let error = ClientError::canceled();
            let step = self.machine.on_no_lease(&error, &inbox, &mut at, &mut self.to_client);
            self.refused.push(error);
            self.inbox.extend_from_slice(&inbox[at..]);
            if self.lease.as_ref().is_some_and(|lease| lease.seat.role == Role::Replica) {
                self.lease = self.parked.take();
            }
            if let Step::Close(end) = step {
                return Err(end);
            }
            return self.feed(world, verdicts);
        }
        if let Some(lease) = &mut self.lease
            && self.machine.works_for() == WorksFor::Client
        {
            self.cancelled = true;
            if !lease.to_server.is_empty() && !world.is_dead(&lease.seat) {
                lease.backend.cancelled = Some(0);
            }
        }
        Ok(())
    }

    fn checkout(&mut self, target: Target, world: &mut World) -> Answer {
        if std::mem::take(&mut self.cancelled) {
            return Answer::Failed(ClientError::canceled());
        }
        let (node, role) = match target {
            Target::Replica(node) => (node, Role::Replica),
            Target::Refuse => return Answer::Failed(ClientError::no_replica()),
            Target::Primary | Target::Wait(..) => match world.view.primary {
                Some(node) => (node, Role::Primary),
                None => return self.await_primary(ClientError::no_primary(), world),
            },
        };
        if let Some(lease) = self.lease.take()
            && self.parked.replace(lease).is_some()
        {
            world.broken.push(format!("session {} parks twice", self.id));
        }
        if role == Role::Primary
            && let Some(parked) = self.parked.take()
        {
            let deposed = parked.seat.node != usize::from(node.0);
            self.lease = Some(parked);
            return if deposed { Answer::Deposed } else { Answer::Ready };
        }
        // All connections are in use.
        if world.dice.one_in(10) {
            return self.await_place(node, role, world);
        }
        match world.connect(usize::from(node.0), role) {
            Ok(lease) if role == Role::Replica && !self.machine.has_observed(lease.probes_at_open) => {
                world.put_back(lease);
                self.lease = self.parked.take();
                self.await_observation(node, world)
            }
            Ok(lease) => {
                self.lease = Some(lease);
                Answer::Ready
            }
            Err(_) if role == Role::Replica => self.without(node, "connect_failed"),
            Err(Trouble::Unreachable | Trouble::WrongRole) => {
                self.await_primary(ClientError::unreachable("primary", "it is gone"), world)
            }
        }
    }

    fn abandon(&mut self, to_client: &mut Vec<u8>) -> Result<(), SessionEnd> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        self.abandoned = Some(self.to_client.len() + to_client.len());
        let node = NodeId(lease.seat.node as u16);
        let step = self.machine.on_server_eof(node, "node", LinkRole::Primary, to_client);
        self.lease = self.parked.take();
        match step {
            Step::Close(end) => Err(end),
            _ => Ok(()),
        }
    }

    fn without(&mut self, node: NodeId, why: &'static str) -> Answer {
        self.machine.on_lost_lease(node, why);
        self.lease = self.parked.take();
        Answer::Again
    }

    fn await_primary(&mut self, error: ClientError, world: &World) -> Answer {
        let over = waited(self.waiting, world) >= world.cluster.failover_timeout;
        if over { Answer::Failed(error) } else { Answer::Wait }
    }

    fn await_place(&mut self, node: NodeId, role: Role, world: &World) -> Answer {
        if waited(self.waiting, world) < self.rules.checkout_timeout {
            return Answer::Wait;
        }
        match role {
            Role::Replica => self.without(node, "checkout_timeout"),
            _ => Answer::Failed(ClientError::checkout_timeout("app")),
        }
    }

    fn await_observation(&mut self, node: NodeId, world: &World) -> Answer {
        if waited(self.waiting, world) >= OBSERVATION_PATIENCE {
            self.machine.on_lost_lease(node, "replica_behind");
            return Answer::Again;
        }
        self.machine.reconsider();
        Answer::Wait
    }

    pub fn on_server(
        &mut self,
        bytes: &[u8],
        world: &mut World,
        verdicts: &mut VerdictCache,
    ) -> Result<(), SessionEnd> {
        let mut input = std::mem::take(&mut self.server_in);
        input.extend_from_slice(bytes);
        let (mut own, mut requests, mut at) = (Vec::new(), Vec::new(), 0);
        let mut io = ServerIo { to_client: Outbox::new(&input, &mut own), to_server: &mut requests };
        let step = self.ask(world, verdicts, |machine, link, env| match link {
            Some(link) => machine.on_server(&input, &mut at, &mut io, link, env),
            None => Ok(Step::ReadMore),
        });
        let step = step.unwrap_or_else(|error| panic!("session {}: {error}", self.id));
        if let Some(finished) = self.machine.take_finished() {
            self.cancelled = false;
            if finished.replica.is_none() {
                world.wrote();
            }
        }
        self.forward(io.to_client.bytes(), &step);
        if let Some(lease) = &mut self.lease {
            lease.to_server.extend_from_slice(io.to_server);
        }
        self.server_in = input[at..].to_vec();
        if !self.machine.keeps_request() && step != Step::Retry {
            self.request.clear();
        }
        match step {
            Step::Release => self.release(world),
            Step::Retry => {
                self.release(world);
                self.again();
            }
            Step::Close(end) => return Err(end),
            _ => {}
        }
        self.feed(world, verdicts)
    }

    fn forward(&mut self, bytes: &[u8], step: &Step) {
        if *step == Step::Retry || self.machine.discards_reply() {
            return self.reply.clear();
        }
        self.reply.extend_from_slice(bytes);
        if self.machine.holds_reply() {
            if self.reply.len() <= self.rules.routing.hold_back {
                return;
            }
            self.machine.reply_overflowed();
            self.request.clear();
        }
        self.to_client.append(&mut self.reply);
    }

    fn release(&mut self, world: &mut World) {
        match self.lease.take() {
            Some(lease) if lease.state.spoiled => drop(lease),
            Some(mut lease) if self.server_in.is_empty() => {
                // What is left of a COPY that failed.
                let (bytes, seat) = (std::mem::take(&mut lease.to_server), lease.seat);
                if !world.is_dead(&seat) {
                    lease.backend.on_bytes(&bytes, &mut Rows { world, seat });
                }
                world.put_back(lease)
            }
            Some(_) => world.broken.push(format!("session {} releases with a reply under way", self.id)),
            None => world.broken.push(format!("session {} releases nothing", self.id)),
        }
        self.lease = self.parked.take();
    }

    /// The client is gone: a connection that can be cleaned is given back.
    pub fn vanish(&mut self, world: &mut World) {
        let idle = self.machine.is_idle() && !self.machine.pins().spoil();
        for mut lease in [self.parked.take(), self.lease.take()].into_iter().flatten() {
            if !idle || lease.seat.role == Role::Replica || lease.state.spoiled || world.is_dead(&lease.seat) {
                continue;
            }
            let mut query = lease.to_server.split_off(0);
            pgweir::protocol::frontend::put_query(&mut query, b"DISCARD ALL");
            let seat = lease.seat;
            lease.backend.on_bytes(&query, &mut Rows { world, seat });
            lease.backend.out.clear();
            lease.state = pgweir::pool::state::ConnectionState::default();
            world.put_back(lease);
        }
    }

    fn again(&mut self) {
        let mut request = std::mem::take(&mut self.request);
        request.append(&mut self.inbox);
        self.inbox = request;
    }

    /// The connection is gone, with everything that was on its way.
    pub fn on_server_lost(&mut self, world: &mut World, verdicts: &mut VerdictCache) -> Result<(), SessionEnd> {
        let Some(mut lease) = self.lease.take() else { return Ok(()) };
        self.reply.clear();
        self.server_in.clear();
        let (node, role) = (link(&mut lease).node, link(&mut lease).role);
        if self.lost.is_some_and(|lost| lease.opened < lost) {
            self.machine.on_stale_loss();
        }
        self.lost = Some(world.now);
        let mut words = Vec::new();
        let step = self.machine.on_server_eof(node, "node", role, &mut words);
        self.lease = self.parked.take();
        self.to_client.append(&mut words);
        match step {
            Step::Retry if role == LinkRole::Primary => {
                // Its other connections are about to be found dead, too.
                self.again();
                self.waiting.get_or_insert(world.now);
                return Ok(());
            }
            Step::Retry => self.again(),
            Step::Close(end) => return Err(end),
            _ => self.request.clear(),
        }
        self.feed(world, verdicts)
    }

    /// The server process works on a part of what is on its way to it.
    pub fn serve(&mut self, count: usize, world: &mut World) {
        let Some(lease) = &mut self.lease else { return };
        if world.is_dead(&lease.seat) {
            return;
        }
        let count = count.min(lease.to_server.len());
        let bytes: Vec<u8> = lease.to_server.drain(..count).collect();
        let seat = lease.seat;
        lease.backend.on_bytes(&bytes, &mut Rows { world, seat });
    }

    /// The node of the connection at hand is gone.
    pub fn is_bereft(&self, world: &World) -> bool {
        self.lease.as_ref().is_some_and(|lease| world.is_dead(&lease.seat))
    }

    pub fn is_idle(&self) -> bool {
        self.machine.is_idle() && self.inbox.is_empty()
    }
}

fn waited(since: Option<Instant>, world: &World) -> Duration {
    since.map_or(Duration::ZERO, |since| world.now.saturating_duration_since(since))
}

/// What a session may be told when its connection to the primary was lost.
pub fn is_told_of_loss(end: &SessionEnd) -> bool {
    matches!(end, SessionEnd::Error(error) if matches!(error.sqlstate, "08006" | "08007" | "57P01"))
}
