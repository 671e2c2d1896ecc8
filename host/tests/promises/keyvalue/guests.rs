//! What guests get of buckets: those that they were granted, of their own tenant, up to limits.

use std::sync::Arc;

use lovage::{
    job::Job,
    outcome::Outcome,
    policy::Policies,
    sandbox::{EngineOptions, LoadedComponent, Plan, Report, Sandbox, Services},
};
use serde_json::{Value, json};

use super::{config, service};
use crate::guests::load;

/// A sandbox with a store, a guest, and what a configuration grants it.
struct Stage {
    sandbox: Sandbox,
    guest: Arc<LoadedComponent>,
    policies: Policies,
    task: &'static str,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn set(settings: &str) -> Self {
        Self::of("hostile/buckets", "buckets", settings).await
    }

    async fn of(guest: &str, task: &'static str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services =
            Services { keyvalue: Some(service(dir.path(), settings)), ..Services::default() };
        let options = EngineOptions { slots: 4, ..EngineOptions::default() };
        let sandbox = Sandbox::with(options, services).unwrap();
        let guest = load(&sandbox, guest).await;
        let policies = Policies::new(&config(dir.path(), settings));
        Self { sandbox, guest, policies, task, _dir: dir }
    }

    async fn run(&self, tenant: &str, payload: Value, change: impl FnOnce(&mut Plan)) -> Report {
        let mut job = Job::new("job-1", self.task, payload.to_string());
        job.tenant = tenant.to_owned();
        let mut plan = Plan { grants: self.policies.of(self.task, tenant), ..Plan::default() };
        change(&mut plan);
        self.sandbox.run(&self.guest, job, &plan).await
    }

    async fn does(&self, tenant: &str, payload: Value) -> Value {
        value(self.run(tenant, payload, |_| {}).await)
    }
}

fn value(report: Report) -> Value {
    match report.outcome {
        Outcome::Done(output) => serde_json::from_slice(&output.data).unwrap(),
        other => panic!("{other:?}"),
    }
}

const GRANTED: &str = "tasks.buckets.grants.keyvalue = ['cache', 'more']\n";

#[tokio::test]
async fn a_guest_does_with_its_bucket_what_the_interfaces_say() {
    let stage = Stage::set(GRANTED).await;
    let done = stage
        .does(
            "",
            json!([
                {"open": "cache"},
                {"set": ["a", "1"]},
                {"get": "a"},
                {"get": "b"},
                {"exists": "a"},
                {"increment": ["a", 41]},
                {"set_many": [["b", "x"], ["c", "y"]]},
                {"get_many": ["c", "none", "b"]},
                {"list_keys": null},
                {"delete": "b"},
                {"delete_many": ["a", "none"]},
                {"list_keys": null},
                {"add": ["n", 3]},
                {"get": "n"},
                {"swap_late": ["c", "mine"]},
                {"get": "c"},
                {"list_keys": "not-a-cursor"},
                {"increment": ["c", 1]},
            ]),
        )
        .await;
    assert_eq!(
        done,
        json!([
            "opened", null, "1", null, true, 42, null, ["y", null, "x"], ["a", "b", "c"], null,
            null, ["c"], null, "3", {"late": "another was first", "then": true}, "mine",
            {"error": "the cursor is not one that a page came with"},
            {"error": "the key's value is no whole number in decimal digits, so it cannot be \
                       incremented"},
        ])
    );
}

#[tokio::test]
async fn the_first_draft_is_served_as_well() {
    let stage = Stage::of(
        "hostile/buckets-draft",
        "buckets_draft",
        "tasks.buckets_draft.grants.keyvalue = ['cache']",
    )
    .await;
    let done = stage.does("", json!("cache")).await;
    assert_eq!(
        done,
        json!({
            "sum": 42, "found": [["b", [50]], null], "keys": ["a", "b"], "next": null,
            "there": false, "value": [50],
        })
    );
}

#[tokio::test]
async fn a_bucket_that_was_not_granted_is_denied_whatever_its_name() {
    let stage = Stage::set(&format!("{GRANTED}tenants.acme.grants.keyvalue = ['cache']\n")).await;
    let denied = json!({"error": "access-denied"});
    let long = "x".repeat(100_000);
    for name in [
        "",
        "other",
        "Cache",
        "cache ",
        "../cache",
        "cache/",
        "cache\0",
        "acme:cache",
        ":cache",
        "cache:",
        "%",
        "*",
        "ｃache",
        &long,
    ] {
        let done = stage.does("acme", json!([{"open": name}])).await;
        assert_eq!(done, json!([denied]), "{name:?}");
    }
    // A tenant's grants narrow the task's.
    let steps = json!([{"open": "cache"}, {"open": "more"}]);
    assert_eq!(stage.does("acme", steps.clone()).await, json!(["opened", denied]));
    assert_eq!(stage.does("umbrella", steps).await, json!(["opened", "opened"]));
}

#[tokio::test]
async fn a_tenant_sees_no_other_tenants_keys() {
    let stage = Stage::set(GRANTED).await;
    let tenants = ["", "acme", "acme:", "acme/../umbrella", "umbrella", "acme\0", "ÄCME", ":"];
    for tenant in tenants {
        let steps = json!([{"open": "cache"}, {"list_keys": null}, {"set": [tenant, tenant]}]);
        assert_eq!(stage.does(tenant, steps).await, json!(["opened", [], null]), "{tenant:?}");
    }
    for tenant in tenants {
        let steps = json!([{"open": "cache"}, {"list_keys": null}, {"get": tenant}]);
        assert_eq!(stage.does(tenant, steps).await, json!(["opened", [tenant], tenant]));
    }
}

