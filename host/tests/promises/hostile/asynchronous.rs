//! Guests that use the asynchronous parts of the component model against the host.

use std::time::Duration;

use super::make::{Parts, guest};
use super::{Fixture, Group, Seen};

/// A clock of WASI 0.3, standard output of WASI 0.3, and what the component model has built in.
const PACKAGES: &[&str] = &[
    "package wasi:clocks@0.3.0;
     interface types { type duration = u64; }
     interface monotonic-clock {
       use types.{duration};
       wait-for: async func(how-long: duration);
     }",
    "package wasi:cli@0.3.0;
     interface types { enum error-code { io, illegal-byte-sequence, pipe } }
     interface stdout {
       use types.{error-code};
       write-via-stream: func(data: stream<u8>) -> future<result<_, error-code>>;
     }
     interface stdin {
       use types.{error-code};
       read-via-stream: func() -> tuple<stream<u8>, future<result<_, error-code>>>;
     }",
];

const WORLD: &str = "import wasi:clocks/monotonic-clock@0.3.0; import wasi:cli/stdout@0.3.0;";

const IMPORTS: &str = r#"
    (import "wasi:clocks/monotonic-clock@0.3.0" "[async-lower]wait-for"
      (func $wait (param i64) (result i32)))
    (import "wasi:cli/stdout@0.3.0" "[stream-new-0]write-via-stream" (func $stream (result i64)))
    (import "wasi:cli/stdout@0.3.0" "[async-lower][stream-write-0]write-via-stream"
      (func $write (param i32 i32 i32) (result i32)))
    (import "wasi:cli/stdout@0.3.0" "[async-lower][stream-read-0]write-via-stream"
      (func $read (param i32 i32 i32) (result i32)))
    (import "wasi:cli/stdout@0.3.0" "[stream-cancel-write-0]write-via-stream"
      (func $cancel-write (param i32) (result i32)))
    (import "wasi:cli/stdout@0.3.0" "[stream-drop-writable-0]write-via-stream"
      (func $drop-writable (param i32)))
    (import "wasi:cli/stdout@0.3.0" "write-via-stream" (func $via (param i32) (result i32)))
    (import "$root" "[waitable-set-new]" (func $set (result i32)))
    (import "$root" "[waitable-set-wait]" (func $wait-set (param i32 i32) (result i32)))
    (import "$root" "[waitable-set-poll]" (func $poll-set (param i32 i32) (result i32)))
    (import "$root" "[waitable-join]" (func $join (param i32 i32)))
    (import "$root" "[subtask-cancel]" (func $cancel (param i32) (result i32)))
    (import "$root" "[subtask-drop]" (func $drop (param i32)))"#;

fn plays(run: &str) -> Vec<u8> {
    guest(Parts { packages: PACKAGES, world: WORLD, imports: IMPORTS, run, ..Parts::default() })
}

const STOPPED: Seen = Seen::Crashed("handle_limit", "held more than 4096 handles at once");

/// The handle of a subtask that has begun is in the upper 28 bits.
const SLEEP: &str = "(i32.shr_u (call $wait (i64.const 3600000000000)) (i32.const 4))";

