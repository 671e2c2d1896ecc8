//! What a worker tells: `/metrics` for Prometheus, `/readyz` for probes, `/usage` for
//! `lovage usage`, and `/tasks` for `lovage tasks`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::net::TcpListener;

use super::server::{self, Text};
use crate::{dependency::Readiness, usage::Totals};

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

/// The address is ours, and from now on what happens is counted.
#[derive(Debug)]
pub struct Metrics {
    listener: TcpListener,
    recorder: PrometheusHandle,
}

impl Metrics {
    /// Takes the address, and begins to count. To be called before there is anything to count, and
    /// once a process.
    pub async fn start(address: SocketAddr) -> Result<Self, MetricsError> {
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
        Ok(Self { listener, recorder: handle })
    }

    /// Answers for as long as the runtime lives. `readiness` gives the state of each dependency,
    /// `tasks` what is served.
    pub fn serve<T: Serialize>(
        self,
        totals: Arc<Totals>,
        readiness: impl Fn() -> Vec<Readiness> + Send + Sync + 'static,
        tasks: impl Fn() -> T + Send + Sync + 'static,
    ) {
        let Self { listener, recorder } = self;
        let upkeep = recorder.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        });
        tokio::spawn(server::serve(listener, move |path| match path {
            "/readyz" => Some(ready(&readiness())),
            "/metrics" => Some(Text {
                status: StatusCode::OK,
                // https://prometheus.io/docs/instrumenting/exposition_formats/
                content_type: "text/plain; version=0.0.4",
                text: recorder.render(),
            }),
            "/usage" => Some(Text {
                status: StatusCode::OK,
                content_type: "application/json",
                // Cannot fail: texts and numbers.
                text: serde_json::to_string(&totals.all()).unwrap_or_default(),
            }),
            "/tasks" => Some(Text {
                status: StatusCode::OK,
                content_type: "application/json",
                text: serde_json::to_string(&tasks()).unwrap_or_default(),
            }),
            _ => None,
        }));
    }
}

/// 200 where all dependencies are up, else 503; the body says which are not, and why.
fn ready(dependencies: &[Readiness]) -> Text {
    let up = dependencies.iter().all(|dependency| dependency.up);
    let body = serde_json::json!({"ready": up, "dependencies": dependencies});
    Text {
        status: if up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        content_type: "application/json",
        text: body.to_string(),
    }
}
