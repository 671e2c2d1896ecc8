//! Components whose types and values are made to cost: each is bounded, and told.

use std::fmt::Write as _;

use lovage::outcome::Outcome;
use lovage::sandbox::{Limits, LoadedComponent, Problem, Sandbox};
use std::sync::Arc;

use crate::guests::{component_of_world, run, sandbox};

async fn loaded(sandbox: &Sandbox, text: &str) -> Result<Arc<LoadedComponent>, Problem> {
    let bytes = wat::parse_str(text).unwrap();
    let loaded = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await;
    loaded.map_err(|error| error.problem)
}

/// A component that exports one function, which takes and gives back a value of the last of these
/// types: `$t`. It gives back what it was given, bit for bit.
fn echoes(types: &str) -> String {
    format!(
        r#"(component
          (core module $m
            (memory (export "m") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "f") (param i32 i32) (result i32)
              (i32.store (i32.const 8) (local.get 0))
              (i32.store (i32.const 12) (local.get 1))
              (i32.const 8)))
          (core instance $i (instantiate $m))
          {types}
          (func $f (param "x" $t) (result $t)
            (canon lift (core func $i "f") (memory $i "m") (realloc (func $i "realloc"))))
          (export "f" (func $f)))"#
    )
}

/// One list in another, so many levels deep.
fn lists(levels: usize) -> String {
    let mut types = "(type $l0 bool)".to_owned();
    for level in 1..=levels {
        write!(types, "(type $l{level} (list $l{}))", level - 1).unwrap();
    }
    types + &format!("(type $t (list $l{levels}))")
}

#[tokio::test]
async fn types_that_double_at_each_level_are_refused() {
    let sandbox = sandbox();
    for levels in [15, 18, 40] {
        let mut types = "(type $p0 (tuple u8 u8))".to_owned();
        for level in 1..=levels {
            let inner = level - 1;
            write!(types, "(type $p{level} (tuple $p{inner} $p{inner}))").unwrap();
        }
        write!(types, "(type $t (list $p{levels}))").unwrap();
        let text = match loaded(&sandbox, &echoes(&types)).await {
            Ok(_) => panic!("{levels} levels are loaded"),
            Err(problem) => problem.to_string(),
        };
        let bounded = text.contains("the types of this component come to more than 20000 parts")
            || text.contains("effective type size exceeds the limit");
        assert!(bounded, "{text}");
    }
}

#[tokio::test]
async fn types_in_types_are_read_to_their_last_level_and_no_further() {
    let sandbox = sandbox();
    let component = loaded(&sandbox, &echoes(&lists(97))).await.unwrap();
    let payload = "[".repeat(98) + &"]".repeat(98);
    let report = run(&sandbox, &component, "f", &payload, |_| {}).await;
    // It is given a pointer to where it keeps all that it is given.
    assert!(!matches!(report.outcome, Outcome::Rejected(_)), "{:?}", report.outcome);
    let empty = run(&sandbox, &component, "f", "[]", |_| {}).await;
    assert!(
        matches!(&empty.outcome, Outcome::Done(output) if output.data == "[]"),
        "{:?}",
        empty.outcome
    );
    for levels in [110, 1_000, 10_000] {
        let problem = loaded(&sandbox, &echoes(&lists(levels))).await.err().unwrap().to_string();
        let told = problem.contains("its types are in each other for more than 100 levels")
            || problem.contains("is no valid component")
            || problem.contains("could take time and memory without bound");
        assert!(told, "{levels}: {problem}");
    }
}

