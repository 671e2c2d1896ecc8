//! Our hold on messages, from receipt to settlement, whether they run or wait to be settled.
//!
//! Half of the visibility timeout after its last renewal a lease is renewed, together with all
//! others that are due. A lease that the broker says is lost, or that reaches the cap, ends the
//! attempt: another worker may have the message by then, and a second result helps nobody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
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
    renewed: Instant,
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

    /// Whether the lease is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Whether the lease still holds. Asks the broker only where nothing has renewed it in time,
    /// as after a machine or a process stood still: somebody else may have the message by then,
    /// and publish a result of his own.
    pub async fn still_holds(&self) -> bool {
        if self.is_lost() {
            return false;
        }
        let leases = &self.leases;
        let overdue = leases
            .held()
            .get(&self.receipt)
            .is_some_and(|held| held.renewed.elapsed() >= leases.visibility);
        if overdue {
            leases.extend(vec![self.receipt.clone()]).await;
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
        let held = Held { since: now, renewed: now, lost: lost.clone() };
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
        loop {
            if self.held().is_empty() {
                self.some.notified().await;
            }
            tokio::time::sleep(pause).await;
            self.renew().await;
        }
    }

    async fn renew(&self) {
        let now = Instant::now();
        let mut due = Vec::new();
        self.held().retain(|receipt, held| {
            let age = now - held.renewed;
            if age < self.visibility / 2 {
                return true;
            }
            // The broker refuses to go beyond the cap; so do we, while the lease still lasts. Most
            // of what is left of it is the job's.
            if now - held.since + self.visibility > self.cap {
                if age < self.visibility * 3 / 4 {
                    return true;
                }
                self.lose(held, "it has been held for the longest time that is allowed");
                return false;
            }
            due.push(receipt.clone());
            true
        });
        if !due.is_empty() {
            self.extend(due).await;
        }
    }

    async fn extend(&self, due: Vec<Receipt>) {
        let now = Instant::now();
        let answers = self.broker.extend(&self.queue, &due, self.visibility).await;
        let mut failed: Option<(BrokerError, usize)> = None;
        let mut all = self.held();
        for (receipt, answer) in due.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    if let Some(held) = all.get_mut(&receipt) {
                        held.renewed = now;
                    }
                }
                Err(error) if error.fault == Fault::Stale => {
                    // Not there any more: settled while the renewal was under way.
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
