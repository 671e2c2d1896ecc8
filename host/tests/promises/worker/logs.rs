//! What a worker says of a job names the job, to people and to machines.

use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, job, job_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_line_on_a_job_names_it_and_what_ran_it() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let worker = stage.worker().await;
    let acme = json!({"tenant": "acme"});
    stage
        .send(&[
            job("plain", "process_data", json!(21)),
            job_with("again", "fail", json!({"times": 1}), acme),
        ])
        .await;
    let results = stage.results_of(["plain", "again"]).await;
    let [started, finished, back] =
        ["attempt started", "job finished", "job goes back"].map(|event| worker.logged(event));
    worker.stop().await;

    let component = |id: &str| &results[id].envelope["component"];
    assert!(component("plain").as_str().unwrap().starts_with("sha256:"));
    let span = |id: &str, task: &str, tenant: &str, attempt: u32| {
        json!({
            "name": "job", "id": id, "task": task, "tenant": tenant, "attempt": attempt,
            "component": component(id),
        })
    };
    let plain = span("plain", "process_data", "", 1);
    let [first, second] = [1, 2].map(|attempt| span("again", "fail", "acme", attempt));
    for (events, spans) in [
        (&started, &[&plain, &first, &second][..]),
        (&finished, &[&plain, &second]),
        (&back, &[&first]),
    ] {
        assert_eq!(events.len(), spans.len(), "{events:?}");
        for span in spans {
            assert!(events.iter().any(|event| event["span"] == **span), "{span}: {events:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn people_read_the_same_on_one_plain_line() {
    let setup = Setup { config: "log.format = 'human'", ..Setup::default() };
    let stage = Stage::set(Kind::Local, setup).await;
    let worker = stage.spawn();
    worker.says("worker started").await;
    // Its middle would be read from right to left.
    let id = "job-\u{202e}1";
    stage.send(&[job_with(id, "process_data", json!(21), json!({"tenant": "acme"}))]).await;
    let result = stage.result_of(id).await;
    let line = worker.says("job finished").await;
    worker.stop().await;
    let component = result["component"].as_str().unwrap();
    let span = format!(
        "job{{id=job-\\u{{202e}}1 task=process_data tenant=acme attempt=1 component=\"{component}\"}}"
    );
    assert!(line.contains(&span), "{line}");
    assert!(line.contains(" INFO ") && line.contains("status=\"done\""), "{line}");
    assert!(!line.contains(char::is_control), "{line:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_jobs_are_about_is_never_logged() {
    let setup = Setup { config: "log.level = 'lovage=trace,info'", ..Setup::default() };
    let stage = Stage::set(Kind::Local, setup).await;
    let worker = stage.worker().await;
    let secret = json!("the-payload-and-the-output");
    let header = json!({"headers": {"authorization": "the-header"}});
    stage.send(&[job_with("job", "echo", secret.clone(), header)]).await;
    assert_eq!(stage.result_of("job").await["data"], secret);
    worker.logs("job finished", 1).await;
    let lines = worker.lines();
    worker.stop().await;
    let told = |text: &str| lines.iter().find(|line| line.contains(text));
    assert_eq!((told("the-payload"), told("the-header")), (None, None));
}
