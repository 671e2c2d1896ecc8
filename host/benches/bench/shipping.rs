//! What jobs notice of new versions of their component, and what it costs to serve a thousand.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use lovage::broker::{Broker, Outgoing, Queue, local::LocalBroker};

use super::{
    measure::{median, millis, percentile},
    report::Report,
    worker::{self, JOBS, Process, Served, guest, resident_mb},
};

/// Turns, so that what disturbs the machine disturbs one of them; the jobs that are timed in each
/// half of one, and how often one is sent.
const TURNS: usize = 7;
const PINGS: usize = 600;
const EVERY: Duration = Duration::from_millis(5);
const COMPONENTS: usize = 1000;
/// Of how many of them jobs come.
const IN_USE: usize = 16;
const DRAINED: usize = 5000;
const ROUNDS: usize = 3;

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let (swaps, alone, beside) = runtime.block_on(swaps());
    report.section("shipping");
    let name = "shipping";
    let parts = [("p50", "median", 0.5), ("p99", "99% of them", 0.99)];
    for (key, what, part) in parts {
        let of = |turns: &[Vec<f64>]| {
            median(turns.iter().map(|times| percentile(times, part)).collect())
        };
        let (alone, beside) = (of(&alone), of(&beside));
        let says = |when: &str| format!("from send to result, {when}: {what}");
        report.figure(name, &format!("alone_{key}_ms"), &says("no swaps"), alone, "");
        let ratio = beside / alone;
        let of = format!("{ratio:.2} × without");
        report.figure(name, &format!("swaps_{key}_ms"), &says("during swaps"), beside, &of);
        report.set(name, &format!("swaps_{key}_ratio"), (ratio * 100.0).round() / 100.0);
    }
    report.set(name, "swaps", swaps);

    if std::env::var("LOVAGE_X").is_ok() {
        return;
    }
    let many = Many::new();
    let start = median((0..5).map(|_| runtime.block_on(many.start())).collect());
    report.figure(name, "start_1000_ms", "start with 1,000 components, compiled before", start, "");
    let memory = runtime.block_on(many.memory());
    report.figure(name, "registered_1000_mb", "resident, 1,000 components registered", memory, "");
    let mut rates: [Vec<f64>; 2] = Default::default();
    for round in 0..ROUNDS {
        rates[0].push(runtime.block_on(many.drain("one", 1, round)));
        rates[1].push(runtime.block_on(many.drain("many", IN_USE, round)));
    }
    let [one, of_many] = rates.map(median);
    let of = format!("{:.2} × one", of_many / one);
    report.figure(name, "one_jobs_per_s", "jobs of one component, no other registered", one, "");
    let says = "jobs of 16 components, 1,000 registered";
    report.figure(name, "many_jobs_per_s", says, of_many, &of);
}

/// A worker that looks for new versions, which come as fast as they can half of the time, in turns:
/// how many came, and the times of jobs without and with them, by turn.
async fn swaps() -> (usize, Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let served = Served::new("");
    let file = served.tasks().join("process_data.wasm");
    put(&file, 0);
    let broker = worker::broker(served.directory.path()).await;
    let queue = broker.open(JOBS).await.unwrap();
    let _process = served.worker();
    pings(&broker, &queue, "warm", 500).await;
    let (mut count, mut alone, mut beside) = (0, Vec::new(), Vec::new());
    for turn in 0..TURNS {
        alone.push(pings(&broker, &queue, &format!("alone-{turn}"), PINGS).await);
        let file = file.clone();
        let swapping = tokio::task::spawn_blocking(move || {
            let end = Instant::now() + EVERY * u32::try_from(PINGS).unwrap();
            while Instant::now() < end {
                count += 1;
                put(&file, count);
                // As long as it takes to compile it, and a little.
                std::thread::sleep(Duration::from_millis(500));
            }
            count
        });
        beside.push(pings(&broker, &queue, &format!("beside-{turn}"), PINGS).await);
        count = swapping.await.unwrap();
        // What came last is served, too, before a turn without; and nobody has fallen asleep.
        pings(&broker, &queue, &format!("between-{turn}"), 200).await;
    }
    (count, alone, beside)
}

/// Puts another version of `process_data` into its place: one more custom section.
fn put(file: &Path, number: usize) {
    let section = [&[0, 7, 6], format!("{number:06}").as_bytes()].concat();
    let wasm = [fs::read(guest("process_data.wasm")).unwrap(), section].concat();
    let beside = file.with_extension("new");
    fs::write(&beside, wasm).unwrap();
    fs::rename(beside, file).unwrap();
}

