//! What a registry promises about which task is served by whom.

use std::fs;
use std::sync::Arc;

use lovage::config::{Config, OnError};
use lovage::registry::{Claims, LoadOptions, Origin, Registry, RegistryError, Status};
use tempfile::TempDir;

use crate::guests::{file, load_options, run, sandbox};

async fn load(origins: &[Origin]) -> Result<Registry, RegistryError> {
    Registry::load(&sandbox(), origins, &load_options()).await
}

#[tokio::test]
async fn a_directory_serves_the_tasks_of_all_its_components() {
    let dir = TempDir::new().unwrap();
    for name in ["echo", "sleep"] {
        fs::copy(file(name), dir.path().join(name).with_extension("wasm")).unwrap();
    }
    fs::write(dir.path().join("notes.txt"), "no component").unwrap();
    let registry = load(&[
        Origin::Wasm(dir.path().to_owned()),
        // Named twice is no conflict, nor is another way to write it, nor a copy.
        Origin::Wasm(dir.path().join("echo.wasm")),
        Origin::Wasm(dir.path().join("../").join(dir.path().file_name().unwrap())),
        Origin::Wasm(file("sleep")),
    ])
    .await
    .unwrap();
    let names: Vec<_> = registry.tasks().iter().map(|task| task.spec.name.clone()).collect();
    assert_eq!(names, ["echo", "echo_context", "sleep"]);
    assert_eq!(registry.components().len(), 2);
    assert!(registry.get("ecko").is_none());
    assert_eq!(registry.nearest("ecko").as_deref(), Some("echo"));
    assert_eq!(registry.nearest("quite_another_thing"), None);
}

#[tokio::test]
async fn what_cannot_be_served_is_named() {
    let dir = TempDir::new().unwrap();
    let here = || Origin::Wasm(dir.path().to_owned());
    let error = load(&[]).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoOrigins));
    let error = load(&[here()]).await.unwrap_err().to_string();
    assert!(error.contains("holds no `.wasm` files"), "{error}");
    let error = load(&[Origin::Wasm(dir.path().join("gone.wasm"))]).await.unwrap_err().to_string();
    assert!(error.contains("gone.wasm: cannot be read"), "{error}");

    fs::copy(file("echo"), dir.path().join("a.wasm")).unwrap();
    // Another component for the same tasks: with one more custom section, `x`, of nothing.
    let other = [fs::read(file("echo")).unwrap(), b"\0\x02\x01x".to_vec()].concat();
    fs::write(dir.path().join("b.wasm"), other).unwrap();
    let error = load(&[here()]).await.unwrap_err().to_string();
    assert!(error.contains("the task `echo` is served by two components: "), "{error}");
    assert!(error.contains("a.wasm") && error.contains("b.wasm"), "{error}");

    fs::write(dir.path().join("b.wasm"), "no wasm").unwrap();
    let error = load(&[here()]).await.unwrap_err().to_string();
    assert!(error.contains("b.wasm: is not WebAssembly"), "{error}");
}

/// Another component for the tasks of `echo`: with one more custom section, `x`, of nothing.
fn another_echo() -> Vec<u8> {
    [fs::read(file("echo")).unwrap(), b"\0\x02\x01x".to_vec()].concat()
}

fn rest() -> LoadOptions {
    LoadOptions { on_error: OnError::ServeRest, ..load_options() }
}

fn claims(text: &str) -> LoadOptions {
    LoadOptions { claims: Arc::new(Claims::of(&Config::parse(text, "test").unwrap())), ..rest() }
}

/// The file that serves a task.
fn server(registry: &Registry, task: &str) -> Option<String> {
    let path = registry.get(task)?.component.source.file.clone();
    Some(std::path::Path::new(&path).file_name().unwrap().to_string_lossy().into_owned())
}

/// What a registry says about a file that it does not serve.
fn refusal(registry: &Registry, file: &str) -> Option<String> {
    let of = |status: Status| status.place.ends_with(file).then_some(status.refused?.why);
    registry.status().into_iter().find_map(of)
}

