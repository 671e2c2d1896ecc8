//! What one tenant does costs no other its place: quotas, rates, turns.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use lovage::broker::{Outgoing, Queue};
use serde_json::{Value, json};

use crate::support::{
    stage::{Kind, Published, Setup, Stage, job, job_with, on_both, take},
    worker::until,
};

on_both! {
    a_tenant_never_holds_more_than_its_quota_and_waiting_spends_no_attempt
    a_tenant_at_its_quota_holds_up_no_other
    a_rate_is_kept_and_waiting_spends_no_attempt
    a_fifo_group_keeps_its_order_while_its_tenant_waits
}

/// A job of a tenant: named by its body, and grouped as `lovage send` does it.
fn of(tenant: &str, id: &str, task: &str, data: Value) -> Outgoing {
    let group = Some(tenant.to_owned());
    Outgoing { group, ..job_with(id, task, data, json!({"tenant": tenant})) }
}

fn time(result: &Value, field: &str) -> Timestamp {
    result[field].as_str().unwrap().parse().unwrap()
}

/// The most of these jobs that ran at once, by their own account.
fn most_at_once<'a>(results: impl Iterator<Item = &'a Published>) -> usize {
    let times: Vec<_> = results
        .map(|it| (time(&it.envelope, "started_at"), time(&it.envelope, "finished_at")))
        .collect();
    let running = |at: Timestamp| times.iter().filter(|(from, to)| *from <= at && at < *to).count();
    times.iter().map(|(from, _)| running(*from)).max().unwrap_or_default()
}

async fn a_tenant_never_holds_more_than_its_quota_and_waiting_spends_no_attempt(kind: Kind) {
    let config = "tenants.acme.concurrency = 2\n[tenants.other]\n";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let ids: Vec<_> = (0..12).map(|n| format!("acme-{n}")).collect();
    let mut messages: Vec<_> =
        ids.iter().map(|id| of("acme", id, "sleep", json!({"ms": 200}))).collect();
    // Where no group tells whose it is, too.
    for message in messages.iter_mut().step_by(3) {
        message.group = None;
    }
    stage.send(&messages).await;
    let worker = stage.worker().await;
    let results = stage.results_of(ids).await;
    let held = worker.logged("tenant is held back: its messages wait until it has room again");
    worker.stop().await;
    stage.is_done().await;
    for (id, result) in &results {
        assert_eq!(
            (&result.envelope["status"], &result.envelope["attempt"]),
            (&json!("done"), &json!(1)),
            "{id}"
        );
    }
    let most = most_at_once(results.values());
    assert!((1..=2).contains(&most), "{most} at once");
    // Told once, not for each message.
    assert!(!held.is_empty() && held.len() < 6, "{held:?}");
}

async fn a_tenant_at_its_quota_holds_up_no_other(kind: Kind) {
    let config = "worker.concurrency = 4\nworker.receive_wait_ms = 20000\n\
                  [tenants.sleepy]\nconcurrency = 2\n[tenants.awake]\n";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let sleepers: u64 = if kind == Kind::Local { 400 } else { 60 };
    let sleepy = |n| of("sleepy", &format!("sleepy-{n}"), "sleep", json!({"ms": 40_000}));
    stage.send(&(0..sleepers).map(sleepy).collect::<Vec<_>>()).await;
    let worker = stage.worker().await;
    // Once it has what it may have, and the rest waits.
    until("the quota is used", || async {
        (worker.logged("attempt started").len() >= 2).then_some(())
    })
    .await;
    let quick: Vec<_> = (0..20).map(|n| format!("quick-{n}")).collect();
    let awake = |id: &String| of("awake", id, "echo", json!(1));
    stage.send(&quick.iter().map(awake).collect::<Vec<_>>()).await;
    stage.send_job("nobody's", "echo", json!(1)).await;
    let all = quick.iter().map(String::as_str).chain(["nobody's"]);
    let results = stage.results_of(all).await;
    assert!(results.values().all(|it| it.envelope["attempt"] == 1));
    if kind == Kind::Local {
        let depth = stage.depth().await;
        assert_eq!((depth.in_flight, depth.ready), (2, sleepers - 2), "{depth:?}");
    }
    worker.kill();
}

