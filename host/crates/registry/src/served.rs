//! What is served at one moment: components by their places, and tasks by their names.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::canary::{Canary, Comparison};
use super::version::{Counts, Version};
use super::{RegistryError, Task};

/// A component, and the version of it that may follow.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub now: Arc<Version>,
    pub trial: Option<Trial>,
    /// True if its place does not offer it any more.
    pub gone: bool,
}

/// A version that is tried.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub version: Arc<Version>,
    pub canary: Canary,
    /// What the version that it may replace had done before.
    pub before: Counts,
    /// Above this an attempt is slow. Fixed as soon as the old version's median is known.
    slow: Arc<OnceLock<Duration>>,
    /// How often it was asked whether the version takes over.
    pub looks: Arc<AtomicU32>,
}

impl Trial {
    /// Of a version, beside the one that it may replace.
    pub(super) fn new(version: Arc<Version>, now: &Version, canary: Canary) -> Self {
        let before = now.tally.now();
        let slow = Arc::new(canary.slow_above(&before).map_or_else(OnceLock::new, OnceLock::from));
        Self { version, canary, before, slow, looks: Arc::default() }
    }

    /// Compares what both did.
    pub(super) fn compare(&self, now: &Version) -> Comparison {
        let all = now.tally.now();
        if self.slow.get().is_none()
            && let Some(slow) = self.canary.slow_above(&all)
        {
            let _ = self.slow.set(slow);
        }
        let (during, new) = (all.since(&self.before), self.version.tally.now());
        self.canary.compare(&self.before, &during, &new, self.slow.get().copied())
    }
}

/// Who serves a task.
#[derive(Debug, Clone)]
struct Entry {
    now: Arc<Task>,
    trial: Option<(Arc<Task>, Canary)>,
}

/// The components and tasks of one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Served {
    pub slots: BTreeMap<String, Slot>,
    tasks: HashMap<String, Entry>,
}

impl Served {
    /// The same with a change to its components; refused where two would serve one task.
    pub(super) fn with(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Slot>),
    ) -> Result<Self, RegistryError> {
        let mut slots = self.slots.clone();
        change(&mut slots);
        let mut tasks: HashMap<String, Entry> = HashMap::new();
        for slot in slots.values() {
            for task in &slot.now.tasks {
                let entry = Entry { now: Arc::clone(task), trial: None };
                if let Some(other) = tasks.insert(task.spec.name.clone(), entry) {
                    return Err(twice(&other.now, task));
                }
            }
        }
        for slot in slots.values() {
            let Some(Trial { version, canary, .. }) = &slot.trial else { continue };
            for task in &version.tasks {
                let new = Entry { now: Arc::clone(task), trial: None };
                let entry = tasks.entry(task.spec.name.clone()).or_insert(new);
                let theirs = &entry.now.component;
                if Arc::ptr_eq(theirs, &slot.now.component) {
                    entry.trial = Some((Arc::clone(task), *canary));
                } else if !Arc::ptr_eq(theirs, &version.component) {
                    return Err(twice(&entry.now, task));
                }
            }
        }
        Ok(Self { slots, tasks })
    }

    /// Who serves a task, whatever is tried.
    pub(super) fn get(&self, task: &str) -> Option<&Arc<Task>> {
        self.tasks.get(task).map(|entry| &entry.now)
    }

    /// Who serves a task for a job.
    pub(super) fn choose(&self, task: &str, job: &str) -> Option<&Arc<Task>> {
        let entry = self.tasks.get(task)?;
        Some(match &entry.trial {
            Some((trial, canary)) if canary.takes(job, &trial.component.source.digest) => trial,
            _ => &entry.now,
        })
    }

    /// The place of the component that serves a task.
    pub(super) fn place_of(&self, task: &str) -> Option<&str> {
        let component = &self.get(task)?.component;
        let mut slots = self.slots.iter();
        let found = slots.find(|(_, slot)| Arc::ptr_eq(&slot.now.component, component))?;
        Some(found.0)
    }

    /// The names of all tasks, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// The trial that a version of a component is in, and whose.
    pub(super) fn trial_of(&self, task: &Task) -> Option<(&str, &Slot, &Trial)> {
        self.slots.iter().find_map(|(place, slot)| {
            let trial = slot.trial.as_ref()?;
            Arc::ptr_eq(&trial.version.component, &task.component).then_some((
                place.as_str(),
                slot,
                trial,
            ))
        })
    }
}

fn twice(first: &Task, second: &Task) -> RegistryError {
    RegistryError::TaskTwice {
        task: second.spec.name.clone(),
        first: first.component.source.file.clone(),
        second: second.component.source.file.clone(),
    }
}
