//! A web service with a worker inside: `POST /jobs/{task}` runs a job and answers with its output.
//!
//! The worker takes jobs from the queues of a configuration meanwhile. Both share the components
//! and the limits on how many jobs run at once.
//!
//! ```sh
//! make guests
//! cargo run -p lovage --example axum_service
//! curl -d 21 http://127.0.0.1:8080/jobs/process_data
//! ```

use std::net::SocketAddr;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use lovage::{Host, HostError, Stop, config::Config, job::Job, outcome::Outcome};
use tokio::net::TcpListener;

async fn run(
    State(host): State<Host>,
    Path(task): Path<String>,
    payload: Bytes,
) -> (StatusCode, Bytes) {
    let id = uuid::Uuid::now_v7().to_string();
    match host.run(Job::new(id, task, payload)).await {
        Ok(report) => match report.outcome {
            Outcome::Done(output) => (StatusCode::OK, output.data),
            Outcome::Rejected(failure) => (StatusCode::BAD_REQUEST, failure.message.into()),
            outcome => (StatusCode::INTERNAL_SERVER_ERROR, outcome.as_str().into()),
        },
        Err(error @ HostError::UnknownTask { .. }) => {
            (StatusCode::NOT_FOUND, error.to_string().into())
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into()),
    }
}

/// Serves at an address until `stop` is cancelled. `ready` is told the address that it came to.
pub async fn example(
    config: Config,
    components: &str,
    address: SocketAddr,
    stop: Stop,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let host = Host::builder().config(config).components(components).build().await?;
    let worker = tokio::spawn({
        let (host, stop) = (host.clone(), stop.clone());
        async move { host.serve(stop).await }
    });
    let listener = TcpListener::bind(address).await?;
    ready(listener.local_addr()?);
    let router = Router::new().route("/jobs/{task}", post(run)).with_state(host);
    let drain = stop.drain.clone();
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { drain.cancelled().await })
        .await?;
    worker.await??;
    Ok(())
}

#[allow(dead_code, reason = "the tests run `example` alone")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stop = Stop::default();
    tokio::spawn({
        let drain = stop.drain.clone();
        async move {
            let _ = tokio::signal::ctrl_c().await;
            drain.cancel();
        }
    });
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let components = "guest-tasks/dist/process_data.wasm";
    example(Config::default(), components, address, stop, |_| ()).await
}
