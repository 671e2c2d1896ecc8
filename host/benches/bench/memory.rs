//! Memory of a worker: idle, and with a thousand jobs that sleep. CPU while idle.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use lovage::broker::{Broker, Outgoing};

use super::{
    measure::millis,
    report::Report,
    worker::{self, JOBS, Program, own_mb, resident_mb},
};

const SLEEPERS: usize = 1000;
const IDLE: Duration = Duration::from_secs(5);

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let (idle, own, idle_cpu) = runtime.block_on(idle());
    let sleeping = runtime.block_on(sleeping());
    report.section("memory");
    let name = "memory";
    report.figure(name, "idle_mb", "resident, idle, one job done", idle, "");
    report.figure(name, "idle_own_mb", "of it not in files, and so not shared", own, "");
    report.figure(name, "idle_cpu_ms", "CPU of an idle second", idle_cpu, "");
    report.figure(name, "sleeping_1000_mb", "resident, 1,000 jobs that sleep", sleeping, "");
}

async fn idle() -> (f64, f64, f64) {
    let program = Program::new(&["process_data.wasm"], "");
    let broker = worker::broker(program.directory.path()).await;
    let process = program.worker();
    let queue = broker.open(JOBS).await.unwrap();
    broker.send(&queue, &[worker::job(0)]).await.remove(0).unwrap();
    let result = broker.result("job-0".into(), Duration::from_secs(10)).await;
    worker::check(&result.unwrap().unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu_of(process.0.id());
    tokio::time::sleep(IDLE).await;
    let cpu = millis(cpu_of(process.0.id()).saturating_sub(before)) / IDLE.as_secs_f64();
    (resident_mb(process.0.id()), own_mb(process.0.id()), cpu)
}

async fn sleeping() -> f64 {
    let config = format!("[worker]\nconcurrency = {SLEEPERS}\n");
    let program = Program::new(&["process_data.wasm", "sleep.wasm"], &config);
    let broker = worker::broker(program.directory.path()).await;
    let queue = broker.open(JOBS).await.unwrap();
    let sleeper =
        Outgoing { body: r#"{"task":"sleep","data":{"ms":30000}}"#.into(), ..Outgoing::default() };
    for sent in broker.send(&queue, &vec![sleeper; SLEEPERS]).await {
        sent.unwrap();
    }
    let process = program.worker();
    let begin = Instant::now();
    while broker.depth(&queue).await.unwrap().in_flight < SLEEPERS as u64 {
        assert!(begin.elapsed() < Duration::from_secs(20), "not all sleepers were taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Taken is not yet asleep.
    tokio::time::sleep(Duration::from_secs(1)).await;
    resident_mb(process.0.id())
}

/// CPU time of another process so far, to the nanosecond where the kernel says it.
fn cpu_of(process: u32) -> Duration {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let tasks = std::fs::read_dir(tasks).unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}
