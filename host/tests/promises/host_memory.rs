//! What the host holds for an attempt counts as the attempt's memory.

use std::sync::Arc;
use std::time::Duration;

use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::policy::Grants;
use lovage::sandbox::{Limits, Plan, Report};

use crate::guests::{component_that_imports, sandbox};

const IO: &str = "package wasi:io@0.2.0;
    interface streams { resource input-stream; }";

const FILES: &str = "package wasi:filesystem@0.2.0;
    interface types {
      use wasi:io/streams@0.2.0.{input-stream};
      enum error-code {
        access, would-block, already, bad-descriptor, busy, deadlock, quota, exist, file-too-large,
        illegal-byte-sequence, in-progress, interrupted, invalid, io, is-directory, loop,
        too-many-links, message-size, name-too-long, no-device, no-entry, no-lock,
        insufficient-memory, insufficient-space, not-directory, not-empty, not-recoverable,
        unsupported, no-tty, no-such-device, overflow, not-permitted, pipe, read-only,
        invalid-seek, text-file-busy, cross-device,
      }
      flags path-flags { symlink-follow }
      flags open-flags { create, directory, exclusive, truncate }
      flags descriptor-flags {
        read, write, file-integrity-sync, data-integrity-sync, requested-write-sync,
        mutate-directory,
      }
      resource directory-entry-stream;
      resource descriptor {
        create-directory-at: func(path: string) -> result<_, error-code>;
        read-directory: func() -> result<directory-entry-stream, error-code>;
        open-at: func(path-flags: path-flags, path: string, open-flags: open-flags,
          %flags: descriptor-flags) -> result<descriptor, error-code>;
        read-via-stream: func(offset: u64) -> result<input-stream, error-code>;
      }
    }
    interface preopens {
      use types.{descriptor};
      get-directories: func() -> list<tuple<descriptor, string>>;
    }";

