//! Pure: how long a pool leaves a node alone after it could not connect. A dead node must not be hammered by every
//! statement that would like to use it; they are told the last error at once instead.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Failures in a row, and until when nobody tries again. `E` is what those are told who ask in the meantime.
#[derive(Debug)]
pub struct Backoff<E> {
    failures: u32,
    rest: Option<(Instant, E)>,
}

impl<E> Default for Backoff<E> {
    fn default() -> Backoff<E> {
        Backoff { failures: 0, rest: None }
    }
}

impl<E> Backoff<E> {
    /// The pause doubles from 50 ms to 2 s; up to a quarter is taken off by the dice, so that pools spread.
    /// Failures of openings that had started before the pause are part of the same trouble and do not lengthen it.
    pub fn on_failure(&mut self, now: Instant, dice: u32, error: E) {
        if self.error(now).is_none() {
            self.failures = self.failures.saturating_add(1);
            let pause = FIRST.saturating_mul(1 << (self.failures - 1).min(10)).min(LONGEST);
            let until = now + pause - pause.mul_f64(f64::from(dice) / f64::from(u32::MAX) / 4.0);
            self.rest = Some((until, error));
        }
    }

    pub fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// The last error, while nobody should try.
    pub fn error(&self, now: Instant) -> Option<&E> {
        self.rest.as_ref().filter(|(until, _)| now < *until).map(|(_, error)| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_a_success_ends_them() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        for expected in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            backoff.on_failure(now, 0, "down");
            assert_eq!(backoff.error(now + Duration::from_millis(expected - 1)), Some(&"down"));
            now += Duration::from_millis(expected);
            assert_eq!(backoff.error(now), None);
        }
        backoff.on_failure(now, 0, "down");
        backoff.reset();
        assert_eq!(backoff.error(now), None);
        backoff.on_failure(now, 0, "down");
        assert_eq!(backoff.error(now + Duration::from_millis(50)), None);
    }

    #[test]
    fn the_dice_take_off_a_quarter_at_most() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.on_failure(now, u32::MAX, "down");
        assert!(backoff.error(now + Duration::from_micros(37_400)).is_some());
        assert!(backoff.error(now + Duration::from_micros(37_600)).is_none());
    }

    #[test]
    fn simultaneous_failures_count_once() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.on_failure(now, 0, "down");
        }
        assert!(backoff.error(now + Duration::from_millis(50)).is_none());
    }
}
