//! Carrying out what becomes of messages, in batches, until the broker has taken it.
//!
//! What gathers while one batch is under way makes up the next, so batches grow with the load and
//! a lone job does not wait. A failed publish leaves its message where it is: it is tried again
//! while the lease is held, and what was accepted is not sent twice. What is refused for good is
//! settled in another way, where there is one ([`Recourse`]). After that the message is put back,
//! without an attempt being spent: a queue that is away is not the job's fault.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::{Broker, BrokerError, Disposal, Fault, Message, Queue, Settlement, Unsettled},
    events::SettleFailed,
    lease::Lease,
    retry::Backoff,
};

/// How settling behaves.
#[derive(Debug, Clone, Copy)]
pub struct SettleOptions {
    /// How often a settlement is tried before its message is put back.
    pub tries: u32,
    /// The delays between tries.
    pub backoff: Backoff,
    /// How many settlements may be waiting or under way; jobs that end beyond that wait.
    pub backlog: usize,
    /// How many bytes they may hold together.
    pub backlog_bytes: usize,
}

/// Finds another way to settle what is refused for good.
#[async_trait]
pub trait Recourse: Send + Sync {
    /// What is to be done with a message in place of `disposal`; `None` where there is no other
    /// way than to put it back.
    async fn instead(&self, message: &Message, disposal: &Disposal) -> Option<Disposal>;
}

/// Settles the messages of one queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settler {
    items: mpsc::UnboundedSender<Item>,
    backlog: Arc<Semaphore>,
    /// In KiB.
    bytes: Arc<Semaphore>,
    most_bytes: u32,
}

struct Item {
    settlement: Settlement,
    // Held until the message is settled.
    lease: Lease,
    room: [OwnedSemaphorePermit; 2],
    settled: Option<oneshot::Sender<bool>>,
}

struct Shared {
    broker: Arc<dyn Broker>,
    queue: Queue,
    options: SettleOptions,
    recourse: Arc<dyn Recourse>,
    now: CancellationToken,
}

impl Settler {
    /// Starts settling on `tasks`; it ends when the last clone is dropped and all is settled.
    /// After `now` nothing is tried again.
    pub fn start(
        broker: Arc<dyn Broker>,
        queue: Queue,
        options: SettleOptions,
        recourse: Arc<dyn Recourse>,
        tasks: &TaskTracker,
        now: CancellationToken,
    ) -> Self {
        let (items, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { broker, queue, options, recourse, now });
        tasks.spawn(gather(shared, received, tasks.clone()));
        // The semaphores bound the channel, and what has left the channel to be tried again.
        let most_bytes = kibibytes(options.backlog_bytes);
        let bytes = Arc::new(Semaphore::new(most_bytes as usize));
        Self { items, backlog: Arc::new(Semaphore::new(options.backlog)), bytes, most_bytes }
    }

    /// Hands over a message with what becomes of it; waits while too many are before it.
    pub async fn settle(&self, message: Arc<Message>, disposal: Disposal, lease: Lease) {
        self.hand_over(message, disposal, lease, None).await;
    }

    /// [`settle`](Self::settle), and waits until it is done. Whether the message is gone.
    pub async fn settle_now(
        &self,
        message: Arc<Message>,
        disposal: Disposal,
        lease: Lease,
    ) -> bool {
        let (settled, answer) = oneshot::channel();
        self.hand_over(message, disposal, lease, Some(settled)).await;
        answer.await.unwrap_or(false)
    }

    async fn hand_over(
        &self,
        message: Arc<Message>,
        disposal: Disposal,
        lease: Lease,
        settled: Option<oneshot::Sender<bool>>,
    ) {
        let settlement = Settlement { message, disposal };
        let weight = kibibytes(weight(&settlement)).min(self.most_bytes);
        // Closed never: the semaphores live as long as their settlers.
        let Ok(place) = Arc::clone(&self.backlog).acquire_owned().await else { return };
        let Ok(bytes) = Arc::clone(&self.bytes).acquire_many_owned(weight).await else { return };
        let item = Item { settlement, lease, room: [place, bytes], settled };
        // The receiver ends only after the last sender.
        let _ = self.items.send(item);
    }
}

async fn gather(shared: Arc<Shared>, mut items: mpsc::UnboundedReceiver<Item>, tasks: TaskTracker) {
    let limits = shared.broker.limits();
    let slots = Arc::new(Semaphore::new(limits.settle_concurrency.max(1)));
    let mut batch = Vec::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        if items.recv_many(&mut batch, limits.settle_batch.max(1)).await == 0 {
            return;
        }
        if batch.len() < limits.settle_batch && !limits.settle_linger.is_zero() {
            // A request costs more than a moment: let it fill.
            let until = tokio::time::Instant::now() + limits.settle_linger;
            while batch.len() < limits.settle_batch
                && let Ok(Some(item)) = tokio::time::timeout_at(until, items.recv()).await
            {
                batch.push(item);
            }
        }
        let batch = std::mem::take(&mut batch);
        tasks.spawn(carry_out(Arc::clone(&shared), batch, slot));
    }
}