#[tokio::test]
async fn thousands_of_functions_fields_and_long_names_are_bounded() {
    let sandbox = sandbox();
    // As many functions as there is room for load; that takes a moment, and no more.
    let functions = |count: usize, name: usize| {
        let mut exports = String::new();
        for n in 0..count {
            let long = "n".repeat(name);
            write!(exports, r#"(export "f{n}-{long}" (func $f))"#).unwrap();
        }
        format!(
            r#"(component (core module $m (func (export "f")))
                 (core instance $i (instantiate $m))
                 (func $f (canon lift (core func $i "f"))) {exports})"#
        )
    };
    let component = loaded(&sandbox, &functions(500, 1)).await.unwrap();
    assert_eq!(component.tasks.len(), 500);
    let problem = loaded(&sandbox, &functions(2, 300)).await.err().unwrap();
    assert!(matches!(problem, Problem::BadTaskName { .. }), "{problem}");
    let fields = |count: usize, name: usize| {
        let mut fields = String::new();
        for n in 0..count {
            write!(fields, r#"(field "f{n}-{}" u8)"#, "n".repeat(name)).unwrap();
        }
        // A list, so that a value of it is two words.
        format!(
            r#"(type $r (record {fields}))
               (export $e "r" (type $r))
               (type $t (list $e))"#
        )
    };
    let component = loaded(&sandbox, &echoes(&fields(3_000, 1))).await.unwrap();
    let report = run(&sandbox, &component, "f", "[]", |_| {}).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    for (count, name) in [(9_999, 100), (25_000, 1)] {
        let problem = loaded(&sandbox, &echoes(&fields(count, name))).await.err().unwrap();
        let text = problem.to_string();
        assert!(matches!(problem, Problem::LargeTypes { .. } | Problem::Invalid(_)), "{text}");
        assert!(text.len() < 5000, "{}", text.len());
    }
}

/// Of memory: what an attempt has.
const MEMORY: u64 = 64 << 20;

#[tokio::test]
async fn lists_without_end_do_not_fill_the_hosts_memory() {
    let sandbox = sandbox();
    let flags = (0..32).map(|n| format!("o{n}, ")).collect::<Vec<_>>().concat();
    let interface = format!(
        "interface huge {{
           flags many {{ {flags} }}
           bytes: func() -> list<u8>;
           lists: func() -> list<list<list<u8>>>;
           texts: func() -> list<string>;
           sets: func() -> list<many>;
           error: func() -> result<u8, list<list<u8>>>;
         }}"
    );
    // Each gives back as many elements as its memory has room for, and those that are lists are all
    // the same one, which is as long: the host would copy it for each.
    let many = |name: &str, size: u32| {
        format!(
            r#"(func (export "test:typed/huge@1.0.0#{name}") (result i32)
                 (local $at i32)
                 (local.set $at (i32.const 65536))
                 (loop $fill
                   (i32.store (local.get $at) (i32.const 65536))
                   (i32.store offset=4 (local.get $at) (i32.const {inner}))
                   (local.set $at (i32.add (local.get $at) (i32.const 8)))
                   (br_if $fill (i32.lt_u (local.get $at) (i32.const 33554424))))
                 (i32.store (i32.const 8) (i32.const 65536))
                 (i32.store (i32.const 12) (i32.const {count}))
                 (i32.const 8))"#,
            inner = 33_488_896 / 8 / 4,
            count = 33_488_896 / size,
        )
    };
    let module = format!(
        r#"(module (memory (export "memory") 512) REALLOC {} {} {} {}
             (func (export "test:typed/huge@1.0.0#error") (result i32)
               (i32.store (i32.const 8) (i32.const 1))
               (i32.store (i32.const 12) (i32.const 65536))
               (i32.store (i32.const 16) (i32.const 4000000))
               (i32.const 8)))"#,
        many("bytes", 1),
        many("lists", 8),
        many("texts", 8),
        many("sets", 4),
    );
    let bytes = component_of_world(&interface, "export huge;", &module);
    let component = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await.unwrap();
    let before = peak();
    for task in ["huge.bytes", "huge.lists", "huge.texts", "huge.sets", "huge.error"] {
        let report = run(&sandbox, &component, task, "", |plan| {
            plan.limits.memory_bytes = MEMORY;
        })
        .await;
        match &report.outcome {
            Outcome::Failed(failure) => assert_eq!(failure.kind, "output_too_large", "{task}"),
            other => panic!("{task}: {other:?}"),
        }
    }
    let grown = peak().saturating_sub(before);
    // Its own memory, as much again of values, and what else runs here meanwhile.
    assert!(grown < 4 * MEMORY, "{grown}");
}

/// The most memory that this process had so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn payloads_whose_values_are_large_count_towards_the_attempts_memory() {
    let sandbox = sandbox();
    let options = (0..500).map(|n| format!("o{n}: option<u8>, ")).collect::<Vec<_>>().concat();
    let bytes = component_of_world(
        &format!("interface wide {{ record row {{ {options} }} take: func(rows: list<row>); }}"),
        "export wide;",
        r#"(module (memory (export "memory") 1) REALLOC
             (func (export "test:typed/wide@1.0.0#take") (param i32 i32)))"#,
    );
    let component = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await.unwrap();
    let rows = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
    let attempt = async |count: usize| {
        run(&sandbox, &component, "wide.take", &rows(count), |plan| {
            plan.limits.memory_bytes = MEMORY;
        })
        .await
    };
    let report = attempt(100).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    assert!(report.usage.peak_memory_bytes > 100 * 500 * 40, "{:?}", report.usage);
    match attempt(100_000).await.outcome {
        Outcome::Rejected(failure) => {
            assert_eq!(failure.kind, "invalid_payload");
            assert!(failure.message.contains("`memory_bytes` raises it"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
}