/// Sends a job every few milliseconds; how long each took to its result.
async fn pings(broker: &Arc<LocalBroker>, queue: &Queue, kind: &str, count: usize) -> Vec<f64> {
    let mut running = Vec::with_capacity(count);
    let mut next = tokio::time::interval(EVERY);
    for number in 0..count {
        next.tick().await;
        let (broker, queue) = (Arc::clone(broker), queue.clone());
        let id = format!("{kind}-{number}");
        running.push(tokio::spawn(async move {
            let begin = Instant::now();
            let body = format!(r#"{{"id":"{id}","data":21}}"#);
            let job = Outgoing { body: body.into(), ..Outgoing::default() };
            broker.send(&queue, &[job]).await.remove(0).unwrap();
            let result = broker.result(id.as_str().into(), Duration::from_mins(1)).await;
            let time = millis(begin.elapsed());
            worker::check(&result.unwrap().unwrap());
            time
        }));
    }
    let mut times = Vec::with_capacity(count);
    for one in running {
        times.push(one.await.unwrap());
    }
    times
}

/// Two workers' directories, with one component and with a thousand.
struct Many {
    one: Served,
    many: Served,
}

impl Many {
    /// All are compiled once, which is not measured.
    fn new() -> Self {
        let (one, many) = (Served::new(""), Served::new(""));
        for (served, count) in [(&one, 1), (&many, COMPONENTS)] {
            for number in 0..count {
                let file = served.tasks().join(format!("f{number}.wasm"));
                fs::write(file, component(number)).unwrap();
            }
            let runtime = worker::runtime();
            runtime.block_on(async {
                let broker = worker::broker(served.directory.path()).await;
                let _process = served.worker();
                first(&broker, "compiled").await;
            });
        }
        Self { one, many }
    }

    /// Milliseconds to the first job done.
    async fn start(&self) -> f64 {
        let broker = worker::broker(self.many.directory.path()).await;
        let begin = Instant::now();
        let _process = self.many.worker();
        first(&broker, &format!("start-{}", fastrand::u64(..))).await;
        millis(begin.elapsed())
    }

    /// Megabytes when jobs of some of them have run.
    async fn memory(&self) -> f64 {
        let broker = worker::broker(self.many.directory.path()).await;
        let process = self.many.worker();
        for number in 0..IN_USE {
            one_job(&broker, number, &format!("memory-{number}-{}", fastrand::u64(..))).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        resident_mb(process.0.id())
    }

    /// Jobs a second, of so many components in turn.
    async fn drain(&self, which: &str, components: usize, round: usize) -> f64 {
        let served = if which == "one" { &self.one } else { &self.many };
        let broker = worker::broker(served.directory.path()).await;
        let queue = broker.open(JOBS).await.unwrap();
        let process: Process = served.worker();
        for number in 0..components {
            one_job(&broker, number, &format!("{which}-first-{number}-{round}")).await;
        }
        let jobs: Vec<_> = (0..DRAINED)
            .map(|number| job(number % components, &format!("{which}-{number}-{round}")))
            .collect();
        let begin = Instant::now();
        for some in jobs.chunks(1000) {
            for sent in broker.send(&queue, some).await {
                sent.unwrap();
            }
        }
        loop {
            let depth = broker.depth(&queue).await.unwrap();
            if depth.ready + depth.in_flight + depth.delayed == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let rate = DRAINED as f64 / begin.elapsed().as_secs_f64();
        // What was measured was really done.
        for number in (0..DRAINED).step_by(97) {
            let id = format!("{which}-{number}-{round}");
            let result = broker.result(id.as_str().into(), Duration::ZERO).await.unwrap().unwrap();
            checked(number % components, &result);
        }
        drop(process);
        rate
    }
}

/// A component whose task `f-N` adds N.
fn component(number: usize) -> Vec<u8> {
    let text = format!(
        r#"(component
            (core module $code
                (func (export "f") (param i64) (result i64)
                    (i64.add (local.get 0) (i64.const {number}))))
            (core instance $instance (instantiate $code))
            (func (export "f{number}") (param "x" s64) (result s64)
                (canon lift (core func $instance "f"))))"#
    );
    wat::parse_str(text).unwrap()
}

fn job(number: usize, id: &str) -> Outgoing {
    let body = format!(r#"{{"id":"{id}","task":"f{number}","data":21}}"#);
    Outgoing { body: body.into(), ..Outgoing::default() }
}

fn checked(number: usize, envelope: &[u8]) {
    let envelope: serde_json::Value = serde_json::from_slice(envelope).unwrap();
    assert_eq!(envelope["data"], 21 + number, "{envelope}");
}

async fn first(broker: &Arc<LocalBroker>, id: &str) {
    one_job(broker, 0, id).await;
}

async fn one_job(broker: &Arc<LocalBroker>, number: usize, id: &str) {
    let queue = broker.open(JOBS).await.unwrap();
    broker.send(&queue, &[job(number, id)]).await.remove(0).unwrap();
    let result = broker.result(id.into(), Duration::from_mins(5)).await;
    checked(number, &result.unwrap().unwrap());
}
