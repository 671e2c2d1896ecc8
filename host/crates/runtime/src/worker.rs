//! The long-lived worker: takes messages, keeps their leases, runs them, settles them.
//!
//! A permit comes before a message, so that none is ever held without a place to run it. The
//! loops that receive end when the worker is told to stop, and never by an error: they say what
//! is wrong, back off and go on.

// Over 500 lines: the loops of a worker share its permits and leases.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    lease::{Lease, Leases},
    pipeline::{Concluded, Finished, Pipeline, slot},
    routes::Source,
    settle::{Fallback, SettleOptions, Settler, Settling},
    supervise::{Panicked, Supervisor},
    tenancy::{Place, Refused},
};
use lovage_config::WorkerConfig;
use lovage_core::{
    backoff::Backoff,
    broker::{Broker, BrokerError, Disposal, Message, Queue, Turn},
    events::{
        HostPanicked, MessagesReceived, ReceiveFailed, TenantHeldBack, WorkerDraining,
        WorkerStopped,
    },
    group_id,
};

/// How long giving messages back may take once nothing else is waited for.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// How long a queue may wait with the last permit, when other queues may want it.
const LAST_PERMIT_WAIT: Duration = Duration::from_secs(1);

/// How long a receive may be under way to the broker: by so much later than here its wait may
/// begin there.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// How long to wait, where messages may be others', before more are received: long enough to see
/// whose they are.
const LOOK_AT: Duration = Duration::from_millis(5);

/// How many bytes of messages and results may wait to be settled: room for many small jobs, and for
/// dozens of the largest.
const BACKLOG_BYTES: usize = 256 << 20;

/// The two ways to stop a worker.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take no more jobs; let running ones finish, up to the drain timeout.
    pub drain: CancellationToken,
    /// Cut running jobs short and give their messages back. Implies `drain`.
    pub now: CancellationToken,
    panicked: Arc<OnceLock<Panicked>>,
}

impl Stop {
    /// Who watches over the tasks that the worker needs: a panic in one of them drains it.
    pub fn supervisor(&self) -> Supervisor {
        Supervisor::new(self.drain.clone(), Arc::clone(&self.panicked))
    }
}

/// A worker over one broker.
#[derive(Debug)]
pub struct Worker {
    broker: Arc<dyn Broker>,
    pipeline: Arc<Pipeline>,
    config: WorkerConfig,
    running: Arc<AtomicUsize>,
}

/// What the pipeline does where a settlement of a source's is refused, or its lease is lost.
struct SourceFallback {
    pipeline: Arc<Pipeline>,
    source: Arc<Source>,
}

#[async_trait]
impl Fallback for SourceFallback {
    async fn instead(
        &self,
        message: &Message,
        disposal: &Disposal,
        at: usize,
        error: &BrokerError,
        finished: &mut Option<Box<Finished>>,
    ) -> Option<Disposal> {
        self.pipeline.instead(&self.source, message, disposal, at, error, finished).await
    }

    fn keep(&self, message: &Message, disposal: Disposal, finished: Option<Box<Finished>>) {
        self.pipeline.keep(&self.source, message, disposal, finished);
    }
}

/// What the loops of one queue share.
struct Intake {
    worker: Arc<Worker>,
    source: Arc<Source>,
    leases: Arc<Leases>,
    settler: Settler,
    /// All queues' permits together.
    permits: Arc<Semaphore>,
    /// This queue's own.
    own_permits: Arc<Semaphore>,
    /// True if other queues wait for the same permits.
    shares_permits: bool,
    receivers: AtomicUsize,
    /// When the receives under way end. One that is dropped stays: the broker may not know of it,
    /// and lease messages for nobody until then.
    receives: Mutex<Vec<Instant>>,
    tasks: TaskTracker,
    running: Arc<AtomicUsize>,
    given_back: Arc<AtomicUsize>,
    stop: Stop,
}

/// A message with all that it takes to run it.
type Held = (Arc<Message>, Lease, Permit);

