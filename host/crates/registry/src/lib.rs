//! Which task is served by which component, now.
//!
//! Components come from suppliers, are compiled once, and are looked up by the names of
//! their tasks. [`Registry::refresh`] looks whether a supplier offers other versions, and puts each
//! in the place of the one before it in a single step, once it is known to be good; a call that
//! runs holds its component and ends on the version that it began on. What was served is
//! kept, so that one can go back.

pub mod signature;

mod bundles;
#[cfg(feature = "compiler")]
mod cache;
mod canary;
mod claims;
mod error;
mod history;
mod inspect;
#[cfg(feature = "compiler")]
mod lazy_reload;
mod load;
mod order;
pub mod precompiled;
mod precompiled_store;
mod refresh;
mod seen;
mod sequential_test;
mod served;
mod start;
mod status;
mod supplier;
mod trial;
mod trust;
mod version;
#[cfg(feature = "watch")]
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

#[cfg(feature = "compiler")]
pub use self::cache::{CacheError, CompileCache, DEFAULT_MAX_BYTES};
pub use self::canary::{Canary, Comparison, Verdict};
pub use self::claims::Claims;
pub use self::error::RegistryError;
pub use self::history::{DEFAULT_KEEP, Denied, History, HistoryError, Kept, Record};
pub use self::inspect::{Inspection, inspect};
pub use self::load::{LoadOptions, Origin};
pub use self::status::{Refusal, Status, VersionStatus};
pub use self::supplier::ComponentUrl;
#[cfg(feature = "remote")]
pub use self::supplier::push;
pub use self::trust::Distrust;
pub use self::version::{Counts, Tally, Version};

use self::history::Ordered;
use self::precompiled_store::PrecompiledStore;
use self::seen::Seen;
use self::served::Served;
use self::supplier::{Directory, Supplier};
use lovage_celery::arguments::Shape;
use lovage_core::text::nearest;
use lovage_sandbox::{LoadedComponent, Sandbox, TaskSpec};

/// How many versions are held ready for jobs that ask for one.
const PINNED: usize = 8;

/// Of how many components the code is loaded before a job needs it.
const AHEAD: usize = 16;

/// A task, and the component that serves it.
#[derive(Debug)]
pub struct Task {
    /// What the component says of it.
    pub spec: TaskSpec,
    /// The component, to be run.
    pub component: Arc<LoadedComponent>,
    /// What becomes of the jobs of that version.
    tally: Arc<Tally>,
    shape: OnceLock<Shape>,
}

impl Task {
    pub(crate) fn new(spec: TaskSpec, component: Arc<LoadedComponent>, tally: Arc<Tally>) -> Self {
        Self { spec, component, tally, shape: OnceLock::new() }
    }

    /// What the input schema says about the arguments of a call of Celery's.
    pub fn shape(&self) -> &Shape {
        self.shape.get_or_init(|| Shape::of(self.spec.input_schema.as_deref()))
    }
}

/// What is served.
#[derive(Debug)]
pub struct Registry {
    sandbox: Sandbox,
    suppliers: Vec<Box<dyn Supplier>>,
    bundles: Vec<std::path::PathBuf>,
    depots: Vec<PrecompiledStore>,
    options: LoadOptions,
    served: RwLock<Arc<Served>>,
    /// True if some version is tried.
    tries: AtomicBool,
    /// Grows whenever what is served changes.
    generation: AtomicU64,
    /// What was seen of each place.
    seen: Mutex<HashMap<String, Seen>>,
    /// What was offered and is not served, by its place.
    refused: Mutex<BTreeMap<String, Refusal>>,
    /// Tasks that nobody gets, since several places declare them and nothing decides.
    undecided: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// The highest order of a signed manifest by its component's name, and whose it was.
    orders: Mutex<HashMap<String, Ordered>>,
    /// When it was warned last of keys that expire.
    warned: Mutex<Option<Instant>>,
    /// Versions that jobs asked for, those that were asked for last at the end.
    pinned: Mutex<Vec<Arc<Version>>>,
    /// Held by who looks for other versions.
    turn: tokio::sync::Mutex<()>,
}

