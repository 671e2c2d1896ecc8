//! Guests whose texts are made to forge logs, steer terminals and fill disks.

use super::make::{OUTPUT, Parts, describing, guest};
use super::{Fixture, Group, Seen};

/// A line feed that forges a log line, an escape sequence that clears the screen, a NUL, a bell, a
/// mark that turns the direction of writing around, and a line separator: 24 bytes.
const STEERS: &str = r"a\0aERROR\1b[2J\00\07\e2\80\ae\e2\80\a8\c2\85\7f";
const STEERS_BYTES: u32 = 22;

/// The same as it is shown on one line.
const SHOWN: &str = r"a\nERROR\u{1b}[2J\u{0}\u{7}\u{202e}\u{2028}\u{85}\u{7f}";

/// In a detail, line feeds stay.
const SHOWN_IN_LINES: &str = "a\nERROR\\u{1b}[2J\\u{0}\\u{7}\\u{202e}\\u{2028}\\u{85}\\u{7f}";

/// An error of that case, whose texts are those at 4096, with fields that the text fills in.
fn errs(case: u32, fill: &str) -> Vec<u8> {
    steers(&format!(
        "(i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 264) (i32.const {case}))
         {fill} (return (i32.const 256))"
    ))
}

fn steers(run: &str) -> Vec<u8> {
    guest(Parts {
        items: &format!(r#"(data (i32.const 4096) "{STEERS}")"#),
        // What is passed in does not lie over it.
        realloc: &super::make::reallocating("(i32.const 8192)"),
        run,
        ..Parts::default()
    })
}

/// Stores that text at that place of a record.
fn text(at: u32) -> String {
    format!(
        "(i32.store (i32.const {at}) (i32.const 4096))
         (i32.store (i32.const {}) (i32.const {STEERS_BYTES}))",
        at + 4
    )
}

/// A task whose name, or description, is that text.
fn describes(fields: &str) -> Vec<u8> {
    let body = format!(
        "(i32.store (i32.const 64) (i32.const 512)) (i32.store (i32.const 68) (i32.const 1))
         (i32.store (i32.const 512) (i32.const 32)) (i32.store (i32.const 516) (i32.const 1))
         (i32.store8 (i32.const 32) (i32.const 116)) {fields} (i32.const 64)"
    );
    guest(Parts {
        items: &format!(r#"(data (i32.const 4096) "{STEERS}")"#),
        describe: &describing(&body),
        realloc: &super::make::reallocating("(i32.const 8192)"),
        ..Parts::default()
    })
}

/// Writes so many times so many bytes of that text, to both outputs, then traps.
fn writes(text: &str, bytes: usize, times: u32) -> Vec<u8> {
    guest(Parts {
        world: OUTPUT.0,
        imports: OUTPUT.1,
        items: &format!(r#"(data (i32.const 4096) "{text}")"#),
        realloc: &super::make::reallocating("(i32.const 8192)"),
        run: &format!(
            "(local.set $a (i32.const {times}))
             (local.set $b (call $stderr))
             (loop $more
               (call $write (local.get $b) (i32.const 4096) (i32.const {bytes}) (i32.const 512))
               (br_if $more (local.tee $a (i32.sub (local.get $a) (i32.const 1)))))
             (call $write (call $stdout) (i32.const 4096) (i32.const {bytes}) (i32.const 512))
             (unreachable)"
        ),
        ..Parts::default()
    })
}

pub fn group() -> Group {
    let fixtures = vec![
        Fixture::new(
            "forges-logs-by-its-failure",
            "fails with control characters in kind, message and detail",
            Seen::Failed(SHOWN, SHOWN),
            || {
                errs(
                    2,
                    &[
                        &text(272),
                        &text(280),
                        "(i32.store8 (i32.const 288) (i32.const 1))",
                        text(292).as_str(),
                    ]
                    .concat(),
                )
            },
        ),
        Fixture::new(
            "forges-logs-by-its-retry",
            "asks to be tried again with control characters in the reason",
            Seen::Retried(SHOWN),
            || errs(0, &text(272)),
        ),
        Fixture::new(
            "forges-logs-by-its-refusal",
            "refuses its payload with control characters in the reason",
            Seen::Rejected(SHOWN),
            || errs(3, &text(272)),
        ),
        Fixture::new(
            "forges-a-header",
            "gives a media type with control characters",
            Seen::Failed("invalid_output", "is no media type"),
            || steers(&format!("{} (return (i32.const 256))", text(264))),
        ),
        Fixture::new(
            "gives-a-long-media-type",
            "gives a media type of 60,000 bytes",
            Seen::Failed("invalid_output", "is no media type"),
            || {
                steers(
                    "(memory.fill (i32.const 4096) (i32.const 97) (i32.const 60000))
                     (i32.store (i32.const 264) (i32.const 4096))
                     (i32.store (i32.const 268) (i32.const 60000)) (return (i32.const 256))",
                )
            },
        ),
        Fixture::new(
            "forges-logs-by-its-output",
            "writes control characters to both outputs, and crashes",
            Seen::Crashed("trap:unreachable", SHOWN_IN_LINES),
            || writes(STEERS, STEERS_BYTES as usize, 1),
        ),
        Fixture::new(
            "writes-no-text",
            "writes what is no UTF-8 to both outputs, and crashes",
            Seen::Crashed("trap:unreachable", "\u{fffd}"),
            || writes(r"\ff\fe\c0\80\ed\a0\80\f8\88", 9, 2000),
        ),
        Fixture::new(
            "writes-escapes-only",
            "fills its outputs with escape characters, each of which takes six to be shown",
            Seen::Crashed("trap:unreachable", r"\u{1b}\u{1b}"),
            || writes(&r"\1b".repeat(1000), 1000, 1000),
        ),
        Fixture::new(
            "forges-a-panic",
            "writes what a panic of Rust would look like, with control characters, and crashes",
            Seen::Crashed("panic", r"\u{1b}[2J"),
            || writes(r"lovage: panic: all is well \1b[2J\e2\80\ae (at\0a", 37, 1),
        ),
        Fixture::guest(
            "floods-its-output",
            "writes 3 MB to standard output and as much to standard error",
            Seen::Done,
            ("hostile/flood", "flood", r#"{"stdout_bytes": 3000000, "stderr_bytes": 3000000}"#),
        ),
        Fixture::new(
            "names-a-task-with-escapes",
            "says that it serves a task whose name has control characters",
            Seen::Refused(r"serves a task named "),
            || describes(&text(512)),
        ),
        Fixture::new(
            "names-a-task-at-length",
            "says that it serves a task whose name has 50,000 bytes",
            Seen::Refused("aaaa…"),
            || {
                describes(
                    "(memory.fill (i32.const 4096) (i32.const 97) (i32.const 50000))
                     (i32.store (i32.const 512) (i32.const 4096))
                     (i32.store (i32.const 516) (i32.const 50000))",
                )
            },
        ),
        Fixture::new(
            "describes-a-task-with-escapes",
            "gives a task's description with control characters",
            Seen::Done,
            || describes(&text(520)),
        ),
        Fixture::new(
            "has-no-schema",
            "gives a task's schema that is no JSON, with control characters",
            Seen::Refused("input-schema is no JSON"),
            || describes(&format!("(i32.store8 (i32.const 528) (i32.const 1)) {}", text(532))),
        ),
        Fixture::new(
            "nests-a-schema-deeply",
            "gives a task's schema of 50,000 levels",
            Seen::Refused("recursion limit"),
            || {
                describes(
                    "(memory.fill (i32.const 4096) (i32.const 91) (i32.const 50000))
                     (i32.store8 (i32.const 528) (i32.const 1))
                     (i32.store (i32.const 532) (i32.const 4096))
                     (i32.store (i32.const 536) (i32.const 50000))",
                )
            },
        ),
        Fixture::guest(
            "names-two-tasks-alike",
            "says that it serves two tasks of one name",
            Seen::Refused("serves two tasks named `twice`"),
            ("hostile/twice", "twice", ""),
        ),
    ];
    Group {
        promise: "No text of a guest forges a log line, steers a terminal, or is longer than it may",
        fixtures,
    }
}