#[tokio::test]
async fn quotas_are_told_with_limit_value_and_key() {
    let stage = Stage::set(&format!(
        "{GRANTED}keyvalue.max_keys = 3\nkeyvalue.max_bytes = 100\nkeyvalue.max_value_bytes = 50\n"
    ))
    .await;
    let key = "k".repeat(1025);
    let done = stage
        .does(
            "",
            json!([
                {"open": "cache"},
                {"set_bytes": ["v", 51]},
                {"fill": [10, 1]},
                {"set_bytes": ["key-0", 50]},
                {"set_bytes": ["key-1", 50]},
                {"set": [key, ""]},
            ]),
        )
        .await;
    let refused = |why: &str| json!({"error": why});
    assert_eq!(
        done,
        json!([
            "opened",
            refused("the value has 51 bytes, and 50 bytes are allowed \
                     (`keyvalue.max_value_bytes` raises it)"),
            {"set": 3, "refused": refused("the bucket would hold 4 keys, and 3 are allowed \
                                           (`keyvalue.max_keys` raises it)")},
            null,
            refused("the bucket would hold 116 bytes, and 100 bytes are allowed \
                     (`keyvalue.max_bytes` raises it)"),
            refused("the key has 1025 bytes, and 1024 are allowed"),
        ])
    );
}

#[tokio::test]
async fn operations_are_counted_by_key_and_so_are_bytes() {
    let stage = Stage::set(GRANTED).await;
    let few = |plan: &mut Plan| plan.limits.keyvalue_operations = 10;
    let refused = |after: u32| {
        json!({"error": format!(
            "the attempt would have made {after} operations on buckets, and 10 are allowed \
             (`keyvalue_operations` raises it)"
        )})
    };
    let keys: Vec<_> = (0..11).map(|n| n.to_string()).collect();
    let steps = json!([
        {"open": "cache"}, {"get_many": keys}, {"get_times": ["k", 20]}, {"exists": "k"},
        {"list_keys": null}, {"delete": "k"}, {"increment": ["k", 1]}, {"hoard_cas": ["k", 1]},
    ]);
    let done = value(stage.run("", steps, few).await);
    assert_eq!(
        done,
        json!([
            "opened", refused(11), {"had": 10, "refused": refused(11)}, refused(11), refused(11),
            refused(11), refused(11), refused(11),
        ])
    );
    let steps = json!([{"open": "cache"}, {"set": ["key", "value"]}, {"get": "key"}]);
    let report = stage.run("", steps, |_| {}).await;
    assert!(report.usage.bytes_out >= 11 && report.usage.bytes_in >= 5, "{:?}", report.usage);
    let keys: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    let steps = json!([{"open": "cache"}, {"get_many": keys}]);
    let many = |plan: &mut Plan| plan.limits.keyvalue_operations = 100_000;
    let done = value(stage.run("", steps, many).await);
    assert_eq!(done[1], json!({"error": "the call has 1001 keys, and 1000 are allowed in one"}));
}

#[tokio::test]
async fn handles_end_where_their_limit_does() {
    let stage = Stage::set(GRANTED).await;
    let few = |plan: &mut Plan| {
        plan.limits.handles = 100;
        plan.limits.keyvalue_operations = 10_000;
    };
    for steps in [
        json!([{"hoard": ["cache", 1000]}]),
        json!([{"open": "cache"}, {"set": ["k", "v"]}, {"hoard_cas": ["k", 1000]}]),
    ] {
        let report = stage.run("", steps, few).await;
        match report.outcome {
            Outcome::Crashed(failure) => assert_eq!(failure.kind, "handle_limit", "{failure:?}"),
            other => panic!("{other:?}"),
        }
    }
    // And the next one is as well as ever.
    assert_eq!(stage.does("", json!([{"open": "cache"}])).await, json!(["opened"]));
}

#[tokio::test]
async fn a_host_without_a_store_says_so() {
    let sandbox = crate::guests::sandbox();
    let guest = load(&sandbox, "hostile/buckets").await;
    let dir = tempfile::tempdir().unwrap();
    let policies = Policies::new(&config(dir.path(), GRANTED));
    let plan = Plan { grants: policies.of("buckets", ""), ..Plan::default() };
    let job = Job::new("j", "buckets", json!([{"open": "cache"}, {"get": "k"}]).to_string());
    let done = value(sandbox.run(&guest, job, &plan).await);
    assert_eq!(done[1], json!({"error": "this host keeps no buckets"}));
}

#[tokio::test]
async fn where_a_store_is_and_what_ails_it_is_not_for_guests() {
    let port = crate::support::guarded::free_port();
    let stage = Stage::set(&format!(
        "{GRANTED}[keyvalue]\nkind = 'redis'\nurl = 'redis://:hunter2@127.0.0.1:{port}'\n"
    ))
    .await;
    let done = stage.does("", json!([{"open": "cache"}, {"get": "k"}])).await;
    assert_eq!(done[1], json!({"error": "the key-value store cannot be used now"}));
}

#[tokio::test]
async fn an_attempt_ends_at_its_deadline_though_the_store_does_not_answer() {
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stage = Stage::set(&format!(
        "{GRANTED}[keyvalue]\nkind = 'redis'\nurl = 'redis://{}'\ntimeout_ms = 3600000\n",
        silent.local_addr().unwrap()
    ))
    .await;
    let steps = json!([{"open": "cache"}, {"get": "k"}]);
    let soon = |plan: &mut Plan| plan.limits.timeout = std::time::Duration::from_millis(500);
    let report = stage.run("", steps, soon).await;
    assert!(matches!(report.outcome, Outcome::TimedOut(_)), "{report:?}");
}
