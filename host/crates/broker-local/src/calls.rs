//! The broker's trait, on top of the writer and the reader.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::params;
use tokio::sync::oneshot;

use super::{
    LIMITS, LocalBroker, described,
    fault::writer_gone,
    lease,
    request::{AwaitResult, Receive, Request},
    sql,
    store::{Refusal, Store, fetch_body, find_queue},
    wire::{Delivery, End, Ending, NewMessage, Row, fits},
    writer::give_back,
};
use lovage_core::broker::{
    Broker, BrokerError, Depth, Disposal, Fault, Limits, Message, Outgoing, Queue, Receipt,
    Settlement, Turn, Unsettled,
};
use lovage_core::{cancellation::Progress, job::JobKey};

/// The receipt of a message that was only looked at; nothing takes it.
const LOOKED_AT: &str = "browsed";

/// A page of the file: the unit in which bodies weigh.
const PAGE: usize = 4096;

#[async_trait]
impl Broker for LocalBroker {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn open(&self, name: &str) -> Result<Queue, BrokerError> {
        let cancellation = name.to_owned();
        match self.look(move |connection| find_queue(connection, &cancellation)).await? {
            Some(row) => Ok(described(name, row)),
            None => Err(self.missing(name).await),
        }
    }

    async fn lost(&self) -> BrokerError {
        self.lost.wait().await
    }

