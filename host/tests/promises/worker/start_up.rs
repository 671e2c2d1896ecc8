//! A worker that cannot do its work says so before it takes any, in words that help: exit code 1
//! and one line. What may pass is waited for.

use std::{net::TcpListener, path::Path, time::Duration};

use serde_json::json;

use crate::support::{
    ministack,
    proxy::Proxy,
    stage::{Kind, Setup, Stage, guest},
    worker::{Output, Signal, Worker},
};

/// The one line of an error.
fn error(output: &Output) -> String {
    assert_eq!(output.code, Some(1), "{output:?}");
    let errors: Vec<_> =
        output.stderr.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    assert_eq!(errors.len(), 1, "{output:?}");
    errors[0].to_owned()
}

fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_configuration_that_is_wrong_is_told_with_the_place() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    for (text, words) in [
        ("[worker]\nconcurency = 3\n", &["lovage.toml:2:1", "did you mean `concurrency`?"][..]),
        (
            "[queues.jobs]\nformat = 'yaml'\n",
            &["lovage.toml:2:10", "one of `native`, `raw`, `celery`"],
        ),
        ("[worker]\nconcurrency = 0\n", &["lovage.toml:2:15", "nonzero"]),
        ("[worker\n", &["lovage.toml:1:"]),
        ("worker.queues = ['job']\n[queues.jobs]\n", &["worker.queues", "did you mean `jobs`?"]),
        ("[log]\nlevel = 'a=b=c'\n", &["log.level", "a=b=c"]),
        ("broker.kind = 'rabbitmq'\n", &["lovage.toml:1:15", "`local`", "`sqs`"]),
    ] {
        std::fs::write(stage.directory().join("lovage.toml"), text).unwrap();
        says(&error(&stage.lovage(&["worker"]).await), words);
    }
    let missing = stage.lovage(&["worker", "--config", "nowhere.toml"]).await;
    says(&error(&missing), &["nowhere.toml", "No such file", "lovage.sample.toml"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_component_that_is_no_task_is_told_with_its_name() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let directory = stage.directory();
    std::fs::write(directory.join("text.wasm"), "hello").unwrap();
    std::fs::write(directory.join("wat.wasm"), "(component)").unwrap();
    std::fs::write(directory.join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    std::fs::write(directory.join("cut.wasm"), &std::fs::read(guest("echo.wasm")).unwrap()[..5000])
        .unwrap();
    std::fs::copy(guest("echo.wasm"), directory.join("other-echo.wasm")).unwrap();
    // Another file, with the same tasks.
    let mut other = std::fs::read(guest("echo.wasm")).unwrap();
    other.extend(b"\0\x05\x04more");
    std::fs::write(directory.join("other-echo.wasm"), other).unwrap();
    std::fs::create_dir(directory.join("empty")).unwrap();
    let hostile = |name: &str| guest(&format!("hostile/{name}.wasm")).display().to_string();
    let echo = guest("echo.wasm").display().to_string();
    for (paths, words) in [
        (vec!["nowhere"], &["nowhere", "No such file"][..]),
        (vec!["empty"], &["empty", "holds no `.wasm` files"]),
        (vec![], &["no components are named"]),
        (vec!["text.wasm"], &["text.wasm", "is not WebAssembly"]),
        (vec!["wat.wasm"], &["wat.wasm", "is WebAssembly text"]),
        (vec!["core.wasm"], &["core.wasm", "is a core WebAssembly module", "wasm32-wasip2"]),
        (vec!["cut.wasm"], &["cut.wasm", "is no valid component"]),
        (vec![&hostile("no-handler")], &["no-handler.wasm", "does not export", "greeting"]),
        (vec![&hostile("wants-missing")], &["wants-missing.wasm", "does not offer", "missing"]),
        (vec![&hostile("describe-traps")], &["describe-traps.wasm", "`describe`"]),
        (vec![&hostile("twice")], &["twice.wasm", "two tasks named `twice`"]),
        (vec![&echo, "other-echo.wasm"], &["`echo", "two components", "other-echo.wasm"]),
    ] {
        stage.configure(&format!("components.on_error = 'refuse'\ncomponents.paths = {paths:?}"));
        says(&error(&stage.lovage(&["worker"]).await), words);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_database_that_cannot_be_one_is_told() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let directory = stage.directory();
    std::fs::create_dir(directory.join("directory")).unwrap();
    std::fs::write(directory.join("text.db"), "no database, and longer than a header\n".repeat(99))
        .unwrap();
    let foreign = rusqlite::Connection::open(directory.join("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE t (a)").unwrap();
    for (path, words) in [
        ("nowhere/lovage.db", &["nowhere", "make it, or name another file"][..]),
        ("directory", &["directory", "is a directory"]),
        ("text.db", &["text.db", "no SQLite database"]),
        ("foreign.db", &["foreign.db", "of another program"]),
        ("/proc/lovage.db", &["/proc/lovage.db", "directory"]),
    ] {
        stage.configure(&format!("broker.path = '{path}'"));
        says(&error(&stage.lovage(&["worker"]).await), words);
    }
    assert!(Path::new(&stage.database()).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_queue_that_does_not_exist_is_named() {
    for kind in [Kind::Local, Kind::Sqs] {
        let stage = Stage::set(kind, Setup::default()).await;
        for (wrong, right, name) in [
            ("queues.jobs.results = 'result'", "queues.jobs.results = 'results'", "\"result\""),
            ("tasks.echo.results = 'no-such'", "tasks.echo.results = 'results'", "\"no-such\""),
            ("queues.more.address = 'more'", "queues.more.consume = false", "\"more\""),
        ] {
            if kind == Kind::Local && wrong.starts_with("queues.more") {
                // The embedded broker makes the queues that are configured.
                continue;
            }
            stage.configure(wrong);
            let error = error(&stage.lovage(&["worker"]).await);
            says(&error, &[name, "exist"]);
            if kind == Kind::Local && name == "\"result\"" {
                says(&error, &["did you mean \"results\"?"]);
            }
            stage.configure(right);
        }
        let unknown = stage.lovage(&["worker", "--queue", "job"]).await;
        assert_eq!(unknown.code, Some(2), "{unknown:?}");
        says(&unknown.stderr, &["`job`", "did you mean `jobs`?"]);
        let send = stage.lovage(&["send", "echo", "--data", "1", "--queue", "job"]).await;
        // On SQS it is a queue that could be there.
        assert_eq!(send.code, Some(if kind == Kind::Local { 2 } else { 1 }), "{send:?}");
        says(&send.stderr, &["job"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn missing_credentials_and_a_missing_region_are_told_at_once() {
    let stage = Stage::set(Kind::Sqs, Setup::default()).await;
    let run = |unset: &'static str| {
        let mut command = stage.command(&["worker"]);
        command.env_remove(unset);
        async move {
            let output =
                tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            Output {
                code: output.status.code(),
                stdout: String::new(),
                stderr: String::from_utf8(output.stderr).unwrap(),
            }
        }
    };
    says(&error(&run("AWS_ACCESS_KEY_ID").await), &["credentials", "AWS_PROFILE"]);
    says(&error(&run("AWS_REGION").await), &["no AWS region is set", "AWS_REGION"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sqs_that_is_away_at_the_start_is_waited_for() {
    let stage = Stage::set(Kind::Sqs, Setup::default()).await;
    // A port that nobody listens on, until we do.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spawn = || {
        let mut command = stage.command(&["worker"]);
        command.env("AWS_ENDPOINT_URL", format!("http://{address}"));
        Worker::spawn(command)
    };
    let worker = spawn();
    let failed = worker.logs("receiving failed", 2).await;
    says(failed[0]["error"].as_str().unwrap(), &["cannot reach", &address.to_string()]);

    let mut impatient = spawn();
    impatient.logs("receiving failed", 1).await;
    impatient.signal(Signal::TERM);
    let status = impatient.ends_within(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");

    let _proxy = Proxy::listen(TcpListener::bind(address).unwrap());
    worker.logs("worker started", 1).await;
    stage.send_job("after", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("after").await["data"], 42);
    worker.stop().await;
    stage.is_done().await;
}

/// An endpoint that takes connections and never answers, as a firewall makes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_waits_for_sqs_can_be_stopped() {
    let stage = Stage::set(Kind::Sqs, Setup::default()).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = stage.command(&["worker"]);
    command.env("AWS_ENDPOINT_URL", format!("http://{}", silent.local_addr().unwrap()));
    let mut worker = Worker::spawn(command);
    let asked = tokio::task::spawn_blocking(move || (silent.accept().unwrap(), silent)).await;
    worker.signal(Signal::TERM);
    let status = worker.ends_within(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    drop(asked);
    assert!(ministack::endpoint().starts_with("http://"));
}
