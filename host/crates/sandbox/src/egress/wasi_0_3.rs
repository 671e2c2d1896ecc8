//! Requests by WASI 0.3, held to the same rules as those by 0.2.
//!
//! Guests of the contract are not async, and a request that has to wait for anything does not end
//! before they do (see the tests' `http_out::wasi_0_3`). So the guest here is one of its own: with
//! a function that is async.

#![cfg(feature = "compiler")]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wasmtime::component::Component;

use super::*;
use crate::config::ConfigValues;
use crate::state::Scene;
use crate::{EngineOptions, Mode, Sandbox, Services};
use lovage_core::cancellation::Cancellation;
use lovage_core::usage::Usage;
use lovage_policy::HttpPolicy;

/// What of it the guest imports; types have to be whole, but for methods.
const HTTP: &str = "package wasi:http@0.3.0;
    interface types {
      record dns-error-payload { rcode: option<string>, info-code: option<u16> }
      record tls-alert-received-payload { alert-id: option<u8>, alert-message: option<string> }
      record field-size-payload { field-name: option<string>, field-size: option<u32> }
      variant scheme { HTTP, HTTPS, other(string) }
      variant error-code {
        DNS-timeout, DNS-error(dns-error-payload), destination-not-found,
        destination-unavailable, destination-IP-prohibited, destination-IP-unroutable,
        connection-refused, connection-terminated, connection-timeout, connection-read-timeout,
        connection-write-timeout, connection-limit-reached, TLS-protocol-error,
        TLS-certificate-error, TLS-alert-received(tls-alert-received-payload),
        HTTP-request-denied, HTTP-request-length-required, HTTP-request-body-size(option<u64>),
        HTTP-request-method-invalid, HTTP-request-URI-invalid, HTTP-request-URI-too-long,
        HTTP-request-header-section-size(option<u32>),
        HTTP-request-header-size(option<field-size-payload>),
        HTTP-request-trailer-section-size(option<u32>),
        HTTP-request-trailer-size(field-size-payload), HTTP-response-incomplete,
        HTTP-response-header-section-size(option<u32>),
        HTTP-response-header-size(field-size-payload), HTTP-response-body-size(option<u64>),
        HTTP-response-trailer-section-size(option<u32>),
        HTTP-response-trailer-size(field-size-payload),
        HTTP-response-transfer-coding(option<string>),
        HTTP-response-content-coding(option<string>), HTTP-response-timeout,
        HTTP-upgrade-failed, HTTP-protocol-error, loop-detected, configuration-error,
        internal-error(option<string>),
      }
      resource fields { constructor(); }
      resource request-options;
      resource request {
        new: static func(
          headers: fields, contents: option<stream<u8>>,
          trailers: future<result<option<fields>, error-code>>, options: option<request-options>,
        ) -> tuple<request, future<result<_, error-code>>>;
        set-scheme: func(scheme: option<scheme>) -> result;
        set-authority: func(authority: option<string>) -> result;
        set-path-with-query: func(path-with-query: option<string>) -> result;
      }
      resource response { get-status-code: func() -> u16; }
    }
    interface client {
      use types.{request, response, error-code};
      send: async func(request: request) -> result<response, error-code>;
    }";

