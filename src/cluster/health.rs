//! Pure: may a node be used? (state, observation, now) → state, with two thresholds and a dwell time, so that a replica
//! at the edge does not flap. `monitor` feeds it; nothing here knows connections.
//!
//! Leaving is quick, coming back is slow: a node that refuses connections is out at once (nobody on call wants reads
//! sent there), one that is merely silent after `down_after` probes, and whatever put a replica out, it must prove itself
//! under `readmit_lag` for `readmit_after`.

use std::time::{Duration, Instant};

use super::Health;

/// What one probe brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A primary answered.
    Primary,
    /// A replica answered; `None`: so far behind (or so new to us) that its lag is not known.
    Replica { lag: Option<Duration> },
    /// It answered, and its answers could differ from the primary's.
    Unfit(String),
    /// It answers nobody: connection refused, starting up, shutting down.
    Refusing(String),
    /// No answer in time, or an error that the next probe may not see.
    Silent(String),
}

/// The configured limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub down_after: u32,
    pub max_lag: Duration,
    pub readmit_lag: Duration,
    pub readmit_after: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum Standing {
    /// Never seen: the first good observation admits it, since there is nothing to be wary of.
    New(String),
    Healthy,
    /// On probation: `since` when it has been under `readmit_lag` without a break.
    Out {
        since: Option<Instant>,
    },
    Down(String),
    Refused(String),
}

/// One node's state.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthState {
    standing: Standing,
    /// Failed probes in a row.
    failures: u32,
}

impl Default for HealthState {
    fn default() -> HealthState {
        HealthState { standing: Standing::New("not probed yet".into()), failures: 0 }
    }
}

impl HealthState {
    /// The state after `observation`, made at `now`.
    pub fn on_observation(self, observation: Observation, now: Instant, limits: &Limits) -> HealthState {
        match observation {
            Observation::Primary => HealthState { standing: Standing::Healthy, failures: 0 },
            Observation::Replica { lag } => {
                HealthState { standing: on_replica(self.standing, lag, now, limits), failures: 0 }
            }
            Observation::Unfit(why) => HealthState { standing: Standing::Refused(why), failures: 0 },
            Observation::Refusing(why) => self.on_failure(why, limits.down_after, limits),
            Observation::Silent(why) => self.on_failure(why, 1, limits),
        }
    }

    fn on_failure(self, why: String, weight: u32, limits: &Limits) -> HealthState {
        let failures = self.failures.saturating_add(weight);
        let standing = match self.standing {
            Standing::New(_) => Standing::New(why),
            Standing::Down(_) => Standing::Down(why),
            _ if failures >= limits.down_after => Standing::Down(why),
            // A break in the observations is a break in the probation too.
            Standing::Out { .. } => Standing::Out { since: None },
            other => other,
        };
        HealthState { standing, failures }
    }

    /// What the snapshot says.
    pub fn health(&self) -> Health {
        match &self.standing {
            Standing::Healthy => Health::Healthy,
            Standing::Out { .. } => Health::Lagging,
            Standing::New(why) | Standing::Down(why) => Health::Down(why.clone()),
            Standing::Refused(why) => Health::Refused(why.clone()),
        }
    }
}

fn on_replica(standing: Standing, lag: Option<Duration>, now: Instant, limits: &Limits) -> Standing {
    let over = lag.is_none_or(|lag| lag > limits.max_lag);
    match standing {
        Standing::Healthy if over => Standing::Out { since: None },
        Standing::Healthy => Standing::Healthy,
        // Its lag is not known before the first sample that it has replayed; that is no eviction.
        Standing::New(_) if lag.is_none() => Standing::New("its lag is not known yet".into()),
        Standing::New(_) if over => Standing::Out { since: None },
        Standing::New(_) => Standing::Healthy,
        Standing::Out { since } => on_probation(since, lag, now, limits),
        Standing::Down(_) | Standing::Refused(_) => on_probation(None, lag, now, limits),
    }
}

