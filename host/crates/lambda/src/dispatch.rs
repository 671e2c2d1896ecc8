//! The dispatcher: hands an event on as a job, and answers without waiting for its result.
//!
//! The event is a native message (`{"data": …}`, or with `task` and more). It goes to the worker's
//! Lambda function by an asynchronous invocation, or to a queue; the answer is
//! `{"statusCode": 200, "body": "<JSON string>"}`, as the system that Lovage replaces gave it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::{
    config::{Builder, ProvideCredentials as _},
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, invoke::InvokeError},
    primitives::Blob,
    types::InvocationType,
};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use lovage_broker_sqs::SqsBroker;
use lovage_config::{BrokerKind, Config, DispatchKind};
use lovage_connect::connect;
use lovage_core::{
    broker::{Attributes, Broker, BrokerError, Fault, Outgoing, Queue, attribute},
    events::Chain,
    group_id,
    job::Job,
    sqs_charset::escape_json,
};
use lovage_runtime::{message::native, publish::deduplication_of, routes::Routes};

/// The largest payload of an asynchronous invocation, in bytes.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// How long to wait for a connection to Lambda, for one request, and for all its tries together.
const CONNECT: Duration = Duration::from_secs(4);
const ATTEMPT: Duration = Duration::from_secs(10);
const OPERATION: Duration = Duration::from_secs(25);

/// Where jobs are handed to.
#[derive(Debug)]
pub enum Dispatcher {
    /// The worker's Lambda function, invoked with `InvocationType=Event`.
    Function {
        /// The client.
        client: aws_sdk_lambda::Client,
        /// Name or ARN.
        function: String,
    },
    /// A queue.
    Queue {
        /// The broker.
        broker: Arc<dyn Broker>,
        /// The queue.
        queue: Queue,
    },
}

/// A job that was handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dispatched {
    /// The job's id: the sender's own, else the one that the invocation or the message got.
    pub id: String,
    /// The function or the queue that it was handed to.
    pub to: String,
}

/// Why a job was not handed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DispatchError {
    /// A fitting HTTP status.
    pub status: u16,
    /// What failed, why, and what to do.
    pub message: String,
}

/// What the dispatcher's function answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// An HTTP status: 200, or what fits the failure.
    #[serde(rename = "statusCode")]
    pub status_code: u16,
    /// A JSON string, for a person.
    pub body: String,
}

impl From<Result<Dispatched, DispatchError>> for Answer {
    fn from(dispatched: Result<Dispatched, DispatchError>) -> Self {
        let (status_code, text) = match dispatched {
            Ok(dispatched) => {
                (200, format!("job {} was handed to {}", dispatched.id, dispatched.to))
            }
            Err(error) => (error.status, error.message),
        };
        Self { status_code, body: serde_json::Value::String(text).to_string() }
    }
}

impl Dispatcher {
    /// The dispatcher that a configuration describes.
    pub async fn connect(config: &Arc<Config>) -> Result<Self, DispatchError> {
        match config.dispatch.kind {
            DispatchKind::Lambda => {
                let function = config.dispatch.function.clone().ok_or_else(|| {
                    misconfigured("no function is named to hand jobs to; set dispatch.function")
                })?;
                Ok(Self::Function { client: lambda_client().await?, function })
            }
            DispatchKind::Queue => {
                let name = config.dispatch.queue.clone().ok_or_else(|| {
                    misconfigured("no queue is named to hand jobs to; set dispatch.queue")
                })?;
                let broker = connect(config).await?;
                let routes = Routes::new(Arc::clone(&broker), Arc::clone(config));
                // By its URL nothing need be asked of SQS, so the dispatcher may do without any
                // permission but to send.
                let unseen = (config.broker.kind == BrokerKind::Sqs)
                    .then(|| SqsBroker::queue_at(config.address(&name)))
                    .flatten();
                let queue = match unseen {
                    Some(queue) => queue,
                    None => routes.queue(&name).await?,
                };
                Ok(Self::Queue { broker, queue })
            }
        }
    }

    /// Hands on one event, with the trace that it belongs to. Returns when it was accepted, not
    /// when it has run.
    pub async fn dispatch(
        &self,
        event: Bytes,
        trace: Option<String>,
    ) -> Result<Dispatched, DispatchError> {
        let job = check(&event)?;
        let wait = job.due_in(Timestamp::now()).unwrap_or_default();
        let sent_id = (!job.id.is_empty()).then_some(job.id);
        match self {
            // The SDK hands the trace on by itself.
            Self::Function { client, function } => {
                if !wait.is_zero() {
                    return Err(DispatchError {
                        status: 400,
                        message: "bad event: `eta` is in the future, and a function runs its jobs \
                                  at once; leave it out, or have jobs handed to a queue \
                                  (dispatch.kind)"
                            .to_owned(),
                    });
                }
                let output = client
                    .invoke()
                    .function_name(function)
                    .invocation_type(InvocationType::Event)
                    .payload(Blob::new(event))
                    .send()
                    .await
                    .map_err(|error| refusal(function, &error))?;
                let request = output.request_id().unwrap_or_default().to_owned();
                Ok(Dispatched { id: sent_id.unwrap_or(request), to: function.clone() })
            }
            Self::Queue { broker, queue } => {
                let message = Outgoing {
                    body: acceptable(event),
                    // Whatever the queue's messages are when they do not say.
                    attributes: Attributes::from([(
                        attribute::FORMAT.to_owned(),
                        "native".to_owned(),
                    )]),
                    deduplication_id: sent_id
                        .as_deref()
                        .filter(|_| queue.fifo)
                        .map(|id| deduplication_of(&job.tenant, id)),
                    group: Some(job.tenant)
                        .filter(|tenant| !tenant.is_empty())
                        .map(|tenant| group_id::of_tenant(&tenant)),
                    delay: wait,
                    trace_header: trace,
                };
                let mut answers = broker.send(queue, std::slice::from_ref(&message)).await;
                let id = answers.pop().ok_or_else(|| DispatchError {
                    status: 502,
                    message: format!("queue {} gave no answer; try again", queue.name),
                })??;
                Ok(Dispatched { id: sent_id.unwrap_or(id), to: queue.name.to_string() })
            }
        }
    }
}

