//! Sending: any number of messages to one queue, in as few requests as SQS allows.
//!
//! On a FIFO queue the batches go one after the other, and the order within a group is kept as far
//! as SQS lets it be: once a message has failed in a way that may pass, later ones of its group
//! are not sent but answered with an error, so that sending them all again keeps the order. Two
//! things are beyond that. Within one batch SQS may take a later entry while it fails an earlier
//! one. And a message that is refused for what it is (too large, say) holds nobody back, since it
//! would be refused again.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;

use super::{
    SqsBroker, address,
    batch::chunks,
    batch_entry::BatchEntry,
    change::{CONCURRENT, silence},
    request_context::{Action, RequestContext, again},
};
use lovage_core::broker::{BrokerError, Fault, Outgoing};

/// How often an entry is sent that SQS itself failed.
const TRIES: u32 = 3;

/// A parcel, and its place in the call.
type Entry = (usize, BatchEntry);
/// The id that a message got, or why it was not taken.
type Sent = Result<String, BrokerError>;

/// Messages for one request.
struct Batch {
    entries: Vec<Entry>,
    tries: u32,
}

impl SqsBroker {
    /// Sends messages to the queue at this address; one answer each, in order.
    pub(super) async fn send_to(&self, address: &str, messages: &[&Outgoing]) -> Vec<Sent> {
        let request_context = self.request_context(Action::Send, address);
        let fifo = address::is_fifo(address);
        let now = Timestamp::now();
        let mut answers: Vec<(usize, Sent)> = Vec::with_capacity(messages.len());
        let mut entries: Vec<Entry> = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            match BatchEntry::pack(message, fifo, now) {
                Ok(batch_entry) => entries.push((index, batch_entry)),
                Err(refusal) => {
                    answers
                        .push((index, Err(request_context.error(refusal.fault, &refusal.reason))));
                }
            }
        }
        let sizes: Vec<_> = entries.iter().map(|(_, batch_entry)| batch_entry.bytes).collect();
        let mut entries = entries.into_iter();
        let batches: Vec<Batch> = chunks(&sizes)
            .into_iter()
            .map(|chunk| Batch {
                entries: entries.by_ref().take(chunk.len()).collect(),
                tries: TRIES,
            })
            .collect();
        if fifo {
            answers
                .extend(self.send_in_turn(&request_context, address, fifo, batches.into()).await);
        } else {
            let requests: Vec<_> = batches
                .into_iter()
                .map(|batch| self.send_in_turn(&request_context, address, fifo, [batch].into()))
                .collect();
            let sent = stream::iter(requests).buffer_unordered(CONCURRENT);
            answers.extend(sent.concat().await);
        }
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Sends batches one after the other. A batch that fails in part is tried again with what
    /// failed; one that is refused whole is halved until the culprit stands alone.
    async fn send_in_turn(
        &self,
        request_context: &RequestContext,
        address: &str,
        fifo: bool,
        mut work: VecDeque<Batch>,
    ) -> Vec<(usize, Sent)> {
        let mut answers = Vec::new();
        let mut held: HashSet<String> = HashSet::new();
        while let Some(Batch { entries, tries }) = work.pop_front() {
            let (mut entries, kept_back) = split_held(entries, &held);
            answers.extend(kept_back.into_iter().map(|(index, _)| {
                let reason = "it was not sent, to keep the order: an earlier message of its group \
                              failed; send both again";
                (index, Err(request_context.error(Fault::Unavailable, reason)))
            }));
            if entries.is_empty() {
                continue;
            }
            let results = match self.send_request(request_context, address, &entries).await {
                Ok(results) => results,
                Err(error)
                    if entries.len() > 1
                        && matches!(error.fault, Fault::Invalid | Fault::TooLarge) =>
                {
                    let second = entries.split_off(entries.len() / 2);
                    for entries in [second, entries] {
                        work.push_front(Batch { entries, tries });
                    }
                    continue;
                }
                Err(error) => {
                    // Where SQS is away, or we may not, there is no use in trying the rest.
                    let hopeless = error.fault.may_pass();
                    let rest = work.drain(..if hopeless { work.len() } else { 0 });
                    let all = entries.into_iter().chain(rest.flat_map(|batch| batch.entries));
                    answers.extend(all.map(|(index, _)| (index, Err(again(&error)))));
                    continue;
                }
            };
            let mut left = Vec::new();
            for ((index, batch_entry), result) in entries.into_iter().zip(results) {
                match result {
                    Ok(id) => answers.push((index, Ok(batch_entry.id.unwrap_or(id)))),
                    Err(error) if error.fault == Fault::Unavailable && tries > 1 => {
                        left.push((index, batch_entry));
                    }
                    Err(error) => {
                        if fifo && error.fault.may_pass() {
                            held.extend(batch_entry.group);
                        }
                        answers.push((index, Err(error)));
                    }
                }
            }
            if !left.is_empty() {
                let tried = TRIES.saturating_sub(tries);
                tokio::time::sleep(Duration::from_millis(100 << tried)).await;
                work.push_front(Batch { entries: left, tries: tries - 1 });
            }
        }
        answers
    }

    /// One `SendMessageBatch`; one result an entry, in order.
    async fn send_request(
        &self,
        request_context: &RequestContext,
        address: &str,
        entries: &[Entry],
    ) -> Result<Vec<Sent>, BrokerError> {
        let built: Result<Vec<SendMessageBatchRequestEntry>, _> = entries
            .iter()
            .enumerate()
            .map(|(place, (_, batch_entry))| {
                batch_entry.entry.clone().id(place.to_string()).build()
            })
            .collect();
        let built =
            built.map_err(|error| request_context.error(Fault::Invalid, &error.to_string()))?;
        let output = self
            .client
            .send_message_batch()
            .queue_url(address)
            .set_entries(Some(built))
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error))?;
        Ok((0..entries.len())
            .map(|place| {
                let id = place.to_string();
                if let Some(entry) = output.failed().iter().find(|entry| entry.id == id) {
                    return Err(request_context.entry_error(entry));
                }
                output
                    .successful()
                    .iter()
                    .find(|entry| entry.id == id)
                    .map(|entry| entry.message_id.clone())
                    .ok_or_else(|| silence(request_context))
            })
            .collect())
    }
}

/// The entries that may go, and those whose group is held back.
fn split_held(entries: Vec<Entry>, held: &HashSet<String>) -> (Vec<Entry>, Vec<Entry>) {
    entries.into_iter().partition(|(_, batch_entry)| {
        !batch_entry.group.as_ref().is_some_and(|group| held.contains(group))
    })
}
