//! The contract's versions, each in a module of its own, behind one [`Handler`].
//!
//! A version that was released stays served for good: a new one gets a module beside the old
//! ones, and an arm in [`Handler`]. Nothing outside of this directory knows that there are
//! versions at all; what crosses is [`Invocation`], [`TaskSpec`] and [`Outcome`]. Components that
//! export none are run by the types of their functions (see [`typed`](super::typed)).

pub mod v1;
pub mod v1_1;

use std::sync::Arc;

use wasmtime::component::{Component, Instance, types::ComponentItem};
use wasmtime::{Engine, Store};

use super::error::Problem;
use super::limits::Limits;
use super::spec::TaskSpec;
use super::state::State;
use super::typed::{self, Arguments, Functions, NoTask};
use lovage_core::job::Job;
use lovage_core::outcome::{Failure, Outcome};

/// The interface that a task component exports, without its version.
pub const HANDLER: &str = "lovage:task/handler";

/// The versions that this host serves, as they are told to people.
pub const SERVED: &[&str] = &v1::VERSIONS;

/// One attempt, before it is put in the words of some version of the contract.
#[derive(Debug, Clone, Copy)]
pub struct Invocation<'a> {
    /// The job, whose bytes are lent: they are copied once, into the guest's memory.
    pub job: &'a Job,
    /// The attempt after which the host gives up; at least 1.
    pub max_attempts: u32,
    /// Milliseconds since the Unix epoch at which the guest is stopped.
    pub deadline: u64,
}

/// Where a component keeps the two functions of the contract, looked up once when it is loaded:
/// a look-up by name on every attempt costs as much as a small guest does.
#[derive(Debug, Clone)]
pub enum Handler {
    /// Contract 1, in any minor version that is served.
    V1(v1::Handler, &'static str),
    /// None: functions of any types.
    Typed(Arc<Functions>),
}

/// What a job's payload is for the handler that will run it.
#[derive(Debug)]
pub enum Input {
    /// The bytes, as they are.
    Payload,
    /// Values of a function's types.
    Values(Arguments),
}

impl Input {
    /// The bytes that it takes of the attempt's memory.
    pub fn memory_bytes(&self) -> u64 {
        match self {
            Self::Payload => 0,
            Self::Values(arguments) => arguments.bytes,
        }
    }
}

impl Handler {
    /// Finds the newest version of the handler that the component exports and that is served. Where
    /// it exports none, its functions are looked at.
    pub fn probe(engine: &Engine, component: &Component) -> Result<Self, Problem> {
        let exports: Vec<String> = component
            .component_type()
            .exports(engine)
            .filter(|(_, export)| !matches!(export.ty, ComponentItem::Type(_)))
            .map(|(name, _)| name.to_owned())
            .collect();
        let versions: Vec<&str> = exports
            .iter()
            .filter_map(|name| name.strip_prefix(HANDLER))
            .filter_map(|rest| match rest.strip_prefix('@') {
                Some(version) => Some(version),
                // An interface without a version; `handler-of-mine` is another interface.
                None => rest.is_empty().then_some("none"),
            })
            .collect();
        let served = versions.iter().filter_map(|version| Some((v1::serves(version)?, *version)));
        if let Some((serves, version)) = served.max() {
            let name = format!("{HANDLER}@{version}");
            return v1::Handler::find(component, &name).map(|handler| Self::V1(handler, serves));
        }
        if versions.is_empty() {
            let functions = Functions::find(engine, component)?;
            if functions.tasks.is_empty() {
                return Err(Problem::NoHandler { exports, others: functions.others });
            }
            return Ok(Self::Typed(Arc::new(functions)));
        }
        Err(Problem::UnservedVersion { found: versions.into_iter().map(str::to_owned).collect() })
    }

    /// The version of the contract, such as `1.0.0`; [`typed::CONTRACT`] where there is none.
    pub fn version(&self) -> &'static str {
        match self {
            Self::V1(_, version) => version,
            Self::Typed(_) => typed::CONTRACT,
        }
    }

    /// The exported functions that are no tasks, where functions are looked at.
    pub fn others(&self) -> &[NoTask] {
        match self {
            Self::V1(..) => &[],
            Self::Typed(functions) => &functions.others,
        }
    }

    /// What the component serves, where that follows from its types.
    pub fn derived(&self) -> Option<&[TaskSpec]> {
        match self {
            Self::V1(..) => None,
            Self::Typed(functions) => Some(&functions.tasks),
        }
    }

    /// Asks the component what it serves.
    pub async fn describe(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<TaskSpec>> {
        match self {
            Self::V1(handler, _) => handler.describe(store, instance).await,
            Self::Typed(functions) => Ok(functions.tasks.clone()),
        }
    }

    /// Makes of a job's payload what the guest is called with; the error says why it is rejected. `None`
    /// if the attempt came to its end meanwhile, which `goes_on` tells.
    pub fn input(
        &self,
        job: &Job,
        limits: &Limits,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Input, Option<Failure>> {
        match self {
            Self::V1(..) => Ok(Input::Payload),
            Self::Typed(functions) => match functions.get(&job.task) {
                Some(function) => function.arguments(job, limits, goes_on).map(Input::Values),
                None => Err(Some(Failure::new(
                    typed::INVALID_PAYLOAD,
                    "the component has no function for the task",
                ))),
            },
        }
    }

    /// Makes one attempt. The error is a trap or a limit; what the guest itself says of the job
    /// is in the outcome, whose texts are the guest's and not yet cut or escaped.
    pub async fn run(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        invocation: Invocation<'_>,
        input: Input,
        limits: &Limits,
    ) -> wasmtime::Result<Outcome> {
        match (self, input) {
            (Self::V1(handler, _), _) => handler.run(store, instance, invocation).await,
            (Self::Typed(functions), Input::Values(arguments)) => {
                let function = functions.get(&invocation.job.task);
                let function =
                    function.ok_or_else(|| wasmtime::Error::msg("there is no such function"))?;
                function.call(store, instance, arguments, limits).await
            }
            (Self::Typed(_), Input::Payload) => {
                Err(wasmtime::Error::msg("a function takes values, and no payload"))
            }
        }
    }
}