async fn a_rate_is_kept_and_waiting_spends_no_attempt(kind: Kind) {
    let config = "[tenants.slow]\nrate_per_second = 5.0\nburst = 2\n[tenants.other]\n";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let ids: Vec<_> = (0..20).map(|n| format!("slow-{n}")).collect();
    let slow = |id: &String| of("slow", id, "echo", json!(1));
    stage.send(&ids.iter().map(slow).collect::<Vec<_>>()).await;
    stage.send(&[of("other", "other", "echo", json!(1))]).await;
    let worker = stage.worker().await;
    let results = stage.results_of(ids.iter().map(String::as_str).chain(["other"])).await;
    worker.stop().await;
    stage.is_done().await;
    assert!(results.values().all(|it| it.envelope["attempt"] == 1));
    let mut began: Vec<_> =
        ids.iter().map(|id| time(&results[id].envelope, "started_at")).collect();
    began.sort_unstable();
    // Two at once, and eighteen at five a second: 3.6 seconds, with room for a slow start.
    let took = began[19].duration_since(began[0]);
    assert!(took.as_millis() > 2500, "twenty within {took:?}");
    let others = time(&results["other"].envelope, "started_at");
    assert!(others < began[19], "it waited for the slow tenant");
}

async fn a_fifo_group_keeps_its_order_while_its_tenant_waits(kind: Kind) {
    let config = "tenants.acme.concurrency = 1\n";
    let stage = Stage::set(kind, Setup { fifo: true, config, ..Setup::default() }).await;
    let mut messages = Vec::new();
    for n in 0..4 {
        for group in ["a", "b", "c"] {
            let id = format!("{group}-{n}");
            let group = Some(group.to_owned());
            messages.push(Outgoing { group, ..of("acme", &id, "sleep", json!({"ms": 30})) });
        }
    }
    stage.send(&messages).await;
    let worker = stage.worker().await;
    let ids = (0..4).flat_map(|n| ["a", "b", "c"].map(|group| format!("{group}-{n}")));
    let results = stage.results_of(ids).await;
    worker.stop().await;
    stage.is_done().await;
    assert_eq!(most_at_once(results.values()), 1);
    for group in ["a", "b", "c"] {
        let began: Vec<_> = (0..4)
            .map(|n| time(&results[&format!("{group}-{n}")].envelope, "started_at"))
            .collect();
        assert!(began.is_sorted(), "{group}: {began:?}");
    }
    for (id, result) in &results {
        assert_eq!(result.envelope["status"], "done", "{id}");
        // SQS counts what is put back on a FIFO queue, since it can be no copy.
        assert!(kind == Kind::Sqs || result.envelope["attempt"] == 1, "{result:?}");
    }
}

/// Results in the order in which they were published, until this one.
async fn results_before(stage: &Stage, queue: &Queue, id: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    loop {
        for result in take(&*stage.broker, queue, Duration::from_secs(20)).await {
            if result.envelope["id"] == id {
                return counts;
            }
            *counts.entry(result.envelope["tenant"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_job_does_not_wait_for_the_flood_of_another_tenant() {
    let config = "worker.concurrency = 4\nlog.level = 'warn,lovage=info'\n";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let flood: Vec<_> =
        (0..5000).map(|n| of("flood", &format!("flood-{n}"), "echo", json!(n))).collect();
    stage.send(&flood).await;
    stage.send(&[of("quiet", "first", "echo", json!(1))]).await;
    let worker = stage.worker().await;
    let before = results_before(&stage, &stage.results, "first").await;
    assert!(before.get("flood").is_none_or(|count| *count < 100), "{before:?}");
    // In the midst of it, too, whether it has a tenant or none.
    let one = [of("quiet", "second", "echo", json!(1)), job("third", "echo", json!(1))];
    for (id, message) in ["second", "third"].into_iter().zip(one) {
        stage.send(&[message]).await;
        // What is published by now comes first.
        let published = stage.broker.depth(&stage.results).await.unwrap().ready;
        let before = results_before(&stage, &stage.results, id).await;
        let flood = before.get("flood").copied().unwrap_or_default();
        let since = flood.saturating_sub(usize::try_from(published).unwrap());
        assert!(since < 200, "{id}: {before:?}, {published} before it was sent");
        assert!(stage.depth().await.ready > 0, "the flood is over before the test is");
    }
    worker.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tenants_that_flood_at_once_get_the_same() {
    let config = "worker.concurrency = 4\nlog.level = 'warn,lovage=info'\n";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    for tenant in ["a", "b", "c"] {
        let flood: Vec<_> =
            (0..600).map(|n| of(tenant, &format!("{tenant}-{n}"), "echo", json!(n))).collect();
        stage.send(&flood).await;
    }
    let worker = stage.worker().await;
    let mut counts = BTreeMap::<String, usize>::new();
    while counts.values().sum::<usize>() < 600 {
        for result in take(&*stage.broker, &stage.results, Duration::from_secs(20)).await {
            let tenant = result.envelope["tenant"].as_str().unwrap().to_owned();
            *counts.entry(tenant).or_default() += 1;
        }
    }
    worker.kill();
    // By order of sending, all would be of the first.
    assert!(counts.len() == 3 && counts.values().all(|count| *count > 100), "{counts:?}");
}
