//! Dead letters and results: each goes where it belongs, and all can be listed and deleted.

use serde_json::{Value, json};

use crate::support::stage::{Kind, Setup, Stage, job, job_with, on_both};

on_both! {
    letters_and_results_are_listed_shown_and_deleted
}

/// Two tenants whose queues share their dead letters.
const SHARED: &str = "
    tenants.acme = {}\ntenants.globex = {}
    queues.acme = { tenant = 'acme', tenant_from = ['queue'], dead_letters = 'letters' }
    queues.globex = { tenant = 'globex', tenant_from = ['queue'], dead_letters = 'letters' }";

async fn shared() -> Stage {
    Stage::set(Kind::Local, Setup { config: SHARED, ..Setup::default() }).await
}

async fn tenant_of(stage: &Stage, id: &str) -> String {
    let status = stage.lovage(&["status", id, "--json"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    status["tenant"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_letter_of_a_shared_queue_goes_back_to_its_own_tenant() {
    let stage = shared().await;
    let worker = stage.worker().await;
    let globex = stage.broker.open("globex").await.unwrap();
    let reject = job("globex-job", "fail", json!({"error": "reject"}));
    crate::support::broker::send(&*stage.broker, &globex, &[reject]).await;
    worker.logs("message becomes a dead letter", 1).await;
    let redriven = stage.lovage(&["dlq", "redrive", "--queue", "acme", "--all"]).await;
    assert_eq!(
        (redriven.code, &*redriven.stdout),
        (Some(0), "sent back to globex: 1\n"),
        "{redriven:?}"
    );
    worker.logs("message becomes a dead letter", 2).await;
    assert_eq!(tenant_of(&stage, "globex-job").await, "globex");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_letter_that_would_change_its_tenant_or_queue_is_left_unless_forced() {
    let stage = shared().await;
    let worker = stage.worker().await;
    let globex = stage.broker.open("globex").await.unwrap();
    let reject = job("globex-job", "fail", json!({"error": "reject"}));
    crate::support::broker::send(&*stage.broker, &globex, &[reject]).await;
    worker.logs("message becomes a dead letter", 1).await;
    worker.stop().await;
    // The queue is another tenant's now.
    stage.configure("queues.globex.tenant = 'acme'");
    let redrive = &["dlq", "redrive", "--queue", "acme", "--all"][..];
    let refused = stage.lovage(redrive).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("was for the tenant `globex`, and would run for `acme`"),
        "{refused:?}"
    );
    // A letter that names no queue of its own is one of two.
    let bare = job_with("bare", "fail", json!(1), json!({}));
    crate::support::broker::send(&*stage.broker, &stage.letters, &[bare]).await;
    let refused = stage.lovage(redrive).await;
    assert!(refused.stderr.contains("does not say which queue it came from"), "{refused:?}");
    assert!(refused.stdout.contains("sent back to acme: 0"), "{refused:?}");
    let forced = stage.lovage(&[redrive, &["--force"]].concat()).await;
    assert_eq!((forced.code, &*forced.stdout), (Some(0), "sent back to acme: 2\n"), "{forced:?}");
}

async fn letters_and_results_are_listed_shown_and_deleted(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    let ids: Vec<_> = (0..12).map(|n| format!("job-{n:02}")).collect();
    let jobs: Vec<_> = ids.iter().map(|id| job(id, "fail", json!({"error": "reject"}))).collect();
    stage.send(&jobs).await;
    worker.logs("message becomes a dead letter", ids.len()).await;
    worker.stop().await;
    let run = async |arguments: &[&str]| {
        let output = stage.lovage(arguments).await;
        assert_eq!(output.code, Some(0), "{arguments:?}: {output:?}");
        output
    };
    let some = run(&["dlq", "list", "--queue", "jobs", "--max", "5"]).await;
    assert_eq!(some.stdout.lines().count(), 5);
    assert!(some.stderr.contains("the first 5 of about 12"), "{some:?}");
    let all = run(&["dlq", "list", "--queue", "jobs"]).await;
    assert_eq!((all.stdout.lines().count(), &*all.stderr), (12, ""));
    let two = run(&["dlq", "delete", "job-03", "job-11", "--queue", "jobs"]).await;
    assert!(two.stdout.ends_with(": 2\n"), "{two:?}");
    let none = run(&["dlq", "purge", "--older-than", "1d", "--queue", "jobs"]).await;
    assert!(none.stdout.ends_with(": 0\n"), "{none:?}");
    let rest = run(&["dlq", "purge", "--queue", "jobs"]).await;
    assert!(rest.stdout.ends_with(": 10\n"), "{rest:?}");

    let listed = run(&["results", "list"]).await;
    assert_eq!(listed.stdout.lines().count(), 12, "{listed:?}");
    assert!(listed.stdout.contains("job-07  fail  rejected"), "{listed:?}");
    let shown = run(&["results", "show", "job-07"]).await;
    assert!(shown.stdout.contains("\"rejected\""), "{shown:?}");
    let one = run(&["results", "delete", "job-07"]).await;
    assert!(one.stdout.ends_with(": 1\n"), "{one:?}");
    let rest = run(&["results", "purge"]).await;
    assert!(rest.stdout.ends_with(": 11\n"), "{rest:?}");
    let jobs = stage.lovage(&["results", "purge", "--queue", "jobs"]).await;
    assert_eq!(jobs.code, Some(2), "{jobs:?}");
    stage.is_done().await;
}