/// A place to run one message.
struct Permit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Worker {
    /// A worker that has yet to be run.
    pub fn new(
        broker: Arc<dyn Broker>,
        pipeline: Arc<Pipeline>,
        config: WorkerConfig,
    ) -> Arc<Self> {
        Arc::new(Self { broker, pipeline, config, running: Arc::default() })
    }

    /// Jobs that run now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Works until told to stop. `sources` come with the number of their jobs at once, if that is
    /// less than the worker's.
    ///
    /// # Errors
    ///
    /// A task that the worker needs panicked, under [`Stop::supervisor`], and the worker was drained
    /// for that.
    pub async fn run(
        self: Arc<Self>,
        sources: Vec<(Source, Option<usize>)>,
        stop: Stop,
    ) -> Result<(), Panicked> {
        let supervisor = stop.supervisor();
        let permits = Arc::new(Semaphore::new(self.config.concurrency.get()));
        let running = Arc::clone(&self.running);
        let given_back = Arc::new(AtomicUsize::new(0));
        let receivers = TaskTracker::new();
        let jobs = TaskTracker::new();
        let settling = TaskTracker::new();
        let shares_permits = sources.len() > 1;
        let max_lease = Duration::from_millis(self.config.max_lease_ms.get())
            .min(self.broker.limits().max_lease);
        let mut keepers = tokio::task::JoinSet::new();
        let watch = supervisor.clone();
        keepers.spawn(async move {
            watch.keep_running("watch over the wall clock", lovage_core::clock::watch).await;
        });
        for dependency in self.pipeline.dependencies() {
            // Before anything is received: what jobs need counts as away until it has answered.
            dependency.doubt_until_asked();
            let watch = supervisor.clone();
            let task = format!("monitor of the dependency `{}`", dependency.name());
            keepers.spawn(async move {
                watch.keep_running(&task, || dependency.monitor()).await;
            });
        }
        for (mut source, concurrency) in sources {
            // The first lease, too, is no longer than the longest that is allowed.
            source.visibility = source.visibility.min(max_lease);
            let source = Arc::new(source);
            // One name for one queue in logs and metrics: that of the configuration.
            let queue = Queue { name: Arc::clone(&source.name), ..source.queue.clone() };
            let leases =
                Leases::new(Arc::clone(&self.broker), queue.clone(), source.visibility, max_lease);
            let (keeper, watch) = (Arc::clone(&leases), supervisor.clone());
            let task = format!("lease keeper of the queue `{}`", source.name);
            keepers.spawn(async move { watch.keep_running(&task, || keeper.keep()).await });
            let settler = Settler::start(
                Settling {
                    broker: Arc::clone(&self.broker),
                    queue,
                    options: self.settle_options(),
                    fallback: Arc::new(SourceFallback {
                        pipeline: Arc::clone(&self.pipeline),
                        source: Arc::clone(&source),
                    }),
                    gate: self.pipeline.publish_gate().clone(),
                    supervisor: supervisor.clone(),
                    now: stop.now.clone(),
                },
                &settling,
            );
            let own = concurrency.unwrap_or_else(|| self.config.concurrency.get());
            let intake = Arc::new(Intake {
                worker: Arc::clone(&self),
                source,
                leases,
                settler,
                permits: Arc::clone(&permits),
                own_permits: Arc::new(Semaphore::new(own)),
                shares_permits,
                receivers: AtomicUsize::new(1),
                receives: Mutex::default(),
                tasks: jobs.clone(),
                running: Arc::clone(&running),
                given_back: Arc::clone(&given_back),
                stop: stop.clone(),
            });
            intake.start_receiver(&receivers, false);
        }
        tokio::select! {
            () = stop.drain.cancelled() => {}
            () = stop.now.cancelled() => stop.drain.cancel(),
        }
        let timeout = Duration::from_millis(self.config.drain_timeout_ms);
        WorkerDraining { running: running.load(Ordering::Relaxed), timeout }.emit();
        let drained = async {
            // In this order: each may still give work to the next.
            for tracker in [&receivers, &jobs, &settling] {
                tracker.close();
                tracker.wait().await;
            }
        };
        tokio::pin!(drained);
        let in_time = tokio::select! {
            () = &mut drained => true,
            () = tokio::time::sleep(timeout) => false,
            () = stop.now.cancelled() => false,
        };
        if !in_time {
            stop.now.cancel();
            // What cannot be given back by then comes again at the end of its lease.
            let _ = tokio::time::timeout(GIVE_BACK, drained).await;
        }
        WorkerStopped { given_back: given_back.load(Ordering::Relaxed) }.emit();
        supervisor.verdict()
    }

