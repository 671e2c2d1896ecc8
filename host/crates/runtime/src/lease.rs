//! Our hold on messages, from receipt to settlement, whether they run or wait to be settled.
//!
//! Half of the visibility timeout after its last renewal a lease is renewed, together with others
//! that are due. Renewals that hang hold up no others, and are given up in time for another try. A
//! lease that the broker says is lost, or that reaches the cap, ends the
//! attempt: another worker may have the message by then, and a second result helps nobody.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use lovage_core::{
    broker::{Broker, BrokerError, Fault, Queue, Receipt},
    events::{LeaseLost, RenewalFailed},
};

/// The leases that a worker holds on messages of one queue.
#[derive(Debug)]
pub struct Leases {
    broker: Arc<dyn Broker>,
    queue: Queue,
    visibility: Duration,
    cap: Duration,
    held: Mutex<HashMap<Receipt, Held>>,
    some: Notify,
}

#[derive(Debug)]
struct Held {
    since: Instant,
    /// When it ends, if it is not renewed.
    until: Instant,
    /// A renewal is under way.
    renewing: bool,
    /// Not to be renewed.
    resting: bool,
    lost: CancellationToken,
}

/// One lease; dropping it ends its renewal.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    receipt: Receipt,
    lost: CancellationToken,
}

impl Lease {
    /// Ends when the lease is lost; never, while it is held.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns true if the lease is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Whether it is to be left to end, since its message is being put back: a renewal that came
    /// after that would undo it.
    pub fn rest(&self, resting: bool) {
        if let Some(held) = self.leases.held().get_mut(&self.receipt) {
            held.resting = resting;
        }
    }

    /// Whether the lease still holds. Asks the broker only where nothing has renewed it in time,
    /// as after a machine or a process stood still: somebody else may have the message by then,
    /// and publish a result of his own.
    pub async fn still_holds(&self) -> bool {
        if self.is_lost() {
            return false;
        }
        let leases = &self.leases;
        let overdue =
            leases.held().get(&self.receipt).is_some_and(|held| held.until <= Instant::now());
        if overdue {
            leases.renew(vec![self.receipt.clone()], leases.visibility).await;
        }
        !self.is_lost()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.receipt);
    }
}

