//! Going once through the messages of a queue that nobody takes jobs from, and disposing of those
//! that are wanted: for dead letters and results.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use lovage_core::broker::{
    Broker, BrokerError, Disposal, Message, Outgoing, Queue, Send, SendKind, Settlement, Turn,
};

/// How long a message is out of others' sight meanwhile.
const HOLD: Duration = Duration::from_mins(1);

/// How long one look waits for messages. On SQS one that does not wait asks only some of its
/// servers, and misses what the others have.
const WAIT: Duration = Duration::from_secs(1);

/// After so many looks that found nothing new there is nothing more.
const FRUITLESS: usize = 2;

/// What is wanted, and what is done with it.
pub(super) trait Action {
    /// The job that a message is of.
    fn job(&self, message: &Message) -> String;

    /// Whether the message is wanted where `all` are: by its age, say.
    fn is_due(&self, message: &Message) -> bool {
        let _ = message;
        true
    }

    /// What is done with a message that is wanted. The error says why that is refused; the message
    /// stays then.
    async fn disposal(&mut self, message: &Message) -> Result<Disposal, String>;
}

/// What it came to.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub done: usize,
    /// Messages of jobs that had been disposed of before in the same go: that failed again, or of
    /// which there are two.
    pub left: usize,
    pub failures: Vec<String>,
    /// Ids that no message has.
    pub missing: Vec<String>,
}

/// Goes through `queue`, and acts on the messages of `ids`, or on all.
pub(super) async fn sweep(
    broker: &Arc<dyn Broker>,
    queue: &Queue,
    ids: &[String],
    all: bool,
    action: &mut impl Action,
) -> Result<Swept, BrokerError> {
    let mut swept = Swept { missing: ids.to_vec(), ..Swept::default() };
    // What was disposed of: messages, and their jobs, so that one that comes back meanwhile does not
    // go round in circles.
    let mut handled = BTreeSet::new();
    // What is not wanted, or refused. Held until the end, since it would come again and again.
    let mut held: Vec<Message> = Vec::new();
    // On a FIFO queue the messages in hand keep those behind them out of sight. Then they go to the
    // end of the queue; once begun with, all that there are do, so that they stay in order.
    let there_are = broker.depth(queue).await?;
    let mut unturned = usize::try_from(there_are.ready + there_are.in_flight).unwrap_or(usize::MAX);
    let mut turning = false;
    let mut fruitless = 0;
    while fruitless < FRUITLESS
        && (all || if turning { unturned > 0 } else { !swept.missing.is_empty() })
    {
        let most = broker.limits().receive_batch;
        // No more than there were: what comes after that are copies.
        let most = if turning { most.min(unturned) } else { most };
        if most == 0 {
            break;
        }
        let received = match broker.receive(queue, most, WAIT, HOLD, &Turn::default()).await {
            Ok(received) => received,
            Err(error) => {
                swept.failures.push(error.to_string());
                break;
            }
        };
        let mut wanted = Vec::new();
        fruitless += 1;
        turning |= received.is_empty() && queue.fifo && !held.is_empty();
        unturned = unturned.saturating_sub(received.len());
        for message in received {
            let job = action.job(&message);
            let is_named = |id: &String| *id == message.id || *id == job;
            let is_wanted = (all && action.is_due(&message)) || ids.iter().any(is_named);
            let is_new = !handled.contains(&message.id) && !handled.contains(&job);
            swept.missing.retain(|id| !is_named(id));
            let was_held = held.iter().any(|same| same.id == message.id);
            if is_wanted && is_new && !was_held {
                match action.disposal(&message).await {
                    Ok(disposal) => {
                        handled.extend([message.id.clone(), job]);
                        wanted.push((message, disposal));
                        fruitless = 0;
                        continue;
                    }
                    Err(why) => swept.failures.push(why),
                }
            }
            if let Some(same) = held.iter_mut().find(|same| same.id == message.id) {
                *same = message;
            } else {
                let again = is_wanted && !is_new && !handled.contains(&message.id);
                swept.left += usize::from(again);
                fruitless = 0;
                held.push(message);
            }
        }
        // Each batch before the next, while it is surely still held.
        let count = wanted.len();
        let failures = settle(broker, queue, wanted).await;
        swept.done += count - failures.len();
        swept.failures.extend(failures);
        if turning {
            let turned = std::mem::take(&mut held).into_iter();
            let turn = |message| {
                let to = queue.address.clone();
                let sends = vec![Send { kind: SendKind::Copy, to, message: copy(&message, true) }];
                (message, Disposal::Finish { result: None, sends })
            };
            swept.failures.extend(settle(broker, queue, turned.map(turn).collect()).await);
        }
    }
    let release = |message| (message, Disposal::Release { after: Duration::ZERO, spent: false });
    swept.failures.extend(settle(broker, queue, held.into_iter().map(release).collect()).await);
    Ok(swept)
}

/// Settles messages; what went wrong, in words.
async fn settle(
    broker: &Arc<dyn Broker>,
    queue: &Queue,
    messages: Vec<(Message, Disposal)>,
) -> Vec<String> {
    let settlements: Vec<_> = messages
        .into_iter()
        .map(|(message, disposal)| Settlement { message: Arc::new(message), disposal })
        .collect();
    let answers = broker.settle(queue, &settlements).await;
    let failed = settlements.iter().zip(answers).filter_map(|(settlement, answer)| {
        let stays = match &settlement.disposal {
            Disposal::Finish { sends, .. } if sends.is_empty() => "was not deleted",
            Disposal::Finish { .. } => "was not sent back",
            Disposal::Release { .. } => "stays hidden for a minute",
        };
        Some(format!("letter {} {stays}: {}", settlement.message.id, answer.err()?))
    });
    failed.collect()
}

/// The same message anew.
pub(super) fn copy(message: &Message, fifo: bool) -> Outgoing {
    Outgoing {
        body: message.body.clone(),
        attributes: message.attributes.clone(),
        group: message.group.clone(),
        // A new one: the message's own may still be remembered from the first time.
        deduplication_id: fifo.then(|| uuid::Uuid::new_v4().to_string()),
        trace_header: message.trace_header.clone(),
        ..Outgoing::default()
    }
}
