//! A batch of messages from an SQS event source mapping.
//!
//! The mapping owns leases and deletes, so the answer names the messages that are to stay
//! (`batchItemFailures`; the mapping must have `ReportBatchItemFailures` set). A standard queue's
//! batch runs at once, as far as `worker.concurrency` allows. Of a FIFO queue's, each group runs in
//! order and stops at its first failure: that message and all behind it in its group stay, and other
//! groups go on. A message that there is no time for stays, too.
//!
//! A result that cannot be published keeps its message, too. What is left to be done with it is kept by
//! this instance, so that its next delivery here does not run the guest again; and what of the batch was
//! not begun by then is not begun.
//!
//! Quotas and rates of tenants do not hold here: how many messages come at once is the mapping's
//! affair, and what stays would count as received once more, for nothing. Whom the queue believes,
//! and what a tenant may run and use, holds as in a worker.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

// Over 500 lines: an event's records, their order and their answers are one rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};
use tracing::{Instrument, Span};

use super::{Deadlines, Function, diagnostic, queue_error};
use lovage_broker_sqs::{
    Left,
    attributes::TypedAttribute,
    message::{Parts, from_parts},
};
use lovage_core::{
    backoff::Backoff,
    broker::{Broker, BrokerError, Disposal, Fault, Message, SendKind, Settlement, Unsettled},
    events::{HostPanicked, JobReleased, MessagesReceived, SettleFailed},
};
use lovage_runtime::{
    pipeline::{Concluded, End, Finished},
    routes::Source,
};

/// Why it was not.
const NO_TIME: (&str, &str) =
    ("no_time", "the function's deadline came before there was room to run it");

/// The same, where results cannot be published.
const BLOCKED: (&str, &str) = ("results", "the queue for results takes none now");

/// What becomes of a message that was not begun.
fn give_back() -> Concluded {
    Concluded::released(Duration::ZERO, false, None)
}

/// An event of an SQS event source mapping.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    receipt_handle: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
    #[serde(rename = "eventSourceARN")]
    arn: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute {
    string_value: Option<String>,
    binary_value: Option<String>,
    data_type: String,
}

/// What tells an event of a mapping from a job: nothing else of an event is looked at.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "Records")]
    records: Vec<RecordShape>,
}

