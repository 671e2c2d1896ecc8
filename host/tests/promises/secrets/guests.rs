//! What guests read by `wasi:config/store`.

use std::sync::Arc;

use lovage::{
    config::Config,
    job::Job,
    outcome::Outcome,
    policy::Policies,
    sandbox::{
        EngineOptions, LoadedComponent, Plan, Report, SECRET_UNAVAILABLE, Sandbox, Services,
    },
    secrets::Secrets,
};
use serde_json::{Value, json};

use crate::guests::load;

struct Stage {
    sandbox: Sandbox,
    guest: Arc<LoadedComponent>,
    policies: Policies,
    dir: tempfile::TempDir,
}

impl Stage {
    /// `DIR` in the settings becomes a directory with a file `secret`.
    async fn set(guest: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "hunter2\n").unwrap();
        std::fs::write(dir.path().join("acme"), "hunter3\n").unwrap();
        let settings = settings.replace("DIR", &dir.path().display().to_string());
        let config = Config::parse(&settings, "test").unwrap();
        config.validate("test").unwrap();
        let services = Services { secrets: Secrets::new(&config.secrets), ..Services::default() };
        let options = EngineOptions { slots: 4, ..EngineOptions::default() };
        let sandbox = Sandbox::with(options, services).unwrap();
        let guest = load(&sandbox, guest).await;
        Self { sandbox, guest, policies: Policies::new(&config), dir }
    }

    async fn run(&self, task: &str, tenant: &str, payload: Value) -> Report {
        let mut job = Job::new("job-1", task, payload.to_string());
        job.tenant = tenant.to_owned();
        let plan = Plan { grants: self.policies.of(task, tenant), ..Plan::default() };
        self.sandbox.run(&self.guest, job, &plan).await
    }

    async fn all(&self, tenant: &str) -> Value {
        match self.run("settings", tenant, json!("all")).await.outcome {
            Outcome::Done(output) => serde_json::from_slice(&output.data).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

const SETTINGS: &str = "
    [tasks.settings.grants]
    config = { greeting = 'hello', place = 'here' }
    secrets = { api_key = 'key' }
    [tenants.acme.grants]
    config = { greeting = 'hi', more = 'not for you' }
    secrets = { api_key = 'acme', other = 'key' }
    [tenants.plain]
    [secrets.key]
    file = 'DIR/secret'
    [secrets.acme]
    file = 'DIR/acme'
";

#[tokio::test]
async fn a_tenant_has_its_own_values_for_keys_that_the_task_has_and_for_no_others() {
    let stage = Stage::set("hostile/settings", SETTINGS).await;
    let all = json!({"greeting": "hello", "place": "here", "api_key": "hunter2"});
    assert_eq!(stage.all("").await, all);
    assert_eq!(stage.all("plain").await, all);
    assert_eq!(
        stage.all("acme").await,
        json!({"greeting": "hi", "place": "here", "api_key": "hunter3"})
    );
    let got = stage.run("settings", "", json!({"get": "nothing"})).await.outcome;
    assert!(matches!(got, Outcome::Done(output) if output.data == "null"));
}

#[tokio::test]
async fn a_secret_that_cannot_be_had_is_tried_again_later() {
    let stage = Stage::set("hostile/settings", SETTINGS).await;
    std::fs::remove_file(stage.dir.path().join("secret")).unwrap();
    let report = stage.run("settings", "", json!("all")).await;
    match &report.outcome {
        Outcome::Retry { failure, after: None } => {
            assert_eq!(failure.kind, SECRET_UNAVAILABLE);
            let message = &failure.message;
            assert!(message.contains("the secret `key`, which") && message.contains("`api_key`"));
            // Senders read it: where the operator keeps secrets is not for them.
            assert!(!format!("{report:?}").contains("/secret"), "{report:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_waited_for_until_the_attempts_deadline_and_no_longer() {
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stage = Stage::set("hostile/settings", SETTINGS).await;
    let text = "[secrets.key]\nparameter = '/n'\n";
    let settings = Config::parse(text, "test").unwrap().secrets;
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let aws = crate::support::ministack::config_for(&endpoint);
    let services = Services { secrets: Secrets::with_aws(&settings, aws), ..Services::default() };
    let options = EngineOptions { slots: 1, ..EngineOptions::default() };
    stage.sandbox = Sandbox::with(options, services).unwrap();
    stage.guest = load(&stage.sandbox, "hostile/settings").await;
    let mut plan = Plan { grants: stage.policies.of("settings", ""), ..Plan::default() };
    plan.limits.timeout = std::time::Duration::from_millis(300);
    let job = Job::new("j", "settings", "\"all\"");
    let report = stage.sandbox.run(&stage.guest, job, &plan).await;
    match &report.outcome {
        Outcome::Retry { failure, .. } => assert_eq!(failure.kind, SECRET_UNAVAILABLE),
        other => panic!("{other:?}"),
    }
    // Sooner than the look-up itself is given up.
    assert!(report.usage.wall < std::time::Duration::from_secs(10), "{report:?}");
}

#[tokio::test]
async fn who_reads_no_configuration_needs_no_secret() {
    let settings = SETTINGS.replace("tasks.settings", "tasks.echo").replace("DIR/secret", "/none");
    let stage = Stage::set("echo", &settings).await;
    let report = stage.run("echo", "", json!(1)).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{report:?}");
}

#[tokio::test]
async fn a_secret_for_some_requests_only_is_a_placeholder_to_the_guest() {
    let settings = format!("{SETTINGS}only_for = ['https://api.example.com']\n");
    let stage = Stage::set("hostile/settings", &settings).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let all = stage.all("acme").await;
        let text = all["api_key"].as_str().unwrap().to_owned();
        let digits = text.strip_prefix("lovage-secret-").unwrap();
        assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), 3, "each attempt has its own");
    // Those without such rules are given as they are.
    assert_eq!(stage.all("").await["api_key"], "hunter2");
}
