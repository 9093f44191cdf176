//! Pure: what the walk over a statement has found so far: the worst obstacle to a replica, the acts, and whether a
//! literal was looked at. The walker and the statement readers fill it; `classify` turns it into a `Verdict`.

use super::{Act, Effect, Pin, Reason};
use crate::catalog::Conduct;

/// Whether the verdict would be the same with other literals in the text; the cache's key depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Literals {
    Irrelevant,
    Matter,
}

#[derive(Debug)]
pub struct Findings {
    effect: Effect,
    reason: Reason,
    acts: Vec<Act>,
    literals: Literals,
}

impl Default for Findings {
    fn default() -> Self {
        Findings { effect: Effect::Read, reason: Reason::Read, acts: Vec::new(), literals: Literals::Irrelevant }
    }
}

impl Findings {
    /// It must run on the primary. The first reason is kept: it is the one that people see in their text.
    pub fn forbid(&mut self, reason: Reason) {
        if self.effect != Effect::Primary {
            self.effect = Effect::Primary;
            self.reason = reason;
        }
    }

    /// It writes, and a READ ONLY transaction refuses it alike everywhere.
    pub fn refuse(&mut self, reason: Reason) {
        if self.effect == Effect::Read {
            self.effect = Effect::RefusedReadOnly;
            self.reason = reason;
        }
    }

    /// It runs where the session is.
    pub fn follow(&mut self, reason: Reason) {
        if self.effect == Effect::Read {
            self.effect = Effect::Follow;
            self.reason = reason;
        }
    }

    /// Acts without a value are kept once: twice says nothing more.
    pub fn act(&mut self, act: Act) {
        let once =
            matches!(act, Act::Audit | Act::Ddl | Act::Sequence | Act::LastSequence | Act::Terminate | Act::Pin(_));
        if !(once && self.acts.contains(&act)) {
            self.acts.push(act);
        }
    }

    pub fn conduct(&mut self, conduct: Conduct) {
        let table = [
            (Conduct::AUDIT, Act::Audit),
            (Conduct::SEQUENCE, Act::Sequence),
            (Conduct::LAST_SEQUENCE, Act::LastSequence),
            (Conduct::DDL, Act::Ddl),
            (Conduct::SEED, Act::Pin(Pin::RandomSeed)),
            (Conduct::BACKEND_PID, Act::Pin(Pin::BackendPid)),
            (Conduct::ORIGIN, Act::Pin(Pin::ReplicationOrigin)),
            (Conduct::TERMINATES, Act::Terminate),
        ];
        for (bit, act) in table {
            if conduct.has(bit) {
                self.act(act);
            }
        }
    }

    /// The verdict was made by looking at a literal's value.
    pub fn looked_at_literal(&mut self) {
        self.literals = Literals::Matter;
    }

    pub fn effect(&self) -> Effect {
        self.effect
    }

    pub fn literals(&self) -> Literals {
        self.literals
    }

    /// Adds what the next statement of the same text was found to do. Reads together with what follows the session's
    /// place cannot be split, so that such a text goes to the primary.
    pub fn add(&mut self, other: Findings) {
        let mixed = matches!((self.effect, other.effect), (Effect::Follow, _) | (_, Effect::Follow))
            && self.effect != other.effect;
        let (effect, reason) = match () {
            () if mixed && other.effect == Effect::Primary => (Effect::Primary, other.reason),
            () if mixed && self.effect == Effect::Primary => (Effect::Primary, self.reason.clone()),
            () if mixed && self.effect == Effect::Follow => (Effect::Primary, self.reason.clone()),
            () if mixed => (Effect::Primary, other.reason),
            () if rank(other.effect) > rank(self.effect) => (other.effect, other.reason),
            () => (self.effect, self.reason.clone()),
        };
        self.effect = effect;
        self.reason = reason;
        for act in other.acts {
            self.act(act);
        }
        if other.literals == Literals::Matter {
            self.literals = Literals::Matter;
        }
    }

    pub fn into_parts(self) -> (Effect, Reason, Vec<Act>, Literals) {
        (self.effect, self.reason, self.acts, self.literals)
    }
}

fn rank(effect: Effect) -> u8 {
    match effect {
        Effect::Read => 0,
        Effect::Follow => 1,
        Effect::RefusedReadOnly => 2,
        Effect::Primary => 3,
    }
}
