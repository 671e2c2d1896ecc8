//! `lovage send`

use std::{fmt::Write as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value, json, value::RawValue};

use super::{Global, MISUSE, data};
use crate::{
    broker::{
        Attributes, Broker, Fault, Outgoing, Queue, attribute,
        sqs::{SqsBroker, charset::first_refused},
    },
    config::{BrokerKind, Config},
    connect::connect,
    routes::Routes,
    text::nearest,
};

/// Send a job to a queue
#[derive(Debug, Args)]
#[command(after_help = "Wait for the result and print its value:\n  \
    lovage send process_data --data 21 --wait\n\n\
    In two hours, at most twice:\n  \
    lovage send report --data @order.json --delay 2h --max-attempts 2")]
pub struct Send {
    /// The task; the queue's default task when absent
    task: Option<String>,
    /// The payload: JSON, @FILE, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    data: String,
    /// The queue; the only one that is configured when absent
    #[arg(long, short, value_name = "QUEUE")]
    queue: Option<String>,
    /// The job's id, its idempotency key; a new one when absent
    #[arg(long)]
    id: Option<String>,
    /// Who the job is for
    #[arg(long)]
    tenant: Option<String>,
    /// Not before this has passed: 250ms, 30s, 15m, 12h, 3d
    #[arg(long, value_parser = data::duration, conflicts_with = "eta")]
    delay: Option<Duration>,
    /// Not before this time (RFC 3339)
    #[arg(long)]
    eta: Option<Timestamp>,
    /// Not after this time (RFC 3339)
    #[arg(long)]
    expires: Option<Timestamp>,
    /// How many attempts it gets at most
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Wall time for one attempt, at most
    #[arg(long, value_parser = data::duration)]
    timeout: Option<Duration>,
    /// The queue for the result
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// A header for the task; may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = data::pair)]
    headers: Vec<(String, String)>,
    /// On FIFO queues the ordering key, on others the tenant of fair queues
    #[arg(long)]
    group: Option<String>,
    /// Send the payload as the body itself (the raw format), with this media type
    #[arg(long, value_name = "MEDIA TYPE")]
    raw: Option<String>,
    /// Wait for the result and print its value; exit 1 when it has none
    #[arg(long, short)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = data::duration, default_value = "60s", requires = "wait")]
    wait_timeout: Duration,
}

