//! An engine with what attempts on it share: one for each [`Mode`].

use std::sync::OnceLock;

use wasmtime::Engine;
use wasmtime::component::Linker;

use super::engine::{Allocator, EngineOptions, Mode};
use super::error::EngineError;
use super::host_interface::HostInterface;
use super::state::{self, State};
use super::ticker::Ticker;

/// An engine, its clock, and what guests on it may import.
pub(super) struct EngineSet {
    pub engine: Engine,
    pub linker: Linker<State>,
    pub ticker: Ticker,
    pub allocator: Allocator,
}

impl EngineSet {
    fn new(
        options: &EngineOptions,
        interfaces: &[HostInterface],
        mode: Mode,
    ) -> Result<Self, EngineError> {
        let (engine, allocator) = options.build(mode)?;
        let linker = state::linker(&engine, mode).and_then(|mut linker| {
            interfaces.iter().try_for_each(|it| it.add_to_linker(&mut linker))?;
            Ok(linker)
        });
        let linker = linker.map_err(|error| EngineError::Wasi(format!("{error:#}")))?;
        let ticker = Ticker::start(&engine, options.tick)?;
        Ok(Self { engine, linker, ticker, allocator })
    }
}

/// The engines of a sandbox.
pub(super) struct EngineSets {
    plain: EngineSet,
    /// Made for the first component that needs it.
    concurrent: OnceLock<Result<EngineSet, String>>,
}

impl EngineSets {
    pub(super) fn new(
        options: &EngineOptions,
        interfaces: &[HostInterface],
    ) -> Result<Self, EngineError> {
        let plain = EngineSet::new(options, interfaces, Mode::Plain)?;
        Ok(Self { plain, concurrent: OnceLock::new() })
    }

    /// That of most components.
    pub(super) fn plain(&self) -> &EngineSet {
        &self.plain
    }

    /// That of components of a mode. The error says why there is none.
    pub(super) fn of(
        &self,
        mode: Mode,
        options: &EngineOptions,
        interfaces: &[HostInterface],
    ) -> Result<&EngineSet, String> {
        match mode {
            Mode::Plain => Ok(&self.plain),
            Mode::Concurrent => {
                let make =
                    || EngineSet::new(options, interfaces, mode).map_err(|error| error.to_string());
                self.concurrent.get_or_init(make).as_ref().map_err(Clone::clone)
            }
        }
    }

    /// That of what was made on an engine of these.
    pub(super) fn of_engine(&self, engine: &Engine) -> &EngineSet {
        match self.concurrent.get() {
            Some(Ok(engine_set)) if Engine::same(&engine_set.engine, engine) => engine_set,
            _ => &self.plain,
        }
    }
}
