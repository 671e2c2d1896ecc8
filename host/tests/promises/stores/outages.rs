//! A store that is away or refuses: no guest is run for nothing, what was computed is kept, and it
//! is told.

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use lovage::job::JobKey;
use serde_json::json;

use super::{ask, call, command, open, result};
use crate::support::{
    guarded::free_port,
    redis::Redis,
    stage::{Kind, Setup, Stage, job},
    worker::Worker,
};

const CELERY: &str = "queues.jobs.format = 'celery'\nqueues.plain.dead_letters = 'letters'\n\
                      queues.plain.results = 'results'\n";

/// A way to a Redis that can be led to another one: connections that are open stay as they are.
struct Way {
    port: u16,
    target: Arc<AtomicU16>,
}

impl Way {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Self {
            port: listener.local_addr().unwrap().port(),
            target: Arc::new(AtomicU16::new(port)),
        };
        let target = Arc::clone(&way.target);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let port = target.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || pump(from, to));
                }
            }
        });
        way
    }

    fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A stage whose jobs come from Celery's clients, with a queue beside them that needs no store.
async fn stage(port: u16) -> Stage {
    let setup = Setup { config: CELERY, ..Setup::default() };
    let stage = Stage::set(Kind::Local, setup).await;
    stage.configure(&backend(port));
    stage
}

fn backend(port: u16) -> String {
    format!("celery.result_backend = 'redis://127.0.0.1:{port}/0'\n")
}

