//! The same rules for requests by WASI 0.3, which lead nowhere for now.
//!
//! A guest of the contract is not async: it can begin such a request, and not wait for its answer.
//! What is refused is so at once. That granted ones work is tested where a guest can be async, in
//! `sandbox/egress/wasi_0_3.rs`.

use std::sync::Arc;

use lovage::outcome::Outcome;
use lovage::policy::{Grants, HttpPolicy};
use lovage::sandbox::{Limits, Report};

use super::server::Server;
use super::stage::list;
use crate::guests::{component_that_imports, run, sandbox};

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

/// A guest that asks `http://AUTHORITY/never`, which the server does not answer: an answer could come before
/// the call is looked at. It gives back three numbers of 32 bits: the state of that call, and if it has
/// returned whether it failed, and the number of the error's code.
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
        (import "wasi:http/client@0.3.0" "[async-lower]send"
          (func $send (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        TASK REALLOC
        (data (i32.const 8) "text/plain")
        (data (i32.const 1024) "AUTHORITY")
        (data (i32.const 1152) "/never")
        (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
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
            (i32.const 1) (i32.const 1152) (i32.const 6)))
          (local.set $sent (call $send (local.get $request) (i32.const 640)))
          ;; That there are no trailers is a result that is all zeroes.
          (drop (call $write
            (i32.wrap_i64 (i64.shr_u (local.get $future) (i64.const 32))) (i32.const 768)))
          (i32.store (i32.const 400) (i32.and (local.get $sent) (i32.const 15)))
          ;; 2 is that it has returned.
          (if (i32.eq (i32.load (i32.const 400)) (i32.const 2))
            (then
              (i32.store (i32.const 404) (i32.load8_u (i32.const 640)))
              (i32.store (i32.const 408) (i32.load8_u (i32.const 648)))))
          (i32.store (i32.const 264) (i32.const 8))
          (i32.store (i32.const 268) (i32.const 10))
          (i32.store (i32.const 272) (i32.const 400))
          (i32.store (i32.const 276) (i32.const 12))
          (i32.const 256)))"#;
    let module = module.replace("AUTHORITY", authority);
    component_that_imports(
        &[HTTP],
        "import wasi:http/types@0.3.0; import wasi:http/client@0.3.0;",
        &module.replace("LENGTH", &authority.len().to_string()),
    )
}

async fn ask(authority: &str, granted: &str) -> Report {
    let sandbox = sandbox();
    let component = asks(authority);
    let component = sandbox.prepare_bytes("asks", &component, &Limits::default()).await.unwrap();
    let (rules, networks) = (list(&[granted]), list(&["127.0.0.1/32"]));
    let http = HttpPolicy::new(&rules, "t.http", &networks, "t.http_networks").unwrap();
    let grants = Arc::new(Grants { http, ..Grants::default() });
    run(&sandbox, &component, "t", "", |plan| plan.grants = grants).await
}

fn told(report: &Report) -> [u32; 3] {
    let Outcome::Done(output) = &report.outcome else { panic!("{report:?}") };
    [0, 4, 8].map(|at| u32::from_le_bytes(output.data[at..at + 4].try_into().unwrap()))
}

/// States of a call: it goes on, or has returned.
const STARTED: u32 = 1;
const RETURNED: u32 = 2;
/// `destination-IP-prohibited` and `HTTP-request-denied`, by their places among the codes.
const PROHIBITED: u32 = 4;
const DENIED: u32 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_of_the_contract_is_refused_what_it_may_not_and_cannot_wait() {
    let server = Server::start().await;
    let good = server.address.to_string();
    for (authority, rule, code) in [
        (&*good, &*format!("GET http://{good}/other"), DENIED),
        ("127.1", &*format!("http://{good}"), DENIED),
        ("169.254.169.254", "http://169.254.169.254", PROHIBITED),
    ] {
        let report = ask(authority, rule).await;
        assert_eq!(told(&report), [RETURNED, 1, code], "{authority}");
    }
    assert_eq!(server.connections(), 0);
    let report = ask(&good, &format!("GET http://{good}/never")).await;
    assert_eq!(told(&report), [STARTED, 0, 0]);
    // What it had begun has ended with it.
    server.all_closed().await;
}
