//! What the operator's secrets promise: they are had from where they are, kept up to date, given
//! to whom they were granted, and told to nobody else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lovage::{
    config::{Config, SecretConfig},
    secrets::{Secrets, Trouble},
};
use serde_json::json;

use crate::support::{
    ministack::{self, unique},
    stub::Stub,
};

#[cfg(feature = "compiler")]
mod guests;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod worker;

/// The settings of `[secrets]`.
fn settings(text: &str) -> BTreeMap<String, SecretConfig> {
    let config = Config::parse(text, "test").unwrap();
    config.validate("test").unwrap();
    config.secrets
}

/// Secrets on ministack.
fn on_aws(text: &str) -> Secrets {
    Secrets::with_aws(&settings(text), ministack::config())
}

async fn value(secrets: &Secrets, name: &str) -> String {
    secrets.get(name).await.unwrap().value.expose().to_owned()
}

fn secrets_manager() -> aws_sdk_secretsmanager::Client {
    aws_sdk_secretsmanager::Client::new(&ministack::config())
}

/// A secret in Secrets Manager; its name.
pub async fn secret(what: &str, value: &str) -> String {
    let name = unique(what);
    secrets_manager().create_secret().name(&name).secret_string(value).send().await.unwrap();
    name
}

/// A parameter that is encrypted; its name.
pub async fn parameter(what: &str, value: &str) -> String {
    let name = format!("/{}", unique(what));
    aws_sdk_ssm::Client::new(&ministack::config())
        .put_parameter()
        .name(&name)
        .value(value)
        .r#type(aws_sdk_ssm::types::ParameterType::SecureString)
        .send()
        .await
        .unwrap();
    name
}

#[tokio::test]
async fn values_come_from_secrets_manager_and_from_parameter_store() {
    let plain = secret("plain", "hunter2").await;
    let object = secret("object", r#"{"user": "me", "key": "hunter3"}"#).await;
    let parameter = parameter("parameter", "hunter4").await;
    let secrets = on_aws(&format!(
        "[secrets.plain]\nsecrets_manager = '{plain}'\n\
         [secrets.field]\nsecrets_manager = '{object}'\njson_field = 'key'\n\
         [secrets.parameter]\nparameter = '{parameter}'\n"
    ));
    assert_eq!(value(&secrets, "plain").await, "hunter2");
    assert_eq!(value(&secrets, "field").await, "hunter3");
    assert_eq!(value(&secrets, "parameter").await, "hunter4");
}

#[tokio::test]
async fn what_aws_refuses_is_told_with_its_reason() {
    let name = unique("missing");
    let secrets = on_aws(&format!(
        "[secrets.s]\nsecrets_manager = '{name}'\n[secrets.p]\nparameter = '/{name}'\n"
    ));
    for (secret, words) in [
        ("s", format!("from `{name}` in AWS Secrets Manager: AWS says ResourceNotFoundException")),
        ("p", format!("from `/{name}` in AWS SSM Parameter Store: AWS says ParameterNotFound")),
    ] {
        let error = secrets.get(secret).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Wrong);
        let text = error.to_string();
        assert!(text.contains(&words) && text.contains("or name another"), "{text}");
    }
}

#[tokio::test]
async fn a_rotated_secret_is_seen_after_its_time_and_not_before() {
    let name = secret("rotated", "before").await;
    let secrets = |ttl_ms: u64| {
        on_aws(&format!("[secrets.s]\nsecrets_manager = '{name}'\nttl_ms = {ttl_ms}\n"))
    };
    let (long, short) = (secrets(3_600_000), secrets(1));
    assert_eq!(
        (value(&long, "s").await, value(&short, "s").await),
        ("before".into(), "before".into())
    );
    let put = secrets_manager().put_secret_value().secret_id(&name).secret_string("after");
    put.send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(
        (value(&long, "s").await, value(&short, "s").await),
        ("before".into(), "after".into())
    );
}

/// A Secrets Manager of our own, which has one secret and takes its time.
fn slow(status: impl Fn() -> u16 + Send + Sync + 'static) -> Stub {
    Stub::at_once(move |_, _| {
        std::thread::sleep(Duration::from_millis(100));
        let status = status();
        Some(match status {
            200 => (200, json!({"Name": "n", "SecretString": "hunter2"})),
            400 => (400, json!({"__type": "AccessDeniedException", "message": "you may not"})),
            _ => (status, json!({"__type": "InternalServiceError", "message": "hunter2 is away"})),
        })
    })
}

fn on(stub: &Stub, ttl_ms: u64) -> Secrets {
    let text = format!("[secrets.s]\nsecrets_manager = 'n'\nttl_ms = {ttl_ms}\n");
    Secrets::with_aws(&settings(&text), ministack::config_for(&stub.endpoint))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_ask_once() {
    let stub = slow(|| 200);
    let secrets = on(&stub, 3_600_000);
    let asks = (0..50).map(|_| {
        let secrets = secrets.clone();
        tokio::spawn(async move { value(&secrets, "s").await })
    });
    for ask in asks.collect::<Vec<_>>() {
        assert_eq!(ask.await.unwrap(), "hunter2");
    }
    assert_eq!(stub.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_goes_on_when_who_asked_has_left() {
    let stub = slow(|| 200);
    let secrets = on(&stub, 3_600_000);
    // An attempt of ten milliseconds never has the time for it.
    let left = tokio::time::timeout(Duration::from_millis(10), secrets.get("s")).await;
    assert!(left.is_err());
    assert_eq!(value(&secrets, "s").await, "hunter2");
    assert_eq!(stub.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_value_serves_while_its_source_is_away_and_not_when_it_was_taken_away() {
    use std::sync::atomic::{AtomicU16, Ordering};
    let status = Arc::new(AtomicU16::new(200));
    let stub = {
        let status = Arc::clone(&status);
        slow(move || status.load(Ordering::Relaxed))
    };
    let (away, denied) = (on(&stub, 1), on(&stub, 1));
    assert_eq!(
        (value(&away, "s").await, value(&denied, "s").await),
        ("hunter2".into(), "hunter2".into())
    );
    status.store(500, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(value(&away, "s").await, "hunter2");
    // What failed a moment ago is not asked again at once.
    let asked = stub.requests().len();
    assert_eq!(value(&away, "s").await, "hunter2");
    assert_eq!(stub.requests().len(), asked);
    status.store(400, Ordering::Relaxed);
    let error = denied.get("s").await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Wrong);
    let text = error.to_string();
    assert!(text.contains("AccessDeniedException: you may not; allow the host's role"), "{text}");
}

#[tokio::test]
async fn where_nobody_listens_is_told_without_a_value() {
    let port = crate::support::guarded::free_port();
    let text = "[secrets.s]\nparameter = '/n'\n";
    let endpoint = format!("http://127.0.0.1:{port}");
    let secrets = Secrets::with_aws(&settings(text), ministack::config_for(&endpoint));
    let error = secrets.get("s").await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Away);
    let text = error.to_string();
    assert!(text.contains("`/n` in AWS SSM Parameter Store: the request was not sent"), "{text}");
}