/// A component whose function `ask` asks `http://AUTHORITY/by-0-3`. It gives back the status, or
/// 1000 and the number of the error's code.
fn asks(authority: &str) -> Vec<u8> {
    let module = r#"(module
        (import "wasi:http/types@0.3.0" "[constructor]fields" (func $fields (result i32)))
        (import "wasi:http/types@0.3.0" "[static]request.new"
          (func $new (param i32 i32 i32 i32 i32 i32 i32)))
        (import "wasi:http/types@0.3.0" "[future-new-1][static]request.new"
          (func $future (result i64)))
        (import "wasi:http/types@0.3.0" "[async-lower][future-write-1][static]request.new"
          (func $write (param i32 i32) (result i32)))
        (import "wasi:http/types@0.3.0" "[method]request.set-scheme"
          (func $scheme (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.3.0" "[method]request.set-authority"
          (func $authority (param i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.3.0" "[method]request.set-path-with-query"
          (func $path (param i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.3.0" "[method]response.get-status-code"
          (func $status (param i32) (result i32)))
        (import "wasi:http/client@0.3.0" "[async-lower]send"
          (func $send (param i32 i32) (result i32)))
        (import "$root" "[waitable-set-new]" (func $set (result i32)))
        (import "$root" "[waitable-join]" (func $join (param i32 i32)))
        (import "[export]$root" "[task-return]ask" (func $return (param i32)))
        (memory (export "memory") 1)
        (global $waiting (mut i32) (i32.const 0))
        (data (i32.const 1024) "AUTHORITY")
        (data (i32.const 1152) "/by-0-3")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
        (func $tell
          (call $return
            (if (result i32) (i32.load8_u (i32.const 640))
              (then (i32.add (i32.const 1000) (i32.load8_u (i32.const 648))))
              (else (call $status (i32.load (i32.const 648)))))))
        ;; 2 is to wait for the set in the other bits, and 0 the end.
        (func $wait (result i32)
          (i32.or (i32.const 2) (i32.shl (global.get $waiting) (i32.const 4))))
        (func (export "[async-lift]ask") (result i32)
          (local $future i64) (local $request i32) (local $sent i32)
          (local.set $future (call $future))
          ;; No body, no trailers, no options; the request comes to 512.
          (call $new (call $fields) (i32.const 0) (i32.const 0)
            (i32.wrap_i64 (local.get $future)) (i32.const 0) (i32.const 0) (i32.const 512))
          (local.set $request (i32.load (i32.const 512)))
          (drop (call $scheme (local.get $request)
            (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
          (drop (call $authority (local.get $request)
            (i32.const 1) (i32.const 1024) (i32.const LENGTH)))
          (drop (call $path (local.get $request)
            (i32.const 1) (i32.const 1152) (i32.const 7)))
          (local.set $sent (call $send (local.get $request) (i32.const 640)))
          ;; That there are no trailers is a result that is all zeroes.
          (drop (call $write
            (i32.wrap_i64 (i64.shr_u (local.get $future) (i64.const 32))) (i32.const 768)))
          ;; 2 is that it has returned.
          (if (i32.eq (i32.and (local.get $sent) (i32.const 15)) (i32.const 2))
            (then (call $tell) (return (i32.const 0))))
          (global.set $waiting (call $set))
          (call $join (i32.shr_u (local.get $sent) (i32.const 4)) (global.get $waiting))
          (call $wait))
        (func (export "[callback][async-lift]ask") (param i32 i32 i32) (result i32)
          (if (i32.and (i32.eq (local.get 0) (i32.const 1)) (i32.eq (local.get 2) (i32.const 2)))
            (then (call $tell) (return (i32.const 0))))
          (call $wait)))"#;
    let module = module.replace("AUTHORITY", authority);
    let module = module.replace("LENGTH", &authority.len().to_string());
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_str("http.wit", HTTP).unwrap();
    let world = "package test:t; world t {
        import wasi:http/types@0.3.0; import wasi:http/client@0.3.0;
        export ask: async func() -> u32;
    }";
    let package = resolve.push_str("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = wat::parse_str(&module).unwrap();
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, utf8).unwrap();
    wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// What the guest gives back, and what it used.
async fn ask(sandbox: &Sandbox, authority: &str, rule: &str, limits: Limits) -> (u32, Usage) {
    let networks = ["127.0.0.1/32".to_owned()];
    let http = HttpPolicy::new(&[rule.to_owned()], "t.http", &networks, "t.http_networks").unwrap();
    let engine = sandbox.engine_of(Mode::Concurrent).unwrap();
    let engine_set = sandbox.engine_set(engine);
    let mut store = sandbox
        .store(
            engine_set,
            Scene {
                limits,
                deadline: Instant::now() + Duration::from_secs(30),
                grants: Arc::new(Grants { http, ..Grants::default() }),
                job: None,
                cancellation: Cancellation::default(),
                config: ConfigValues::default(),
                scratch: None,
                log_guests: false,
            },
        )
        .unwrap();
    let component = Component::new(engine, asks(authority)).unwrap();
    let instance = engine_set.linker.instantiate_async(&mut store, &component).await.unwrap();
    let ask = instance.get_typed_func::<(), (u32,)>(&mut store, "ask").unwrap();
    let (told,) = ask.call_async(&mut store, ()).await.unwrap();
    (told, store.data().usage())
}

/// `destination-IP-prohibited`, `connection-limit-reached` and `HTTP-request-denied`, by their
/// places among the codes.
const PROHIBITED: u32 = 1004;
const TOO_MANY: u32 = 1011;
const DENIED: u32 = 1015;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_granted_is_granted_by_wasi_0_3_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        (String::from_utf8(asked).unwrap(), listener)
    });
    let options = EngineOptions { slots: 4, ..EngineOptions::default() };
    let sandbox = Sandbox::with(options, Services::default()).unwrap();
    let all = Limits::default();
    let rule = format!("GET http://{good}/by-0-3");
    let (told, usage) = ask(&sandbox, &good, &rule, all).await;
    assert_eq!(told, 204);
    let (asked, listener) = served.await.unwrap();
    assert!(asked.starts_with("GET /by-0-3 HTTP/1.1\r\n"), "{asked}");
    // Counted as those of 0.2 are.
    assert!(usage.bytes_out >= asked.len() as u64 && usage.bytes_in > 20, "{usage:?}");

    let none = Limits { http_requests: 0, ..all };
    for (authority, rule, limits, code) in [
        (&*good, &*format!("GET http://{good}/other"), all, DENIED),
        (&*good, &*rule, none, TOO_MANY),
        ("127.1", &*rule, all, DENIED),
        ("169.254.169.254", "http://169.254.169.254", all, PROHIBITED),
        ("[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]", all, PROHIBITED),
    ] {
        assert_eq!(ask(&sandbox, authority, rule, limits).await.0, code, "{authority}");
    }
    let again = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(again.is_err(), "what was refused has connected");
}
