//! What the compile cache promises: code that is ours, or no cache at all.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lovage::outcome::Outcome;
use lovage::registry::{CacheError, CompileCache, LoadOptions, Origin, Registry};
use lovage::sandbox::{EngineOptions, Sandbox};
use tempfile::TempDir;

use crate::guests::{component_from_text, run, sandbox};

/// A small component, quick to compile, that gives back nothing; `salt` makes it another one.
fn component(dir: &Path, salt: u32) -> PathBuf {
    let wasm = component_from_text(&format!(
        r#"(module
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 512) "text/plain")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (i32.store (i32.const 264) (i32.const 512))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 1024) (i32.const {salt}))
              (i32.const 256)))"#
    ));
    let file = dir.join(format!("c{salt}.wasm"));
    fs::write(&file, wasm).unwrap();
    file
}

async fn loads_and_runs(sandbox: &Sandbox, file: &Path, cache: Option<&CompileCache>) {
    let options = LoadOptions { cache: cache.cloned(), ..LoadOptions::default() };
    let origin = Origin::Wasm(file.to_owned());
    let registry = Registry::load(sandbox, &[origin], &options).await.unwrap();
    let task = registry.get("t").unwrap();
    let report = run(sandbox, &task.component, "t", "", |_| {}).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
}

fn cached(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn new_cache(dir: &TempDir) -> (PathBuf, CompileCache) {
    let path = dir.path().join("deep/cache");
    let cache = CompileCache::open(&path, 1 << 30).unwrap();
    (path, cache)
}

#[tokio::test]
async fn code_is_compiled_once_and_kept_private() {
    let dir = TempDir::new().unwrap();
    let (path, cache) = new_cache(&dir);
    let file = component(dir.path(), 1);
    let sandbox = sandbox();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    let files = cached(&path);
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::metadata(&files[0]).unwrap();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    let again = fs::metadata(&files[0]).unwrap();
    assert_eq!(first.ino(), again.ino(), "it was compiled again");
    assert_eq!(cached(&path), files);
}

#[tokio::test]
async fn one_cache_serves_both_allocators_but_not_other_settings() {
    let dir = TempDir::new().unwrap();
    let (path, cache) = new_cache(&dir);
    let file = component(dir.path(), 1);
    for allocator in [lovage::sandbox::Allocator::Pooling, lovage::sandbox::Allocator::OnDemand] {
        let options = EngineOptions { slots: 1, allocator, ..EngineOptions::default() };
        loads_and_runs(&Sandbox::new(options).unwrap(), &file, Some(&cache)).await;
        assert_eq!(cached(&path).len(), 1);
    }
    let options =
        EngineOptions { slots: 1, memory_reservation: 256 << 20, ..EngineOptions::default() };
    loads_and_runs(&Sandbox::new(options).unwrap(), &file, Some(&cache)).await;
    assert_eq!(cached(&path).len(), 2);
}

#[tokio::test]
async fn a_torn_file_is_recompiled() {
    let dir = TempDir::new().unwrap();
    let (path, cache) = new_cache(&dir);
    let file = component(dir.path(), 1);
    let sandbox = sandbox();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    let code_file = cached(&path).remove(0);
    let code = fs::read(&code_file).unwrap();
    let torn = [&code[..0], &code[..code.len() / 2], b"garbage", &[0; 4096]];
    for torn in torn {
        // As a crash of the machine would leave it: another file, not the one that is mapped.
        fs::remove_file(&code_file).unwrap();
        fs::write(&code_file, torn).unwrap();
        loads_and_runs(&sandbox, &file, Some(&cache)).await;
        assert_eq!(fs::metadata(&code_file).unwrap().len(), code.len() as u64);
    }
    assert_eq!(cached(&path).len(), 1);
}

#[test]
fn a_directory_others_can_write_is_refused() {
    let dir = TempDir::new().unwrap();
    for mode in [0o777, 0o770, 0o1777, 0o702] {
        let path = dir.path().join(format!("{mode:o}"));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = CompileCache::open(&path, 1).unwrap_err();
        assert!(matches!(error, CacheError::Distrusted { .. }), "{error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert!(CompileCache::open_or_warn(Some(&path), 1).is_none());
    }
    // Others may read it, there are no secrets in code.
    let path = dir.path().join("755");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(CompileCache::open(&path, 1).is_ok());
}

#[test]
fn a_link_is_not_followed() {
    let dir = TempDir::new().unwrap();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    let link = dir.path().join("link");
    symlink(&real, &link).unwrap();
    assert!(CompileCache::open(&link, 1).is_err());
}

#[tokio::test]
async fn a_file_others_can_write_and_a_link_are_replaced_and_not_run() {
    let dir = TempDir::new().unwrap();
    let (path, cache) = new_cache(&dir);
    let file = component(dir.path(), 1);
    let sandbox = sandbox();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    let code_file = cached(&path).remove(0);
    fs::set_permissions(&code_file, fs::Permissions::from_mode(0o666)).unwrap();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    assert_eq!(fs::metadata(&code_file).unwrap().permissions().mode() & 0o777, 0o600);

    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&code_file, &elsewhere).unwrap();
    symlink(&elsewhere, &code_file).unwrap();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    assert!(fs::symlink_metadata(&code_file).unwrap().is_file());
}

#[tokio::test]
async fn read_only_disk_works_without_cache() {
    let dir = TempDir::new().unwrap();
    let file = component(dir.path(), 1);
    let sandbox = sandbox();
    // Nothing can be made below a file, nor in a directory that is gone: what also a superuser
    // meets, whom permissions do not stop.
    assert!(CompileCache::open_or_warn(Some(&file.join("cache")), 1).is_none());
    loads_and_runs(&sandbox, &file, None).await;
    let (path, cache) = new_cache(&dir);
    fs::remove_dir(&path).unwrap();
    loads_and_runs(&sandbox, &file, Some(&cache)).await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_leave_one_good_file() {
    let dir = TempDir::new().unwrap();
    let (path, _) = new_cache(&dir);
    let file = component(dir.path(), 1);
    let loads = (0..6).map(|_| {
        // Each as a process of its own would: its own engine and its own handle of the cache.
        let (path, file) = (path.clone(), file.clone());
        tokio::spawn(async move {
            let cache = CompileCache::open(&path, 1 << 30).unwrap();
            loads_and_runs(&sandbox(), &file, Some(&cache)).await;
        })
    });
    for load in futures_util::future::join_all(loads).await {
        load.unwrap();
    }
    assert_eq!(cached(&path).len(), 1, "{:?}", cached(&path));
}

#[tokio::test]
async fn what_was_used_least_recently_is_dropped_when_the_cache_is_full() {
    let dir = TempDir::new().unwrap();
    let (path, cache) = new_cache(&dir);
    let files: Vec<_> = (1..=3).map(|salt| component(dir.path(), salt)).collect();
    let sandbox = sandbox();
    let old = |file: &Path, hours: u64| {
        let then = SystemTime::now() - Duration::from_hours(hours);
        fs::File::open(file).unwrap().set_modified(then).unwrap();
    };
    loads_and_runs(&sandbox, &files[0], Some(&cache)).await;
    let first = cached(&path).remove(0);
    let size = fs::metadata(&first).unwrap().len();
    loads_and_runs(&sandbox, &files[1], Some(&cache)).await;
    let second = cached(&path).into_iter().find(|file| *file != first).unwrap();
    let unfinished = path.join(".unfinished-x");
    fs::write(&unfinished, b"x").unwrap();
    old(&unfinished, 2);
    old(&first, 3);
    old(&second, 2);
    // The first is used again, and so the second is the older one.
    loads_and_runs(&sandbox, &files[0], Some(&cache)).await;
    let small = CompileCache::open(&path, size * 2 + size / 2).unwrap();
    loads_and_runs(&sandbox, &files[2], Some(&small)).await;
    let left = cached(&path);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&first) && !left.contains(&second), "{left:?}");
    assert!(!unfinished.exists());
    // What was just made stays, even if it alone is too much.
    let tiny = CompileCache::open(&path, 1).unwrap();
    loads_and_runs(&sandbox, &files[1], Some(&tiny)).await;
    assert_eq!(cached(&path), [second]);
}