impl Registry {
    /// Loads all components. Where one does not load and a version of it is kept that was good, that
    /// is served instead; else [`LoadOptions::on_error`] says whether the whole fails.
    pub async fn load(
        sandbox: &Sandbox,
        origins: &[Origin],
        options: &LoadOptions,
    ) -> Result<Self, RegistryError> {
        if origins.is_empty() {
            return Err(RegistryError::NoOrigins);
        }
        let mut registry = Self {
            sandbox: sandbox.clone(),
            suppliers: Vec::new(),
            bundles: Vec::new(),
            depots: Vec::new(),
            options: options.clone(),
            served: RwLock::default(),
            tries: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            seen: Mutex::default(),
            refused: Mutex::default(),
            undecided: Mutex::default(),
            orders: Mutex::default(),
            warned: Mutex::default(),
            pinned: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        for origin in origins {
            match origin {
                Origin::Wasm(path) => registry.suppliers.push(Box::new(Directory::new(path))),
                Origin::Precompiled(path) => registry.bundles.push(path.clone()),
                Origin::Remote(url) => registry.suppliers.push(supplier::of(url)?),
                Origin::RemotePrecompiled(url, dir) => {
                    registry.depots.push(PrecompiledStore::new(supplier::s3(url)?, dir.clone()));
                }
            }
        }
        registry.warn_of_expiring_keys();
        Box::pin(registry.begin()).await?;
        #[cfg(feature = "compiler")]
        sandbox.begin_to_serve();
        Ok(registry)
    }

    /// The task of that name, whatever is tried.
    pub fn get(&self, task: &str) -> Option<Arc<Task>> {
        self.now().get(task).cloned()
    }

    /// The task of that name for a job: a new version that is tried gets some of them.
    pub fn choose(&self, task: &str, job: &str) -> Option<Arc<Task>> {
        self.now().choose(task, job).cloned()
    }

    /// The version of a task that a job asks for by its digest, if it is served, tried, or was
    /// served on this machine and may be still. It may have to be loaded first.
    pub async fn pinned(&self, task: &str, digest: &str) -> Option<Arc<Task>> {
        let of = |version: &Version| {
            let found = version.tasks.iter().find(|it| it.spec.name == task);
            found.filter(|_| version.digest() == digest).cloned()
        };
        let now = self.now();
        let trials = || now.slots.values().filter_map(|slot| slot.trial.as_ref());
        let served = now.slots.values().map(|slot| &slot.now);
        if let Some(found) = served.chain(trials().map(|it| &it.version)).find_map(|it| of(it)) {
            return Some(found);
        }
        let place = now.place_of(task)?;
        // Asked each time, since it may not be served any more.
        let record = self.record_of(place).await?;
        if record.denial(digest).is_some() || !record.versions.iter().any(|it| it.digest == digest)
        {
            return None;
        }
        let ready = {
            let mut pinned = locked(&self.pinned);
            let at = pinned.iter().position(|it| of(it).is_some());
            at.map(|at| {
                let version = pinned.remove(at);
                pinned.push(Arc::clone(&version));
                version
            })
        };
        if let Some(version) = ready {
            return of(&version);
        }
        let version = Arc::new(Version::new(self.kept_version(&record, digest, place).await?));
        let found = of(&version);
        let mut pinned = locked(&self.pinned);
        pinned.push(version);
        let surplus = pinned.len().saturating_sub(PINNED);
        pinned.drain(..surplus);
        found
    }

    /// Counts an attempt of a task that this registry gave, and judges by it where its version is
    /// tried. `attempt` is 1 for a job's first.
    pub fn record(&self, task: &Task, failed: bool, wall: Duration, attempt: u32) {
        task.tally.record(failed, wall, attempt);
        if self.tries.load(Ordering::Relaxed) {
            self.judge(task);
        }
    }

    /// All tasks, in the order of their names.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        let now = self.now();
        let mut tasks: Vec<_> = now.names().filter_map(|name| now.get(name).cloned()).collect();
        tasks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        tasks
    }

    /// All components, in the order of their places.
    pub fn components(&self) -> Vec<Arc<LoadedComponent>> {
        self.now().slots.values().map(|slot| Arc::clone(&slot.now.component)).collect()
    }

    /// Loads the code of components that is not in memory yet, so that no job waits for it: of the
    /// first few, in the order of their places, and of no more than the sandbox has ample room for.
    pub async fn load_ahead(&self) {
        for component in self.components().iter().take(AHEAD) {
            self.sandbox.load_ahead(component, &self.options.limits).await;
        }
    }

    /// The name that somebody may have meant who asked for a task that is not there.
    pub fn nearest(&self, task: &str) -> Option<String> {
        nearest(task, self.now().names()).map(str::to_owned)
    }

    fn now(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is served, in one step.
    fn serve(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, served::Slot>),
    ) -> Result<(), RegistryError> {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(served.with(change)?);
        let tries = next.slots.values().any(|slot| slot.trial.is_some());
        self.tries.store(tries, Ordering::Relaxed);
        *served = next;
        self.note_change();
        Ok(())
    }

    /// Grows with each change of what is served.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Notes that who was refused for somebody else may be served now.
    fn note_change(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a lock holds, which is whole after a panic, too: each change to it is a single call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
