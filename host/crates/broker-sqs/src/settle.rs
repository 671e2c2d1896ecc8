//! What becomes of messages.
//!
//! Everything that follows from a message is sent first: the jobs and tasks that come next, then the
//! result and the dead letter. A job whose next step is refused has failed, so its result must not be
//! out before that is known. Only a message whose every send was accepted is deleted, and the delete
//! is tried a few times: a message that stayed would be run once more.
//!
//! Putting a message back is a change of its visibility where SQS's rules allow it. Two waits are
//! beyond them, and become a copy that is sent before the original is deleted:
//!
//! - one that would hold the message for more than twelve hours since it was received, and
//! - one that must spend no attempt, since SQS counts every receive of a message.
//!
//! Exceptions, each to the side of a message that comes too early or is counted once too often
//! rather than lost:
//!
//! - A FIFO queue gets no copies, as those would go to the end of the group. There, a message stays
//!   hidden for as long as SQS allows, and its receive counts.
//! - Without a wait there is no copy either (a shutdown gives back messages by the dozen): the
//!   message is shown again at once. Its receive counts with SQS, and is remembered by the process
//!   (`unspent.rs`), which takes it off the count.
//! - Where the copy cannot be sent (no permission to send), the message is hidden for as long as SQS
//!   allows, and its receive counts.
//!
//! A message with ten attributes has no room for what a copy has to remember: some of its attributes
//! travel in one ([`attributes::pack`]).
//!
//! A copy begins a new life on the queue: its retention period starts over. When its original was sent
//! is remembered ([`attribute::FIRST_SENT`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{join, join_all};

use super::{
    MAX_VISIBILITY, SqsBroker, address, attributes,
    batch_entry::{put_deferral, whole_seconds},
    change::Change,
    fault::BEYOND_THE_LIMIT,
};
use lovage_core::{
    broker::{
        BrokerError, Deferral, Disposal, Message, Outgoing, Queue, Receipt, Send, SendKind,
        Settlement, Unsettled, attribute,
    },
    group_id::digest,
};

/// How often a time that SQS finds too long is shortened. Of twelve hours, three minutes are left.
const SHORTENINGS: u32 = 10;

/// Where a message is after it was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Left {
    /// It is done with. In a Lambda function: leave it out of `batchItemFailures`, and the event
    /// source mapping deletes it.
    Done,
    /// It is on the queue and comes again. In a Lambda function: name it in `batchItemFailures`,
    /// or the event source mapping would delete it.
    Again,
}

/// Sends that belong to the settlement of this index.
type Sends = (usize, Vec<Send>);
/// The settlement of this index is to be hidden for so many seconds.
type Hiding = (usize, u64);
/// What came of the settlement of this index.
type Answer = (usize, Result<Left, Unsettled>);
/// Why not everything that follows from the settlement of this index was sent, and what was not.
type Sent = (usize, Result<(), Unsent>);

/// Sends that were not accepted.
struct Unsent {
    error: BrokerError,
    /// The send that the error is about.
    at: usize,
    left: Vec<Send>,
}

/// What is left to be done once everything was sent, which must not be sent again.
const DELETE: Disposal = Disposal::Finish { result: None, sends: Vec::new() };

impl SqsBroker {
    /// Settles messages that came in an event to a Lambda function, whose event source mapping
    /// deletes them: like `settle`, but nothing is deleted. One answer each, in order.
    ///
    /// A message whose answer is an error belongs in `batchItemFailures`, too.
    pub async fn settle_event(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
    ) -> Vec<Result<Left, Unsettled>> {
        self.carry_out(queue, settlements, false).await
    }

