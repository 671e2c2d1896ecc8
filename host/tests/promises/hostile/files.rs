//! Files that are no components, and paths that are no files.

use std::path::{Path, PathBuf};

use super::make::{Parts, guest};
use super::{Fixture, Group, Seen};

fn holds(dir: &Path, bytes: &[u8]) -> PathBuf {
    let file = dir.join("file.wasm");
    std::fs::write(&file, bytes).unwrap();
    file
}

fn command(program: &str, arguments: &[&str], file: &Path) {
    let status = std::process::Command::new(program).args(arguments).arg(file).status().unwrap();
    assert!(status.success(), "{program}: {status}");
}

pub fn group() -> Group {
    let fixtures = vec![
        Fixture::file("empty", "a file of no bytes", Seen::Refused("is not WebAssembly"), |dir| {
            holds(dir, b"")
        }),
        Fixture::file(
            "text",
            "a component as WebAssembly text",
            Seen::Refused("is WebAssembly text"),
            |dir| holds(dir, b"  (component)"),
        ),
        Fixture::file(
            "core-module",
            "a core module",
            Seen::Refused("is a core WebAssembly module, not a component"),
            |dir| holds(dir, b"\0asm\x01\0\0\0"),
        ),
        Fixture::file("program", "a program", Seen::Refused("is not WebAssembly"), |dir| {
            holds(dir, &std::fs::read("/bin/true").unwrap())
        }),
        Fixture::file(
            "preamble-only",
            "a component's first bytes and noise",
            Seen::Refused("is no valid component"),
            |dir| holds(dir, b"\0asm\x0d\0\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ),
        Fixture::file(
            "native-code",
            "precompiled native code in place of a component",
            Seen::Refused("is precompiled native code, which is not loaded as a component"),
            |dir| {
                let engine = wasmtime::Engine::default();
                let code = engine.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
                holds(dir, &code)
            },
        ),
        Fixture::file(
            "native-code-that-is-broken",
            "the first bytes of precompiled native code, and then noise",
            Seen::Refused("is "),
            |dir| {
                let engine = wasmtime::Engine::default();
                let mut code = engine.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
                let middle = code.len() / 2;
                code[64..middle].fill(0xa5);
                holds(dir, &code)
            },
        ),
        Fixture::file(
            "directory",
            "an empty directory that is named like a component",
            Seen::Refused("holds no `.wasm` files"),
            |dir| {
                let file = dir.join("directory.wasm");
                std::fs::create_dir_all(&file).unwrap();
                file
            },
        ),
        Fixture::file(
            "directory-of-traps",
            "a directory with a pipe, a loop of links and a directory, all named `….wasm`",
            Seen::Refused("holds no `.wasm` files"),
            |dir| {
                let inner = dir.join("traps");
                std::fs::create_dir_all(inner.join("a.wasm")).unwrap();
                command("mkfifo", &[], &inner.join("b.wasm"));
                std::os::unix::fs::symlink("c.wasm", inner.join("c.wasm")).unwrap();
                inner
            },
        ),
        Fixture::file(
            "pipe",
            "a named pipe that nobody writes to",
            Seen::Refused("cannot be read: is no regular file"),
            |dir| {
                let file = dir.join("pipe.wasm");
                command("mkfifo", &[], &file);
                file
            },
        ),
        Fixture::file(
            "endless-device",
            "a link to a device that never ends",
            Seen::Refused("cannot be read: is no regular file"),
            |dir| link(dir, "/dev/zero"),
        ),
        Fixture::file(
            "link-to-itself",
            "a symbolic link to itself",
            Seen::Refused("cannot be read"),
            |dir| link(dir, "link.wasm"),
        ),
        Fixture::file(
            "link-to-nowhere",
            "a symbolic link to what is not there",
            Seen::Refused("cannot be read"),
            |dir| link(dir, "nowhere.wasm"),
        ),
        Fixture::file(
            "terabyte",
            "a file of a terabyte, all of it a hole",
            Seen::Refused("has 1024 GiB, and a component may have 64 MiB (`components.max_bytes`"),
            |dir| {
                let file = holds(dir, &guest(Parts::default()));
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&file)
                    .and_then(|file| file.set_len(1 << 40))
                    .unwrap();
                file
            },
        ),
    ];
    Group { promise: "What is no component is told what it is, and holds nobody up", fixtures }
}

fn link(dir: &Path, target: &str) -> PathBuf {
    let file = dir.join("link.wasm");
    std::os::unix::fs::symlink(target, &file).unwrap();
    file
}
