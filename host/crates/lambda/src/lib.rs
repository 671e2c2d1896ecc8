//! Lovage as an AWS Lambda function: the worker's, and the dispatcher's.
//!
//! Which of the two a function is, its handler says (`_HANDLER`): `dispatcher`, or anything else
//! for the worker.
//!
//! The worker takes two kinds of events. Which one it is, is decided by rule:
//!
//! - an object with `Records` from `aws:sqs`: a batch of an SQS event source mapping, see
//!   [`batch`];
//! - anything else: one job in the native format, as the function was invoked with it, see
//!   [`direct`].
//!
//! Nothing is asked of AWS before the first event: what an event needs is looked up when it comes,
//! and remembered for the next.

#![forbid(unsafe_code)]

pub mod dispatch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lambda_runtime::{Context, Diagnostic, LambdaEvent, run_concurrent, service_fn};
use serde_json::value::RawValue;
use tokio::sync::{OnceCell, Semaphore};

use crate::dispatch::{Answer, DispatchError, Dispatched, Dispatcher};
use lovage_broker_sqs::SqsBroker;
use lovage_config::{BrokerKind, ComponentsConfig, Config, FILE_NAME};
use lovage_core::{broker::BrokerError, events::Chain};
use lovage_registry::Registry;
use lovage_runtime::{load, pipeline::Pipeline, routes::Routes, telemetry::Delivery};

pub mod batch;
pub mod direct;
mod sources;

/// The handler's name that makes a function the dispatcher.
pub const DISPATCHER: &str = "dispatcher";

/// What Lambda tells every function by the environment, and the runtime does not start without.
const ENVIRONMENT: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
];

/// What the worker's function needs for its events.
#[derive(Debug)]
pub struct Function {
    config: Arc<Config>,
    broker: Arc<SqsBroker>,
    routes: Arc<Routes>,
    pipeline: Pipeline,
    /// Jobs of all invocations at once.
    slots: Arc<Semaphore>,
    sources: sources::Sources,
}

/// The process as Lambda starts it: configured by `lovage.toml` beside the program, where there
/// is one, and by the environment.
pub fn main() -> std::process::ExitCode {
    match start() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not have begun, and Lambda shows what a function that fails to start
            // writes to standard error.
            lovage_runtime::telemetry::say(&format!("error: {}", Chain(error.as_ref())));
            std::process::ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let named = std::env::var_os("LOVAGE_CONFIG").map(PathBuf::from);
    let beside = || in_bundle(FILE_NAME).filter(|file| file.exists());
    let file = named.or_else(beside);
    let config = Config::load(file.as_deref(), variables)?;
    lovage_runtime::telemetry::start(&config.log, Delivery::Direct)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.worker.threads > 0 {
        builder.worker_threads(config.worker.threads);
    }
    builder.enable_all().build()?.block_on(serve(config))
}

/// Serves events until the process ends. Errors are those of the start: a missing task, say.
pub async fn serve(mut config: Config) -> anyhow::Result<()> {
    for name in ENVIRONMENT {
        anyhow::ensure!(
            std::env::var_os(name).is_some(),
            "{name} is not set: this serves the runtime API of AWS Lambda, and is started by \
             Lambda or an emulator of it, which sets {}; `lovage worker` needs neither",
            ENVIRONMENT.join(", ")
        );
    }
    // A function has no disk to keep a queue on.
    config.broker.kind = BrokerKind::Sqs;
    let served = if std::env::var("_HANDLER").is_ok_and(|handler| handler == DISPATCHER) {
        let config = Arc::new(config);
        let dispatcher = Arc::new(OnceCell::new());
        let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
            let (dispatcher, config) = (Arc::clone(&dispatcher), Arc::clone(&config));
            async move { Ok::<Answer, Diagnostic>(dispatch(&dispatcher, &config, event).await) }
        });
        run_concurrent(handler).await
    } else {
        find_tasks(&mut config.components)?;
        let function = Arc::new(Function::start(Arc::new(config)).await?);
        let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
            let function = Arc::clone(&function);
            async move { function.handle(event).await }
        });
        run_concurrent(handler).await
    };
    served.map_err(|error| anyhow::anyhow!("the Lambda runtime API failed: {error}"))
}

/// Where a function's tasks are, if the configuration does not say: with the program, or in a
/// layer. <https://docs.aws.amazon.com/lambda/latest/dg/packaging-layers.html>
fn find_tasks(components: &mut ComponentsConfig) -> anyhow::Result<()> {
    // One file may serve a worker and a function, and this build compiles nothing.
    #[cfg(not(feature = "compiler"))]
    {
        components.paths.clear();
        components.urls.retain(|url| url.starts_with("s3://"));
        let may = |key: &lovage_config::KeyConfig| key.precompiled;
        if let Some(url) = components.urls.first() {
            anyhow::ensure!(
                components.signatures.keys.iter().any(may),
                "components.urls has {url}, and code from there is run as a part of this program: \
                 name who may sign it by a key with `precompiled = true` under \
                 [[components.signatures.keys]], and sign what `lovage compile` makes by \
                 `lovage sign`"
            );
        }
    }
    if components.paths.is_empty() && components.precompiled.is_empty() {
        let places = in_bundle("tasks").into_iter().chain(["/opt/tasks".into()]);
        components.precompiled = places.filter(|path: &PathBuf| path.is_dir()).collect();
        anyhow::ensure!(
            !components.precompiled.is_empty() || !components.urls.is_empty(),
            "no tasks: there is neither a directory `tasks` beside the function's program nor \
             /opt/tasks from a layer; put there what `lovage compile` makes, or name another \
             directory in components.precompiled, or a bucket in components.urls"
        );
    }
    Ok(())
}

