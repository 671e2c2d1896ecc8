//! Where attempts go on that need more than a moment of CPU time.
//!
//! Most attempts are done in some microseconds. They run where they were begun, on the threads
//! of the executor that also receives and settles messages. An attempt that has used more than
//! [`MOMENT`] is a *hog*: it goes on on threads of its own, which have a lower priority, so that
//! the kernel puts the executor's threads before them at once, however many hogs there are. The
//! hogs themselves take turns, from one tick of the epoch to the next, by a [`FairQueue`] over
//! their tenants.
//!
//! So a quick job waits neither for another tenant's long ones nor for its own tenant's, and pays
//! nothing for it: no hand-over, no lock. What hogs cost others beyond that is held down in two
//! ways. A kind of job (a tenant's jobs for a task) that was a hog the last time, or not quite brief
//! two times on end, begins among the hogs the next time. And while others wait for their turn, a tenant that has
//! had more than its share by quick jobs begins those among the hogs, too.
//!
//! It is an executor of the simplest form. A hog is polled by one thread at a time, within the
//! context of the runtime that it came from, so that its timers and sockets stay there; waking it
//! puts it back into the queue.

// Over 500 lines: the executor, its threads and their hand-over are one state machine.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::Instrument;
use tracing::instrument::WithSubscriber;

use super::cpu::Meter;
use lovage_core::fair::FairQueue;
use lovage_platform::flushes::FLUSHES;

/// How much CPU time an attempt may use before it is a hog.
const MOMENT: Duration = Duration::from_millis(2);

/// How much it may have used in the end for the next of its kind to begin where quick ones do. Less
/// than [`MOMENT`], since a crowd of almost-hogs would keep others waiting, too; and more than
/// what a hand-over to another thread costs, by far. Once is no sign of that: on a machine whose
/// memory is fought over a quick job takes as long now and then, and the next one would wait for
/// those who fight.
const BRIEF: Duration = Duration::from_micros(500);

/// How much more CPU time than others a tenant may have had by quick jobs, while others wait,
/// before these have to wait, too; for a weight of 1.
const CREDIT: Duration = Duration::from_millis(10);

/// By how much the hogs' threads are nicer than the others: about a tenth of the weight, so that
/// they do not starve where something else keeps the machine busy.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// The most kinds of jobs that are remembered to take long; beyond it, all are found out anew.
const KINDS: usize = 4096;

/// A future that may be handed from thread to thread.
pub(super) type Movable<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whose attempt it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub tenant: &'a str,
    /// The tenant's part of the CPU, beside that of others.
    pub weight: u32,
    pub task: &'a str,
}

/// The threads for hogs, and the queue before them. The threads start with the first hog, and
/// end when this is dropped.
#[derive(Debug)]
pub(super) struct CpuExecutor {
    shared: Arc<Shared>,
    threads: usize,
    /// How many could be started.
    started: OnceLock<usize>,
    kinds: Mutex<HashMap<u64, Manner>>,
    known: AtomicUsize,
    hasher: RandomState,
}

/// What is remembered of a kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Its last one was not quite brief.
    Slow,
    /// It begins among the hogs.
    LongRunning,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<FairQueue<Arc<LongRunning>>>,
    /// That of the epoch.
    tick: Duration,
    /// How many wait in the queue.
    waiting: AtomicUsize,
    work: Condvar,
    stopped: AtomicBool,
}