#[tokio::test]
async fn a_start_serves_what_loads_and_refuses_the_clash() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    // In the order of their names: a squatter, who it is that it takes from, junk, and another.
    fs::write(path("aaa.wasm"), another_echo()).unwrap();
    fs::copy(file("echo"), path("echo.wasm")).unwrap();
    fs::write(path("junk.wasm"), "no wasm").unwrap();
    fs::copy(file("sleep"), path("sleep.wasm")).unwrap();
    let origins = [Origin::Wasm(dir.path().to_owned())];
    let registry = Registry::load(&sandbox(), &origins, &rest()).await.unwrap();
    assert_eq!(server(&registry, "echo").as_deref(), Some("echo.wasm"));
    assert!(registry.get("sleep").is_some());
    let why = refusal(&registry, "aaa.wasm").unwrap();
    assert!(why.contains("the task `echo` is served by two components"), "{why}");
    assert!(refusal(&registry, "junk.wasm").unwrap().contains("is not WebAssembly"));

    // Where nothing is left to serve, there is no start.
    for name in ["aaa.wasm", "echo.wasm", "sleep.wasm"] {
        fs::remove_file(path(name)).unwrap();
    }
    let error = Registry::load(&sandbox(), &origins, &rest()).await.unwrap_err().to_string();
    assert!(error.contains("junk.wasm: is not WebAssembly"), "{error}");
    let error = load(&[Origin::Wasm(path("junk.wasm"))]).await.unwrap_err().to_string();
    assert!(error.contains("is not WebAssembly"), "{error}");
}

#[tokio::test]
async fn a_task_that_is_bound_to_a_component_is_served_by_no_other() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::copy(file("echo"), path("echo.wasm")).unwrap();
    fs::copy(file("sleep"), path("sleep.wasm")).unwrap();
    let origins = [Origin::Wasm(dir.path().to_owned())];
    let start =
        async |text: &str| Registry::load(&sandbox(), &origins, &claims(text)).await.unwrap();
    // Though nobody else declares it.
    let registry = start("[tasks.echo]\ncomponent = 'payroll'\n").await;
    assert_eq!((registry.get("echo").is_some(), registry.get("sleep").is_some()), (false, true));
    let why = refusal(&registry, "echo.wasm").unwrap();
    assert!(why.contains("tasks.echo.component gives to `payroll` alone"), "{why}");
    // Neither while it runs, nor under a name that the other has in its path.
    fs::create_dir(path("payroll")).unwrap();
    fs::write(path("payroll.wasm.bak.wasm"), another_echo()).unwrap();
    registry.refresh().await;
    assert!(registry.get("echo").is_none());
    // The right one, by its name and by its path.
    fs::write(path("payroll.wasm"), another_echo()).unwrap();
    registry.refresh().await;
    assert_eq!(server(&registry, "echo").as_deref(), Some("payroll.wasm"));
    let bound = format!("[tasks.echo]\ncomponent = '{}'\n", path("payroll.wasm").display());
    assert_eq!(server(&start(&bound).await, "echo").as_deref(), Some("payroll.wasm"));
    let elsewhere = start("[tasks.echo]\ncomponent = '/elsewhere/payroll.wasm'\n").await;
    assert!(elsewhere.get("echo").is_none());
}

#[tokio::test]
async fn a_task_with_grants_is_given_to_nobody_by_chance() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::copy(file("echo"), path("a.wasm")).unwrap();
    fs::write(path("b.wasm"), another_echo()).unwrap();
    fs::copy(file("sleep"), path("sleep.wasm")).unwrap();
    let origins = [Origin::Wasm(dir.path().to_owned())];
    let options = claims("[tasks.echo.grants]\nscratch = true\n");
    let registry = Registry::load(&sandbox(), &origins, &options).await.unwrap();
    assert!(registry.get("echo").is_none() && registry.get("sleep").is_some());
    let why = refusal(&registry, "a.wasm").unwrap();
    assert!(why.contains("tasks.echo.component says which one may"), "{why}");
    // Nor by the first look after the start.
    registry.refresh().await;
    assert!(registry.get("echo").is_none());
    // When only one is left, nothing is to be decided.
    fs::remove_file(path("a.wasm")).unwrap();
    registry.refresh().await;
    assert_eq!(server(&registry, "echo").as_deref(), Some("b.wasm"));
}

