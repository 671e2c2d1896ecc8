//! Who waits for what: receivers for messages, clients for results.
//!
//! The writer itself serves those who wait, in the transaction that brings what they wait for.
//! So a message wakes the one receiver that gets it and no other, and the earliest time at which
//! something becomes visible is known without asking the database again.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{
    fair::{Cursor, Picked},
    request::{AwaitResult, Receive},
    store::{Refusal, Store, Wish},
    wire::Row,
};
use lovage_core::{broker::BrokerError, job::OwnedJobKey};

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Waiting {
    queues: HashMap<Arc<str>, Parked>,
    results: HashMap<OwnedJobKey, Vec<AwaitResult>>,
    /// Jobs whose result has yet to be looked for.
    look_for: Vec<OwnedJobKey>,
    /// Served in a transaction that is not committed yet.
    served: Vec<Served>,
    /// Which group of each queue had its turn last. Each process has turns of its own.
    cursors: HashMap<i64, Cursor>,
}

/// The receivers of one queue, first come first served.
#[derive(Debug, Default)]
struct Parked {
    id: Option<i64>,
    receivers: VecDeque<Receive>,
    /// When something that is hidden now becomes visible, at the earliest.
    next_at: Option<i64>,
    /// Whether to look regardless.
    look: bool,
}

/// What somebody gets once the transaction is committed.
#[derive(Debug)]
pub enum Served {
    Messages(Receive, Result<Vec<Row>, Refusal>),
    Result(AwaitResult, Option<Bytes>),
}

impl Waiting {
    /// Lets a receiver wait; it is looked after in the next transaction.
    pub fn receive(&mut self, receive: Receive) {
        let parked = self.queues.entry(Arc::clone(&receive.queue)).or_default();
        parked.receivers.retain(|other| !other.reply.is_closed());
        parked.receivers.push_back(receive);
        parked.look = true;
    }

    /// Lets somebody wait for a result.
    pub fn await_result(&mut self, wait: AwaitResult) {
        self.look_for.push(wait.job.clone());
        let others = self.results.entry(wait.job.clone()).or_default();
        others.push(wait);
    }

    /// Returns true if anybody waits for messages.
    pub fn receives(&self) -> bool {
        !self.queues.is_empty()
    }

    /// When there is something to do, in milliseconds since 1970; `None`: not until asked.
    pub fn next_at(&self) -> Option<i64> {
        if !self.look_for.is_empty() {
            return Some(0);
        }
        let next = |parked: &Parked| if parked.look { Some(0) } else { parked.next_at };
        self.queues.values().filter_map(next).min()
    }

    /// When the first wait of a receiver ends.
    pub fn next_end(&self) -> Option<Instant> {
        let receivers = self.queues.values().flat_map(|parked| &parked.receivers);
        receivers.filter_map(|receive| receive.until).min()
    }

    /// Ends the waits that are over, of those who have been looked after at least once.
    pub fn end_waits(&mut self) {
        for parked in self.queues.values_mut().filter(|parked| !parked.look) {
            for receive in mem::take(&mut parked.receivers) {
                if receive.is_over() {
                    let _ = receive.reply.send(Ok(Ok(Vec::new())));
                } else {
                    parked.receivers.push_back(receive);
                }
            }
        }
        self.queues.retain(|_, parked| !parked.receivers.is_empty());
    }

    /// Serves whom it can. `everybody`: another process may have brought anything.
    pub fn serve(&mut self, store: &mut Store<'_>, everybody: bool) -> rusqlite::Result<()> {
        for (name, parked) in &mut self.queues {
            parked.serve(name, store, everybody, &mut self.cursors, &mut self.served)?;
        }
        self.queues.retain(|_, parked| !parked.receivers.is_empty());
        if self.results.is_empty() {
            return Ok(());
        }
        let mut jobs = mem::take(&mut self.look_for);
        jobs.extend_from_slice(&store.kept);
        if everybody {
            jobs.extend(self.results.keys().cloned());
        }
        for job in jobs {
            let Some(waits) = self.results.remove(&job) else {
                continue;
            };
            let found = match store.result(job.as_key()) {
                Ok(found) => found,
                Err(error) => {
                    self.results.insert(job, waits);
                    return Err(error);
                }
            };
            let (mut patient, mut ready): (Vec<_>, Vec<_>) = waits
                .into_iter()
                .filter(|wait| !wait.reply.is_closed())
                .partition(|wait| wait.wait);
            if found.is_some() {
                ready.append(&mut patient);
            }
            let served = ready.into_iter().map(|wait| Served::Result(wait, found.clone()));
            self.served.extend(served);
            if !patient.is_empty() {
                self.results.insert(job, patient);
            }
        }
        Ok(())
    }

