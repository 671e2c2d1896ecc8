//! What is promised of code that was compiled elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use lovage::registry::precompiled::{self, Bundle, BundleProblem, CompileError, Manifest};
use lovage::registry::{LoadOptions, Origin, Registry};
use lovage::sandbox::{Allocator, EngineOptions, Limits, Sandbox};
use tempfile::TempDir;

use crate::guests::{file, run, sandbox};

/// The baseline of this machine's kind.
fn baseline() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "aarch64-unknown-linux-gnu"
    } else {
        "x86_64-unknown-linux-gnu"
    }
}

async fn compiled(dir: &TempDir) -> (Bundle, Manifest) {
    let limits = Limits::default();
    precompiled::compile(&sandbox(), &file("echo"), Some(baseline()), dir.path(), &limits)
        .await
        .unwrap()
}

async fn problem(bundle: &Bundle, sandbox: &Sandbox) -> BundleProblem {
    match precompiled::load(sandbox, &bundle.code, &Limits::default()).await {
        Err(CompileError::Bundle(error)) => error.problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn code_for_a_baseline_runs_as_the_lambda_build_loads_it() {
    let dir = TempDir::new().unwrap();
    let (bundle, manifest) = compiled(&dir).await;
    assert_eq!(bundle.code, dir.path().join("echo.cwasm"));
    assert_eq!(manifest.target, baseline());
    assert_eq!(manifest.tasks.len(), 2);
    for allocator in [Allocator::Pooling, Allocator::OnDemand] {
        let options = EngineOptions { slots: 1, allocator, ..EngineOptions::default() };
        let sandbox = Sandbox::new(options).unwrap();
        let origin = Origin::Precompiled(dir.path().to_owned());
        let registry = Registry::load(&sandbox, &[origin], &LoadOptions::default()).await.unwrap();
        let task = registry.get("echo").unwrap();
        assert_eq!(task.component.source.digest, manifest.digest);
        let report = run(&sandbox, &task.component, "echo", "[1]", |_| {}).await;
        assert!(
            matches!(&report.outcome, lovage::outcome::Outcome::Done(output) if output.data == "[1]"),
            "{:?}",
            report.outcome
        );
    }
}

#[tokio::test]
async fn code_for_either_architecture_of_lambda_is_made_on_any() {
    for (target, machine) in
        [("x86_64-unknown-linux-gnu", 62_u16), ("aarch64-unknown-linux-gnu", 183)]
    {
        let dir = TempDir::new().unwrap();
        let (sandbox, limits) = (sandbox(), Limits::default());
        let (bundle, manifest) =
            precompiled::compile(&sandbox, &file("echo"), Some(target), dir.path(), &limits)
                .await
                .unwrap();
        assert_eq!((manifest.target.as_str(), manifest.tasks.len()), (target, 2));
        // The code is an ELF file, which says for which machine it is.
        let code = fs::read(&bundle.code).unwrap();
        assert_eq!(code[18..20], machine.to_le_bytes());
        if target != baseline() {
            let refused = problem(&bundle, &sandbox).await;
            assert!(matches!(refused, BundleProblem::Refused(_)), "{refused}");
        }
    }
}

#[tokio::test]
async fn code_that_does_not_fit_says_why_and_what_to_do() {
    let dir = TempDir::new().unwrap();
    let (bundle, manifest) = compiled(&dir).await;
    let write = |manifest: &Manifest| {
        fs::write(&bundle.manifest, serde_json::to_string(manifest).unwrap()).unwrap();
    };
    let ours = sandbox();

    let other = EngineOptions { slots: 1, memory_reservation: 1 << 28, ..EngineOptions::default() };
    let problem_text = problem(&bundle, &Sandbox::new(other).unwrap()).await.to_string();
    assert!(problem_text.contains("memory_reservation: 4294967296"), "{problem_text}");
    assert!(problem_text.contains("memory_reservation: 268435456"), "{problem_text}");

    write(&Manifest { wasmtime: "47.0.0".to_owned(), ..manifest.clone() });
    let problem_text = problem(&bundle, &ours).await.to_string();
    assert!(problem_text.contains("was compiled by wasmtime 47.0.0, and this host has"));

    write(&Manifest { code_size: 1, ..manifest.clone() });
    assert!(matches!(problem(&bundle, &ours).await, BundleProblem::OtherCode { .. }));

    fs::write(&bundle.manifest, "{\"format\": 2}").unwrap();
    let problem_text = problem(&bundle, &ours).await.to_string();
    assert!(problem_text.contains("it has form 2, and this host knows form 1"), "{problem_text}");

    fs::remove_file(&bundle.manifest).unwrap();
    assert!(matches!(problem(&bundle, &ours).await, BundleProblem::Io(_)));

    fs::write(&bundle.code, "garbage").unwrap();
    write(&Manifest { code_size: 7, ..manifest.clone() });
    assert!(matches!(problem(&bundle, &ours).await, BundleProblem::Refused(_)));
}

#[tokio::test]
async fn code_that_others_can_write_is_not_run() {
    let dir = TempDir::new().unwrap();
    let (bundle, _) = compiled(&dir).await;
    let ours = sandbox();
    let allow = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for path in [dir.path(), &bundle.code, &bundle.manifest] {
        let before = fs::metadata(path).unwrap().permissions().mode();
        for mode in [0o777, 0o775] {
            allow(path, mode);
            let error =
                precompiled::load(&ours, &bundle.code, &Limits::default()).await.unwrap_err();
            let error = error.to_string();
            assert!(error.contains("chmod go-w"), "{error}");
            assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
        }
        allow(path, before);
    }
    precompiled::load(&ours, &bundle.code, &Limits::default()).await.unwrap();
    // A link is as good as what it leads to.
    let links = TempDir::new().unwrap();
    for file in [&bundle.code, &bundle.manifest] {
        let link = links.path().join(file.file_name().unwrap());
        std::os::unix::fs::symlink(file, link).unwrap();
    }
    let link = links.path().join("echo.cwasm");
    precompiled::load(&ours, &link, &Limits::default()).await.unwrap();
    allow(dir.path(), 0o777);
    precompiled::load(&ours, &link, &Limits::default()).await.unwrap_err();
}

#[test]
fn two_components_of_one_name_are_refused_before_one_is_lost() {
    let files = ["a/task.wasm", "b/task.wasm", "b/other.wasm"].map(std::path::PathBuf::from);
    let error = precompiled::check_names(&files).unwrap_err().to_string();
    assert_eq!(
        error,
        "a/task.wasm: would be written over by the code of b/task.wasm: compile them to different \
         directories, or rename one"
    );
    precompiled::check_names(&files[1..]).unwrap();
}

#[tokio::test]
async fn a_target_that_nobody_knows_is_an_error() {
    let dir = TempDir::new().unwrap();
    let error = precompiled::compile(
        &sandbox(),
        &file("echo"),
        Some("z80-unknown-linux"),
        dir.path(),
        &Limits::default(),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("cannot compile for `z80-unknown-linux`"), "{error}");
}

#[tokio::test]
async fn native_code_is_never_loaded_as_a_component() {
    let dir = TempDir::new().unwrap();
    let (bundle, _) = compiled(&dir).await;
    let renamed = dir.path().join("echo.wasm");
    fs::copy(&bundle.code, &renamed).unwrap();
    let origin = Origin::Wasm(renamed);
    let error = Registry::load(&sandbox(), &[origin], &LoadOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("is precompiled native code"), "{error}");
}
