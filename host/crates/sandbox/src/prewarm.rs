//! Instances that are made ahead while nothing runs, so that the next job need not wait for one.
//!
//! Each is used once, as one that is made for its job would be. Nothing of a job is in it: it is made with
//! nothing granted, and it has asked the host for nothing. A component that does ask while it starts (the
//! time, random numbers, configuration) has none made ahead: it would know what was so before its
//! job came, or what somebody else may know.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Instance;
use wasmtime::{Engine, Store};

use super::Sandbox;
use super::attempt::{End, within};
use super::code::Code;
use super::cpu::Meter;
use super::cpu_executor::Whose;
use super::engine_set::EngineSet;
use super::limits::Limits;
use super::state::{Scene, State};

/// How long nothing has to run before one is made: whoever has more jobs than time has no use for
/// it, and the result of the last one comes first.
const LULL: Duration = Duration::from_millis(1);

/// Where something runs then, it is looked again after twice as long, and so on; after this long it is
/// left to the end of the next job.
const LONGEST_LULL: Duration = Duration::from_secs(1);

/// What is known of a component, as far as it is made ahead.
const NONE: u8 = 0;
/// Somebody is about to make one.
const MAKING: u8 = 1;
/// And it is asked for again since: what ran when it was to be made has ended.
const AGAIN: u8 = 2;
/// It did not start, or not without asking the host for something.
const UNFIT: u8 = 3;

/// An instance that waits for a job.
struct Ready {
    store: Store<State>,
    instance: Instance,
    /// What it has taken to make.
    cpu: Duration,
    limits: Limits,
    /// In the pool.
    _place: OwnedSemaphorePermit,
}

/// Where a component's code keeps its instance.
#[derive(Default)]
pub(super) struct Nook {
    instance: Mutex<Option<Box<Ready>>>,
    state: AtomicU8,
}

impl Nook {
    fn instance(&self) -> MutexGuard<'_, Option<Box<Ready>>> {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the instance, if it is one that could have been made under these limits.
    fn take(&self, limits: &Limits) -> Option<Box<Ready>> {
        self.instance().take().filter(|ready| ready.limits.start_alike(limits))
    }

    /// Returns true if whoever asks is to make one; else who is about to learns of it.
    fn begin(&self) -> bool {
        let begin = |state| match state {
            NONE => Some(MAKING),
            MAKING => Some(AGAIN),
            _ => None,
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, begin) == Ok(NONE)
    }

    /// Returns true if that was all.
    fn end(&self, fit: bool) -> bool {
        let end = |state| match state {
            _ if !fit => UNFIT,
            AGAIN => MAKING,
            _ => NONE,
        };
        let before =
            self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| Some(end(it)));
        !fit || before != Ok(AGAIN)
    }
}

/// The instances of all components of a sandbox: no more than it has places for. Where there are
/// more components, it is those whose jobs came last that have one.
pub(super) struct Prewarmed {
    places: Arc<Semaphore>,
    most: usize,
    /// Those that have one, the oldest first; some may have lost it.
    holders: Mutex<VecDeque<Weak<Code>>>,
}

impl Prewarmed {
    pub(super) fn new(most: u32) -> Self {
        let most = most as usize;
        Self { places: Arc::new(Semaphore::new(most)), most, holders: Mutex::default() }
    }

    fn holders(&self) -> MutexGuard<'_, VecDeque<Weak<Code>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if need be that of the instance that has waited longest.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return Some(place);
            }
            let oldest = self.holders().pop_front()?;
            if let Some(code) = oldest.upgrade() {
                drop(code.nook.instance().take());
            }
        }
    }

    fn keep(&self, code: &Arc<Code>, ready: Ready) {
        let mut holders = self.holders();
        let this = Arc::downgrade(code);
        holders.retain(|holder| holder.strong_count() > 0 && !holder.ptr_eq(&this));
        holders.push_back(this);
        drop(holders);
        *code.nook.instance() = Some(Box::new(ready));
    }
}