impl CpuExecutor {
    /// A pool of so many threads; with none, there are no hogs: all run where they begin. `tick`
    /// is that of the epoch.
    pub(super) fn new(threads: usize, tick: Duration) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::new(FairQueue::new(tick)),
            tick,
            waiting: AtomicUsize::new(0),
            work: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        Self {
            shared,
            threads,
            started: OnceLock::new(),
            kinds: Mutex::default(),
            known: AtomicUsize::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Runs a future that is metered by `meter`, here as long as it is quick. Dropping what this
    /// gives drops the future: at once if it waits, else when its turn ends.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        whose: Whose<'_>,
        meter: &Arc<Meter>,
        mut future: Movable<T>,
    ) -> T {
        if self.threads == 0 {
            return future.await;
        }
        let kind = self.kind_of_long_running(whose);
        if kind.is_none() && !self.has_to_wait(whose) {
            let quick = poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if meter.spent() >= MOMENT || meter.is_long() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            let ended = quick.await;
            self.notice(whose, meter.spent());
            if let Some(output) = ended {
                self.charge(whose, meter.spent());
                return output;
            }
        }
        if *self.started.get_or_init(|| self.start()) == 0 {
            return future.await;
        }
        let output = self.hand_over(whose, meter, future).await;
        if let Some(kind) = kind
            && meter.spent() < BRIEF
        {
            let mut kinds = locked(&self.kinds);
            kinds.remove(&kind);
            self.known.store(kinds.len(), Ordering::Relaxed);
        }
        output
    }

    /// Returns true if the last job of this kind took long, and then which kind it is.
    fn kind_of_long_running(&self, whose: Whose<'_>) -> Option<u64> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let kind = self.hasher.hash_one((whose.tenant, whose.task));
        (locked(&self.kinds).get(&kind) == Some(&Manner::LongRunning)).then_some(kind)
    }

    /// Remembers of a job's kind what it has used where quick ones run.
    fn notice(&self, whose: Whose<'_>, spent: Duration) {
        // Most are brief, and nothing is known of any: then there is nothing to do.
        if spent < BRIEF && self.known.load(Ordering::Relaxed) == 0 {
            return;
        }
        let kind = self.hasher.hash_one((whose.tenant, whose.task));
        let mut kinds = locked(&self.kinds);
        if spent < BRIEF {
            kinds.remove(&kind);
        } else {
            if kinds.len() >= KINDS {
                kinds.clear();
            }
            let again = spent >= MOMENT || kinds.contains_key(&kind);
            kinds.insert(kind, if again { Manner::LongRunning } else { Manner::Slow });
        }
        self.known.store(kinds.len(), Ordering::Relaxed);
    }

    /// Returns true if others wait for their turn, while this tenant has had more than its share.
    fn has_to_wait(&self, whose: Whose<'_>) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0 && {
            let queue = locked(&self.shared.queue);
            queue.ahead(whose.tenant) > CREDIT && queue.others_wait(whose.tenant)
        }
    }

    /// Counts what a quick job has used, if anybody waits for a turn.
    fn charge(&self, whose: Whose<'_>, used: Duration) {
        if self.shared.waiting.load(Ordering::Relaxed) > 0 {
            locked(&self.shared.queue).charge(&whose.tenant.into(), whose.weight, used);
        }
    }

    async fn hand_over<T: Send + 'static>(
        &self,
        whose: Whose<'_>,
        meter: &Arc<Meter>,
        future: Movable<T>,
    ) -> T {
        let (give, mut take) = oneshot::channel();
        let future = async move {
            let output = AssertUnwindSafe(future).catch_unwind().await;
            // Whoever asked may have left.
            let _ = give.send(output);
        };
        let hog = Arc::new(LongRunning {
            fresh: meter.spent() < MOMENT,
            meter: Arc::clone(meter),
            tenant: whose.tenant.into(),
            weight: whose.weight,
            runtime: Handle::current(),
            state: AtomicU8::new(RESTS),
            future: Mutex::new(Some(Box::pin(future.in_current_span().with_current_subscriber()))),
            given_up: AtomicBool::new(false),
            shared: Arc::clone(&self.shared),
        });
        let unless_dropped = GiveUp(&hog);
        Arc::clone(&hog).wake();
        let output = (&mut take).await;
        drop(unless_dropped);
        match output {
            Ok(Ok(output)) => output,
            // As it would be had it run here.
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_closed) => resume_unwind(Box::new("a hog was dropped by nobody")),
        }
    }

    /// Starts the threads, and says how many there are.
    fn start(&self) -> usize {
        let start = |number: usize| {
            let shared = Arc::clone(&self.shared);
            let work = move || shared.work();
            thread::Builder::new().name(format!("lovage-hogs-{number}")).spawn(work)
        };
        let started = (0..self.threads).map(start).take_while(|thread| match thread {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread for long jobs");
                false
            }
        });
        started.count()
    }
}

