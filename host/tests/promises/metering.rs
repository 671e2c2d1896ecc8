//! What metering promises: every attempt counts, for its task and its tenant, and the sums can be
//! asked for.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lovage::outcome::Outcome;
use serde_json::{Value, json};

use crate::guests::{load, run, sandbox};
use crate::support::stage::{Kind, Setup, Stage, job_with};

/// An address of this machine that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The answer to a request, head and body.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
}

#[tokio::test]
async fn memory_counts_for_as_long_as_it_is_held_and_bytes_for_what_crosses() {
    let sandbox = sandbox();
    let sleep = load(&sandbox, "sleep").await;
    let payload = r#"{"ms": 200}"#;
    let report = run(&sandbox, &sleep, "sleep", payload, |_| {}).await;
    let Outcome::Done(output) = &report.outcome else { panic!("{:?}", report.outcome) };
    let usage = report.usage;
    assert_eq!((usage.bytes_in, usage.bytes_out), (payload.len() as u64, output.data.len() as u64));
    // What it held at the end, for as long as it slept; and no more than its peak all the while.
    let wall = u64::try_from(usage.wall.as_millis()).unwrap() + 1;
    assert!(usage.memory_byte_ms >= usage.peak_memory_bytes * 150, "{usage:?}");
    assert!(usage.memory_byte_ms <= usage.peak_memory_bytes * wall, "{usage:?}");
    assert!(usage.host_calls > 0, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_tenant_used_can_be_asked_for_retries_and_crashes_included() {
    let address = free_address();
    let setup = Setup {
        hostile: &["panic", "spin"],
        config: "tenants.acme = {}\ntenants.other-one = {}\ntasks.spin.timeout_ms = 2000\n",
        ..Setup::default()
    };
    let stage = Stage::set(Kind::Local, setup).await;
    stage.configure(&format!("worker.metrics_address = '{address}'"));
    let worker = stage.worker().await;
    let acme = json!({"tenant": "acme"});
    stage
        .send(&[
            job_with("a", "echo", json!("x"), acme.clone()),
            job_with("b", "echo", json!("x"), json!({"tenant": "other-one"})),
            job_with("c", "fail", json!({"times": 1}), acme.clone()),
            job_with("d", "panic", json!("no"), acme.clone()),
            job_with("e", "spin", json!(null), acme.clone()),
            job_with("f", "echo", json!("x"), json!({})),
        ])
        .await;
    let results = stage.results_of(["a", "b", "c", "d", "e", "f"]).await;
    let cost = &results["a"].envelope["usage"];
    for field in ["cpu_us", "wall_us", "peak_memory_bytes", "memory_byte_ms", "host_calls"] {
        assert!(cost[field].as_u64().is_some(), "{field} of {cost}");
    }
    assert_eq!((&cost["bytes_in"], &cost["bytes_out"]), (&json!(3), &json!(3)));

    let output = stage.lovage(&["usage", "--json"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let totals: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
    let of = |task: &str, tenant: &str| {
        let total = totals.iter().find(|it| it["task"] == task && it["tenant"] == tenant);
        total.unwrap_or_else(|| panic!("{task} of {tenant} in {totals:?}"))
    };
    for (task, tenant, attempts) in [
        ("echo", "acme", 1),
        ("echo", "other-one", 1),
        ("echo", "", 1),
        ("fail", "acme", 2),
        ("panic", "acme", 2),
        ("spin", "acme", 2),
    ] {
        assert_eq!(of(task, tenant)["attempts"], attempts, "{task} of {tenant}: {totals:?}");
    }
    assert!(of("spin", "acme")["wall_us"].as_u64().unwrap() >= 600_000);
    assert!(of("spin", "acme")["cpu_us"].as_u64().unwrap() > 10_000);
    let table = stage.lovage(&["usage", "--url", &format!("http://{address}")]).await.stdout;
    assert!(table.starts_with("TENANT"), "{table}");
    assert_eq!(table.lines().count(), totals.len() + 1, "{table}");

    let metrics = get(address, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    for line in [
        "lovage_usage_attempts_total{task=\"spin\",tenant=\"acme\"} 2\n",
        "lovage_usage_attempts_total{task=\"echo\",tenant=\"other-one\"} 1\n",
        "lovage_attempts_ended_total{queue=\"jobs\",outcome=\"timed_out\"} 2\n",
        "lovage_attempt_wall_seconds_bucket{task=\"spin\",le=\"0.25\"} 0\n",
        "lovage_attempt_wall_seconds_bucket{task=\"spin\",le=\"+Inf\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_computed_counts_even_where_its_lease_was_lost() {
    let address = free_address();
    let setup = Setup {
        hostile: &["spin"],
        config: "tasks.spin.timeout_ms = 60000\nworker.max_lease_ms = 1000\n",
        ..Setup::default()
    };
    let stage = Stage::set(Kind::Local, setup).await;
    stage.configure(&format!("worker.metrics_address = '{address}'"));
    let worker = stage.worker().await;
    stage.send(&[job_with("a", "spin", json!(null), json!({}))]).await;
    let patience = std::time::Instant::now() + Duration::from_mins(1);
    loop {
        let output = stage.lovage(&["usage", "--json"]).await;
        let totals: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
        if totals.iter().any(|it| it["task"] == "spin" && it["cpu_us"].as_u64() > Some(10_000)) {
            break;
        }
        assert!(std::time::Instant::now() < patience, "{totals:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    worker.kill();
}

/// Attacks: the worker, by connections that say nothing, too much, or what is no HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_reaches_the_address_cannot_hurt_the_worker() {
    let address = free_address();
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    stage.configure(&format!("worker.metrics_address = '{address}'"));
    let worker = stage.worker().await;
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    stage.send_job("a", "echo", json!(1)).await;
    assert_eq!(stage.result_of("a").await["data"], 1);
    // They are cut off in time, and others have their turn.
    assert!(get(address, "/usage").contains("\"task\":\"echo\""));
    drop(idle);
    assert!(get(address, "/").starts_with("HTTP/1.1 404"));
    assert!(get(address, "/metrics/../usage").starts_with("HTTP/1.1 404"));
    let post = "POST /usage HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
    assert!(ask(address, post).starts_with("HTTP/1.1 405"));
    let huge = format!("GET /usage HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(huge.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let _ = ask(address, "\u{0}\u{1}\u{2}\r\n\r\n");
    assert!(get(address, "/usage").starts_with("HTTP/1.1 200"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_that_is_taken_ends_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    stage.configure(&format!("worker.metrics_address = '{address}'"));
    let output = stage.lovage(&["worker"]).await;
    assert_eq!(output.code, Some(1));
    let expected = format!("cannot listen on {address} (worker.metrics_address): Address already");
    assert!(output.stderr.contains(&expected), "{}", output.stderr);
    drop(taken);
    // And where no worker is, nobody tells what it used.
    let output = stage.lovage(&["usage"]).await;
    assert_eq!(output.code, Some(1));
    let expected = format!("no worker answers: cannot ask http://{address}: Connection");
    assert!(output.stderr.contains(&expected), "{}", output.stderr);
}
