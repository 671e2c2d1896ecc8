//! Interfaces that an embedding program serves to guests beside those of Lovage.
//!
//! A guest starts with nothing: an interface names the tasks that may call it, and every other
//! guest traps at its first call. What bounds a call: it counts as a host call
//! ([`Limits::host_calls`](crate::Limits::host_calls)); its arguments count as bytes that cross to
//! the host in one call; its result is written into the guest's own memory. The function runs on
//! the attempt's thread and is not interrupted, so it must not block.

use std::{collections::BTreeSet, fmt, sync::Arc};

use wasmtime::component::{Linker, Val};

use crate::state::State;

/// Who calls a function of a [`HostInterface`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The job's id.
    pub job_id: &'a str,
    /// The task.
    pub task: &'a str,
    /// The tenant; empty for jobs without one.
    pub tenant: &'a str,
}

/// A function of a [`HostInterface`]: arguments to results, as many as its WIT type has. An error
/// ends the attempt as a crash, with the text as its reason.
pub type HostFunction = dyn Fn(Caller<'_>, &[Val]) -> Result<Vec<Val>, String> + Send + Sync;

/// An interface of the embedding program's own.
#[derive(Clone)]
pub struct HostInterface {
    name: String,
    tasks: BTreeSet<String>,
    functions: Vec<(String, Arc<HostFunction>)>,
}

impl fmt::Debug for HostInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions: Vec<_> = self.functions.iter().map(|(name, _)| name).collect();
        f.debug_struct("HostInterface")
            .field("name", &self.name)
            .field("tasks", &self.tasks)
            .field("functions", &functions)
            .finish()
    }
}

impl HostInterface {
    /// An interface by its full name, such as `acme:billing/ledger@1.0.0`. No task may call it yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), tasks: BTreeSet::new(), functions: Vec::new() }
    }

    /// Lets a task call it.
    #[must_use]
    pub fn grant(mut self, task: impl Into<String>) -> Self {
        self.tasks.insert(task.into());
        self
    }

    /// Adds a function. The types are those that the importing component declares: check them.
    #[must_use]
    pub fn function(
        mut self,
        name: impl Into<String>,
        function: impl Fn(Caller<'_>, &[Val]) -> Result<Vec<Val>, String> + Send + Sync + 'static,
    ) -> Self {
        self.functions.push((name.into(), Arc::new(function)));
        self
    }

    /// The interface's full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn add_to_linker(&self, linker: &mut Linker<State>) -> wasmtime::Result<()> {
        let mut instance = linker.instance(&self.name)?;
        for (name, function) in &self.functions {
            let (interface, function) = (self.clone(), Arc::clone(function));
            instance.func_new(name, move |mut store, _, arguments, results| {
                let state = store.data_mut();
                state.calls.count();
                let Some(job) = state.job.as_deref() else {
                    wasmtime::bail!(
                        "{} is not served while a component is described",
                        interface.name
                    );
                };
                if !interface.tasks.contains(&job.task) {
                    wasmtime::bail!("{} is not granted to the task {}", interface.name, job.task);
                }
                let caller = Caller { job_id: &job.id, task: &job.task, tenant: &job.tenant };
                let values = function(caller, arguments).map_err(wasmtime::Error::msg)?;
                if values.len() != results.len() {
                    wasmtime::bail!(
                        "{} gave {} results, and its type has {}",
                        interface.name,
                        values.len(),
                        results.len()
                    );
                }
                results.iter_mut().zip(values).for_each(|(result, value)| *result = value);
                Ok(())
            })?;
        }
        Ok(())
    }
}