const FILE_IMPORTS: &str = r#"
    (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $dirs (param i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.create-directory-at"
      (func $mkdir (param i32 i32 i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read-directory"
      (func $list (param i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at"
      (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read-via-stream"
      (func $read (param i32 i64 i32)))"#;

const HTTP: &str = "package wasi:http@0.2.0;
    interface types {
      variant header-error { invalid-syntax, forbidden, immutable }
      variant method {
        get, head, post, put, delete, connect, options, trace, patch, other(string),
      }
      resource fields {
        constructor();
        append: func(name: string, value: list<u8>) -> result<_, header-error>;
      }
      resource outgoing-request {
        constructor(headers: fields);
        set-method: func(method: method) -> result;
        set-authority: func(authority: option<string>) -> result;
        set-path-with-query: func(path-with-query: option<string>) -> result;
      }
    }";

const HTTP_IMPORTS: &str = r#"
    (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
    (import "wasi:http/types@0.2.0" "[method]fields.append"
      (func $append (param i32 i32 i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.0" "[constructor]outgoing-request"
      (func $request (param i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-method"
      (func $method (param i32 i32 i32 i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
      (func $authority (param i32 i32 i32 i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
      (func $path (param i32 i32 i32 i32) (result i32)))"#;

/// Runs a guest with `run` as its body, 16 MiB of memory, and a scratch directory. It leaves a number of
/// four bytes at 512, which is what is given back beside the report.
async fn play(packages: &[&str], world: &str, imports: &str, run: &str) -> (Report, Option<u32>) {
    let module = format!(
        r#"(module {imports}
            (memory (export "memory") 4)
            (data (i32.const 8) "text/plain")
            TASK REALLOC
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (local $a i32) (local $b i32) (local $n i32)
              {run}
              (i32.store (i32.const 512) (local.get $n))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 272) (i32.const 512))
              (i32.store (i32.const 276) (i32.const 4))
              (i32.const 256)))"#
    );
    let wasm = component_that_imports(packages, world, &module);
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("holds", &wasm, &Limits::default()).await.unwrap();
    let mut plan = Plan::default();
    plan.limits.memory_bytes = MEMORY_BYTES;
    plan.limits.timeout = Duration::from_mins(1);
    plan.grants = Arc::new(Grants { scratch: true, ..Grants::default() });
    let report = sandbox.run(&component, Job::new("job-1", "t", ""), &plan).await;
    let number = match &report.outcome {
        Outcome::Done(output) => Some(u32::from_le_bytes(output.data[..].try_into().unwrap())),
        _ => None,
    };
    (report, number)
}

const MEMORY_BYTES: u64 = 16 << 20;

const FILE_WORLD: &str =
    "import wasi:filesystem/types@0.2.0; import wasi:filesystem/preopens@0.2.0;";

/// The descriptor of the directory is in `$a` then.
const DIRECTORY: &str = "(call $dirs (i32.const 1024))
    (local.set $a (i32.load (i32.load (i32.const 1024))))";

/// Names of 240 bytes are at 2048, and differ by the number that is at their beginning.
const NAME: &str = "(i32.store (i32.const 2048) (i32.add (i32.const 0x61616161)
      (i32.add (i32.rem_u (local.get $b) (i32.const 20))
        (i32.shl (i32.div_u (local.get $b) (i32.const 20)) (i32.const 8)))))";

#[tokio::test]
async fn listings_of_the_scratch_directory_are_memory_of_the_attempt() {
    let run = format!(
        "{DIRECTORY}
         (memory.fill (i32.const 2048) (i32.const 0x78) (i32.const 240))
         (loop $make {NAME}
           (call $mkdir (local.get $a) (i32.const 2048) (i32.const 240) (i32.const 1536))
           (if (i32.load8_u (i32.const 1536)) (then (unreachable)))
           (br_if $make (i32.lt_u
             (local.tee $b (i32.add (local.get $b) (i32.const 1))) (i32.const 500))))
         (block $full (loop $list
           (call $list (local.get $a) (i32.const 1536))
           (br_if $full (i32.load8_u (i32.const 1536)))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $list (i32.lt_u (local.get $n) (i32.const 4000)))))"
    );
    let (report, held) = play(&[IO, FILES], FILE_WORLD, FILE_IMPORTS, &run).await;
    let held = u64::from(held.unwrap_or_else(|| panic!("{report:?}")));
    // Each has 500 names of 240 bytes.
    let listing = 500 * 240;
    assert!((10..=MEMORY_BYTES / listing).contains(&held), "{held} listings");
    assert!(report.usage.peak_memory_bytes >= held * listing, "{report:?}");
    assert!(report.usage.peak_memory_bytes <= MEMORY_BYTES, "{report:?}");
}

#[tokio::test]
async fn streams_of_files_are_bounded_in_number_and_are_memory() {
    let run = format!(
        "{DIRECTORY}
         (call $open (local.get $a) (i32.const 0) (i32.const 2048) (i32.const 1)
           (i32.const 1) (i32.const 3) (i32.const 1536))
         (if (i32.load8_u (i32.const 1536)) (then (unreachable)))
         (local.set $b (i32.load (i32.const 1540)))
         (block $full (loop $read
           (call $read (local.get $b) (i64.const 0) (i32.const 1536))
           (br_if $full (i32.load8_u (i32.const 1536)))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $read (i32.lt_u (local.get $n) (i32.const 4000)))))"
    );
    let run = format!("(i32.store8 (i32.const 2048) (i32.const 0x61)) {run}");
    let (report, held) = play(&[IO, FILES], FILE_WORLD, FILE_IMPORTS, &run).await;
    // Two for each file that may be open.
    assert_eq!(held, Some(128), "{report:?}");
    assert!(report.usage.peak_memory_bytes >= 128 * (64 << 10), "{report:?}");
}

fn crashed_for_memory(report: &Report) {
    match &report.outcome {
        Outcome::Crashed(failure) => {
            assert_eq!(failure.kind, "memory_limit", "{failure:?}");
            assert!(failure.message.contains("`memory_bytes` raises it"), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    // No more than what a few calls leave behind is there beyond it.
    assert!(report.usage.peak_memory_bytes < MEMORY_BYTES + (8 << 20), "{report:?}");
}

#[tokio::test]
async fn headers_that_are_never_sent_are_memory_of_the_attempt() {
    // A header of 30,000 bytes in each.
    let run = "(i32.store8 (i32.const 2048) (i32.const 0x61))
        (memory.fill (i32.const 4096) (i32.const 0x78) (i32.const 30000))
        (loop $more
          (call $append (call $fields) (i32.const 2048) (i32.const 1)
            (i32.const 4096) (i32.const 30000) (i32.const 1536))
          (br_if $more (i32.lt_u
            (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4000))))";
    let world = "import wasi:http/types@0.2.0;";
    let (report, _) = play(&[HTTP], world, HTTP_IMPORTS, run).await;
    crashed_for_memory(&report);
}

#[tokio::test]
async fn requests_that_are_never_sent_are_memory_of_the_attempt() {
    // A path of 60,000 bytes in each.
    let run = "(memory.fill (i32.const 4096) (i32.const 0x78) (i32.const 60000))
        (i32.store8 (i32.const 4096) (i32.const 0x2f))
        (loop $more
          (if (call $path (call $request (call $fields)) (i32.const 1)
                (i32.const 4096) (i32.const 60000)) (then (unreachable)))
          (br_if $more (i32.lt_u
            (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4000))))";
    let world = "import wasi:http/types@0.2.0;";
    let (report, _) = play(&[HTTP], world, HTTP_IMPORTS, run).await;
    crashed_for_memory(&report);
}

#[tokio::test]
async fn no_method_and_no_authority_is_longer_than_any_that_is_meant() {
    // A method of 65 bytes, and of 64; an authority of 65,537 bytes, and of 1,000.
    let run = "(memory.fill (i32.const 4096) (i32.const 0x78) (i32.const 70000))
        (local.set $a (call $request (call $fields)))
        (local.set $n (call $method (local.get $a) (i32.const 9) (i32.const 4096) (i32.const 65)))
        (local.set $n (i32.add (local.get $n) (i32.mul (i32.const 10)
          (call $method (local.get $a) (i32.const 9) (i32.const 4096) (i32.const 64)))))
        (local.set $n (i32.add (local.get $n) (i32.mul (i32.const 100)
          (call $authority (local.get $a) (i32.const 1) (i32.const 4096) (i32.const 65537)))))
        (local.set $n (i32.add (local.get $n) (i32.mul (i32.const 1000)
          (call $authority (local.get $a) (i32.const 1) (i32.const 4096) (i32.const 1000)))))";
    let world = "import wasi:http/types@0.2.0;";
    let (report, told) = play(&[HTTP], world, HTTP_IMPORTS, run).await;
    assert_eq!(told, Some(101), "{report:?}");
}
