//! The code of a component, linked: what of it takes memory, and when it is held.
//!
//! A worker may serve more components than it has memory for. Where the code of one can be had again,
//! it is held only while it is used more than that of others: see [`CodeCache`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use wasmtime::component::{Component, InstancePre};

use super::Sandbox;
use super::bindings::Handler;
use super::component::LoadedComponent;
use super::error::Problem;
use super::limits::Limits;
use super::payload_check::{Checker, PATTERNS_BYTES, PayloadCheck, Unchecked};
use super::prewarm::Nook;
use super::spec::TaskSpec;
use super::state::State;

/// What an attempt runs.
pub(super) struct Code {
    pub pre: InstancePre<State>,
    pub handler: Handler,
    /// What payloads are held to, by task; absent where any payload fits.
    pub checkers: HashMap<String, Checker>,
    /// The instance that waits for its next job; it goes with the code.
    pub nook: Nook,
    bytes: usize,
}

impl Code {
    pub(super) fn new(
        component: &Component,
        pre: InstancePre<State>,
        handler: Handler,
        checkers: HashMap<String, Checker>,
    ) -> Self {
        let image = component.image_range();
        let bytes = (image.end as usize).saturating_sub(image.start as usize);
        Self { pre, handler, checkers, nook: Nook::default(), bytes }
    }
}

/// Gets the code of a component again that was loaded before.
pub trait Reload: Send + Sync {
    /// The code, compiled anew if that is what it takes. Blocks.
    fn reload(&self, sandbox: &Sandbox) -> Result<Component, Problem>;
}

/// Where the code of a component is.
pub(super) enum Held {
    /// In memory, for as long as the component is.
    Always(Arc<Code>),
    /// In memory while it is used.
    WhileUsed(Arc<Droppable>),
}

/// Code that can be dropped and had again.
pub(super) struct Droppable {
    code: Mutex<Option<Arc<Code>>>,
    /// When it was used, by the shelf's clock.
    used: AtomicU64,
    /// Held by who loads it.
    loading: tokio::sync::Mutex<()>,
    reload: Box<dyn Reload>,
}

impl Held {
    /// Code that is loaded already, or will be.
    pub(super) fn while_used(code: Option<Arc<Code>>, reload: Box<dyn Reload>) -> Self {
        Self::WhileUsed(Arc::new(Droppable {
            code: Mutex::new(code),
            used: AtomicU64::new(0),
            loading: tokio::sync::Mutex::default(),
            reload,
        }))
    }
}

impl Droppable {
    fn code(&self) -> MutexGuard<'_, Option<Arc<Code>>> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How large the code is, in bytes; 0 while it is not loaded.
    fn bytes(&self) -> usize {
        self.code().as_ref().map_or(0, |code| code.bytes)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always(_) => "Always",
            Self::WhileUsed(_) => "WhileUsed",
        })
    }
}

/// The code that can be dropped, of all components of a sandbox: when there is more than so much of
/// it, that is dropped which was used least recently. What runs, keeps its own until it ends.
pub(super) struct CodeCache {
    max_bytes: usize,
    clock: AtomicU64,
    held: Mutex<Vec<Weak<Droppable>>>,
}

impl CodeCache {
    /// Room for so many bytes of code, and always for the one that was loaded last.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, clock: AtomicU64::new(1), held: Mutex::default() }
    }

    fn touch(&self, code: &Droppable) {
        code.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn is_half_empty(&self) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = held.iter().filter_map(Weak::upgrade).map(|it| it.bytes()).sum::<usize>();
        bytes <= self.max_bytes / 2
    }

    /// Makes room for code that was loaded.
    fn add(&self, new: &Arc<Droppable>) {
        self.touch(new);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = held
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|it| !Arc::ptr_eq(it, new))
            .map(|it| (it.used.load(Ordering::Relaxed), it.bytes(), it))
            .filter(|(_, bytes, _)| *bytes > 0)
            .collect();
        all.sort_by_key(|(used, ..)| *used);
        let mut total = all.iter().fold(new.bytes(), |sum, (_, bytes, _)| sum + bytes);
        let mut kept = Vec::with_capacity(all.len() + 1);
        for (_, bytes, it) in all {
            if total > self.max_bytes {
                total -= bytes;
                *it.code() = None;
            } else {
                kept.push(Arc::downgrade(&it));
            }
        }
        kept.push(Arc::downgrade(new));
        *held = kept;
    }
}

