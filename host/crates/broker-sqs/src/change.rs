//! What is done to a delivery by its receipt: delete it, or change how long it stays hidden. Both
//! go in batches of ten, and either can fail in part.

use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};
use futures_util::{StreamExt as _, stream};

use super::{
    SqsBroker,
    batch::MAX_ENTRIES,
    request_context::{Action, RequestContext, again},
};
use lovage_core::broker::{BrokerError, Fault, Receipt};

/// How many requests of one call are under way at once.
pub(super) const CONCURRENT: usize = 8;

/// How often a delete is tried. More often than the rest, since what the message led to has been
/// sent by then: a message that stays would lead to it once more.
const DELETE_TRIES: u32 = 4;
const HIDE_TRIES: u32 = 2;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Delete the message; the seconds mean nothing.
    Delete,
    /// Hide it for so many seconds from now; 0 shows it at once.
    Hide,
}

/// An entry of a request: its place in the call, its receipt, and its seconds.
type Entry<'a> = (usize, &'a Receipt, u64);

/// What SQS says of a request: the ids that succeeded, and those that did not.
type Reply = (Vec<String>, Vec<BatchResultErrorEntry>);

impl SqsBroker {
    /// Changes any number of deliveries; one answer each, in order.
    pub(super) async fn change(
        &self,
        address: &str,
        change: Change,
        deliveries: &[(&Receipt, u64)],
    ) -> Vec<Result<(), BrokerError>> {
        let entries: Vec<Entry<'_>> = deliveries
            .iter()
            .enumerate()
            .map(|(index, (receipt, seconds))| (index, *receipt, *seconds))
            .collect();
        let requests: Vec<_> = entries
            .chunks(MAX_ENTRIES)
            .map(|batch| self.change_batch(address, change, batch.to_vec()))
            .collect();
        let mut answers: Vec<_> =
            stream::iter(requests).buffer_unordered(CONCURRENT).concat().await;
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Up to ten, tried again as far as that can help.
    async fn change_batch(
        &self,
        address: &str,
        change: Change,
        mut entries: Vec<Entry<'_>>,
    ) -> Vec<(usize, Result<(), BrokerError>)> {
        let (action, mut tries) = match change {
            Change::Delete => (Action::Delete, DELETE_TRIES),
            Change::Hide => (Action::Extend, HIDE_TRIES),
        };
        let request_context = self.request_context(action, address);
        let mut answers = Vec::with_capacity(entries.len());
        let mut pause = Duration::from_millis(100);
        loop {
            let results =
                match self.change_request(&request_context, address, change, &entries).await {
                    Ok((succeeded, failed)) => {
                        sort_out(&request_context, &entries, &succeeded, &failed)
                    }
                    Err(error) => {
                        // The SDK has tried this three times already.
                        tries = tries.saturating_sub(1).min(2);
                        entries.iter().map(|_| Err(again(&error))).collect()
                    }
                };
            tries = tries.saturating_sub(1);
            let mut left = Vec::new();
            for (entry, result) in entries.into_iter().zip(results) {
                match result {
                    Err(error) if error.fault == Fault::Unavailable && tries > 0 => {
                        tracing::debug!(%error, "trying again");
                        left.push(entry);
                    }
                    result => answers.push((entry.0, result)),
                }
            }
            if left.is_empty() {
                return answers;
            }
            entries = left;
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
    }

    async fn change_request(
        &self,
        request_context: &RequestContext,
        address: &str,
        change: Change,
        entries: &[Entry<'_>],
    ) -> Result<Reply, BrokerError> {
        let malformed = |error: aws_sdk_sqs::error::BuildError| {
            request_context.error(Fault::Invalid, &error.to_string())
        };
        match change {
            Change::Delete => {
                let mut request = self.client.delete_message_batch().queue_url(address);
                for (place, (_, receipt, _)) in entries.iter().enumerate() {
                    let entry = DeleteMessageBatchRequestEntry::builder()
                        .id(place.to_string())
                        .receipt_handle(&*receipt.0)
                        .build()
                        .map_err(malformed)?;
                    request = request.entries(entry);
                }
                let output =
                    request.send().await.map_err(|error| request_context.sdk_error(&error))?;
                let succeeded = output.successful.into_iter().map(|entry| entry.id);
                Ok((succeeded.collect(), output.failed))
            }
            Change::Hide => {
                let mut request = self.client.change_message_visibility_batch().queue_url(address);
                for (place, (_, receipt, seconds)) in entries.iter().enumerate() {
                    let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(place.to_string())
                        .receipt_handle(&*receipt.0)
                        .visibility_timeout(i32::try_from(*seconds).unwrap_or(i32::MAX))
                        .build()
                        .map_err(malformed)?;
                    request = request.entries(entry);
                }
                let output =
                    request.send().await.map_err(|error| request_context.sdk_error(&error))?;
                let succeeded = output.successful.into_iter().map(|entry| entry.id);
                Ok((succeeded.collect(), output.failed))
            }
        }
    }
}

/// One result an entry, in order. An entry that SQS is silent about has not succeeded.
fn sort_out(
    request_context: &RequestContext,
    entries: &[Entry<'_>],
    succeeded: &[String],
    failed: &[BatchResultErrorEntry],
) -> Vec<Result<(), BrokerError>> {
    (0..entries.len())
        .map(|place| {
            let id = place.to_string();
            if let Some(entry) = failed.iter().find(|entry| entry.id == id) {
                Err(request_context.entry_error(entry))
            } else if succeeded.contains(&id) {
                Ok(())
            } else {
                Err(silence(request_context))
            }
        })
        .collect()
}

/// The error for an entry that an answer leaves out.
pub(super) fn silence(request_context: &RequestContext) -> BrokerError {
    request_context
        .error(Fault::Unavailable, "SQS did not say what became of it; it is tried again")
}
