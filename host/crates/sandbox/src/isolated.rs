//! What attempts in other processes need of this one's sandbox.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::Engine;

use super::Sandbox;
use super::compiler;
use super::component::{LoadedComponent, Source};
use super::config::{self, GivenConfig};
use super::engine::Mode;
use super::error::Problem;
use super::limits::Limits;
use super::scratch::{ChildHome, ScratchError};
use super::spec::TaskSpec;
use lovage_core::outcome::Outcome;
use lovage_policy::Grants;

impl Sandbox {
    /// A component's native code, and the engine that it is for. Loads it where it is not held.
    pub async fn native_code(
        &self,
        component: &Arc<LoadedComponent>,
    ) -> Result<(Mode, Vec<u8>), Problem> {
        let code = self.code(component).await?;
        let engine = code.pre.engine();
        let plain = Engine::same(engine, &self.0.engine_sets.plain().engine);
        let mode = if plain { Mode::Plain } else { Mode::Concurrent };
        let native = code.pre.component().serialize();
        native
            .map(|native| (mode, native))
            .map_err(|error| Problem::NotHadAgain { reason: format!("{error:#}") })
    }

    /// A component from another process's native code, which is trusted as this program is.
    pub async fn load_native(
        &self,
        source: Source,
        native: &[u8],
        mode: Mode,
        tasks: Vec<TaskSpec>,
    ) -> anyhow::Result<LoadedComponent> {
        let component = compiler::from_parent(self.engine_of(mode)?, native)
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(self.load(source, component, Some(tasks), &Limits::default()).await?)
    }

    /// What an attempt in another process reads by `wasi:config/store`.
    pub async fn given_config(
        &self,
        component: &LoadedComponent,
        grants: &Grants,
        deadline: Instant,
    ) -> Result<GivenConfig, Outcome> {
        if !component.reads_config {
            return Ok(GivenConfig::default());
        }
        config::given(self.services(), grants, deadline).await
    }

    /// A directory in which another process has its scratch directories.
    pub fn child_home(&self) -> Result<ChildHome, ScratchError> {
        self.scratches().child_home()
    }
}
