//! What clients of Celery's are promised: they stay as they are, and find their results where
//! Celery would have put them.
//!
//! The client is `celery/client.py`, with the real Celery against a local SQS; the results are in a
//! real Redis, or in `DynamoDB`'s stand-in.

// Over 500 lines: the scenarios share one client.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    ministack, redis,
    stage::{Kind, Setup, Stage},
    worker::Worker,
};

mod exceptions;
mod table;

/// A stage whose jobs come from Celery.
struct Celery {
    stage: Stage,
    backend: String,
    prefix: String,
    /// The queue of Celery's own worker.
    other: String,
    /// The clients' and Celery's worker's `result_compression`.
    compression: Option<&'static str>,
}

const CONFIG: &str = "queues.jobs.format = 'celery'\n\
    defaults.retry_base_ms = 20\n\
    tasks.fail.max_attempts = 3\n";

impl Celery {
    async fn set(backend: &str) -> Self {
        let stage = Stage::set(Kind::Sqs, Setup { config: CONFIG, ..Setup::default() }).await;
        let prefix = format!("{}_", stage.jobs.name);
        let other = ministack::NewQueue::default().create("other").await;
        let other = stage.broker.open(&other).await.unwrap().name.to_string();
        stage.configure(&format!(
            "celery.result_backend = '{backend}'\n\
             celery.result_key_prefix = '{prefix}'\n\
             celery.default_queue = '{}'\n\
             celery.routes = {{ 'tasks.py_add' = '{other}', 'tasks.py_sum' = '{other}', \
             'tasks.py_fail' = '{other}', 'tasks.py_note' = '{other}' }}\n",
            stage.jobs.name
        ));
        Self { stage, backend: backend.to_owned(), prefix, other, compression: None }
    }

