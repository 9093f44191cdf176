//! Pure: the LSN timeline, from which a replica's lag in time follows. The sampler and the primary's probe record where
//! the primary's log was; `monitor` asks how old the state is that a replica has replayed.
//!
//! Only the proxy's own monotonic clock is used, so there is no heartbeat table and no clock skew. The answer is an
//! upper bound and must never be optimistic: a sample's time is taken *before* it is sent, and thinning only ever drops
//! samples, which makes a lag longer, never shorter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lsn::Lsn;

/// Samples nearer to each other than this are merged: a busy sampler may bring ten thousand a second.
const RESOLUTION: Duration = Duration::from_millis(2);

/// 4096 samples: minutes of history at the sampler's idle rate. When full, the older half is thinned, so that the
/// resolution gets coarser with age while the reach doubles.
const CAPACITY: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// When the question was about to be sent.
    at: Instant,
    insert: Lsn,
}

/// Where the primary's log was, and when; times and positions both grow from front to back.
#[derive(Debug, Default)]
pub struct LsnTimeline {
    marks: VecDeque<Mark>,
    /// When the oldest position was seen first; its mark tells when it was seen last.
    began: Option<Instant>,
}

impl LsnTimeline {
    pub fn new() -> LsnTimeline {
        LsnTimeline::default()
    }

    /// Forgets everything: positions of another primary's timeline say nothing about this one's.
    pub fn clear(&mut self) {
        self.marks.clear();
        self.began = None;
    }

    /// Notes that the primary's normalized insert position was `insert` at or after `at`.
    pub fn record(&mut self, at: Instant, insert: Lsn) {
        let Some(last) = self.marks.back_mut() else {
            self.began = Some(at);
            self.marks.push_back(Mark { at, insert });
            return;
        };
        // Two askers' answers may cross; an older question adds nothing, and a smaller position asked later would be a
        // primary that lost its log (crash with fsync off): what follows from the old marks is void then.
        if at < last.at {
            return;
        }
        if insert < last.insert {
            self.marks.clear();
            self.began = Some(at);
            self.marks.push_back(Mark { at, insert });
            return;
        }
        // An idle primary: the same position, still true now.
        if insert == last.insert {
            last.at = at;
            return;
        }
        let count = self.marks.len();
        if count >= 2 && self.marks[count - 1].at.duration_since(self.marks[count - 2].at) < RESOLUTION {
            self.marks.pop_back();
        }
        if self.marks.len() == CAPACITY {
            self.thin();
        }
        self.marks.push_back(Mark { at, insert });
    }

    fn thin(&mut self) {
        let half = self.marks.len() / 2;
        let mut index = 0;
        self.marks.retain(|_| {
            index += 1;
            index > half || index % 2 == 1
        });
    }

    /// How old, at most, the state is that a replica shows which has replayed up to `replay`; `None` if it is older than
    /// everything that was sampled, or nothing was.
    pub fn lag(&self, replay: Lsn, now: Instant) -> Option<Duration> {
        let after = self.marks.partition_point(|mark| mark.insert <= replay);
        let newest = self.marks.get(after.checked_sub(1)?)?;
        Some(now.saturating_duration_since(newest.at))
    }

    /// How far back the samples go: whoever has not replayed the oldest one is at least so far behind.
    pub fn reach(&self) -> Option<Duration> {
        Some(self.marks.back()?.at.saturating_duration_since(self.began?))
    }

    /// The newest sampled position and the time before its question was sent.
    pub fn newest(&self) -> Option<(Instant, Lsn)> {
        self.marks.back().map(|mark| (mark.at, mark.insert))
    }

