//! A worker over a broker of the embedding program: queues in memory.
//!
//! What a broker promises is in the documentation of [`Broker`]. This one keeps messages in a
//! process that may die, so it suits tests; leases, delays and deletion work as they must.
//!
//! ```sh
//! make guests
//! cargo run -p lovage --example own_broker
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use lovage::{
    Host, Stop,
    broker::{
        Broker, BrokerError, Depth, Disposal, Fault, Limits, Message, Outgoing, Queue, Receipt,
        Settlement, Turn, Unsettled,
    },
    config::Config,
    job::JobKey,
};
use tokio::{sync::Notify, time::Instant};

/// A message in a queue.
#[derive(Debug)]
struct Stored {
    message: Message,
    /// When it can be received: after its delay, or after its lease.
    ready_at: Instant,
    leased: bool,
}

/// Queues in memory. A queue exists as soon as it is named.
#[derive(Debug, Default)]
pub struct MemoryBroker {
    queues: Mutex<HashMap<Arc<str>, Vec<Stored>>>,
    sent: Notify,
}

impl MemoryBroker {
    /// Works on one queue, under the lock.
    fn with<T>(&self, queue: &Arc<str>, work: impl FnOnce(&mut Vec<Stored>) -> T) -> T {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        work(queues.entry(Arc::clone(queue)).or_default())
    }

    fn put(&self, queue: &Arc<str>, outgoing: &Outgoing) -> String {
        let id = uuid::Uuid::now_v7().to_string();
        let message = Message {
            id: id.clone(),
            receipt: Receipt(id.as_str().into()),
            body: outgoing.body.clone(),
            attributes: outgoing.attributes.clone(),
            group: outgoing.group.clone(),
            attempt: 0,
            sent_at: Some(Timestamp::now()),
            not_before: None,
            trace_header: outgoing.trace_header.clone(),
        };
        let ready_at = Instant::now() + outgoing.delay;
        self.with(queue, |all| all.push(Stored { message, ready_at, leased: false }));
        self.sent.notify_waiters();
        id
    }

    /// Leases what is ready. A new receipt names each delivery, so an old one is stale.
    fn take(&self, queue: &Arc<str>, max: usize, visibility: Duration) -> Vec<Message> {
        let now = Instant::now();
        self.with(queue, |all| {
            let ready = all.iter_mut().filter(|stored| stored.ready_at <= now).take(max);
            ready
                .map(|stored| {
                    stored.message.attempt += 1;
                    stored.message.receipt = Receipt(uuid::Uuid::now_v7().to_string().into());
                    (stored.ready_at, stored.leased) = (now + visibility, true);
                    stored.message.clone()
                })
                .collect()
        })
    }
}

/// The place of a delivery whose lease is held.
fn held(all: &[Stored], receipt: &Receipt) -> Result<usize, BrokerError> {
    all.iter()
        .position(|stored| stored.message.receipt == *receipt && stored.leased)
        .ok_or_else(|| BrokerError::new(Fault::Stale, "the lease has ended"))
}

#[async_trait]
impl Broker for MemoryBroker {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Limits {
        Limits {
            receive_batch: 10,
            settle_batch: 10,
            settle_concurrency: 1,
            settle_linger: Duration::ZERO,
            counts_waits: false,
            takes_turns: false,
            keeps_results: false,
            message_bytes: 1 << 20,
            max_lease: Duration::from_hours(12),
        }
    }

    async fn open(&self, name: &str) -> Result<Queue, BrokerError> {
        Ok(Queue {
            name: name.into(),
            address: name.into(),
            fifo: false,
            visibility_timeout: Duration::from_secs(30),
            redrive_target: None,
        })
    }

    async fn receive(
        &self,
        queue: &Queue,
        max: usize,
        wait: Duration,
        visibility: Duration,
        _turn: &Turn,
    ) -> Result<Vec<Message>, BrokerError> {
        let end = Instant::now() + wait;
        loop {
            let sent = self.sent.notified();
            let taken = self.take(&queue.address, max, visibility);
            if !taken.is_empty() || Instant::now() >= end {
                return Ok(taken);
            }
            // A delay or a lease may end without anything being sent.
            let look_again = (Instant::now() + Duration::from_millis(20)).min(end);
            let _ = tokio::time::timeout_at(look_again, sent).await;
        }
    }

