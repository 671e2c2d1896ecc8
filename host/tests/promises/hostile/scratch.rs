//! Guests that want out of their scratch directory, or to fill the disk by it.

use lovage::sandbox::Plan;
use serde_json::{Value, json};

use super::{Fixture, Group, Seen};

const GRANTED: &str = "[defaults.grants]\nscratch = true";

fn does(name: &str, does: &'static str, told: &'static str, steps: Value) -> Fixture {
    Fixture::guest(name, does, Seen::Told(told), ("hostile/files", "files", steps)).granted(GRANTED)
}

fn small(plan: &mut Plan) {
    plan.limits.scratch_bytes = 1_000_000;
    plan.limits.scratch_files = 100;
}

pub fn group() -> Group {
    let mut fixtures = ways_out();
    fixtures.extend(fillings());
    Group {
        promise: "An attempt's files are its own, no more than it may have, and gone when it ends",
        fixtures,
    }
}

fn ways_out() -> Vec<Fixture> {
    let up = "../".repeat(20);
    let secret = format!("/scratch/{up}DIR/secret");
    vec![
        does(
            "reads-an-absolute-path",
            "reads a file outside by its path",
            "[\"NotFound\"]",
            json!([{ "read": "DIR/secret" }]),
        ),
        does(
            "reads-by-climbing",
            "reads a file outside by `../`",
            "[\"PermissionDenied\"]",
            json!([{ "read": secret }]),
        ),
        does(
            "lists-its-parent",
            "lists `/scratch/..`",
            "[\"PermissionDenied\"]",
            json!([{ "list": "/scratch/.." }]),
        ),
        does(
            "reads-the-environment-of-the-host",
            "reads `/proc/self/environ`",
            "[\"NotFound\"]",
            json!([{ "read": "/proc/self/environ" }]),
        ),
        does(
            "reads-a-path-with-a-nul",
            "reads a path with a NUL in it",
            "[\"InvalidInput\"]",
            json!([{ "read": "/scratch/\0DIR/secret" }]),
        ),
        does(
            "writes-outside",
            "writes `/scratch/../mine`, and over a file outside",
            "[\"PermissionDenied\",\"NotFound\"]",
            json!([
                { "write": { "path": "/scratch/../mine", "bytes": 1 } },
                { "write": { "path": "DIR/secret", "bytes": 1 } },
            ]),
        ),
        does(
            "links-to-an-absolute-path",
            "reads a file outside through a symbolic link that it made",
            "[\"PermissionDenied\",\"NotFound\"]",
            json!([
                { "symlink": { "to": "DIR/secret", "path": "/scratch/l" } },
                { "read": "/scratch/l" },
            ]),
        ),
        does(
            "links-upwards",
            "reads and writes a file outside through a relative link",
            "[\"ok\",\"PermissionDenied\",\"PermissionDenied\"]",
            json!([
                { "symlink": { "to": format!("{up}DIR/secret"), "path": "/scratch/l" } },
                { "read": "/scratch/l" },
                { "write": { "path": "/scratch/l", "bytes": 1 } },
            ]),
        ),
        does(
            "links-upwards-by-steps",
            "goes up by a link in a directory of its own",
            "[\"ok\",\"ok\",\"PermissionDenied\"]",
            json!([
                { "mkdir": "/scratch/deep" },
                { "symlink": { "to": "../../..", "path": "/scratch/deep/up" } },
                { "read": "/scratch/deep/up/DIR/secret" },
            ]),
        ),
        does(
            "links-in-circles",
            "reads a link to itself",
            "[\"ok\",",
            json!([
                { "symlink": { "to": "loop", "path": "/scratch/loop" } },
                { "read": "/scratch/loop" },
            ]),
        ),
        does(
            "links-hard",
            "makes a hard link to a file outside",
            "\"NotFound\"]",
            json!([
                { "link": { "from": "DIR/secret", "path": "/scratch/hard" } },
                { "link": { "from": format!("/scratch/{up}DIR/secret"), "path": "/scratch/hard" } },
                { "read": "/scratch/hard" },
            ]),
        ),
        does(
            "moves-a-file-in",
            "renames a file outside to one of its own",
            "[\"PermissionDenied\",\"NotFound\"]",
            json!([
                { "rename": { "from": secret, "path": "/scratch/mine" } },
                { "read": "/scratch/mine" },
            ]),
        ),
        Fixture::guest(
            "wants-files-without-a-grant",
            "reads, writes and lists, and is granted no directory",
            Seen::Told("[\"NotFound\",\"NotFound\",\"NotFound\"]"),
            (
                "hostile/files",
                "files",
                json!([
                    { "read": "/etc/passwd" },
                    { "write": { "path": "/x", "bytes": 1 } },
                    { "list": "/" },
                ]),
            ),
        )
        .granted(""),
    ]
}