impl Send {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let payload = match &self.raw {
            Some(media_type) if !crate::message::raw::is_json(media_type) => data::read(&self.data),
            _ => data::read_json("--data", &self.data, "--raw says what else it is"),
        };
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => {
                eprintln!("error: {error:#}");
                return Ok(ExitCode::from(MISUSE));
            }
        };
        let name = self.queue_name(config)?;
        // A result goes to one queue, and SQS keeps none for us to ask for.
        let both = self.wait && self.reply_to.is_some() && config.broker.kind == BrokerKind::Sqs;
        anyhow::ensure!(
            !both,
            "on SQS --wait has the result sent to a queue of its own; leave --reply-to away, or --wait"
        );
        let replies = match config.broker.kind {
            BrokerKind::Sqs if self.wait => Some(Replies::new().await?),
            _ => None,
        };
        let broker: Arc<dyn Broker> = match &replies {
            Some(replies) => replies.broker.clone(),
            None => connect(config).await?,
        };
        let routes = Routes::new(Arc::clone(&broker), Arc::new(config.clone()));
        let queue = routes.queue(&name).await?;
        let id = self.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let reply_to = replies.as_ref().map(|replies| replies.queue.name.to_string());
        let outcome = self
            .send_and_wait(global, &*broker, &queue, &id, payload, reply_to, replies.as_ref())
            .await;
        if let Some(replies) = replies {
            replies.remove().await;
        }
        outcome
    }

    #[allow(clippy::too_many_arguments, reason = "one call, whose parts have one owner each")]
    async fn send_and_wait(
        &self,
        global: &Global,
        broker: &dyn Broker,
        queue: &Queue,
        id: &str,
        payload: Vec<u8>,
        reply_to: Option<String>,
        replies: Option<&Replies>,
    ) -> anyhow::Result<ExitCode> {
        let message = self.message(id, payload, reply_to.or_else(|| self.reply_to.clone()))?;
        let mut answers = broker.send(queue, std::slice::from_ref(&message)).await;
        let message_id = answers.pop().context("the broker gave no answer")??;
        if !self.wait {
            if global.json {
                println!("{}", json!({"id": id, "message_id": message_id, "queue": queue.name}));
            } else {
                println!("{id}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        let envelope = match replies {
            None => broker.result(id, self.wait_timeout).await?,
            Some(replies) => replies.wait(self.wait_timeout).await?,
        };
        let Some(envelope) = envelope else {
            anyhow::bail!(
                "job {id} has no result after {:?}; it is still queued or running, or no worker takes jobs from {}",
                self.wait_timeout,
                queue.name
            );
        };
        show_result(&envelope, global.json)
    }

    fn queue_name(&self, config: &Config) -> anyhow::Result<String> {
        let consumed = config.consumed_queues();
        match (&self.queue, consumed.as_slice()) {
            (Some(name), _) => {
                // An address is taken as it is; a name must be one that is known.
                let known = consumed.contains(name) || config.queue(name).is_some();
                if !known && config.broker.kind == BrokerKind::Local {
                    let hint = nearest(name, consumed.iter().map(String::as_str))
                        .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                    anyhow::bail!("queue `{name}` is not in the configuration{hint}");
                }
                Ok(name.clone())
            }
            (None, [only]) => Ok(only.clone()),
            (None, several) => {
                anyhow::bail!("which queue? use --queue with one of: {}", several.join(", "))
            }
        }
    }

    fn message(
        &self,
        id: &str,
        payload: Vec<u8>,
        reply_to: Option<String>,
    ) -> anyhow::Result<Outgoing> {
        let mut outgoing = Outgoing {
            group: self.group.clone(),
            deduplication_id: self.id.clone(),
            delay: self.delay.unwrap_or_default(),
            ..Outgoing::default()
        };
        if let Some(media_type) = &self.raw {
            let only_native = self.eta.is_some()
                || self.expires.is_some()
                || self.max_attempts.is_some()
                || self.timeout.is_some()
                || reply_to.is_some();
            anyhow::ensure!(
                !only_native,
                "a raw message cannot carry --eta, --expires, --max-attempts, --timeout, --reply-to \
                 or (on SQS) --wait; leave --raw away"
            );
            outgoing.attributes = self.raw_attributes(id, media_type);
            outgoing.body = if is_text(&payload) {
                payload.into()
            } else {
                let encoding = (attribute::CONTENT_ENCODING.to_owned(), "base64".to_owned());
                outgoing.attributes.extend([encoding]);
                BASE64_STANDARD.encode(payload).into()
            };
            return Ok(outgoing);
        }
        outgoing.body = self.native_body(id, payload, reply_to)?;
        Ok(outgoing)
    }

    fn raw_attributes(&self, id: &str, media_type: &str) -> Attributes {
        let mut attributes = Attributes::from([
            (attribute::FORMAT.to_owned(), "raw".to_owned()),
            (attribute::ID.to_owned(), id.to_owned()),
            (attribute::CONTENT_TYPE.to_owned(), media_type.to_owned()),
        ]);
        let named = [(attribute::TASK, &self.task), (attribute::TENANT, &self.tenant)];
        for (name, value) in named {
            attributes.extend(value.as_ref().map(|value| (name.to_owned(), value.clone())));
        }
        attributes.extend(self.headers.iter().cloned());
        attributes
    }

    fn native_body(
        &self,
        id: &str,
        payload: Vec<u8>,
        reply_to: Option<String>,
    ) -> anyhow::Result<Bytes> {
        let headers: Map<String, Value> =
            self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let fields = [
            ("id", Some(json!(id))),
            ("task", self.task.as_ref().map(|it| json!(it))),
            ("tenant", self.tenant.as_ref().map(|it| json!(it))),
            ("eta", self.eta.map(|it| json!(it))),
            ("expires", self.expires.map(|it| json!(it))),
            ("max_attempts", self.max_attempts.map(|it| json!(it))),
            (
                "timeout_ms",
                self.timeout.map(|it| json!(u64::try_from(it.as_millis()).unwrap_or(u64::MAX))),
            ),
            ("reply_to", reply_to.map(|it| json!(it))),
            ("headers", (!headers.is_empty()).then_some(Value::Object(headers))),
        ];
        // The payload is not parsed and printed again: its numbers stay as they are.
        let payload = RawValue::from_string(String::from_utf8(payload)?)?;
        let mut body = format!("{{\"data\":{}", payload.get().trim());
        for (name, value) in fields {
            if let Some(value) = value {
                write!(body, ",\"{name}\":{value}")?;
            }
        }
        body.push('}');
        Ok(body.into())
    }
}

/// Whether a body can travel as it is: SQS carries text alone, and not all of that.
fn is_text(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| first_refused(text).is_none())
}

/// Prints a result's value to standard output, or its error to standard error.
fn show_result(envelope: &[u8], json: bool) -> anyhow::Result<ExitCode> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        status: &'a str,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        data_base64: Option<&'a str>,
        error: Option<Value>,
    }
    let result: Envelope<'_> =
        serde_json::from_slice(envelope).context("the result is not in the envelope format")?;
    let done = result.status == "done";
    if json {
        println!("{}", String::from_utf8_lossy(envelope));
    } else if let Some(error) = &result.error {
        super::run::print_failure(
            result.status,
            error["kind"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default(),
            error["detail"].as_str(),
        );
    } else if let Some(base64) = result.data_base64 {
        use std::io::Write as _;
        std::io::stdout().write_all(&BASE64_STANDARD.decode(base64)?)?;
    } else {
        // `null` is a value like any other.
        println!("{}", result.data.map_or("null", RawValue::get));
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A queue of our own on SQS, for one answer.
struct Replies {
    broker: Arc<SqsBroker>,
    queue: Queue,
}

impl Replies {
    async fn new() -> anyhow::Result<Self> {
        let broker = Arc::new(SqsBroker::connect().await?);
        let queue =
            broker.create_reply_queue().await.context("--wait needs a queue for the answer")?;
        Ok(Self { broker, queue })
    }

    async fn wait(&self, timeout: Duration) -> anyhow::Result<Option<Bytes>> {
        let until = tokio::time::Instant::now() + timeout;
        loop {
            let wait = until.saturating_duration_since(tokio::time::Instant::now());
            let visibility = Duration::from_secs(30);
            let wait = wait.min(Duration::from_secs(20));
            let received = self.broker.receive(&self.queue, 1, wait, visibility).await;
            match received {
                Ok(messages) => {
                    if let Some(message) = messages.into_iter().next() {
                        return Ok(Some(message.body));
                    }
                }
                Err(error) if error.fault == Fault::Unavailable => {}
                Err(error) => return Err(error.into()),
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    async fn remove(self) {
        if let Err(error) = self.broker.delete_queue(&self.queue).await {
            eprintln!("warning: {error}");
        }
    }
}