    /// The transaction is committed: who gets what.
    pub fn committed(&mut self) -> Vec<Served> {
        mem::take(&mut self.served)
    }

    /// The transaction is undone: everybody waits on, and is looked after anew.
    pub fn undone(&mut self) {
        for served in mem::take(&mut self.served).into_iter().rev() {
            match served {
                Served::Messages(receive, _) => {
                    let parked = self.queues.entry(Arc::clone(&receive.queue)).or_default();
                    parked.receivers.push_front(receive);
                }
                Served::Result(wait, _) => {
                    self.results.entry(wait.job.clone()).or_default().push(wait);
                }
            }
        }
        for parked in self.queues.values_mut() {
            parked.look = true;
        }
        self.look_for = self.results.keys().cloned().collect();
    }

    /// Tells everybody of a failure.
    pub fn fail(&mut self, error: impl Fn() -> BrokerError) {
        self.look_for.clear();
        for receive in mem::take(&mut self.queues).into_values().flat_map(|parked| parked.receivers)
        {
            let _ = receive.reply.send(Err(error()));
        }
        for wait in mem::take(&mut self.results).into_values().flatten() {
            let _ = wait.reply.send(Err(error()));
        }
    }

    /// Sends the receivers away empty-handed.
    pub fn interrupt(&mut self) {
        let parked = mem::take(&mut self.queues);
        for receive in parked.into_values().flat_map(|parked| parked.receivers) {
            let _ = receive.reply.send(Ok(Ok(Vec::new())));
        }
    }

    /// Forgets those who no longer wait.
    pub fn tidy(&mut self) {
        self.queues.retain(|_, parked| {
            parked.receivers.retain(|receive| !receive.reply.is_closed());
            !parked.receivers.is_empty()
        });
        self.results.retain(|_, waits| {
            waits.retain(|wait| !wait.reply.is_closed());
            !waits.is_empty()
        });
    }
}

impl Parked {
    fn serve(
        &mut self,
        name: &Arc<str>,
        store: &mut Store<'_>,
        everybody: bool,
        cursors: &mut HashMap<i64, Cursor>,
        served: &mut Vec<Served>,
    ) -> rusqlite::Result<()> {
        let came = self.id.and_then(|id| store.due.get(&id).copied());
        self.next_at = [self.next_at, came].into_iter().flatten().min();
        let due = self.next_at.is_some_and(|at| at <= store.now);
        if !(everybody || self.look || due) {
            return Ok(());
        }
        let Some(queue) = store.queue(name)? else {
            let refuse =
                |receive| Served::Messages(receive, Err(Refusal::NoQueue(Arc::clone(name))));
            served.extend(self.receivers.drain(..).map(refuse));
            return Ok(());
        };
        self.id = Some(queue.id);
        let cursor = cursors.entry(queue.id).or_default();
        let mut waiting = VecDeque::with_capacity(self.receivers.len());
        let mut look = false;
        while let Some(mut receive) = self.receivers.pop_front() {
            if receive.reply.is_closed() {
                continue;
            }
            let wish = Wish { max: receive.max, lease_ms: receive.lease_ms, turn: &receive.turn };
            match store.receive(queue, &wish, cursor, &mut receive.walk) {
                Ok(Picked { rows, complete }) if rows.is_empty() => {
                    look |= !complete;
                    // Whoever takes less leaves something to those behind.
                    let is_choosy = !complete || receive.turn.is_choosy();
                    waiting.push_back(receive);
                    if !is_choosy {
                        break;
                    }
                }
                Ok(Picked { rows, .. }) => served.push(Served::Messages(receive, Ok(rows))),
                Err(error) => {
                    waiting.push_back(receive);
                    waiting.append(&mut self.receivers);
                    self.receivers = waiting;
                    return Err(error);
                }
            }
        }
        waiting.append(&mut self.receivers);
        self.receivers = waiting;
        for receive in mem::take(&mut self.receivers) {
            if receive.is_over() && receive.walk.is_none() {
                served.push(Served::Messages(receive, Ok(Vec::new())));
            } else {
                self.receivers.push_back(receive);
            }
        }
        self.look = look;
        self.next_at = if self.receivers.is_empty() { None } else { store.next_visible(queue)? };
        Ok(())
    }
}
