//! Carrying out what becomes of messages, in batches, until the broker has taken it.
//!
//! What gathers while one batch is under way makes up the next, so batches grow with the load and
//! a lone job does not wait. A job has run when it comes here, and is not run again because its result
//! cannot be published:
//!
//! - What may pass (a queue that is away, missing or denied by the operator's mistake) is tried again
//!   with back-off for as long as the lease is held. What was accepted is not sent twice. A result that
//!   waits for its queue blocks that queue in the [`PublishGate`], so that no more jobs are taken whose
//!   results go there.
//! - What is refused for good is decided once, in another way ([`Fallback`]): a result becomes the
//!   failure that says so, a job whose next step cannot be sent has failed.
//! - When the lease ends first, the message comes again, and what is left to be done with it is kept
//!   for its next delivery here.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    lease::Lease,
    pipeline::{Concluded, Finished},
    publish_gate::{HeldResult, PublishGate},
    supervise::Supervisor,
};
use lovage_core::{
    backoff::Backoff,
    broker::{
        Broker, BrokerError, Disposal, Fault, Message, Queue, SendKind, Settlement, Unsettled,
    },
    events::{SettleFailed, SettleFailedAgain},
};

/// How settling behaves.
#[derive(Debug, Clone, Copy)]
pub struct SettleOptions {
    /// How often it is tried before a refusal that might pass is taken for final, and before a
    /// message that is put back is left to the end of its lease.
    pub tries: u32,
    /// The delays between tries.
    pub backoff: Backoff,
    /// How many settlements may be waiting or under way; jobs that end beyond that wait.
    pub backlog: usize,
    /// How many bytes they may hold together.
    pub backlog_bytes: usize,
}

/// Knows what to do where a settlement is refused, or its lease is lost.
#[async_trait]
pub trait Fallback: Send + Sync {
    /// What is to be done with a message in place of `disposal`, of which the send at `at` was
    /// refused; `None` where there is no other way than to try again. Where the job has failed for
    /// that, `finished` says so afterwards.
    async fn instead(
        &self,
        message: &Message,
        disposal: &Disposal,
        at: usize,
        error: &BrokerError,
        finished: &mut Option<Box<Finished>>,
    ) -> Option<Disposal>;

    /// Keeps what is left to be done with a message whose lease is lost, for its next delivery.
    fn keep(&self, message: &Message, disposal: Disposal, finished: Option<Box<Finished>>);
}

/// All that it takes to settle the messages of one queue.
#[derive(Clone)]
pub struct Settling {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// The queue that the messages came from.
    pub queue: Queue,
    /// How settling behaves.
    pub options: SettleOptions,
    /// What to do where a settlement is refused.
    pub fallback: Arc<dyn Fallback>,
    /// Where results that wait block their queues.
    pub gate: PublishGate,
    /// Who is told of a panic.
    pub supervisor: Supervisor,
    /// After this nothing is tried again.
    pub now: CancellationToken,
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

#[derive(Debug)]
struct Item {
    settlement: Settlement,
    rest: Rest,
}

/// What belongs to a settlement, beside what the broker is given.
#[derive(Debug)]
struct Rest {
    finished: Option<Box<Finished>>,
    /// How often it was tried as it is.
    tries: u32,
    /// Blocks the queue that does not take its result.
    held: Option<HeldResult>,
    // Held until the message is settled.
    lease: Lease,
    _room: [OwnedSemaphorePermit; 2],
    settled: Option<oneshot::Sender<bool>>,
}

struct Shared {
    settling: Settling,
    tasks: TaskTracker,
}

impl Settler {
    /// Starts settling on `tasks`; it ends when the last clone is dropped and all is settled.
    pub fn start(settling: Settling, tasks: &TaskTracker) -> Self {
        let (items, received) = mpsc::unbounded_channel();
        let options = settling.options;
        let supervisor = settling.supervisor.clone();
        let task = format!("settler of the queue `{}`", settling.queue.name);
        let shared = Arc::new(Shared { settling, tasks: tasks.clone() });
        tasks.spawn(async move { supervisor.run(&task, gather(shared, received)).await });
        // The semaphores bound the channel, and what has left the channel to be tried again.
        let most_bytes = kibibytes(options.backlog_bytes);
        let bytes = Arc::new(Semaphore::new(most_bytes as usize));
        Self { items, backlog: Arc::new(Semaphore::new(options.backlog)), bytes, most_bytes }
    }

    /// Hands over a message with what becomes of it; waits while too many are before it.
    pub async fn settle(&self, message: Arc<Message>, concluded: Concluded, lease: Lease) {
        self.hand_over(message, concluded, lease, None).await;
    }

