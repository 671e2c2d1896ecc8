//! How much CPU time a future takes.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs a future, and says how much time its polls kept a processor busy: what other futures do
/// on the same thread in between is not counted.
pub(super) async fn metered<F: Future>(future: F) -> (F::Output, Duration) {
    let mut future = pin!(future);
    let mut spent = Duration::ZERO;
    let output = poll_fn(|context| {
        let start = of_this_thread();
        let poll = future.as_mut().poll(context);
        spent += of_this_thread().saturating_sub(start);
        poll
    })
    .await;
    (output, spent)
}

/// The CPU time that this thread has taken. A poll begins and ends on one thread, so the
/// difference of two of them is the poll's.
fn of_this_thread() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn work_is_counted_and_waiting_is_not() {
        let wall = Instant::now();
        let ((), spent) = metered(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let start = of_this_thread();
            while of_this_thread() < start + Duration::from_millis(20) {}
        })
        .await;
        assert!(wall.elapsed() >= Duration::from_millis(70));
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
        assert!(spent < Duration::from_millis(45), "{spent:?}");
    }
}
