//! Guests that take memory: their own, and the host's.

use super::make::{CLOCK, OUTPUT, Parts, RANDOM, guest, runs};
use super::{Fixture, Group, Seen};

const STOPPED: Seen =
    Seen::Crashed("memory_limit", "64 MiB are allowed (`memory_bytes` raises it)");

/// A memory of 60 MiB, within what is allowed.
const LARGE: &str = r#"(memory (export "memory") 960)"#;

fn with_memory(memory: &str) -> Vec<u8> {
    guest(Parts { memory, ..Parts::default() })
}

fn writes(run: &str) -> Vec<u8> {
    guest(Parts { world: OUTPUT.0, imports: OUTPUT.1, memory: LARGE, run, ..Parts::default() })
}

pub fn group() -> Group {
    Group {
        promise: "A guest cannot make the host use memory without bound, and the reason of every \
                  refusal is told",
        fixtures: [guests_own(), the_hosts()].into_iter().flatten().collect(),
    }
}

fn guests_own() -> Vec<Fixture> {
    vec![
        Fixture::new("grows-its-memory", "grows its memory until that is refused", STOPPED, || {
            runs(
                "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
                  (unreachable)",
            )
        }),
        Fixture::new("grows-at-once", "grows its memory by 4 GiB at once", STOPPED, || {
            runs("(drop (memory.grow (i32.const 65535))) (unreachable)")
        }),
        Fixture::guest(
            "hoards-in-rust",
            "allocates without end, as compiled Rust",
            STOPPED,
            ("hostile/hoard", "hoard", "null"),
        ),
        Fixture::new("grows-many-memories", "grows four memories by turns", STOPPED, || {
            guest(Parts {
                items: "(memory $b 1) (memory $c 1) (memory $d 1)",
                run: "(loop $more
                        (drop (memory.grow $b (i32.const 16)))
                        (drop (memory.grow $c (i32.const 16)))
                        (br_if $more
                          (i32.ne (memory.grow $d (i32.const 16)) (i32.const -1))))
                      (unreachable)",
                ..Parts::default()
            })
        }),
        Fixture::new(
            "has-many-memories",
            "has a hundred memories",
            Seen::Refused("exceeds the per-instance limit of 4"),
            || guest(Parts { items: &"(memory 1) ".repeat(99), ..Parts::default() }),
        ),
        Fixture::new(
            "starts-large",
            "has 128 MiB of memory from the beginning",
            Seen::Refused("`memory_limit`: asked for 128 MiB of memory in all, and 64 MiB are"),
            || with_memory(r#"(memory (export "memory") 2048)"#),
        ),
        Fixture::new(
            "starts-with-4-gib",
            "has 4 GiB of memory from the beginning",
            Seen::Refused("`memory_limit`: asked for 4 GiB of memory in all, and 64 MiB are"),
            || with_memory(r#"(memory (export "memory") 65536)"#),
        ),
        Fixture::new(
            "grows-a-table",
            "grows a table until that is refused",
            Seen::Crashed("table_limit", "and 20000 are allowed"),
            || {
                guest(Parts {
                    items: "(table $t 1 funcref)",
                    run: "(loop $more (br_if $more (i32.ne (i32.const -1)
                            (table.grow $t (ref.null func) (i32.const 1000)))))
                          (unreachable)",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "has-a-huge-table",
            "has a table of ten million elements",
            Seen::Refused("exceeds the limit of 20000"),
            || guest(Parts { items: "(table 10000000 funcref)", ..Parts::default() }),
        ),
        Fixture::new(
            "has-many-tables",
            "has a hundred tables",
            Seen::Refused("exceeds the per-instance limit of 16"),
            || guest(Parts { items: &"(table 9 funcref) ".repeat(100), ..Parts::default() }),
        ),
    ]
}

fn the_hosts() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "wants-a-terabyte-of-randomness",
            "asks for 2⁴⁰ random bytes at once",
            Seen::Crashed("trap:other", "1048576"),
            || {
                guest(Parts {
                    world: RANDOM.0,
                    imports: RANDOM.1,
                    run: "(call $random (i64.const 1099511627776) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "wants-randomness-without-end",
            "asks for 64 KiB of random bytes, for ever, and keeps all",
            Seen::Crashed("memory_limit", "1 MiB are allowed"),
            || {
                guest(Parts {
                    world: RANDOM.0,
                    imports: RANDOM.1,
                    realloc: REALLOC_OR_TRAP,
                    run: "(loop $ever (call $random (i64.const 65536) (i32.const 512)) (br $ever))",
                    ..Parts::default()
                })
            },
        )
        .planned(|plan| plan.limits.memory_bytes = 1 << 20),
        Fixture::new(
            "passes-a-huge-list",
            "passes 60 MB in one host call",
            Seen::Crashed("host_call_too_large", "gave a host call more than"),
            || {
                writes(
                    "(call $write (call $stdout) (i32.const 0) (i32.const 60000000)
                          (i32.const 512))",
                )
            },
        ),
        Fixture::new(
            "passes-large-lists-for-ever",
            "writes 4 KiB to standard output, twenty thousand times",
            Seen::Done,
            || {
                writes(
                    "(local.set $a (i32.const 20000))
                        (local.set $b (call $stdout))
                        (loop $more
                          (call $write (local.get $b) (i32.const 0) (i32.const 4096)
                            (i32.const 512))
                          (br_if $more
                            (local.tee $a (i32.sub (local.get $a) (i32.const 1)))))",
                )
            },
        ),
        Fixture::new(
            "writes-zeroes-without-end",
            "has the host make 2⁶⁴ zeroes",
            Seen::Crashed("trap:other", "cannot write more zeroes than"),
            || writes("(call $zeroes (call $stdout) (i64.const -1) (i32.const 512))"),
        ),
        Fixture::new(
            "splices-without-end",
            "has the host copy 2⁶⁴ bytes from standard input",
            Seen::Done,
            || {
                guest(Parts {
                    world: &format!("{} import wasi:cli/stdin@0.2.0;", OUTPUT.0),
                    imports: &format!(
                        "{} {}",
                        OUTPUT.1,
                        r#"(import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
                           (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-splice"
                             (func $splice (param i32 i32 i64 i32)))"#
                    ),
                    run: "(call $splice (call $stdout) (call $stdin) (i64.const -1) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "reads-without-end",
            "has the host read 2⁶⁴ bytes of standard input",
            Seen::Done,
            || {
                guest(Parts {
                    world: "import wasi:cli/stdin@0.2.0; import wasi:io/streams@0.2.0;",
                    imports: r#"
                        (import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
                        (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read"
                          (func $read (param i32 i64 i32)))"#,
                    run: "(call $read (call $stdin) (i64.const -1) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "polls-one-handle-a-million-times",
            "passes a list of one handle, a million times over",
            Seen::Crashed("host_call_too_large", "gave a host call more than"),
            || {
                guest(Parts {
                    world: CLOCK.0,
                    imports: CLOCK.1,
                    memory: LARGE,
                    run: "(local.set $b (call $timer (i64.const 0)))
                          (loop $more
                            (i32.store (i32.add (i32.const 4096) (local.get $a)) (local.get $b))
                            (br_if $more (i32.lt_u
                              (local.tee $a (i32.add (local.get $a) (i32.const 4)))
                              (i32.const 4000000))))
                          (call $poll (i32.const 4096) (i32.const 1000000) (i32.const 512))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "returns-a-huge-list",
            "gives back 60 MB",
            Seen::Failed("output_too_large", "more than twice the"),
            || {
                guest(Parts {
                    memory: LARGE,
                    run: "(i32.store (i32.const 276) (i32.const 60000000))",
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "describes-a-million-tasks",
            "says that it serves 900,000 tasks",
            Seen::Refused("`output_too_large`"),
            || {
                guest(Parts {
                    memory: LARGE,
                    describe: &super::make::describing(
                        "(i32.store (i32.const 64) (i32.const 4096))
                         (i32.store (i32.const 68) (i32.const 900000)) (i32.const 64)",
                    ),
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "describes-one-text-many-times",
            "says that it serves a thousand tasks, whose descriptions are one text of 60 KB",
            Seen::Refused("`output_too_large`"),
            || {
                let describe = super::make::describing(
                    "(loop $more
                       (i32.store offset=4104
                         (i32.mul (local.get $a) (i32.const 64)) (i32.const 65536))
                       (i32.store offset=4108
                         (i32.mul (local.get $a) (i32.const 64)) (i32.const 60000))
                       (br_if $more (i32.lt_u
                         (local.tee $a (i32.add (local.get $a) (i32.const 1)))
                         (i32.const 900))))
                     (i32.store (i32.const 64) (i32.const 4096))
                     (i32.store (i32.const 68) (i32.const 900)) (i32.const 64)",
                );
                guest(Parts { memory: LARGE, describe: &describe, ..Parts::default() })
            },
        ),
        Fixture::new(
            "fails-at-length",
            "fails with a message of 2 MB",
            Seen::Failed("failed", "…"),
            || {
                guest(Parts {
                    memory: LARGE,
                    run: "(memory.fill (i32.const 4096) (i32.const 65) (i32.const 2000000))
                          (i32.store8 (i32.const 256) (i32.const 1))
                          (i32.store8 (i32.const 264) (i32.const 2))
                          (i32.store (i32.const 280) (i32.const 4096))
                          (i32.store (i32.const 284) (i32.const 2000000))
                          (return (i32.const 256))",
                    ..Parts::default()
                })
            },
        ),
    ]
}

/// An allocator that never frees, and traps when there is no more.
const REALLOC_OR_TRAP: &str = r#"
    (global $next (mut i32) (i32.const 4096))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (i32.const -1) (memory.grow
            (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1))))
          (then (unreachable)))))
      (local.get $at))"#;
