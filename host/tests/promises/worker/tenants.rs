//! A tenant gets what the operator grants it.

use lovage::broker::Outgoing;
use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, job, job_with, on_both};

on_both! {
    strangers_and_tasks_that_were_not_granted_are_refused
}

async fn strangers_and_tasks_that_were_not_granted_are_refused(kind: Kind) {
    let setup = Setup {
        config: "tenants.acme.tasks = ['process_data']\n[tenants.free]\n",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let of = |tenant: &str, id: &str, task: &str| {
        job_with(id, task, json!(21), json!({"tenant": tenant}))
    };
    stage
        .send(&[
            of("acme", "granted", "process_data"),
            of("acme", "not-granted", "echo"),
            of("free", "all", "echo"),
            of("stranger", "stranger", "process_data"),
            job("nobody's", "echo", json!(1)),
            // On queues without an order the group names the tenant, as in SQS's fair queues.
            Outgoing { group: Some("stranger".into()), ..job("by-group", "echo", json!(1)) },
        ])
        .await;
    let worker = stage.worker().await;
    let ids = ["granted", "not-granted", "all", "stranger", "nobody's", "by-group"];
    let results = stage.results_of(ids).await;
    worker.stop().await;
    stage.is_done().await;
    let mut letters = stage.dead_letters().await;
    for id in ["granted", "all", "nobody's"] {
        assert_eq!(results[id].envelope["status"], "done", "{id}");
    }
    for (id, kind, words) in [
        ("not-granted", "task_not_allowed", "tenant `acme` may not run the task `echo`"),
        ("stranger", "unknown_tenant", "tenant `stranger` is not in the configuration"),
        ("by-group", "unknown_tenant", "tenant `stranger`"),
    ] {
        let result = &results[id].envelope;
        assert_eq!(
            (&result["status"], &result["error"]["kind"]),
            (&json!("rejected"), &json!(kind))
        );
        assert!(result.get("started_at").is_none(), "it ran: {result}");
        let (_, letter) = letters.remove(id).unwrap();
        assert!(letter.unwrap().reason.contains(words), "{id}");
    }
    assert!(letters.is_empty(), "{letters:?}");
}
