//! Guests that hoard handles, or use those that are not theirs.

use super::make::{CLOCK, OUTPUT, Parts, RESOURCE, destructing, guest};
use super::{Fixture, Group, Seen};

const STOPPED: Seen = Seen::Crashed("handle_limit", "held more than 4096 handles at once");

fn writes(run: &str) -> Vec<u8> {
    guest(Parts { world: OUTPUT.0, imports: OUTPUT.1, run, ..Parts::default() })
}

fn owns(run: &str) -> Vec<u8> {
    guest(Parts {
        packages: &[RESOURCE.0],
        world: RESOURCE.1,
        imports: RESOURCE.2,
        items: &destructing(""),
        run,
        ..Parts::default()
    })
}

pub fn group() -> Group {
    let fixtures = vec![
        Fixture::new("leaks-streams", "opens standard output for ever", STOPPED, || {
            writes("(loop $ever (drop (call $stdout)) (br $ever))")
        }),
        Fixture::new("leaks-timers", "makes timers for ever", STOPPED, || {
            guest(Parts {
                world: CLOCK.0,
                imports: CLOCK.1,
                run: "(loop $ever (drop (call $timer (i64.const -1))) (br $ever))",
                ..Parts::default()
            })
        }),
        Fixture::new("leaks-pollables", "makes pollables of one stream for ever", STOPPED, || {
            writes(
                "(local.set $a (call $stdout))
                 (loop $ever (drop (call $subscribe (local.get $a))) (br $ever))",
            )
        }),
        Fixture::new(
            "leaks-its-own-resources",
            "makes its own resources for ever",
            STOPPED,
            || owns("(loop $ever (drop (call $new (i32.const 1))) (br $ever))"),
        ),
        Fixture::new(
            "forges-a-handle",
            "writes to a handle that it was never given",
            Seen::Crashed("trap:other", "unknown handle index"),
            || {
                writes(
                    "(call $write (i32.const 12345) (i32.const 8) (i32.const 4) (i32.const 512))",
                )
            },
        ),
        Fixture::new(
            "forges-a-handle-of-another-type",
            "writes to a handle of its own resource",
            Seen::Crashed("trap:other", "handle"),
            || {
                guest(Parts {
                    packages: &[RESOURCE.0],
                    world: &format!("{} {}", RESOURCE.1, OUTPUT.0),
                    imports: &format!("{} {}", RESOURCE.2, OUTPUT.1),
                    items: &destructing(""),
                    run: "(call $write (call $new (i32.const 1)) (i32.const 8) (i32.const 4)
                            (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "drops-twice",
            "drops a handle twice",
            Seen::Crashed("trap:other", "unknown handle index"),
            || {
                writes(
                    "(local.set $a (call $stdout))
                     (call $drop (local.get $a)) (call $drop (local.get $a))",
                )
            },
        ),
        Fixture::new(
            "drops-a-parent",
            "drops a stream while a pollable of it lives",
            Seen::Crashed("trap:other", "has children"),
            || {
                writes(
                    "(local.set $a (call $stdout))
                     (drop (call $subscribe (local.get $a))) (call $drop (local.get $a))",
                )
            },
        ),
        Fixture::new(
            "polls-nothing",
            "polls an empty list, which would wait for ever",
            Seen::Crashed("trap:other", "empty"),
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: CLOCK.1,
                    run: "(call $poll (i32.const 0) (i32.const 0) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "makes-and-drops-resources",
            "makes and drops resources, a million times",
            Seen::Done,
            || {
                owns(
                    "(local.set $a (i32.const 1000000))
                     (loop $more
                       (call $forget (call $new (i32.const 1)))
                       (br_if $more (local.tee $a (i32.sub (local.get $a) (i32.const 1)))))",
                )
            },
        ),
    ];
    Group {
        promise: "A guest uses the handles that it was given, and a bounded number of them",
        fixtures,
    }
}