    /// The real Celery, of the tests' own Python.
    fn python(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ministack::venv().join("bin/python"));
        command
            .args(arguments)
            .current_dir(here())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.stage.directory())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AWS_ENDPOINT_URL", ministack::endpoint())
            .env("AWS_REGION", ministack::REGION)
            .env("AWS_DEFAULT_REGION", ministack::REGION)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("CELERY_QUEUE", &*self.stage.jobs.name)
            .env("CELERY_OTHER_QUEUE", &self.other)
            .env("CELERY_BACKEND", &self.backend)
            .env("CELERY_PREFIX", self.prefix.trim_end_matches('_'))
            .envs(self.compression.map(|method| ("CELERY_RESULT_COMPRESSION", method)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a scenario to its end.
    async fn client(&self, scenario: &str) -> Value {
        let command = self.python(&["client.py", scenario]);
        finish(command).await
    }

    /// A worker of Celery's own, for the tasks that are written in Python.
    fn celery_worker(&self, queues: &str) -> Worker {
        let arguments = ["-m", "celery", "-A", "client", "worker", "-Q", queues];
        let mut command = self.python(&arguments);
        command.args(["--pool", "threads", "--concurrency", "4", "--without-gossip"]);
        command.args(["--without-mingle", "--without-heartbeat", "--loglevel", "warning"]);
        Worker::spawn(command)
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promises/celery")
}

async fn finish(mut command: Command) -> Value {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    serde_json::from_str(stdout.lines().last().unwrap_or_default()).unwrap()
}

fn backend() -> String {
    format!("{}/0", redis::url())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_style_have_their_results() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    let found = celery.client("calls").await;
    let doubled: Vec<i32> = (0..50).chain(0..50).collect();
    for (call, value) in [
        ("delay", json!(42)),
        ("keyword", json!(42)),
        ("text", json!("abab")),
        ("big", json!("3213876088517980551083924184682325205044405987565585670602752")),
        ("eta", json!(10)),
        ("expires", json!(12)),
        ("priority", json!(14)),
        ("headers", json!(16)),
        ("several", json!([1, 2, "three"])),
        ("keywords", json!({"a": 1, "b": [null]})),
        ("nothing", json!(null)),
        ("zlib", json!(doubled[..3])),
        ("bzip2", json!(doubled[..3])),
        ("countdown", json!(8)),
        ("shadow", json!(18)),
        ("ignored", json!("PENDING")),
        ("meta", json!(["SUCCESS", true, true, []])),
    ] {
        assert_eq!(found[call], value, "{call}: {found}");
    }
    assert!(found["countdown_seconds"].as_f64() >= Some(2.0), "{found}");
    assert_eq!(found["rich"]["uuid"], "00000000-0000-0000-0000-000000000007", "{found}");
    assert_eq!(found["rich"]["date"], "2026-01-02", "{found}");
    assert_eq!(
        (&found["expired"]["type"], &found["expired"]["state"]),
        (&json!("TaskRevokedError"), &json!("REVOKED")),
        "{found}"
    );
    assert_eq!(found["timelimit"]["type"], "TimeLimitExceeded", "{found}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_raised_where_results_are_asked_for() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    let found = celery.client("failures").await;
    let failed = &found["failed"];
    assert_eq!(failed["state"], "FAILURE", "{found}");
    assert!(failed["traceback"].as_str().unwrap().starts_with("Traceback"), "{found}");
    let frames = failed["traceback"].as_str().unwrap();
    assert!(frames.contains("  File \"fail.wasm\", line 1, in fail\n"), "{frames}");
    assert_eq!(found["rejected"]["state"], "FAILURE", "{found}");
    assert_eq!(found["rejected"]["type"], "TypeError", "{found}");
    assert_eq!(found["exhausted"]["type"], "MaxRetriesExceededError", "{found}");
    assert!(found["rejected"]["text"].as_str().unwrap().contains("an object"), "{found}");
    assert!(found["retried"].is_object() || found["retried"].is_number(), "{found}");
    assert_eq!(found["exhausted"]["state"], "FAILURE", "{found}");
    assert_eq!(found["arguments"], json!({"value": [1, 2, 1, 2]}), "{found}");
    // A retry is a message of its own, as Celery's are: each attempt was the first delivery.
    let released = worker.logged("job goes back");
    assert!(!released.is_empty(), "{:?}", worker.lines());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_run_to_their_results() {
    let celery = Celery::set(&backend()).await;
    let jobs = celery.stage.jobs.name.to_string();
    let found = as_celery_has_it(&celery, "workflows", [&celery.other, &jobs]).await;
    assert_eq!(found["chord"], json!([1, 2, 3]), "{found}");
}

/// `result_compression` is new in Celery 5.7: its workers store what they know compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_results_of_celerys_workers_are_read_in_mixed_workflows() {
    for method in ["gzip", "bzip2", "lzma"] {
        let mut celery = Celery::set(&backend()).await;
        celery.compression = Some(method);
        let worker = celery.stage.worker().await;
        let python = celery.celery_worker(&celery.other);
        let found = celery.client("mixed").await;
        python.kill();
        worker.stop().await;
        for (workflow, value) in [
            ("there_and_back", json!(10)),
            ("header_mixed", json!(4)),
            ("body_here", json!([2, 3])),
            ("header_here", json!(6)),
            ("group_mixed", json!([6, 4])),
        ] {
            assert_eq!(found[workflow], value, "{method} {workflow}: {found}");
        }
        assert_eq!(found["chord_failed_there"]["state"], "FAILURE", "{method}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_success_is_not_written_over() {
    let mut celery = Celery::set(&backend()).await;
    celery.compression = Some("gzip");
    let worker = celery.stage.worker().await;
    assert_eq!(celery.client("success_stays").await, json!({"value": 7}));
    worker.stop().await;
    let depth = celery.stage.depth().await;
    assert_eq!(depth.ready + depth.in_flight + depth.delayed, 0, "both have run: {depth:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_has_the_limits_of_one_attempt() {
    let celery = Celery::set(&backend()).await;
    celery.stage.configure("tasks.sleep.max_attempts = 1");
    let worker = celery.stage.worker().await;
    let found = celery.client("limited_map").await;
    assert_eq!(found["type"], "TimeLimitExceeded", "{found}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_no_message_holds_is_kept_by_the_store() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    assert_eq!(celery.client("large").await, json!({"length": 1_200_000}));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_kept_for_a_time_of_their_own() {
    let celery = Celery::set(&backend()).await;
    celery.stage.configure("celery.result_failure_expires_ms = 600_000");
    let worker = celery.stage.worker().await;
    let found = celery.client("expiries").await;
    assert!((500..=600).contains(&found["failure"].as_i64().unwrap()), "{found}");
    assert!(found["success"].as_i64() > Some(80_000), "{found}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_any_id_is_run_or_refused_to_its_client() {
    for backend in [backend(), "sqs".to_owned()] {
        let mut celery = Celery::set(&self::backend()).await;
        celery.backend = backend;
        let worker = celery.stage.worker().await;
        let found = celery.client("odd_ids").await;
        assert_eq!(found["values"], json!([0, 2, 4, 6, 8, 10]), "{found}");
        assert_eq!(found["refused"]["type"], "ContentDisallowed", "{found}");
        worker.stop().await;
    }
}

/// The program that Lovage was made for has both: its own result, and the JSON on a queue for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_goes_to_the_client_and_to_the_results_queue() {
    let mut celery = Celery::set(&backend()).await;
    celery.backend = "sqs".to_owned();
    celery.stage.configure("queues.jobs.result_format = 'bare'");
    let worker = celery.stage.worker().await;
    assert_eq!(celery.client("seed").await, json!({"value": 42}));
    let results = &celery.stage.results;
    let wait = Duration::from_secs(20);
    let taken = celery
        .stage
        .broker
        .receive(results, 10, wait, wait, &lovage::broker::Turn::default())
        .await
        .unwrap();
    let bodies: Vec<_> = taken.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [b"42"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_makes_the_queues_that_are_missing_where_it_may() {
    let celery = Celery::set(&backend()).await;
    let name = format!("fresh-{}", uuid());
    celery.stage.unset("dead_letters");
    celery.stage.configure(&format!(
        "queues.jobs.address = '{name}'\nqueues.jobs.create = true\n\
         queues.jobs.visibility_timeout_ms = 45_000\nqueues.jobs.results = '{name}-results'"
    ));
    let worker = celery.stage.worker().await;
    let broker = &celery.stage.broker;
    let made = broker.open(&name).await.unwrap();
    assert_eq!(made.visibility_timeout, Duration::from_secs(45));
    let letters = broker.open(&format!("{name}-dlq")).await.unwrap();
    assert_eq!(made.redrive_target.as_deref(), Some(&*letters.address));
    broker.open(&format!("{name}-results")).await.unwrap();
    worker.stop().await;
    // One that is there stays as it is.
    celery.stage.configure("queues.jobs.visibility_timeout_ms = 20_000");
    let worker = celery.stage.worker().await;
    assert_eq!(broker.open(&name).await.unwrap().visibility_timeout, Duration::from_secs(45));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_waits_has_the_result_of_its_own_job() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let worker = stage.worker().await;
    for (data, doubled) in [("1", "2"), ("4", "8"), ("\"a\"", "\"aa\"")] {
        let call = ["send", "process_data", "--id", "one", "--data", data, "--wait"];
        let sent = stage.lovage(&call).await;
        assert_eq!((sent.code, sent.stdout.trim()), (Some(0), doubled), "{sent:?}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_to_celery_does_not_take_an_earlier_result_for_its_own() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    let call = ["send", "tasks.process_data", "--celery", "--id", "two", "--data", "1", "--wait"];
    let first = celery.stage.lovage(&call).await;
    assert_eq!((first.code, first.stdout.trim()), (Some(0), "2"), "{first:?}");
    let second = celery.stage.lovage(&call).await;
    assert!(second.stderr.contains("has a result already"), "{second:?}");
    worker.stop().await;
}

/// Holds what workflows come to here to what Celery's own worker makes of the same ones.
async fn as_celery_has_it(celery: &Celery, scenario: &str, queues: [&str; 2]) -> Value {
    let worker = celery.stage.worker().await;
    let python = celery.celery_worker(queues[0]);
    let here = celery.client(scenario).await;
    worker.stop().await;
    python.kill();
    let python = celery.celery_worker(queues[1]);
    let there = celery.client(scenario).await;
    python.kill();
    for (workflow, found) in here.as_object().unwrap() {
        assert_eq!(without_traceback(found), without_traceback(&there[workflow]), "{workflow}");
    }
    here
}

/// A traceback is of where it ran, and ids are new each time.
fn without_traceback(found: &Value) -> Value {
    let mut found = found.clone();
    if let Some(fields) = found.as_object_mut() {
        fields.remove("traceback");
        fields.remove("id");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_has_steps_here_and_on_celerys_own_workers() {
    let celery = Celery::set(&backend()).await;
    let all = format!("{},{}", celery.stage.jobs.name, celery.other);
    let found = as_celery_has_it(&celery, "mixed", [&celery.other, &all]).await;
    assert_eq!(found["there_and_back"], 10, "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_here_serves_is_left_and_what_cannot_be_read_is_refused() {
    let celery = Celery::set(&backend()).await;
    let stranger = lovage::broker::Outgoing {
        body: "{\"not\": \"celery's\"}".into(),
        ..lovage::broker::Outgoing::default()
    };
    celery.stage.send(&[stranger]).await;
    let worker = celery.stage.worker().await;
    let found = celery.client("strangers").await;
    assert_eq!(found["pickle"]["type"], "ContentDisallowed", "{found}");
    assert_eq!(found["after"], 4, "{found}");
    worker.stop().await;
    let letters = celery.stage.dead_letters().await;
    assert_eq!(letters.len(), 1, "the pickled one: {letters:?}");
    let depth = celery.stage.depth().await;
    assert_eq!(depth.ready + depth.in_flight + depth.delayed, 2, "{depth:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_revoked_by_their_ids_before_they_run_and_while() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    let mut client = Worker::spawn_watching_output(celery.python(&["client.py", "revoke"]));
    let (running, waiting) = (client.line(0).await, client.line(1).await);
    worker.logs("attempt started", 1).await;
    let revoked = celery.stage.lovage(&["revoke", &running, &waiting]).await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    assert!(client.ends().await.success(), "{:?}", client.lines());
    let found: Value = serde_json::from_str(client.lines().last().unwrap()).unwrap();
    assert_eq!(found["running"]["why"], "revoked", "{found}");
    assert_eq!(found["waiting"]["type"], "TaskRevokedError", "{found}");
    assert_eq!(found["waiting"]["state"], "REVOKED", "{found}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_seen_as_a_state_of_the_task() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    let found = celery.client("progress").await;
    assert_eq!(found["seen"]["total"], 100, "{found}");
    assert_eq!(found["ended"]["steps"], 40, "{found}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_kept_in_dynamodb_as_well() {
    let table = format!("t{}", uuid());
    let endpoint = ministack::endpoint();
    let address = endpoint.trim_start_matches("http://");
    let celery = Celery::set(&format!("dynamodb://test:test@{address}/{table}")).await;
    let worker = celery.stage.worker().await;
    let found = celery.client("one").await;
    assert_eq!(found, json!({"value": 42, "chord": [1, 2]}));
    worker.stop().await;
}

/// Attacks: whoever else trusts what comes by a queue that the worker can reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_sends_only_where_it_may() {
    let celery = Celery::set(&backend()).await;
    let worker = celery.stage.worker().await;
    let victim = celery.stage.results.clone();
    let mut command = celery.python(&["client.py", "elsewhere"]);
    command.env("VICTIM", &*victim.name);
    let found = finish(command).await;
    assert_eq!(found["type"], "dispatch", "{found}");
    assert!(found["text"].as_str().unwrap().contains("celery.queues"), "{found}");
    worker.stop().await;
    // What is there is the job's own result, as operators have it, and no job.
    let told = celery.stage.result_of(found["id"].as_str().unwrap()).await;
    assert_eq!(told["status"], "failed", "{told}");
    celery.stage.is_done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_next_fails_as_in_celery_and_nothing_runs_twice() {
    let celery = Celery::set(&backend()).await;
    celery.stage.configure("celery.queues = ['*']");
    let worker = celery.stage.worker().await;
    let found = celery.client("unsendable").await;
    let large = &found["large"];
    assert_eq!((&large["type"], &large["state"]), (&json!("ChordError"), &json!("FAILURE")));
    assert!(large["text"].as_str().unwrap().starts_with("Callback error: dispatch"), "{large}");
    assert_eq!(found["header"], json!(["SUCCESS", "SUCCESS", "SUCCESS", "SUCCESS"]), "{found}");
    assert_eq!(found["errback"], true, "{found}");
    for case in ["missing", "refused"] {
        // As Celery has it where the next task cannot be called.
        assert_eq!(found[case]["states"], json!(["FAILURE", "FAILURE", "FAILURE"]), "{found}");
        assert_eq!(found[case]["type"], "dispatch", "{found}");
    }
    // Four parts, the errback, and the first tasks of two chains.
    assert_eq!(worker.logged("attempt started").len(), 7);
    worker.stop().await;
    let letters = celery.stage.dead_letters().await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.values().all(|(_, letter)| letter.as_ref().unwrap().kind == "dispatch"));
    assert_eq!(celery.stage.depth().await, lovage::broker::Depth::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_step_that_its_queue_refuses_is_told_to_the_client() {
    let celery = Celery::set(&backend()).await;
    let next = ministack::queue("next").await;
    let next = celery.stage.broker.open(&next).await.unwrap();
    celery.stage.configure(
        "celery.queues = ['next-*']
worker.publish_attempts = 2",
    );
    let worker = celery.stage.worker().await;
    let client = async |gone: &str| {
        let mut command = celery.python(&["client.py", "next_step"]);
        command.env("NEXT", &*next.name).env("GONE", gone);
        finish(command).await
    };
    assert_eq!(client("").await["first"], 2);
    // It is known, and gone when the next step is sent there: Celery's client makes no queue that it
    // does not send to.
    let sqs = ministack::sqs_client();
    sqs.delete_queue().queue_url(&*next.address).send().await.unwrap();
    let found = client("1").await;
    assert_eq!(
        (&found["type"], &found["state"]),
        (&json!("dispatch"), &json!("FAILURE")),
        "{found}"
    );
    assert_eq!(
        (&found["states"][1], &found["errback"]),
        (&json!("FAILURE"), &json!(true)),
        "{found}"
    );
    worker.stop().await;
    assert_eq!(celery.stage.dead_letters().await.len(), 1);
    assert_eq!(celery.stage.depth().await, lovage::broker::Depth::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_have_the_names_that_kombu_gives_them() {
    let celery = Celery::set(&backend()).await;
    let translated = ministack::queue("reports-eu").await;
    let translated = celery.stage.broker.open(&translated).await.unwrap().name.to_string();
    let dotted = translated.replace("reports-eu", "reports.eu");
    celery.stage.configure(&format!(
        "celery.queues = ['reports.*']
[queues.'{dotted}']
format = 'celery'
         dead_letters = 'discard'
"
    ));
    let worker = celery.stage.worker().await;
    let mut command = celery.python(&["client.py", "dotted"]);
    command.env("DOTTED", &dotted);
    assert_eq!(finish(command).await, json!({"value": 84, "direct": 2}));
    worker.stop().await;
}

/// With the package in clients/python, as its users have it: from a worker that knows nothing of it
/// but that `reply_to` may name its queues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_the_sqs_backend_has_results_without_a_store() {
    let mut celery = Celery::set(&backend()).await;
    celery.backend = "sqs://".to_owned();
    let worker = celery.stage.worker().await;
    let found = celery.client("without_a_store").await;
    assert_eq!(found["value"], 42, "{found}");
    assert_eq!(found["chain"], 8, "{found}");
    assert_eq!(found["group"], json!([2, 4]), "{found}");
    assert_eq!(found["failed"]["state"], "FAILURE", "{found}");
    assert_eq!(found["broken"]["type"], found["failed"]["type"], "{found}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_become_of_messages_is_told_without_taking_any() {
    let celery = Celery::set(&backend()).await;
    celery.client("unanswered").await;
    let checked = celery.stage.lovage(&["celery", "check", "--queue", "jobs", "--json"]).await;
    let foreseen: Value = serde_json::from_str(&checked.stdout).unwrap();
    let of = |task: &str| {
        let mut all = foreseen.as_array().unwrap().iter();
        all.find(|it| it["task"] == task).unwrap_or_else(|| panic!("{task}: {foreseen}"))
    };
    assert_eq!(of("tasks.process_data")["verdict"], "runs", "{foreseen}");
    assert_eq!(of("tasks.process_data")["then"], json!(["1 more step(s) of its chain"]));
    assert_eq!(of("tasks.nobody")["verdict"], "left", "{foreseen}");
    assert_eq!(of("tasks.echo")["verdict"], "waits", "{foreseen}");
    assert_eq!(checked.code, Some(1), "one of them would not run");
    // Nothing was taken.
    let depth = celery.stage.depth().await;
    assert_eq!(depth.ready + depth.in_flight + depth.delayed, 3, "{depth:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_celerys_workers_are_called_from_here() {
    let celery = Celery::set(&backend()).await;
    celery.stage.configure(&format!("queues.python.address = '{}'", celery.other));
    celery.stage.configure("queues.python.format = 'celery'\nqueues.python.consume = false");
    let python = celery.celery_worker(&celery.other);
    let call = ["send", "tasks.py_add", "--celery", "--data", "41", "--queue", "python", "--wait"];
    let sent = celery.stage.lovage(&call).await;
    assert_eq!((sent.code, sent.stdout.trim()), (Some(0), "42"), "{sent:?}");
    python.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_loses_no_workflow() {
    let celery = Celery::set(&backend()).await;
    celery.stage.configure("queues.jobs.visibility_timeout_ms = 4000");
    let worker = celery.stage.worker().await;
    let mut client = Worker::spawn_watching_output(celery.python(&["client.py", "many"]));
    client.line(0).await;
    worker.logs("job finished", 50).await;
    worker.kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let worker = celery.stage.worker().await;
    assert!(client.ends().await.success(), "{:?}", client.lines());
    let found: Value = serde_json::from_str(client.lines().last().unwrap()).unwrap();
    assert_eq!(found["wrong"], json!([]), "{found}");
    worker.stop().await;
}

fn uuid() -> String {
    format!("{:016x}", fastrand_like())
}

/// Enough to tell tables of one run apart.
fn fastrand_like() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}
