//! Secrets through the real program: what it logs, publishes and keeps.

use serde_json::json;

use super::{parameter, secret};
use crate::support::stage::{Kind, Setup, Stage};

const GRANTS: &str = "tasks.settings.grants.secrets = { api_key = 'key' }\n\
                      log.level = 'trace'\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_secret_is_in_no_log_and_in_no_failure() {
    let setup = Setup { hostile: &["settings"], config: GRANTS, ..Setup::default() };
    let stage = Stage::set(Kind::Local, setup).await;
    std::fs::write(stage.directory().join("key"), "hunter2-the-secret\n").unwrap();
    stage.configure("secrets.key.file = 'key'\nsecrets.key.ttl_ms = 1\n");
    let worker = stage.worker().await;
    stage.send_job("fails", "settings", json!({"fail": "api_key"})).await;
    let failed = stage.result_of("fails").await;
    assert_eq!(failed["error"]["kind"], "told_to", "{failed}");
    // What a guest is given it may give away: that is its own doing, and its task's.
    stage.send_job("tells", "settings", json!({"get": "api_key"})).await;
    assert_eq!(stage.result_of("tells").await["data"], "hunter2-the-secret");
    // Taken away, and of a wrong kind.
    std::fs::write(stage.directory().join("key"), b"hunter2-the-secret\xff").unwrap();
    stage.send_job("wrong", "settings", json!({"fail": "api_key"})).await;
    let wrong = stage.result_of("wrong").await;
    assert_eq!((&wrong["status"], &wrong["attempt"]), (&json!("failed"), &json!(2)), "{wrong}");
    assert_eq!(wrong["error"]["kind"], "secret_unavailable");
    let said = worker.says("a secret cannot be had").await;
    assert!(said.contains("key: it is no UTF-8"), "{said}");
    let lines = worker.lines();
    worker.stop().await;
    let shown = stage.lovage(&["config", "show"]).await;
    let letters = format!("{:?}", stage.dead_letters().await);
    assert!(letters.contains("secret_unavailable"), "{letters}");
    let all = format!("{lines:?}{shown:?}{failed}{wrong}{letters}");
    assert!(!all.contains("hunter2"), "a secret is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_finds_aws_as_every_tool_does() {
    let config = "log.level = 'trace'";
    let setup = Setup { hostile: &["settings"], config, ..Setup::default() };
    let stage = Stage::set(Kind::Sqs, setup).await;
    let secret = secret("worker", "hunter2").await;
    let parameter = parameter("worker", "hunter3").await;
    stage.configure(&format!(
        "tasks.settings.grants.secrets = {{ one = 'one', two = 'two' }}\n\
         secrets.one.secrets_manager = '{secret}'\nsecrets.two.parameter = '{parameter}'\n"
    ));
    let worker = stage.worker().await;
    stage.send_job("all", "settings", json!("all")).await;
    let result = stage.result_of("all").await;
    // The SDK's own words, down to its last detail, have none of it. Where the value is published
    // by the guest, it goes through SQS, of which the same is not asked.
    let asks = |line: &&String| line.contains("GetSecretValue") || line.contains("GetParameter");
    let lines = worker.lines();
    assert!(lines.iter().any(|line| asks(&line)), "nothing is told of the look-ups");
    let told = lines.iter().filter(asks).find(|line| line.contains("hunter"));
    assert_eq!(told, None);
    worker.stop().await;
    assert_eq!(result["data"], json!({"one": "hunter2", "two": "hunter3"}), "{result}");
}
