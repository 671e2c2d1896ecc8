//! Guests that trap, exit, run out of stack, or call where they must not.

use super::make::{CLOCK, Parts, RESOURCE, describes, destructing, guest, reallocating, runs};
use super::{Fixture, Group, Seen};

/// A guest that exits with that case of a `result`.
pub fn exits(case: u32) -> Vec<u8> {
    guest(Parts {
        world: "import wasi:cli/exit@0.2.0;",
        imports: r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#,
        run: &format!("(call $exit (i32.const {case}))"),
        ..Parts::default()
    })
}

fn with_items(items: &str, run: &str) -> Vec<u8> {
    guest(Parts { items, run, ..Parts::default() })
}

const TRAPPED: Seen = Seen::Crashed("trap:unreachable", "trapped:");

pub fn group() -> Group {
    Group {
        promise: "What ends a guest ends that guest alone, and is told as what it is",
        fixtures: [places(), kinds(), stacks(), leaving()].into_iter().flatten().collect(),
    }
}

fn places() -> Vec<Fixture> {
    vec![
        Fixture::new("traps", "traps in `run`", TRAPPED, || runs("(unreachable)")),
        Fixture::new(
            "traps-in-start",
            "traps when it is instantiated",
            Seen::Refused("`trap:unreachable`"),
            || with_items("(func $s (unreachable)) (start $s)", ""),
        ),
        Fixture::new(
            "traps-in-describe",
            "traps in `describe`",
            Seen::Refused("`trap:unreachable`"),
            || describes("(unreachable)"),
        ),
        Fixture::new("traps-in-realloc", "traps when it is asked for memory", TRAPPED, || {
            guest(Parts { realloc: &reallocating("(unreachable)"), ..Parts::default() })
        }),
        Fixture::new(
            "traps-in-post-return",
            "traps after it has given its result",
            TRAPPED,
            || {
                with_items(
                    r#"(func (export "cabi_post_lovage:task/handler@1.0.0#run") (param i32)
                        (unreachable))"#,
                    "",
                )
            },
        ),
        Fixture::new(
            "traps-in-a-destructor",
            "traps when a resource of its own is dropped",
            TRAPPED,
            || {
                guest(Parts {
                    packages: &[RESOURCE.0],
                    world: RESOURCE.1,
                    imports: RESOURCE.2,
                    items: &destructing("(unreachable)"),
                    run: "(call $forget (call $new (i32.const 7)))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::guest(
            "panics-in-rust",
            "panics with escape sequences, as compiled Rust",
            Seen::Crashed("panic", r"\u{1b}[31m"),
            ("hostile/panic", "panic", r#""no\nway \u001b[31m""#),
        ),
        Fixture::guest(
            "panics-in-describe-in-rust",
            "panics when it is asked what it serves, as compiled Rust",
            Seen::Refused("describe traps"),
            ("hostile/describe-traps", "t", ""),
        ),
    ]
}

fn kinds() -> Vec<Fixture> {
    let calls = "(type $f (func)) (table $t 2 funcref) (func $g (result i32) (i32.const 0))
                 (elem (i32.const 1) $g)";
    vec![
        Fixture::new(
            "divides-by-zero",
            "divides by zero",
            Seen::Crashed("trap:integer_division_by_zero", "trapped:"),
            || runs("(drop (i32.div_u (i32.const 1) (i32.load (i32.const 4000))))"),
        ),
        Fixture::new(
            "overflows",
            "divides the least number by −1",
            Seen::Crashed("trap:integer_overflow", "trapped:"),
            || runs("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))"),
        ),
        Fixture::new(
            "converts-nan",
            "converts what is no number",
            Seen::Crashed("trap:bad_conversion_to_integer", "trapped:"),
            || runs("(drop (i32.trunc_f32_s (f32.const nan)))"),
        ),
        Fixture::new(
            "loads-out-of-bounds",
            "reads from where it has no memory",
            Seen::Crashed("trap:memory_out_of_bounds", "trapped:"),
            || runs("(drop (i32.load offset=0xfffffff0 (i32.const -1)))"),
        ),
        Fixture::new(
            "copies-out-of-bounds",
            "copies 4 GiB over the end of its memory",
            Seen::Crashed("trap:memory_out_of_bounds", "trapped:"),
            || runs("(memory.copy (i32.const 8) (i32.const 0) (i32.const -1))"),
        ),
        Fixture::new(
            "calls-null",
            "calls a function that is none",
            Seen::Crashed("trap:indirect_call_to_null", "trapped:"),
            move || with_items(calls, "(call_indirect $t (type $f) (i32.const 0))"),
        ),
        Fixture::new(
            "calls-with-another-type",
            "calls a function as one of another type",
            Seen::Crashed("trap:bad_signature", "trapped:"),
            move || with_items(calls, "(call_indirect $t (type $f) (i32.const 1))"),
        ),
        Fixture::new(
            "calls-beyond-its-table",
            "calls a function that is not in its table",
            Seen::Crashed("trap:table_out_of_bounds", "trapped:"),
            move || with_items(calls, "(call_indirect $t (type $f) (i32.const -1))"),
        ),
        Fixture::new(
            "exits-well",
            "exits with success instead of returning",
            Seen::Crashed("exit", "exited with code 0 instead of returning"),
            || exits(0),
        ),
        Fixture::new(
            "exits-badly",
            "exits with a failure instead of returning",
            Seen::Crashed("exit", "exited with code 1 instead of returning"),
            || exits(1),
        ),
    ]
}

fn stacks() -> Vec<Fixture> {
    const OVERFLOW: Seen = Seen::Crashed("trap:stack_overflow", "trapped:");
    vec![
        Fixture::new("recurses", "calls itself without end", OVERFLOW, || {
            with_items("(func $f (call $f) (call $f))", "(call $f)")
        }),
        Fixture::new(
            "recurses-by-turns",
            "two functions call each other through a table without end",
            OVERFLOW,
            || {
                with_items(
                    "(type $f (func)) (table $t 2 funcref) (elem (i32.const 0) $g $h)
                     (func $g (call_indirect $t (type $f) (i32.const 1)) (nop))
                     (func $h (call_indirect $t (type $f) (i32.const 0)) (nop))",
                    "(call $g)",
                )
            },
        ),
        Fixture::new(
            "recurses-with-large-frames",
            "calls itself with a thousand values on the stack each time",
            OVERFLOW,
            || {
                let f = format!(
                    "(func $f (param i32) (result i32) {} (call $f (local.get 0)) {})",
                    "(i32.mul (local.get 0) (local.get 0)) ".repeat(1000),
                    "i32.add ".repeat(1000)
                );
                with_items(&f, "(drop (call $f (i32.const 3)))")
            },
        ),
        Fixture::new(
            "recurses-in-describe",
            "calls itself without end when it is asked what it serves",
            Seen::Refused("`trap:stack_overflow`"),
            || {
                let describe = super::make::describing("(call $f) (unreachable)");
                guest(Parts {
                    items: "(func $f (call $f) (call $f))",
                    describe: &describe,
                    ..Parts::default()
                })
            },
        ),
        Fixture::guest(
            "recurses-in-rust",
            "calls itself without end, as compiled Rust",
            Seen::Crashed("trap:memory_out_of_bounds", "a stack that was too small"),
            ("hostile/recurse", "recurse", "null"),
        ),
    ]
}

fn leaving() -> Vec<Fixture> {
    const STAYS: Seen = Seen::Crashed("trap:other", "cannot leave component instance");
    vec![
        Fixture::new(
            "calls-the-host-from-realloc",
            "calls the host while the host passes it the invocation",
            STAYS,
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: CLOCK.1,
                    realloc: &reallocating("(drop (call $now)) (i32.const 4096)"),
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "calls-the-host-from-post-return",
            "calls the host after it has given its result",
            STAYS,
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: CLOCK.1,
                    items: r#"(func (export "cabi_post_lovage:task/handler@1.0.0#run") (param i32)
                               (drop (call $now)))"#,
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "makes-resources-in-a-destructor",
            "makes and drops a resource whenever one is dropped",
            Seen::Crashed("trap:stack_overflow", "trapped:"),
            || {
                guest(Parts {
                    packages: &[RESOURCE.0],
                    world: RESOURCE.1,
                    imports: RESOURCE.2,
                    items: &destructing("(call $forget (call $new (i32.const 7)))"),
                    run: "(call $forget (call $new (i32.const 7)))",
                    ..Parts::default()
                })
            },
        ),
    ]
}
