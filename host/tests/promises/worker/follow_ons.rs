//! Jobs that lead to other jobs.

use lovage::follow_on::id;
use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, job, job_with, on_both};

on_both! {
    follow_on_jobs_are_sent_with_the_result_and_know_where_they_came_from
    an_attempt_that_does_not_succeed_sends_nothing
    nobody_breeds_without_end
    a_tree_of_jobs_ends_at_its_budget
    a_tenant_of_any_name_has_its_follow_on_jobs
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

async fn a_tree_of_jobs_ends_at_its_budget(kind: Kind) {
    let setup = Setup {
        hostile: &["breeds"],
        config: "defaults.grants.dispatch = ['breeds']\n\
                 defaults.dispatch_jobs = 2\ndefaults.dispatch_tree_jobs = 7\n\
                 tenants.small.limits.dispatch_tree_jobs = 1\n",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    // Of 7 the children take 2 and have 3 and 2 left; of those each takes 2, and one child has 1 left
    // for the first of its own, which takes it.
    let (left, right) = (id("root", 0), id("root", 1));
    let grandchildren = [id(&left, 0), id(&left, 1), id(&right, 0), id(&right, 1)];
    let last = id(&grandchildren[0], 0);
    let mut all = vec!["root".to_owned(), left.clone(), right.clone(), last.clone()];
    all.extend(grandchildren.clone());
    stage.send_job("root", "breeds", json!({"jobs": 50, "quiet": true})).await;
    let results = stage.results_of(all).await;
    let taken = |of: &str| results[of].envelope["data"].clone();
    assert_eq!([taken("root"), taken(&left), taken(&right)], [json!(2), json!(2), json!(2)]);
    assert_eq!(grandchildren.map(|of| taken(&of)), [json!(1), json!(0), json!(0), json!(0)]);
    assert_eq!(taken(&last), json!(0));
    // A tenant may have less, and the guest is told why.
    let data = json!({"jobs": 2, "quiet": false});
    stage.send(&[job_with("loud", "breeds", data, json!({"tenant": "small"}))]).await;
    let loud = stage.result_of("loud").await;
    let message = loud["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("1 are left") && message.contains("`dispatch_tree_jobs`"),
        "{message}"
    );
    worker.stop().await;
    stage.is_done().await;
}

async fn a_tenant_of_any_name_has_its_follow_on_jobs(kind: Kind) {
    let setup = Setup {
        hostile: FAN_OUT,
        config: "tasks.fan_out.grants.dispatch = ['echo_context']",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    for (number, tenant) in ["Müller GmbH", "日本 & Söhne", "sha256-0"].into_iter().enumerate()
    {
        let root = format!("root-{number}");
        let data = json!({"task": "echo_context", "items": [1]});
        stage.send(&[job_with(&root, "fan_out", data, json!({ "tenant": tenant }))]).await;
        let child = id(&root, 0);
        let results = stage.results_of([root.as_str(), child.as_str()]).await;
        let child = &results[&child].envelope;
        assert_eq!(
            (&child["status"], &child["tenant"]),
            (&json!("done"), &json!(tenant)),
            "{child}"
        );
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