impl Drop for CpuExecutor {
    fn drop(&mut self) {
        let mut queue = locked(&self.shared.queue);
        // Under the lock, which a thread that has seen it not set holds until it waits.
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Only such as were given up are left; they hold what is dropped here.
        let left = std::mem::replace(&mut *queue, FairQueue::new(Duration::ZERO));
        drop(queue);
        drop(left);
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// What a thread does for as long as it lives.
    fn work(&self) {
        #[cfg(target_os = "linux")]
        if let Err(error) = be_nice() {
            tracing::debug!(%error, "cannot lower the priority of a thread for long jobs");
        }
        let mut since_rest = Duration::ZERO;
        let mut queue = locked(&self.queue);
        while !self.stopped.load(Ordering::Relaxed) {
            let Some((tenant, hog)) = queue.pop() else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            self.waiting.store(queue.waiting(), Ordering::Relaxed);
            drop(queue);
            let before = hog.meter.spent();
            let again = hog.turn();
            let used = hog.meter.spent().saturating_sub(before);
            since_rest += used;
            if since_rest >= self.tick {
                since_rest = Duration::ZERO;
                FLUSHES.rest();
            }
            // What is dropped with the last hold on a hog may be anything: not under the lock.
            let again = if again { Some(hog) } else { None };
            queue = locked(&self.queue);
            queue.end(&tenant, used, again);
            self.waiting.store(queue.waiting(), Ordering::Relaxed);
        }
    }
}

/// Lowers the priority of this thread: on Linux it is a thread that has one, and not a process.
#[cfg(target_os = "linux")]
fn be_nice() -> rustix::io::Result<()> {
    use rustix::process::{getpriority_process, setpriority_process};
    setpriority_process(None, getpriority_process(None)? + NICENESS)
}

/// The states of a hog.
const RESTS: u8 = 0;
const QUEUED: u8 = 1;
const RUNS: u8 = 2;
/// It runs, and was woken meanwhile.
const RUNS_AGAIN: u8 = 3;

/// An attempt that is run by the pool.
struct LongRunning {
    meter: Arc<Meter>,
    tenant: Arc<str>,
    weight: u32,
    fresh: bool,
    /// Where it came from.
    runtime: Handle,
    state: AtomicU8,
    /// `None` when it is over.
    future: Mutex<Option<Movable<()>>>,
    given_up: AtomicBool,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LongRunning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hog").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Wake for LongRunning {
    fn wake(self: Arc<Self>) {
        // Written even where it stays as it is, here and below: so whatever made this wake it is
        // seen by the turn that comes next, whichever thread has it.
        let woken = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            Some(match state {
                RESTS => QUEUED,
                RUNS => RUNS_AGAIN,
                other => other,
            })
        });
        if woken == Ok(RESTS) {
            let shared = Arc::clone(&self.shared);
            let (tenant, weight) = (Arc::clone(&self.tenant), self.weight);
            let fresh = self.fresh && self.meter.spent() < MOMENT;
            let mut queue = locked(&shared.queue);
            queue.push(&tenant, weight, self, fresh);
            shared.waiting.store(queue.waiting(), Ordering::Relaxed);
            drop(queue);
            shared.work.notify_one();
        }
    }
}

impl LongRunning {
    /// Polls it once, and says whether it wants another turn at once.
    fn turn(self: &Arc<Self>) -> bool {
        self.state.swap(RUNS, Ordering::AcqRel);
        let mut future = locked(&self.future);
        let mut ended = self.given_up.load(Ordering::SeqCst);
        if let Some(running) = future.as_mut().filter(|_| !ended) {
            let _runtime = self.runtime.enter();
            let waker = Waker::from(Arc::clone(self));
            let poll = || running.as_mut().poll(&mut Context::from_waker(&waker));
            // The future catches its own panics; this is for the thread's sake.
            ended = catch_unwind(AssertUnwindSafe(poll)).map_or(true, |poll| poll.is_ready());
        }
        if ended {
            self.end(&mut future);
            return false;
        }
        drop(future);
        // Who gave it up meanwhile could not end it, since it was held here.
        if self.given_up.load(Ordering::SeqCst) {
            self.end(&mut locked(&self.future));
            return false;
        }
        let rests = self.state.compare_exchange(RUNS, RESTS, Ordering::AcqRel, Ordering::Acquire);
        if rests.is_err() {
            self.state.swap(QUEUED, Ordering::AcqRel);
        }
        rests.is_err()
    }

