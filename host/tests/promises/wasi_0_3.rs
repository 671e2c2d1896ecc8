//! What WASI 0.3 gives a guest: no more than 0.2 does, which is nothing of the host's.

use lovage::outcome::Outcome;
use lovage::sandbox::Limits;

use crate::guests::{component_that_imports, run, sandbox};

/// What of WASI 0.3 the guest imports, as far as it does; types have to be whole.
const WASI: [&str; 3] = [
    "package wasi:cli@0.3.0;
     interface environment {
       get-environment: func() -> list<tuple<string, string>>;
       get-arguments: func() -> list<string>;
       get-initial-cwd: func() -> option<string>;
     }",
    "package wasi:filesystem@0.3.0;
     interface types { resource descriptor; }
     interface preopens {
       use types.{descriptor};
       get-directories: func() -> list<tuple<descriptor, string>>;
     }",
    "package wasi:sockets@0.3.0;
     interface types {
       variant error-code {
         access-denied, not-supported, invalid-argument, out-of-memory, timeout, invalid-state,
         address-not-bindable, address-in-use, remote-unreachable, connection-refused,
         connection-broken, connection-reset, connection-aborted, datagram-too-large,
         other(option<string>),
       }
       enum ip-address-family { ipv4, ipv6 }
       type ipv4-address = tuple<u8, u8, u8, u8>;
       type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
       variant ip-address { ipv4(ipv4-address), ipv6(ipv6-address) }
       resource tcp-socket {
         create: static func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
       }
       resource udp-socket {
         create: static func(address-family: ip-address-family) -> result<udp-socket, error-code>;
       }
     }
     interface ip-name-lookup {
       use types.{ip-address};
       variant error-code {
         access-denied, invalid-argument, name-unresolvable, temporary-resolver-failure,
         permanent-resolver-failure, other(option<string>),
       }
       resolve-addresses: async func(name: string) -> result<list<ip-address>, error-code>;
     }",
];

#[tokio::test]
async fn nothing_is_inherited_through_wasi_0_3_either() {
    // Asks for all there could be, and gives back what it got at 512 and after: the lengths of
    // three lists at every eighth byte, an option, and three results of 32 bytes each. What was
    // not written stays 255.
    let component = component_that_imports(
        &WASI,
        "import wasi:cli/environment@0.3.0;
         import wasi:filesystem/preopens@0.3.0;
         import wasi:sockets/types@0.3.0;
         import wasi:sockets/ip-name-lookup@0.3.0;",
        r#"(module
            (import "wasi:cli/environment@0.3.0" "get-environment" (func $env (param i32)))
            (import "wasi:cli/environment@0.3.0" "get-arguments" (func $args (param i32)))
            (import "wasi:cli/environment@0.3.0" "get-initial-cwd" (func $cwd (param i32)))
            (import "wasi:filesystem/preopens@0.3.0" "get-directories" (func $dirs (param i32)))
            (import "wasi:sockets/types@0.3.0" "[static]tcp-socket.create"
              (func $tcp (param i32 i32)))
            (import "wasi:sockets/types@0.3.0" "[static]udp-socket.create"
              (func $udp (param i32 i32)))
            (import "wasi:sockets/ip-name-lookup@0.3.0" "[async-lower]resolve-addresses"
              (func $resolve (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (data (i32.const 24) "localhost")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (memory.fill (i32.const 512) (i32.const 255) (i32.const 128))
              (call $env (i32.const 512))
              (call $args (i32.const 520))
              (call $dirs (i32.const 528))
              (call $cwd (i32.const 536))
              (call $tcp (i32.const 0) (i32.const 544))
              (call $udp (i32.const 0) (i32.const 576))
              ;; 2 is "returned": the refusal asks nobody, so that there is nothing to wait for.
              (if (i32.ne (i32.const 2)
                    (call $resolve (i32.const 24) (i32.const 9) (i32.const 608)))
                (then (unreachable)))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 272) (i32.const 512))
              (i32.store (i32.const 276) (i32.const 128))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("asks", &component, &Limits::default()).await.unwrap();
    let report = run(&sandbox, &component, "t", "", |_| {}).await;
    let got = match report.outcome {
        Outcome::Done(output) => output.data,
        other => panic!("{other:?}"),
    };
    for (list, what) in got.chunks(8).zip(["environment", "arguments", "directories"]) {
        assert_eq!(list[4..], [0; 4], "{what}: not empty: {got:?}");
    }
    assert_eq!(got[24], 0, "there is a working directory: {got:?}");
    // Errors: `access-denied`, and for a name `permanent-resolver-failure`.
    let results = got[32..].chunks(32).zip([("tcp", 0), ("udp", 0), ("name", 4)]);
    for (result, (what, code)) in results {
        assert_eq!((result[0], result[4]), (1, code), "{what}: {got:?}");
    }
}