impl Sandbox {
    /// The code of a component, which is loaded where it is not.
    pub(super) async fn code(
        &self,
        component: &Arc<LoadedComponent>,
    ) -> Result<Arc<Code>, Problem> {
        let held = match &component.held {
            Held::Always(code) => return Ok(Arc::clone(code)),
            Held::WhileUsed(held) => held,
        };
        let ready = |held: &Droppable| {
            let code = held.code().clone();
            self.code_cache().touch(held);
            code
        };
        if let Some(code) = ready(held) {
            return Ok(code);
        }
        let _loading = held.loading.lock().await;
        if let Some(code) = ready(held) {
            return Ok(code);
        }
        let (sandbox, again) = (self.clone(), Arc::clone(component));
        let loaded = tokio::task::spawn_blocking(move || sandbox.load_code(&again)).await;
        let code = loaded.map_err(|error| Problem::NotHadAgain { reason: error.to_string() })??;
        *held.code() = Some(Arc::clone(&code));
        self.code_cache().add(held);
        Ok(code)
    }

    /// Loads the code of a component before a job needs it, while half of the room for code is free:
    /// none that is used is dropped for it. What is wrong with it, its jobs are told. An instance for
    /// a job under these limits is made, too.
    pub async fn load_ahead(&self, component: &Arc<LoadedComponent>, limits: &Limits) {
        if self.code_cache().is_half_empty()
            && let Ok(code) = self.code(component).await
        {
            self.get_ready(&code, limits, "", 1);
        }
    }

    /// Loads code that was dropped, or not loaded yet. Blocks.
    fn load_code(&self, component: &LoadedComponent) -> Result<Arc<Code>, Problem> {
        let Held::WhileUsed(held) = &component.held else {
            return Err(Problem::NotHadAgain { reason: "it is always held".into() });
        };
        let native = held.reload.reload(self)?;
        let handler = Handler::probe(native.engine(), &native)?;
        let pre = self.link(&native)?;
        let (checkers, _) = checkers(handler.derived().is_some(), &component.tasks)?;
        tracing::debug!(file = component.source.file, "the code of a component is loaded");
        Ok(Arc::new(Code::new(&native, pre, handler, checkers)))
    }

    /// Drops the code of a component when it is not used and others need the room, since it can be
    /// had again.
    pub fn shelve(
        &self,
        mut component: LoadedComponent,
        reload: Box<dyn Reload>,
    ) -> LoadedComponent {
        if let Held::Always(code) = component.held {
            component.held = Held::while_used(Some(code), reload);
        }
        if let Held::WhileUsed(held) = &component.held {
            self.code_cache().add(held);
        }
        component
    }
}

/// What the payloads of tasks are held to, and those that are held to nothing, with why.
pub(super) fn checkers(
    is_derived: bool,
    tasks: &[TaskSpec],
) -> Result<(HashMap<String, Checker>, Vec<Unchecked>), Problem> {
    let (mut checkers, mut unchecked) = (HashMap::new(), Vec::new());
    let mut patterns = PATTERNS_BYTES;
    if is_derived {
        // Values are of their types, or the job is rejected.
        return Ok((checkers, unchecked));
    }
    for task in tasks {
        let Some(schema) = &task.input_schema else { continue };
        let check = PayloadCheck::of(schema, &mut patterns).map_err(|reason| Problem::BadTask {
            name: task.name.clone(),
            reason: format!("input-schema {reason}"),
        })?;
        match check {
            PayloadCheck::Anything => {}
            PayloadCheck::Checked(checker) => {
                checkers.insert(task.name.clone(), *checker);
            }
            PayloadCheck::Unchecked(reason) => {
                unchecked.push(Unchecked { task: task.name.clone(), reason });
            }
        }
    }
    Ok((checkers, unchecked))
}