#[derive(Deserialize)]
struct RecordShape {
    #[serde(rename = "eventSource")]
    source: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    batch_item_failures: Vec<ItemFailure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemFailure {
    item_identifier: String,
}

impl Event {
    /// Reads an event, if it is one of an SQS mapping; an error if it says that it is and is not.
    pub fn parse(payload: &str) -> Option<Result<Self, Diagnostic>> {
        let shape: Shape = serde_json::from_str(payload).ok()?;
        if !shape.records.iter().all(|record| record.source == "aws:sqs") {
            return None;
        }
        Some(serde_json::from_str(payload).map_err(|error| {
            diagnostic("InvalidEvent", format!("the event is no batch of SQS messages: {error}"))
        }))
    }
}

impl Event {
    /// Its messages. For fuzzing.
    #[doc(hidden)]
    pub fn messages(self) -> impl Iterator<Item = Arc<Message>> {
        self.records.into_iter().map(|record| record.into_message().1)
    }
}

impl Record {
    /// The message, under the id by which the mapping knows it.
    fn into_message(self) -> (String, Arc<Message>) {
        let attributes = self.message_attributes.into_iter().map(|(name, attribute)| {
            let typed = TypedAttribute {
                data_type: attribute.data_type,
                value: attribute.string_value.or(attribute.binary_value).unwrap_or_default(),
            };
            (name, typed)
        });
        let message = from_parts(Parts {
            message_id: self.message_id.clone(),
            receipt_handle: self.receipt_handle,
            body: self.body,
            attributes: attributes.collect(),
            system: self.attributes,
        });
        (self.message_id, Arc::new(message))
    }
}

/// A job that began so soon after its event began in time.
const PROMPT: Duration = Duration::from_millis(100);

/// Jobs that ended within so short a time are settled in one request.
const LINGER: Duration = Duration::from_millis(4);

/// One message of a batch.
#[derive(Debug, Clone)]
struct Item {
    /// Its place in the event.
    index: usize,
    /// The id by which the mapping knows it.
    id: String,
    message: Arc<Message>,
}

/// What the messages of one event have in common.
#[derive(Debug)]
struct Batch {
    source: Arc<Source>,
    deadline: Instant,
    hard: Instant,
    begun: Instant,
    /// A result could not be published: what was not begun would only add to what is held.
    blocked: AtomicBool,
}

impl Function {
    /// Runs a batch; the answer names the messages that are to stay.
    pub(super) async fn batch(
        self: Arc<Self>,
        event: Event,
        Deadlines { soft: deadline, hard }: Deadlines,
    ) -> Result<Box<RawValue>, Diagnostic> {
        let Some(arn) = event.records.first().map(|record| record.arn.clone()) else {
            return answer(Vec::new());
        };
        // A mapping has one queue. Should that ever change, nothing may be done to the wrong one.
        if event.records.iter().any(|record| record.arn != arn) {
            return Err(diagnostic("InvalidEvent", "the batch has messages of several queues"));
        }
        let source = self.source_of_arn(&arn).await.map_err(|error| queue_error(&error))?;
        MessagesReceived { queue: &source.name, count: event.records.len() }.emit();
        let items = event.records.into_iter().enumerate().map(|(index, record)| {
            let (id, mut message) = record.into_message();
            self.broker.correct_attempt(Arc::make_mut(&mut message));
            Item { index, id, message }
        });
        let items: Vec<Item> = items.collect();
        let (begun, blocked) = (Instant::now(), AtomicBool::new(false));
        let batch = Arc::new(Batch { source, deadline, hard, begun, blocked });
        let done = if batch.source.queue.fifo {
            self.in_order(&batch, &items).await
        } else {
            self.at_once(&batch, &items).await
        };
        // Whatever is not known to be done stays. An empty identifier would make the mapping take
        // the whole batch for failed.
        let stays = |item: &Item| !done.contains(&item.index) && !item.id.is_empty();
        answer(items.into_iter().filter(stays).map(|item| item.id).collect())
    }

    /// All at once, as far as there are slots; in the order of the event where they wait for one.
    /// Which are done.
    async fn at_once(self: &Arc<Self>, batch: &Arc<Batch>, items: &[Item]) -> BTreeSet<usize> {
        let span = Span::current();
        let most = self.broker.limits().settle_batch;
        let mut waiting = items.iter().cloned().peekable();
        let (mut running, mut settling) = (JoinSet::new(), JoinSet::new());
        let mut ended = Vec::new();
        let mut until = Instant::now();
        while waiting.peek().is_some() || !running.is_empty() {
            tokio::select! {
                biased;
                slot = self.slot(batch.deadline), if waiting.peek().is_some() => {
                    let Some(item) = waiting.next() else { continue };
                    let (function, batch) = (Arc::clone(self), Arc::clone(batch));
                    // A task of its own, so that guests that compute use all processors there are.
                    let run = async move {
                        let concluded = function.run(&batch, &item.message, slot).await?;
                        Some((item, concluded))
                    };
                    running.spawn(run.instrument(span.clone()));
                }
                Some(Ok(one)) = running.join_next() => {
                    if ended.is_empty() {
                        until = Instant::now() + LINGER;
                    }
                    ended.extend(one);
                }
                () = tokio::time::sleep_until(until.into()), if !ended.is_empty() => {}
                else => {}
            }
            // What has ended is published while others still run: they may take until the deadline.
            let all = running.is_empty() && waiting.peek().is_none();
            if all || ended.len() >= most || (!ended.is_empty() && until <= Instant::now()) {
                let settle = Arc::clone(self).settle(Arc::clone(batch), std::mem::take(&mut ended));
                settling.spawn(settle.instrument(span.clone()));
            }
        }
        settling.join_all().await.into_iter().flatten().collect()
    }

