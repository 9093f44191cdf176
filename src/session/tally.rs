//! What a session has told the metrics of itself: its pins and its prepared statements, which are gauges, so that each
//! must be taken back at the end. The loop in `run` calls it; it decides nothing.

use super::pins::Pins;
use crate::metrics::WorkerCells;

/// As last counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pins: Pins,
    statements: usize,
}

impl Tally {
    /// Counts what changed. Cheap if nothing did: two comparisons.
    pub fn count(&mut self, metrics: &WorkerCells, pins: Pins, statements: usize) {
        if pins != self.pins {
            let before = std::mem::replace(&mut self.pins, pins);
            pins.iter().filter(|pin| !before.contains(*pin)).for_each(|pin| metrics.pin_changed(1, pin.label()));
            before.iter().filter(|pin| !pins.contains(*pin)).for_each(|pin| metrics.pin_changed(-1, pin.label()));
        }
        if statements != self.statements {
            let delta = statements as i64 - self.statements as i64;
            metrics.session_statements_changed(delta);
            self.statements = statements;
        }
    }
}
