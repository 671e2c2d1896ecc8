//! `lovage send`

// Over 500 lines: the flags of one command and what they mean.

use std::{fmt::Write as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value, json, value::RawValue};

use super::{Global, Misuse, data, out, out::complain, out::say};
use lovage_broker_sqs::SqsBroker;
use lovage_config::{BrokerKind, Config};
use lovage_connect::connect;
use lovage_core::{
    broker::{Attributes, Broker, Fault, Message, Outgoing, Queue, Receipt, Turn, attribute},
    group_id,
    job::JobKey,
    media_type::{JSON, is_json},
    outcome::Status,
    sqs_charset::first_refused,
    text::nearest,
};
use lovage_runtime::{message::decode, publish::deduplication_of, routes::Routes};
use lovage_services::store::ResultStore;

mod celery;

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
    /// On FIFO queues the ordering key; on others the tenant, as which it is set anyway
    #[arg(long)]
    group: Option<String>,
    /// Send the payload as the body itself (the raw format), with this media type
    #[arg(long, value_name = "MEDIA TYPE")]
    raw: Option<String>,
    /// Call a task of Celery's, by its own name there: the payload is its one argument, or what
    /// [tasks.NAME.celery] says of it
    #[arg(long, conflicts_with_all = ["raw", "tenant", "max_attempts", "headers"])]
    celery: bool,
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
            Some(media_type) if !is_json(media_type) => data::read(&self.data),
            _ => data::read_json("--data", &self.data, "--raw says what else it is"),
        };
        let payload = payload.map_err(|error| Misuse(format!("{error:#}")))?;
        let name = self.queue_name(config)?;
        // SQS keeps no results: the answer comes to a queue of our own.
        let asks_for_reply = self.wait && config.broker.kind == BrokerKind::Sqs && !self.celery;
        self.check_flags(asks_for_reply)?;
        let replies = if asks_for_reply { Some(Replies::new().await?) } else { None };
        let broker: Arc<dyn Broker> = match &replies {
            Some(replies) => replies.broker.clone(),
            None => connect(config).await?,
        };
        let routes = Routes::new(Arc::clone(&broker), Arc::new(config.clone()));
        let queue = routes.queue(&name).await?;
        let id = self.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        // By its name, which the worker looks up in its own account: what a queue's URL is depends
        // on who asks, and on the endpoint.
        let reply_to = replies.as_ref().map(|replies| replies.queue.name.to_string());
        let outcome = self
            .send_and_wait(
                global,
                config,
                &*broker,
                &routes,
                &queue,
                &id,
                payload,
                reply_to,
                replies.as_ref(),
            )
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
        config: &Config,
        broker: &dyn Broker,
        routes: &Routes,
        queue: &Queue,
        id: &str,
        payload: Vec<u8>,
        reply_to: Option<String>,
        replies: Option<&Replies>,
    ) -> anyhow::Result<ExitCode> {
        let store = celery::store_for(self, config)?;
        let mut message = if self.celery {
            celery::message(self, config, &queue.name, id, &payload)?
        } else {
            self.message(id, payload, reply_to.or_else(|| self.reply_to.clone()))?
        };
        message.group = self.group_on(queue)?;
        let tenant = tenant_of(routes, config, queue, &message);
        let job = JobKey::new(&tenant, id);
        let earlier = self.earlier_result(config, broker, store.as_deref(), job).await?;
        let mut answers = broker.send(queue, std::slice::from_ref(&message)).await;
        let message_id = answers.pop().context("the broker gave no answer")??;
        if !self.wait {
            if global.json {
                say!("{}", json!({"id": id, "message_id": message_id, "queue": queue.name}))?;
            } else {
                say!("{id}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(store) = store {
            return celery::wait(&*store, job, earlier, self.wait_timeout, global.json).await;
        }
        let envelope = match replies {
            None => next_result(broker, job, earlier.as_ref(), self.wait_timeout).await?,
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

    /// The result that is kept under the id before the job is sent: that of another job, which is not
    /// waited for. A success in Celery's result store is never written over, so no other can come.
    async fn earlier_result(
        &self,
        config: &Config,
        broker: &dyn Broker,
        store: Option<&dyn ResultStore>,
        job: JobKey<'_>,
    ) -> anyhow::Result<Option<Bytes>> {
        if !self.wait || self.id.is_none() {
            return Ok(None);
        }
        if let Some(store) = store {
            return celery::earlier(store, job).await;
        }
        if config.broker.kind == BrokerKind::Sqs {
            return Ok(None);
        }
        Ok(broker.result(job, Duration::ZERO).await?)
    }

    /// On queues without order the group is the tenant, by which they are fair.
    fn group_on(&self, queue: &Queue) -> Result<Option<String>, Misuse> {
        match (&self.group, &self.tenant) {
            (Some(group), Some(tenant)) if !queue.fifo && group != tenant => Err(Misuse(format!(
                "--group is `{group}` and --tenant is `{tenant}`, and on a queue that is not FIFO \
                 both name the tenant; leave --group away"
            ))),
            (None, Some(tenant)) if !queue.fifo => Ok(Some(group_id::of_tenant(tenant))),
            (group, _) => Ok(group.clone()),
        }
    }

    fn check_flags(&self, asks_for_reply: bool) -> Result<(), Misuse> {
        if asks_for_reply && self.reply_to.is_some() {
            return Err(Misuse(
                "--wait has the result sent to a queue of its own on SQS, and --reply-to to another \
                 one; leave one of them away"
                    .to_owned(),
            ));
        }
        let only_native = self.eta.is_some()
            || self.expires.is_some()
            || self.max_attempts.is_some()
            || self.timeout.is_some()
            || self.reply_to.is_some()
            || asks_for_reply;
        if self.raw.is_some() && only_native {
            return Err(Misuse(
                "a raw message cannot carry --eta, --expires, --max-attempts, --timeout, \
                 --reply-to or (on SQS) --wait; leave --raw away"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn queue_name(&self, config: &Config) -> Result<String, Misuse> {
        let consumed = config.consumed_queues();
        match (&self.queue, consumed.as_slice()) {
            (Some(name), _) => {
                // An address is taken as it is; a name must be one that is known.
                let known = consumed.contains(name) || config.queue(name).is_some();
                if !known && config.broker.kind == BrokerKind::Local {
                    let hint = nearest(name, consumed.iter().map(String::as_str))
                        .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                    return Err(Misuse(format!(
                        "queue `{name}` is not in the configuration{hint}"
                    )));
                }
                Ok(name.clone())
            }
            (None, [only]) => Ok(only.clone()),
            (None, several) => {
                Err(Misuse(format!("which queue? use --queue with one of: {}", several.join(", "))))
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
            deduplication_id: self
                .id
                .as_deref()
                .map(|id| deduplication_of(self.tenant.as_deref().unwrap_or_default(), id)),
            delay: self.delay.unwrap_or_default(),
            ..Outgoing::default()
        };
        if let Some(media_type) = &self.raw {
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

/// The tenant that a worker will read from a message, under which it keeps the result.
fn tenant_of(routes: &Routes, config: &Config, queue: &Queue, sent: &Outgoing) -> String {
    let settings = config.queue(&queue.name).unwrap_or_default();
    let received = Message {
        id: String::new(),
        receipt: Receipt("".into()),
        body: sent.body.clone(),
        attributes: sent.attributes.clone(),
        group: sent.group.clone(),
        attempt: 1,
        sent_at: None,
        not_before: None,
        trace_header: None,
    };
    match decode(&received, &routes.defaults_of(queue, &settings)) {
        Ok(job) => job.tenant.clone(),
        Err(malformed) => malformed.tenant,
    }
}

/// Whether a body can travel as it is: SQS carries text alone, and not all of that.
fn is_text(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| first_refused(text).is_none())
}

/// A result as an envelope, in which format it came: the attributes of a `bare` one tell, as far
/// as they go, what an envelope holds around the value.
fn envelope_of(body: Bytes, attributes: &Attributes) -> anyhow::Result<Bytes> {
    let Some(status) = attributes.get(attribute::STATUS) else {
        return Ok(body);
    };
    let attribute = |name: &str| attributes.get(name).map(String::as_str);
    let is_base64 = attribute(attribute::CONTENT_ENCODING) == Some("base64");
    let value = if is_base64 { BASE64_STANDARD.decode(&body)?.into() } else { body };
    let content_type = attribute(attribute::CONTENT_TYPE).unwrap_or(JSON);
    let mut envelope = json!({
        "id": attribute(attribute::ID),
        "task": attribute(attribute::TASK).unwrap_or_default(),
        "tenant": attribute(attribute::TENANT).unwrap_or_default(),
        "status": status,
        "attempt": attribute(attribute::ATTEMPT).and_then(|it| it.parse::<u32>().ok()),
        "component": attribute(attribute::COMPONENT),
    })
    .to_string();
    // The value is not parsed and printed again: its numbers stay as they are.
    let field = if is_json(content_type) {
        let name = if status == Status::Done.as_str() { "data" } else { "error" };
        let value: &RawValue =
            serde_json::from_slice(&value).context("the result is said to be JSON, and is none")?;
        format!("\"{name}\":{value}")
    } else {
        let base64 = BASE64_STANDARD.encode(&value);
        format!("\"data_base64\":\"{base64}\",\"content_type\":{}", json!(content_type))
    };
    envelope.truncate(envelope.len() - 1);
    Ok(format!("{envelope},{field}}}").into())
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
        out::write_foreign(&[envelope, b"\n"].concat())?;
    } else if let Some(error) = &result.error {
        super::run::print_failure(
            result.status,
            error["kind"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default(),
            error["detail"].as_str(),
        );
    } else if let Some(base64) = result.data_base64 {
        out::write_foreign(&BASE64_STANDARD.decode(base64)?)?;
    } else {
        // `null` is a value like any other.
        let value = result.data.map_or("null", RawValue::get);
        out::write_foreign(format!("{value}\n").as_bytes())?;
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How often it is looked whether a result has taken the place of an earlier one.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits for a job's result, which is not the earlier one under its id.
async fn next_result(
    broker: &dyn Broker,
    job: JobKey<'_>,
    earlier: Option<&Bytes>,
    timeout: Duration,
) -> anyhow::Result<Option<Bytes>> {
    let until = tokio::time::Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let found = broker.result(job, left).await?;
        if found.is_none() || found.as_ref() != earlier {
            return Ok(found);
        }
        if left.is_zero() {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY.min(left)).await;
    }
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
            let received =
                self.broker.receive(&self.queue, 1, wait, visibility, &Turn::default()).await;
            match received {
                Ok(messages) => {
                    if let Some(message) = messages.into_iter().next() {
                        return envelope_of(message.body, &message.attributes).map(Some);
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
            complain!("warning: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lovage_core::{
        outcome::{Failure, Output},
        result::JobResult,
    };

    fn result(value: Result<Output, Failure>) -> JobResult {
        JobResult {
            id: "i".into(),
            task: "t".into(),
            tenant: String::new(),
            status: if value.is_ok() { Status::Done } else { Status::Failed },
            value,
            attempt: 2,
            queued_at: None,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            component: None,
            usage: None,
        }
    }

    fn output(content_type: &str, data: &'static [u8]) -> Output {
        Output { content_type: content_type.into(), data: Bytes::from_static(data) }
    }

    #[test]
    fn a_result_is_read_in_both_formats() {
        let large = b"123456789012345678901234567890";
        let values = [
            Ok(output(JSON, large)),
            Ok(output("text/plain", b"a text")),
            Ok(output("image/png", b"\x89P")),
            Err(Failure::new("ValueError", "no").with_detail("at line 1")),
        ];
        for value in values {
            let result = result(value);
            let bare = result.bare_message();
            let bare = envelope_of(bare.body, &bare.attributes).unwrap();
            let whole = JobResult::envelope_message(result.envelope());
            let whole = envelope_of(whole.body, &whole.attributes).unwrap();
            let [bare, whole]: [Value; 2] =
                [bare, whole].map(|it| serde_json::from_slice(&it).unwrap());
            let fields = [
                "id",
                "task",
                "tenant",
                "status",
                "attempt",
                "data_base64",
                "content_type",
                "error",
            ];
            for field in fields {
                assert_eq!(bare.get(field), whole.get(field), "{field} of {bare}");
            }
            assert_eq!(bare.get("data").is_some(), whole.get("data").is_some());
        }
        let bare = result(Ok(output(JSON, large))).bare_message();
        let bare = envelope_of(bare.body, &bare.attributes).unwrap();
        assert!(bare.windows(large.len()).any(|window| window == large));
    }

    #[test]
    fn a_result_that_is_said_to_be_json_and_is_none_is_an_error() {
        let attributes = Attributes::from([(attribute::STATUS.to_owned(), "done".to_owned())]);
        assert!(envelope_of(Bytes::from_static(b"{"), &attributes).is_err());
    }
}