    async fn receive(
        &self,
        queue: &Queue,
        max: usize,
        wait: Duration,
        visibility: Duration,
        turn: &Turn,
    ) -> Result<Vec<Message>, BrokerError> {
        let lease_ms = lease(&queue.name, visibility)?;
        let max = max.min(LIMITS.receive_batch);
        if max == 0 {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let _waits = self.signals.wait();
        let mut delivery = InDelivery { broker: self, queue, answer };
        self.submit(Request::Receive(Receive {
            queue: Arc::clone(&queue.address),
            max,
            lease_ms,
            turn: turn.clone(),
            walk: None,
            until: Instant::now().checked_add(wait),
            reply,
        }))?;
        // The writer ends the wait: ended from here, a receive could be cut off again and again
        // while its messages are on their way.
        let received = (&mut delivery.answer).await;
        match received.map_err(|_| writer_gone(self.path()))?? {
            Ok(rows) => Ok(rows.into_iter().map(Row::into_message).collect()),
            Err(_) => Err(self.missing(&queue.name).await),
        }
    }

    fn interrupt(&self) {
        // Where the writer is gone, nobody waits.
        let _ = self.submit(Request::Interrupt);
    }

    async fn extend(
        &self,
        queue: &Queue,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Vec<Result<(), BrokerError>> {
        let lease_ms = lease(&queue.name, visibility);
        let deliveries = receipts
            .iter()
            .map(|receipt| {
                let lease_ms = lease_ms
                    .as_ref()
                    .copied()
                    .map_err(|error| BrokerError::new(error.fault, error.message.clone()))?;
                Ok((Delivery::decode(receipt, queue)?, lease_ms))
            })
            .collect();
        let address = Arc::clone(&queue.address);
        self.in_parts(
            queue,
            deliveries,
            |_| 1,
            move |store, part| {
                let Some((_, lease_ms)) = part.first() else {
                    return Ok(Vec::new());
                };
                let deliveries: Vec<_> = part.iter().map(|(delivery, _)| *delivery).collect();
                store.extend(&address, &deliveries, *lease_ms)
            },
        )
        .await
    }

    async fn settle(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
    ) -> Vec<Result<(), Unsettled>> {
        let ends = settlements.iter().map(|settlement| End::encode(settlement, queue)).collect();
        let address = Arc::clone(&queue.address);
        let settle = move |store: &mut Store<'_>, part: &[End]| store.settle(&address, part);
        let answers = self.in_parts(queue, ends, weight, settle).await;
        // One transaction: all of a settlement was done, or nothing.
        let mut settled = Vec::with_capacity(answers.len());
        for (of, answer) in settlements.iter().zip(answers) {
            settled.push(match answer {
                Ok(()) => Ok(()),
                Err(error) => {
                    let at = self.culprit(&of.disposal, &error).await;
                    Err(Unsettled { error, at, left: Box::new(of.disposal.clone()) })
                }
            });
        }
        settled
    }

    async fn send(&self, queue: &Queue, messages: &[Outgoing]) -> Vec<Result<String, BrokerError>> {
        let messages =
            messages.iter().map(|message| NewMessage::encode(message, &queue.name)).collect();
        let address = Arc::clone(&queue.address);
        let weigh = |message: &NewMessage| 1 + message.body.len() / PAGE;
        let answers = self
            .in_parts(queue, messages, weigh, move |store, part| {
                Ok(match store.send(&address, part)? {
                    Ok(ids) => ids.into_iter().map(Ok).collect(),
                    Err(refusal) => vec![Err(refusal); part.len()],
                })
            })
            .await;
        answers.into_iter().map(|answer| answer.map(|id| id.to_string())).collect()
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        let (name, clock) = (Arc::clone(&queue.address), self.clock);
        let depth = self
            .look(move |connection| {
                let Some(queue) = find_queue(connection, &name)? else {
                    return Ok(None);
                };
                let now = clock.now_ms();
                // One snapshot for all three, or a message that moves would be counted twice.
                let snapshot = connection.unchecked_transaction()?;
                let count = |sql| -> rusqlite::Result<i64> {
                    let mut statement = snapshot.prepare_cached(sql)?;
                    if sql == sql::COUNT_BEHIND {
                        statement.query_row([queue.id], |row| row.get(0))
                    } else {
                        statement.query_row(params![queue.id, now], |row| row.get(0))
                    }
                };
                // What waits behind the head of its group could be received, were it not for
                // the group: SQS counts those as available, too.
                let ready = count(sql::COUNT_READY)?
                    + count(sql::COUNT_READY_SHARED)?
                    + count(sql::COUNT_BEHIND)?;
                let (mut hidden, mut leased) = (0, 0);
                for sql in [sql::COUNT_HIDDEN, sql::COUNT_HIDDEN_SHARED] {
                    let counts: (i64, i64) = snapshot
                        .prepare_cached(sql)?
                        .query_row(params![queue.id, now], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    hidden += counts.0;
                    leased += counts.1;
                }
                Ok(Some(Depth {
                    ready: ready.unsigned_abs(),
                    delayed: (hidden - leased).unsigned_abs(),
                    in_flight: leased.unsigned_abs(),
                }))
            })
            .await?;
        match depth {
            Some(depth) => Ok(depth),
            None => Err(self.missing(&queue.name).await),
        }
    }

    async fn browse(&self, queue: &Queue, max: usize) -> Result<Vec<Message>, BrokerError> {
        let name = Arc::clone(&queue.address);
        let rows = self
            .look(move |connection| {
                let Some(queue) = find_queue(connection, &name)? else {
                    return Ok(None);
                };
                // One snapshot: a body must not be gone before its message is.
                let snapshot = connection.unchecked_transaction()?;
                let mut all = Vec::new();
                for sql in [sql::BROWSE, sql::BROWSE_SHARED] {
                    let limit = i64::try_from(max - all.len()).unwrap_or(i64::MAX);
                    let mut statement = snapshot.prepare_cached(sql)?;
                    for row in statement.query_map(params![queue.id, limit], Row::read)? {
                        let mut row = row?;
                        fetch_body(&snapshot, &mut row)?;
                        all.push(row);
                    }
                }
                Ok(Some(all))
            })
            .await?;
        let Some(rows) = rows else {
            return Err(self.missing(&queue.name).await);
        };
        let shown = |row: Row| Message { receipt: Receipt(LOOKED_AT.into()), ..row.into_message() };
        Ok(rows.into_iter().map(shown).collect())
    }

    async fn report_progress(
        &self,
        job: JobKey<'_>,
        progress: &Progress,
    ) -> Result<(), BrokerError> {
        self.note_progress(job, progress).await
    }

    async fn progress(&self, job: JobKey<'_>) -> Result<Option<Progress>, BrokerError> {
        self.noted_progress(job).await
    }

    async fn revoke(&self, tenant: Option<&str>, job_id: &str) -> Result<(), BrokerError> {
        self.note_revoked(tenant, job_id).await
    }

    async fn is_revoked(&self, job: JobKey<'_>) -> Result<bool, BrokerError> {
        self.noted_revoked(job).await
    }

    async fn tenants_of(&self, job_id: &str) -> Result<Vec<String>, BrokerError> {
        self.noted_tenants(job_id).await
    }

    async fn result(&self, job: JobKey<'_>, wait: Duration) -> Result<Option<Bytes>, BrokerError> {
        let (reply, answer) = oneshot::channel();
        let _waits = self.signals.wait();
        self.submit(Request::AwaitResult(AwaitResult {
            job: job.to_owned(),
            wait: !wait.is_zero(),
            reply,
        }))?;
        let answered = if wait.is_zero() {
            answer.await
        } else {
            match tokio::time::timeout(wait, answer).await {
                Ok(answered) => answered,
                Err(_) => return Ok(None),
            }
        };
        answered.map_err(|_| writer_gone(self.path()))?
    }
}

impl LocalBroker {
    /// The send that a settlement failed for.
    async fn culprit(&self, disposal: &Disposal, error: &BrokerError) -> Option<usize> {
        let Disposal::Finish { sends, .. } = disposal else { return None };
        match error.fault {
            Fault::TooLarge => sends.iter().position(|send| !fits(&send.message)),
            Fault::NotFound => {
                for (index, send) in sends.iter().enumerate() {
                    let missing =
                        self.open(&send.to).await.is_err_and(|it| it.fault == error.fault);
                    if missing {
                        return Some(index);
                    }
                }
                None
            }
            _ => None,
        }
    }
}

/// How much a settlement does, in rows and pages.
fn weight(end: &End) -> usize {
    match &end.ending {
        Ending::Release { .. } => 1,
        Ending::Finish { result, sends } => {
            let kept = result.as_ref().map_or(0, |result| 1 + result.envelope.len() / PAGE);
            let sent = sends.iter().map(|(_, message)| 1 + message.body.len() / PAGE);
            1 + kept + sent.sum::<usize>()
        }
    }
}

/// Messages on their way to a receiver. If it goes away, they go back at once.
struct InDelivery<'a> {
    broker: &'a LocalBroker,
    queue: &'a Queue,
    answer: oneshot::Receiver<Result<Result<Vec<Row>, Refusal>, BrokerError>>,
}

impl Drop for InDelivery<'_> {
    fn drop(&mut self) {
        // What has not come yet is refused, and the writer takes it back.
        self.answer.close();
        if let Ok(Ok(Ok(rows))) = self.answer.try_recv()
            && let Some(work) = give_back(&self.queue.address, rows)
        {
            let _ = self.broker.submit(Request::Work(work));
        }
    }
}