    /// Each group in order, up to its first that is to stay; the groups at once. Which are done.
    async fn in_order(self: &Arc<Self>, batch: &Arc<Batch>, items: &[Item]) -> BTreeSet<usize> {
        let mut groups: BTreeMap<Option<&str>, Vec<Item>> = BTreeMap::new();
        for item in items {
            groups.entry(item.message.group.as_deref()).or_default().push(item.clone());
        }
        let mut running = JoinSet::new();
        for group in groups.into_values() {
            let group = Arc::clone(self).group(Arc::clone(batch), group);
            running.spawn(group.instrument(Span::current()));
        }
        running.join_all().await.into_iter().flatten().collect()
    }

    /// One after the other, up to the first that is to stay. Which are done.
    async fn group(self: Arc<Self>, batch: Arc<Batch>, items: Vec<Item>) -> Vec<usize> {
        let mut done = Vec::new();
        let mut items = items.into_iter();
        for item in items.by_ref() {
            let slot = self.slot(batch.deadline).await;
            let concluded = self.run(&batch, &item.message, slot).await;
            let Some(concluded) = concluded else { break };
            let ended = vec![(item, concluded)];
            let settled = Arc::clone(&self).settle(Arc::clone(&batch), ended).await;
            if settled.is_empty() {
                break;
            }
            done.extend(settled);
        }
        // The rest would hold up its group until the visibility timeout ends, since nothing of a
        // group is delivered while one of its messages is hidden. Shown again now, it comes as
        // soon as the message that stopped it does.
        let rest: Vec<_> = items.map(|item| (item, give_back())).collect();
        if !rest.is_empty() {
            Arc::clone(&self).settle(batch, rest).await;
        }
        done
    }

    /// A place to run one job; none when there was none in time.
    pub(super) async fn slot(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.slots).acquire_owned();
        let slot = tokio::time::timeout_at(deadline.into(), slot).await.ok()?.ok()?;
        (Instant::now() < deadline).then_some(slot)
    }

    /// Runs one message, if there is a slot for it. `None` where it is to stay hidden until its
    /// visibility timeout ends: shown before, it would come again while the trouble lasts.
    async fn run(
        &self,
        Batch { source, deadline, begun, blocked, .. }: &Batch,
        message: &Message,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Option<Concluded> {
        let (after, spent) = (Duration::ZERO, false);
        let Some(_slot) = slot else {
            JobReleased { queue: &source.name, after, spent, failure: Some(NO_TIME) }.emit();
            return Some(give_back());
        };
        if blocked.load(Ordering::Relaxed) {
            let after = source.visibility;
            JobReleased { queue: &source.name, after, spent, failure: Some(BLOCKED) }.emit();
            return None;
        }
        // What had to wait for the ones before it may not have its whole time.
        let end = End { at: *deadline, late: begun.elapsed() > PROMPT };
        let process = AssertUnwindSafe(self.pipeline.process(source, message, Some(end)));
        let concluded = process.catch_unwind().await.unwrap_or_else(|_| {
            HostPanicked { queue: &source.name }.emit();
            let after = Duration::from_millis(self.config.worker.error_backoff_cap_ms.get());
            Concluded::released(after, true, None)
        });
        Some(concluded).filter(|concluded| !concluded.troubled)
    }

    /// Publishes, and hides what comes again. Which are done.
    async fn settle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        ended: Vec<(Item, Concluded)>,
    ) -> Vec<usize> {
        let mut indexes = Vec::with_capacity(ended.len());
        let mut endings = Vec::with_capacity(ended.len());
        for (item, Concluded { disposal, finished, .. }) in ended {
            indexes.push(item.index);
            let settlement = Settlement { message: item.message, disposal };
            endings.push(Ending { settlement, finished });
        }
        let answers = self.settle_by(&batch.source, endings, batch.hard).await;
        let mut done = Vec::new();
        for (index, answer) in indexes.into_iter().zip(answers) {
            match answer {
                Ok(Left::Done) => done.push(index),
                Ok(Left::Again) => {}
                Err(Unsent { ending, is_result, .. }) => {
                    if is_result {
                        batch.blocked.store(true, Ordering::Relaxed);
                    }
                    let Ending { settlement: Settlement { message, disposal }, finished } = ending;
                    if matches!(disposal, Disposal::Finish { .. }) {
                        self.pipeline.keep(&batch.source, &message, disposal, finished);
                    }
                }
            }
        }
        done
    }

