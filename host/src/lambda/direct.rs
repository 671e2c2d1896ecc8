//! One job, as the function was invoked with it: `{"data": 21}`, or with `task` and more.
//!
//! A finished job's result is published as the settings of `lambda.queue` say, and is the answer,
//! too (in the `envelope` format): failures included, since trying again would not help. What
//! should be tried again is an error of the function: an asynchronous invocation (`Event`) is then
//! repeated by Lambda, twice as it comes, and goes to the function's on-failure destination after
//! that. The job's id is its own where it names one, else the request's, which is the same at each
//! repetition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use lambda_runtime::{Context, Diagnostic};
use serde_json::value::RawValue;

use super::{Function, diagnostic};
use crate::{
    broker::{Broker, BrokerError, Disposal, Message, Queue, Receipt, Send},
    config::{DEFAULT_QUEUE, DISCARD, QueueConfig},
    routes::Source,
};

impl Function {
    /// Runs one job.
    pub(super) async fn direct(
        &self,
        payload: Bytes,
        context: &Context,
        budget: Duration,
    ) -> Result<Box<RawValue>, Diagnostic> {
        let broken = |error: BrokerError| diagnostic("QueueError", error.to_string());
        let source = self.direct_source().await.map_err(broken)?;
        let message = Message {
            id: context.request_id.clone(),
            receipt: Receipt(Arc::from("")),
            body: payload,
            attributes: BTreeMap::new(),
            group: context.tenant_id.clone(),
            attempt: 1,
            sent_at: None,
            not_before: None,
            trace_header: context.xray_trace_id.clone(),
        };
        match self.pipeline.process(&source, &message, Some(budget)).await {
            Disposal::Finish { result, sends } => {
                for send in &sends {
                    self.publish(send).await.map_err(broken)?;
                }
                let envelope = result.map(|kept| kept.envelope).unwrap_or_default();
                let text = String::from_utf8_lossy(&envelope).into_owned();
                RawValue::from_string(text)
                    .map_err(|error| diagnostic("InternalError", error.to_string()))
            }
            Disposal::Release { after, .. } => Err(diagnostic(
                "Retry",
                format!(
                    "the job is to be tried again, not before {} ms from now; the log says why",
                    after.as_millis()
                ),
            )),
        }
    }

    async fn publish(&self, send: &Send) -> Result<(), BrokerError> {
        let queue = self.routes.queue(&send.to).await?;
        let mut answers = self.broker.send(&queue, std::slice::from_ref(&send.message)).await;
        answers.pop().map_or(Ok(()), |answer| answer.map(drop))
    }

    /// The settings for jobs that come without a queue.
    pub(super) fn direct_settings(&self) -> QueueConfig {
        let name = self.config.lambda.queue.clone();
        let only = || match self.config.consumed_queues().as_slice() {
            [only] => only.clone(),
            _ => DEFAULT_QUEUE.to_owned(),
        };
        self.config.queue(&name.unwrap_or_else(only)).unwrap_or_default()
    }

    async fn direct_source(&self) -> Result<Source, BrokerError> {
        let mut settings = self.direct_settings();
        // There is no queue whose redrive policy could say where.
        settings.dead_letters.get_or_insert_with(|| DISCARD.to_owned());
        let name: Arc<str> = Arc::from("invocation");
        let queue = Queue {
            name: Arc::clone(&name),
            address: Arc::clone(&name),
            fifo: false,
            visibility_timeout: Duration::from_secs(30),
            redrive_target: None,
        };
        self.routes.source_of(&name, queue, &settings).await
    }
}
