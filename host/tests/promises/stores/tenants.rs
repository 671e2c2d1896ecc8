//! Another tenant's job with the same id neither reads nor replaces anything.

use bytes::Bytes;
use lovage::{
    job::JobKey,
    store::{Counted, Part, StoreError},
};
use serde_json::json;

use super::{call, find, open, part_of, result};
use crate::support::{
    ministack::{self, unique},
    redis,
    stage::{Kind, Setup, Stage},
};

const TENANTS: &str = "[tenants.acme]\n[tenants.mallory]\n";

fn redis_config(prefix: &str) -> String {
    format!(
        "celery.result_backend = '{}/0'\ncelery.result_key_prefix = '{prefix}'\n{TENANTS}",
        redis::url()
    )
}

fn dynamodb_config() -> String {
    let endpoint = ministack::endpoint();
    let address = endpoint.trim_start_matches("http://");
    let table = unique("tenants");
    format!("celery.result_backend = 'dynamodb://test:test@{address}/{table}'\n{TENANTS}")
}

fn meta(status: &str, value: &str) -> Bytes {
    json!({"status": status, "result": value, "task_id": "t"}).to_string().into()
}

/// As Python prints it: `status` comes first, which stores look at.
fn success(value: &str) -> Bytes {
    format!(r#"{{"status": "SUCCESS", "result": "{value}", "task_id": "t"}}"#).into()
}

/// Whose is what, in a store whose keys all tenants share.
async fn keys_that_are_shared_have_one_tenant(config: &str) {
    let store = open(config);
    let of = |tenant| JobKey::new(tenant, "t");
    // Who is first, be it with a state on the way, is whose it is.
    assert!(store.put(of("acme"), meta("PROGRESS", "half")).await.unwrap());
    for other in ["mallory", ""] {
        let refused = store.put(of(other), success("forged")).await;
        assert_eq!(refused, Err(StoreError::OtherTenants), "{other}");
        assert_eq!(find(&store, other, "t").await, None);
    }
    assert!(store.put(of("acme"), success("secret")).await.unwrap());
    assert_eq!(store.put(of("acme"), meta("FAILURE", "late")).await, Ok(false));
    assert_eq!(store.put(of("mallory"), success("x")).await, Err(StoreError::OtherTenants));
    let found = find(&store, "acme", "t").await.unwrap();
    assert_eq!(found, json!({"status": "SUCCESS", "result": "secret", "task_id": "t"}));
    // So it is with those of jobs that have no tenant.
    store.put("plain".into(), success("plain")).await.unwrap();
    let refused = store.put(JobKey::new("mallory", "plain"), success("forged")).await;
    assert_eq!(refused, Err(StoreError::OtherTenants));
    assert_eq!(find(&store, "mallory", "plain").await, None);
    // A revocation is for one tenant, or for all.
    store.revoke(Some("acme"), &["t".to_owned()]).await.unwrap();
    let revoked = async |tenant| store.is_revoked(JobKey::new(tenant, "t")).await.unwrap();
    assert_eq!(
        [revoked("acme").await, revoked("mallory").await, revoked("").await],
        [true, false, false]
    );
    store.revoke(None, &["t".to_owned()]).await.unwrap();
    assert_eq!([revoked("mallory").await, revoked("").await], [true, true]);
    // A chord belongs to whose it was first, and to nobody else.
    let results = json!([["g", null], [[["a", null], null], [["b", null], null]]]).to_string();
    store.begin_chord(of("acme"), results.into(), false).await.unwrap();
    store.chord_size(of("acme"), 2).await.unwrap();
    let part = |tenant, task: &'static str, index| Part {
        tenant,
        group: "t",
        task,
        index: Some(index),
        size: Some(2),
        encoded: task.as_bytes(),
    };
    assert_eq!(store.end_part(part("acme", "a", 0)).await.unwrap(), Counted::Waits);
    for other in ["mallory", ""] {
        let joins = store.end_part(part(other, "b", 1)).await;
        assert_eq!(joins, Err(StoreError::OtherTenants), "{other}");
    }
    let begins = store.begin_chord(of("mallory"), "[]".into(), true).await;
    assert_eq!(begins, Err(StoreError::OtherTenants));
    let last = store.end_part(part("acme", "b", 1)).await.unwrap();
    assert!(matches!(last, Counted::Complete(_)), "{last:?}");
    // A group whose keys would be those of another chord is refused.
    let twisted = store.begin_chord(JobKey::new("mallory", "t.s"), "[]".into(), true).await;
    assert!(matches!(twisted, Err(StoreError::Refused(_))), "{twisted:?}");
}

#[tokio::test]
async fn keys_in_redis_have_one_tenant() {
    keys_that_are_shared_have_one_tenant(&redis_config(&unique("shared"))).await;
}