    /// Settles messages of an event. What may pass is tried again, what is refused for good is settled
    /// in another way; all ends before Lambda ends the function, whose answer would be lost otherwise.
    pub(super) async fn settle_by(
        &self,
        source: &Source,
        endings: Vec<Ending>,
        hard: Instant,
    ) -> Vec<Result<Left, Unsent>> {
        let worker = &self.config.worker;
        let backoff = Backoff {
            base: Duration::from_millis(worker.error_backoff_base_ms.get()),
            cap: Duration::from_millis(worker.error_backoff_cap_ms.get()),
        };
        let mut answers: BTreeMap<usize, Result<Left, Unsent>> = BTreeMap::new();
        let mut left: Vec<(usize, Ending)> = endings.into_iter().enumerate().collect();
        for tries in 1.. {
            let (places, endings): (Vec<usize>, Vec<Ending>) = left.into_iter().unzip();
            let (settlements, finished): (Vec<_>, Vec<_>) =
                endings.into_iter().map(|it| (it.settlement, it.finished)).unzip();
            let settled = self.broker.settle_event(&source.queue, &settlements);
            let settled = match tokio::time::timeout_at(hard.into(), settled).await {
                Ok(answers) => answers,
                Err(_elapsed) => settlements.iter().map(out_of_time).collect(),
            };
            let is_last = tries >= worker.publish_attempts.get() || hard <= Instant::now();
            left = Vec::new();
            let items = places.into_iter().zip(settlements).zip(finished).zip(settled);
            for (((place, Settlement { message, disposal }), finished), answer) in items {
                let Unsettled { error, at, left: rest } = match answer {
                    Ok(outcome) => {
                        if let (Left::Done, Disposal::Finish { .. }, Some(finished)) =
                            (outcome, &disposal, finished)
                        {
                            finished.tell();
                        }
                        answers.insert(place, Ok(outcome));
                        continue;
                    }
                    Err(unsettled) => unsettled,
                };
                let retry_in = (!is_last).then(|| backoff.bound(tries));
                SettleFailed { queue: &source.name, error: &error, tries, retry_in }.emit();
                let settlement = Settlement { message, disposal: *rest };
                let mut ending = Ending { settlement, finished };
                let decided = self.decide(source, &mut ending, at, &error, is_last, hard).await;
                let lost = error.fault == Fault::Stale;
                if hard <= Instant::now() || lost || (!decided && (is_last || error.is_final())) {
                    answers.insert(place, Err(Unsent::new(error, at, ending)));
                } else {
                    left.push((place, ending));
                }
            }
            if left.is_empty() {
                break;
            }
            let pause = Instant::now() + backoff.delay(tries);
            tokio::time::sleep_until(pause.min(hard).into()).await;
        }
        answers.into_values().collect()
    }