    fn error_backoff(&self) -> Backoff {
        Backoff {
            base: Duration::from_millis(self.config.error_backoff_base_ms.get()),
            cap: Duration::from_millis(self.config.error_backoff_cap_ms.get()),
        }
    }

    fn settle_options(&self) -> SettleOptions {
        let limits = self.broker.limits();
        SettleOptions {
            tries: self.config.publish_attempts.get(),
            backoff: self.error_backoff(),
            backlog: self.config.concurrency.get()
                + 2 * limits.settle_batch * limits.settle_concurrency,
            backlog_bytes: BACKLOG_BYTES,
        }
    }
}

impl Intake {
    /// Starts a receiver on `receivers`.
    fn start_receiver(self: &Arc<Self>, receivers: &TaskTracker, extra: bool) {
        let (supervisor, task) =
            (self.stop.supervisor(), format!("receiver of the queue `{}`", self.source.name));
        // Boxed, since the future would otherwise contain itself.
        let receiver: futures_util::future::BoxFuture<'static, ()> =
            Box::pin(Arc::clone(self).receive(receivers.clone(), extra));
        receivers.spawn(async move { supervisor.run(&task, receiver).await });
    }

    /// Receives until told to stop; an extra receiver only while there is plenty to receive.
    async fn receive(self: Arc<Self>, receivers: TaskTracker, extra: bool) {
        let mut plenty = extra;
        let mut failures = 0;
        let leaves = self.worker.pipeline.may_leave(&self.source);
        loop {
            if leaves {
                self.give_up_turn().await;
            }
            let Some(permits) = self.permits(plenty).await else { break };
            let asked = permits.len();
            match self.receive_once(asked).await {
                Ok(messages) => {
                    failures = 0;
                    plenty = messages.len() == asked;
                    let some = !messages.is_empty();
                    self.take(messages, permits);
                    if leaves && some {
                        // It turns out whether they are others'.
                        tokio::time::sleep(LOOK_AT).await;
                    }
                }
                Err(error) => {
                    drop(permits);
                    failures += 1;
                    plenty = false;
                    self.pause(&error, failures).await;
                }
            }
            if plenty {
                self.call_for_help(&receivers);
            } else if extra {
                break;
            }
        }
        self.receivers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits while other workers of the queue are to have what was left for them.
    async fn give_up_turn(&self) {
        while let Some(wait) = self.worker.pipeline.turn_given_up(&self.source.name) {
            tokio::select! {
                () = self.stop.drain.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts another receiver, where there may be one.
    fn call_for_help(self: &Arc<Self>, receivers: &TaskTracker) {
        let most = self.worker.config.receivers.get();
        let more = |now: usize| {
            (now < most && self.own_permits.available_permits() > 0).then_some(now + 1)
        };
        if self.receivers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            self.start_receiver(receivers, true);
        }
    }

    /// Places for one message, or for as many as a receive may bring; `None` when stopping.
    async fn permits(&self, plenty: bool) -> Option<Vec<Permit>> {
        let first = async {
            let pipeline = &self.worker.pipeline;
            loop {
                self.publishing_works().await;
                // No message is taken that could only be put back.
                pipeline.until_ready(&self.source).await;
                pipeline.health().admit().await;
                let own = Arc::clone(&self.own_permits).acquire_owned().await.ok()?;
                let all = Arc::clone(&self.permits).acquire_owned().await.ok()?;
                // It may have been a long wait.
                if pipeline.is_ready(&self.source) {
                    return Some(Permit { _all: all, _own: own });
                }
            }
        };
        let first = tokio::select! {
            biased;
            () = self.stop.drain.cancelled() => None,
            permit = first => permit,
        }?;
        let mut permits = vec![first];
        // An idle queue asks with one permit, and leaves the others to queues that have messages.
        if plenty || !self.shares_permits {
            let most = self.worker.broker.limits().receive_batch;
            while permits.len() < most
                && let Ok(own) = Arc::clone(&self.own_permits).try_acquire_owned()
                && let Ok(all) = Arc::clone(&self.permits).try_acquire_owned()
            {
                permits.push(Permit { _all: all, _own: own });
            }
        }
        Some(permits)
    }

    /// Waits until results can be published: what would be received now could only be held.
    async fn publishing_works(&self) {
        if let Some(results) = &self.source.results {
            self.worker.pipeline.publish_gate().opens(&results.address).await;
        }
    }

    async fn receive_once(&self, max: usize) -> Result<Vec<Message>, BrokerError> {
        let broker = &self.worker.broker;
        // Several permits are not sat on while a queue has nothing, if other queues want them.
        let wait = Duration::from_millis(self.worker.config.receive_wait_ms);
        let wait = match () {
            () if !self.shares_permits => wait,
            () if max > 1 => Duration::ZERO,
            // Nor is the last one for long.
            () if self.permits.available_permits() == 0 => wait.min(LAST_PERMIT_WAIT),
            () => wait,
        };
        let end = Instant::now() + wait + ON_ITS_WAY;
        self.receives().push(end);
        // A FIFO queue's groups are no tenants, and SQS has an order of its own.
        let outlook = (broker.limits().takes_turns && !self.source.queue.fifo)
            .then(|| self.worker.pipeline.tenancy().outlook());
        let stale = outlook.as_ref().map(|outlook| outlook.stale.clone()).unwrap_or_default();
        let until = outlook.as_ref().and_then(|outlook| outlook.until);
        let wait = until.map_or(wait, |until| {
            wait.min(until.saturating_duration_since(std::time::Instant::now()))
        });
        let everybody = Turn::default();
        let turn = outlook.as_ref().map_or(&everybody, |outlook| &outlook.turn);
        let receive = broker.receive(&self.source.queue, max, wait, self.source.visibility, turn);
        let receive = async {
            let messages = receive.await;
            let mut receives = self.receives();
            if let Some(ours) = receives.iter().position(|other| *other == end) {
                receives.swap_remove(ours);
            }
            messages
        };
        tokio::pin!(receive);
        // A receive under way is never dropped but in a hurry: what it brings would be stranded.
        tokio::select! {
            biased;
            messages = &mut receive => return messages,
            () = self.stop.drain.cancelled() => broker.interrupt(),
            // A tenant that was left alone has room again: ask anew.
            () = stale.cancelled() => broker.interrupt(),
        }
        tokio::select! {
            biased;
            messages = &mut receive => messages,
            () = self.stop.now.cancelled() => Ok(Vec::new()),
        }
    }

    fn receives(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        // A panic elsewhere leaves the list whole: each change to it is a single call.
        self.receives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts back a message that was not run to its end, for somebody else to have at once. In a
    /// hurry that is when no receive of ours that was dropped can catch it any more.
    fn give_back(&self) -> Concluded {
        self.given_back.fetch_add(1, Ordering::Relaxed);
        let dropped =
            self.receives().iter().max().filter(|_| self.stop.now.is_cancelled()).copied();
        let after = dropped.map(|end| end.saturating_duration_since(Instant::now()));
        Concluded::released(after.unwrap_or_default(), false, None)
    }

    async fn pause(&self, error: &BrokerError, failures: u32) {
        let backoff = self.worker.error_backoff();
        // At least half of the bound: a broker in trouble must not be asked in a tight loop.
        let retry_in = backoff.delay(failures).max(backoff.bound(failures) / 2);
        ReceiveFailed { queue: &self.source.name, error, failures, retry_in }.emit();
        tokio::select! {
            () = self.stop.drain.cancelled() => {}
            () = tokio::time::sleep(retry_in) => {}
        }
    }

    fn take(self: &Arc<Self>, messages: Vec<Message>, permits: Vec<Permit>) {
        if messages.is_empty() {
            return;
        }
        MessagesReceived { queue: &self.source.name, count: messages.len() }.emit();
        let held = messages.into_iter().map(|message| {
            let lease = self.leases.hold(message.receipt.clone());
            (Arc::new(message), lease)
        });
        if !self.source.queue.fifo {
            for ((message, lease), permit) in held.zip(permits) {
                let intake = Arc::clone(self);
                self.tasks.spawn(async move {
                    let ended = slot::within(permit, intake.run(&message, &lease)).await;
                    if let Some((concluded, _place)) = ended {
                        intake.settler.settle(message, concluded, lease).await;
                    }
                });
            }
            return;
        }
        let mut groups: BTreeMap<Option<String>, Vec<Held>> = BTreeMap::new();
        for ((message, lease), permit) in held.zip(permits) {
            groups.entry(message.group.clone()).or_default().push((message, lease, permit));
        }
        for group in groups.into_values() {
            self.tasks.spawn(Arc::clone(self).run_in_order(group));
        }
    }

    /// Runs messages of one FIFO group one after the other. After one that is not gone, the rest
    /// goes back unrun: they must not overtake it.
    async fn run_in_order(self: Arc<Self>, group: Vec<Held>) {
        let mut in_order = true;
        for (message, lease, permit) in group {
            let concluded = if in_order {
                slot::within(permit, self.run(&message, &lease)).await
            } else {
                Some((self.give_back(), None))
            };
            in_order = match concluded {
                Some((concluded, _place)) => {
                    self.settler.settle_now(message, concluded, lease).await && in_order
                }
                None => false,
            };
        }
    }

    /// What becomes of a message, with its tenant's place, which is held until it is settled;
    /// `None` where it is no longer ours.
    async fn run(&self, message: &Message, lease: &Lease) -> Option<(Concluded, Option<Place>)> {
        // Received, but not begun: somebody else can have it right now.
        if self.stop.drain.is_cancelled() {
            return Some((self.give_back(), None));
        }
        let decoded = self.worker.pipeline.decode(&self.source, message);
        let place = match self.worker.pipeline.tenancy().enter(decoded.tenant()) {
            Ok(place) => place,
            Err(refused) => {
                return Some((self.hold_back(message, decoded.tenant(), refused), None));
            }
        };
        self.running.fetch_add(1, Ordering::Relaxed);
        let _running = Running(&self.running);
        let process =
            AssertUnwindSafe(self.worker.pipeline.work(&self.source, message, decoded, None));
        let concluded = tokio::select! {
            biased;
            concluded = process.catch_unwind() => concluded.unwrap_or_else(|_| {
                HostPanicked { queue: &self.source.name }.emit();
                Concluded::released(self.worker.error_backoff().cap, true, None)
            }),
            () = lease.lost() => return None,
            () = self.stop.now.cancelled() => self.give_back(),
        };
        if lease.still_holds().await {
            return Some((concluded, place));
        }
        self.worker.pipeline.keep_unsettled(&self.source, message, concluded);
        None
    }

    /// Puts back a message whose tenant has as much as it may; no attempt is spent.
    fn hold_back(&self, message: &Message, tenant: &str, refused: Refused) -> Concluded {
        let Refused { want, mut after, tell } = refused;
        // It is not asked for again until there is room: so it need not wait for longer than that.
        let is_left_alone = self.worker.broker.limits().takes_turns
            && !self.source.queue.fifo
            && message.group.as_deref().is_some_and(|it| group_id::is_of_tenant(it, tenant));
        if is_left_alone {
            after = Duration::ZERO;
        }
        let known = self.worker.pipeline.tenancy().knows(tenant);
        let queue = &self.source.name;
        TenantHeldBack { queue, tenant, known, want: want.as_str(), after, tell }.emit();
        Concluded::released(after, false, None)
    }
}

/// Counts a running job for as long as it lives.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
