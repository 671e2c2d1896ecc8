//! Where requests go, and where they do not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lovage::policy::Grants;
use lovage::sandbox::Network;
use serde_json::json;

use super::server::Server;
use super::stage::{Names, Stage, detail, list};

#[tokio::test]
async fn a_request_that_is_granted_goes_out_and_its_response_comes_back() {
    let server = Server::start().await;
    let rule = format!("POST http://{}/api", server.address);
    let stage = Stage::fetch(&[&rule], &["127.0.0.0/8"]).await;
    let payload = json!({
        "url": server.url("/api/x?q=1"), "method": "POST", "body": "hällo",
        "headers": { "x-mine": "a, b" },
    });
    let report = stage.run("fetch", &payload).await;
    let lovage::outcome::Outcome::Done(output) = &report.outcome else { panic!("{report:?}") };
    let answer: serde_json::Value = serde_json::from_slice(&output.data).unwrap();
    assert_eq!((&answer["status"], &answer["headers"]["x-answer"]), (&200.into(), &"yes".into()));
    let seen: serde_json::Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["target"], "/api/x?q=1");
    assert_eq!(seen["body"], "hällo");
    assert_eq!(seen["headers"]["x-mine"], "a, b");
    assert_eq!(seen["headers"]["host"], server.address.to_string());
    // All that crossed is counted: headers, too.
    assert!(report.usage.bytes_out > 80, "{:?}", report.usage);
    assert!(report.usage.bytes_in > 200, "{:?}", report.usage);
}

