//! What callers ask of the writer.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    fair::Walk,
    store::{Refusal, Store},
    wire::Row,
};
use lovage_core::{
    broker::{BrokerError, Fault, Turn},
    job::OwnedJobKey,
};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, BrokerError>>;

/// One thing to be done by the writer.
pub enum Request {
    /// Done in the next transaction, answered once that is on the disk.
    Work(Box<dyn Work>),
    /// A receive, which may wait.
    Receive(Receive),
    /// A wait for a result.
    AwaitResult(AwaitResult),
    /// Nobody is to wait for messages any longer.
    Interrupt,
    /// Somebody wrote to the file; perhaps another process.
    FileChanged,
    /// Finish what came before, then end.
    Stop,
}

/// A receive that is to be served.
#[derive(Debug)]
pub struct Receive {
    pub queue: Arc<str>,
    pub max: usize,
    pub lease_ms: i64,
    pub turn: Turn,
    /// A walk round the queue's groups that is not over.
    pub walk: Option<Walk>,
    /// Until when to wait when there is nothing; `None`: for ever.
    pub until: Option<Instant>,
    pub reply: Reply<Result<Vec<Row>, Refusal>>,
}

impl Receive {
    /// Returns true if it has waited long enough.
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// Somebody who wants a job's result.
#[derive(Debug)]
pub struct AwaitResult {
    pub job: OwnedJobKey,
    /// Whether to wait when there is none yet; for how long is the caller's affair.
    pub wait: bool,
    pub reply: Reply<Option<Bytes>>,
}

/// A piece of a transaction.
///
/// It can be run more than once: when a transaction fails, each piece is run again in one of its
/// own, so that only the one that is to blame fails.
pub trait Work: Send {
    /// How much it does, in rows or pages; bounds a transaction.
    fn weight(&self) -> usize;
    /// Does it and remembers what came of it.
    fn run(&mut self, store: &mut Store<'_>) -> rusqlite::Result<()>;
    /// Tells the caller, once the outcome is on the disk, or why there is none.
    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>);
}

/// Work made of a closure.
pub struct Call<T, F> {
    pub weight: usize,
    pub run: F,
    pub output: Option<T>,
    /// `None` where nobody is left to be told.
    pub reply: Option<Reply<T>>,
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Store<'_>) -> rusqlite::Result<T> + Send,
{
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, store: &mut Store<'_>) -> rusqlite::Result<()> {
        self.output = Some((self.run)(store)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>) {
        let Some(reply) = self.reply else { return };
        let answer = match (outcome, self.output) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(output)) => Ok(output),
            // Not reachable: an outcome is good only after a run.
            (Ok(()), None) => Err(BrokerError::new(Fault::Unavailable, "no answer was made")),
        };
        // A caller that went away has its work done all the same.
        let _ = reply.send(answer);
    }
}
