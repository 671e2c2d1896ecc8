//! Making hostile guests from WebAssembly text.

use crate::guests::component_that_imports;

/// What a guest is made of; what is left out is well-behaved.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// More WIT packages than those of [`WASI`].
    pub packages: &'a [&'a str],
    /// What the world says of imports and exports.
    pub world: &'a str,
    /// The core module's imports.
    pub imports: &'a str,
    /// What else is in the core module.
    pub items: &'a str,
    /// Its memory.
    pub memory: &'a str,
    /// `cabi_realloc`.
    pub realloc: &'a str,
    /// The function `describe`, with the data that it gives back.
    pub describe: &'a str,
    /// The body of `run`, which may leave the pointer to its result to what comes after: `ok`, with
    /// `text/plain` and no data.
    pub run: &'a str,
}

impl Default for Parts<'_> {
    fn default() -> Self {
        Self {
            packages: &[],
            world: "",
            imports: "",
            items: "",
            memory: r#"(memory (export "memory") 1)"#,
            realloc: "REALLOC",
            describe: "TASK",
            run: "",
        }
    }
}

/// The component.
pub fn guest(parts: Parts<'_>) -> Vec<u8> {
    let Parts { packages, world, imports, items, memory, realloc, describe, run } = parts;
    let packages: Vec<&str> = WASI.iter().chain(packages).copied().collect();
    component_that_imports(
        &packages,
        world,
        &format!(
            r#"(module
                {imports}
                {memory}
                (data (i32.const 8) "text/plain")
                {items}
                {describe}
                {realloc}
                (func (export "lovage:task/handler@1.0.0#run") (param $in i32) (result i32)
                  (local $a i32) (local $b i32) (local $c i64)
                  {run}
                  (i32.store (i32.const 264) (i32.const 8))
                  (i32.store (i32.const 268) (i32.const 10))
                  (i32.const 256)))"#
        ),
    )
}

/// A guest of which only `run` is its own.
pub fn runs(run: &str) -> Vec<u8> {
    guest(Parts { run, ..Parts::default() })
}

/// A guest of which only `describe` is its own: the body of that function.
pub fn describes(body: &str) -> Vec<u8> {
    let describe = describing(body);
    guest(Parts { describe: &describe, ..Parts::default() })
}

/// A `describe` of that body.
pub fn describing(body: &str) -> String {
    format!(
        r#"(func (export "lovage:task/handler@1.0.0#describe") (result i32)
             (local $a i32) (local $b i32) {body})"#
    )
}

/// A `cabi_realloc` of that body; its parameters are 0 to 3.
pub fn reallocating(body: &str) -> String {
    format!(r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {body})"#)
}

/// What of WASI 0.2 fixtures import, as far as they do; types have to be whole.
pub const WASI: [&str; 4] = [
    "package wasi:io@0.2.0;
     interface error { resource error; }
     interface poll {
       resource pollable { ready: func() -> bool; block: func(); }
       poll: func(in: list<borrow<pollable>>) -> list<u32>;
     }
     interface streams {
       use error.{error};
       use poll.{pollable};
       variant stream-error { last-operation-failed(error), closed }
       resource input-stream {
         blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
         subscribe: func() -> pollable;
       }
       resource output-stream {
         write: func(contents: list<u8>) -> result<_, stream-error>;
         blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
         write-zeroes: func(len: u64) -> result<_, stream-error>;
         subscribe: func() -> pollable;
         blocking-splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
       }
     }",
    "package wasi:cli@0.2.0;
     interface stdin { use wasi:io/streams@0.2.0.{input-stream}; get-stdin: func() -> input-stream; }
     interface stdout {
       use wasi:io/streams@0.2.0.{output-stream};
       get-stdout: func() -> output-stream;
     }
     interface stderr {
       use wasi:io/streams@0.2.0.{output-stream};
       get-stderr: func() -> output-stream;
     }
     interface exit { exit: func(status: result); }",
    "package wasi:clocks@0.2.0;
     interface monotonic-clock {
       use wasi:io/poll@0.2.0.{pollable};
       type duration = u64;
       type instant = u64;
       now: func() -> instant;
       subscribe-duration: func(when: duration) -> pollable;
     }",
    "package wasi:random@0.2.0;
     interface random { get-random-bytes: func(len: u64) -> list<u8>; }",
];

/// For guests that write: the world, and the core module's imports.
pub const OUTPUT: (&str, &str) = (
    "import wasi:cli/stdout@0.2.0; import wasi:cli/stderr@0.2.0; import wasi:io/streams@0.2.0;",
    r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
       (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
       (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
         (func $write (param i32 i32 i32 i32)))
       (import "wasi:io/streams@0.2.0" "[method]output-stream.write-zeroes"
         (func $zeroes (param i32 i64 i32)))
       (import "wasi:io/streams@0.2.0" "[method]output-stream.subscribe"
         (func $subscribe (param i32) (result i32)))
       (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop (param i32)))"#,
);

/// For guests that wait.
pub const CLOCK: (&str, &str) = (
    "import wasi:clocks/monotonic-clock@0.2.0; import wasi:io/poll@0.2.0;",
    r#"(import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
       (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
         (func $timer (param i64) (result i32)))
       (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
       (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#,
);

/// For guests that ask for random numbers.
pub const RANDOM: (&str, &str) = (
    "import wasi:random/random@0.2.0;",
    r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#,
);

/// For guests with a resource of their own: `$new`, `$forget`, and a destructor in the items.
pub const RESOURCE: (&str, &str, &str) = (
    "package test:mine; interface mine { resource thing { constructor(); } }",
    "export test:mine/mine;",
    r#"(import "[export]test:mine/mine" "[resource-new]thing" (func $new (param i32) (result i32)))
       (import "[export]test:mine/mine" "[resource-drop]thing" (func $forget (param i32)))"#,
);

/// Those items: the constructor that the world asks for, and the destructor's body.
pub fn destructing(body: &str) -> String {
    format!(
        r#"(func (export "test:mine/mine#[constructor]thing") (result i32) (call $new (i32.const 1)))
           (func (export "test:mine/mine#[dtor]thing") (param i32) {body})"#
    )
}
