//! What a quiet tenant notices of a noisy one on the same worker: how long its small jobs take
//! from send to result, alone and beside one that spins, one that hoards memory, and one that has
//! 100,000 jobs queued.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lovage::broker::{Broker, Outgoing, Queue, local::LocalBroker};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    measure::{millis, percentile},
    report::Report,
    worker::{self, JOBS, Program},
};

/// Of each kind, in turn, so that what disturbs the machine disturbs all of them.
const ROUNDS: usize = 3;
/// The quiet tenant's jobs in each of them.
const PINGS: usize = 400;
/// What the noisy tenant has under way: less than a worker runs at once, since this is about the
/// CPU and memory, and not about who is received first.
const NOISE: usize = 32;
const FLOOD: usize = 100_000;
/// Jobs before anything is measured.
const WARM: usize = 10_000;
/// How long one case of the flood may go on, however few of its jobs were done.
const FLOOD_PATIENCE: Duration = Duration::from_mins(1);

const CONFIG: &str = r"
[tenants.quiet]
[tenants.noisy]
[tenants.noisy.limits]
cpu_ms = 100
memory_bytes = 67_108_864
[defaults]
max_attempts = 1
";

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let found = runtime.block_on(measure());
    report.section("noisy");
    let name = "noisy";
    let mut alone = [0.0; 2];
    for (case, says, times) in &found.cases {
        let parts = [("p50", "median", 0.5), ("p99", "99% of them", 0.99)];
        for ((key, what, part), alone) in parts.into_iter().zip(&mut alone) {
            let time = percentile(times, part);
            let what = format!("a quiet tenant, {says}: {what}");
            if *case == "alone" {
                *alone = time;
                report.figure(name, &format!("alone_{key}_ms"), &what, time, "");
                continue;
            }
            let ratio = time / *alone;
            let beside = format!("{ratio:.2} × alone");
            report.figure(name, &format!("{case}_{key}_ms"), &what, time, &beside);
            let digits = (ratio * 100.0).round() / 100.0;
            report.set(name, &format!("{case}_{key}_ratio"), digits);
        }
    }
    report.set(name, "spins_stopped", found.spins_stopped);
    report.set(name, "hoards_stopped", found.hoards_stopped);
}

struct Found {
    cases: Vec<(&'static str, &'static str, Vec<f64>)>,
    /// Noisy jobs that ran, and ended as they had to.
    spins_stopped: usize,
    hoards_stopped: usize,
}

async fn measure() -> Found {
    let guests = ["process_data.wasm", "hostile/spin.wasm", "hostile/hoard.wasm"];
    let program = Program::new(&guests, CONFIG);
    let broker = worker::broker(program.directory.path()).await;
    let queue = broker.open(JOBS).await.unwrap();
    let stage = Stage { broker, queue };
    let _process = program.worker();
    // Until the log of the embedded broker has its full size: while a file grows, flushing it to the
    // disk takes many times as long now and then, which is nobody's doing.
    let warm: Vec<_> = (0..WARM)
        .map(|number| job("noisy", "process_data", &format!("warm-{number}"), "21"))
        .collect();
    for some in warm.chunks(100) {
        stage.send(some).await;
    }
    stage.drained().await;
    stage.pings("warm", 50, Duration::MAX).await;
    let [mut alone, mut spins, mut hoards] = [const { Vec::new() }; 3];
    let [mut spins_stopped, mut hoards_stopped] = [0; 2];
    for round in 0..ROUNDS {
        alone.extend(stage.pings(&format!("alone-{round}"), PINGS, Duration::MAX).await);
        for (task, kinds, times, count) in [
            ("spin", &["cpu_limit"][..], &mut spins, &mut spins_stopped),
            // Where new pages are slow to come by, its CPU time ends before there are too many.
            ("hoard", &["memory_limit", "cpu_limit"], &mut hoards, &mut hoards_stopped),
        ] {
            let noise = stage.noise(task, round);
            tokio::time::sleep(Duration::from_millis(500)).await;
            times.extend(stage.pings(&format!("{task}-{round}"), PINGS, Duration::MAX).await);
            noise.abort();
            let _ = noise.await;
            stage.drained().await;
            *count += stage.stopped(task, round, kinds).await;
        }
    }
    // There was noise.
    assert!(spins_stopped > NOISE && hoards_stopped > NOISE);
    let flood: Vec<Outgoing> = (0..FLOOD)
        .map(|number| job("noisy", "process_data", &format!("flood-{number}"), "21"))
        .collect();
    for some in flood.chunks(1000) {
        stage.send(some).await;
    }
    let floods = stage.pings("flood", PINGS, FLOOD_PATIENCE).await;
    let cases = vec![
        ("alone", "alone", alone),
        ("spins", "beside one that spins", spins),
        ("hoards", "beside one that hoards memory", hoards),
        ("floods", "beside one with 100,000 jobs queued", floods),
    ];
    Found { cases, spins_stopped, hoards_stopped }
}

