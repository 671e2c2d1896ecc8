//! The whole way of a message on SQS, beside a bare loop over the SDK with the same batches.

use std::sync::Arc;

use lovage::broker::sqs::SqsBroker;

use super::{
    floor,
    measure::{Cost, median, millis, stopwatch},
    report::Report,
    stand_in::StandIn,
    worker::{self, Ready},
};

const JOBS: usize = 10_000;
const ROUNDS: usize = 5;
/// How many bare loops run at once: with fewer the processors wait, with more nothing is gained.
const LOOPS: usize = 8;

/// A result as the worker sends it.
const RESULT: &str = r#"{"id":"job-1234","task":"process_data","tenant":"","status":"done","data":42,"attempt":1,"queued_at":"2026-01-31T11:59:58.250Z","started_at":"2026-01-31T12:00:00Z","finished_at":"2026-01-31T12:00:00.002Z","component":"sha256:0000000000000000000000000000000000000000000000000000000000000000","usage":{"cpu_us":21,"wall_us":60,"peak_memory_bytes":131072}}"#;

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let (mut ours, mut bare, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (cost, asked) = runtime.block_on(drain());
        ours.push(cost);
        requests.push(asked as f64 / JOBS as f64);
        let mut stand_in = StandIn::start(JOBS);
        bare.push(floor::drain(&runtime, &mut stand_in, JOBS, LOOPS, RESULT));
    }
    let (rate, cpu) = of(&ours);
    let (floor_rate, floor_cpu) = of(&bare);
    let part = |ours: f64, bare: f64| format!("{:.2} × bare loop", ours / bare);
    report.section("sqs");
    let name = "sqs";
    report.figure(name, "jobs_per_s", "SQS that answers at once", rate, &part(rate, floor_rate));
    report.figure(name, "floor_jobs_per_s", "a bare loop over the SDK", floor_rate, "");
    report.figure(name, "cpu_ms_per_job", "CPU of a job", cpu, &part(cpu, floor_cpu));
    report.figure(name, "floor_cpu_ms_per_job", "of the bare loop", floor_cpu, "");
    let requests = median(requests);
    report.figure(name, "requests_per_job", "requests for a job", requests, "the bare loop: 0.3");
}

/// Jobs a second, and CPU milliseconds of one.
fn of(costs: &[Cost]) -> (f64, f64) {
    (
        median(costs.iter().map(|c| JOBS as f64 / c.wall.as_secs_f64()).collect()),
        median(costs.iter().map(|c| millis(c.cpu) / JOBS as f64).collect()),
    )
}

/// What it takes to work off the queue, and in how many requests.
async fn drain() -> (Cost, usize) {
    let mut stand_in = StandIn::start(JOBS);
    let broker = Arc::new(SqsBroker::from_config(&stand_in.config()).await.unwrap());
    let config = worker::config("[worker]\nreceive_wait_ms = 1000");
    let ready = Ready::new(config, broker).await;
    let stop = stopwatch();
    let running = ready.start();
    let requests = tokio::task::block_in_place(|| stand_in.done(JOBS));
    let cost = stop();
    running.stop().await;
    (cost, requests)
}