#[tokio::test]
async fn what_was_refused_for_anothers_task_is_served_when_the_other_is_gone() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::copy(file("echo"), path("echo.wasm")).unwrap();
    fs::copy(file("sleep"), path("sleep.wasm")).unwrap();
    let origins = [Origin::Wasm(dir.path().to_owned())];
    let registry = Registry::load(&sandbox(), &origins, &rest()).await.unwrap();
    fs::write(path("new.wasm"), another_echo()).unwrap();
    registry.refresh().await;
    registry.refresh().await;
    assert_eq!(server(&registry, "echo").as_deref(), Some("echo.wasm"));
    assert!(refusal(&registry, "new.wasm").is_some());
    fs::remove_file(path("echo.wasm")).unwrap();
    registry.refresh().await;
    assert_eq!(server(&registry, "echo").as_deref(), Some("new.wasm"));
    assert_eq!(refusal(&registry, "new.wasm"), None);
    // Or when the other gives the task up.
    fs::copy(file("echo"), path("echo.wasm")).unwrap();
    registry.refresh().await;
    assert_eq!(server(&registry, "echo").as_deref(), Some("new.wasm"));
    fs::copy(file("process_data"), path("new.wasm")).unwrap();
    registry.refresh().await;
    assert_eq!(server(&registry, "echo").as_deref(), Some("echo.wasm"));
    assert_eq!(server(&registry, "process_data").as_deref(), Some("new.wasm"));
}

#[tokio::test]
async fn a_refused_component_that_was_removed_is_told_no_more() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::copy(file("echo"), path("echo.wasm")).unwrap();
    let origins = [Origin::Wasm(dir.path().to_owned())];
    let registry = Registry::load(&sandbox(), &origins, &rest()).await.unwrap();
    fs::write(path("junk.wasm"), "x").unwrap();
    registry.refresh().await;
    assert!(refusal(&registry, "junk.wasm").is_some());
    fs::remove_file(path("junk.wasm")).unwrap();
    registry.refresh().await;
    assert_eq!(refusal(&registry, "junk.wasm"), None);
    // Also a bad version of what is served, and the last file of the directory.
    fs::write(path("echo.wasm"), "x").unwrap();
    registry.refresh().await;
    assert!(refusal(&registry, "echo.wasm").is_some());
    fs::remove_file(path("echo.wasm")).unwrap();
    registry.refresh().await;
    assert_eq!(refusal(&registry, "echo.wasm"), None);
    assert!(registry.get("echo").is_some());
}

#[tokio::test]
async fn a_refresh_keeps_what_did_not_change_and_a_call_its_version() {
    let dir = TempDir::new().unwrap();
    let served = dir.path().join("a.wasm");
    fs::copy(file("echo"), &served).unwrap();
    let other = dir.path().join("b.wasm");
    fs::copy(file("sleep"), &other).unwrap();
    let (sandbox, options) = (sandbox(), load_options());
    let origins = [Origin::Wasm(dir.path().to_owned())];
    let registry = Registry::load(&sandbox, &origins, &options).await.unwrap();
    let (echo, sleep) = (registry.get("echo").unwrap(), registry.get("sleep").unwrap());

    fs::copy(file("process_data"), &served).unwrap();
    registry.refresh().await;
    assert!(registry.get("echo").is_none());
    assert!(registry.get("process_data").is_some());
    assert!(Arc::ptr_eq(&registry.get("sleep").unwrap().component, &sleep.component));
    let report = run(&sandbox, &echo.component, "echo", "1", |_| {}).await;
    assert!(matches!(report.outcome, lovage::outcome::Outcome::Done(_)));

    // A set that does not load leaves the one that does.
    fs::write(&served, "broken").unwrap();
    registry.refresh().await;
    assert!(registry.get("process_data").is_some());
}
