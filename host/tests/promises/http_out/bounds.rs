//! How much, how often and how long.

use std::time::{Duration, Instant};

use lovage::outcome::Outcome;
use serde_json::json;
use tokio::net::TcpListener;

use super::server::Server;
use super::stage::{Stage, detail, failure};

async fn fetch(server: &Server) -> Stage {
    Stage::fetch(&[&format!("http://{}", server.address)], &["127.0.0.0/8"]).await
}

async fn hostile(server: &Server) -> Stage {
    Stage::hostile(&[&format!("http://{}", server.address)], &["127.0.0.0/8"]).await
}

#[tokio::test]
async fn a_response_that_drips_ends_at_the_time_limit() {
    let server = Server::start().await;
    let mut stage = fetch(&server).await;
    stage.plan.limits.http_timeout = Duration::from_millis(300);
    for path in ["/drip", "/never"] {
        let started = Instant::now();
        let failure = stage.refused(&server.url(path)).await;
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(
            detail(&failure).contains("within 300ms (`http_timeout_ms` raises it)"),
            "{failure:?}"
        );
        server.all_closed().await;
    }
}

#[tokio::test]
async fn a_guest_that_reads_late_has_no_more_time_than_others() {
    let server = Server::start().await;
    let mut stage = hostile(&server).await;
    stage.plan.limits.http_timeout = Duration::from_millis(300);
    let payload = json!({ "url": server.url("/large?64"), "amount": 1500 });
    let failure = failure(stage.run("reads_late", &payload).await);
    assert!(detail(&failure).contains("`http_timeout_ms`"), "{failure:?}");
    server.all_closed().await;
}

#[tokio::test]
async fn a_response_that_is_too_large_is_cut_off() {
    let server = Server::start().await;
    let mut stage = fetch(&server).await;
    stage.plan.limits.http_bytes = 1 << 20;
    // 14 × 64 KiB and their headers have room, here and in the guest's output.
    let answer = stage.ask(&json!({ "url": server.url("/large?14") })).await;
    assert_eq!(answer["body"].as_str().unwrap().len(), 14 << 16);
    let payload = json!({ "url": server.url("/large?1000") });
    let report = stage.run("fetch", &payload).await;
    let came_in = report.usage.bytes_in - payload.to_string().len() as u64;
    assert!(came_in <= 1 << 20, "{:?}", report.usage);
    let failure = failure(report);
    assert!(
        detail(&failure).contains("more than 1 MiB together (`http_bytes` raises it)"),
        "{failure:?}"
    );
    server.all_closed().await;
}

#[tokio::test]
async fn the_header_of_a_response_is_bounded() {
    let server = Server::start().await;
    let stage = fetch(&server).await;
    let answer = stage.ask(&json!({ "url": server.url("/headers?30000") })).await;
    assert_eq!(answer["headers"]["x-large"].as_str().unwrap().len(), 30_000);
    let failure = stage.refused(&server.url("/headers?300000")).await;
    assert_eq!(failure.kind, "HttpResponseHeaderSectionSize", "{failure:?}");
}

#[tokio::test]
async fn all_responses_of_an_attempt_count_together() {
    let server = Server::start().await;
    let mut stage = hostile(&server).await;
    stage.plan.limits.http_bytes = 512 << 10;
    let payload = json!({ "url": server.url("/large?4"), "amount": 3 });
    let report = stage.run("at_once", &payload).await;
    let came_in = report.usage.bytes_in - payload.to_string().len() as u64;
    assert!(came_in <= 512 << 10, "{:?}", report.usage);
    // They come at the same time; so it may be that none comes to its end.
    match report.outcome {
        Outcome::Done(output) => assert!([b"0", b"1"].contains(&&[output.data[0]]), "{output:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn more_is_not_sent_than_an_attempt_may_send() {
    let server = Server::start().await;
    let mut stage = hostile(&server).await;
    stage.plan.limits.http_bytes = 256 << 10;
    let upload = |amount: u32| json!({ "url": server.url("/"), "amount": amount });
    let report = stage.run("uploads", &upload(250 << 10)).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{report:?}");
    assert!(report.usage.bytes_out > 250 << 10);
    let before = server.received();
    let report = stage.run("uploads", &upload(8 << 20)).await;
    assert!(report.usage.bytes_out <= 256 << 10, "{:?}", report.usage);
    let failure = failure(report);
    assert_eq!(failure.kind, "HttpRequestBodySize", "{failure:?}");
    assert!(detail(&failure).contains("256 KiB together (`http_bytes` raises it)"), "{failure:?}");
    assert!(server.received() - before <= 256 << 10);
}

#[tokio::test]
async fn more_requests_than_are_allowed_are_refused() {
    let server = Server::start().await;
    let mut stage = hostile(&server).await;
    stage.plan.limits.http_requests = 3;
    let ask = |amount: u32| json!({ "url": server.url("/"), "amount": amount });
    assert!(matches!(stage.run("many_requests", &ask(3)).await.outcome, Outcome::Done(_)));
    let failure = failure(stage.run("many_requests", &ask(4)).await);
    assert_eq!(failure.kind, "ConnectionLimitReached", "{failure:?}");
    assert!(
        detail(&failure).contains("more than 3 requests (`http_requests` raises it)"),
        "{failure:?}"
    );
    assert_eq!(server.requests(), 6);
    match stage.run("at_once", &ask(50)).await.outcome {
        Outcome::Done(output) => assert_eq!(&output.data[..], b"3"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.requests(), 9);
}

#[tokio::test]
async fn connecting_takes_no_longer_than_it_may() {
    // Listens, and never answers: TLS does not come about.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let mut stage = Stage::fetch(&[&format!("https://{address}")], &["127.0.0.0/8"]).await;
    stage.plan.limits.http_connect_timeout = Duration::from_millis(200);
    let failure = stage.refused(&format!("https://{address}/")).await;
    assert!(failure.message.contains("ConnectionTimeout"), "{failure:?}");
    assert!(detail(&failure).contains("`http_connect_timeout_ms` raises it"), "{failure:?}");
}

#[tokio::test]
async fn connections_end_with_their_attempt() {
    let server = Server::start().await;
    let mut stage = hostile(&server).await;
    stage.plan.limits.timeout = Duration::from_secs(2);
    for path in ["/drip", "/never"] {
        let report = stage.run("holds_on", &json!({ "url": server.url(path) })).await;
        assert!(matches!(report.outcome, Outcome::TimedOut(_)), "{report:?}");
        server.all_closed().await;
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn requests_of_an_attempt_share_a_connection_and_those_of_two_do_not() {
    let server = Server::start().await;
    let stage = hostile(&server).await;
    let ask = json!({ "url": server.url("/"), "amount": 20 });
    for attempts in 1..=2 {
        let report = stage.run("many_requests", &ask).await;
        assert!(matches!(report.outcome, Outcome::Done(_)), "{report:?}");
        assert_eq!((server.requests(), server.connections()), (20 * attempts, attempts));
        server.all_closed().await;
    }
    // At the same time each has its own.
    let report = stage.run("at_once", &json!({ "url": server.url("/"), "amount": 5 })).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{report:?}");
    assert!(server.connections() > 3, "{}", server.connections());
}

#[tokio::test]
async fn a_refusal_that_the_guest_copes_with_harms_nobody() {
    let server = Server::start().await;
    let mut stage = hostile(&server).await;
    stage.plan.limits.http_requests = 0;
    let report = stage.run("at_once", &json!({ "url": server.url("/"), "amount": 500 })).await;
    match report.outcome {
        Outcome::Done(output) => assert_eq!(&output.data[..], b"0"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.connections(), 0);
}