/// Settles one batch; what fails is tried again, with the slot given up meanwhile.
async fn carry_out(shared: Arc<Shared>, batch: Vec<Item>, slot: OwnedSemaphorePermit) {
    let mut slot = Some(slot);
    let mut batch = batch;
    for tries in 1.. {
        batch = still_ours(batch).await;
        if batch.is_empty() {
            return;
        }
        for item in &batch {
            item.lease.rest(matches!(item.settlement.disposal, Disposal::Release { .. }));
        }
        let (settlements, rest): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|item| (item.settlement, (item.lease, item.room, item.settled)))
            .unzip();
        let answers = shared.broker.settle(&shared.queue, &settlements).await;
        let mut failed = Vec::new();
        let mut errors = Vec::new();
        for ((Settlement { message, disposal }, (lease, room, settled)), answer) in
            settlements.into_iter().zip(rest).zip(answers)
        {
            match answer {
                Ok(()) => tell(settled, matches!(disposal, Disposal::Finish { .. })),
                Err(Unsettled { error, left, .. }) => {
                    lease.rest(false);
                    let settlement = Settlement { message, disposal: *left };
                    failed.push(Item { settlement, lease, room, settled });
                    errors.push(error);
                }
            }
        }
        drop(slot.take());
        let again = shared.sort_failed(failed, &errors, tries).await;
        if again.is_empty() {
            return;
        }
        let pause = shared.options.backoff.delay(tries);
        tokio::select! {
            () = shared.now.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        batch = again;
    }
}

/// Those of which the lease still holds: what was lost is somebody else's to publish.
async fn still_ours(batch: Vec<Item>) -> Vec<Item> {
    let mut ours = Vec::with_capacity(batch.len());
    for item in batch {
        if item.lease.still_holds().await {
            ours.push(item);
        } else {
            tell(item.settled, false);
        }
    }
    ours
}

/// How many bytes a settlement holds, about.
fn weight(Settlement { message, disposal }: &Settlement) -> usize {
    let sent = match disposal {
        Disposal::Finish { result, sends } => {
            let kept = result.as_ref().map_or(0, |kept| kept.envelope.len());
            kept + sends.iter().map(|send| send.message.body.len()).sum::<usize>()
        }
        Disposal::Release { .. } => 0,
    };
    message.body.len() + sent
}

fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}

impl Shared {
    /// What to try again of what failed; the rest is told and left to the end of its lease.
    async fn sort_failed(
        &self,
        failed: Vec<Item>,
        errors: &[BrokerError],
        tries: u32,
    ) -> Vec<Item> {
        let mut again = Vec::new();
        for (index, (mut item, error)) in failed.into_iter().zip(errors).enumerate() {
            let lost = error.fault == Fault::Stale;
            let releases = matches!(item.settlement.disposal, Disposal::Release { .. });
            let spent_out = tries >= self.options.tries || self.now.is_cancelled();
            let given_up = lost || (releases && spent_out);
            let retry_in = (!given_up).then(|| self.options.backoff.bound(tries));
            // One line tells of a batch that failed as one.
            if index == 0 {
                SettleFailed { queue: &self.queue.name, error, tries, retry_in }.emit();
            }
            if retry_in.is_none() {
                tell(item.settled, false);
                continue;
            }
            // What may pass is tried as often as was agreed, the rest not even twice.
            if spent_out || !error.fault.may_pass() {
                item.settlement.disposal = self.otherwise(&item.settlement, error).await;
            }
            again.push(item);
        }
        again
    }

    /// What becomes of a message that cannot be settled as it was to be.
    async fn otherwise(&self, settlement: &Settlement, error: &BrokerError) -> Disposal {
        let Settlement { message, disposal } = settlement;
        let all_sent =
            matches!(disposal, Disposal::Finish { result: None, sends } if sends.is_empty());
        if error.fault != Fault::Unavailable
            && !all_sent
            && !self.now.is_cancelled()
            && let Some(instead) = self.recourse.instead(message, disposal).await
        {
            return instead;
        }
        // In a hurry somebody else may try his luck at once.
        let cap =
            if self.now.is_cancelled() { Duration::from_secs(1) } else { self.options.backoff.cap };
        let after = (cap / 2).mul_f64(1.0 + fastrand::f64());
        // Nobody takes the result: the message goes back, to be run again later. A queue that is
        // away is not the job's fault, and so spends none of its attempts. What is refused for
        // what it is spends them, or it would be tried for ever; and of a message that all was
        // sent of, which cannot be deleted, no copy may be made.
        let spent = all_sent || !error.fault.may_pass();
        Disposal::Release { after, spent }
    }
}

fn tell(settled: Option<oneshot::Sender<bool>>, done: bool) {
    if let Some(settled) = settled {
        let _ = settled.send(done);
    }
}
