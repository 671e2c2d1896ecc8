//! Jobs that lead to other jobs.

use lovage::follow_on::id;
use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, job, job_with, on_both};

on_both! {
    follow_on_jobs_are_sent_with_the_result_and_know_where_they_came_from
    an_attempt_that_does_not_succeed_sends_nothing
    nobody_breeds_without_end
    a_tenant_sends_for_itself_and_no_more_than_it_is_granted
}

const FAN_OUT: &[&str] = &["../granted/fan_out"];

async fn follow_on_jobs_are_sent_with_the_result_and_know_where_they_came_from(kind: Kind) {
    let setup = Setup {
        hostile: FAN_OUT,
        config: "tasks.fan_out.grants.dispatch = ['fan_*', 'echo_context']",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let inner = json!({"task": "echo_context", "items": [1]});
    stage.send_job("root", "fan_out", json!({"task": "fan_out", "items": [inner, inner]})).await;
    let children = [id("root", 0), id("root", 1)];
    let grandchildren = children.clone().map(|child| id(&child, 0));
    let all = children.iter().chain(&grandchildren).cloned().chain(["root".to_owned()]);
    let results = stage.results_of(all.collect::<Vec<_>>()).await;
    assert_eq!(results["root"].envelope["data"], json!(children));
    for (child, grandchild) in children.iter().zip(&grandchildren) {
        let context = &results[grandchild].envelope["data"];
        assert_eq!(context["root_id"], "root", "{context}");
        assert_eq!(&context["parent_id"], child, "{context}");
    }
    worker.stop().await;
    stage.is_done().await;
}

async fn an_attempt_that_does_not_succeed_sends_nothing(kind: Kind) {
    let setup = Setup {
        hostile: &["breeds"],
        config: "defaults.grants.dispatch = ['breeds']",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    stage.send_job("fails", "sends_and_fails", json!(null)).await;
    assert_eq!(stage.result_of("fails").await["error"]["kind"], "Thought");
    worker.stop().await;
    // Nothing is queued.
    stage.is_done().await;
}

async fn nobody_breeds_without_end(kind: Kind) {
    let setup = Setup {
        hostile: &["breeds"],
        config: "defaults.grants.dispatch = ['breeds']\n\
                 defaults.dispatch_jobs = 2\ndefaults.dispatch_depth = 4\n",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    stage.send_job("loud", "breeds", json!({"jobs": 3, "quiet": false})).await;
    let loud = stage.result_of("loud").await;
    let message = loud["error"]["message"].as_str().unwrap();
    assert!(message.contains("2 jobs") && message.contains("`dispatch_jobs`"), "{message}");
    // 1 + 2 + 4 + 8 jobs, of which the last may send none.
    let mut all = vec!["quiet".to_owned()];
    for parent in 0..7 {
        let parent = all[parent].clone();
        all.extend([id(&parent, 0), id(&parent, 1)]);
    }
    stage.send_job("quiet", "breeds", json!({"jobs": 50, "quiet": true})).await;
    let results = stage.results_of(all.clone()).await;
    for (number, of) in all.iter().enumerate() {
        let taken = if number < 7 { 2 } else { 0 };
        assert_eq!(results[of].envelope["data"], json!(taken), "{number}");
    }
    worker.stop().await;
    stage.is_done().await;
}

async fn a_tenant_sends_for_itself_and_no_more_than_it_is_granted(kind: Kind) {
    let setup = Setup {
        hostile: FAN_OUT,
        config: "tasks.fan_out.grants.dispatch = ['echo', 'echo_context']\n\
                 tenants.acme.grants.dispatch = ['echo_context']\n",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let of_acme = |id: &str, task: &str| {
        let data = json!({"task": task, "items": [1]});
        job_with(id, "fan_out", data, json!({"tenant": "acme"}))
    };
    let free = job("free", "fan_out", json!({"task": "echo", "items": [1]}));
    stage.send(&[of_acme("granted", "echo_context"), of_acme("not", "echo"), free]).await;
    let (child, other) = (id("granted", 0), id("free", 0));
    let results = stage.results_of(["granted", "not", "free", &child, &other]).await;
    assert_eq!(results["free"].envelope["status"], "done");
    let not = &results["not"].envelope["error"]["message"];
    assert!(not.as_str().unwrap().contains("not granted jobs for the task `echo`"), "{not}");
    let child = &results[&child].envelope;
    assert_eq!((&child["tenant"], &child["data"]["tenant"]), (&json!("acme"), &json!("acme")));
    worker.stop().await;
    stage.is_done().await;
}
