//! What an operator writes into `lovage.toml`, from one end to the other.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::server::Server;
use super::tls::Authority;
use crate::guests;

async fn run(config: String, url: String, roots: Option<String>) -> Output {
    run_guest("fetch", config, url, roots).await
}

async fn run_guest(
    guest: &'static str,
    config: String,
    url: String,
    roots: Option<String>,
) -> Output {
    let run = move || {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lovage.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
        command.arg("--config").arg(&file).arg("run").arg(guests::file(guest));
        command.arg("--data").arg(json!({ "url": url }).to_string());
        let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command.env("LOVAGE__COMPONENTS__CACHE_DIR", cache);
        command.env("KEY_OF_THE_TEST", "open-sesame");
        // Nobody goes by way of a proxy that happens to be in the environment.
        command.env("HTTP_PROXY", "http://127.0.0.1:9").env("HTTPS_PROXY", "http://127.0.0.1:9");
        if let Some(roots) = roots {
            let file = folder.path().join("roots.pem");
            std::fs::write(&file, roots).unwrap();
            command.env("SSL_CERT_FILE", file);
        }
        command.output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn value(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_reaches_what_the_configuration_grants() {
    let server = Server::start().await;
    let config = format!(
        "[tasks.fetch.grants]\nhttp = [\"GET http://{}/a\"]\nhttp_networks = [\"127.0.0.0/8\"]\n",
        server.address
    );
    let output = run(config.clone(), server.url("/a/b"), None).await;
    assert!(value(&output).to_string().contains("/a/b"), "{output:?}");
    let output = run(config, server.url("/b"), None).await;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("allowed by no rule of `tasks.fetch.grants.http`"), "{said}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_certificates_are_those_that_the_environment_names() {
    let authority = Authority::new();
    let server = authority.server(&["localhost"]).await;
    let config = "[tasks.fetch.grants]\nhttp = [\"https://localhost:*\"]\n\
                  http_networks = [\"127.0.0.0/8\", \"::1/128\"]\n";
    let url = format!("https://localhost:{}/a", server.port());
    let output = run(config.to_owned(), url, Some(authority.pem())).await;
    value(&output);
    assert_eq!(server.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_no_request_leaves() {
    let server = Server::start().await;
    let output = run(String::new(), server.url("/"), None).await;
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_uses_a_secret_that_it_never_sees() {
    let server = Server::start().await;
    let config = format!(
        "[tasks.keyholder.grants]\nhttp = [\"http://{0}\"]\nhttp_networks = [\"127.0.0.0/8\"]\n\
         secrets = {{ api_key = \"key\" }}\n\
         [secrets.key]\nenv = \"KEY_OF_THE_TEST\"\nonly_for = [\"http://{0}/echo\"]\n",
        server.address
    );
    let output = run_guest("hostile/keyholder", config.clone(), server.url("/echo"), None).await;
    let told = value(&output);
    assert!(told["answer"].as_str().unwrap().contains("open-sesame"), "{told}");
    assert!(told["held"].as_str().unwrap().starts_with("lovage-secret-"), "{told}");
    // Elsewhere the request is not sent at all, though the guest may make requests there.
    let output = run_guest("hostile/keyholder", config, server.url("/other"), None).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("secret that may not go there"), "{said}");
    assert!(!said.contains("open-sesame") && server.requests() == 1, "{said}");
}
