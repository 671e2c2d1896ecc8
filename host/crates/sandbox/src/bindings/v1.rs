//! The handler of contract 1: `lovage:task/handler@1.0.0`, generated from `wit/v1`, which is
//! frozen. That of 1.1 has the same types.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, Instance, TypedFunc};

use self::generated::exports::lovage::task::handler as wit;
use super::Invocation;
use crate::error::Problem;
use crate::spec::TaskSpec;
use crate::state::State;
use lovage_core::outcome::{Failure, Outcome, Output};

/// The generated types. Borrowing ownership lets an invocation lend its strings and its payload
/// to the call, so that a payload is copied once: into the guest.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    unused_qualifications,
    dead_code,
    reason = "generated code"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "wit/v1",
        world: "lovage:task/task",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The versions whose handler has these types, for messages and manifests: 1.1 adds interfaces to
/// import, and leaves the handler as it was.
pub const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// Which of [`VERSIONS`] an exported version is: that minor version in any patch version, but no
/// pre-release, whose types nobody promised anything about. `None` where it is none of them.
pub fn serves(version: &str) -> Option<&'static str> {
    let patch = |series: &str| {
        let patch = version.strip_prefix(series)?;
        (!patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit())).then_some(())
    };
    VERSIONS.into_iter().find(|served| patch(served.strip_suffix('0').unwrap_or(served)).is_some())
}

/// What `run` takes and gives.
type Takes<'a> = (wit::Invocation<'a>,);
type Gives = (Result<wit::Output, wit::TaskError>,);

/// Where the two functions are.
#[derive(Debug, Clone)]
pub struct Handler {
    describe: ComponentExportIndex,
    run: ComponentExportIndex,
    /// True if the types of `run` are known to be those of the contract.
    checked: Arc<AtomicBool>,
}

impl Handler {
    /// Looks the functions up in the exported interface of that name.
    pub fn find(component: &Component, interface: &str) -> Result<Self, Problem> {
        let instance = component.get_export_index(None, interface);
        let function = |name: &str| {
            instance
                .as_ref()
                .and_then(|instance| component.get_export_index(Some(instance), name))
                .ok_or_else(|| Problem::WrongTypes {
                    reason: format!("`{interface}` has no function `{name}`"),
                })
        };
        let checked = Arc::default();
        Ok(Self { describe: function("describe")?, run: function("run")?, checked })
    }

    /// Calls `describe`, and checks the types of `run`, which an attempt then relies on.
    pub async fn describe(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<TaskSpec>> {
        let describe = instance
            .get_typed_func::<(), (Vec<wit::TaskSpec>,)>(&mut *store, &self.describe)
            .map_err(WrongTypes::of("describe"))?;
        self.typed_run(store, instance).map_err(WrongTypes::of("run"))?;
        let (tasks,) = describe.call_async(store, ()).await?;
        Ok(tasks.into_iter().map(TaskSpec::from).collect())
    }

    /// Calls `run`.
    pub async fn run(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        invocation: Invocation<'_>,
    ) -> wasmtime::Result<Outcome> {
        let job = invocation.job;
        let headers: Vec<(&str, &str)> =
            job.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let invocation = wit::Invocation {
            id: &job.id,
            task: &job.task,
            tenant: &job.tenant,
            attempt: job.attempt,
            max_attempts: invocation.max_attempts,
            deadline: invocation.deadline,
            root_id: job.root_id.as_deref().unwrap_or(&job.id),
            parent_id: job.parent_id.as_deref(),
            headers: &headers,
            content_type: &job.content_type,
            payload: &job.payload,
        };
        let run = self.typed_run(store, instance)?;
        let (returned,) = run.call_async(store, (invocation,)).await?;
        Ok(match returned {
            Ok(output) => Outcome::Done(output.into()),
            Err(error) => error.into(),
        })
    }

    /// The function `run` of an instance. Its types are held to the contract's once: that takes
    /// longer than all else about it.
    fn typed_run<'a>(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<TypedFunc<Takes<'a>, Gives>> {
        if !self.checked.load(Relaxed) {
            let run = instance.get_typed_func(&mut *store, self.run)?;
            self.checked.store(true, Relaxed);
            return Ok(run);
        }
        let run = instance
            .get_func(&mut *store, self.run)
            .ok_or_else(|| wasmtime::Error::msg("the component has no `run` any more"))?;
        // SAFETY: these are the types that another instance of the same component was held to by
        // `get_typed_func`. A function's types are the component's, and none of these is a
        // resource, which each instance has of its own.
        #[allow(unsafe_code)]
        let run = unsafe { TypedFunc::new_unchecked(run) };
        Ok(run)
    }
}

/// A function of the handler has other types than the contract says.
#[derive(Debug, thiserror::Error)]
#[error("the types of `{function}` are not those of the contract: {reason}")]
pub struct WrongTypes {
    function: &'static str,
    reason: String,
}

impl WrongTypes {
    fn of(function: &'static str) -> impl FnOnce(wasmtime::Error) -> wasmtime::Error {
        move |error| wasmtime::Error::new(Self { function, reason: format!("{error:#}") })
    }
}

impl From<wit::TaskSpec> for TaskSpec {
    fn from(spec: wit::TaskSpec) -> Self {
        Self {
            name: spec.name,
            description: spec.description,
            input_schema: spec.input_schema,
            output_schema: spec.output_schema,
            max_attempts: spec.max_attempts,
            timeout: spec.timeout.map(Duration::from_millis),
        }
    }
}

impl From<wit::Output> for Output {
    fn from(output: wit::Output) -> Self {
        Self { content_type: output.content_type, data: output.data.into() }
    }
}

impl From<wit::TaskError> for Outcome {
    fn from(error: wit::TaskError) -> Self {
        match error {
            wit::TaskError::Retry(request) => Self::Retry {
                failure: Failure::new("retry", request.reason),
                after: request.after.map(Duration::from_millis),
            },
            wit::TaskError::Snooze(after) => Self::Snooze { after: Duration::from_millis(after) },
            wit::TaskError::Fail(failure) => Self::Failed(Failure {
                kind: failure.kind,
                message: failure.message,
                detail: failure.detail,
            }),
            wit::TaskError::Reject(reason) => Self::Rejected(Failure::new("rejected", reason)),
        }
    }
}
