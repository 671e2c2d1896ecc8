//! What one attempt costs the host: `cargo bench --bench attempt [FILE TASK PAYLOAD]`.
//!
//! Without arguments it runs `process_data` of `guest-tasks/dist`. One thread, one attempt after
//! the other; the median of batches, so that a machine which does other things beside disturbs
//! little. Quote ratios of one run, not numbers of two.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a program for people to look at"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::sandbox::{Allocator, EngineOptions, Limits, Plan, Sandbox};

const BATCHES: usize = 200;
const ATTEMPTS: u32 = 50;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (file, task, payload) = match args.as_slice() {
        [file, task, payload] => (PathBuf::from(file), task.as_str(), payload.as_str()),
        _ => {
            let dist = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks/dist");
            (dist.join("process_data.wasm"), "process_data", "21")
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{:<22} {:>9} {:>9}   median of {BATCHES} × {ATTEMPTS}", "", "cpu µs", "wall µs");
    let pooled = EngineOptions::default();
    let cases = [
        ("pooling", pooled.clone()),
        ("nothing kept resident", EngineOptions { keep_resident: 0, ..pooled.clone() }),
        ("on demand", EngineOptions { allocator: Allocator::OnDemand, ..pooled }),
    ];
    for (name, options) in cases {
        let (cpu, wall) = runtime.block_on(measure(options, &file, task, payload));
        println!("{name:<22} {:>9.1} {:>9.1}", micros(cpu), micros(wall));
    }
}

async fn measure(
    options: EngineOptions,
    file: &std::path::Path,
    task: &str,
    payload: &str,
) -> (Duration, Duration) {
    let sandbox = Sandbox::new(options).unwrap();
    let component = sandbox.prepare(file, &Limits::default()).await.unwrap();
    let job = Job::new("01-some-id", task, payload.to_owned());
    let plan = Plan::default();
    let mut cpus = Vec::new();
    let mut walls = Vec::new();
    for _ in 0..BATCHES {
        let mut cpu = Duration::ZERO;
        let started = Instant::now();
        for _ in 0..ATTEMPTS {
            let report = sandbox.run(&component, &job, &plan).await;
            assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
            cpu += report.usage.cpu;
        }
        cpus.push(cpu / ATTEMPTS);
        walls.push(started.elapsed() / ATTEMPTS);
    }
    (median(cpus), median(walls))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
