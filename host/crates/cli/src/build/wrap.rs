//! From core modules to components.
//!
//! Tools of some languages make a plain module that follows the contract's names. What makes a
//! component of it is the contract itself, from the project's `wit`, and for modules of WASI's
//! first preview an adapter.

use anyhow::{Context as _, bail};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

use crate::{language::Language, project::Project};

/// The component itself, or one that is made of the core module.
pub fn component(project: &Project, wasm: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    match wasm.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => Ok(wasm),
        Some(b"\0asm\x01\0\0\0") => {
            wrap(project, wasm).context("cannot make a component of the module")
        }
        _ => bail!("what was made is no WebAssembly"),
    }
}

fn wrap(project: &Project, mut module: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if !is_bound(&module) {
        let (resolve, world) = world(project)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    ComponentEncoder::default()
        .validate(true)
        .module(&module)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
        // Where Go's own allocator is not ready yet when the adapter first needs memory.
        .realloc_via_memory_grow(project.settings.lang == Language::Go)
        .encode()
}

/// Whether a module says itself which world it is for, as bindings of C make it do.
fn is_bound(module: &[u8]) -> bool {
    wasmparser::Parser::new(0).parse_all(module).any(|payload| {
        matches!(payload, Ok(wasmparser::Payload::CustomSection(section))
            if section.name().starts_with("component-type"))
    })
}

/// The world that the project targets.
pub fn world(project: &Project) -> anyhow::Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(project.wit())
        .with_context(|| format!("cannot read the contract in {}", project.wit().display()))?;
    let world = resolve.select_world(&[package], Some(&project.settings.world))?;
    Ok((resolve, world))
}
