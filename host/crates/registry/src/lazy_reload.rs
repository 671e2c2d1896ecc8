//! Components whose code is not in memory all the time: it is loaded when a job needs it, from the
//! compile cache, and dropped when others are used more.
//!
//! That a worker knows which tasks they serve, it takes from what was found out about them before,
//! which is kept beside their code. So a worker that serves a thousand starts without loading one.

use bytes::Bytes;
use wasmtime::component::Component;

use super::RegistryError;
use super::cache::CompileCache;
use super::history::History;
use super::load::{LoadOptions, compiled};
use lovage_sandbox::{LoadedComponent, Problem, Reload, Sandbox, Source};

/// Where the code of a component is to be had again.
struct Again {
    cache: CompileCache,
    /// Where the component itself is kept, if the cache has dropped its code.
    history: History,
    source: Source,
}

impl Reload for Again {
    fn reload(&self, sandbox: &Sandbox) -> Result<Component, Problem> {
        let Source { file, digest, .. } = &self.source;
        if let Some(component) = self.cache.cached(sandbox, digest)? {
            return Ok(component);
        }
        let not_had = |reason: String| Problem::NotHadAgain { reason };
        let kept = self.history.wasm(digest).map_err(|error| not_had(error.to_string()))?;
        let Some((wasm, _)) = kept else {
            return Err(not_had(format!(
                "its code is not in {} any more, nor is {digest} in {}; restart the worker, which \
                 reads {file} again",
                self.cache.path().display(),
                self.history.path().display()
            )));
        };
        self.cache.compile(sandbox, &self.source, &wasm)
    }
}

/// Takes what is known of a component, or loads it to find that out.
pub(super) async fn loaded(
    sandbox: &Sandbox,
    options: &LoadOptions,
    (cache, history): (&CompileCache, &History),
    source: Source,
    wasm: Bytes,
) -> Result<LoadedComponent, RegistryError> {
    let again = || {
        let (cache, history) = (cache.clone(), history.clone());
        Box::new(Again { cache, history, source: source.clone() })
    };
    let digest = &source.digest;
    let known = cache.metadata(sandbox, digest, &options.limits);
    if let Some(component) =
        known.and_then(|metadata| LoadedComponent::of_metadata(source.clone(), metadata, again()))
    {
        return Ok(component);
    }
    let component = compiled(sandbox, options, source.clone(), wasm).await?;
    cache.keep_facts(sandbox, digest, &options.limits, component.metadata());
    Ok(sandbox.shelve(component, again()))
}
