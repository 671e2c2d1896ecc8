//! Guests that never end.

use std::time::Duration;

use lovage::sandbox::Plan;

use super::make::{
    CLOCK, Parts, RANDOM, RESOURCE, describes, destructing, guest, reallocating, runs,
};
use super::{Fixture, Group, Seen};

const FOREVER: &str = "(loop $ever (br $ever))";

/// Not loaded, since `describe` does not answer.
const SILENT: Seen = Seen::Refused("did not end within 300ms (`timeout_ms` raises it)");

fn soon(plan: &mut Plan) {
    plan.limits.timeout = Duration::from_millis(300);
}

pub fn group() -> Group {
    let fixtures = vec![
        Fixture::new("spins", "computes for ever", Seen::TimedOut, || runs(FOREVER)),
        Fixture::guest(
            "spins-in-rust",
            "computes for ever, as compiled Rust",
            Seen::TimedOut,
            ("hostile/spin", "spin", "null"),
        ),
        Fixture::guest(
            "sleeps",
            "waits for ever in the host",
            Seen::TimedOut,
            ("sleep", "sleep", r#"{"ms": 600000}"#),
        ),
        Fixture::new("spins-in-start", "computes for ever when it is instantiated", SILENT, || {
            guest(Parts {
                items: "(func $s (loop $ever (br $ever))) (start $s)",
                ..Parts::default()
            })
        }),
        Fixture::new("spins-in-describe", "computes for ever in `describe`", SILENT, || {
            describes(&format!("{FOREVER} (unreachable)"))
        }),
        Fixture::new(
            "spins-in-realloc",
            "computes for ever when the invocation is passed to it",
            Seen::TimedOut,
            || {
                let realloc = reallocating(&format!("{FOREVER} (unreachable)"));
                guest(Parts { realloc: &realloc, ..Parts::default() })
            },
        ),
        Fixture::new(
            "spins-in-realloc-of-a-host-call",
            "computes for ever when a result of the host is passed to it",
            Seen::TimedOut,
            || {
                let realloc = reallocating(
                    "(if (global.get $spin) (then (loop $ever (br $ever)))) (i32.const 4096)",
                );
                guest(Parts {
                    world: RANDOM.0,
                    imports: RANDOM.1,
                    items: "(global $spin (mut i32) (i32.const 0))",
                    realloc: &realloc,
                    run: "(global.set $spin (i32.const 1)) (call $random (i64.const 9) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "spins-in-post-return",
            "computes for ever after it has given its result",
            Seen::TimedOut,
            || {
                guest(Parts {
                    items: r#"(func (export "cabi_post_lovage:task/handler@1.0.0#run") (param i32)
                               (loop $ever (br $ever)))"#,
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "spins-in-post-return-of-describe",
            "computes for ever after it has said what it serves",
            SILENT,
            || {
                guest(Parts {
                    items: r#"(func (export "cabi_post_lovage:task/handler@1.0.0#describe")
                               (param i32) (loop $ever (br $ever)))"#,
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "spins-in-a-destructor",
            "computes for ever when a resource of its own is dropped",
            Seen::TimedOut,
            || {
                guest(Parts {
                    packages: &[RESOURCE.0],
                    world: RESOURCE.1,
                    imports: RESOURCE.2,
                    items: &destructing(FOREVER),
                    run: "(call $forget (call $new (i32.const 7)))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new("spins-in-bulk", "fills 32 MiB of memory, for ever", Seen::TimedOut, || {
            guest(Parts {
                memory: r#"(memory (export "memory") 512)"#,
                run: "(loop $ever
                            (memory.fill (i32.const 4096) (i32.const 1) (i32.const 33000000))
                            (br $ever))",
                ..Parts::default()
            })
        }),
        Fixture::new(
            "calls-the-host-for-ever",
            "asks what time it is, for ever",
            Seen::TimedOut,
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: CLOCK.1,
                    run: "(loop $ever (drop (call $now)) (br $ever))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "waits-on-many-timers",
            "polls a hundred timers that never fire",
            Seen::TimedOut,
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: CLOCK.1,
                    run: "(loop $more
                            (i32.store (i32.add (i32.const 4096) (local.get $a))
                              (call $timer (i64.const 0x7fffffffffffffff)))
                            (br_if $more (i32.lt_u
                              (local.tee $a (i32.add (local.get $a) (i32.const 4)))
                              (i32.const 400))))
                          (call $poll (i32.const 4096) (i32.const 100) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "waits-for-nothing-for-ever",
            "waits for a timer of no time, for ever",
            Seen::TimedOut,
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: &format!(
                        "{} {}",
                        CLOCK.1,
                        r#"(import "wasi:io/poll@0.2.0" "[resource-drop]pollable"
                             (func $drop (param i32)))"#
                    ),
                    run: "(loop $ever
                            (local.set $a (call $timer (i64.const 0)))
                            (call $block (local.get $a)) (call $drop (local.get $a))
                            (br $ever))",
                    ..Parts::default()
                })
            },
        ),
    ];
    Group {
        promise: "A guest ends at its deadline, whether it computes or waits, and stalls nobody",
        fixtures: fixtures.into_iter().map(|fixture| fixture.planned(soon)).collect(),
    }
}