/// Looks for other versions where they may come from elsewhere. Between events the process stands
/// still, and so does this; it goes on with the next one, and what it finds then serves those after.
fn look_for_others(config: &Config, registry: &Arc<Registry>) {
    let components = &config.components;
    if components.urls.is_empty() || components.watch == Some(false) {
        return;
    }
    let (registry, interval) = (Arc::clone(registry), components.refresh_every());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            registry.refresh().await;
        }
    });
}

/// The path of a file that was deployed with the program.
fn in_bundle(name: impl AsRef<Path>) -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("LAMBDA_TASK_ROOT")?).join(name))
}

/// Hands an event on, and answers in time, whatever happens: a dispatcher's caller looks at the
/// status and at nothing else.
async fn dispatch(
    dispatcher: &OnceCell<Dispatcher>,
    config: &Arc<Config>,
    event: LambdaEvent<Box<RawValue>>,
) -> Answer {
    let LambdaEvent { payload, context } = event;
    let deadline = deadlines(&context, config).soft;
    let dispatched = tokio::time::timeout_at(
        deadline.into(),
        hand_on(dispatcher, config, payload, context.xray_trace_id),
    )
    .await
    .unwrap_or_else(|_elapsed| {
        Err(DispatchError {
            status: 504,
            message: "AWS did not answer before the function's deadline; the job may have been \
                      handed on or not; give the function a longer timeout, or try again"
                .to_owned(),
        })
    });
    if let Err(error) = &dispatched {
        tracing::error!(status = error.status, error = %Chain(error), "event was not handed on");
    }
    dispatched.into()
}

/// Connects at the first event, and again at the next one if that failed: what was wrong may have
/// passed, and the caller is the one to be told.
async fn hand_on(
    dispatcher: &OnceCell<Dispatcher>,
    config: &Arc<Config>,
    payload: Box<RawValue>,
    trace: Option<String>,
) -> Result<Dispatched, DispatchError> {
    let dispatcher = dispatcher.get_or_try_init(|| Dispatcher::connect(config)).await?;
    dispatcher.dispatch(bytes_of(payload), trace).await
}

impl Function {
    async fn start(config: Arc<Config>) -> anyhow::Result<Self> {
        let broker = Arc::new(SqsBroker::connect().await?);
        // Between invocations nothing runs at all: what is made ahead would be made during the next one.
        let mut config = Arc::unwrap_or_clone(config);
        config.sandbox.ready_instances = Some(0);
        let config = Arc::new(config);
        let host = load::host(&config, None).await?;
        look_for_others(&config, &host.registry);
        let routes = Arc::new(Routes::new(broker.clone(), Arc::clone(&config)));
        let pipeline = Pipeline::new(
            Arc::clone(&config),
            host.registry,
            host.sandbox,
            Arc::clone(&routes),
            broker.clone(),
        );
        let slots = Arc::new(Semaphore::new(config.worker.concurrency.get()));
        Ok(Self { config, broker, routes, pipeline, slots, sources: sources::Sources::default() })
    }

    async fn handle(
        self: Arc<Self>,
        event: LambdaEvent<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Diagnostic> {
        let LambdaEvent { payload, context } = event;
        let deadline = deadlines(&context, &self.config);
        match batch::Event::parse(payload.get()) {
            Some(Ok(event)) => self.batch(event, deadline).await,
            Some(Err(diagnostic)) => Err(diagnostic),
            None => self.direct(bytes_of(payload), &context, deadline).await,
        }
    }
}

/// When things have to end.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// Work: Lambda's deadline, less the margin for publishing and answering. The margin is never
    /// more than half of what is left, so that a function with a short timeout does something at
    /// all.
    soft: Instant,
    /// Publishing: a moment before Lambda ends the process, and with it the answer.
    hard: Instant,
}

/// The part of the margin that is for publishing; the rest is for answering.
const PUBLISHING: f64 = 0.8;

fn deadlines(context: &Context, config: &Config) -> Deadlines {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
    let left_ms = context.deadline.saturating_sub(now);
    let working = working_time(left_ms, config.lambda.margin_ms);
    let soft = Instant::now() + working;
    let margin = Duration::from_millis(left_ms).saturating_sub(working);
    Deadlines { soft, hard: soft + margin.mul_f64(PUBLISHING) }
}

fn working_time(left_ms: u64, margin_ms: u64) -> Duration {
    Duration::from_millis(left_ms - margin_ms.min(left_ms / 2))
}

fn bytes_of(payload: Box<RawValue>) -> Bytes {
    let text: Box<str> = payload.into();
    Bytes::from(String::from(text))
}

/// An error that Lambda reports: its type is for alarms, its message for a person.
fn diagnostic(error_type: &str, error_message: impl Into<String>) -> Diagnostic {
    Diagnostic { error_type: error_type.to_owned(), error_message: error_message.into() }
}

fn queue_error(error: &BrokerError) -> Diagnostic {
    tracing::error!(error = %Chain(error), "the event could not be worked on");
    diagnostic("QueueError", Chain(error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_leaves_at_least_half_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(working_time(30_000, 1_000), ms(29_000));
        assert_eq!(working_time(1_000, 1_000), ms(500));
        assert_eq!(working_time(0, 1_000), ms(0));
    }
}