    /// Drops the future, where it thinks it is.
    fn end(&self, future: &mut Option<Movable<()>>) {
        let _runtime = self.runtime.enter();
        let future = future.take();
        // What a drop has to panic about has nobody to tell it to.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(future)));
    }
}

/// Gives a hog up when this is dropped.
struct GiveUp<'a>(&'a Arc<LongRunning>);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.given_up.store(true, Ordering::SeqCst);
        // Where somebody holds it, it is having a turn, after which it is ended there: nobody is
        // kept waiting here.
        if let Ok(mut future) = self.0.future.try_lock() {
            self.0.end(&mut future);
        }
    }
}

/// Each change under these locks is whole before anything can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::task::yield_now;

    use std::pin::pin;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn whose<'a>(tenant: &'a str, task: &'a str) -> Whose<'a> {
        Whose { tenant, weight: 1, task }
    }

    fn burn(time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {}
    }

    fn on_a_thread_for_hogs() -> bool {
        thread::current().name().is_some_and(|name| name.starts_with("lovage-hogs"))
    }

    /// Runs what computes for so many ticks, and says whether it ended among the hogs.
    async fn computes(cpu_executor: &CpuExecutor, whose: Whose<'_>, ticks: u32) -> bool {
        let meter = Arc::new(Meter::default());
        let metered = Arc::clone(&meter);
        let work = async move {
            for _ in 0..ticks {
                burn(TICK);
                yield_now().await;
            }
            on_a_thread_for_hogs()
        };
        let future = Box::pin(async move { metered.run(pin!(work)).await });
        cpu_executor.run(whose, &meter, future).await
    }

    /// On a machine that is busy, a tick's work may be less CPU time than a tick: so there is
    /// much of it.
    const MANY: u32 = 200;

    #[tokio::test]
    async fn what_takes_long_goes_elsewhere_and_what_is_quick_stays() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        assert!(!computes(&cpu_executor, whose("a", "quick"), 0).await);
        assert!(cpu_executor.started.get().is_none());
        assert!(computes(&cpu_executor, whose("a", "long"), MANY).await);
        assert!(!computes(&cpu_executor, whose("a", "quick"), 0).await);
        // Its kind is remembered, until it is quick again; nobody else's is.
        assert!(computes(&cpu_executor, whose("a", "long"), 0).await);
        assert!(!computes(&cpu_executor, whose("a", "long"), 0).await);
        assert!(!computes(&cpu_executor, whose("b", "long"), 0).await);
    }

    #[tokio::test]
    async fn what_is_slow_once_is_no_hog_and_two_times_on_end_is_one() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        let slow = whose("a", "slow");
        for (spent, is_long_running) in [
            (BRIEF, false),
            (Duration::ZERO, false),
            (BRIEF, false),
            (BRIEF, true),
            (Duration::ZERO, false),
            (MOMENT, true),
        ] {
            cpu_executor.notice(slow, spent);
            assert_eq!(
                cpu_executor.kind_of_long_running(slow).is_some(),
                is_long_running,
                "{spent:?}"
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn hogs_have_the_lower_priority() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let cpu_executor = CpuExecutor::new(1, TICK);
        cpu_executor.notice(whose("a", "asks"), MOMENT);
        let meter = Arc::new(Meter::default());
        let theirs =
            cpu_executor.run(whose("a", "asks"), &meter, Box::pin(async move { priority() })).await;
        // The kernel goes no lower than that.
        assert_eq!(theirs, (priority() + NICENESS).min(19));
    }

    #[tokio::test]
    async fn without_threads_all_stays() {
        let cpu_executor = CpuExecutor::new(0, TICK);
        assert!(!computes(&cpu_executor, whose("a", "long"), 20).await);
    }

    #[tokio::test]
    async fn timers_work_among_hogs() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        cpu_executor.notice(whose("a", "waits"), MOMENT);
        let meter = Arc::new(Meter::default());
        let work = Box::pin(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let within = tokio::time::timeout(Duration::from_millis(20), std::future::pending());
            let waited: Result<(), _> = within.await;
            (waited.is_err(), on_a_thread_for_hogs())
        });
        assert_eq!(cpu_executor.run(whose("a", "waits"), &meter, work).await, (true, true));
    }

    #[tokio::test]
    async fn a_panic_among_hogs_reaches_who_asked() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        for _ in 0..3 {
            cpu_executor.notice(whose("a", "panics"), MOMENT);
            let meter = Arc::new(Meter::default());
            let work: Movable<()> = Box::pin(async {
                yield_now().await;
                resume_unwind(Box::new("as the test wants it"));
            });
            let run = AssertUnwindSafe(cpu_executor.run(whose("a", "panics"), &meter, work));
            let panic = run.catch_unwind().await.unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&"as the test wants it"));
        }
        assert!(computes(&cpu_executor, whose("a", "long"), MANY).await);
    }

    #[tokio::test]
    async fn what_is_dropped_is_dropped_whether_it_waits_or_computes() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        for computes in [false, true] {
            cpu_executor.notice(whose("a", "ever"), MOMENT);
            let alive = Arc::new(());
            let held = Arc::clone(&alive);
            let work: Movable<()> = Box::pin(async move {
                let _still = Arc::clone(&held);
                loop {
                    if computes {
                        burn(TICK);
                        yield_now().await;
                    } else {
                        std::future::pending::<()>().await;
                    }
                }
            });
            let meter = Arc::new(Meter::default());
            let run = cpu_executor.run(whose("a", "ever"), &meter, work);
            assert!(tokio::time::timeout(TICK * 20, run).await.is_err());
            let patience = Instant::now() + Duration::from_secs(30);
            while Arc::strong_count(&alive) > 1 {
                assert!(Instant::now() < patience, "still held ({computes})");
                tokio::time::sleep(TICK).await;
            }
            // And takes no more of the CPU.
            let spent = meter.spent();
            tokio::time::sleep(TICK * 10).await;
            assert_eq!(meter.spent(), spent);
        }
    }

    #[tokio::test]
    async fn a_span_goes_along() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        cpu_executor.notice(whose("a", "tells"), MOMENT);
        let _subscriber =
            tracing::subscriber::set_default(tracing_subscriber::fmt().with_test_writer().finish());
        let span = tracing::error_span!("job");
        let work = Box::pin(async { (on_a_thread_for_hogs(), tracing::Span::current().id()) });
        let meter = Arc::new(Meter::default());
        let told =
            cpu_executor.run(whose("a", "tells"), &meter, work).instrument(span.clone()).await;
        assert!(span.id().is_some());
        assert_eq!(told, (true, span.id()));
    }

    #[tokio::test]
    async fn a_flood_of_quick_jobs_waits_while_others_do() {
        let cpu_executor = CpuExecutor::new(1, TICK);
        let (flood, other) = (whose("flood", "quick"), whose("other", "long"));
        assert!(!cpu_executor.has_to_wait(flood));
        locked(&cpu_executor.shared.queue).charge(&flood.tenant.into(), 1, CREDIT * 2);
        assert_eq!(locked(&cpu_executor.shared.queue).ahead("flood"), CREDIT * 2);
        // Nobody else wants anything.
        assert!(!cpu_executor.has_to_wait(flood));
        // No thread is started here, so that it keeps waiting.
        let meter = Arc::new(Meter::default());
        cpu_executor.started.set(1).unwrap();
        let waits = cpu_executor.hand_over(other, &meter, Box::pin(async {}));
        assert!(tokio::time::timeout(TICK, waits).await.is_err());
        assert!(cpu_executor.has_to_wait(flood) && !cpu_executor.has_to_wait(other));
    }
}
