//! Queues that results cannot be published to now, and so the queues that no jobs are taken from.
//!
//! A result that its queue does not take (the queue is missing, denied or away) is held with its
//! message's lease and tried again. Each such result keeps its queue *blocked*. While a queue is
//! blocked, a worker receives nothing from the queues whose results go there: each further job would
//! only add to what is held. The results that are held are the probe: they are tried again with
//! back-off, and as soon as the queue takes one, all others are tried and receiving goes on.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use lovage_core::{
    broker::BrokerError,
    dependency::Readiness,
    events::{PublishingBlocked, PublishingResumed},
};

/// The interval between two log lines about one blocked queue.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// Which queues are blocked. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct PublishGate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How many queues are blocked. Read without the lock for every batch.
    blocked: AtomicUsize,
    queues: Mutex<HashMap<Arc<str>, Blocked>>,
    opened: Notify,
}

#[derive(Debug)]
struct Blocked {
    /// Results that are held for it.
    held: usize,
    since: Instant,
    told: Instant,
    reason: String,
    /// Told when the queue has taken a result.
    accepts: Arc<Notify>,
}

/// A result that is held for a blocked queue. Dropped when it is published, or held no more.
#[derive(Debug)]
pub struct HeldResult {
    gate: PublishGate,
    queue: Arc<str>,
    accepts: Arc<Notify>,
}

impl HeldResult {
    /// The address of the queue.
    pub fn queue(&self) -> &Arc<str> {
        &self.queue
    }

    /// Has the other results for the queue tried at once, since it took this one.
    pub fn accepted(&self) {
        self.accepts.notify_waiters();
    }

    /// Told when the queue has taken another result.
    pub fn another_accepted(&self) -> Arc<Notify> {
        Arc::clone(&self.accepts)
    }

    /// The queue has refused the result once more.
    pub fn refused_again(&self, error: &BrokerError) {
        let mut queues = self.gate.queues();
        if let Some(blocked) = queues.get_mut(&self.queue) {
            blocked.tell(&self.queue, error);
        }
    }
}

impl Drop for HeldResult {
    fn drop(&mut self) {
        let Inner { blocked: count, opened, .. } = &*self.gate.0;
        let mut queues = self.gate.queues();
        let Some(blocked) = queues.get_mut(&self.queue) else { return };
        blocked.held = blocked.held.saturating_sub(1);
        held_gauge(&self.queue, blocked.held);
        if blocked.held == 0 {
            PublishingResumed { to: name_of(&self.queue), after: blocked.since.elapsed() }.emit();
            queues.remove(&self.queue);
            count.store(queues.len(), Ordering::Relaxed);
            drop(queues);
            opened.notify_waiters();
        }
    }
}

impl Blocked {
    fn tell(&mut self, queue: &str, error: &BrokerError) {
        if self.reason != error.message {
            self.reason.clone_from(&error.message);
        }
        if self.told.elapsed() >= TELL_AGAIN {
            self.told = Instant::now();
            let for_how_long = self.since.elapsed();
            PublishingBlocked { to: name_of(queue), error, held: self.held, for_how_long }.emit();
        }
    }
}

impl PublishGate {
    /// Holds a result for a queue that refused it or is away. The queue is blocked for as long as
    /// the answer lives.
    pub fn hold(&self, queue: &Arc<str>, error: &BrokerError) -> HeldResult {
        let now = Instant::now();
        let mut queues = self.queues();
        let blocked = queues.entry(Arc::clone(queue)).or_insert_with(|| {
            let to = name_of(queue);
            PublishingBlocked { to, error, held: 1, for_how_long: Duration::ZERO }.emit();
            Blocked {
                held: 0,
                since: now,
                told: now,
                reason: error.message.clone(),
                accepts: Arc::default(),
            }
        });
        blocked.held += 1;
        held_gauge(queue, blocked.held);
        blocked.tell(queue, error);
        let accepts = Arc::clone(&blocked.accepts);
        self.0.blocked.store(queues.len(), Ordering::Relaxed);
        HeldResult { gate: self.clone(), queue: Arc::clone(queue), accepts }
    }

    /// True while results for a queue are held.
    pub fn is_blocked(&self, queue: &str) -> bool {
        self.0.blocked.load(Ordering::Relaxed) > 0 && self.queues().contains_key(queue)
    }

    /// Waits until a queue is not blocked.
    pub async fn opens(&self, queue: &str) {
        loop {
            let opened = self.0.opened.notified();
            tokio::pin!(opened);
            // Registered before the look, or an end in between would be missed.
            opened.as_mut().enable();
            if !self.is_blocked(queue) {
                return;
            }
            opened.await;
        }
    }

    /// The queues that are blocked: a worker with such is not ready.
    pub fn readiness(&self) -> Vec<Readiness> {
        let queues = self.queues();
        let blocked = queues.iter().map(|(to, blocked)| Readiness {
            name: "results",
            up: false,
            reason: Some(format!("queue `{}`: {}", name_of(to), blocked.reason)),
            down_seconds: Some(blocked.since.elapsed().as_secs()),
        });
        let mut blocked: Vec<_> = blocked.collect();
        blocked.sort_by(|a, b| a.reason.cmp(&b.reason));
        blocked
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Blocked>> {
        // A panic elsewhere leaves the map whole: each change to it is a single call.
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue's name: the last segment of its address.
fn name_of(address: &str) -> &str {
    address.rsplit('/').next().unwrap_or(address)
}

fn held_gauge(queue: &str, held: usize) {
    let held = u32::try_from(held).unwrap_or(u32::MAX);
    metrics::gauge!("lovage_results_held", "queue" => name_of(queue).to_owned())
        .set(f64::from(held));
}

#[cfg(test)]
mod tests {
    use super::*;
    use lovage_core::broker::Fault;

    fn error() -> BrokerError {
        BrokerError::new(Fault::Denied, "not allowed")
    }

    #[tokio::test]
    async fn a_queue_is_blocked_while_a_result_is_held_for_it_and_no_other_is() {
        let gate = PublishGate::default();
        let (queue, other): (Arc<str>, Arc<str>) = ("https://h/1/results".into(), "other".into());
        gate.opens(&queue).await;
        let held = [gate.hold(&queue, &error()), gate.hold(&queue, &error())];
        assert!(gate.is_blocked(&queue) && !gate.is_blocked(&other));
        gate.opens(&other).await;
        let [readiness] = &gate.readiness()[..] else { panic!("one queue is blocked") };
        assert_eq!(readiness.reason.as_deref(), Some("queue `results`: not allowed"));
        assert!(!readiness.up);
        let [first, second] = held;
        drop(first);
        let waits = tokio::spawn({
            let (gate, queue) = (gate.clone(), Arc::clone(&queue));
            async move { gate.opens(&queue).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waits.is_finished());
        drop(second);
        waits.await.unwrap();
        assert!(!gate.is_blocked(&queue) && gate.readiness().is_empty());
    }

    #[tokio::test]
    async fn a_result_that_is_taken_has_the_others_tried_at_once() {
        let gate = PublishGate::default();
        let queue: Arc<str> = "results".into();
        let (one, other) = (gate.hold(&queue, &error()), gate.hold(&queue, &error()));
        let told = other.another_accepted();
        let waits = tokio::spawn(async move { told.notified().await });
        tokio::task::yield_now().await;
        one.accepted();
        waits.await.unwrap();
    }
}
