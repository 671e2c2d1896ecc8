//! The examples of `host/examples` do what they say.

use std::{net::SocketAddr, time::Duration};

use lovage::{Stop, config::Config};

use crate::support::stage::guest;

#[path = "../../examples/add_interface.rs"]
mod add_interface;
#[path = "../../examples/axum_service.rs"]
mod axum_service;
#[path = "../../examples/own_broker.rs"]
mod own_broker;
#[path = "../../examples/run_one_job.rs"]
mod run_one_job;

fn process_data() -> String {
    guest("process_data.wasm").to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_job_runs_without_a_broker() {
    assert_eq!(run_one_job::example(&process_data()).await.unwrap(), "42");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_runs_over_a_broker_of_the_embedding_program() {
    let result = own_broker::example(&process_data()).await.unwrap();
    let result: serde_json::Value = serde_json::from_str(&result).unwrap();
    assert_eq!((&result["id"], &result["data"]), (&"job-1".into(), &42.into()), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_guest_calls_an_interface_of_the_embedding_program_where_it_is_granted() {
    assert_eq!(add_interface::example(true).await.unwrap(), "42");
    let refused = add_interface::example(false).await.unwrap();
    assert!(refused.starts_with("Crashed") && refused.contains("is not granted"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_web_service_runs_jobs_beside_its_worker() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lovage.db");
    let config = format!("[broker]\npath = '{}'\n", database.display());
    let config = Config::parse(&config, "test").unwrap();
    let stop = Stop::default();
    let (ready, address) = tokio::sync::oneshot::channel();
    let served = tokio::spawn({
        let (stop, any) = (stop.clone(), SocketAddr::from(([127, 0, 0, 1], 0)));
        async move {
            let ready = |address| ready.send(address).unwrap();
            axum_service::example(config, &process_data(), any, stop, ready).await
        }
    });
    let address = tokio::time::timeout(Duration::from_mins(1), address).await.unwrap().unwrap();
    let client = reqwest::Client::new();
    let post = async |task: &str, body: &'static str| {
        let answer = client.post(format!("http://{address}/jobs/{task}")).body(body).send().await;
        let answer = answer.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(post("process_data", "21").await, (200, "42".to_owned()));
    assert_eq!(post("process_dat", "21").await.0, 404);
    stop.drain.cancel();
    served.await.unwrap().unwrap();
}