#[tokio::test]
async fn keys_in_dynamodb_have_one_tenant() {
    keys_that_are_shared_have_one_tenant(&dynamodb_config()).await;
}

#[tokio::test]
async fn tenants_with_keys_of_their_own_are_in_nobodys_way() {
    let prefix = unique("own");
    let store = open(&redis_config(&format!("{prefix}:{{tenant}}:")));
    for tenant in ["", "acme", "mallory"] {
        let value = format!("of {tenant}");
        assert!(store.put(JobKey::new(tenant, "t"), success(&value)).await.unwrap());
    }
    for tenant in ["", "acme", "mallory"] {
        let found = find(&store, tenant, "t").await.unwrap();
        assert_eq!(found["result"], format!("of {tenant}"));
    }
    // A client of Celery's sets this as its `global_keyprefix`.
    let shared = open(&redis_config(&format!("{prefix}:acme:")));
    assert_eq!(find(&shared, "acme", "t").await.unwrap()["result"], "of acme");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenant_neither_replaces_a_result_nor_joins_a_chord() {
    let setup = Setup {
        config: "queues.jobs.format = 'celery'\nqueues.jobs.tenant_from = ['attribute']\n",
        ..Setup::default()
    };
    let stage = Stage::set(Kind::Local, setup).await;
    let config = redis_config(&unique("jobs"));
    stage.configure(&config);
    let store = open(&config);
    let worker = stage.worker().await;
    stage.send(&[call("x", "echo", &json!("secret"), "acme")]).await;
    let ours = result(&store, JobKey::new("acme", "x")).await;
    stage.send(&[call("x", "echo", &json!("forged"), "mallory")]).await;
    worker.logs("job finished", 2).await;
    assert_eq!(find(&store, "acme", "x").await, Some(ours));
    assert_eq!(find(&store, "mallory", "x").await, None);

    store.chord_size(JobKey::new("acme", "G"), 2).await.unwrap();
    let part = |id: &str, place, tenant: &str, body: &str| {
        let body = json!({
            "task": "echo", "args": [], "kwargs": {}, "options": {"task_id": body},
            "subtask_type": null, "immutable": false, "chord_size": 2,
        });
        part_of(id, "echo", &json!(format!("secret of {id}")), tenant, Some(("G", place, body)))
    };
    stage.send(&[part("p0", 0, "acme", "body-acme")]).await;
    result(&store, JobKey::new("acme", "p0")).await;
    stage.send(&[part("p1", 1, "mallory", "body-mallory")]).await;
    result(&store, JobKey::new("mallory", "p1")).await;
    stage.send(&[part("p2", 1, "acme", "body-acme")]).await;
    let body = result(&store, JobKey::new("acme", "body-acme")).await;
    assert_eq!(body["result"], json!(["secret of p0", "secret of p2"]), "{body}");
    assert_eq!(find(&store, "mallory", "body-mallory").await, None);
    assert_eq!(find(&store, "", "body-mallory").await, None);
    worker.says("another tenant").await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_keeps_results_and_revocations_by_tenant() {
    let setup = Setup { config: TENANTS, ..Setup::default() };
    let stage = Stage::set(Kind::Local, setup).await;
    let worker = stage.worker().await;
    let send = async |tenant: &str, data: &str| {
        let arguments =
            ["send", "echo", "--data", data, "--id", "x", "--tenant", tenant, "--queue", "jobs"];
        let sent = stage.lovage(&[&arguments[..], &["--wait"]].concat()).await;
        assert_eq!(sent.code, Some(0), "{sent:?}");
        sent.stdout.trim().to_owned()
    };
    assert_eq!(send("acme", "1").await, "1");
    assert_eq!(send("mallory", "2").await, "2");
    let status = async |arguments: &[&str]| {
        let shown = stage.lovage(&[&["--json", "status", "x"], arguments].concat()).await;
        serde_json::from_str::<serde_json::Value>(&shown.stdout).map_err(|_| shown)
    };
    assert_eq!(status(&["--tenant", "acme"]).await.unwrap()["data"], 1);
    assert_eq!(status(&["--tenant", "mallory"]).await.unwrap()["data"], 2);
    let which = status(&[]).await.unwrap_err();
    assert!(which.stderr.contains("--tenant with one of: acme, mallory"), "{which:?}");
    // Revoked is acme's job, and not mallory's of the same id.
    let revoked = stage.lovage(&["revoke", "y", "--tenant", "acme"]).await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let wait = async |tenant: &str| {
        let arguments = ["send", "echo", "--data", "3", "--id", "y", "--queue", "jobs", "--wait"];
        stage.lovage(&[&arguments[..], &["--tenant", tenant]].concat()).await
    };
    assert_eq!(wait("mallory").await.code, Some(0));
    let ours = wait("acme").await;
    assert!(ours.code == Some(1) && ours.stderr.contains("revoked"), "{ours:?}");
    worker.stop().await;
}
