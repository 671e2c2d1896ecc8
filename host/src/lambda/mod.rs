//! Lovage as an AWS Lambda function: the worker's, and the dispatcher's.
//!
//! Which of the two a function is, its handler says (`_HANDLER`): `dispatcher`, or anything else
//! for the worker.
//!
//! The worker takes three kinds of events. Which one it is, is decided by rule:
//!
//! - an object with `Records` from `aws:sqs`: a batch of an SQS event source mapping, see
//!   [`batch`];
//! - anything else: one job in the native format, as the function was invoked with it, see
//!   [`direct`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lambda_runtime::{Context, Diagnostic, LambdaEvent, run_concurrent, service_fn};
use serde_json::value::RawValue;

use crate::{
    broker::sqs::SqsBroker,
    config::{BrokerKind, Config},
    dispatch::{Answer, Dispatcher},
    events::Chain,
    load,
    pipeline::Pipeline,
    routes::Routes,
};

pub mod batch;
pub mod direct;

/// The handler's name that makes a function the dispatcher.
pub const DISPATCHER: &str = "dispatcher";

/// What the worker's function needs for its events.
#[derive(Debug)]
pub struct Function {
    config: Arc<Config>,
    broker: Arc<SqsBroker>,
    routes: Arc<Routes>,
    pipeline: Pipeline,
}

/// The process as Lambda starts it: configured by `lovage.toml` beside the program, where there
/// is one, and by the environment.
pub fn main() -> std::process::ExitCode {
    match start() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not have begun, and Lambda shows what a function that fails to start
            // writes to standard error.
            #[allow(clippy::print_stderr, reason = "there is nowhere else to say it")]
            {
                eprintln!("error: {}", Chain(error.as_ref()));
            }
            std::process::ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let file = std::env::var_os("LOVAGE_CONFIG").map(std::path::PathBuf::from);
    let config = Config::load(file.as_deref(), variables)?;
    crate::telemetry::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

/// Serves events until the process ends. Errors are those of the start: a missing task, say.
pub async fn serve(mut config: Config) -> anyhow::Result<()> {
    // A function has no disk to keep a queue on.
    config.broker.kind = BrokerKind::Sqs;
    if config.components.paths.is_empty() && config.components.precompiled.is_empty() {
        config.components.precompiled = bundled();
    }
    let config = Arc::new(config);
    let served = if std::env::var("_HANDLER").is_ok_and(|handler| handler == DISPATCHER) {
        // A misconfigured dispatcher says so in each answer, where its caller sees it.
        let dispatcher = Arc::new(Dispatcher::connect(&config).await);
        let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
            let dispatcher = Arc::clone(&dispatcher);
            async move { Ok::<Answer, Diagnostic>(dispatch(&dispatcher, event).await) }
        });
        run_concurrent(handler).await
    } else {
        let function = Arc::new(Function::start(config).await?);
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
fn bundled() -> Vec<std::path::PathBuf> {
    let root = std::env::var_os("LAMBDA_TASK_ROOT")
        .map(|root| std::path::PathBuf::from(root).join("tasks"));
    root.into_iter().chain(["/opt/tasks".into()]).filter(|path| path.is_dir()).collect()
}

async fn dispatch(
    dispatcher: &Result<Dispatcher, crate::dispatch::DispatchError>,
    event: LambdaEvent<Box<RawValue>>,
) -> Answer {
    let dispatched = match dispatcher {
        Ok(dispatcher) => dispatcher.dispatch(bytes_of(event.payload)).await,
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = &dispatched {
        tracing::error!(status = error.status, error = %Chain(error), "event was not handed on");
    }
    dispatched.into()
}

impl Function {
    async fn start(config: Arc<Config>) -> anyhow::Result<Self> {
        let broker = Arc::new(SqsBroker::connect().await?);
        let host = load::host(&config).await?;
        let routes = Arc::new(Routes::new(broker.clone(), Arc::clone(&config)));
        let pipeline = Pipeline::new(
            Arc::clone(&config),
            host.registry,
            host.sandbox,
            Arc::clone(&routes),
            &*broker,
        );
        Ok(Self { config, broker, routes, pipeline })
    }

    async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Box<RawValue>, Diagnostic> {
        let LambdaEvent { payload, context } = event;
        let budget = self.budget(&context);
        match batch::Event::parse(payload.get()) {
            Some(Ok(event)) => self.batch(event, budget).await,
            Some(Err(diagnostic)) => Err(diagnostic),
            None => self.direct(bytes_of(payload), &context, budget).await,
        }
    }

    /// How long the guests of this invocation may take: what Lambda leaves, less a margin for
    /// publishing and answering.
    fn budget(&self, context: &Context) -> Duration {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        let left = Duration::from_millis(context.deadline.saturating_sub(now));
        left.saturating_sub(Duration::from_millis(self.config.lambda.margin_ms))
    }
}

fn bytes_of(payload: Box<RawValue>) -> Bytes {
    let text: Box<str> = payload.into();
    Bytes::from(String::from(text))
}

/// An error that Lambda reports: its type is for alarms, its message for a person.
fn diagnostic(error_type: &str, error_message: impl Into<String>) -> Diagnostic {
    Diagnostic { error_type: error_type.to_owned(), error_message: error_message.into() }
}
