//! What is said of a component that does not load.

use std::time::Duration;

use lovage::registry::inspect;
use lovage::sandbox::{Allocator, EngineOptions, Kind, Limits, Problem, Sandbox};

use crate::guests::{component_from_text, file, load_options, sandbox};
use crate::wasm::with_instances;

async fn problem_of(sandbox: &Sandbox, bytes: &[u8]) -> (Problem, String) {
    let limits = Limits { timeout: Duration::from_millis(500), ..Limits::default() };
    let error = sandbox.prepare_bytes("a.wasm", bytes, &limits).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("a.wasm: "), "{text}");
    (error.problem, text)
}

#[tokio::test]
async fn what_is_no_component_is_told_what_it_is() {
    let sandbox = sandbox();
    let cases: [(&[u8], &str); 5] = [
        (b"", "is not WebAssembly"),
        (b"hello, world", "is not WebAssembly"),
        (b"\0asm\x01\0\0\0", "is a core WebAssembly module, not a component: build it for"),
        (b"(component)", "is WebAssembly text"),
        (b"\0asm\x0d\0\x01\0\xff", "is no valid component"),
    ];
    for (bytes, expected) in cases {
        let (_, text) = problem_of(&sandbox, bytes).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_component_without_the_handler_is_told_what_it_exports_instead() {
    let sandbox = sandbox();
    let (problem, text) =
        problem_of(&sandbox, &std::fs::read(file("hostile/no-handler")).unwrap()).await;
    assert!(matches!(problem, Problem::NoHandler { .. }));
    assert!(text.contains("does not export `lovage:task/handler`"), "{text}");
    assert!(text.contains("it exports `greeting`"), "{text}");
    let reason = "`greeting#[method]visitor.hello` is no task, since it belongs to a resource";
    assert!(text.contains(reason), "{text}");
    let (_, text) = problem_of(&sandbox, &wat::parse_str("(component)").unwrap()).await;
    assert!(text.contains("it exports nothing"), "{text}");
}

#[tokio::test]
async fn a_version_that_is_not_served_is_named_beside_those_that_are() {
    let sandbox = sandbox();
    for version in ["2.0.0", "1.2.0", "0.9.0", "1.1.0-draft"] {
        let component = format!(
            r#"(component
                (instance $none)
                (export "lovage:task/handler@{version}" (instance $none)))"#
        );
        let (problem, text) = problem_of(&sandbox, &wat::parse_str(component).unwrap()).await;
        assert!(matches!(problem, Problem::UnservedVersion { .. }), "{text}");
        assert!(
            text.contains(&format!(
                "in version {version}, and this host serves version 1.0.0, 1.1.0"
            )),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_handler_of_other_types_is_told_which_function_it_is() {
    let sandbox = sandbox();
    let (problem, text) = problem_of(
        &sandbox,
        &wat::parse_str(
            r#"(component
                (instance $none)
                (export "lovage:task/handler@1.0.3" (instance $none)))"#,
        )
        .unwrap(),
    )
    .await;
    assert!(matches!(problem, Problem::WrongTypes { .. }), "{text}");
    assert!(text.contains("has no function `describe`"), "{text}");
    let (problem, text) = problem_of(
        &sandbox,
        &wat::parse_str(
            r#"(component
                (core module $m (func (export "f") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $f (result u32) (canon lift (core func $i "f")))
                (instance $handler (export "describe" (func $f)) (export "run" (func $f)))
                (export "lovage:task/handler@1.0.0" (instance $handler)))"#,
        )
        .unwrap(),
    )
    .await;
    assert!(matches!(problem, Problem::WrongTypes { .. }), "{text}");
    assert!(text.contains("the types of `describe` are not those of the contract"), "{text}");
}

#[tokio::test]
async fn every_missing_import_is_named() {
    let sandbox = sandbox();
    let (problem, text) =
        problem_of(&sandbox, &std::fs::read(file("hostile/wants-missing")).unwrap()).await;
    assert!(matches!(problem, Problem::MissingImports { .. }), "{text}");
    assert!(text.contains("lovage-test:missing/thing"), "{text}");
    let (problem, _) = problem_of(
        &sandbox,
        &wat::parse_str(
            r#"(component
                (import "a:b/c@1.0.0" (instance (export "f" (func))))
                (import "wasi:http/incoming-handler@0.2.0" (instance (export "f" (func))))
                (import "wasi:io/poll@0.2.0" (instance))
                (type $u32 u32)
                (import "d:e/only-types" (instance (export "t" (type (eq $u32)))))
                (import "bare" (func))
                (instance $handler)
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $h (export "describe" (func $f)) (export "run" (func $f)))
                (export "lovage:task/handler@1.0.0" (instance $h)))"#,
        )
        .unwrap(),
    )
    .await;
    match problem {
        Problem::MissingImports { imports } => {
            assert_eq!(imports, ["a:b/c@1.0.0", "wasi:http/incoming-handler@0.2.0", "bare"]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_description_that_fails_is_told_how() {
    let sandbox = sandbox();
    let describe_traps = std::fs::read(file("hostile/describe-traps")).unwrap();
    let (problem, text) = problem_of(&sandbox, &describe_traps).await;
    assert!(matches!(problem, Problem::Describe { .. }), "{text}");
    assert!(text.contains("does not say which tasks it serves"), "{text}");
    assert!(text.contains("describe traps"), "the panic's text is lost: {text}");
    let (problem, text) =
        problem_of(&sandbox, &std::fs::read(file("hostile/twice")).unwrap()).await;
    assert!(matches!(problem, Problem::TaskTwice { .. }));
    assert!(text.contains("serves two tasks named `twice`"), "{text}");
    let run = r#"(func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
                  unreachable)"#;
    let describe = |body: &str| {
        component_from_text(&format!(
            r#"(module (memory (export "memory") 1) REALLOC {run}
                (func (export "lovage:task/handler@1.0.0#describe") (result i32) {body}))"#
        ))
    };
    let cases = [
        (
            "(loop $forever (br $forever)) (unreachable)",
            "did not end within 500ms (`timeout_ms` raises it)",
        ),
        ("(i32.const 64)", "serves no task"),
        (
            "(drop (memory.grow (i32.const 20000))) (unreachable)",
            "`memory_limit`: asked for 1.2 GiB of memory in all, and 128 MiB are allowed",
        ),
    ];
    for (body, expected) in cases {
        let (_, text) = problem_of(&sandbox, &describe(body)).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn what_no_sandbox_has_room_for_is_told_at_once() {
    let component = component_from_text(
        r#"(module
            (memory (export "memory") 1)
            (memory 1) (memory 1) (memory 1) (memory 1)
            TASK REALLOC
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              unreachable))"#,
    );
    let sandbox = |allocator| {
        Sandbox::new(EngineOptions { slots: 1, allocator, ..EngineOptions::default() }).unwrap()
    };
    let (problem, text) = problem_of(&sandbox(Allocator::OnDemand), &component).await;
    assert!(matches!(problem, Problem::NeedsTooMuch { .. }), "{text}");
    assert!(text.contains("needs 5 linear memories, and a sandbox has room for 4"), "{text}");
    let pooling = sandbox(Allocator::Pooling);
    let (problem, text) = problem_of(&pooling, &component).await;
    assert!(matches!(problem, Problem::NoRoom { .. }), "{text}");
    assert!(text.contains("memories count of 5 exceeds the per-instance limit of 4"), "{text}");
    // With a cache it is no other, and code that has no room is not compiled twice.
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("many.wasm");
    std::fs::write(&file, component).unwrap();
    for _ in 0..2 {
        let many = inspect(&pooling, &file, &load_options()).await.unwrap();
        assert!(many.problem.unwrap().contains("limit of 4"));
    }
}

#[tokio::test]
async fn a_component_beyond_a_limit_is_told_which_one_with_both_numbers() {
    let with = |tables: &str| {
        component_from_text(&format!(
            r#"(module (memory (export "memory") 1) {tables} TASK REALLOC
                (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
                  unreachable))"#
        ))
    };
    let many_tables = with(&"(table 1 funcref) ".repeat(17));
    let long_table = with("(table 20001 funcref)");
    let many_instances = with_instances(&with(""), 200);
    let sandbox = |allocator| {
        Sandbox::new(EngineOptions { slots: 1, allocator, ..EngineOptions::default() }).unwrap()
    };
    // The pool says so in wasmtime's words, and before it compiles.
    let (on_demand, pooling) = (sandbox(Allocator::OnDemand), sandbox(Allocator::Pooling));
    for (component, ours, its) in [
        (
            &many_tables,
            "needs 17 tables, and a sandbox has room for 16 (`tables` raises it)",
            "tables count of 17 exceeds the per-instance limit of 16 (`tables` raises it)",
        ),
        (
            &long_table,
            "needs 20001 elements in a table, and a sandbox has room for 20000 (`table_elements` raises it)",
            "size of 20001 which exceeds the limit of 20000 (`table_elements` raises it)",
        ),
        (
            &many_instances,
            "needs more than 128 core instances, and a sandbox has room for 128 (`instances` raises it)",
            "maximum of 128 in the pooling allocator (`instances` raises it)",
        ),
    ] {
        let (problem, text) = problem_of(&on_demand, component).await;
        assert!(text.contains(ours), "{text}");
        assert!(
            matches!(problem, Problem::NeedsTooMuch { .. } | Problem::TooManyInstances { .. }),
            "{problem:?}"
        );
        let (problem, text) = problem_of(&pooling, component).await;
        assert!(matches!(problem, Problem::NoRoom { .. }), "{text}");
        assert!(text.contains(its), "{text}");
    }
    // What is just within the limits is loaded, whichever way memory is had.
    let most = [
        with(&"(table 1 funcref) ".repeat(16)),
        with("(table 20000 funcref)"),
        with_instances(&with(""), 100),
    ];
    for component in &most {
        for sandbox in [&on_demand, &pooling] {
            sandbox.prepare_bytes("a.wasm", component, &Limits::default()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_inspection_tells_all_that_is_known() {
    let sandbox = sandbox();
    let good = inspect(&sandbox, &file("echo"), &load_options()).await.unwrap();
    assert_eq!(good.problem, None);
    assert_eq!(good.kind, Kind::Component);
    assert_eq!(good.contract, Some("1.1.0"));
    let names: Vec<_> = good.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["echo", "echo_context"]);
    assert!(good.imports.iter().all(|import| import.offered));
    assert!(good.exports.iter().any(|export| export == "lovage:task/handler@1.1.0"));
    assert!(good.digest.starts_with("sha256:"));
    let json = serde_json::to_value(&good).unwrap();
    assert_eq!(json["kind"], "component");

    let bad = inspect(&sandbox, &file("hostile/wants-missing"), &load_options()).await.unwrap();
    assert!(bad.problem.unwrap().contains("lovage-test:missing/thing"));
    assert!(bad.imports.iter().any(|import| !import.offered));
    assert!(inspect(&sandbox, "nowhere.wasm".as_ref(), &load_options()).await.is_err());
}
