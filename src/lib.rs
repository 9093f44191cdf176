//! pgweir: a read/write-splitting PostgreSQL proxy. An application's DATABASE_URL points at it and nothing else changes:
//! reads go to replicas, everything else to the primary, and a session always reads its own writes.
//!
//! # The data's way, in the order in which to read it
//!
//! 1. [`listener`] accepts, caps, and hands each socket to the [`worker`] with the fewest sessions: one thread, one
//!    runtime; a session lives and dies on it. [`stream`] and [`tls`] are what it reads from.
//! 2. [`session`] is one client from its first byte to Terminate: [`session::startup`], [`session::login`], then a loop
//!    that moves bytes and asks [`session::machine`], which decides what happens next and does no I/O. The machine is one
//!    struct in several files: `unit` (what belongs together up to its Query or Sync), `route` (where it runs), `emit`
//!    (what the node is sent), `replies` (what comes back), `settle` (what a unit that is over leaves behind).
//! 3. [`sql`] tells what a statement may do. Whatever it does not know is no read. [`sql::cache`] remembers.
//! 4. [`routing`] alone says primary or replica, and always with its reason.
//! 5. [`pool`] has a server connection to run it on; a lease is released by a spoken word, and dropping it closes.
//!
//! [`protocol`] is the words of the wire, [`auth`] is who may come in and how we show ourselves to the nodes.
//!
//! # Beside it
//!
//! Side loops publish snapshots and never call into the data's way: [`cluster`] (roles, positions, lag, health),
//! [`catalog`] (what functions, views and relations may do), [`config`]. [`proxy`] builds everything, follows what is
//! published, and owns reload and shutdown. [`admin`] reads everything, nothing reads it. [`metrics`] are cells with one
//! writer each, summed by whoever scrapes. [`cli`] is one file for each command.
//!
//! # Arrows
//!
//! `main → cli → proxy → everything`; `listener → worker → session → sql, routing, pool, protocol, stream, auth, cluster,
//! catalog, metrics`; `pool → stream, protocol, auth, cluster`; `cluster, catalog → protocol, config`; `routing → sql,
//! cluster`; `sql → catalog`. `protocol`, `config` and `metrics` import nothing of ours. `tests/tidy.rs` holds this and
//! the sizes; files that open with `Pure:` have no I/O, clock, await, static or randomness.
//!
//! # What is otherwise than one would expect, and why
//!
//! - Deadlines are the worker's own ([`worker::timers`]): every statement sets one and nearly none is reached.
//! - What a session left in its server process is asked of the process itself ([`session::audit`]). A mirrored stack of SET
//!   and savepoints would have to know what functions do, and be wrong in silence.
//! - Prepared statements are named by a digest of text, types, search_path, role and catalog version
//!   ([`session::statements`]), so that sessions share them on a server connection.
//!   An unnamed one that comes again and again can become such a one (`session::promote`), and nobody sees it.
//! - BEGIN is held back until the first statement shows what the block is: a READ ONLY block may go to a replica.
//! - `pgweir.floor` is a setting of the session like any other, which pgweir answers: one session hands it to another by
//!   SHOW and SET, without a protocol of its own.
//! - Workers are half as many as the cores by default: on two cores that the servers and the application use too, one
//!   worker needed a quarter less CPU per transaction than two (0.3 context switches a query instead of 0.5).
//! - Release builds are laid out by a recorded profile (`config/rustc.sh`, `make profile`): a query's code was spread over
//!   1,600 cache lines, and fetching them cost more than running them. With the profile it is 900, a quarter fewer
//!   instructions, and a fifth less CPU for each transaction. Putting hot functions next to each other without one brought
//!   nothing. A profile that is older than the code only loses what was changed.
//! - What a unit under way needs stands on a desk ([`session`]'s `desk`) that a worker lends: an idle session is what must be
//!   remembered of it, and a third smaller for that. A desk is cleared field by field before it goes to somebody else.
//!   Buffers are lent in the same way (`worker::buffers`).
//! - Who waits for a floor says for what ([`cluster::Change`]): a sample above a number, or a position replayed. When every
//!   publication woke everyone, a mix of nine reads and one update spent a tenth of its CPU on looking in vain.
//! - A read behind a write asks a replica in front of itself, in the same pipeline, whether it has the write: that took the
//!   place of probes while it mostly succeeds ([`cluster::NodeStats`] remembers). Where it mostly fails it would cost a replica
//!   and the primary a read each, and waiting for a probe serves all sessions at once.
//! - While sessions wait for a floor, replicas are probed every 4 ms: probing twice as often let them wait 0.7 ms less of 4
//!   and cost a tenth of a mixed load's CPU.
//! - A pool has 40 connections by default: replicas and the primary have a pool each, and a waiting session costs more
//!   than an idle connection.
//! - While there are as many connections to the primary as sessions, each session has one that is its own (its home, see
//!   `pool::home`): its process ID, statements and settings are there, and what tells poolers apart does not show. A session
//!   that marked its process (a loaded library, a temporary schema) leaves it to be closed, within limits.
//!   `pg_backend_pid()` pins a session, since the answer is worth nothing on another connection.

pub mod proxy;

pub mod listener;
pub mod worker;

pub mod session;

pub mod sql;

pub mod routing;

pub mod pool;

pub mod protocol;
pub mod stream;
pub mod tls;

pub mod auth;
pub mod catalog;
pub mod cluster;
pub mod config;

pub mod admin;
pub mod cli;
pub mod metrics;