    /// [`settle`](Self::settle), and waits until it is done. Whether the message is gone.
    pub async fn settle_now(
        &self,
        message: Arc<Message>,
        concluded: Concluded,
        lease: Lease,
    ) -> bool {
        let (settled, answer) = oneshot::channel();
        self.hand_over(message, concluded, lease, Some(settled)).await;
        answer.await.unwrap_or(false)
    }

    async fn hand_over(
        &self,
        message: Arc<Message>,
        Concluded { disposal, finished, .. }: Concluded,
        lease: Lease,
        settled: Option<oneshot::Sender<bool>>,
    ) {
        let settlement = Settlement { message, disposal };
        let weight = kibibytes(weight(&settlement)).min(self.most_bytes);
        // Closed never: the semaphores live as long as their settlers.
        let Ok(place) = Arc::clone(&self.backlog).acquire_owned().await else { return };
        let Ok(bytes) = Arc::clone(&self.bytes).acquire_many_owned(weight).await else { return };
        let room = [place, bytes];
        let rest = Rest { finished, tries: 0, held: None, lease, _room: room, settled };
        // The receiver ends only after the last sender.
        let _ = self.items.send(Item { settlement, rest });
    }
}

async fn gather(shared: Arc<Shared>, mut items: mpsc::UnboundedReceiver<Item>) {
    let limits = shared.settling.broker.limits();
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
        shared.carry_out(std::mem::take(&mut batch), Some(slot));
    }
}

/// Settles one batch; what fails is tried again, with the slot given up meanwhile.
async fn carry_out(
    shared: Arc<Shared>,
    mut batch: Vec<Item>,
    mut slot: Option<OwnedSemaphorePermit>,
) {
    let Settling { broker, queue, options, now, .. } = &shared.settling;
    for tries in 1.. {
        batch = shared.still_ours(batch).await;
        if batch.is_empty() {
            return;
        }
        for item in &batch {
            item.rest.lease.rest(matches!(item.settlement.disposal, Disposal::Release { .. }));
        }
        let (settlements, rests): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Item { settlement, rest }| (settlement, rest)).unzip();
        let answers = broker.settle(queue, &settlements).await;
        let mut failed = Vec::new();
        for ((Settlement { message, disposal }, rest), answer) in
            settlements.into_iter().zip(rests).zip(answers)
        {
            match answer {
                Ok(()) => rest.end(matches!(disposal, Disposal::Finish { .. })),
                Err(Unsettled { error, at, left }) => {
                    let settlement = Settlement { message, disposal: *left };
                    failed.push(Failed { item: Item { settlement, rest }, error, at });
                }
            }
        }
        drop(slot.take());
        if failed.is_empty() {
            return;
        }
        let Again { now: at_once, later } = shared.sort_failed(failed, tries).await;
        if !at_once.is_empty() {
            shared.carry_out(at_once, None);
        }
        if later.is_empty() {
            return;
        }
        let held = later.iter().find_map(|item| item.rest.held.as_ref());
        let another_accepted = held.map(HeldResult::another_accepted);
        let another_accepted = async {
            match &another_accepted {
                Some(told) => told.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = now.cancelled() => {}
            () = another_accepted => {}
            () = tokio::time::sleep(options.backoff.delay(tries)) => {}
        }
        batch = later;
    }
}

/// A settlement that was not carried out to its end.
struct Failed {
    /// With what is left to be done.
    item: Item,
    error: BrokerError,
    at: Option<usize>,
}

/// What to try again.
#[derive(Default)]
struct Again {
    /// At once, since it is to be done in another way.
    now: Vec<Item>,
    /// After a pause.
    later: Vec<Item>,
}

impl Rest {
    /// The broker has done it all; whether the message is gone.
    fn end(self, gone: bool) {
        if let Some(held) = &self.held {
            held.accepted();
        }
        if let Some(finished) = self.finished.filter(|_| gone) {
            finished.tell();
        }
        tell(self.settled, gone);
    }
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
    /// Carries out one batch on a task of its own.
    fn carry_out(self: &Arc<Self>, batch: Vec<Item>, slot: Option<OwnedSemaphorePermit>) {
        let (shared, supervisor) = (Arc::clone(self), self.settling.supervisor.clone());
        let task = format!("settler of the queue `{}`", self.settling.queue.name);
        // Boxed, since the future would otherwise contain itself.
        let batch: BoxFuture<'static, ()> = Box::pin(carry_out(shared, batch, slot));
        self.tasks.spawn(async move { supervisor.run(&task, batch).await });
    }

    /// Those of which the lease still holds: what was lost is somebody else's to publish.
    async fn still_ours(&self, batch: Vec<Item>) -> Vec<Item> {
        // Together: asked one after the other, later leases could end meanwhile.
        let held = join_all(batch.iter().map(|item| item.rest.lease.still_holds())).await;
        let mut ours = Vec::with_capacity(batch.len());
        for (item, held) in batch.into_iter().zip(held) {
            if held {
                ours.push(item);
            } else {
                self.lose(item);
            }
        }
        ours
    }