fn misconfigured(message: &str) -> DispatchError {
    DispatchError { status: 500, message: message.to_owned() }
}

/// A client of AWS Lambda. No request is made; that there is a region and credentials is seen
/// before the first job, since a failed request would not say it in so many words.
async fn lambda_client() -> Result<aws_sdk_lambda::Client, DispatchError> {
    let (aws, renewing) = lovage_aws::load().await;
    if aws.region().is_none() {
        let why = lovage_aws::missing_profile().unwrap_or_else(|| {
            "no region is set; set AWS_REGION, or the region of the profile".to_owned()
        });
        return Err(misconfigured(&format!("cannot reach AWS Lambda: {why}")));
    }
    if let Some(provider) = aws.credentials_provider()
        && let Err(error) = provider.provide_credentials().await
    {
        return Err(misconfigured(&format!(
            "cannot reach AWS Lambda: no credentials ({}); set AWS_PROFILE, or AWS_ACCESS_KEY_ID \
             and AWS_SECRET_ACCESS_KEY",
            Chain(&error)
        )));
    }
    let limits = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build();
    let config = Builder::from(&aws).timeout_config(limits).retry_classifier(renewing).build();
    Ok(aws_sdk_lambda::Client::from_conf(config))
}

/// The same JSON in characters that SQS takes.
fn acceptable(event: Bytes) -> Bytes {
    match std::str::from_utf8(&event).map(escape_json) {
        Ok(Cow::Owned(escaped)) => escaped.into(),
        _ => event,
    }
}

/// Checks that an event is a job before anybody else has to. Its id is empty if it names none.
fn check(event: &Bytes) -> Result<Job, DispatchError> {
    if event.len() > MAX_EVENT_BYTES {
        return Err(DispatchError {
            status: 413,
            message: format!(
                "the event has {} bytes; at most {MAX_EVENT_BYTES} can be handed on: send a \
                 reference to the data instead",
                event.len()
            ),
        });
    }
    let mut job = Job::new("", "", "");
    native::decode(&mut job, event)
        .map_err(|reason| DispatchError { status: 400, message: format!("bad event: {reason}") })?;
    Ok(job)
}

impl From<BrokerError> for DispatchError {
    fn from(error: BrokerError) -> Self {
        let status = match error.fault {
            Fault::Unavailable => 503,
            Fault::NotFound => 404,
            Fault::Denied => 403,
            Fault::TooLarge => 413,
            Fault::Invalid | Fault::Stale | Fault::Unsupported => 400,
        };
        Self { status, message: error.message }
    }
}

/// What a failed invocation means for who asked for it.
fn refusal(function: &str, error: &SdkError<InvokeError>) -> DispatchError {
    let told = |status, why: String| DispatchError {
        status,
        message: format!("cannot hand the job to the function {function}: {why}"),
    };
    let Some(service) = error.as_service_error() else {
        return match error {
            SdkError::ConstructionFailure(_) => {
                told(400, "the request is wrong; check dispatch.function".to_owned())
            }
            _ => told(
                503,
                "AWS Lambda does not answer; check region, endpoint and network".to_owned(),
            ),
        };
    };
    let code = service.code().unwrap_or("unknown error");
    let text = service.message().unwrap_or_default();
    let (status, advice) = match code {
        "ResourceNotFoundException" => (404, "check dispatch.function and the region"),
        "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
            (403, "the dispatcher needs lambda:InvokeFunction on it")
        }
        "TooManyRequestsException" => (429, "try again later"),
        "InvalidRequestContentException"
        | "InvalidParameterValueException"
        | "ValidationException" => (400, "check the event and dispatch.function"),
        "RequestTooLargeException" => (413, "send a reference to the data instead"),
        _ => (502, "try again later"),
    };
    told(status, format!("{code}: {text}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_json_string() {
        let answer = Answer::from(Ok(Dispatched { id: "i".into(), to: "f".into() }));
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"statusCode":200,"body":"\"job i was handed to f\""}"#
        );
    }

    #[test]
    fn events_that_are_no_jobs_are_refused_before_they_travel() {
        let refused =
            |event: &'static str| check(&Bytes::from_static(event.as_bytes())).unwrap_err();
        assert_eq!(refused("{}").status, 400);
        assert!(refused("{}").message.contains("`data` is missing"));
        assert!(refused("[1]").message.contains("no object"));
        let large = Bytes::from(format!("{{\"data\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES)));
        assert_eq!(check(&large).unwrap_err().status, 413);
        assert_eq!(check(&Bytes::from_static(br#"{"data":1,"id":"a"}"#)).unwrap().id, "a");
    }
}
