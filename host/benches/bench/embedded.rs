//! The whole way of a message on the embedded broker: nothing is left out, each commit is flushed
//! to the disk.

use std::time::Duration;

use lovage::broker::Broker;

use super::{
    measure::{Cost, median, millis, percentile, stopwatch},
    report::Report,
    worker::{self, JOBS, Ready},
};

const JOBS_EACH: usize = 20_000;
const ROUNDS: usize = 5;
const PINGS: usize = 500;

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let costs: Vec<Cost> = (0..ROUNDS).map(|_| runtime.block_on(drain(JOBS_EACH))).collect();
    let rate = median(costs.iter().map(|c| JOBS_EACH as f64 / c.wall.as_secs_f64()).collect());
    let cpu = median(costs.iter().map(|c| millis(c.cpu) / JOBS_EACH as f64).collect());
    report.section("embedded");
    let name = "embedded";
    report.figure(name, "jobs_per_s", "embedded broker, a fresh sandbox each", rate, "");
    report.figure(name, "cpu_ms_per_job", "CPU of a job, disk writes included", cpu, "");
}

/// What one job takes from end to end where nothing else is to be done.
pub fn latency(report: &mut Report) {
    let pings = worker::runtime().block_on(ping());
    report.section("latency");
    let name = "latency";
    let p50 = percentile(&pings, 0.5);
    report.figure(name, "p50_ms", "from send to result, idle worker: median", p50, "");
    report.figure(name, "p99_ms", "99% of them", percentile(&pings, 0.99), "");
}

/// What it takes to work off a full queue.
async fn drain(jobs: usize) -> Cost {
    let directory = worker::directory();
    let broker = worker::broker(directory.path()).await;
    worker::send(&*broker, jobs).await;
    let queue = broker.open(JOBS).await.unwrap();
    let ready = Ready::new(worker::config(""), broker.clone()).await;
    let stop = stopwatch();
    let running = ready.start();
    loop {
        let depth = broker.depth(&queue).await.unwrap();
        if depth.ready + depth.in_flight + depth.delayed == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cost = stop();
    running.stop().await;
    // What was measured was really done: each result is there, and is right.
    let results = broker.open("results").await.unwrap();
    assert_eq!(broker.depth(&results).await.unwrap().ready, jobs as u64);
    for number in (0..jobs).step_by(97) {
        let result =
            broker.result((&*format!("job-{number}")).into(), Duration::ZERO).await.unwrap();
        worker::check(&result.unwrap());
    }
    cost
}

/// Milliseconds from sending a job to having its result, one job after the other.
async fn ping() -> Vec<f64> {
    let directory = worker::directory();
    let broker = worker::broker(directory.path()).await;
    let queue = broker.open(JOBS).await.unwrap();
    let running = Ready::new(worker::config(""), broker.clone()).await.start();
    let mut times = Vec::with_capacity(PINGS);
    for number in 0..PINGS + 50 {
        let stop = stopwatch();
        broker.send(&queue, &[worker::job(number)]).await.remove(0).unwrap();
        let result =
            broker.result((&*format!("job-{number}")).into(), Duration::from_secs(10)).await;
        let cost = stop();
        worker::check(&result.unwrap().unwrap());
        if number >= 50 {
            times.push(millis(cost.wall));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.stop().await;
    times
}