    /// The lease of a message is lost: it comes again, and what is left to be done with it is kept.
    fn lose(&self, item: Item) {
        let Item { settlement: Settlement { message, disposal }, rest } = item;
        let Rest { finished, settled, .. } = rest;
        if matches!(disposal, Disposal::Finish { .. }) {
            self.settling.fallback.keep(&message, disposal, finished);
        }
        tell(settled, false);
    }

    /// What to try again of what failed; the rest is told and left to the end of its lease.
    async fn sort_failed(&self, failed: Vec<Failed>, tries: u32) -> Again {
        let Settling { queue, options, now, .. } = &self.settling;
        let mut again = Again::default();
        let mut told = false;
        for Failed { mut item, error, at } in failed {
            item.rest.lease.rest(false);
            item.rest.tries += 1;
            let (lost, hurried) = (error.fault == Fault::Stale, now.is_cancelled());
            let finishes = matches!(item.settlement.disposal, Disposal::Finish { .. });
            let given_up = lost || (!finishes && (hurried || item.rest.tries >= options.tries));
            let retry_in = (!given_up).then(|| options.backoff.bound(tries));
            // One line tells of a batch that failed as one.
            if !std::mem::replace(&mut told, true) {
                let queue = &*queue.name;
                // What is tried for long is told less and less often.
                if tries <= options.tries || tries.is_power_of_two() || given_up {
                    SettleFailed { queue, error: &error, tries, retry_in }.emit();
                } else {
                    SettleFailedAgain { queue, error: &error, tries }.emit();
                }
            }
            if lost {
                self.lose(item);
            } else if given_up {
                tell(item.rest.settled, false);
            } else if !finishes {
                again.later.push(item);
            } else if hurried {
                item.settlement.disposal = self.give_back(&item.settlement.disposal, &error);
                again.later.push(item);
            } else if self.decide(&mut item, at, &error).await {
                again.now.push(item);
            } else {
                self.hold(&mut item, at, &error);
                again.later.push(item);
            }
        }
        again
    }

    /// Settles in another way what is refused for good. False where there is none, or it may pass.
    async fn decide(&self, item: &mut Item, at: Option<usize>, error: &BrokerError) -> bool {
        let Settling { fallback, options, .. } = &self.settling;
        let Some(at) = at else { return false };
        // What may pass is tried as often as was agreed, the rest not even twice.
        let refused_often = error.is_refusal() && item.rest.tries >= options.tries;
        if !error.is_final() && !refused_often {
            return false;
        }
        let Settlement { message, disposal } = &item.settlement;
        match fallback.instead(message, disposal, at, error, &mut item.rest.finished).await {
            Some(instead) => {
                item.settlement.disposal = instead;
                item.rest.tries = 0;
                item.rest.held = None;
                true
            }
            None => false,
        }
    }

    /// Waits with a settlement, and has its queue of results blocked meanwhile, where it is for that.
    fn hold(&self, item: &mut Item, at: Option<usize>, error: &BrokerError) {
        let Disposal::Finish { sends, .. } = &item.settlement.disposal else { return };
        let Some(send) = at.and_then(|at| sends.get(at)) else { return };
        if let Some(held) = item.rest.held.as_ref().filter(|held| *held.queue() == send.to) {
            held.refused_again(error);
        } else if send.kind == SendKind::Result
            && !error.is_final()
            && (error.is_refusal() || item.rest.tries > 1)
        {
            // One failure that the next try may well mend blocks nobody, and neither does a result that
            // is refused for what it is: another one would be taken.
            item.rest.held = Some(self.settling.gate.hold(&send.to, error));
        }
    }

    /// The end of a settlement that the worker has no time for any more: the message goes back, to be
    /// run by somebody else at once. That its result was not taken is not the job's fault, and so
    /// spends none of its attempts. What is refused for what it is spends them, or it would be tried
    /// for ever; and of a message that all was sent of, which cannot be deleted, no copy may be made.
    fn give_back(&self, disposal: &Disposal, error: &BrokerError) -> Disposal {
        let all_sent =
            matches!(disposal, Disposal::Finish { result: None, sends } if sends.is_empty());
        let cap = self.settling.options.backoff.cap.min(Duration::from_secs(1));
        let after = (cap / 2).mul_f64(1.0 + fastrand::f64());
        Disposal::Release { after, spent: all_sent || error.is_final() }
    }
}

fn tell(settled: Option<oneshot::Sender<bool>>, done: bool) {
    if let Some(settled) = settled {
        let _ = settled.send(done);
    }
}
