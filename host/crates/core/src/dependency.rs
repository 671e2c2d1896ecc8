//! Circuit breakers: one for each service beside the broker that jobs need.
//!
//! A dependency that cannot be reached, or that refuses everybody, is *down*. While it is down no
//! operation reaches it, no guest runs that needs it, and the worker takes no messages from queues
//! whose jobs all need it. A probe, sent after a back-off with jitter, decides when it is *up*
//! again. What follows from that is up to the callers: [`Dependency::admit`] fails at once, and
//! [`Dependency::until_up`] waits.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    backoff::Backoff,
    events::{DependencyDown, DependencyUp},
};

/// How often an outage that lasts is logged again.
const REMIND_EVERY: Duration = Duration::from_mins(1);

/// The longest wait for the answer to a doubt.
const LONGEST_DOUBT: Duration = Duration::from_secs(15);

/// When probes are sent.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// The delays between probes of a dependency that is down.
    backoff: Backoff,
    /// How often a dependency that is up is probed, so that an outage is known before a job meets
    /// it.
    watch_every: Duration,
    /// The least time between two probes that callers ask for.
    apart: Duration,
}

const SCHEDULE: Schedule = Schedule {
    backoff: Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(5) },
    watch_every: Duration::from_secs(15),
    apart: Duration::from_millis(500),
};

impl Schedule {
    /// The pause after so many failures: at least half of the bound, so that probes of many workers
    /// spread and none of them hammers.
    fn pause(&self, failures: u32) -> Duration {
        self.backoff.bound(failures) / 2 + self.backoff.delay(failures) / 2
    }
}

/// Finds out if a service does what jobs need of it.
#[async_trait]
pub trait Probe: fmt::Debug + Send + Sync {
    /// Connects anew where that is needed, and makes a small write: a service that can be read and
    /// not written is down. `Err` names the service and says why, without user and password.
    async fn probe(&self) -> Result<(), String>;
}

/// A service that jobs need, and what is known of it.
#[derive(Debug)]
pub struct Dependency {
    name: &'static str,
    probe: Arc<dyn Probe>,
    schedule: Schedule,
    /// A copy of the state for the hot path.
    up: AtomicBool,
    /// How many outages there were.
    outages: AtomicU64,
    state: watch::Sender<State>,
    /// A task probes it: callers need not.
    monitored: AtomicBool,
    /// Asks the monitor for a probe.
    doubted: Notify,
    /// A probe that somebody asked for has yet to answer.
    in_doubt: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
enum State {
    /// It has not been asked yet.
    Unknown,
    Up,
    Down(Outage),
}

#[derive(Debug, Clone)]
struct Outage {
    since: Instant,
    /// When it was logged last.
    told: Instant,
    reason: Arc<str>,
    /// When a caller may try it, where no monitor does.
    retry_at: Instant,
    failures: u32,
}

/// The state of a dependency, for people and probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// `result_backend` or `keyvalue`.
    pub name: &'static str,
    /// Jobs that need it can run.
    pub up: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how long it has been down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<u64>,
}

impl Dependency {
    /// A dependency that is taken to be up until something fails.
    pub fn new(name: &'static str, probe: Arc<dyn Probe>) -> Arc<Self> {
        Self::with(name, probe, SCHEDULE)
    }

    fn with(name: &'static str, probe: Arc<dyn Probe>, schedule: Schedule) -> Arc<Self> {
        Arc::new(Self {
            name,
            probe,
            schedule,
            up: AtomicBool::new(true),
            outages: AtomicU64::new(0),
            state: watch::Sender::new(State::Up),
            monitored: AtomicBool::new(false),
            doubted: Notify::new(),
            in_doubt: watch::Sender::new(false),
        })
    }

    /// Its name: that of its section in the configuration.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns true if operations can be tried.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Returns true if a task probes it, and so tells when it is back.
    pub fn is_monitored(&self) -> bool {
        self.monitored.load(Ordering::Relaxed)
    }

    /// Returns true while it is down and nobody is to try it.
    pub fn is_pausing(&self) -> bool {
        match &*self.state.borrow() {
            State::Up => false,
            State::Unknown => true,
            State::Down(outage) => Instant::now() < outage.retry_at,
        }
    }

