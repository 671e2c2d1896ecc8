//! The guests that tests run: those that ship, the hostile ones, and some made from text.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lovage::job::Job;
use lovage::registry::CompileCache;
use lovage::sandbox::{EngineOptions, LoadedComponent, Plan, Report, Sandbox};

/// The file of a guest that `make guests` built: `echo`, or `hostile/spin`.
pub fn file(name: &str) -> PathBuf {
    let dist = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks/dist");
    let [plain, granted] =
        [dist.join(name), dist.join("granted").join(name)].map(|file| file.with_extension("wasm"));
    let file = if granted.exists() { granted } else { plain };
    assert!(file.exists(), "{} is not there: run `make guests`", file.display());
    file
}

/// A sandbox for tests: few slots, and all else as it is for everybody.
pub fn sandbox() -> Sandbox {
    Sandbox::new(EngineOptions { slots: 4, ..EngineOptions::default() }).unwrap()
}

/// Compiling a guest takes a debug build seconds; so tests share a cache while they run.
fn cache() -> &'static CompileCache {
    static CACHE: OnceLock<CompileCache> = OnceLock::new();
    CACHE.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compile-cache");
        CompileCache::open(&dir, 1 << 30).unwrap()
    })
}

/// The options by which tests load components: with the shared cache, and whatever they import.
/// What they are granted is in a test's plan.
pub fn load_options() -> lovage::registry::LoadOptions {
    const ANY: &str = "[defaults.grants]\nhttp = ['https://any.example']\nconfig = {}\n\
                       keyvalue = ['any']\ndispatch = ['any']\n";
    let config = lovage::config::Config::parse(ANY, "any").unwrap();
    lovage::registry::LoadOptions {
        cache: Some(cache().clone()),
        policies: Arc::new(lovage::policy::Policies::new(&config)),
        ..lovage::registry::LoadOptions::default()
    }
}

/// Loads a guest that `make guests` built.
pub async fn load(sandbox: &Sandbox, name: &str) -> Arc<LoadedComponent> {
    let origin = lovage::registry::Origin::Wasm(file(name));
    let registry =
        lovage::registry::Registry::load(sandbox, &[origin], &load_options()).await.unwrap();
    registry.components().remove(0)
}

/// Runs a job once, under the default limits but for what `change` changes.
pub async fn run(
    sandbox: &Sandbox,
    component: &Arc<LoadedComponent>,
    task: &str,
    payload: &str,
    change: impl FnOnce(&mut Plan),
) -> Report {
    let job = Job::new("job-1", task, payload.to_owned());
    let mut plan = Plan::default();
    plan.limits.timeout = Duration::from_secs(30);
    change(&mut plan);
    sandbox.run(component, job.clone(), &plan).await
}

/// A component from the text of a core module, which has to export
///
/// - `lovage:task/handler@1.0.0#describe`, `() -> i32`, and `…#run`, `(i32) -> i32`, each giving
///   back a pointer to its result,
/// - `memory`, and `cabi_realloc`.
///
/// `TASK` in the text becomes a description of one task, `t`, at address 64; and `REALLOC` an
/// allocator that never frees.
pub fn component_from_text(module: &str) -> Vec<u8> {
    component_that_imports(&[], "", module)
}

/// A component of a world of its own, which knows nothing of the contract: `world` is what is in the
/// world, `interfaces` stands beside it in the package `test:typed@1.0.0`.
pub fn component_of_world(interfaces: &str, world: &str, module: &str) -> Vec<u8> {
    let module = module.replace("REALLOC", REALLOC);
    let mut resolve = wit_parser::Resolve::default();
    let text = format!("package test:typed@1.0.0; {interfaces} world w {{ {world} }}");
    let package = resolve.push_str("world.wit", &text).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    encode(wat::parse_str(&module).unwrap(), &resolve, world).unwrap()
}

/// `cabi_realloc`, which never frees.
const REALLOC: &str = r#"
            (global $top (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
              (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
              (global.set $top (i32.add (local.get $at) (local.get 3)))
              (block $grown
                (br_if $grown (i32.le_u (global.get $top)
                    (i32.mul (memory.size) (i32.const 65536))))
                (drop (memory.grow (i32.sub
                    (i32.add (i32.div_u (global.get $top) (i32.const 65536)) (i32.const 1))
                    (memory.size)))))
              (local.get $at))"#;

/// The same for a module that imports: `packages` are texts of WIT, and `imports` is what a world
/// says of them.
pub fn component_that_imports(packages: &[&str], imports: &str, module: &str) -> Vec<u8> {
    let module = module.replace("REALLOC", REALLOC).replace(
        "TASK",
        // A list of one spec at 64: pointer 80, length 1. The spec: name, description, and
        // four options that are none. 16 × 4 bytes are more than it has.
        r#"
            (data (i32.const 64) "\50\00\00\00\01\00\00\00")
            (data (i32.const 80) "\20\00\00\00\01\00\00\00\20\00\00\00\01\00\00\00")
            (data (i32.const 32) "t")
            (func (export "lovage:task/handler@1.0.0#describe") (result i32) (i32.const 64))"#,
    );
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wit/v1");
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_dir(&wit).unwrap();
    for package in packages {
        resolve.push_str("package.wit", package).unwrap();
    }
    let world = format!("package test:t; world t {{ {imports} include lovage:task/task@1.0.0; }}");
    let package = resolve.push_str("world.wit", &world).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    encode(wat::parse_str(&module).unwrap(), &resolve, world).unwrap()
}

/// A component of a core module that imports nothing, if the module fits the contract.
pub fn try_component(module: Vec<u8>) -> Result<Vec<u8>, String> {
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wit/v1");
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_dir(&wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    encode(module, &resolve, world)
}

fn encode(
    mut module: Vec<u8>,
    resolve: &wit_parser::Resolve,
    world: wit_parser::WorldId,
) -> Result<Vec<u8>, String> {
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, resolve, world, utf8)
        .and_then(|()| {
            wit_component::ComponentEncoder::default().module(&module)?.validate(true).encode()
        })
        .map_err(|error| format!("{error:#}"))
}
