//! From the start of the process to the first job done: what a new machine's first job waits for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lovage::broker::{Broker, local::LocalBroker};

use super::{
    measure::{median, millis},
    report::Report,
    worker::{self, Program},
};

const ROUNDS: usize = 15;

pub fn run(report: &mut Report) {
    let runtime = worker::runtime();
    let program = Program::new(&["process_data.wasm"], "");
    let broker = runtime.block_on(worker::broker(program.directory.path()));
    let first: Vec<f64> = (0..ROUNDS)
        .map(|round| runtime.block_on(first_job(&program, Arc::clone(&broker), round)))
        .collect();
    report.section("start");
    let name = "start";
    report.figure(name, "first_job_ms", "process start to the first job done", median(first), "");
    command(&program);
    let command = median((0..ROUNDS).map(|_| command(&program)).collect());
    report.figure(name, "run_ms", "`lovage run`, whole, compiled code cached", command, "");
    let bare = median((0..ROUNDS).map(|_| version(&program)).collect());
    report.figure(name, "process_ms", "`lovage --version`: a process that does nothing", bare, "");
}

async fn first_job(program: &Program, broker: Arc<LocalBroker>, round: usize) -> f64 {
    let queue = broker.open(worker::JOBS).await.unwrap();
    broker.send(&queue, &[worker::job(round)]).await.remove(0).unwrap();
    let begin = Instant::now();
    let _worker = program.worker();
    let result = broker.result((&*format!("job-{round}")).into(), Duration::from_secs(10)).await;
    let time = millis(begin.elapsed());
    worker::check(&result.unwrap().unwrap());
    time
}

fn command(program: &Program) -> f64 {
    let begin = Instant::now();
    let mut command = program.command(&["run", "--data", "21", "--"]);
    assert!(command.arg(worker::guest("process_data.wasm")).status().unwrap().success());
    millis(begin.elapsed())
}

fn version(program: &Program) -> f64 {
    let begin = Instant::now();
    assert!(program.command(&["--version"]).status().unwrap().success());
    millis(begin.elapsed())
}