#[derive(Clone)]
struct Stage {
    broker: Arc<LocalBroker>,
    queue: Queue,
}

fn job(tenant: &str, task: &str, id: &str, data: &str) -> Outgoing {
    let body = format!(r#"{{"id":"{id}","task":"{task}","data":{data}}}"#);
    Outgoing { body: body.into(), group: Some(tenant.to_owned()), ..Outgoing::default() }
}

impl Stage {
    async fn send(&self, jobs: &[Outgoing]) {
        for sent in self.broker.send(&self.queue, jobs).await {
            sent.unwrap();
        }
    }

    /// Milliseconds from sending a job to having its result, one job of the quiet tenant after
    /// the other.
    async fn pings(&self, name: &str, count: usize, patience: Duration) -> Vec<f64> {
        let begun = Instant::now();
        let mut times = Vec::with_capacity(count);
        while times.len() < count && (times.is_empty() || begun.elapsed() < patience) {
            let id = format!("{name}-{}", times.len());
            let job = job("quiet", "process_data", &id, "21");
            let sent = Instant::now();
            self.send(&[job]).await;
            let wait = patience.min(Duration::from_mins(2));
            let result = self.broker.result(id.as_str().into(), wait).await.unwrap();
            times.push(millis(sent.elapsed()));
            match result {
                Some(result) => worker::check(&result),
                // It took as long at least.
                None if patience < Duration::MAX => break,
                None => panic!("no result of {id} within two minutes"),
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        times
    }

    /// Keeps so many of the noisy tenant's jobs under way until it is aborted.
    fn noise(&self, task: &'static str, round: usize) -> JoinHandle<()> {
        let stage = self.clone();
        tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let missing = NOISE.saturating_sub(stage.depth().await);
                let more: Vec<_> = (sent..sent + missing)
                    .map(|number| job("noisy", task, &noise_id(task, round, number), "null"))
                    .collect();
                sent += missing;
                stage.send(&more).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    async fn depth(&self) -> usize {
        let depth = self.broker.depth(&self.queue).await.unwrap();
        usize::try_from(depth.ready + depth.in_flight + depth.delayed).unwrap()
    }

    async fn drained(&self) {
        while self.depth().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many noisy jobs have run to the end that is theirs.
    async fn stopped(&self, task: &str, round: usize, kinds: &[&str]) -> usize {
        for number in 0.. {
            let id = noise_id(task, round, number);
            let Some(result) =
                self.broker.result(id.as_str().into(), Duration::ZERO).await.unwrap()
            else {
                return number;
            };
            let result: Value = serde_json::from_slice(&result).unwrap();
            let kind = result["error"]["kind"].as_str().unwrap();
            assert!(kinds.contains(&kind), "{result}");
        }
        0
    }
}

fn noise_id(task: &str, round: usize, number: usize) -> String {
    format!("noise-{task}-{round}-{number}")
}
