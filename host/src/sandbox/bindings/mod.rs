//! The contract's versions, each in a module of its own, behind one [`Handler`].
//!
//! A version that was released stays served for good: a new one gets a module beside the old
//! ones, and an arm in [`Handler`]. Nothing outside of this directory knows that there are
//! versions at all; what crosses is [`Invocation`], [`TaskSpec`] and [`Outcome`].

pub mod v1;
pub mod v1_1;

use wasmtime::component::{Component, Instance, types::ComponentItem};
use wasmtime::{Engine, Store};

use super::error::Problem;
use super::spec::TaskSpec;
use super::state::State;
use crate::job::Job;
use crate::outcome::Outcome;

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
}

impl Handler {
    /// Finds the newest version of the handler that the component exports and that is served.
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
            return Err(Problem::NoHandler { exports });
        }
        Err(Problem::UnservedVersion { found: versions.into_iter().map(str::to_owned).collect() })
    }

    /// The version of the contract, such as `1.0.0`.
    pub fn version(&self) -> &'static str {
        match self {
            Self::V1(_, version) => version,
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
        }
    }

    /// Makes one attempt. The error is a trap or a limit; what the guest itself says of the job
    /// is in the outcome, whose texts are the guest's and not yet cut or escaped.
    pub async fn run(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        invocation: Invocation<'_>,
    ) -> wasmtime::Result<Outcome> {
        match self {
            Self::V1(handler, _) => handler.run(store, instance, invocation).await,
        }
    }
}