    pub(super) async fn carry_out(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
        delete: bool,
    ) -> Vec<Result<Left, Unsettled>> {
        let mut answers: Vec<Answer> = Vec::with_capacity(settlements.len());
        let mut sends: Vec<Sends> = Vec::new();
        let mut hidings: Vec<Hiding> = Vec::new();
        for (index, settlement) in settlements.iter().enumerate() {
            match &settlement.disposal {
                Disposal::Finish { sends: list, .. } => sends.push((index, list.clone())),
                Disposal::Release { .. } => match copy_first(queue, settlement) {
                    Some(copy) => sends.push((index, vec![copy])),
                    None => hidings.push((index, release_seconds(settlement))),
                },
            }
        }

        let (mut sent, hidden) =
            join(self.publish(settlements, sends), self.hide(queue, settlements, &hidings)).await;

        // What SQS will not hide for so long becomes a copy after all.
        let mut late: Vec<Sends> = Vec::new();
        let mut shorter: Vec<Hiding> = Vec::new();
        for ((index, seconds), result) in hidings.into_iter().zip(hidden) {
            match result {
                Err(error) if error.message.contains(BEYOND_THE_LIMIT) => {
                    match settlements.get(index).and_then(|it| copy(queue, it)) {
                        Some(copy) => late.push((index, vec![copy])),
                        None => shorter.push((index, shortened(seconds, 0))),
                    }
                }
                result => answers.push((index, put_back(settlements, index, result))),
            }
        }
        if !late.is_empty() {
            sent.extend(self.publish(settlements, late).await);
        }

        let mut done = Vec::new();
        for (index, result) in sent {
            match (result, settlements.get(index).map(|it| &it.disposal)) {
                (Ok(()), _) => done.push(index),
                (Err(Unsent { error, .. }), Some(Disposal::Release { .. })) => {
                    tracing::warn!(
                        queue = %queue.name, %error,
                        "could not defer a message by a copy: it is hidden instead, which counts \
                         as an attempt and lasts twelve hours at most"
                    );
                    let seconds = settlements.get(index).map_or(0, release_seconds);
                    shorter.push((index, seconds));
                }
                (Err(Unsent { error, at, left: sends }), disposal) => {
                    let result = match disposal {
                        Some(Disposal::Finish { result, .. }) => result.clone(),
                        _ => None,
                    };
                    let left = Box::new(Disposal::Finish { result, sends });
                    answers.push((index, Err(Unsettled { error, at: Some(at), left })));
                }
            }
        }
        let (deleted, hidden) = join(
            self.delete(queue, settlements, done, delete),
            self.hide_as_long_as_possible(queue, settlements, shorter),
        )
        .await;
        answers.extend(deleted);
        answers.extend(hidden);
        for (index, answer) in &answers {
            match (answer, settlements.get(*index)) {
                (Ok(Left::Again), Some(settlement)) => self.unspent.put_back(settlement),
                (Ok(Left::Done), Some(settlement)) => self.unspent.gone(&settlement.message.id),
                _ => {}
            }
        }
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Sends all that follows from these settlements. A settlement has succeeded when all of its
    /// sends have; else it is told which have not.
    ///
    /// What a job leads to goes first, and its result only if all of that was accepted.
    async fn publish(&self, settlements: &[Settlement], sends: Vec<Sends>) -> Vec<Sent> {
        let (mut steps, mut ends): (Vec<Sends>, Vec<Sends>) = (Vec::new(), Vec::new());
        for (index, mut list) in sends {
            let receipt = settlements.get(index).map(|it| &it.message.receipt);
            for (place, Send { to, message, .. }) in list.iter_mut().enumerate() {
                if address::is_fifo(to) && message.deduplication_id.is_none() {
                    message.deduplication_id = receipt.map(|it| deduplication_id(it, place));
                }
            }
            if list.iter().any(|send| send.kind.is_next_step()) {
                let (next, end) = list.into_iter().partition(|send| send.kind.is_next_step());
                steps.push((index, next));
                list = end;
            }
            ends.push((index, list));
        }
        let mut refused: HashMap<usize, Unsent> = if steps.is_empty() {
            HashMap::new()
        } else {
            let sent = self.publish_at_once(steps).await;
            sent.into_iter().filter_map(|(index, it)| Some((index, it.err()?))).collect()
        };
        let mut answers = Vec::with_capacity(ends.len());
        ends = ends
            .into_iter()
            .filter_map(|(index, list)| match refused.remove(&index) {
                Some(mut unsent) => {
                    unsent.left.extend(list);
                    answers.push((index, Err(unsent)));
                    None
                }
                None => Some((index, list)),
            })
            .collect();
        answers.extend(self.publish_at_once(ends).await);
        answers
    }

    /// Sends messages, batched by the queues that they go to.
    async fn publish_at_once(&self, sends: Vec<Sends>) -> Vec<Sent> {
        let mut results: BTreeMap<usize, Result<(), Unsent>> =
            sends.iter().map(|(index, _)| (*index, Ok(()))).collect();
        let mut by_target: BTreeMap<Arc<str>, Vec<(usize, SendKind, Outgoing)>> = BTreeMap::new();
        for (index, list) in sends {
            for Send { kind, to, message } in list {
                by_target.entry(to).or_default().push((index, kind, message));
            }
        }
        let requests = by_target.iter().map(|(to, messages)| async move {
            let outgoing: Vec<&Outgoing> = messages.iter().map(|(_, _, it)| it).collect();
            self.send_to(to, &outgoing).await
        });
        let answers = join_all(requests).await;
        for ((to, messages), answers) in by_target.into_iter().zip(answers) {
            for ((index, kind, message), answer) in messages.into_iter().zip(answers) {
                let (Err(error), Some(result)) = (answer, results.get_mut(&index)) else {
                    continue;
                };
                let send = Send { kind, to: Arc::clone(&to), message };
                match result {
                    Ok(()) => *result = Err(Unsent { error, at: 0, left: vec![send] }),
                    Err(unsent) => {
                        // What trying again will not help is told first.
                        if error.is_refusal() && !unsent.error.is_refusal() {
                            (unsent.error, unsent.at) = (error, unsent.left.len());
                        }
                        unsent.left.push(send);
                    }
                }
            }
        }
        results.into_iter().collect()
    }

    async fn delete(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
        done: Vec<usize>,
        delete: bool,
    ) -> Vec<Answer> {
        let results = if delete {
            let receipts = receipts(settlements, done.iter().map(|index| (*index, 0)));
            self.change(&queue.address, Change::Delete, &receipts).await
        } else {
            done.iter().map(|_| Ok(())).collect()
        };
        done.into_iter()
            .zip(results)
            .map(|(index, result)| {
                (
                    index,
                    result.map(|()| Left::Done).map_err(|error| Unsettled {
                        error,
                        at: None,
                        left: Box::new(DELETE),
                    }),
                )
            })
            .collect()
    }

    async fn hide(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
        hidings: &[Hiding],
    ) -> Vec<Result<(), BrokerError>> {
        let receipts = receipts(settlements, hidings.iter().copied());
        self.change(&queue.address, Change::Hide, &receipts).await
    }

    /// The last resort. How long SQS lets a message be hidden depends on when it was received,
    /// which the receipt does not tell; so a time that is too long is shortened until it is not.
    async fn hide_as_long_as_possible(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
        mut hidings: Vec<Hiding>,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        for round in 1..=SHORTENINGS {
            let results = self.hide(queue, settlements, &hidings).await;
            let mut left = Vec::new();
            for ((index, seconds), result) in hidings.into_iter().zip(results) {
                match result {
                    Err(error)
                        if error.message.contains(BEYOND_THE_LIMIT) && round < SHORTENINGS =>
                    {
                        left.push((index, shortened(seconds, round)));
                    }
                    // Its twelve hours are over in a moment, and it comes again by itself.
                    Err(error) if error.message.contains(BEYOND_THE_LIMIT) => {
                        answers.push((index, Ok(Left::Again)));
                    }
                    result => answers.push((index, put_back(settlements, index, result))),
                }
            }
            if left.is_empty() {
                break;
            }
            hidings = left;
        }
        answers
    }
}

/// What came of putting a message back.
fn put_back(
    settlements: &[Settlement],
    index: usize,
    result: Result<(), BrokerError>,
) -> Result<Left, Unsettled> {
    result.map(|()| Left::Again).map_err(|error| {
        let again = Disposal::Release { after: Duration::ZERO, spent: true };
        let left = settlements.get(index).map_or(again, |it| it.disposal.clone());
        Unsettled { error, at: None, left: Box::new(left) }
    })
}

/// The receipts of these settlements, each with its seconds.
fn receipts(
    settlements: &[Settlement],
    which: impl Iterator<Item = Hiding>,
) -> Vec<(&Receipt, u64)> {
    which
        .filter_map(|(index, seconds)| {
            let settlement = settlements.get(index)?;
            Some((&settlement.message.receipt, seconds))
        })
        .collect()
}

/// For how long the message is to be hidden, as far as SQS takes it.
fn release_seconds(settlement: &Settlement) -> u64 {
    match settlement.disposal {
        Disposal::Release { after, .. } => whole_seconds(after.min(MAX_VISIBILITY)),
        Disposal::Finish { .. } => 0,
    }
}

/// A shorter time, in seconds. Most messages are put back soon after they were received, so the
/// first steps are small.
fn shortened(seconds: u64, round: u32) -> u64 {
    match round {
        0 => seconds.saturating_sub(60),
        1 | 2 => seconds / 8 * 7,
        _ => seconds / 2,
    }
}

/// The copy that a release is best made with, if it is.
fn copy_first(queue: &Queue, settlement: &Settlement) -> Option<Send> {
    match settlement.disposal {
        Disposal::Release { after, spent } if after > MAX_VISIBILITY || !spent => {
            copy(queue, settlement).filter(|_| !after.is_zero())
        }
        _ => None,
    }
}

/// A copy of the message, due when its release is; `None` on FIFO queues.
fn copy(queue: &Queue, settlement: &Settlement) -> Option<Send> {
    let Disposal::Release { after, spent } = settlement.disposal else {
        return None;
    };
    if queue.fifo {
        return None;
    }
    let message: &Message = &settlement.message;
    // A delivery that spends no attempt leaves as many spent as there were before it.
    let attempts = message.attempt.saturating_sub(u32::from(!spent));
    let mut attributes = message.attributes.clone();
    let deferral = Deferral {
        message_id: message.id.clone(),
        attempts,
        not_before_ms: 0, // written by `send`, where the wait is longer than SQS can express
    };
    put_deferral(&mut attributes, &deferral).ok()?;
    if let Some(sent) = message.sent_at {
        let sent = sent.as_millisecond().to_string();
        attributes.insert(attribute::FIRST_SENT.to_owned(), sent);
    }
    attributes::pack(&mut attributes);
    Some(Send {
        kind: SendKind::Copy,
        to: queue.address.clone(),
        message: Outgoing {
            body: message.body.clone(),
            attributes,
            group: message.group.clone(),
            deduplication_id: None,
            delay: after,
            trace_header: message.trace_header.clone(),
        },
    })
}

/// An id by which a FIFO queue knows a send again when the same delivery is settled once more.
/// Of the receipt rather than the message, so that a later delivery, whose result may well be
/// another one, is not taken for the same.
fn deduplication_id(receipt: &Receipt, place: usize) -> String {
    digest(&[receipt.0.as_bytes(), &place.to_be_bytes()])
}
