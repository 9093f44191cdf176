//! What was committed, on every timeline: a promotion begins a new one where the promoted replica stood, and what the old
//! primary acknowledged beyond that was lost by PostgreSQL itself.

use std::time::{Duration, Instant};

struct Commit {
    rows: Vec<u32>,
    at: Instant,
}

/// So many commits of a timeline, which is counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    pub timeline: usize,
    pub end: usize,
}

/// What a client was shown: the version of a row, and the snapshot that showed it. A commit shows itself.
#[derive(Clone, Copy)]
pub struct Shown {
    pub version: Place,
    pub snapshot: Place,
    /// By a node that takes itself for the primary.
    pub writable: bool,
    /// Since when something is committed that the snapshot misses.
    pub age: Duration,
    pub may: Staleness,
}

/// How old the data may be, by what was known when the read was sent to its node.
#[derive(Clone, Copy, Default)]
pub struct Staleness {
    /// Beyond `max_lag` of the configuration.
    pub evicted: Duration,
    /// Beyond that of a hint.
    pub hinted: Duration,
}

pub struct History {
    logs: Vec<Vec<Commit>>,
    /// Where each timeline but the first left the one before it.
    switches: Vec<usize>,
    shown: Vec<Shown>,
}

impl History {
    pub fn new() -> History {
        History { logs: vec![Vec::new()], switches: Vec::new(), shown: Vec::new() }
    }

    pub fn end(&self, timeline: usize) -> Place {
        Place { timeline, end: self.logs[timeline].len() }
    }

    pub fn newest(&self) -> Place {
        self.end(self.logs.len() - 1)
    }

    pub fn commit(&mut self, timeline: usize, rows: &[u32], at: Instant) -> Place {
        self.logs[timeline].push(Commit { rows: rows.to_vec(), at });
        self.end(timeline)
    }

    pub fn version(&self, snapshot: Place, row: u32) -> Place {
        let log = &self.logs[snapshot.timeline][..snapshot.end];
        let end = log.iter().rposition(|commit| commit.rows.contains(&row)).map_or(0, |at| at + 1);
        Place { end, ..snapshot }
    }

    /// A replica that stands there is promoted: the number of its new timeline.
    pub fn branch(&mut self, from: Place) -> usize {
        let log = &self.logs[from.timeline][..from.end];
        let log = log.iter().map(|commit| Commit { rows: commit.rows.clone(), at: commit.at }).collect();
        self.logs.push(log);
        self.switches.push(from.end);
        self.logs.len() - 1
    }

    pub fn switch(&self, timeline: usize) -> Option<usize> {
        Some(self.switches[timeline.checked_sub(1)?])
    }

    /// How much of what was there at `place` is on a later timeline.
    pub fn carried(&self, place: Place, timeline: usize) -> usize {
        self.switches[place.timeline..timeline].iter().fold(place.end, |end, switch| end.min(*switch))
    }

    /// Whether the snapshot shows all that was there at `place`, but for what was lost.
    pub fn holds(&self, snapshot: Place, place: Place) -> bool {
        if place.timeline <= snapshot.timeline {
            return self.carried(place, snapshot.timeline) <= snapshot.end;
        }
        let shared = self.switches[snapshot.timeline..place.timeline].iter().fold(snapshot.end, |end, at| end.min(*at));
        place.end <= shared
    }

    /// What holds both, but for what was lost.
    pub fn later(&self, one: Place, other: Place) -> Place {
        let timeline = one.timeline.max(other.timeline);
        Place { timeline, end: self.carried(one, timeline).max(self.carried(other, timeline)) }
    }

    /// How long ago the first of the commits was that the snapshot misses.
    pub fn age(&self, snapshot: Place, now: Instant) -> Duration {
        let missed = self.logs[snapshot.timeline].get(snapshot.end);
        missed.map_or(Duration::ZERO, |commit| now.saturating_duration_since(commit.at))
    }

    /// The number under which a client's model finds what it was shown.
    pub fn show(&mut self, shown: Shown) -> u64 {
        self.shown.push(shown);
        self.shown.len() as u64
    }

    pub fn shown(&self, number: u64) -> Option<Shown> {
        self.shown.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }
}