    /// How many outages there were so far. Two calls that differ had an outage between them.
    pub fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }

    /// Lets an operation through, or says why the dependency is down. Where no task monitors it, a
    /// caller is let through after each back-off (half-open).
    pub fn admit(&self) -> Result<(), String> {
        if self.is_up() {
            return Ok(());
        }
        let monitored = self.monitored.load(Ordering::Relaxed);
        let mut refusal = Ok(());
        self.state.send_if_modified(|state| {
            match state {
                State::Up => {}
                State::Unknown => refusal = Err("it has not answered yet".to_owned()),
                State::Down(outage) => {
                    if monitored || Instant::now() < outage.retry_at {
                        refusal = Err(outage.reason.to_string());
                    } else {
                        outage.retry_at = Instant::now() + self.schedule.pause(outage.failures);
                    }
                }
            }
            false
        });
        refusal
    }

    /// An operation went well.
    pub fn succeeded(&self) {
        // The monitor's probe alone ends an outage where there is one: reads go well while writes
        // do not.
        if !self.is_up() && !self.monitored.load(Ordering::Relaxed) {
            self.set_up();
        }
    }

    /// An operation found it down.
    pub fn failed(&self, reason: &str) {
        self.set_down(reason);
        self.doubted.notify_one();
    }

    /// An operation failed in a way that may be its own fault. The monitor finds out.
    pub fn doubt(&self) {
        if self.is_monitored() {
            self.in_doubt.send_replace(true);
            self.doubted.notify_one();
        }
    }

    /// Waits until doubts that were raised so far are settled, for a while.
    pub async fn settled(&self) {
        let mut in_doubt = self.in_doubt.subscribe();
        let settled = in_doubt.wait_for(|doubt| !doubt);
        // A probe that takes longer than that is a question of its own.
        let _ = tokio::time::timeout(LONGEST_DOUBT, settled).await;
    }

    /// Waits until it is up or, where no task monitors it, until a caller may try it.
    pub async fn until_up(&self) {
        let mut state = self.state.subscribe();
        while !self.is_up() {
            let retry_at = match &*state.borrow_and_update() {
                State::Up => return,
                State::Unknown => None,
                State::Down(outage) => Some(outage.retry_at),
            };
            match retry_at.filter(|_| !self.monitored.load(Ordering::Relaxed)) {
                Some(at) if at <= Instant::now() => return,
                Some(at) => tokio::time::sleep_until(at).await,
                // The sender lives as long as `self`.
                None => drop(state.changed().await),
            }
        }
    }

    /// Waits until a monitor has asked it once.
    pub async fn until_known(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, State::Unknown)).await;
    }

    /// Counts it as down until a monitor has asked it.
    pub fn doubt_until_asked(&self) {
        self.monitored.store(true, Ordering::Relaxed);
        self.up.store(false, Ordering::Relaxed);
        self.state.send_replace(State::Unknown);
    }

    /// Probes it from now on, for as long as the future lives: at once, in outages after each
    /// back-off, and now and then while it is up. Until the first probe it counts as down.
    pub fn monitor(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        self.doubt_until_asked();
        let this = Arc::clone(self);
        async move {
            loop {
                let begun = Instant::now();
                let answer = this.probe.probe().await;
                match answer {
                    Ok(()) => this.set_up(),
                    Err(reason) => this.set_down(&reason),
                }
                this.in_doubt.send_replace(false);
                let failures = match &*this.state.borrow() {
                    State::Down(outage) => Some(outage.failures),
                    _ => None,
                };
                #[allow(clippy::single_match_else, reason = "two waits side by side")]
                match failures {
                    Some(failures) => tokio::time::sleep(this.schedule.pause(failures)).await,
                    None => {
                        tokio::select! {
                            () = this.doubted.notified() => {}
                            () = tokio::time::sleep(this.schedule.watch_every) => {}
                        }
                        // An outage is looked into at once; doubts are not, since guests can
                        // raise them as often as they like.
                        if this.is_up() {
                            tokio::time::sleep_until(begun + this.schedule.apart).await;
                        }
                    }
                }
            }
        }
    }

    /// Asks it once, outside of any monitor.
    pub async fn ask(&self) -> Result<(), String> {
        self.probe.probe().await
    }

    /// What is known of it.
    pub fn readiness(&self) -> Readiness {
        let (reason, since) = match &*self.state.borrow() {
            State::Up => (None, None),
            State::Unknown => (Some("it has not answered yet".to_owned()), None),
            State::Down(outage) => (Some(outage.reason.to_string()), Some(outage.since)),
        };
        Readiness {
            name: self.name,
            up: reason.is_none(),
            reason,
            down_seconds: since.map(|since| since.elapsed().as_secs()),
        }
    }

    fn set_up(&self) {
        let before = self.state.send_replace(State::Up);
        self.up.store(true, Ordering::Relaxed);
        let outage = match before {
            State::Up => return,
            State::Unknown => None,
            State::Down(outage) => Some(outage.since.elapsed()),
        };
        DependencyUp { name: self.name, outage }.emit();
    }

    fn set_down(&self, reason: &str) {
        let now = Instant::now();
        let (mut tell, mut began) = (false, false);
        self.state.send_if_modified(|state| {
            if let State::Down(outage) = state {
                outage.failures = outage.failures.saturating_add(1);
                outage.retry_at = now + self.schedule.pause(outage.failures);
                tell = now.duration_since(outage.told) >= REMIND_EVERY;
                if tell {
                    outage.told = now;
                }
                if *outage.reason != *reason {
                    outage.reason = reason.into();
                }
                return false;
            }
            began = true;
            *state = State::Down(Outage {
                since: now,
                told: now,
                reason: reason.into(),
                retry_at: now + self.schedule.pause(1),
                failures: 1,
            });
            true
        });
        if began {
            self.up.store(false, Ordering::Relaxed);
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
        if began || tell {
            DependencyDown { name: self.name, reason }.emit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers as it is told to.
    #[derive(Debug, Default)]
    struct Switch(Mutex<Option<&'static str>>, AtomicU64);

    impl Switch {
        fn set(&self, fault: Option<&'static str>) {
            *self.0.lock().unwrap() = fault;
        }
    }

    #[async_trait]
    impl Probe for Switch {
        async fn probe(&self) -> Result<(), String> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.lock().unwrap().map_or(Ok(()), |fault| Err(fault.to_owned()))
        }
    }

    const QUICK: Schedule = Schedule {
        backoff: Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(80) },
        watch_every: Duration::from_millis(50),
        apart: Duration::from_millis(40),
    };

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_monitored_dependency_is_down_until_a_probe_goes_well() {
        let switch = Arc::new(Switch::default());
        let dependency = Dependency::with("keyvalue", switch.clone(), QUICK);
        switch.set(Some("READONLY"));
        let monitor = tokio::spawn(dependency.monitor());
        assert!(dependency.admit().is_err(), "it was not asked yet");
        dependency.until_known().await;
        assert_eq!(dependency.admit().unwrap_err(), "READONLY");
        // A read that goes well proves nothing of writes.
        dependency.succeeded();
        assert!(!dependency.is_up());
        let waits = tokio::time::timeout(Duration::from_secs(1), dependency.until_up()).await;
        assert!(waits.is_err());
        let probes = switch.1.load(Ordering::Relaxed);
        assert!((2..40).contains(&probes), "{probes} probes in a second");
        switch.set(None);
        tokio::time::timeout(SOON, dependency.until_up()).await.unwrap();
        assert_eq!((dependency.admit(), dependency.outages()), (Ok(()), 1));
        assert!(dependency.readiness().up);
        monitor.abort();
    }

    #[tokio::test]
    async fn an_outage_that_no_job_meets_is_noticed() {
        let switch = Arc::new(Switch::default());
        let dependency = Dependency::with("keyvalue", switch.clone(), QUICK);
        let monitor = tokio::spawn(dependency.monitor());
        dependency.until_up().await;
        switch.set(Some("gone"));
        let begun = Instant::now();
        while dependency.is_up() {
            assert!(begun.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        monitor.abort();
    }

    #[tokio::test]
    async fn as_many_doubts_as_guests_like_are_few_probes() {
        let switch = Arc::new(Switch::default());
        let quiet = Schedule { watch_every: SOON, ..QUICK };
        let dependency = Dependency::with("keyvalue", switch.clone(), quiet);
        let monitor = tokio::spawn(dependency.monitor());
        dependency.until_up().await;
        let begun = Instant::now();
        for _ in 0..500 {
            dependency.doubt();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let most = begun.elapsed().as_millis() / QUICK.apart.as_millis() + 2;
        assert!(u128::from(switch.1.load(Ordering::Relaxed)) <= most);
        switch.set(Some("MISCONF"));
        dependency.doubt();
        dependency.settled().await;
        dependency.doubt();
        dependency.settled().await;
        assert!(!dependency.is_up());
        monitor.abort();
    }

    #[tokio::test]
    async fn without_a_monitor_one_caller_at_a_time_tries_it() {
        let slow = Backoff { base: Duration::from_millis(400), cap: Duration::from_mins(1) };
        let slow = Schedule { backoff: slow, ..QUICK };
        let dependency = Dependency::with("keyvalue", Arc::new(Switch::default()), slow);
        dependency.failed("LOADING");
        assert_eq!(dependency.admit().unwrap_err(), "LOADING");
        dependency.until_up().await;
        assert_eq!(dependency.admit(), Ok(()));
        assert!(dependency.admit().is_err(), "somebody tries it now");
        dependency.succeeded();
        assert!(dependency.admit().is_ok());
    }
}
