//! How long a job waits for its guest where nothing else is to be done: for an instance that is made for
//! it, and for one that was made ahead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lovage::{
    job::Job,
    outcome::Outcome,
    sandbox::{EngineOptions, Limits, Plan, Sandbox},
};

use super::{measure::median, report::Report, worker};

const ATTEMPTS: usize = 500;

/// Longer than it takes until one is made.
const PAUSE: Duration = Duration::from_millis(5);

/// A guest that says what time it is when it begins, in nanoseconds.
const BEGINS: &str = r#"(component
  (type $wall-clock (instance
    (type $record (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $record)))
    (type $func (func (result $datetime)))
    (export "now" (func (type $func)))))
  (import "wasi:clocks/wall-clock@0.2.0" (instance $clock (type $wall-clock)))
  (core module $memory (memory (export "memory") 2))
  (core instance $memory (instantiate $memory))
  (core func $now (canon lower (func $clock "now") (memory $memory "memory")))
  (core module $guest
    (import "host" "now" (func $now (param i32)))
    (import "host" "memory" (memory 2))
    (func (export "begin") (result i64)
      (call $now (i32.const 0))
      (i64.add
        (i64.mul (i64.load (i32.const 0)) (i64.const 1000000000))
        (i64.extend_i32_u (i32.load (i32.const 8))))))
  (core instance $guest (instantiate $guest
    (with "host" (instance (export "now" (func $now)) (export "memory" (memory $memory "memory"))))))
  (func (export "begin") (result s64) (canon lift (core func $guest "begin"))))"#;

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let [ahead, fresh] = [1, 0].map(|ready| runtime.block_on(begin(ready)));
    report.section("ready");
    let what = "from a job to its guest's first reading of the clock, made ahead";
    report.figure("ready", "ahead_us", what, ahead, &format!("{:.2} × fresh", ahead / fresh));
    report.figure("ready", "fresh_us", "the same, with an instance made for it", fresh, "");
}

/// The median, in microseconds.
async fn begin(ready: u32) -> f64 {
    let sandbox =
        Sandbox::new(EngineOptions { ready_instances: ready, ..EngineOptions::default() }).unwrap();
    let limits = Limits::default();
    let wasm = wat::parse_str(BEGINS).unwrap();
    let component = sandbox.prepare_bytes("begins.wasm", &wasm, &limits).await.unwrap();
    let plan = Plan { limits, ..Plan::default() };
    let mut times = Vec::with_capacity(ATTEMPTS);
    for attempt in 0..ATTEMPTS + 20 {
        let job = Job::new("a-job", "begin", "null");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let report = sandbox.run(&component, job, &plan).await;
        let Outcome::Done(output) = report.outcome else { panic!("{:?}", report.outcome) };
        let begun: u128 = std::str::from_utf8(&output.data).unwrap().parse().unwrap();
        if attempt >= 20 {
            times.push((begun - now) as f64 / 1e3);
        }
        tokio::time::sleep(PAUSE).await;
        assert_eq!(sandbox.ready_instances(), ready as usize);
    }
    median(times)
}