impl Leases {
    /// No leases yet. Each is for `visibility` at a time, and at most for `cap` in all.
    pub fn new(
        broker: Arc<dyn Broker>,
        queue: Queue,
        visibility: Duration,
        cap: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            queue,
            visibility,
            cap,
            held: Mutex::default(),
            some: Notify::new(),
        })
    }

    /// Holds a message that was received just now.
    pub fn hold(self: &Arc<Self>, receipt: Receipt) -> Lease {
        let now = Instant::now();
        let lost = CancellationToken::new();
        let until = now + self.visibility;
        let held = Held { since: now, until, renewing: false, resting: false, lost: lost.clone() };
        let mut all = self.held();
        all.insert(receipt.clone(), held);
        if all.len() == 1 {
            self.some.notify_one();
        }
        drop(all);
        Lease { leases: Arc::clone(self), receipt, lost }
    }

    /// Renews what is due, for as long as the future is polled. Costs nothing while there is
    /// nothing to hold.
    pub async fn keep(&self) {
        // Often enough that a lease is renewed well before three quarters of it are over.
        let pause = (self.visibility / 8).max(Duration::from_millis(50));
        // As many in one call as the broker takes in one: one that hangs then holds up few.
        let together = self.broker.limits().receive_batch.max(1);
        let mut renewals = FuturesUnordered::new();
        // Those that a keeper before this one had begun have ended with it.
        self.held().values_mut().for_each(|held| held.renewing = false);
        loop {
            if renewals.is_empty() && self.held().is_empty() {
                self.some.notified().await;
            }
            let end = Instant::now() + pause;
            while tokio::time::timeout_at(end, async {
                if renewals.next().await.is_none() {
                    std::future::pending::<()>().await;
                }
            })
            .await
            .is_ok()
            {}
            for (extension, due) in self.due(pause) {
                for some in due.chunks(together) {
                    renewals.push(self.renew(some.to_vec(), extension));
                }
            }
        }
    }

    /// The leases to be renewed now, by how far. Those that reach the cap before anybody looks
    /// again are lost: the broker does not go beyond it.
    fn due(&self, pause: Duration) -> BTreeMap<Duration, Vec<Receipt>> {
        let now = Instant::now();
        let mut due: BTreeMap<Duration, Vec<Receipt>> = BTreeMap::new();
        self.held().retain(|receipt, held| {
            let last = held.since + self.cap;
            if held.renewing || held.resting {
                return true;
            }
            if now + pause >= last {
                self.lose(held, "it has been held for the longest time that is allowed");
                return false;
            }
            if held.until < last && held.until.saturating_duration_since(now) <= self.visibility / 2
            {
                held.renewing = true;
                due.entry((last - now).min(self.visibility)).or_default().push(receipt.clone());
            }
            true
        });
        due
    }

    async fn renew(&self, due: Vec<Receipt>, extension: Duration) {
        let now = Instant::now();
        // In time for another try, on another connection.
        let patience = (self.visibility / 4).max(Duration::from_millis(250));
        let extend = self.broker.extend(&self.queue, &due, extension);
        let answers = tokio::time::timeout(patience, extend).await.unwrap_or_else(|_elapsed| {
            let late =
                || BrokerError::new(Fault::Unavailable, format!("no answer in {patience:?}"));
            due.iter().map(|_| Err(late())).collect()
        });
        let mut failed: Option<(BrokerError, usize)> = None;
        let mut all = self.held();
        for (receipt, answer) in due.into_iter().zip(answers) {
            // Not there any more: settled while the renewal was under way.
            let Some(held) = all.get_mut(&receipt) else { continue };
            held.renewing = false;
            match answer {
                Ok(()) => held.until = now + extension,
                Err(error) if error.fault == Fault::Stale => {
                    if let Some(held) = all.remove(&receipt) {
                        self.lose(&held, "the broker says that it has ended");
                    }
                }
                Err(error) => {
                    let count = failed.as_ref().map_or(0, |(_, count)| *count);
                    failed = Some((error, count + 1));
                }
            }
        }
        drop(all);
        if let Some((error, count)) = failed {
            RenewalFailed { queue: &self.queue.name, error: &error, count }.emit();
        }
    }

    fn lose(&self, held: &Held, reason: &str) {
        LeaseLost { queue: &self.queue.name, reason }.emit();
        held.lost.cancel();
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<Receipt, Held>> {
        // A panic elsewhere leaves the map whole: each change to it is a single call.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use lovage_core::broker::{Depth, Limits, Message, Outgoing, Settlement, Turn, Unsettled};

    /// Never answers the first renewal; takes one lease at a time.
    #[derive(Debug, Default)]
    struct Hanging {
        calls: AtomicU32,
    }

    fn unsupported() -> BrokerError {
        BrokerError::new(Fault::Unsupported, "not part of this test")
    }

    #[async_trait]
    impl Broker for Hanging {
        fn kind(&self) -> &'static str {
            "hanging"
        }

        fn limits(&self) -> Limits {
            Limits {
                receive_batch: 1,
                settle_batch: 1,
                settle_concurrency: 1,
                settle_linger: Duration::ZERO,
                counts_waits: false,
                takes_turns: false,
                keeps_results: false,
                message_bytes: 0,
                max_lease: Duration::MAX,
            }
        }

        async fn extend(
            &self,
            _: &Queue,
            receipts: &[Receipt],
            _: Duration,
        ) -> Vec<Result<(), BrokerError>> {
            if self.calls.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            receipts.iter().map(|_| Ok(())).collect()
        }

        async fn open(&self, _: &str) -> Result<Queue, BrokerError> {
            Err(unsupported())
        }

        async fn receive(
            &self,
            _: &Queue,
            _: usize,
            _: Duration,
            _: Duration,
            _: &Turn,
        ) -> Result<Vec<Message>, BrokerError> {
            Err(unsupported())
        }

        async fn settle(&self, _: &Queue, _: &[Settlement]) -> Vec<Result<(), Unsettled>> {
            Vec::new()
        }

        async fn send(&self, _: &Queue, _: &[Outgoing]) -> Vec<Result<String, BrokerError>> {
            Vec::new()
        }

        async fn depth(&self, _: &Queue) -> Result<Depth, BrokerError> {
            Err(unsupported())
        }

        async fn browse(&self, _: &Queue, _: usize) -> Result<Vec<Message>, BrokerError> {
            Err(unsupported())
        }

        async fn result(
            &self,
            _: lovage_core::job::JobKey<'_>,
            _: Duration,
        ) -> Result<Option<Bytes>, BrokerError> {
            Err(unsupported())
        }
    }

    fn leases(visibility: Duration, cap: Duration) -> (Arc<Hanging>, Arc<Leases>) {
        let broker = Arc::new(Hanging::default());
        let queue = Queue {
            name: "jobs".into(),
            address: "jobs".into(),
            fifo: false,
            visibility_timeout: visibility,
            redrive_target: None,
        };
        (Arc::clone(&broker), Leases::new(broker, queue, visibility, cap))
    }

    fn receipt(name: &str) -> Receipt {
        Receipt(name.into())
    }

    #[tokio::test]
    async fn a_renewal_that_hangs_costs_no_lease() {
        let (broker, leases) = leases(Duration::from_secs(4), Duration::from_hours(1));
        let held = [leases.hold(receipt("a")), leases.hold(receipt("b"))];
        let keep = tokio::time::timeout(Duration::from_secs(6), leases.keep());
        assert!(keep.await.is_err());
        for lease in &held {
            assert!(!lease.is_lost());
        }
        let ends = |name: &str| leases.held()[&receipt(name)].until;
        assert!(ends("a") > Instant::now() && ends("b") > Instant::now());
        assert!(broker.calls.load(Ordering::Relaxed) >= 3);
    }

    #[tokio::test]
    async fn a_lease_is_held_up_to_its_cap_and_not_beyond() {
        let cap = Duration::from_millis(2500);
        let (broker, leases) = leases(Duration::from_secs(2), cap);
        broker.calls.store(1, Ordering::Relaxed);
        let (begun, lease) = (Instant::now(), leases.hold(receipt("a")));
        tokio::select! {
            () = leases.keep() => {}
            () = lease.lost() => {}
        }
        // The pauses between two looks are a quarter of a second.
        assert!(begun.elapsed() >= cap.saturating_sub(Duration::from_millis(500)));
        assert!(broker.calls.load(Ordering::Relaxed) > 1);
    }

    #[tokio::test]
    async fn a_lease_that_is_being_put_back_is_not_renewed() {
        let (broker, leases) = leases(Duration::from_secs(1), Duration::from_hours(1));
        let lease = leases.hold(receipt("a"));
        lease.rest(true);
        let keep = tokio::time::timeout(Duration::from_secs(1), leases.keep());
        assert!(keep.await.is_err());
        assert_eq!(broker.calls.load(Ordering::Relaxed), 0);
    }
}
