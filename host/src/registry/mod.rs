//! Which task is served by which component, now.
//!
//! Components are loaded from files, compiled once, and looked up by the names of their tasks.
//! [`Registry::reload`] puts a new set in the place of the old one in a single step; a call that
//! runs holds its component and ends on the version that it began on.

#[cfg(feature = "compiler")]
mod cache;
mod error;
mod inspect;
mod load;
pub mod precompiled;
mod trust;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

#[cfg(feature = "compiler")]
pub use self::cache::{CacheError, CompileCache, DEFAULT_MAX_BYTES};
pub use self::error::RegistryError;
pub use self::inspect::{Inspection, inspect};
pub use self::load::{LoadOptions, Origin};
pub use self::trust::Distrust;

use self::load::Loaded;
use crate::celery::arguments::Shape;
use crate::sandbox::{LoadedComponent, Sandbox, TaskSpec};
use crate::text::nearest;

/// A task, and the component that serves it.
#[derive(Debug)]
pub struct Task {
    /// What the component says of it.
    pub spec: TaskSpec,
    /// The component, to be run.
    pub component: Arc<LoadedComponent>,
    shape: OnceLock<Shape>,
}

impl Task {
    pub(super) fn new(spec: TaskSpec, component: Arc<LoadedComponent>) -> Self {
        Self { spec, component, shape: OnceLock::new() }
    }

    /// What the input schema says about the arguments of a call of Celery's.
    pub fn shape(&self) -> &Shape {
        self.shape.get_or_init(|| Shape::of(self.spec.input_schema.as_deref()))
    }
}

/// What is served.
#[derive(Debug)]
pub struct Registry {
    loaded: RwLock<Arc<Loaded>>,
}

impl Registry {
    /// Loads all components; one that does not load fails the whole, since a job for its tasks
    /// would find nobody.
    pub async fn load(
        sandbox: &Sandbox,
        origins: &[Origin],
        options: &LoadOptions,
    ) -> Result<Self, RegistryError> {
        let loaded = Loaded::load(sandbox, origins, options, &[]).await?;
        Ok(Self { loaded: RwLock::new(Arc::new(loaded)) })
    }

    /// Loads all components again, and serves them instead. What did not change is kept; when one
    /// fails, everything stays as it was.
    pub async fn reload(
        &self,
        sandbox: &Sandbox,
        origins: &[Origin],
        options: &LoadOptions,
    ) -> Result<(), RegistryError> {
        let before = self.now();
        let loaded = Loaded::load(sandbox, origins, options, &before.components).await?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        Ok(())
    }

    /// The task of that name.
    pub fn get(&self, task: &str) -> Option<Arc<Task>> {
        self.now().tasks.get(task).cloned()
    }

    /// All tasks, in the order of their names.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        let mut tasks: Vec<_> = self.now().tasks.values().cloned().collect();
        tasks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        tasks
    }

    /// All components, in the order in which they were loaded.
    pub fn components(&self) -> Vec<Arc<LoadedComponent>> {
        self.now().components.clone()
    }

    /// The name that somebody may have meant who asked for a task that is not there.
    pub fn nearest(&self, task: &str) -> Option<String> {
        let now = self.now();
        nearest(task, now.tasks.keys().map(String::as_str)).map(str::to_owned)
    }

    fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }
}