    /// How many bytes `replay` is behind the newest sample.
    pub fn lag_bytes(&self, replay: Lsn) -> Option<u64> {
        self.marks.back().map(|mark| mark.insert.bytes_since(replay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn timeline(marks: &[(u64, u64)]) -> (LsnTimeline, Instant) {
        let start = Instant::now();
        let mut timeline = LsnTimeline::new();
        for &(at, lsn) in marks {
            timeline.record(start + ms(at), Lsn(lsn));
        }
        (timeline, start)
    }

    fn check(marks: &[(u64, u64)], replay: u64, now: u64, expect: Option<u64>) {
        let (timeline, start) = timeline(marks);
        assert_eq!(timeline.lag(Lsn(replay), start + ms(now)), expect.map(ms), "{marks:?} {replay} at {now}");
    }

    #[test]
    fn lag_is_the_age_of_the_newest_sample_at_or_below_replay() {
        check(&[], 10, 5, None);
        check(&[(0, 100)], 99, 5, None);
        check(&[(0, 100)], 100, 5, Some(5));
        check(&[(0, 100), (10, 200), (20, 300)], 200, 25, Some(15));
        check(&[(0, 100), (10, 200), (20, 300)], 299, 25, Some(15));
        check(&[(0, 100), (10, 200), (20, 300)], 300, 25, Some(5));
        check(&[(0, 100), (10, 200), (20, 300)], 5000, 25, Some(5));
    }

    #[test]
    fn an_idle_primary_does_not_age_a_caught_up_replica() {
        check(&[(0, 100), (500, 100), (1000, 100), (90_000, 100)], 100, 90_010, Some(10));
    }

    #[test]
    fn without_samples_the_bound_grows_by_itself() {
        check(&[(0, 100), (500, 200)], 200, 60_500, Some(60_000));
    }

    #[test]
    fn crossed_answers_and_a_primary_that_lost_its_log() {
        check(&[(10, 200), (5, 100)], 150, 20, None);
        // The log shrank: the old marks would call a replica at 150 fresh although it is 20 ms behind nothing known.
        check(&[(0, 100), (10, 200), (20, 120)], 110, 30, None);
        check(&[(0, 100), (10, 200), (20, 120)], 150, 30, Some(10));
    }

    #[test]
    fn bytes_are_measured_from_the_newest_sample() {
        let (timeline, _) = timeline(&[(0, 100), (10, 250)]);
        assert_eq!(timeline.lag_bytes(Lsn(100)), Some(150));
        assert_eq!(timeline.lag_bytes(Lsn(300)), Some(0));
        assert_eq!(LsnTimeline::new().lag_bytes(Lsn(1)), None);
    }

    #[test]
    fn a_storm_of_samples_stays_bounded_and_keeps_its_reach() {
        let start = Instant::now();
        let mut timeline = LsnTimeline::new();
        for i in 0..200_000_u64 {
            timeline.record(start + ms(i * 3), Lsn(i));
        }
        assert!(timeline.marks.len() <= CAPACITY);
        let now = start + ms(600_000);
        assert!(timeline.lag(Lsn(0), now).is_some(), "the first sample survives the thinning");
        let recent = timeline.lag(Lsn(199_990), now).expect("recent history is kept whole");
        assert_eq!(recent, ms(600_000 - 199_990 * 3));
    }

    proptest! {
        /// The truth is known here: the log was at `lsn` at each sample, so a replica at `replay` misses everything
        /// after the last sample at or below it. The bound must not be below that, and not much above it either.
        #[test]
        fn never_optimistic(steps in prop::collection::vec((0_u64..5_000, 0_u64..50), 1..500), replay in 0_u64..20_000) {
            let start = Instant::now();
            let mut timeline = LsnTimeline::new();
            let (mut at, mut lsn) = (0, 0);
            let mut truth: Option<u64> = None;
            for (wait, bytes) in steps {
                at += wait;
                lsn += bytes;
                timeline.record(start + Duration::from_micros(at), Lsn(lsn));
                if lsn <= replay {
                    truth = Some(at);
                }
            }
            let now = start + Duration::from_micros(at + 100);
            match (timeline.lag(Lsn(replay), now), truth) {
                (Some(lag), Some(truth)) => {
                    let exact = Duration::from_micros(at + 100 - truth);
                    prop_assert!(lag >= exact);
                    prop_assert!(lag <= exact + RESOLUTION);
                }
                (lag, truth) => prop_assert_eq!(lag.is_some(), truth.is_some()),
            }
        }
    }
}
