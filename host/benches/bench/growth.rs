//! What a job costs on the embedded broker with more of everything: jobs queued, tenants, bytes.

use std::time::Duration;

use lovage::broker::{Broker, Outgoing};

use super::{
    measure::{Cost, millis, stopwatch},
    report::Report,
    worker::{self, JOBS, Ready},
};

/// So many jobs are run, however many wait.
const RUN: usize = 10_000;
const QUEUED: [usize; 3] = [10_000, 100_000, 1_000_000];
const TENANTS: [usize; 3] = [1, 30, 1000];
/// Bytes of a payload, and how many jobs have one.
const PAYLOADS: [(usize, usize); 4] =
    [(1, 2000), (1 << 10, 2000), (64 << 10, 300), (512 << 10, 100)];

fn per_job(cost: Cost, jobs: usize) -> f64 {
    millis(cost.cpu) / jobs as f64
}

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    report.section("growth");
    let name = "growth";
    for queued in QUEUED {
        let jobs = (0..queued).map(worker::job);
        let cost = per_job(runtime.block_on(drain(jobs, RUN)), RUN);
        let key = format!("queued_{queued}_cpu_ms_per_job");
        report.figure(name, &key, &format!("CPU of a job, {queued} queued"), cost, "");
    }
    for tenants in TENANTS {
        let jobs = (0..RUN).map(|number| {
            let group = Some(format!("tenant-{}", number % tenants));
            Outgoing { group, ..worker::job(number) }
        });
        let cost = per_job(runtime.block_on(drain(jobs, RUN)), RUN);
        let key = format!("tenants_{tenants}_cpu_ms_per_job");
        report.figure(name, &key, &format!("CPU of a job, {tenants} tenants in turn"), cost, "");
    }
}

pub fn payloads(report: &mut Report) {
    let runtime = worker::runtime();
    report.section("payloads");
    let name = "payloads";
    let mut costs = Vec::new();
    for (bytes, count) in PAYLOADS {
        let text = "x".repeat(bytes);
        let jobs = (0..count).map(|number| {
            let body = format!(r#"{{"id":"job-{number}","task":"echo","data":"{text}"}}"#);
            Outgoing { body: body.into(), ..Outgoing::default() }
        });
        let cost = per_job(runtime.block_on(drain(jobs, count)), count);
        costs.push((bytes as f64, cost));
        let key = format!("bytes_{bytes}_cpu_ms_per_job");
        report.figure(name, &key, &format!("CPU of a job, {bytes} bytes and back"), cost, "");
    }
    let ((few, cheap), (many, dear)) = (costs[0], costs[costs.len() - 1]);
    let each = (dear - cheap) * 1e6 / (many - few);
    report.figure(name, "ns_per_byte", "CPU of a byte of payload, there and back (ns)", each, "");
}

/// Sends jobs, and runs so many of them.
async fn drain(jobs: impl Iterator<Item = Outgoing>, run: usize) -> Cost {
    let directory = worker::directory();
    let broker = worker::broker(directory.path()).await;
    let queue = broker.open(JOBS).await.unwrap();
    let results = broker.open("results").await.unwrap();
    let mut jobs = jobs.peekable();
    while jobs.peek().is_some() {
        let some: Vec<Outgoing> = jobs.by_ref().take(1000).collect();
        for sent in broker.send(&queue, &some).await {
            sent.unwrap();
        }
    }
    let ready = Ready::new(worker::config(""), broker.clone()).await;
    let stop = stopwatch();
    let running = ready.start();
    while broker.depth(&results).await.unwrap().ready < run as u64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cost = stop();
    running.stop().await;
    cost
}