#[tokio::test]
async fn what_no_rule_allows_is_refused_before_anybody_is_asked() {
    let server = Server::start().await;
    let names = Arc::new(Names::default());
    let network = Network::new(Arc::clone(&names) as _, None);
    let rule = format!("GET,HEAD http://{}/v1", server.address);
    let stage = Stage::with("fetch", network, &[&rule], &["127.0.0.0/8"]).await;
    let port = server.port();
    for url in [
        format!("http://evil.example:{port}/v1"),
        format!("http://127.0.0.2:{port}/v1"),
        format!("http://127.0.0.1:{}/v1", port ^ 1),
        format!("https://127.0.0.1:{port}/v1"),
        format!("ftp://127.0.0.1:{port}/v1"),
        server.url("/v2"),
        server.url("/v11"),
        server.url("/v1/../admin"),
        server.url("/v1/%2e%2e/admin"),
        server.url("/v1/%252e%252e/admin"),
        server.url("/v1/..%2fadmin"),
        server.url("/v1/..;/admin"),
        server.url("/v1%2fadmin"),
        server.url("//v1"),
        format!("http://good.example@127.0.0.1:{port}/v1"),
        format!("http://127.0.0.1:{port}@evil.example/v1"),
        format!("http://127.0.0.1:{port}:80/v1"),
        format!("http://127.1:{port}/v1"),
        format!("http://0x7f000001:{port}/v1"),
        format!("http://2130706433:{port}/v1"),
        format!("http://017700000001:{port}/v1"),
        format!("http://[::ffff:127.0.0.1]:{port}/v1"),
    ] {
        let failure = stage.refused(&url).await;
        let denied = ["HttpRequestDenied", "HttpRequestUriInvalid", "rejected"];
        assert!(denied.contains(&failure.kind.as_str()), "{url}: {failure:?}");
    }
    let failure = stage.run("fetch", &json!({ "url": server.url("/v1"), "method": "POST" })).await;
    let failure = super::stage::failure(failure);
    let said = format!(
        "`POST http://{}/v1` is allowed by no rule of `tasks.fetch.grants.http`",
        server.address
    );
    assert!(detail(&failure).contains(&said), "{failure:?}");
    assert_eq!((server.connections(), names.asked.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(stage.ask(&json!({ "url": server.url("/v1/ok") })).await["status"], 200);
}

#[tokio::test]
async fn without_a_grant_every_request_is_refused() {
    let server = Server::start().await;
    let mut stage = Stage::fetch(&[], &[]).await;
    for grants in [Arc::clone(&stage.plan.grants), Arc::new(Grants::default())] {
        stage.plan.grants = grants;
        let failure = stage.refused(&server.url("/")).await;
        assert_eq!(failure.kind, "HttpRequestDenied");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_however_they_are_written() {
    let server = Server::start().await;
    let port = server.port();
    let names = Arc::new(Names::default());
    for (name, address) in [
        ("loopback.test", "127.0.0.1"),
        ("v6.test", "::1"),
        ("mapped.test", "::ffff:127.0.0.1"),
        ("metadata.test", "169.254.169.254"),
        ("metadata6.test", "fd00:ec2::254"),
        ("private.test", "10.0.0.1"),
        ("zero.test", "0.0.0.0"),
        ("nat64.test", "64:ff9b::7f00:1"),
    ] {
        names.set(name, &[&[address]]);
    }
    let hosts = [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "[::]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "10.0.0.1",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "loopback.test",
        "v6.test",
        "mapped.test",
        "metadata.test",
        "metadata6.test",
        "private.test",
        "zero.test",
        "nat64.test",
        "LOOPBACK.test.",
    ];
    let rules: Vec<_> = hosts.iter().map(|host| format!("http://{host}:*")).collect();
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    let network = Network::new(names, None);
    let stage = Stage::with("fetch", network, &rules, &[]).await;
    for host in hosts {
        let failure = stage.refused(&format!("http://{host}:{port}/")).await;
        assert_eq!(failure.kind, "DestinationIpProhibited", "{host}: {failure:?}");
        assert!(
            detail(&failure).contains("no range of `tasks.fetch.grants.http_networks` has it"),
            "{failure:?}"
        );
    }
    assert_eq!(server.connections(), 0);
}

/// By the system's own resolver.
#[tokio::test]
async fn a_name_that_leads_back_to_this_machine_is_refused() {
    let server = Server::start().await;
    let stage = Stage::fetch(&["http://localhost:*"], &[]).await;
    let failure = stage.refused(&format!("http://localhost:{}/", server.port())).await;
    assert_eq!(failure.kind, "DestinationIpProhibited", "{failure:?}");
    assert!(detail(&failure).contains("is loopback"), "{failure:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn redirects_are_followed_only_to_where_a_request_may_go() {
    let server = Server::start().await;
    let elsewhere = Server::start().await;
    let rules = [format!("http://{}", server.address), "http://169.254.169.254".to_owned()];
    let stage = Stage::fetch(&[&rules[0], &rules[1]], &["127.0.0.0/8"]).await;
    let follow = |to: &str| json!({ "url": server.url(&format!("/redirect?{to}")), "follow": 5 });
    let seen = stage.echo(&follow("/there")).await;
    assert_eq!(seen["target"], "/there");
    for (to, kind) in [
        (elsewhere.url("/"), "HttpRequestDenied"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "DestinationIpProhibited"),
        ("http://[::ffff:169.254.169.254]/".to_owned(), "HttpRequestDenied"),
        (format!("http://x@{}/", server.address), "HttpRequestDenied"),
    ] {
        let failure = super::stage::failure(stage.run("fetch", &follow(&to)).await);
        assert_eq!(failure.kind, kind, "{to}: {failure:?}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let good = Server::start().await;
    let bad = Server::at(&format!("127.0.0.2:{}", good.port()), None).await;
    let names = Arc::new(Names::default());
    // Innocent when it is asked first, and another one ever after.
    names.set("turns.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    names.set("both.test", &[&["127.0.0.2", "127.0.0.1"]]);
    let network = Network::new(Arc::clone(&names) as _, None);
    let stage = Stage::with("fetch", network, &["http://*.test:*"], &["127.0.0.1/32"]).await;
    let url = |name: &str| format!("http://{name}:{}/", good.port());
    let seen = stage.echo(&json!({ "url": url("turns.test") })).await;
    assert_eq!(seen["headers"]["host"], format!("turns.test:{}", good.port()));
    assert_eq!(names.asked.load(Ordering::SeqCst), 1, "resolved more than once");
    let failure = stage.refused(&url("turns.test")).await;
    assert_eq!(failure.kind, "DestinationIpProhibited");
    // Of several addresses only those that are allowed are tried.
    stage.ask(&json!({ "url": url("both.test") })).await;
    assert_eq!((good.requests(), bad.connections()), (2, 0));
}

#[tokio::test]
async fn a_tenant_narrows_what_the_task_may_reach() {
    let server = Server::start().await;
    let mut stage = Stage::fetch(&[&format!("http://{}", server.address)], &["127.0.0.0/8"]).await;
    let narrowed = |rules: Option<&[&str]>, networks: Option<&[&str]>, grants: &Grants| {
        let (rules, networks) = (rules.map(list), networks.map(list));
        let mut grants = grants.clone();
        let http = &mut grants.http;
        http.narrow(
            rules.as_deref(),
            "tenants.acme.grants.http",
            networks.as_deref(),
            "tenants.acme.grants.http_networks",
        )
        .unwrap();
        Arc::new(grants)
    };
    let whole = Arc::clone(&stage.plan.grants);
    stage.plan.grants =
        narrowed(Some(&["http://*.example.com", "http://127.0.0.1:*/a"]), None, &whole);
    stage.ask(&json!({ "url": server.url("/a") })).await;
    let failure = stage.refused(&server.url("/b")).await;
    assert!(detail(&failure).contains("`tenants.acme.grants.http`"), "{failure:?}");
    // What the tenant has and the task has not is not granted.
    let failure = stage.refused("http://a.example.com/").await;
    assert!(detail(&failure).contains("`tasks.fetch.grants.http`"), "{failure:?}");
    stage.plan.grants = narrowed(None, Some(&[]), &whole);
    let failure = stage.refused(&server.url("/a")).await;
    assert_eq!(failure.kind, "DestinationIpProhibited");
    assert!(detail(&failure).contains("`tenants.acme.grants.http_networks`"), "{failure:?}");
}
