//! What a worker promises that serves more components than it has memory for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lovage::outcome::Outcome;
use lovage::registry::{CompileCache, History, LoadOptions, Origin, Registry};
use lovage::sandbox::{EngineOptions, Limits, Sandbox};
use tempfile::TempDir;

use crate::guests::run;

struct CodeCache {
    directory: TempDir,
}

impl CodeCache {
    /// Components with one task each, `times_2`, `times_3` and so on.
    fn with(count: u64) -> Self {
        let code_cache = Self { directory: TempDir::new().unwrap() };
        fs::create_dir(code_cache.path("tasks")).unwrap();
        for factor in 2..2 + count {
            let text = format!(
                r#"(component
                    (core module $code
                        (func (export "times") (param i64) (result i64)
                            (i64.mul (local.get 0) (i64.const {factor}))))
                    (core instance $instance (instantiate $code))
                    (func (export "times-{factor}") (param "x" s64) (result s64)
                        (canon lift (core func $instance "times"))))"#
            );
            let file = code_cache.path("tasks").join(format!("times{factor}.wasm"));
            fs::write(file, wat::parse_str(text).unwrap()).unwrap();
        }
        code_cache
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn options(&self) -> LoadOptions {
        LoadOptions {
            cache: Some(CompileCache::open(&self.path("cache"), 1 << 30).unwrap()),
            history: Some(History::open(&self.path("history"), 2).unwrap()),
            ..LoadOptions::default()
        }
    }

    async fn registry(&self, sandbox: &Sandbox, options: &LoadOptions) -> Registry {
        Registry::load(sandbox, &[Origin::Wasm(self.path("tasks"))], options).await.unwrap()
    }

    /// Of how many components the code is in the memory of this process.
    fn in_memory(&self) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let here = self.path("cache").canonicalize().unwrap();
        let mut files: Vec<&str> = maps
            .lines()
            .filter_map(|line| line.find('/').and_then(|at| line.get(at..)))
            .filter(|file| Path::new(file).starts_with(&here))
            .collect();
        files.sort_unstable();
        files.dedup();
        files.len()
    }
}

/// A sandbox that holds the code of one component, unless more is used at once.
fn narrow() -> Sandbox {
    Sandbox::new(EngineOptions { slots: 4, loaded_bytes: 1, ..EngineOptions::default() }).unwrap()
}

async fn times(sandbox: &Sandbox, registry: &Registry, factor: u64) -> Outcome {
    let name = format!("times_{factor}");
    let task = registry.get(&name).unwrap();
    run(sandbox, &task.component, &name, "21", |_| {}).await.outcome
}

async fn works(sandbox: &Sandbox, registry: &Registry, factor: u64) {
    match times(sandbox, registry, factor).await {
        Outcome::Done(output) => assert_eq!(output.data, (21 * factor).to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_code_of_what_is_used_least_recently_is_dropped_and_had_again() {
    let code_cache = CodeCache::with(4);
    let sandbox = narrow();
    let registry = code_cache.registry(&sandbox, &code_cache.options()).await;
    for round in 0..3 {
        for factor in 2..6 {
            works(&sandbox, &registry, factor).await;
            assert_eq!(code_cache.in_memory(), 1, "round {round}");
        }
    }
    let wide = Sandbox::new(EngineOptions { slots: 4, ..EngineOptions::default() }).unwrap();
    let registry = code_cache.registry(&wide, &code_cache.options()).await;
    for factor in 2..6 {
        works(&wide, &registry, factor).await;
    }
    assert_eq!(code_cache.in_memory(), 4);
}

#[tokio::test]
async fn a_worker_that_knows_its_components_starts_without_loading_them() {
    let code_cache = CodeCache::with(3);
    drop(code_cache.registry(&narrow(), &code_cache.options()).await);
    let sandbox = narrow();
    let registry = Arc::new(code_cache.registry(&sandbox, &code_cache.options()).await);
    assert_eq!(code_cache.in_memory(), 0);
    let names: Vec<_> = registry.tasks().iter().map(|task| task.spec.name.clone()).collect();
    assert_eq!(names, ["times_2", "times_3", "times_4"]);
    // Many who want the same at once load it once, and all have it.
    let all = (0..40).map(|job| {
        let (sandbox, registry) = (sandbox.clone(), Arc::clone(&registry));
        tokio::spawn(async move { works(&sandbox, &registry, 2 + job % 3).await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    // What was found out under other limits may not be so under these.
    let limits = Limits { memories: 2, ..Limits::default() };
    let other =
        code_cache.registry(&narrow(), &LoadOptions { limits, ..code_cache.options() }).await;
    assert!(code_cache.in_memory() > 0);
    drop(other);
}

#[tokio::test]
async fn code_that_the_cache_has_lost_is_compiled_again_and_a_job_told_where_it_cannot_be() {
    let code_cache = CodeCache::with(2);
    let sandbox = narrow();
    let registry = code_cache.registry(&sandbox, &code_cache.options()).await;
    let empty = |name: &str| {
        for entry in fs::read_dir(code_cache.path(name)).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    };
    empty("cache");
    works(&sandbox, &registry, 2).await;
    works(&sandbox, &registry, 3).await;
    works(&sandbox, &registry, 2).await;
    empty("cache");
    empty("history");
    match times(&sandbox, &registry, 3).await {
        Outcome::HostFault(failure) => {
            assert_eq!(failure.kind, "component");
            assert!(failure.message.contains("cannot be loaded again"), "{}", failure.message);
            assert!(failure.message.contains("restart the worker"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn code_is_loaded_ahead_of_jobs_while_there_is_ample_room() {
    let code_cache = CodeCache::with(20);
    drop(code_cache.registry(&narrow(), &code_cache.options()).await);
    let wide = Sandbox::new(EngineOptions { slots: 4, ..EngineOptions::default() }).unwrap();
    let registry = code_cache.registry(&wide, &code_cache.options()).await;
    assert_eq!(code_cache.in_memory(), 0);
    registry.load_ahead().await;
    assert_eq!(code_cache.in_memory(), 16);
    works(&wide, &registry, 21).await;
    drop((registry, wide));

    let sandbox = narrow();
    let registry = code_cache.registry(&sandbox, &code_cache.options()).await;
    works(&sandbox, &registry, 3).await;
    registry.load_ahead().await;
    assert_eq!(code_cache.in_memory(), 1, "what is used was dropped, or more was loaded");
    works(&sandbox, &registry, 3).await;
}