    /// Settles in another way what is refused for good. False where there is none, or it may pass.
    async fn decide(
        &self,
        source: &Source,
        ending: &mut Ending,
        at: Option<usize>,
        error: &BrokerError,
        is_last: bool,
        hard: Instant,
    ) -> bool {
        let Some(at) = at.filter(|_| error.is_final() || (error.is_refusal() && is_last)) else {
            return false;
        };
        let Ending { settlement: Settlement { message, disposal }, finished } = ending;
        let instead = self.pipeline.instead(source, message, disposal, at, error, finished);
        match tokio::time::timeout_at(hard.into(), instead).await {
            Ok(Some(instead)) => {
                *disposal = instead;
                true
            }
            _ => false,
        }
    }
}

/// What is to be done with a message of an event.
#[derive(Debug)]
pub(super) struct Ending {
    pub settlement: Settlement,
    pub finished: Option<Box<Finished>>,
}

/// What could not be done with a message of an event.
#[derive(Debug)]
pub(super) struct Unsent {
    pub error: BrokerError,
    /// What is left to be done.
    ending: Ending,
    /// True if it is its result that could not be published.
    is_result: bool,
}

impl Unsent {
    fn new(error: BrokerError, at: Option<usize>, ending: Ending) -> Self {
        let is_result = match &ending.settlement.disposal {
            Disposal::Finish { sends, .. } => at
                .and_then(|at| sends.get(at))
                .is_some_and(|send| send.kind == SendKind::Result && !error.is_final()),
            Disposal::Release { .. } => false,
        };
        Self { error, ending, is_result }
    }
}

/// What is said of a settlement that did not end in time.
fn out_of_time(settlement: &Settlement) -> Result<Left, Unsettled> {
    let why = "SQS did not answer before the function's deadline";
    let error = BrokerError::new(Fault::Unavailable, why);
    Err(Unsettled { error, at: None, left: Box::new(settlement.disposal.clone()) })
}

fn answer(failures: Vec<String>) -> Result<Box<RawValue>, Diagnostic> {
    let batch_item_failures =
        failures.into_iter().map(|item_identifier| ItemFailure { item_identifier }).collect();
    serde_json::value::to_raw_value(&Answer { batch_item_failures })
        .map_err(|error| diagnostic("InternalError", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_sqs_make_a_batch() {
        assert!(Event::parse(r#"{"data": 21}"#).is_none());
        assert!(Event::parse(r#"{"Records": [{"eventSource": "aws:s3"}]}"#).is_none());
        assert!(Event::parse("[1]").is_none());
        let torn = Event::parse(r#"{"Records": [{"eventSource": "aws:sqs"}]}"#).unwrap();
        assert_eq!(torn.unwrap_err().error_type, "InvalidEvent");
    }

    #[test]
    fn a_record_becomes_the_message_that_a_worker_would_have_received() {
        let event = r#"{"Records": [{"messageId": "m", "receiptHandle": "r", "body": "{}",
            "attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1000",
                "MessageGroupId": "g", "AWSTraceHeader": "Root=1"},
            "messageAttributes": {"a": {"stringValue": "1", "stringListValues": [],
                "binaryListValues": [], "dataType": "String"}},
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:r:1:q", "awsRegion": "r"}]}"#;
        let event = Event::parse(event).unwrap().unwrap();
        let (id, message) = event.records.into_iter().next().unwrap().into_message();
        assert_eq!((id.as_str(), message.id.as_str(), message.attempt), ("m", "m", 3));
        assert_eq!(message.group.as_deref(), Some("g"));
        assert_eq!(message.trace_header.as_deref(), Some("Root=1"));
        assert_eq!(message.attributes["a"], "1");
        assert_eq!(message.sent_at.unwrap().as_millisecond(), 1000);
    }

    #[test]
    fn an_answer_names_what_stays() {
        let text = answer(vec!["m".into()]).unwrap();
        assert_eq!(text.get(), r#"{"batchItemFailures":[{"itemIdentifier":"m"}]}"#);
        assert_eq!(answer(Vec::new()).unwrap().get(), r#"{"batchItemFailures":[]}"#);
    }
}
