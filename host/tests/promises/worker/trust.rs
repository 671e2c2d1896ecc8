//! A job is for the tenant that those name who are believed, and for no other.

use lovage::broker::{Outgoing, attribute};
use serde_json::{Value, json};

use crate::support::stage::{Kind, Setup, Stage, job, job_with, on_both, with_attribute};

on_both! {
    a_sender_acts_for_no_tenant_that_is_not_vouched_for
    a_queue_is_its_tenants_whatever_messages_say
}

fn claiming(
    id: &str,
    body: Option<&str>,
    attribute: Option<&str>,
    group: Option<&str>,
) -> Outgoing {
    let mut message = match body {
        Some(tenant) => job_with(id, "echo", json!(1), json!({"tenant": tenant})),
        None => job(id, "echo", json!(1)),
    };
    if let Some(tenant) = attribute {
        message = with_attribute(message, attribute::TENANT, tenant);
    }
    Outgoing { group: group.map(str::to_owned), ..message }
}

/// Sends, and holds each to its end: status or kind of failure, and for whom.
async fn holds(stage: &Stage, cases: Vec<(Outgoing, &str, &str, &str)>) {
    let messages: Vec<_> = cases.iter().map(|(message, ..)| message.clone()).collect();
    stage.send(&messages).await;
    let worker = stage.worker().await;
    let results = stage.results_of(cases.iter().map(|(_, id, ..)| *id)).await;
    worker.stop().await;
    stage.is_done().await;
    let mut letters = stage.dead_letters().await;
    for (_, id, end, tenant) in cases {
        let result = &results[id].envelope;
        let ended = result["error"]["kind"].as_str().or(result["status"].as_str());
        assert_eq!((ended, &result["tenant"]), (Some(end), &Value::from(tenant)), "{id}");
        if end != "done" {
            assert_eq!(result["status"], "rejected", "{id}");
            assert!(result.get("started_at").is_none(), "it ran: {result}");
            let (_, letter) = letters.remove(id).unwrap();
            let letter = letter.unwrap();
            assert_eq!(letter.tenant, tenant, "{id}");
            assert!(letter.reason.contains("tenant_from"), "{letter:?}");
        }
    }
    assert!(letters.is_empty(), "{letters:?}");
}

async fn a_sender_acts_for_no_tenant_that_is_not_vouched_for(kind: Kind) {
    let config = "[queues.jobs]\ntenant_from = ['group', 'attribute']\ntenant_required = true\n";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let cases = vec![
        (claiming("1", None, None, Some("acme")), "1", "done", "acme"),
        (claiming("2", Some("acme"), None, Some("acme")), "2", "done", "acme"),
        (claiming("3", Some("acme"), Some("acme"), None), "3", "done", "acme"),
        (claiming("4", Some("victim"), None, Some("acme")), "4", "tenant_mismatch", "acme"),
        (claiming("5", None, Some("victim"), Some("acme")), "5", "tenant_mismatch", "acme"),
        (claiming("6", Some("victim"), None, None), "6", "tenant_mismatch", ""),
        (claiming("7", None, None, None), "7", "tenant_required", ""),
    ];
    holds(&stage, cases).await;
}

async fn a_queue_is_its_tenants_whatever_messages_say(kind: Kind) {
    let config = "[queues.jobs]\ntenant_from = ['queue']\ntenant = 'acme'\n";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let cases = vec![
        (claiming("1", None, None, None), "1", "done", "acme"),
        (claiming("2", Some("acme"), None, Some("acme")), "2", "done", "acme"),
        (claiming("3", Some("victim"), None, None), "3", "tenant_mismatch", "acme"),
        (claiming("4", None, Some("victim"), None), "4", "tenant_mismatch", "acme"),
        (claiming("5", None, None, Some("victim")), "5", "tenant_mismatch", "acme"),
    ];
    holds(&stage, cases).await;
}
