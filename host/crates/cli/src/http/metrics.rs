//! What a worker tells: `/metrics` for Prometheus, `/usage` for `lovage usage`, `/tasks` for
//! `lovage tasks`, and `/health` and `/readyz` for probes.
//!
//! It answers from the first moment of a worker on. A broker that is away, or components that take
//! long, are no reason to kill a worker that is right to wait.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::StatusCode;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::net::TcpListener;

use super::server::{self, Text};
use lovage_core::{
    dependency::Readiness,
    phase::{Current, Phase},
    usage::Totals,
};

/// Bounds of the buckets of times, in seconds: an attempt may take some microseconds or an hour.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
    60.0, 300.0, 3600.0,
];

/// How often values that were recorded are put into their buckets, so that they do not pile up
/// where nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why what is counted cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address is taken, or not ours.
    #[error(
        "cannot listen on {address} (worker.metrics_address): {source}; another worker may have \
         it: each needs its own"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Something else in the process counts already.
    #[error("cannot count for worker.metrics_address: {0}")]
    Recorder(String),
}

/// The address is ours, it answers, and from now on what happens is counted.
#[derive(Debug)]
pub struct Metrics {
    served: Arc<OnceLock<Served>>,
}

/// What is there to tell once the worker has started.
struct Served {
    totals: Arc<Totals>,
    readiness: Box<dyn Fn() -> Vec<Readiness> + Send + Sync>,
    /// The tasks that are served, as JSON.
    tasks: Box<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Takes the address, begins to count, and answers for as long as the runtime lives. To be called
    /// before there is anything to count, and once a process.
    pub async fn start(address: SocketAddr, phase: Arc<Current>) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| MetricsError::Listen { address, source })?;
        let failed = |error: &dyn std::fmt::Display| MetricsError::Recorder(error.to_string());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .map_err(|error| failed(&error))?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|error| failed(&error))?;
        // Seen from the first scrape on, and by alarms that compare.
        metrics::counter!("lovage_log_lines_dropped_total")
            .absolute(lovage_runtime::telemetry::dropped_lines());
        phase.set(phase.get());
        let upkeep = handle.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        });
        let served: Arc<OnceLock<Served>> = Arc::default();
        let found = Arc::clone(&served);
        tokio::spawn(server::serve(listener, move |path| {
            answer(path, &handle, &phase, found.get())
        }));
        Ok(Self { served })
    }

    /// Tells of what is served from now on. `readiness` gives the state of each dependency, `tasks`
    /// the tasks.
    pub fn serve<T: Serialize>(
        &self,
        totals: Arc<Totals>,
        readiness: impl Fn() -> Vec<Readiness> + Send + Sync + 'static,
        tasks: impl Fn() -> T + Send + Sync + 'static,
    ) {
        let tasks = move || serde_json::to_string(&tasks()).unwrap_or_default();
        // A second call says the same.
        let _ = self.served.set(Served {
            totals,
            readiness: Box::new(readiness),
            tasks: Box::new(tasks),
        });
    }
}

fn answer(
    path: &str,
    recorder: &PrometheusHandle,
    phase: &Current,
    served: Option<&Served>,
) -> Option<Text> {
    let json = |text: Option<String>| Text {
        status: if text.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        content_type: "application/json",
        text: text.unwrap_or_else(|| format!("{{\"state\":\"{}\"}}", phase.get().as_str())),
    };
    match path {
        "/metrics" => Some(Text {
            status: StatusCode::OK,
            // https://prometheus.io/docs/instrumenting/exposition_formats/
            content_type: "text/plain; version=0.0.4",
            text: recorder.render(),
        }),
        // Alive in any phase: a probe that kills must not ask for more.
        "/health" => Some(json(Some(format!("{{\"state\":\"{}\"}}", phase.get().as_str())))),
        "/readyz" => Some(ready(phase, served)),
        // Cannot fail: texts and numbers.
        "/usage" => {
            Some(json(served.map(|it| serde_json::to_string(&it.totals.all()).unwrap_or_default())))
        }
        "/tasks" => Some(json(served.map(|it| (it.tasks)()))),
        _ => None,
    }
}

/// 200 where the worker takes jobs and all dependencies are up, else 503; the body says which are not,
/// and why.
fn ready(phase: &Current, served: Option<&Served>) -> Text {
    let dependencies = served.map(|it| (it.readiness)()).unwrap_or_default();
    let phase = phase.get();
    let ready = phase == Phase::Running && dependencies.iter().all(|it| it.up);
    let body = serde_json::json!({
        "ready": ready, "state": phase.as_str(), "dependencies": dependencies
    });
    Text {
        status: if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        content_type: "application/json",
        text: body.to_string(),
    }
}