fn started(worker: &Worker) -> usize {
    worker.logged("attempt started").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_fails_over_spends_no_attempts_and_runs_no_job_twice() {
    // A replica's first copy goes through a file.
    let files = tempfile::tempdir().unwrap();
    let directory = files.path().display().to_string();
    let start = || Redis::start_with(&["--dir", &directory]);
    let (first, second) = (start(), start());
    let way = Way::to(first.port);
    let stage = stage(way.port).await;
    let worker = stage.worker().await;
    stage.send(&[call("before", "echo", &json!(1), "")]).await;
    let store = open(&backend(way.port));
    result(&store, "before".into()).await;
    // The second is the primary now. Connections that are open still lead to the first.
    assert_eq!(command(first.port, &format!("REPLICAOF 127.0.0.1 {}", second.port)), "+OK");
    way.lead_to(second.port);
    let ids: Vec<_> = (0..10).map(|number| format!("after-{number}")).collect();
    let calls: Vec<_> = ids.iter().map(|id| call(id, "echo", &json!(id), "")).collect();
    stage.send(&calls).await;
    let store = open(&backend(second.port));
    for id in &ids {
        let found = result(&store, JobKey::from(id.as_str())).await;
        assert_eq!(found["result"], json!(id));
    }
    assert_eq!(started(&worker), 11, "{:?}", worker.lines());
    worker.stop().await;
    assert_eq!(stage.depth().await, lovage::broker::Depth::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_computed_is_kept_while_the_store_is_away_and_no_guest_is_run() {
    let mut redis = Redis::start();
    let stage = stage(redis.port).await;
    // Two slots: jobs that wait with their results must not hold them.
    let address = format!("127.0.0.1:{}", free_port());
    stage.configure(&format!("worker.concurrency = 2\nworker.metrics_address = '{address}'\n"));
    let worker = stage.worker().await;
    let held = ["held-1", "held-2"];
    stage.send(&held.map(|id| call(id, "sleep", &json!(8000), ""))).await;
    worker.logs("attempt started", 2).await;
    redis.stop();
    worker.logs("a dependency is down: jobs that need it are not run until it is back", 1).await;
    let (status, told) = ask(&address, "/readyz");
    assert_eq!((status, &told["dependencies"][0]["name"]), (503, &json!("result_backend")));
    // Its lease is 30 s: long enough to see that nothing is run while the store is away.
    stage.send(&[call("waits", "echo", &json!(2), "")]).await;
    worker.logs("attempt ended", 2).await;
    let plain = stage.broker.open("plain").await.unwrap();
    let sent = stage.broker.send(&plain, &[job("plain", "echo", json!(3))]).await;
    assert!(sent.iter().all(Result::is_ok));
    assert_eq!(stage.result_of("plain").await["data"], 3, "it needs no store");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(started(&worker), 3, "`waits` waits: {:?}", worker.lines());
    redis.begin().unwrap();
    let store = open(&backend(redis.port));
    for id in ["held-1", "held-2", "waits"] {
        assert_eq!(result(&store, id.into()).await["status"], "SUCCESS");
    }
    assert_eq!(started(&worker), 4, "each ran once");
    worker.logs("a dependency is back", 1).await;
    assert_eq!(ask(&address, "/readyz").0, 200);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_is_told_at_the_start_and_by_config_check() {
    let redis = Redis::start();
    assert_eq!(command(redis.port, "CONFIG SET requirepass right"), "+OK");
    let stage = stage(redis.port).await;
    let wrong = "wrong-hunter2";
    let url = |password: &str| {
        let port = redis.port;
        format!("celery.result_backend = 'redis://:{password}@127.0.0.1:{port}/0'\n")
    };
    stage.configure(&url(wrong));
    let checked = stage.lovage(&["config", "check"]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stderr.contains("result_backend"), "{checked:?}");
    assert!(checked.stderr.contains("has user and password"), "{checked:?}");
    assert!(!checked.stderr.contains(wrong), "{checked:?}");
    assert_eq!(stage.lovage(&["config", "check", "--offline"]).await.code, Some(0));
    let worker = stage.worker().await;
    worker.logs("a dependency is down: jobs that need it are not run until it is back", 1).await;
    stage.send(&[call("a", "echo", &json!(1), "")]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(started(&worker), 0);
    // An operator gives the user that password, or would correct the URL.
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    let set = format!("AUTH right\r\nCONFIG SET requirepass {wrong}\r\n");
    stream.write_all(set.as_bytes()).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n+OK\r\n");
    let store = open(&url(wrong));
    assert_eq!(result(&store, "a".into()).await["result"], 1);
    assert_eq!(started(&worker), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_whose_memory_is_full_is_waited_for() {
    let redis = Redis::start();
    let stage = stage(redis.port).await;
    let worker = stage.worker().await;
    stage.send(&[call("a", "echo", &json!(1), "")]).await;
    let store = open(&backend(redis.port));
    result(&store, "a".into()).await;
    assert_eq!(command(redis.port, "CONFIG SET maxmemory 1"), "+OK");
    stage.send(&[call("b", "echo", &json!(2), "")]).await;
    worker.logs("a dependency is down: jobs that need it are not run until it is back", 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(started(&worker) <= 2, "{:?}", worker.lines());
    assert_eq!(command(redis.port, "CONFIG SET maxmemory 0"), "+OK");
    assert_eq!(result(&store, "b".into()).await["result"], 2);
    assert_eq!(started(&worker), 2, "each ran once");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_that_are_away_spend_no_attempts() {
    let mut redis = Redis::start();
    let setup = Setup {
        hostile: &["buckets"],
        config: "tasks.buckets.grants.keyvalue = ['b']\ntasks.buckets.max_attempts = 1\n\
                 keyvalue.kind = 'redis'\nkeyvalue.timeout_ms = 1000\n",
        ..Setup::default()
    };
    let stage = Stage::set(Kind::Local, setup).await;
    stage.configure(&format!("keyvalue.url = 'redis://127.0.0.1:{}'\n", redis.port));
    let worker = stage.worker().await;
    let steps = json!([{"open": "b"}, {"increment": ["n", 1]}]);
    stage.send_job("a", "buckets", steps.clone()).await;
    assert_eq!(stage.result_of("a").await["data"], json!(["opened", 1]));
    redis.stop();
    worker.logs("a dependency is down: jobs that need it are not run until it is back", 1).await;
    let before = started(&worker);
    stage.send_job("b", "buckets", steps).await;
    stage.send_job("c", "echo", json!("needs none")).await;
    assert_eq!(stage.result_of("c").await["data"], "needs none");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(started(&worker), before + 1, "`c` alone");
    redis.begin().unwrap();
    let done = stage.result_of("b").await;
    assert_eq!((&done["data"], &done["attempt"]), (&json!(["opened", 1]), &json!(1)), "{done}");
    worker.stop().await;
}
