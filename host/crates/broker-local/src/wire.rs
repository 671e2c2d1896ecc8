//! Between the broker's types and what the database holds. Done by the caller, so that the one
//! writer need not: it is the thread that everything waits for.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use lovage_core::broker::{
    BrokerError, Disposal, Fault, KeptResult, Message, Outgoing, Queue, Receipt, Settlement,
};

/// The same as SQS, so that what works here works there.
pub const MESSAGE_BYTES: usize = 1_048_576;

/// The end of the year 9999: what is later than that is as good as never.
const LATEST: i64 = 253_402_300_799_000;

/// A message to be stored.
#[derive(Debug)]
pub struct NewMessage {
    pub id: Uuid,
    pub body: Bytes,
    /// JSON; `None` when there are none.
    pub attributes: Option<String>,
    pub group: Option<String>,
    pub deduplication_id: Option<String>,
    pub delay_ms: i64,
    pub trace_header: Option<String>,
}

impl NewMessage {
    pub fn encode(message: &Outgoing, queue: &str) -> Result<Self, BrokerError> {
        let bytes = size(message);
        if bytes > MESSAGE_BYTES {
            return Err(BrokerError::new(
                Fault::TooLarge,
                format!(
                    "cannot send to queue {queue}: the message has {bytes} bytes with its \
                     attributes, and {MESSAGE_BYTES} is the most; send a reference to the data \
                     instead"
                ),
            ));
        }
        let attributes = if message.attributes.is_empty() {
            None
        } else {
            let json = serde_json::to_string(&message.attributes).map_err(|error| {
                let what = format!("cannot send to queue {queue}: its attributes are no JSON");
                BrokerError::caused_by(Fault::Invalid, what, error)
            })?;
            Some(json)
        };
        Ok(Self {
            id: Uuid::now_v7(),
            body: message.body.clone(),
            attributes,
            group: message.group.clone(),
            deduplication_id: message.deduplication_id.clone(),
            delay_ms: millis(message.delay),
            trace_header: message.trace_header.clone(),
        })
    }
}

/// True for a message that a queue takes.
pub fn fits(message: &Outgoing) -> bool {
    size(message) <= MESSAGE_BYTES
}

/// Counted as SQS counts: names, values and data types of the attributes are part of a message.
fn size(message: &Outgoing) -> usize {
    let attribute = |(name, value): (&String, &String)| name.len() + value.len() + "String".len();
    message.body.len() + message.attributes.iter().map(attribute).sum::<usize>()
}

/// What is to become of one message.
#[derive(Debug)]
pub struct End {
    pub delivery: Delivery,
    pub ending: Ending,
}

#[derive(Debug)]
pub enum Ending {
    Finish { result: Option<KeptResult>, sends: Vec<(Arc<str>, NewMessage)> },
    Release { after_ms: i64, spent: bool },
}

impl End {
    pub fn encode(settlement: &Settlement, queue: &Queue) -> Result<Self, BrokerError> {
        let delivery = Delivery::decode(&settlement.message.receipt, queue)?;
        let ending = match &settlement.disposal {
            Disposal::Finish { result, sends } => Ending::Finish {
                result: result.clone(),
                sends: sends
                    .iter()
                    .map(|send| {
                        let message = NewMessage::encode(&send.message, &send.to)?;
                        Ok((Arc::clone(&send.to), message))
                    })
                    .collect::<Result<_, BrokerError>>()?,
            },
            Disposal::Release { after, spent } => {
                Ending::Release { after_ms: millis(*after), spent: *spent }
            }
        };
        Ok(Self { delivery, ending })
    }
}

/// One delivery of a message: its row, and a number drawn anew each time it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub seq: i64,
    pub nonce: i64,
}

impl Delivery {
    pub fn encode(self) -> Receipt {
        Receipt(format!("{}.{}", self.seq, self.nonce).into())
    }

    pub fn decode(receipt: &Receipt, queue: &Queue) -> Result<Self, BrokerError> {
        let parse = || {
            let (seq, nonce) = receipt.0.split_once('.')?;
            let (seq, nonce) = (seq.parse().ok()?, nonce.parse().ok()?);
            // -1 marks a message that no delivery holds: no receipt may ever match it.
            (nonce > 0).then_some(Self { seq, nonce })
        };
        parse().ok_or_else(|| {
            BrokerError::new(
                Fault::Invalid,
                format!(
                    "receipt {:?} for queue {} is none that the embedded broker gave",
                    receipt.0, queue.name
                ),
            )
        })
    }
}

/// A row of `messages`.
#[derive(Debug)]
pub struct Row {
    pub delivery: Delivery,
    pub attempts: u32,
    pub sent_at: i64,
    pub id: Uuid,
    pub group: Option<String>,
    pub trace_header: Option<String>,
    pub attributes: Option<String>,
    /// `None` until it is fetched from where large ones are.
    pub body: Option<Bytes>,
}

impl Row {
    /// Reads the columns in the order of `sql::PICK_UP`.
    pub fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let id = row.get_ref(4)?.as_blob()?;
        Ok(Self {
            delivery: Delivery { seq: row.get(0)?, nonce: row.get(1)? },
            attempts: row.get(2)?,
            sent_at: row.get(3)?,
            id: Uuid::from_slice(id).unwrap_or_default(),
            group: row.get(5)?,
            trace_header: row.get(6)?,
            attributes: row.get(7)?,
            body: row.get_ref(8)?.as_blob_or_null()?.map(Bytes::copy_from_slice),
        })
    }

    pub fn into_message(self) -> Message {
        Message {
            id: self.id.to_string(),
            receipt: self.delivery.encode(),
            body: self.body.unwrap_or_default(),
            // Written by `NewMessage::encode`; what cannot be read back is shown as none.
            attributes: self
                .attributes
                .and_then(|json| serde_json::from_str(&json).ok())
                .unwrap_or_default(),
            // The shared group of messages sent without one is the broker's own affair.
            group: self.group.filter(|group| !group.is_empty()),
            attempt: self.attempts.max(1),
            sent_at: Timestamp::from_millisecond(self.sent_at).ok(),
            not_before: None,
            trace_header: self.trace_header,
        }
    }
}

/// Whole milliseconds, rounded up: nothing may come before its time.
pub fn millis(duration: Duration) -> i64 {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    i64::try_from(millis).map_or(LATEST, |millis| millis.min(LATEST))
}

/// `delay_ms` after `now`. One more than the sum when there is a delay, since `now` is cut down
/// to whole milliseconds.
pub fn due(now: i64, delay_ms: i64) -> i64 {
    match delay_ms {
        0 => now,
        _ => (now + delay_ms + 1).min(LATEST),
    }
}
