//! What a registry promises about which task is served by whom.

use std::fs;
use std::sync::Arc;

use lovage::registry::{Origin, Registry, RegistryError};
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