fn on_probation(since: Option<Instant>, lag: Option<Duration>, now: Instant, limits: &Limits) -> Standing {
    if lag.is_none_or(|lag| lag >= limits.readmit_lag) {
        return Standing::Out { since: None };
    }
    let since = since.unwrap_or(now);
    if now.saturating_duration_since(since) >= limits.readmit_after {
        return Standing::Healthy;
    }
    Standing::Out { since: Some(since) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        down_after: 3,
        max_lag: Duration::from_secs(5),
        readmit_lag: Duration::from_secs(2),
        readmit_after: Duration::from_secs(5),
    };

    fn replica(ms: u64) -> Observation {
        Observation::Replica { lag: Some(Duration::from_millis(ms)) }
    }

    fn unknown() -> Observation {
        Observation::Replica { lag: None }
    }

    fn silent() -> Observation {
        Observation::Silent("timed out".into())
    }

    fn refusing() -> Observation {
        Observation::Refusing("connection refused".into())
    }

    /// Feeds (millisecond, observation) and compares the health after each.
    fn check(steps: &[(u64, Observation, &str)]) {
        let start = Instant::now();
        let mut state = HealthState::default();
        for (at, observation, expect) in steps {
            state = state.on_observation(observation.clone(), start + Duration::from_millis(*at), &LIMITS);
            let said = match state.health() {
                Health::Healthy => "healthy",
                Health::Lagging => "lagging",
                Health::Down(_) => "down",
                Health::Refused(_) => "refused",
            };
            assert_eq!(said, *expect, "at {at} ms after {observation:?}");
        }
    }

    #[test]
    fn a_new_replica_is_admitted_by_its_first_known_lag() {
        check(&[(0, unknown(), "down"), (500, unknown(), "down"), (1000, replica(4000), "healthy")]);
        check(&[(0, replica(5001), "lagging"), (500, replica(100), "lagging")]);
    }

    #[test]
    fn between_the_thresholds_nothing_changes() {
        check(&[
            (0, replica(0), "healthy"),
            (1, replica(4999), "healthy"),
            (2, replica(5000), "healthy"),
            (3, replica(5001), "lagging"),
            (4, replica(4000), "lagging"),
            (9000, replica(2000), "lagging"),
            (18000, replica(2000), "lagging"),
        ]);
    }

    #[test]
    fn readmission_takes_the_dwell_without_a_break() {
        check(&[
            (0, replica(0), "healthy"),
            (100, replica(6000), "lagging"),
            (200, replica(100), "lagging"),
            (5000, replica(100), "lagging"),
            (5199, replica(2500), "lagging"),
            (5200, replica(100), "lagging"),
            (10_199, replica(100), "lagging"),
            (10_200, replica(100), "healthy"),
        ]);
    }

    #[test]
    fn an_unknown_lag_evicts() {
        check(&[(0, replica(0), "healthy"), (1, unknown(), "lagging")]);
    }

    #[test]
    fn silence_is_borne_three_times_refusal_not_once() {
        check(&[
            (0, replica(0), "healthy"),
            (1, silent(), "healthy"),
            (2, silent(), "healthy"),
            (3, replica(0), "healthy"),
            (4, silent(), "healthy"),
            (5, silent(), "healthy"),
            (6, silent(), "down"),
        ]);
        check(&[(0, replica(0), "healthy"), (1, refusing(), "down")]);
        check(&[(0, Observation::Primary, "healthy"), (1, refusing(), "down"), (2, Observation::Primary, "healthy")]);
    }

    #[test]
    fn a_replica_that_was_down_serves_its_probation() {
        check(&[
            (0, replica(0), "healthy"),
            (1, refusing(), "down"),
            (1000, replica(0), "lagging"),
            (3000, silent(), "lagging"),
            (4000, replica(0), "lagging"),
            (8999, replica(0), "lagging"),
            (9000, replica(0), "healthy"),
        ]);
    }

    #[test]
    fn a_node_of_another_cluster_is_refused_until_it_is_not() {
        check(&[
            (0, replica(0), "healthy"),
            (1, Observation::Unfit("another cluster".into()), "refused"),
            (2, silent(), "refused"),
            (3, replica(0), "lagging"),
            (5003, replica(0), "healthy"),
        ]);
    }

    #[test]
    fn a_promoted_replica_takes_writes_at_once() {
        check(&[(0, replica(9000), "lagging"), (1, Observation::Primary, "healthy")]);
    }

    #[test]
    fn the_last_error_is_what_people_see() {
        let now = Instant::now();
        let state = HealthState::default().on_observation(silent(), now, &LIMITS);
        assert_eq!(state.health(), Health::Down("timed out".into()));
        let state = state.on_observation(refusing(), now, &LIMITS);
        assert_eq!(state.health(), Health::Down("connection refused".into()));
    }
}
