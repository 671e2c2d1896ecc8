//! How much CPU time a future takes.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the polls of a future kept a processor busy for: what others do on the same thread in
/// between is not counted, and neither is the time that it waits.
#[derive(Debug, Default)]
pub struct Meter {
    /// Nanoseconds of the polls that have ended.
    spent: AtomicU64,
    /// Where the thread's clock was when the poll under way began. Only that thread looks at it.
    began: AtomicU64,
    /// It is known to take long.
    long: AtomicBool,
}

impl Meter {
    /// What the polls have taken that have ended.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Adds what was done elsewhere for the same purpose.
    pub fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.spent.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Says that what comes next takes long, before it has.
    pub(super) fn expect_long(&self) {
        self.long.store(true, Ordering::Relaxed);
    }

    /// Returns true if somebody said so.
    pub(super) fn is_long(&self) -> bool {
        self.long.load(Ordering::Relaxed)
    }

    /// The same with the poll under way, for who is within it.
    pub(super) fn spent_so_far(&self) -> Duration {
        let poll = of_this_thread().saturating_sub(self.began.load(Ordering::Relaxed));
        self.spent() + Duration::from_nanos(poll)
    }

    /// Runs a future by this meter. It may go from thread to thread between polls.
    pub(super) async fn run<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|context| {
            let start = of_this_thread();
            self.began.store(start, Ordering::Relaxed);
            let poll = future.as_mut().poll(context);
            let took = of_this_thread().saturating_sub(start);
            self.spent.fetch_add(took, Ordering::Relaxed);
            poll
        })
        .await
    }

    /// Runs a future within [`run`](Self::run) until it has used so much; then there is no
    /// output. It is looked at whenever the future waits: a guest that computes does so at every
    /// tick of the epoch.
    pub(super) async fn up_to<F: Future>(
        &self,
        budget: Option<Duration>,
        future: F,
    ) -> Option<F::Output> {
        let Some(budget) = budget else { return Some(future.await) };
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            std::task::Poll::Pending if self.spent_so_far() < budget => std::task::Poll::Pending,
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        })
        .await
    }
}

/// The CPU time that this thread has taken, in nanoseconds. A poll begins and ends on one thread,
/// so the difference of two of them is the poll's.
fn of_this_thread() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn burn(time: Duration) {
        let start = of_this_thread();
        while u128::from(of_this_thread() - start) < time.as_nanos() {}
    }

    #[tokio::test]
    async fn work_is_counted_and_waiting_is_not() {
        let wall = Instant::now();
        let meter = Meter::default();
        let work = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            burn(Duration::from_millis(20));
            assert_eq!(meter.spent().as_millis() / 20, 0);
            assert!(meter.spent_so_far() >= Duration::from_millis(20));
        };
        meter.run(pin!(work)).await;
        let spent = meter.spent();
        assert!(wall.elapsed() >= Duration::from_millis(70));
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
        assert!(spent < Duration::from_millis(45), "{spent:?}");
    }

    #[tokio::test]
    async fn a_budget_ends_what_computes_and_not_what_waits() {
        let budget = Some(Duration::from_millis(10));
        let spends = async |each: Duration, rounds: u32| {
            let meter = Meter::default();
            let work = async {
                for _ in 0..rounds {
                    burn(each);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let ended = meter.run(pin!(meter.up_to(budget, work))).await;
            (ended.is_some(), meter.spent())
        };
        let (ended, spent) = spends(Duration::from_millis(2), u32::MAX).await;
        assert!(!ended && spent >= Duration::from_millis(10), "{spent:?}");
        assert!(spends(Duration::ZERO, 50).await.0);
    }
}