    async fn extend(
        &self,
        queue: &Queue,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Vec<Result<(), BrokerError>> {
        let extend = |receipt| {
            self.with(&queue.address, |all| {
                let at = held(all, receipt)?;
                if let Some(stored) = all.get_mut(at) {
                    stored.ready_at = Instant::now() + visibility;
                }
                Ok(())
            })
        };
        receipts.iter().map(extend).collect()
    }

    async fn settle(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
    ) -> Vec<Result<(), Unsettled>> {
        let settle = |settlement: &Settlement| {
            let receipt = &settlement.message.receipt;
            let place = self.with(&queue.address, |all| held(all, receipt));
            let left = Box::new(settlement.disposal.clone());
            place.map_err(|error| Unsettled { error, at: None, left })?;
            match &settlement.disposal {
                // What follows is sent before the message is deleted, never after.
                Disposal::Finish { sends, .. } => {
                    for send in sends {
                        self.put(&send.to, &send.message);
                    }
                    self.with(&queue.address, |all| {
                        all.retain(|stored| stored.message.receipt != *receipt);
                    });
                }
                Disposal::Release { after, spent } => self.with(&queue.address, |all| {
                    if let Some(stored) = held(all, receipt).ok().and_then(|at| all.get_mut(at)) {
                        stored.message.attempt -= u32::from(!spent);
                        (stored.ready_at, stored.leased) = (Instant::now() + *after, false);
                    }
                }),
            }
            Ok(())
        };
        settlements.iter().map(settle).collect()
    }

    async fn send(&self, queue: &Queue, messages: &[Outgoing]) -> Vec<Result<String, BrokerError>> {
        messages.iter().map(|message| Ok(self.put(&queue.address, message))).collect()
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        let now = Instant::now();
        Ok(self.with(&queue.address, |all| {
            let count =
                |of: &dyn Fn(&Stored) -> bool| all.iter().filter(|it| of(it)).count() as u64;
            Depth {
                ready: count(&|it| it.ready_at <= now),
                delayed: count(&|it| it.ready_at > now && !it.leased),
                in_flight: count(&|it| it.ready_at > now && it.leased),
            }
        }))
    }

    async fn browse(&self, queue: &Queue, max: usize) -> Result<Vec<Message>, BrokerError> {
        let look =
            |all: &mut Vec<Stored>| all.iter().take(max).map(|it| it.message.clone()).collect();
        Ok(self.with(&queue.address, look))
    }

    async fn result(&self, _: JobKey<'_>, _: Duration) -> Result<Option<Bytes>, BrokerError> {
        Err(self.keeps_nothing())
    }
}

/// Sends one job to a queue in memory, and waits for its result on another.
pub async fn example(components: &str) -> anyhow::Result<String> {
    let config = Config::parse("[queues.jobs]\nresults = 'results'\n", "example")?;
    let broker = Arc::new(MemoryBroker::default());
    let host = Host::builder()
        .config(config)
        .components(components)
        .broker(broker.clone())
        .build()
        .await?;
    let stop = Stop::default();
    let worker = tokio::spawn({
        let stop = stop.clone();
        async move { host.serve(stop).await }
    });

    let jobs = broker.open("jobs").await?;
    let body = r#"{"id": "job-1", "task": "process_data", "data": 21}"#.into();
    for sent in broker.send(&jobs, &[Outgoing { body, ..Outgoing::default() }]).await {
        sent?;
    }
    let results = broker.open("results").await?;
    let (wait, lease) = (Duration::from_secs(20), Duration::from_secs(30));
    let received = broker.receive(&results, 1, wait, lease, &Turn::default()).await?;
    let result = received.first().map(|result| String::from_utf8_lossy(&result.body).into_owned());

    stop.drain.cancel();
    worker.await??;
    result.ok_or_else(|| anyhow::anyhow!("there is no result"))
}

#[allow(dead_code, reason = "the tests run `example` alone")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let result = example("guest-tasks/dist/process_data.wasm").await?;
    std::io::Write::write_all(&mut std::io::stdout(), format!("{result}\n").as_bytes())?;
    Ok(())
}
