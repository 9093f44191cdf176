//! Waiting for conditions, with deadlines and never by sleeping for a guessed time. Every test uses it.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything in these tests may take before it has failed. Long, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks again and again until the answer is `Some`; panics with what it waited for when the patience ends.
pub async fn until_some<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
    }
}

/// Asks again and again until the answer is yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    until_some(what, || {
        let answer = ask();
        async move { answer.await.then_some(()) }
    })
    .await;
}

/// A future that must end within the patience.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("took longer than {PATIENCE:?}: {what}"))
}

/// The rhythm of a load or of an attack: nothing is expected to have happened when it is over.
pub async fn pace(between: Duration) {
    tokio::time::sleep(between).await;
}