impl Sandbox {
    /// How many instances wait that were made ahead.
    pub fn ready_instances(&self) -> usize {
        let holders = self.prewarmed().holders();
        let holders = holders.iter().filter_map(Weak::upgrade);
        holders.filter(|code| code.nook.instance().is_some()).count()
    }

    /// A store for an attempt, and the instance in it where one was made ahead.
    pub(super) fn begin(
        &self,
        code: &Code,
        engine_set: &EngineSet,
        scene: Scene,
        meter: &Meter,
    ) -> wasmtime::Result<(Store<State>, Option<Instance>)> {
        // Its directory a guest has from its start on, or not at all.
        let ready = if scene.scratch.is_none() { code.nook.take(&scene.limits) } else { None };
        let Some(ready) = ready else { return Ok((self.store(engine_set, scene)?, None)) };
        let Ready { mut store, instance, cpu, .. } = *ready;
        meter.add(cpu);
        self.take_over(&mut store, engine_set, scene)?;
        Ok((store, Some(instance)))
    }

    /// Returns true if nothing runs but what holds so many slots.
    pub(super) fn is_idle_but_for(&self, slots: usize) -> bool {
        self.free_slots() + slots >= self.options().slots as usize
    }

    /// Has an instance made for the next job, soon and if nothing runs then. `limits` are those that it will
    /// probably have, and whoever's job was the last pays in turns for the CPU.
    pub(super) fn get_ready(&self, code: &Arc<Code>, limits: &Limits, tenant: &str, weight: u32) {
        let enabled = self.prewarmed().most > 0
            && Engine::same(code.pre.engine(), &self.0.engine_sets.plain().engine);
        if !enabled || !code.nook.begin() {
            return;
        }
        let (sandbox, code) = (self.clone(), Arc::downgrade(code));
        let (limits, tenant) = (*limits, tenant.to_owned());
        tokio::spawn(async move {
            let mut lull = LULL;
            loop {
                tokio::time::sleep(lull).await;
                if !sandbox.is_idle_but_for(0) && lull < LONGEST_LULL {
                    lull *= 2;
                    continue;
                }
                lull = LULL;
                // Versions that are not served any more are not held up.
                let Some(code) = code.upgrade() else { return };
                let fit = sandbox.make_ready(&code, limits, &tenant, weight).await;
                if code.nook.end(fit) {
                    return;
                }
            }
        });
    }

    /// Makes one, unless there is one or something else to do. Whether it may be tried again.
    async fn make_ready(
        &self,
        code: &Arc<Code>,
        limits: Limits,
        tenant: &str,
        weight: u32,
    ) -> bool {
        if !self.is_idle_but_for(0) || code.nook.instance().is_some() {
            return true;
        }
        let Some(place) = self.prewarmed().place() else { return true };
        let meter = Arc::new(Meter::default());
        let make = {
            let (sandbox, code, meter) = (self.clone(), Arc::clone(code), Arc::clone(&meter));
            async move {
                let engine_set = sandbox.engine_set(code.pre.engine());
                let _running = engine_set.ticker.run();
                let deadline = Instant::now() + limits.timeout;
                let scene = Scene::of_nobody(limits, deadline);
                let mut store = sandbox.store(engine_set, scene).map_err(|_| false)?;
                let instance = {
                    let start = pin!(code.pre.instantiate_async(&mut store));
                    let start = pin!(within(deadline, limits.cpu, &meter, start));
                    // That it took too long may be the machine's doing.
                    let is_late = |end| matches!(end, End::Deadline | End::Cpu(_));
                    meter.run(start).await.map_err(is_late)?
                };
                if store.data().calls.made() == 0 { Ok((store, instance)) } else { Err(false) }
            }
        };
        // Its kind is none of a job's: how long it takes says nothing of them.
        let whose = Whose { tenant, weight, task: "" };
        match self.cpu_executor().run(whose, &meter, Box::pin(make)).await {
            Ok((store, instance)) => {
                let ready = Ready { store, instance, cpu: meter.spent(), limits, _place: place };
                self.prewarmed().keep(code, ready);
                true
            }
            Err(fit) => fit,
        }
    }
}
