//! The session's loop around the real machine, as `session::run` is, but on bytes of the simulation: it decides nothing.

use std::time::Duration;

use pgweir::protocol::sqlstate::ClientError;
use pgweir::routing::Target;
use pgweir::session::machine::{ClientIo, Env, Link, LinkRole, Machine, Rules, ServerIo, SessionEnd, Step};
use pgweir::session::relay::Outbox;
use pgweir::session::settings::SessionSettings;
use pgweir::sql::cache::VerdictCache;

use super::world::{Connection, Rows, World};

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
    waited: Option<Duration>,
}

fn link(connection: &mut Connection) -> Link<'_> {
    Link {
        id: connection.id,
        node: pgweir::cluster::NodeId(connection.node as u16),
        role: if connection.node == 0 { LinkRole::Primary } else { LinkRole::Replica },
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
            waited: None,
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
            verdicts,
            dice,
            waited: self.waited.unwrap_or_default(),
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
        self.inbox.extend_from_slice(bytes);
        self.feed(world, verdicts)
    }

    /// A unit that waits is decided anew.
    pub fn wake(&mut self, world: &mut World, verdicts: &mut VerdictCache) -> Result<(), SessionEnd> {
        match &mut self.waited {
            Some(waited) => *waited += Duration::from_millis(1),
            None => return Ok(()),
        }
        self.feed(world, verdicts)
    }

    fn feed(&mut self, world: &mut World, verdicts: &mut VerdictCache) -> Result<(), SessionEnd> {
        if self.inbox.is_empty() {
            return Ok(());
        }
        let input = std::mem::take(&mut self.inbox);
        let (mut own, mut answers, mut at) = (Vec::new(), Vec::new(), 0);
        let mut io = ClientIo { to_server: Outbox::new(&input, &mut own), to_client: &mut answers };
        let step = self.advance(&input, &mut at, &mut io, world, verdicts);
        if self.machine.keeps_request() && self.request.is_empty() {
            self.request.extend_from_slice(&input[self.machine.unit_start()..at]);
        }
        if let Some(lease) = &mut self.lease {
            lease.to_server.extend_from_slice(io.to_server.bytes());
        } else if !io.to_server.bytes().is_empty() {
            world.broken.push(format!("session {} sends without a lease", self.id));
        }
        self.to_client.extend_from_slice(io.to_client);
        self.inbox.extend_from_slice(&input[at..]);
        match step? {
            Step::Close(end) => return Err(end),
            Step::AwaitReplica(_) => drop(self.waited.get_or_insert_default()),
            _ => self.waited = None,
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
                Ok(step) => return Ok(step),
                Err(error) => panic!("session {}: {error}", self.id),
            };
            let node = match target {
                Target::Replica(node) => usize::from(node.0),
                _ => 0,
            };
            if let Some(lease) = self.lease.take()
                && self.parked.replace(lease).is_some()
            {
                world.broken.push(format!("session {} parks twice", self.id));
            }
            if node > 0 && world.dice.one_in(20) {
                self.machine.on_lost_lease(pgweir::cluster::NodeId(node as u16), "connect_failed");
                self.lease = self.parked.take();
                continue;
            }
            let mut lease = match self.parked.take() {
                Some(parked) if node == 0 => parked,
                parked => {
                    self.parked = parked;
                    world.connect(node)
                }
            };
            self.machine.on_lease(*at, io, &mut link(&mut lease));
            self.lease = Some(lease);
        }
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
        if self.machine.take_finished().is_some_and(|finished| finished.replica.is_none()) {
            world.wrote();
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
                let (bytes, node) = (std::mem::take(&mut lease.to_server), lease.node);
                lease.backend.on_bytes(&bytes, &mut Rows { world, node });
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
            if !idle || lease.node > 0 || lease.state.spoiled {
                continue;
            }
            let mut query = lease.to_server.split_off(0);
            pgweir::protocol::frontend::put_query(&mut query, b"DISCARD ALL");
            let node = lease.node;
            lease.backend.on_bytes(&query, &mut Rows { world, node });
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
        let mut words = Vec::new();
        let step = self.machine.on_server_eof(node, "node", role, &mut words);
        self.lease = self.parked.take();
        self.to_client.append(&mut words);
        match step {
            Step::Retry => self.again(),
            Step::Close(end) => return Err(end),
            _ => self.request.clear(),
        }
        self.feed(world, verdicts)
    }

    /// The server process works on a part of what is on its way to it.
    pub fn serve(&mut self, count: usize, world: &mut World) {
        let Some(lease) = &mut self.lease else { return };
        let count = count.min(lease.to_server.len());
        let bytes: Vec<u8> = lease.to_server.drain(..count).collect();
        let node = lease.node;
        lease.backend.on_bytes(&bytes, &mut Rows { world, node });
    }

    pub fn is_idle(&self) -> bool {
        self.machine.is_idle() && self.inbox.is_empty()
    }
}

/// What a session may be told when its connection to the primary was lost.
pub fn is_told_of_loss(end: &SessionEnd) -> bool {
    matches!(end, SessionEnd::Error(ClientError { sqlstate, .. }) if matches!(*sqlstate, "08006" | "08007" | "57P01"))
}
