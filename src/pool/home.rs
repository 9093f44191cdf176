//! Pure: whose home a server connection is. Each session has a home, a connection that is nobody else's, as long as the pool
//! has one for it: its process ID, its caches and its statements are then the session's, as without a pooler. A session whose
//! home is busy or gone runs elsewhere, so nothing depends on it but looks and speed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::PoolConfig;

/// The bond between a session and its home: both hold it, and each sees when the other let go.
#[derive(Clone, Debug, Default)]
pub struct Home(Arc<()>);

impl Home {
    /// Session and connection are both there.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub fn is(&self, other: &Home) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The account of processes that a session has marked and that are closed when it ends, so that the next session gets a
/// fresh one as it would without us: as many as the pool holds at once, and a few a second in the long run. Clients that come
/// and go faster share what is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Renewals {
    /// When all that was spent is there again.
    settled: Option<Instant>,
}

impl Renewals {
    /// Whether one more may be closed now; then it is spent.
    pub fn spend(&mut self, config: &PoolConfig, now: Instant) -> bool {
        let Some(each) = Duration::from_secs(1).checked_div(config.renewals as u32) else {
            return false;
        };
        let settled = self.settled.map_or(now, |settled| settled.max(now)) + each;
        let most = each.saturating_mul(config.size as u32);
        let may = settled.duration_since(now) <= most;
        if may {
            self.settled = Some(settled);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_sees_the_other_leave() {
        let session = Home::default();
        let connection = session.clone();
        assert!(session.is_shared() && connection.is_shared());
        drop(session);
        assert!(!connection.is_shared());
    }

    #[test]
    fn renewals_are_a_burst_of_the_pools_size_and_then_a_trickle() {
        let (mut renewals, start) = (Renewals::default(), Instant::now());
        let mut config = PoolConfig { size: 3, renewals: 10, ..PoolConfig::default() };
        let spent = (0..10).filter(|_| renewals.spend(&config, start)).count();
        assert_eq!(spent, 3);
        let second = (0..100).filter(|at| renewals.spend(&config, start + Duration::from_millis(10 * at))).count();
        assert_eq!(second, 9, "one each tenth of a second");
        config.renewals = 0;
        assert!(!renewals.spend(&config, start + Duration::from_secs(60)));
    }
}