fn fillings() -> Vec<Fixture> {
    let over = "to its scratch directory (`scratch_bytes` raises it)";
    let fills = |name: &str, what, words, steps| {
        Fixture::guest(
            name,
            what,
            Seen::Failed("ToldToFail", words),
            ("hostile/files", "files", steps),
        )
        .granted(GRANTED)
        .planned(small)
    };
    vec![
        fills(
            "fills-the-disk",
            "writes 30 MB",
            over,
            json!([{ "write": { "path": "/scratch/a", "bytes": 30_000_000 } }, "fail"]),
        ),
        fills(
            "fills-the-disk-with-a-hole",
            "makes a file of 2⁶² bytes",
            over,
            json!([
                { "write": { "path": "/scratch/a", "bytes": 0 } },
                { "resize": { "path": "/scratch/a", "size": 1_u64 << 62 } },
                "fail",
            ]),
        ),
        fills(
            "writes-at-the-end-of-the-world",
            "writes a byte at 2⁶³ − 1",
            over,
            json!([{ "write": { "path": "/scratch/a", "bytes": 1, "at": i64::MAX } }, "fail"]),
        ),
        fills(
            "writes-and-deletes",
            "writes, deletes and writes again",
            over,
            json!([
                { "write": { "path": "/scratch/a", "bytes": 600_000 } },
                { "remove": "/scratch/a" },
                { "write": { "path": "/scratch/a", "bytes": 600_000 } },
                "fail",
            ]),
        ),
        fills(
            "makes-many-files",
            "makes a hundred thousand files",
            "scratch_files",
            json!([{ "many": { "path": "/scratch", "files": 100_000 } }, "fail"]),
        ),
        fills(
            "makes-deep-directories",
            "makes directories in each other, a thousand deep",
            "scratch_files",
            json!([{ "nest": { "path": "/scratch/d", "levels": 1000 } }, "fail"]),
        ),
        fills(
            "holds-files-open",
            "opens a file a thousand times at once",
            "scratch_open",
            json!([
                { "write": { "path": "/scratch/a", "bytes": 1 } },
                { "hold": { "path": "/scratch/a", "times": 1000 } },
                "fail",
            ]),
        ),
        Fixture::guest(
            "leaks-descriptors",
            "opens a file ten thousand times at once, which only its handles bound",
            Seen::Crashed("handle_limit", "held more than 200 handles at once"),
            (
                "hostile/files",
                "files",
                json!([
                    { "write": { "path": "/scratch/a", "bytes": 1 } },
                    { "hold": { "path": "/scratch/a", "times": 10_000 } },
                ]),
            ),
        )
        .granted(GRANTED)
        .planned(|plan| {
            plan.limits.scratch_open = 100_000;
            // Fewer than a process may have files open.
            plan.limits.handles = 200;
        }),
        Fixture::guest(
            "leaves-much-behind",
            "makes directories and files, and panics",
            Seen::Crashed("panic", "told to"),
            (
                "hostile/files",
                "files",
                json!([
                    { "nest": { "path": "/scratch/d", "levels": 20 } },
                    { "many": { "path": "/scratch", "files": 100 } },
                    { "symlink": { "to": "DIR", "path": "/scratch/l" } },
                    "panic",
                ]),
            ),
        )
        .granted(GRANTED),
    ]
}