pub fn group() -> Group {
    let fixtures = vec![
        Fixture::new(
            "starts-subtasks-for-ever",
            "starts timers of an hour for ever",
            STOPPED,
            || plays("(loop $ever (drop (call $wait (i64.const 3600000000000))) (br $ever))"),
        ),
        Fixture::new("opens-streams-for-ever", "makes streams for ever", STOPPED, || {
            plays("(loop $ever (drop (call $stream)) (br $ever))")
        }),
        Fixture::new(
            "makes-waitable-sets-for-ever",
            "makes sets to wait on for ever",
            STOPPED,
            || plays("(loop $ever (drop (call $set)) (br $ever))"),
        ),
        Fixture::new(
            "waits-for-no-time-for-ever",
            "waits for a timer of no time, for ever, by WASI 0.3",
            Seen::Crashed("host_call_limit", "(`host_calls` raises it)"),
            || plays("(loop $ever (drop (call $wait (i64.const 0))) (br $ever))"),
        )
        .planned(|plan| plan.limits.host_calls = 10_000),
        Fixture::new(
            "leaves-subtasks-behind",
            "returns while a thousand timers of an hour run",
            Seen::Done,
            || {
                plays(
                    "(loop $more
                       (drop (call $wait (i64.const 3600000000000)))
                       (br_if $more (i32.lt_u
                         (local.tee $a (i32.add (local.get $a) (i32.const 1)))
                         (i32.const 1000))))",
                )
            },
        ),
        Fixture::new(
            "writes-to-a-stream-that-nobody-reads",
            "writes to a stream whose other end it keeps, and returns",
            Seen::Done,
            || {
                plays(
                    "(local.set $c (call $stream))
                     (drop (call $write
                       (i32.wrap_i64 (i64.shr_u (local.get $c) (i64.const 32)))
                       (i32.const 0) (i32.const 65536)))",
                )
            },
        ),
        Fixture::new(
            "cancels-what-it-started",
            "starts timers and cancels them, ten thousand times",
            // To cancel may be to wait, which a function that is not async cannot.
            Seen::Any,
            || {
                plays(&format!(
                    "(loop $more
                       (local.set $b {SLEEP})
                       (drop (call $cancel (local.get $b)))
                       (call $drop (local.get $b))
                       (br_if $more (i32.lt_u
                         (local.tee $a (i32.add (local.get $a) (i32.const 1)))
                         (i32.const 10000))))"
                ))
            },
        ),
        Fixture::new(
            "drops-a-subtask-that-runs",
            "drops a timer that has not fired",
            Seen::Crashed("trap:other", "subtask"),
            || plays(&format!("(call $drop {SLEEP})")),
        ),
        Fixture::new(
            "waits-where-it-cannot",
            "waits for a set, in a function that is not async",
            Seen::Crashed("trap:cannot_block", "use those of WASI 0.2"),
            || {
                plays(&format!(
                    "(local.set $a (call $set))
                     (call $join {SLEEP} (local.get $a))
                     (drop (call $wait-set (local.get $a) (i32.const 512)))"
                ))
            },
        ),
        Fixture::new(
            "polls-a-set-for-ever",
            "asks for ever whether a timer of an hour has fired",
            Seen::TimedOut,
            || {
                plays(&format!(
                    "(local.set $a (call $set))
                     (call $join {SLEEP} (local.get $a))
                     (loop $ever
                       (drop (call $poll-set (local.get $a) (i32.const 512))) (br $ever))"
                ))
            },
        )
        .planned(|plan| plan.limits.timeout = Duration::from_millis(300)),
        Fixture::new(
            "cancels-what-is-no-write",
            "cancels a write that it never made",
            Seen::Crashed("trap:cannot_block", ""),
            || {
                plays(
                    "(local.set $c (call $stream))
                     (drop (call $cancel-write
                       (i32.wrap_i64 (i64.shr_u (local.get $c) (i64.const 32)))))",
                )
            },
        ),
        Fixture::new(
            "reads-and-writes-one-stream",
            "reads in one place what it writes in another, of its own stream",
            Seen::Any,
            || {
                plays(
                    "(local.set $c (call $stream))
                     (drop (call $write
                       (i32.wrap_i64 (i64.shr_u (local.get $c) (i64.const 32)))
                       (i32.const 0) (i32.const 65536)))
                     (drop (call $read (i32.wrap_i64 (local.get $c))
                       (i32.const 1024) (i32.const 64000)))",
                )
            },
        ),
        Fixture::new(
            "writes-beyond-its-memory",
            "writes to a stream from beyond its memory",
            Seen::Crashed("trap:other", "stream read/write count too large"),
            || {
                plays(
                    "(local.set $c (call $stream))
                     (drop (call $via (i32.wrap_i64 (local.get $c))))
                     (drop (call $write
                       (i32.wrap_i64 (i64.shr_u (local.get $c) (i64.const 32)))
                       (i32.const 0xfffffff0) (i32.const 0xffffffff)))",
                )
            },
        ),
        Fixture::new(
            "streams-for-ever",
            "writes to standard output by a stream, in large pieces and for ever",
            Seen::TimedOut,
            || {
                plays(
                    "(local.set $c (call $stream))
                     (drop (call $via (i32.wrap_i64 (local.get $c))))
                     (loop $ever
                       (drop (call $write
                         (i32.wrap_i64 (i64.shr_u (local.get $c) (i64.const 32)))
                         (i32.const 0) (i32.const 65536)))
                       (br $ever))",
                )
            },
        )
        .planned(|plan| plan.limits.timeout = Duration::from_millis(300)),
    ];
    Group {
        promise: "What a guest starts ends with it, and waiting costs a bounded number of handles",
        fixtures,
    }
}
