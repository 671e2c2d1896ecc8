//! One job, as the function was invoked with it: `{"data": 21}`, or with `task` and more.
//!
//! A finished job's result is published as the settings of `lambda.queue` say, and is the answer,
//! too (in the `envelope` format): failures included, since trying again would not help. What
//! should be tried again is an error of the function: an asynchronous invocation (`Event`) is then
//! repeated by Lambda, twice as it comes, and goes to the function's on-failure destination after
//! that. Lambda does not say which repetition one is, so each is a first attempt, and it is Lambda
//! that ends them. The job's id is its own where it names one, else the request's, which is the
//! same at each repetition.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use lambda_runtime::{Context, Diagnostic};
use serde_json::value::RawValue;

use super::{Deadlines, Function, batch::Ending, diagnostic, queue_error};
use lovage_core::broker::{Disposal, Message, Receipt, Settlement};
use lovage_runtime::pipeline::Concluded;

impl Function {
    /// Runs one job.
    pub(super) async fn direct(
        &self,
        payload: Bytes,
        context: &Context,
        Deadlines { soft: deadline, hard }: Deadlines,
    ) -> Result<Box<RawValue>, Diagnostic> {
        let source = self.source_of_invocations().await.map_err(|error| queue_error(&error))?;
        let message = Arc::new(Message {
            id: context.request_id.clone(),
            receipt: Receipt(Arc::from("")),
            body: payload,
            attributes: BTreeMap::new(),
            group: context.tenant_id.clone(),
            attempt: 1,
            sent_at: None,
            not_before: None,
            trace_header: context.xray_trace_id.clone(),
        });
        let Some(_slot) = self.slot(deadline).await else {
            let why = "the function's deadline came before there was room to run the job; raise \
                       worker.concurrency or the function's timeout";
            return Err(diagnostic("Retry", why));
        };
        let concluded = self.pipeline.invoke(&source, &message, Some(deadline)).await;
        let result = match (concluded.told.clone(), &concluded.disposal) {
            (Ok(result), _) => result,
            (Err(why), Disposal::Release { after, .. }) => {
                let why = why.map_or_else(
                    || "the task asks for another time".to_owned(),
                    |failure| format!("{}: {}", failure.kind, failure.message),
                );
                let after = after.as_millis();
                let message = format!("{why}; to be tried again, not before {after} ms from now");
                return Err(diagnostic("Retry", message));
            }
            (Err(_), Disposal::Finish { .. }) => {
                return Err(diagnostic("InternalError", "a job ended without a result"));
            }
        };
        // Nothing is deleted of an event, so of a message without a queue neither: this sends.
        let Concluded { disposal, finished, .. } = concluded;
        let ending = Ending { settlement: Settlement { message, disposal }, finished };
        for answer in self.settle_by(&source, vec![ending], hard).await {
            answer.map_err(|unsent| queue_error(&unsent.error))?;
        }
        let text = String::from_utf8_lossy(&result.envelope()).into_owned();
        RawValue::from_string(text).map_err(|error| diagnostic("InternalError", error.to_string()))
    }
}
