//! A worker asks for jobs eagerly while there are plenty, and hardly at all while there are none:
//! each receive on SQS costs money.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    stage::{Kind, Setup, Stage, guest},
    stub::Stub,
    worker::{Worker, until},
};

/// The receives on one queue.
#[derive(Debug, Default, Clone)]
struct Receives {
    /// How many were made.
    count: usize,
    under_way: usize,
    /// How many were under way at once.
    most: usize,
    /// What they asked for: how many messages, how long to wait.
    asked: Vec<(u64, u64)>,
}

/// An SQS that waits as it is asked to. Its queues are full of jobs, or empty.
struct Sqs {
    stub: Stub,
    full: Arc<AtomicBool>,
    receives: Arc<Mutex<BTreeMap<String, Receives>>>,
}

impl Sqs {
    fn start(full: bool) -> Self {
        let full = Arc::new(AtomicBool::new(full));
        let receives = Arc::new(Mutex::new(BTreeMap::<String, Receives>::new()));
        let (is_full, log) = (Arc::clone(&full), Arc::clone(&receives));
        let stub = Stub::at_once(move |operation, input| {
            if operation != "ReceiveMessage" {
                return None;
            }
            let queue = input["QueueUrl"].as_str().unwrap();
            let (most, wait) = (&input["MaxNumberOfMessages"], &input["WaitTimeSeconds"]);
            let (most, wait) = (most.as_u64().unwrap(), wait.as_u64().unwrap_or(0));
            let number = {
                let mut log = log.lock().unwrap();
                let receives = log.entry(queue.to_owned()).or_default();
                receives.count += 1;
                receives.under_way += 1;
                receives.most = receives.most.max(receives.under_way);
                receives.asked.push((most, wait));
                receives.count
            };
            let answer = if is_full.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                json!({"Messages": (0..most).map(|n| expired(number, n)).collect::<Vec<_>>()})
            } else {
                std::thread::sleep(Duration::from_secs(wait));
                json!({})
            };
            log.lock().unwrap().get_mut(queue).unwrap().under_way -= 1;
            Some((200, answer))
        });
        Self { stub, full, receives }
    }

    /// A worker on `queues` here.
    async fn worker(&self, stage: &Stage, queues: &[&str], config: &str) -> Worker {
        stage.configure("broker.kind = 'sqs'");
        for queue in queues.iter().chain(&["results", "letters"]) {
            stage.configure(&format!(
                "queues.{queue}.address = 'https://stub/1/{queue}'\n\
                 queues.{queue}.dead_letters = 'letters'"
            ));
        }
        stage.configure("queues.letters.dead_letters = 'discard'");
        stage.configure(config);
        let mut command = stage.command(&["worker"]);
        command.env("AWS_ENDPOINT_URL", &self.stub.endpoint);
        let worker = Worker::spawn(command);
        worker.logs("worker started", 1).await;
        worker
    }

    fn receives(&self, queue: &str) -> Receives {
        let url = format!("https://stub/1/{queue}");
        self.receives.lock().unwrap().get(&url).cloned().unwrap_or_default()
    }

    /// Counts from now on.
    fn forget(&self) {
        for receives in self.receives.lock().unwrap().values_mut() {
            let under_way = receives.under_way;
            *receives = Receives { under_way, most: under_way, ..Receives::default() };
        }
    }
}

/// A job that costs the worker next to nothing.
fn expired(receive: usize, n: u64) -> Value {
    let name = format!("{receive}-{n}");
    json!({
        "MessageId": name, "ReceiptHandle": name, "Attributes": {"ApproximateReceiveCount": "1"},
        "Body": json!({"data": 1, "task": "echo", "expires": 1}).to_string(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_queue_has_several_receivers_and_an_empty_one_has_one() {
    let sqs = Sqs::start(true);
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let config = "worker.receivers = 3\nworker.concurrency = 200\nworker.receive_wait_ms = 1000";
    let worker = sqs.worker(&stage, &["jobs"], config).await;
    until("three receives are under way at once", || async {
        (sqs.receives("jobs").most >= 3).then_some(())
    })
    .await;
    let many = sqs.receives("jobs").count + 30;
    until("many more receives", || async { (sqs.receives("jobs").count >= many).then_some(()) })
        .await;
    assert_eq!(sqs.receives("jobs").most, 3, "more than were allowed");

    sqs.full.store(false, Ordering::Relaxed);
    until("one receiver is left", || async {
        // Looked at for longer than a receive takes.
        sqs.forget();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        (sqs.receives("jobs").most == 1).then_some(())
    })
    .await;
    sqs.forget();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let receives = sqs.receives("jobs");
    assert_eq!(receives.most, 1, "{receives:?}");
    assert!(receives.asked.iter().all(|(_, wait)| *wait == 1), "{receives:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_queues_keep_one_place_each_and_are_not_asked_before_their_wait_is_over() {
    let sqs = Sqs::start(false);
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    // Less than SQS can tell from no wait at all.
    let config = "worker.concurrency = 3\nworker.receive_wait_ms = 300";
    let begin = Instant::now();
    let queues = ["jobs", "more", "others"];
    let worker = sqs.worker(&stage, &queues, config).await;
    until("each queue is asked", || async {
        queues.iter().all(|queue| sqs.receives(queue).count > 2).then_some(())
    })
    .await;
    for queue in queues {
        let receives = sqs.receives(queue);
        let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
        assert!(receives.count <= seconds + 1, "within {seconds} s: {receives:?}");
        assert_eq!(receives.most, 1, "{receives:?}");
        assert!(receives.asked.iter().all(|asked| *asked == (1, 1)), "{receives:?}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_worker_on_the_embedded_broker_sleeps() {
    let config = "queues.more.consume = true";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    // A directory of its own: the shared one is read by other tests, of which a watcher is told.
    let tasks = stage.directory().join("tasks");
    std::fs::create_dir(&tasks).unwrap();
    std::fs::copy(guest("process_data.wasm"), tasks.join("process_data.wasm")).unwrap();
    stage.configure(&format!("components.paths = ['{}']", tasks.display()));
    let worker = stage.worker().await;
    // What runs a job has to come to rest, too.
    stage.send_job("job", "process_data", json!(21)).await;
    stage.result_of("job").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (cpu, wakes) = spent(worker.id());
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (more_cpu, more_wakes) = spent(worker.id());
    let elapsed = begin.elapsed();
    let (cpu, wakes) = (more_cpu.saturating_sub(cpu), more_wakes - wakes);
    // A loop that looked every ten milliseconds would wake a hundred times a second.
    assert!(cpu < elapsed / 20, "{cpu:?} of processor time within {elapsed:?}");
    assert!(wakes < 20 * elapsed.as_secs(), "woke {wakes} times within {elapsed:?}");
    worker.stop().await;
}

/// The processor time that a process has had, and how often its threads went to sleep.
fn spent(process: u32) -> (Duration, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The second field is the program's name in brackets; user and system time are the 14th and
    // the 15th, in hundredths of a second (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let sleeps = threads.map(|thread| {
        // A thread may have ended since it was listed.
        let status = std::fs::read_to_string(thread.unwrap().path().join("status"));
        let status = status.unwrap_or_default();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.map_or(0, |count| count.trim().parse::<u64>().unwrap())
    });
    (Duration::from_millis(10 * ticks), sleeps.sum())
}
